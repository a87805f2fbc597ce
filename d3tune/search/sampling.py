"""From a search space to Optuna: what to suggest, and which sampler."""

import hashlib
import warnings
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning

from d3tune.config import Sampler, TrialConfig
from d3tune.errors import UsageError
from d3tune.space import Parameter, Space, contains, is_integer

STARTUP_TRIALS = 10


def suggest(trial: optuna.Trial, space: Space, config: type[TrialConfig]) -> dict[str, Any]:
    """Ask Optuna for every active hyper-parameter of a space, in its order.

    A parameter that may be off is two for Optuna: ``name.on`` and, where that is true, ``name``.

    Args:
        trial: an open Optuna trial.
        space: the search's space.
        config: the backbone's configuration class.

    Returns:
        Hyper-parameters by name, the fixed ones included; inactive ones keep their default and are absent.
    """
    defaults = {name: field.default for name, field in config.model_fields.items()}
    values = dict(space.fixed)
    for name, parameter in space.parameters.items():
        if parameter.active({**defaults, **values}):
            values[name] = _suggest_one(trial, name, parameter, is_integer(config, name))
    return values


def enqueue_params(space: Space, values: dict[str, Any]) -> dict[str, Any]:
    """A warm-start point as Optuna's parameters; hyper-parameters that are not searched are left out."""
    params: dict[str, Any] = {}
    for name, value in values.items():
        parameter = space.parameters.get(name)
        if parameter is None:
            continue
        if parameter.off:
            params[f"{name}.on"] = value != 0
        if not (parameter.off and value == 0):
            params[name] = _encoded(parameter, value)
    return params


def fitting_params(space: Space, params: dict[str, Any]) -> dict[str, Any]:
    """Those of Optuna's parameters, perhaps of a wider space, that this one can suggest."""

    def fits(name: str, value: Any) -> bool:
        parameter = space.parameters.get(name.removesuffix(".on"))
        if parameter is None:
            return False
        return parameter.off if name.endswith(".on") else contains(parameter, value)

    return {name: value for name, value in params.items() if fits(name, value)}


def make_sampler(kind: Sampler, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """A sampler for one trial number.

    A new one for each trial: its random stream then depends on the seed and the number alone, so that a resumed
    search neither repeats suggestions nor depends on how often it was interrupted.

    Args:
        kind: ``auto`` is TPE, which handles conditional and categorical parameters.
        seed: the search's seed.
        number: the trial's number.

    Raises:
        UsageError: a package that the sampler needs is missing.
    """
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    stream = int.from_bytes(digest[:4], "little") >> 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if kind == "random":
            return optuna.samplers.RandomSampler(seed=stream)
        if kind == "gp":
            return optuna.samplers.GPSampler(seed=stream, n_startup_trials=STARTUP_TRIALS)
        if kind == "cmaes":
            return _cmaes(stream)
        return optuna.samplers.TPESampler(
            seed=stream, n_startup_trials=STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True
        )


def _cmaes(seed: int) -> optuna.samplers.BaseSampler:
    try:
        import cmaes  # noqa: F401
    except ImportError:
        raise UsageError("--sampler cmaes needs a package: pip install 'd3tune[cmaes]'") from None
    from d3tune.search.cmaes import CmaEsSampler

    return CmaEsSampler(seed=seed, n_startup_trials=STARTUP_TRIALS, warn_independent_sampling=False)


def _suggest_one(trial: optuna.Trial, name: str, parameter: Parameter, integer: bool) -> Any:
    if parameter.choices is not None:
        return trial.suggest_categorical(name, parameter.choices)
    if parameter.off and not trial.suggest_categorical(f"{name}.on", [True, False]):
        return 0.0
    assert parameter.low is not None
    assert parameter.high is not None
    if integer:
        return trial.suggest_int(name, int(parameter.low), int(parameter.high), log=parameter.log)
    return trial.suggest_float(name, float(parameter.low), float(parameter.high), log=parameter.log)


def _encoded(parameter: Parameter, value: Any) -> Any:
    return value if parameter.choices is not None or isinstance(value, int) else float(value)

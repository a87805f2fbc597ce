"""From what a user asked for to a run and a plan; every wrong request is refused here, before anything is written."""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import ValidationError

from d3tune.config import Objective, Pruner, Resources, Sampler, SearchConfig, SelectionProtocol, TrialConfig, validated
from d3tune.data.dataset import GZSLDataset
from d3tune.data.registry import find_dataset, prepared_path
from d3tune.errors import UsageError, nearest
from d3tune.method.generators import load_backbone
from d3tune.search.run import RunDirectory, create_run
from d3tune.search.sampling import make_sampler
from d3tune.search.search import Plan
from d3tune.search.tracking import store_uri
from d3tune.space import Space, WarmStart, check_space, contains, load_space
from d3tune.yamlfile import parse_yaml, read_yaml

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Request:
    """A search as the command line names it; see ``d3tune search --help``."""

    dataset: str
    backbone: str
    data_dir: Path | None = None
    semantics: str | None = None
    space: Path | None = None
    settings: tuple[str, ...] = ()
    warm_start: tuple[str, ...] = ("shipped",)
    objective: str = "H"
    protocol: str = "validation"
    val_split: int = 0
    val_splits: int = 1
    seed: int = 0
    sampler: str = "auto"
    pruner: str = "auto"
    run_dir: Path | None = None


def prepare_run(request: Request, say: Callable[[str], None] | None = None) -> tuple[RunDirectory, bool]:
    """Resolve a request and create its run directory, or open the one of the same search.

    Args:
        request: what the user asked for.
        say: takes one line on what the overrides of the user's own space replace.

    Returns:
        The run and whether it is new.

    Raises:
        UsageError: the request is wrong.
        RunError: the run directory holds something else.
    """
    backbone = load_backbone(request.backbone)
    dataset = find_dataset(request.dataset, request.data_dir, request.semantics)
    search = _search_config(request, dataset)
    make_sampler(search.sampler, 0, 0)
    space = _resolved_space(request, dataset, backbone.config, say)
    return create_run(request.run_dir, search, prepared_path(dataset), space)


def make_plan(
    *,
    trials: int,
    time_limit: str | None,
    cpus_per_trial: float,
    gpus_per_trial: float | None,
    concurrency: int | None,
    executor: str,
    address: str | None,
    confirm_seeds: int,
    baselines: bool,
    tracking_uri: str | None,
) -> Plan:
    """Check what a command may use and how far it goes.

    Raises:
        UsageError: a number is out of range, more is asked for than this machine has, or a URI is wrong.
    """
    if trials < 1:
        raise UsageError(f"--trials {trials}: must be at least 1")
    if confirm_seeds < 0:
        raise UsageError(f"--confirm-seeds {confirm_seeds}: must be 0 (none) or more")
    for option, value in (("--cpus-per-trial", cpus_per_trial), ("--gpus-per-trial", gpus_per_trial or 0.0)):
        if not math.isfinite(value) or value < 0 or (option == "--cpus-per-trial" and value == 0):
            raise UsageError(f"{option} {value:g}: must be a positive number")
    if concurrency is not None and concurrency < 1:
        raise UsageError(f"--concurrency {concurrency}: must be at least 1")
    _one_of("--executor", executor, ("ray", "local"))
    gpus = _gpus_here() if address is None else None
    wanted = gpus_per_trial if gpus_per_trial is not None else float(bool(gpus))
    if gpus is not None and wanted > gpus:
        raise UsageError(f"--gpus-per-trial {wanted:g}: this machine has {gpus} GPUs")
    cores = os.cpu_count() or 1
    if address is None and cpus_per_trial > cores:
        raise UsageError(f"--cpus-per-trial {cpus_per_trial:g}: this machine has {cores} cores")
    return Plan(
        trials=trials,
        seconds=None if time_limit is None else parse_time(time_limit),
        resources=Resources(
            cpus_per_trial=cpus_per_trial,
            gpus_per_trial=wanted,
            concurrency=concurrency,
            executor=cast(Any, executor),
            address=address,
        ),
        confirm_seeds=confirm_seeds,
        baselines=baselines,
        tracking_uri=store_uri(tracking_uri),
    )


DEFAULTS: dict[str, Any] = {
    "trials": 50,
    "cpus_per_trial": 1.0,
    "gpus_per_trial": None,
    "concurrency": None,
    "executor": "ray",
    "address": None,
    "confirm_seeds": 5,
    "baselines": False,
    "tracking_uri": None,
}


def resumed_plan(run: RunDirectory, trials: str | None, time_limit: str | None, given: Mapping[str, Any]) -> Plan:
    """The plan of a resume: an option that is not given is what the run's last command had.

    Args:
        run: the run.
        trials: a number, ``+N`` more than were planned, or None for what was planned.
        time_limit: of this command.
        given: the other options of `make_plan`; None where not given.

    Raises:
        UsageError: see `make_plan`; or ``trials`` is neither.
    """
    stored = {name: run.read_plan().get(name, default) for name, default in DEFAULTS.items()}
    options = {name: stored[name] if given.get(name) is None else given[name] for name in DEFAULTS}
    if trials is not None:
        number = trials.removeprefix("+")
        if not number.isdecimal():
            raise UsageError(f"--trials {trials}: write a number, or +N for N more")
        options["trials"] = int(number) + (stored["trials"] if trials.startswith("+") else 0)
    return make_plan(time_limit=time_limit, **options)


def parse_time(text: str) -> float:
    """Seconds of ``90s``, ``45m``, ``2h``, ``1d`` or ``1h30m``.

    Raises:
        UsageError: it is none of these.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise UsageError(f"--time {text}: write it like 90s, 45m, 2h or 1h30m")
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def parse_settings(settings: Sequence[str], config: type[TrialConfig], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters given as ``key=value``, legal together with what the space fixes.

    Raises:
        UsageError: the form, a name or a value is wrong.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {setting}: write it as key=value")
        values[key.strip()] = parse_yaml(f"value: {value}", f"--set {setting}")["value"]
    validated(config, {**fixed, **values}, "--set")
    return values


def _search_config(request: Request, dataset: GZSLDataset) -> SearchConfig:
    _one_of("--objective", request.objective, get_args(Objective))
    _one_of("--protocol", request.protocol, get_args(SelectionProtocol))
    _one_of("--sampler", request.sampler, get_args(Sampler))
    _one_of("--pruner", request.pruner, get_args(Pruner))
    try:
        return SearchConfig(
            dataset=dataset.name,
            dataset_hash=dataset.content_hash,
            semantics=dataset.semantics_id,
            features=dataset.feature_tag,
            backbone=request.backbone,
            objective=cast(Any, request.objective),
            protocol=cast(Any, request.protocol),
            val_split=request.val_split,
            val_splits=request.val_splits,
            seed=request.seed,
            sampler=cast(Any, request.sampler),
            pruner=cast(Any, request.pruner),
        )
    except ValidationError as error:
        fault = error.errors()[0]
        option = "--" + str(fault["loc"][0]).replace("_", "-")
        raise UsageError(f"{option} {fault['input']}: {fault['msg']}") from None


def _resolved_space(
    request: Request, dataset: GZSLDataset, config: type[TrialConfig], say: Callable[[str], None] | None
) -> Space:
    told = say if request.space is not None else None
    space = load_space(request.backbone, config, dataset.name, dataset.features.shape[1], request.space, told)
    settings = parse_settings(request.settings, config, space.fixed)
    space = _with_warm_starts(space, request.warm_start, config)
    points = tuple(
        point.model_copy(update={"values": {k: v for k, v in point.values.items() if k not in settings}})
        for point in space.warm_start
    )
    space = Space(space.backbone, space.fixed, space.parameters, points).with_fixed(settings)
    check_space(space, config, "--set")
    return space


def _with_warm_starts(space: Space, choices: Sequence[str], config: type[TrialConfig]) -> Space:
    points: list[WarmStart] = []
    for choice in choices:
        if choice == "shipped":
            points += space.warm_start
        elif choice != "none":
            points.append(_warm_start_file(Path(choice), space, config))
    return Space(space.backbone, space.fixed, space.parameters, tuple(points))


def _warm_start_file(path: Path, space: Space, config: type[TrialConfig]) -> WarmStart:
    document = read_yaml(path)
    values = document.get("config")
    if not isinstance(values, dict):
        raise UsageError(f"{path}: no 'config' mapping; --warm-start takes shipped, none or an exported configuration")
    made_for = document.get("backbone", space.backbone)
    try:
        validated(config, values, str(path))
    except UsageError:
        if made_for == space.backbone:
            raise
        raise UsageError(
            f"{path}: a configuration of backbone '{made_for}', but '{space.backbone}' is searched; "
            f"give one of '{space.backbone}', or --backbone {made_for}"
        ) from None
    searched = {name: values[name] for name in space.parameters if name in values}
    for name, value in searched.items():
        if not contains(space.parameters[name], value):
            raise UsageError(f"{path}: {name}: {value!r} is outside the space's interval or choices")
    return WarmStart(name=path.stem, source=str(path.name), values=searched)


def _gpus_here() -> int:
    import torch

    return torch.cuda.device_count()


def _one_of(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UsageError(f"{option} {value}: no such choice{nearest(value, known)}")

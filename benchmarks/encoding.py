"""Configurations of a search space as rows of numbers, and random ones of it, without a study."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import optuna
from numpy.typing import NDArray
from pydantic import ValidationError

from d3tune.config import TrialConfig
from d3tune.search.sampling import enqueue_params, suggest
from d3tune.space import Parameter, Space

# of a parameter that is not searched in a configuration; what is searched lies in [0, 1]
INACTIVE = -1.0
Row = NDArray[np.float32]


class Encoding:
    """From Optuna's parameters of a space to a row of numbers.

    A number becomes its place in its interval, of the logarithm where that is searched, from 0 to 1; choices become
    one-hot; ``name.on`` becomes 1 or 0. What is inactive has a value of its own, `INACTIVE`.

    Attributes:
        names: of the columns.
    """

    def __init__(self, space: Space) -> None:
        """Lay out the columns."""
        self._columns: list[Callable[[Mapping[str, Any]], float]] = []
        self.names: list[str] = []
        for name, parameter in space.parameters.items():
            if parameter.off:
                self._add(f"{name}.on", partial(_switch, f"{name}.on"))
            if parameter.choices is None:
                self._add(name, partial(_place, name, parameter))
            for choice in parameter.choices or ():
                self._add(f"{name}={choice}", partial(_chosen, name, choice))

    def __call__(self, points: Sequence[Mapping[str, Any]]) -> Row:
        """Rows of points.

        Args:
            points: parameters in Optuna's terms, ``name.on`` among them.

        Returns:
            Of shape (points, columns).
        """
        rows = [[column(params) for column in self._columns] for params in points]
        return np.array(rows, np.float32).reshape(len(points), len(self.names))

    def _add(self, name: str, column: Callable[[Mapping[str, Any]], float]) -> None:
        self.names.append(name)
        self._columns.append(column)


def _switch(name: str, params: Mapping[str, Any]) -> float:
    return float(params.get(name, INACTIVE))


def _place(name: str, parameter: Parameter, params: Mapping[str, Any]) -> float:
    if name not in params:
        return INACTIVE
    assert parameter.low is not None
    assert parameter.high is not None
    scaled: Callable[[float], float] = math.log if parameter.log else float
    return (scaled(params[name]) - scaled(parameter.low)) / (scaled(parameter.high) - scaled(parameter.low))


def _chosen(name: str, choice: Any, params: Mapping[str, Any]) -> float:
    return float(params[name] == choice) if name in params else INACTIVE


def params_of(space: Space, config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, every hyper-parameter of it, in Optuna's terms: what a search would have suggested for it."""
    active = {name: config[name] for name, item in space.parameters.items() if item.active(config)}
    return enqueue_params(space, active)


class _Drawn:
    """Stands in for an Optuna trial in `suggest`: what is given stays, all else is drawn."""

    def __init__(self, rng: np.random.Generator, given: Mapping[str, Any]) -> None:
        self._rng, self._given = rng, given
        self.params: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._take(name, lambda: choices[int(self._rng.integers(len(choices)))])

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        if log:
            return float(self._take(name, lambda: math.exp(self._rng.uniform(math.log(low), math.log(high)))))
        return float(self._take(name, lambda: self._rng.uniform(low, high)))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        drawn = self.suggest_float(name, low - 0.5, high + 0.5, log=log)
        self.params[name] = min(max(round(drawn), low), high)
        return int(self.params[name])

    def _take(self, name: str, draw: Callable[[], Any]) -> Any:
        self.params[name] = self._given[name] if name in self._given else draw()
        return self.params[name]


def draw(
    space: Space, config: type[TrialConfig], rng: np.random.Generator, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A random configuration that the backbone allows, uniform as Optuna's random sampler.

    Args:
        space: what is searched.
        config: the backbone's configuration class.
        rng: where chance comes from.
        given: parameters, in Optuna's terms, that are not drawn where they are active.

    Returns:
        Parameters in Optuna's terms.
    """
    while True:
        drawn = _Drawn(rng, given or {})
        try:
            config(**suggest(cast(optuna.Trial, drawn), space, config))
        except ValidationError:
            # what is given may allow nothing else
            given = None
            continue
        return drawn.params

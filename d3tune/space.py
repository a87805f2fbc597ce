"""Search spaces: which hyper-parameters a search varies, in which interval, under which condition.

One YAML file a backbone in ``search_spaces/``; a user's own file has the same form. Legal bounds are the
configuration's (``d3tune.config``); an interval must lie inside them.
"""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from d3tune.config import TrialConfig, first_fault, validated
from d3tune.errors import UsageError, meant, nearest
from d3tune.yamlfile import read_yaml

# every trial has the same budget: COMPLETE means that it was used
BUDGET = ("updates", "evaluations")
Value = bool | int | float | str | None


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


Number = Annotated[Any, BeforeValidator(_number)]
Allowed = Literal["positive"] | list[Value]


class Parameter(BaseModel):
    """One searched hyper-parameter: an interval or choices, perhaps off (0), perhaps conditional."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: Number | None = Field(None, description="smallest value, included")
    high: Number | None = Field(None, description="largest value, included")
    log: bool = Field(False, strict=True, description="search the logarithm")
    choices: list[Value] | None = Field(None, min_length=1, description="values instead of an interval")
    off: bool = Field(False, strict=True, description="may also be exactly 0, with probability ½ at random")
    when: dict[str, Allowed] | None = Field(None, description="searched only if all of these hold")
    when_any: dict[str, Allowed] | None = Field(None, description="searched only if one of these holds")
    about: str = Field("", description="one line on what it does")

    @model_validator(mode="after")
    def _consistent(self) -> "Parameter":
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log or self.off:
                raise ValueError("choices exclude low, high, log and off")
            return self
        if self.low is None or self.high is None:
            raise ValueError("needs low and high, or choices")
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if (self.log or self.off) and self.low <= 0:
            raise ValueError(f"log and off need low above 0, not {self.low}")
        return self

    def conditions(self) -> list[str]:
        """Names of the hyper-parameters that decide whether this one is searched."""
        return [*(self.when or {}), *(self.when_any or {})]

    def active(self, values: Mapping[str, Any]) -> bool:
        """Whether it is searched, given the hyper-parameters before it."""
        holds = [_holds(values.get(name), allowed) for name, allowed in (self.when or {}).items()]
        any_holds = [_holds(values.get(name), allowed) for name, allowed in (self.when_any or {}).items()]
        return all(holds) and (any(any_holds) or not any_holds)


class WarmStart(BaseModel):
    """A configuration to try first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    source: str = Field(description="where it is from: a paper's settings, or validation results")
    values: dict[str, Value]


class Scope(BaseModel):
    """What an override applies to; an absent condition always holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    datasets: list[str] | None = Field(
        None, min_length=1, description="dataset names, in any case; 'hanzi' covers hanzi/0 to hanzi/5"
    )
    max_features: int | None = Field(None, ge=1, description="feature widths up to this one")

    def __str__(self) -> str:
        """The conditions as a file has them, e.g. ``datasets [flo], max_features 512``."""
        parts = [] if self.datasets is None else [f"datasets [{', '.join(self.datasets)}]"]
        parts += [] if self.max_features is None else [f"max_features {self.max_features}"]
        return ", ".join(parts) or "every dataset"

    def covers(self, dataset: str, n_features: int) -> bool:
        """Whether the override applies to a dataset of this name and feature width."""
        # a dataset's name is its folder's in lower case
        names = None if self.datasets is None else [name.lower() for name in self.datasets]
        named = names is None or dataset in names or dataset.split("/")[0] in names
        return named and (self.max_features is None or n_features <= self.max_features)


class _Layer(BaseModel):
    """What a file and each of its overrides say: which hyper-parameters are set, and which searched."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fixed: dict[str, Any] = Field(default_factory=dict, description="values that differ from the defaults")
    parameters: dict[str, Parameter] = Field(default_factory=dict, description="searched ones")

    @model_validator(mode="after")
    def _one_place(self) -> "_Layer":
        for name in self.fixed:
            if name in self.parameters:
                raise ValueError(f"'{name}' is both under fixed and under parameters; keep one")
        return self


class Override(_Layer):
    """Changes for some datasets: values and parameters by name replace those above; warm starts replace all."""

    scope: Scope
    warm_start: list[WarmStart] | None = None


class SpaceFile(_Layer):
    """A file of ``search_spaces/``."""

    backbone: str
    parameters: dict[str, Parameter]
    warm_start: list[WarmStart] = Field(default_factory=list)
    overrides: list[Override] = Field(default_factory=list)


class FrozenSpaceFile(SpaceFile):
    """What run.yaml holds of a space."""

    warm_start_of: list[str] = Field(default_factory=list)


@dataclass(frozen=True)
class Space:
    """The space of one search, overrides applied.

    Attributes:
        backbone: its name.
        fixed: values that are not searched and differ from the configuration's defaults.
        parameters: searched ones; a condition names only earlier or fixed ones.
        warm_start: configurations to try first.
        warm_start_of: what they were asked for as, where that depends on other runs, which change; else empty.
    """

    backbone: str
    fixed: dict[str, Any]
    parameters: dict[str, Parameter]
    warm_start: tuple[WarmStart, ...]
    warm_start_of: tuple[str, ...] = ()

    def with_fixed(self, values: Mapping[str, Any]) -> "Space":
        """The space with some hyper-parameters set instead of searched."""
        searched = {name: item for name, item in self.parameters.items() if name not in values}
        return replace(self, fixed={**self.fixed, **values}, parameters=searched)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for run.yaml; `space_from_dict` reads them back."""
        return {
            "backbone": self.backbone,
            "fixed": self.fixed,
            "parameters": {name: item.model_dump(exclude_defaults=True) for name, item in self.parameters.items()},
            "warm_start": [point.model_dump() for point in self.warm_start],
            **({"warm_start_of": list(self.warm_start_of)} if self.warm_start_of else {}),
        }

    @property
    def hash(self) -> str:
        """SHA-256 of what the search can suggest; descriptions do not count."""
        value = self.to_dict()
        for parameter in value["parameters"].values():
            parameter.pop("about", None)
        for point in value["warm_start"]:
            point.pop("source")
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

    @property
    def asked_hash(self) -> str:
        """`hash`; of warm starts that depend on other runs, how they were asked for, whatever they are by now."""
        return replace(self, warm_start=()).hash if self.warm_start_of else self.hash


def load_space(
    backbone: str,
    config: type[TrialConfig],
    dataset: str,
    n_features: int,
    path: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> Space:
    """The space for a backbone on a dataset.

    Args:
        backbone: its name.
        config: its configuration class, which holds the legal bounds.
        dataset: the dataset's name, for overrides.
        n_features: X, for overrides.
        path: a user's own file; None takes the shipped one.
        say: takes one line for each override that applies and replaces something above it.

    Raises:
        UsageError: the file is missing, or wrong anywhere, also in an override for other datasets; the message names
            file and key.
    """
    path = path or shipped_space(backbone)
    raw = read_yaml(path)
    try:
        file = SpaceFile.model_validate(raw)
    except ValidationError as error:
        raise UsageError(f"{path}: {_fault(error)}") from None
    if file.backbone != backbone:
        raise UsageError(f"{path}: backbone: this space is for '{file.backbone}', not '{backbone}'")
    _check_layers(file, config, str(path))
    overrides = _covering(file.overrides, dataset, n_features)
    space = _resolved(file, overrides)
    check_space(space, config, str(path))
    for number, override in enumerate(overrides if say else []):
        replaced = _replaced(_resolved(file, overrides[:number]), override)
        if say and replaced:
            names = ", ".join(replaced)
            say(f"{path}: the override for {override.scope} covers {dataset} and replaces what is above it: {names}")
    return space


def space_from_dict(value: dict[str, Any], config: type[TrialConfig], where: str) -> Space:
    """Read back `Space.to_dict`; raises `UsageError` like `load_space`."""
    try:
        file = FrozenSpaceFile.model_validate(value)
    except ValidationError as error:
        raise UsageError(f"{where}: {_fault(error)}") from None
    space = Space(file.backbone, file.fixed, file.parameters, tuple(file.warm_start), tuple(file.warm_start_of))
    check_space(space, config, where)
    return space


def shipped_space(backbone: str) -> Path:
    """Path of the shipped space of a backbone, in an installed wheel or in a source tree."""
    package = Path(__file__).parent
    for folder in (package / "search_spaces", package.parent / "search_spaces"):
        if (folder / f"{backbone}.yaml").is_file():
            return folder / f"{backbone}.yaml"
    raise UsageError(f"no search space is shipped for backbone '{backbone}'; give one with --space FILE")


def check_space(space: Space, config: type[TrialConfig], where: str) -> None:
    """Check names, legal bounds, conditions and warm starts against the backbone's configuration.

    Raises:
        UsageError: one line on the first fault.
    """
    validated(config, space.fixed, f"{where}: fixed")
    known = set(config.model_fields)
    settled = known - set(space.parameters)
    for name, parameter in space.parameters.items():
        here = f"{where}: parameters.{name}"
        if name not in known:
            raise UsageError(f"{here}: unknown hyper-parameter '{name}'{nearest(name, known)}")
        if name in BUDGET:
            raise UsageError(f"{here}: the budget is not searched; set '{name}' under fixed, or with --set")
        for condition in parameter.conditions():
            if condition not in settled:
                why = "must come before it" if condition in space.parameters else "is unknown"
                hint = "" if condition in known else meant(condition, known)
                raise UsageError(f"{here}: the condition on '{condition}' cannot be met: it {why}{hint}")
        _check_bounds(parameter, name, config, here)
        settled.add(name)
    for point in space.warm_start:
        _check_point(point, space, config, f"{where}: warm_start '{point.name}'")


def _covering(overrides: Sequence[Override], dataset: str, n_features: int) -> list[Override]:
    return [override for override in overrides if override.scope.covers(dataset, n_features)]


def _resolved(file: SpaceFile, overrides: Sequence[Override]) -> Space:
    fixed, parameters, warm_start = dict(file.fixed), dict(file.parameters), file.warm_start
    for override in overrides:
        fixed = {k: v for k, v in fixed.items() if k not in override.parameters} | override.fixed
        parameters = {k: v for k, v in parameters.items() if k not in override.fixed} | override.parameters
        warm_start = warm_start if override.warm_start is None else override.warm_start
    return Space(file.backbone, fixed, parameters, tuple(warm_start))


def _replaced(space: Space, override: Override) -> list[str]:
    """Names that an override gives another value or interval than the space before it."""
    before = {**space.fixed, **space.parameters}
    after = {**override.fixed, **override.parameters}
    names = [name for name, value in after.items() if name in before and before[name] != value]
    return [*names, "warm_start"] if override.warm_start is not None and space.warm_start else names


def _check_layers(file: SpaceFile, config: type[TrialConfig], where: str) -> None:
    """Check a file for datasets that no override covers, then each override where it is the last that applies."""
    check_space(_resolved(file, []), config, where)
    for number, override in enumerate(file.overrides):
        here = f"{where}: overrides.{number} ({override.scope})"
        for dataset in override.scope.datasets or [""]:
            width = override.scope.max_features or sys.maxsize
            applied = _covering(file.overrides[: number + 1], dataset, width)
            check_space(_resolved(file, applied), config, here)


def is_integer(config: type[TrialConfig], name: str) -> bool:
    """Whether a hyper-parameter takes whole numbers."""
    annotation = config.model_fields[name].annotation
    kinds = get_args(annotation) or (annotation,)
    return int in kinds and bool not in kinds


def _check_bounds(parameter: Parameter, name: str, config: type[TrialConfig], where: str) -> None:
    field = config.model_fields[name]
    annotated: Any = Annotated[field.annotation, Field(), *field.metadata]
    legal: TypeAdapter[Any] = TypeAdapter(annotated)
    values = parameter.choices if parameter.choices is not None else [parameter.low, parameter.high]
    if parameter.off:
        values = [0, *values]
    for value in values:
        try:
            legal.validate_python(value, strict=False)
        except ValidationError as error:
            raise UsageError(f"{where}: {value!r}: {first_fault(error)}") from None


def _check_point(point: WarmStart, space: Space, config: type[TrialConfig], where: str) -> None:
    validated(config, {**space.fixed, **point.values}, where)
    for name, value in point.values.items():
        parameter = space.parameters.get(name)
        if parameter is not None and not contains(parameter, value):
            raise UsageError(f"{where}: {name}: {value!r} is outside the space's own interval or choices")


def contains(parameter: Parameter, value: Value) -> bool:
    """Whether a value can be suggested for a parameter."""
    if parameter.choices is not None:
        return value in parameter.choices
    if not isinstance(value, int | float):
        return False
    assert parameter.low is not None
    assert parameter.high is not None
    return parameter.low <= value <= parameter.high or (parameter.off and value == 0)


def _holds(value: Any, allowed: Allowed) -> bool:
    if allowed == "positive":
        return isinstance(value, int | float) and value > 0
    return value in allowed


def _fault(error: ValidationError) -> str:
    faults = error.errors(include_url=False)
    # what is missing may be what has a wrong name
    fault = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
    if fault["type"] == "extra_forbidden":
        key = str(fault["loc"][-1])
        return f"{'.'.join(map(str, fault['loc']))}: unknown key{nearest(key, _keys_at(fault['loc']))}"
    if fault["type"] == "missing":
        return f"{'.'.join(map(str, fault['loc']))}: is missing"
    return first_fault(error)


def _keys_at(place: tuple[int | str, ...]) -> Iterable[str]:
    """The keys that a file may have where it has an unknown one."""
    within = place[2:] if place[0] == "overrides" else place
    parts: dict[str, type[BaseModel]] = {"parameters": Parameter, "warm_start": WarmStart, "scope": Scope}
    outer: type[BaseModel] = SpaceFile if within == place else Override
    return (parts.get(str(within[0]), outer) if len(within) > 1 else outer).model_fields

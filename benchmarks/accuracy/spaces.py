"""The search space of each arm, derived from the shipped one.

What an arm fixes leaves the intervals and the warm starts. Where a term may not be off, a warm start that has it at 0
takes the lower end of its interval instead, unless it has all of them at 0: that is a control, which is left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmarks.accuracy.cells import GENERATIVE, SHIPPED, TUNED, Cell
from d3tune.config import TrialConfig
from d3tune.data.registry import find_dataset
from d3tune.files import write_text
from d3tune.method.generators import load_backbone
from d3tune.space import Parameter, Space, WarmStart, check_space, load_space
from d3tune.yamlfile import dump_yaml, parse_yaml

WEIGHTS = ("cls_weight", "embedding_weight", "label_weight", "ood_weight")
EXPONENTS = ("remse_p", "remse_p2")
# a weight that does something: at the lower ends of the shipped intervals a term is next to off
CLEARLY = 0.01
OF_TEACHER, OF_STUDENT = "teacher_embedding", ("student", "student_embedding")


def shipped(backbone: str, dataset: str) -> Space:
    """The space as a user gets it on this dataset."""
    width = find_dataset(dataset).n_features
    return load_space(backbone, load_backbone(backbone).config, dataset, width)


def arm_space(cell: Cell) -> Space:
    """The space of a cell, checked."""
    space = derived(shipped(cell.backbone, cell.dataset), cell)
    check_space(space, load_backbone(cell.backbone).config, cell.name)
    return space


def derived(space: Space, cell: Cell) -> Space:
    """The space of a cell's arm, made of the shipped one."""
    if cell.arm in (SHIPPED, TUNED):
        return space
    if cell.backbone in GENERATIVE:
        return _generative(space, cell.arm)
    return _regression(space, cell.arm)


def write_space(cell: Cell, path: Path) -> None:
    """Write a cell's space as ``d3tune search --space`` reads it."""
    write_text(path, dump_yaml(arm_space(cell).to_dict()))


def fixed(space: Space, values: Mapping[str, Any]) -> Space:
    """Some hyper-parameters set; warm starts lose them and what is then never searched, and equal ones become one."""
    space = space.with_fixed(values)
    searched = [name for name, item in space.parameters.items() if not _is_idle(item, space)]
    points = [
        point.model_copy(update={"values": {name: item for name, item in point.values.items() if name in searched}})
        for point in space.warm_start
    ]
    return replace(space, warm_start=_different(points))


def strictly_on(space: Space, names: Sequence[str], least: float = 0.0) -> Space:
    """Some hyper-parameters never off nor below a value, neither in suggestions nor in warm starts."""

    def on(parameter: Parameter) -> Parameter:
        low = least if parameter.low is None else max(parameter.low, least)
        return parameter.model_copy(update={"off": False, "low": low})

    parameters = {name: on(item) if name in names else item for name, item in space.parameters.items()}
    lowest = {name: parameters[name].low for name in names if name in parameters}
    points = [_lifted(point, lowest) for point in space.warm_start if not _is_control(point, names)]
    return replace(space, parameters=parameters, warm_start=_different(points))


def applicable(settings: Iterable[str], config: type[TrialConfig], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``key=value`` that a backbone knows and may have together with the values."""
    found: dict[str, Any] = {}
    for setting in settings:
        key, _, text = setting.partition("=")
        value = parse_yaml(f"value: {text}", setting)["value"]
        try:
            config.model_validate({**values, **found, key: value})
        except ValidationError:
            continue
        found[key] = value
    return found


def _generative(space: Space, arm: str) -> Space:
    all_heads = space.fixed.get("heads", load_backbone(space.backbone).config.model_fields["heads"].default)
    space = fixed(space, {"heads": [head for head in all_heads if head != OF_TEACHER]})
    if arm == "d3":
        return strictly_on(space, WEIGHTS, CLEARLY)
    if arm == "cls":
        return strictly_on(fixed(space, dict.fromkeys(WEIGHTS[1:], 0)), WEIGHTS[:1], CLEARLY)
    offered = [head for head in all_heads if head not in (*OF_STUDENT, OF_TEACHER)]
    heads = [*offered, OF_TEACHER] if arm == "teacher" else offered
    return fixed(space, {**dict.fromkeys(WEIGHTS, 0), "heads": heads})


def _regression(space: Space, arm: str) -> Space:
    if arm == "plain":
        return fixed(space, {"members": 1, "hidden_dropout": 0, "input_dropout": 0, "heads": ["cosine"]})
    if arm == "combined":
        return fixed(space, {"heads": ["combined"]})
    space = strictly_on(fixed(space, {"heads": ["cosine", "discriminant"]}), ["remse_weight"])
    return fixed(space, dict.fromkeys(EXPONENTS, 0)) if arm == "mse" else strictly_on(space, EXPONENTS)


def _is_control(point: WarmStart, names: Sequence[str]) -> bool:
    given = [point.values[name] for name in names if name in point.values]
    return bool(given) and not any(given)


def _lifted(point: WarmStart, lowest: Mapping[str, Any]) -> WarmStart:
    values: dict[str, Any] = {
        name: max(item, lowest[name]) if name in lowest else item for name, item in point.values.items()
    }
    return point.model_copy(update={"values": values})


def _is_idle(parameter: Parameter, space: Space) -> bool:
    """Whether what is fixed keeps a parameter from ever being searched."""
    return set(parameter.conditions()) <= set(space.fixed) and not parameter.active(space.fixed)


def _different(points: Sequence[WarmStart]) -> tuple[WarmStart, ...]:
    found = {tuple(sorted(point.values.items())): point for point in reversed(points)}
    return tuple(reversed(found.values()))

"""What another search in a run directory differs in, and which differences the run can be extended by."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from d3tune.config import SearchConfig, TrialConfig
from d3tune.space import BUDGET, Parameter, Space

# what may change although earlier trials stay comparable: who suggests and who prunes
FREE = {"sampler", "pruner"}
SHOWN = 4


@dataclass(frozen=True)
class Extension:
    """One `--extend` of a run.

    Attributes:
        at: when, UTC, ISO 8601.
        trials: how many trials had been suggested before it.
        changes: what differs, one line each.
        search: the search before it, as plain values.
        space: the raw space before it.
    """

    at: str
    trials: int
    changes: tuple[str, ...]
    search: dict[str, Any]
    space: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for run.yaml."""
        return {**vars(self), "changes": list(self.changes)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Extension":
        """Read back `to_dict`."""
        return cls(
            at=str(value["at"]),
            trials=int(value["trials"]),
            changes=tuple(str(line) for line in value["changes"]),
            search=SearchConfig.model_validate(value["search"]).model_dump(mode="json"),
            space=dict(value["space"]),
        )


def differences(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Lines ``key: before → now`` for two identities (``search`` and ``space``); descriptions do not count."""
    before, now = _flat(dict(held)), _flat(dict(wanted))
    return [
        f"{key}: {before.get(key, 'absent')} → {now.get(key, 'absent')}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.endswith((".about", ".source"))
    ]


def shortened(lines: list[str]) -> str:
    """The first few lines as one, and how many more there are."""
    more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return "; ".join(lines[:SHOWN]) + more


def incompatible(
    held: SearchConfig, held_space: Space, wanted: SearchConfig, space: Space, config: type[TrialConfig]
) -> list[str]:
    """Why the trials of two searches cannot be set side by side in one study; empty where they can.

    Intervals, conditions, fixed values, warm starts, sampler and pruner may differ. Data, backbone, objective,
    protocol, splits, seed and budget may not; nor may the choices of a hyper-parameter or the scale of its interval,
    which Optuna takes for another parameter.
    """
    before, now = held.model_dump(mode="json"), wanted.model_dump(mode="json")
    lines = [f"search.{k}: {before[k]} → {now[k]}" for k in before if k not in FREE and before[k] != now[k]]
    old, new = config(**held_space.fixed), config(**space.fixed)
    lines += [f"{k}: {getattr(old, k)} → {getattr(new, k)}" for k in BUDGET if getattr(old, k) != getattr(new, k)]
    for name in held_space.parameters.keys() & space.parameters.keys():
        lines += _parameter_faults(name, held_space.parameters[name], space.parameters[name])
    return lines


def _parameter_faults(name: str, before: Parameter, now: Parameter) -> Iterator[str]:
    if before.choices != now.choices:
        yield f"space.parameters.{name}.choices: {before.choices or 'an interval'} → {now.choices or 'an interval'}"
    elif before.log != now.log:
        yield f"space.parameters.{name}.log: {before.log} → {now.log}"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        rows: dict[str, Any] = {}
        for key, item in value.items():
            rows |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
        return rows
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return _flat({str(index): item for index, item in enumerate(value)}, prefix)
    return {prefix: value}

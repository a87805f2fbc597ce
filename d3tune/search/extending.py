"""What another search in a run directory differs in, and which differences the run can be extended by."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from d3tune.config import SearchConfig, TrialConfig
from d3tune.space import BUDGET, Parameter, Space

# what may change although earlier trials stay comparable: who suggests and who prunes
FREE = {"sampler", "pruner"}
SHOWN = 4
# of another dataset all three are others; of other semantics the content
FOLLOWING = {"dataset": ("dataset_hash", "semantics", "features"), "semantics": ("dataset_hash",)}


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
    """Lines ``key: before → now`` for two identities (``search`` and ``space``), one for each thing that was changed.

    Descriptions do not count, and what follows from a change is not told beside it: of another dataset its content, of
    a hyper-parameter that is fixed now its interval and its values in warm starts.
    """
    lines = _search_lines(held["search"], wanted["search"])
    if held["search"]["backbone"] != wanted["search"]["backbone"]:
        return lines
    before, now = held["space"], wanted["space"]
    names = sorted({*before["fixed"], *before["parameters"], *now["fixed"], *now["parameters"]})
    told = {name: (_told(before, name), _told(now, name)) for name in names}
    changed = {name for name, (old, new) in told.items() if old != new}
    lines += [f"{name}: {told[name][0]} → {told[name][1]}" for name in sorted(changed)]
    return lines + list(_warm_start_lines(before["warm_start"], now["warm_start"], changed))


def _search_lines(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    for cause, following in FOLLOWING.items():
        if cause in changed:
            changed = [key for key in changed if key not in following]
    return [f"search.{key}: {before.get(key, 'absent')} → {now.get(key, 'absent')}" for key in changed]


def _told(space: Mapping[str, Any], name: str) -> str:
    """How a raw space sets a hyper-parameter."""
    if name in space["parameters"]:
        return _interval(space["parameters"][name])
    return _value(space["fixed"][name]) if name in space["fixed"] else "default"


def _interval(item: Mapping[str, Any]) -> str:
    """A raw parameter in words."""
    choices = item.get("choices")
    text = f"one of {_value(choices)}" if choices is not None else f"{item.get('low')} to {item.get('high')}"
    text += (", log" if item.get("log") else "") + (", or 0" if item.get("off") else "")
    conditions = [" and ".join(_conditions(item.get("when"))), " or ".join(_conditions(item.get("when_any")))]
    met = "; ".join(condition for condition in conditions if condition)
    return f"{text}, if {met}" if met else text


def _conditions(conditions: Mapping[str, Any] | None) -> list[str]:
    return [f"{name} is {_value(allowed)}" for name, allowed in (conditions or {}).items()]


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _warm_start_lines(
    before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]], changed: set[str]
) -> Iterator[str]:
    def rest(points: Sequence[Mapping[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
        return [(p["name"], {k: v for k, v in p["values"].items() if k not in changed}) for p in points]

    old, new = rest(before), rest(now)
    if old != new:
        names = [", ".join(name for name, _ in points) or "none" for points in (old, new)]
        yield f"warm starts: {names[0]} → {names[1]}" if names[0] != names[1] else "warm starts: other values"


def shortened(lines: list[str]) -> str:
    """The first few lines as one, and how many more there are."""
    more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return "; ".join(lines[:SHOWN]) + more


def search_faults(held: SearchConfig, wanted: SearchConfig) -> list[str]:
    """Why the trials of two searches cannot be set side by side in one study, whatever their spaces.

    Sampler and pruner may differ. Data, backbone, objective, protocol, splits and seed may not.
    """
    before, now = held.model_dump(mode="json"), wanted.model_dump(mode="json")
    return _search_lines({k: v for k, v in before.items() if k not in FREE}, {k: now[k] for k in now if k not in FREE})


def space_faults(held: Space, wanted: Space, config: type[TrialConfig]) -> list[str]:
    """Why the trials of two spaces cannot be set side by side in one study; empty where they can.

    Intervals, conditions, fixed values and warm starts may differ. The budget may not; nor may the choices of a
    hyper-parameter or the scale of its interval, which Optuna takes for another parameter.
    """
    old, new = config(**held.fixed), config(**wanted.fixed)
    lines = [f"{k}: {getattr(old, k)} → {getattr(new, k)}" for k in BUDGET if getattr(old, k) != getattr(new, k)]
    both = sorted(held.parameters.keys() & wanted.parameters.keys())
    pairs = [(name, held.parameters[name], wanted.parameters[name]) for name in both]
    return lines + [f"{name}: {_words(a)} → {_words(b)}" for name, a, b in pairs if not _alike(a, b)]


def _alike(before: Parameter, now: Parameter) -> bool:
    return (before.choices, before.log) == (now.choices, now.log)


def _words(parameter: Parameter) -> str:
    return _interval(parameter.model_dump(exclude_defaults=True))

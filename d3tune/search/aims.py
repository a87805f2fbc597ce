"""Two aims of a search instead of one, and what must hold of a trial, each read where its objective is best."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from d3tune.config import RELATION, Aim, Objective, SearchConfig, metric_prefix
from d3tune.errors import UsageError, one_of
from d3tune.search.reports import REPORT_KEY, Report

SECONDS = "seconds"
# accuracies at the offset of the largest H
CALIBRATED = ("H", "S", "U")


@dataclass(frozen=True)
class Constraint:
    """What must hold of a trial, e.g. ``S>=0.5``.

    Attributes:
        name: of what is read, see `reading`.
        at_least: whether it bounds from below.
        bound: the bound itself, which is allowed.
    """

    name: str
    at_least: bool
    bound: float

    @classmethod
    def parse(cls, text: str) -> "Constraint":
        """Read one as a user writes it.

        Raises:
            UsageError: the form, the name or the bound is wrong.
        """
        parts = re.split(f"({RELATION})", "".join(text.split()))
        if len(parts) != 3:
            raise UsageError(f"--constraint {text}: write it as NAME>=BOUND or NAME<=BOUND, e.g. 'S>=0.5'")
        name, relation, bound = parts
        one_of("--constraint", name, get_args(Aim))
        try:
            value = float(bound)
        except ValueError:
            value = math.nan
        top = math.inf if name == SECONDS else 1.0
        if not (math.isfinite(value) and 0 <= value <= top):
            allowed = "a number of seconds" if name == SECONDS else "a number in [0, 1]"
            raise UsageError(f"--constraint {text}: its bound must be {allowed}")
        return cls(name, relation == ">=", value)

    def __str__(self) -> str:
        """As it is kept; the same text for the same constraint."""
        return f"{self.name}{'>=' if self.at_least else '<='}{repr(self.bound).removesuffix('.0')}"

    def violation(self, value: float) -> float:
        """By what share of its bound a value breaks it, of 0 by how much; 0 or less where it holds."""
        return (self.bound - value if self.at_least else value - self.bound) / (self.bound or 1.0)


def parse_objective(text: str) -> tuple[Objective, tuple[Aim, ...]]:
    """What ``--objective`` asks for.

    Args:
        text: one quantity, which is maximised, or two with a comma, which are two aims.

    Returns:
        What chooses evaluation, head and offset, and the winner; and the aims, empty where that is all.

    Raises:
        UsageError: a name is unknown, or there are not one or two different ones.
    """
    names = [name.strip() for name in text.split(",")]
    if len(names) == 1:
        one_of("--objective", names[0], get_args(Objective))
        return cast(Objective, names[0]), ()
    for name in names:
        one_of("--objective", name, get_args(Aim))
    if len(names) != 2 or len(set(names)) != 2:
        raise UsageError(f"--objective {text}: takes one aim or two different ones, e.g. H or S,U")
    leading = next((name for name in names if name in get_args(Objective)), "H")
    return cast(Objective, leading), cast(tuple[Aim, ...], tuple(names))


def check_readings(objective: Objective, aims: Sequence[Aim], constraints: Sequence[str]) -> None:
    """Refuse what is read at another offset than the objective's.

    Raises:
        UsageError: H, S or U, which are read at the offset of the largest H, beside H_raw, whose models have none.
    """
    names = [*aims, *(Constraint.parse(text).name for text in constraints)]
    calibrated = next((name for name in names if name in CALIBRATED), None)
    if objective == "H_raw" and calibrated is not None:
        raise UsageError(
            f"--objective H_raw: its models have no offset, and {calibrated} is read at the one of the largest H; "
            "use H in the place of H_raw"
        )


def parse_constraints(texts: Sequence[str]) -> tuple[str, ...]:
    """The constraints in the form that is kept, in a fixed order, each once.

    Raises:
        UsageError: one is wrong.
    """
    return tuple(sorted({str(Constraint.parse(text)) for text in texts}))


def aims_words(search: SearchConfig) -> str:
    """What a search is after, e.g. ``val/H``, or ``val/S and val/U, the winner by val/H, where S>=0.5``."""
    names, words = aim_names(search), search.searched_metric
    if names:
        words = f"{' and '.join(names)}, the winner by {words}"
    return words + (f", where {' and '.join(search.constraints)}" if search.constraints else "")


def aim_names(search: SearchConfig) -> list[str]:
    """The aims as labels: ``val/S``, or ``published/S`` where the test sets select, and ``seconds``."""
    return [name if name == SECONDS else f"{metric_prefix(search.protocol)}/{name}" for name in search.aims]


def nothing_wins(trials: Iterable[FrozenTrial], search: SearchConfig) -> str:
    """Why a study has no winner, as the rest of a sentence."""
    if any(trial.state == TrialState.COMPLETE for trial in trials) and search.constraints:
        return f"no complete trial meets {' and '.join(search.constraints)}"
    return "no complete trial yet"


def directions(search: SearchConfig) -> list[StudyDirection]:
    """Of the study: everything is maximised but seconds."""
    names: Sequence[str] = search.aims or (search.objective,)
    return [StudyDirection.MINIMIZE if name == SECONDS else StudyDirection.MAXIMIZE for name in names]


def reading(report: Report, name: str, search: SearchConfig, head: str | None = None) -> float:
    """An accuracy in [0, 1] of an evaluation under a head, its best where none is named; or the seconds up to it."""
    place = f"{metric_prefix(search.protocol)}/" + (f"{head}/" if head else "")
    return report.seconds if name == SECONDS else report.metrics[place + name]


def values_at(report: Report, search: SearchConfig) -> list[float]:
    """What the study is told of a trial: the objective, or each of the aims.

    Args:
        report: the trial's best.
        search: says which.
    """
    return [reading(report, name, search) for name in search.aims] if search.aims else [report.value]


def constraints_at(report: Report, search: SearchConfig) -> dict[str, float]:
    """By what share of its bound a trial breaks each constraint, as Optuna has it: 0 or less where it holds.

    Optuna's TPE adds them up, so that seconds and accuracies have to be of one kind.

    Args:
        report: the trial's best.
        search: has the constraints.
    """
    items = [Constraint.parse(text) for text in search.constraints]
    return {str(item): item.violation(reading(report, item.name, search)) for item in items}


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether every constraint holds of a complete trial."""
    return all(value <= 0 for value in trial.constraints.values())


def broken(trial: FrozenTrial) -> list[str]:
    """The constraints that do not hold of a complete trial."""
    return [text for text, value in trial.constraints.items() if value > 0]


def value_of(trial: FrozenTrial) -> float | None:
    """A trial's objective at its best evaluation, whatever its aims; None of one that was told no value."""
    if trial.values is None:
        return None
    if len(trial.values) == 1:
        return float(trial.values[0])
    best: Mapping[str, Any] = trial.user_attrs[f"{REPORT_KEY}{trial.user_attrs['best_update']:08d}"]
    return float(best["value"])

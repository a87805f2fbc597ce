"""What the report knows of a run: its frozen search, its study and its summary, read once and never written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError

from d3tune.config import first_fault, metric_prefix
from d3tune.errors import RunError
from d3tune.search.aims import is_feasible
from d3tune.search.faults import INTACT
from d3tune.search.journal import CONFIG_ATTR
from d3tune.search.lock import is_owned, was_cut_off
from d3tune.search.reports import Report, best_report
from d3tune.search.run import RUN_FILE, RunDirectory
from d3tune.search.standing import winner
from d3tune.search.study import read_trials, reports_of
from d3tune.space import Parameter
from d3tune.words import TEST_SELECTED, plural

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "unfinished",
}
# complete, and no winner for a constraint that does not hold
UNMET = "constraint not met"
ALL_STATES = (*STATES.values(), UNMET)
SPREAD = ("H", "U", "S", "T1", "AUSUC")


@dataclass(frozen=True)
class Tried:
    """A trial as figures see it.

    Attributes:
        number: in the study.
        state: ``complete``, `UNMET`, ``pruned``, ``failed``, or ``unfinished``: being trained, or interrupted.
        reports: its evaluations in order of update.
        config: every hyper-parameter; empty where none was legal.
        start: when it was given out, local time.
        end: when it ended, local time; None of one that did not.
    """

    number: int
    state: str
    reports: Sequence[Report]
    config: Mapping[str, Any]
    start: datetime | None
    end: datetime | None

    @property
    def best(self) -> Report | None:
        """The evaluation with the largest value, None before the first."""
        return best_report(self.reports) if self.reports else None

    @property
    def value(self) -> float | None:
        """The objective at `best`; for a pruned trial so far as it came."""
        return None if self.best is None else self.best.value

    @property
    def seconds(self) -> float:
        """Spent on it up to its last evaluation."""
        return self.reports[-1].seconds if self.reports else 0.0


@dataclass(frozen=True)
class Material:
    """A run, read once.

    Attributes:
        run: its directory.
        frozen: the study's trials in order of number.
        parameters: what is searched, by name.
        summary: what the last command left; empty where there is none.
    """

    run: RunDirectory
    frozen: Sequence[FrozenTrial]
    parameters: Mapping[str, Parameter]
    summary: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def tried(self) -> list[Tried]:
        """The trials as figures see them."""
        return [_tried(trial) for trial in self.frozen]

    @cached_property
    def winner(self) -> Tried | None:
        """The complete trial with the largest value that meets the constraints; None before there is one."""
        best = winner(self.frozen)
        return None if best is None else next(trial for trial in self.tried if trial.number == best.number)

    @property
    def counts(self) -> dict[str, int]:
        """Trials by state."""
        there = [UNMET] * any(trial.state == UNMET for trial in self.tried)
        names = [*STATES.values(), *there]
        return {state: sum(trial.state == state for trial in self.tried) for state in names}

    @property
    def prefix(self) -> str:
        """``val``, or ``published`` where the test sets select."""
        return metric_prefix(self.run.search.protocol)

    @property
    def protocol(self) -> str:
        """What selects, in words, with the label of what was selected on the test."""
        search = self.run.search
        if search.protocol == "published":
            return f"protocol published, {TEST_SELECTED}"
        return f"validation protocol, {plural(len(search.splits), 'split')}"

    @property
    def metric(self) -> str:
        """The objective as a label of an axis: name, range and protocol."""
        return f"{self.run.search.searched_metric} in [0, 1] ({self.protocol})"

    @property
    def state(self) -> str:
        """What the run is doing, or how its last command ended."""
        if is_owned(self.run.path):
            return "a process is at work on it"
        if was_cut_off(self.run.path):
            return f"cut off; go on with: {self.run.resume_command}"
        state = self.summary.get("state")
        if isinstance(state, str):
            return state
        return "not begun" if not self.frozen else f"without a summary; go on with: {self.run.resume_command}"

    def of(self, *states: str) -> list[Tried]:
        """The trials in some states that have an evaluation."""
        return [trial for trial in self.tried if trial.state in states and trial.reports]

    def setting(self, trial: Tried, name: str) -> Any:
        """A trial's value of a searched hyper-parameter, None where it was not searched for it."""
        if name not in trial.config or not self.parameters[name].active(trial.config):
            return None
        return trial.config[name]

    def metric_of(self, report: Report, name: str) -> float | None:
        """An accuracy of an evaluation under its best head, e.g. ``U``; None where the record has none."""
        return report.metrics.get(f"{self.prefix}/{name}")


def read_material(run: RunDirectory) -> Material:
    """Read a run, also while a search is at work on it.

    Raises:
        RunError: the journal or the frozen space is damaged.
    """
    trials = read_trials(run.journal) if run.journal.exists() else []
    return Material(run, trials, _parameters(run), run.read_summary() or {})


def _parameters(run: RunDirectory) -> dict[str, Parameter]:
    """The searched hyper-parameters, read without the backbone, which need not be installed."""
    try:
        return {str(name): Parameter.model_validate(item) for name, item in run.space["parameters"].items()}
    except ValidationError as error:
        raise RunError(f"{run.path / RUN_FILE}: space: {first_fault(error)}; {INTACT}") from None
    except (KeyError, AttributeError):
        raise RunError(f"{run.path / RUN_FILE}: damaged: the space has no parameters; {INTACT}") from None


def _tried(trial: FrozenTrial) -> Tried:
    return Tried(
        number=trial.number,
        state=STATES[trial.state] if is_feasible(trial) else UNMET,
        reports=tuple(reports_of(trial)),
        config=trial.user_attrs.get(CONFIG_ATTR, {}),
        start=trial.datetime_start,
        end=trial.datetime_complete,
    )

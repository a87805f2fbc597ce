"""Executors run trials and other jobs; they decide nothing and hold no state that matters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from d3tune.search.jobs import TrainingJob
from d3tune.search.keeping import Keeper
from d3tune.search.reports import Report
from d3tune.search.study import Assignment, Ledger


@dataclass
class StopSignal:
    """Set when the search shall drain: no new trial, running ones end at their last checkpoint.

    Attributes:
        requested: whether it is set.
        at_once: whether nothing more shall be waited for, whatever has begun.
        deadline: a `time.monotonic` value after which no new trial is given out; None for none.
    """

    requested: bool = False
    at_once: bool = False
    deadline: float | None = None

    def check(self) -> None:
        """End what takes long in this process.

        Raises:
            KeyboardInterrupt: it is set.
        """
        if self.requested:
            raise KeyboardInterrupt


@dataclass(frozen=True)
class TrialQueue:
    """Where an executor gets trials from and takes their reports to.

    Attributes:
        ledger: the study.
        limit: trials the search may have in all.
        job: makes the job of an assignment.
        directory: the directory of a trial number.
        keeper: settles what stays of an ended trial.
        on_end: called with the number when a trial's outcome is in the study.
        on_note: called with the number and one line on how a report was made.
        trial_timeout: seconds after which a trial without a report counts as hung; None for never.
        stop: see `StopSignal`.
        on_report: called with the number and a report as it comes.
        on_pause: called with the number of a trial that is left interrupted for now.
        enough: asked before each new trial whether none is to be begun any more.
    """

    ledger: Ledger
    limit: int
    job: Callable[[Assignment], TrainingJob]
    directory: Callable[[int], Path]
    keeper: Keeper
    on_end: Callable[[int], None]
    on_note: Callable[[int, str], None] = lambda number, line: None
    trial_timeout: float | None = None
    stop: StopSignal = field(default_factory=StopSignal)
    on_report: Callable[[int, Report], None] = lambda number, report: None
    on_pause: Callable[[int], None] = lambda number: None
    enough: Callable[[], bool] = lambda: False

    def next_trial(self) -> Assignment | None:
        """The next trial to run, None where there is none: what was interrupted is gone on with in any case."""
        return self.ledger.next_trial(self.ledger.standing.begun if self.enough() else self.limit)

    def report(self, number: int, report: Report) -> bool:
        """Record an evaluation; returns whether the trial is to stop."""
        for line in report.notes:
            self.on_note(number, line)
        self.on_report(number, report)
        return self.ledger.report(number, report)

    def pause(self, number: int, line: str) -> None:
        """Leave a running trial interrupted until `Ledger.recall`, and say why in one line."""
        self.ledger.set_aside(number)
        self.on_note(number, line)
        self.on_pause(number)

    def end(self, number: int) -> None:
        """Settle an ended trial and tell whoever listens."""
        self.keeper.settle(number)
        self.on_end(number)


class Executor(Protocol):
    """Runs a queue of trials, and plain functions over items, as its resources allow."""

    @property
    def concurrency(self) -> int:
        """How many of them at once."""

    def run_trials(self, *queues: TrialQueue) -> None:
        """Run trials until the queues are empty or a stop is requested; several take turns, see `Turns`."""

    def map(
        self,
        function: Callable[..., Any],
        items: Sequence[tuple[Any, ...]],
        stop: StopSignal,
        on_result: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        """Call ``function(*item)`` for every item, in any order; results in the items' order.

        ``on_result`` is called with an item's index and result as soon as that is there.

        Raises:
            KeyboardInterrupt: a stop was requested.
        """

    def share_gpus(self, gpus_per_trial: float) -> None:
        """From now on give each trial, and each call, so much of a GPU."""

    def close(self) -> None:
        """End every process that the executor started."""

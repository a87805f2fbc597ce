"""What a search is doing at this moment, kept as it goes on, for whoever shows it from a thread of their own.

The search tells it of every begin, report and end, which costs it a few assignments; a look costs as much as there are
running trials, whatever the study has.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from d3tune.config import SearchConfig, metric_prefix
from d3tune.search.analysis import tested
from d3tune.search.baselines import baseline
from d3tune.search.executor import Executor, StopSignal, TrialQueue
from d3tune.search.jobs import TrainingJob
from d3tune.search.packing import measure
from d3tune.search.reports import Report, best_report
from d3tune.search.study import Assignment, Ledger, last_seconds, reports_of
from d3tune.search.trial import curve, evaluate_on_test

PHASES: dict[Callable[..., Any], str] = {
    curve: "confirming: fresh seeds fix updates, head and offset",
    **dict.fromkeys((evaluate_on_test, tested), "confirming: one test a seed"),
    baseline: "baselines",
    measure: "measuring a trial on a GPU",
}
# of how many of the last ended trials the durations are averaged
RECENT = 100


@dataclass(frozen=True)
class Latest:
    """One evaluation.

    Attributes:
        value: the objective under the best head.
        head: that head.
        update: updates so far.
        H, S, U: of that head, in [0, 1].
    """

    value: float
    head: str
    update: int
    H: float
    S: float
    U: float


@dataclass(frozen=True)
class RunningNow:
    """A trial that is being trained.

    Attributes:
        number: of the trial.
        updates: of its full budget.
        began: by the clock, moved back by what an earlier command spent on it.
        latest: its latest evaluation, None before the first.
    """

    number: int
    updates: int
    began: float
    latest: Latest | None = None


@dataclass(frozen=True)
class View:
    """A search at one moment.

    Attributes:
        phase: what it does, in a few words.
        done, total: of the phase's own parts; total is 0 where they are not counted.
        metric: the objective's full name; empty before the study is open.
        test_selected: whether the objective looks at the test sets.
        planned: trials of the run in all.
        complete, pruned, failed: trials that ended so.
        running: trials that are being trained, with the seconds spent on each.
        best: trial number and evaluation of the best COMPLETE trial.
        elapsed: seconds since this command began.
        left: seconds that the trials will still take, None where nothing is known.
    """

    phase: str
    done: int = 0
    total: int = 0
    metric: str = ""
    test_selected: bool = False
    planned: int = 0
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    running: tuple[tuple[RunningNow, float], ...] = ()
    best: tuple[int, Latest] | None = None
    elapsed: float = 0.0
    left: float | None = None

    @property
    def to_go(self) -> int:
        """Trials that are not begun, or not gone on with."""
        return max(self.planned - self.complete - self.pruned - self.failed - len(self.running), 0)


class Progress:
    """Told by a search, looked at by others."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin; the study is not open yet.

        Args:
            clock: seconds, of any origin.
        """
        self._clock, self._start = clock, clock()
        self._phase: tuple[str, int, int] = ("starting", 0, 0)
        self._ledger: Ledger | None = None
        self._search: SearchConfig | None = None
        self._planned, self._slots = 0, 1
        self._stop = StopSignal()
        self._running: dict[int, RunningNow] = {}
        self._best: tuple[int, Latest] | None = None
        self._durations: deque[float] = deque(maxlen=RECENT)

    def follow(self, queue: TrialQueue, search: SearchConfig, slots: int) -> TrialQueue:
        """The trials of a queue come next.

        Args:
            queue: of the study, as it was opened.
            search: what is searched.
            slots: trials at once.

        Returns:
            The queue that tells what comes of it.
        """
        ledger = queue.ledger
        self._search, self._planned, self._slots, self._stop = search, queue.limit, slots, queue.stop
        ended = [trial for trial in ledger.trials() if trial.state.is_finished()]
        # a trial that failed before its first report says nothing of how long others take
        self._durations.extend(s for trial in ended[-RECENT:] if (s := last_seconds(trial)) > 0)
        self._ledger = ledger
        self._take_best()
        self.enter("trials")

        def job(assignment: Assignment) -> TrainingJob:
            self.began(assignment)
            return queue.job(assignment)

        def on_end(number: int) -> None:
            self.ended(number)
            queue.on_end(number)

        return replace(queue, job=job, on_end=on_end, on_report=self.reported, on_pause=self.paused)

    def began(self, assignment: Assignment) -> None:
        """A trial begins, or is gone on with."""
        assert self._ledger is not None
        known = reports_of(self._ledger.trial(assignment.number)) if assignment.known_update else []
        self._running[assignment.number] = RunningNow(
            assignment.number,
            int(assignment.config["updates"]),
            self._clock() - assignment.known_seconds,
            self._latest(known[-1]) if known else None,
        )

    def reported(self, number: int, report: Report) -> None:
        """A running trial was evaluated."""
        if number in self._running:
            self._running[number] = replace(self._running[number], latest=self._latest(report))

    def ended(self, number: int) -> None:
        """A trial's outcome is in the study."""
        running = self._running.pop(number, None)
        if running is not None:
            self._durations.append(self._clock() - running.began)
        self._take_best()

    def paused(self, number: int) -> None:
        """A running trial is left interrupted for now."""
        self._running.pop(number, None)

    def enter(self, phase: str, total: int = 0) -> None:
        """Another phase begins.

        Args:
            phase: what is done, in a few words.
            total: its parts; 0 where they are not counted.
        """
        self._phase = (phase, 0, total)

    def part_done(self) -> None:
        """One more part of the phase is done."""
        phase, done, total = self._phase
        self._phase = (phase, done + 1, total)

    def watched(self, executor: Executor, search: SearchConfig) -> Executor:
        """The executor; its trials are followed, and each `map` of it is a phase, and an item a part."""
        return _Watched(executor, self, search)

    def view(self) -> View:
        """A look, from any thread."""
        now, ledger, search = self._clock(), self._ledger, self._search
        phase, done, total = self._phase
        phase = "stopping" if self._stop.requested else phase
        if ledger is None or search is None:
            return View(phase, done, total, elapsed=now - self._start)
        states = ledger.standing.states
        view = View(
            phase,
            done,
            total,
            search.searched_metric,
            search.protocol == "published",
            self._planned,
            states[TrialState.COMPLETE],
            states[TrialState.PRUNED],
            states[TrialState.FAIL],
            tuple((trial, now - trial.began) for trial in list(self._running.values())),
            self._best,
            now - self._start,
        )
        return replace(view, left=self._seconds_left(view, now)) if phase == "trials" else view

    def _seconds_left(self, view: View, now: float) -> float | None:
        if not self._durations:
            return None
        deadline = None if self._stop.deadline is None else self._stop.deadline - now
        return seconds_left(fmean(list(self._durations)), view.running, view.to_go, self._slots, deadline)

    def _take_best(self) -> None:
        assert self._ledger is not None
        best: FrozenTrial | None = self._ledger.standing.best
        if best is not None and (self._best is None or self._best[0] != best.number):
            self._best = (best.number, self._latest(best_report(reports_of(best))))

    def _latest(self, report: Report) -> Latest:
        assert self._search is not None
        prefix = metric_prefix(self._search.protocol)
        H, S, U = (report.metrics.get(f"{prefix}/{name}", float("nan")) for name in ("H", "S", "U"))
        return Latest(report.value, report.head, report.update, H, S, U)


def seconds_left(
    mean: float, running: Sequence[tuple[RunningNow, float]], to_go: int, slots: int, deadline: float | None = None
) -> float:
    """How long trials will still take, side by side.

    A trial that has yet to begin takes as long as ended ones did on average, pruned ones among them. A running one
    takes what is missing to that; beyond it, what its own pace says of its full budget.

    Args:
        mean: seconds of an ended trial.
        running: with the seconds spent on each.
        to_go: trials that have yet to begin.
        slots: trials at once.
        deadline: seconds until no more trial begins; None for never.
    """
    rest = [_rest(mean, trial, spent) for trial, spent in running]
    longest = max(rest, default=0.0)
    all_of_them = max((sum(rest) + to_go * mean) / max(min(slots, len(rest) + to_go), 1), longest)
    if deadline is None:
        return all_of_them
    return min(all_of_them, max(longest, deadline + mean if deadline > 0 and to_go else 0.0))


def _rest(mean: float, trial: RunningNow, spent: float) -> float:
    if spent < mean or trial.latest is None or trial.latest.update == 0:
        return max(mean - spent, 0.0)
    return spent * max(trial.updates - trial.latest.update, 0) / trial.latest.update


class _Watched:
    """See `Progress.watched`."""

    def __init__(self, executor: Executor, progress: Progress, search: SearchConfig) -> None:
        self._executor, self._progress, self._search = executor, progress, search

    @property
    def concurrency(self) -> int:
        """See `Executor`."""
        return self._executor.concurrency

    def run_trials(self, *queues: TrialQueue) -> None:
        """See `Executor.run_trials`; there is one queue, that of the search."""
        self._executor.run_trials(*(self._progress.follow(queue, self._search, self.concurrency) for queue in queues))

    def map(
        self,
        function: Callable[..., Any],
        items: Sequence[tuple[Any, ...]],
        stop: StopSignal,
        on_result: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        """See `Executor.map`."""
        self._progress.enter(PHASES.get(function, "working"), len(items))

        def counted(index: int, value: Any) -> None:
            self._progress.part_done()
            if on_result is not None:
                on_result(index, value)

        return self._executor.map(function, items, stop, counted)

    def share_gpus(self, gpus_per_trial: float) -> None:
        """See `Executor.share_gpus`."""
        self._executor.share_gpus(gpus_per_trial)

    def close(self) -> None:
        """See `Executor.close`."""
        self._executor.close()

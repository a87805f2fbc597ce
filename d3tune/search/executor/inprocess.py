"""The in-process executor: trials in this process, with the same ledger code, in real or in virtual time."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from d3tune.errors import D3TuneError
from d3tune.method.trainer import DivergedError
from d3tune.search.executor import StopSignal, TrialQueue
from d3tune.search.executor.turns import Turns
from d3tune.search.jobs import TrainingJob
from d3tune.search.reports import Report
from d3tune.search.study import Assignment
from d3tune.search.trial import RunningTrial


class Trial(Protocol):
    """What is run: `RunningTrial` trains, a recorded one only repeats what was measured."""

    @property
    def finished(self) -> bool:
        """Whether every report was handed out."""

    def next_report(self) -> Report:
        """The next evaluation; its ``seconds`` say when, since the trial began."""


Begin = Callable[[TrainingJob, Path, int, bool], Trial]


@dataclass(order=True)
class _Event:
    """A report, or a failure, at the virtual time at which it arrives."""

    time: float
    order: int
    queue: TrialQueue = field(compare=False)
    assignment: Assignment = field(compare=False)
    trial: Trial | None = field(compare=False)
    began: float = field(compare=False)
    result: Report | str = field(compare=False)


class InProcessExecutor:
    """Runs trials here; for tests, for simulations, and for machines that cannot run Ray.

    With several workers the trials are computed one after another, but their reports arrive in the order of virtual
    time, in which the workers run side by side and a report takes the seconds that it says.

    Attributes:
        clock: virtual seconds so far.
    """

    def __init__(self, begin: Begin | None = None, workers: int = 1) -> None:
        """Prepare; nothing is started.

        Args:
            begin: makes a trial of a job, its directory, the last known update, and whether to keep weights; None is
                `RunningTrial`.
            workers: trials at once in virtual time.
        """
        self._begin, self._workers = begin or RunningTrial, workers
        self.clock = 0.0
        self._order = 0

    @property
    def concurrency(self) -> int:
        """See `Executor.concurrency`."""
        return self._workers

    def run_trials(self, *queues: TrialQueue) -> None:
        """See `Executor.run_trials`."""
        events: list[_Event] = []
        turns = Turns(*queues)
        while True:
            self._fill(turns, events)
            if not events:
                return
            # after a stop too: what is computed is recorded
            event = heapq.heappop(events)
            self.clock = event.time
            self._take(event, events)

    def map(
        self,
        function: Callable[..., Any],
        items: Sequence[tuple[Any, ...]],
        stop: StopSignal,
        on_result: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        """See `Executor.map`."""
        results = []
        for index, item in enumerate(items):
            if stop.requested:
                raise KeyboardInterrupt
            results.append(function(*item))
            if on_result is not None:
                on_result(index, results[-1])
        return results

    def share_gpus(self, gpus_per_trial: float) -> None:
        """Nothing to share: one trial at a time is computed."""

    def close(self) -> None:
        """Nothing was started."""

    def _fill(self, turns: Turns, events: list[_Event]) -> None:
        """Give every free worker a trial."""
        while len(events) < self._workers:
            given = turns.next()
            if given is None:
                return
            queue, assignment = turns.queues[given[0]], given[1]
            self._advance(queue, assignment, None, self.clock - assignment.known_seconds, events)

    def _take(self, event: _Event, events: list[_Event]) -> None:
        queue, number = event.queue, event.assignment.number
        if isinstance(event.result, str):
            queue.ledger.fail(number, event.result)
            queue.end(number)
            return
        if queue.report(number, event.result):
            queue.end(number)
        elif event.trial is not None and event.trial.finished:
            queue.ledger.complete(number)
            queue.end(number)
        elif not queue.stop.requested:
            self._advance(queue, event.assignment, event.trial, event.began, events)

    def _advance(
        self, queue: TrialQueue, assignment: Assignment, trial: Trial | None, began: float, events: list[_Event]
    ) -> None:
        """Compute a trial's next report and put it where it belongs in time."""
        result: Report | str
        at = self.clock
        try:
            if trial is None:
                directory = queue.directory(assignment.number)
                trial = self._begin(
                    queue.job(assignment), directory, assignment.known_update, queue.keeper.keeps_weights
                )
            result = trial.next_report()
            at = max(at, began + result.seconds)
        except D3TuneError:
            # not the trial's fault: a disk that is full, a dataset that is gone
            raise
        except DivergedError as error:
            result = f"diverged: {error}"
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
        self._order += 1
        heapq.heappush(events, _Event(at, self._order, queue, assignment, trial, began, result))

"""The in-process executor: one trial after another, in this process, with the same ledger code."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from d3tune.method.trainer import DivergedError
from d3tune.search.executor import StopSignal, TrialQueue
from d3tune.search.study import Assignment
from d3tune.search.trial import RunningTrial


class InProcessExecutor:
    """Runs trials here and now; for tests and for machines that cannot run Ray."""

    def run_trials(self, queue: TrialQueue) -> None:
        """See `Executor.run_trials`."""
        while not queue.stop.requested:
            if queue.stop.deadline is not None and time.monotonic() > queue.stop.deadline:
                return
            assignment = queue.ledger.next_trial(queue.limit)
            if assignment is None:
                return
            if _run(assignment, queue):
                queue.end(assignment.number)

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

    def close(self) -> None:
        """Nothing was started."""


def _run(assignment: Assignment, queue: TrialQueue) -> bool:
    """Run one trial to its end; False where a stop was requested before."""
    number, ledger = assignment.number, queue.ledger
    trial: RunningTrial | None = None
    while trial is None or not trial.finished:
        if queue.stop.requested:
            return False
        try:
            trial = trial or RunningTrial(queue.job(assignment), queue.directory(number), assignment.known_update)
            report = trial.next_report()
        except DivergedError as error:
            ledger.fail(number, f"diverged: {error}")
            return True
        except Exception as error:
            ledger.fail(number, f"{type(error).__name__}: {error}")
            return True
        # outside the try: a study that cannot be written is no failure of the trial
        if ledger.report(number, report):
            return True
    ledger.complete(number)
    return True

"""Ray Tune's searcher, scheduler and stopper, each a thin bridge to the study, which decides."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from d3tune.errors import RunError
from d3tune.search.executor import StopSignal, TrialQueue
from d3tune.search.executor.environment import tune
from d3tune.search.reports import Report
from d3tune.search.study import Assignment

# how often Ray puts another worker in the place of one that died
WORKER_FAILURES = 2


class _Shell:
    """Stays in its process: Ray pickles what it is handed, and these hold the study."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Fatal:
    """What the search itself raised inside Ray, which takes every error for a trial's and goes on.

    The first one ends the search: `RayExecutor.run_trials` raises it once Ray has stopped.
    """

    def __init__(self, stop: StopSignal) -> None:
        self.error: BaseException | None = None
        self._stop = stop

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note what is raised in the block and end the search instead."""
        try:
            yield
        except BaseException as error:
            self.error = self.error or error
            self._stop.requested = True


class StudySearcher(_Shell, tune.search.Searcher):
    """Ray's searcher: trials come from the study, their ends go to it."""

    def __init__(self, queue: TrialQueue, fatal: Fatal) -> None:
        super().__init__()
        self._queue, self._fatal = queue, fatal
        self._numbers: dict[str, int] = {}

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """Metric, mode and space are the study's own."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration, or FINISHED."""
        queue = self._queue
        late = queue.stop.deadline is not None and time.monotonic() > queue.stop.deadline
        if late or queue.stop.requested:
            return tune.search.Searcher.FINISHED
        with self._fatal.noted():
            assignment = queue.ledger.next_trial(queue.limit)
            if assignment is not None:
                self._numbers[trial_id] = assignment.number
                return {"number": assignment.number, "assignment": json.dumps(self._payload(assignment))}
        return tune.search.Searcher.FINISHED

    def _payload(self, assignment: Assignment) -> dict[str, Any]:
        """What `TrialActor` gets."""
        queue = self._queue
        return {
            "job": queue.job(assignment).to_dict(),
            "directory": str(queue.directory(assignment.number)),
            "known_update": assignment.known_update,
            "keep_weights": queue.keeper.keeps_weights,
            "timeout": queue.trial_timeout,
        }

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study how the trial ended; a trial stopped by the pruner has been told already."""
        number = self._numbers.get(trial_id)
        # in a search that is being stopped a lost worker is no trial's fault: it goes on with the resumed search
        if number is None or (error and self._queue.stop.requested):
            return
        with self._fatal.noted():
            self._end(number, result, error)

    def _end(self, number: int, result: dict[str, Any] | None, error: bool) -> None:
        queue = self._queue
        if error:
            queue.ledger.fail(number, f"its worker process died {WORKER_FAILURES + 1} times")
        elif result is not None and "fatal" in result:
            raise RunError(result["fatal"])
        elif result is not None and "failure" in result:
            queue.ledger.fail(number, result["failure"])
        elif result is not None and "report" in result:
            # of a full budget this is the last report; of a pruned trial the study has it and ignores it
            queue.report(number, Report.from_dict(json.loads(result["report"])))
            queue.ledger.complete(number)
        if number not in queue.ledger.running:
            queue.end(number)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


class StudyPruner(_Shell, tune.schedulers.FIFOScheduler):
    """Ray's scheduler: reports go to the study, whose pruner says which trial stops."""

    def __init__(self, queue: TrialQueue, fatal: Fatal) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._queue, self._fatal = queue, fatal

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Record an evaluation that is not the last one."""
        stop = False
        with self._fatal.noted():
            stop = self._queue.report(trial.config["number"], Report.from_dict(json.loads(result["report"])))
        decision: str = tune.schedulers.TrialScheduler.STOP if stop else tune.schedulers.TrialScheduler.CONTINUE
        return decision


class Drain(_Shell, tune.Stopper):
    """Ends all trials once a stop is requested; their checkpoints are on disk already."""

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial ends for its result here."""
        return False

    def stop_all(self) -> bool:
        """Whether the search shall end."""
        return self._stop.requested

"""Ray Tune's searcher, scheduler and stopper, each a thin bridge to the study, which decides."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from d3tune.errors import RunError
from d3tune.search.executor import StopSignal, TrialQueue
from d3tune.search.executor.environment import tune
from d3tune.search.executor.turns import Turns
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

    The first one ends the searches: `RayExecutor.run_trials` raises it once Ray has stopped.
    """

    def __init__(self, *stops: StopSignal) -> None:
        self.error: BaseException | None = None
        self._stops = stops

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note what is raised in the block and end the search instead."""
        try:
            yield
        except BaseException as error:
            self.error = self.error or error
            for stop in self._stops:
                stop.requested = True


class StudySearcher(_Shell, tune.search.Searcher):
    """Ray's searcher: trials come from the study, their ends go to it."""

    def __init__(
        self,
        turns: Turns,
        fatal: Fatal,
        gpu_share: float = 0.0,
        order: str = "",
        room: Callable[[], int] | None = None,
        suspect: Callable[[], None] = lambda: None,
    ) -> None:
        """Take what the executor knows.

        Args:
            turns: gives trials.
            fatal: takes what the search itself raises.
            gpu_share: of a trial.
            order: see `d3tune.search.executor.nodes.Nodes`.
            room: how many trials there are places for; None for no limit.
            suspect: called before a trial counts as failed for its worker; raises where a machine is to blame.
        """
        super().__init__()
        self._suspect = suspect
        self._room, self._live = room, set[str]()
        self._turns, self._fatal, self._gpu_share = turns, fatal, gpu_share
        # the same for all of them
        self._common = {"gpu_share": gpu_share, "order": order}
        self._given: dict[str, tuple[TrialQueue, int]] = {}

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """Metric, mode and space are the study's own."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration, None where there is no room for it now, or FINISHED."""
        if self._turns.over:
            return tune.search.Searcher.FINISHED
        if self._room is not None and len(self._live) >= self._room():
            return None
        with self._fatal.noted():
            given = self._turns.next()
            if given is not None:
                place, assignment = given
                queue = self._turns.queues[place]
                self._given[trial_id] = (queue, assignment.number)
                self._live.add(trial_id)
                payload = json.dumps({**_payload(queue, assignment), **self._common})
                return {"place": place, "number": assignment.number, "assignment": payload}
        return tune.search.Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study how the trial ended; a trial stopped by the pruner has been told already."""
        self._live.discard(trial_id)
        queue, number = self._given.get(trial_id, (None, 0))
        # in a search that is being stopped a lost worker is no trial's fault: it goes on with the resumed search
        if queue is None or (error and queue.stop.requested):
            return
        with self._fatal.noted():
            self._end(queue, number, result, error)

    def _end(self, queue: TrialQueue, number: int, result: dict[str, Any] | None, error: bool) -> None:
        if error:
            self._suspect()
            if queue.stop.requested:
                # by what was found
                return
            queue.ledger.fail(number, f"its worker process died {WORKER_FAILURES + 1} times")
        elif result is not None and "fatal" in result:
            raise RunError(result["fatal"])
        elif result is not None and "crowded" in result:
            queue.pause(number, f"out of GPU memory at a share of {self._gpu_share:.2g}; it goes on alone")
            return
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

    def __init__(self, turns: Turns, fatal: Fatal) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._turns, self._fatal = turns, fatal

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Record an evaluation that is not the last one."""
        stop = False
        with self._fatal.noted():
            queue = self._turns.queues[trial.config["place"]]
            stop = queue.report(trial.config["number"], Report.from_dict(json.loads(result["report"])))
        decision: str = tune.schedulers.TrialScheduler.STOP if stop else tune.schedulers.TrialScheduler.CONTINUE
        return decision


class Drain(_Shell, tune.Stopper):
    """Ends all trials once a stop is requested; their checkpoints are on disk already."""

    def __init__(self, *stops: StopSignal) -> None:
        self._stops = stops

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial ends for its result here."""
        return False

    def stop_all(self) -> bool:
        """Whether the search shall end."""
        return any(stop.requested for stop in self._stops)


def _payload(queue: TrialQueue, assignment: Assignment) -> dict[str, Any]:
    """What `TrialActor` gets."""
    return {
        "job": queue.job(assignment).to_dict(),
        "directory": str(queue.directory(assignment.number)),
        "known_update": assignment.known_update,
        "keep_weights": queue.keeper.keeps_weights,
        "timeout": queue.trial_timeout,
    }

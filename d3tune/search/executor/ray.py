"""The Ray executor: Ray Tune places trials on cores and GPUs, here or on a cluster; the study decides."""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from d3tune.config import Resources
from d3tune.errors import D3TuneError, RunError, UsageError
from d3tune.method.trainer import DivergedError
from d3tune.search.executor import StopSignal, TrialQueue, messages, watchdog
from d3tune.search.executor.lifeline import Lifeline
from d3tune.search.executor.processes import end_with_parent
from d3tune.search.executor.temporary import TemporaryFolder
from d3tune.search.jobs import TrainingJob
from d3tune.search.reports import Report
from d3tune.search.trial import RunningTrial

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # the study and MLflow are the record; Ray's loggers would write everything a second time
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
}
for _key, _value in ENVIRONMENT.items():
    os.environ.setdefault(_key, _value)

# Ray reads the environment when it is imported
import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray.tune.schedulers import FIFOScheduler, TrialScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

OBJECT_STORE_BYTES = 200_000_000
WORKER_FAILURES = 2
POLL_SECONDS = 0.5


class TrialActor(tune.Trainable):
    """A worker process: one trial after another, an evaluation a step."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take a trial; the training is built in the first step, where an error becomes a result."""
        # one that outlived a killed search would write its checkpoints beside its successor's
        end_with_parent()
        self._assignment = json.loads(config["assignment"])
        self._directory = Path(self._assignment["directory"])
        self._trial: RunningTrial | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial in the same process: imports are paid once."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next evaluation; a failure ends the trial, not the process."""
        timeout = self._assignment["timeout"]
        try:
            hung = watchdog.found(self._directory, timeout)
            if hung is not None:
                return {"failure": hung, "done": True}
            with watchdog.watched(self._directory, timeout):
                if self._trial is None:
                    self._trial = self._begin()
                report = self._trial.next_report()
        except D3TuneError as error:
            return {"fatal": str(error), "done": True}
        except DivergedError as error:
            return {"failure": f"diverged: {error}", "done": True}
        except Exception as error:
            return {"failure": f"{type(error).__name__}: {error}", "done": True}
        return {"report": json.dumps(report.to_dict()), "done": self._trial.finished}

    def _begin(self) -> RunningTrial:
        assignment = self._assignment
        job = TrainingJob.from_dict(assignment["job"])
        return RunningTrial(job, self._directory, assignment["known_update"], assignment["keep_weights"])

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """The trial's own directory has its checkpoints; Ray keeps none."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See `save_checkpoint`."""


class _Shell:
    """Stays in its process: Ray pickles what it is handed, and these hold the study."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Fatal:
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


class StudySearcher(_Shell, Searcher):
    """Ray's searcher: trials come from the study, their ends go to it."""

    def __init__(self, queue: TrialQueue, fatal: _Fatal) -> None:
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
        assignment = None
        if not late and not queue.stop.requested:
            with self._fatal.noted():
                assignment = queue.ledger.next_trial(queue.limit)
        if assignment is None:
            return Searcher.FINISHED
        self._numbers[trial_id] = assignment.number
        payload = {
            "job": queue.job(assignment).to_dict(),
            "directory": str(queue.directory(assignment.number)),
            "known_update": assignment.known_update,
            "keep_weights": queue.keeper.keeps_weights,
            "timeout": queue.trial_timeout,
        }
        return {"number": assignment.number, "assignment": json.dumps(payload)}

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


class StudyPruner(_Shell, FIFOScheduler):
    """Ray's scheduler: reports go to the study, whose pruner says which trial stops."""

    def __init__(self, queue: TrialQueue, fatal: _Fatal) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._queue, self._fatal = queue, fatal

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Record an evaluation that is not the last one."""
        stop = False
        with self._fatal.noted():
            stop = self._queue.report(trial.config["number"], Report.from_dict(json.loads(result["report"])))
        decision: str = TrialScheduler.STOP if stop else TrialScheduler.CONTINUE
        return decision


class _Drain(_Shell, tune.Stopper):
    """Ends all trials once a stop is requested; their checkpoints are on disk already."""

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._stop.requested


class RayExecutor:
    """Runs trials with Ray Tune, in a private Ray of this process or on a cluster that is named."""

    def __init__(self, resources: Resources, log_file: Path, num_gpus: int | None = None) -> None:
        """Start or join Ray.

        Args:
            resources: what a trial gets, how many at once, which cluster.
            log_file: where Ray's own messages go.
            num_gpus: logical GPUs of a private Ray; None detects the real ones.

        Raises:
            UsageError: a trial can never fit.
            D3TuneError: the cluster cannot be reached.
        """
        self._resources, self._log_file = resources, log_file
        self._lifeline: Lifeline | None = None
        self._temporary = TemporaryFolder()
        messages.send_to(log_file)
        # Ray puts handlers of its own in place, which end the process where ours would drain it
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._start(num_gpus)
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():
                    signal.signal(number, handler)
            self._lifeline = Lifeline(("raylet", "gcs_server"), self._abandon)
            self.concurrency = self._fitting()
        except BaseException:
            self.close()
            raise

    def run_trials(self, queue: TrialQueue) -> None:
        """See `Executor.run_trials`."""
        self._watch_for(queue.stop)
        fatal = _Fatal(queue.stop)
        tuner = tune.Tuner(
            tune.with_resources(TrialActor, self._request()),
            tune_config=tune.TuneConfig(
                search_alg=StudySearcher(queue, fatal),
                scheduler=StudyPruner(queue, fatal),
                num_samples=-1,
                max_concurrent_trials=self.concurrency,
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(self._temporary.path / "results"),
                failure_config=tune.FailureConfig(max_failures=WORKER_FAILURES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                stop=_Drain(queue.stop),
                verbose=0,
            ),
        )
        tuner.fit()
        if fatal.error is not None:
            raise fatal.error

    def map(
        self,
        function: Callable[..., Any],
        items: Sequence[tuple[Any, ...]],
        stop: StopSignal,
        on_result: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        """See `Executor.map`."""
        resources = self._resources
        self._watch_for(stop)
        remote = ray.remote(num_cpus=resources.cpus_per_trial, num_gpus=resources.gpus_per_trial, max_retries=2)(_call)
        results: dict[int, Any] = {}
        todo = list(enumerate(items))
        running: dict[Any, int] = {}
        while todo or running:
            while todo and len(running) < self.concurrency:
                index, item = todo.pop(0)
                running[remote.remote(function, *item)] = index
            if stop.requested:
                for reference in running:
                    ray.cancel(reference, force=True)
                raise KeyboardInterrupt
            ready, _ = ray.wait(list(running), timeout=POLL_SECONDS)
            for reference in ready:
                index = running.pop(reference)
                results[index] = _result(reference)
                if on_result is not None:
                    on_result(index, results[index])
        return [results[index] for index in range(len(items))]

    def close(self) -> None:
        """Leave the cluster, or end the private Ray, and remove its files.

        Raises:
            D3TuneError: Ray had ended by itself.
        """
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:
            lifeline.release()
        ray.shutdown()
        self._temporary.close()
        if lifeline is not None:
            lifeline.close()
            if lifeline.lost:
                raise D3TuneError(self._lost(lifeline.lost))

    def _watch_for(self, stop: StopSignal) -> None:
        if self._lifeline is not None:
            self._lifeline.stop = stop

    def _abandon(self, lost: str) -> None:
        self._temporary.close()
        print(f"d3tune: {self._lost(lost)}", file=sys.stderr, flush=True)  # noqa: T201

    def _lost(self, lost: str) -> str:
        return f"Ray's {lost} ended unexpectedly (see {self._log_file}); nothing recorded is lost: resume the run"

    def _start(self, num_gpus: int | None) -> None:
        common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
        if self._resources.address is not None:
            try:
                ray.init(address=self._resources.address, **common)
            except (ConnectionError, ValueError, RuntimeError) as error:
                reason = " ".join(str(error).split())[:200]
                raise D3TuneError(f"--address {self._resources.address}: no Ray cluster there: {reason}") from None
            return
        try:
            ray.init(
                address="local",
                num_gpus=num_gpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=str(self._temporary.path / "ray"),
                _node_ip_address="127.0.0.1",
                **common,
            )
        except Exception as error:
            # Ray raises bare exceptions where one of its processes does not come up
            reason = " ".join(str(error).split())[:200]
            raise D3TuneError(f"Ray did not start: {reason}; try again, or --executor local") from None

    def _request(self) -> dict[str, float]:
        return {"cpu": self._resources.cpus_per_trial, "gpu": self._resources.gpus_per_trial}

    def _fitting(self) -> int:
        """How many trials fit at once, node by node.

        Raises:
            UsageError: none does; the message names the resource.
        """
        fits = 0
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        for node in nodes:
            shares = [
                int(node.get(name.upper(), 0) / amount + 1e-9) for name, amount in self._request().items() if amount > 0
            ]
            fits += min(shares)
        if fits == 0:
            for name, amount in self._request().items():
                most = max((node.get(name.upper(), 0) for node in nodes), default=0)
                if amount > most:
                    raise UsageError(
                        f"--{name}s-per-trial {amount:g}: no node has more than {most:g} {name.upper()}s; ask for less"
                    )
            raise UsageError("no node has the CPUs and GPUs that one trial asks for; ask for less")
        return min(fits, self._resources.concurrency or fits)


def _call(function: Callable[..., Any], *item: Any) -> Any:
    """What `RayExecutor.map` runs in a worker."""
    end_with_parent()
    return function(*item)


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise D3TuneError(f"a worker was lost: {' '.join(str(error).split())[:200]}") from None


def _trial_name(trial: Any) -> str:
    return f"trial-{trial.config['number']:05d}-{trial.trial_id}"

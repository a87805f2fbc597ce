"""The Ray executor: Ray Tune places trials on cores and GPUs, here or on a cluster; the study decides."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from d3tune.config import Resources
from d3tune.errors import D3TuneError, UsageError
from d3tune.search.executor import StopSignal, TrialQueue, messages
from d3tune.search.executor.apart import ray_apart
from d3tune.search.executor.bridge import WORKER_FAILURES, Drain, Fatal, StudyPruner, StudySearcher
from d3tune.search.executor.ending import before_end
from d3tune.search.executor.environment import ray, tune
from d3tune.search.executor.lastwords import last_words
from d3tune.search.executor.lifeline import Lifeline
from d3tune.search.executor.processes import descendants, kill
from d3tune.search.executor.temporary import TemporaryFolder
from d3tune.search.executor.worker import TrialActor, call

OBJECT_STORE_BYTES = 200_000_000
POLL_SECONDS = 0.5
NOTHING_LOST = "nothing recorded is lost: resume the run"


class RayExecutor:
    """Runs trials with Ray Tune, in a private Ray of this process or on a cluster that is named."""

    def __init__(
        self, resources: Resources, log_file: Path, num_gpus: int | None = None, stop: StopSignal | None = None
    ) -> None:
        """Start or join Ray.

        Args:
            resources: what a trial gets, how many at once, which cluster.
            log_file: where Ray's own messages go.
            num_gpus: logical GPUs of a private Ray; None detects the real ones.
            stop: of the search, which may be told to stop while Ray starts.

        Raises:
            UsageError: a trial can never fit.
            D3TuneError: the cluster cannot be reached.
        """
        self._resources, self._log_file = resources, log_file
        self._stop = stop or StopSignal()
        self._not_ours = descendants(os.getpid())
        self._lifeline: Lifeline | None = None
        self._temporary = TemporaryFolder()
        messages.send_to(log_file)
        # Ray puts handlers of its own in place, which end the process where ours would drain it
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with last_words(f"d3tune: {self._unstarted()}"), ray_apart():
                self._start(num_gpus)
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():
                    signal.signal(number, handler)
            # a cluster's programs are not this process's to watch
            if resources.address is None:
                self._lifeline = Lifeline(("raylet", "gcs_server"), self._abandon)
            self.concurrency = self._fitting()
        except BaseException:
            self.close()
            raise

    def run_trials(self, queue: TrialQueue) -> None:
        """See `Executor.run_trials`."""
        self._watch_for(queue.stop)
        fatal = Fatal(queue.stop)
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
                stop=Drain(queue.stop),
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
        remote = ray.remote(num_cpus=resources.cpus_per_trial, num_gpus=resources.gpus_per_trial, max_retries=2)(call)
        results: dict[int, Any] = {}
        todo = list(enumerate(items))
        running: dict[Any, int] = {}
        while todo or running:
            while todo and len(running) < self.concurrency:
                index, item = todo.pop(0)
                running[remote.remote(function, *item)] = index
            if stop.requested:
                _cancel(running)
                raise KeyboardInterrupt
            ready, _ = ray.wait(list(running), timeout=POLL_SECONDS)
            for reference in ready:
                index = running.pop(reference)
                try:
                    results[index] = _result(reference)
                except BaseException:
                    # the caller may go on with this Ray
                    _cancel(running)
                    raise
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
            if lifeline.lost:
                # its interrupt came after its own request to stop, like a user's second one
                self._stop.at_once = False
        try:
            if not self._ends_at_once:
                ray.shutdown()
        finally:
            # told so before, or while Ray was ending
            if self._ends_at_once:
                self._end_at_once()
            else:
                self._temporary.close()
        if lifeline is not None:
            lifeline.close()
            if lifeline.lost:
                raise D3TuneError(self._lost(lifeline.lost))

    @property
    def _ends_at_once(self) -> bool:
        """Whether a private Ray is killed instead of told to end, which takes seconds."""
        return self._stop.at_once and self._resources.address is None

    def _end_at_once(self) -> None:
        """Kill the workers now and the rest with this process, where what is freed may ask Ray until then."""
        ours = {pid: command for pid, command in descendants(os.getpid()).items() if pid not in self._not_ours}
        kill(pid for pid, command in ours.items() if command.startswith("ray::"))
        before_end(lambda: kill(descendants(os.getpid()).keys() - self._not_ours.keys()))
        before_end(self._temporary.close)

    def _watch_for(self, stop: StopSignal) -> None:
        self._stop = stop
        if self._lifeline is not None:
            self._lifeline.stop = stop

    def _abandon(self, lost: str) -> None:
        self._temporary.close()
        print(f"d3tune: {self._lost(lost)}", file=sys.stderr, flush=True)  # noqa: T201

    def _unstarted(self) -> str:
        return f"Ray did not start: this process was ended while it connected (see {self._log_file}); {NOTHING_LOST}"

    def _lost(self, lost: str) -> str:
        return f"Ray's {lost} ended unexpectedly (see {self._log_file}); {NOTHING_LOST}"

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


def _cancel(references: Iterable[Any]) -> None:
    for reference in references:
        ray.cancel(reference, force=True)


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise D3TuneError(f"a worker was lost: {' '.join(str(error).split())[:200]}") from None


def _trial_name(trial: Any) -> str:
    return f"trial-{trial.config['number']:05d}-{trial.trial_id}"

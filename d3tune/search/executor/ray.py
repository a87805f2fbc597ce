"""The Ray executor: Ray Tune places trials on cores and GPUs, here or on a cluster; the study decides."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

from d3tune.config import Resources
from d3tune.errors import D3TuneError, UsageError
from d3tune.search.executor import StopSignal, TrialQueue, messages
from d3tune.search.executor.apart import on_loopback, ray_apart
from d3tune.search.executor.bridge import WORKER_FAILURES, Drain, Fatal, StudyPruner, StudySearcher
from d3tune.search.executor.ending import before_end
from d3tune.search.executor.environment import ray, tune
from d3tune.search.executor.lastwords import last_words
from d3tune.search.executor.lifeline import Lifeline, children, server
from d3tune.search.executor.machines import watched
from d3tune.search.executor.nodes import Nodes, recounted
from d3tune.search.executor.processes import descendants, kill
from d3tune.search.executor.site import Site
from d3tune.search.executor.temporary import TemporaryFolder
from d3tune.search.executor.turns import Turns
from d3tune.search.executor.worker import Crowded, TrialActor, call

OBJECT_STORE_BYTES = 200_000_000
POLL_SECONDS = 0.5
# reports wait meanwhile
SUSPECT_SECONDS = 60.0
# of a GPU, of a training that runs alone there
WHOLE = 1.0
NOTHING_LOST = "nothing recorded is lost: resume the run"
HEAD = "head node"
ENDED = f"this process was ended, perhaps because Ray's {HEAD} was; {NOTHING_LOST}"


class RayExecutor:
    """Runs trials with Ray Tune, in a private Ray of this process or on a cluster that is named."""

    def __init__(
        self,
        resources: Resources,
        log_file: Path,
        num_gpus: int | None = None,
        stop: StopSignal | None = None,
        sites: Sequence[Site] = (),
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Start or join Ray.

        Args:
            resources: what a trial gets, how many at once, which cluster.
            log_file: where Ray's own messages go.
            num_gpus: logical GPUs of a private Ray; None detects the real ones.
            stop: of the search, which may be told to stop while Ray starts.
            sites: of the searches; every node of a cluster is looked at for them.
            say: takes one line where a cluster has no machine left that could train.

        Raises:
            UsageError: a trial can never fit, or a node of the cluster lacks something.
            D3TuneError: the cluster cannot be reached.
        """
        self._resources, self._log_file = resources, log_file
        self._stop, self._say = stop or StopSignal(), say
        self._not_ours = descendants(os.getpid())
        self._lifeline: Lifeline | None = None
        self._order = ""
        self._nodes: Nodes | None = None
        self._places_taken = _Taken()
        self._ending = ExitStack()
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
            self._lifeline = Lifeline(self._vital(), self._abandon)
            self._lifeline.stop = self._stop
            self.concurrency = self._fitting(resources.gpus_per_trial)
            if resources.address is not None:
                # Ray ends this process, past every handler, a minute after its head is gone
                self._ending.enter_context(last_words(f"d3tune: {ENDED}"))
                self._nodes = Nodes(sites)
                self._order = self._nodes.order
        except BaseException:
            self.close()
            raise

    def run_trials(self, *queues: TrialQueue) -> None:
        """See `Executor.run_trials`; trials that ran out of a shared GPU's memory go on alone after the others."""
        self._watch_for(queues[0].stop)
        self._run_trials(queues, self._resources.gpus_per_trial, "tune")
        crowded = [queue for queue in queues if not queue.stop.requested and queue.ledger.recall()]
        if crowded:
            self._run_trials(crowded, WHOLE, "alone")

    def _run_trials(self, queues: Sequence[TrialQueue], gpus: float, name: str) -> None:
        stops = [queue.stop for queue in queues]
        turns, fatal = Turns(*queues), Fatal(*stops)
        tuner = tune.Tuner(
            tune.with_resources(TrialActor, self._request(gpus)),
            tune_config=tune.TuneConfig(
                search_alg=StudySearcher(turns, fatal, gpus, self._order, self._room(gpus), self._suspect),
                scheduler=StudyPruner(turns, fatal),
                num_samples=-1,
                # of a cluster the room is counted again as nodes come and go
                max_concurrent_trials=self._at_once(gpus) if self._resources.address is None else None,
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(self._temporary.path / "results"),
                failure_config=tune.FailureConfig(max_failures=WORKER_FAILURES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                stop=Drain(*stops),
                verbose=0,
            ),
        )
        with self._watched(gpus, fatal):
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
        """See `Executor.map`; what ran out of a shared GPU's memory is called again, alone, after the others."""
        self._watch_for(stop)
        results: dict[int, Any] = {}

        def keep(index: int, result: Any) -> None:
            results[index] = result
            if on_result is not None:
                on_result(index, result)

        share = self._resources.gpus_per_trial
        with self._watched(share):
            crowded = self._call(function, dict(enumerate(items)), share, stop, keep)
            if crowded:
                self._call(function, crowded, WHOLE, stop, keep)
        return [results[index] for index in range(len(items))]

    def share_gpus(self, gpus_per_trial: float) -> None:
        """See `Executor.share_gpus`.

        Raises:
            UsageError: a trial can never fit.
        """
        self._resources = self._resources.model_copy(update={"gpus_per_trial": gpus_per_trial})
        self.concurrency = self._fitting(gpus_per_trial)

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
            self._ending.close()
            # told so before, or while Ray was ending
            if self._ends_at_once:
                self._end_at_once()
            else:
                self._temporary.close()
        if lifeline is not None:
            lifeline.close()
            if lifeline.lost:
                raise D3TuneError(self._lost(lifeline.lost))

    def _call(
        self,
        function: Callable[..., Any],
        items: Mapping[int, tuple[Any, ...]],
        gpus: float,
        stop: StopSignal,
        keep: Callable[[int, Any], None],
    ) -> dict[int, tuple[Any, ...]]:
        """Call for every item; returns those that ran out of memory on a GPU that they shared."""
        remote = ray.remote(num_cpus=self._resources.cpus_per_trial, num_gpus=gpus, max_retries=2)(call)
        room, todo, crowded = self._room(gpus), list(items), dict[int, tuple[Any, ...]]()
        running: dict[Any, int] = {}
        try:
            while todo or running:
                while todo and self._places_taken.take(room()):
                    index = todo.pop(0)
                    try:
                        running[remote.remote(self._order, gpus, function, *items[index])] = index
                    except BaseException:
                        self._places_taken.give_back(1)
                        raise
                if stop.requested:
                    raise KeyboardInterrupt
                for reference in _ended(running):
                    index = running.pop(reference)
                    self._places_taken.give_back(1)
                    result = _result(reference)
                    if isinstance(result, Crowded):
                        crowded[index] = items[index]
                    else:
                        keep(index, result)
        finally:
            # what goes wrong is the caller's, who may go on with this Ray
            _cancel(running)
            self._places_taken.give_back(len(running))
        return crowded

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

    def _vital(self) -> Callable[[], str]:
        """What this process cannot go on without: its own Ray, or the head of the cluster."""
        if self._resources.address is None:
            return children(("raylet", "gcs_server"))
        return server(ray.get_runtime_context().gcs_address, HEAD)

    def _watch_for(self, stop: StopSignal) -> None:
        self._stop = stop
        if self._lifeline is not None:
            self._lifeline.stop = stop

    def _abandon(self, lost: str) -> None:
        self._ending.close()
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
            except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
                reason = " ".join(str(error).split())[:200]
                raise D3TuneError(f"--address {self._resources.address}: no Ray cluster there: {reason}") from None
            return
        try:
            with on_loopback():
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

    def _request(self, gpus: float) -> dict[str, float]:
        return {"cpu": self._resources.cpus_per_trial, "gpu": gpus}

    def _at_once(self, gpus: float) -> int:
        """As many as there were places for at the start; alone as many as there are whole GPUs for."""
        return self.concurrency if gpus == self._resources.gpus_per_trial else self._fitting(gpus)

    def _room(self, gpus: float) -> Callable[[], int]:
        """How many trials there are places for, at any moment."""
        if self._resources.address is not None:
            return recounted(lambda: self._places(gpus), self._resources.concurrency)
        most = self._at_once(gpus)
        return lambda: most

    def _suspect(self) -> None:
        """Look at machines that joined since, where a worker was lost too often: one may be unable to train at all."""
        end = time.monotonic() + SUSPECT_SECONDS
        if self._nodes is not None:
            self._nodes.look_at_new(lambda: time.monotonic() > end)

    def _watched(self, gpus: float, fatal: Fatal | None = None) -> AbstractContextManager[None]:
        """The machines of a cluster, for as long as there is something to be done: see `machines`."""
        if self._resources.address is None:
            return nullcontext()

        def look(over: Callable[[], bool]) -> None:
            if fatal is not None and self._nodes is not None:
                try:
                    self._nodes.look_at_new(over)
                except UsageError:
                    with fatal.noted():
                        raise

        return watched(lambda: self._places(gpus), self._stop, self._say, look)

    def _places(self, gpus: float) -> int:
        """How many trials fit at once, node by node, each with so much of a GPU."""
        wanted = [(name, amount) for name, amount in self._request(gpus).items() if amount > 0]
        return sum(min(int(node.get(name.upper(), 0) / amount + 1e-9) for name, amount in wanted) for node in _alive())

    def _fitting(self, gpus: float) -> int:
        """How many trials run at once.

        Raises:
            UsageError: none fits; the message names the resource.
        """
        fits = self._places(gpus)
        if fits == 0:
            for name, amount in self._request(gpus).items():
                most = max((node.get(name.upper(), 0) for node in _alive()), default=0)
                if amount > most:
                    raise UsageError(
                        f"--{name}s-per-trial {amount:g}: no node has more than {most:g} {name.upper()}s; ask for less"
                    )
            raise UsageError("no node has the CPUs and GPUs that one trial asks for; ask for less")
        return min(fits, self._resources.concurrency or fits)


def _alive() -> list[dict[str, float]]:
    """The resources of each node."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


class _Taken:
    """How many calls run, of all threads that share an executor."""

    def __init__(self) -> None:
        self._lock, self._count = threading.Lock(), 0

    def take(self, room: int) -> bool:
        with self._lock:
            if self._count >= room:
                return False
            self._count += 1
            return True

    def give_back(self, count: int) -> None:
        with self._lock:
            self._count -= count


def _ended(running: Mapping[Any, int]) -> list[Any]:
    """Which of some calls have ended, after a while where none has."""
    if not running:
        time.sleep(POLL_SECONDS)
        return []
    ready, _ = ray.wait(list(running), timeout=POLL_SECONDS)
    return list(ready)


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

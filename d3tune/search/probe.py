"""What training a configuration costs on this machine, measured by a few seconds of it in a process of its own."""

import json
import multiprocessing
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from d3tune.config import metric_prefix
from d3tune.errors import D3TuneError
from d3tune.search.checkpoint import Checkpoint, save_checkpoint, save_weights
from d3tune.search.executor.processes import end_with_parent
from d3tune.search.jobs import TrainingJob
from d3tune.search.reports import make_report

LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Probe:
    """What was measured.

    Attributes:
        setup_seconds: until the first update: data, models, and what is trained before, e.g. a teacher.
        update_seconds: of one update of every split, the first one left out where there were more.
        updates: how many were timed.
        evaluation_seconds: of one evaluation of every split, all heads.
        memory_bytes: the most unique memory (USS) that the process had, libraries included; the resident set where the
            system does not tell.
        gpu_bytes: the most that torch held of a GPU; 0 on a CPU.
        checkpoint_bytes: of one checkpoint on disk.
        weights_bytes: of kept weights on disk.
        report_bytes: of one report as JSON.
    """

    setup_seconds: float
    update_seconds: float
    updates: int
    evaluation_seconds: float
    memory_bytes: int
    gpu_bytes: int
    checkpoint_bytes: int
    weights_bytes: int
    report_bytes: int


def probe(job: TrainingJob, directory: Path, seconds: float) -> Probe:
    """Train a configuration for a while, evaluate it once, and throw it away.

    Args:
        job: the configuration, on the protocol that selects.
        directory: an empty one, for checkpoints.
        seconds: of updates.

    Raises:
        D3TuneError: the training fails, or its process is killed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(job.to_dict(), str(directory), seconds, sender), daemon=True)
    process.start()
    sender.close()
    try:
        measured, failure = receiver.recv()
    except EOFError:
        process.join()
        raise D3TuneError(
            f"the first configuration cannot be trained here: its process ended with {process.exitcode} "
            "(-9 is killed, perhaps for memory)"
        ) from None
    finally:
        receiver.close()
        process.kill()
        process.join()
    if measured is None:
        raise D3TuneError(f"the first configuration cannot be trained here: {failure}")
    return Probe(**measured)


def _run(job: dict[str, Any], directory: str, seconds: float, sender: Connection) -> None:
    """What the process does; Ctrl-C reaches its parent, which ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    try:
        sender.send((asdict(probe_here(TrainingJob.from_dict(job), Path(directory), seconds)), ""))
    except Exception as error:
        sender.send((None, " ".join(f"{type(error).__name__}: {error}".split())))


def probe_here(job: TrainingJob, directory: Path, seconds: float) -> Probe:
    """`probe` in this process; whatever the training raises is raised.

    Args:
        job: see `probe`.
        directory: see `probe`.
        seconds: see `probe`; one update is made at 0, more than one above.
    """
    with _most_memory() as most:
        started = time.perf_counter()
        trainings = job.selecting_trainings()
        setup = _now() - started
        times: list[float] = []
        while not times or (sum(times[1:]) < seconds and len(times) < trainings[0].config.updates):
            begun = _now()
            for training in trainings:
                training.advance(len(times) + 1)
            times.append(_now() - begun)
        timed = times[1:] or times
        begun = _now()
        evaluations = [training.evaluate() for training in trainings]
        evaluating = _now() - begun
    report = make_report(evaluations, job.objective, setup + sum(times), metric_prefix(job.protocol))
    tensors = {f"{i}/{name}": tensor for i, one in enumerate(trainings) for name, tensor in one.state_dict().items()}
    state = Checkpoint(len(times), tensors, [report.to_dict()])
    save_checkpoint(directory, state)
    checkpoint_bytes = _size(directory)
    save_weights(directory, state)
    return Probe(
        setup_seconds=setup,
        update_seconds=sum(timed) / len(timed),
        updates=len(timed),
        evaluation_seconds=evaluating,
        memory_bytes=most[0],
        gpu_bytes=_gpu_bytes(),
        checkpoint_bytes=checkpoint_bytes,
        weights_bytes=_size(directory) - checkpoint_bytes,
        report_bytes=len(json.dumps(report.to_dict())),
    )


def _now() -> float:
    """The clock, once a GPU has done what it was given."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return time.perf_counter()


def _gpu_bytes() -> int:
    import torch

    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.cuda.max_memory_reserved() if used else 0


@contextmanager
def _most_memory() -> Iterator[list[int]]:
    """A list of one number: the most memory that this process was seen to have in the block."""
    most, end = [_memory()], threading.Event()

    def watch() -> None:
        while not end.wait(LOOK_SECONDS):
            most[0] = max(most[0], _memory())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        end.set()
        thread.join()
        most[0] = max(most[0], _memory())


def _memory() -> int:
    """Bytes that are this process's alone; the largest resident set where there is no ``smaps_rollup``."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())

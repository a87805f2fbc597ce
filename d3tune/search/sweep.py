"""Several searches as one: a cell for each dataset and backbone, all on the same workers and in the same time."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from d3tune.errors import D3TuneError, RunError, UsageError
from d3tune.files import home_path, slug
from d3tune.search.executor import StopSignal
from d3tune.search.executor.choice import open_executor
from d3tune.search.executor.shared import PATIENCE, POLL_SECONDS, Seat, Shared
from d3tune.search.request import Request, prepare_run, resolved
from d3tune.search.run import RUN_FILE, RunDirectory, as_itself
from d3tune.search.search import Outcome, Plan, run_search, site_of

Say = Callable[[str], None]
# what shells and tables separate names by
SEPARATOR = ","


@dataclass
class Cell:
    """One search of a sweep.

    Attributes:
        run: its run directory, an ordinary one.
        outcome: what came of it; None before its end, and where it ended with an error.
        error: that error.
    """

    run: RunDirectory
    outcome: Outcome | None = None
    error: BaseException | None = None

    @property
    def name(self) -> str:
        """What is searched, in a line's words."""
        return f"{self.run.search.dataset} {self.run.search.backbone}"


def listed(option: str, text: str) -> list[str]:
    """The names in a list with commas, each once.

    Raises:
        UsageError: there is none, or an empty one.
    """
    names = [name.strip() for name in text.split(SEPARATOR)]
    if not all(names):
        raise UsageError(f"{option} {text}: write names with commas between them, as flo,cub")
    return list(dict.fromkeys(names))


def prepare_sweep(
    request: Request, datasets: Sequence[str], backbones: Sequence[str], folder: Path | None, say: Say
) -> list[Cell]:
    """Check every search of a sweep, then make or find its run directory.

    Args:
        request: what all have in common.
        datasets: names.
        backbones: names.
        folder: where the run directories are kept, one a dataset and backbone; None is ``$D3TUNE_HOME/runs``.
        say: see `prepare_run`.

    Raises:
        UsageError: one of them is wrong; then nothing was made.
        RunError: a run directory holds something else.
    """
    if folder is not None and (folder / RUN_FILE).exists():
        raise RunError(f"{folder}: is a run, and a sweep's runs are kept below a folder; give another --run-dir")
    requests = [replace(request, dataset=name, backbone=backbone) for name in datasets for backbone in backbones]
    placed: dict[tuple[str, str], Request] = {}
    for cell in requests:
        # a dataset may have two names
        name = _checked(cell)
        place = None if folder is None else folder / f"{slug(name)}-{cell.backbone}"
        placed.setdefault((name, cell.backbone), replace(cell, run_dir=place))
    return [Cell(prepare_run(cell, _named(say, f"{name} {cell.backbone}"))[0]) for (name, _), cell in placed.items()]


def _named(say: Say, name: str) -> Say:
    """Lines that begin with a cell's name."""
    return lambda line: say(f"{name}  {line}")


def _checked(request: Request) -> str:
    """The name of a search's dataset, once all that it asks for is known to be right."""
    try:
        return resolved(request, None, home_path())[1].dataset
    except UsageError as error:
        raise UsageError(f"{request.dataset} {request.backbone}: {error}") from None


def run_sweep(cells: Sequence[Cell], plan: Plan, log: Path, stop: StopSignal, say: Say) -> None:
    """Carry every run of a sweep to the plan; what came of each is put into its cell.

    Their trials take turns at the workers, so that each search has as many at a time as any other, and `Plan.seconds`
    is for all of them together. What one cannot go on with on its own account (no usable trial) ends that one alone;
    what goes wrong amid the trials, such as a disk that is full, ends all: nothing recorded is lost.

    Args:
        cells: the searches; this process becomes their owner.
        plan: how far each, and what all of them may use.
        log: where Ray's own messages go.
        stop: requested by a signal handler to drain.
        say: takes one line an event, which begins with the cell's name; from several threads.

    Raises:
        D3TuneError: a run is in use, Ray does not start, or a trial can never fit.
    """
    with ExitStack() as stack:
        for cell in cells:
            stack.enter_context(cell.run.owned(say))
            cell.run = as_itself(cell.run, say)
        sites = [site_of(cell.run) for cell in cells]
        executor = stack.enter_context(closing(open_executor(plan.resources, log, stop, plan.num_gpus, sites, say)))
        shared = Shared(executor, len(cells), alone=plan.resources.executor == "local")
        # as daemons: told to stop at once, the process does not wait for what they train
        threads = [
            threading.Thread(target=_carry_out, args=(cell, plan, shared.seat(), stop, say), daemon=True)
            for cell in cells
        ]
        for thread in threads:
            thread.start()
        shared.serve(stop)
        _joined(threads, stop)


def _joined(threads: Sequence[threading.Thread], stop: StopSignal) -> None:
    """Wait for searches that are over but for their records; told to stop at once, not for long."""
    end = math.inf
    while any(thread.is_alive() for thread in threads) and time.monotonic() < end:
        end = min(end, time.monotonic() + PATIENCE) if stop.at_once else end
        try:
            next(thread for thread in threads if thread.is_alive()).join(POLL_SECONDS)
        except (KeyboardInterrupt, StopIteration):
            continue


def _carry_out(cell: Cell, plan: Plan, seat: Seat, stop: StopSignal, say: Say) -> None:
    named = _named(say, cell.name)
    try:
        cell.outcome = run_search(cell.run, plan, stop, named, seat)
    except BaseException as error:
        # raised by whoever asked for the sweep, in its thread
        cell.error = error
        if isinstance(error, D3TuneError):
            named(str(error))
    finally:
        seat.close()

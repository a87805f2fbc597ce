"""Compare samplers and pruners on recorded trials, without training: ``python -m benchmarks.search``.

Of each cell that has a table (`benchmarks.record`), searches with every sampler and pruner are simulated on a
surrogate (`benchmarks.surrogate`, `benchmarks.simulation`), repetition by repetition, each with another seed. What is
simulated is kept and not done again, so that the command may be stopped at any time and go on in several sittings.
The report, Markdown, JSON and figures, is written from what there is and says what is missing; it exits with 1 while
something is.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast, get_args

from benchmarks.__main__ import REPORTS, environment
from benchmarks.record import BACKBONES, DATASETS
from benchmarks.search_report import Findings, write_report
from benchmarks.search_statistics import early_ranks, target_of
from benchmarks.simulation import TRIALS, WORKERS, Ended, Setting, simulate
from benchmarks.surrogate import Surrogate
from benchmarks.traces import Arm, Traces
from benchmarks.trials import TABLES, Cell, Table
from d3tune.config import Pruner, Sampler
from d3tune.errors import D3TuneError, RunError, UsageError
from d3tune.search.sampling import make_sampler
from d3tune.words import plural

SAMPLERS = ("random", "tpe", "gp", "cmaes", "auto")
# auto is asha, see `d3tune.search.pruning.make_pruner`
PRUNERS = tuple(name for name in ("none", *get_args(Pruner)) if name != "auto")
REPETITIONS = 20
# repetitions and trials at most, of samplers whose cost grows steeply
SLOW = {"gp": (5, 100)}


@dataclass(frozen=True)
class Task:
    """One search to simulate.

    Attributes:
        arm: which.
        setting: see `Setting`; its seed is the repetition.
        tables: folder of the tables.
        digest: of the surrogate that is meant.
    """

    arm: Arm
    setting: Setting
    tables: Path
    digest: str


class Comparison:
    """What is to be compared, and what there is of it.

    Attributes:
        surrogates: of the cells that have a table.
        traces: of their arms.
        missing: cells that cannot be compared, each with why.
    """

    def __init__(self, cells: Sequence[Cell], samplers: Sequence[str], given: argparse.Namespace) -> None:
        """Read the tables, fit the surrogates and read the traces.

        Args:
            cells: wanted.
            samplers: that can run here.
            given: what the command was given.

        Raises:
            UsageError: a table or a trace cannot be read, or the traces were made otherwise.
        """
        self._given = given
        self.surrogates: dict[Cell, Surrogate] = {}
        self._tables: dict[Cell, Table] = {}
        self.traces: dict[Arm, Traces] = {}
        self.missing: dict[str, str] = {}
        for cell in cells:
            table = Table(cell, given.tables)
            try:
                self.surrogates[cell] = Surrogate(cell, table)
            except UsageError as error:
                self.missing[cell.name] = str(error).partition(": ")[2] if table.rows else "no table"
                continue
            self._tables[cell] = table
            pairs = [(sampler, pruner) for sampler in samplers for pruner in dict.fromkeys(given.pruners)]
            for arm in (Arm(cell, *pair) for pair in pairs):
                self.traces[arm] = Traces(arm, given.traces, self._settings(arm))

    def tasks(self) -> list[Task]:
        """What is not there yet: a repetition of every arm after another, so that a part is a comparison, too."""
        tasks = [
            Task(arm, self._setting(arm, repetition), self._given.tables, self.surrogates[arm.cell].digest)
            for arm, traces in self.traces.items()
            for repetition in range(self._repetitions(arm))
            if repetition not in traces.rows
        ]
        return sorted(tasks, key=lambda task: task.setting.seed)

    def findings(self, left_out: dict[str, str], about: dict[str, Any]) -> Findings:
        """What the report is made of."""
        found = {
            arm: {key: traces.rows[key] for key in range(self._repetitions(arm)) if key in traces.rows}
            for arm, traces in self.traces.items()
        }
        missing = dict(self.missing)
        for arm, rows in found.items():
            if len(rows) < self._repetitions(arm):
                missing[arm.name] = f"{len(rows)} of {plural(self._repetitions(arm), 'repetition')}"
        return Findings(
            found={arm: rows for arm, rows in found.items() if rows},
            targets={cell: target_of(surrogate) for cell, surrogate in self.surrogates.items()},
            qualities={cell: surrogate.quality for cell, surrogate in self.surrogates.items()},
            early={cell: early_ranks(table) for cell, table in self._tables.items()},
            missing=missing,
            left_out=left_out,
            about=about,
        )

    def _repetitions(self, arm: Arm) -> int:
        return min(int(self._given.repetitions), _most(arm)[0])

    def _trials(self, arm: Arm) -> int:
        return min(int(self._given.trials), _most(arm)[1])

    def _setting(self, arm: Arm, repetition: int) -> Setting:
        names = cast(Sampler, arm.sampler), cast(Pruner, arm.pruner)
        warm = self._given.warm_start == "shipped"
        return Setting(*names, repetition, self._trials(arm), self._given.workers, warm)

    def _settings(self, arm: Arm) -> dict[str, Any]:
        return {
            "surrogate": self.surrogates[arm.cell].digest,
            "trials": self._trials(arm),
            "workers": self._given.workers,
            "warm_start": self._given.warm_start,
        }


def _most(arm: Arm) -> tuple[int, int]:
    return SLOW.get(arm.sampler, (sys.maxsize, sys.maxsize))


@lru_cache(maxsize=2)
def _surrogate(cell: Cell, tables: Path) -> Surrogate:
    """Fitted once a process."""
    return Surrogate(cell, Table(cell, tables))


def carry_out(task: Task) -> list[Ended]:
    """Simulate a search, in a worker.

    Raises:
        RunError: the table has changed since the command began.
    """
    surrogate = _surrogate(task.arm.cell, task.tables)
    if surrogate.digest != task.digest:
        raise RunError(f"{task.arm.cell.name}: the table has changed meanwhile; begin anew with a copy of the tables")
    return simulate(surrogate, task.setting)


def _results(comparison: Comparison, jobs: int, deadline: float) -> Iterator[tuple[Task, list[Ended]]]:
    """Simulate what is missing until the deadline, in this process or in several others."""
    tasks = comparison.tasks()
    if jobs == 1:
        for task in tasks:
            if time.monotonic() >= deadline:
                return
            yield task, simulate(comparison.surrogates[task.arm.cell], task.setting)
        return
    running: dict[Future[list[Ended]], Task] = {}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_left_alone) as pool:
        while True:
            while tasks and len(running) < jobs and time.monotonic() < deadline:
                task = tasks.pop(0)
                running[pool.submit(carry_out, task)] = task
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()


def _left_alone() -> None:
    """Ctrl-C in a terminal is also the workers'; the command ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def usable(samplers: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Samplers that can run here, and the others with why they cannot."""
    left_out = {}
    for name in dict.fromkeys(samplers):
        try:
            make_sampler(cast(Sampler, name), 0, 0)
        except UsageError as error:
            left_out[name] = str(error)
    return [name for name in dict.fromkeys(samplers) if name not in left_out], left_out


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate what is missing within the time, and report what there is; 1 while something is missing."""
    given = arguments(argv)
    deadline = time.monotonic() + 3600 * given.hours
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    samplers, left_out = usable(given.samplers)
    for name, why in left_out.items():
        print(f"{name} is left out: {why}", file=sys.stderr)
    cells = [Cell(backbone, dataset) for dataset in given.datasets for backbone in given.backbones]
    try:
        comparison = Comparison(cells, samplers, given)
        wanted = len(comparison.tasks())
        for done, (task, trace) in enumerate(_results(comparison, given.jobs, deadline), 1):
            comparison.traces[task.arm].add(task.setting.seed, trace)
            print(f"{done} of {wanted}: {task.arm.name}, repetition {task.setting.seed}", flush=True)
    except D3TuneError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    about = {**environment(), "repetitions": given.repetitions, "trials": given.trials, "workers": given.workers}
    limits = [f"{name}: {most[0]} repetitions and {most[1]} trials at most" for name, most in SLOW.items()]
    about |= {"fewer of": "; ".join(limits), "warm starts": given.warm_start}
    findings = comparison.findings(left_out, about)
    path = given.report or REPORTS / f"search-{datetime.now(UTC):%Y-%m-%d}.md"
    write_report(findings, path)
    print(f"wrote {path}; {len(findings.missing)} of what was asked for is missing or incomplete")
    return int(bool(findings.missing))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return value


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """What the command was given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=(__doc__ or "").partition(":")[0])
    add = parser.add_argument
    add("--backbones", nargs="+", default=BACKBONES, help="default: those that are recorded by default")
    add("--datasets", nargs="+", default=DATASETS, help="likewise")
    add("--samplers", nargs="+", default=SAMPLERS, choices=get_args(Sampler), help="default: all")
    add("--pruners", nargs="+", default=PRUNERS, choices=get_args(Pruner), help="default: all but auto, which is asha")
    add("--repetitions", type=_positive, default=REPETITIONS, help="of each, with seeds 0, 1, …; gp has 5 at most")
    add("--trials", type=_positive, default=TRIALS, help="of each search; gp has 100 at most")
    add("--workers", type=_positive, default=WORKERS, help="trials at once, in virtual time")
    add("--warm-start", choices=("shipped", "none"), default="none", help="whether searches begin with those points")
    add("--jobs", type=_positive, default=os.cpu_count() or 1, help="processes at a time; default: cores")
    add("--hours", type=float, default=1.0, help="begin nothing after so long")
    add("--tables", type=Path, default=TABLES, help="default: benchmarks/tables")
    add("--traces", type=Path, default=Path("search-traces"), help="where searches are kept; default: search-traces")
    add("--report", type=Path, help="default: a dated file in benchmarks/reports")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())

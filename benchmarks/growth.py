"""How the cost of a search grows with its trials: ``python -m benchmarks.growth``.

Searches of 10, 100, 1,000 (and with ``--full`` 10,000) trials are carried out by `d3tune.search.search.run_search` as
the command does it: study and journal, pruner, trial folders, terminal lines, MLflow mirror on SQLite. Only training is
missing: trials repeat, without any delay, what a real training reported, scaled by a value that follows from the
configuration. Eight of them run at once in virtual time. Each search has a process of its own.

Told are, per trial: CPU seconds of the process, all its threads; those of the driver's own thread over the first
hundred trials, and over the last tenth, in which the others are there already; the memory that the study holds at the
last trial (what is free is handed back before it is read); and the bytes of the run directory.

The limits are for the random sampler: from 100 trials to the most each of these may grow by a factor of 3. The driver's
own seconds are compared within the largest search: a small one is over before the mirror writes beside it. Searches of
100 and 1,000 trials go through real Ray too, two at a time, with trials that only evaluate: wall seconds of the whole
command. The TPE and GP samplers stand apart, in searches of 100 and 50 trials, TPE with ``--full`` of 1,000 too.

It exits with 1 where a limit does not hold.
"""

import argparse
import gc
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna

from benchmarks.overhead import Bench
from benchmarks.tracking_load import make_load
from d3tune.config import Resources
from d3tune.method.memory import give_back
from d3tune.search.executor import StopSignal
from d3tune.search.executor.inprocess import Begin, InProcessExecutor
from d3tune.search.executor.recorded import recorded
from d3tune.search.jobs import TrainingJob
from d3tune.search.keeping import bytes_used
from d3tune.search.reports import Report
from d3tune.search.request import Request, prepare_run
from d3tune.search.search import Plan, run_search
from d3tune.search.tracking import default_uri

SIZES = (10, 100, 1000)
FULL_SIZES = (*SIZES, 10_000)
RAY = (100, 1000)
SAMPLED = {"tpe": (100,), "gp": (50,)}
FULL_SAMPLED = {"tpe": (100, 1000), "gp": (50,)}
WORKERS = 8
BASE = 100
MOST_GROWTH = 3.0
SETTINGS = ("updates=1000", "evaluations=10", "hidden_dim=32", "embed_dim=32", "teacher_epochs=1", "head_epochs=1")


@dataclass(frozen=True)
class Cost:
    """What one search took, a trial.

    Attributes:
        sampler: which.
        trials: how many.
        seconds: CPU seconds of the process.
        early_seconds: CPU seconds of the driver's thread, over the first hundred.
        last_seconds: those over the last tenth.
        memory: bytes.
        disk: bytes of the run directory.
    """

    sampler: str
    trials: int
    seconds: float
    early_seconds: float
    last_seconds: float
    memory: float
    disk: float


def curves(template: Report, updates: Sequence[int]) -> Begin:
    """Trials that rise to a value which their configuration decides; the better, the slower."""

    def reports(job: TrainingJob) -> list[Report]:
        value = 0.9 / (1 + abs(math.log(job.config["generator_lr"] / 1e-3)))
        return [report(value, (place + 1) / len(updates), update) for place, update in enumerate(updates)]

    def report(value: float, share: float, update: int) -> Report:
        reached = value * share**0.3
        metrics = {**template.metrics, "val/H": reached, "val/softmax/H": reached, "val/softmax/T1": 0.9}
        seconds = 10 * share * (1 + value)
        return replace(template, update=update, value=reached, head="softmax", metrics=metrics, seconds=seconds)

    return recorded(reports)


def measure(sampler: str, trials: int, folder: Path) -> Cost:
    """Carry out one search in this process, after a small one that imports and sets up what every search needs."""
    os.environ["D3TUNE_HOME"] = str(folder)
    # a line a parameter and trial, where a sampler leaves conditional ones to chance
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    begin = curves(make_load(folder / "template", 1, 1).template, [100 * n for n in range(1, 11)])
    search(sampler, WORKERS, folder / "warm-up", begin)
    before, began = resident(), time.process_time()
    ends, held, disk = search(sampler, trials, folder / "run", begin)
    early, last = min(BASE, trials), max(1, trials // 10)
    return Cost(
        sampler,
        trials,
        seconds=(time.process_time() - began) / trials,
        early_seconds=(ends[early] - ends[0]) / early,
        last_seconds=(ends[-1] - ends[-1 - last]) / last,
        memory=(held - before) / trials,
        disk=disk / trials,
    )


def search(sampler: str, trials: int, path: Path, begin: Begin) -> tuple[list[float], int, int]:
    """Carry out a search; this thread's CPU seconds at each end, memory at the last, bytes of the directory."""
    run, _ = prepare_run(Request("hanzi", "gan", settings=SETTINGS, sampler=sampler, run_dir=path))
    plan = Plan(
        trials=trials,
        seconds=None,
        resources=Resources(executor="local"),
        confirm_seeds=0,
        baselines=False,
        tracking_uri=default_uri(),
    )
    ends, held = [time.thread_time()], 0

    def say(line: str) -> None:
        nonlocal held
        if line.startswith("trial "):
            ends.append(time.thread_time())
            held = resident() if len(ends) > trials else 0

    run_search(run, plan, StopSignal(), say, InProcessExecutor(begin, WORKERS))
    assert len(ends) == trials + 1, f"{len(ends) - 1} of {trials} trials ended"
    return ends, held, bytes_used(run.path)


def resident() -> int:
    """Bytes of memory of this process, without what is free in it."""
    gc.collect()
    give_back()
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def in_a_process(sampler: str, trials: int) -> Cost:
    """Carry out one search in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="d3tune-growth-") as folder:
        command = [sys.executable, "-m", "benchmarks.growth", "--one", sampler, str(trials), folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)  # noqa: S603
    return Cost(**json.loads(done.stdout))


def through_ray(trials: int) -> float:
    """Wall seconds a trial of a whole command, with trials that train nothing."""
    # a short name: the paths of Ray's sockets may not be longer than 107 bytes
    with tempfile.TemporaryDirectory(prefix="d3g-", ignore_cleanup_errors=True) as folder:
        return Bench(Path(folder)).search(trials, 0.0)[0] / trials


def growth(costs: Sequence[Cost], of: Callable[[Cost], float]) -> float:
    """How many times more a trial of the largest search costs than one of `BASE` trials."""
    base = next(cost for cost in costs if cost.trials == BASE)
    return of(costs[-1]) / of(base)


def table(costs: Sequence[Cost]) -> str:
    """One line a search."""
    lines = ["sampler  trials  ms a trial  driver, first 100  driver, last tenth  KiB memory  KiB disk"]
    lines += [
        f"{cost.sampler:<7}  {cost.trials:>6}  {1e3 * cost.seconds:>10.1f}"
        f"  {1e3 * cost.early_seconds:>17.1f}  {1e3 * cost.last_seconds:>18.1f}"
        f"  {cost.memory / 1024:>10.1f}  {cost.disk / 1024:>8.1f}"
        for cost in costs
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measure and print; 1 where a limit does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--full", action="store_true", help="up to 10,000 trials")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--one", nargs=3, metavar=("SAMPLER", "TRIALS", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.one:
        sampler, trials, folder = given.one
        print(json.dumps(asdict(measure(sampler, int(trials), Path(folder)))))
        return 0
    costs = [in_a_process("random", size) for size in (FULL_SIZES if given.full else SIZES)]
    sampled = FULL_SAMPLED if given.full else SAMPLED
    others = [in_a_process(sampler, size) for sampler, sizes in sampled.items() for size in sizes]
    print(table([*costs, *others]))
    ray = {trials: through_ray(trials) for trials in RAY}
    for trials, seconds in ray.items():
        print(f"through Ray, {trials} trials, two at a time: {1e3 * seconds:.0f} ms of wall time a trial")
    aspects: dict[str, Callable[[Cost], float]] = {
        "seconds": lambda cost: cost.seconds,
        "memory": lambda cost: cost.memory,
        "disk": lambda cost: cost.disk,
    }
    grown = {name: growth(costs, of) for name, of in aspects.items()}
    grown["driver's own seconds"] = costs[-1].last_seconds / costs[-1].early_seconds
    grown["seconds through Ray"] = ray[RAY[-1]] / ray[RAY[0]]
    for name, factor in grown.items():
        largest = RAY[-1] if "Ray" in name else costs[-1].trials
        print(f"{name} a trial, {BASE} to {largest} trials: {factor:.2f} x (limit {MOST_GROWTH:g})")
    if given.json:
        figures: dict[str, Any] = {"costs": [asdict(cost) for cost in [*costs, *others]], "ray": ray, "growth": grown}
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return int(any(factor > MOST_GROWTH for factor in grown.values()))


if __name__ == "__main__":
    sys.exit(main())

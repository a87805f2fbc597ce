"""Whether one driver keeps up with a large cluster: ``python -m benchmarks.scale``.

A search of 10,000 trials on 200 workers is carried out by `d3tune.search.search.run_search` as the command does it:
study and journal, pruner, trial folders, terminal lines, MLflow mirror on SQLite. Only training is missing: trials
repeat what a real training reported, in virtual time, in which 200 of them run side by side (see `benchmarks.growth`).
So every second of the wall clock is the driver's, and the reports that it takes in a second are what it could take from
workers: 200 that evaluate every four seconds send fifty.

Told are wall seconds, reports a second over all and over the last tenth of the trials, memory, bytes of the run
directory and of the journal in it, and how long a resume takes to read that. It exits with 1 where the driver takes
fewer than fifty reports a second, or the whole more than ten minutes.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.growth import SETTINGS, curves, resident
from benchmarks.tracking_load import make_load
from d3tune.config import Resources
from d3tune.method.generators import load_backbone
from d3tune.search.executor import StopSignal
from d3tune.search.executor.inprocess import InProcessExecutor
from d3tune.search.invariants import run_faults
from d3tune.search.keeping import bytes_used
from d3tune.search.mirrored import CURVES
from d3tune.search.request import Request, prepare_run
from d3tune.search.run import RunDirectory
from d3tune.search.search import Plan, run_search
from d3tune.search.study import Ledger, read_trials, reports_of
from d3tune.search.tracking import default_uri

TRIALS, WORKERS = 10_000, 200
LEAST_REPORTS, MOST_SECONDS = 50.0, 600.0
EVALUATIONS = 10


@dataclass(frozen=True)
class Kept:
    """What one search of that size took.

    Attributes:
        trials, workers: its size.
        reports: that the driver took.
        seconds: of the wall clock, from the first trial to the end of the command.
        rate: reports a second over all trials.
        last_rate: over the last tenth of them.
        virtual_hours: how long it would have taken on such workers.
        memory: bytes that the process has at the end.
        disk: bytes of the run directory.
        journal: bytes of the study in it.
        reopened: seconds to read the study again, as a resume does.
        faults: of `d3tune.search.invariants.run_faults`, which compares study, folders and MLflow.
    """

    trials: int
    workers: int
    reports: int
    seconds: float
    rate: float
    last_rate: float
    virtual_hours: float
    memory: int
    disk: int
    journal: int
    reopened: float
    faults: list[str]

    @property
    def holds(self) -> bool:
        """Whether the driver keeps up."""
        return min(self.rate, self.last_rate) >= LEAST_REPORTS and self.seconds <= MOST_SECONDS and not self.faults


def measure(trials: int, workers: int, folder: Path) -> Kept:
    """Carry out the search in this process and a folder of its own."""
    os.environ["D3TUNE_HOME"] = str(folder)
    begin = curves(make_load(folder / "template", 1, 1).template, [100 * n for n in range(1, EVALUATIONS + 1)])
    run, _ = prepare_run(Request("hanzi", "gan", settings=SETTINGS, sampler="random", run_dir=folder / "run"))
    plan = Plan(trials, None, Resources(executor="local"), 0, False, default_uri())
    ended: list[tuple[float, int]] = []

    def say(line: str) -> None:
        if line.startswith("trial "):
            ended.append((time.monotonic(), int(line.split()[1])))

    executor, began = InProcessExecutor(begin, workers), time.monotonic()
    with run.owned():
        run_search(run, plan, StopSignal(), say, executor)
    seconds, memory = time.monotonic() - began, resident()
    counts = {trial.number: len(reports_of(trial)) for trial in read_trials(run.journal)}
    last = ended[-max(1, trials // 10) :]
    return Kept(
        trials=len(counts),
        workers=workers,
        reports=sum(counts.values()),
        seconds=seconds,
        rate=sum(counts.values()) / seconds,
        last_rate=sum(counts[number] for _, number in last[1:]) / (last[-1][0] - last[0][0]),
        virtual_hours=executor.clock / 3600,
        memory=memory,
        disk=bytes_used(run.path),
        journal=run.journal.stat().st_size,
        reopened=reopened(run),
        faults=run_faults(run, default_uri()),
    )


def reopened(run: RunDirectory) -> float:
    """Seconds until the study of a run is there again."""
    config, began = load_backbone(run.search.backbone).config, time.monotonic()
    Ledger(run.journal, run.name, run.search, run.load_space(config), config)
    return time.monotonic() - began


def text(kept: Kept) -> str:
    """What is printed."""
    verdict = "yes" if kept.holds else "NO"
    lines = [
        f"{kept.trials} trials on {kept.workers} workers, {60 * kept.virtual_hours:.0f} min of theirs; random sampler",
        f"the driver: {kept.seconds:.0f} s for all (limit {MOST_SECONDS:g} s), {kept.reports} reports",
        f"reports a second: {kept.rate:.0f}, over the last tenth of the trials {kept.last_rate:.0f} "
        f"(limit {LEAST_REPORTS:g})",
        f"memory {kept.memory / 2**20:.0f} MiB, run directory {kept.disk / 2**20:.0f} MiB, of that the journal "
        f"{kept.journal / 2**20:.0f} MiB, read again in {kept.reopened:.1f} s",
        f"study, folders and MLflow (curves of {CURVES} trials at most): "
        f"{'agree' if not kept.faults else kept.faults[0]}",
        f"keeps up: {verdict}",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measure and print; 1 where the driver does not keep up."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="d3tune-scale-") as folder:
        kept = measure(given.trials, given.workers, Path(folder))
    print(text(kept))
    if given.json:
        given.json.write_text(json.dumps(asdict(kept), indent=1) + "\n", encoding="utf-8")
    return int(not kept.holds)


if __name__ == "__main__":
    sys.exit(main())

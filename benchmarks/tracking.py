"""What mirroring a search to MLflow costs, beside Ray's MLflowLoggerCallback: ``python -m benchmarks.tracking``.

One run of the program drives the same trials and reports, paced, through three ledgers: one that nobody watches (the
control), one that `Mirror` watches, and one whose loop calls MLflowLoggerCallback, as Ray Tune would. Each tracker has
an SQLite store of its own (with ``--postgres`` a database there), with ``--server`` behind an MLflow server of its own.
For each loop::

    cpu     = CPU s of the loop's thread inside calls of the tracker
            + CPU s of all other threads, less the control's
    blocked = Σ over reports of (seconds from when the report was due and the loop free for it, until the loop was done
              with it − CPU s of the loop's thread in that time), less the control's
    share   = (cpu + max(0, blocked)) / wall

So the share counts what tracking computes in any thread, in seconds of one core, and what the search waits for: locks,
disk, network, the interpreter lock. Where the search waits for the tracker's thread to compute, both count: the sum is
an upper bound. How much longer the search takes lies between the blocked part, where the cores have time left, and the
sum. The limit is on the blocked part, which is what the search loses; the CPU part has none, since MLflow itself takes
more for the same study in the fewest calls (the last figure). Preparing a store's tables is left out; creating
experiment and runs and writing the rest at the end is not. What a server computes is shown, and not part of the share:
it may be elsewhere. The end of the search, after its last report, is part of both: it is the same for a search of
hours, so short runs overstate it.

The last figure is MLflow's own: the CPU s to write the same study after the search, in the fewest calls there are.
d3tune writes of each report what `trial_metrics` leaves, and once a trial `tuned_metrics`; the callback everything.

Calls are counted at MLflow's tracking store, `SqlAlchemyStore` or `RestStore`, alike for both. At the end both stores
are compared with what was reported: every metric of every report once, with its value, and every run closed.
"""

import argparse
import gc
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.tracking_load import Load, Loop, Mirrored, Stock, Tracker, make_load
from benchmarks.tracking_store import Calls, Key, Store, new_databases
from d3tune.config import SearchConfig
from d3tune.search.reports import best_report
from d3tune.search.shown import TRIAL_TAG, trial_metrics, tuned_metrics
from d3tune.search.study import Ledger, reports_of

RATE = 10.0
MOST_SHARE, LEAST_RATIO = 0.02, 20.0
STOCK_TAG = "trial_name"
PACKAGES = ("d3tune", "mlflow", "ray", "optuna", "sqlalchemy")


@dataclass(frozen=True)
class Cost:
    """What one loop took, in seconds and calls; see the module for the terms."""

    wall: float
    cpu: float
    blocked: float
    finish: float
    server_cpu: float
    reports: int
    trials: int
    writes: int
    reads: int
    by_name: dict[str, int]

    @property
    def share(self) -> float:
        """Of wall time."""
        return (self.cpu + max(0.0, self.blocked)) / self.wall

    @property
    def calls(self) -> int:
        """Reads and writes."""
        return self.writes + self.reads

    def net(self, control: "Cost") -> "Cost":
        """Less what the loop costs without a tracker."""
        return replace(self, cpu=self.cpu - control.cpu, blocked=self.blocked - control.blocked)

    def figures(self) -> dict[str, Any]:
        """For a JSON file."""
        return {**asdict(self), "share": self.share}


def measure(load: Load, ledger: Ledger, tracker: Tracker, store: Store) -> Cost:
    """Run one loop."""
    loop, calls = Loop(load, ledger, tracker), Calls()
    gc.collect()
    with calls.counted():
        server, began = store.server_cpu(), time.perf_counter()
        everything, own = time.process_time(), time.thread_time()
        loop.run()
        elsewhere = time.process_time() - everything - (time.thread_time() - own)
        wall, server = time.perf_counter() - began, store.server_cpu() - server
    return Cost(
        wall=wall,
        cpu=loop.tracker_cpu + elsewhere,
        blocked=loop.blocked,
        finish=loop.finish,
        server_cpu=server,
        reports=load.count,
        trials=len(ledger.trials()),
        writes=calls.writes,
        reads=calls.reads,
        by_name=dict(calls.by_name),
    )


def mlflows_own(load: Load, ledger: Ledger, folder: Path) -> float:
    """CPU seconds that MLflow takes for a study that is written at once, one batch a trial, to an SQLite store."""
    folder.mkdir()
    with closing(Store(f"sqlite:///{folder / 'mlflow.db'}", folder / "log")) as store:
        store.prepare()
        tracker = Mirrored(store.uri, load.run, watching=False)
        cpu = time.process_time()
        tracker.start(ledger)
        tracker.finish()
        return time.process_time() - cpu


def reported(ledger: Ledger, search: SearchConfig | None) -> dict[Key, float]:
    """What a tracker writes of every report: the callback every metric, d3tune what `trial_metrics` leaves.

    Args:
        ledger: the study.
        search: names d3tune's metrics; None for what the callback writes, which adds the iteration.
    """
    values: dict[Key, float] = {}
    for trial in ledger.trials():
        reports = reports_of(trial)
        if search is not None:
            values |= {(trial.number, name, 0): value for name, value in tuned_metrics(trial).items()}
        for index, report in enumerate(reports):
            if search is None:
                rows = {**report.metrics, "training_iteration": float(report.update)}
            else:
                rows = trial_metrics(search, report, best_report(reports[: index + 1]))
            values |= {(trial.number, name, report.update): value for name, value in rows.items()}
    return values


def fault(expected: dict[Key, float], store: Store, tag: str) -> str:
    """What is wrong with a store; empty where it holds what it should and no more."""
    found = store.values(tag)
    wrong = sum(found.get(key) != value for key, value in expected.items())
    surplus, running = len(found.keys() - expected.keys()), store.open_runs()
    if wrong or surplus or running:
        return f"{wrong} of {len(expected)} values missing or different, {surplus} more, {running} runs not closed"
    return ""


@dataclass(frozen=True)
class Comparison:
    """Everything that one run of the program measured.

    Attributes:
        control: the loop without a tracker.
        mirror: d3tune's, less the control.
        stock: MLflowLoggerCallback's, less the control.
        own: see `mlflows_own`.
        faults: of each store.
    """

    control: Cost
    mirror: Cost
    stock: Cost
    own: float
    faults: dict[str, str]

    @property
    def ratio(self) -> float:
        """How many times fewer calls d3tune makes: of writes, or of all, whichever is less."""
        return min(self.stock.writes / self.mirror.writes, self.stock.calls / self.mirror.calls)

    @property
    def holds(self) -> dict[str, bool]:
        """Whether each limit does."""
        return {
            f"time the search loses ≤ {MOST_SHARE:.0%} of wall": self.mirror.blocked / self.mirror.wall <= MOST_SHARE,
            f"≥ {LEAST_RATIO:g} times fewer calls": self.ratio >= LEAST_RATIO,
            "both stores hold what was reported": not any(self.faults.values()),
        }


def compare(load: Load, folder: Path, served: bool, database: Callable[[], str] | None = None) -> Comparison:
    """Run the three loops and examine the stores.

    Args:
        load: what is reported.
        folder: for everything.
        served: whether an MLflow server is in front of each store.
        database: makes a new database and gives its address; None for SQLite files.
    """
    makers: dict[str, tuple[Callable[[str], Tracker], str, SearchConfig | None]] = {
        "control": (lambda uri: Tracker(), "", None),
        "d3tune": (lambda uri: Mirrored(uri, load.run), TRIAL_TAG, load.run.search),
        "stock": (Stock, STOCK_TAG, None),
    }
    costs: dict[str, Cost] = {}
    faults: dict[str, str] = {}
    for name, (make, tag, search) in makers.items():
        (folder / name).mkdir()
        ledger = load.ledger(folder / name / "study.journal")
        address = database() if database is not None and tag else f"sqlite:///{folder / name / 'mlflow.db'}"
        with closing(Store(address, folder / name / "log", served and bool(tag))) as store:
            store.prepare()
            costs[name] = measure(load, ledger, make(store.uri), store)
            if tag:
                faults[name] = fault(reported(ledger, search), store, tag)
    own = mlflows_own(load, ledger, folder / "own")
    control = costs["control"]
    return Comparison(control, costs["d3tune"].net(control), costs["stock"].net(control), own, faults)


def print_table(found: Comparison, served: bool) -> None:
    """The figures side by side, then the limits."""
    rows: list[tuple[str, Callable[[Cost], str]]] = [
        ("trials", lambda cost: str(cost.trials)),
        ("wall s", lambda cost: f"{cost.wall:.1f}"),
        ("tracking CPU s", lambda cost: f"{cost.cpu:.2f}"),
        ("search blocked s", lambda cost: f"{cost.blocked:.2f}"),
        ("end of search s", lambda cost: f"{cost.finish:.2f}"),
        ("share of wall", lambda cost: f"{cost.share:.2%}"),
        ("  CPU part", lambda cost: f"{cost.cpu / cost.wall:.2%}"),
        ("  blocked part", lambda cost: f"{cost.blocked / cost.wall:.2%}"),
        ("write calls", lambda cost: str(cost.writes)),
        ("read calls", lambda cost: str(cost.reads)),
        ("calls per report", lambda cost: f"{cost.calls / cost.reports:.2f}"),
    ]
    if served:
        rows.insert(8, ("server CPU s", lambda cost: f"{cost.server_cpu:.2f}"))
    print(f"{'':<18}{'d3tune':>10}{'MLflowLoggerCallback':>23}")
    for name, show in rows:
        print(f"{name:<18}{show(found.mirror):>10}{show(found.stock):>23}")
    print(f"control, subtracted: blocked {found.control.blocked:.2f} s of {found.control.wall:.1f} s")
    least = found.own / found.mirror.wall
    print(f"MLflow's own CPU s for this study in the fewest calls: {found.own:.2f}, {least:.2%} of the wall time")
    print(f"ratio of calls: {found.ratio:.0f}")
    for limit, holds in found.holds.items():
        print(f"{limit}: {'holds' if holds else 'does not hold'}")
    for name, text in found.faults.items():
        if text:
            print(f"{name}: {text}")


def describe() -> dict[str, Any]:
    """The machine and the versions, without names."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def main() -> int:
    """Measure, print, and say with the exit code whether the limits hold."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tracking", description=(__doc__ or "").partition(":")[0]
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each paced loop (default 60)")
    parser.add_argument("--rate", type=float, default=RATE, help="reports a second (default 10)")
    parser.add_argument("--server", action="store_true", help="put an MLflow server in front of each store")
    parser.add_argument(
        "--postgres", metavar="URL", help="a PostgreSQL for the stores, e.g. postgresql+psycopg://me@127.0.0.1:5432"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    # a terminated benchmark ends its server too
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    machine = describe()
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    databases = nullcontext() if options.postgres is None else new_databases(options.postgres)
    with tempfile.TemporaryDirectory() as name, databases as database:
        os.environ["D3TUNE_HOME"] = name
        load = make_load(Path(name), options.seconds, options.rate)
        print(f"{load.count} reports of {len(load.template.metrics)} metrics, {load.rate:g} a second")
        found = compare(load, Path(name), options.server, database)
    print_table(found, options.server)
    if options.json is not None:
        costs = {key: getattr(found, key).figures() for key in ("control", "mirror", "stock")}
        about = {"machine": machine, "server": options.server, "store": "postgresql" if options.postgres else "sqlite"}
        figures = {**about, "rate": options.rate, **costs}
        figures |= {"mlflows_own_cpu": found.own, "ratio": found.ratio, "holds": found.holds, "faults": found.faults}
        options.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if all(found.holds.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

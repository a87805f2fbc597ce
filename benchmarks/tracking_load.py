"""The load of `benchmarks.tracking`: trials and reports, paced, for a ledger and a tracker."""

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from d3tune.config import Resources
from d3tune.method.generators import load_backbone
from d3tune.search.reports import Report
from d3tune.search.request import Request, prepare_run
from d3tune.search.run import RunDirectory
from d3tune.search.search import training_job
from d3tune.search.study import Assignment, Ledger
from d3tune.search.tracking import Mirror
from d3tune.search.trial import RunningTrial

RUNNING_AT_ONCE = 8
# the smallest training that reports all that a default one does
SETTINGS = ("updates=100", "evaluations=10", "hidden_dim=32", "embed_dim=32", "teacher_epochs=1", "head_epochs=1")
STOCK_EXPERIMENT = "stock"


class Tracker:
    """What a loop calls as trials begin, report and end; this one tracks nothing: the control."""

    def start(self, ledger: Ledger) -> None:
        """Before the first trial."""

    def begin(self, assignment: Assignment) -> None:
        """A trial was given out."""

    def report(self, number: int, report: Report) -> None:
        """A report is in the study."""

    def end(self, number: int) -> None:
        """A trial's outcome is in the study."""

    def finish(self) -> None:
        """After the last report."""


class Mirrored(Tracker):
    """d3tune's mirror: it watches the ledger; the loop tells it nothing."""

    def __init__(self, uri: str, run: RunDirectory, *, watching: bool = True) -> None:
        """Prepare.

        Args:
            uri: the store.
            run: names experiment and runs.
            watching: whether it writes as the search goes on, or everything at the end.
        """
        self._uri, self._run, self._watching = uri, run, watching

    def start(self, ledger: Ledger) -> None:
        """See `Tracker`."""
        self._mirror = Mirror(self._uri, ledger, self._run)
        if self._watching:
            self._mirror.start()

    def finish(self) -> None:
        """See `Tracker`.

        Raises:
            RuntimeError: the store did not take everything.
        """
        missed = self._mirror.finish("done", {}, patience=60.0)
        if missed is not None:
            raise RuntimeError(f"the mirror is not complete: {missed}")


class TuneTrial:
    """What MLflowLoggerCallback reads of a `ray.tune.experiment.Trial`."""

    def __init__(self, number: int, config: dict[str, Any]) -> None:
        self.config = config
        self._name = str(number)

    def __str__(self) -> str:
        return self._name


class Stock(Tracker):
    """Ray's callback, called from the loop as Ray Tune calls it."""

    def __init__(self, uri: str) -> None:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        # untyped, and it would have a Ray trial
        self._callback: Any = MLflowLoggerCallback(tracking_uri=uri, experiment_name=STOCK_EXPERIMENT)
        self._trials: dict[int, TuneTrial] = {}

    def start(self, ledger: Ledger) -> None:
        """See `Tracker`."""
        self._callback.setup()

    def begin(self, assignment: Assignment) -> None:
        """See `Tracker`."""
        trial = self._trials[assignment.number] = TuneTrial(assignment.number, assignment.config)
        self._callback.log_trial_start(trial)

    def report(self, number: int, report: Report) -> None:
        """See `Tracker`."""
        result = {**report.metrics, "training_iteration": report.update}
        self._callback.log_trial_result(report.update, self._trials[number], result)

    def end(self, number: int) -> None:
        """See `Tracker`."""
        self._callback.log_trial_end(self._trials.pop(number))


@dataclass(frozen=True)
class Load:
    """The trials and reports that every loop gets, made from their numbers alone.

    Attributes:
        run: the search.
        template: a report of a real training.
        count: reports in all.
        rate: reports a second.
    """

    run: RunDirectory
    template: Report
    count: int
    rate: float

    def ledger(self, journal: Path) -> Ledger:
        """A new study of the search."""
        config = load_backbone(self.run.search.backbone).config
        return Ledger(journal, self.run.name, self.run.search, self.run.load_space(config), config)

    def updates(self) -> list[int]:
        """The update counts at which a trial reports."""
        config = load_backbone(self.run.search.backbone).config
        return list(config(**self.run.load_space(config).fixed).evaluation_updates)

    def report(self, number: int, update: int) -> Report:
        """A report with the template's metrics and other values."""
        rng = random.Random(f"{number} {update}")
        metrics = {key: rng.uniform(0.3, 0.9) for key in self.template.metrics}
        # chance stays below every T1, so that no trial counts as collapsed
        metrics["val/T1_chance"] = 0.2
        return replace(self.template, update=update, value=metrics["val/H"], metrics=metrics, worker={})


def make_load(folder: Path, seconds: float, rate: float) -> Load:
    """A search on a tiny built-in dataset, and a report of a real training of it."""
    request = Request("hanzi", "gan", settings=SETTINGS, sampler="random", run_dir=folder / "run")
    run, _ = prepare_run(request)
    config = load_backbone("gan").config
    full = config(**run.load_space(config).fixed).model_dump(mode="json")
    template = RunningTrial(training_job(run, full, Resources(executor="local")), folder).next_report()
    return Load(run, template, max(1, round(seconds * rate)), rate)


class Loop:
    """Feeds a load to a ledger and a tracker, and takes the time.

    Attributes:
        tracker_cpu: CPU seconds of this thread inside calls of the tracker.
        blocked: seconds that reports were due, or being handled, and this thread did not compute.
        finish: seconds of the end, after the last report.
    """

    def __init__(self, load: Load, ledger: Ledger, tracker: Tracker) -> None:
        self._load, self._ledger, self._tracker = load, ledger, tracker
        self._updates = load.updates()
        self._places: list[tuple[int, list[int]] | None] = [None] * RUNNING_AT_ONCE
        self.tracker_cpu = self.blocked = self.finish = 0.0

    def run(self) -> None:
        """Feed every report, none before it is due."""
        self._timed(time.perf_counter(), self._start)
        began = free = time.perf_counter()
        for index in range(self._load.count):
            due = max(began + index / self._load.rate, free)
            time.sleep(max(0.0, due - time.perf_counter()))
            free = self._timed(due, self._feed, index % RUNNING_AT_ONCE)
        self.finish = self._timed(free, self._finish) - free

    def _timed(self, due: float, action: Callable[..., None], *args: Any) -> float:
        cpu = time.thread_time()
        action(*args)
        end = time.perf_counter()
        self.blocked += end - due - (time.thread_time() - cpu)
        return end

    def _call(self, method: Callable[..., None], *args: Any) -> None:
        cpu = time.thread_time()
        method(*args)
        self.tracker_cpu += time.thread_time() - cpu

    def _start(self) -> None:
        self._call(self._tracker.start, self._ledger)

    def _feed(self, place: int) -> None:
        running = self._places[place]
        if running is None:
            assignment = self._ledger.next_trial(sys.maxsize)
            assert assignment is not None
            self._call(self._tracker.begin, assignment)
            running = self._places[place] = (assignment.number, list(self._updates))
        number, ahead = running
        report = self._load.report(number, ahead.pop(0))
        stop = self._ledger.report(number, report)
        self._call(self._tracker.report, number, report)
        if stop or not ahead:
            self._ledger.complete(number)
            self._call(self._tracker.end, number)
            self._places[place] = None

    def _finish(self) -> None:
        for number in self._ledger.running:
            self._ledger.fail(number, "the load is over")
            self._call(self._tracker.end, number)
        self._call(self._tracker.finish)

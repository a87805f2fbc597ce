"""A whole search in virtual time on a surrogate: d3tune's own study, sampler, pruner and executor, without training.

The study's journal lies in memory where the machine has such a folder; there are no trial folders and there is no
MLflow. A training that fails costs the seconds up to its last report, as the study counts them.
"""

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna

from benchmarks.surrogate import DIVERGED, Surrogate, Training
from d3tune.config import Pruner, Sampler, SearchConfig
from d3tune.method.trainer import DivergedError
from d3tune.search.executor import TrialQueue
from d3tune.search.executor.inprocess import InProcessExecutor
from d3tune.search.executor.recorded import RecordedTrial
from d3tune.search.jobs import TrainingJob
from d3tune.search.journal import CONFIG_ATTR
from d3tune.search.keeping import Keeper
from d3tune.search.reports import Report
from d3tune.search.study import Assignment, Ledger
from d3tune.space import WarmStart

MEMORY = Path("/dev/shm")  # noqa: S108
TRIALS, WORKERS = 200, 8


@dataclass(frozen=True)
class Setting:
    """A search to simulate.

    Attributes:
        sampler, pruner: as ``d3tune search`` takes them.
        seed: of suggestions, of the trainings' noise, and of hyperband's brackets.
        trials: how many.
        workers: trials at once in virtual time.
        warm_starts: whether the space's warm-start points come first.
    """

    sampler: Sampler
    pruner: Pruner
    seed: int = 0
    trials: int = TRIALS
    workers: int = WORKERS
    warm_starts: bool = False


@dataclass(frozen=True)
class Ended:
    """The search at the moment at which a trial ended.

    Attributes:
        number: of that trial.
        ended: how many trials have ended, suggestions that the backbone refuses included.
        time: virtual seconds since the search began.
        compute: seconds spent up to the last report of every trial so far, those that run included.
        state: of the trial, COMPLETE, PRUNED or FAIL.
        value: the study's; None of a failed one.
        expected: noise-free value of its configuration.
        seconds: spent on it.
        full_value: that it would have ended with at the full budget; None where it would have failed.
        full_seconds: that it would have taken.
        best: noise-free value of the configuration that the study calls the best so far; None before there is one.
    """

    number: int
    ended: int
    time: float
    compute: float
    state: str
    value: float | None
    expected: float
    seconds: float
    full_value: float | None
    full_seconds: float
    best: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Simulation:
    """One search; `run` it once.

    Attributes:
        search: what it is.
        ledger: its study.
    """

    def __init__(
        self, surrogate: Surrogate, setting: Setting, folder: Path, points: tuple[WarmStart, ...] = ()
    ) -> None:
        """Open its study.

        Args:
            surrogate: says what a training reports.
            setting: what is searched with.
            folder: for the journal.
            points: warm starts in the place of the space's own, where these do not come first.

        Raises:
            UsageError: a package that the sampler needs is missing.
        """
        self._surrogate, self._setting = surrogate, setting
        space = surrogate.space if setting.warm_starts else replace(surrogate.space, warm_start=points)
        self.search = SearchConfig(
            dataset=surrogate.cell.dataset,
            dataset_hash=surrogate.about["dataset_hash"],
            semantics="",
            features="",
            backbone=surrogate.cell.backbone,
            seed=setting.seed,
            sampler=setting.sampler,
            pruner=setting.pruner,
        )
        # hyperband draws a trial's bracket from the name and the number
        name = f"simulation-{setting.seed}"
        self.ledger = Ledger(folder / "study.journal", name, self.search, space, surrogate.config)
        # a line a parameter and trial, where a sampler leaves conditional ones to chance
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._executor = InProcessExecutor(self._begin, setting.workers)
        self._trainings: dict[str, Training] = {}
        self._expected: dict[int, float] = {}
        self._spent: dict[int, float] = {}
        self._trace: list[Ended] = []

    def run(self) -> list[Ended]:
        """Carry it out; a row a trial, in the order in which they end."""

        def directory(number: int) -> Path:
            return Path(str(number))

        queue = TrialQueue(
            ledger=self.ledger,
            limit=self._setting.trials,
            job=self._job,
            directory=directory,
            keeper=_KeepsNothing(self.ledger, directory, 0),
            on_end=self._note,
            on_report=self._count,
        )
        self._executor.run_trials(queue)
        return self._trace

    def _job(self, assignment: Assignment) -> TrainingJob:
        cell = self._surrogate.cell
        return TrainingJob(cell.backbone, assignment.config, str(assignment.number), "", self._setting.seed)

    def _begin(self, job: TrainingJob, directory: Path, known_update: int, keep_weights: bool) -> RecordedTrial:
        training = self._surrogate.training(job.config, job.seed)
        self._trainings[directory.name] = training
        return _Trial(training, known_update)

    def _count(self, number: int, report: Report) -> None:
        self._spent[number] = report.seconds

    def _note(self, number: int) -> None:
        trial, training = self.ledger.trial(number), self._trainings.pop(str(number))
        self._expected[number] = self._surrogate.expected(trial.user_attrs[CONFIG_ATTR])
        best = self.ledger.standing.best
        self._trace.append(
            Ended(
                number=number,
                ended=self.ledger.standing.ended,
                time=self._executor.clock,
                compute=sum(self._spent.values()),
                state=trial.state.name,
                value=trial.value,
                expected=self._expected[number],
                seconds=self._spent.get(number, 0.0),
                full_value=training.best,
                full_seconds=training.seconds,
                best=None if best is None else self._expected[best.number],
            )
        )


class _Trial(RecordedTrial):
    """A training of the surrogate; one that diverges does so after its last report."""

    def __init__(self, training: Training, known_update: int) -> None:
        super().__init__(training.reports, known_update)
        self._diverges = training.end == DIVERGED

    @property
    def finished(self) -> bool:
        return super().finished and not self._diverges

    def next_report(self) -> Report:
        if self._diverges and super().finished:
            raise DivergedError("a loss of the surrogate", 0)
        return super().next_report()


class _KeepsNothing(Keeper):
    """There are no trial folders."""

    def settle(self, number: int) -> None:
        """Nothing is there to settle."""


def simulate(surrogate: Surrogate, setting: Setting) -> list[Ended]:
    """Carry out a search in virtual time; the same twice for the same surrogate and setting.

    Args:
        surrogate: of a cell.
        setting: what is searched with.

    Returns:
        A row a trial, in the order in which they end.

    Raises:
        UsageError: a package that the sampler needs is missing.
    """
    with tempfile.TemporaryDirectory(prefix="d3tune-simulation-", dir=in_memory()) as folder:
        return Simulation(surrogate, setting, Path(folder)).run()


def in_memory() -> Path | None:
    """Where a file that is synced a hundred times a second costs nothing."""
    return MEMORY if MEMORY.is_dir() else None

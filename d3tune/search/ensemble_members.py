"""The members of an ensemble: the best complete trials of runs on the same data, as their studies have them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from d3tune.config import metric_prefix
from d3tune.errors import NoUsableTrialError, UsageError
from d3tune.search.aims import nothing_wins
from d3tune.search.jobs import TrainingJob
from d3tune.search.replay import recorded_job
from d3tune.search.reports import best_report
from d3tune.search.run import RunDirectory
from d3tune.search.standing import best_of
from d3tune.search.study import read_trials, reports_of
from d3tune.search.summaries import configuration_id
from d3tune.words import TEST_SELECTED


@dataclass(frozen=True)
class Member:
    """A trial whose scores may become part of an ensemble.

    Attributes:
        run: the name of its run.
        uid: the run's identity.
        number: the trial's.
        job: what it trained, with its own seed.
        update: of its best evaluation.
        head: of the same.
        val_H: validation H there, as recorded.
        directory: of the trial, with its weights where they were kept.
        confirmed: the store of its confirmation, where its run has one.
    """

    run: str
    uid: str
    number: int
    job: TrainingJob
    update: int
    head: str
    val_H: float
    directory: Path
    confirmed: Path

    @property
    def name(self) -> str:
        """A name of its own among all members, also for files."""
        return f"{self.uid}-{self.number:05d}"

    @property
    def shown(self) -> str:
        """How messages call it."""
        return f"{self.run} trial {self.number} ({self.job.backbone})"

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it this member and no other."""
        return {"run": self.run, "uid": self.uid, "trial": self.number, "backbone": self.job.backbone}


@dataclass(frozen=True)
class Material:
    """What an ensemble is made of.

    Attributes:
        runs: on the same data, each with its dataset where this machine has it.
        members: of all runs, in their order.
        trials: of all runs, how many ended how.
        trial_hours: time spent in them.
    """

    runs: tuple[RunDirectory, ...]
    members: tuple[Member, ...]
    trials: dict[str, int]
    trial_hours: float


def gather(runs: Sequence[RunDirectory], top: int) -> Material:
    """The best trials of each run; of several of one configuration and seed the first.

    Args:
        runs: one or several.
        top: trials of each run.

    Raises:
        UsageError: they cannot be combined, or make no two members.
        NoUsableTrialError: one has no complete trial.
    """
    _refuse_mixture(runs)
    # in whatever order they were named, it is the same ensemble
    runs = sorted(runs, key=lambda run: (run.search.backbone, run.uid))
    studies = [read_trials(run.journal) for run in runs]
    found: dict[tuple[str, int], Member] = {}
    for run, trials in zip(runs, studies, strict=True):
        for member in _best(run, trials, top):
            key = (configuration_id(member.job.backbone, member.job.config), member.job.seed)
            found.setdefault(key, member)
    if len(found) < 2:
        raise UsageError(
            f"{runs[0].path}: an ensemble needs two trials of different configurations; give another run too, or a "
            "larger --top"
        )
    everything = [trial for trials in studies for trial in trials]
    seconds = sum(reports_of(trial)[-1].seconds for trial in everything if reports_of(trial))
    return Material(tuple(runs), tuple(found.values()), _counted(everything), seconds / 3600)


def _refuse_mixture(runs: Sequence[RunDirectory]) -> None:
    first, *others = runs
    for index, run in enumerate(runs):
        if run.search.protocol == "published":
            raise UsageError(
                f"{run.path}: its trials were chosen on the test sets ({TEST_SELECTED}); an ensemble takes runs that "
                "validation chose"
            )
        if run.search.objective == "H_raw":
            raise UsageError(
                f"{run.path}: its objective is H_raw, which no offset calibrates; give runs of objective H or AUSUC"
            )
        if run.uid in [before.uid for before in runs[:index]]:
            raise UsageError(f"{run.path}: given twice")
    for run in others:
        for what, own, wanted in zip(DATA, _data(run), _data(first), strict=True):
            if own != wanted:
                raise UsageError(
                    f"{run.path}: its {what} is {own}, that of {first.path} is {wanted}; give runs on the same data"
                )


DATA = ("dataset", "semantics", "features", "content", "list of validation splits")


def _data(run: RunDirectory) -> tuple[str, ...]:
    search = run.search
    splits = ", ".join(map(str, search.splits))
    return search.dataset, search.semantics, search.features, search.dataset_hash[:12], splits


def _best(run: RunDirectory, trials: Iterable[FrozenTrial], top: int) -> list[Member]:
    everyone = list(trials)
    ranked = best_of(everyone, top)
    if not ranked:
        raise NoUsableTrialError(f"{run.path}: {nothing_wins(everyone, run.search)}; go on with: {run.resume_command}")
    return [_member(run, trial) for trial in ranked]


def _member(run: RunDirectory, trial: FrozenTrial) -> Member:
    best = best_report(reports_of(trial))
    return Member(
        run=run.name,
        uid=run.uid,
        number=trial.number,
        job=recorded_job(run, trial),
        update=best.update,
        head=best.head,
        val_H=best.metrics[f"{metric_prefix(run.search.protocol)}/{best.head}/H"],
        directory=run.trial(trial.number),
        confirmed=run.path / "confirm" / f"trial-{trial.number:05d}",
    )


def _counted(trials: Iterable[FrozenTrial]) -> dict[str, int]:
    names = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    states = [trial.state for trial in trials]
    found = {name: states.count(state) for name, state in names.items()}
    return {**found, "interrupted": len(states) - sum(found.values())}

"""Which of a search's best trials is confirmed: trained again with fresh seeds, the worse half given up each round.

The best of many noisy trials is so in part by luck. What a trial had in the search only makes it a candidate.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from optuna.trial import FrozenTrial

from d3tune.config import SearchConfig, SelectionProtocol, metric_prefix
from d3tune.errors import UsageError
from d3tune.search.aims import value_of
from d3tune.search.confirm import ConfirmationFailedError, confirmation_seeds, curves_with, point_of
from d3tune.search.executor import Executor, StopSignal
from d3tune.search.exported import confirmation_store
from d3tune.search.jobs import TrainingJob
from d3tune.search.reports import Report
from d3tune.search.run import RunDirectory
from d3tune.search.standing import best_of
from d3tune.search.unmet import unmet_constraints
from d3tune.words import TEST_SELECTED, plural


@dataclass
class Candidate:
    """A trial that is trained again.

    Attributes:
        trial: its number.
        searched_value: what it had in the search, where it was one of the best for that.
        job: its configuration.
        store: where its curves are kept, for the confirmation too.
        seeds: fresh ones that it was trained with.
        curves: its reports, one list a seed.
        failure: why a training with the last of the seeds failed; empty where none did.
    """

    trial: int
    searched_value: float
    job: TrainingJob
    store: Path
    seeds: list[int] = field(default_factory=list)
    curves: list[list[Report]] = field(default_factory=list)
    failure: str = ""

    @property
    def values(self) -> list[float]:
        """The objective with each seed, in [0, 1], at the evaluation and head that the mean curve chooses."""
        if not self.curves:
            return []
        index, head = point_of(self.curves, self.job)
        key = f"{metric_prefix(self.job.protocol)}/{head}/{self.job.objective}"
        return [reports[index].metrics[key] for reports in self.curves]

    def unmet(self, search: SearchConfig) -> list[str]:
        """The search's constraints that do not hold of it on average over its seeds."""
        return unmet_constraints(self.curves, self.job, search) if self.curves else []

    @property
    def mean(self) -> float:
        """Over its seeds."""
        return fmean(self.values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: ``mean`` is None without, ``sd`` (n − 1) with fewer than two seeds."""
        values = self.values
        return {
            "trial": self.trial,
            "searched_value": self.searched_value,
            "mean": fmean(values) if values else None,
            "sd": stdev(values) if len(values) > 1 else None,
            "value_per_seed": dict(zip(map(str, self.seeds), values, strict=False)),
            "failure": self.failure or None,
        }


@dataclass(frozen=True)
class Choice:
    """What came of the candidates.

    Attributes:
        candidates: the chosen one first, then those that were given up, the last one first.
    """

    candidates: tuple[Candidate, ...]

    @property
    def chosen(self) -> int:
        """The number of the trial that is confirmed."""
        return self.candidates[0].trial

    @property
    def optimism(self) -> float | None:
        """What the search's best trial promised beyond its own mean with fresh seeds; None where that failed."""
        best = max(self.candidates, key=lambda item: (item.searched_value, -item.trial))
        return best.searched_value - best.mean if best.curves else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the summary and best.yaml."""
        rows = [candidate.to_dict() for candidate in self.candidates]
        return {"chosen": self.chosen, "optimism": self.optimism, "candidates": rows}


def check_top(confirm_top: int, protocol: str) -> None:
    """Refuse a choice among several where the test sets select: no test row may be read before it is made.

    Raises:
        UsageError: it is such a search.
    """
    published: SelectionProtocol = "published"
    if confirm_top > 1 and protocol == published:
        raise UsageError(
            f"--confirm-top {confirm_top}: the trials of a {TEST_SELECTED} search (protocol published) are not chosen "
            "among again; use protocol validation, or: --confirm-top 1"
        )


def choice_rounds(n_candidates: int) -> list[int]:
    """How many candidates are trained in each round of `choose`, if none fails."""
    rounds = []
    while n_candidates > 1:
        rounds.append(n_candidates)
        n_candidates -= n_candidates // 2
    return rounds


def choose(
    run: RunDirectory,
    trials: Sequence[FrozenTrial],
    top: int,
    job: Callable[[FrozenTrial], TrainingJob],
    executor: Executor,
    stop: StopSignal,
    say: Callable[[str], None],
) -> Choice | None:
    """Choose among the best trials by successive halving on the search's own validation splits.

    Each round trains every candidate that is left with one more fresh seed, then gives up the worse half by the mean
    over the seeds so far (of an odd number the smaller half; one that breaks more constraints is worse in any case),
    until one is left. The seeds are those of the
    confirmation, which takes the curves of the chosen one from where they are kept; a round that was interrupted goes
    on.

    Args:
        run: the search.
        trials: of its study.
        top: candidates at most, the COMPLETE trials with the largest values.
        job: of a trial.
        executor: where to train.
        stop: ends between trainings.
        say: takes one line a round.

    Returns:
        None where there are not two candidates.

    Raises:
        ConfirmationFailedError: all of them failed.
    """
    left = [
        Candidate(trial.number, float(value_of(trial) or 0), job(trial), confirmation_store(run, trial.number))
        for trial in best_of(trials, top)
    ]
    if len(left) < 2:
        return None
    metric, given_up, n_rounds = run.search.searched_metric, list[Candidate](), 0
    say(f"choosing among the best {plural(len(left), 'trial')} by {metric} with fresh seeds")
    while len(left) > 1:
        n_rounds += 1
        seed = confirmation_seeds(run.search.seed, n_rounds)[-1]
        _train(left, seed, executor, stop)
        sound = sorted(
            (item for item in left if not item.failure),
            key=lambda item: (len(item.unmet(run.search)), -item.mean, item.trial),
        )
        failed = [item for item in left if item.failure]
        if not sound:
            # those that were given up before are better than none
            sound = [item for item in given_up if not item.failure][:1]
            given_up = [item for item in given_up if item not in sound]
        if not sound:
            raise ConfirmationFailedError(failed[0].failure, "none of the candidates is left; use --confirm-top 1")
        n_kept = len(left) - len(left) // 2
        # what is given up last comes first
        given_up = [*sound[n_kept:], *failed, *given_up]
        say(f"round {n_rounds}, seed {seed}: {_ranked(sound, n_kept, failed)}")
        left = sound[:n_kept]
    return Choice((*left, *given_up))


def _train(left: Sequence[Candidate], seed: int, executor: Executor, stop: StopSignal) -> None:
    found = curves_with(seed, [(item.job, item.store) for item in left], executor, stop)
    for item, reports in zip(left, found, strict=True):
        item.seeds.append(seed)
        if isinstance(reports, ConfirmationFailedError):
            item.failure = reports.reason
        else:
            item.curves.append(reports)


def _ranked(sound: Sequence[Candidate], n_kept: int, failed: Sequence[Candidate]) -> str:
    def words(items: Sequence[Candidate]) -> str:
        return ", ".join(f"trial {item.trial} {item.mean:.3f}" for item in items)

    given_up = [words(sound[n_kept:])] if sound[n_kept:] else []
    given_up += [f"trial {item.trial} failed ({item.failure})" for item in failed]
    return words(sound[:n_kept]) + (f"; given up: {', '.join(given_up)}" if given_up else "")

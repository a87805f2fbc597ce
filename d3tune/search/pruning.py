"""Which running trial to stop: pruning rules over the study's intermediate values, the best objective so far."""

import bisect
import math

import optuna
from optuna.trial import FrozenTrial, TrialState

from d3tune.config import Pruner
from d3tune.search.storage import OpenTrials

GRACE_SHARE = 0.25
REDUCTION_FACTOR = 2
MIN_COMPETITORS = 4


def make_pruner(kind: Pruner, updates: int, comparable: bool = True) -> optuna.pruners.BasePruner:
    """A pruner whose resource is generator updates.

    Args:
        kind: ``auto`` and ``asha`` keep half of the trials from a quarter of the budget on, see `CautiousHalving`;
            ``hyperband`` mixes brackets of halving.
        updates: the full budget.
        comparable: whether the objective alone says which trial is better; else nothing is pruned.
    """
    grace = max(1, int(GRACE_SHARE * updates))
    if kind == "none" or not comparable:
        return optuna.pruners.NopPruner()
    if kind == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=grace, max_resource=updates, reduction_factor=REDUCTION_FACTOR
        )
    return CautiousHalving(grace)


class CautiousHalving(optuna.pruners.BasePruner):
    """Asynchronous successive halving (Li et al., ASHA, 2020) that prunes nobody before a few trials were at a rung.

    Plain halving compares the second trial with the first alone and prunes one of them, whatever they are worth: a
    search of a dozen trials would lose its warm starts to a coin toss. A trial that failed is no competitor: what it
    reached before it diverged is no value to beat.

    Made for one study.
    """

    def __init__(self, grace: int) -> None:
        """Halve at ``grace``, 2·``grace``, 4·``grace`` … updates."""
        self._grace = grace
        self._ended = _Ended()

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """See `optuna.pruners.BasePruner.prune`; asked at a trial's first report at or after a rung."""
        step = trial.last_step or 0
        if step < self._grace:
            return False
        rung = self._grace * REDUCTION_FACTOR ** int(math.log2(step / self._grace) / math.log2(REDUCTION_FACTOR))
        if any(rung <= earlier < step for earlier in trial.intermediate_values):
            return False
        running = self._ended.take(study)
        others = [value for other in running if (value := _value_at(rung, other)) is not None]
        values = sorted([*self._ended.values_at(rung), *others], reverse=True)
        if len(values) < MIN_COMPETITORS:
            return False
        kept = max(1, len(values) // REDUCTION_FACTOR)
        return bool(trial.intermediate_values[step] < values[kept - 1])


class _Ended:
    """Values of one study's ended trials by rung, sorted: they change no more, and a long search has thousands."""

    def __init__(self) -> None:
        self._open = OpenTrials(lambda trial: not trial.state.is_finished())
        self._trials: list[FrozenTrial] = []
        self._values: dict[int, tuple[int, list[float]]] = {}

    def take(self, study: optuna.Study) -> list[FrozenTrial]:
        """Take the trials that ended since the last call; returns those that run."""
        taken = self._open.take(study._storage, study._study_id)
        self._trials += [trial for trial in taken if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        return [trial for trial in taken if not trial.state.is_finished()]

    def values_at(self, rung: int) -> list[float]:
        """See `_value_at`."""
        taken, values = self._values.get(rung, (0, []))
        for trial in self._trials[taken:]:
            value = _value_at(rung, trial)
            if value is not None:
                bisect.insort(values, value)
        self._values[rung] = (len(self._trials), values)
        return values


def _value_at(rung: int, trial: FrozenTrial) -> float | None:
    """A trial's value at its first report at or after a rung; None where it did not get there."""
    reached = [step for step in trial.intermediate_values if step >= rung]
    return trial.intermediate_values[min(reached)] if reached else None

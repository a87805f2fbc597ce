"""Which running trial to stop: pruning rules over the study's intermediate values, the best objective so far."""

import math
from collections.abc import Iterable

import optuna
from optuna.trial import FrozenTrial, TrialState

from d3tune.config import Pruner

GRACE_SHARE = 0.25
REDUCTION_FACTOR = 2
MIN_COMPETITORS = 4


def make_pruner(kind: Pruner, updates: int) -> optuna.pruners.BasePruner:
    """A pruner whose resource is generator updates.

    Args:
        kind: ``auto`` and ``asha`` keep half of the trials from a quarter of the budget on, see `CautiousHalving`;
            ``hyperband`` mixes brackets of halving.
        updates: the full budget.
    """
    grace = max(1, int(GRACE_SHARE * updates))
    if kind == "none":
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
    """

    def __init__(self, grace: int) -> None:
        """Halve at ``grace``, 2·``grace``, 4·``grace`` … updates."""
        self._grace = grace

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """See `optuna.pruners.BasePruner.prune`; asked at a trial's first report at or after a rung."""
        step = trial.last_step or 0
        if step < self._grace:
            return False
        rung = self._grace * REDUCTION_FACTOR ** int(math.log2(step / self._grace) / math.log2(REDUCTION_FACTOR))
        if any(rung <= earlier < step for earlier in trial.intermediate_values):
            return False
        rivals = (other for other in study.get_trials(deepcopy=False) if other.state != TrialState.FAIL)
        values = sorted(_values_at(rung, rivals), reverse=True)
        if len(values) < MIN_COMPETITORS:
            return False
        kept = max(1, len(values) // REDUCTION_FACTOR)
        return bool(trial.intermediate_values[step] < values[kept - 1])


def _values_at(rung: int, trials: Iterable[FrozenTrial]) -> list[float]:
    """Each trial's value at its first report at or after a rung; trials that did not get there have none."""
    found = []
    for trial in trials:
        reached = [step for step in trial.intermediate_values if step >= rung]
        if reached:
            found.append(trial.intermediate_values[min(reached)])
    return found

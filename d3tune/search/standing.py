"""How far a study is, kept as its trials begin and end: a long search cannot list them all at each."""

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Sequence

from optuna.trial import FrozenTrial, TrialState


class Standing:
    """Of one study.

    Attributes:
        begun: trials that were ever given out.
        states: of those that have ended, how many are COMPLETE, PRUNED and FAIL.
        best: see `winner`.
    """

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        """Begin with the trials that are there, none of them WAITING."""
        self.begun = len(trials)
        self.states = Counter(trial.state for trial in trials if trial.state.is_finished())
        self.best = winner(trials)

    @property
    def ended(self) -> int:
        """How many trials are COMPLETE, PRUNED or FAIL."""
        return self.states.total()

    def begin(self) -> None:
        """One more was given out."""
        self.begun += 1

    def end(self, trial: FrozenTrial) -> None:
        """This one, given out before, has ended."""
        self.states[trial.state] += 1
        self.best = winner([trial] if self.best is None else [self.best, trial])


def winner(trials: Iterable[FrozenTrial]) -> FrozenTrial | None:
    """The COMPLETE trial with the largest value, the earliest of equals; None where there is none."""
    return next(iter(best_of(trials, 1)), None)


def best_of(trials: Iterable[FrozenTrial], count: int) -> list[FrozenTrial]:
    """The COMPLETE trials with the largest values, the largest first, the earlier of equals first.

    Args:
        trials: of a study.
        count: how many at most.
    """
    complete = [(t.value, -t.number, t) for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    finite = (item for item in complete if math.isfinite(item[0]))
    return [trial for *_, trial in heapq.nlargest(count, finite, key=lambda item: item[:2])]

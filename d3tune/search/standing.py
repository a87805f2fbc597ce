"""How far a study is, kept as its trials begin and end: a long search cannot list them all at each."""

import math
from collections.abc import Iterable, Sequence

from optuna.trial import FrozenTrial, TrialState


class Standing:
    """Of one study.

    Attributes:
        begun: trials that were ever given out.
        ended: those of them that are COMPLETE, PRUNED or FAIL.
        best: see `winner`.
    """

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        """Begin with the trials that are there, none of them WAITING."""
        self.begun = len(trials)
        self.ended = sum(trial.state.is_finished() for trial in trials)
        self.best = winner(trials)

    def begin(self) -> None:
        """One more was given out."""
        self.begun += 1

    def end(self, trial: FrozenTrial) -> None:
        """This one, given out before, has ended."""
        self.ended += 1
        self.best = winner([trial] if self.best is None else [self.best, trial])


def winner(trials: Iterable[FrozenTrial]) -> FrozenTrial | None:
    """The COMPLETE trial with the largest value, the earliest of equals; None where there is none."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None and math.isfinite(t.value)]
    return max(complete, key=lambda t: (t.value, -t.number)) if complete else None

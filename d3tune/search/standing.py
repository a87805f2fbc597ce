"""How far a study is, kept as its trials begin and end: a long search cannot list them all at each."""

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Sequence

from optuna.trial import FrozenTrial, TrialState

from d3tune.search.aims import is_feasible, value_of


class Standing:
    """Of one study.

    Attributes:
        begun: trials that were ever given out.
        states: of those that have ended, how many are COMPLETE, PRUNED and FAIL.
        best: see `winner`.
        values: of those that have ended, in their order, the objective; minus infinity of one that cannot win.
    """

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        """Begin with the trials that are there, none of them WAITING."""
        self.begun = len(trials)
        self.states = Counter(trial.state for trial in trials if trial.state.is_finished())
        self.best = winner(trials)
        self.values = [_value_to_win(trial) for trial in trials if trial.state.is_finished()]

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
        self.values.append(_value_to_win(trial))
        self.best = winner([trial] if self.best is None else [self.best, trial])


def _value_to_win(trial: FrozenTrial) -> float:
    """The objective of a trial that may win, of a pruned one so far as it came; minus infinity of any other."""
    value = value_of(trial) if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) else None
    return -math.inf if value is None or not math.isfinite(value) or not is_feasible(trial) else value


def winner(trials: Iterable[FrozenTrial]) -> FrozenTrial | None:
    """The COMPLETE trial with the largest objective, the earliest of equals; None where there is none.

    One of which a constraint does not hold cannot win.
    """
    return next(iter(best_of(trials, 1)), None)


def best_of(trials: Iterable[FrozenTrial], count: int) -> list[FrozenTrial]:
    """The COMPLETE trials of the largest objective, the largest first, the earlier of equals first.

    Args:
        trials: of a study; those of which a constraint does not hold are left out.
        count: how many at most.
    """
    complete = [(value_of(t), -t.number, t) for t in trials if t.state == TrialState.COMPLETE and is_feasible(t)]
    finite = ((value, order, trial) for value, order, trial in complete if value is not None and math.isfinite(value))
    return [trial for *_, trial in heapq.nlargest(count, finite, key=lambda item: item[:2])]


def ranked_trials(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The COMPLETE trials, the best first: those of which a constraint does not hold come after all others."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return sorted(complete, key=lambda trial: (not is_feasible(trial), -(value_of(trial) or 0.0), trial.number))

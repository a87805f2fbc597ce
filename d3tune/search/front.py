"""The Pareto front of a search with two aims: trials that no other one equals or exceeds in both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from d3tune.config import SearchConfig
from d3tune.search.aims import SECONDS, directions, is_feasible, value_of


@dataclass(frozen=True)
class Front:
    """What a search with two aims found.

    Attributes:
        aims: their names.
        trials: of the front, the best in the first aim first.
        hypervolume: share in [0, 1] of the box between the reference point and the ideal that the front dominates.
        reference: the worst that counts, for each aim: accuracy 0, the most seconds that a complete trial took up to
            its best evaluation.
    """

    aims: tuple[str, ...]
    trials: tuple[FrozenTrial, ...]
    hypervolume: float
    reference: tuple[float, ...]

    @property
    def box(self) -> str:
        """Of what the hypervolume is a share; two are comparable where that is the same."""
        return "of the box up to " + ", ".join(f"{n} {v:.3g}" for n, v in zip(self.aims, self.reference, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a summary."""
        points = [
            {"trial": trial.number, "values": list(trial.values), "value": value_of(trial)} for trial in self.trials
        ]
        return {"points": points, "hypervolume": self.hypervolume, "reference": list(self.reference)}


def front_of(trials: Sequence[FrozenTrial], search: SearchConfig) -> Front | None:
    """The front of a study's complete trials of which every constraint holds; None of a search with one aim.

    Of trials that are equal in both aims the earliest is taken.
    """
    if not search.aims:
        return None
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    signs = [-1.0 if way == StudyDirection.MINIMIZE else 1.0 for way in directions(search)]
    reference = tuple(_worst(complete, index) if name == SECONDS else 0.0 for index, name in enumerate(search.aims))
    points = {
        trial.number: tuple(sign * value for sign, value in zip(signs, trial.values, strict=True))
        for trial in complete
        if is_feasible(trial)
    }
    by_number = {trial.number: trial for trial in complete}
    chosen = tuple(by_number[number] for number in _undominated(points))
    gains = [tuple(map(_gain, search.aims, trial.values, reference)) for trial in chosen]
    return Front(tuple(search.aims), chosen, _area(gains), reference)


def _worst(trials: Sequence[FrozenTrial], index: int) -> float:
    return max((trial.values[index] for trial in trials), default=0.0)


def _undominated(points: dict[int, tuple[float, ...]]) -> list[int]:
    """Numbers of the points that no other one equals or exceeds in both, from the largest first coordinate on."""
    chosen: list[int] = []
    highest = float("-inf")
    for number in sorted(points, key=lambda number: (-points[number][0], -points[number][1], number)):
        if points[number][1] > highest:
            chosen.append(number)
            highest = points[number][1]
    return chosen


def _gain(name: str, value: float, worst: float) -> float:
    """An aim in [0, 1]: 0 at the reference, 1 at the ideal."""
    if name != SECONDS:
        return value
    return 1 - value / worst if worst > 0 else 0.0


def _area(gains: Sequence[tuple[float, ...]]) -> float:
    """Area below a staircase of points whose first coordinate falls while the second rises."""
    covered = 0.0
    for (first, second), before in zip(gains, [(0.0, 0.0), *gains], strict=False):
        covered += first * (second - before[1])
    return covered

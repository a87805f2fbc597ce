"""An ensemble as one map: the weighted sum of its members' scores, each in units of its own spread."""

from dataclasses import dataclass

from torch import Tensor

from d3tune.method.ensembling import spread
from d3tune.method.parts import Part


@dataclass(frozen=True, eq=False)
class Standardised(Part):
    """A member's scores of features as they were measured, each row centred, see `d3tune.method.ensembling`.

    Attributes:
        score: from features, scaled as the member has them, to class scores.
        shift: (X,) that its scaling subtracts.
        divisor: (X,) that it then divides by.
        unit: scalar float64 > 0, the spread of its scores on the rows that it was fitted on.
    """

    score: Part
    shift: Tensor
    divisor: Tensor
    unit: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Rows (n, X) to (n, N) float64."""
        scores = self.score((x - self.shift) / self.divisor).double()
        return (scores - scores.mean(dim=1, keepdim=True)) / self.unit


@dataclass(frozen=True, eq=False)
class Weighted(Part):
    """The weighted sum of several scores of the same rows.

    Attributes:
        scores: each from rows to class scores.
        weights: one each.
    """

    scores: tuple[Part, ...]
    weights: tuple[float, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Rows (n, X) to (n, N) float64, summed in the order of `d3tune.method.ensembling.mixed`."""
        first, *others = zip(self.scores, self.weights, strict=True)
        total = first[1] * first[0](x)
        for score, weight in others:
            total = total + weight * score(x)
        return total


def standardised_part(score: Part, shift: Tensor, divisor: Tensor, training_scores: Tensor) -> Standardised:
    """A member as a part of a mixture.

    Args:
        score: of scaled features.
        shift: (X,) of its scaling.
        divisor: (X,) of its scaling.
        training_scores: (n, N) of the rows that it was fitted on.
    """
    return Standardised(score, shift, divisor, spread(training_scores))

"""Where a tested model is right and wrong: classes, confusions, the seen–unseen curve, the OOD score, as plain values.

A function of the very scores that gave the test figures; it chooses nothing.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from d3tune.method.metrics import (
    Accuracies,
    Scores,
    accuracies,
    auroc,
    fpr_at_95,
    predictions,
    seen_unseen_curve,
    threshold_of_95,
)
from d3tune.method.readings import OodScores, Readings
from d3tune.method.thinning import thinned
from d3tune.words import TEST_SELECTED

PAIRS = 20
CURVE_POINTS = 200
BINS = 40
# classes up to which the confusion matrix is small
MATRIX_CLASSES = 64
NAME_LENGTH = 80

# a mean over classes may end a rounding above 1
Share = Annotated[float, Field(ge=0, le=1 + 1e-9)]
Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class ClassResult(_Part):
    """One class: its ``name``, whether ``seen``, its test ``rows`` and the share of these that are right.

    ``accuracy`` is None for a class without a test row, which the means U and S leave out.
    """

    name: str
    seen: bool
    rows: Count
    accuracy: Share | None


class Confusion(_Part):
    """``rows`` of class ``true`` were told to be of class ``predicted``; both are places in the list of classes."""

    true: Count
    predicted: Count
    rows: Annotated[int, Field(ge=1)]


class Point(_Part):
    """U, S and H at one offset; ``chosen_on`` says whose rows chose the offset."""

    seen_offset: float
    U: Share
    S: Share
    H: Share
    chosen_on: str


class Curve(_Part):
    """U and S over rising offsets, at most `CURVE_POINTS`; ``AUSUC`` is that of all points."""

    U: tuple[Share, ...] = Field(min_length=2)
    S: tuple[Share, ...]
    seen_offset: tuple[float, ...]
    AUSUC: Share

    @model_validator(mode="after")
    def _aligned(self) -> "Curve":
        if not len(self.U) == len(self.S) == len(self.seen_offset):
            raise ValueError("U, S and seen_offset differ in length")
        return self


class OodHistogram(_Part):
    """An OOD score of the test rows.

    ``seen`` and ``unseen`` are counts of rows between neighbouring ``edges``, the last bin with both of its edges. Of
    the seen rows 95 % reach ``threshold``; FPR95 is the share of the unseen ones that do.
    """

    name: str
    edges: tuple[float, ...] = Field(min_length=2)
    seen: tuple[Count, ...]
    unseen: tuple[Count, ...]
    threshold: float
    AUROC: Share
    FPR95: Share

    @model_validator(mode="after")
    def _aligned(self) -> "OodHistogram":
        if not len(self.seen) == len(self.unseen) == len(self.edges) - 1:
            raise ValueError("edges and counts do not fit together")
        return self


class Analysis(_Part):
    """What one head's scores of the test rows say.

    Attributes:
        classes: all, in local order, the seen ones first.
        seen_as_unseen: the most frequent confusions of a seen class's rows with an unseen class, at most `PAIRS`.
        unseen_as_seen: the same in the other direction.
        matrix: counts [true][predicted] in the order of classes; None of more than `MATRIX_CLASSES`.
        curve: U and S over all offsets.
        chosen: at the offset from validation; everything above is at this one.
        test_optimal: at the offset that the test rows would have chosen: optimistic.
        ood: None where the backbone has no OOD score.
    """

    classes: tuple[ClassResult, ...] = Field(min_length=2)
    seen_as_unseen: tuple[Confusion, ...]
    unseen_as_seen: tuple[Confusion, ...]
    matrix: tuple[tuple[Count, ...], ...] | None
    curve: Curve
    chosen: Point
    test_optimal: Point
    ood: OodHistogram | None

    @model_validator(mode="after")
    def _within(self) -> "Analysis":
        pairs = (*self.seen_as_unseen, *self.unseen_as_seen)
        if any(max(pair.true, pair.predicted) >= len(self.classes) for pair in pairs):
            raise ValueError("a confusion is of a class that is not there")
        if any(self.classes[pair.true].rows < pair.rows for pair in pairs):
            raise ValueError("a confusion has more rows than its class")
        return self


def analyse(readings: Readings, head: str, seen_offset: float, names: Sequence[str]) -> Analysis:
    """Analyse what one evaluation read.

    Args:
        readings: of the test rows.
        head: the one that validation chose.
        seen_offset: δ from validation.
        names: of the N classes in local order.
    """
    scores = readings.scores[head]
    chosen, n_seen = accuracies(scores, seen_offset), scores.n_seen
    table = _confusions(scores, seen_offset, len(names))
    return Analysis(
        classes=_classes(table, names, n_seen),
        seen_as_unseen=_most_confused(table, range(n_seen), range(n_seen, len(names))),
        unseen_as_seen=_most_confused(table, range(n_seen, len(names)), range(n_seen)),
        matrix=table.tolist() if len(names) <= MATRIX_CLASSES else None,
        curve=_curve(scores, chosen.AUSUC),
        chosen=_point(chosen, "validation"),
        test_optimal=_point(accuracies(scores), f"test rows ({TEST_SELECTED})"),
        ood=None if readings.ood is None else _histogram(readings.ood),
    )


def _confusions(scores: Scores, seen_offset: float, n_classes: int) -> Tensor:
    """Counts (N, N) of rows, true class by predicted."""
    labels, predicted = torch.cat([scores.seen_y, scores.unseen_y]), torch.cat(predictions(scores, seen_offset))
    counts = torch.bincount(labels * n_classes + predicted, minlength=n_classes * n_classes)
    return counts.view(n_classes, n_classes).cpu()


def _classes(table: Tensor, names: Sequence[str], n_seen: int) -> tuple[ClassResult, ...]:
    rows, right = table.sum(dim=1).tolist(), table.diagonal().tolist()
    return tuple(
        ClassResult(name=name[:NAME_LENGTH], seen=i < n_seen, rows=n, accuracy=hits / n if n else None)
        for i, (name, n, hits) in enumerate(zip(names, rows, right, strict=True))
    )


def _most_confused(table: Tensor, true: range, predicted: range) -> tuple[Confusion, ...]:
    """The largest counts first; of equal ones the larger share of its class, then the earlier class."""
    part = table[true.start : true.stop, predicted.start : predicted.stop]
    found = [(true[i], predicted[j]) for i, j in part.nonzero().tolist()]
    rows = table.sum(dim=1)
    found.sort(key=lambda pair: (-int(table[pair]), int(rows[pair[0]]), pair))
    return tuple(Confusion(true=i, predicted=j, rows=int(table[i, j])) for i, j in found[:PAIRS])


def _curve(scores: Scores, ausuc: float) -> Curve:
    found: list[list[float]] = [values.tolist() for values in seen_unseen_curve(scores)]
    kept = thinned(found[0], found[1], CURVE_POINTS)
    u, s, offsets = (tuple(values[i] for i in kept) for values in found)
    return Curve(U=u, S=s, seen_offset=offsets, AUSUC=ausuc)


def _point(found: Accuracies, chosen_on: str) -> Point:
    return Point(seen_offset=found.seen_offset, U=found.U, S=found.S, H=found.H, chosen_on=chosen_on)


def _histogram(ood: OodScores) -> OodHistogram:
    seen, unseen = (part.double().cpu() for part in (ood.seen, ood.unseen))
    both = torch.cat([seen, unseen])
    low, high = float(both.min()), float(both.max())
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = torch.linspace(low, high, BINS + 1, dtype=torch.float64)
    return OodHistogram(
        name=ood.name,
        edges=tuple(edges.tolist()),
        seen=_counts(seen, edges),
        unseen=_counts(unseen, edges),
        threshold=float(threshold_of_95(ood.seen)),
        AUROC=auroc(ood.seen, ood.unseen),
        FPR95=fpr_at_95(ood.seen, ood.unseen),
    )


def _counts(values: Tensor, edges: Tensor) -> tuple[int, ...]:
    """Rows between neighbouring edges; the inner edges belong to the bin on their right."""
    bins = torch.searchsorted(edges[1:-1].contiguous(), values, right=True)
    return tuple(torch.bincount(bins, minlength=len(edges) - 1).tolist())

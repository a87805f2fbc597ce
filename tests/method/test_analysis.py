"""The analysis of a test against loops over rows: classes, confusions, curve, OOD score."""

import math
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from d3tune.method.analysis import BINS, CURVE_POINTS, MATRIX_CLASSES, PAIRS, Analysis, analyse
from d3tune.method.metrics import Scores, accuracies, auroc, fpr_at_95
from d3tune.method.readings import OodScores, Readings
from d3tune.method.thinning import thinned
from d3tune.words import TEST_SELECTED

Array = npt.NDArray[Any]


class Problem:
    """Random scores of both test sets; with few levels many of them are equal."""

    def __init__(
        self, seed: int, n_seen: int = 5, n_unseen: int = 3, rows: int = 40, levels: int | None = None
    ) -> None:
        rng = np.random.default_rng(seed)
        self.n_seen, self.n_classes = n_seen, n_seen + n_unseen
        # the last seen class has no row
        self.seen_y = rng.integers(0, n_seen - 1, rows)
        self.unseen_y = rng.integers(n_seen, self.n_classes, rows)
        self.seen, self.unseen = (self._scores(rng, y, levels) for y in (self.seen_y, self.unseen_y))
        self.ood_seen, self.ood_unseen = rng.normal(1, 1, rows), rng.normal(0, 1, rows)
        if levels is not None:
            self.ood_seen, self.ood_unseen = self.ood_seen.round(), self.ood_unseen.round()
        self.names = [f"class {i}" for i in range(self.n_classes)]

    def _scores(self, rng: np.random.Generator, y: Array, levels: int | None) -> Array:
        scores = rng.normal(size=(len(y), self.n_classes)) + 1.5 * np.eye(self.n_classes)[y]
        scores[:, : self.n_seen] += 0.7
        return scores if levels is None else np.round(scores * levels / 4)

    def readings(self, ood: bool = True) -> Readings:
        scores = Scores(*map(torch.tensor, (self.seen, self.seen_y, self.unseen, self.unseen_y)), self.n_seen)
        found = OodScores("teacher's msp", torch.tensor(self.ood_seen), torch.tensor(self.ood_unseen))
        return Readings({"head": scores}, found if ood else None)

    def analysis(self, offset: float) -> Analysis:
        return analyse(self.readings(), "head", offset, self.names)

    def told(self, offset: float) -> list[tuple[int, int]]:
        """Each row's class and the first of the largest scores, one comparison after another."""
        pairs = []
        for scores, labels in ((self.seen, self.seen_y), (self.unseen, self.unseen_y)):
            for row, label in zip(scores, labels, strict=True):
                best, best_class = -math.inf, -1
                for c, score in enumerate(row):
                    value = score - offset if c < self.n_seen else score
                    if value > best:
                        best, best_class = value, c
                pairs.append((int(label), best_class))
        return pairs

    def mean_accuracy(self, offset: float, seen: bool) -> float:
        told = [(y, p) for y, p in self.told(offset) if (y < self.n_seen) == seen]
        return float(np.mean([np.mean([p == y for y, p in told if y == c]) for c in sorted({y for y, _ in told})]))


# offsets on a grid of quarters, like scores with few levels: margins equal to the offset occur
PROBLEMS = [
    (Problem(seed, rows=rows, levels=levels), offset)
    for seed, rows, levels, offset in ((0, 40, None, 0.3), (1, 200, 4, 1.0), (2, 80, 2, 0.0), (3, 3, None, -0.4))
]


@pytest.mark.parametrize(("problem", "offset"), PROBLEMS)
def test_classes_and_confusions_are_those_of_a_loop_over_rows(problem: Problem, offset: float) -> None:
    found, counts = problem.analysis(offset), Counter(problem.told(offset))
    for c, row in enumerate(found.classes):
        rows = sum(n for (y, _), n in counts.items() if y == c)
        assert (row.name, row.seen, row.rows) == (f"class {c}", c < problem.n_seen, rows)
        assert row.accuracy == (counts[c, c] / rows if rows else None)
    assert found.classes[problem.n_seen - 1].accuracy is None
    assert found.matrix == tuple(
        tuple(counts[y, p] for p in range(problem.n_classes)) for y in range(problem.n_classes)
    )
    for pairs, from_seen in ((found.seen_as_unseen, True), (found.unseen_as_seen, False)):
        crossing = {
            (y, p): n
            for (y, p), n in counts.items()
            if (y < problem.n_seen) == from_seen and (p < problem.n_seen) != from_seen
        }
        assert {(pair.true, pair.predicted): pair.rows for pair in pairs} == crossing
        numbers = [pair.rows for pair in pairs]
        assert numbers == sorted(numbers, reverse=True)


@pytest.mark.parametrize(("problem", "offset"), PROBLEMS)
def test_points_and_curve_are_the_accuracies_of_their_offsets(problem: Problem, offset: float) -> None:
    found = problem.analysis(offset)
    points = [(p.seen_offset, p.U, p.S) for p in (found.chosen, found.test_optimal)]
    curve = list(zip(found.curve.seen_offset, found.curve.U, found.curve.S, strict=True))
    for at, u, s in points + curve[:: max(1, len(curve) // 25)]:
        assert u == pytest.approx(problem.mean_accuracy(at, seen=False), abs=1e-12)
        assert s == pytest.approx(problem.mean_accuracy(at, seen=True), abs=1e-12)
    assert found.chosen.seen_offset == offset
    assert list(found.curve.seen_offset) == sorted(found.curve.seen_offset)
    assert (curve[0][1], curve[-1][2]) == (0, 0)
    for point in (found.chosen, found.test_optimal):
        assert pytest.approx(2 * point.U * point.S / max(point.U + point.S, 1e-12), abs=1e-12) == point.H
    assert found.test_optimal.H >= found.chosen.H


def test_figures_are_the_very_ones_of_the_evaluation() -> None:
    problem, offset = PROBLEMS[0]
    found, test = problem.analysis(offset), accuracies(problem.readings().scores["head"], offset)
    assert (found.chosen.H, found.chosen.U, found.chosen.S) == (test.H, test.U, test.S)
    assert found.curve.AUSUC == test.AUSUC
    best = accuracies(problem.readings().scores["head"])
    assert (found.test_optimal.H, found.test_optimal.seen_offset) == (best.H, best.seen_offset)


def test_what_the_test_rows_chose_is_labelled_and_the_rest_is_not() -> None:
    found = PROBLEMS[0][0].analysis(0.3)
    assert TEST_SELECTED in found.test_optimal.chosen_on
    assert found.chosen.chosen_on == "validation"


@pytest.mark.parametrize(("problem", "offset"), PROBLEMS)
def test_ood_histogram_counts_every_row(problem: Problem, offset: float) -> None:
    found = problem.analysis(offset).ood
    assert found is not None
    edges = np.array(found.edges)
    assert len(edges) == BINS + 1
    for counts, values in ((found.seen, problem.ood_seen), (found.unseen, problem.ood_unseen)):
        slow = [0] * BINS
        for value in values:
            slow[max(i for i in range(BINS) if edges[i] <= value)] += 1
        assert list(counts) == slow
    above = [[(a > b) + (a == b) / 2 for b in problem.ood_unseen] for a in problem.ood_seen]
    assert pytest.approx(np.mean(above)) == found.AUROC
    assert np.mean(problem.ood_seen >= found.threshold) >= 0.95
    assert np.mean(problem.ood_seen > found.threshold) < 0.95
    assert pytest.approx(np.mean(problem.ood_unseen >= found.threshold)) == found.FPR95
    seen, unseen = torch.tensor(problem.ood_seen), torch.tensor(problem.ood_unseen)
    assert auroc(seen, unseen) == found.AUROC
    assert fpr_at_95(seen, unseen) == found.FPR95


def test_one_ood_value_alone_still_has_bins() -> None:
    readings = PROBLEMS[0][0].readings()
    readings.ood = OodScores("x", torch.full((4,), 2.0), torch.full((3,), 2.0))
    found = analyse(readings, "head", 0.0, PROBLEMS[0][0].names).ood
    assert found is not None
    assert (sum(found.seen), sum(found.unseen), found.AUROC) == (4, 3, 0.5)


def test_without_an_ood_score_there_is_no_histogram() -> None:
    problem = PROBLEMS[0][0]
    assert analyse(problem.readings(ood=False), "head", 0.0, problem.names).ood is None


def test_only_the_most_frequent_pairs_are_kept() -> None:
    problem = Problem(4, n_seen=30, n_unseen=20, rows=3000)
    found, counts = problem.analysis(0.5), Counter(problem.told(0.5))
    crossing = sorted((n for (y, p), n in counts.items() if y < 30 <= p), reverse=True)
    assert [pair.rows for pair in found.seen_as_unseen] == crossing[:PAIRS]
    assert len(found.unseen_as_seen) == PAIRS


def test_large_sets_stay_small_and_their_curve_keeps_its_area() -> None:
    """200 classes of CUB's test sizes, the size of the file included."""
    problem = Problem(5, n_seen=150, n_unseen=50, rows=2400)
    found = problem.analysis(0.5)
    assert found.matrix is None
    assert problem.n_classes > MATRIX_CLASSES
    assert len(found.curve.U) == CURVE_POINTS
    assert abs(np.trapezoid(found.curve.S, found.curve.U) - found.curve.AUSUC) < 1e-3
    assert len(found.model_dump_json(indent=2)) < 200_000
    small = Problem(6, n_seen=40, n_unseen=MATRIX_CLASSES - 40, rows=2000).analysis(0.0)
    assert small.matrix is not None
    assert len(small.model_dump_json(indent=2)) < 200_000


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=900), st.sampled_from([50, 200]))
def test_a_thinned_curve_keeps_its_ends_and_its_area(steps: list[tuple[int, int]], most: int) -> None:
    """Also a staircase, whose corners are all alike and lie on both sides."""
    x, y = np.cumsum([(0, 0), *steps], axis=0).T / max(1, *np.sum(steps, axis=0))
    kept = thinned(x.tolist(), (-y).tolist(), most)
    assert (kept[0], kept[-1]) == (0, len(x) - 1)
    assert len(kept) == min(most, len(x))
    assert abs(np.trapezoid(y[kept], x[kept]) - np.trapezoid(y, x)) < 1e-3


@pytest.mark.parametrize("steps", [140, 200, 1500])
@pytest.mark.parametrize("flat", [1, 2])
def test_a_thinned_staircase_keeps_its_area(steps: int, flat: int) -> None:
    """Taking away whatever changes the area least is off by more: all corners are alike, on both sides."""
    right, down = np.tile([1] * flat + [0], steps), np.tile([0] * flat + [1], steps)
    x, y = np.append(0, right.cumsum()) / right.sum(), 1 - np.append(0, down.cumsum()) / down.sum()
    kept = thinned(x.tolist(), y.tolist(), CURVE_POINTS)
    assert len(kept) == CURVE_POINTS
    assert abs(np.trapezoid(y[kept], x[kept]) - np.trapezoid(y, x)) < 1e-3


@pytest.mark.parametrize(
    "change",
    [
        {"seen_as_unseen": [{"true": 0, "predicted": 99, "rows": 1}]},
        {"seen_as_unseen": [{"true": 0, "predicted": 6, "rows": 10_000}]},
        {"curve": {"U": [0, 1], "S": [1], "seen_offset": [0, 1], "AUSUC": 0.5}},
        {"classes": []},
    ],
)
def test_what_does_not_fit_together_is_no_analysis(change: dict[str, Any]) -> None:
    sound = PROBLEMS[0][0].analysis(0.3).model_dump()
    assert Analysis.model_validate(sound)
    with pytest.raises(ValidationError):
        Analysis.model_validate({**sound, **change})

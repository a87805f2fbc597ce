"""Metrics against brute force: every row by an arg max of its own, every offset tried."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d3tune.data.tensors import Tensors
from d3tune.method.metrics import (
    Accuracies,
    Scores,
    accuracies,
    auroc,
    fpr_at_95,
    harmonic_mean,
    margin_sd,
    read_scores,
)

Array = npt.NDArray[np.float64]
quick = settings(max_examples=60, deadline=None, database=None, derandomize=True)


class Problem:
    """Scores and labels as plain arrays, with the slow answers."""

    def __init__(self, seen: Array, seen_y: Sequence[int], unseen: Array, unseen_y: Sequence[int], n_seen: int) -> None:
        self.seen, self.seen_y = np.asarray(seen, dtype=np.float64), list(seen_y)
        self.unseen, self.unseen_y = np.asarray(unseen, dtype=np.float64), list(unseen_y)
        self.n_seen = n_seen

    def scores(self, dtype: torch.dtype = torch.float64) -> Scores:
        return Scores(
            torch.tensor(self.seen, dtype=dtype),
            torch.tensor(self.seen_y),
            torch.tensor(self.unseen, dtype=dtype),
            torch.tensor(self.unseen_y),
            self.n_seen,
        )

    def per_class(self, scores: Array, labels: list[int], offset: float, first: int = 0) -> float:
        right: dict[int, list[int]] = {}
        for row, label in zip(scores, labels, strict=True):
            best, best_class = -np.inf, -1
            for c in range(first, len(row)):
                value = row[c] - offset if c < self.n_seen else row[c]
                if value > best:
                    best, best_class = value, c
            right.setdefault(label, []).append(int(best_class == label))
        return float(np.mean([np.mean(hits) for hits in right.values()]))

    def u(self, offset: float) -> float:
        return self.per_class(self.unseen, self.unseen_y, offset)

    def s(self, offset: float) -> float:
        return self.per_class(self.seen, self.seen_y, offset)

    def h(self, offset: float) -> float:
        u, s = self.u(offset), self.s(offset)
        return 2 * u * s / (u + s) if u + s > 0 else 0.0

    def t1(self) -> float:
        return self.per_class(self.unseen, self.unseen_y, 0.0, first=self.n_seen)

    def offsets(self) -> list[float]:
        both = np.concatenate([self.seen, self.unseen])
        margins = sorted(set(both[:, : self.n_seen].max(axis=1) - both[:, self.n_seen :].max(axis=1)))
        return [margins[0] - 1, *((a + b) / 2 for a, b in pairwise(margins)), margins[-1] + 1]

    def area(self) -> float:
        points = [(self.u(offset), self.s(offset)) for offset in self.offsets()]
        return sum((u1 - u0) * (s0 + s1) / 2 for (u0, s0), (u1, s1) in pairwise(points))


def random_problem(seed: int, ties: bool) -> Problem:
    rng = np.random.default_rng(seed)
    n_seen, n_unseen = int(rng.integers(1, 5)), int(rng.integers(1, 4))

    def rows(first: int, n_classes: int) -> tuple[Array, list[int]]:
        counts = rng.integers(1, 6, size=n_classes)
        labels = np.repeat(np.arange(first, first + n_classes), counts)
        scores = rng.normal(size=(len(labels), n_seen + n_unseen))
        scores[np.arange(len(labels)), labels] += 0.8
        scores[:, :n_seen] += 1.0
        return np.round(2 * scores) / 2 if ties else scores, labels.tolist()

    return Problem(*rows(0, n_seen), *rows(n_seen, n_unseen), n_seen)


def assert_right(problem: Problem, found: Accuracies) -> None:
    best = max(problem.h(offset) for offset in problem.offsets())
    assert pytest.approx(best, abs=1e-12) == found.H
    assert problem.h(found.seen_offset) == pytest.approx(found.H, abs=1e-12)
    assert problem.u(found.seen_offset) == pytest.approx(found.U, abs=1e-12)
    assert problem.s(found.seen_offset) == pytest.approx(found.S, abs=1e-12)
    assert pytest.approx(problem.t1(), abs=1e-12) == found.T1
    assert pytest.approx(problem.area(), abs=1e-12) == found.AUSUC
    raw = (problem.h(0.0), problem.u(0.0), problem.s(0.0))
    assert (found.H_raw, found.U_raw, found.S_raw) == pytest.approx(raw, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("seed", range(30))
def test_random_problems_against_brute_force(seed: int, ties: bool) -> None:
    problem = random_problem(seed, ties)
    assert_right(problem, accuracies(problem.scores()))


@pytest.mark.parametrize("seed", range(10))
def test_given_offset(seed: int) -> None:
    problem = random_problem(seed, ties=True)
    for offset in (-1.5, 0.0, 0.25, 0.5, 2.0):
        found = accuracies(problem.scores(), offset)
        assert found.seen_offset == offset
        expected = (problem.h(offset), problem.u(offset), problem.s(offset))
        assert pytest.approx(expected, abs=1e-12) == (found.H, found.U, found.S)
        assert pytest.approx(problem.t1()) == found.T1
        assert pytest.approx(problem.area()) == found.AUSUC


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(10))
def test_the_chosen_offset_given_back_reproduces_everything(seed: int, dtype: torch.dtype) -> None:
    scores = random_problem(seed, ties=False).scores(dtype)
    found = accuracies(scores)
    assert accuracies(scores, found.seen_offset) == found


def test_a_worked_example() -> None:
    """Two seen and one unseen class; an unseen row is taken for seen by 1, a seen row is right by 3 and by 2."""
    problem = Problem(
        np.array([[5.0, 0, 2], [0.0, 4, 2], [3.0, 2, 0]]), [0, 1, 1], np.array([[3.0, 1, 2], [0.0, 1, 2]]), [2, 2], 2
    )
    found = accuracies(problem.scores())
    assert (found.U_raw, found.S_raw) == (0.5, 0.75)
    assert (1.0, 0.75, pytest.approx(6 / 7)) == (found.U, found.S, found.H)
    assert 1 < found.seen_offset < 2
    assert found.T1 == 1.0


def test_h_is_zero_where_both_are() -> None:
    problem = Problem(np.array([[0.0, 1, 0.5]]), [0], np.array([[2.0, 0, 1]]), [2], 2)
    problem.unseen[0, 1] = 3
    found = accuracies(problem.scores(), 0.0)
    assert (found.U, found.S, found.H) == (0.0, 0.0, 0.0)
    zero = torch.zeros(3)
    assert torch.equal(harmonic_mean(zero, zero), zero)


def test_classes_count_alike_whatever_their_rows() -> None:
    scores = np.array([[1.0, 0, 0]] * 9 + [[1.0, 0, 0]])
    problem = Problem(scores, [0] * 9 + [1], np.array([[0.0, 0, 1]]), [2], 2)
    assert pytest.approx(0.5) == accuracies(problem.scores(), 0.0).S


def test_classes_without_test_rows_do_not_count() -> None:
    problem = Problem(np.array([[1.0, 0, 0, 0, 0]]), [0], np.array([[0.0, 0, 0, 0, 1]]), [4], 3)
    found = accuracies(problem.scores(), 0.0)
    assert (found.S, found.U, found.T1) == (1.0, 1.0, 1.0)


def test_a_tie_between_seen_and_unseen_goes_to_seen() -> None:
    problem = Problem(np.array([[1.0, 1.0]]), [0], np.array([[1.0, 1.0]]), [1], 1)
    found = accuracies(problem.scores(), 0.0)
    assert (found.S, found.U) == (1.0, 0.0)


@pytest.mark.parametrize("size", [1e-12, 1e12, 1e18])
def test_size_of_scores_does_not_matter(size: float) -> None:
    problem = random_problem(3, ties=False)
    plain = accuracies(problem.scores())
    problem.seen, problem.unseen = size * problem.seen, size * problem.unseen
    found = accuracies(problem.scores())
    names = ("H", "U", "S", "T1", "AUSUC", "H_raw")
    assert [getattr(found, name) for name in names] == pytest.approx([getattr(plain, name) for name in names])


@st.composite
def problems(draw: Any) -> Problem:
    n_seen, n_unseen = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    whole = st.integers(-4, 4).map(float)

    def rows(first: int, n_classes: int) -> tuple[Array, list[int]]:
        labels = draw(st.lists(st.integers(first, first + n_classes - 1), min_size=1, max_size=7))
        cells = st.lists(whole, min_size=n_seen + n_unseen, max_size=n_seen + n_unseen)
        return np.array(draw(st.lists(cells, min_size=len(labels), max_size=len(labels)))), labels

    return Problem(*rows(0, n_seen), *rows(n_seen, n_unseen), n_seen)


@quick
@given(problems())
def test_any_problem_against_brute_force(problem: Problem) -> None:
    assert_right(problem, accuracies(problem.scores()))


@quick
@given(problems(), st.integers(-10, 10).map(lambda value: value / 2))
def test_no_offset_beats_the_calibrated_one(problem: Problem, offset: float) -> None:
    calibrated, given_offset = accuracies(problem.scores()), accuracies(problem.scores(), offset)
    assert given_offset.H <= calibrated.H + 1e-12
    assert calibrated.H_raw <= calibrated.H + 1e-12
    assert calibrated.U <= calibrated.T1 + 1e-12
    for name in ("H", "U", "S", "T1", "AUSUC", "H_raw", "U_raw", "S_raw"):
        assert -1e-12 <= getattr(calibrated, name) <= 1 + 1e-12


@quick
@given(problems(), st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(problem: Problem, random: Any) -> None:
    seen = random.sample(range(len(problem.seen_y)), len(problem.seen_y))
    unseen = random.sample(range(len(problem.unseen_y)), len(problem.unseen_y))
    shuffled = Problem(
        problem.seen[seen],
        [problem.seen_y[i] for i in seen],
        problem.unseen[unseen],
        [problem.unseen_y[i] for i in unseen],
        problem.n_seen,
    )
    one, other = vars(accuracies(problem.scores())), vars(accuracies(shuffled.scores()))
    names = one.keys() - {"seen_offset", "U", "S"}  # offsets of equal H may differ by rounding
    assert {name: one[name] for name in names} == pytest.approx({name: other[name] for name in names})


@quick
@given(problems(), st.lists(st.integers(-5, 5).map(float), min_size=14, max_size=14))
def test_a_constant_added_to_a_row_does_not_matter(problem: Problem, constants: list[float]) -> None:
    before = accuracies(problem.scores())
    n = len(problem.seen)
    problem.seen = problem.seen + np.array(constants[:n])[:, None]
    problem.unseen = problem.unseen + np.array(constants[n : n + len(problem.unseen)])[:, None]
    assert accuracies(problem.scores()) == before


@quick
@given(problems(), st.integers(-5, 5).map(float))
def test_a_shift_of_seen_scores_moves_the_offset_alone(problem: Problem, shift: float) -> None:
    before = accuracies(problem.scores())
    problem.seen[:, : problem.n_seen] += shift
    problem.unseen[:, : problem.n_seen] += shift
    after = accuracies(problem.scores())
    assert after.seen_offset == before.seen_offset + shift
    assert (after.H, after.U, after.S, after.AUSUC) == (before.H, before.U, before.S, before.AUSUC)


# --- out-of-distribution measures


def slow_auroc(inside: Sequence[float], outside: Sequence[float]) -> float:
    wins = 0.0
    for a in inside:
        for b in outside:
            wins += 1.0 if a > b else 0.5 if a == b else 0.0
    return wins / (len(inside) * len(outside))


def slow_fpr(inside: Sequence[float], outside: Sequence[float]) -> float:
    """The strictest threshold that still accepts 95 % of the seen rows."""
    for threshold in sorted(set(inside), reverse=True):
        if 100 * sum(a >= threshold for a in inside) >= 95 * len(inside):
            return sum(b >= threshold for b in outside) / len(outside)
    raise AssertionError


few = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=45)


@quick
@given(few, few)
def test_auroc_and_fpr_with_ties(inside: list[float], outside: list[float]) -> None:
    a, b = torch.tensor(inside), torch.tensor(outside)
    assert auroc(a, b) == pytest.approx(slow_auroc(inside, outside), abs=1e-12)
    assert fpr_at_95(a, b) == pytest.approx(slow_fpr(inside, outside), abs=1e-12)
    assert auroc(a, b) + auroc(b, a) == pytest.approx(1)


def test_auroc_and_fpr_without_ties() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 1, 60), rng.normal(0, 1, 33)
    a, b = torch.tensor(inside), torch.tensor(outside)
    assert auroc(a, b) == pytest.approx(slow_auroc(inside.tolist(), outside.tolist()))
    assert fpr_at_95(a, b) == pytest.approx(slow_fpr(inside.tolist(), outside.tolist()))
    assert auroc(torch.ones(3), torch.zeros(4)) == 1.0
    assert fpr_at_95(torch.ones(3), torch.zeros(4)) == 0.0
    assert fpr_at_95(torch.zeros(3), torch.ones(4)) == 1.0


def test_margin_sd_is_that_of_best_seen_less_best_unseen_by_a_loop() -> None:
    scores = np.random.default_rng(4).normal(size=(17, 5))
    margins = [max(row[:3]) - max(row[3:]) for row in scores]
    expected = np.sqrt(sum((m - np.mean(margins)) ** 2 for m in margins) / 16)
    assert margin_sd(torch.tensor(scores), 3).item() == pytest.approx(expected, rel=1e-12)
    assert margin_sd(torch.zeros(4, 5), 3).item() > 0


def test_scores_in_margin_units_have_margins_of_sd_1_on_training_rows(tiny: Tensors) -> None:
    weight = torch.tensor(np.random.default_rng(5).normal(size=(tiny.n_features, 9)), dtype=torch.float32)
    raw, scaled = (read_scores(tiny, lambda x: 40 * x @ weight, unit) for unit in ("score", "margin_sd"))  # type: ignore[arg-type]
    unit = margin_sd(40 * tiny.train_x @ weight, tiny.n_seen)
    assert torch.allclose(scaled.unseen * unit, raw.unseen)
    assert torch.allclose(scaled.seen * unit, raw.seen)
    in_scores, in_units = accuracies(raw), accuracies(scaled)
    assert pytest.approx(in_scores.H, abs=1e-9) == in_units.H
    assert in_units.seen_offset == pytest.approx(in_scores.seen_offset / unit.item(), rel=1e-4)


@pytest.mark.parametrize(("n_classes", "n_rows"), [(3, 48), (40, 1500)])
def test_guessing_stays_below_the_stated_chance(n_classes: int, n_rows: int) -> None:
    rng = np.random.default_rng(0)
    labels = 2 + np.arange(n_rows) % n_classes
    found = []
    for _ in range(200):
        guesses = torch.tensor(rng.random((n_rows, 2 + n_classes)))
        found.append(accuracies(Scores(guesses[:2], torch.tensor([0, 1]), guesses, torch.tensor(labels), 2)))
    assert sum(item.T1_chance < item.T1 for item in found) <= 2
    assert found[0].T1_chance < 1 / n_classes + 4 / np.sqrt(n_rows * n_classes)

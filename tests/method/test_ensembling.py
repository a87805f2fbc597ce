"""Ensembles of scores: one unit, their mean, and weights by greedy selection, beside slow formulas."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean

import numpy as np
import numpy.typing as npt
import pytest
import torch

from d3tune.method.ensembling import (
    LEAST_WEIGHT,
    calibrated_h,
    ensemble_weights,
    greedy_weights,
    mixed,
    spread,
    standardised,
)
from d3tune.method.metrics import Scores, accuracies

Array = npt.NDArray[np.float64]
N_SEEN, N_UNSEEN = 4, 3
N = N_SEEN + N_UNSEEN
Make = Callable[..., Scores]


@pytest.fixture
def make() -> Make:
    """``make(seed, noise)``: scores of rows of every class, right but for noise of the seed."""

    def scores(seed: int, noise: float = 1.0, bias: float = 0.0, rows: int = 8) -> Scores:
        rng = np.random.default_rng(seed)
        seen_y, unseen_y = np.repeat(np.arange(N_SEEN), rows), np.repeat(np.arange(N_SEEN, N), rows + 1)
        both = [np.eye(N)[y] + noise * rng.standard_normal((len(y), N)) for y in (seen_y, unseen_y)]
        for side in both:
            side[:, :N_SEEN] += bias
        seen, unseen = (torch.from_numpy(side) for side in both)
        return Scores(seen, torch.from_numpy(seen_y), unseen, torch.from_numpy(unseen_y), N_SEEN)

    return scores


def slow_h(scores: Sequence[Scores], weights: Sequence[float]) -> float:
    """The largest H over all offsets, each row and offset looked at by itself."""
    seen = sum(weight * item.seen.numpy() for weight, item in zip(weights, scores, strict=True))
    unseen = sum(weight * item.unseen.numpy() for weight, item in zip(weights, scores, strict=True))
    rows = [*zip(seen, scores[0].seen_y.tolist(), strict=True), *zip(unseen, scores[0].unseen_y.tolist(), strict=True)]
    margins = sorted(row[:N_SEEN].max() - row[N_SEEN:].max() for row, _ in rows)
    between = [(low + high) / 2 for low, high in pairwise(margins)]
    best = 0.0
    for offset in [margins[0] - 1, *between, margins[-1] + 1]:
        right: dict[int, list[bool]] = {label: [] for label in range(N)}
        for row, label in rows:
            moved = [score - offset * (place < N_SEEN) for place, score in enumerate(row)]
            right[label].append(moved.index(max(moved)) == label)
        s = fmean(fmean(right[label]) for label in range(N_SEEN))
        u = fmean(fmean(right[label]) for label in range(N_SEEN, N))
        best = max(best, 2 * u * s / (u + s) if u + s else 0.0)
    return best


def slow_greedy(members: Sequence[Sequence[Scores]], bag: Sequence[int], rounds: int) -> tuple[float, ...]:
    """Greedy selection by the means themselves."""
    chosen: list[int] = []
    best, found = -1.0, list[int]()
    for _ in range(rounds):
        tried = {}
        for index in bag:
            shares = [[*chosen, index].count(i) / (len(chosen) + 1) for i in range(len(members))]
            tried[index] = fmean(slow_h(split, shares) for split in zip(*members, strict=True))
        top = max(tried.values())
        chosen.append(next(index for index in bag if tried[index] > top - 1e-12))
        if top > best + 1e-12:
            best, found = top, list(chosen)
    return tuple(found.count(i) / len(found) for i in range(len(members)))


def test_the_spread_is_that_of_centred_rows() -> None:
    rows = np.random.default_rng(0).standard_normal((6, N)) * 3 + 5
    squares = [(value - fmean(row)) ** 2 for row in rows.tolist() for value in row]
    assert float(spread(torch.from_numpy(rows))) == pytest.approx(fmean(squares) ** 0.5, rel=1e-12)
    assert float(spread(torch.zeros(3, N))) > 0


def test_standardised_scores_do_not_depend_on_the_unit_of_a_member(make: Make) -> None:
    scores, training = make(0), make(1).seen
    plain = standardised(scores, training)
    shift = torch.arange(len(scores.seen)).double()[:, None]
    other = replace(scores, seen=7 * scores.seen + shift, unseen=7 * scores.unseen - 2)
    again = standardised(other, 7 * training + 11)
    torch.testing.assert_close(again.seen, plain.seen)
    torch.testing.assert_close(again.unseen, plain.unseen)
    torch.testing.assert_close(plain.seen.mean(dim=1), torch.zeros(len(plain.seen), dtype=torch.float64))
    torch.testing.assert_close(
        plain.seen.std(correction=0) ** 2, scores.seen.var(dim=1, correction=0).mean() / spread(training) ** 2
    )
    own, before = accuracies(plain).H, accuracies(scores).H
    assert own == pytest.approx(before)
    assert standardised(replace(scores, seen=scores.seen.float()), training).seen.dtype == torch.float64


def test_a_mixture_is_the_weighted_sum_of_each_row(make: Make) -> None:
    members = [make(seed) for seed in range(3)]
    whole = mixed(members, [0.5, 0.0, 0.25])
    for side in ("seen", "unseen"):
        a, _, c = (getattr(member, side).tolist() for member in members)
        slow = [[0.5 * x + 0.25 * z for x, z in zip(*rows, strict=True)] for rows in zip(a, c, strict=True)]
        assert np.allclose(getattr(whole, side).numpy(), slow, rtol=1e-12)
    assert torch.equal(whole.seen_y, members[0].seen_y)
    assert whole.n_seen == N_SEEN


def test_calibrated_h_is_the_best_over_offsets_and_the_mean_over_splits(make: Make) -> None:
    members = [[make(seed, bias=seed), make(10 + seed, rows=5)] for seed in range(2)]
    for weights in ((1.0, 0.0), (0.3, 0.7)):
        slow = fmean(slow_h(split, weights) for split in zip(*members, strict=True))
        assert calibrated_h(members, weights) == pytest.approx(slow, abs=1e-12)


@pytest.mark.parametrize("bag", [(0, 1, 2), (1, 2)])
def test_greedy_selection_is_that_of_the_slow_formula(make: Make, bag: tuple[int, ...]) -> None:
    # sums of few binary digits: equal means are equal sums
    members = [
        [rounded(make(seed, noise)), rounded(make(20 + seed, noise, rows=4))]
        for seed, noise in ((0, 0.7), (1, 0.8), (2, 1.1))
    ]
    weights = greedy_weights(members, bag, rounds=6)
    assert weights == pytest.approx(slow_greedy(members, bag, rounds=6))
    assert sum(weights) == pytest.approx(1)
    assert weights[0] == 0 or 0 in bag


def rounded(scores: Scores) -> Scores:
    return replace(scores, seen=(64 * scores.seen).round() / 64, unseen=(64 * scores.unseen).round() / 64)


def test_an_ensemble_is_better_than_its_members_where_these_differ(make: Make) -> None:
    members = [[make(seed, 0.9)] for seed in range(5)]
    weights = ensemble_weights(members)
    assert sum(weights) == pytest.approx(1)
    assert sum(weight > 0 for weight in weights) > 1
    best = max(accuracies(member[0]).H for member in members)
    assert calibrated_h(members, weights) > best + 0.03
    fresh = [[make(100 + seed, 0.9)] for seed in range(5)]
    assert calibrated_h(fresh, weights) > fmean(accuracies(member[0]).H for member in fresh)
    assert weights == ensemble_weights(members)


@pytest.mark.parametrize("seed", range(4))
def test_an_ensemble_is_never_below_its_best_member_where_it_was_chosen(make: Make, seed: int) -> None:
    members = [[make(50 * seed, 0.3)], *([make(50 * seed + other, 3.0)] for other in range(1, 6))]
    weights = ensemble_weights(members)
    assert calibrated_h(members, weights) >= accuracies(members[0][0]).H
    assert all(weight == 0 or weight >= LEAST_WEIGHT for weight in weights)


def test_of_one_member_that_is_the_ensemble(make: Make) -> None:
    assert ensemble_weights([[make(0)]]) == (1.0,)

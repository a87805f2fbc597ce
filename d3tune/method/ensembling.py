"""Ensembles of class scores: one unit for all members, their weighted mean, and weights chosen on validation.

Weights: greedy selection with replacement by calibrated H (Caruana et al., 2004), averaged over bags of members.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor

from d3tune.method.metrics import Scores, accuracies, harmonic_mean, seen_unseen_curve
from d3tune.method.randomness import stream

SMALLEST_SPREAD = 1e-6
BAGS, ROUNDS = 20, 20
# a member that weighs less costs as many trainings as any other
LEAST_WEIGHT = 0.05

Weights = tuple[float, ...]
# of one member or mixture, one a validation split
BySplit = Sequence[Scores]


def spread(training_scores: Tensor) -> Tensor:
    """How far a row's class scores lie apart: their root mean square over rows and classes, each row centred.

    What is the same for all classes of a row moves neither an arg max nor the margin of seen over unseen classes, so it
    does not count; what is left is what a mean of several members weighs. No label is read, and no row but those that
    the member was fitted on.

    Args:
        training_scores: (n, N) of these rows.

    Returns:
        Scalar float64 > 0.
    """
    scores = training_scores.double()
    return (scores - scores.mean(dim=1, keepdim=True)).square().mean().sqrt().clamp(min=SMALLEST_SPREAD)


def standardised(scores: Scores, training_scores: Tensor) -> Scores:
    """Scores of both evaluation sets, each row centred, in units of the `spread` of the training rows.

    Args:
        scores: of a member.
        training_scores: (n, N) of the rows that it was fitted on.

    Returns:
        float64, without what gave them.
    """
    unit = spread(training_scores)
    seen, unseen = ((rows.double() - rows.double().mean(dim=1, keepdim=True)) / unit for rows in _sides(scores))
    return replace(scores, seen=seen, unseen=unseen, score=None)


def mixed(members: Sequence[Scores], weights: Sequence[float]) -> Scores:
    """The weighted sum of standardised scores of the same rows; members of weight 0 are left out.

    Args:
        members: of one protocol and split.
        weights: one each, ≥ 0.
    """
    parts = [(weight, _sides(member)) for weight, member in zip(weights, members, strict=True) if weight > 0]
    seen, unseen = (torch.stack([weight * sides[i] for weight, sides in parts]).sum(dim=0) for i in (0, 1))
    return replace(members[0], seen=seen, unseen=unseen, score=None)


def calibrated_h(members: Sequence[BySplit], weights: Sequence[float]) -> float:
    """Validation H of a mixture with the best offset on these very rows, the mean over splits.

    Args:
        members: standardised scores of each, one a split.
        weights: see `mixed`.
    """
    return fmean(accuracies(mixed(split, weights)).H for split in zip(*members, strict=True))


def ensemble_weights(members: Sequence[BySplit], between: Callable[[], None] = lambda: None) -> Weights:
    """Weights of an ensemble, chosen by validation: the mean of greedy selections within bags of members.

    Members that come to less than `LEAST_WEIGHT` are left out. Where the result has a smaller H on these rows than the
    best member alone, the greedy selection from all members counts: it begins with that one, and ends no lower.

    Args:
        members: see `calibrated_h`.
        between: called in each round of each selection; what it raises ends them all.

    Returns:
        One each, with sum 1.
    """
    n = len(members)
    bags = _bags(n)
    # few members have few halves: the same again gives the same
    found = {bag: greedy_weights(members, bag, between=between) for bag in dict.fromkeys(bags)}
    means = [fmean(column) for column in zip(*(found[bag] for bag in bags), strict=True)]
    kept = [weight if weight >= min(LEAST_WEIGHT, max(means)) else 0.0 for weight in means]
    weights = tuple(weight / sum(kept) for weight in kept)
    plain = greedy_weights(members, tuple(range(n)), between=between)
    return weights if calibrated_h(members, weights) >= max(map(_alone, members)) else plain


def greedy_weights(
    members: Sequence[BySplit], bag: Sequence[int], rounds: int = ROUNDS, between: Callable[[], None] = lambda: None
) -> Weights:
    """Greedy selection with replacement: each round adds the member with which the mean has the largest H.

    Args:
        members: see `calibrated_h`.
        bag: which of them may be added.
        rounds: how many are added.
        between: called before each round.

    Returns:
        The share of each in the best mean on the way, the earliest of equals.
    """
    counts = [0] * len(members)
    sums: list[tuple[Tensor, Tensor]] | None = None
    best, chosen = -1.0, counts
    for _ in range(rounds):
        between()
        steps = {index: _added(sums, members[index]) for index in bag}
        values = {index: _summed_h(step, members[index]) for index, step in steps.items()}
        taken = max(values, key=lambda index: values[index])
        sums = steps[taken]
        counts = [count + (index == taken) for index, count in enumerate(counts)]
        if values[taken] > best:
            best, chosen = values[taken], counts
    return tuple(count / sum(chosen) for count in chosen)


def _alone(member: BySplit) -> float:
    return calibrated_h([member], [1.0])


def _added(sums: list[tuple[Tensor, Tensor]] | None, member: BySplit) -> list[tuple[Tensor, Tensor]]:
    """Sums of scores with those of one more member; no H depends on whether they are divided by their number."""
    if sums is None:
        return [_sides(scores) for scores in member]
    return [(seen + more.seen, unseen + more.unseen) for (seen, unseen), more in zip(sums, member, strict=True)]


def _summed_h(sums: list[tuple[Tensor, Tensor]], like: BySplit) -> float:
    pairs = zip(sums, like, strict=True)
    curves = [seen_unseen_curve(replace(scores, seen=seen, unseen=unseen)) for (seen, unseen), scores in pairs]
    return fmean(float(harmonic_mean(u, s).max()) for u, s, _ in curves)


def _bags(n: int) -> list[tuple[int, ...]]:
    """Random three quarters of the members: each bag lacks some, few lack all that are good; all of up to three."""
    size = -(-3 * n // 4)
    if size >= n:
        return [tuple(range(n))]
    rng = stream(0, "bags")
    return [tuple(sorted(torch.randperm(n, generator=rng)[:size].tolist())) for _ in range(BAGS)]


def _sides(scores: Scores) -> tuple[Tensor, Tensor]:
    return scores.seen, scores.unseen

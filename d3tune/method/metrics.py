"""GZSL metrics from class scores: U, S, H over all classes, the seen-class offset, T1, AUSUC, AUROC.

Accuracies are per-class top-1, averaged over classes (Xian et al., 2018), in [0, 1]. A seen-class offset δ is
subtracted from the scores of all seen classes before the arg max (calibrated stacking, Chao et al., 2016).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from d3tune.data.tensors import Tensors
from d3tune.method.parts import Divided, Map

SMALLEST_MARGIN_SD = 1e-6


@dataclass(frozen=True)
class Scores:
    """Class scores of the two test sets under one head; classes in local order, the seen ones first.

    Attributes:
        seen: (n_s, N) of rows of seen classes.
        seen_y: (n_s,) their classes, in [0, N_s).
        unseen: (n_u, N) of rows of unseen classes.
        unseen_y: (n_u,) their classes, in [N_s, N).
        n_seen: N_s.
        score: what gave them: rows (m, X) to (m, N).
    """

    seen: Tensor
    seen_y: Tensor
    unseen: Tensor
    unseen_y: Tensor
    n_seen: int
    score: Map | None = None


@dataclass(frozen=True)
class Accuracies:
    """U, S and H at one offset, with the measures that no offset changes.

    Attributes:
        H: 2US/(U + S), 0 where both are 0.
        U: accuracy on unseen classes, all classes as candidates.
        S: accuracy on seen classes, all classes as candidates.
        T1: accuracy on unseen classes, unseen classes as candidates.
        T1_chance: what guessing among the unseen classes stays below, 1/N_u + 3 standard errors of the rows.
        AUSUC: area under the seen–unseen accuracy curve over all offsets.
        seen_offset: the δ that was subtracted from the seen scores.
        H_raw: H at δ = 0.
        U_raw: U at δ = 0.
        S_raw: S at δ = 0.
    """

    H: float
    U: float
    S: float
    T1: float
    AUSUC: float
    seen_offset: float
    H_raw: float
    U_raw: float
    S_raw: float
    T1_chance: float = 0.0


@dataclass(frozen=True)
class _Routing:
    """Per row: the margin of the best seen over the best unseen score, each side's arg max, and whether that is right.

    Weights make sums over rows per-class means: 1/(rows of the class · classes).
    """

    margin: Tensor
    seen_class: Tensor
    unseen_class: Tensor
    seen_weight: Tensor
    unseen_weight: Tensor


def accuracies(scores: Scores, seen_offset: float | None = None) -> Accuracies:
    """All accuracies of one head.

    Args:
        scores: of both test sets.
        seen_offset: δ; None chooses the one with the largest H on these very rows, an in-sample maximum
            ("calibrated"), which only the validation protocol may do.
    """
    routing = _route(scores)
    curve_u, curve_s, curve_delta = _curve(routing)
    if seen_offset is None:
        # on a copy of few numbers: the arg max of the curve
        seen_offset = float(curve_delta[harmonic_mean(curve_u, curve_s).argmax()])
    u, s = _at_offset(routing, seen_offset)
    u_raw, s_raw = _at_offset(routing, 0.0)
    area = torch.trapezoid(curve_s.flip(0), curve_u.flip(0)).abs()
    return Accuracies(
        H=float(harmonic_mean(u, s)),
        U=float(u),
        S=float(s),
        T1=float(curve_u[-1]),
        AUSUC=float(area),
        seen_offset=float(seen_offset),
        H_raw=float(harmonic_mean(u_raw, s_raw)),
        U_raw=float(u_raw),
        S_raw=float(s_raw),
        T1_chance=_best_guess(scores.unseen.shape[1] - scores.n_seen, len(scores.unseen)),
    )


def predictions(scores: Scores, seen_offset: float) -> tuple[Tensor, Tensor]:
    """The classes that rows are told to be of, all classes as candidates: what `accuracies` counts.

    Args:
        scores: of both test sets.
        seen_offset: δ.

    Returns:
        Local classes (n_s,) of the seen rows and (n_u,) of the unseen ones.
    """
    routing = _route(scores)
    told = torch.where(_to_seen(routing, seen_offset), routing.seen_class, routing.unseen_class)
    return told[: len(scores.seen)], told[len(scores.seen) :]


def seen_unseen_curve(scores: Scores) -> tuple[Tensor, Tensor, Tensor]:
    """U, S and δ (k,) at every offset that changes a prediction, δ rising; AUSUC is the area under its U and S."""
    return _curve(_route(scores))


def read_scores(data: Tensors, score: Map, offset_unit: Literal["score", "margin_sd"] = "score") -> Scores:
    """A classifier's scores of both evaluation sets.

    Args:
        data: a protocol's tensors.
        score: rows (m, X) to class scores (m, N).
        offset_unit: ``margin_sd`` divides the scores by `margin_sd` of the training rows.
    """
    if offset_unit == "margin_sd":
        score = in_margins(score, data)
    seen, unseen = score(data.eval_seen_x), score(data.eval_unseen_x)
    return Scores(seen, data.eval_seen_y, unseen, data.eval_unseen_y, data.n_seen, score)


def in_margins(score: Map, data: Tensors) -> Divided:
    """A classifier's scores divided by `margin_sd` of the training rows; no arg max changes."""
    return Divided(score, margin_sd(score(data.train_x), data.n_seen))


def margin_sd(training_scores: Tensor, n_seen: int) -> Tensor:
    """Standard deviation of the margin of the best seen over the best unseen score, on training rows.

    An offset in this unit carries from one protocol to another whose scores have another spread.

    Args:
        training_scores: (n, N) of the rows that the classifier was fitted on.
        n_seen: N_s.

    Returns:
        Scalar > 0.
    """
    margin = training_scores[:, :n_seen].amax(dim=1) - training_scores[:, n_seen:].amax(dim=1)
    return margin.std().clamp(min=SMALLEST_MARGIN_SD)


def harmonic_mean(u: Tensor, s: Tensor) -> Tensor:
    """H = 2US/(U + S), 0 where both are 0."""
    total = u + s
    return torch.where(total > 0, 2 * u * s / total.clamp(min=1e-12), torch.zeros_like(total))


def auroc(in_distribution: Tensor, out_of_distribution: Tensor) -> float:
    """Area under the ROC curve of a score that should be higher in distribution; ties count a half.

    Args:
        in_distribution: (n,) scores of seen-class rows.
        out_of_distribution: (m,) scores of unseen-class rows.
    """
    ordered = out_of_distribution.double().sort().values
    values = in_distribution.double().contiguous()
    below = torch.searchsorted(ordered, values, right=False)
    not_above = torch.searchsorted(ordered, values, right=True)
    return float((below + not_above).double().mean() / (2 * len(ordered)))


def fpr_at_95(in_distribution: Tensor, out_of_distribution: Tensor) -> float:
    """Share of unseen-class rows accepted by the threshold that accepts 95 % of the seen-class rows."""
    return float((out_of_distribution.double() >= threshold_of_95(in_distribution)).double().mean())


def threshold_of_95(in_distribution: Tensor) -> Tensor:
    """The largest threshold (a scalar) that 95 % of the seen-class rows' scores (n,) reach."""
    accepted = in_distribution.double().sort(descending=True).values
    count = -(-len(accepted) * 95 // 100)
    return accepted[count - 1]


def _best_guess(n_classes: int, n_rows: int) -> float:
    chance = 1 / n_classes
    return chance + 3 * math.sqrt(chance * (1 - chance) / n_rows)


def _route(scores: Scores) -> _Routing:
    both = torch.cat([scores.seen, scores.unseen]).double()
    labels = torch.cat([scores.seen_y, scores.unseen_y])
    best_seen, seen_class = both[:, : scores.n_seen].max(dim=1)
    best_unseen, unseen_class = both[:, scores.n_seen :].max(dim=1)
    weight = torch.cat([_class_weights(scores.seen_y), _class_weights(scores.unseen_y)])
    unseen_class = unseen_class + scores.n_seen
    return _Routing(
        margin=best_seen - best_unseen,
        seen_class=seen_class,
        unseen_class=unseen_class,
        seen_weight=weight * (seen_class == labels),
        unseen_weight=weight * (unseen_class == labels),
    )


def _class_weights(labels: Tensor) -> Tensor:
    """1/(rows of the row's class · classes present), so that a weighted sum is the mean over classes."""
    counts = torch.bincount(labels).double()
    return 1 / (counts[labels] * (counts > 0).sum())


def _to_seen(routing: _Routing, offset: float) -> Tensor:
    # a tie goes to the seen side, as an arg max over [seen, unseen] does
    return routing.margin >= offset


def _at_offset(routing: _Routing, offset: float) -> tuple[Tensor, Tensor]:
    to_seen = _to_seen(routing, offset)
    return (routing.unseen_weight * ~to_seen).sum(), (routing.seen_weight * to_seen).sum()


def _curve(routing: _Routing) -> tuple[Tensor, Tensor, Tensor]:
    """U, S and δ at every offset that changes a prediction, δ rising: between neighbouring margins and beyond."""
    margin, order = routing.margin.sort()
    zero = margin.new_zeros(1)
    u = torch.cat([zero, routing.unseen_weight[order].cumsum(0)])
    seen = torch.cat([zero, routing.seen_weight[order].cumsum(0)])
    delta = torch.cat([margin[:1] - 1, (margin[1:] + margin[:-1]) / 2, margin[-1:] + 1])
    distinct = torch.cat([margin.new_ones(1), margin.diff(), margin.new_ones(1)]) > 0
    return u[distinct], (seen[-1] - seen)[distinct], delta[distinct]

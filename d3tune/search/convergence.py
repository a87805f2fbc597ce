"""When a search may end before its trials are used up: where those that are left would hardly raise the best value."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import exp1

from d3tune.errors import UsageError
from d3tune.search.study import Ledger

# half a point of H
TOLERANCE = 0.005
FEWEST = 20
TAIL = 0.25


def improvement_left(values: Sequence[float], left: int) -> float:
    """By how much so many further trials are expected to raise the largest value.

    The later half of the trials stands for those to come: the sampler knew most then. Their upper quarter's excess over
    the rest is taken for exponential (peaks over a threshold, Pickands 1975), so that one of ``left`` trials exceeds
    the best value with probability ``p = TAIL · exp(−(best − threshold) / excess)``, and the expected rise of the
    largest value, with a Poisson number of mean ``λ = left · p`` that exceed it, is ``excess · Ein(λ)``.

    Args:
        values: of the trials that ended, in their order; minus infinity of one that cannot win.
        left: trials to come.

    Returns:
        Infinity before `FEWEST` trials ended, or where those that can win are too few to tell.
    """
    if left <= 0:
        return 0.0
    later = np.sort(np.asarray(values[len(values) // 2 :], dtype=float))
    count = max(1, math.ceil(TAIL * len(later)))
    if len(values) < FEWEST or len(later) <= count or not math.isfinite(later[-count - 1]):
        return math.inf
    threshold = later[-count - 1]
    excess = float(np.mean(later[-count:] - threshold))
    if excess <= 0:
        return 0.0
    share = count / len(later) * math.exp(-(max(values) - threshold) / excess)
    return excess * _ein(left * share)


def _ein(x: float) -> float:
    """The entire exponential integral, ∫₀ˣ (1 − e⁻ᵗ) / t dt."""
    if x < 1e-6:
        return x
    return float(exp1(x)) + math.log(x) + float(np.euler_gamma)


@dataclass(frozen=True)
class Converged:
    """Why a search may end early.

    Attributes:
        left: trials that were not begun.
        improvement: by how much they are expected to raise the best value.
    """

    left: int
    improvement: float


def converged(ledger: Ledger, trials: int) -> Converged | None:
    """Whether the trials that are left would raise the best value by less than `TOLERANCE`.

    Args:
        ledger: the study; failed trials that are to be tried again are begun in any case.
        trials: how many it may have in all.

    Returns:
        None while they are worth it, and where none is left.
    """
    left = trials - ledger.standing.begun
    if left <= 0:
        return None
    improvement = improvement_left(ledger.standing.values, left)
    return Converged(left, improvement) if improvement < TOLERANCE and not ledger.waiting_retries else None


def check_convergence(wanted: bool, n_aims: int) -> None:
    """Refuse to stop a search early that has no single value to improve.

    Raises:
        UsageError: it has two aims.
    """
    if wanted and n_aims:
        raise UsageError("--stop-when-converged: a search with two aims has no best value; leave it out")

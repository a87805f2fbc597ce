"""Paired differences of two test results on the same seeds: mean, interval, signed-rank test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from d3tune.search.confirm import TestResult

CONFIDENCE = 0.95
ALL_SIGNS = 14


@dataclass(frozen=True)
class Paired:
    """Differences of a test metric, seed by seed.

    Attributes:
        mean: of the differences.
        low: end of the 95 % interval of the mean, Student's t; None of a single seed.
        high: its other end.
        p: two-sided, Wilcoxon's signed-rank test, exact up to 14 seeds; None of a single seed, and where
            all differences are 0.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None


def paired(test: TestResult, other: TestResult, metric: str = "H") -> Paired:
    """A metric of one result minus that of the other, on the same seeds."""
    # takes a second to import
    from scipy.stats import t

    differences = [row[metric] - beside[metric] for row, beside in zip(test.per_seed, other.per_seed, strict=True)]
    mean, n = fmean(differences), len(differences)
    if n == 1:
        return Paired(mean, None, None, None)
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * stdev(differences) / math.sqrt(n)
    return Paired(mean, mean - half, mean + half, _signed_rank(differences))


def smallest_p(n_seeds: int) -> float | None:
    """The smallest two-sided p that a signed-rank test of so many seeds can give; None of a single seed."""
    return 2 / 2**n_seeds if n_seeds > 1 else None


def _signed_rank(differences: Sequence[float]) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test; differences of 0 are left out, as he does."""
    from scipy.stats import PermutationMethod, wilcoxon

    told = [difference for difference in differences if difference]
    if len(told) < 2:
        return 1.0 if told else None
    # all signs of few differences are tried, which is exact also where some are equal
    method: Any = PermutationMethod(n_resamples=2**ALL_SIGNS) if len(told) <= ALL_SIGNS else "auto"
    return float(wilcoxon(told, method=method).pvalue)

"""What traces of simulated searches say: how soon they are good, what pruning saves and costs, what early values tell.

Regret is the noise-free best of the cell minus the noise-free value of the configuration that the study calls the
best at that moment. A variation of the best that a search finds may exceed what was found for the cell, so that
regret may be a little below 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr, t

from benchmarks.surrogate import Surrogate
from benchmarks.traces import Trace
from benchmarks.trials import Table

SHARES = (0.95, 0.98)
WITHIN = "100 %"
EARLY = (0.1, 0.25, 0.5)
CONFIDENCE = 0.95
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Target:
    """What searches of a cell are measured against.

    Attributes:
        best: the noise-free best.
        noise: sd of H over the seeds of a configuration; None where that is not known.
        rank, r2: of the surrogate, out of bag.
    """

    best: float
    noise: float | None
    rank: float
    r2: float

    @property
    def thresholds(self) -> dict[str, float]:
        """Noise-free values to reach; 100 % within the noise, where that is known."""
        found = {f"{share:.0%}".replace("%", " %"): share * self.best for share in SHARES}
        return found if self.noise is None else {**found, WITHIN: self.best - self.noise}


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its 95 % interval, Student's t; None of a single value."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Reached:
    """How soon the repetitions of an arm reach a threshold.

    Attributes:
        trials: ended when they do, the median; None where fewer than half of them do.
        compute: seconds spent by then, likewise.
        share: of the repetitions that do at all.
    """

    trials: float | None
    compute: float | None
    share: float


@dataclass(frozen=True)
class Figures:
    """What the repetitions of an arm on a cell say.

    Attributes:
        repetitions: how many.
        trials: of each.
        reached: by threshold.
        compute: mean seconds of all trials of a search.
        regret: after the last trial.
        saved: share of the same trials' seconds that pruning saved, the mean.
        best_pruned: in how many repetitions the trial that would have ended best was pruned.
        failed: share of trials that failed.
    """

    repetitions: int
    trials: int
    reached: Mapping[str, Reached]
    compute: float
    regret: Interval
    saved: float
    best_pruned: int
    failed: float


def interval(values: Sequence[float]) -> Interval:
    """The mean of values with its interval."""
    mean, n = fmean(values), len(values)
    if n == 1:
        return Interval(mean, None, None)
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * stdev(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def figures(traces: Sequence[Trace], target: Target) -> Figures:
    """What the repetitions of an arm say.

    Args:
        traces: at least one.
        target: of the cell.
    """
    return Figures(
        repetitions=len(traces),
        trials=max(int(trace["ended"][-1]) for trace in traces),
        reached={name: reached(traces, value) for name, value in target.thresholds.items()},
        compute=fmean(float(trace["compute"][-1]) for trace in traces),
        regret=interval([float(regret(trace, target.best)[-1]) for trace in traces]),
        saved=fmean(share_saved(trace) for trace in traces),
        best_pruned=sum(best_was_pruned(trace) for trace in traces),
        failed=fmean(float(np.mean(trace["state"] == "FAIL")) for trace in traces),
    )


def reached(traces: Sequence[Trace], value: float) -> Reached:
    """How soon the configuration that is the best so far has a noise-free value."""
    places = [_first(trace["best"] >= value) for trace in traces]
    pairs = list(zip(traces, places, strict=True))
    return Reached(
        trials=_median([math.inf if at is None else float(trace["ended"][at]) for trace, at in pairs]),
        compute=_median([math.inf if at is None else float(trace["compute"][at]) for trace, at in pairs]),
        share=fmean(at is not None for at in places),
    )


def regret(trace: Trace, best: float) -> Numbers:
    """At each end of a trial; before there is a best trial all of ``best`` is missing."""
    found: Numbers = best - np.nan_to_num(trace["best"].astype(float), nan=0.0)
    return found


def regret_at(trace: Trace, best: float, compute: Numbers) -> Numbers:
    """After so many seconds of compute; a search that has ended before keeps what it had.

    Args:
        trace: of one repetition.
        best: the noise-free best.
        compute: seconds, rising.

    Returns:
        One value each; all of ``best`` before the first trial ends.
    """
    steps = np.concatenate([[best], regret(trace, best)])
    found: Numbers = steps[np.searchsorted(trace["compute"].astype(float), compute, side="right")]
    return found


def share_saved(trace: Trace) -> float:
    """Seconds that pruning saved, as a share of what the same trials would have taken to the end."""
    full = float(trace["full_seconds"].sum(dtype=float))
    return 1 - float(trace["seconds"].sum(dtype=float)) / full if full else 0.0


def best_was_pruned(trace: Trace) -> bool:
    """Whether the trial that would have ended with the largest value was pruned."""
    values = trace["full_value"]
    return not bool(np.isnan(values).all()) and str(trace["state"][int(np.nanargmax(values))]) == "PRUNED"


def early_ranks(table: Table) -> dict[str, dict[str, Any]]:
    """How well the best value so far ranks trainings as their final best does, at shares of the budget.

    Args:
        table: recorded trainings; of each configuration the first seed that has a whole curve.

    Returns:
        By share: ``update``, the first evaluation at or after it, ``rank``, Spearman's correlation (None of fewer than
        three trainings or of equal ones), and ``trainings``.
    """
    curves: dict[int, list[tuple[int, float]]] = {}
    for number, seed in sorted(table.rows):
        row = table.rows[number, seed]
        if not row.failure and number not in curves:
            curves[number] = [(report.update, report.value) for report in row.reports]
    if not curves:
        return {}
    updates = [update for update, _ in next(iter(curves.values()))]
    so_far = np.maximum.accumulate(np.array([[value for _, value in curve] for curve in curves.values()]), axis=1)
    told = {}
    for share in EARLY:
        place = next(at for at, update in enumerate(updates) if update >= share * updates[-1])
        rank = _rank(so_far[:, place], so_far[:, -1])
        told[f"{share:.0%}".replace("%", " %")] = {"update": updates[place], "rank": rank, "trainings": len(curves)}
    return told


def target_of(surrogate: Surrogate) -> Target:
    """What searches on a surrogate are measured against."""
    quality = surrogate.quality
    return Target(surrogate.best, quality.noise, quality.rank, quality.r2)


def _rank(one: Numbers, other: Numbers) -> float | None:
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(spearmanr(one, other).statistic)


def _first(holds: np.ndarray[Any, Any]) -> int | None:
    return int(np.argmax(holds)) if holds.any() else None


def _median(values: Sequence[float]) -> float | None:
    middle = float(np.median(values))
    return middle if math.isfinite(middle) else None

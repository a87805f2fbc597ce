"""A report: what one evaluation of one trial said, as the study keeps it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from d3tune.config import Objective
from d3tune.method.trainer import DivergedError, Evaluation

# of a report among the attributes of its trial, before its update
REPORT_KEY = "report:"
ACCURACIES = ("H", "H_raw", "U", "S", "T1", "AUSUC", "seen_offset")


@dataclass(frozen=True)
class Report:
    """One evaluation on the selecting protocol, averaged over its splits.

    Attributes:
        update: generator updates so far.
        value: the objective under the best head.
        head: that head.
        metrics: ``val/H`` … of that head, ``val/<head>/H`` … of each (``published/…`` where the test selects),
            ``loss/…``; accuracies in [0, 1].
        seconds: time spent on the trial so far.
        worker: in a worker's first report, where it was made: versions, processor, threads, device.
        notes: what a user should know of how it was made, e.g. that a checkpoint was damaged.
    """

    update: int
    value: float
    head: str
    metrics: dict[str, float]
    seconds: float
    worker: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Report":
        """Read back `to_dict`."""
        return cls(
            update=int(value["update"]),
            value=float(value["value"]),
            head=str(value["head"]),
            metrics={str(k): float(v) for k, v in value["metrics"].items()},
            seconds=float(value["seconds"]),
            worker={str(k): str(v) for k, v in value.get("worker", {}).items()},
            notes=tuple(str(note) for note in value.get("notes", ())),
        )


def make_report(evaluations: Sequence[Evaluation], objective: Objective, seconds: float, prefix: str = "val") -> Report:
    """Average the splits' evaluations of one update count and choose the head.

    Args:
        evaluations: one per validation split, all at the same update.
        objective: what is maximised.
        seconds: time spent so far.
        prefix: names the selecting protocol, see `metric_prefix`.

    Raises:
        DivergedError: a metric is NaN or infinite, which no file and no study could hold.
    """
    metrics: dict[str, float] = {}
    values: dict[str, float] = {}
    for head in evaluations[0].heads:
        for name in ACCURACIES:
            mean = fmean(getattr(evaluation.heads[head], name) for evaluation in evaluations)
            metrics[f"{prefix}/{head}/{name}"] = mean
        values[head] = metrics[f"{prefix}/{head}/{objective}"]
    best = max(values, key=lambda head: values[head])
    metrics |= {f"{prefix}/{name}": metrics[f"{prefix}/{best}/{name}"] for name in ACCURACIES}
    metrics[f"{prefix}/T1_chance"] = fmean(evaluation.heads[best].T1_chance for evaluation in evaluations)
    metrics |= _means(f"{prefix}/", [evaluation.diagnostics for evaluation in evaluations])
    metrics |= _means("loss/", [evaluation.losses for evaluation in evaluations])
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise DivergedError(name, evaluations[0].update)
    return Report(evaluations[0].update, values[best], best, metrics, seconds)


def best_report(reports: Sequence[Report]) -> Report:
    """The report with the largest value, the earliest of equals: its update count is s*."""
    return max(reports, key=lambda report: report.value)


def collapse(reports: Sequence[Report], prefix: str) -> str | None:
    """Why a trial counts as collapsed: no head told unseen classes apart better than guessing does.

    T1 is averaged over the evaluations: one of them alone may be lucky by more than its rows suggest, since a
    collapsed generator gives all rows of a class to one and the same other class.

    Args:
        reports: of the full budget.
        prefix: see `make_report`.

    Returns:
        The reason, or None for a trial that learned something.
    """
    names = [key for key in reports[0].metrics if key.startswith(f"{prefix}/") and key.endswith("/T1")]
    means = [fmean(report.metrics[name] for report in reports) for name in names]
    chance = reports[0].metrics.get(f"{prefix}/T1_chance", 0.0)
    if not means or max(means) > chance:
        return None
    return f"collapsed: mean T1 {max(means):.3f}, where guessing among the unseen classes reaches {chance:.3f}"


def _means(prefix: str, rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {f"{prefix}{name}": fmean(row[name] for row in rows) for name in rows[0]}

"""What ``--stop-when-converged`` would have saved and lost, told from traces of searches that went on to the end."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.accuracy.markdown import number, table
from benchmarks.search_statistics import Interval, interval
from benchmarks.traces import Arm, Trace
from d3tune.search.convergence import TOLERANCE, improvement_left

PLANNED = (50, 100, 200)
TITLE = "When to stop"
WORDS = f"""
What `--stop-when-converged` would have done in the searches above, had they been planned with so many trials: it begins
none where those left are expected to raise the best value by less than {TOLERANCE:g}; those that run then end.
*Saved*: of the trials, the mean. *Lost*: noise-free H of the best trial at the end minus that of the best trial then,
with a 95 % interval over cells and repetitions, and the most of any search.
"""


@dataclass(frozen=True)
class Stopped:
    """What stopping would have done to the searches of a sampler and pruner.

    Attributes:
        sampler, pruner: theirs.
        planned: trials of each.
        searches: how many.
        saved: share of the trials that are not begun, the mean.
        lost: noise-free value lost by it.
        worst: the most that any of them loses.
    """

    sampler: str
    pruner: str
    planned: int
    searches: int
    saved: float
    lost: Interval
    worst: float


def stopping(found: Mapping[Arm, Mapping[int, Trace]], workers: int) -> list[Stopped]:
    """A row a sampler, pruner and number of trials.

    Args:
        found: traces by repetition.
        workers: trials at once; those that run when a search stops end.
    """
    rows = []
    for sampler, pruner in dict.fromkeys((arm.sampler, arm.pruner) for arm in found):
        traces = [t for arm, of in found.items() if (arm.sampler, arm.pruner) == (sampler, pruner) for t in of.values()]
        for planned in PLANNED:
            whole = [trace for trace in traces if len(trace["ended"]) >= planned]
            stops = [stop_of(trace, planned, workers) for trace in whole]
            losses = [lost_by(trace, ended, planned) for trace, ended in zip(whole, stops, strict=True)]
            told = [(ended, lost) for ended, lost in zip(stops, losses, strict=True) if lost is not None]
            if told:
                saved, lost = fmean(1 - ended / planned for ended, _ in told), [lost for _, lost in told]
                rows.append(Stopped(sampler, pruner, planned, len(told), saved, interval(lost), max(lost)))
    return rows


def stop_of(trace: Trace, planned: int, workers: int) -> int:
    """How many trials of a search of ``planned`` would have ended, had it stopped by itself."""
    values = np.where(np.isnan(trace["value"]) | (trace["state"] == "FAIL"), -np.inf, trace["value"].astype(float))
    for ended in range(1, planned - workers):
        # of the others so many run already
        if improvement_left(values[:ended].tolist(), planned - ended - (workers - 1)) < TOLERANCE:
            return ended + workers - 1
    return planned


def lost_by(trace: Trace, ended: int, planned: int) -> float | None:
    """Noise-free value of the best trial of all that were planned minus that of the first so many; None without one."""
    best = trace["best"].astype(float)
    lost = float(best[planned - 1] - best[ended - 1])
    return None if np.isnan(lost) else lost


def section(rows: Sequence[Stopped]) -> list[str]:
    """The rows in Markdown; empty where there is none."""
    if not rows:
        return []
    head = ["sampler", "pruner", "planned", "searches", "saved", "lost [95 %]", "most lost"]
    cells = [
        [r.sampler, r.pruner, str(r.planned), str(r.searches), f"{r.saved:.0%}", _told(r.lost), number(r.worst)]
        for r in rows
    ]
    return [f"## {TITLE}", "", WORDS.strip(), "", *table(head, cells), ""]


def plain(rows: Sequence[Stopped]) -> list[dict[str, Any]]:
    """The rows for the JSON."""
    return [asdict(row) for row in rows]


def _told(value: Interval) -> str:
    ends = "" if value.low is None else f" [{value.low:.4f}, {value.high:.4f}]"
    return f"{value.mean:.4f}{ends}"

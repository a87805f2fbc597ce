"""What a run cost: seconds a trial, hours, what pruning saved, and which trials were trained at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

from matplotlib.patches import Patch

from d3tune.results.report.figure import Drawn
from d3tune.results.report.marks import NONE_EVALUATED
from d3tune.results.report.material import ALL_STATES, Material, Tried
from d3tune.results.report.style import BLACK, DENSE, GREY, ORANGE, SKY, STATE_MARKS, figure, legend_below
from d3tune.words import plural

# a bar's state is told by its hatching too
BARS: dict[str, dict[str, Any]] = {
    "complete": {"facecolor": SKY, "hatch": ""},
    "constraint not met": {"facecolor": SKY, "hatch": "----"},
    "pruned": {"facecolor": ORANGE, "hatch": "////"},
    "failed": {"facecolor": GREY, "hatch": "xxxx"},
    "unfinished": {"facecolor": "white", "hatch": "...."},
}
UNITS = ((3 * 3600, 3600, "hours"), (3 * 60, 60, "minutes"), (0, 1, "seconds"))


@dataclass(frozen=True)
class Spent:
    """What a run cost.

    Attributes:
        seconds: of training and evaluating, by state, all trials.
        evaluations: how many there were.
        saved: an estimate of the seconds that pruning saved: each pruned trial carried on to its full budget as fast
            as it went.
    """

    seconds: Mapping[str, float]
    evaluations: int
    saved: float

    @property
    def hours(self) -> float:
        """Of compute, all trials."""
        return sum(self.seconds.values()) / 3600

    @property
    def share_saved(self) -> float:
        """Of what the run would have cost without pruning, in [0, 1]."""
        whole = sum(self.seconds.values()) + self.saved
        return self.saved / whole if whole > 0 else 0.0


def spent(material: Material) -> Spent:
    """Add up what the trials cost."""
    seconds = {state: sum(trial.seconds for trial in material.tried if trial.state == state) for state in ALL_STATES}
    evaluations = sum(len(trial.reports) for trial in material.tried)
    return Spent(seconds, evaluations, sum(_saved(trial) for trial in material.of("pruned")))


def seconds(material: Material) -> Drawn:
    """Seconds of each trial by state, with their medians."""
    name, title = "seconds", "Time and resources"
    by_state = {state: [trial.seconds for trial in material.of(state)] for state in ALL_STATES}
    by_state = {state: found for state, found in by_state.items() if found}
    if not by_state:
        return Drawn(name, title, "", "", None, NONE_EVALUATED)
    drawn = figure(0.9 + 0.45 * len(by_state))
    axes = drawn.subplots()
    for row, (state, found) in enumerate(by_state.items()):
        spread = [row - 0.2 + 0.4 * ((k * 7) % 10) / 9 for k in range(len(found))]
        axes.plot(found, spread, linestyle="none", rasterized=len(found) > DENSE, **STATE_MARKS[state])
        axes.plot([median(found)] * 2, [row - 0.35, row + 0.35], color=BLACK, linewidth=2)
        axes.annotate(f"{median(found):.3g} s", (median(found), row - 0.36), ha="center", va="bottom", fontsize=8)
    axes.set_yticks(range(len(by_state)), [f"{state} ({len(found)})" for state, found in by_state.items()])
    axes.set_ylim(len(by_state) - 0.5, -0.75)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds of training and evaluating a trial")
    cost = spent(material)
    caption = (
        f"Seconds of each trial up to its last evaluation, by state; bars: medians. {cost.hours:.3g} hours of compute "
        f"in {plural(len(material.tried), 'trial')} and {plural(cost.evaluations, 'evaluation')}. Pruning saved about "
        f"{cost.share_saved:.0%} of what the full budget of every trial would have cost, had each pruned one gone on "
        "as fast as it went."
    )
    medians = ", ".join(f"{state} {median(found):.3g} s" for state, found in by_state.items())
    return Drawn(name, title, caption, f"Seconds of each trial by state; medians: {medians}.", drawn)


def timeline(material: Material) -> Drawn:
    """Which trials were trained at once: a bar a trial, from when it was given out to its end."""
    name, title = "timeline", "Trials at once"
    ended = [(trial, trial.start, trial.end) for trial in material.tried if trial.start and trial.end]
    spans = [(trial, start, end) for trial, start, end in ended if start is not None and end is not None]
    if not spans:
        return Drawn(name, title, "", "", None, "No trial has ended yet.")
    rows = lanes([(start, end) for _, start, end in spans])
    first = min(start for _, start, _ in spans)
    length = max((end - first).total_seconds() for _, _, end in spans)
    unit, unit_name = next((size, word) for least, size, word in UNITS if length >= least)
    drawn = figure(1.1 + 0.28 * (max(rows) + 1))
    axes = drawn.subplots()
    for (trial, start, end), row in zip(spans, rows, strict=True):
        left, width = (start - first).total_seconds() / unit, (end - start).total_seconds() / unit
        axes.barh(
            row,
            width,
            left=left,
            height=0.8,
            edgecolor=BLACK,
            linewidth=0.5,
            rasterized=len(spans) > DENSE,
            **BARS[trial.state],
        )
        if width * unit > length / 40:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
            axes.text(left + width / 2, row, str(trial.number), ha="center", va="center", fontsize=6.5, bbox=box)
    axes.set_yticks(range(max(rows) + 1), [str(row + 1) for row in range(max(rows) + 1)])
    axes.invert_yaxis()
    axes.set_xlabel(f"{unit_name} since the first trial began")
    axes.set_ylabel("at once")
    legend_below(drawn, _handles([trial for trial, _, _ in spans]))
    at_once = plural(max(rows) + 1, "trial")
    caption = (
        f"Every ended trial from when it was given out to its end, its number where there is room; at most {at_once} "
        "at once. A trial that was interrupted and gone on with later spans the time between too."
    )
    return Drawn(
        name, title, caption, f"Bars of {plural(len(spans), 'trial')} in time, at most {at_once} at once.", drawn
    )


def lanes(spans: Sequence[tuple[datetime, datetime]]) -> list[int]:
    """The lowest free row of each span, so that those that overlap do not share one.

    Args:
        spans: begin and end.
    """
    ends: list[datetime] = []
    rows = [0] * len(spans)
    for index in sorted(range(len(spans)), key=lambda k: spans[k]):
        start, end = spans[index]
        free = next((row for row, last in enumerate(ends) if last <= start), len(ends))
        ends[free : free + 1] = [end]
        rows[index] = free
    return rows


def _saved(trial: Tried) -> float:
    """Seconds that a pruned trial would have gone on for."""
    done, budget = trial.reports[-1].update, int(trial.config.get("updates", 0))
    return trial.seconds * max(0, budget - done) / done if done > 0 else 0.0


def _handles(shown: Sequence[Tried]) -> list[Any]:
    there = {trial.state for trial in shown}
    return [Patch(edgecolor=BLACK, label=state, **look) for state, look in BARS.items() if state in there]

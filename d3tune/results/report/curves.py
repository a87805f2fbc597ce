"""Learning curves of all trials."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from d3tune.results.report.figure import Drawn
from d3tune.results.report.marks import NONE_EVALUATED
from d3tune.results.report.material import Material, Tried
from d3tune.results.report.style import BLUE, DENSE, GREEN, GREY, VERMILLION, figure, legend_below
from d3tune.words import plural

METRICS = ("H", "U", "S")
# every state has a line of its own beside its colour
LINES: dict[str, dict[str, Any]] = {
    "complete": {"color": BLUE, "linestyle": "-"},
    "constraint not met": {"color": BLUE, "linestyle": (0, (5, 1, 1, 1))},
    "pruned": {"color": VERMILLION, "linestyle": "--"},
    "failed": {"color": GREY, "linestyle": ":"},
    "unfinished": {"color": GREY, "linestyle": "-."},
}
WINNER_LINE: dict[str, Any] = {"color": GREEN, "linewidth": 2.4, "marker": "*", "markersize": 8}
WINNER_LINE |= {"markeredgecolor": "black", "markeredgewidth": 0.6}


def curves(material: Material) -> Drawn:
    """H, U and S of every trial over updates, the winner's on top."""
    name, title = "learning-curves", "Learning curves"
    shown = [trial for trial in material.tried if trial.reports]
    if not shown:
        return Drawn(name, title, "", "", None, NONE_EVALUATED)
    drawn = figure(3.3)
    panels = drawn.subplots(1, len(METRICS), sharex=True, sharey=True)
    for axes, metric in zip(panels, METRICS, strict=True):
        for trial in shown:
            if trial is not material.winner:
                _plot(axes, material, trial, metric, _thin(trial, len(shown)))
        if material.winner is not None:
            _plot(axes, material, material.winner, metric, WINNER_LINE)
        axes.set_title(f"{material.prefix}/{metric}", fontsize=9)
        axes.set_xlabel("generator updates")
    panels[0].set_ylabel(f"accuracy in [0, 1]\n({material.protocol})")
    legend_below(drawn, _handles(material, shown))
    caption = (
        f"H, U and S in [0, 1] ({material.protocol}) at each evaluation, under the head that was best at it, of "
        f"{plural(len(shown), 'trial')}; calibrated. The curve of a pruned trial ends where it was stopped."
    )
    return Drawn(name, title, caption, _alt(material, shown), drawn)


def _plot(axes: Axes, material: Material, trial: Tried, metric: str, line: dict[str, Any]) -> None:
    points = [(report.update, at) for report in trial.reports if (at := material.metric_of(report, metric)) is not None]
    axes.plot([x for x, _ in points], [y for _, y in points], **line)


def _thin(trial: Tried, count: int) -> dict[str, Any]:
    """Of many trials each line is fainter; a trial of one evaluation is a point."""
    alpha = max(0.2, min(0.8, 12 / count))
    point = {"marker": ".", "markersize": 4} if len(trial.reports) == 1 else {}
    return {"linewidth": 0.9, "alpha": alpha, "rasterized": count > DENSE, **LINES[trial.state], **point}


def _handles(material: Material, shown: Sequence[Tried]) -> list[Line2D]:
    handles = []
    for state, line in LINES.items():
        count = sum(trial.state == state for trial in shown)
        if count:
            handles.append(Line2D([], [], label=f"{state} ({count})", **line))
    if material.winner is not None:
        handles.append(Line2D([], [], label=f"winner: trial {material.winner.number}", **WINNER_LINE))
    return handles


def _alt(material: Material, shown: Sequence[Tried]) -> str:
    text = f"Three panels: H, U and S over generator updates of {plural(len(shown), 'trial')}"
    best = None if material.winner is None else material.winner.best
    if material.winner is None or best is None:
        return f"{text}."
    figures = ", ".join(f"{name} {material.metric_of(best, name) or 0:.3f}" for name in METRICS)
    return f"{text}; the winner, trial {material.winner.number}, has {figures} at update {best.update}."

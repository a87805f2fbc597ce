"""The Pareto front of a search with two aims: a figure, and a table of what can be exported."""

from typing import Any

from matplotlib.lines import Line2D

from d3tune.results.markup import html_paragraph, html_table
from d3tune.results.report.figure import Drawn
from d3tune.results.report.marks import mark_winner, plot_trials
from d3tune.results.report.material import UNMET, Material, Tried
from d3tune.results.report.style import BLACK, figure, legend_below
from d3tune.search.aims import SECONDS, aim_names, reading, value_of
from d3tune.search.front import Front, front_of
from d3tune.words import TEST_SELECTED, plural

NAME, TITLE = "front", "Pareto front of the two aims"


def front(material: Material) -> list[Drawn]:
    """The complete trials by both aims, and the front as a staircase; none of a search with one aim."""
    found = front_of(material.frozen, material.run.search)
    if found is None:
        return []
    if not found.trials:
        return [Drawn(NAME, TITLE, "", "", None, "No complete trial can be in it yet.")]
    drawn = figure(4.6, 6.4)
    axes = drawn.subplots()

    def place(trial: Tried) -> tuple[float, float] | None:
        return _place(material, trial)

    handles = plot_trials(axes, material, place, UNMET, "complete")
    points = [tuple(trial.values) for trial in found.trials]
    look: dict[str, Any] = {"color": BLACK, "linewidth": 1.0, "linestyle": "--"}
    x, y = zip(*points, strict=True)
    axes.step(x, y, where="post", zorder=1, **look)
    handles.append(Line2D([], [], label=f"Pareto front ({len(points)})", **look))
    handles += mark_winner(axes, material, place)
    axes.set_xlabel(_label(found.aims[0], material))
    axes.set_ylabel(_label(found.aims[1], material))
    legend_below(drawn, handles, 2)
    alt = f"{plural(len(points), 'trial')} on the front, from {_point(found, 0)} to {_point(found, -1)}."
    return [Drawn(NAME, TITLE, _caption(material, found), alt, drawn)]


def front_table(material: Material) -> list[str]:
    """The trials of the front, and how to export one; empty of a search with one aim."""
    found = front_of(material.frozen, material.run.search)
    if found is None:
        return []
    if not found.trials:
        return [html_paragraph("No complete trial can be on the Pareto front yet.")]
    search = material.run.search
    rows = [
        [f"trial {trial.number}", *(f"{value:.3f}" for value in trial.values), f"{value_of(trial):.3f}"]
        for trial in found.trials
    ]
    export = f"d3tune export {material.run.name} --trial N"
    label = f", {TEST_SELECTED}" if material.prefix == "published" else ""
    caption = f"Pareto front{label}, hypervolume {found.hypervolume:.3f} ({found.box}); export one: {export}"
    return [html_table(caption, ["trial", *aim_names(search), search.searched_metric], rows)]


def _place(material: Material, trial: Tried) -> tuple[float, float] | None:
    if trial.best is None:
        return None
    first, second = (reading(trial.best, name, material.run.search) for name in material.run.search.aims)
    return first, second


def _label(name: str, material: Material) -> str:
    return "seconds up to the best evaluation" if name == SECONDS else f"{material.prefix}/{name} in [0, 1]"


def _point(found: Front, index: int) -> str:
    values = found.trials[index].values
    return " and ".join(f"{name} {value:.3f}" for name, value in zip(found.aims, values, strict=True))


def _caption(material: Material, found: Front) -> str:
    search = material.run.search
    text = (
        f"Complete trials at the evaluation, head and offset of their largest {search.searched_metric} "
        f"({material.protocol}). On the front are those that no other equals or exceeds in both aims. Hypervolume "
        f"{found.hypervolume:.3f}: {found.box}. The winner is the trial of the "
        f"largest {search.searched_metric}; any other can be exported by its number."
    )
    return text + (f" Only trials where {' and '.join(search.constraints)} can be on it." if search.constraints else "")

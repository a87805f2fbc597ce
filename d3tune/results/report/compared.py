"""Several runs side by side: a table, the best value so far over each other, and their seen–unseen planes."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from d3tune.results.markup import html_table, with_sd
from d3tune.results.published import published_beside
from d3tune.results.report.figure import Drawn
from d3tune.results.report.history import best_so_far
from d3tune.results.report.marks import wrapped
from d3tune.results.report.material import SPREAD, Material
from d3tune.results.report.plane import (
    confirmed_before,
    draw_published,
    draw_tested,
    finish,
    pareto_front,
    place,
    published_caption,
    shown_data,
    tested_point,
    with_both,
)
from d3tune.results.report.resources import spent
from d3tune.results.report.style import BLACK, CYCLE, CYCLE_MARKERS, drawable, figure, legend_below
from d3tune.results.report.tables import confirmed
from d3tune.words import TEST_SELECTED, plural

Materials = Sequence[Material]
COMPARED = ("compared-history", "compared-seen-unseen")
LINES = ("-", "--", ":", "-.")
HEAD = ["run", "dataset", "backbone", "winner's", "val H", "test H", *SPREAD[1:], "seeds", "trials", "compute hours"]


def comparison_tables(materials: Materials) -> list[str]:
    """A table of the runs that validation chose, and one of those that the test sets chose; they never share one."""
    honest = [k for k, item in enumerate(materials) if item.prefix == "val"]
    claimed = [k for k, item in enumerate(materials) if item.prefix != "val"]
    what = "means ± sd over seeds, in [0, 1]; the winner's: its searched value; hours: of compute, all trials"
    tables = []
    if honest:
        rows = [_row(k, materials[k]) for k in honest]
        tables.append(html_table(f"Chosen on validation, tested once a seed: {what}", HEAD, rows))
    if claimed:
        rows = [_row(k, materials[k]) for k in claimed]
        tables.append(html_table(f"Protocol published, {TEST_SELECTED}: {what}", HEAD, rows))
    return tables


def comparison_figures(materials: Materials) -> list[Drawn]:
    """Draw them; under `style.styled`."""
    return [best_curves(materials), planes(materials)]


def best_curves(materials: Materials) -> Drawn:
    """The best complete trial so far against trials and against compute hours, a row for each searched quantity."""
    name, title = COMPARED[0], "Best so far, compared"
    metrics = list(dict.fromkeys(item.metric for item in materials if best_so_far(item.tried)))
    if not metrics:
        return Drawn(name, title, "", "", None, "No run has a complete trial yet.")
    drawn = figure(0.8 + 2.6 * len(metrics))
    rows = drawn.subplots(len(metrics), 2, sharey="row", squeeze=False)
    handles = []
    for (by_trial, by_hour), metric in zip(rows, metrics, strict=True):
        by_trial.set_ylabel(wrapped(metric))
        by_trial.set_xlabel("trial number")
        by_hour.set_xlabel("compute hours of all trials so far")
        for index, item in enumerate(materials):
            if item.metric == metric and best_so_far(item.tried):
                handles.append(_best_curve(by_trial, by_hour, index, item))
    legend_below(drawn, handles, 2)
    caption = (
        "The best complete trial so far in order of number, against trials and against the compute hours of all trials "
        "up to it. Values of different datasets or protocols are not comparable."
    )
    return Drawn(name, title, caption, f"Best value so far of {plural(len(handles), 'run')}.", drawn)


def planes(materials: Materials) -> Drawn:
    """Seen and unseen accuracy of the complete trials, a panel for each dataset and protocol."""
    name, title = COMPARED[1], "Seen and unseen accuracy, compared"
    groups: dict[tuple[str, str], list[int]] = {}
    for index, item in enumerate(materials):
        if any(place(item, trial) for trial in item.of("complete")):
            groups.setdefault((shown_data(item), item.protocol), []).append(index)
    if not groups:
        return Drawn(name, title, "", "", None, "No run has a complete trial yet.")
    drawn = figure(0.6 + 4.6 * len(groups), 6.4)
    panels = drawn.subplots(len(groups), 1, squeeze=False).ravel()
    handles: dict[str, Any] = {}
    captions = []
    for axes, ((data, protocol), indices) in zip(panels, groups.items(), strict=True):
        for index in indices:
            handles |= {str(handle.get_label()): handle for handle in _cloud(axes, index, materials[index])}
        search = materials[indices[0]].run.search
        printed = with_both(published_beside(search.dataset, search.semantics))
        if printed:
            handle = draw_published(axes, printed)
            handles[str(handle.get_label())] = handle
            captions.append(f"{data}: {published_caption(printed)}")
        finish(axes)
        axes.set_title(f"{data}\n{protocol}", fontsize=9)
    legend_below(drawn, list(handles.values()), 2)
    caption = (
        "Complete trials at their best evaluation and their Pareto fronts, the winner of each run with a black edge; "
        "large, with bars of one sd over seeds: its confirmed result, of another protocol (test, or published and "
        f"{TEST_SELECTED} where the run is). Runs on different data have panels of their own. Dotted: equal H."
    )
    alt = f"{plural(len(groups), 'panel')} of accuracy on seen and unseen classes of {plural(len(materials), 'run')}."
    return Drawn(name, title, " ".join([caption, *captions]), alt, drawn)


def hours_at(material: Material) -> list[tuple[int, float]]:
    """Of each trial its number and the compute hours of all trials up to it."""
    sums = accumulate(trial.seconds / 3600 for trial in material.tried)
    return [(trial.number, hours) for trial, hours in zip(material.tried, sums, strict=True)]


def _row(index: int, material: Material) -> list[str]:
    search, row, cost = material.run.search, confirmed(material), spent(material)
    best = None if material.winner is None else material.winner.value
    found = "–" if best is None else f"{search.searched_metric} {best:.3f}"
    tested = ["–"] * (len(SPREAD) + 2)
    if row is not None:
        means = [with_sd(row[f"test_{metric}"], row[f"test_{metric}_sd"]) for metric in SPREAD]
        before = confirmed_before(material.summary)
        of = "" if before is None else f" (of trial {before})"
        tested = [f"{'–' if row['val_H'] is None else format(row['val_H'], '.3f')}{of}", *means, str(row["seeds"])]
    data = f"{search.dataset}, {search.semantics}, {search.features}"
    trials = str(len(material.tried))
    return [f"{index + 1}: {material.run.name}", data, search.backbone, found, *tested, trials, f"{cost.hours:.3g}"]


def _look(index: int) -> dict[str, Any]:
    """Colour and marker of a run."""
    return {"color": CYCLE[index % len(CYCLE)], "marker": CYCLE_MARKERS[index % len(CYCLE_MARKERS)]}


def _label(index: int, material: Material) -> str:
    search = material.run.search
    return drawable(f"{index + 1}: {search.dataset}, {search.backbone}")


def _best_curve(by_trial: Axes, by_hour: Axes, index: int, material: Material) -> Line2D:
    steps, hours = best_so_far(material.tried), dict(hours_at(material))
    look = {**_look(index), "linestyle": LINES[index % len(LINES)], "markersize": 4, "linewidth": 1.3}
    last = material.tried[-1].number
    y = [value for _, value in steps]
    whens: tuple[tuple[Axes, Callable[[int], float]], ...] = (
        (by_trial, float),
        (by_hour, lambda number: hours[number]),
    )
    for axes, when in whens:
        # a mark at each step, none at the end
        axes.step(
            [*(when(number) for number, _ in steps), when(last)],
            [*y, y[-1]],
            where="post",
            markevery=range(len(steps)),
            **look,
        )
    return Line2D([], [], label=_label(index, material), **look)


def _cloud(axes: Axes, index: int, material: Material) -> list[Line2D]:
    look = _look(index)
    complete = [(trial, at) for trial in material.of("complete") if (at := place(material, trial)) is not None]
    points = [at for _, at in complete]
    front = pareto_front(points)
    axes.plot([x for x, _ in points], [y for _, y in points], linestyle="none", markersize=4, alpha=0.7, **look)
    axes.step(
        [x for x, _ in front], [y for _, y in front], where="post", color=look["color"], linewidth=0.9, linestyle="--"
    )
    for trial, at in complete:
        if trial is material.winner:
            axes.plot([at[0]], [at[1]], markersize=8, markeredgecolor=BLACK, linestyle="none", zorder=4, **look)
    label = _label(index, material)
    handles = [Line2D([], [], linestyle="none", markersize=4, label=label, **look)]
    tested = tested_point(material.summary)
    if tested is not None:
        selected = "test" if tested.protocol == "test" else TEST_SELECTED
        further = {**look, "markersize": 11, "fillstyle": "none", "markeredgewidth": 1.8}
        further["markeredgecolor"] = look["color"]
        handles.append(draw_tested(axes, tested, f"{label}: {selected} (mean ± sd)", **further))
    return handles

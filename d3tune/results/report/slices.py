"""The objective against every hyper-parameter, one small panel each."""

import math
from typing import Any

from matplotlib.axes import Axes

from d3tune.results.report.coordinates import scales_of
from d3tune.results.report.figure import Drawn
from d3tune.results.report.marks import NONE_EVALUATED, mark_winner, plot_trials, scale_x
from d3tune.results.report.material import UNMET, Material, Tried
from d3tune.results.report.scales import Scale
from d3tune.results.report.style import figure, legend_below
from d3tune.words import plural

COLUMNS = 4


def slices(material: Material) -> Drawn:
    """Small multiples, every trial that had the hyper-parameter as a point."""
    name, title = "slices", "Each hyper-parameter"
    shown = material.of("complete", UNMET, "pruned")
    scales = scales_of(material)
    if not shown or not scales:
        return Drawn(name, title, "", "", None, NONE_EVALUATED if not shown else "No hyper-parameter is searched.")
    rows = math.ceil(len(scales) / COLUMNS)
    drawn = figure(0.7 + 1.55 * rows)
    panels = drawn.subplots(rows, COLUMNS, sharey=True, squeeze=False).ravel()
    handles: dict[str, Any] = {}
    for axes, scale in zip(panels, scales.values(), strict=False):
        handles |= {handle.get_marker(): handle for handle in _slice(axes, material, scale)}
    for axes in panels[len(scales) :]:
        axes.set_axis_off()
    for handle in handles.values():
        # how many there are differs from panel to panel
        handle.set_label(handle.get_label().split(" (")[0])
    drawn.supylabel(material.metric, fontsize=9)
    legend_below(drawn, list(handles.values()))
    caption = (
        f"{material.metric} of {plural(len(shown), 'trial')}, each at its best evaluation, against each searched "
        "hyper-parameter; logarithmic where marked. Panels leave out trials that did not have the hyper-parameter; a "
        "weight that is off lies at 0."
    )
    alt = f"{plural(len(scales), 'small panel')}: value against {', '.join(scales)}."
    return Drawn(name, title, caption, alt, drawn)


def _slice(axes: Axes, material: Material, scale: Scale) -> list[Any]:
    def place(trial: Tried) -> tuple[float, float] | None:
        value = material.setting(trial, scale.name)
        return None if value is None or trial.value is None else (scale.position(value), trial.value)

    handles = plot_trials(axes, material, place, "pruned", UNMET, "complete", markersize=3.5)
    handles += mark_winner(axes, material, place)
    scale_x(axes, scale)
    axes.tick_params(labelsize=7)
    axes.set_title(scale.label, fontsize=8)
    return handles

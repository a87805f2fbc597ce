"""How sensitive H is around the winner to the loss weights and the numbers of synthetic rows, from the trials alone."""

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from d3tune.results.report.coordinates import COLOURS, scales_of
from d3tune.results.report.figure import Drawn
from d3tune.results.report.marks import mark_winner, scale_x
from d3tune.results.report.material import UNMET, Material, Tried
from d3tune.results.report.nearness import distance
from d3tune.results.report.scales import Scale
from d3tune.results.report.style import BLACK, DENSE, figure, legend_below
from d3tune.search.aims import nothing_wins
from d3tune.words import plural

COLUMNS = 3


def sensitivity(material: Material) -> Drawn:
    """The objective against each of them; darker and larger is a trial that is like the winner in all else."""
    name, title = "sensitivity", "Sensitivity around the winner"
    scales = {key: scale for key, scale in scales_of(material).items() if is_examined(key) and not scale.choices}
    others = [trial for trial in material.of("complete", UNMET) if trial is not material.winner]
    if material.winner is None or not scales or not others:
        return Drawn(name, title, "", "", None, _reason(material, bool(scales)))
    rows = math.ceil(len(scales) / COLUMNS)
    drawn = figure(0.9 + 1.8 * rows)
    panels = drawn.subplots(rows, COLUMNS, sharey=True, squeeze=False).ravel()
    handles: list[Any] = []
    for axes, scale in zip(panels, scales.values(), strict=False):
        handles = _panel(axes, material, scale, others) or handles
    for axes in panels[len(scales) :]:
        axes.set_axis_off()
    drawn.supylabel(material.metric, fontsize=9)
    shades = ScalarMappable(Normalize(0, 1), COLOURS)
    drawn.colorbar(
        shades, ax=list(panels), label="likeness to the winner (0 none, 1 equal)", pad=0.02, aspect=40, fraction=0.05
    )
    legend_below(drawn, handles)
    caption = (
        f"{material.metric} of the complete trials ({len(others) + 1}) against each loss weight and number of "
        "synthetic rows; the darker and larger a point, the more the trial is like the winner in every other "
        "hyper-parameter (1 minus the mean distance on their axes). Observational: the sampler chose these trials, and "
        "other hyper-parameters differ too; no training was made for this figure."
    )
    alt = f"{plural(len(scales), 'panel')}: value against {', '.join(scales)}, shaded by likeness to the winner."
    return Drawn(name, title, caption, alt, drawn)


def is_examined(name: str) -> bool:
    """Whether a hyper-parameter is a weight of the loss or a number of synthetic rows."""
    return name.endswith("_weight") or name.startswith("n_synthetic")


def _panel(axes: Axes, material: Material, scale: Scale, others: list[Tried]) -> list[Any]:
    def place(trial: Tried) -> tuple[float, float] | None:
        value = material.setting(trial, scale.name)
        return None if value is None or trial.value is None else (scale.position(value), trial.value)

    assert material.winner is not None
    scales = scales_of(material)
    points = [
        (1 - distance(material, scales, trial, material.winner, scale.name), *at)
        for trial in others
        if (at := place(trial)) is not None
    ]
    # the likest on top
    points.sort()
    alike, x, y = ([point[k] for point in points] for k in range(3))
    sizes = [8 + 40 * value**2 for value in alike]
    cloud = axes.scatter(x, y, s=sizes, c=alike, cmap=COLOURS, vmin=0, vmax=1, edgecolors=BLACK, linewidths=0.4)
    cloud.set_rasterized(len(x) > DENSE)
    handles = mark_winner(axes, material, place)
    scale_x(axes, scale)
    axes.tick_params(labelsize=7)
    axes.set_title(scale.label, fontsize=8)
    return handles


def _reason(material: Material, searched: bool) -> str:
    if not searched:
        return "No loss weight and no number of synthetic rows is searched."
    if material.winner is None:
        return f"There is no winner: {nothing_wins(material.frozen, material.run.search)}."
    return "There is no complete trial beside the winner to compare with."

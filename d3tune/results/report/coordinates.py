"""All hyper-parameters of all trials at once: parallel coordinates.

Optuna's own leave out every trial that lacks a conditional parameter, which here are most.
"""

from collections.abc import Mapping
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from d3tune.results.report.figure import Drawn
from d3tune.results.report.marks import NONE_EVALUATED
from d3tune.results.report.material import UNMET, Material, Tried
from d3tune.results.report.scales import OFF, Scale, scale_of
from d3tune.results.report.style import BLACK, DENSE, GREEN, figure, legend_below, winner_handle
from d3tune.words import plural

# even in lightness, and told apart by those who see no red or no green
COLOURS = colormaps["cividis_r"]
INACTIVE = -0.32


def coordinates(material: Material) -> Drawn:
    """A line a trial over an axis a hyper-parameter, coloured by value."""
    name, title = "parallel-coordinates", "Parallel coordinates"
    shown = sorted(material.of("complete", UNMET, "pruned"), key=lambda trial: (trial.value or 0.0, -trial.number))
    scales = scales_of(material)
    if not shown or not scales:
        return Drawn(name, title, "", "", None, NONE_EVALUATED if not shown else "No hyper-parameter is searched.")
    values = [trial.value for trial in shown if trial.value is not None]
    norm = Normalize(min(values), max(values))
    drawn = figure(1.0 + 0.3 * len(scales))
    axes = drawn.subplots()
    for trial in shown:
        colour = COLOURS(norm(trial.value or 0.0))
        _line(axes, material, trial, scales, color=colour, linewidth=0.8, alpha=0.8, rasterized=len(shown) > DENSE)
    if material.winner is not None:
        _line(axes, material, material.winner, scales, color=BLACK, linewidth=3.2)
        _line(axes, material, material.winner, scales, color=GREEN, linewidth=1.8)
        star = winner_handle(f"winner: trial {material.winner.number}")
        marks = {"marker": star.get_marker(), "markersize": 9, "markeredgecolor": BLACK}
        _line(axes, material, material.winner, scales, color=GREEN, linewidth=0, **marks)
        legend_below(drawn, [star])
    _axes(axes, scales)
    drawn.colorbar(ScalarMappable(norm, COLOURS), ax=axes, label=material.metric, pad=0.02, aspect=40, fraction=0.05)
    caption = (
        f"One line a trial ({plural(len(shown), 'trial')}, complete and pruned), one axis a hyper-parameter from its "
        f"smallest value to its largest, logarithmic where marked; darker is better: {material.metric}. A weight that "
        "is off lies at 0; a hyper-parameter that the trial did not have, left of that."
    )
    alt = f"Lines of {plural(len(shown), 'trial')} over {plural(len(scales), 'hyper-parameter')}, coloured by value."
    return Drawn(name, title, caption, alt, drawn)


def scales_of(material: Material) -> Mapping[str, Scale]:
    """The scale of every searched hyper-parameter."""
    settings = {
        name: [value for trial in material.tried if (value := material.setting(trial, name)) is not None]
        for name in material.parameters
    }
    return {name: scale_of(name, item, settings[name]) for name, item in material.parameters.items()}


def _line(axes: Axes, material: Material, trial: Tried, scales: Mapping[str, Scale], **look: Any) -> None:
    positions = []
    for name, scale in scales.items():
        value = material.setting(trial, name)
        positions.append(INACTIVE if value is None else scale.position(value))
    axes.plot(positions, range(len(scales)), **look)


def _axes(axes: Axes, scales: Mapping[str, Scale]) -> None:
    """The hyper-parameters from above to below, each with its own ticks on its line."""
    axes.set_yticks(range(len(scales)), [scale.label for scale in scales.values()])
    axes.invert_yaxis()
    axes.tick_params("y", length=0)
    axes.set_xlim(INACTIVE - 0.06, 1.06)
    axes.set_xticks([INACTIVE, OFF], ["not\nsearched", "off"])
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    for row, scale in enumerate(scales.values()):
        axes.hlines(row, 0, 1, color=BLACK, linewidth=0.5, zorder=0)
        for at, label in scale.ticks():
            if at != OFF:
                axes.plot([at], [row], "|", color=BLACK, markersize=4)
                axes.annotate(
                    label,
                    (at, row),
                    (0, -4),
                    textcoords="offset points",
                    ha="center",
                    va="top",
                    fontsize=6.5,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.75},
                    zorder=6,
                )

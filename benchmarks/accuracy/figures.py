"""Figures of the report: SVG, the same bytes from the same records, and PNG, in colours that all can tell apart."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.accuracy.cells import TUNED, Cell
from benchmarks.accuracy.records import Record
from benchmarks.accuracy.statistics import CLOSED, Difference, Found, closed_form

# Okabe and Ito's
COLOURS = {"none": "#999999", "teacher": "#E69F00", "cls": "#56B4E9", "d3": "#0072B2", "shipped": "#CC79A7"}
COLOURS |= {"mse": "#E69F00", "remse": "#0072B2", TUNED: "#009E73"}
MARKERS = "os^DvP*X"
BASELINES = {"gaussian": "#D55E00", "ESZSL": "#000000"}
STYLE: dict[Any, Any] = {"svg.hashsalt": "d3tune", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
# of the points of one arm after another, so that equal ones are all seen
SIZES = (9.0, 7.5, 6.0, 4.5, 3.0)
ISO_STEPS, MOST_CURVES = (0.01, 0.02, 0.05, 0.1), 8
TESTED = "test protocol, offset carried from validation"


def write_figures(found: Found, differences: Sequence[Difference], folder: Path) -> dict[str, Path]:
    """Draw what there is.

    Args:
        found: records of cells.
        differences: for the forest plot.
        folder: where files go.

    Returns:
        The SVG files by title.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, Path] = {}
    if differences:
        height = 1.2 + 0.32 * len(differences)
        path = draw_figure(
            folder / "forest", (7.5, height), partial(_on_one, partial(_forest, differences=differences))
        )
        written["Paired differences of test H"] = path
    for backbone in dict.fromkeys(cell.backbone for cell in found):
        cells = {cell: record for cell, record in found.items() if cell.backbone == backbone}
        plane = partial(_on_one, partial(_plane, cells=cells, found=found))
        path = draw_figure(folder / f"plane-{backbone}", (6.5, 5.2), plane)
        written[f"Seen and unseen accuracy: {backbone}"] = path
    return written


def draw_figure(path: Path, size: tuple[float, float], draw: Callable[[Figure], None]) -> Path:
    """Write a figure as SVG and PNG.

    Args:
        path: of both, without an ending.
        size: inches.
        draw: fills it.

    Returns:
        The path of the SVG.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        svg = path.with_suffix(".svg")
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
        figure.savefig(path.with_suffix(".png"), dpi=150, metadata={"Software": None})
    return svg


def _on_one(draw: Callable[[Axes], None], figure: Figure) -> None:
    draw(figure.subplots())


def _forest(axes: Axes, differences: Sequence[Difference]) -> None:
    datasets = list(dict.fromkeys(name for item in differences for name in item.by_dataset))
    for row, item in enumerate(differences):
        for name, value in item.by_dataset.items():
            axes.plot(value, row + 0.25, _marker(datasets, name), color="#777777", markersize=4, fillstyle="none")
        low, high = item.paired.low, item.paired.high
        assert low is not None
        assert high is not None
        axes.plot([low, high], [row, row], color=COLOURS["d3"], linewidth=1.5)
        axes.plot(item.paired.mean, row, "s", color=COLOURS["d3"], markersize=5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(differences)), [f"{item.backbone}: {item.arm} − {item.other}" for item in differences])
    axes.invert_yaxis()
    axes.set_xlabel(f"difference of H in [0, 1] ({TESTED}),\nmean and 95 % interval over pairs of dataset and seed")
    axes.legend(handles=_dataset_handles(datasets), title="mean of", loc="center left", bbox_to_anchor=(1, 0.5))


def _plane(axes: Axes, cells: Mapping[Cell, Record], found: Found) -> None:
    datasets = list(dict.fromkeys(cell.dataset for cell in cells))
    arms = list(dict.fromkeys(cell.arm for cell in cells))
    for cell, record in cells.items():
        size = SIZES[arms.index(cell.arm) % len(SIZES)]
        style: dict[str, Any] = {"color": COLOURS.get(cell.arm, "#009E73"), "markersize": size, "alpha": 0.8}
        for row in record["per_seed"]:
            axes.plot(row["S"], row["U"], _marker(datasets, cell.dataset), **style)
    for name, colour in BASELINES.items():
        for dataset in datasets:
            values = closed_form(found, dataset, name)
            if values is not None:
                style = {"color": colour, "markersize": 9.0, "fillstyle": "none", "markeredgewidth": 1.8}
                axes.plot(values["S"], values["U"], _marker(datasets, dataset), **style)
    _iso_curves(axes)
    axes.set_xlabel(f"S: accuracy on seen classes, in [0, 1]\n({TESTED}; a point a seed)")
    axes.set_ylabel("U: accuracy on unseen classes, in [0, 1]")
    solid = [_handle(arm, COLOURS.get(arm, "#009E73"), "o") for arm in arms]
    hollow = [_handle(f"{name} (closed form)", BASELINES[name], "o", "none") for name in CLOSED]
    axes.legend(handles=[*solid, *hollow, *_dataset_handles(datasets)], loc="center left", bbox_to_anchor=(1.02, 0.5))


def _iso_curves(axes: Axes) -> None:
    """Curves of equal H within what the points span."""
    axes.margins(0.15)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for h in iso_values(_harmonic(left, bottom), _harmonic(right, top)):
        s = np.linspace(max(left, h / 2 + 1e-3), right, 400)
        u = h * s / (2 * s - h)
        inside = (u >= bottom) & (u <= top)
        if inside.any():
            axes.plot(s[inside], u[inside], color="#BBBBBB", linewidth=0.8, zorder=0)
            axes.text(s[inside][0], u[inside][0], f"H = {h:g}", color="#777777", fontsize=7, ha="left", va="top")
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def iso_values(low: float, high: float) -> list[float]:
    """Round values of H between two, not too many."""
    for step in ISO_STEPS:
        values = [round(index * step, 2) for index in range(1, round(1 / step)) if low < index * step < high]
        if len(values) <= MOST_CURVES:
            return values
    return values


def _harmonic(u: float, s: float) -> float:
    u, s = max(u, 0.0), max(s, 0.0)
    return 2 * u * s / (u + s) if u + s else 0.0


def _marker(datasets: Sequence[str], name: str) -> str:
    return MARKERS[datasets.index(name) % len(MARKERS)]


def _dataset_handles(datasets: Sequence[str]) -> list[Line2D]:
    return [_handle(name, "#555555", _marker(datasets, name), "none") for name in datasets]


def _handle(label: str, colour: str, marker: str, fill: str = "full") -> Line2D:
    return Line2D([], [], color=colour, marker=marker, linestyle="none", label=label, fillstyle=fill)  # type: ignore[arg-type]

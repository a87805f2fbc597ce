"""Regret over compute of simulated searches: a figure a cell, a panel a pruner, a line a sampler with its interval."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks.accuracy.figures import draw_figure
from benchmarks.search_statistics import Target, interval, regret_at
from benchmarks.traces import Arm, Trace
from benchmarks.trials import Cell

# Okabe and Ito's
COLOURS = {"random": "#999999", "tpe": "#0072B2", "gp": "#D55E00", "cmaes": "#009E73", "auto": "#E69F00"}
STYLES = {"auto": "--"}
POINTS = 100
# of the axis: differences below it are of no use to anybody
LEAST_REGRET = 1e-3


def write_figures(
    found: Mapping[Arm, Sequence[Trace]], targets: Mapping[Cell, Target], folder: Path
) -> dict[Cell, Path]:
    """Draw what there is.

    Args:
        found: repetitions of each arm, at least one.
        targets: of each cell.
        folder: where files go.

    Returns:
        The SVG files.
    """
    written = {}
    for cell in dict.fromkeys(arm.cell for arm in found):
        folder.mkdir(parents=True, exist_ok=True)
        arms = {arm: traces for arm, traces in found.items() if arm.cell == cell}
        width = 1.0 + 3.2 * len({arm.pruner for arm in arms})
        drawn = partial(_panels, arms=arms, best=targets[cell].best)
        written[cell] = draw_figure(folder / f"regret-{cell.name}", (width, 3.6), drawn)
    return written


def _panels(figure: Figure, arms: Mapping[Arm, Sequence[Trace]], best: float) -> None:
    pruners = list(dict.fromkeys(arm.pruner for arm in arms))
    panels: Sequence[Axes] = figure.subplots(1, len(pruners), sharey=True, sharex=True, squeeze=False)[0]
    for axes, pruner in zip(panels, pruners, strict=True):
        for arm in (arm for arm in arms if arm.pruner == pruner):
            _line(axes, arm.sampler, arms[arm], best)
        axes.set_title(f"pruner {pruner}")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("compute in seconds of all trials")
    panels[0].set_ylabel("regret: noise-free best H minus\nnoise-free H of the best so far")
    panels[0].set_ylim(bottom=LEAST_REGRET)
    # of the panel that has most lines
    fullest = max(panels, key=lambda axes: len(axes.get_lines()))
    handles, labels = fullest.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", title="mean, 95 %")


def _line(axes: Axes, sampler: str, traces: Sequence[Trace], best: float) -> None:
    """From where every repetition has a best trial to where the first of them ends."""
    begin = max((_begin(trace) for trace in traces), default=np.inf)
    end = min(float(trace["compute"][-1]) for trace in traces)
    if not begin < end:
        return
    compute = np.geomspace(begin, end, POINTS)
    rows = np.array([regret_at(trace, best, compute) for trace in traces])
    told = [interval(column.tolist()) for column in rows.T]
    colour = COLOURS.get(sampler, "#CC79A7")
    mean = np.maximum([item.mean for item in told], LEAST_REGRET)
    axes.plot(compute, mean, STYLES.get(sampler, "-"), color=colour, label=sampler)
    if len(traces) > 1:
        low, high = ([getattr(item, name) for item in told] for name in ("low", "high"))
        bounds = [np.maximum(np.array(side, float), LEAST_REGRET) for side in (low, high)]
        axes.fill_between(compute, *bounds, color=colour, alpha=0.2, linewidth=0)


def _begin(trace: Trace) -> float:
    """Compute at which there is a best trial for the first time."""
    there = trace["compute"][~np.isnan(trace["best"])]
    return max(float(there[0]), 1e-6) if len(there) else np.inf

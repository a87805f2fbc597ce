"""The accuracy of every class, seen and unseen apart."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from d3tune.method.analysis import Analysis, ClassResult
from d3tune.results.report.figure import Drawn
from d3tune.results.report.naming import codes, kind, plain_name, right_of, shown_name
from d3tune.results.report.style import BLACK, BLUE, ORANGE, VERMILLION, figure

WORST = 5


def class_accuracy(name: str, title: str, analysis: Analysis, protocol: str) -> Drawn:
    """Two panels of all classes in the order of their accuracy, the lowest five named.

    Args:
        name: of the figure.
        title: of the figure.
        analysis: what is shown.
        protocol: how it was tested, as a sentence.
    """
    drawn = figure(4.6)
    told = []
    for axes, seen in zip(drawn.subplots(2, 1), (True, False), strict=True):
        classes, mean = ranked(analysis, seen), analysis.chosen.S if seen else analysis.chosen.U
        _panel(axes, classes, seen, mean)
        told.append(_lowest(classes, seen))
    empty = sum(item.rows == 0 for item in analysis.classes)
    caption = [
        protocol,
        "Accuracy: the share of a class's test rows, in [0, 1], that is right among all classes; classes in rising "
        "order. S and U are means over classes.",
        *told,
        *([f"Without a test row and left out: {empty}."] if empty else []),
        codes(item.name for seen in (True, False) for item in ranked(analysis, seen)[:WORST]),
    ]
    alt = f"Accuracy of each class; S {analysis.chosen.S:.3f}, U {analysis.chosen.U:.3f}. {' '.join(told)}"
    return Drawn(name, title, " ".join(caption).strip(), alt, drawn)


def ranked(analysis: Analysis, seen: bool) -> list[ClassResult]:
    """The seen or the unseen classes that have test rows, the lowest accuracy first; of equal ones the larger."""
    classes = [item for item in analysis.classes if item.seen == seen and item.accuracy is not None]
    return sorted(classes, key=lambda item: (item.accuracy, -item.rows))


def _lowest(classes: Sequence[ClassResult], seen: bool) -> str:
    """The lowest classes by name, as a sentence."""
    named = ", ".join(f"{plain_name(item.name)} ({right_of(item)})" for item in classes[:WORST])
    wrong = sum(item.accuracy == 0 for item in classes)
    further = f"; {wrong} have no row right" if wrong > WORST else ""
    return f"Lowest of {len(classes)} {kind(seen)} classes (rows right): {named or 'none has a test row'}{further}."


def _panel(axes: Axes, classes: Sequence[ClassResult], seen: bool, mean: float) -> None:
    values, letter = [item.accuracy or 0.0 for item in classes], "S" if seen else "U"
    lowest = classes[:WORST]
    # one outline, as narrow as 700 classes make each
    axes.stairs(values, np.arange(len(values) + 1) + 0.5, fill=True, color=BLUE if seen else ORANGE, label="_")
    axes.plot(
        range(1, len(lowest) + 1), values[:WORST], "v", color=VERMILLION, markeredgecolor=BLACK, clip_on=False, zorder=3
    )
    axes.axhline(mean, color=BLACK, linewidth=1, linestyle="--")
    axes.set_ylim(0, 1)
    axes.set_xlim(0.5, max(len(values), 1) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"{kind(seen)} classes by accuracy (rank)")
    axes.set_ylabel("accuracy in [0, 1]\n(test protocol)")
    axes.set_title(f"{len(values)} {kind(seen)} classes, dashed: mean {letter} = {mean:.3f}", loc="left", fontsize=9)
    lines = [f"{shown_name(item.name)}  {item.accuracy:.2f} ({right_of(item)})" for item in lowest]
    text = "\n".join(["lowest, from the left (▼):", *lines])
    axes.text(1.02, 1.0, text, transform=axes.transAxes, va="top", fontsize=8, linespacing=1.5)

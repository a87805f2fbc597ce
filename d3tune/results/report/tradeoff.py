"""The seen–unseen curve of one model: what its offset gains and costs."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from d3tune.method.analysis import Analysis, Point
from d3tune.results.report.figure import Drawn
from d3tune.results.report.style import BLACK, BLUE, GREY, ORANGE, SKY, VERMILLION, figure, legend_below
from d3tune.words import TEST_SELECTED

LEVELS = [tenth / 10 for tenth in range(1, 10)]
CHOSEN: dict[str, Any] = {"marker": "o", "markersize": 9, "color": VERMILLION, "markeredgecolor": BLACK}
OPTIMAL: dict[str, Any] = {"marker": "D", "markersize": 9, "color": ORANGE, "fillstyle": "none", "markeredgewidth": 2}


def tradeoff(name: str, title: str, analysis: Analysis, protocol: str) -> Drawn:
    """U over S at all offsets, the area below, the offset from validation, and the one that the test rows would choose.

    Args:
        name: of the figure.
        title: of the figure.
        analysis: what is shown.
        protocol: how it was tested, as a sentence.
    """
    drawn = figure(5.6, 5.4)
    axes = drawn.subplots()
    curve, chosen, optimal = analysis.curve, analysis.chosen, analysis.test_optimal
    _iso_lines(axes)
    axes.fill_between(curve.S, curve.U, color=SKY, alpha=0.25, linewidth=0)
    (line,) = axes.plot(curve.S, curve.U, color=BLUE, linewidth=1.8, label=f"all offsets, AUSUC = {curve.AUSUC:.3f}")
    points = [
        _mark(axes, chosen, f"offset from validation: H = {chosen.H:.3f}", CHOSEN),
        _mark(axes, optimal, f"would have been chosen on test ({TEST_SELECTED}): H = {optimal.H:.3f}", OPTIMAL),
    ]
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("S: accuracy on seen classes in [0, 1] (test protocol)")
    axes.set_ylabel("U: accuracy on unseen classes in [0, 1] (test protocol)")
    legend_below(drawn, [line, *points], 1)
    caption = (
        f"{protocol} The line: every other offset that is subtracted from the scores of seen classes. AUSUC: the area "
        "below it. Dotted: equal H = 2SU/(S+U). The diamond is the offset that these very test rows would have chosen: "
        f"{TEST_SELECTED}, optimistic, and used for nothing; H there is {optimal.H - chosen.H:.3f} above the reported "
        "one."
    )
    alt = (
        f"Curve of U over S with AUSUC {curve.AUSUC:.3f}. At the offset from validation S {chosen.S:.3f}, U "
        f"{chosen.U:.3f}, H {chosen.H:.3f}; at the one that would have been chosen on test ({TEST_SELECTED}) S "
        f"{optimal.S:.3f}, U {optimal.U:.3f}, H {optimal.H:.3f}."
    )
    return Drawn(name, title, caption, alt, drawn)


def _mark(axes: Axes, point: Point, label: str, look: dict[str, Any]) -> Any:
    (mark,) = axes.plot([point.S], [point.U], linestyle="none", label=label, zorder=3, clip_on=False, **look)
    return mark


def _iso_lines(axes: Axes) -> None:
    """Lines of equal H, with their values where S = U."""
    for h in LEVELS:
        # U is at most 1 where S is at least this
        s = np.geomspace(h / (2 - h), 1, 200)
        axes.plot(s, h * s / (2 * s - h), color=GREY, linewidth=0.6, linestyle=":", zorder=0)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        axes.text(h, h, f"H {h:.1f}", color=GREY, fontsize=7, ha="center", va="center", zorder=1, bbox=box)

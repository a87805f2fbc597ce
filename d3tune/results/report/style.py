"""How figures look: colours that all can tell apart, markers as well, dark on white, the same bytes every time."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D

# Okabe and Ito's
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#767676"
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
CYCLE_MARKERS = "os^Dv<P"

# of each state: colour, marker, and whether it is filled
STATE_MARKS: dict[str, dict[str, Any]] = {
    "complete": {"color": BLUE, "marker": "o", "markersize": 5.0},
    "constraint not met": {"color": BLUE, "marker": "D", "markersize": 4.5, "fillstyle": "none"},
    "pruned": {"color": VERMILLION, "marker": "v", "markersize": 5.0, "fillstyle": "none"},
    "failed": {"color": BLACK, "marker": "x", "markersize": 5.0},
    "unfinished": {"color": GREY, "marker": "s", "markersize": 5.0, "fillstyle": "none"},
}
WINNER: dict[str, Any] = {
    "color": GREEN,
    "marker": "*",
    "markersize": 13.0,
    "markeredgecolor": BLACK,
    "linestyle": "none",
}
WIDTH = 7.2
# beyond so many strokes a layer is drawn as pixels, which keeps the page small
DENSE = 150
FONT = "DejaVu Sans"

STYLE: dict[str, Any] = {
    "svg.hashsalt": "d3tune",
    # glyphs as paths: the same wherever the page is opened
    "svg.fonttype": "path",
    "font.family": FONT,
    "font.size": 9,
    # a name with a dollar sign is no formula
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "savefig.dpi": 150,
}


@contextmanager
def styled() -> Iterator[None]:
    """The report's style, whatever the user's own matplotlib settings are; pyplot is not touched."""
    with matplotlib.style.context(["default", STYLE]), warnings.catch_warnings():
        # a layout that cannot fit everything draws it all the same
        warnings.filterwarnings("ignore", "constrained_layout not applied")
        yield


def figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure, made under `styled`.

    Args:
        height: in inches.
        width: likewise.
    """
    return Figure(figsize=(width, height), layout="constrained")


def drawable(text: str) -> str:
    """A text on one line in which what the font cannot show is ``□``."""
    known = _characters()
    return "".join(sign if ord(sign) in known else "□" for sign in " ".join(text.split()))


@cache
def _characters() -> frozenset[int]:
    return frozenset(get_font(findfont(FONT)).get_charmap())


def state_handle(state: str, count: int, note: str = "") -> Line2D:
    """A state's mark for a legend, with how many trials have it there."""
    return Line2D([], [], linestyle="none", label=f"{state}{note} ({count})", **STATE_MARKS[state])


def winner_handle(label: str) -> Line2D:
    """The winner's mark for a legend."""
    return Line2D([], [], label=label, **WINNER)


def plot_state(axes: Axes, state: str, x: Sequence[float], y: Sequence[float], **further: Any) -> None:
    """Points of the trials in one state."""
    axes.plot(x, y, linestyle="none", rasterized=len(x) > DENSE, **{**STATE_MARKS[state], **further})


def legend_below(target: Figure, handles: Sequence[Any], columns: int = 4) -> None:
    """A legend under everything, where it covers no point."""
    target.legend(handles=list(handles), loc="outside lower center", ncols=columns)

"""Which seen and unseen classes are taken for each other most."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from d3tune.method.analysis import Analysis, Confusion
from d3tune.results.report.figure import Drawn
from d3tune.results.report.naming import codes, kind, plain_name, shown_name
from d3tune.results.report.style import BLUE, ORANGE, figure

BARS = 10
# inches of a bar, and of a panel's title and axis
BAR, AROUND = 0.2, 0.8


def confused(name: str, title: str, analysis: Analysis, protocol: str) -> Drawn:
    """Two panels of bars: rows of seen classes told to be of unseen ones, and the other way round.

    Args:
        name: of the figure.
        title: of the figure.
        analysis: what is shown.
        protocol: how it was tested, as a sentence.
    """
    parts = [(True, analysis.seen_as_unseen[:BARS]), (False, analysis.unseen_as_seen[:BARS])]
    heights = [AROUND + BAR * max(1, len(pairs)) for _, pairs in parts]
    drawn = figure(sum(heights))
    panels = drawn.subplots(2, 1, sharex=True, height_ratios=heights)
    for axes, (seen, pairs) in zip(panels, parts, strict=True):
        _panel(axes, analysis, pairs, seen)
    # room for the numbers beside the longest bar
    panels[0].set_xlim(0, 1.15 * max([pair.rows for _, pairs in parts for pair in pairs], default=1))
    most = [f"{_direction(seen)}: {_told(analysis, pairs)}." for seen, pairs in parts]
    caption = (
        f"{protocol} The {BARS} most frequent pairs of either direction, true class → told class: numbers of test "
        f"rows, beside each the rows of the true class. Most often {' '.join(most)} "
        + codes(analysis.classes[i].name for _, pairs in parts for pair in pairs for i in (pair.true, pair.predicted))
    ).strip()
    alt = f"Horizontal bars of confusions between seen and unseen classes. Most often {' '.join(most)}"
    return Drawn(name, title, caption, alt, drawn)


def _panel(axes: Axes, analysis: Analysis, pairs: Sequence[Confusion], seen: bool) -> None:
    names = [" → ".join(shown_name(analysis.classes[i].name) for i in (pair.true, pair.predicted)) for pair in pairs]
    bars = axes.barh(range(len(pairs)), [pair.rows for pair in pairs], color=BLUE if seen else ORANGE, height=0.7)
    axes.bar_label(
        bars, [f"{pair.rows} of {analysis.classes[pair.true].rows}" for pair in pairs], padding=3, fontsize=8
    )
    axes.set_yticks(range(len(pairs)), names, fontsize=8)
    axes.set_ylim(max(len(pairs), 1) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelbottom=True)
    axes.set_title(_direction(seen), loc="left", fontsize=9)
    axes.set_xlabel("test rows (test protocol)")
    if not pairs:
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", va="center")


def _direction(seen: bool) -> str:
    return f"{kind(seen)} class → {kind(not seen)} class"


def _told(analysis: Analysis, pairs: Sequence[Confusion]) -> str:
    if not pairs:
        return "none"
    true, told = (plain_name(analysis.classes[i].name) for i in (pairs[0].true, pairs[0].predicted))
    return f"{true} → {told}, {pairs[0].rows} of {analysis.classes[pairs[0].true].rows} rows"

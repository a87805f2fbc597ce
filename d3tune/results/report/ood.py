"""The OOD score of test rows: how well it tells unseen classes from seen ones."""

from matplotlib.axes import Axes

from d3tune.method.analysis import Analysis, OodHistogram
from d3tune.results.report.figure import Drawn
from d3tune.results.report.style import BLACK, BLUE, VERMILLION, figure, legend_below

NONE = "This backbone has no teacher and no OOD score."
# what the names of scores stand for
SCORES = {
    "teacher's msp": "OOD score of the teacher: its largest log-softmax (msp), in nats",
    "teacher's energy": "OOD score of the teacher: logsumexp of its logits (energy)",
    "teacher's maxlogit": "OOD score of the teacher: its largest logit (maxlogit)",
    "teacher's entropy": "OOD score of the teacher: negative entropy of its softmax, in nats",
}


def ood_scores(name: str, title: str, analysis: Analysis, protocol: str) -> Drawn:
    """Two histograms of one score, of rows of seen and of unseen classes.

    Args:
        name: of the figure.
        title: of the figure.
        analysis: what is shown.
        protocol: how it was tested, as a sentence.
    """
    found = analysis.ood
    if found is None:
        return Drawn(name, title, "", "", None, NONE)
    drawn = figure(3.6)
    axes = drawn.subplots()
    told = f"AUROC = {found.AUROC:.3f}, FPR95 = {found.FPR95:.3f}"
    handles = [
        _outline(axes, found, found.seen, f"seen classes ({sum(found.seen)} rows)", BLUE, "-"),
        _outline(axes, found, found.unseen, f"unseen classes ({sum(found.unseen)} rows)", VERMILLION, "--"),
        axes.axvline(
            found.threshold, color=BLACK, linewidth=1, linestyle=":", label="95 % of the seen rows reach this"
        ),
    ]
    score = SCORES.get(found.name, found.name.capitalize())
    axes.set_title(told, loc="left", fontsize=9)
    axes.set_xlabel(f"{score}; higher: more like a seen class")
    axes.set_ylabel("share of the rows in a bin\n(test protocol)")
    axes.set_ylim(bottom=0)
    legend_below(drawn, handles, 3)
    caption = (
        f"{protocol} {score}, of test rows; shares of the seen and of the unseen rows add up to 1 each. {told}: the "
        "chance that a seen row has the higher one of two scores, and the share of the unseen rows that reach what "
        "95 % of the seen ones do; both in [0, 1], 0.5 and 0.95 by chance. Neither chooses anything."
    )
    alt = f"Histograms of the score for seen and unseen test rows; {told}."
    return Drawn(name, title, caption, alt, drawn)


def _outline(axes: Axes, found: OodHistogram, counts: tuple[int, ...], label: str, colour: str, line: str) -> object:
    shares = [count / max(1, sum(counts)) for count in counts]
    axes.stairs(shares, found.edges, fill=True, color=colour, alpha=0.25)
    return axes.stairs(shares, found.edges, color=colour, linewidth=1.6, linestyle=line, label=label)

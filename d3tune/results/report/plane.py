"""The seen–unseen plane: what a trial gains on unseen classes and pays on seen ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from d3tune.results.published import Published, published_beside
from d3tune.results.report.figure import Drawn
from d3tune.results.report.marks import NONE_EVALUATED, mark_winner, plot_trials
from d3tune.results.report.material import UNMET, Material, Tried
from d3tune.results.report.style import BLACK, GREY, ORANGE, PURPLE, drawable, figure, legend_below
from d3tune.words import TEST_SELECTED, plural

LEVELS = np.arange(0.05, 1.0, 0.05)
DRAWN = ("pruned", UNMET, "complete", "unfinished")
# letters that mark published points, explained under the figure
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TESTED: dict[str, Any] = {"color": PURPLE, "marker": "D", "markersize": 7, "markeredgecolor": BLACK}
PRINTED: dict[str, Any] = {"color": ORANGE, "marker": "P", "markersize": 8, "markeredgecolor": BLACK}


@dataclass(frozen=True)
class Tested:
    """The confirmed test result as a point.

    Attributes:
        S: mean accuracy on seen classes.
        U: mean accuracy on unseen classes.
        S_sd: deviation over seeds, 0 of a single seed.
        U_sd: likewise.
        protocol: ``test`` or ``published``.
        seeds: how many.
        trial: which one, where that is not the winner.
    """

    S: float
    U: float
    S_sd: float
    U_sd: float
    protocol: str
    seeds: int
    trial: int | None = None

    @property
    def label(self) -> str:
        """What it is, for a legend."""
        which = "winner" if self.trial is None else f"trial {self.trial}"
        what = f"test, confirmed {which}" if self.protocol == "test" else f"published, {TEST_SELECTED}"
        return f"{what} (mean ± sd, {plural(self.seeds, 'seed')})"


def plane(material: Material) -> Drawn:
    """Trials that did not fail at their best evaluation; of other protocols, and marked so: test, published results."""
    name, title = "seen-unseen", "Seen and unseen accuracy"
    points = {trial.number: at for trial in material.of(*DRAWN) if (at := place(material, trial)) is not None}
    if not points:
        return Drawn(name, title, "", "", None, NONE_EVALUATED)
    drawn = figure(5.4, 6.4)
    axes = drawn.subplots()
    handles = plot_trials(axes, material, lambda trial: place(material, trial), *DRAWN)
    complete = [points[trial.number] for trial in material.of("complete") if trial.number in points]
    if complete:
        handles.append(draw_front(axes, complete))
    handles += mark_winner(axes, material, lambda trial: place(material, trial))
    tested = tested_point(material.summary)
    if tested is not None:
        handles.append(draw_tested(axes, tested))
    search = material.run.search
    printed = with_both(published_beside(search.dataset, search.semantics))
    if printed:
        handles.append(draw_published(axes, printed))
    finish(axes)
    # the figure's files are shown without the page too
    axes.set_title(drawable(material.protocol), fontsize=9)
    legend_below(drawn, handles, 2)
    caption = " ".join([_caption(material), _tested_caption(tested), published_caption(printed)]).strip()
    return Drawn(name, title, caption, _alt(material, points, tested), drawn)


def place(material: Material, trial: Tried) -> tuple[float, float] | None:
    """S and U of a trial at its best evaluation; None before one, or where the record lacks them."""
    if trial.best is None:
        return None
    seen, unseen = material.metric_of(trial.best, "S"), material.metric_of(trial.best, "U")
    return None if seen is None or unseen is None else (seen, unseen)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those points that no other one equals or exceeds in both, from the largest S to the smallest."""
    front: list[tuple[float, float]] = []
    for seen, unseen in sorted(set(points), reverse=True):
        if not front or unseen > front[-1][1]:
            front.append((seen, unseen))
    return front


def tested_point(summary: Mapping[str, Any]) -> Tested | None:
    """The confirmed test result of a summary; None where there is none or it lacks something."""
    try:
        test = summary["test"]
        seen, unseen = (float(test[name]["mean"]) for name in ("S", "U"))
        seen_sd, unseen_sd = (float(test[name].get("sd") or 0.0) for name in ("S", "U"))
        seeds, protocol = len(test["H_per_seed"]), str(test["protocol"])
        return Tested(seen, unseen, seen_sd, unseen_sd, protocol, seeds, confirmed_before(summary))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def confirmed_before(summary: Mapping[str, Any]) -> int | None:
    """The trial that was confirmed, where it was chosen or is an earlier command's; None where it is the winner."""
    confirmed, winner = summary.get("confirmed_trial"), summary.get("winner")
    found = winner.get("trial") if isinstance(winner, dict) else None
    return confirmed if isinstance(confirmed, int) and confirmed != found else None


def with_both(results: Sequence[Published]) -> list[tuple[Published, float, float]]:
    """Those published results that state both, with S and U."""
    return [(item, item.S, item.U) for item in results if item.S is not None and item.U is not None]


def draw_front(axes: Axes, points: Sequence[tuple[float, float]]) -> Line2D:
    """Draw the Pareto front as a staircase; returns its handle."""
    front = pareto_front(points)
    look: dict[str, Any] = {"color": BLACK, "linewidth": 1.0, "linestyle": "--"}
    axes.step([x for x, _ in front], [y for _, y in front], where="post", zorder=1, **look)
    return Line2D([], [], label=f"Pareto front of complete trials ({len(front)})", **look)


def draw_tested(axes: Axes, tested: Tested, label: str = "", **further: Any) -> Line2D:
    """Draw a test result with bars of one deviation; returns its handle."""
    look = {**TESTED, **further}
    axes.errorbar(
        [tested.S], [tested.U], [tested.U_sd], [tested.S_sd], ecolor=look["color"], capsize=3, zorder=4, **look
    )
    return Line2D([], [], linestyle="none", label=label or tested.label, **look)


def draw_published(axes: Axes, printed: Sequence[tuple[Published, float, float]]) -> Line2D:
    """Draw published results, each with a letter; returns their handle."""
    for letter, (_, seen, unseen) in zip(_letters(len(printed)), printed, strict=True):
        axes.plot([seen], [unseen], linestyle="none", zorder=3, **PRINTED)
        axes.annotate(letter, (seen, unseen), (5, 4), textcoords="offset points", fontsize=8)
    return Line2D([], [], linestyle="none", label=f"published, {TEST_SELECTED} (letters: see caption)", **PRINTED)


def published_caption(printed: Sequence[tuple[Published, float, float]]) -> str:
    """Which letter is which published result."""
    if not printed:
        return ""
    names = "; ".join(
        f"{letter}: {item.method} ({item.features})"
        for letter, (item, _, _) in zip(_letters(len(printed)), printed, strict=True)
    )
    return f"Published results are of another protocol, test and {TEST_SELECTED}, perhaps on other features – {names}."


def finish(axes: Axes) -> None:
    """Label the axes, and draw curves of equal H where there are points."""
    axes.margins(0.08)
    axes.autoscale_view()
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    left, bottom = max(0.0, left), max(0.0, bottom)
    right, top = min(1.0, max(right, left + 0.05)), min(1.0, max(top, bottom + 0.05))
    seen, unseen = np.meshgrid(np.linspace(left, right, 200), np.linspace(bottom, top, 200))
    H = 2 * seen * unseen / np.maximum(seen + unseen, 1e-9)
    step = 0.05 if np.ptp(H) > 0.2 else 0.01
    levels = np.arange(step, 1.0, step)
    if np.any((levels > H.min()) & (levels < H.max())):
        curves = axes.contour(seen, unseen, H, levels=levels, colors=GREY, linewidths=0.5, linestyles=":", zorder=0)
        axes.clabel(curves, fmt="H %.2f", fontsize=7)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_xlabel("S: accuracy on seen classes in [0, 1]")
    axes.set_ylabel("U: accuracy on unseen classes in [0, 1]")


def shown_data(material: Material) -> str:
    """Dataset, semantics and features, for a title."""
    search = material.run.search
    return drawable(f"{search.dataset}, {search.semantics}, features {search.features}")


def _caption(material: Material) -> str:
    return (
        f"Trials at their best evaluation ({material.protocol}): mean accuracy per class on seen and on pseudo-unseen "
        "classes, calibrated. Dotted: equal H = 2SU/(S+U). The front is of complete trials alone, since no other can "
        "win."
    ).replace("pseudo-unseen", "unseen" if material.prefix == "published" else "pseudo-unseen")


def _tested_caption(tested: Tested | None) -> str:
    if tested is None:
        return "No trial has been confirmed on the test sets."
    if tested.protocol == "test":
        return (
            "The diamond is of another protocol: test, other classes, retrained on all of trainval; it is not to be "
            "compared with trials but with published results."
        )
    return f"The diamond is {TEST_SELECTED}: each seed's best test epoch, no estimate of what a new test would give."


def _letters(count: int) -> list[str]:
    return [LETTERS[k % 26] * (1 + k // 26) for k in range(count)]


def _alt(material: Material, points: Mapping[int, Any], tested: Tested | None) -> str:
    text = f"{plural(len(points), 'trial')} by accuracy on seen and unseen classes"
    if material.winner is not None and material.winner.number in points:
        seen, unseen = points[material.winner.number]
        text += f"; the winner has S {seen:.3f} and U {unseen:.3f}"
    if tested is not None:
        text += f"; {tested.protocol}: S {tested.S:.3f} and U {tested.U:.3f}"
    return f"{text}."

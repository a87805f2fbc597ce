"""What each D³ term goes with: H of the trials without it, with little and with much of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Any

from matplotlib.axes import Axes
from scipy.stats import t

from d3tune.results.report.figure import Drawn
from d3tune.results.report.marks import wrapped
from d3tune.results.report.material import UNMET, Material
from d3tune.results.report.style import BLACK, BLUE, DENSE, GREY, VERMILLION, figure
from d3tune.search.ablate import TERMS

CONFIDENCE = 0.95
OFF, LOW, HIGH = "off", "low", "high"
LOOKS = {OFF: (GREY, "s"), LOW: (BLUE, "o"), HIGH: (VERMILLION, "^")}


@dataclass(frozen=True)
class Group:
    """The complete trials with a term off, with a low or with a high weight of it.

    Attributes:
        name: ``off``, ``low`` or ``high``.
        values: of the objective.
        limit: the median of the weights above 0, which parts low from high; None of ``off``.
    """

    name: str
    values: tuple[float, ...]
    limit: float | None = None

    @property
    def half_width(self) -> float | None:
        """Of the mean's 95 % interval, Student's t; None of fewer than two values."""
        n = len(self.values)
        if n < 2:
            return None
        return float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * stdev(self.values) / math.sqrt(n)


def terms(material: Material) -> Drawn:
    """A panel a term: the groups' values, their means and intervals."""
    name, title = "d3-terms", "The D³ terms"
    groups = {key: groups_of(material, key) for key in TERMS if key in material.parameters}
    groups = {key: found for key, found in groups.items() if len(found) > 1}
    if not groups:
        return Drawn(name, title, "", "", None, _reason(material))
    drawn = figure(3.0)
    panels = drawn.subplots(1, len(groups), sharey=True, squeeze=False).ravel()
    for axes, (key, found) in zip(panels, groups.items(), strict=True):
        for place, group in enumerate(found):
            _draw(axes, place, group)
        axes.set_xticks(range(len(found)), [_label(group) for group in found], fontsize=7.5)
        axes.set_xlim(-0.6, len(found) - 0.4)
        limits = [group.limit for group in found if group.limit is not None]
        axes.set_xlabel(f"low: up to {limits[0]:.2g}" if limits else "", fontsize=7.5)
        axes.set_title(f"{TERMS[key]}\n{key}", fontsize=8)
    # the interval of two values may be many times as wide as all values
    panels[0].set_ylim(*_around([value for found in groups.values() for group in found for value in group.values]))
    drawn.supylabel(wrapped(material.metric), fontsize=9)
    caption = (
        f"{material.metric} of complete trials with each D³ term off, with a weight up to the median of the weights "
        "above 0 (low) and above it (high); filled: mean with 95 % interval (Student's t; cut off where it leaves the "
        "panel), of n trials. Observational: the sampler favours what did well, pruned trials are left out and other "
        "hyper-parameters differ too; d3tune ablate measures it properly."
    )
    return Drawn(name, title, caption, _alt(groups), drawn)


def groups_of(material: Material, term: str) -> list[Group]:
    """The groups that have a trial, in order of weight.

    Args:
        material: of the run.
        term: the name of its weight.
    """
    pairs = [
        (float(trial.config[term]), trial.value)
        for trial in material.of("complete", UNMET)
        if term in trial.config and trial.value is not None
    ]
    above = [weight for weight, _ in pairs if weight > 0]
    limit = median(above) if above else 0.0
    groups = [
        Group(OFF, tuple(value for weight, value in pairs if weight == 0)),
        Group(LOW, tuple(value for weight, value in pairs if 0 < weight <= limit), limit),
        Group(HIGH, tuple(value for weight, value in pairs if weight > limit), limit),
    ]
    return [group for group in groups if group.values]


def _draw(axes: Axes, place: int, group: Group) -> None:
    colour, marker = LOOKS[group.name]
    # equal values are spread to be seen, the same way every time
    spread = [place - 0.22 + 0.14 * ((k * 7) % 5) / 4 for k in range(len(group.values))]
    look: dict[str, Any] = {"color": colour, "markersize": 3.5, "fillstyle": "none", "alpha": 0.8}
    axes.plot(spread, group.values, marker, rasterized=len(spread) > DENSE, **look)
    mean, half = fmean(group.values), group.half_width
    bar = None if half is None else [half]
    axes.errorbar([place + 0.15], [mean], bar, fmt=marker, color=colour, markeredgecolor=BLACK, capsize=4)


def _around(values: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis with some room for intervals."""
    room = max(0.25 * (max(values) - min(values)), 0.01)
    return min(values) - room, max(values) + room


def _label(group: Group) -> str:
    return f"{group.name}\nn = {len(group.values)}"


def _reason(material: Material) -> str:
    if not any(key in material.parameters for key in TERMS):
        return f"No weight of a D³ term is searched by this run of {material.run.search.backbone}."
    return "The complete trials do not differ in whether, or how much, a D³ term counts."


def _alt(groups: dict[str, Sequence[Group]] | dict[str, list[Group]]) -> str:
    parts = [
        f"{TERMS[key]}: "
        + ", ".join(f"{group.name} {fmean(group.values):.3f} (n {len(group.values)})" for group in found)
        for key, found in groups.items()
    ]
    return f"Mean value by weight of each D³ term. {'; '.join(parts)}."

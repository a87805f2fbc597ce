"""Marks that several figures share: trials by state, the winner, axes of hyper-parameters."""

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes

from d3tune.results.report.material import ALL_STATES, Material, Tried
from d3tune.results.report.scales import OFF, Scale
from d3tune.results.report.style import STATE_MARKS, WINNER, plot_state, state_handle, winner_handle

NONE_EVALUATED = "No trial has been evaluated yet."
Place = Callable[[Tried], tuple[float, float] | None]


def plot_trials(axes: Axes, material: Material, place: Place, *states: str, **further: Any) -> list[Any]:
    """Draw trials as points, each state with its own mark.

    Args:
        axes: where.
        material: of the run.
        place: where a trial lies; None of one that has no place here.
        states: which, all where none is named.
        further: changes of the marks.

    Returns:
        Handles for a legend, of the states that were drawn.
    """
    handles = []
    for state in states or ALL_STATES:
        places = [at for trial in material.tried if trial.state == state and (at := place(trial)) is not None]
        if places:
            plot_state(axes, state, [x for x, _ in places], [y for _, y in places], **further)
            handles.append(state_handle(state, len(places)))
    return handles


def mark_winner(axes: Axes, material: Material, place: Place) -> list[Any]:
    """Draw the winner's star; returns its handle, or none where there is no winner or it has no place here."""
    at = None if material.winner is None else place(material.winner)
    if at is None:
        return []
    axes.plot([at[0]], [at[1]], zorder=5, **WINNER)
    assert material.winner is not None
    return [winner_handle(f"winner: trial {material.winner.number}")]


def mark_floor(axes: Axes, trials: list[Tried]) -> None:
    """Mark trials without a value on the lower edge, at their number."""
    for trial in trials:
        on_edge = axes.get_xaxis_transform()
        axes.plot([trial.number], [0.02], transform=on_edge, linestyle="none", **STATE_MARKS[trial.state])


def scale_x(axes: Axes, scale: Scale) -> None:
    """Make the x axis one of a hyper-parameter."""
    ticks = scale.ticks()
    axes.set_xticks([at for at, _ in ticks], [label for _, label in ticks])
    axes.set_xlim((OFF if scale.off else 0.0) - 0.07, 1.07)
    if max(len(label) for _, label in ticks) > 5 or len(ticks) > 5:
        axes.tick_params("x", labelrotation=40)
        for label in axes.get_xticklabels():
            label.set(horizontalalignment="right", rotation_mode="anchor")


def wrapped(metric: str) -> str:
    """The label of an axis on two lines: the quantity, and its protocol."""
    return metric.replace(" (", "\n(", 1)

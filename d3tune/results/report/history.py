"""How the search went: the best value so far, and every trial by its state."""

from collections.abc import Sequence

from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from d3tune.results.report.figure import Drawn
from d3tune.results.report.marks import mark_floor, mark_winner, plot_trials, wrapped
from d3tune.results.report.material import Material, Tried
from d3tune.results.report.style import BLACK, figure, legend_below, state_handle
from d3tune.search.aims import nothing_wins
from d3tune.words import plural


def history(material: Material) -> Drawn:
    """The best value so far as a step line, and every trial as a point."""
    name, title = "history", "Optimisation history"
    if not material.tried:
        return Drawn(name, title, "", "", None, "No trial has begun yet.")
    drawn = figure(3.6)
    axes = drawn.subplots()
    handles = plot_trials(axes, material, _place)
    without = [trial for trial in material.tried if trial.value is None]
    mark_floor(axes, without)
    for state in dict.fromkeys(trial.state for trial in without):
        handles.append(state_handle(f"{state}", sum(trial.state == state for trial in without), ", no evaluation"))
    steps = best_so_far(material.tried)
    if steps:
        x, y = [number for number, _ in steps], [value for _, value in steps]
        axes.step([*x, material.tried[-1].number], [*y, y[-1]], where="post", color=BLACK, linewidth=1.3)
        handles.append(Line2D([], [], color=BLACK, linewidth=1.3, label="best complete trial so far"))
    handles += mark_winner(axes, material, _place)
    axes.set_xlabel("trial number")
    axes.set_ylabel(wrapped(material.metric))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(drawn, handles, 3)
    caption = (
        f"{material.metric}: each trial at its best evaluation, in order of number. Trials that have none are marked "
        "on the lower edge. Only a complete trial can win, so the line steps on these alone."
    )
    return Drawn(name, title, caption, _alt(material), drawn)


def best_so_far(trials: Sequence[Tried]) -> list[tuple[int, float]]:
    """Number and value of each complete trial that was better than all before it."""
    steps: list[tuple[int, float]] = []
    for trial in trials:
        if trial.state == "complete" and trial.value is not None and (not steps or trial.value > steps[-1][1]):
            steps.append((trial.number, trial.value))
    return steps


def _place(trial: Tried) -> tuple[float, float] | None:
    return None if trial.value is None else (trial.number, trial.value)


def _alt(material: Material) -> str:
    states = ", ".join(f"{count} {state}" for state, count in material.counts.items() if count)
    text = f"Best value of {plural(len(material.tried), 'trial')} by number ({states})"
    if material.winner is None or material.winner.value is None:
        return f"{text}; {nothing_wins(material.frozen, material.run.search)}."
    return f"{text}; the best, trial {material.winner.number}, has {material.winner.value:.3f}."

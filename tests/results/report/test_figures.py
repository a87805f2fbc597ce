"""Each figure shows what the study says: its data beside formulas of the test's own."""

import math
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import optuna
import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from scipy import stats

from d3tune.results.published import published_beside
from d3tune.results.report.coordinates import coordinates, scales_of
from d3tune.results.report.curves import curves
from d3tune.results.report.figure import Drawn
from d3tune.results.report.front import front
from d3tune.results.report.history import best_so_far, history
from d3tune.results.report.importance import importance
from d3tune.results.report.material import Material, read_material
from d3tune.results.report.nearness import distance
from d3tune.results.report.plane import pareto_front, plane
from d3tune.results.report.resources import lanes, seconds, spent, timeline
from d3tune.results.report.sensitivity import sensitivity
from d3tune.results.report.slices import slices
from d3tune.results.report.terms import groups_of, terms
from d3tune.search.run import RunDirectory
from d3tune.search.study import read_trials, reports_of

Make = Callable[..., Material]


@cache
def _read(journal: Path) -> list[optuna.trial.FrozenTrial]:
    return read_trials(journal)


def trials_of(material: Material) -> list[optuna.trial.FrozenTrial]:
    """What the journal says, read anew."""
    return _read(material.run.journal)


def axes_of(drawn: Drawn) -> list[Axes]:
    assert drawn.figure is not None, drawn.missing
    return drawn.figure.axes


def points(axes: Axes, marker: str) -> list[tuple[float, float]]:
    """The points of an axes drawn with a marker and no line, in order of x."""
    lines = [line for line in axes.lines if line.get_marker() == marker and line.get_linestyle() == "None"]
    return sorted((float(x), float(y)) for line in lines for x, y in zip(*line.get_data(), strict=True))


def told(material: Material, state: optuna.trial.TrialState) -> list[tuple[int, list[float]]]:
    """Number and objective at each evaluation, read from the journal anew."""
    trials = trials_of(material)
    return [(t.number, [report.value for report in reports_of(t)]) for t in trials if t.state == state]


COMPLETE, PRUNED = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED


def test_the_history_has_every_trial_by_state_and_the_best_so_far(material: Make, mixed: list[Any]) -> None:
    run = material(mixed)
    (axes,) = axes_of(history(run))
    for state, marker in ((COMPLETE, "o"), (PRUNED, "v")):
        assert points(axes, marker) == [(number, max(values)) for number, values in told(run, state)]
    failed = points(axes, "x")
    assert [x for x, _ in failed] == [trial.number for trial in run.tried if trial.state == "failed"]
    (star,) = points(axes, "*")
    assert star == max(((n, max(v)) for n, v in told(run, COMPLETE)), key=lambda pair: pair[1])
    (line,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    step = dict(zip(*(map(float, data) for data in line.get_data()), strict=True))
    for number, _ in told(run, COMPLETE):
        so_far = max(max(values) for other, values in told(run, COMPLETE) if other <= number)
        assert step[max(x for x in step if x <= number)] == so_far
    assert "val/H in [0, 1]" in axes.get_ylabel()
    assert "validation protocol" in axes.get_ylabel()


def test_learning_curves_are_the_reports_of_each_trial(material: Make, mixed: list[Any]) -> None:
    run = material(mixed)
    panels = axes_of(curves(run))
    evaluated = [trial for trial in trials_of(run) if reports_of(trial)]
    for axes, metric in zip(panels, ("H", "U", "S"), strict=True):
        drawn = sorted([tuple(x), tuple(y)] for x, y in (line.get_data() for line in axes.lines))
        wanted = [
            [tuple(r.update for r in reports_of(t)), tuple(r.metrics[f"val/{metric}"] for r in reports_of(t))]
            for t in evaluated
        ]
        assert drawn == sorted(wanted)
        thickest = max(axes.lines, key=lambda line: line.get_linewidth())
        assert run.winner is not None
        assert list(thickest.get_ydata()) == [report.metrics[f"val/{metric}"] for report in run.winner.reports]


def test_the_plane_has_each_trial_at_its_best_evaluation(material: Make, mixed: list[Any]) -> None:
    run = material(mixed)
    (axes,) = axes_of(plane(run))
    for state, marker in ((COMPLETE, "o"), (PRUNED, "v")):
        wanted = []
        for trial in trials_of(run):
            if trial.state == state:
                best = max(reports_of(trial), key=lambda report: report.value)
                wanted.append((best.metrics["val/S"], best.metrics["val/U"]))
        assert points(axes, marker) == sorted(wanted)
    complete = points(axes, "o")
    (dashes,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    front = {(float(x), float(y)) for x, y in zip(*dashes.get_data(), strict=True)}
    assert front == {p for p in complete if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in complete)}
    # between two points the line runs where neither is exceeded
    assert dashes.get_drawstyle() == "steps-post"
    assert axes.get_title() == run.protocol
    drawn = sum(len(points(axes, marker)) for marker in ("o", "v", "s"))
    assert plane(run).alt.startswith(f"{drawn} trials by accuracy")


def test_a_front_has_no_point_that_another_one_exceeds() -> None:
    draw = np.random.default_rng(0)
    for count in (1, 2, 30):
        cloud = [tuple(map(float, point)) for point in draw.integers(0, 8, (count, 2))]
        wanted = {p for p in cloud if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in cloud)}
        front = pareto_front(cloud)  # type: ignore[arg-type]
        assert set(front) == wanted
        assert front == sorted(front, reverse=True)


def test_the_confirmed_test_point_has_its_deviations_and_stands_apart(golden: RunDirectory) -> None:
    summary = golden.read_summary()
    assert summary is not None
    for name, sd in (("S", 0.02), ("U", 0.01)):
        summary["test"][name]["sd"] = sd
    golden.write_summary(summary)
    drawn = plane(read_material(golden))
    (axes,) = axes_of(drawn)
    (bars,) = axes.containers
    centre, _, segments = bars
    assert [float(v) for v in (*centre.get_xdata(), *centre.get_ydata())] == [
        summary["test"][name]["mean"] for name in ("S", "U")
    ]
    across, up = (segment.get_segments()[0] for segment in segments)
    assert np.ptp(across[:, 0]) == pytest.approx(0.04)
    assert np.ptp(up[:, 1]) == pytest.approx(0.02)
    assert "another protocol: test" in drawn.caption


def test_published_results_of_the_same_data_are_there_and_labelled(material: Make, ends: Any) -> None:
    run = material([ends("complete", [(0.6, 0.5)] * 6)], dataset="cub", semantics="att312", features="clip")
    drawn = plane(run)
    (axes,) = axes_of(drawn)
    there = [(item.S, item.U) for item in published_beside("cub", "att312") if item.S is not None]
    assert len(there) > 3
    assert points(axes, "P") == sorted(there)
    assert "test-selected" in drawn.caption
    for item in published_beside("cub", "att312"):
        assert f"{item.method} ({item.features})" in drawn.caption
    other = material([ends("complete", [(0.6, 0.5)] * 6)], name="other")
    assert points(axes_of(plane(other))[0], "P") == []


# of a few trials some regimes have one alone, of which Optuna warns
@pytest.mark.parametrize("count", [22, 41])
def test_importances_are_those_of_optunas_default_over_the_study(count: int, material: Make, mixed: list[Any]) -> None:
    run = material(mixed[:count])
    drawn = importance(run)
    (axes,) = axes_of(drawn)
    (bars,) = [item for item in axes.containers if isinstance(item, BarContainer)]
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(run.run.journal)))
    (name,) = optuna.get_all_study_names(storage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        wanted = optuna.importance.get_param_importances(optuna.load_study(study_name=name, storage=storage))
    assert sum(wanted.values()) == pytest.approx(1)
    shown = {label.get_text(): bar.get_width() for label, bar in zip(axes.get_yticklabels(), bars, strict=True)}
    assert list(shown.items()) == sorted(wanted.items(), key=lambda item: (-item[1], item[0]))[: len(shown)]
    assert f"{len(told(run, COMPLETE))} complete trials" in drawn.caption
    assert "PED-ANOVA" in drawn.caption


def test_importances_are_found_without_a_word_of_optunas(
    material: Make, mixed: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    run = material(mixed)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    optuna.logging.enable_propagation()
    try:
        assert importance(run).figure is not None
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
    finally:
        optuna.logging.disable_propagation()
        optuna.logging.set_verbosity(verbosity)
    assert caplog.records == []


def test_importances_of_nothing_are_a_sentence(material: Make, ends: Any) -> None:
    one = importance(material([ends("complete", [(0.6, 0.5)] * 6)]))
    assert one.figure is None
    assert "the study has 1" in one.missing
    equal = importance(material([ends("complete", [(0.6, 0.5)] * 6)] * 12, name="equal"))
    assert equal.figure is None
    assert "All 12 complete trials have the same value" in equal.missing


def slow_position(run: Material, name: str, value: Any) -> float:
    """Where a value lies, from the space and the trials, by formulas of the test's own."""
    parameter = run.parameters[name]
    if parameter.choices is not None:
        return parameter.choices.index(value) / (len(parameter.choices) - 1)
    if value == 0:
        return -0.15
    assert parameter.low is not None
    assert parameter.high is not None
    if parameter.log:
        return math.log10(value / parameter.low) / math.log10(parameter.high / parameter.low)
    return (value - parameter.low) / (parameter.high - parameter.low)


def slow_settings(run: Material, name: str) -> dict[int, Any]:
    """Of each trial that Optuna gave the hyper-parameter: its value, 0 where it is off."""
    found = {}
    for trial in trials_of(run):
        if name in trial.params:
            found[trial.number] = trial.params[name]
        elif trial.params.get(f"{name}.on") is False:
            found[trial.number] = 0.0
    return found


def test_slices_have_the_trials_that_had_the_hyper_parameter(material: Make, mixed: list[Any]) -> None:
    run = material(mixed)
    panels = {axes.get_title().removesuffix(" (log)"): axes for axes in axes_of(slices(run)) if axes.get_title()}
    assert set(panels) == set(run.parameters)
    some_are_conditional = False
    for name, axes in panels.items():
        settings = slow_settings(run, name)
        values = {n: max(v) for n, v in (*told(run, COMPLETE), *told(run, PRUNED))}
        some_are_conditional |= len(settings) < len(run.tried)
        wanted = sorted((slow_position(run, name, settings[n]), v) for n, v in values.items() if n in settings)
        drawn = sorted([*points(axes, "o"), *points(axes, "v")])
        assert np.allclose(drawn, wanted), name
        assert axes.get_title().endswith("(log)") == run.parameters[name].log
    assert some_are_conditional


def test_parallel_coordinates_have_a_line_a_trial(material: Make, mixed: list[Any]) -> None:
    run = material(mixed)
    drawn = coordinates(run)
    axes = axes_of(drawn)[0]
    names = list(run.parameters)
    settings = {name: slow_settings(run, name) for name in names}
    numbers = [n for n, _ in (*told(run, COMPLETE), *told(run, PRUNED))]

    def wanted(number: int) -> list[float]:
        return [
            slow_position(run, name, settings[name][number]) if number in settings[name] else -0.32 for name in names
        ]

    lines = [list(map(float, line.get_xdata())) for line in axes.lines if len(line.get_xdata()) == len(names)]
    thin = lines[: len(numbers)]
    assert np.allclose(sorted(thin), sorted(map(wanted, numbers)))
    assert run.winner is not None
    assert np.allclose(lines[-1], wanted(run.winner.number))


def slow_distance(run: Material, one: int, other: int, without: str) -> float:
    parts = []
    for name, parameter in run.parameters.items():
        settings = slow_settings(run, name)
        if name == without or (one not in settings and other not in settings):
            continue
        if one not in settings or other not in settings:
            parts.append(1.0)
        elif parameter.choices is not None or 0 in (settings[one], settings[other]):
            parts.append(float(settings[one] != settings[other]))
        else:
            places = [slow_position(run, name, settings[number]) for number in (one, other)]
            parts.append(abs(places[0] - places[1]))
    return fmean(parts)


def test_sensitivity_is_shaded_by_likeness_to_the_winner(material: Make, mixed: list[Any]) -> None:
    run = material(mixed)
    drawn = sensitivity(run)
    assert run.winner is not None
    best = run.winner.number
    panels = {a.get_title().removesuffix(" (log)"): a for a in axes_of(drawn) if a.collections and a.get_title()}
    assert {"cls_weight", "label_weight", "n_synthetic_final"} <= set(panels)
    for name, axes in panels.items():
        settings = slow_settings(run, name)
        wanted = sorted(
            (1 - slow_distance(run, n, best, name), slow_position(run, name, settings[n]), max(values))
            for n, values in told(run, COMPLETE)
            if n in settings and n != best
        )
        (cloud,) = axes.collections
        shades = np.asarray(cloud.get_array())
        assert np.allclose(np.column_stack([shades, cloud.get_offsets()]), wanted), name
    assert "Observational" in drawn.caption


def test_a_trial_is_at_no_distance_from_itself(material: Make, mixed: list[Any]) -> None:
    run = material(mixed)
    scales = scales_of(run)
    trials = [trial for trial in run.tried if trial.config]
    for one, other in pairwise(trials):
        assert distance(run, scales, one, one) == 0
        assert 0 < distance(run, scales, one, other) == distance(run, scales, other, one) <= 1


def test_terms_are_grouped_by_weight_with_intervals(material: Make, mixed: list[Any]) -> None:
    run = material(mixed)
    drawn = terms(run)
    assert "Observational" in drawn.caption
    assert "d3tune ablate" in drawn.caption
    for term in ("cls_weight", "embedding_weight", "label_weight", "ood_weight"):
        settings, values = slow_settings(run, term), {n: max(v) for n, v in told(run, COMPLETE)}
        above = [settings[n] for n in values if settings[n] > 0]
        wanted = {
            "off": [v for n, v in values.items() if settings[n] == 0],
            "low": [v for n, v in values.items() if 0 < settings[n] <= median(above)],
            "high": [v for n, v in values.items() if settings[n] > median(above)],
        }
        groups = groups_of(run, term)
        assert {group.name: list(group.values) for group in groups} == {k: v for k, v in wanted.items() if v}
        for group in groups:
            if len(group.values) > 1:
                low, high = stats.t.interval(
                    0.95, len(group.values) - 1, np.mean(group.values), stats.sem(group.values)
                )
                assert group.half_width == pytest.approx((high - low) / 2)
            else:
                assert group.half_width is None
    ticks = [label.get_text() for axes in axes_of(drawn) for label in axes.get_xticklabels()]
    assert any(text.startswith("off\nn = ") for text in ticks)


def test_a_backbone_without_d3_terms_says_so(material: Make, ends: Any) -> None:
    run = material([ends("complete", [(0.6, 0.5)])], backbone="gaussian")
    assert terms(run).figure is None
    assert "gaussian" in terms(run).missing


def test_seconds_hours_and_what_pruning_saved(material: Make, mixed: list[Any]) -> None:
    run = material(mixed)
    cost = spent(run)
    whole = saved = evaluations = 0.0
    for wanted in mixed:
        took = wanted.seconds * len(wanted.points)
        whole, evaluations = whole + took, evaluations + len(wanted.points)
        if wanted.state == "pruned":
            # each evaluation takes as long, and there would have been 6
            saved += wanted.seconds * (6 - len(wanted.points))
    assert cost.hours == pytest.approx(whole / 3600)
    assert cost.evaluations == evaluations
    assert cost.share_saved == pytest.approx(saved / (whole + saved))
    drawn = seconds(run)
    (axes,) = axes_of(drawn)
    assert [x for x, _ in points(axes, "o")] == sorted(w.seconds * 6 for w in mixed if w.state == "complete")
    assert f"{cost.share_saved:.0%}" in drawn.caption


def test_trials_at_once_have_rows_of_their_own(material: Make, mixed: list[Any]) -> None:
    draw = np.random.default_rng(1)
    begin = datetime(2026, 1, 1)
    starts = [begin + timedelta(seconds=float(s)) for s in draw.uniform(0, 50, 40)]
    spans = [(s, s + timedelta(seconds=float(d))) for s, d in zip(starts, draw.uniform(1, 20, 40), strict=True)]
    rows = lanes(spans)
    for i, (a, b) in enumerate(spans):
        for j, (c, d) in enumerate(spans[:i]):
            assert rows[i] != rows[j] or b <= c or d <= a
    most = max(sum(a <= moment < b for a, b in spans) for moment in starts)
    assert max(rows) + 1 == most
    run = material(mixed)
    (axes,) = axes_of(timeline(run))
    bars = [patch for item in axes.containers for patch in item]
    ended: Sequence[Any] = [t for t in trials_of(run) if t.datetime_complete is not None]
    assert len(bars) == len(ended)
    first = min(t.datetime_start for t in ended)
    wanted = sorted((t.datetime_start - first).total_seconds() for t in ended)
    assert np.allclose(sorted(bar.get_x() for bar in bars), wanted, atol=1e-5)


@pytest.mark.parametrize("aims", [("S", "U"), ("seconds", "H"), ("H", "seconds")])
def test_the_front_of_two_aims_is_a_staircase_below_which_every_trial_lies(
    aims: tuple[str, str], material: Make, mixed: list[Any]
) -> None:
    run = material(mixed, slim=True, aims=aims, pruner="none")
    (drawn,) = front(run)
    (axes,) = axes_of(drawn)
    (steps,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    complete = [tuple(trial.values) for trial in trials_of(run) if trial.state == optuna.trial.TrialState.COMPLETE]
    assert np.allclose(points(axes, "o"), sorted(complete))
    signs = [-1 if name == "seconds" else 1 for name in aims]

    def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        pairs = zip(signs, one, other, strict=True)
        return one != other and all(sign * mine >= sign * theirs for sign, mine, theirs in pairs)

    wanted = {point for point in complete if not any(beats(other, point) for other in complete)}
    assert np.allclose(sorted(map(tuple, steps.get_xydata())), sorted(wanted))
    assert drawn.figure is not None
    assert f"Pareto front ({len(wanted)})" in [text.get_text() for text in drawn.figure.legends[0].texts]
    assert front(material(mixed, name="plain", slim=True)) == []


def test_importances_with_two_aims_are_of_the_objective(material: Make, mixed: list[Any]) -> None:
    one, two = material(mixed, slim=True), material(mixed, name="two", slim=True, aims=("S", "seconds"))
    assert one.winner is not None
    assert two.winner is not None
    assert importance(two).figure is not None
    assert importance(two).alt == importance(one).alt


def test_no_figure_takes_a_trial_that_breaks_a_constraint_for_better(material: Make, ends: Any) -> None:
    better, worse = [(0.6, 0.9)] * 6, [(0.8, 0.4)] * 6
    run = material(
        [ends("complete", better), ends("complete", worse)], slim=True, constraints=("S>=0.7",), pruner="none"
    )
    assert run.winner is not None
    assert run.winner.number == 1
    assert [number for number, _ in best_so_far(run.tried)] == [1]
    (axes,) = axes_of(plane(run))
    (steps,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [tuple(point) for point in steps.get_xydata()] == [pytest.approx((0.8, 0.4))]
    assert points(axes, "D") == [pytest.approx((0.6, 0.9))], "marked by itself"
    assert run.counts["constraint not met"] == 1
    assert "constraint not met" not in material([ends("complete", worse)], name="other", slim=True).counts

"""Aims and constraints as they are written and kept, and the Pareto front: against formulas of the test's own."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial

from d3tune.config import SearchConfig
from d3tune.errors import UsageError
from d3tune.search.aims import Constraint, aims_words, parse_constraints, parse_objective
from d3tune.search.front import front_of
from d3tune.search.reports import Report
from d3tune.search.run import RunDirectory

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

ToyRun = Callable[..., RunDirectory]
IDENTITY = {"dataset": "toy", "dataset_hash": "0", "semantics": "att10", "features": "res101", "backbone": "gan"}


def searching(**search: Any) -> SearchConfig:
    return SearchConfig(**{**IDENTITY, **search})


def told(values: list[float], holds: bool = True, number: int = 0) -> FrozenTrial:
    """A complete trial of two aims as Optuna has it, with 0.5 as its objective."""
    report = Report(10, 0.5, "softmax", {}, 1.0)
    attributes: dict[str, Any] = {"best_update": 10, "report:00000010": report.to_dict()}
    trial = optuna.trial.create_trial(values=values, user_attrs=attributes, constraints={"T1>=0.1": 0.1 - holds})
    trial.number = number
    return trial


@pytest.mark.parametrize(
    ("text", "objective", "aims"),
    [
        ("H", "H", ()),
        ("AUSUC", "AUSUC", ()),
        ("S,U", "H", ("S", "U")),
        ("H, seconds", "H", ("H", "seconds")),
        ("seconds,AUSUC", "AUSUC", ("seconds", "AUSUC")),
        ("T1,H_raw", "H_raw", ("T1", "H_raw")),
    ],
)
def test_an_objective_names_one_quantity_or_two(text: str, objective: str, aims: tuple[str, ...]) -> None:
    assert parse_objective(text) == (objective, aims)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("S", "known: H, H_raw, AUSUC"),
        ("S,", "--objective : no such choice"),
        ("S,S", "one aim or two different ones"),
        ("S,U,H", "one aim or two different ones"),
        ("S,accuracy", "--objective accuracy"),
    ],
)
def test_another_objective_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_objective(text)
    assert words in str(refused.value)


def test_constraints_are_kept_in_one_form_and_order() -> None:
    wanted = ("S>=0.5", "seconds<=60")
    assert parse_constraints(["seconds <= 6e1", "S>=.50", "S >= 0.5"]) == wanted
    assert parse_constraints(wanted) == wanted
    low, high = map(Constraint.parse, wanted)
    assert [low.violation(value) for value in (0.5, 0.25, 0.75)] == [0.0, 0.5, -0.5]
    assert [high.violation(value) for value in (60.0, 66.0)] == [0.0, 0.1]
    assert [Constraint.parse(text).violation(0.25) for text in ("S>=0", "S<=0")] == [-0.25, 0.25]


@pytest.mark.parametrize("objective", ["H_raw,S", "H,H_raw", "H_raw"])
def test_what_is_read_at_an_offset_does_not_go_with_models_that_have_none(objective: str, toy_run: ToyRun) -> None:
    wanted = {"constraints": ("U>=0.1",)} if objective == "H_raw" else {}
    if objective == "H,H_raw":
        assert toy_run(objective=objective).search.objective == "H", "the first leads, and has one"
        return
    with pytest.raises(UsageError, match="its models have no offset"):
        toy_run(objective=objective, **wanted)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("S>0.5", "write it as NAME>=BOUND"),
        ("S", "write it as NAME>=BOUND"),
        ("0.1<=S<=0.5", "write it as NAME>=BOUND"),
        ("s>=0.5", "--constraint s"),
        ("S>=half", "must be a number in [0, 1]"),
        ("S>=50", "must be a number in [0, 1]"),
        ("S>=nan", "must be a number in [0, 1]"),
        ("seconds<=-1", "must be a number of seconds"),
        ("seconds<=inf", "must be a number of seconds"),
    ],
)
def test_another_constraint_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_constraints([text])
    assert words in str(refused.value)


def test_a_search_without_them_is_the_search_it_always_was() -> None:
    plain = searching()
    assert not {"aims", "constraints"} & plain.model_dump(mode="json").keys()
    assert "aims" not in plain.model_dump_json()
    assert SearchConfig.model_validate(plain.model_dump(mode="json")) == plain
    both = searching(aims=("S", "U"), constraints=("S>=0.5",))
    assert SearchConfig.model_validate(json.loads(both.model_dump_json())) == both
    assert aims_words(plain) == "val/H"
    assert aims_words(both) == "val/S and val/U, the winner by val/H, where S>=0.5"


accuracies = st.integers(0, 8).map(lambda eighths: eighths / 8)


def slow_volume(gains: list[tuple[float, float]]) -> float:
    """Area of the cells between all coordinates whose upper right corner some point reaches."""
    xs, ys = (sorted({0.0, *(gain[axis] for gain in gains)}) for axis in (0, 1))
    cells = [((x1 - x0) * (y1 - y0), x1, y1) for x0, x1 in pairwise(xs) for y0, y1 in pairwise(ys)]
    return sum(area for area, x, y in cells if any(a >= x and b >= y for a, b in gains))


@settings(deadline=None)
@given(st.lists(st.tuples(accuracies, accuracies, st.booleans()), max_size=12))
def test_the_front_is_what_no_other_exceeds_and_its_volume_the_area_below(
    points: list[tuple[float, float, bool]],
) -> None:
    trials = [told([S, U], holds, number) for number, (S, U, holds) in enumerate(points)]
    found = front_of(trials, searching(aims=("S", "U"), constraints=("T1>=0.1",)))
    assert found is not None
    holding = [(S, U) for S, U, holds in points if holds]
    wanted = {p for p in holding if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in holding)}
    assert {tuple(trial.values) for trial in found.trials} == wanted
    assert len(found.trials) == len(wanted), "of equal ones one"
    assert all(trial.number == holding_first(points, trial.values) for trial in found.trials)
    assert found.hypervolume == pytest.approx(slow_volume(holding))


def holding_first(points: list[tuple[float, float, bool]], values: list[float]) -> int:
    return next(number for number, (S, U, holds) in enumerate(points) if holds and values == [S, U])


def test_seconds_are_an_aim_to_be_small() -> None:
    trials = [told([H, s], number=n) for n, (H, s) in enumerate([(0.5, 10.0), (0.4, 5.0), (0.4, 6.0), (0.1, 20.0)])]
    found = front_of(trials, searching(aims=("H", "seconds")))
    assert found is not None
    assert [trial.number for trial in found.trials] == [0, 1]
    assert found.reference == (0.0, 20.0)
    assert found.hypervolume == pytest.approx(0.5 * (1 - 10 / 20) + 0.4 * (10 / 20 - 5 / 20))
    turned = [told(trial.values[::-1], number=trial.number) for trial in trials]
    other = front_of(turned, searching(aims=("seconds", "H")))
    assert other is not None
    assert [trial.number for trial in other.trials] == [1, 0]
    assert other.hypervolume == pytest.approx(found.hypervolume)
    assert front_of(trials, searching()) is None

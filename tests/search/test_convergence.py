"""When a search ends before its trials are used up: what those left are worth, and what is said and kept of it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from d3tune.errors import UsageError
from d3tune.search.convergence import FEWEST, TAIL, TOLERANCE, converged, improvement_left
from d3tune.search.executor import TrialQueue
from d3tune.search.keeping import Keeper
from d3tune.search.request import Request, prepare_run
from d3tune.search.run import RunDirectory
from d3tune.search.search import Outcome
from d3tune.search.study import Ledger, read_trials

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

CarryOut = Callable[..., Outcome]
Command = Callable[..., Any]


def slow_improvement(values: list[float], left: int) -> float:
    """The same expectation as an integral: of the chance that the largest of those to come exceeds the best by x."""
    later = sorted(values[len(values) // 2 :], reverse=True)
    count = math.ceil(TAIL * len(later))
    threshold, upper = later[count], later[:count]
    excess = sum(value - threshold for value in upper) / count

    def exceeded(x: float) -> float:
        chance = count / len(later) * math.exp(-(max(values) + x - threshold) / excess)
        return 1 - math.exp(-left * chance)

    return float(integrate.quad(exceeded, 0, 60 * excess, limit=500)[0])


@pytest.mark.parametrize("left", [1, 10, 100, 5000])
def test_what_is_left_is_the_integral_of_the_chance_to_exceed_the_best(left: int) -> None:
    draw = np.random.default_rng(5)
    values = list(0.7 + 0.05 * draw.standard_normal(60))
    assert improvement_left(values, left) == pytest.approx(slow_improvement(values, left), rel=1e-6)
    values[3] = 0.95
    assert improvement_left(values, left) == pytest.approx(slow_improvement(values, left), rel=1e-6)


def test_draws_of_the_tail_that_is_assumed_improve_by_as_much() -> None:
    """Trials that are truly exponential above their threshold: the mean improvement of many such searches."""
    draw = np.random.default_rng(0)
    expected, found = [], []
    for _ in range(4000):
        values = draw.exponential(0.05, 200)
        expected.append(improvement_left(list(values), 100))
        found.append(max(0.0, draw.exponential(0.05, 100).max() - values.max()))
    assert np.mean(expected) == pytest.approx(np.mean(found), rel=0.1)


values_of_trials = st.lists(st.floats(0, 1), min_size=FEWEST, max_size=80)


@settings(deadline=None)
@given(values_of_trials, st.integers(0, 1000), st.floats(0.1, 10), st.floats(-5, 5))
def test_it_is_in_units_of_the_objective_and_grows_with_what_is_left(
    values: list[float], left: int, scale: float, shift: float
) -> None:
    there = improvement_left(values, left)
    assert 0 <= there <= improvement_left(values, left + 1)
    moved = improvement_left([scale * value + shift for value in values], left)
    assert moved == pytest.approx(scale * there, rel=1e-3, abs=1e-9)


def test_where_there_is_nothing_to_tell_it_by_trials_are_worth_it() -> None:
    assert improvement_left([0.5] * (FEWEST - 1), 10) == math.inf
    assert improvement_left([0.5] * FEWEST, 10) == 0
    assert improvement_left([0.5] * FEWEST, 0) == 0
    assert improvement_left([], 10) == math.inf
    none = -math.inf
    assert improvement_left([none] * 30, 10) == math.inf
    assert improvement_left([none] * 28 + [0.5, 0.6], 10) == math.inf
    halved = [0.5 + 0.01 * k if k % 2 else none for k in range(40)]
    assert 0 < improvement_left(halved, 10) < math.inf


@pytest.fixture
def closed_form(tmp_path: Path, write_toy: Callable[..., Path]) -> Callable[..., RunDirectory]:
    """A search of a backbone with three hyper-parameters, whose trials take hundredths of a second."""
    folder = write_toy(tmp_path / "toy")

    def make(**request: Any) -> RunDirectory:
        wanted = {"data_dir": folder, "warm_start": ("none",), "pruner": "none"}
        return prepare_run(Request("toy", "gaussian", **{**wanted, **request}))[0]

    return make


def test_a_search_that_gains_nothing_more_ends_and_says_so(
    closed_form: Callable[..., RunDirectory], carry_out: CarryOut, sound: Callable[..., None], command: Command
) -> None:
    run, said = closed_form(), list[str]()
    outcome = carry_out(run, trials=60, said=said, stop_when_converged=True, seconds=1000.0)
    trials = read_trials(run.journal)
    there = len(trials)
    assert FEWEST <= there < 60
    found = outcome.converged
    assert found is not None
    assert found.left == 60 - there
    assert found.improvement == improvement_left([value for t in trials if (value := t.value) is not None], found.left)
    assert found.improvement < TOLERANCE
    (line,) = [line for line in said if "converged" in line]
    assert line.startswith(f"converged: {found.left} of 60 trials are not begun")
    assert not [line for line in said if "--time" in line], "the time is not over"
    assert (run.read_summary() or {})["converged"] == {"left": found.left, "improvement": found.improvement}
    sound(run, there)
    local = ("--executor", "local")
    assert command("resume", run.path, *local).code == 0
    sound(run, there)
    end = command("resume", run.path, *local, "--no-stop-when-converged", "--trials", there + 2)
    assert end.code == 0, end.err
    assert "converged" not in end.err
    sound(run, there + 2)
    assert "converged" not in (run.read_summary() or {})


def test_without_the_option_all_trials_are_carried_out(
    closed_form: Callable[..., RunDirectory], carry_out: CarryOut
) -> None:
    outcome = carry_out(closed_form(), trials=30)
    assert outcome.counts["complete"] == 30
    assert outcome.converged is None


def test_what_was_interrupted_or_is_to_be_tried_again_is_gone_on_with(open_ledger: Callable[..., Ledger]) -> None:
    ledger = open_ledger()
    for _ in range(FEWEST):
        assert ledger.next_trial(100) is not None
    assert open_ledger().next_trial(100) is not None
    again = open_ledger()
    queue = TrialQueue(again, 100, no_job, no_job, Keeper(again, no_job, 0), no_job, enough=lambda: True)
    given = [queue.next_trial() for _ in range(FEWEST + 1)]
    assert [None if assignment is None else assignment.number for assignment in given] == [*range(FEWEST), None]
    for number in range(FEWEST):
        again.fail(number, "made to")
    again.standing.values = [0.5] * FEWEST
    assert converged(again, 100) is not None
    assert again.retry_failed(1) == [0]
    assert converged(again, 100) is None


def no_job(*arguments: Any) -> Any:
    raise AssertionError(arguments)


def test_two_aims_have_no_best_value_to_wait_for(
    closed_form: Callable[..., RunDirectory], carry_out: CarryOut, command: Command
) -> None:
    run = closed_form(objective="S,U")
    with pytest.raises(UsageError, match="two aims"):
        carry_out(run, trials=3, stop_when_converged=True)
    assert not run.journal.exists()
    end = command("search", "--dataset", "hanzi", "--objective", "S,U", "--stop-when-converged")
    assert (end.code, end.out) == (2, "")
    assert end.err.startswith("d3tune: --stop-when-converged: ")

"""What stopping early would have saved and lost, on traces made by hand."""

import numpy as np
import pytest

from benchmarks.search_stopping import lost_by, section, stop_of, stopping
from benchmarks.traces import Arm, Trace
from benchmarks.trials import Cell
from d3tune.search.convergence import FEWEST, TOLERANCE, improvement_left


def trace_of(values: list[float], failed: tuple[int, ...] = ()) -> Trace:
    """Trials that end in order; without noise, so that the best so far is worth its value."""
    value = np.array(values, np.float32)
    states = np.array(["FAIL" if number in failed else "COMPLETE" for number in range(len(values))], object)
    won = np.where(states == "FAIL", -np.inf, value)
    return Trace(
        {"ended": np.arange(1, len(values) + 1), "value": value, "state": states, "best": np.maximum.accumulate(won)}
    )


def test_a_search_stops_at_the_first_trial_after_which_the_rest_are_worth_less_than_the_tolerance() -> None:
    draw = np.random.default_rng(2)
    values = list(0.7 + 0.02 * draw.standard_normal(100))
    trace = trace_of(values, failed=(3, 30))
    stored = [float(np.float32(value)) for value in values]
    stored[3] = stored[30] = -np.inf
    slow = next(n for n in range(1, 93) if improvement_left(stored[:n], 100 - n - 7) < TOLERANCE)
    assert FEWEST <= slow < 90
    assert stop_of(trace, 100, 8) == slow + 7
    assert lost_by(trace, slow + 7, 100) == pytest.approx(max(stored) - max(stored[: slow + 7]))


def test_one_that_always_gains_goes_on_to_the_end() -> None:
    rising = trace_of([0.5 + 0.02 * k for k in range(50)])
    assert stop_of(rising, 50, 8) == 50
    assert lost_by(rising, 50, 50) == 0


def test_rows_are_of_each_sampler_and_pruner_and_number_of_trials() -> None:
    cells = [Cell("gan", "hanzi/0"), Cell("vae", "hanzi/1")]
    flat, rising = trace_of([0.5] * 60), trace_of([0.5 + 0.02 * k for k in range(60)])
    found = {Arm(cells[0], "tpe", "none"): {0: flat, 1: rising}, Arm(cells[1], "tpe", "none"): {0: flat}}
    (row,) = stopping({**found, Arm(cells[0], "random", "asha"): {0: trace_of([0.5] * 20)}}, 4)
    assert (row.sampler, row.pruner, row.planned, row.searches) == ("tpe", "none", 50, 3)
    stopped = 1 - (FEWEST + 3) / 50
    assert row.saved == pytest.approx(2 * stopped / 3)
    assert row.lost.mean == row.worst == 0
    text = "\n".join(section([row]))
    assert "| tpe | none | 50 | 3 | 36% | 0.0000 [0.0000, 0.0000] | 0.000 |" in text
    assert section([]) == []

"""Runs as data frames say what the study says."""

from collections.abc import Callable

import pytest

import d3tune
from d3tune.errors import RunError, UsageError
from d3tune.search.run import RunDirectory
from d3tune.search.search import Outcome

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


def test_a_run_and_the_leaderboard_are_frames(
    new_run: Callable[..., RunDirectory], carry_out: Callable[..., Outcome]
) -> None:
    assert len(d3tune.leaderboard()) == 0
    assert "test_H" in d3tune.leaderboard().columns
    run = new_run()
    with pytest.raises(RunError, match="has not begun"):
        d3tune.load_run(run.name).trials()
    outcome = carry_out(run, trials=2, confirm_seeds=1)
    assert outcome.winner is not None
    assert outcome.test is not None
    for name in (run.name, run.path):
        frame = d3tune.load_run(name).trials()
        assert list(frame["number"]) == [0, 1]
        assert set(frame["metric"]) == {"val/H"}
        best = frame.loc[frame["number"] == outcome.winner.number].iloc[0]
        assert best["value"] == outcome.winner.value
        assert best["config.updates"] == 40
    (row,) = d3tune.leaderboard().to_dict("records")
    assert row["test_H"] == outcome.test.mean("H")
    assert row["run"] == run.name
    with pytest.raises(UsageError, match="no run 'nowhere'"):
        d3tune.load_run("nowhere")

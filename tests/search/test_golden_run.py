"""A run directory that an earlier version wrote: this version must load, resume, export and list it."""

import json
import shutil
from pathlib import Path

import pytest
from optuna.trial import TrialState

from d3tune.results.export import export_best
from d3tune.results.leaderboard import leaderboard_rows
from d3tune.search.executor import StopSignal
from d3tune.search.executor.inprocess import InProcessExecutor
from d3tune.search.invariants import best_value, run_faults
from d3tune.search.planning import resumed_plan
from d3tune.search.replay import replay_suggestions, replay_trial
from d3tune.search.request import located
from d3tune.search.run import RunDirectory, open_run
from d3tune.search.search import run_search
from d3tune.search.study import counts, read_trials, reports_of
from d3tune.search.tracking import default_uri
from d3tune.search.train import train
from d3tune.yamlfile import read_yaml

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

GOLDEN = sorted((Path(__file__).parent.parent / "golden").glob("run-format-*"))


@pytest.fixture(params=GOLDEN, ids=[path.name for path in GOLDEN])
def golden(request: pytest.FixtureRequest, isolated: Path, mlflow_template: Path) -> RunDirectory:
    """The directory among the runs of a home, under another name than it was made with."""
    (isolated / "runs").mkdir(parents=True)
    shutil.copy(mlflow_template, isolated / "mlflow.db")
    shutil.copytree(request.param, isolated / "runs" / "old")
    return open_run("old")


def test_there_is_a_golden_run_of_every_format() -> None:
    assert [path.name for path in GOLDEN] == ["run-format-1"]


def test_its_trials_are_read_with_their_states_and_reports(golden: RunDirectory) -> None:
    trials = read_trials(golden.journal)
    assert counts(trials) == {"complete": 3, "pruned": 2, "failed": 1, "interrupted": 1}
    assert [len(reports_of(trial)) for trial in trials] == [4, 4, 0, 4, 1, 1, 2]
    assert trials[2].user_attrs["failure"] == "ValueError: made to fail"
    assert run_faults(golden) == []


def test_it_is_listed_and_exported_and_retrained(golden: RunDirectory, tmp_path: Path) -> None:
    row, *baselines = sorted(leaderboard_rows(), key=lambda row: row["kind"] != "search")
    assert {row["backbone"] for row in baselines} == {"gaussian", "ESZSL"}
    summary = json.loads((golden.path / "summary.json").read_text(encoding="utf-8"))
    assert (row["backbone"], row["test_H"], row["run"]) == ("gan", summary["test"]["H"]["mean"], "old")
    exported = export_best("old", None, None, tmp_path / "best.yaml", force=False)
    document, best = read_yaml(exported), read_yaml(golden.best)
    assert {**document, "source": None} == {**best, "source": None}
    assert document["source"].items() >= best["source"].items()
    trained = train(exported, 1, None, InProcessExecutor(), StopSignal(), lambda line: None)
    assert 0 < trained.test.mean("H") < 1


def test_it_is_resumed_and_extended_by_trials(golden: RunDirectory) -> None:
    before, value = read_trials(golden.journal), best_value(golden)
    plan = resumed_plan(golden, {"executor": "local"}, "+1", retry_failed=1)
    assert plan.trials == 8
    said: list[str] = []
    with golden.owned():
        run_search(located(golden, None), plan, StopSignal(), said.append)
    assert not any("begun anew" in line for line in said), "its checkpoint is read"
    after = read_trials(golden.journal)
    assert len(after) == 9
    assert after[6].state == TrialState.COMPLETE
    assert [r.update for r in reports_of(after[6])] == [10, 20, 30, 40]
    assert reports_of(after[6])[:2] == reports_of(before[6])
    assert [t.params for t in after[:6]] == [t.params for t in before[:6]]
    assert [t.user_attrs.get("retry_of") for t in after[7:]].count(2) == 1
    assert best_value(golden) >= value
    assert run_faults(golden, default_uri()) == []


def test_it_is_replayed(golden: RunDirectory) -> None:
    assert replay_suggestions(golden).compared == 7
    said: list[str] = []
    replayed = replay_trial(located(golden, None), 3, said.append)
    # on the machine type and versions it was made with the numbers are the same; elsewhere the difference is explained
    assert replayed.compared == 4
    assert replayed.differences == [] or replayed.elsewhere == said != []

"""A backbone that scores no outliers has no AUROC; it is searched, confirmed, retrained and listed all the same."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import d3tune
from d3tune.config import Resources
from d3tune.results.board import leaderboard_text
from d3tune.results.export import export_best
from d3tune.results.leaderboard import best_run, leaderboard_rows
from d3tune.results.text import outcome_text, train_text
from d3tune.search.executor import StopSignal
from d3tune.search.executor.inprocess import InProcessExecutor
from d3tune.search.request import Request, prepare_run
from d3tune.search.search import Outcome, Plan, run_search
from d3tune.search.study import read_trials, reports_of
from d3tune.search.tracking import default_uri
from d3tune.search.train import train
from d3tune.yamlfile import dump_yaml, read_yaml

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

Begin = Callable[..., Outcome]


@pytest.fixture
def begin(isolated: Path, mlflow_template: Path) -> Begin:
    """``begin(protocol=…)``: three trials of gaussian on hanzi, confirmed with two seeds."""
    isolated.mkdir(exist_ok=True)
    shutil.copy(mlflow_template, isolated / "mlflow.db")

    def carry_out(protocol: str) -> Outcome:
        run, _ = prepare_run(Request("hanzi", "gaussian", protocol=protocol))
        plan = Plan(3, None, Resources(executor="local"), 2, False, default_uri())
        with run.owned():
            return run_search(run, plan, StopSignal(), lambda _: None)

    return carry_out


@pytest.mark.parametrize("protocol", ["validation", "published"])
def test_gaussian_is_confirmed_retrained_and_listed(begin: Begin, protocol: str, tmp_path: Path) -> None:
    outcome = begin(protocol)
    run, test = outcome.run, outcome.test
    assert outcome.counts == {"complete": 3, "pruned": 0, "failed": 0, "interrupted": 0}
    assert test is not None
    assert outcome.selection is not None
    assert outcome.selection.head == "discriminant"

    # nothing is made up for what is not measured
    assert not {"AUROC", "FPR95"} & set(test.measured)
    assert {"H", "U", "S", "T1", "AUSUC"} <= set(test.measured)
    assert not {"AUROC", "FPR95"} & test.to_dict().keys()
    names = {name for trial in read_trials(run.journal) for r in reports_of(trial) for name in r.metrics}
    assert not any(name.endswith(("AUROC", "FPR95")) for name in names)
    assert all(math.isfinite(row["H"]) for row in test.per_seed)

    # closed form: no seed, no deviation
    assert test.sd("H") == pytest.approx(0, abs=1e-12)
    assert test.mean("H") > 0.5

    # retrained and listed
    path = export_best(run.name, None, None, tmp_path / "out.yaml", force=False)
    trained = train(path, 2, None, InProcessExecutor(), StopSignal(), lambda _: None)
    assert trained.test == test
    (row,) = leaderboard_rows()
    assert (row["backbone"], row["run"], row["test_H"]) == ("gaussian", run.name, test.mean("H"))
    assert len(d3tune.leaderboard()) == 1
    assert best_run("hanzi", "gaussian") == (str(run.path) if protocol == "validation" else None)
    for text in (outcome_text(outcome, default_uri()), train_text(trained), leaderboard_text([row])):
        assert f"{test.mean('H'):.3f}" in text
        assert "nan" not in text.split()


def test_a_bare_configuration_is_trained(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(dump_yaml({"dataset": "hanzi", "backbone": "gaussian", "config": {}}), encoding="utf-8")
    trained = train(path, 1, None, InProcessExecutor(), StopSignal(), lambda _: None)
    assert (trained.selection.updates, trained.selection.head) == (1, "discriminant")
    path.write_text(dump_yaml(trained.document), encoding="utf-8")
    assert read_yaml(path)["test"]["H"]["sd"] is None
    assert train(path, 1, None, InProcessExecutor(), StopSignal(), lambda _: None).test == trained.test

"""``--protocol published``: a search that the test sets select is named so everywhere and ranks beside no other."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial

import d3tune
from d3tune.config import Resources, SearchConfig
from d3tune.data.registry import find_dataset, prepared_path
from d3tune.errors import RunError, UsageError
from d3tune.method.generators import load_backbone
from d3tune.results.board import leaderboard_text
from d3tune.results.export import export_best
from d3tune.results.leaderboard import best_run, leaderboard_rows
from d3tune.results.text import outcome_text, train_text
from d3tune.search.confirm import Selection, configuration_document, evaluate, select
from d3tune.search.executor import StopSignal
from d3tune.search.executor.inprocess import InProcessExecutor
from d3tune.search.jobs import TrainingJob
from d3tune.search.reports import Report
from d3tune.search.request import Request, prepare_run
from d3tune.search.run import RunDirectory, open_run
from d3tune.search.search import Outcome, Plan, run_search
from d3tune.search.study import Ledger, reports_of
from d3tune.search.tracking import default_uri
from d3tune.search.train import Trained, train
from d3tune.search.trial import curve
from d3tune.yamlfile import dump_yaml, read_yaml

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

LOCAL = InProcessExecutor()
LABEL = "test-selected"
SMALL: dict[str, Any] = {
    "updates": 12,
    "evaluations": 4,
    "hidden_dim": 32,
    "embed_dim": 32,
    "teacher_epochs": 1,
    "heads": ["softmax", "teacher_embedding"],
    "head_epochs": 2,
    "head_batch_size": 1024,
    "head_lr": 0.005,
    "n_synthetic_final": 5,
}


def search(home: Path, template: Path, said: list[str], **request: Any) -> Outcome:
    """Two trials and two confirmation seeds of a tiny gan on hanzi, under ``home``."""
    home.mkdir(exist_ok=True)
    if not (home / "mlflow.db").exists():
        shutil.copy(template, home / "mlflow.db")
    settings = tuple(f"{key}={value}" for key, value in SMALL.items())
    run, _ = prepare_run(Request("hanzi", "gan", settings=settings, **request))
    plan = Plan(2, None, Resources(executor="local"), 2, False, default_uri())
    with run.owned():
        return run_search(run, plan, StopSignal(), said.append)


class Both:
    """One home with a published and a validation search of the same space."""

    def __init__(self, home: Path, template: Path) -> None:
        self.home = home
        self.said: list[str] = []
        self.published = search(home, template, self.said, protocol="published")
        self.validation = search(home, template, [])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[Both]:
    home = tmp_path_factory.mktemp("published") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("D3TUNE_HOME", str(home))
        patch.delenv("D3TUNE_DATA", raising=False)
        yield Both(home, mlflow_template)


@pytest.fixture
def both(shared: Both, monkeypatch: pytest.MonkeyPatch) -> Both:
    """Both searches, only to be read."""
    monkeypatch.setenv("D3TUNE_HOME", str(shared.home))
    return shared


def trials_of(run: RunDirectory) -> list[FrozenTrial]:
    config = load_backbone(run.search.backbone).config
    return Ledger(run.journal, run.name, run.search, run.load_space(config), config).trials()


def mlflow_runs(run: RunDirectory) -> tuple[Any, list[Any]]:
    """The parent run and the children of a search in the store."""
    from mlflow import MlflowClient

    client = MlflowClient(default_uri())
    ids = [e.experiment_id for e in client.search_experiments()]
    runs = list(client.search_runs(ids, f"tags.`d3tune.run` = '{run.uid}'"))
    (parent,) = [item for item in runs if "mlflow.parentRunId" not in item.data.tags]
    return parent, [item for item in runs if "mlflow.parentRunId" in item.data.tags]


def summary_of(outcome: Outcome) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((outcome.run.path / "summary.json").read_text(encoding="utf-8"))
    return summary


def prefixes(names: Any) -> set[str]:
    return {name.split("/")[0] for name in names}


def retrain(path: Path, seeds: int) -> Trained:
    return train(path, seeds, None, LOCAL, StopSignal(), lambda _: None)


# names


def test_study_names_no_validation_and_no_test_number(both: Both) -> None:
    run = both.published.run
    assert both.published.mirrored
    assert both.validation.mirrored
    assert run.search.searched_metric == "published/H"
    assert run.search.best_metric == "published/best_H"
    for trial in trials_of(run):
        for report in reports_of(trial):
            assert prefixes(report.metrics) == {"published", "loss"}
            assert report.value == report.metrics["published/H"]
            assert report.metrics[f"published/{report.head}/H"] == report.value


def test_mlflow_names_no_validation_and_no_test_number(both: Both) -> None:
    parent, children = mlflow_runs(both.published.run)
    assert len(children) == 2
    for child in children:
        assert prefixes(child.data.metrics) == {"published", "train", "tuned"}
        assert {"published/H", "published/best_H", "published/AUSUC"} <= child.data.metrics.keys()
    assert prefixes(parent.data.metrics) == {"published", "trials"}
    assert {"published/H", "published/H_sd"} <= parent.data.metrics.keys()
    assert parent.data.params["search.protocol"] == "published"


def test_best_yaml_names_no_validation_number(both: Both) -> None:
    """The configuration of a search that never looked at validation does not speak of any."""
    document = read_yaml(both.published.run.best)
    assert [name for name in document["source"] if "val_" in name] == []
    assert document["source"]["searched_metric"] == "published/H"
    assert document["selection"]["val_H"] is None
    assert 0 < document["selection"]["published_H"] <= 1
    selection = read_yaml(both.validation.run.best)["selection"]
    assert selection["published_H"] is None
    assert 0 < selection["val_H"] <= 1


def test_summary_records_the_protocol(both: Both) -> None:
    for outcome, selecting, tested in (
        (both.published, "published", "published"),
        (both.validation, "validation", "test"),
    ):
        summary, document = summary_of(outcome), read_yaml(outcome.run.best)
        assert summary["selection"]["protocol"] == selecting
        assert summary["test"]["protocol"] == tested
        assert document["selection"] == summary["selection"]
        assert document["test"]["protocol"] == tested
        assert outcome.run.search.protocol == selecting
        assert open_run(outcome.run.name).search.protocol == selecting
        assert outcome.selection is not None
        assert outcome.selection.protocol == selecting
    assert summary_of(both.published)["searched_metric"] == "published/H"


def test_said_and_printed_lines_are_labelled(both: Both) -> None:
    text = outcome_text(both.published, default_uri())
    assert any("published/H" in line for line in both.said)
    for line in [*both.said, *text.splitlines()]:
        assert "val/" not in line
        assert "test/" not in line
        assert "offset from validation" not in line
    labelled = [line for line in text.splitlines() if LABEL in line]
    assert any(line.startswith("winner: trial") and "published/H" in line for line in labelled)
    assert any(line.startswith("published H") for line in labelled)
    assert any(line.lstrip().startswith("gan (") for line in labelled), "the table's row of the winner"
    assert LABEL not in outcome_text(both.validation, default_uri())


# what is computed


def published_job(objective: Any = "H", **hyper: Any) -> TrainingJob:
    dataset = find_dataset("hanzi")
    config = load_backbone("gan").config(**{**SMALL, **hyper}).model_dump(mode="json")
    path = str(prepared_path(dataset))
    return TrainingJob("gan", config, path, dataset.content_hash, 0, objective=objective, protocol="published")


def reports_on(job: TrainingJob) -> list[Report]:
    return [Report.from_dict(row) for row in curve(job)]


def test_trials_are_trained_on_trainval_and_read_on_the_test_sets() -> None:
    """The reported curve is that of the test protocol itself, evaluated on the way with an offset fitted there."""
    job = published_job()
    reports = reports_on(job)
    (training,) = job.trainings("test")
    for report, evaluation in zip(reports, training.evaluations(), strict=True):
        assert report.update == evaluation.update
        assert report.value == max(found.H for found in evaluation.heads.values())
        assert report.metrics["published/AUROC"] == evaluation.diagnostics["AUROC"]
    # however many validation draws there are, none of them is read
    assert [report.value for report in reports_on(replace(job, splits=(0, 1)))] == [r.value for r in reports]


def test_result_is_each_seeds_best_test_epoch(both: Both) -> None:
    test, document = both.published.test, read_yaml(both.published.run.best)
    assert test is not None
    assert test.protocol == "published"
    for seed, row in zip(test.seeds, test.per_seed, strict=True):
        reports = reports_on(replace(published_job(), config=document["config"], seed=seed))
        best = max(reports, key=lambda report: report.value)
        assert row["H"] == best.value
        for name in ("U", "S", "T1", "AUSUC", "H_raw", "AUROC", "FPR95"):
            assert row[name] == best.metrics[f"published/{name}"]


def test_one_update_count_for_all_seeds_does_not_beat_each_seeds_own_best() -> None:
    job = published_job()
    selection = select(job, [1, 2, 3], LOCAL, StopSignal())
    result = evaluate(job, selection, [1, 2, 3], LOCAL, StopSignal())
    assert (selection.protocol, result.protocol) == ("published", "published")
    assert selection.val_H is None
    assert selection.published_H is not None
    assert selection.published_H <= result.mean("H") + 1e-12


# retraining


def test_retraining_reproduces_the_result(both: Both, tmp_path: Path) -> None:
    assert both.published.test is not None
    path = export_best(both.published.run.name, None, None, tmp_path / "out.yaml", force=False)
    trained = retrain(path, 2)
    assert trained.test == both.published.test
    assert trained.selection == both.published.selection
    assert retrain(path, 1).test.per_seed == both.published.test.per_seed[:1]
    assert trained.document["test"]["protocol"] == "published"
    text = train_text(trained)
    assert LABEL in text
    assert "offset from validation" not in text


@pytest.mark.parametrize(("objective", "seed"), [("AUSUC", 3), ("H_raw", 1)])
def test_retraining_chooses_epochs_by_the_searchs_own_objective(objective: str, seed: int, tmp_path: Path) -> None:
    """Each epoch has its H; which one is reported is up to the objective that the file names."""
    job = replace(published_job(objective, updates=24, evaluations=12), seed=seed)
    reports = reports_on(job)
    best = max(reports, key=lambda report: report.value)
    assert best.metrics["published/H"] < max(report.metrics["published/H"] for report in reports), "or this is no test"
    selection = Selection(
        protocol="published",
        objective=objective,
        splits=(0,),
        seeds=(seed,),
        updates=best.update,
        head=best.head,
        seen_offset=best.metrics["published/seen_offset"],
        published_H=best.metrics["published/H"],
    )
    path = tmp_path / "best.yaml"
    dataset = {"name": "hanzi", "content_hash": job.dataset_hash}
    path.write_text(dump_yaml(configuration_document(job, dataset, selection, None, {})), encoding="utf-8")
    (row,) = retrain(path, 1).test.per_seed
    assert (row["H"], row["AUSUC"]) == (best.metrics["published/H"], best.metrics["published/AUSUC"])


# beside validation runs


def test_leaderboard_keeps_a_row_apart(both: Both) -> None:
    rows = leaderboard_rows()
    assert [row["protocol"] for row in rows] == ["test", "published"]
    tested, published = rows
    assert tested["run"] == both.validation.run.name
    assert tested["val_H"] == summary_of(both.validation)["selection"]["val_H"]
    assert published["run"] == both.published.run.name
    assert published["val_H"] is None
    assert published["test_H"] == summary_of(both.published)["test"]["H"]["mean"]
    assert published["confirmed_run"] == tested["run"]
    assert published["gap"] == published["test_H"] - tested["test_H"]
    text = leaderboard_text(rows)
    # cells may be folded
    assert LABEL in text
    assert LABEL not in leaderboard_text([tested])
    frame = d3tune.leaderboard()
    assert frame["val_H"].isna().tolist() == [False, True]


def test_export_by_dataset_takes_the_validation_run(both: Both, tmp_path: Path) -> None:
    assert best_run("hanzi", "gan") == str(both.validation.run.path)
    path = export_best(None, "hanzi", "gan", tmp_path / "out.yaml", force=False)
    assert read_yaml(path)["test"] == read_yaml(both.validation.run.best)["test"]


def test_export_by_dataset_never_takes_a_published_run(
    both: Both, isolated: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not even where there is no other and its number is far higher."""
    monkeypatch.setenv("D3TUNE_HOME", str(isolated))
    copy = isolated / "runs" / both.published.run.name
    shutil.copytree(both.published.run.path, copy)
    summary = json.loads((copy / "summary.json").read_text(encoding="utf-8"))
    summary["selection"]["val_H"] = 0.99
    (copy / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    assert best_run("hanzi", "gan") is None
    with pytest.raises(UsageError, match="no confirmed run of gan on hanzi"):
        export_best(None, "hanzi", "gan", tmp_path / "out.yaml", force=False)
    (row,) = leaderboard_rows()
    assert row["val_H"] is None


def test_of_several_published_runs_the_leaderboard_shows_the_one_with_the_largest_test_h(
    both: Both, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D3TUNE_HOME", str(isolated))
    for name, test_h, val_h in (("low", 0.2, 0.9), ("high", 0.6, 0.1)):
        copy = isolated / "runs" / name
        shutil.copytree(both.published.run.path, copy)
        summary = json.loads((copy / "summary.json").read_text(encoding="utf-8"))
        summary["run"], summary["selection"]["val_H"], summary["test"]["H"]["mean"] = name, val_h, test_h
        (copy / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (row,) = leaderboard_rows()
    assert (row["run"], row["test_H"]) == ("high", 0.6)


def test_validation_run_is_as_without_the_other(
    both: Both, isolated: Path, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same search in a home of its own finds the same, and nothing in it is named after the other protocol."""
    monkeypatch.setenv("D3TUNE_HOME", str(isolated))
    alone = search(isolated, mlflow_template, [])
    assert alone.run.name == both.validation.run.name
    assert (alone.selection, alone.test) == (both.validation.selection, both.validation.test)
    ours, theirs = trials_of(alone.run), trials_of(both.validation.run)
    assert [trial.intermediate_values for trial in ours] == [trial.intermediate_values for trial in theirs]
    for trial in ours:
        for report in reports_of(trial):
            assert prefixes(report.metrics) == {"val", "loss"}
    parent, children = mlflow_runs(alone.run)
    assert prefixes(parent.data.metrics) == {"val", "test", "trials"}
    assert all(prefixes(child.data.metrics) == {"val", "train", "tuned"} for child in children)


def test_protocols_are_two_searches(both: Both) -> None:
    published, validation = both.published.run, both.validation.run
    assert published.path != validation.path
    with pytest.raises(RunError, match=r"search\.protocol: validation → published"):
        prepare_run(
            Request(
                "hanzi",
                "gan",
                protocol="published",
                run_dir=validation.path,
                settings=tuple(f"{key}={value}" for key, value in validation.space["fixed"].items()),
            )
        )


def test_a_run_of_before_the_protocol_was_searched_is_one_of_validation() -> None:
    search = SearchConfig(dataset="toy", dataset_hash="0", semantics="att10", features="res101", backbone="gan")
    assert (search.protocol, search.searched_metric) == ("validation", "val/H")


def test_an_unknown_protocol_is_refused() -> None:
    for wrong in ("test", "publishd", ""):
        with pytest.raises(UsageError, match=f"--protocol {wrong}: no such choice"):
            prepare_run(Request("hanzi", "gan", protocol=wrong))

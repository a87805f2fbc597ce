"""What a search leaves in MLflow for people: names, short values, numbers that sort, the dataset, notes and views."""

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from mlflow import MlflowClient

from d3tune.search.executor import StopSignal
from d3tune.search.invariants import run_faults
from d3tune.search.reports import best_report
from d3tune.search.run import RunDirectory
from d3tune.search.search import Outcome
from d3tune.search.shown import end_tags, git_commit, short
from d3tune.search.study import read_trials, reports_of
from d3tune.search.summaries import configuration_id
from d3tune.search.syncing import sync_run
from d3tune.search.tracking import default_uri

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

ToyRun = Callable[..., RunDirectory]
CarryOut = Callable[..., Outcome]
TRIALS = 4


class Shown:
    """A search's experiment and runs in the store of this home."""

    def __init__(self, run: RunDirectory) -> None:
        self.client = MlflowClient(default_uri())
        (self.experiment,) = (item for item in self.client.search_experiments() if item.name != "Default")
        found = self.client.search_runs(
            [self.experiment.experiment_id], f"tags.`d3tune.run` = '{run.uid}'", max_results=1000
        )
        (self.parent,) = (item for item in found if item.data.tags["kind"] == "search")
        children = [item for item in found if item.data.tags["kind"] == "trial"]
        self.children = sorted(children, key=lambda item: int(item.data.tags["d3tune.trial"]))


def commit_in(folder: Path) -> str:
    git = ("git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "one"], check=True)
    end = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return end.stdout.strip()


@pytest.fixture
def searched(toy_run: ToyRun, carry_out: CarryOut) -> Outcome:
    """A search of some trials, confirmed."""
    run = toy_run(pruner="none")
    return carry_out(run, trials=TRIALS, confirm_seeds=2)


def test_a_search_shows_what_it_is_and_what_it_found(searched: Outcome, toy_run: ToyRun, carry_out: CarryOut) -> None:
    run, shown = searched.run, Shown(searched.run)
    assert searched.winner is not None
    assert searched.test is not None
    assert shown.experiment.name == "d3tune/toy"
    assert shown.parent.info.run_name == "gan-s2"
    tags = shown.parent.data.tags
    assert (tags["dataset"], tags["backbone"], tags["protocol"]) == ("toy", "gan", "validation")
    assert {"d3tune", "torch", "ray", "optuna", "mlflow", "python"} <= {
        name.removeprefix("version.") for name in tags if name.startswith("version.")
    }
    assert tags["configuration"] == configuration_id("gan", searched.winner.user_attrs["config"])
    # the work folder is in no checkout
    assert "mlflow.source.git.commit" not in tags
    best = best_report(reports_of(searched.winner)).metrics
    metrics = shown.parent.data.metrics
    assert {name: metrics[f"val/{name}"] for name in "HUS"} == {name: best[f"val/{name}"] for name in "HUS"}
    for name in "HUS":
        assert metrics[f"test/{name}"] == searched.test.mean(name)
        assert metrics[f"test/{name}_sd"] == searched.test.sd(name)
    note = tags["mlflow.note.content"]
    assert f"`gan-t{searched.winner.number:03d}`" in note
    assert f"Test H {searched.test.mean('H'):.4f} ± {searched.test.sd('H'):.4f}" in note
    for command in ("resume", "export", "report"):
        assert f"\nd3tune {command} {run.path}\n" in note
    assert [item.path for item in shown.client.list_artifacts(shown.parent.info.run_id)] == ["best.yaml"]
    (entry,) = shown.parent.inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("toy", run.search.dataset_hash[:36])
    assert json.loads(entry.dataset.source) == {"uri": str(run.dataset_path)}
    assert json.loads(entry.dataset.profile)["content_hash"] == run.search.dataset_hash
    assert [(tag.key, tag.value) for tag in entry.tags] == [("mlflow.data.context", "search")]

    assert shown.experiment.tags["test H"] == f"gan {searched.test.mean('H'):.3f} ± {searched.test.sd('H'):.3f}"

    # of two searches the one that is better on validation counts, whatever its test
    other = carry_out(toy_run(pruner="none", seed=3), trials=1, confirm_seeds=1)
    both = {outcome.selection.val_H: outcome.test for outcome in (searched, other) if outcome.selection is not None}
    better = both[max(both)]
    assert better is not None
    assert Shown(other.run).experiment.tags["test H"].startswith(f"gan {better.mean('H'):.3f}")


def test_a_test_of_an_earlier_winner_is_told_to_be_its(searched: Outcome) -> None:
    summary = searched.run.read_summary()
    assert summary is not None
    assert "earlier command" not in end_tags(searched.run, summary)["mlflow.note.content"]
    tested = summary["confirmed_trial"]
    newer = {**summary, "winner": {"trial": TRIALS + 7, "value": 0.99}}
    note = end_tags(searched.run, newer)["mlflow.note.content"]
    assert f"Best trial: `gan-t{TRIALS + 7:03d}`" in note
    assert f"Confirmed, the best of an earlier command: `gan-t{tested:03d}`." in note


def test_a_trial_shows_short_values_and_numbers_that_sort(searched: Outcome) -> None:
    shown, trials = Shown(searched.run), read_trials(searched.run.journal)
    for trial, child in zip(trials, shown.children, strict=True):
        assert child.info.run_name == f"gan-t{trial.number:03d}"
        assert child.data.tags["mlflow.parentRunId"] == shown.parent.info.run_id
        config = trial.user_attrs["config"]
        assert child.data.params == {name: short(value) for name, value in config.items()}
        assert all(len(value) <= 12 for name, value in child.data.params.items() if isinstance(config[name], float))
        logarithm = math.log10(config["teacher_lr"])
        assert child.data.metrics["tuned/log10_teacher_lr"] == pytest.approx(logarithm, rel=1e-5, abs=1e-9)
        tuned = {name for name in child.data.metrics if name.startswith("tuned/")}
        names = {name.removeprefix("tuned/").removeprefix("log10_") for name in tuned}
        assert names
        assert names <= set(trial.params)
        best = best_report(reports_of(trial)).metrics
        for name in "HUS":
            assert child.data.metrics[f"val/best_{name}"] == pytest.approx(best[f"val/{name}"], rel=1e-5)
        assert trial.datetime_start is not None
        assert child.info.start_time == int(trial.datetime_start.timestamp() * 1000)
        assert child.info.end_time >= child.info.start_time
    assert any(name.startswith("train/") for name in shown.children[0].data.metrics)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00028512345, "0.0002851"),
        (1e-07, "1e-07"),
        (2.0, "2"),
        (512, "512"),
        (True, "true"),
        (None, "null"),
        (["softmax", "lda"], "softmax, lda"),
        ("relu", "relu"),
    ],
)
def test_values_are_short(value: Any, text: str) -> None:
    assert short(value) == text


def test_views_show_the_trials_of_a_search_and_all_searches(searched: Outcome) -> None:
    run, shown = searched.run, Shown(searched.run)
    prefix = "mlflow.sharedViewState."
    views = {key.removeprefix(prefix): value for key, value in shown.experiment.tags.items() if key.startswith(prefix)}
    assert views.keys() == {"d3tune-searches", f"d3tune-{run.uid}"}
    assert f"viewStateShareKey=d3tune-{run.uid}&" in searched.link
    state = json.loads(json.loads(views[f"d3tune-{run.uid}"])["state"])
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`val/best_H`", False)
    tuned = [f"params.`{name}`" for name in run.space["parameters"]]
    columns = ["metrics.`val/best_H`", "metrics.`val/best_U`", "metrics.`val/best_S`", "tags.`d3tune.state`", *tuned]
    assert state["selectedColumns"] == columns
    found = shown.client.search_runs([shown.experiment.experiment_id], state["searchFilter"])
    assert {item.info.run_id for item in found} == {child.info.run_id for child in shown.children}
    axes = state["compareRunCharts"][0]["selectedMetrics"]
    assert len(axes) > 1
    assert all(set(axes) <= child.data.metrics.keys() for child in shown.children)
    overview = json.loads(json.loads(views["d3tune-searches"])["state"])
    (only,) = shown.client.search_runs([shown.experiment.experiment_id], overview["searchFilter"])
    assert only.info.run_id == shown.parent.info.run_id


def test_a_note_and_a_view_that_a_user_changed_are_left_alone(
    searched: Outcome, toy_run: ToyRun, carry_out: CarryOut
) -> None:
    shown = Shown(searched.run)
    mine = {"mlflow.note.content": "mine", "mlflow.sharedViewState.d3tune-searches": "mine"}
    for key, value in mine.items():
        shown.client.set_experiment_tag(shown.experiment.experiment_id, key, value)
    carry_out(searched.run, trials=TRIALS + 1)
    assert mine.items() <= Shown(searched.run).experiment.tags.items()


def test_the_commit_of_the_folder_that_a_search_begins_in_is_noted(
    toy_run: ToyRun, carry_out: CarryOut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project" / "below"
    project.mkdir(parents=True)
    commit = commit_in(project.parent)
    run = toy_run()
    monkeypatch.chdir(project)
    carry_out(run, trials=1)
    assert Shown(run).parent.data.tags["mlflow.source.git.commit"] == commit
    monkeypatch.setenv("PATH", "")
    assert git_commit(project) is None


def test_a_report_is_attached_once_by_sync_and_leads_nowhere(searched: Outcome, tmp_path: Path) -> None:
    run, said = searched.run, list[str]()
    report = run.path / "report"
    (report / "plots").mkdir(parents=True)
    (report / "index.html").write_text("<p>1", encoding="utf-8")
    (report / "plots" / "a.svg").write_text("<svg/>", encoding="utf-8")
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    (report / "link").symlink_to(tmp_path / "secret")

    def sync() -> None:
        with run.owned():
            sync_run(run, default_uri(), said.append)

    sync()
    shown = Shown(run)
    parent = shown.parent.info.run_id
    assert {item.path for item in shown.client.list_artifacts(parent, "report")} == {
        "report/index.html",
        "report/plots",
    }
    place = Path(urlsplit(shown.parent.info.artifact_uri).path) / "report" / "index.html"
    times = place.stat().st_mtime_ns
    sync()
    assert place.stat().st_mtime_ns == times
    (report / "index.html").write_text("<p>2", encoding="utf-8")
    sync()
    assert place.read_text(encoding="utf-8") == "<p>2"
    assert run_faults(run, default_uri()) == []


def test_runs_of_an_earlier_version_are_written_anew(searched: Outcome) -> None:
    run, shown = searched.run, Shown(searched.run)
    everyone = [shown.parent, *shown.children]
    for item in everyone:
        shown.client.delete_tag(item.info.run_id, "d3tune.layout")
    assert "trial 0: MLflow says it as an earlier version did" in run_faults(run, default_uri())
    with run.owned():
        sync_run(run, default_uri(), lambda line: None)
    assert run_faults(run, default_uri()) == []
    again = Shown(run)
    assert len(again.children) == TRIALS
    assert not {item.info.run_id for item in everyone} & {i.info.run_id for i in [again.parent, *again.children]}


def test_a_failed_trial_has_its_reason_as_a_note(toy_run: ToyRun, carry_out: CarryOut, on_report: Any) -> None:
    def fail(n: int, _: Any) -> None:
        if n == 2:
            raise ValueError("made to fail")

    on_report(fail)
    run = toy_run(pruner="none")
    carry_out(run, trials=2, stop=StopSignal())
    failed, sound = Shown(run).children
    assert failed.data.tags["mlflow.note.content"] == "Failed: ValueError: made to fail"
    assert "mlflow.note.content" not in sound.data.tags

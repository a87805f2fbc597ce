"""Confirmation, export and retraining: fixed on validation, tested once, repeatable to the last bit."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import pytest

from d3tune.config import Resources
from d3tune.data.registry import find_dataset, prepared_path
from d3tune.errors import RunError, UsageError
from d3tune.method.generators import load_backbone
from d3tune.results.export import export_best
from d3tune.results.leaderboard import best_run, leaderboard_rows
from d3tune.search.configuration import configuration_of
from d3tune.search.confirm import (
    Selection,
    TestResult,
    confirmation_seeds,
    evaluate,
    select,
)
from d3tune.search.executor import StopSignal
from d3tune.search.executor.inprocess import InProcessExecutor
from d3tune.search.jobs import TrainingJob
from d3tune.search.reports import Report
from d3tune.search.request import Request, prepare_run
from d3tune.search.run import RunDirectory
from d3tune.search.search import Outcome, Plan, run_search
from d3tune.search.summaries import summaries
from d3tune.search.tracking import default_uri
from d3tune.search.train import Trained, train
from d3tune.search.trial import curve
from d3tune.yamlfile import dump_yaml, read_yaml

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

Toy = Callable[..., Path]
LOCAL = InProcessExecutor()


def job_on(data_dir: Path, tiny: dict[str, Any], **hyper: Any) -> TrainingJob:
    dataset = find_dataset("toy", data_dir)
    config = load_backbone("gan").config(**{**tiny, "teacher_epochs": 20, "teacher_lr": 1e-3, **hyper})
    return TrainingJob("gan", config.model_dump(mode="json"), str(prepared_path(dataset)), dataset.content_hash, seed=0)


def chosen(job: TrainingJob, seeds: list[int], store: Path | None = None) -> Selection:
    return select(job, seeds, LOCAL, StopSignal(), store)


def test_seeds_of_the_confirmation_are_not_the_searchs() -> None:
    for seed in (0, 1, 17):
        seeds = confirmation_seeds(seed, 5)
        assert len(set(seeds)) == 5
        assert seed not in seeds
    with pytest.raises(UsageError, match="--confirm-seeds 0"):
        confirmation_seeds(0, 0)


def test_update_count_head_and_offset_come_from_the_mean_curve(
    write_toy: Toy, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    job = job_on(write_toy(tmp_path / "data"), tiny)
    seeds = [1, 2, 3]
    selection = chosen(job, seeds)
    curves = [[Report.from_dict(row) for row in curve(replace(job, seed=seed))] for seed in seeds]
    heads = job.config["heads"]
    means = {
        (index, head): fmean(rows[index].metrics[f"val/{head}/H"] for rows in curves)
        for index in range(4)
        for head in heads
    }
    at = [report.update for report in curves[0]].index(selection.updates)
    assert means[at, selection.head] == max(means.values()) == selection.val_H
    offsets = [rows[at].metrics[f"val/{selection.head}/seen_offset"] for rows in curves]
    assert selection.seen_offset == median(offsets)
    assert selection.seeds == (1, 2, 3)
    assert selection.protocol == "validation"


def test_a_mean_that_rounds_above_1_is_1(tiny: dict[str, Any], write_toy: Toy, tmp_path: Path) -> None:
    class Perfect(InProcessExecutor):
        """Every row is right, and a sum of shares ends above 1, as sums of thirds do."""

        def map(self, function: Any, items: Any, stop: StopSignal, on_result: Any = None) -> list[Any]:
            value = 1.0000000000000002
            metrics = {"val/H": value, "val/prototype/H": value, "val/prototype/seen_offset": 0.0}
            for index, _ in enumerate(items):
                on_result(index, [Report(40, value, "prototype", metrics, seconds=1.0).to_dict()])
            return []

    found = select(job_on(write_toy(tmp_path), tiny), [1, 2], Perfect(), StopSignal())
    assert found.val_H == 1.0


def test_with_the_raw_objective_the_offset_is_0(write_toy: Toy, tmp_path: Path, tiny: dict[str, Any]) -> None:
    job = replace(job_on(write_toy(tmp_path / "data"), tiny), objective="H_raw")
    assert chosen(job, [1]).seen_offset == 0


def test_nothing_of_the_test_enters_the_selection(write_toy: Toy, tmp_path: Path, tiny: dict[str, Any]) -> None:
    def spoil(content: dict[str, Any]) -> None:
        """Other features for every test row, and the unseen test rows' labels turned round."""
        for part in ("test_seen_loc", "test_unseen_loc"):
            rows = content[part].ravel().astype(int) - 1
            content["features"][:, rows] = content["features"][:, rows[::-1]] * 7 + 3
        unseen = content["test_unseen_loc"].ravel().astype(int) - 1
        content["labels"][unseen] = content["labels"][unseen[::-1]]

    sound = job_on(write_toy(tmp_path / "sound"), tiny)
    spoilt = job_on(write_toy(tmp_path / "spoilt", spoil), tiny)
    assert sound.dataset_hash != spoilt.dataset_hash
    selection = chosen(sound, [1, 2])
    assert chosen(spoilt, [1, 2]) == selection
    tests = [evaluate(job, selection, [1, 2], LOCAL, StopSignal()) for job in (sound, spoilt)]
    assert tests[0].per_seed != tests[1].per_seed


def test_a_training_row_does_enter_the_selection(write_toy: Toy, tmp_path: Path, tiny: dict[str, Any]) -> None:
    def change(content: dict[str, Any]) -> None:
        rows = content["trainval_loc"].ravel().astype(int) - 1
        content["features"][:, rows] = content["features"][:, rows] ** 2

    jobs = [job_on(write_toy(tmp_path / "a"), tiny), job_on(write_toy(tmp_path / "b", change), tiny)]
    assert chosen(jobs[0], [1]) != chosen(jobs[1], [1])


def test_a_run_cut_at_the_chosen_update_equals_a_run_of_that_length(
    write_toy: Toy, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    data = write_toy(tmp_path / "data")
    long, short = job_on(data, tiny), job_on(data, tiny, updates=20, evaluations=2)
    selection = chosen(long, [1]).model_copy(update={"updates": 20})
    a, b = (evaluate(job, selection, [1], LOCAL, StopSignal()) for job in (long, short))
    assert a == b


def test_a_confirmation_goes_on_where_it_stopped(
    write_toy: Toy, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, store = job_on(write_toy(tmp_path / "data"), tiny), tmp_path / "store"
    selection = chosen(job, [1, 2], store)
    result = evaluate(job, selection, [1, 2], LOCAL, StopSignal(), store)
    monkeypatch.setattr(TrainingJob, "trainings", None)  # whatever trains now fails
    assert chosen(job, [1, 2], store) == selection
    again = evaluate(job, selection, [1, 2], LOCAL, StopSignal(), store)
    assert again == result


def test_a_confirmation_stopped_between_seeds_keeps_the_seeds_it_has(
    write_toy: Toy, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    """The point of the store: a stop costs the seed in work, not those before it."""
    job, store = job_on(write_toy(tmp_path / "data"), tiny), tmp_path / "store"
    stop = StopSignal()

    class StopsAfterOne(InProcessExecutor):
        def map(self, function: Any, items: Any, stop: StopSignal, on_result: Any = None) -> list[Any]:
            def once(*item: Any) -> Any:
                value = function(*item)
                stop.requested = True
                return value

            return super().map(once, items, stop, on_result)

    with pytest.raises(KeyboardInterrupt):
        select(job, [1, 2, 3], StopsAfterOne(), stop, store)
    assert [path.name for path in store.iterdir()] == ["validation-seed-1.json"]


def test_mean_and_deviation() -> None:
    rows = tuple({"H": value} for value in (0.2, 0.4, 0.9))
    result = TestResult((1, 2, 3), rows)
    assert result.mean("H") == fmean([0.2, 0.4, 0.9])
    assert result.sd("H") == stdev([0.2, 0.4, 0.9])
    assert TestResult((1,), rows[:1]).sd("H") is None


# export and retraining


@pytest.fixture(scope="module")
def shared_search(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any], mlflow_template: Path) -> Outcome:
    """A small search whose winner is confirmed with two seeds; only to be read."""
    home = tmp_path_factory.mktemp("confirmed") / "home"
    home.mkdir()
    shutil.copy(mlflow_template, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("D3TUNE_HOME", str(home))
        settings = tuple(f"{key}={value}" for key, value in {**tiny, "head_epochs": 5}.items())
        run, _ = prepare_run(Request("hanzi", "gan", settings=settings))
        plan = Plan(2, None, Resources(executor="local"), 2, False, default_uri())
        with run.owned():
            return run_search(run, plan, StopSignal(), lambda _: None)


@pytest.fixture
def confirmed(shared_search: Outcome, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    monkeypatch.setenv("D3TUNE_HOME", str(shared_search.run.path.parents[1]))
    return shared_search


def retrain(path: Path, seeds: int, data_dir: Path | None = None) -> Trained:
    return train(path, seeds, data_dir, LOCAL, StopSignal(), lambda _: None)


def test_an_exported_winner_retrains_to_exactly_its_result(confirmed: Outcome, tmp_path: Path) -> None:
    path = export_best(confirmed.run.name, None, None, tmp_path / "out.yaml", force=False)
    assert confirmed.test is not None
    assert retrain(path, 2).test == confirmed.test
    more = retrain(path, 3).test
    assert more.seeds == (1, 2, 3)
    assert more.per_seed[:2] == confirmed.test.per_seed
    assert retrain(path, 1).test.per_seed == confirmed.test.per_seed[:1]
    trained = retrain(path, 2)
    written = tmp_path / "again.yaml"
    written.write_text(dump_yaml(trained.document), encoding="utf-8")
    assert retrain(written, 2).test == confirmed.test


def test_a_bare_configuration_is_selected_and_tested(tiny: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(dump_yaml({"dataset": "hanzi", "backbone": "gan", "config": tiny}), encoding="utf-8")
    trained = retrain(path, 1)
    assert trained.selection.updates in (10, 20, 30, 40)
    assert trained.document["dataset"]["name"] == "hanzi/0"
    path.write_text(dump_yaml(trained.document), encoding="utf-8")
    assert retrain(path, 1).test == trained.test


def test_wrong_configurations_are_refused_by_one_line(confirmed: Outcome, tmp_path: Path) -> None:
    sound = read_yaml(confirmed.run.best)

    def refused(words: str, text: str | None = None, **change: Any) -> None:
        path = tmp_path / "wrong.yaml"
        path.write_text(text if text is not None else dump_yaml({**sound, **change}), encoding="utf-8")
        with pytest.raises(UsageError, match=words) as caught:
            retrain(path, 1)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value) or "unknown" in words

    refused("made for a 'hanzi/0' of content ffff", dataset={**sound["dataset"], "content_hash": "f" * 64})
    refused("unknown key 'confg'", confg={})
    refused("config: unknown key 'head_lrr'; did you mean 'head_lr'", config={**sound["config"], "head_lrr": 1})
    refused("config: head_lr: .*not 7", config={**sound["config"], "head_lr": 7})
    refused("config: must be a mapping", config=[1])
    refused("format 99 is not known", format=99)
    refused(r"selection\.updates", selection={**sound["selection"], "updates": 0})
    refused(r"selection\.seen_offset", selection={**sound["selection"], "seen_offset": float("nan")})
    refused(r"selection\.seeds", selection={**sound["selection"], "seeds": [1, 1]})
    refused(r"selection\.seeds", selection={**sound["selection"], "seeds": [-1]})
    refused(r"selection\.protocol", selection={**sound["selection"], "protocol": "test"})
    refused("unknown backbone 'gna'; did you mean 'gan'", backbone="gna")
    refused("line 1", text="dataset: [hanzi")
    refused("'backbone' is missing", text="dataset: hanzi")
    refused("dataset: needs a name", dataset={"content_hash": "0"})
    with pytest.raises(UsageError, match="cannot read"):
        retrain(tmp_path / "absent.yaml", 1)
    with pytest.raises(UsageError, match="--seeds 0"):
        retrain(confirmed.run.best, 0)


def test_seeds_that_follow_are_new_ones_whatever_the_order(confirmed: Outcome) -> None:
    sound = read_yaml(confirmed.run.best)
    found = configuration_of({**sound, "selection": {**sound["selection"], "seeds": [3, 1]}}, "it", None)
    assert found.seeds(4) == [3, 1, 4, 5]
    assert found.seeds(1) == [3]


def test_a_source_is_what_a_file_would_give_back(confirmed: Outcome) -> None:
    sound = read_yaml(confirmed.run.best)
    found = configuration_of({**sound, "source": {"by": {10: "x", 2: "y", "z": [1]}}}, "it", None)
    assert found.source == {"by": {"10": "x", "2": "y", "z": [1]}}
    with pytest.raises(UsageError, match="it: source: must hold plain values alone"):
        configuration_of({**sound, "source": {"by": Path("x")}}, "it", None)


def test_a_selected_head_that_the_configuration_lacks_is_refused(confirmed: Outcome, tmp_path: Path) -> None:
    sound = read_yaml(confirmed.run.best)
    path = tmp_path / "wrong.yaml"
    path.write_text(dump_yaml({**sound, "selection": {**sound["selection"], "head": "sofmax"}}), encoding="utf-8")
    with pytest.raises(UsageError, match="head"):
        retrain(path, 1)


def test_export_refuses_to_overwrite_another_file(confirmed: Outcome, tmp_path: Path) -> None:
    path = tmp_path / "out.yaml"
    path.write_text("mine: 1\n", encoding="utf-8")
    with pytest.raises(UsageError, match="exists and differs"):
        export_best(confirmed.run.name, None, None, path, force=False)
    assert path.read_text(encoding="utf-8") == "mine: 1\n"
    export_best(confirmed.run.name, None, None, path, force=True)
    export_best(str(confirmed.run.path), None, None, path, force=False)
    assert read_yaml(path)["config"] == read_yaml(confirmed.run.best)["config"]


@pytest.mark.parametrize("kind", ["folder", "binary", "absent parent"])
def test_export_to_what_is_no_text_file_is_a_usage_error(kind: str, confirmed: Outcome, tmp_path: Path) -> None:
    path = tmp_path / "out"
    if kind == "folder":
        path.mkdir()
    elif kind == "binary":
        path.write_bytes(b"\xff\xfe\x00")
    else:
        path = path / "deeper" / "out.yaml"
    with pytest.raises(UsageError, match="out"):
        export_best(confirmed.run.name, None, None, path, force=False)


def test_export_by_dataset_and_backbone(confirmed: Outcome, tmp_path: Path) -> None:
    for name in ("hanzi", "hanzi/0"):
        path = export_best(None, name, "gan", tmp_path / "out.yaml", force=False)
        assert read_yaml(path)["source"]["uid"] == confirmed.run.uid
    with pytest.raises(UsageError, match="no confirmed run of gan on hanzi/3"):
        export_best(None, "hanzi/3", "gan", tmp_path / "out.yaml", force=False)
    for run, dataset, backbone in ((None, "hanzi", None), (None, None, None), ("r", "hanzi", "gan")):
        with pytest.raises(UsageError, match="--dataset with --backbone"):
            export_best(run, dataset, backbone, tmp_path / "out.yaml", force=False)


def test_export_before_the_confirmation_says_how_to_finish(
    new_run: Callable[..., RunDirectory], tmp_path: Path
) -> None:
    run = new_run()
    with pytest.raises(RunError, match="no confirmed winner yet; finish it with: d3tune resume"):
        export_best(run.name, None, None, tmp_path / "out.yaml", force=False)


def test_the_leaderboard_picks_by_validation_not_by_test(
    confirmed: Outcome, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the run with a lower validation H and a far better test H does not lead."""
    monkeypatch.setenv("D3TUNE_HOME", str(isolated))
    shutil.copytree(confirmed.run.path, isolated / "runs" / confirmed.run.name)
    other = isolated / "runs" / "other"
    shutil.copytree(confirmed.run.path, other)
    summary = json.loads((other / "summary.json").read_text(encoding="utf-8"))
    summary["run"], summary["path"] = "other", str(other)
    summary["selection"]["val_H"] /= 2
    summary["test"]["H"]["mean"] = 0.99
    (other / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (row,) = leaderboard_rows()
    assert row["run"] == confirmed.run.name
    assert best_run("hanzi", "gan") == str(isolated / "runs" / confirmed.run.name)
    assert row["protocol"] == "test"
    assert row["test_H"] == summaries()[0]["test"]["H"]["mean"]

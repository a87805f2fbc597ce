"""The winner's model in MLflow: there once, whatever was interrupted; loaded from there it is the model of the test."""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from d3tune.config import Resources
from d3tune.data.prepared import open_prepared
from d3tune.search import mlflow_model
from d3tune.search.executor import StopSignal
from d3tune.search.mlflow_columns import columns_of
from d3tune.search.run import RunDirectory
from d3tune.search.scoring import score_rows
from d3tune.search.search import Outcome, Plan, run_search
from d3tune.search.tracking import Mirror, default_uri

pytestmark = [
    # MLflow on SQLAlchemy 2.1, and what it says of its own code
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]

ToyRun = Callable[..., RunDirectory]
Command = Callable[..., Any]
NAME = "toy model"
STEPS = ("log_model_artifacts", "log_outputs", "finalize_logged_model", "create_model_version")


@pytest.fixture(autouse=True)
def own_store(isolated: Path) -> Iterator[None]:
    """What a test sets as the process's own store is not the next one's."""
    yield
    mlflow.set_tracking_uri(None)


def carry_out(run: RunDirectory, **changes: Any) -> Outcome:
    with run.owned():
        plan = Plan(1, None, Resources(executor="local"), 1, False, default_uri())
        return run_search(run, Plan(**{**vars(plan), **changes}), StopSignal(), lambda line: None)


def client() -> MlflowClient:
    return MlflowClient(default_uri())


def models() -> list[Any]:
    experiments = [experiment.experiment_id for experiment in client().search_experiments()]
    return list(client().search_logged_models(experiments))


def versions(name: str = NAME) -> list[Any]:
    return list(client().search_model_versions(f"name = '{name}'"))


def folder(model: Any) -> Path:
    return Path(model.artifact_location.removeprefix("file://"))


def h_of(run: RunDirectory, answer: Any) -> float:
    """H by counting the labels that MLflow's model gave both test sets."""
    dataset = open_prepared(run.dataset_path)
    rows = np.concatenate([dataset.test_seen, dataset.test_unseen])
    truth = np.array([dataset.class_names[number] for number in dataset.labels[rows]])
    right = np.array(answer["label"]) == truth
    s, u = (
        np.mean([right[truth == dataset.class_names[number]].mean() for number in numbers])
        for numbers in (dataset.seen_classes, dataset.unseen_classes)
    )
    return float(2 * u * s / (u + s))


@pytest.mark.parametrize(
    "hyper", [{"heads": "[softmax]"}, {"heads": "[prototype]", "offset_unit": "margin_sd"}], ids=str
)
def test_loaded_from_mlflow_it_reproduces_the_test_of_its_seed(toy_run: ToyRun, hyper: dict[str, Any]) -> None:
    run = toy_run(hyper)
    outcome = carry_out(run, register_as=NAME)
    assert outcome.mirrored
    assert outcome.test is not None
    (model,) = models()
    assert str(model.status) == "READY"
    (parent,) = [item for item in client().search_runs([model.experiment_id]) if "d3tune.trial" not in item.data.tags]
    assert model.source_run_id == parent.info.run_id
    assert [output.model_id for output in parent.outputs.model_outputs] == [model.model_id]
    dataset = open_prepared(run.dataset_path)
    rows = np.concatenate([dataset.test_seen, dataset.test_unseen])
    features = np.asarray(dataset.features[rows])
    mlflow.set_tracking_uri(default_uri())
    for uri in (f"models:/{model.model_id}", f"runs:/{parent.info.run_id}/model", f"models:/{NAME}/1"):
        answer = mlflow.pyfunc.load_model(uri).predict(features)
        assert h_of(run, answer) == pytest.approx(outcome.test.per_seed[0]["H"], abs=1e-12)
        from_disk = score_rows(mlflow_model.load_model(run.model), features)
        assert list(answer.columns) == ["label", *from_disk.classes]
        assert np.array_equal(answer.iloc[:, 1:].to_numpy(), from_disk.scores)
    assert not Path("mlflow.db").exists(), "only the store that was named is used"


def test_its_folder_holds_code_and_weights_and_no_pickle(toy_run: ToyRun) -> None:
    run = toy_run()
    carry_out(run)
    (model,) = models()
    files = {path.relative_to(folder(model)).as_posix(): path for path in folder(model).rglob("*") if path.is_file()}
    assert {"MLmodel", "requirements.txt", "mlflow_code.py", "artifacts/model/model.safetensors"} <= files.keys()
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".cloudpickle"))]
    assert all(path.read_bytes()[:2] not in (b"\x80\x03", b"\x80\x04", b"\x80\x05") for path in files.values())
    needed = files["requirements.txt"].read_text(encoding="utf-8").split()
    assert [line.partition("==")[0] for line in needed] == ["mlflow", "d3tune"]
    described = mlflow.models.Model.load(str(folder(model)))
    assert described.signature.inputs.inputs[0].shape == (-1, 24)
    assert described.signature.outputs.input_names()[0] == "label"
    assert described.saved_input_example_info is not None
    assert files["artifacts/model/model.safetensors"].read_bytes() == (run.model / "model.safetensors").read_bytes()


def test_a_server_for_it_would_take_its_input_example(toy_run: ToyRun, tmp_path: Path) -> None:
    """As ``mlflow models predict --env-manager local`` does it, on this machine alone."""
    carry_out(toy_run())
    (model,) = models()
    example = json.loads((folder(model) / "serving_input_example.json").read_text(encoding="utf-8"))
    (tmp_path / "in.json").write_text(json.dumps(example), encoding="utf-8")
    mlflow.models.predict(
        str(folder(model)),
        input_path=str(tmp_path / "in.json"),
        content_type="json",
        output_path=str(tmp_path / "out.json"),
        env_manager="local",
    )
    (answer,) = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["predictions"]
    scores = {name: score for name, score in answer.items() if name != "label"}
    assert len(scores) == 16
    assert answer["label"] == max(scores, key=scores.__getitem__)


def test_resume_and_sync_log_and_register_it_once(toy_run: ToyRun, command: Command) -> None:
    run = toy_run()
    carry_out(run, register_as=NAME)
    first, version = models(), versions()
    assert len(first) == len(version) == 1
    carry_out(run, register_as=NAME)
    for arguments in (("sync", run.path), ("sync", run.path, "--register", NAME), ("resume", run.path)):
        end = command(*arguments)
        assert end.code == 0, end.err
    assert [model.model_id for model in models()] == [model.model_id for model in first]
    assert [item.version for item in versions()] == [item.version for item in version]
    assert command("sync", run.path, "--register", "another").code == 0
    assert len(versions("another")) == 1
    assert len(models()) == 1


def test_sync_registers_what_a_search_did_not(toy_run: ToyRun, command: Command) -> None:
    run = toy_run()
    carry_out(run)
    assert versions() == []
    assert command("sync", run.path, "--register", NAME).code == 0
    (version,) = versions()
    assert version.source == models()[0].artifact_location


@pytest.mark.parametrize("step", STEPS)
def test_what_was_cut_off_anywhere_is_there_once_after_a_sync(
    step: str, toy_run: ToyRun, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, refused, finish = toy_run(), threading.Event(), Mirror.finish

    def lost(*arguments: Any, **options: Any) -> None:
        refused.set()
        raise ConnectionError("the store is gone")

    def finish_soon(self: Mirror, *arguments: Any) -> str | None:
        # however slow the machine: it is in a hurry only once the step was refused, all the rest having been written
        return finish(self, *arguments[:5], hurry=lambda: 0.5 if refused.is_set() else None)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, step, lost)
        patch.setattr(Mirror, "finish", finish_soon)
        outcome = carry_out(run, register_as=NAME)
    assert not outcome.mirrored
    assert outcome.test is not None, "the search lost nothing"
    ids = [experiment.experiment_id for experiment in client().search_experiments()]
    (parent,) = client().search_runs(ids, "tags.kind = 'search'")
    assert parent.info.status == "FINISHED", "the model alone is missing"
    assert command("sync", run.path, "--register", NAME).code == 0
    (model,) = models()
    assert str(model.status) == "READY"
    assert len(versions()) == 1
    assert (folder(model) / "MLmodel").is_file()


def test_a_locked_store_loses_nothing(
    toy_run: ToyRun, isolated: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locked from before the end of the search on: said in one line, written by sync."""
    run = toy_run()
    # it is locked for as long as anyone waits
    monkeypatch.setattr("d3tune.search.stores.PATIENCE", 3.0)
    carry_out(run, confirm_seeds=0)
    with sqlite3.connect(isolated / "mlflow.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        end = command("resume", run.path, "--confirm-seeds", 1, "--tracking-uri", f"{default_uri()}?timeout=0.05")
        other.execute("ROLLBACK")
    other.close()
    assert end.code == 0, end.err
    assert "write the rest with: d3tune sync" in end.err
    assert "Traceback" not in end.err
    assert run.model.is_dir()
    assert models() == []
    assert command("sync", run.path, "--tracking-uri", default_uri()).code == 0
    assert len(models()) == 1


def test_another_winner_is_another_version(toy_run: ToyRun) -> None:
    run = toy_run()
    first = carry_out(run, register_as=NAME)
    for trials in (4, 8, 12):
        second = carry_out(run, trials=trials, register_as=NAME)
        assert first.winner is not None
        assert second.winner is not None
        if second.winner.number != first.winner.number:
            tags = {version.tags["d3tune.trial"] for version in versions()}
            assert {str(first.winner.number), str(second.winner.number)} <= tags
            return
    pytest.fail("twelve trials and no better one")


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "-x", "x" * 200, "'; drop"])
def test_a_name_that_mlflow_would_not_take_is_refused_at_once(name: str, command: Command) -> None:
    end = command("search", "--dataset", "hanzi", "--register", name)
    assert (end.code, end.out, end.err.count("\n")) == (2, "", 1)
    assert "--register" in end.err


def test_sync_of_a_run_without_a_model_says_that_nothing_is_registered(toy_run: ToyRun, command: Command) -> None:
    run = toy_run()
    carry_out(run, confirm_seeds=0)
    end = command("sync", run.path, "--register", NAME)
    assert end.code == 0
    assert f"--register {NAME}: the run has no model yet" in end.err
    assert versions() == []


def test_class_names_that_would_be_one_column_twice_get_numbers() -> None:
    assert columns_of(["a", "b"]) == ["label", "a", "b"]
    assert columns_of(["a", "a", "label"]) == ["label", "0 a", "1 a", "2 label"]

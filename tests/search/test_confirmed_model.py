"""The winner as a model: kept with its test, made again where it was lost, refused where it is damaged."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from d3tune.config import Resources
from d3tune.data.prepared import open_prepared
from d3tune.search.confirmed_model import ModelRequest, keep_model
from d3tune.search.executor import StopSignal
from d3tune.search.executor.inprocess import InProcessExecutor
from d3tune.search.jobs import TrainingJob
from d3tune.search.model import load_model
from d3tune.search.run import RunDirectory
from d3tune.search.scoring import score_rows
from d3tune.search.search import Outcome, Plan, run_search
from d3tune.search.tracking import default_uri
from d3tune.yamlfile import read_yaml

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

Command = Callable[..., Any]
PLAN = Plan(2, None, Resources(executor="local"), 2, False, "")


def carry_out(run: RunDirectory, **changes: Any) -> Outcome:
    with run.owned():
        plan = Plan(**{**vars(PLAN), "tracking_uri": default_uri(), **changes})
        return run_search(run, plan, StopSignal(), lambda line: None)


@pytest.fixture
def found(with_model: Outcome) -> Outcome:
    return with_model


@pytest.fixture
def run(run_copy: RunDirectory) -> RunDirectory:
    return run_copy


# what is kept


def test_the_first_seeds_model_is_kept_and_says_what_it_is(found: Outcome) -> None:
    run, selection = found.run, found.selection
    assert selection is not None
    assert found.test is not None
    assert found.winner is not None
    assert sorted(path.name for path in run.model.iterdir()) == ["model.json", "model.safetensors"]
    document = load_model(run.model).document
    dataset = open_prepared(run.dataset_path)
    assert (document.head, document.updates, document.seen_offset) == (
        selection.head,
        selection.updates,
        selection.seen_offset,
    )
    assert document.seed == selection.seeds[0]
    assert document.test == found.test.per_seed[0]
    assert document.source["trial"] == found.winner.number
    assert document.source["uid"] == run.uid
    assert document.dataset.content_hash == run.search.dataset_hash
    assert document.configuration == (run.read_summary() or {})["configuration"]
    assert document.seen_classes == tuple(dataset.class_names[number] for number in dataset.seen_classes)
    assert document.unseen_classes == tuple(dataset.class_names[number] for number in dataset.unseen_classes)
    tensors = load_file(run.model / "model.safetensors")
    assert {tensor.dtype for name, tensor in tensors.items() if name.startswith("score")} == {torch.float32}
    assert not list(run.path.glob("confirm/*/model")), "it is kept once"


def test_its_scores_are_those_of_the_test_bit_for_bit(found: Outcome) -> None:
    """Trained once more without being saved: the scores of the loaded model are the very numbers."""
    assert found.selection is not None
    best = read_yaml(found.run.best)
    model = load_model(found.run.model)
    job = TrainingJob("gan", best["config"], str(found.run.dataset_path), found.run.search.dataset_hash, seed=1)
    (training,) = job.trainings("test")
    training.advance(found.selection.updates)
    head = found.selection.head
    expected = training.evaluate([head]).fitted[head](training.tensors.eval_unseen_x).double()
    expected[:, : training.tensors.n_seen] -= found.selection.seen_offset
    dataset = open_prepared(found.run.dataset_path)
    scores = score_rows(model, np.asarray(dataset.features[dataset.test_unseen])).scores
    assert np.array_equal(scores, expected.numpy())


def test_a_lost_model_is_made_again_by_a_resume_and_nothing_else_is(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a confirmation leaves it that was cut off after a test result was stored."""
    before = (run.model / "model.safetensors").read_bytes()
    summary = run.read_summary() or {}
    shutil.rmtree(run.model)
    made: list[TrainingJob] = []
    trainings = TrainingJob.trainings

    def counted(self: TrainingJob, protocol: Any) -> Any:
        made.append(self)
        return trainings(self, protocol)

    monkeypatch.setattr(TrainingJob, "trainings", counted)
    carry_out(run)
    assert [job.seed for job in made] == [1]
    assert (run.model / "model.safetensors").read_bytes() == before
    assert (run.read_summary() or {})["test"] == summary["test"]
    carry_out(run)
    assert len(made) == 1


def test_a_confirmation_cut_off_behind_its_first_test_ends_with_that_model(
    toy_run: Callable[..., RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = toy_run()
    stop, calls = StopSignal(), [0]
    plain = InProcessExecutor.map

    def cut(self: Any, function: Any, items: Any, stop: StopSignal, on_result: Any = None) -> Any:
        calls[0] += 1

        def keep(index: int, value: Any) -> None:
            on_result(index, value)
            stop.requested = stop.requested or calls[0] == 2

        return plain(self, function, items, stop, keep)

    monkeypatch.setattr(InProcessExecutor, "map", cut)
    with run.owned():
        plan = Plan(**{**vars(PLAN), "tracking_uri": default_uri()})
        assert run_search(run, plan, stop, lambda line: None).interrupted
    assert not run.model.exists(), "not before all seeds are tested"
    assert len(list(run.path.glob("confirm/*/model/model.json"))) == 1
    monkeypatch.setattr(InProcessExecutor, "map", plain)
    outcome = carry_out(run)
    assert outcome.test is not None
    assert load_model(run.model).document.test == outcome.test.per_seed[0]


def test_another_winners_model_takes_its_place(toy_run: Callable[..., RunDirectory]) -> None:
    run = toy_run()
    first = carry_out(run, trials=1)
    assert first.winner is not None
    for trials in (4, 8, 12):
        second = carry_out(run, trials=trials)
        assert second.winner is not None
        assert load_model(run.model).document.source["trial"] == second.winner.number
        if second.winner.number != first.winner.number:
            return
    pytest.fail("twelve trials and no better one")


def test_a_full_disk_ends_with_a_line_and_no_half_model(
    run: RunDirectory, command: Command, no_file_larger: Callable[[int], Any]
) -> None:
    size = (run.model / "model.safetensors").stat().st_size
    shutil.rmtree(run.model)
    with no_file_larger(size - 1):
        end = command("train", run.best, "--seeds", 1, "--model", run.path.parent / "mine")
    assert end.code == 1
    assert "Traceback" not in end.err
    assert "mine: cannot be written" in end.err.splitlines()[-1]
    assert not list(run.path.parent.glob("*mine*"))


# damage


def signed(folder: Path, **change: Any) -> None:
    """Change the document and let its digests say that it was written so."""
    plain = json.loads((folder / "model.json").read_text(encoding="utf-8")) | change
    plain.pop("sha256")
    digests = {
        "weights": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "document": hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest(),
    }
    (folder / "model.json").write_text(json.dumps({**plain, "sha256": digests}), encoding="utf-8")


def without_tensor(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    kept = {key: tensor.clone() for key, tensor in tensors.items() if key != name}
    save_file(kept, folder / "model.safetensors")
    signed(folder)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def one_class_less(folder: Path) -> None:
    plain = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    signed(folder, unseen_classes=plain["unseen_classes"][1:])


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "a flipped bit": lambda folder: flipped(folder / "model.safetensors"),
    "half the weights": lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:5000]
    ),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "another offset": lambda folder: (folder / "model.json").write_text(
        (folder / "model.json").read_text("utf-8").replace('"seen_offset": ', '"seen_offset": 1'), "utf-8"
    ),
    "half a document": lambda folder: (folder / "model.json").write_text(
        (folder / "model.json").read_text("utf-8")[:900], "utf-8"
    ),
    "a list": lambda folder: (folder / "model.json").write_text("[1]", "utf-8"),
    "depths": lambda folder: (folder / "model.json").write_text("[" * 100_000, "utf-8"),
    "no text": lambda folder: (folder / "model.json").write_bytes(b"\xff\xfe"),
    "a later format": lambda folder: signed(folder, format=2),
    "an unknown key": lambda folder: signed(folder, code="import os"),
    "an unknown part": lambda folder: signed(folder, score={"kind": "os.system"}),
    "no head": lambda folder: without_tensor(folder, "score.weight"),
    "no scaling": lambda folder: without_tensor(folder, "features.shift"),
    "a class less": one_class_less,
    "other semantics": lambda folder: signed(folder, semantics={"id": "x", "width": 7, "centred": False, "scale": 1}),
    "a deep head": lambda folder: signed(folder, score=nested(300)),
}


def nested(depth: int) -> dict[str, Any]:
    spec: dict[str, Any] = {"kind": "same"}
    for _ in range(depth):
        spec = {"kind": "chain", "first": {"kind": "same"}, "second": spec}
    return spec


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_refused_by_one_line(
    damage: str, run: RunDirectory, features: Path, command: Command
) -> None:
    DAMAGES[damage](run.model)
    end = command("predict", run.path, features)
    assert (end.code, end.out) == (1, "")
    assert end.err.count("\n") == 1
    assert str(run.model) in end.err
    assert "Traceback" not in end.err


def test_a_damaged_model_is_made_again_by_a_resume(run: RunDirectory) -> None:
    before = (run.model / "model.safetensors").read_bytes()
    flipped(run.model / "model.safetensors")
    carry_out(run)
    assert (run.model / "model.safetensors").read_bytes() == before
    load_model(run.model)


# runs without a model


def test_a_run_without_a_model_says_how_to_make_one_and_that_works(
    run: RunDirectory, found: Outcome, features: Path, tmp_path: Path, command: Command
) -> None:
    """As of an earlier version; what is made is the very model."""
    expected = command("predict", run.path, features).out
    shutil.rmtree(run.model)
    end = command("predict", run.path, features)
    assert (end.code, end.err.count("\n")) == (1, 1)
    assert f"has no model; make one: d3tune train {run.best} --seeds 1 --model DIR" in end.err
    made = command("train", run.best, "--seeds", 1, "--model", tmp_path / "mine")
    assert made.code == 0, made.err
    assert made.err.splitlines()[-1] == f"wrote {tmp_path / 'mine'}"
    assert command("predict", tmp_path / "mine", features).out == expected
    assert load_model(tmp_path / "mine").document.source["uid"] == found.run.uid


def test_train_writes_a_model_to_a_new_folder_alone(run: RunDirectory, tmp_path: Path, command: Command) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine", encoding="utf-8")
    for place in (tmp_path / "used", tmp_path / "used" / "mine.txt"):
        end = command("train", run.best, "--seeds", 1, "--model", place)
        assert (end.code, end.err.count("\n")) == (2, 1)
        assert "is there already; give a new folder" in end.err
    assert (tmp_path / "used" / "mine.txt").read_text(encoding="utf-8") == "mine"


def test_only_a_run_notes_that_its_model_cannot_be_saved(tmp_path: Path) -> None:
    job, nothing = TrainingJob("gan", {}, "", "", seed=0), cast(Any, None)
    for place, noted in ((None, False), (tmp_path / "model", True)):
        request = ModelRequest(tmp_path / "work" / "model", {}, "key", place)
        keep_model(request, job, nothing, "head", None, 0.0, {})
        assert (tmp_path / "work" / "no-model.json").exists() == noted
        assert request.settled == noted


def test_before_the_confirmation_there_is_no_model_and_a_way_to_one(
    toy_run: Callable[..., RunDirectory], tmp_path: Path, command: Command
) -> None:
    run = toy_run()
    np.save(tmp_path / "f.npy", np.ones((1, 24)))
    end = command("predict", run.name, tmp_path / "f.npy")
    assert end.code == 1
    assert f"has no confirmed winner yet; finish it with: {run.resume_command}" in end.err


def test_a_test_selected_search_has_no_model(
    toy_run: Callable[..., RunDirectory], tmp_path: Path, command: Command
) -> None:
    run = toy_run(protocol="published")
    carry_out(run, confirm_seeds=1)
    assert not run.model.exists()
    np.save(tmp_path / "f.npy", np.ones((1, 24)))
    end = command("predict", run.name, tmp_path / "f.npy")
    assert end.code == 1
    assert "test-selected" in end.err
    end = command("train", run.best, "--seeds", 1, "--data-dir", tmp_path / "toy", "--model", tmp_path / "mine")
    assert end.code == 2
    assert "test-selected" in end.err

"""Checkpoints: the newest intact one counts; and trials that go on from one, bit for bit."""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from d3tune.data.registry import find_dataset, prepared_path
from d3tune.errors import RunError
from d3tune.method.generators import load_backbone
from d3tune.search.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    remove_checkpoints,
    remove_weights,
    save_checkpoint,
    weights_update,
)
from d3tune.search.jobs import TrainingJob
from d3tune.search.reports import Report, best_report, make_report
from d3tune.search.trial import RunningTrial, load_trainings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "trial"
    path.mkdir()
    return path


def checkpoint(update: int) -> Checkpoint:
    tensors = {
        "a": torch.full((3, 4), float(update)),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "n": torch.tensor(update),
    }
    return Checkpoint(update, tensors, [{"update": update, "value": 0.1 + update}])


def test_a_checkpoint_reads_back(folder: Path) -> None:
    save_checkpoint(folder / "new" / "folder", checkpoint(7))
    back, damaged = load_checkpoint(folder / "new" / "folder")
    assert back is not None
    assert damaged == []
    assert back.update == 7
    assert back.reports == [{"update": 7, "value": 7.1}]
    assert back.tensors.keys() == checkpoint(7).tensors.keys()
    for name, tensor in checkpoint(7).tensors.items():
        assert torch.equal(back.tensors[name], tensor)
        assert back.tensors[name].dtype == tensor.dtype


def test_the_newest_two_are_kept_and_nothing_else_is_left(folder: Path) -> None:
    for update in (9, 10, 200, 1000):
        save_checkpoint(folder, checkpoint(update))
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "checkpoint-00000200.json",
        "checkpoint-00000200.safetensors",
        "checkpoint-00001000.json",
        "checkpoint-00001000.safetensors",
    ]
    newest, _ = load_checkpoint(folder)
    assert newest is not None
    assert newest.update == 1000


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("part", [".safetensors", ".json"])
@pytest.mark.parametrize("damage", [truncate, flip, empty, Path.unlink])
def test_of_a_damaged_newest_one_the_one_before_counts(part: str, damage: Callable[[Path], None], folder: Path) -> None:
    for update in (10, 20):
        save_checkpoint(folder, checkpoint(update))
    newest = folder / f"checkpoint-00000020{part}"
    damage(newest)
    if part == ".json" and damage is flip:
        # one flipped bit of white space or of a number is still JSON: spoil the hash itself
        manifest = folder / "checkpoint-00000020.json"
        manifest.write_text(json.dumps({"update": 20, "sha256": "0" * 64, "reports": []}), encoding="utf-8")
    back, damaged = load_checkpoint(folder)
    assert back is not None
    assert back.update == 10
    gone = part == ".json" and damage is Path.unlink
    assert damaged == ([] if gone else ["checkpoint-00000020.safetensors is damaged"])
    damage(folder / "checkpoint-00000010.safetensors")
    none, damaged = load_checkpoint(folder)
    assert none is None
    assert len(damaged) == (1 if gone else 2)


@pytest.mark.parametrize("text", ["[]", "null", '{"update": 5}', '{"update": "x", "sha256": 1, "reports": 2}'])
def test_a_manifest_of_another_form_is_passed_over(text: str, folder: Path) -> None:
    save_checkpoint(folder, checkpoint(3))
    (folder / "checkpoint-00000005.json").write_text(text, encoding="utf-8")
    back, damaged = load_checkpoint(folder)
    assert back is not None
    assert damaged == ["checkpoint-00000005.safetensors is damaged"]
    assert back.update == 3


def test_no_checkpoint_is_none_and_removing_leaves_other_files(folder: Path) -> None:
    assert load_checkpoint(folder) == (None, [])
    assert load_checkpoint(folder / "absent") == (None, [])
    save_checkpoint(folder, checkpoint(3))
    (folder / "notes.txt").write_text("kept", encoding="utf-8")
    remove_checkpoints(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


# a running trial


@pytest.fixture
def job(tiny: dict[str, Any]) -> TrainingJob:
    dataset = find_dataset("hanzi")
    config = load_backbone("gan").config(**tiny, center_semantics=True, noise_dim=8, ood_embed_dim=4)
    return TrainingJob(
        backbone="gan",
        config=config.model_dump(mode="json"),
        dataset=str(prepared_path(dataset)),
        dataset_hash=dataset.content_hash,
        seed=3,
        splits=(0, 1),
    )


def rest(trial: RunningTrial) -> list[Report]:
    """The reports still to come, without what depends on when and where they were made."""
    reports = []
    while not trial.finished:
        reports.append(bare(trial.next_report()))
    return reports


def bare(report: Report) -> Report:
    return replace(report, seconds=0.0, worker={}, notes=())


def test_a_job_travels_as_plain_values(job: TrainingJob) -> None:
    assert TrainingJob.from_dict(json.loads(json.dumps(job.to_dict()))) == job


def test_an_interrupted_trial_goes_on_bit_for_bit(job: TrainingJob, tmp_path: Path) -> None:
    whole = rest(RunningTrial(job, tmp_path / "whole"))
    assert [report.update for report in whole] == [10, 20, 30, 40]
    for known in (1, 3):
        folder = tmp_path / f"cut-{known}"
        cut = RunningTrial(job, folder)
        first = [bare(cut.next_report()) for _ in range(known)]
        del cut
        assert first == whole[:known]
        assert rest(RunningTrial(job, folder, known_update=first[-1].update)) == whole[known:]


def test_reports_that_the_study_has_not_are_handed_out_again(job: TrainingJob, tmp_path: Path) -> None:
    trial = RunningTrial(job, tmp_path)
    made = [trial.next_report() for _ in range(3)]
    again = RunningTrial(job, tmp_path, known_update=10)
    assert [again.next_report() for _ in range(2)] == made[1:]
    assert not again.finished
    assert [RunningTrial(job, tmp_path, known_update=0).next_report().update] == [10]
    assert [RunningTrial(job, tmp_path, known_update=30).next_report().update] == [40]


def test_time_adds_up_over_interruptions(job: TrainingJob, tmp_path: Path) -> None:
    first = RunningTrial(job, tmp_path).next_report()
    second = RunningTrial(job, tmp_path, known_update=first.update).next_report()
    assert second.seconds > first.seconds > 0


def test_a_damaged_newest_checkpoint_costs_one_evaluation_only(job: TrainingJob, tmp_path: Path) -> None:
    whole = rest(RunningTrial(job, tmp_path / "whole"))
    trial = RunningTrial(job, tmp_path / "cut")
    for _ in range(3):
        trial.next_report()
    flip(tmp_path / "cut" / "checkpoint-00000030.safetensors")
    again = RunningTrial(job, tmp_path / "cut", known_update=30)
    first = again.next_report()
    assert first.notes == ("checkpoint-00000030.safetensors is damaged: gone on from update 20",)
    assert [bare(first), *rest(again)] == whole[2:]
    for path in (tmp_path / "cut").glob("*.safetensors"):
        empty(path)
    anew = RunningTrial(job, tmp_path / "cut", known_update=30)
    first = anew.next_report()
    assert first.notes == (
        "checkpoint-00000030.safetensors is damaged: begun anew",
        "checkpoint-00000020.safetensors is damaged: begun anew",
    )
    assert [bare(first), *rest(anew)] == whole


def test_a_checkpoint_of_another_configuration_is_not_gone_on_from(job: TrainingJob, tmp_path: Path) -> None:
    other = replace(job, config={**job.config, "hidden_dim": 16})
    whole = rest(RunningTrial(other, tmp_path / "whole"))
    RunningTrial(job, tmp_path / "cut").next_report()
    trial = RunningTrial(other, tmp_path / "cut")
    first = trial.next_report()
    assert first.notes == ("its checkpoint is of another device or version: begun anew",)
    assert [bare(first), *rest(trial)] == whole


# kept weights


def test_kept_weights_are_those_of_the_best_evaluation_and_score_as_it_did(job: TrainingJob, tmp_path: Path) -> None:
    trial = RunningTrial(job, tmp_path, keep_weights=True)
    reports = [trial.next_report() for _ in range(4)]
    assert trial.finished
    best = best_report(reports)
    kept = load_weights(tmp_path)
    assert kept is not None
    assert kept.update == weights_update(tmp_path) == best.update
    assert not [name for name in kept.tensors if "adam/" in name]
    trainings = job.selecting_trainings()
    load_trainings(trainings, kept.tensors)
    again = make_report([training.evaluate() for training in trainings], job.objective, 0.0)
    scores = {name: value for name, value in best.metrics.items() if not name.startswith("loss/")}
    assert again.metrics == scores


def test_kept_weights_are_checked_and_removed(job: TrainingJob, tmp_path: Path) -> None:
    RunningTrial(job, tmp_path, keep_weights=True).next_report()
    flip(tmp_path / "weights.safetensors")
    assert load_weights(tmp_path) is None
    remove_weights(tmp_path)
    assert weights_update(tmp_path) is None
    assert not list(tmp_path.glob("weights*"))


def test_no_weights_are_kept_unless_asked_for(job: TrainingJob, tmp_path: Path) -> None:
    rest(RunningTrial(job, tmp_path))
    assert weights_update(tmp_path) is None


def test_a_trial_whose_last_report_alone_was_lost_is_finished(job: TrainingJob, tmp_path: Path) -> None:
    whole = rest(RunningTrial(job, tmp_path))
    assert rest(RunningTrial(job, tmp_path, known_update=40)) == whole[3:]


def test_what_is_on_disk_is_safetensors_and_json_alone(job: TrainingJob, folder: Path) -> None:
    RunningTrial(job, folder).next_report()
    assert len(list(folder.iterdir())) == 2
    for path in folder.iterdir():
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        else:
            assert path.suffix == ".safetensors"
            content = path.read_bytes()
            size = int.from_bytes(content[:8], "little")
            assert json.loads(content[8 : 8 + size])


def test_a_dataset_that_changed_under_the_search_is_refused(job: TrainingJob, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the search was made for"):
        RunningTrial(replace(job, dataset_hash="f" * 64), tmp_path)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_storage_that_is_away_is_no_damage(folder: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    save_checkpoint(folder, Checkpoint(100, {"a": torch.ones(2)}, []))

    def away(*arguments: Any, **further: Any) -> str:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", away)
        with pytest.raises(RunError, match=r"cannot be read: .*; mend that, then resume"):
            load_checkpoint(folder)
    found, damaged = load_checkpoint(folder)
    assert found is not None
    assert damaged == []

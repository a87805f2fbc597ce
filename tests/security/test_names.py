"""Names that lead elsewhere: nothing outside the folder that was given is read, written or removed."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from d3tune.data.importing import import_dataset
from d3tune.data.matfile import open_mat
from d3tune.data.prepared import open_prepared
from d3tune.data.registry import find_dataset, list_datasets
from d3tune.errors import DatasetError
from d3tune.search.checkpoint import remove_checkpoints, remove_weights
from d3tune.search.train import train

Content = dict[str, Any]
Refused = Callable[[Callable[[], object]], str]

LEADING_OUT = (
    "../secret",
    "../../secret",
    "{root}/secret",
    "birds/../../secret",
    "./../secret",
    "~/secret",
    "..\\secret",
)


def files_below(root: Path, *besides: Path) -> dict[Path, bytes]:
    """Every file under a folder, except under some others."""
    found = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {path: path.read_bytes() for path in found if not any(path.is_relative_to(own) for own in besides)}


@pytest.fixture
def secret(tmp_path: Path, write_pair: Callable[..., Path]) -> Path:
    """A sound dataset beside the data folder, which no name may reach."""
    return write_pair(tmp_path / "secret")


@pytest.mark.parametrize("name", LEADING_OUT)
def test_a_dataset_outside_the_data_folder(
    tmp_path: Path, secret: Path, refused: Refused, write_pair: Callable[..., Path], name: str, isolated: Path
) -> None:
    write_pair(tmp_path / "data" / "BIRDS")
    name = name.format(root=tmp_path)
    before = files_below(tmp_path, isolated)
    assert find_dataset("birds", tmp_path / "data").name == "birds"  # what is inside is found
    refused(lambda: find_dataset(name, tmp_path / "data"))
    refused(lambda: find_dataset("birds", tmp_path / "data", name))
    assert files_below(tmp_path, isolated) == before


@pytest.mark.parametrize("name", [*LEADING_OUT, "..", "/", "x" * 300, "CON\x00", "-o", ""])
def test_importing_under_a_name_that_leads_out(
    tmp_path: Path, secret: Path, refused: Refused, arrays: Content, name: str
) -> None:
    np.savez(tmp_path / "own.npz", **arrays)
    name = name.format(root=tmp_path)
    before = files_below(tmp_path)
    for options in ({"name": name}, {"feature_tag": name}, {"semantics_kind": name}):
        given = {"name": "birds", "feature_tag": "clip", "source": tmp_path / "own.npz", **options}
        refused(lambda given=given: import_dataset(data_dir=tmp_path / "data", force=True, **given))  # type: ignore[misc]
    assert files_below(tmp_path) == before


def test_the_command_refuses_such_names_too(tmp_path: Path, arrays: Content, run_program: Callable[..., str]) -> None:
    np.savez(tmp_path / "own.npz", **arrays)
    arguments = ("--into", tmp_path / "data", "--feature-tag", "clip", "--source", tmp_path / "own.npz")
    for name in ("../secret", str(tmp_path / "secret"), "x" * 300):
        assert "cannot be the name" in run_program("data", "import", name, *arguments)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("text", [*LEADING_OUT, "a\x1b[2Jb\r\n", "\u202egnp.exe", "x" * 5000, "a/b" * 2000])
def test_texts_in_a_matlab_file_are_only_words(
    tmp_path: Path, write_pair: Callable[..., Path], text: str, isolated: Path
) -> None:
    names = np.empty((8, 1), dtype=object)
    names[:, 0] = [f"{text} {number}" for number in range(8)]
    write_pair(tmp_path / "data" / "BIRDS", {"feature_tag": text}, {"allclasses_names": names})
    before = files_below(tmp_path, isolated)
    dataset = find_dataset("birds", tmp_path / "data")
    assert all(name.isprintable() for name in dataset.class_names)
    assert dataset.feature_tag.isascii()
    assert len(dataset.feature_tag) <= 40
    assert not set("/\\\x1b ") & set(dataset.feature_tag)
    assert dataset.path is not None
    assert dataset.path.parent == isolated / "datasets"
    assert files_below(tmp_path, isolated) == before


@pytest.mark.parametrize("kind", [*LEADING_OUT, "att\x1b[2J", "Att", "a" * 50, "att85"])
def test_the_kind_of_semantics_in_a_matlab_file(
    tmp_path: Path, write_pair: Callable[..., Path], refused: Refused, kind: str
) -> None:
    write_pair(tmp_path / "data" / "BIRDS", {}, {"semantics_kind": kind})
    message = refused(lambda: find_dataset("birds", tmp_path / "data"))
    assert "'semantics_kind'" in message
    assert len(message) < 400


def test_keys_of_a_matlab_file_lead_nowhere(tmp_path: Path, secret: Path, refused: Refused) -> None:
    path = secret / "res101.mat"
    message = refused(lambda: open_mat(path).array("../att_splits.mat/att"))
    assert "has no key" in message


def test_a_link_under_a_hostile_key(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "res101.mat"
    with h5py.File(path, "w") as file:
        file["a\x1b[2J\nb" + "x" * 500] = h5py.SoftLink("/../../etc/passwd")
    message = refused(lambda: open_mat(path))
    assert "is a link" in message
    assert len(message) < 300


def test_a_folder_with_a_name_too_long_to_prepare(
    tmp_path: Path, write_pair: Callable[..., Path], refused: Refused
) -> None:
    write_pair(tmp_path / "data" / ("B" * 250))
    assert "cannot prepare" in refused(lambda: find_dataset("b" * 250, tmp_path / "data"))
    assert any(info.name == "b" * 250 for info in list_datasets(tmp_path / "data"))


@pytest.mark.parametrize("path", ["/etc/passwd", "../../..", "x" * 5000, "a\x00b", "/dev/null", ""])
def test_a_prepared_dataset_that_is_none(path: str) -> None:
    with pytest.raises(DatasetError):
        open_prepared(Path(path))


@pytest.mark.parametrize(
    "member", ["../../features.npy", "/features.npy", "..\\features.npy", "a\x1b[2J\nb.npy", "x" * 60_000 + ".npy"]
)
def test_members_of_an_archive(tmp_path: Path, arrays: Content, refused: Refused, member: str) -> None:
    source = tmp_path / "own.npz"
    np.savez(source, **arrays)
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr(member, b"\x93NUMPY")
    before = files_below(tmp_path)
    message = refused(lambda: import_dataset("birds", tmp_path / "data", source=source, feature_tag="clip"))
    assert "has an unknown key" in message
    assert len(message) < 500
    assert files_below(tmp_path) == before


# configurations


def configuration(**changes: Any) -> Content:
    sound: Content = {"dataset": {"name": "hanzi"}, "backbone": "gan", "config": {"updates": 2, "evaluations": 1}}
    return {**sound, **changes}


HOSTILE_CONFIGURATIONS: dict[str, Content] = {
    **{f"dataset {name}": configuration(dataset={"name": name}) for name in (*LEADING_OUT, "", "hanzi/../x")},
    **{f"short {name}": configuration(dataset=name) for name in LEADING_OUT},
    **{f"semantics {name}": configuration(dataset={"name": "hanzi", "semantics": name}) for name in LEADING_OUT},
    **{f"backbone {name}": configuration(backbone=name) for name in (*LEADING_OUT, "os", "os:system", "gan:BACKBONE")},
    "key": configuration(**{"../x": 1}),
    "hyper-parameter": configuration(config={"../x": 1}),
    "hash": configuration(dataset={"name": "hanzi", "content_hash": "../../x"}),
    "format": configuration(format="../x"),
}


@pytest.mark.parametrize("case", HOSTILE_CONFIGURATIONS)
def test_names_in_a_configuration(tmp_path: Path, refused: Refused, case: str, isolated: Path) -> None:
    path = tmp_path / "best.yaml"
    path.write_text(yaml.safe_dump(HOSTILE_CONFIGURATIONS[case]), encoding="utf-8")
    before = files_below(tmp_path, isolated)
    refused(lambda: train(path, 1, tmp_path, None, None, print))  # type: ignore[arg-type]
    assert files_below(tmp_path, isolated) == before


def test_names_in_a_run_file(tmp_path: Path, run_program: Callable[..., str], isolated: Path) -> None:
    run = isolated / "runs" / "mine"
    run.mkdir(parents=True)
    identity = {"dataset": "hanzi/0", "dataset_hash": "0" * 64, "semantics": "parts103", "features": "pixels"}
    search = {**identity, "backbone": "gan"}
    sound = {"format": 1, "uid": "a", "created": "b", "dataset_path": "/nowhere", "search": search, "space": {}}
    before = files_below(tmp_path, isolated)
    for name in LEADING_OUT:
        name = name.format(root=tmp_path)
        for hostile in (
            {**sound, "dataset_path": name},
            {**sound, "search": {**search, "dataset": name}},
            {**sound, "search": {**search, "backbone": name}},
            {**sound, "space": {"backbone": name, "parameters": {}}},
        ):
            (run / "run.yaml").write_text(yaml.safe_dump(hostile), encoding="utf-8")
            run_program("resume", "mine", "--executor", "local", "--trials", "1")
            assert files_below(tmp_path, isolated) == before
            assert {path.name for path in (isolated / "runs").iterdir()} == {"mine"}


@pytest.mark.parametrize("name", [*LEADING_OUT, "*", "[a-z]*", ".", "..", "mine/../../../secret", ""])
def test_names_of_runs(
    tmp_path: Path, secret: Path, run_program: Callable[..., str], name: str, isolated: Path
) -> None:
    (isolated / "runs" / "mine").mkdir(parents=True)
    (isolated / "runs" / "mine" / "run.yaml").touch()
    for command in ("resume", "export", "sync"):
        assert "no run" in run_program(command, name.format(root=tmp_path))
    assert (isolated / "runs" / "mine" / "run.yaml").read_bytes() == b""


@pytest.mark.parametrize("name", ["checkpoint-*", "checkpoint-[0-9]", "checkpoint-..json", "checkpoint-x\ny"])
def test_removing_checkpoints_takes_names_for_names(tmp_path: Path, name: str) -> None:
    """A file name that looks like a pattern or a path removes itself alone."""
    trial, other = tmp_path / "run" / "trials" / "00000", tmp_path / "run" / "trials" / "00001"
    for folder in (trial, other):
        folder.mkdir(parents=True)
        (folder / "checkpoint-00000001.json").write_text("{}", encoding="utf-8")
        (folder / name).touch()
        (folder / "trial.json").touch()
    remove_checkpoints(trial)
    remove_weights(trial)
    assert [path.name for path in trial.iterdir()] == ["trial.json"]
    assert len(list(other.iterdir())) == 3


def test_a_link_in_place_of_a_checkpoint_is_removed_and_not_followed(tmp_path: Path, secret: Path) -> None:
    trial = tmp_path / "trial"
    trial.mkdir()
    for name in ("checkpoint-00000001.json", "checkpoint-00000001.safetensors", "weights.json", "weights.safetensors"):
        (trial / name).symlink_to(secret / "res101.mat")
    before = files_below(secret)
    remove_checkpoints(trial)
    remove_weights(trial)
    assert list(trial.iterdir()) == []
    assert files_below(secret) == before


def test_an_index_entry_leads_to_no_other_folder(
    tmp_path: Path, write_pair: Callable[..., Path], isolated: Path
) -> None:
    write_pair(tmp_path / "data" / "BIRDS")
    first = find_dataset("birds", tmp_path / "data")
    assert first.path is not None
    other = write_pair(tmp_path / "others" / "BIRDS", {"features": np.ones((7, 48))})
    (entry,) = (isolated / "datasets" / "index").iterdir()
    shutil.copytree(first.path, tmp_path / "elsewhere")
    for name in ("../../elsewhere", str(tmp_path / "elsewhere"), "..", "x" * 5000, "."):
        entry.write_text(json.dumps({"prepared": name}), encoding="utf-8")
        assert find_dataset("birds", tmp_path / "data").path == first.path
    assert other.is_dir()

"""Files that carry a program: it never runs, and the file is refused in one line or passed over."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import torch
import yaml
from safetensors.torch import save_file

from d3tune.data.importing import import_dataset
from d3tune.data.matfile import open_mat
from d3tune.data.prepared import open_prepared, prepare_pair
from d3tune.errors import UsageError
from d3tune.method.generators import load_backbone
from d3tune.search.checkpoint import load_checkpoint, load_weights, weights_update
from d3tune.search.keeping import read_record
from d3tune.search.train import train
from d3tune.space import load_space
from d3tune.yamlfile import parse_yaml, read_yaml

Content = dict[str, Any]
Refused = Callable[[Callable[[], object]], str]


def object_file(trap: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, trap.objects, allow_pickle=True)
    return buffer.getvalue()


def torch_file(trap: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": trap.payload}, buffer)
    return buffer.getvalue()


def bare_pickle(trap: Any) -> bytes:
    return bytes(trap.pickled)


# each program in its disguise, with what a careless reader would do with it
DISGUISES: dict[str, tuple[Callable[[Any], bytes], Callable[[io.BytesIO], object]]] = {
    "pickle": (bare_pickle, lambda file: np.load(file, allow_pickle=True)),
    "array of objects": (object_file, lambda file: np.load(file, allow_pickle=True)),
    "torch archive": (torch_file, lambda file: torch.load(file, weights_only=False)),
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_the_payloads_are_live(trap: Any, disguise: str) -> None:
    """The control: a careless reader runs each of them, so that the tests below prove something."""
    write, read_carelessly = DISGUISES[disguise]
    content = write(trap)
    assert not trap.sprung
    read_carelessly(io.BytesIO(content))
    assert trap.sprung


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("what", ["features", "labels", "semantics", "class_names", "splits"])
def test_an_imported_array(
    tmp_path: Path, trap: Any, refused: Refused, arrays: Content, what: str, disguise: str
) -> None:
    own = ("trainval", "test_seen", "test_unseen") if what == "splits" else (what,)
    np.savez(tmp_path / "own.npz", **{key: array for key, array in arrays.items() if key not in own})
    (tmp_path / "hostile.npy").write_bytes(DISGUISES[disguise][0](trap))
    files = {"source": tmp_path / "own.npz", what: tmp_path / "hostile.npy"}
    message = refused(lambda: import_dataset("birds", tmp_path / "data", feature_tag="clip", **files))
    assert "hostile.npy" in message
    assert not trap.sprung
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("member", ["labels.npy", "labels", "labels.pkl", "__reduce__.npy"])
@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_member_of_an_archive(
    tmp_path: Path, trap: Any, refused: Refused, arrays: Content, member: str, disguise: str
) -> None:
    source = tmp_path / "own.npz"
    np.savez(source, **{key: array for key, array in arrays.items() if key != "labels"})
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr(member, DISGUISES[disguise][0](trap))
    message = refused(lambda: import_dataset("birds", tmp_path / "data", source=source, feature_tag="clip"))
    assert "own.npz" in message
    assert not trap.sprung


def matlab_objects(path: Path, trap: Any) -> None:
    """A MATLAB class that no reader here knows, with the pickle as its content."""
    scipy.io.savemat(path, {"features": np.frombuffer(trap.pickled, dtype=np.uint8).reshape(1, -1)})
    raw = bytearray(path.read_bytes())
    assert raw[144] == 9  # the class: uint8
    raw[144] = 3  # object
    path.write_bytes(raw)


def hdf5_opaque(path: Path, trap: Any) -> None:
    with h5py.File(path, "w") as file:
        file["features"] = np.void(trap.pickled)
        file["features"].attrs["MATLAB_class"] = np.void(trap.pickled)


def hdf5_texts(path: Path, trap: Any) -> None:
    with h5py.File(path, "w") as file:
        file["features"] = trap.pickled.hex()
        file["features"].attrs["h5py_pickle"] = np.void(trap.pickled)


def matlab_header(path: Path, trap: Any) -> None:
    path.write_bytes(b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + trap.pickled)


def no_header(path: Path, trap: Any) -> None:
    path.write_bytes(trap.pickled.ljust(600, b"."))


@pytest.mark.parametrize("write", [matlab_objects, hdf5_opaque, hdf5_texts, matlab_header, no_header])
def test_a_matlab_file(tmp_path: Path, trap: Any, refused: Refused, write: Callable[[Path, Any], None]) -> None:
    path = tmp_path / "res101.mat"
    write(path, trap)
    for read in (lambda: open_mat(path).array("features"), lambda: open_mat(path).strings("features")):
        assert str(path) in refused(read)
    assert not trap.sprung


@pytest.mark.parametrize("file", ["features.npy", "labels.npy", "trainval.npy", "meta.json"])
@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_prepared_dataset(
    tmp_path: Path, trap: Any, refused: Refused, write_pair: Callable[..., Path], file: str, disguise: str
) -> None:
    folder = prepare_pair(write_pair(tmp_path / "data" / "BIRDS"), "birds").path
    assert folder is not None
    (folder / file).write_bytes(DISGUISES[disguise][0](trap))
    assert "is damaged" in refused(lambda: open_prepared(folder, verify=True))
    assert not trap.sprung


@pytest.mark.parametrize("disguise", DISGUISES)
def test_checkpoints_and_weights(tmp_path: Path, trap: Any, seal: Callable[[Path], None], disguise: str) -> None:
    for name in ("checkpoint-00000010", "weights"):
        (tmp_path / f"{name}.safetensors").write_bytes(DISGUISES[disguise][0](trap))
        seal(tmp_path / f"{name}.json")
    assert load_checkpoint(tmp_path) == (None, ["checkpoint-00000010.safetensors is damaged"])
    assert load_weights(tmp_path) is None
    assert not trap.sprung


def test_the_text_that_safetensors_carries_is_only_text(
    tmp_path: Path, trap: Any, seal: Callable[[Path], None]
) -> None:
    save_file({trap.pickled.hex(): torch.ones(2)}, tmp_path / "weights.safetensors", {"pickle": trap.pickled.hex()})
    seal(tmp_path / "weights.json")
    kept = load_weights(tmp_path)
    assert kept is not None
    assert not trap.sprung


@pytest.mark.parametrize("disguise", DISGUISES)
def test_records_in_json(tmp_path: Path, trap: Any, disguise: str) -> None:
    for name in ("trial.json", "weights.json", "checkpoint-00000010.json"):
        (tmp_path / name).write_bytes(DISGUISES[disguise][0](trap))
    assert read_record(tmp_path) is None
    assert weights_update(tmp_path) is None
    assert load_weights(tmp_path) is None
    assert load_checkpoint(tmp_path) == (None, ["checkpoint-00000010.safetensors is damaged"])
    assert not trap.sprung


# YAML

CALLS = {
    "apply": "!!python/object/apply:os.mkdir [{marker}]",
    "apply with a mapping": "!!python/object/apply:os.mkdir {{args: [{marker}]}}",
    "written out": "!<tag:yaml.org,2002:python/object/apply:os.mkdir> [{marker}]",
    "by a handle": "%TAG !p! tag:yaml.org,2002:python/\n---\n!p!object/apply:os.mkdir [{marker}]",
}
NAMES = {
    "new": "!!python/object/new:d3tune.errors.UsageError [a]",
    "name": "!!python/name:os.system",
    "module": "!!python/module:os",
    "object": "!!python/object:d3tune.errors.UsageError {args: [a]}",
    "tuple": "!!python/tuple [a]",
    "bytes": "!!python/bytes YQ==",
    "of one's own": "!mine a",
}


def hostile_yaml(trap: Any, call: str) -> str:
    """The call as the value of a key; a directive has to stay in front."""
    text = CALLS[call].format(marker=json.dumps(str(trap.marker)))
    head, marks, value = text.rpartition("---\n")
    return f"{head}{marks}backbone: gan\nconfig: {value}\n"


@pytest.mark.parametrize("call", CALLS)
def test_the_yaml_is_live(trap: Any, call: str) -> None:
    yaml.unsafe_load(hostile_yaml(trap, call))
    assert trap.sprung


@pytest.mark.parametrize("call", CALLS)
def test_yaml_that_calls(tmp_path: Path, trap: Any, refused: Refused, call: str) -> None:
    path = tmp_path / "best.yaml"
    path.write_text(hostile_yaml(trap, call), encoding="utf-8")
    config = load_backbone("gan").config
    readers: list[Callable[[], object]] = [
        lambda: read_yaml(path),
        lambda: load_space("gan", config, "hanzi/0", 256, path),
        lambda: train(path, 1, None, None, None, print),  # type: ignore[arg-type]
    ]
    for read in readers:
        message = refused(read)
        assert str(path) in message
        assert "tag" in message
    assert not trap.sprung


@pytest.mark.parametrize("name", NAMES)
def test_yaml_that_names(name: str) -> None:
    for text in (f"a: {NAMES[name]}", f"a: [{{b: {NAMES[name]} }}]", f"{NAMES[name]}"):
        with pytest.raises(UsageError, match="tags"):
            parse_yaml(text, "file.yaml")


def test_commands_that_are_given_hostile_yaml(
    tmp_path: Path, trap: Any, run_program: Callable[..., str], isolated: Path
) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(hostile_yaml(trap, "apply"), encoding="utf-8")
    run = isolated / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "run.yaml").write_text(hostile_yaml(trap, "apply"), encoding="utf-8")
    search = ("search", "--dataset", "hanzi", "--executor", "local", "--trials", "1")
    value = CALLS["apply"].format(marker=trap.marker)
    for arguments in (
        ("train", path),
        (*search, "--space", path),
        (*search, "--warm-start", path),
        (*search, "--set", f"head_lr={value}"),
        ("resume", "mine"),
        ("sync", "mine"),
        ("export", "mine"),
    ):
        assert "tags (!name) are not allowed" in run_program(*arguments)
    assert not trap.sprung
    assert [path.name for path in (isolated / "runs").iterdir()] == ["mine"]
    assert [path.name for path in run.iterdir()] == ["run.yaml"]

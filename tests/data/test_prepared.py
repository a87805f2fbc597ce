"""Prepared folders: mapped, shared, never half written, and never re-read without need."""

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d3tune.data.dataset import ARRAYS, GZSLDataset, make_dataset
from d3tune.data.prepared import open_prepared, prepare, prepare_pair
from d3tune.errors import D3TuneError, DatasetError

Content = dict[str, Any]
Write = Callable[..., Path]


def folder_of(dataset: GZSLDataset) -> Path:
    assert dataset.path is not None
    return dataset.path


def test_a_prepared_dataset_is_the_same_and_mapped_read_only(dataset: GZSLDataset, tmp_path: Path) -> None:
    prepared = prepare(dataset)
    assert folder_of(prepared) == tmp_path / "home" / "datasets" / f"tiny-{dataset.content_hash[:12]}"
    for name in ARRAYS:
        array = getattr(prepared, name)
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
        np.testing.assert_array_equal(array, getattr(dataset, name), strict=True)
    for name in ("name", "class_names", "semantics_id", "feature_tag", "content_hash"):
        assert getattr(prepared, name) == getattr(dataset, name)
    assert prepared.view("validation").key == dataset.view("validation").key


def test_a_dataset_without_train_and_val(dataset: GZSLDataset) -> None:
    fields = {**vars(dataset), "train": None, "val": None}
    fields.pop("content_hash")
    bare = make_dataset(**fields)
    prepared = prepare(bare)
    assert prepared.train is None
    assert prepared.val is None
    assert prepared.content_hash == bare.content_hash


def test_it_may_be_moved(dataset: GZSLDataset, tmp_path: Path) -> None:
    moved = shutil.move(folder_of(prepare(dataset)), tmp_path / "elsewhere")
    assert open_prepared(Path(moved), verify=True).content_hash == dataset.content_hash


def test_an_unchanged_pair_is_not_read_again(tmp_path: Path, content: Content, write_pair: Write) -> None:
    folder = write_pair(tmp_path / "T", content)
    first = prepare_pair(folder, "tiny")
    for file in ("res101.mat", "att_splits.mat"):
        path = folder / file
        status = path.stat()
        path.write_bytes(b"x" * status.st_size)  # reading this would fail
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert prepare_pair(folder, "tiny").content_hash == first.content_hash
    os.utime(folder / "res101.mat", ns=(1, 1))
    with pytest.raises(DatasetError, match="not a MATLAB"):
        prepare_pair(folder, "tiny")


def test_a_changed_pair_is_another_dataset(tmp_path: Path, content: Content, write_pair: Write) -> None:
    folder = write_pair(tmp_path / "T", content)
    first = prepare_pair(folder, "tiny")
    content["features"][0, 0] += 1
    write_pair(folder, content)
    os.utime(folder / "res101.mat", ns=(5, 5))
    second = prepare_pair(folder, "tiny")
    assert second.content_hash != first.content_hash
    assert folder_of(first).is_dir()
    assert second.features[0, 0] == first.features[0, 0] + 1


def test_other_semantics_are_another_prepared_dataset(tmp_path: Path, content: Content, write_pair: Write) -> None:
    content["original_att"] = content["att"] * 2
    folder = write_pair(tmp_path / "T", content)
    ids = [prepare_pair(folder, "tiny", wanted).semantics_id for wanted in (None, "original", "att5", None)]
    assert ids == ["att5", "original5", "att5", "att5"]
    assert len(list((tmp_path / "home" / "datasets").glob("tiny-*"))) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"prepared": "../../x"}', '{"prepared": 3}', "\x00"])
def test_a_damaged_index_entry_is_no_obstacle(tmp_path: Path, content: Content, write_pair: Write, text: str) -> None:
    folder = write_pair(tmp_path / "T", content)
    first = prepare_pair(folder, "tiny")
    (entry,) = (tmp_path / "home" / "datasets" / "index").iterdir()
    entry.write_text(text)
    assert prepare_pair(folder, "tiny").content_hash == first.content_hash


def test_a_deleted_prepared_folder_is_made_again(tmp_path: Path, content: Content, write_pair: Write) -> None:
    folder = write_pair(tmp_path / "T", content)
    first = folder_of(prepare_pair(folder, "tiny"))
    shutil.rmtree(first)
    assert folder_of(prepare_pair(folder, "tiny")) == first


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 8)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def pickled(path: Path) -> None:
    np.save(path, np.array([{}], dtype=object))


def change_meta(**changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        *[(f"{name}.npy", Path.unlink) for name in ARRAYS],
        *[(f"{name}.npy", truncate) for name in ARRAYS],
        *[(f"{name}.npy", flip) for name in ARRAYS if name != "features"],
        ("features.npy", pickled),
        ("features.npy", lambda path: path.write_bytes(b"")),
        ("features.npy", lambda path: np.save(path, np.zeros((56, 7)))),
        ("features.npy", lambda path: np.save(path, np.zeros((55, 7), np.float32))),
        ("meta.json", Path.unlink),
        ("meta.json", truncate),
        ("meta.json", lambda path: path.write_text("[]")),
        ("meta.json", lambda path: path.write_bytes(b"\xff\xfe")),
        ("meta.json", change_meta(format=2)),
        ("meta.json", change_meta(semantics_id="att6")),
        ("meta.json", change_meta(class_names=["a"])),
        ("meta.json", change_meta(digests={})),
        ("meta.json", change_meta(shapes=None)),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(dataset: GZSLDataset, file: str, harm: Callable[[Path], None]) -> None:
    folder = folder_of(prepare(dataset))
    harm(folder / file)
    with pytest.raises(DatasetError, match=r"is damaged .*; delete it and run again") as error:
        prepare(dataset)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_verify_finds_one_flipped_bit_of_the_features(dataset: GZSLDataset) -> None:
    folder = folder_of(prepare(dataset))
    flip(folder / "features.npy")
    with pytest.raises(DatasetError, match=r"features.npy has changed"):
        open_prepared(folder, verify=True)


def test_a_full_disk_is_one_line(dataset: GZSLDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("56 requested and 0 written")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(DatasetError, match=r"cannot prepare 'tiny' in .*56 requested and 0 written"):
        prepare(dataset)
    assert list((tmp_path / "home" / "datasets").iterdir()) == []


def test_a_file_where_the_folder_should_be(dataset: GZSLDataset, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "datasets").write_text("")
    with pytest.raises(D3TuneError, match="set D3TUNE_HOME"):
        prepare(dataset)


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no prepared dataset in"):
        open_prepared(tmp_path / "nothing")


def test_what_interrupted_preparations_left_is_swept(dataset: GZSLDataset, tmp_path: Path) -> None:
    root = tmp_path / "home" / "datasets"
    old, recent = root / ".tiny-0.dead", root / ".tiny-0.alive"
    for folder in (old, recent):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    prepare(dataset)
    assert not old.exists()
    assert recent.exists()


def prepare_in_process(folder: str, start: Any, hashes: Any) -> None:
    start.wait()
    prepared = prepare_pair(Path(folder), "tiny")
    hashes.put((prepared.content_hash, str(prepared.path), float(prepared.features.sum())))


def test_processes_that_prepare_at_once_all_succeed(tmp_path: Path, content: Content, write_pair: Write) -> None:
    content["features"] = np.random.default_rng(0).random((20000, 56))
    folder = write_pair(tmp_path / "T", content)
    context = multiprocessing.get_context("fork")
    start, hashes = context.Barrier(3), context.Queue()
    workers = [context.Process(target=prepare_in_process, args=(str(folder), start, hashes)) for _ in range(3)]
    for worker in workers:
        worker.start()
    results = {hashes.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    assert len(results) == 1
    left = sorted(path.name for path in (tmp_path / "home" / "datasets").iterdir())
    assert len(left) == 2  # the folder and the index: no temporary ones
    open_prepared(Path(next(iter(results))[1]), verify=True)

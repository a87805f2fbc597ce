"""Scaled features that processes share: the same numbers as a copy, from a file that is whole or not used."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d3tune.data.dataset import GZSLDataset, ProtocolView
from d3tune.data.prepared import open_prepared, prepare
from d3tune.data.scaling import ScaledRows, scaled_rows
from d3tune.data.shared import ABANDONED_SECONDS, FOLDER, LOCK, UNUSED_SECONDS, shared_rows
from d3tune.data.tensors import load_tensors

SCALINGS = ("minmax", "standard", "none")
SHARED_KILOBYTES = """
import sys
from pathlib import Path
from d3tune.data.prepared import open_prepared
from d3tune.data.shared import shared_rows
rows = shared_rows(open_prepared(Path(sys.argv[1])).view("validation", 0), "minmax")
print(float(rows.train.sum()), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def prepared(dataset: GZSLDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GZSLDataset:
    monkeypatch.setenv("D3TUNE_HOME", str(tmp_path / "home"))
    return prepare(dataset)


def files(of: GZSLDataset) -> list[Path]:
    assert of.path is not None
    return sorted((of.path / FOLDER).glob("[!.]*"))


def assert_same(found: ScaledRows, expected: ScaledRows) -> None:
    for name in ("train", "eval_seen", "eval_unseen"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert np.array_equal(found.scaler.shift, expected.scaler.shift)
    assert np.array_equal(found.scaler.divisor, expected.scaler.divisor)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_they_are_what_a_copy_would_be(prepared: GZSLDataset, scaling: Any) -> None:
    for view in (prepared.view("validation", 0), prepared.view("validation", 1), prepared.view("test")):
        first, again = shared_rows(view, scaling), shared_rows(view, scaling)
        for rows in (first, again):
            assert_same(rows, scaled_rows(view, scaling))
            assert all(part.ctypes.data % 64 == 0 for part in (rows.train, rows.eval_seen, rows.eval_unseen))
    assert len(files(prepared)) == 3
    tensors, plain = load_tensors(view, scaling=scaling, shared=True), load_tensors(view, scaling=scaling)
    assert all(
        getattr(tensors, name).equal(getattr(plain, name)) for name in ("train_x", "eval_seen_x", "eval_unseen_x")
    )


def test_who_changes_them_changes_no_file(prepared: GZSLDataset) -> None:
    view = prepared.view("test")
    shared_rows(view, "minmax").train[:] = 7
    assert_same(shared_rows(view, "minmax"), scaled_rows(view, "minmax"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def of_another_size(path: Path) -> None:
    np.save(path.with_suffix(""), np.zeros(10, np.float32))
    path.with_suffix(".npy").replace(path)


def pickled(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([os.getcwd], dtype=object), allow_pickle=True)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, of_another_size, pickled, emptied, flipped])
def test_a_file_that_does_not_fit_is_made_again(prepared: GZSLDataset, damage: Callable[[Path], None]) -> None:
    view = prepared.view("test")
    shared_rows(view, "minmax")
    (path,) = files(prepared)
    whole = path.read_bytes()
    damage(path)
    assert path.read_bytes() != whole
    assert_same(shared_rows(view, "minmax"), scaled_rows(view, "minmax"))
    assert path.read_bytes() == whole


def test_where_no_file_can_be_written_they_are_copies(prepared: GZSLDataset) -> None:
    assert prepared.path is not None
    # a file in the place of the folder: also root cannot write there
    (prepared.path / FOLDER).write_text("in the way")
    view = open_prepared(prepared.path).view("test")
    assert_same(shared_rows(view, "minmax"), scaled_rows(view, "minmax"))


def test_on_a_full_disk_they_are_copies_and_nothing_is_left(
    prepared: GZSLDataset, no_file_larger: Callable[[int], AbstractContextManager[None]]
) -> None:
    assert prepared.path is not None
    view = prepared.view("test")
    with no_file_larger(1000):
        assert_same(shared_rows(view, "minmax"), scaled_rows(view, "minmax"))
    assert [path.name for path in (prepared.path / FOLDER).iterdir()] == [LOCK]
    assert_same(shared_rows(view, "minmax"), scaled_rows(view, "minmax"))
    assert len(files(prepared)) == 1


def test_what_a_killed_process_left_is_swept_after_a_day(prepared: GZSLDataset, dataset: GZSLDataset) -> None:
    shared_rows(prepared.view("test"), "minmax")
    (whole,) = files(prepared)
    left = [whole.with_name(f".{whole.name}.{name}") for name in ("old", "new")]
    for path in left:
        path.write_bytes(b"half")
    os.utime(left[0], (time.time() - ABANDONED_SECONDS - 60,) * 2)
    prepare(dataset)
    assert not left[0].exists()
    assert left[1].exists()
    assert whole.exists()


def test_a_dataset_that_is_not_prepared_is_copied(dataset: GZSLDataset) -> None:
    assert_same(shared_rows(dataset.view("test"), "minmax"), scaled_rows(dataset.view("test"), "minmax"))


def test_many_at_once_end_up_with_one_file(prepared: GZSLDataset) -> None:
    views: list[ProtocolView] = [prepared.view("validation", 0)] * 8
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda view: shared_rows(view, "standard"), views))
    for rows in found:
        assert_same(rows, scaled_rows(views[0], "standard"))
    assert len(files(prepared)) == 1


def test_only_what_nobody_uses_is_swept(prepared: GZSLDataset, dataset: GZSLDataset) -> None:
    used, unused = prepared.view("validation", 0), prepared.view("validation", 1)
    shared_rows(unused, "minmax")
    (old,) = files(prepared)
    shared_rows(used, "minmax")
    for path in files(prepared):
        os.utime(path, (time.time() - UNUSED_SECONDS - 60,) * 2)
    shared_rows(used, "minmax")
    prepare(dataset)
    assert old not in files(prepared)
    assert len(files(prepared)) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_two_processes_share_the_memory(prepared: GZSLDataset) -> None:
    assert prepared.path is not None
    command = [sys.executable, "-c", SHARED_KILOBYTES, str(prepared.path)]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        sums = [process.stdout.readline() for process in both if process.stdout is not None]
        assert sums[0] == sums[1] != ""
        for process in both:
            text = Path(f"/proc/{process.pid}/smaps").read_text(encoding="utf-8")
            (mapping,) = [part for part in text.split("VmFlags") if f"/{FOLDER}/" in part]
            kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in mapping.splitlines() if " kB" in line}
            assert kilobytes["Rss"] > 0
            assert kilobytes["Private_Clean"] == kilobytes["Private_Dirty"] == 0
    finally:
        for process in both:
            process.communicate()

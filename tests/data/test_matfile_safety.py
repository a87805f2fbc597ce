"""Damaged and hostile MATLAB files: always a DatasetError, never a crash, a warning or a huge allocation."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

from d3tune.data.matfile import open_mat
from d3tune.data.xlsa17 import read_pair
from d3tune.errors import DatasetError

Content = dict[str, Any]
Write = Callable[..., Path]


def refusal(path: Path, key: str = "features") -> str:
    with pytest.raises(DatasetError) as error:
        open_mat(path).array(key)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html>" * 20, "it begins with b'<!DOCTYPE html>"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not a MATLAB v5 or v7.3 file"),
        (b"\x80\x04\x95" + bytes(200), "not a MATLAB v5 or v7.3 file"),
        (b"\x00" * 400, "not a MATLAB v5 or v7.3 file"),
        (b"MATLAB 5.0".ljust(124) + b"\x00\x01IM", "found: nothing"),
        (b"MATLAB 7.3".ljust(600), "cannot be read"),
    ],
)
def test_what_is_no_matlab_file(tmp_path: Path, start: bytes, expected: str) -> None:
    path = tmp_path / "res101.mat"
    path.write_bytes(start)
    assert expected in refusal(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "res101.mat")
    assert "directory" in refusal(tmp_path)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("part", [0.05, 0.5, 0.9, 0.999])
def test_a_truncated_v5_file(tmp_path: Path, compress: bool, part: float) -> None:
    path = tmp_path / "res101.mat"
    values = np.random.default_rng(0).random((20, 30))
    scipy.io.savemat(path, {"features": values, "labels": np.ones((30, 1))}, do_compression=compress)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    assert "truncated" in refusal(path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.95])
def test_a_truncated_v73_file(tmp_path: Path, content: Content, write_v73_pair: Write, part: float) -> None:
    path = write_v73_pair(tmp_path, content) / "res101.mat"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    assert "truncated or damaged" in refusal(path)


@pytest.mark.parametrize("compress", [False, True])
def test_any_damaged_byte_is_read_or_refused(
    tmp_path: Path, content: Content, write_pair: Write, compress: bool
) -> None:
    folder = write_pair(tmp_path / "T", content, compress)
    generator = np.random.default_rng(5)
    for file in ("res101.mat", "att_splits.mat"):
        whole = (folder / file).read_bytes()
        # Most places near the start, where headers and tags are.
        for place in np.unique((len(whole) * generator.random(60) ** 3).astype(int)):
            damaged = bytearray(whole)
            damaged[place] ^= int(generator.integers(1, 256))
            (folder / file).write_bytes(damaged)
            try:
                read_pair(folder, "tiny")
            except DatasetError as error:
                assert "\n" not in str(error)
        (folder / file).write_bytes(whole)


def test_a_v5_array_that_claims_more_than_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "res101.mat"
    scipy.io.savemat(path, {"features": np.ones((3, 5))})
    raw = path.read_bytes()
    shape = struct.pack("<ii", 3, 5)
    assert raw.count(shape) == 1
    path.write_bytes(raw.replace(shape, struct.pack("<ii", 2**30, 2**30)))
    assert "more than the file can hold" in refusal(path)


def test_a_v73_array_that_claims_more_than_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "res101.mat"
    with h5py.File(path, "w") as file:
        file.create_dataset("features", shape=(2**40, 2**20), chunks=(64, 64), dtype="f8")
    assert "more than the file can hold" in refusal(path)


def test_a_v73_file_cannot_lead_to_other_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(800))
    linked, external = tmp_path / "linked.mat", tmp_path / "external.mat"
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["features"] = np.ones((4, 4))
    with h5py.File(linked, "w") as file:
        file["features"] = h5py.ExternalLink("other.h5", "/features")
    with h5py.File(external, "w") as file:
        file.create_dataset("features", shape=(100,), dtype="f8", external=[(str(secret), 0, 800)])
    assert "is a link" in refusal(linked)
    assert "in another file" in refusal(external)


def test_v73_groups_compounds_and_empties_are_no_arrays(tmp_path: Path) -> None:
    path = tmp_path / "res101.mat"
    with h5py.File(path, "w") as file:
        file.create_group("group")
        file["complex"] = np.ones(3, dtype=np.complex128)
        file["strings"] = np.array([b"a", b"b"])
        file["empty"] = np.array([0, 0], dtype=np.uint64)
        file["empty"].attrs["MATLAB_empty"] = 1
    assert "is of type struct" in refusal(path, "group")
    assert "plain array of real numbers" in refusal(path, "complex")
    assert "plain array of real numbers" in refusal(path, "strings")
    assert open_mat(path).array("empty").shape == (0, 0)
    with pytest.raises(DatasetError, match="other than text"):
        open_mat(path).strings("group")


def test_logical_arrays_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "att_splits.mat"
    scipy.io.savemat(path, {"att": np.eye(3, dtype=bool)})
    np.testing.assert_array_equal(open_mat(path).array("att"), np.eye(3))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", ">f4"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (3, 1), (5, 2), (2, 3, 4), (0, 3)])
def test_numbers_are_read_as_scipy_reads_them(tmp_path: Path, kind: str, shape: Any, compress: bool) -> None:
    path = tmp_path / "any.mat"
    values = np.random.default_rng(1).integers(0, 100, shape).astype(kind)
    scipy.io.savemat(path, {"before": np.ones(2), "x": values, "after": "text"}, do_compression=compress)
    expected = scipy.io.loadmat(path)["x"]
    np.testing.assert_array_equal(open_mat(path).array("x"), expected, strict=kind[0] != ">")


@pytest.mark.parametrize("compress", [False, True])
def test_texts_are_read_as_scipy_writes_them(tmp_path: Path, compress: bool) -> None:
    path = tmp_path / "any.mat"
    texts = ["a", "", "grizzly+bear", "Ångström 伎"]
    cells = np.empty((4, 1), dtype=object)
    cells[:, 0] = texts
    mixed = np.empty((2, 1), dtype=object)
    mixed[:, 0] = ["a", np.ones(3)]
    content = {
        "cells": cells,
        "text": "one",
        "mixed": mixed,
        "struct": {"a": 1},
        "lines": np.array(["ab", "cd"]),
    }
    scipy.io.savemat(path, content, do_compression=compress)
    file = open_mat(path)
    assert file.strings("cells") == tuple(texts)
    assert file.strings("text") == ("one",)
    for key in ("mixed", "struct", "lines"):
        with pytest.raises(DatasetError, match="other than text"):
            file.strings(key)


def test_a_big_endian_file(tmp_path: Path) -> None:
    path = tmp_path / "any.mat"
    values = np.arange(6, dtype=">f8")

    def element(kind: int, content: bytes) -> bytes:
        return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)

    front = element(6, struct.pack(">II", 6, 0)) + element(5, struct.pack(">ii", 2, 3)) + element(1, b"x")
    matrix = element(14, front + element(9, values.tobytes()))
    path.write_bytes(b"MATLAB 5.0".ljust(124) + b"\x01\x00MI" + matrix)
    np.testing.assert_array_equal(open_mat(path).array("x"), values.reshape(2, 3, order="F"))
    np.testing.assert_array_equal(open_mat(path).array("x"), scipy.io.loadmat(path)["x"])


def test_a_deflated_flood_is_not_inflated(tmp_path: Path) -> None:
    path = tmp_path / "any.mat"
    scipy.io.savemat(path, {"features": np.zeros((1000, 1000))}, do_compression=True)
    raw = bytearray(path.read_bytes())
    inflated = bytearray(zlib.decompress(raw[136:]))
    inflated[4:8] = struct.pack("<I", 2**32 - 8)
    deflated = zlib.compress(inflated)
    path.write_bytes(raw[:128] + struct.pack("<II", 15, len(deflated)) + deflated)
    assert "takes 4.0 GiB, out of" in refusal(path)


def test_keys_that_cannot_be_printed(tmp_path: Path) -> None:
    path = tmp_path / "any.mat"
    scipy.io.savemat(path, {"a_b": np.ones(2)})
    path.write_bytes(path.read_bytes().replace(b"a_b", b"a\nb"))
    assert "has no key 'features' (found: ab)" in refusal(path)

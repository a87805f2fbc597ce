"""Fuzzed MATLAB files: whatever is in one, its arrays and texts are read or refused in one line.

The mutations know the formats: they hit tags, sizes and counts, and for compressed arrays what is inside.
"""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from d3tune.data.matfile import MatFile, open_mat
from d3tune.data.xlsa17 import read_pair
from d3tune.errors import DatasetError

Mutation = tuple[str, float, int]
EXAMPLES = 200

FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
HEADER = 128
SIZES = (0, 1, 2, 3, 4, 7, 8, 9, 14, 15, 127, 255, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 8, 2**32 - 1)


def mutate(content: bytes, mutations: list[Mutation], start: int) -> bytes:
    """Apply mutations (what, where in [0, 1), with what) behind a start that stays as it is."""
    raw = bytearray(content)
    for what, where, value in mutations:
        place = start + int(where * max(1, len(raw) - start))
        if what == "flip":
            raw[place : place + 1] = bytes(byte ^ (value % 255 + 1) for byte in raw[place : place + 1])
        elif what == "cut":
            del raw[place:]
        elif what == "drop":
            del raw[place : place + value % 64]
        elif what == "repeat":
            raw[place:place] = raw[place : place + value % 512]
        elif what == "size":
            place -= place % 4
            raw[place : place + 4] = struct.pack("<I", SIZES[value % len(SIZES)])
        elif what == "wide size":
            place -= place % 8
            raw[place : place + 8] = struct.pack("<Q", SIZES[value % len(SIZES)] << (value % 3 * 16))
        else:
            raw[place : place + 8] = struct.pack("<Q", value)
    return bytes(raw)


def mutations(near_the_start: float) -> st.SearchStrategy[list[Mutation]]:
    """One to four mutations, half of them where headers are."""
    kinds = st.sampled_from(["flip", "flip", "cut", "drop", "repeat", "size", "size", "wide size", "overwrite"])
    anywhere = st.floats(0, 1, exclude_max=True, allow_subnormal=False)
    places = st.one_of(anywhere, anywhere.map(lambda place: near_the_start * place))
    return st.lists(st.tuples(kinds, places, st.integers(0, 2**64 - 1)), min_size=1, max_size=4)


def read_everything(path: Path) -> None:
    """Read every key in every way; each ends in a good value or in one line."""
    try:
        file = open_mat(path)
    except DatasetError as error:
        assert_one_line(error)
        return
    for key in [*file.shapes, "absent"]:
        for read in (read_shape, read_array, read_strings):
            try:
                read(file, key)
            except DatasetError as error:
                assert_one_line(error)


def assert_one_line(error: DatasetError) -> None:
    assert str(error).isprintable()
    assert len(str(error)) < 2000


def read_shape(file: MatFile, key: str) -> None:
    assert all(isinstance(size, int) and size >= 0 for size in file.shape(key))


def read_array(file: MatFile, key: str) -> None:
    array = file.array(key)
    assert array.dtype.kind in "biuf"
    assert array.shape == file.shape(key)
    assert array.nbytes <= 2**26


def read_strings(file: MatFile, key: str) -> None:
    texts = file.strings(key)
    assert all(isinstance(text, str) and text.isprintable() for text in texts)


# MATLAB v5


def small_content() -> dict[str, Any]:
    names = np.empty((3, 1), dtype=object)
    names[:, 0] = ["a", "", "Ångström 伎"]
    return {
        "features": np.arange(12.0).reshape(3, 4),
        "labels": np.ones((4, 1), dtype=np.uint8),
        "names": names,
        "tag": "res101",
        "mask": np.eye(2, dtype=bool),
        "complex": np.ones(2, dtype=complex),
        "struct": {"a": 1, "b": "x"},
    }


def matlab_5(compress: bool) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, small_content(), do_compression=compress)
    return buffer.getvalue()


PLAIN, PACKED = matlab_5(compress=False), matlab_5(compress=True)


def repack(content: bytes, number: int, change: Callable[[bytes], bytes]) -> bytes:
    """A compressed file with what one of its arrays unpacks to changed."""
    position, parts = HEADER, [content[:HEADER]]
    while position < len(content):
        _, length = struct.unpack_from("<II", content, position)
        packed = content[position + 8 : position + 8 + length]
        if number == len(parts) - 1:
            packed = zlib.compress(change(zlib.decompress(packed)))
        parts.append(struct.pack("<II", 15, len(packed)) + packed)
        position += 8 + length
    return b"".join(parts)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fuzzed.mat"


@FUZZ
@given(changes=mutations(0.2))
@example(changes=[])
def test_plain_matlab_5(path: Path, changes: list[Mutation]) -> None:
    path.write_bytes(mutate(PLAIN, changes, HEADER))
    read_everything(path)


@FUZZ
@given(changes=mutations(0.2))
def test_compressed_matlab_5(path: Path, changes: list[Mutation]) -> None:
    path.write_bytes(mutate(PACKED, changes, HEADER))
    read_everything(path)


@FUZZ
@given(number=st.integers(0, len(small_content()) - 1), changes=mutations(0.5))
def test_inside_compressed_matlab_5(path: Path, number: int, changes: list[Mutation]) -> None:
    path.write_bytes(repack(PACKED, number, lambda inside: mutate(inside, changes, 0)))
    read_everything(path)


@FUZZ
@given(order=st.sampled_from([b"IM", b"MI"]), content=st.binary(max_size=400))
def test_random_bytes_behind_a_header(path: Path, order: bytes, content: bytes) -> None:
    path.write_bytes(b"MATLAB 5.0".ljust(124) + b"\x00\x01" + order + content)
    read_everything(path)


@FUZZ
@given(content=st.binary(max_size=600), start=st.sampled_from([b"", b"MATLAB 7.3", b"\x89HDF\r\n\x1a\n"]))
def test_random_bytes(path: Path, content: bytes, start: bytes) -> None:
    path.write_bytes(start + content)
    read_everything(path)


# MATLAB v7.3


def add_char(file: Any, name: str, text: str) -> Any:
    file[name] = np.frombuffer(text.encode("utf-16-le"), dtype=np.uint16).reshape(-1, 1)
    file[name].attrs["MATLAB_class"] = np.bytes_("char")
    return file[name].ref


def matlab_73(**options: Any) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=512, **options) as file:
        values = small_content()["features"]
        file.create_dataset("features", data=values, chunks=(2, 3), compression="gzip", shuffle=True)
        file["labels"] = np.ones((1, 4))
        add_char(file, "tag", "res101")
        references = [add_char(file, f"#refs#/{number}", text) for number, text in enumerate(["ab", "伎"])]
        file.create_dataset("names", data=np.array([references], dtype=h5py.ref_dtype))
        file["names"].attrs["MATLAB_class"] = np.bytes_("cell")
        file["empty"] = np.array([0, 0], dtype=np.uint64)
        file["empty"].attrs["MATLAB_empty"] = 1
        file.create_group("struct")
    return b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + buffer.getvalue()[HEADER:]


# the newest layout has checksums, so that most mutations end early; the oldest has none
EARLIEST, LATEST = matlab_73(libver="earliest"), matlab_73(libver="latest")


@FUZZ
@given(content=st.sampled_from([EARLIEST, EARLIEST, EARLIEST, LATEST]), changes=mutations(0.3))
@example(content=EARLIEST, changes=[])
@example(content=LATEST, changes=[])
def test_matlab_73(path: Path, content: bytes, changes: list[Mutation]) -> None:
    path.write_bytes(mutate(content, changes, 512))
    read_everything(path)


def test_what_is_not_fuzzed_is_read(path: Path) -> None:
    """The control: the files that the mutations start from are sound, so that what they break is theirs."""
    for content in (PLAIN, PACKED, EARLIEST, LATEST, repack(PACKED, 0, lambda inside: inside)):
        path.write_bytes(content)
        file = open_mat(path)
        np.testing.assert_array_equal(file.array("features").ravel().sum(), 66)
        assert file.strings("tag") == ("res101",)
        assert len(file.strings("names")) in (2, 3)


# a pair as a whole


@settings(FUZZ, max_examples=120)
@given(
    file=st.sampled_from(["res101.mat", "att_splits.mat"]),
    key=st.integers(0, 4),
    inside=st.booleans(),
    changes=mutations(0.2),
)
def test_a_pair(
    tmp_path: Path, write_pair: Callable[..., Path], file: str, key: int, inside: bool, changes: list[Mutation]
) -> None:
    folder = write_pair(tmp_path / "BIRDS")
    loaded = scipy.io.loadmat(folder / file)
    content = {name: value for name, value in loaded.items() if not name.startswith("__")}
    scipy.io.savemat(folder / file, content, do_compression=inside)
    raw = (folder / file).read_bytes()
    if inside:
        raw = repack(raw, key % len(content), lambda plain: mutate(plain, changes, 0))
    else:
        raw = mutate(raw, changes, HEADER)
    (folder / file).write_bytes(raw)
    try:
        dataset = read_pair(folder, "birds")
    except DatasetError as error:
        assert_one_line(error)
    else:
        assert dataset.features.shape[0] == len(dataset.labels)
        assert np.isfinite(dataset.features).all()
        assert dataset.labels.max() < len(dataset.semantics)

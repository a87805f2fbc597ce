"""Files that claim, or unpack to, far more than they are: refused before the memory is taken.

Each reader runs in a process of its own, whose memory is limited and measured.
"""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from safetensors.torch import save_file

from d3tune.data.dataset import array_digest, content_hash
from d3tune.data.importing import import_dataset
from d3tune.data.matfile import open_mat
from d3tune.data.prepared import open_prepared, prepare_pair

Content = dict[str, Any]
Refused = Callable[[Callable[[], object]], str]
InLittleMemory = Callable[..., list[str]]

MANY = 300_000_000  # bytes that a bomb unpacks to: more than a reader may take, less than harms a careless one
BLOCK = 1 << 20
CLAIMED = 2**31  # values, 8 GiB and more


def zeros(front: bytes = b"", size: int = MANY) -> bytes:
    """A deflated stream of zeros after some bytes."""
    deflate = zlib.compressobj(1)
    parts = [deflate.compress(front)]
    parts += [deflate.compress(bytes(BLOCK)) for _ in range(size // BLOCK)]
    return b"".join([*parts, deflate.compress(bytes(size % BLOCK)), deflate.flush()])


def npy_header(descr: str, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def archive(path: Path, members: dict[str, bytes], zeros_behind: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, content in members.items():
            with file.open(name, "w", force_zip64=True) as member:
                member.write(content)
                for _ in range(zeros_behind // BLOCK):
                    member.write(bytes(BLOCK))
    return path


def test_archives(tmp_path: Path, in_little_memory: InLittleMemory) -> None:
    rows = MANY // BLOCK
    bombs = {
        "claims 8 GiB": archive(tmp_path / "claims.npz", {"features.npy": npy_header("<f4", (CLAIMED, 1))}),
        "unpacks": archive(tmp_path / "bomb.npz", {"features.npy": npy_header("|i1", (rows, BLOCK))}, MANY),
        "is no array": archive(tmp_path / "raw.npz", {"features": b""}, MANY),
        "in pieces": archive(
            tmp_path / "pieces.npz",
            {key: npy_header("|i1", (50, BLOCK)) for key in ("features.npy", "labels.npy", "semantics.npy")},
            50 * BLOCK,
        ),
    }
    sound = archive(tmp_path / "sound.npz", {"features.npy": npy_header("<f4", (1, 1)) + bytes(4)})
    said = in_little_memory(
        "from d3tune.data.tables import read_tables", "read_tables(path, {})", sound, list(bombs.values())
    )
    assert "does not fit" in said[0]
    assert all("if that is right, write it without compression" in line for line in said[1:]), said


def test_an_archive_that_packs_well_is_no_bomb(tmp_path: Path, arrays: Content) -> None:
    """Zeros are legal as long as there are few of them; so are many values that are stored plainly."""
    sparse = np.zeros((48, 2000))
    sparse[:, 0] = 1
    np.savez_compressed(tmp_path / "own.npz", **{**arrays, "features": sparse})
    assert (tmp_path / "own.npz").stat().st_size * 100 < sparse.nbytes
    assert import_dataset("birds", tmp_path / "data", source=tmp_path / "own.npz", feature_tag="clip").folder.is_dir()


def test_arrays(tmp_path: Path, in_little_memory: InLittleMemory) -> None:
    headers = {
        "8 GiB": npy_header("<f4", (CLAIMED, 1)),
        "more than any address": npy_header("<f8", (2**40, 2**20)),
        "texts of no length": npy_header("<U0", (2**40,)),
        "bytes of no length": npy_header("|S0", (2**40,)),
        "texts of any length": npy_header("<U500000000", (4,)),
        "overflow": npy_header("<f8", (2**32, 2**32)),
        "negative": npy_header("<f8", (-1, -(2**40))),
        "nested": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000,
        "a long header": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b" " * 100,
    }
    files = [tmp_path / f"{name}.npy" for name in headers]
    for file, content in zip(files, headers.values(), strict=True):
        file.write_bytes(content)
    sound = tmp_path / "sound.npy"
    np.save(sound, np.array(["a", "b"]))
    said = in_little_memory(
        "from d3tune.data.tables import read_tables",
        "read_tables(None, {'labels': path}).texts('labels')",
        sound,
        files,
    )
    assert not [line for line in said if line.startswith("read")], said
    # the room for a header is numpy's to ask for, and is not used
    assert not [line for line in said[:-1] if "does not fit" in line], said


def test_one_long_text_among_many(tmp_path: Path, in_little_memory: InLittleMemory) -> None:
    """In an array every text takes the room of the longest: 50,000 lines and a long one would be 26 GB."""
    many = "b\n" * 50_000
    texts = {
        "names": "a" * 130_000 + "\n" + many,
        "a long cell": "a" * 140_000 + "\n" + many,
        "quoted": '"' + "a\n" * 60_000 + '"\n' + many,
        "never closed": '"' + "a\n" * 400_000,
        "columns": "1," * 500_000 + "\n",
    }
    files = [tmp_path / f"{name}.csv" for name in texts]
    for file, text in zip(files, texts.values(), strict=True):
        file.write_text(text, encoding="utf-8")
    sound = tmp_path / "sound.csv"
    sound.write_text("a\nb\n", encoding="utf-8")
    for what in ("labels", "class_names", "splits"):
        said = in_little_memory(
            "from d3tune.data.tables import read_tables", f"read_tables(None, {{{what!r}: path}})", sound, files
        )
        assert not [line for line in said if line.startswith("read")], said
        assert not [line for line in said if "does not fit" in line], said
        assert "holds a text of 130000 characters where a name should be" in said[0]


# MATLAB v5


def matlab_element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def matlab_front(kind: int, shape: tuple[int, ...], name: bytes) -> bytes:
    sizes = struct.pack(f"<{len(shape)}i", *shape)
    return matlab_element(6, struct.pack("<II", kind, 0)) + matlab_element(5, sizes) + matlab_element(1, name)


def matlab_file(path: Path, *elements: bytes) -> Path:
    path.write_bytes(b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + b"".join(elements))
    return path


def deflated(front: bytes, size: int) -> bytes:
    """A compressed array whose values, or whose text, are zeros."""
    inside = struct.pack("<II", 14, len(front) + 8 + size) + front + struct.pack("<II", 2, size)
    content = zeros(inside, size)
    return struct.pack("<II", 15, len(content)) + content


def test_matlab_5_arrays(tmp_path: Path, in_little_memory: InLittleMemory) -> None:
    rows = MANY // BLOCK
    plain = matlab_front(6, (2**15, 2**15), b"x") + matlab_element(9, bytes(80))
    bombs = [
        matlab_file(tmp_path / "bomb.mat", deflated(matlab_front(6, (BLOCK, rows), b"x"), rows * BLOCK)),
        matlab_file(tmp_path / "text.mat", deflated(matlab_front(4, (1, rows * BLOCK), b"x"), rows * BLOCK)),
        matlab_file(tmp_path / "claims.mat", matlab_element(14, plain)),
        matlab_file(
            tmp_path / "axes.mat",
            matlab_element(14, matlab_front(6, (2**31 - 1,) * 500, b"x") + matlab_element(9, b"")),
        ),
    ]
    sound = tmp_path / "sound.mat"
    scipy.io.savemat(sound, {"x": np.ones((3, 3))})
    imports = "from d3tune.data.matfile import open_mat"
    arrays = in_little_memory(imports, "open_mat(path).array('x')", sound, bombs)
    assert "if that is right, write it without compression" in arrays[0]
    assert "is of type char" in arrays[1]
    assert "more than the file can hold" in arrays[2]
    assert "truncated or damaged" in arrays[3]
    scipy.io.savemat(sound, {"x": "text"})
    texts = in_little_memory(imports, "open_mat(path).strings('x')", sound, bombs)
    assert "if that is right, write it without compression" in texts[0]
    assert "if that is right, write it without compression" in texts[1]
    assert "something other than text" in texts[2]
    assert not [line for line in arrays + texts if line.startswith("read") or "does not fit" in line]


def test_a_matlab_file_that_packs_well_is_no_bomb(tmp_path: Path, write_pair: Callable[..., Path]) -> None:
    sparse = np.zeros((2000, 48))
    sparse[0] = 1
    folder = write_pair(tmp_path / "data" / "BIRDS", {"features": sparse})
    content = scipy.io.loadmat(folder / "res101.mat")
    content = {key: value for key, value in content.items() if not key.startswith("__")}
    scipy.io.savemat(folder / "res101.mat", content, do_compression=True)
    assert (folder / "res101.mat").stat().st_size * 100 < sparse.nbytes
    assert prepare_pair(folder, "birds").n_features == 2000


# MATLAB v7.3


def char(file: Any, name: str, **options: Any) -> Any:
    node = file.create_dataset(name, dtype=np.uint16, **options)
    node.attrs["MATLAB_class"] = np.bytes_("char")
    return node


def cell(file: Any, name: str, references: Any) -> None:
    file.create_dataset(name, data=references, dtype=h5py.ref_dtype)
    file[name].attrs["MATLAB_class"] = np.bytes_("cell")


def hdf5_bombs(folder: Path) -> list[Path]:
    side = int((MANY / 4) ** 0.5)
    with h5py.File(folder / "zeros.mat", "w") as file:
        # never written, so that the file says nothing but the shape
        file.create_dataset("x", shape=(side, side), dtype="f4", chunks=(64, 64))
        file["filler"] = np.zeros(100_000)
    with h5py.File(folder / "chunk.mat", "w") as file:
        node = file.create_dataset(
            "x", shape=(9, 9), maxshape=(None, None), dtype="f4", chunks=(side, side), compression="gzip"
        )
        node.id.write_direct_chunk((0, 0), zeros(size=4 * side * side))
    with h5py.File(folder / "text.mat", "w") as file:
        char(file, "x", shape=(MANY // 2, 1), chunks=(BLOCK, 1))
    with h5py.File(folder / "again.mat", "w") as file:
        target = char(file, "#refs#/a", shape=(BLOCK, 1), chunks=(BLOCK // 4, 1))
        cell(file, "x", np.array([[target.ref] * 1000], dtype=h5py.ref_dtype))
    with h5py.File(folder / "references.mat", "w") as file:
        file.create_dataset("x", shape=(2**24, 1), dtype=h5py.ref_dtype, chunks=(2**12, 1))
        file["x"].attrs["MATLAB_class"] = np.bytes_("cell")
    with h5py.File(folder / "lengths.mat", "w") as file:
        node = file.create_dataset("x", shape=(2**23, 1), dtype=h5py.vlen_dtype(np.uint16), chunks=(2**12, 1))
        node.attrs["MATLAB_class"] = np.bytes_("char")
    return [folder / f"{name}.mat" for name in ("zeros", "chunk", "text", "again", "references", "lengths")]


def test_matlab_73_arrays(tmp_path: Path, in_little_memory: InLittleMemory) -> None:
    bombs = hdf5_bombs(tmp_path)
    sound = tmp_path / "sound.mat"
    with h5py.File(sound, "w") as file:
        file["x"] = np.ones((3, 3))
        target = char(file, "#refs#/a", data=np.frombuffer(b"a\x00", dtype=np.uint16).reshape(1, 1))
        cell(file, "names", np.array([[target.ref]], dtype=h5py.ref_dtype))
    imports = "from d3tune.data.matfile import open_mat"
    both = "(open_mat(path).array('x'), 'names' in open_mat(path) and open_mat(path).strings('names'))"
    said = in_little_memory(imports, both, sound, bombs)
    assert "if that is right, write it without compression" in said[0]
    assert "if that is right, write it without compression" in said[1]
    assert not [line for line in said if line.startswith("read") or "does not fit" in line], said
    said = in_little_memory(
        imports, "open_mat(path).strings('names' if 'names' in open_mat(path) else 'x')", sound, bombs
    )
    assert all("if that is right, write it without compression" in line for line in said), said


def test_cells_that_lead_to_another_file(tmp_path: Path, refused: Refused) -> None:
    """A text that lies elsewhere would show what the user may read, not what the user gave."""
    secret, path = tmp_path / "secret", tmp_path / "att_splits.mat"
    secret.write_bytes("password".encode("utf-16-le"))
    with h5py.File(path, "w") as file:
        target = char(file, "#refs#/a", shape=(8,), external=[(str(secret), 0, 16)])
        cell(file, "names", np.array([[target.ref]], dtype=h5py.ref_dtype))
        layout = h5py.VirtualLayout(shape=(8,), dtype=np.uint16)
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", shape=(8,))
        virtual = file.create_virtual_dataset("#refs#/b", layout)
        cell(file, "virtual", np.array([[virtual.ref]], dtype=h5py.ref_dtype))
    for key in ("names", "virtual"):
        message = refused(lambda key=key: open_mat(path).strings(key))  # type: ignore[misc]
        assert "in another file" in message
        assert "password" not in message


@pytest.mark.parametrize("kind", [h5py.vlen_dtype(np.uint16), np.float64, h5py.string_dtype(), np.int8])
def test_texts_of_anything_but_characters(tmp_path: Path, refused: Refused, kind: Any) -> None:
    """Of elements of any length, each may be as long as the file, again and again."""
    path = tmp_path / "att_splits.mat"
    with h5py.File(path, "w") as file:
        node = file.create_dataset("x", shape=(3, 1), dtype=kind)
        node.attrs["MATLAB_class"] = np.bytes_("char")
    assert "other than text" in refused(lambda: open_mat(path).strings("x"))


# YAML


def test_yaml(tmp_path: Path, in_little_memory: InLittleMemory) -> None:
    """Each of these would take minutes or gigabytes: the parser looks far ahead, and keeps where each word stands."""
    laughs = "\n".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    texts = {
        "open brackets": "[" * 4_900_000,
        "open braces": "{a: " * 1_200_000,
        "brackets": "a: " + "[" * 40_000 + "]" * 40_000,
        "indented": "\n".join(" " * depth + "a:" for depth in range(2500)),
        "dashes": "- " * 100_000,
        "questions": "? " * 100_000,
        "words": "a: [" + "1," * 2_400_000 + "]",
        "anchored words": "\n".join(f"k{number}: &a{number} 1" for number in range(200_000)),
        "aliases": f"a: &a [x, x, x, x, x, x, x, x, x]\n{laughs}",
        "digits": "a: " + "9" * 1_000_000,
        "too large": "a: " + "x" * 5_100_000,
        "a long key": "x" * 1_000_000 + ": 1",
    }
    files = [tmp_path / f"{name}.yaml" for name in texts]
    for file, text in zip(files, texts.values(), strict=True):
        file.write_text(text, encoding="utf-8")
    sound = tmp_path / "sound.yaml"
    sound.write_text("a: [1, {b: c}]", encoding="utf-8")
    said = in_little_memory("from d3tune.yamlfile import read_yaml", "read_yaml(path)", sound, files)
    assert not [line for line in said if line.startswith("read")], said
    assert all(len(line) < 500 for line in said)


# checkpoints


def claiming(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header


def test_checkpoints(tmp_path: Path, in_little_memory: InLittleMemory, seal: Callable[..., None]) -> None:
    def tensor(shape: list[int], end: int, kind: str = "F32") -> bytes:
        return json.dumps({"a": {"dtype": kind, "shape": shape, "data_offsets": [0, end]}}).encode()

    contents = {
        "claims 8 GiB": claiming(tensor([CLAIMED], 4 * CLAIMED)),
        "claims a shape": claiming(tensor([CLAIMED], 16)) + bytes(16),
        "overflows": claiming(tensor([2**32, 2**32], 0)),
        "long header": claiming(b"{}", 2**60),
        "header beyond the end": claiming(b"{}", 90_000_000),
        "nested header": claiming(b'{"a": ' + b"[" * 50_000),
        "negative": claiming(b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}'),
        "overlapping": claiming(
            json.dumps(
                {name: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for name in ("a", "b", "c")}
            ).encode()
        )
        + bytes(16),
        "strange type": claiming(tensor([4], 16, "OBJECT")) + bytes(16),
        "empty": b"",
    }
    folders = [tmp_path / name for name in contents]
    for folder, content in zip(folders, contents.values(), strict=True):
        folder.mkdir()
        for name in ("checkpoint-00000010", "weights"):
            (folder / f"{name}.safetensors").write_bytes(content)
            seal(folder / f"{name}.json")
    sound = tmp_path / "sound"
    sound.mkdir()
    for name in ("checkpoint-00000010", "weights"):
        save_file({"a": torch.ones(3)}, sound / f"{name}.safetensors")
        seal(sound / f"{name}.json")
    said = in_little_memory(
        "from d3tune.search.checkpoint import load_checkpoint, load_weights",
        "(load_checkpoint(path), load_weights(path))",
        sound,
        folders,
    )
    assert said == ["read ((None, ['checkpoint-00000010.safetensors is damaged']), None)"] * len(contents)


# prepared datasets


def test_prepared_arrays_that_claim_much(
    tmp_path: Path, in_little_memory: InLittleMemory, write_pair: Callable[..., Path]
) -> None:
    sound = prepare_pair(write_pair(tmp_path / "data" / "BIRDS"), "birds").path
    assert sound is not None
    meta = json.loads((sound / "meta.json").read_text(encoding="utf-8"))
    contents = {
        "features.npy": npy_header("<f4", (CLAIMED, 1)),
        "labels.npy": npy_header("<i8", (2**50,)),
        "meta.json": b"[" * 2_000_000,
        "deep meta.json": b'{"a": ' * 400_000,
        "claiming meta.json": json.dumps({**meta, "shapes": {**meta["shapes"], "features": [2**40, 2**40]}}).encode(),
    }
    folders = [tmp_path / name.replace(".", " ") for name in contents]
    for folder, (name, content) in zip(folders, contents.items(), strict=True):
        folder.mkdir()
        for file in sound.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / name.rpartition(" ")[2]).write_bytes(content)
    said = in_little_memory("from d3tune.data.prepared import open_prepared", "open_prepared(path)", sound, folders)
    assert all("is damaged" in line for line in said), said


def forge(folder: Path, **arrays: Any) -> None:
    """Replace arrays of a prepared dataset, digests and all."""
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
        meta["shapes"][name] = list(array.shape)
        meta["digests"][name] = array_digest(array)
    meta["content_hash"] = content_hash(meta["digests"], meta["class_names"], meta["semantics_id"], meta["feature_tag"])
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


@pytest.mark.parametrize(
    "arrays",
    [
        {"labels": np.full(48, 2**40)},
        {"labels": np.full(48, -1)},
        {"labels": np.zeros(47, dtype=np.int64)},
        {"labels": np.zeros((48, 1), dtype=np.int64)},
        {"trainval": np.array([0, 2**40])},
        {"test_seen": np.array([-1, 3])},
        {"test_unseen": np.zeros(0, dtype=np.int64)},
        {"semantics": np.zeros((7, 5), dtype=np.float32)},
        {"semantics": np.zeros(8, dtype=np.float32)},
        {"features": np.zeros(48, dtype=np.float32)},
        {"features": np.zeros((48, 7, 1), dtype=np.float32)},
    ],
)
def test_prepared_arrays_that_point_nowhere(
    tmp_path: Path, write_pair: Callable[..., Path], refused: Refused, arrays: Content
) -> None:
    """Whoever writes a prepared folder can compute its digests too."""
    folder = prepare_pair(write_pair(tmp_path / "data" / "BIRDS"), "birds").path
    assert folder is not None
    forge(folder)
    assert open_prepared(folder).n_classes == 8
    forge(folder, **arrays)
    assert "do not fit together" in refused(lambda: open_prepared(folder))


def test_commands_that_are_given_a_bomb(
    tmp_path: Path, arrays: Content, write_pair: Callable[..., Path], run_program: Callable[..., str]
) -> None:
    folder = write_pair(tmp_path / "data" / "BIRDS")
    rows = MANY // BLOCK
    matlab_file(folder / "res101.mat", deflated(matlab_front(6, (BLOCK, rows), b"features"), rows * BLOCK))
    assert "res101.mat" in run_program("data", "check", "birds", "--data-dir", tmp_path / "data")
    bomb = archive(tmp_path / "bomb.npz", {"features.npy": npy_header("|i1", (rows, BLOCK))}, MANY)
    message = run_program("data", "import", "x", "--into", tmp_path / "new", "--feature-tag", "c", "--source", bomb)
    assert "without compression" in message
    assert not (tmp_path / "new").exists()

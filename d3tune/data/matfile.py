"""Reading arrays and strings out of MATLAB files that nobody vouches for.

MATLAB v5 files are read by ``mat5``, v7.3 files (HDF5) by h5py. Only real numeric arrays, text and cells of
text are ever read; whatever a parser does with a damaged file comes out as one DatasetError line.
"""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from d3tune.data import mat5
from d3tune.data.checks import flood
from d3tune.errors import DatasetError

T = TypeVar("T")
Array = npt.NDArray[Any]

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HDF5_OFFSETS = (0, 512, 1024, 2048)
_V5_BYTES = {"double": 8, "single": 4} | {
    f"{sign}int{bits}": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)
}
# deflate packs at most 1032 : 1, and MATLAB stores small whole numbers of 8-byte types in one byte.
_LARGEST_EXPANSION = 1032 * 8
_REFERENCE_BYTES = 128
_ELSEWHERE = "keeps its values in another file; write it again with all of them"


class MatFile(ABC):
    """One MATLAB file: the names in it and, one at a time, their contents.

    Attributes:
        path: the file.
        shapes: the shape, as MATLAB has it, of everything in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shapes: dict[str, tuple[int, ...]] = self._guarded(self._read_shapes)

    def __contains__(self, key: str) -> bool:
        return key in self.shapes

    def fail(self, key: str, problem: str) -> DatasetError:
        """An error about one key of this file."""
        return DatasetError(f"{self.path}: '{_printable(key)[:40]}' {problem}")

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a numeric array in MATLAB's orientation; its values are not read.

        Raises:
            DatasetError: it is missing, not a plain real numeric array, or larger than the file can hold.
        """
        self._require(key)
        kind, item_bytes = self._guarded(lambda: self._kind(key))
        if item_bytes == 0:
            raise self.fail(key, f"is of type {kind}; it must be a plain array of real numbers")
        shape = self.shapes[key]
        if math.prod(shape) * item_bytes > self.path.stat().st_size * _LARGEST_EXPANSION:
            raise self.fail(key, f"claims the shape {shape}, more than the file can hold; download it again")
        return shape

    def array(self, key: str) -> Array:
        """A real numeric array in MATLAB's orientation, of whatever type it is stored in.

        Raises:
            DatasetError: it is missing, not a plain real numeric array, or cannot be read.
        """
        self.shape(key)
        self._refuse_flood(key)
        value = self._guarded(lambda: self._read_array(key))
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
            raise self.fail(key, f"holds {_type_name(value)} values; it must be an array of real numbers")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        """The strings of a text or of a cell of texts, unprintable characters dropped.

        Raises:
            DatasetError: it is missing, holds anything but text, or cannot be read.
        """
        self._require(key)
        self._refuse_flood(key)
        values = self._guarded(lambda: self._read_strings(key))
        if values is None:
            raise self.fail(key, "holds something other than text")
        return tuple(_printable(value) for value in values)

    def _require(self, key: str) -> None:
        if key not in self.shapes:
            found = ", ".join(_printable(name)[:40] for name in sorted(self.shapes)[:20]) or "nothing"
            raise DatasetError(f"{self.path}: has no key '{key}' (found: {found}); is it the right file?")

    def _refuse_flood(self, key: str) -> None:
        claimed, stored = self._guarded(lambda: self._bytes(key))
        fault = flood(claimed, stored)
        if fault:
            raise self.fail(key, fault)

    def _guarded(self, read: Callable[[], T]) -> T:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return read()
        except DatasetError:
            raise
        except MemoryError:
            raise DatasetError(f"{self.path}: does not fit into memory; is it damaged?") from None
        except Exception as error:  # parsers raise anything on a damaged file
            reason = _printable(f"{type(error).__name__}: {error}")[:120]
            raise DatasetError(
                f"{self.path}: cannot be read, truncated or damaged ({reason}); download it again"
            ) from None

    @abstractmethod
    def _read_shapes(self) -> dict[str, tuple[int, ...]]: ...

    @abstractmethod
    def _kind(self, key: str) -> tuple[str, int]:
        """The type's name and bytes per number, 0 for anything that is not plain numbers."""

    @abstractmethod
    def _bytes(self, key: str) -> tuple[int, int]:
        """How many bytes reading a key takes in memory, and how many it has in the file."""

    @abstractmethod
    def _read_array(self, key: str) -> Any: ...

    @abstractmethod
    def _read_strings(self, key: str) -> list[str] | None: ...


def open_mat(path: Path) -> MatFile:
    """Open a MATLAB v5 or v7.3 file and read the names and shapes in it.

    Raises:
        DatasetError: it is missing, unreadable, truncated of another format, or needs h5py, which is missing.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HDF5_OFFSETS[-1] + len(_HDF5_SIGNATURE))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be opened: {error.strerror}") from None
    if head.startswith(b"MATLAB 7.3") or any(head[at : at + 8] == _HDF5_SIGNATURE for at in _HDF5_OFFSETS):
        return _Version73(path)
    if head[126:128] in (b"IM", b"MI"):
        return _Version5(path)
    begins = "it is empty" if not head else f"it begins with {head[:16]!r}"
    raise DatasetError(f"{path}: is not a MATLAB v5 or v7.3 file ({begins}); download it again")


class _Version5(MatFile):
    def _read_shapes(self) -> dict[str, tuple[int, ...]]:
        self._entries = {entry.name: entry for entry in mat5.list_entries(self.path)}
        return {name: entry.shape for name, entry in self._entries.items()}

    def _kind(self, key: str) -> tuple[str, int]:
        kind = self._entries[key].kind
        return kind, _V5_BYTES.get(kind, 0)

    def _bytes(self, key: str) -> tuple[int, int]:
        entry = self._entries[key]
        return entry.inflated, entry.length

    def _read_array(self, key: str) -> Any:
        return mat5.read_numbers(self.path, self._entries[key])

    def _read_strings(self, key: str) -> list[str] | None:
        return mat5.read_texts(self.path, self._entries[key])


class _Version73(MatFile):
    def _read_shapes(self) -> dict[str, tuple[int, ...]]:
        with self._open() as file:
            return {key: self._shape_of(file, key) for key in file if not key.startswith("#")}

    def _kind(self, key: str) -> tuple[str, int]:
        h5py = _h5py()
        with self._open() as file:
            node = file[key]
            if not isinstance(node, h5py.Dataset):
                return "struct", 0
            matlab = _matlab_class(node)
            if node.dtype.kind not in "biuf" or matlab in ("char", "cell", "struct"):
                return matlab or _type_name(node), 0
            return matlab, node.dtype.itemsize

    def _bytes(self, key: str) -> tuple[int, int]:
        h5py = _h5py()
        with self._open() as file:
            node = file[key]
            return (_node_bytes(node), node.id.get_storage_size()) if isinstance(node, h5py.Dataset) else (0, 0)

    def _read_array(self, key: str) -> Any:
        if 0 in self.shapes[key]:
            return np.zeros(self.shapes[key])
        with self._open() as file:
            # HDF5 lists the axes the other way round.
            return file[key][()].T

    def _read_strings(self, key: str) -> list[str] | None:
        h5py = _h5py()
        with self._open() as file:
            node = file[key]
            if not isinstance(node, h5py.Dataset):
                return None
            if _matlab_class(node) == "char":
                return [_characters(node)] if node.dtype.kind == "u" else None
            if node.dtype != h5py.ref_dtype:
                return None
            targets = [file[reference] for reference in node[()].ravel()]
            if not all(isinstance(target, h5py.Dataset) and target.dtype.kind == "u" for target in targets):
                return None
            if any(map(_elsewhere, targets)):
                raise self.fail(key, _ELSEWHERE)
            # one target may be meant many times
            fault = flood(sum(map(_node_bytes, targets)), self.path.stat().st_size)
            if fault:
                raise self.fail(key, fault)
            return [_characters(target) for target in targets]

    def _open(self) -> Any:
        return _h5py().File(self.path, "r", locking=False)

    def _shape_of(self, file: Any, key: str) -> tuple[int, ...]:
        h5py = _h5py()
        if not isinstance(file.get(key, getlink=True), h5py.HardLink):
            raise self.fail(key, "is a link out of its place; write the file again without links")
        node = file[key]
        if not isinstance(node, h5py.Dataset):
            return ()
        if _elsewhere(node):
            raise self.fail(key, _ELSEWHERE)
        if node.attrs.get("MATLAB_empty", 0):
            return (0, 0)
        return tuple(reversed(node.shape))


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise DatasetError("a MATLAB v7.3 file needs h5py to be read; run: pip install 'd3tune[mat73]'") from None
    return h5py


def _elsewhere(node: Any) -> bool:
    return bool(node.external) or node.is_virtual


def _node_bytes(node: Any) -> int:
    """Bytes in memory of a dataset's values, or of one of its chunks where that is larger than all of them."""
    values = max(math.prod(node.shape or ()), math.prod(node.chunks or (0,)))
    return int(values) * (_REFERENCE_BYTES if node.dtype.kind == "O" else node.dtype.itemsize)


def _matlab_class(node: Any) -> str:
    name = node.attrs.get("MATLAB_class", b"")
    return name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)


def _characters(node: Any) -> str:
    if node.attrs.get("MATLAB_empty", 0):
        return ""
    codes = np.asarray(node[()]).ravel().astype("<u2")
    return codes.tobytes().decode("utf-16-le", "replace")


def _printable(text: str) -> str:
    return "".join(filter(str.isprintable, text)).strip()


def _type_name(value: Any) -> str:
    return str(getattr(value, "dtype", type(value).__name__))

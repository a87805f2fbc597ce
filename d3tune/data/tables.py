"""Arrays of a dataset out of ``.npz``, ``.npy``, ``.csv`` and ``.txt`` files. Pickles are never read."""

import csv
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from d3tune.data.checks import flood
from d3tune.errors import DatasetError, nearest

T = TypeVar("T")
Array = npt.NDArray[Any]

PARTS = ("trainval", "test_seen", "test_unseen")
UNUSED = "unused"
SPLIT_KEYS = (*PARTS, "train", "val", "unseen_classes", "parts")
KEYS = ("features", "labels", "semantics", "class_names", *SPLIT_KEYS)

_NPY = b"\x93NUMPY"
_ZIP = b"PK"
_HEADERS = {
    "labels": ("label", "labels", "class"),
    "class_names": ("class", "name", "class_name", "class_names"),
    "splits": ("split", "part", "parts", "unseen", "unseen_classes", "class"),
}


class Tables:
    """Arrays by key, each with the file that it came from."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}
        self._places: dict[str, Path] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    def add(self, arrays: dict[str, Array], path: Path) -> None:
        """Take over what one file holds.

        Raises:
            DatasetError: something in it was given by another file already.
        """
        for key, array in arrays.items():
            if key in self._arrays:
                raise DatasetError(f"'{key}' is in {self._places[key]} and in {path}; give it once")
            self._arrays[key], self._places[key] = array, path

    def get(self, key: str) -> Array:
        """The array of a key.

        Raises:
            DatasetError: no file gave it.
        """
        if key not in self._arrays:
            places = ", ".join(sorted({str(path) for path in self._places.values()})) or "no file"
            raise DatasetError(f"there are no '{key}' (read: {places}); add them to the .npz or give their file")
        return self._arrays[key]

    def numbers(self, key: str) -> Array:
        """The array of a key, of real numbers.

        Raises:
            DatasetError: no file gave it, or it holds something else.
        """
        array = self.get(key)
        if array.dtype.kind not in "biuf":
            raise self.fail(key, f"holds {array.dtype} values; it must be an array of real numbers")
        return array

    def texts(self, key: str) -> list[str]:
        """The array of a key, of texts, as a flat list.

        Raises:
            DatasetError: no file gave it, or it holds something else, or not one column.
        """
        array = self.get(key)
        if array.dtype.kind != "U":
            raise self.fail(key, f"holds {array.dtype} values; it must hold texts")
        if array.size != max(array.shape, default=1):
            raise self.fail(key, f"has the shape {array.shape}; it must be a single column")
        return [text.strip() for text in array.reshape(-1).tolist()]

    def fail(self, key: str, problem: str) -> DatasetError:
        """An error about one key, naming its file."""
        # Splits that were worked out from others are those of the file that the others came from.
        files = (self._places[name] for name in (key, *SPLIT_KEYS) if name in self._places)
        return DatasetError(f"{next(files, 'the dataset')}: '{key}' {problem}")


def read_tables(source: Path | None, files: dict[str, Path | None]) -> Tables:
    """Read everything that was given.

    Args:
        source: an ``.npz`` with any of KEYS.
        files: by ``features``, ``labels``, ``semantics``, ``class_names`` and ``splits``: a file of its own.

    Raises:
        DatasetError: a file is missing, damaged, of another format, or holds an unknown key or a key twice.
    """
    tables = Tables()
    if source is not None:
        tables.add(_read_npz(source, KEYS), source)
    for what, path in files.items():
        if path is not None:
            tables.add(_read_file(what, path), path)
    return tables


def _read_file(what: str, path: Path) -> dict[str, Array]:
    suffix = path.suffix.lower()
    if suffix == ".npz" and what == "splits":
        return _read_npz(path, SPLIT_KEYS)
    key = "unseen_classes" if what == "splits" else what
    if suffix == ".npy":
        return {key: _plain(_guarded(path, lambda: _load_npy(path)), path, key)}
    if suffix in (".csv", ".txt"):
        return _guarded(path, lambda: _read_text(what, path))
    kinds = ".npz, .npy, .csv or .txt" if what == "splits" else ".npy, .csv or .txt"
    raise DatasetError(f"{path}: is no file of {what.replace('_', ' ')}; give a {kinds} file")


def _read_npz(path: Path, known: Iterable[str]) -> dict[str, Array]:
    arrays = _guarded(path, lambda: _load_npz(path, list(known)))
    return {key: _plain(array, path, key) for key, array in arrays.items()}


def _load_npz(path: Path, known: list[str]) -> dict[str, Any]:
    _require_start(path, _ZIP, "is not an .npz file")
    with np.load(path, allow_pickle=False) as file:
        unknown = [name for name in file.files if name not in known]
        if unknown:
            name = "".join(filter(str.isprintable, unknown[0]))[:40]
            raise DatasetError(f"{path}: has an unknown key '{name}'{nearest(name, known)}")
        # before anything is inflated; members may overlap, so that the file's own size is what counts
        fault = flood(sum(member.file_size for member in file.zip.infolist()), path.stat().st_size)
        if fault:
            raise DatasetError(f"{path}: {fault}")
        return {key: file[key] for key in file.files}


def _load_npy(path: Path) -> Any:
    _require_start(path, _NPY, "is not an .npy file")
    # Mapped, so that only what is taken over is ever in memory.
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _require_start(path: Path, expected: bytes, problem: str) -> None:
    with path.open("rb") as file:
        start = file.read(len(expected))
    if start != expected:
        raise DatasetError(f"{path}: {problem} (it begins with {start!r}; pickles are never read)")


def _plain(array: Any, path: Path, key: str) -> Array:
    """The array itself, bytes decoded; anything but numbers and texts is refused."""
    if not isinstance(array, np.ndarray):
        raise DatasetError(f"{path}: '{key}' is not an array; write the file by numpy.savez")
    if array.dtype.itemsize == 0:
        # a few bytes of file could claim any number of them
        raise DatasetError(f"{path}: '{key}' holds values of no size; write the file by numpy.savez")
    if array.dtype.kind == "S":
        return _guarded(path, lambda: np.char.decode(array, "utf-8"))
    if array.dtype.kind not in "biufU":
        raise DatasetError(f"{path}: '{key}' holds {array.dtype} values; it must hold real numbers or texts")
    return array


def _read_text(what: str, path: Path) -> dict[str, Array]:
    if what == "features":
        return {"features": _read_matrix(path)}
    lines = _read_lines(path)
    if what == "semantics":
        return _read_semantics(lines, path)
    cells = _single_column(lines, path, _HEADERS[what])
    if what == "splits":
        named = set(cells) <= {*PARTS, UNUSED}
        return {"parts": np.array(cells)} if named else {"unseen_classes": _numbers_or_texts(cells, path)}
    return {what: _texts(cells, path) if what == "class_names" else _numbers_or_texts(cells, path)}


def _read_matrix(path: Path) -> Array:
    """Numbers alone, by numpy's own parser: features can be millions of cells."""
    with path.open(encoding="utf-8-sig") as file:
        first = next(csv.reader([file.readline()]), [])
        if not _is_header(first):
            file.seek(0)
        matrix: Array = np.loadtxt(file, delimiter=",", comments=None, ndmin=2)
    return matrix


def _read_lines(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = [[cell.strip() for cell in line] for line in csv.reader(file, strict=True)]
    lines = [line for line in lines if any(line)]
    if not lines:
        raise DatasetError(f"{path}: is empty")
    return lines


def _read_semantics(lines: list[list[str]], path: Path) -> dict[str, Array]:
    """A vector a line, with or without a header and the class's name in front."""
    called = lines[0][0].lower() in ("", *_HEADERS["class_names"])
    header = _is_header(lines[0][1:] if called or not _is_number(lines[0][0]) else lines[0], called=called)
    body = lines[1:] if header else lines
    names = [line[0] for line in body] if (called and header) or not all(_is_number(line[0]) for line in body) else []
    vectors = [line[bool(names) :] for line in body]
    for number, vector in enumerate(vectors, start=1):
        wrong = next((cell for cell in vector if not _is_number(cell)), None)
        if wrong is not None:
            raise DatasetError(f"{path}: 'semantics' holds {wrong[:40]!r} in class {number}; it must hold numbers")
        if len(vector) != len(vectors[0]):
            raise DatasetError(
                f"{path}: 'semantics' has {len(vector)} values in class {number}, {len(vectors[0])} before"
            )
    content: dict[str, Array] = {"semantics": np.array(vectors, dtype=np.float64).reshape(len(vectors), -1)}
    return content | ({"class_names": _texts(names, path)} if names else {})


def _single_column(lines: list[list[str]], path: Path, headers: tuple[str, ...]) -> list[str]:
    wide = next((number for number, line in enumerate(lines, start=1) if len(line) > 1), None)
    if wide is not None:
        raise DatasetError(f"{path}: has {len(lines[wide - 1])} cells in line {wide}; it must be a single column")
    cells = [line[0] for line in lines]
    return cells[1:] if cells[0].lower() in headers and len(cells) > 1 else cells


def _numbers_or_texts(cells: list[str], path: Path) -> Array:
    return np.array(cells, dtype=np.float64) if all(map(_is_number, cells)) else _texts(cells, path)


def _texts(cells: list[str], path: Path) -> Array:
    """Texts as an array, where each takes the room of the longest."""
    longest = max(map(len, cells))
    if flood(np.dtype("U1").itemsize * longest * len(cells), sum(map(len, cells))):
        raise DatasetError(f"{path}: holds a text of {longest} characters where a name should be")
    return np.array(cells)


def _is_header(cells: list[str], *, called: bool = False) -> bool:
    """Whether a line names columns: by words alone, or by their numbers, which tools write where there are no names.

    A line of words and numbers is none: it is a faulty line of values, to be refused and not to be skipped.
    Few numbers in a row can be values, unless the line's first cell said that it is a header (``called``).
    """
    numbered = [[str(first + place) for place in range(len(cells))] for first in (0, 1)]
    if cells in numbered and (called or len(cells) > 2):
        return True
    return bool(cells) and not any(_is_number(cell) for cell in cells)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _guarded(path: Path, read: Callable[[], T]) -> T:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy only warns of an empty table
            return read()
    except DatasetError:
        raise
    except MemoryError:
        raise DatasetError(f"{path}: does not fit into memory; is it damaged?") from None
    except OSError as error:
        if error.strerror:
            raise DatasetError(f"{path}: cannot be opened: {error.strerror}") from None
        raise _unreadable(path, error) from None
    except Exception as error:  # parsers raise anything on a damaged file
        if any(words in str(error) for words in ("Object arrays", "Python objects")):
            raise DatasetError(
                f"{path}: holds an array of Python objects, a pickle, which is never read; "
                "save numbers as numbers and names by numpy.array(names, dtype=str)"
            ) from None
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DatasetError:
    reason = " ".join("".join(filter(str.isprintable, f"{type(error).__name__}: {error}")).split())[:160]
    return DatasetError(f"{path}: cannot be read, damaged or of another format ({reason})")

"""Features that a model shall classify, and descriptions of classes, out of single files that nobody vouches for."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from d3tune.data.checks import Place, as_float32, refuse_non_finite
from d3tune.data.matfile import open_mat
from d3tune.data.tables import read_tables
from d3tune.errors import DatasetError

KEY = "features"
SUFFIXES = (".npy", ".npz", ".csv", ".mat")


def read_features(path: Path, width: int) -> npt.NDArray[np.float32]:
    """Rows (n, X) of an ``.npy``, an ``.npz`` (key ``features``), a ``.csv`` with or without a header, or a ``.mat``.

    Args:
        path: the file; of a ``.mat``, ``features`` (X, n) as in xlsa17's files.
        width: X, what it must be.

    Raises:
        DatasetError: it is missing, damaged, empty, of another kind or width, or holds NaN, infinity or a pickle.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DatasetError(f"{path}: is no file of features; give a .npy, .npz, .csv or .mat file")
    if suffix == ".mat":
        file = open_mat(path)
        return _checked(file, file.array(KEY).T, width)
    tables = read_tables(path, {}) if suffix == ".npz" else read_tables(None, {KEY: path})
    return _checked(tables, tables.numbers(KEY), width)


def read_descriptions(path: Path, width: int) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Names and semantics (C, A) of classes: a line each, its name and then its numbers.

    Raises:
        DatasetError: the file is missing or damaged, a name is missing or twice there, or the numbers are of another
            width, NaN, infinite or all zero.
    """
    if path.suffix.lower() != ".csv":
        raise DatasetError(f"{path}: is no file of classes; give a .csv file with a name and {width} numbers a line")
    tables = read_tables(None, {"semantics": path})
    if "class_names" not in tables:
        raise DatasetError(f"{path}: has no names; begin each line with the class's name, or the first with 'class'")
    names, vectors = tables.texts("class_names"), as_float32(tables.numbers("semantics"))
    if vectors.shape[1] != width:
        raise DatasetError(
            f"{path}: describes a class by {vectors.shape[1]} numbers; the model's semantics have {width}"
        )
    refuse_non_finite(tables, "semantics", vectors, "class")
    zero = np.flatnonzero(~vectors.any(axis=1))
    if len(zero):
        raise DatasetError(f"{path}: class '{names[zero[0]]}' is all zero")
    double = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if double is not None:
        raise DatasetError(f"{path}: names class '{double}' twice")
    return names, vectors


def _checked(place: Place, values: npt.NDArray[Any], width: int) -> npt.NDArray[np.float32]:
    if values.ndim != 2 or values.shape[1] != width:
        shape = "×".join(map(str, values.shape)) or "a single number"
        raise place.fail(KEY, f"are {shape}; the model takes rows of {width} numbers")
    if not len(values):
        raise place.fail(KEY, "have no row")
    rows = as_float32(values)
    refuse_non_finite(place, KEY, rows, "row", first=0)
    return rows

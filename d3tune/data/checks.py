"""The checks that every dataset passes, whichever files it comes from; each fault is one line that names its key."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from d3tune.data.dataset import Rows
from d3tune.errors import DatasetError

MIN_CLASS_ROWS = 2
HARMLESS_BYTES = 2**26
LARGEST_EXPANSION = 100


class Place(Protocol):
    """What a value was read from: a file or several, known to the user."""

    def fail(self, key: str, problem: str) -> DatasetError:
        """An error about one key of this place."""


def flood(claimed: int, stored: int) -> str | None:
    """What to say of content that is a flood: far larger in memory than its bytes in the file explain.

    No features that are measured pack this well: what does is a bomb, or else loses nothing by being written plainly.

    Args:
        claimed: bytes in memory.
        stored: bytes in the file.

    Returns:
        None where it is no flood.
    """
    if claimed <= HARMLESS_BYTES or claimed <= LARGEST_EXPANSION * stored:
        return None
    return f"takes {claimed / 2**30:.1f} GiB, out of {stored} bytes; if that is right, write it without compression"


def whole_numbers(place: Place, key: str, shape: tuple[int, ...], values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """A vector of whole numbers, whichever of (n, 1), (1, n) and (n,) it is.

    Args:
        place: where it was read.
        key: its name there.
        shape: as the place has it; checked by ``single_column`` before.
        values: real numbers of any type.

    Raises:
        DatasetError: a value is not a whole number.
    """
    single_column(place, key, shape)
    values = values.reshape(-1)
    if values.dtype.kind == "f":
        whole = np.isfinite(values) & (np.abs(values) < 2**53) & (values == np.rint(values))
        if not whole.all():
            row = int(np.argmin(whole))
            raise place.fail(key, f"holds {values[row]} in row {row + 1}; it must hold whole numbers")
    return values.astype(np.int64)


def single_column(place: Place, key: str, shape: tuple[int, ...]) -> None:
    """Refuse what is empty or has more than one axis longer than 1.

    Raises:
        DatasetError: it does.
    """
    size = int(np.prod(shape, dtype=object)) if shape else 1
    if size == 0:
        raise place.fail(key, "is empty")
    if size != max(shape, default=1):
        raise place.fail(key, f"has the shape {shape}; it must be a single column")


def refuse_repeats(place: Place, key: str, rows: Rows, first: int = 1) -> None:
    """Refuse a list that names a row twice.

    Args:
        place: where it was read.
        key: its name there.
        rows: counted from 0.
        first: what the user counts from.

    Raises:
        DatasetError: it does.
    """
    distinct, counts = np.unique(rows, return_counts=True)
    if len(distinct) < len(rows):
        raise place.fail(key, f"holds row {distinct[counts > 1][0] + first} more than once; every row counts once")


def as_float32(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Values as contiguous float32; what overflows becomes infinite, to be refused as such."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32)


def refuse_non_finite(place: Place, key: str, values: npt.NDArray[np.float32], unit: str, first: int = 1) -> None:
    """Refuse a matrix with NaN or infinity.

    Args:
        place: where it was read.
        key: its name there.
        values: with a row for each unit.
        unit: ``row`` or ``class``.
        first: what the user counts units from.

    Raises:
        DatasetError: it has some.
    """
    bad = ~np.isfinite(values)
    count = int(np.count_nonzero(bad))
    if count:
        where = int(np.flatnonzero(bad.any(axis=1))[0]) + first
        many = "1 value that is" if count == 1 else f"{count} values that are"
        raise place.fail(key, f"holds {many} NaN or infinite, first in {unit} {where}; correct the file")


def check_splits(
    place: Place,
    keys: Mapping[str, str],
    labels: npt.NDArray[np.int64],
    rows: Mapping[str, Rows],
    *,
    first_row: int = 1,
    first_label: int = 1,
) -> None:
    """Refuse splits that overlap, mix seen and unseen classes, or leave a class too few rows.

    Args:
        place: where they were read.
        keys: what ``trainval``, ``test_seen`` and ``test_unseen`` are called there.
        labels: (n,) counted from 0.
        rows: the three splits, counted from 0.
        first_row: what the user counts rows from.
        first_label: what the user counts classes from.

    Raises:
        DatasetError: they do.
    """
    for one, other in (("trainval", "test_seen"), ("trainval", "test_unseen"), ("test_seen", "test_unseen")):
        common = np.intersect1d(rows[one], rows[other])
        if len(common):
            row = common[0] + first_row
            raise place.fail(keys[one], f"and '{keys[other]}' share {len(common)} rows (first: row {row})")
    trainval, test_seen, test_unseen = (keys[part] for part in ("trainval", "test_seen", "test_unseen"))
    seen, counts = np.unique(labels[rows["trainval"]], return_counts=True)
    both = np.intersect1d(seen, labels[rows["test_unseen"]])
    if len(both):
        raise place.fail(
            test_unseen, f"has rows of class {both[0] + first_label}, which '{trainval}' has too; separate them"
        )
    strange = np.setdiff1d(labels[rows["test_seen"]], seen)
    if len(strange):
        raise place.fail(test_seen, f"has rows of class {strange[0] + first_label}, of which '{trainval}' has none")
    small = np.flatnonzero(counts < MIN_CLASS_ROWS)
    if len(small):
        number = seen[small[0]] + first_label
        raise place.fail(trainval, f"has {counts[small[0]]} row of class {number}; at least 2 are needed")


def refuse_zero_vectors(
    place: Place,
    key: str,
    vectors: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    rows: Mapping[str, Rows],
    *,
    first_label: int = 1,
) -> None:
    """Refuse all-zero semantics of a class that is used; of others they do no harm.

    Raises:
        DatasetError: some are.
    """
    used = np.unique(np.concatenate([labels[rows[part]] for part in ("trainval", "test_unseen")]))
    zero = used[~vectors[used].any(axis=1)]
    if len(zero):
        raise place.fail(key, f"is all zero for class {zero[0] + first_label} ({len(zero)} such classes)")

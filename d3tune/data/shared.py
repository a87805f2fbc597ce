"""Scaled features in a file that every process on a machine maps: they take memory once, not once a trial."""

import fcntl
import logging
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from d3tune.data.dataset import ProtocolView
from d3tune.data.scaling import Features, ScaledRows, Scaler, Scaling, scaled_rows
from d3tune.files import make_new

FOLDER = "scaled"
FORMAT = 1
UNUSED_SECONDS = 30 * 86400.0
# of a process that was killed while it wrote
ABANDONED_SECONDS = 86400.0
LOCK = ".lock"
# each part begins where a cache line does, as memory of its own would: products may differ in the last bit otherwise
_ALIGNED = 16
Shape = tuple[int, ...]


def shared_rows(view: ProtocolView, scaling: Scaling) -> ScaledRows:
    """A view's scaled features from a file beside its prepared dataset, written by whoever needs it first.

    The file ends with a checksum, which is read with it. Where the dataset is not prepared, or its folder cannot be
    written, the features are a copy of this process's own.

    Args:
        view: the rows of one protocol.
        scaling: see ``fit_scaler``.

    Raises:
        UsageError: the scaling is unknown.
    """
    if view.dataset.path is None:
        return scaled_rows(view, scaling)
    path = view.dataset.path / FOLDER / f"{view.key}-{scaling}-{FORMAT}.npy"
    rows = _mapped(path, view)
    if rows is not None:
        with suppress(OSError):
            # in use: see `sweep`
            os.utime(path)
        return rows
    try:
        path.parent.mkdir(exist_ok=True)
        with alone(path.parent / LOCK):
            # another process may have written it in the meantime
            return _mapped(path, view) or _made(path, view, scaling)
    except OSError:
        logging.getLogger(__name__).debug("scaled features are not shared", exc_info=True)
        return scaled_rows(view, scaling)


def sweep(datasets: Path) -> None:
    """Remove what nobody has mapped for a month, and what killed processes left, below the prepared datasets."""
    for path in datasets.glob(f"*/{FOLDER}/*"):
        limit = ABANDONED_SECONDS if path.name.startswith(".") else UNUSED_SECONDS
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > limit:
                path.unlink()


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """One process of a machine at a time; where a file system has no locks, each."""
    with path.open("w") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _made(path: Path, view: ProtocolView, scaling: Scaling) -> ScaledRows:
    # what lies there is none of this view's, or damaged
    path.unlink(missing_ok=True)
    made = scaled_rows(view, scaling)
    make_new(path, lambda temporary: _write(temporary, made))
    return _mapped(path, view) or made


def _shapes(view: ProtocolView) -> list[Shape]:
    width = view.dataset.features.shape[1]
    counts = [len(rows) for rows in (view.train_rows, view.eval_seen_rows, view.eval_unseen_rows)]
    return [(width,), (width,), *((count, width) for count in counts)]


def _padded(shape: Shape) -> int:
    return -(-int(np.prod(shape)) // _ALIGNED) * _ALIGNED


def _mapped(path: Path, view: ProtocolView) -> ScaledRows | None:
    """The rows in a file; None where there is none, or none of this view's size, or a damaged one."""
    shapes = _shapes(view)
    try:
        # copy on write: torch warns of memory that it may not write, and nobody writes it
        content = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    size = sum(map(_padded, shapes))
    if content.dtype != np.float32 or content.shape != (size + 1,) or not _intact(content):
        return None
    parts: list[Features] = []
    for shape in shapes:
        parts.append(np.asarray(content[: int(np.prod(shape))]).reshape(shape))
        content = content[_padded(shape) :]
    shift, divisor, train, eval_seen, eval_unseen = parts
    return ScaledRows(train, eval_seen, eval_unseen, Scaler(shift, divisor))


def _intact(content: Features) -> bool:
    return zlib.crc32(_bytes(content[:-1])) == int(content[-1:].view("<u4")[0])


def _bytes(part: Features) -> memoryview:
    return part.reshape(-1).data.cast("B")


def _write(path: Path, rows: ScaledRows) -> None:
    """Write by the file, not through a mapping: a disk that is full is an error then, not the end of the process."""
    parts = [rows.scaler.shift, rows.scaler.divisor, rows.train, rows.eval_seen, rows.eval_unseen]
    size = sum(_padded(part.shape) for part in parts) + 1
    crc = 0
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (size,)}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            padding = bytes((_padded(part.shape) - part.size) * part.itemsize)
            for piece in (_bytes(part), padding):
                file.write(piece)
                crc = zlib.crc32(piece, crc)
        file.write(crc.to_bytes(4, "little"))

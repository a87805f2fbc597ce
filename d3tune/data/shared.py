"""Scaled features in a file that every process on a machine maps: they take memory once, not once a trial."""

import logging
import os
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from d3tune.data.dataset import ProtocolView
from d3tune.data.scaling import Features, ScaledRows, Scaler, Scaling, scaled_rows
from d3tune.files import make_new

FOLDER = "scaled"
FORMAT = 1
UNUSED_SECONDS = 30 * 86400.0
# each part begins where a cache line does, as memory of its own would: products may differ in the last bit otherwise
_ALIGNED = 16
Shape = tuple[int, ...]


def shared_rows(view: ProtocolView, scaling: Scaling) -> ScaledRows:
    """A view's scaled features from a file beside its prepared dataset, written by whoever needs it first.

    Where the dataset is not prepared, or its folder cannot be written, they are a copy of this process's own.

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
        # what lies there is none of this view's; not after the work, when another process may have put one there
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        made = scaled_rows(view, scaling)
        make_new(path, lambda temporary: _write(temporary, made))
    except OSError:
        logging.getLogger(__name__).debug("scaled features are not shared", exc_info=True)
        return scaled_rows(view, scaling)
    return _mapped(path, view) or made


def sweep(datasets: Path) -> None:
    """Remove what nobody has mapped for a month below the folder of prepared datasets; it is made again if needed."""
    for path in datasets.glob(f"*/{FOLDER}/*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > UNUSED_SECONDS:
                path.unlink()


def _shapes(view: ProtocolView) -> list[Shape]:
    width = view.dataset.features.shape[1]
    counts = [len(rows) for rows in (view.train_rows, view.eval_seen_rows, view.eval_unseen_rows)]
    return [(width,), (width,), *((count, width) for count in counts)]


def _padded(shape: Shape) -> int:
    return -(-int(np.prod(shape)) // _ALIGNED) * _ALIGNED


def _mapped(path: Path, view: ProtocolView) -> ScaledRows | None:
    """The rows in a file; None where there is none, or none of this view's size."""
    shapes = _shapes(view)
    try:
        # copy on write: torch warns of memory that it may not write, and nobody writes it
        content = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if content.dtype != np.float32 or content.shape != (sum(map(_padded, shapes)),):
        return None
    parts: list[Features] = []
    for shape in shapes:
        parts.append(np.asarray(content[: int(np.prod(shape))]).reshape(shape))
        content = content[_padded(shape) :]
    shift, divisor, train, eval_seen, eval_unseen = parts
    return ScaledRows(train, eval_seen, eval_unseen, Scaler(shift, divisor))


def _write(path: Path, rows: ScaledRows) -> None:
    parts = [rows.scaler.shift, rows.scaler.divisor, rows.train, rows.eval_seen, rows.eval_unseen]
    content = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.float32, shape=(sum(_padded(part.shape) for part in parts),)
    )
    begin = 0
    for part in parts:
        content[begin : begin + part.size] = part.reshape(-1)
        begin += _padded(part.shape)
    content.flush()

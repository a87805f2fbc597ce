"""Writing file pairs in the xlsa17 layout, as MATLAB v5 files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.io

from d3tune.data.dataset import Rows
from d3tune.files import write_atomically

LARGEST_ARRAY = 2**32 - 2**10
"""Bytes that one array of a MATLAB v5 file can take, its header set aside."""


def write_mat(path: Path, content: dict[str, Any]) -> None:
    """Write a MATLAB v5 file under a temporary name, sync it, and rename it.

    Raises:
        OSError: it cannot be written.
    """
    write_atomically(path, lambda temporary: scipy.io.savemat(temporary, content, appendmat=False))


def column(rows: Rows) -> npt.NDArray[np.uint16] | npt.NDArray[np.uint32]:
    """(n, 1), counted from 1, as the published files have it; 16 bits wide where that is enough."""
    numbers = (rows + 1).reshape(-1, 1)
    return numbers.astype(np.uint16) if numbers.max() < 2**16 else numbers.astype(np.uint32)


def cell(texts: Sequence[str]) -> npt.NDArray[np.object_]:
    """(N, 1): a MATLAB cell of texts. Written only; no object array is ever read."""
    cells = np.empty((len(texts), 1), dtype=object)
    cells[:, 0] = texts
    return cells

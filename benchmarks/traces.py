"""Traces of simulated searches: a Parquet file a cell, sampler and pruner, a row a repetition, replaced as a whole.

Lists hold a value an ended trial, see `benchmarks.simulation.Ended`; numbers in single precision.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.accuracy.records import differing
from benchmarks.simulation import Ended
from benchmarks.trials import Cell
from d3tune.errors import UsageError
from d3tune.files import parse_json, write_atomically, write_json

FORMAT = 1
COLUMNS = tuple(field.name for field in fields(Ended))


@dataclass(frozen=True)
class Arm:
    """A sampler with a pruner on a cell."""

    cell: Cell
    sampler: str
    pruner: str

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.cell.name}-{self.sampler}-{self.pruner}"


@dataclass(frozen=True)
class Trace:
    """One repetition, a value an ended trial; NaN where there is none."""

    columns: Mapping[str, np.ndarray[Any, Any]]

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        """A column by its name in `Ended`."""
        return self.columns[name]


class Traces:
    """The repetitions of an arm.

    Attributes:
        rows: by repetition.
    """

    def __init__(self, arm: Arm, folder: Path, settings: Mapping[str, Any]) -> None:
        """Read what there is.

        Args:
            arm: which.
            folder: of the traces.
            settings: trials, workers, surrogate and so on, which all repetitions share.

        Raises:
            UsageError: it cannot be read, or was made with other settings.
        """
        self._path = folder / f"{arm.name}.parquet"
        self._settings = {"format": FORMAT, **settings}
        self.rows: dict[int, Trace] = {}
        if not self._path.exists():
            return
        try:
            made = parse_json(self._path.with_suffix(".json").read_text(encoding="utf-8"))
            read = {int(row["repetition"]): _trace(row) for row in pd.read_parquet(self._path).to_dict("records")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{self._path}: cannot be read: {error}; remove it, it is made again") from None
        other = differing(made, self._settings) if isinstance(made, dict) else "unknown ones"
        if other:
            raise UsageError(f"{self._path}: made with other settings ({other}); give those, or another --traces")
        self.rows = read

    def add(self, repetition: int, trace: Sequence[Ended]) -> None:
        """Keep a repetition and write the file."""
        self.rows[repetition] = columns(trace)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # first: traces without it would be of no known settings
        write_json(self._path.with_suffix(".json"), self._settings)
        frame = pd.DataFrame([{"repetition": key, **self.rows[key].columns} for key in sorted(self.rows)])
        write_atomically(self._path, lambda path: frame.to_parquet(path, compression="zstd", index=False))


def columns(trace: Sequence[Ended]) -> Trace:
    """A trace as columns of numbers."""
    rows = [row.to_dict() for row in trace]
    return Trace({name: _column(name, [row[name] for row in rows]) for name in COLUMNS})


def _column(name: str, values: Sequence[Any]) -> np.ndarray[Any, Any]:
    if name == "state":
        return np.array(values, object)
    if name in ("number", "ended"):
        return np.array(values, np.int32)
    return np.array([np.nan if value is None else value for value in values], np.float32)


def _trace(row: Mapping[Any, Any]) -> Trace:
    return Trace({name: row[name] for name in COLUMNS})

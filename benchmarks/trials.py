"""Recorded trials: random configurations with the whole curve of what each reported, a Parquet file a cell.

A row is one training. Lists hold a value an evaluation; accuracies and losses in single precision.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from d3tune.errors import UsageError
from d3tune.files import slug, write_atomically, write_json
from d3tune.search.reports import Report

FORMAT = 1
TABLES = Path(__file__).resolve().parent / "tables"
OF_TRAINING = ("number", "seed", "params", "config", "failure", "commit")
OF_EVALUATION = ("update", "seconds", "value", "head")


@dataclass(frozen=True)
class Cell:
    """A backbone on a dataset."""

    backbone: str
    dataset: str

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.backbone}-{slug(self.dataset)}"


@dataclass(frozen=True)
class Trained:
    """One training.

    Attributes:
        number: of the configuration.
        seed: of weights, batches and noise.
        params: what was suggested, in Optuna's terms.
        config: every hyper-parameter.
        reports: in order of update; to the full budget where ``failure`` is empty.
        failure: why it ended early.
        commit: of the code that trained it.
    """

    number: int
    seed: int
    params: Mapping[str, Any]
    config: Mapping[str, Any]
    reports: Sequence[Report]
    failure: str = ""
    commit: str = ""

    @property
    def key(self) -> tuple[int, int]:
        """What names it within a cell."""
        return self.number, self.seed


class Table:
    """The trainings of a cell, in a file that is replaced as a whole.

    Attributes:
        about: space, data and versions, which all rows share.
        rows: by number and seed.
    """

    def __init__(self, cell: Cell, folder: Path = TABLES) -> None:
        """Read what there is.

        Raises:
            UsageError: it cannot be read.
        """
        self._path = folder / f"{cell.name}.parquet"
        self.about: dict[str, Any] = {}
        self.rows: dict[tuple[int, int], Trained] = {}
        if self._path.exists():
            try:
                self.about = json.loads(self._about.read_text(encoding="utf-8"))
                rows = [_trained(record) for record in pd.read_parquet(self._path).to_dict("records")]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UsageError(f"{self._path}: cannot be read: {error}") from None
            if self.about.get("format") != FORMAT:
                raise UsageError(f"{self._about}: is of another format; give another folder")
            self.rows = {row.key: row for row in rows}

    @property
    def _about(self) -> Path:
        return self._path.with_suffix(".json")

    def add(self, rows: Iterable[Trained], about: Mapping[str, Any]) -> None:
        """Add trainings and write the file.

        Args:
            rows: new ones.
            about: of all rows.

        Raises:
            UsageError: the rows that are there are of another space or of other data.
        """
        self.check(about)
        self.about = {"format": FORMAT, **about}
        self.rows |= {row.key: row for row in rows}
        ordered = [self.rows[key] for key in sorted(self.rows)]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._about, self.about)
        frame = pd.DataFrame([_record(row) for row in ordered])
        write_atomically(self._path, lambda path: frame.to_parquet(path, compression="zstd", index=False))

    def check(self, about: Mapping[str, Any]) -> None:
        """Refuse to mix rows of two spaces or of two contents.

        Raises:
            UsageError: they would be.
        """
        for name in ("space_hash", "dataset_hash"):
            if self.rows and self.about.get(name) != about.get(name):
                raise UsageError(
                    f"{self._path}: its rows have another {name.replace('_', ' ')}; give another --tables, or remove it"
                )


def _record(row: Trained) -> dict[str, Any]:
    """A row of the file."""
    names = sorted({name for report in row.reports for name in report.metrics})
    metrics = {
        name: np.array([report.metrics.get(name, np.nan) for report in row.reports], np.float32) for name in names
    }
    return {
        "number": row.number,
        "seed": row.seed,
        "params": json.dumps(dict(row.params)),
        "config": json.dumps(dict(row.config)),
        "failure": row.failure,
        "commit": row.commit,
        "update": np.array([report.update for report in row.reports], np.int32),
        "seconds": np.array([report.seconds for report in row.reports], np.float32),
        # in double precision: what chooses the best of nearly equal ones
        "value": np.array([report.value for report in row.reports]),
        "head": [report.head for report in row.reports],
        **metrics,
    }


def _trained(record: Mapping[Any, Any]) -> Trained:
    """Read back `_record`; what a configuration did not report is None in the frame."""
    metrics = {
        name: values
        for name, values in record.items()
        if name not in (*OF_TRAINING, *OF_EVALUATION) and isinstance(values, np.ndarray)
    }
    reports = [
        Report(
            update=int(record["update"][place]),
            value=float(record["value"][place]),
            head=str(record["head"][place]),
            metrics={name: float(values[place]) for name, values in metrics.items()},
            seconds=float(record["seconds"][place]),
        )
        for place in range(len(record["update"]))
    ]
    return Trained(
        number=int(record["number"]),
        seed=int(record["seed"]),
        params=json.loads(record["params"]),
        config=json.loads(record["config"]),
        reports=reports,
        failure=str(record["failure"]),
        commit=str(record["commit"]),
    )

"""Trainings beside a winner: variants of its configuration, fixed by validation and tested on the same seeds."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmarks.accuracy.evidence import SHOWN, confirmed_heads
from benchmarks.accuracy.records import Record
from d3tune.config import first_fault
from d3tune.data.registry import find_dataset, prepared_path
from d3tune.method.generators import load_backbone
from d3tune.search.confirm import ConfirmationFailedError, Selection, TestResult, evaluate, select
from d3tune.search.executor import StopSignal
from d3tune.search.executor.inprocess import InProcessExecutor
from d3tune.search.jobs import TrainingJob
from d3tune.search.pairing import paired


@dataclass(frozen=True)
class Given:
    """What a question is asked about.

    Attributes:
        dataset: e.g. ``hanzi/3``.
        backbone: its name.
        seeds: how many.
        further: ``key=value`` that rehearsals fix.
        cells: records of the cells that it goes on from, by name.
        place: a folder that keeps trainings, so that an interrupted question goes on.
    """

    dataset: str
    backbone: str
    seeds: int
    further: tuple[str, ...]
    cells: Mapping[str, Record]
    place: Path

    def only_cell(self) -> Record:
        """The record where one alone is needed."""
        (record,) = self.cells.values()
        return record


@dataclass(frozen=True)
class Winner:
    """A cell's winner.

    Attributes:
        job: its configuration, with the first seed.
        selection: what validation fixed for it.
        test: its test, one row a seed.
        heads: validation H by head, see `confirmed_heads`.
    """

    job: TrainingJob
    selection: Selection
    test: TestResult
    heads: Mapping[str, float]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of its confirmation."""
        return self.test.seeds


def winner_of(record: Record) -> Winner:
    """The winner that a cell's record tells of, on the dataset as it is found here.

    Raises:
        D3TuneError: the dataset is missing or has another content.
    """
    selection = Selection.model_validate(record["selection"])
    seeds = tuple(int(row["seed"]) for row in record["per_seed"])
    job = job_of(record["cell"]["backbone"], record["winner"]["config"], record["cell"]["dataset"], seeds[0])
    if job.dataset_hash != record["dataset_hash"]:
        raise RuntimeError(f"{record['name']}: made for other content of {record['cell']['dataset']}")
    rows = tuple({name: float(row[name]) for name in SHOWN} for row in record["per_seed"])
    job = replace(job, objective=selection.objective, splits=selection.splits)
    return Winner(job, selection, TestResult(seeds, rows), record["heads"])


def job_of(backbone: str, config: Mapping[str, Any], dataset: str, seed: int) -> TrainingJob:
    """A configuration on a dataset, one thread, on the CPU."""
    found = find_dataset(dataset)
    return TrainingJob(backbone, dict(config), str(prepared_path(found)), found.content_hash, seed)


def own_row(winner: Winner, name: str) -> dict[str, Any]:
    """The winner itself, as a row beside its variants; nothing is trained."""
    return _row(name, winner.selection, winner.test, winner.heads, None)


def variant_row(name: str, winner: Winner, changes: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """Train a variant of a winner: validation fixes updates, head and offset, then one test a seed.

    Args:
        name: of the row.
        winner: whose configuration is changed, and to whose test the differences are.
        changes: hyper-parameters and their other values.
        place: where trainings are kept.

    Returns:
        Plain values; ``missing`` says why a variant has no result.
    """
    config = {**winner.job.config, **changes}
    if config == winner.job.config:
        return {"name": name, "missing": "is the winner itself"}
    try:
        load_backbone(winner.job.backbone).config.model_validate(config)
    except ValidationError as error:
        return {"name": name, "missing": first_fault(error)}
    job, store = replace(winner.job, config=config), place / _digest(config)
    executor, stop = InProcessExecutor(), StopSignal()
    try:
        selection = select(job, winner.seeds, executor, stop, store)
        test = evaluate(job, selection, winner.seeds, executor, stop, store)
    except ConfirmationFailedError as error:
        return {"name": name, "missing": error.reason}
    return _row(name, selection, test, confirmed_heads(store, winner.seeds), winner.test)


def variant_rows(winner: Winner, variants: Mapping[str, Mapping[str, Any]], place: Path) -> list[dict[str, Any]]:
    """`own_row`, called ``winner``, and a row a variant."""
    rows = [own_row(winner, "winner")]
    for name, changes in variants.items():
        rows.append(variant_row(name, winner, changes, place))
        print(f"{name}: {rows[-1].get('missing') or 'test H ' + format(rows[-1]['test']['H'], '.3f')}", flush=True)
    return rows


def _row(
    name: str, selection: Selection, test: TestResult, heads: Mapping[str, float], full: TestResult | None
) -> dict[str, Any]:
    return {
        "name": name,
        "head": selection.head,
        "heads": dict(heads),
        "updates": selection.updates,
        "val_H": selection.val_H,
        "test": {key: test.mean(key) for key in SHOWN},
        "H_per_seed": [row["H"] for row in test.per_seed],
        "difference": None if full is None else vars(paired(test, full)),
    }


def _digest(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


def difference_cells(difference: Mapping[str, float | None] | None) -> list[str]:
    """Mean with its interval, and p; dashes of the row that the others are compared with."""
    if difference is None:
        return ["–", "–"]
    low, high, p = difference["low"], difference["high"], difference["p"]
    interval = "" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]"
    return [f"{difference['mean']:+.3f}{interval}", "–" if p is None else f"{p:.3f}"]

"""What there is to do: cells, and the questions that go on from their records; each a process that leaves a record."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.accuracy.cells import SHIPPED, TUNED, WITH_BASELINES, Cell
from benchmarks.accuracy.evidence import evidence
from benchmarks.accuracy.records import Record
from benchmarks.accuracy.spaces import applicable, arm_space, write_space
from d3tune.errors import UsageError
from d3tune.files import write_json
from d3tune.method.generators import load_backbone

PROGRAM = (sys.executable, "-c", "from d3tune.cli import main; main()")
INPUT, RESULT = "input.json", "result.json"


class Task(Protocol):
    """Something that is done by one process and kept as one record."""

    @property
    def name(self) -> str:
        """Of its record and of its folder."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the records that it goes on from."""

    def command(self, work: Path, found: Mapping[str, Record], slot: int) -> Sequence[str]:
        """Prepare and say what to run.

        Args:
            work: where folders of tasks are.
            found: the records that it needs.
            slot: of the process, so that two never write one store.
        """

    def collect(self, work: Path) -> dict[str, Any]:
        """What the record says, once the process ended well."""

    def check(self, record: Record, found: Mapping[str, Record]) -> None:
        """Make sure that a record goes on from those that there are.

        Raises:
            UsageError: it is about another winner.
        """

    def line(self, record: Record) -> str:
        """One line on what was found."""


@dataclass(frozen=True)
class CellTask:
    """A search.

    Attributes:
        cell: which.
        trials: how many.
        seeds: of its confirmation.
        further: ``key=value`` to fix where its backbone knows the key.
    """

    cell: Cell
    trials: int
    seeds: int
    further: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """See `Task`."""
        return self.cell.name

    @property
    def needs(self) -> tuple[str, ...]:
        """See `Task`: nothing."""
        return ()

    def command(self, work: Path, found: Mapping[str, Record], slot: int) -> Sequence[str]:
        """See `Task`."""
        cell = self.cell
        space, config = arm_space(cell), load_backbone(cell.backbone).config
        settings = [
            f"{key}={json.dumps(value)}" for key, value in applicable(self.further, config, space.fixed).items()
        ]
        what = ["search", "--dataset", cell.dataset, "--backbone", cell.backbone, "--run-dir", str(work / self.name)]
        what += ["--trials", str(self.trials), "--confirm-seeds", str(self.seeds), "--executor", "local"]
        what += ["--gpus-per-trial", "0", "--tracking-uri", f"sqlite:///{work}/mlflow-{slot}.db"]
        if cell.arm not in (SHIPPED, TUNED):
            path = work / f"{self.name}.yaml"
            write_space(cell, path)
            what += ["--space", str(path)]
        what += ["--baselines"] if cell.arm in WITH_BASELINES else []
        return [*PROGRAM, *what, *(word for setting in settings for word in ("--set", setting))]

    def collect(self, work: Path) -> dict[str, Any]:
        """See `Task`."""
        return {"kind": "cell", "cell": self.cell.to_dict(), **evidence(work / self.name)}

    def check(self, record: Record, found: Mapping[str, Record]) -> None:
        """See `Task`: it goes on from nothing."""

    def line(self, record: Record) -> str:
        """See `Task`."""
        return f"val H {record['selection']['val_H']:.3f}, test H {record['test']['H']['mean']:.3f}"


@dataclass(frozen=True)
class QuestionTask:
    """A question about one dataset and backbone, answered by `benchmarks.accuracy.question`.

    Attributes:
        kind: which question.
        dataset: e.g. ``hanzi/3``.
        backbone: its name.
        needs: names of the cells whose winners it is about.
        seeds: of its trainings.
        further: see `CellTask`.
    """

    kind: str
    dataset: str
    backbone: str
    needs: tuple[str, ...]
    seeds: int
    further: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """See `Task`."""
        return f"{self.kind}-{self.dataset.replace('/', '-')}-{self.backbone}"

    def command(self, work: Path, found: Mapping[str, Record], slot: int) -> Sequence[str]:
        """See `Task`."""
        place = work / self.name
        place.mkdir(parents=True, exist_ok=True)
        given = {"kind": self.kind, "dataset": self.dataset, "backbone": self.backbone, "seeds": self.seeds}
        write_json(place / INPUT, {**given, "further": list(self.further), "cells": dict(found)})
        return [sys.executable, "-m", "benchmarks.accuracy.question", str(place)]

    def collect(self, work: Path) -> dict[str, Any]:
        """See `Task`."""
        asked, answer = (json.loads((work / self.name / name).read_text(encoding="utf-8")) for name in (INPUT, RESULT))
        of = {name: winner_id(record) for name, record in asked["cells"].items()}
        return {"kind": self.kind, "dataset": self.dataset, "backbone": self.backbone, "of": of, "answer": answer}

    def check(self, record: Record, found: Mapping[str, Record]) -> None:
        """See `Task`."""
        for name, winner in record["of"].items():
            if name in found and winner_id(found[name]) != winner:
                raise UsageError(f"the record of {self.name} is about another winner of {name}; remove it")

    def line(self, record: Record) -> str:
        """See `Task`."""
        return "answered"


def winner_id(record: Record) -> str:
    """What names a cell's winner: its configuration and what validation fixed for it."""
    text = json.dumps([record["winner"]["config"], record["selection"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

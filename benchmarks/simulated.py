"""What the commands share that simulate searches of every cell in minutes: their options, and where they report."""

import argparse
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.__main__ import REPORTS
from benchmarks.record import BACKBONES, DATASETS
from benchmarks.trials import TABLES, Cell

REPETITIONS, TRIALS = 20, 50


def arguments(name: str, about: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """What a command was given.

    Args:
        name: of the report, and of the module.
        about: the module's docstring, whose begin is shown.
        argv: the words; None takes those of this process.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about.partition(":")[0])
    add = parser.add_argument
    add("--backbones", nargs="+", default=BACKBONES, help="default: those that are recorded by default")
    add("--datasets", nargs="+", default=DATASETS, help="likewise")
    add("--repetitions", type=int, default=REPETITIONS, help="searches of each cell, or pair of cells")
    add("--trials", type=int, default=TRIALS, help="of each search")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time; default: cores")
    add("--tables", type=Path, default=TABLES, help="default: benchmarks/tables")
    add("--report", type=Path, default=REPORTS / f"{name}-{datetime.now(UTC):%Y-%m-%d}.md", help="default: %(default)s")
    return parser.parse_args(argv)


def cells_of(given: argparse.Namespace) -> list[Cell]:
    """The cells that were asked for; each process that is started from now on computes with one thread."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    return [Cell(backbone, dataset) for dataset in given.datasets for backbone in given.backbones]

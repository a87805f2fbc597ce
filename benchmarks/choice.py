"""What choosing among the best trials with fresh seeds is worth: ``python -m benchmarks.choice``.

Of each cell that has a table of recorded trials, searches are simulated (`benchmarks.simulation`), and among the best
trials of each one is chosen as ``--confirm-top`` does it, by d3tune's own code; fresh seeds are further noise of the
surrogate. As it knows each configuration's noise-free value, it can say what the best trial promised in vain, and
what the chosen one gains. Minutes; the report is written beside the other ones.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from optuna.trial import FrozenTrial

from benchmarks.__main__ import environment
from benchmarks.accuracy.markdown import number, table
from benchmarks.search_statistics import Interval, interval
from benchmarks.simulated import arguments, cells_of
from benchmarks.simulation import Setting, Simulation, in_memory
from benchmarks.surrogate import Surrogate
from benchmarks.trials import Cell, Table
from d3tune.config import Pruner, Sampler
from d3tune.errors import UsageError
from d3tune.files import write_json, write_text
from d3tune.method.trainer import DivergedError
from d3tune.search.choice import choose
from d3tune.search.executor import Executor, StopSignal
from d3tune.search.jobs import TrainingJob
from d3tune.search.journal import CONFIG_ATTR
from d3tune.search.run import RunDirectory
from d3tune.search.standing import winner

SAMPLER: Sampler = "tpe"
PRUNER: Pruner = "asha"
TOPS = (2, 4, 8)
WORDS = """
*Optimism*: validation H of the best trial minus the noise-free H of its configuration: what the search promises in
vain. *Gain*: noise-free H of the trial that fresh seeds choose among the best so many minus that of the best trial.
Means over searches with 95 % intervals, Student's t.
"""


@dataclass(frozen=True)
class Chosen:
    """One search.

    Attributes:
        optimism: of its best trial.
        gains: by how many candidates there were.
    """

    optimism: float
    gains: dict[int, float]


class OnSurrogate:
    """Trains what a choice asks for, as far as the surrogate knows it."""

    def __init__(self, surrogate: Surrogate) -> None:
        self._surrogate = surrogate

    def map(
        self,
        function: Callable[..., Any],
        items: Sequence[tuple[Any, ...]],
        stop: StopSignal,
        on_result: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        """The curves of jobs; whatever the function is, nothing is trained."""
        found = []
        for index, (job,) in enumerate(items):
            training = self._surrogate.training(job.config, job.seed)
            if training.best is None:
                raise DivergedError("a loss of the surrogate", 0)
            # a choice reads the objective by head
            metrics = [{**report.metrics, f"val/{report.head}/H": report.value} for report in training.reports]
            pairs = zip(training.reports, metrics, strict=True)
            found.append([replace(report, metrics=of).to_dict() for report, of in pairs])
            if on_result is not None:
                on_result(index, found[-1])
        return found


def search_and_choose(surrogate: Surrogate, seed: int, trials: int, tops: Sequence[int] = TOPS) -> Chosen | None:
    """Simulate a search and choose among its best trials; None of one without a winner.

    Args:
        surrogate: of a cell.
        seed: of the search; the fresh ones are others.
        trials: of the search.
        tops: of how many candidates to choose.
    """
    with tempfile.TemporaryDirectory(prefix="d3tune-choice-", dir=in_memory()) as folder:
        simulation = Simulation(surrogate, Setting(SAMPLER, PRUNER, seed, trials), Path(folder))
        simulation.run()
        found = simulation.ledger.trials()
        best = winner(found)
        if best is None or best.value is None:
            return None
        by_number = {trial.number: _expected(surrogate, trial) for trial in found if CONFIG_ATTR in trial.user_attrs}
        gains = {
            top: by_number[_chosen(simulation, surrogate, Path(folder), top)] - by_number[best.number] for top in tops
        }
        return Chosen(best.value - by_number[best.number], gains)


def _expected(surrogate: Surrogate, trial: FrozenTrial) -> float:
    return surrogate.expected(trial.user_attrs[CONFIG_ATTR])


def _chosen(simulation: Simulation, surrogate: Surrogate, folder: Path, top: int) -> int:
    """The number of the trial that `choose` takes."""
    search = simulation.search
    run = cast(RunDirectory, SimpleNamespace(search=search, path=folder))

    def job(trial: FrozenTrial) -> TrainingJob:
        return TrainingJob(search.backbone, trial.user_attrs[CONFIG_ATTR], "", "", search.seed)

    executor = cast(Executor, OnSurrogate(surrogate))
    choice = choose(run, simulation.ledger.trials(), top, job, executor, StopSignal(), lambda line: None)
    best = winner(simulation.ledger.trials())
    assert best is not None
    return best.number if choice is None else choice.chosen


def of_cell(cell: Cell, tables: Path, repetitions: int, trials: int) -> list[Chosen]:
    """The searches of a cell, in a worker."""
    surrogate = Surrogate(cell, Table(cell, tables))
    found = [search_and_choose(surrogate, seed, trials) for seed in range(repetitions)]
    return [item for item in found if item is not None]


def summary(found: Sequence[Chosen]) -> dict[str, Interval]:
    """Optimism, and gain by number of candidates."""
    gains = {f"best {top}": interval([item.gains[top] for item in found]) for top in found[0].gains}
    return {"optimism": interval([item.optimism for item in found]), **gains}


def markdown(rows: dict[str, tuple[int, dict[str, Interval]]], about: dict[str, Any], missing: dict[str, str]) -> str:
    """The report's text.

    Args:
        rows: by cell, and over all: how many searches, and their summary.
        about: machine and settings.
        missing: cells without a result, each with why.
    """
    lines = [
        "# Choosing among the best trials with fresh seeds",
        "",
        *(f"- {key}: {value}" for key, value in about.items()),
    ]
    if missing:
        lines += ["", f"**Missing**: {'; '.join(f'{name} ({why})' for name, why in missing.items())}."]
    lines += ["", WORDS.strip(), ""]
    if not rows:
        return "\n".join([*lines, "There is no table of any cell, and so no result.", ""])
    names = list(next(iter(rows.values()))[1])
    head = ["cell", "searches", *(name if name == "optimism" else f"gain, {name}" for name in names)]
    cells = [[cell, str(count), *(_told(found[name]) for name in names)] for cell, (count, found) in rows.items()]
    return "\n".join([*lines, *table(head, cells), ""])


def _told(value: Interval) -> str:
    ends = "" if value.low is None else f" [{value.low:.4f}, {value.high:.4f}]"
    return f"{number(value.mean, 4)}{ends}"


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate and report; 1 while a cell is missing."""
    given = arguments("choice", __doc__ or "", argv)
    cells = cells_of(given)
    found: dict[str, list[Chosen]] = {}
    missing: dict[str, str] = {}
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        waiting = {cell: pool.submit(of_cell, cell, given.tables, given.repetitions, given.trials) for cell in cells}
        for cell, future in waiting.items():
            try:
                found[cell.name] = future.result()
                print(f"{cell.name}: {len(found[cell.name])} searches", flush=True)
            except UsageError as error:
                missing[cell.name] = str(error).partition(": ")[2] or str(error)
    told = {name: (len(items), summary(items)) for name, items in found.items() if items}
    everything = [item for items in found.values() for item in items]
    told |= {"all": (len(everything), summary(everything))} if everything else {}
    about = {
        **environment(),
        "repetitions": given.repetitions,
        "trials": given.trials,
        "searches": "tpe, asha, 8 workers",
    }
    path: Path = given.report
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, markdown(told, about, missing))
    plain = {name: {key: asdict(value) for key, value in of.items()} for name, (_, of) in told.items()}
    write_json(path.with_suffix(".json"), {"about": about, "missing": missing, "cells": plain})
    print(f"wrote {path}")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())

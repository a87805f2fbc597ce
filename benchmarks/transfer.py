"""What the best trials of another search are worth as warm starts: ``python -m benchmarks.transfer``.

Of each cell that has a table of recorded trials, searches are simulated (`benchmarks.simulation`) from nothing and with
the best trials of a simulated search of another cell, of another backbone or class split, taken over as
``--warm-start RUN`` does it, by d3tune's own code. Minutes; the report is written beside the other ones.
"""

import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.__main__ import environment
from benchmarks.accuracy.markdown import number, table
from benchmarks.simulated import arguments, cells_of
from benchmarks.simulation import Ended, Setting, Simulation, in_memory
from benchmarks.surrogate import Surrogate
from benchmarks.trials import Cell, Table
from d3tune.config import Pruner, Sampler
from d3tune.errors import UsageError
from d3tune.files import write_json, write_text
from d3tune.search.journal import CONFIG_ATTR
from d3tune.search.standing import best_of
from d3tune.search.warm_starts import OF_A_RUN, WarmStarts
from d3tune.space import WarmStart
from d3tune.words import plural

SAMPLER: Sampler = "tpe"
PRUNER: Pruner = "asha"
SHARES = (0.95, 0.98)
# what counts is how many trials are paid for, not how many end together
WORKERS = 1
# seeds of the searches that points are taken from
ELSEWHERE = 1000
WORDS = f"""
How many trials a search carries out, one after another, until its best is within a share of the cell's noise-free best
H: the median over repetitions, of searches from nothing and of ones that begin with the best {OF_A_RUN} trials of a
search elsewhere; a dash where fewer than half of the searches get there. *Ratio*: the second divided by the first.
Validation alone. The two class splits share rows, so that the same backbone on the other one is nearer than another
dataset would be.
"""


@dataclass(frozen=True)
class Pair:
    """Searches of a cell, with and without points of another.

    Attributes:
        source, target: names of the cells.
        cold, warm: by share of the best, trials to get there in each repetition; infinite where it does not.
        taken: of the hyper-parameters of a point that are searched, how many could be taken over, the mean share.
    """

    source: str
    target: str
    cold: dict[float, list[float]]
    warm: dict[float, list[float]]
    taken: float

    def ratio(self, share: float) -> float | None:
        """Of the trials of a cold search; None where either median is not reached."""
        cold, warm = median(self.cold[share]), median(self.warm[share])
        return warm / cold if math.isfinite(cold) and math.isfinite(warm) else None


@lru_cache(maxsize=2)
def _surrogate(cell: Cell, tables: Path) -> Surrogate:
    """Fitted once a process."""
    return Surrogate(cell, Table(cell, tables))


def reached(traces: Sequence[Sequence[Ended]], best: float) -> dict[float, list[float]]:
    """By share, how many trials of each search have ended when its best is good enough; infinite where none is."""

    def first(trace: Sequence[Ended], value: float) -> float:
        return next((float(row.ended) for row in trace if row.best is not None and row.best >= value), math.inf)

    return {share: [first(trace, share * best) for trace in traces] for share in SHARES}


def points_of(source: Surrogate, target: Surrogate, seed: int, trials: int) -> tuple[list[WarmStart], float]:
    """The best trials of a simulated search as points of another cell's space.

    Args:
        source: where they are found.
        target: where they are used.
        seed: of the search that finds them.
        trials: of that search.

    Returns:
        The points, and the mean share of hyper-parameters that were taken over.
    """
    with tempfile.TemporaryDirectory(prefix="d3tune-transfer-", dir=in_memory()) as folder:
        search = Simulation(source, Setting(SAMPLER, PRUNER, seed, trials, WORKERS), Path(folder))
        search.run()
        best = best_of(search.ledger.trials(), OF_A_RUN)
    here = WarmStarts(target.space, target.space, target.config, search.search, Path(), None)
    points, shares = [], []
    for trial in best:
        config = trial.user_attrs[CONFIG_ATTR]
        active = {name for name, parameter in source.space.parameters.items() if parameter.active(config)}
        idle = source.space.parameters.keys() - active
        values, taken = here.transferred({name: value for name, value in config.items() if name not in idle})
        points.append(WarmStart(name=f"trial {trial.number}", source=source.cell.name, values=values))
        shares.append(taken / len(values))
    return points, sum(shares) / len(shares) if shares else 0.0


def searched(surrogate: Surrogate, seed: int, trials: int, points: Sequence[WarmStart] = ()) -> list[Ended]:
    """Simulate a search that begins with some points."""
    with tempfile.TemporaryDirectory(prefix="d3tune-transfer-", dir=in_memory()) as folder:
        setting = Setting(SAMPLER, PRUNER, seed, trials, WORKERS)
        return Simulation(surrogate, setting, Path(folder), tuple(points)).run()


def of_target(target: Cell, sources: Sequence[Cell], tables: Path, repetitions: int, trials: int) -> list[Pair]:
    """All pairs of a cell, in a worker."""
    here = _surrogate(target, tables)
    cold = reached([searched(here, seed, trials) for seed in range(repetitions)], here.best)
    pairs = []
    for source in sources:
        there, warm, shares = _surrogate(source, tables), list[list[Ended]](), list[float]()
        for seed in range(repetitions):
            points, taken = points_of(there, here, ELSEWHERE + seed, trials)
            warm.append(searched(here, seed, trials, points))
            shares.append(taken)
        pairs.append(Pair(source.name, target.name, cold, reached(warm, here.best), sum(shares) / len(shares)))
    return pairs


def markdown(pairs: Sequence[Pair], about: dict[str, Any], missing: dict[str, str]) -> str:
    """The report's text.

    Args:
        pairs: what was simulated.
        about: machine and settings.
        missing: cells without a table, each with why.
    """
    lines = ["# Warm starts from another search", "", *(f"- {key}: {value}" for key, value in about.items())]
    if missing:
        lines += ["", f"**Missing**: {'; '.join(f'{name} ({why})' for name, why in missing.items())}."]
    lines += ["", WORDS.strip(), ""]
    if not pairs:
        return "\n".join([*lines, "There are no two cells with a table, and so no result.", ""])
    for share in SHARES:
        ratios = [ratio for pair in pairs if (ratio := pair.ratio(share)) is not None]
        middle = number(median(ratios), 2) if ratios else "–"
        lines.append(f"To {share:.0%}: median ratio **{middle}** over {plural(len(ratios), 'pair')} that get there.")
    rows = [
        [pair.target, pair.source, f"{pair.taken:.0%}", *(text for share in SHARES for text in _cells(pair, share))]
        for pair in pairs
    ]
    head = ["cell", "points of", "taken over"]
    head += [f"{share:.0%}: {what}" for share in SHARES for what in ("from nothing", "with points", "ratio")]
    return "\n".join([*lines, "", *table(head, rows), ""])


def _cells(pair: Pair, share: float) -> list[str]:
    return [_trials(pair.cold[share]), _trials(pair.warm[share]), number(pair.ratio(share), 2)]


def _trials(values: Sequence[float]) -> str:
    middle = median(values)
    return f"{middle:g}" if math.isfinite(middle) else "–"


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate and report; 1 while a cell is missing."""
    given = arguments("transfer", __doc__ or "", argv)
    wanted = cells_of(given)
    missing: dict[str, str] = {}
    for cell in wanted:
        try:
            _surrogate(cell, given.tables)
        except UsageError as error:
            missing[cell.name] = str(error).partition(": ")[2] or str(error)
    cells = [cell for cell in wanted if cell.name not in missing]
    found: list[Pair] = []
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        rest = (given.tables, given.repetitions, given.trials)
        waiting = [pool.submit(of_target, cell, sources_of(cell, cells), *rest) for cell in cells]
        for cell, future in zip(cells, waiting, strict=True):
            found += future.result()
            print(f"{cell.name}: done", flush=True)
    about = {**environment(), "repetitions": given.repetitions, "trials": given.trials}
    about["searches"] = f"{SAMPLER}, {PRUNER}, {plural(WORKERS, 'worker')}"
    path: Path = given.report
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, markdown(found, about, missing))
    plain = [{**asdict(pair), "cold": _finite(pair.cold), "warm": _finite(pair.warm)} for pair in found]
    write_json(path.with_suffix(".json"), {"about": about, "missing": missing, "pairs": plain})
    print(f"wrote {path}")
    return int(bool(missing))


def sources_of(target: Cell, cells: Sequence[Cell]) -> list[Cell]:
    """Other backbones on the same class split, and the same backbone on another."""
    return [
        cell
        for cell in cells
        if cell != target and (cell.dataset == target.dataset or cell.backbone == target.backbone)
    ]


def _finite(values: Mapping[float, Sequence[float]]) -> dict[str, list[float | None]]:
    return {f"{share:g}": [value if math.isfinite(value) else None for value in of] for share, of in values.items()}


if __name__ == "__main__":
    sys.exit(main())

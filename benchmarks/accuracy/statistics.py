"""Paired differences, means over datasets, and which arm validation chooses."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from benchmarks.accuracy.cells import GENERATIVE, Cell
from benchmarks.accuracy.evidence import SHOWN
from benchmarks.accuracy.records import Record
from d3tune.search.confirm import TestResult
from d3tune.search.pairing import Paired, paired

Found = Mapping[Cell, Record]
PAIRS = (("d3", "none"), ("d3", "teacher"), ("d3", "cls"), ("cls", "none"), ("teacher", "none"))
REZSL_PAIRS = (("remse", "mse"), ("remse", "plain"), ("combined", "remse"))
CLOSED = ("gaussian", "ESZSL")


@dataclass(frozen=True)
class Difference:
    """Test H of one arm minus that of another, paired by dataset and seed.

    Attributes:
        backbone: whose arms.
        arm: the first.
        other: the second.
        paired: mean, interval and p over all pairs.
        pairs: how many.
        by_dataset: each dataset's mean.
    """

    backbone: str
    arm: str
    other: str
    paired: Paired
    pairs: int
    by_dataset: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def per_seed(record: Record) -> dict[int, float]:
    """Each confirmation seed's test H."""
    return {int(row["seed"]): float(row["H"]) for row in record["per_seed"]}


def over_pairs(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Mean of first − second with its 95 % interval (Student's t) and p (Wilcoxon's signed-rank test)."""
    seeds = tuple(range(len(first)))
    one, other = (TestResult(seeds, tuple({"H": value} for value in values)) for values in (first, second))
    return paired(one, other)


def difference(found: Found, backbone: str, arm: str, other: str) -> Difference | None:
    """Pair two arms of a backbone; None where fewer than two pairs are there."""
    first: list[float] = []
    second: list[float] = []
    by_dataset: dict[str, float] = {}
    for cell, record in found.items():
        partner = found.get(Cell(cell.dataset, backbone, other))
        if (cell.backbone, cell.arm) != (backbone, arm) or partner is None:
            continue
        ours, theirs = per_seed(record), per_seed(partner)
        shared = sorted(ours.keys() & theirs.keys())
        first += [ours[seed] for seed in shared]
        second += [theirs[seed] for seed in shared]
        by_dataset[cell.dataset] = fmean(ours[seed] - theirs[seed] for seed in shared)
    if len(first) < 2:
        return None
    return Difference(backbone, arm, other, over_pairs(first, second), len(first), by_dataset)


def differences(found: Found) -> list[Difference]:
    """Every pair of arms of every backbone that is there."""
    pairs = [(name, *pair) for name in GENERATIVE for pair in PAIRS] + [("rezsl", *pair) for pair in REZSL_PAIRS]
    told = [difference(found, *pair) for pair in pairs]
    return [item for item in told if item is not None]


def complete_datasets(wanted: Iterable[Cell], found: Found) -> list[str]:
    """The datasets of which every cell is there, in their order."""
    wanted = list(wanted)
    missing = {cell.dataset for cell in wanted if cell not in found}
    return [name for name in dict.fromkeys(cell.dataset for cell in wanted) if name not in missing]


def means(found: Found, datasets: Sequence[str]) -> dict[str, dict[str, float]]:
    """U, S, H, T1 and AUSUC by row, averaged over datasets, best H first; rows that lack a dataset are left out."""
    rows: dict[str, dict[str, Mapping[str, float]]] = {}
    for cell, record in found.items():
        if cell.dataset in datasets:
            measured = {key: record["test"][key]["mean"] for key in SHOWN}
            rows.setdefault(cell.row, {})[cell.dataset] = measured
    for name in CLOSED:
        closed = _closed_form(found, datasets, name)
        if closed:
            rows[closed_row(name)] = closed
    whole = {name: list(row.values()) for name, row in rows.items() if len(row) == len(datasets)}
    table = {name: {key: fmean(row[key] for row in listed) for key in SHOWN} for name, listed in whole.items()}
    return {name: table[name] for name in sorted(table, key=lambda name: -table[name]["H"])}


def closed_row(name: str) -> str:
    """The row of a baseline, which is another than that of the backbone of its name."""
    return f"{name} (closed form)"


def chosen_arms(found: Found, datasets: Sequence[str]) -> dict[str, tuple[str, float]]:
    """By backbone, the arm with the largest validation H, averaged over datasets, and that H; no test has a say."""
    values: dict[tuple[str, str], list[float]] = {}
    for cell, record in found.items():
        if cell.dataset in datasets:
            values.setdefault((cell.backbone, cell.arm), []).append(float(record["selection"]["val_H"]))
    chosen: dict[str, tuple[str, float]] = {}
    for (backbone, arm), listed in values.items():
        value = fmean(listed)
        if len(listed) == len(datasets) and (backbone not in chosen or value > chosen[backbone][1]):
            chosen[backbone] = (arm, value)
    return chosen


def closed_form(found: Found, dataset: str, name: str) -> Mapping[str, float] | None:
    """A baseline's test accuracies on a dataset."""
    return _closed_form(found, [dataset], name).get(dataset)


def _closed_form(found: Found, datasets: Sequence[str], name: str) -> dict[str, Mapping[str, float]]:
    return {
        cell.dataset: {key: row[f"test/{key}"] for key in SHOWN}
        for cell, record in found.items()
        if cell.dataset in datasets
        for row in record["baselines"]
        if row["name"] == name
    }

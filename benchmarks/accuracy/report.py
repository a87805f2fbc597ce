"""Tables and paired statistics of finished cells."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t, wilcoxon

from benchmarks.accuracy.cells import ARMS, GENERATIVE, Cell

Summaries = Mapping[Cell, Mapping[str, Any]]
SHOWN = ("U", "S", "H", "T1", "AUSUC")
PAIRS = (("d3", "none"), ("d3", "teacher"), ("cls", "none"), ("teacher", "none"))
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """Test H of one arm minus that of another, over datasets and seeds.

    Attributes:
        backbone: whose arms.
        arm: the first.
        other: the second.
        mean: of the differences.
        low: end of the 95 % interval of the mean (Student's t over all pairs).
        high: its other end.
        p: two-sided, Wilcoxon's signed-rank test; None where all differences are 0.
        pairs: how many.
    """

    backbone: str
    arm: str
    other: str
    mean: float
    low: float
    high: float
    p: float | None
    pairs: int


def per_seed(summary: Mapping[str, Any]) -> dict[str, float]:
    """Each confirmation seed's test H."""
    return {str(seed): float(h) for seed, h in summary["test"]["H_per_seed"].items()}


def difference(found: Summaries, backbone: str, arm: str, other: str) -> Difference | None:
    """Pair two arms of a backbone by dataset and seed; None where fewer than two pairs are there."""
    differences: list[float] = []
    for cell, summary in found.items():
        partner = found.get(Cell(cell.dataset, backbone, other))
        if (cell.backbone, cell.arm) == (backbone, arm) and partner is not None:
            first, second = per_seed(summary), per_seed(partner)
            differences += [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    n = len(differences)
    if n < 2:
        return None
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * stdev(differences) / math.sqrt(n)
    mean = fmean(differences)
    p = float(wilcoxon(differences).pvalue) if any(differences) else None
    return Difference(backbone, arm, other, mean, mean - half, mean + half, p, n)


def differences(found: Summaries) -> list[Difference]:
    """Every pair of arms of every generative backbone that is there."""
    told = [difference(found, name, *pair) for name in GENERATIVE for pair in PAIRS]
    return [item for item in told if item is not None]


def means(found: Summaries, dataset: str | None) -> list[list[str]]:
    """A row a backbone and arm, best test H first; closed forms are rows of their own.

    Args:
        found: the cells.
        dataset: of one alone; None is the mean over all.
    """
    rows: dict[str, list[Mapping[str, float]]] = {}
    for cell, summary in found.items():
        if dataset not in (None, cell.dataset):
            continue
        name = f"{cell.backbone}, {cell.arm}" if cell.backbone in GENERATIVE else cell.backbone
        rows.setdefault(name, []).append({key: summary["test"][key]["mean"] for key in SHOWN})
    for name in ("gaussian", "ESZSL"):
        closed: dict[tuple[str, str], Mapping[str, float]] = {}
        for cell, summary in found.items():
            if dataset in (None, cell.dataset):
                closed |= {(cell.dataset, row["name"]): row for row in summary["baselines"] if row["name"] == name}
        if closed:
            rows[f"{name} (closed form)"] = [{key: row[f"test/{key}"] for key in SHOWN} for row in closed.values()]
    table = {name: {key: fmean(row[key] for row in listed) for key in SHOWN} for name, listed in rows.items()}
    best_first = sorted(table, key=lambda name: -table[name]["H"])
    return [[name, *(f"{table[name][key]:.3f}" for key in SHOWN)] for name in best_first]


def markdown(found: Summaries, datasets: Sequence[str], about: Mapping[str, Any]) -> str:
    """The report."""
    lines = ["# What D³ is worth, by backbone", "", *(f"- {name}: {value}" for name, value in about.items()), ""]
    lines += ["Every row was tuned on validation with the same number of trials, confirmed with fresh seeds and tested"]
    lines += [f"once. Arms: {', '.join(ARMS)}; see `benchmarks/accuracy/cells.py`.", ""]
    lines += [f"## Mean over {', '.join(datasets)}", "", *_table(["model", *SHOWN], means(found, None)), ""]
    lines += ["## Paired differences of test H", ""]
    head = ["backbone", "arm", "minus", "ΔH [95 %]", "p", "pairs"]
    lines += [*_table(head, [_cells(item) for item in differences(found)]), ""]
    for dataset in datasets:
        lines += [f"## {dataset}", "", *_table(["model", *SHOWN], means(found, dataset)), ""]
    return "\n".join(lines)


def _cells(item: Difference) -> list[str]:
    interval = f"{item.mean:+.3f} [{item.low:+.3f}, {item.high:+.3f}]"
    p = "–" if item.p is None else f"{item.p:.3f}"
    return [item.backbone, item.arm, item.other, interval, p, str(item.pairs)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]

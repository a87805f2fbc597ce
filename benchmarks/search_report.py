"""The report on simulated searches: what the traces say, how good the surrogates are, and what is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import exp, log
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks import search_stopping
from benchmarks.accuracy.markdown import number, table
from benchmarks.accuracy.statistics import over_pairs
from benchmarks.accuracy.variants import difference_cells
from benchmarks.search_figures import write_figures
from benchmarks.search_statistics import SHARES, WITHIN, Figures, Interval, Reached, Target, figures, regret, regret_at
from benchmarks.simulation import WORKERS
from benchmarks.surrogate import Quality
from benchmarks.traces import Arm, Trace
from benchmarks.trials import Cell
from d3tune.files import write_json, write_text

THRESHOLDS = (*(f"{share:.0%}".replace("%", " %") for share in SHARES), WITHIN)
BASE = ("random", "none")
# share of the compute that the base takes for all its trials, at which searches are compared
BUDGET = 0.5
INTRODUCTION = """
Searches are simulated, not trained: d3tune's own study, samplers and pruners in virtual time, on surrogates of
recorded trials (`benchmarks.surrogate`). What holds here holds for a surrogate: a forest has plateaus that a training
has not, and says less of regions of which few trials were recorded. *Regret* and thresholds are of noise-free
validation H, which a search does not see; a search's best trial is the one that the study would call so, by its noisy
value. No test row takes part.
"""
SURROGATES = """
R² and rank correlation of the best H are out of bag: of configurations that the trees asked had not seen. The first
is bounded by noise, too, of which a training's H has as much as the sd over seeds. *Unsound* is the area under the
ROC curve of the predicted probability to collapse or diverge, out of bag. A forest averages, and so its noise-free best
may lie below the best that was recorded, which noise has a part in.
"""
EARLY = """
Spearman's correlation of the best H so far, which is what a pruner sees, with the best at the full budget, over
recorded trainings; at the first evaluation at or after the share of the budget, whose update is in brackets.
"""
SEARCHES = """
Medians over repetitions of the trials that have ended, and of the compute, when the best trial so far is within a
threshold of the noise-free best H (100 %: within one sd of the seeds); compute as a share of what random search
without pruning takes for all its trials. A dash: fewer than half of the repetitions got there; in brackets how many
did, where not all. *Saved*: seconds that pruning saved, of what the same trials take to the end. *Best pruned*:
repetitions in which the trial that would have ended with the largest H was pruned.
"""
OVERALL = """
Compute to reach a threshold divided by what random search without pruning needs for it, the geometric mean over the
cells in which both medians are there; in brackets how many cells these are. *Δ regret*: regret minus that of random
search without pruning, over pairs of cell and repetition, with a 95 % interval and p of a signed-rank test: when half
of the compute is spent that the latter takes for all its trials (a search that has ended before keeps what it had),
and after the last trial, of searches with as many trials.
"""


@dataclass(frozen=True)
class Findings:
    """What the report is about.

    Attributes:
        found: traces of each arm that has any, by repetition.
        targets, qualities, early: by cell that has a table; see `Target`, `Quality` and `early_ranks`.
        missing: what is not there, each with why.
        left_out: samplers that cannot run here, each with why.
        about: machine, versions and settings.
    """

    found: Mapping[Arm, Mapping[int, Trace]]
    targets: Mapping[Cell, Target]
    qualities: Mapping[Cell, Quality]
    early: Mapping[Cell, Mapping[str, Mapping[str, Any]]]
    missing: Mapping[str, str]
    left_out: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def figures(self) -> dict[Arm, Figures]:
        """What each arm's repetitions say."""
        return {arm: figures([*traces.values()], self.targets[arm.cell]) for arm, traces in self.found.items()}


def write_report(findings: Findings, path: Path) -> None:
    """Write Markdown, JSON and figures.

    Args:
        findings: what there is.
        path: of the Markdown; the JSON is beside it, figures are in a folder of its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    told = findings.figures()
    drawn = write_figures(
        {arm: [*rows.values()] for arm, rows in findings.found.items()}, findings.targets, path.with_suffix("")
    )
    links = {cell: f"{path.stem}/{file.name}" for cell, file in drawn.items()}
    write_text(path, markdown(findings, told, links))
    write_json(path.with_suffix(".json"), plain(findings, told))


def plain(findings: Findings, told: Mapping[Arm, Figures]) -> dict[str, Any]:
    """What the JSON holds; the traces have the rest."""
    return {
        "about": dict(findings.about),
        "missing": dict(findings.missing),
        "left out": dict(findings.left_out),
        "cells": {
            cell.name: {
                "target": asdict(target),
                "surrogate": asdict(findings.qualities[cell]),
                "early": {share: dict(row) for share, row in findings.early[cell].items()},
                "searches": {
                    f"{arm.sampler}/{arm.pruner}": asdict(item) for arm, item in told.items() if arm.cell == cell
                },
            }
            for cell, target in findings.targets.items()
        },
        "overall": overall(findings.found, told, findings.targets),
        "stopping": search_stopping.plain(_stopping(findings)),
    }


def overall(
    found: Mapping[Arm, Mapping[int, Trace]], told: Mapping[Arm, Figures], targets: Mapping[Cell, Target]
) -> list[dict[str, Any]]:
    """A row a sampler and pruner: compute to a threshold as a multiple of the base's, saved and lost by pruning."""
    rows = []
    for sampler, pruner in dict.fromkeys((arm.sampler, arm.pruner) for arm in told):
        arms = {arm.cell: item for arm, item in told.items() if (arm.sampler, arm.pruner) == (sampler, pruner)}
        is_base, best = (sampler, pruner) == BASE, {cell: target.best for cell, target in targets.items()}
        same = [Arm(cell, sampler, pruner) for cell in arms]
        base = {cell: told.get(Arm(cell, *BASE)) for cell in arms}
        searches = sum(item.repetitions for item in arms.values())
        rows.append(
            {
                "sampler": sampler,
                "pruner": pruner,
                "cells": len(arms),
                "searches": searches,
                "compute": {name: _ratio(arms, base, name) for name in THRESHOLDS},
                "saved": fmean(item.saved for item in arms.values()),
                "best_pruned": sum(item.best_pruned for item in arms.values()) / searches,
                "regret": {"end": None, "budget": None} if is_base else _differences(found, told, best, same),
            }
        )
    return rows


def _ratio(arms: Mapping[Cell, Figures], base: Mapping[Cell, Figures | None], name: str) -> dict[str, Any]:
    ratios = []
    for cell, item in arms.items():
        other = base[cell]
        ours, theirs = _compute(item, name), None if other is None else _compute(other, name)
        if ours and theirs:
            ratios.append(log(ours / theirs))
    return {"ratio": exp(fmean(ratios)) if ratios else None, "cells": len(ratios)}


def _compute(item: Figures, name: str) -> float | None:
    return item.reached[name].compute if name in item.reached else None


def _differences(
    found: Mapping[Arm, Mapping[int, Trace]],
    told: Mapping[Arm, Figures],
    best: Mapping[Cell, float],
    arms: Sequence[Arm],
) -> dict[str, dict[str, float | None] | None]:
    """Regret of an arm of each cell minus that of the base, in pairs of cell and repetition.

    Returns:
        After the last trial, of searches with as many trials, and at `BUDGET` of the base's compute; None of fewer than
        two pairs.
    """
    at_end, at_budget = [], []
    for arm in arms:
        base = Arm(arm.cell, *BASE)
        for repetition in found[arm].keys() & found.get(base, {}).keys():
            pair = found[arm][repetition], found[base][repetition]
            if pair[0]["ended"][-1] == pair[1]["ended"][-1]:
                at_end.append([float(regret(trace, best[arm.cell])[-1]) for trace in pair])
            budget = np.array([BUDGET * told[base].compute])
            at_budget.append([float(regret_at(trace, best[arm.cell], budget)[0]) for trace in pair])
    return {"end": _paired(at_end), "budget": _paired(at_budget)}


def _paired(pairs: Sequence[Sequence[float]]) -> dict[str, float | None] | None:
    if len(pairs) < 2:
        return None
    return dict(vars(over_pairs([one for one, _ in pairs], [other for _, other in pairs])))


def markdown(findings: Findings, told: Mapping[Arm, Figures], links: Mapping[Cell, str]) -> str:
    """The report's text; links are figures by cell."""
    lines = ["# Samplers and pruners, compared on recorded trials", ""]
    lines += [*(f"- {name}: {value}" for name, value in findings.about.items()), ""]
    for title, items in (("Incomplete", findings.missing), ("Left out", findings.left_out)):
        if items:
            lines += [f"**{title}**: {'; '.join(f'{name} ({why})' for name, why in items.items())}.", ""]
    lines += [INTRODUCTION.strip(), ""]
    if not findings.targets:
        return "\n".join([*lines, "There is no table of any cell, and so no result.", ""])
    lines += [*_surrogates(findings), *_early(findings), *_overall(findings, told)]
    lines += search_stopping.section(_stopping(findings))
    lines += ["## Cell by cell", "", SEARCHES.strip(), ""]
    for cell in findings.targets:
        lines += _cell(cell, {arm: item for arm, item in told.items() if arm.cell == cell}, links)
    return "\n".join(lines)


def _stopping(findings: Findings) -> list[search_stopping.Stopped]:
    return search_stopping.stopping(findings.found, int(findings.about.get("workers", WORKERS)))


def _surrogates(findings: Findings) -> list[str]:
    head = ["cell", "configurations", "with seeds", "collapsed", "diverged"]
    head += ["R²", "rank", "unsound", "sd of H", "sd over seeds", "best recorded H", "noise-free best H"]
    rows = []
    for cell, target in findings.targets.items():
        made = findings.qualities[cell]
        counts = [made.configurations, made.repeated, f"{made.collapsed} of {made.trainings}"]
        counts += [f"{made.diverged} of {made.trainings}"]
        rated = [number(value, 2) for value in (made.r2, made.rank, made.unsound)]
        spread = [number(value) for value in (made.spread, made.noise, made.recorded, target.best)]
        rows.append([_name(cell), *map(str, counts), *rated, *spread])
    return ["## The surrogates", "", SURROGATES.strip(), "", *table(head, rows), ""]


def _early(findings: Findings) -> list[str]:
    shares = list(dict.fromkeys(share for rows in findings.early.values() for share in rows))
    rows = []
    for cell, told in findings.early.items():
        cells = [f"{number(told[s]['rank'], 2)} ({told[s]['update']})" if s in told else "–" for s in shares]
        rows.append([_name(cell), str(next(iter(told.values()))["trainings"]) if told else "0", *cells])
    title = "## What early values tell"
    return [title, "", EARLY.strip(), "", *table(["cell", "trainings", *shares], rows), ""]


def _overall(findings: Findings, told: Mapping[Arm, Figures]) -> list[str]:
    head = ["sampler", "pruner", "cells", "searches", *(f"compute to {name}" for name in THRESHOLDS)]
    head += ["saved", "best pruned", "Δ regret, half compute [95 %]", "p", "Δ regret, end [95 %]", "p"]
    rows = []
    for row in overall(findings.found, told, findings.targets):
        ratios = [f"{number(item['ratio'], 2)} ({item['cells']})" for item in row["compute"].values()]
        differing = [text for part in ("budget", "end") for text in difference_cells(row["regret"][part])]
        line = [row["sampler"], row["pruner"], str(row["cells"]), str(row["searches"]), *ratios]
        rows.append([*line, f"{row['saved']:.0%}", f"{row['best_pruned']:.0%}", *differing])
    return ["## Over all cells", "", OVERALL.strip(), "", *table(head, rows), ""]


def _cell(cell: Cell, told: Mapping[Arm, Figures], links: Mapping[Cell, str]) -> list[str]:
    lines = [f"### {_name(cell)}", ""]
    if not told:
        return [*lines, "No search is simulated yet.", ""]
    base = told.get(Arm(cell, *BASE))
    head = ["sampler", "pruner", "searches", "trials"]
    head += [f"{what} to {name}" for name in THRESHOLDS for what in ("trials", "compute")]
    head += ["regret [95 %]", "saved", "best pruned", "failed"]
    rows = []
    for arm, item in told.items():
        reached = [text for name in THRESHOLDS for text in _reached(item.reached.get(name), item.repetitions, base)]
        pruned = f"{item.best_pruned} of {item.repetitions}"
        tail = [_interval(item.regret), f"{item.saved:.0%}", pruned, f"{item.failed:.0%}"]
        rows.append([arm.sampler, arm.pruner, str(item.repetitions), str(item.trials), *reached, *tail])
    image = [f"![Regret over compute: {_name(cell)}]({links[cell]})", ""] if cell in links else []
    return [*lines, *table(head, rows), "", *image]


def _reached(item: Reached | None, repetitions: int, base: Figures | None) -> list[str]:
    if item is None:
        return ["–", "–"]
    some = "" if item.share == 1 else f" ({round(item.share * repetitions)})"
    compute = None if base is None or item.compute is None else item.compute / base.compute
    return [f"{number(item.trials, 0)}{some}", "–" if compute is None else f"{compute:.0%}"]


def _interval(value: Interval) -> str:
    ends = "" if value.low is None else f" [{value.low:.3f}, {value.high:.3f}]"
    return f"{value.mean:.3f}{ends}"


def _name(cell: Cell) -> str:
    return f"{cell.backbone} on {cell.dataset}"

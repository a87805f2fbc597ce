"""The table of a comparison."""

from typing import TYPE_CHECKING

from d3tune.results.markup import plain, with_sd
from d3tune.results.noted import NotedTable, difference_cells, seeds_note
from d3tune.words import TEST_SELECTED, plural

if TYPE_CHECKING:
    from d3tune.search.compare import Comparison, Measured

HEADS = ["test", "A", "B", "Δ [95 %]", "p"]


def comparison_table(comparison: "Comparison") -> NotedTable:
    """One row a metric."""
    rows = [
        [name, *(with_sd(side.test.mean(name), side.test.sd(name)) for side in _sides(comparison)), *cells]
        for name, cells in ((name, difference_cells(found)) for name, found in comparison.differences.items())
    ]
    return NotedTable(HEADS, rows, _notes(comparison))


def _sides(comparison: "Comparison") -> tuple["Measured", "Measured"]:
    return comparison.a, comparison.b


def _notes(comparison: "Comparison") -> list[str]:
    seeds, draws = comparison.seeds, ", ".join(map(str, comparison.splits))
    notes = [f"{letter}: {_side(side)}." for letter, side in zip("AB", _sides(comparison), strict=True)]
    notes.append(
        f"{plain(comparison.dataset['name'])}, {plural(len(seeds), 'seed')} from {seeds[0]}, validation "
        f"{'split' if len(comparison.splits) == 1 else 'splits'} {draws}; means ± sd over seeds, in [0, 1]. Updates, "
        "head and offset of each are fixed by its own validation, then it is tested once a seed."
    )
    notes.append(
        "Δ: A minus B, seed by seed; mean and 95 % interval (Student's t), p by Wilcoxon's signed-rank test, not "
        "corrected for the number of rows. The intervals are of seeds, not of other datasets or class splits."
    )
    if comparison.one_measurement:
        notes.append("Neither depends on the seed: all seeds are one measurement, without interval or p.")
    else:
        notes.append(seeds_note(len(seeds)))
    return notes


def _side(side: "Measured") -> str:
    trial = "" if side.trial is None else f"trial {side.trial}, "
    value = "" if side.selection.val_H is None else f", val H {side.selection.val_H:.3f}"
    chosen = f"{side.selection.head} at update {side.selection.updates}, offset {side.selection.seen_offset:.3g}{value}"
    note = f"; {TEST_SELECTED}: the test sets chose its hyper-parameters" if side.test_selected else ""
    return f"{plain(side.name)} ({side.backbone}, {trial}configuration {side.configuration}): {chosen}{note}"

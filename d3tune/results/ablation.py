"""The table of an ablation."""

from typing import TYPE_CHECKING

from d3tune.results import markup
from d3tune.results.noted import NotedTable, difference_cells, seeds_note
from d3tune.words import TEST_SELECTED, plural

if TYPE_CHECKING:
    from d3tune.search.ablate import Ablation, Row

SHOWN = ("H", "U", "S", "T1", "AUSUC")
HEADS = ["variant", "val H", *(f"test {name}" for name in SHOWN), "ΔH [95 %]", "p"]


def ablation_table(ablation: "Ablation") -> NotedTable:
    """One row a variant, the full configuration first."""
    return NotedTable(HEADS, [_row(row) for row in ablation.rows], _notes(ablation))


def _row(row: "Row") -> list[str]:
    if row.test is None or row.selection is None:
        return [f"{row.name} ({row.missing})", *["–"] * (len(HEADS) - 1)]
    validated = "–" if row.selection.val_H is None else f"{row.selection.val_H:.3f}"
    found = [markup.with_sd(row.test.mean(name), row.test.sd(name)) for name in SHOWN]
    return [row.name, validated, *found, *difference_cells(row.difference)]


def _notes(ablation: "Ablation") -> list[str]:
    notes = [
        f"{ablation.dataset}, {ablation.backbone}, {plural(len(ablation.seeds), 'seed')}; means ± sd over seeds, in "
        "[0, 1]. Updates, head and offset of each row are fixed by validation, then tested once a seed.",
        "ΔH: test H minus that of the full configuration, seed by seed; mean and 95 % interval (Student's t), p by "
        "Wilcoxon's signed-rank test. Nothing was tuned again; the intervals are of seeds, not of other datasets.",
        seeds_note(len(ablation.seeds)),
    ]
    if ablation.off:
        notes.append(f"Off in the configuration itself, and so in every row: {', '.join(ablation.off)}.")
    if ablation.test_selected:
        notes.append(f"{TEST_SELECTED}: the test sets chose the hyper-parameters of the configuration.")
    return notes

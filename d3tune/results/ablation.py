"""Tables of an ablation: for a terminal, Markdown, and LaTeX with booktabs."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from d3tune.results import markup
from d3tune.results.text import table_text
from d3tune.words import plural

if TYPE_CHECKING:
    from d3tune.search.ablate import Ablation, Paired, Row

SHOWN = ("H", "U", "S", "T1", "AUSUC")
HEADS = ["variant", "val H", *(f"test {name}" for name in SHOWN), "ΔH [95 %]", "p"]
MARKS = {f"L_{name}": rf"$L_{{\mathrm{{{name}}}}}$" for name in ("cls", "be", "kl", "od")} | {"D³": "D$^3$"}
ANY_MARK = re.compile("(" + "|".join(MARKS) + ")")


def ablation_text(ablation: "Ablation") -> str:
    """For a terminal."""
    return "\n".join([table_text(HEADS, _cells(ablation)), "", *_notes(ablation)])


def ablation_markdown(ablation: "Ablation") -> str:
    """A Markdown table with its notes."""
    return "\n".join([markup.markdown_table(HEADS, _cells(ablation)), "", *_notes(ablation)])


def ablation_latex(ablation: "Ablation") -> str:
    """A LaTeX table for the booktabs package; its notes are comments."""
    notes = [markup.latex_comment(note) for note in _notes(ablation)]
    rows = [[*map(_latex, line)] for line in _cells(ablation)]
    return "\n".join([*notes, markup.latex_table([*map(_latex, HEADS)], rows, "l" + "c" * (len(HEADS) - 1))])


def _cells(ablation: "Ablation") -> list[list[str]]:
    return [_row(row) for row in ablation.rows]


def _row(row: "Row") -> list[str]:
    if row.test is None or row.selection is None:
        return [f"{row.name} ({row.missing})", *["–"] * (len(HEADS) - 1)]
    validated = "–" if row.selection.val_H is None else f"{row.selection.val_H:.3f}"
    found = [markup.with_sd(row.test.mean(name), row.test.sd(name)) for name in SHOWN]
    return [row.name, validated, *found, *_difference(row.difference)]


def _difference(difference: "Paired | None") -> list[str]:
    if difference is None:
        return ["–", "–"]
    interval = "" if difference.low is None else f" [{difference.low:+.3f}, {difference.high:+.3f}]"
    return [f"{difference.mean:+.3f}{interval}", "–" if difference.p is None else f"{difference.p:.3f}"]


def _notes(ablation: "Ablation") -> Sequence[str]:
    notes = [
        f"{ablation.dataset}, {ablation.backbone}, {plural(len(ablation.seeds), 'seed')}; means ± sd over seeds, in "
        "[0, 1]. Updates, head and offset of each row are fixed by validation, then tested once a seed.",
        "ΔH: test H minus that of the full configuration, seed by seed; mean and 95 % interval (Student's t), p by "
        "Wilcoxon's signed-rank test. Nothing was tuned again; the intervals are of seeds, not of other datasets.",
    ]
    if ablation.off:
        notes.append(f"Off in the configuration itself, and so in every row: {', '.join(ablation.off)}.")
    return notes


def _latex(cell: str) -> str:
    # every second piece is a mark
    pieces = ANY_MARK.split(markup.plain(cell))
    return "".join(MARKS[piece] if place % 2 else markup.escape_latex(piece) for place, piece in enumerate(pieces))

"""A table of test results with its notes: for a terminal, as Markdown, or as LaTeX with booktabs."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from d3tune.results import markup
from d3tune.results.text import table_text
from d3tune.search.pairing import Paired, smallest_p

MARKS = {f"L_{name}": rf"$L_{{\mathrm{{{name}}}}}$" for name in ("cls", "be", "kl", "od")} | {"D³": "D$^3$"}
ANY_MARK = re.compile("(" + "|".join(MARKS) + ")")


@dataclass(frozen=True)
class NotedTable:
    """Plain cells, and what has to be known of them.

    Attributes:
        head: of each column.
        rows: of cells.
        notes: sentences.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


def noted_text(table: NotedTable) -> str:
    """For a terminal."""
    return "\n".join([table_text(table.head, table.rows), "", *table.notes])


def noted_markdown(table: NotedTable) -> str:
    """A Markdown table with its notes."""
    return "\n".join([markup.markdown_table(table.head, table.rows), "", *map(markup.markdown, table.notes)])


def noted_latex(table: NotedTable) -> str:
    """A LaTeX table for the booktabs package; its notes are comments."""
    notes = [markup.latex_comment(note) for note in table.notes]
    rows = [[*map(_latex, line)] for line in table.rows]
    columns = "l" + "c" * (len(table.head) - 1)
    return "\n".join([*notes, markup.latex_table([*map(_latex, table.head)], rows, columns)])


FORMS: dict[str, Callable[[NotedTable], str]] = {
    "table": noted_text,
    "markdown": noted_markdown,
    "latex": noted_latex,
}


def difference_cells(difference: Paired | None) -> list[str]:
    """``+0.012 [-0.003, +0.027]`` and p; dashes for what there is not."""
    if difference is None:
        return ["–", "–"]
    interval = "" if difference.low is None else f" [{difference.low:+.3f}, {difference.high:+.3f}]"
    return [f"{difference.mean:+.3f}{interval}", "–" if difference.p is None else f"{difference.p:.3f}"]


def seeds_note(n_seeds: int) -> str:
    """What so many seeds can show at most; see `d3tune.search.pairing.smallest_p`."""
    least = smallest_p(n_seeds)
    if least is None:
        return "One seed: without interval or p; give more --seeds."
    shown = f"{least:.4f}".rstrip("0") if least >= 1e-4 else "less than 0.0001"
    return f"With {n_seeds} seeds the smallest possible two-sided p is 2/2^{n_seeds} = {shown}."


def _latex(cell: str) -> str:
    # every second piece is a mark
    pieces = ANY_MARK.split(markup.plain(cell))
    return "".join(MARKS[piece] if place % 2 else markup.escape_latex(piece) for place, piece in enumerate(pieces))

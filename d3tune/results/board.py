"""The leaderboard for a terminal, and as Markdown, CSV, JSON, LaTeX and HTML.

Three kinds of row never share a table: runs that validation chose, test-selected runs, and published results.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from textwrap import fill
from typing import Any

from d3tune.files import writable_file, write_text
from d3tune.results import markup
from d3tune.results.leaderboard import COLUMNS, GROUP, METRICS
from d3tune.results.markup import plain, with_sd
from d3tune.results.published import HEADER, Published, published_beside
from d3tune.results.text import table_text
from d3tune.words import FIRST_SEARCH, TEST_SELECTED

Row = Mapping[str, Any]
Rows = Sequence[Row]
Cell = Callable[[Row], str]

WIDTH = 120
TITLE = "d3tune leaderboard"
EMPTY = {
    "all": f"no confirmed run yet; start with: {FIRST_SEARCH}",
    "test": f"no confirmed run yet; start with: {FIRST_SEARCH}",
    "published": f"no {TEST_SELECTED} run; one is made by: {FIRST_SEARCH} --protocol published",
}
CONFIRMED = (
    "protocol test: chosen on validation, tested once a seed; means ± sd over seeds, in [0, 1]; hours: of compute, "
    "all trials; a baseline is tuned beside a search and has no seeds"
)
CLAIMED = (
    f"protocol published, {TEST_SELECTED}: each seed's best test epoch, no estimate of what a new test would give; "
    "gap: what it claims beyond the confirmed test H of the same data and backbone"
)
PUBLISHED = f"published results, {TEST_SELECTED}: in [0, 1], as printed by their sources, not ranked with runs"

# in a terminal, behind the name of a baseline
BASELINE = "*"

# columns that are centred in LaTeX
COUNTS = {"seeds", "splits", "trials", "compute hours", "runs"}
NUMBERS = {"val H", "test H", "claimed H", "confirmed H", "gap", *METRICS, *COUNTS}

HONEST_HEADS = ("val H", "test H", *METRICS[1:])
CLAIMED_HEADS = ("claimed H", "confirmed H", "gap", *METRICS[1:], "confirmed run")
PUBLISHED_HEADS = [*HEADER, "selection"]


@dataclass(frozen=True)
class Block:
    """A table of the leaderboard.

    Attributes:
        title: what its rows are.
        head: of each column.
        rows: of plain cells.
    """

    title: str
    head: list[str]
    rows: list[list[str]]


def leaderboard_text(rows: Rows, protocol: str = "all") -> str:
    """For a terminal: at most 120 characters wide, of the deviations only that of H.

    Args:
        rows: from `leaderboard_rows`, of one protocol or of all.
        protocol: which were asked for.
    """
    if not rows:
        return EMPTY[protocol]
    parts = [part for group in _groups(rows, "dataset", "semantics") for part in _group_texts(group)]
    notes = [CONFIRMED] if any(_honest(row) for row in rows) else []
    notes += [f"{BASELINE} baseline, tuned by validation beside a search"] if _any_baseline(rows) else []
    notes += [CLAIMED] if not all(_honest(row) for row in rows) else []
    return "\n\n".join([*parts, "\n".join(_wrapped(note) for note in notes)])


def leaderboard_markdown(rows: Rows, protocol: str = "all") -> str:
    """Markdown: a table for each kind of row."""
    if not rows:
        return EMPTY[protocol]
    return "\n\n".join(
        f"{markup.markdown(block.title)}\n\n{markup.markdown_table(block.head, block.rows)}" for block in _blocks(rows)
    )


def leaderboard_latex(rows: Rows, protocol: str = "all") -> str:
    """LaTeX for the booktabs package: a table for each kind of row, its title a comment."""
    if not rows:
        return markup.latex_comment(EMPTY[protocol])
    return "\n\n".join(f"{markup.latex_comment(block.title)}\n{_latex(block)}" for block in _blocks(rows))


def leaderboard_html(rows: Rows, protocol: str = "all") -> str:
    """One HTML page that needs nothing else."""
    tables = [markup.html_table(block.title, block.head, block.rows) for block in _blocks(rows)]
    return markup.html_page(TITLE, tables or [markup.html_paragraph(EMPTY[protocol])])


def leaderboard_csv(rows: Rows, protocol: str = "all") -> str:
    """CSV of the runs: every column at full precision, empty where there is no value. See `published_csv`."""
    return _csv(COLUMNS, rows)


def published_csv(rows: Rows) -> str:
    """CSV of the published results beside the runs."""
    return _csv(PUBLISHED_HEADS, [result.to_dict() for result in _published(rows)])


def leaderboard_json(rows: Rows, protocol: str = "all") -> str:
    """JSON: the rows, each with the ``published`` results on its dataset and semantics."""
    beside = [
        {**row, "published": [found.to_dict() for found in published_beside(row["dataset"], row["semantics"])]}
        for row in rows
    ]
    # the name of a folder need not be Unicode
    return json.dumps(beside, indent=2, ensure_ascii=False).encode(errors="replace").decode()


def write_board(output: Path, form: str, rows: Rows, protocol: str = "all") -> list[Path]:
    """Write the leaderboard to a file; of CSV, published results to a second one, as a file holds one table.

    Args:
        output: e.g. ``board.csv``; the second is then ``board-published.csv``.
        form: one of `FORMS`.
        rows: as in `leaderboard_text`.
        protocol: likewise.

    Returns:
        What was written.

    Raises:
        UsageError: it cannot be written.
    """
    writable_file(output, "give another -o")
    texts = {output: FORMS[form](rows, protocol)}
    second = output.with_name(f"{output.stem}-published{output.suffix}")
    if form == "csv" and _published(rows):
        writable_file(second, "give another -o")
        texts[second] = published_csv(rows)
    if form == "csv" and second not in texts:
        # of an earlier board, which this one replaces
        second.unlink(missing_ok=True)
    for path, text in texts.items():
        write_text(path, text + "\n")
    return list(texts)


FORMS: dict[str, Callable[[Rows, str], str]] = {
    "table": leaderboard_text,
    "markdown": leaderboard_markdown,
    "csv": leaderboard_csv,
    "json": leaderboard_json,
    "latex": leaderboard_latex,
    "html": leaderboard_html,
}


def _any_baseline(rows: Rows) -> bool:
    return any(row["kind"] == "baseline" for row in rows)


def _honest(row: Row) -> bool:
    return bool(row["protocol"] == "test")


def _groups(rows: Rows, *names: str) -> Iterator[list[Row]]:
    """The rows with the same values, groups and rows in the order they had."""
    ranks: dict[tuple[str, ...], int] = {}
    for row in rows:
        ranks.setdefault(tuple(row[name] for name in names), len(ranks))

    def rank(row: Row) -> int:
        return ranks[tuple(row[name] for name in names)]

    for _, group in groupby(sorted(rows, key=rank), rank):
        yield list(group)


def _published(rows: Rows) -> list[Published]:
    """The published results on the datasets and semantics of the rows, each once."""
    found = [result for row in rows for result in published_beside(row["dataset"], row["semantics"])]
    return list(dict.fromkeys(found))


# for a terminal


def _group_texts(rows: Rows) -> Iterator[str]:
    """The tables of one dataset and semantics."""
    for same in _groups(rows, "features"):
        honest, claimed = [row for row in same if _honest(row)], [row for row in same if not _honest(row)]
        where = f"{same[0]['dataset']}, {same[0]['semantics']}, features {same[0]['features']}"
        if honest:
            notes = _splits_note(honest), _runs_note(honest, "val H")
            yield _titled(where, _brief(honest, *HONEST_HEADS), *notes)
        if claimed:
            table = _brief(claimed, "claimed H", "confirmed H", "gap", "U", "S")
            yield _titled(f"{where}: {TEST_SELECTED} runs", table, _runs_note(claimed, "claimed H"))
    if found := _published(rows):
        names = ["method", "U", "S", "H", "features", "evidence"]
        table = table_text(names, [_result_cells(result, names) for result in found], WIDTH, tight=True)
        where = f"{rows[0]['dataset']}, {rows[0]['semantics']}: {PUBLISHED}"
        yield _titled(where, table, _wrapped(_features_note(rows, found)))


def _titled(title: str, *parts: str) -> str:
    return "\n".join([_wrapped(title), *filter(None, parts)])


def _wrapped(text: str) -> str:
    return fill(plain(text), WIDTH, break_on_hyphens=False, break_long_words=False)


def _brief(rows: Rows, *heads: str) -> str:
    """A table of runs for a terminal; of the deviations only that of H."""
    names = ["backbone", *heads, "seeds", "trials", "hours", "config", "run"]
    return table_text(names, [[plain(BRIEF[name](row)) for name in names] for row in rows], WIDTH, tight=True)


def _splits_note(rows: Rows) -> str:
    several = [f"{CELLS['backbone'](row)} over {row['splits']}" for row in rows if (row["splits"] or 1) > 1]
    return _wrapped(f"val H over several validation splits: {', '.join(several)}") if several else ""


def _runs_note(rows: Rows, chosen_by: str) -> str:
    several = [f"{row['backbone']} of {row['runs']}" for row in rows if row["runs"] > 1 and row["kind"] != "baseline"]
    return _wrapped(f"of several runs the one with the best {chosen_by}: {', '.join(several)}") if several else ""


def _features_note(rows: Rows, found: Sequence[Published]) -> str:
    """Where features differ, those of both."""
    ours = dict.fromkeys(row["features"] for row in rows)
    theirs = dict.fromkeys(result.features for result in found)
    if ours.keys() == theirs.keys():
        return ""
    return f"features differ: runs {', '.join(ours)}; published {', '.join(theirs)}"


# for the other formats


def _blocks(rows: Rows) -> list[Block]:
    """A table for each kind of row that there is."""
    optional = [name for name in ("splits", "runs") if any((row[name] or 1) > 1 for row in rows)]
    honest, claimed = [row for row in rows if _honest(row)], [row for row in rows if not _honest(row)]
    found = _published(rows)
    note = _features_note([row for row in rows if published_beside(row["dataset"], row["semantics"])], found)
    blocks = [
        _runs_block(CONFIRMED, honest, HONEST_HEADS, optional),
        _runs_block(CLAIMED, claimed, CLAIMED_HEADS, optional),
        Block("; ".join(filter(None, [PUBLISHED, note])), PUBLISHED_HEADS, [_result_cells(item) for item in found]),
    ]
    return [block for block in blocks if block.rows]


def _runs_block(title: str, rows: Rows, heads: Sequence[str], optional: Sequence[str]) -> Block:
    """A table of runs.

    Args:
        title: what they are.
        rows: of one kind.
        heads: the columns that this kind has.
        optional: columns that say something: of several validation splits, of several runs.
    """
    splits, runs = (([name] if name in optional else []) for name in ("splits", "runs"))
    last = ["protocol", "seeds", *splits, "trials", "compute hours", "run", *runs, "configuration"]
    names = [*GROUP, *heads, *last]
    return Block(title, names, [[CELLS[name](row) for name in names] for row in rows])


def _latex(block: Block) -> str:
    columns = "".join("c" if name in NUMBERS else "l" for name in block.head)
    rows = [[*map(markup.latex, line)] for line in block.rows]
    return markup.latex_table([*map(markup.latex, block.head)], rows, columns)


def _csv(columns: Sequence[str], rows: Rows) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _on_one_line(row[name]) for name in columns} for row in rows)
    return file.getvalue().removesuffix("\n")


def _on_one_line(value: Any) -> Any:
    return plain(value) if isinstance(value, str) else value


# cells


def _result_cells(result: Published, names: Sequence[str] = PUBLISHED_HEADS) -> list[str]:
    values = [result.to_dict()[name] for name in names]
    return [value if isinstance(value, str) else _number(value) for value in values]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _shown(name: str) -> Cell:
    return lambda row: "–" if row[name] is None else str(row[name])


def _accuracy(name: str) -> Cell:
    return lambda row: _number(row[name])


def _mean(name: str) -> Cell:
    return lambda row: "–" if row[name] is None else with_sd(row[name], row[f"{name}_sd"])


def _gap(row: Row) -> str:
    return "–" if row["gap"] is None else f"{row['gap']:+.3f}"


CELLS: dict[str, Cell] = {
    **{name: _shown(name) for name in (*GROUP, "seeds", "splits", "trials", "run", "runs", "configuration")},
    "backbone": lambda row: f"{row['backbone']} (baseline)" if row["kind"] == "baseline" else str(row["backbone"]),
    "val H": _accuracy("val_H"),
    "test H": _mean("test_H"),
    "claimed H": _mean("test_H"),
    **{metric: _mean(f"test_{metric}") for metric in METRICS[1:]},
    "confirmed H": _mean("confirmed_H"),
    "gap": _gap,
    "confirmed run": _shown("confirmed_run"),
    "protocol": lambda row: str(row["protocol"]) if _honest(row) else TEST_SELECTED,
    "compute hours": lambda row: "–" if row["trial_hours"] is None else f"{row['trial_hours']:.2f}",
}
BRIEF = {
    **CELLS,
    # marked by a sign: a word would fold the names of runs
    "backbone": lambda row: f"{row['backbone']}{BASELINE if row['kind'] == 'baseline' else ''}",
    **{metric: _accuracy(f"test_{metric}") for metric in METRICS[1:]},
    "hours": CELLS["compute hours"],
    "config": CELLS["configuration"],
}

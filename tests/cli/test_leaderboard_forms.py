"""The leaderboard in every format, and names that mean something elsewhere."""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from d3tune.results.leaderboard import COLUMNS
from d3tune.results.published import HEADER, published_beside

Command = Callable[..., Any]
Write = Callable[..., Path]

FORMATS = ("table", "markdown", "csv", "json", "latex", "html")
LABEL = "test-selected"
HEADS = [
    *("dataset", "semantics", "features", "backbone", "val H", "test H", "U", "S", "T1", "AUSUC"),
    *("protocol", "seeds", "trials", "compute hours", "run", "configuration"),
]
NASTY = "a|b\\|c & 100 %_{x}~^#$ <script>alert('1')</script> \"q\", *b* `c` [d](e) é \x1b[2J \n | x |"
SHOWN = " ".join(NASTY.replace("\x1b", "?").split())


def tables_of(markdown: str) -> list[list[list[str]]]:
    """The tables of a Markdown text, as one that knows escapes reads them."""
    found: list[list[list[str]]] = [[]]
    for line in markdown.splitlines():
        if line.startswith("|"):
            cells = re.findall(r"(?:\\.|[^|\\])+", line)
            found[-1].append([re.sub(r"\\(.)", r"\1", cell).strip() for cell in cells])
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


class Page(HTMLParser):
    """Tables, tags and text of a page; a tag that is not closed fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.captions: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "caption":
            self.captions.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open and self._open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        elif self._open and self._open[-1] == "caption":
            self.captions[-1] += data


def latex_rows(text: str) -> list[list[list[str]]]:
    """The rows of each tabular; what LaTeX would stumble over fails."""
    tables = []
    for columns, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}\n(.*?)\n\\end\{tabular\}", text, re.DOTALL):
        lines = body.splitlines()
        assert (lines[0], lines[2], lines[-1]) == (r"\toprule", r"\midrule", r"\bottomrule")
        rows = [line.removesuffix(r" \\") for line in (lines[1], *lines[3:-1])]
        assert all(line.endswith(r" \\") for line in (lines[1], *lines[3:-1]))
        for row in rows:
            assert row.count(" & ") == len(columns) - 1
            assert not row.startswith(("[", "*"))
            rest = re.sub(r"\\[%&_#${}]|\\[a-z]+\{\}|\$\\pm\$| & |^\{\}", "", row)
            assert not re.search(r"[%&_#${}~^\\<>|±–]", rest), rest
        tables.append([row.split(" & ") for row in rows])
    return tables


def test_the_gap_of_a_test_selected_run_is_in_documents_too(d3tune: Command, cub: Path) -> None:
    (head, *cells), *_ = tables_of(d3tune("leaderboard", "--protocol", "published", "--format", "markdown").out)
    found = {cell[head.index("backbone")]: dict(zip(head, cell, strict=True)) for cell in cells}
    assert [found["gan"][name] for name in ("claimed H", "confirmed H", "gap", "protocol", "confirmed run")] == [
        *("0.655 ± 0.001", "0.600 ± 0.012", "+0.055", LABEL, "high")
    ]


def test_csv_is_one_table_and_published_results_another(d3tune: Command, cub: Path, tmp_path: Path) -> None:
    rows = json.loads(d3tune("leaderboard", "--json").out)
    read = list(csv.DictReader(io.StringIO(d3tune("leaderboard", "--format", "csv").out), strict=True))
    assert len(read) == len(rows)
    for row, cells in zip(rows, read, strict=True):
        assert list(cells) == COLUMNS
        assert all(cells[name] == ("" if row[name] is None else str(row[name])) for name in COLUMNS)
    end = d3tune("leaderboard", "--format", "csv", "-o", tmp_path / "board.csv")
    assert end.out == ""
    assert end.err == f"wrote {tmp_path / 'board.csv'}\nwrote {tmp_path / 'board-published.csv'}\n"
    with (tmp_path / "board.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == read
    with (tmp_path / "board-published.csv").open(encoding="utf-8", newline="") as file:
        published = list(csv.DictReader(file))
    assert list(published[0]) == [*HEADER, "selection"]
    assert [row["method"] for row in published] == [found.method for found in published_beside("cub", "att312")]
    assert {row["selection"] for row in published} == {LABEL}
    assert (published[0]["U"], published[0]["H"]) == ("0.437", "0.497")


def test_a_board_of_two_files_is_written_whole_and_replaces_both(d3tune: Command, cub: Path, tmp_path: Path) -> None:
    board, second = tmp_path / "board.csv", tmp_path / "board-published.csv"
    second.mkdir()
    end = d3tune("leaderboard", "--format", "csv", "-o", board)
    assert (end.code, end.err.count("\n")) == (2, 1), end
    assert str(second) in end.err
    assert not board.exists()
    second.rmdir()
    assert d3tune("leaderboard", "--format", "csv", "-o", board).code == 0
    assert second.is_file()
    for path in cub.parent.iterdir():
        shutil.rmtree(path)
    assert d3tune("leaderboard", "--format", "csv", "-o", board).code == 0
    assert not second.exists()


def test_tables_of_documents_say_the_same(d3tune: Command, cub: Path) -> None:
    tables = tables_of(d3tune("leaderboard", "--format", "markdown").out)
    assert len(tables) == 3
    honest, _, published = tables
    # the column of splits is there since one run has several
    heads = [*HEADS]
    heads.insert(heads.index("trials"), "splits")
    assert honest[0] == heads
    assert all(len(row) == len(table[0]) for table in tables for row in table)
    by_run = {row[heads.index("run")]: dict(zip(heads, row, strict=True)) for row in honest[2:]}
    assert by_run.keys() == {"high", "low", "hanzi-run"}
    assert [by_run["high"][name] for name in ("test H", "U", "seeds", "splits", "trials", "compute hours")] == [
        *("0.600 ± 0.012", "0.550 ± 0.020", "3", "2", "7", "12.50")
    ]
    assert published[0] == [*HEADER, "selection"]
    assert len(published) == 2 + len(published_beside("cub", "att312"))
    assert all(row[-1] == LABEL for row in published[2:])
    page = Page(d3tune("leaderboard", "--format", "html").out)
    assert page.tables == [[table[0], *table[2:]] for table in tables]
    assert [LABEL in caption for caption in page.captions] == [False, True, True]
    assert "features differ: runs clip" in page.captions[2]
    text = d3tune("leaderboard", "--format", "latex").out
    latex = latex_rows(text)
    assert [[len(table), len(table[0])] for table in latex] == [[len(rows), len(rows[0])] for rows in page.tables]
    assert latex[0][0] == heads
    assert r"0.600 $\pm$ 0.012" in latex[0][1]
    assert len([line for line in text.splitlines() if line.startswith("% ") and LABEL in line]) == 2


def test_without_several_splits_there_is_no_column_of_them(d3tune: Command, write: Write) -> None:
    write("run")
    (table,) = tables_of(d3tune("leaderboard", "--format", "markdown").out)
    assert table[0] == HEADS


def test_the_page_needs_nothing_else(d3tune: Command, cub: Path) -> None:
    text = d3tune("leaderboard", "--format", "html").out
    assert text.startswith("<!DOCTYPE html>")
    page = Page(text)
    assert not page.tags & {"script", "link", "img", "iframe", "object"}
    assert not page.attributes & {"src", "href", "style", "onclick"}
    assert "url(" not in text
    assert "http" not in text


def test_names_that_mean_something_elsewhere_are_shown_as_they_are(d3tune: Command, write: Write) -> None:
    write("run", backbone=NASTY, dataset={"name": NASTY, "semantics": "*", "features": "[x]"})
    write("-e cat", "published", backbone=NASTY, dataset={"name": "[1ex]", "semantics": "*", "features": "[x]"})
    table, claimed = tables_of(d3tune("leaderboard", "--format", "markdown").out)
    assert table[2][0] == SHOWN
    assert table[2][3] == SHOWN
    assert len(table[2]) == len(HEADS)
    page = Page(d3tune("leaderboard", "--format", "html").out)
    assert "script" not in page.tags
    assert page.tables[0][1][:4] == [SHOWN, "*", "[x]", SHOWN]
    assert page.tables[1][1][0] == claimed[2][0] == "[1ex]"
    first, second = latex_rows(d3tune("leaderboard", "--format", "latex").out)
    assert first[1][0].startswith(r"a\textbar{}b\textbackslash{}\textbar{}c \& 100 \%\_\{x\}\textasciitilde{}")
    assert second[1][0] == "{}[1ex]"
    rows = list(csv.DictReader(io.StringIO(d3tune("leaderboard", "--format", "csv").out), strict=True))
    assert [row["backbone"] for row in rows] == [SHOWN, SHOWN]
    assert {row["backbone"] for row in json.loads(d3tune("leaderboard", "--json").out)} == {NASTY}
    out = d3tune("leaderboard").out
    assert "\x1b" not in out
    assert "[x]" in out


def test_a_folder_whose_name_is_no_text(d3tune: Command, write: Write, tmp_path: Path) -> None:
    write("run-\udcff")
    for form in FORMATS:
        assert d3tune("leaderboard", "--format", form).code == 0
        assert d3tune("leaderboard", "--format", form, "-o", tmp_path / form).code == 0
        (tmp_path / form).read_text(encoding="utf-8")


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_holds_what_is_printed(d3tune: Command, cub: Path, tmp_path: Path, form: str) -> None:
    printed = d3tune("leaderboard", "--format", form).out
    end = d3tune("leaderboard", "--format", form, "-o", tmp_path / "board")
    assert (end.code, end.out) == (0, "")
    assert (tmp_path / "board").read_text(encoding="utf-8") == printed
    again = d3tune("leaderboard", "--format", form, "-o", tmp_path / "board")
    assert again.code == 0


@pytest.mark.parametrize("form", FORMATS)
def test_an_empty_leaderboard_in_every_format(d3tune: Command, form: str) -> None:
    for protocol, words in (("all", "start with: d3tune search"), ("published", "--protocol published")):
        end = d3tune("leaderboard", "--format", form, "--protocol", protocol)
        assert (end.code, end.err) == (0, "")
        if form == "json":
            assert json.loads(end.out) == []
        elif form == "csv":
            assert end.out == ",".join(COLUMNS) + "\n"
        elif form == "html":
            page = Page(end.out)
            assert words in page.text
            assert page.tables == []
        elif form == "latex":
            assert all(line.startswith("% ") for line in end.out.splitlines())
            assert words in end.out
        else:
            assert words in end.out

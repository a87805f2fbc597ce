"""Writing a report: the page and its figures, each whole or not at all, the page last."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d3tune.errors import UsageError
from d3tune.files import home, slug, writable_directory, write_atomically, write_text
from d3tune.results.report.compared import COMPARED, comparison_figures, comparison_tables
from d3tune.results.report.figures import figures_of
from d3tune.results.report.material import Material, read_material
from d3tune.results.report.page import Rendered, Section, rendered, report_page, run_section
from d3tune.results.report.style import styled
from d3tune.search.run import RunDirectory, open_run

PAGE, FIGURES = "index.html", "figures"
KINDS = ("png", "svg")
ADVICE = "give another place with -o"


@dataclass(frozen=True)
class Report:
    """A report that was written.

    Attributes:
        page: the HTML file.
        runs: what it is about.
        figures: in the order of the page, also those that could not be drawn.
    """

    page: Path
    runs: tuple[RunDirectory, ...]
    figures: tuple[Rendered, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        folder = self.page.parent / FIGURES
        return {
            "page": str(self.page),
            "runs": [str(run.path) for run in self.runs],
            "figures": [_as_json(figure, folder) for figure in self.figures],
        }


def write_report(names: Sequence[str], output: Path | None) -> Report:
    """Write the report of one run, or of several side by side; an earlier one in the same place is replaced.

    The runs are only read, also while a search is at work on them.

    Args:
        names: directories or names of runs; one that is named twice counts once.
        output: the folder; None is ``report`` in the run, and for several ``$D3TUNE_HOME/reports/…``.

    Raises:
        UsageError: there is no such run, or the place is a file.
        RunError: a run is damaged.
        D3TuneError: the place cannot be written.
    """
    runs = tuple({run.path.resolve(): run for run in map(open_run, names)}.values())
    folder = (output or _default(runs)).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; {ADVICE}")
    materials = [read_material(run) for run in runs]
    writable_directory(folder, ADVICE)
    writable_directory(folder / FIGURES, ADVICE)
    sections = _sections(materials)
    title = f"d3tune report: {runs[0].name}" if len(runs) == 1 else f"d3tune report: {len(runs)} runs"
    report = Report(folder / PAGE, runs, tuple(figure for section in sections for figure in section.figures))
    _remove_others(folder / FIGURES, report.figures)
    for figure in report.figures:
        _write_figure(folder / FIGURES, figure)
    # a page that is there is whole: it holds its figures
    write_text(report.page, report_page(title, sections))
    return report


def _sections(materials: Sequence[Material]) -> list[Section]:
    with styled():
        if len(materials) == 1:
            return [_of_run(materials[0], "")]
        figures = [rendered(drawn, slug(drawn.name)) for drawn in comparison_figures(materials)]
        compared = Section("compared", "The runs compared", _scrolling(comparison_tables(materials)), figures)
        each = [_of_run(item, f"{number}-") for number, item in enumerate(materials, start=1)]
        return [compared, *each]


def _of_run(material: Material, before: str) -> Section:
    figures = [rendered(drawn, f"{before}{slug(drawn.name)}") for drawn in figures_of(material)]
    return run_section(material, figures, f"run-{before or 1}".rstrip("-"))


def _scrolling(tables: Sequence[str]) -> list[str]:
    return [f'<div class="wide">{table}</div>' for table in tables]


def _default(runs: Sequence[RunDirectory]) -> Path:
    if len(runs) == 1:
        return runs[0].path / "report"
    places = "\n".join(str(run.path) for run in runs)
    name = f"{slug('-'.join(run.name for run in runs))[:80]}-{hashlib.sha256(places.encode()).hexdigest()[:6]}"
    return home() / "reports" / name


def _remove_others(folder: Path, figures: Sequence[Rendered]) -> None:
    """Remove figures of an earlier report, of one run or several, that this one has not; other files are not ours."""
    kept = {f"{figure.name}.{kind}" for figure in figures if figure.svg for kind in KINDS}
    names = {slug(figure.drawn.name) for figure in figures} | set(COMPARED)
    for file in folder.iterdir():
        ours = re.sub(r"^\d+-", "", file.stem) in names and file.suffix.lstrip(".") in KINDS
        if ours and file.name not in kept:
            file.unlink(missing_ok=True)


def _write_figure(folder: Path, figure: Rendered) -> None:
    if not figure.svg:
        return
    png, svg = (folder / f"{figure.name}.{kind}" for kind in KINDS)
    write_atomically(png, lambda temporary: _fill(temporary, figure.png))
    write_text(svg, figure.svg)


def _fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _as_json(figure: Rendered, folder: Path) -> dict[str, Any]:
    drawn = figure.drawn
    files = {kind: str(folder / f"{figure.name}.{kind}") if figure.svg else None for kind in KINDS}
    words = {"title": drawn.title, "caption": drawn.caption, "alt": drawn.alt, "missing": drawn.missing or None}
    return {"name": figure.name, **words, **files}

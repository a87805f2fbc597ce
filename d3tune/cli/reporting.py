"""The command that shows what came of searches as one page: report."""

from pathlib import Path
from typing import Annotated

import typer

from d3tune.cli import names
from d3tune.cli.options import MINE, Json, examples
from d3tune.cli.program import app
from d3tune.cli.terminal import put, say


@app.command(epilog=examples("d3tune report mine", "d3tune report mine -o report", note=MINE))
def report(
    runs: Annotated[
        list[str],
        typer.Argument(help="Directories or names of runs; several are compared.", autocompletion=names.runs),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder; of one run RUN/report, of several in $D3TUNE_HOME/reports."),
    ] = None,
    as_json: Json = False,
) -> None:
    """One HTML page with figures, tables and captions, and each figure as PNG and SVG; needs no network to open.

    Reads the study alone: also while a search is at work. The same command again replaces it.
    """
    from d3tune.results.report.writing import write_report

    written = write_report(runs, output)
    if as_json:
        put(written.to_dict())
    else:
        say(f"wrote {written.page}")

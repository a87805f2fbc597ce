"""The command that shows what came of searches as one page: report."""

from pathlib import Path
from typing import Annotated

import typer

from d3tune.cli.options import Json
from d3tune.cli.program import app
from d3tune.cli.terminal import put, say


@app.command(epilog="Example: d3tune report hanzi-0-gan-s0-dc6949 -o report")
def report(
    runs: Annotated[list[str], typer.Argument(help="Directories or names of runs; several are compared.")],
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

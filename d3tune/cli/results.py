"""Commands on what came of searches: export, compare, examine, serve."""

from pathlib import Path
from typing import Annotated

import typer

from d3tune.cli import names
from d3tune.cli.options import MINE, DataDir, Json, TrackingUri, examples
from d3tune.cli.program import app
from d3tune.cli.terminal import put, say


@app.command(
    epilog=examples(
        "d3tune export mine -o best.yaml", "d3tune export --dataset hanzi --backbone gan -o hanzi.yaml", note=MINE
    )
)
def export(
    run: Annotated[
        str | None, typer.Argument(help="A run's directory or name; or give both options.", autocompletion=names.runs)
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="With --backbone: its best confirmed run.", autocompletion=names.datasets)
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="With --dataset.", autocompletion=names.backbones)] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file to write; best.yaml.")] = None,
    shown: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="yaml, json, python or shell; by the file's name, else yaml.",
            autocompletion=names.export_formats,
        ),
    ] = None,
    trial: Annotated[int | None, typer.Option(min=0, help="A completed trial of RUN instead of its winner.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
) -> None:
    """Write the best configuration of a run as a file that `d3tune train` takes, or as a script that retrains it."""
    from d3tune.results.export import export_best

    say(f"wrote {export_best(run, dataset, backbone, output, force, shown, trial)}")


@app.command(epilog=examples("d3tune leaderboard", "d3tune leaderboard --format markdown -o board.md"))
def leaderboard(
    shown: Annotated[
        str,
        typer.Option("--format", help="table, markdown, csv, json, latex or html.", autocompletion=names.board_formats),
    ] = "table",
    protocol: Annotated[
        str,
        typer.Option(
            help="all, test or published: what picking on the test set claims.", autocompletion=names.board_protocols
        ),
    ] = "all",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it here; of CSV, published results beside it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Best confirmed H for each dataset and backbone, beside published results on the same data."""
    from d3tune.errors import UsageError, one_of
    from d3tune.results.board import EMPTY, FORMS, write_board
    from d3tune.results.leaderboard import leaderboard_rows

    one_of("--format", shown, tuple(FORMS))
    one_of("--protocol", protocol, tuple(EMPTY))
    if as_json and shown not in ("table", "json"):
        raise UsageError(f"--json and --format {shown}: give one of them")
    shown = "json" if as_json else shown
    rows = [row for row in leaderboard_rows(say) if protocol in ("all", row["protocol"])]
    if output is None:
        put(FORMS[shown](rows, protocol))
        return
    for path in write_board(output, shown, rows, protocol):
        say(f"wrote {path}")


@app.command(epilog=examples("d3tune doctor", "d3tune doctor mine", note=MINE))
def doctor(
    run: Annotated[
        str | None, typer.Argument(help="Examine this run instead of the installation.", autocompletion=names.runs)
    ] = None,
    data_dir: DataDir = None,
    tracking_uri: Annotated[str | None, typer.Option(help="With RUN: the MLflow store; else the run's own.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also start and end a Ray, and run a task in it.")] = False,
    as_json: Json = False,
) -> None:
    """Versions, devices, what is writable, datasets; or whether a run's study, folders and MLflow agree."""
    from d3tune.errors import UsageError
    from d3tune.results.doctor import examine, examine_run
    from d3tune.results.text import doctor_text

    if deep and run is not None:
        raise UsageError("--deep examines the installation; leave RUN out")
    findings = examine(data_dir, deep) if run is None else examine_run(run, tracking_uri)
    put([vars(finding) for finding in findings] if as_json else doctor_text(findings))
    if any(finding.problem for finding in findings):
        raise typer.Exit(1)


@app.command(epilog=examples("d3tune ui --port 5001 --no-browser"))
def ui(
    run: Annotated[
        str | None,
        typer.Argument(help="Whose trials to show first; else the last search's.", autocompletion=names.runs),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    tracking_uri: TrackingUri = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the addresses alone.")] = False,
) -> None:
    """Show MLflow's pages of the searches, served on this machine alone where the store is no server."""
    from d3tune.results.ui import show

    show(run, port, tracking_uri, not no_browser, put, say)

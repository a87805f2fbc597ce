"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from d3tune.cli import names

Run = Annotated[str, typer.Argument(help="A run's directory, or its name.", autocompletion=names.runs)]
DataDir = Annotated[Path | None, typer.Option(help="Folder of datasets; then $D3TUNE_DATA, then ./data.")]
Semantics = Annotated[str | None, typer.Option(help="Which class semantics, e.g. att312 or sent1024.")]
Json = Annotated[bool, typer.Option("--json", help="Data alone on stdout, as JSON; messages on stderr.")]
Register = Annotated[str | None, typer.Option(help="Make the winner's model a version of this registered model.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also what Ray and MLflow say, else in log.txt.")]
TimeLimit = Annotated[str | None, typer.Option("--time", help="Start no trial after this long: 90s, 45m, 2h.")]
TrackingUri = Annotated[str | None, typer.Option(help="MLflow store; $MLFLOW_TRACKING_URI, else $D3TUNE_HOME.")]
StudyUrl = Annotated[
    str | None, typer.Option(help="Database for a copy of the study, for optuna-dashboard: sqlite:///FILE, …")
]

# the run of the examples
MINE = "The run 'mine' is what the example of d3tune search makes."
BEST = "The file best.yaml is what the example of d3tune export writes."


def examples(*lines: str, note: str = "") -> str:
    """The end of a command's --help: command lines that can be typed as they stand, in this order.

    Args:
        lines: of one command; those of other commands may need what the examples of `search` and `export` leave.
        note: one line before them.
    """
    # click leaves a paragraph as it is that begins with \b
    shown = "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
    return f"{note}\n\n{shown}" if note else shown

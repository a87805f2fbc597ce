"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[str, typer.Argument(help="A run's directory, or its name.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of datasets; then $D3TUNE_DATA, then ./data.")]
Semantics = Annotated[str | None, typer.Option(help="Which class semantics, e.g. att312 or sent1024.")]
Json = Annotated[bool, typer.Option("--json", help="Data alone on stdout, as JSON; messages on stderr.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also what Ray and MLflow say, else in log.txt.")]
TimeLimit = Annotated[str | None, typer.Option("--time", help="Start no trial after this long: 90s, 45m, 2h.")]
TrackingUri = Annotated[str | None, typer.Option(help="MLflow store; $MLFLOW_TRACKING_URI, else $D3TUNE_HOME.")]

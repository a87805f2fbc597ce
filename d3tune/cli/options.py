"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from d3tune.cli import names
from d3tune.errors import UsageError


def in_all(text: str | int) -> int:
    """A plain number: with a plus it would mean something else to `resume`."""
    try:
        number = int(text)
    except ValueError:
        raise UsageError(f"--trials {text}: write a number") from None
    if str(text).startswith("+"):
        raise UsageError(f"--trials {text}: write the number in all; only d3tune resume takes +N")
    return number


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

# of what a search is, and of what it may use
Trials = Annotated[int, typer.Option(parser=in_all, metavar="INTEGER", help="Trials of a run in all.")]
Objective = Annotated[
    str,
    typer.Option(
        help="On validation: H, H_raw or AUSUC; or two aims: S,U or H,seconds.", autocompletion=names.objectives
    ),
]
Constraint = Annotated[
    list[str] | None, typer.Option(help="What must hold of the winner: 'S>=0.5', 'seconds<=60'; may be repeated.")
]
ValSplit = Annotated[int, typer.Option(help="Which draw of pseudo-unseen classes.")]
ValSplits = Annotated[int, typer.Option(help="Draws to average over.")]
Seed = Annotated[int, typer.Option(help="Of suggestions and trainings.")]
Sampler = Annotated[str, typer.Option(help="auto, tpe, gp, cmaes or random.", autocompletion=names.samplers)]
Pruner = Annotated[str, typer.Option(help="auto, asha, hyperband or none.", autocompletion=names.pruners)]
CpusPerTrial = Annotated[float, typer.Option(help="CPU cores a trial, and its torch threads.")]
Concurrency = Annotated[int | None, typer.Option(help="Most trials at once; as many as fit.")]
Executor = Annotated[
    str, typer.Option(help="ray, or local: one after another, without Ray.", autocompletion=names.executors)
]
Address = Annotated[str | None, typer.Option(help="A Ray cluster to join, e.g. auto; none.")]
ConfirmSeeds = Annotated[int, typer.Option(help="Fresh seeds that confirm a winner; 0 for none.")]
ConfirmTop = Annotated[int, typer.Option(help="Best trials that fresh seeds choose among, for the confirmation.")]
StopWhenConverged = Annotated[
    bool, typer.Option("--stop-when-converged", help="Begin no trial where those left would hardly raise the best.")
]
Baselines = Annotated[bool, typer.Option("--baselines", help="Also tune and test gaussian and ESZSL.")]
TrialTimeout = Annotated[str | None, typer.Option(help="A trial without a report for this long failed: 10m, 1h; none.")]
KeepWeights = Annotated[int, typer.Option(help="Keep the weights of so many of a run's best trials.")]

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

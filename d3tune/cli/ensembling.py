"""The command that makes one model of the best trials of several searches: ensemble."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d3tune.cli import names
from d3tune.cli.measuring import Concurrency, ExecutorName, Seeds, carried_out, check_executor
from d3tune.cli.options import DataDir, Json, TrackingUri, examples
from d3tune.cli.program import app
from d3tune.cli.terminal import put, say

if TYPE_CHECKING:
    from d3tune.search.ensemble import Ensemble
    from d3tune.search.executor import Executor, StopSignal

NOTE = "The run 'mine' is what the example of d3tune search makes; 'other' is yours: another on the same data."


@app.command(epilog=examples("d3tune ensemble mine other --top 2 --seeds 3", note=NOTE))
def ensemble(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN…", help="Runs on the same data: directories or names.", autocompletion=names.runs),
    ],
    top: Annotated[int, typer.Option(min=1, help="How many of each run's best complete trials.")] = 3,
    seeds: Seeds = 5,
    data_dir: DataDir = None,
    executor: ExecutorName = "ray",
    concurrency: Concurrency = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where it is kept; under $D3TUNE_HOME/runs.")] = None,
    tracking_uri: TrackingUri = None,
    register: Annotated[str | None, typer.Option(help="Make its model a version of this registered model.")] = None,
    as_json: Json = False,
) -> None:
    """Combine the best trials of searches on the same data, of any backbones, into one ensemble, and test it once.

    The scores of each trial, in units of their spread on its training rows, are averaged with weights that greedy
    selection finds on validation; each member is then confirmed with fresh seeds, as a search's winner is, and the mean
    is tested once a seed with the offset from validation. The first seed's mean is its model, for d3tune predict and
    MLflow. The same command again goes on where it stopped.
    """
    from d3tune.results.ensemble import ensemble_text
    from d3tune.search.ensemble import ensemble as combine
    from d3tune.search.ensemble import prepare
    from d3tune.search.ensemble_mlflow import log_ensemble
    from d3tune.search.mlflow_model import check_name
    from d3tune.search.tracking import store_uri

    check_executor(executor, concurrency)
    uri, name = store_uri(tracking_uri), check_name(register)
    material, place, new = prepare(runs, top, data_dir, run_dir)
    say(f"ensemble {place.path}" if new else f"going on with ensemble {place.path}")

    def work(opened: "Executor", stop: "StopSignal") -> "Ensemble":
        return combine(material, place, seeds, opened, stop, say)

    threads = max(member.job.threads for member in material.members)
    with place.owned(say):
        found = carried_out(work, "ensemble", executor, concurrency, threads)
        log_ensemble(place, material.runs[0], uri, name, say)
    put(place.read_summary() if as_json else ensemble_text(found))

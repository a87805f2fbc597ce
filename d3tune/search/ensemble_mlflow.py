"""An ensemble in MLflow: a run of its own beside the searches on the same data, with its model."""

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from d3tune.method.generators import load_backbone
from d3tune.search.batches import log_run
from d3tune.search.ensemble_place import EnsembleDirectory
from d3tune.search.following import OPENING, PATIENCE, Following
from d3tune.search.mlflow_file import create_store, fold_log
from d3tune.search.mlflow_model import model_writer
from d3tune.search.parent import attach, open_experiment
from d3tune.search.run import RunDirectory
from d3tune.search.shown import CONFIGURATION_TAG, KIND_TAG, NOTE_TAG, RUN_TAG, experiment_name, short
from d3tune.search.summaries import SUMMARY_FILE

if TYPE_CHECKING:
    from mlflow import MlflowClient

Say = Callable[[str], None]


def log_ensemble(place: EnsembleDirectory, run: RunDirectory, uri: str, register: str | None, say: Say) -> bool:
    """Write a tested ensemble to MLflow: its run, its model and, where wanted, a version of a registered model.

    What is there is not written again; where the store does not take it, a line says so.

    Args:
        place: of the ensemble; it has a summary.
        run: one of the searches it is made of, whose data have the experiment.
        uri: of the store.
        register: see `d3tune.search.mlflow_model.log_confirmed`.
        say: takes one line an event.

    Returns:
        Whether the store has everything.
    """
    following = Following(f"MLflow at {uri}", lambda: None, say)
    missed = following.finish(lambda: _write(place, run, uri, register, say, following), PATIENCE)
    if missed is None:
        say(f"MLflow: experiment {experiment_name(run.search)} in {uri}, run {place.path.name}")
    else:
        say(f"MLflow at {uri} is not complete ({missed}); the same command writes the rest")
    return missed is None


def _write(
    place: EnsembleDirectory, run: RunDirectory, uri: str, register: str | None, say: Say, following: Following
) -> None:
    from mlflow import MlflowClient

    summary = place.read_summary() or {}
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    with following.step(), OPENING:
        create_store(uri)
        client = MlflowClient(uri)
    space = run.load_space(load_backbone(run.search.backbone).config)
    experiment = open_experiment(client, uri, run, space)
    following.took("experiment")
    run_id = _run(client, experiment, place, summary)
    following.took("run")
    rows = [(name, value, 0) for name, value in _metrics(summary).items()]
    log_run(client, run_id, rows, tags={CONFIGURATION_TAG: str(summary["configuration"]), NOTE_TAG: _note(summary)})
    attach(client, run_id, place.path / SUMMARY_FILE)
    client.set_terminated(run_id, "FINISHED")
    following.took("ended")
    # last: a store may refuse a model and have all the rest
    write_model = model_writer(place.model, register, say)
    if write_model is not None:
        with following.step():
            write_model(client, experiment, run_id)
    fold_log(uri)


def _run(client: "MlflowClient", experiment: str, place: EnsembleDirectory, summary: Mapping[str, Any]) -> str:
    """The ensemble's run there, or a new one."""
    found = client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{place.uid}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    tags = {
        RUN_TAG: place.uid,
        "d3tune.run_name": place.path.name,
        KIND_TAG: str(summary["kind"]),
        "dataset": str(summary["dataset"]["name"]),
        "backbone": str(summary["backbone"]),
        "protocol": str(summary["selection"]["protocol"]),
        "mlflow.source.name": "d3tune ensemble",
        "mlflow.source.type": "LOCAL",
    }
    run_id = str(client.create_run(experiment, run_name=place.path.name, tags=tags).info.run_id)
    log_run(client, run_id, params={"runs": short(summary["runs"]), "splits": short(summary["splits"])})
    return run_id


def _metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """As a search's parent has them."""
    found = {"val/H": summary["val_H"], "val/H_confirmed": summary["selection"]["val_H"]}
    for name, value in summary["test"].items():
        if isinstance(value, dict) and "mean" in value:
            found[f"test/{name}"] = value["mean"]
            found |= {} if value["sd"] is None else {f"test/{name}_sd": value["sd"]}
    return {name: float(value) for name, value in found.items()}


def _note(summary: Mapping[str, Any]) -> str:
    """Which trials it is made of, as a table."""
    members = [item for item in summary["members"] if item["weight"] > 0]
    rows = [f"| {item['run']} | {item['trial']} | {item['weight']:.2f} | {item['val_H']:.3f} |" for item in members]
    head = ["Ensemble: the weighted mean of these trials' standardised scores.", ""]
    return "\n".join([*head, "| run | trial | weight | val/H |", "|---|---|---|---|", *rows])

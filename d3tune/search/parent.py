"""A search's experiment and parent run in MLflow: found or made, and closed with what came of the search."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from d3tune.config import SearchConfig
from d3tune.files import home, slug
from d3tune.search.batches import log_run
from d3tune.search.run import RunDirectory
from d3tune.search.shown import (
    COMMIT_TAG,
    EXPERIMENT_NOTE,
    KIND_TAG,
    NOTE_TAG,
    SEARCH,
    confirmed_metric,
    dataset_entry,
    experiment_name,
    parent_name,
    parent_tags,
    result_words,
    results_tag,
    short,
)
from d3tune.search.views import searches_view, trials_view
from d3tune.space import Space

if TYPE_CHECKING:
    from mlflow import MlflowClient


def open_experiment(client: "MlflowClient", uri: str, run: RunDirectory, space: Space) -> str:
    """The id of the dataset's experiment, with its note and the views of all searches and of this one's trials.

    What a user changed of the note or of the view of all searches is left as it is.
    """
    overview, own = searches_view(), trials_view(run, space)
    tags = {NOTE_TAG: EXPERIMENT_NOTE, overview.tag: overview.value, own.tag: own.value}
    name = experiment_name(run.search)
    experiment = client.get_experiment_by_name(name) or _made(client, name, uri, run, tags)
    if experiment.lifecycle_stage == "deleted":
        # its name is taken, and what is deleted takes nothing
        client.restore_experiment(experiment.experiment_id)
    for key, value in tags.items():
        if key not in experiment.tags or (key == own.tag and experiment.tags[key] != value):
            client.set_experiment_tag(experiment.experiment_id, key, value)
    return str(experiment.experiment_id)


def _made(client: "MlflowClient", name: str, uri: str, run: RunDirectory, tags: dict[str, str]) -> Any:
    from mlflow.exceptions import MlflowException

    location = home() / "mlflow-artifacts" / slug(run.search.dataset)
    local = urlparse(uri).scheme.startswith("sqlite")
    try:
        return client.get_experiment(client.create_experiment(name, location.as_uri() if local else None, tags))
    except MlflowException:
        # another search on the same data may have been first
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise
        return experiment


def open_parent(
    client: "MlflowClient", experiment: str, run: RunDirectory, space: Space, held: Any, commit: str | None
) -> str:
    """The id of a search's parent run, which is running from now on.

    Args:
        client: of the store.
        experiment: its id.
        run: the search.
        space: what it searches.
        held: the MLflow run that is there, or None to make one. What an earlier process did not write is written.
        commit: see `d3tune.search.shown.git_commit`.
    """
    tags = parent_tags(run, space, commit)
    if held is None:
        held = client.create_run(experiment, run_name=parent_name(run.search), tags=tags)
        changed = {}
    else:
        client.update_run(held.info.run_id, status="RUNNING")
        begun = (NOTE_TAG, COMMIT_TAG)
        changed = {k: v for k, v in tags.items() if k not in begun and held.data.tags.get(k) != v}
    run_id = str(held.info.run_id)
    params = {f"search.{key}": short(value) for key, value in run.search.model_dump().items()}
    log_run(client, run_id, params={} if held.data.params else params, tags=changed)
    if not held.inputs.dataset_inputs:
        _log_dataset(client, run_id, run)
    return run_id


def attach(client: "MlflowClient", run_id: str, path: Path) -> None:
    """Attach a file, or a folder's files where they have changed since they were attached; links are left out."""
    if not path.is_dir():
        client.log_artifact(run_id, str(path))
        return
    files = sorted(item for item in path.rglob("*") if item.is_file() and not _leads_out(item, path))
    digest = hashlib.sha256()
    for item in files:
        digest.update(f"{item.relative_to(path).as_posix()}\0".encode() + hashlib.sha256(item.read_bytes()).digest())
    tag = f"d3tune.{path.name}"
    if client.get_run(run_id).data.tags.get(tag) == digest.hexdigest():
        return
    for item in files:
        client.log_artifact(run_id, str(item), (Path(path.name) / item.relative_to(path).parent).as_posix())
    client.set_tag(run_id, tag, digest.hexdigest())


def note_best(client: "MlflowClient", experiment: str, search: SearchConfig) -> None:
    """Say in the list of experiments, by one tag, what each backbone's best confirmed search reached on the test.

    Searches are ranked by validation; test-selected ones have a tag of their own and rank by what they claim.

    Args:
        client: of the store.
        experiment: its id.
        search: one that has just ended.
    """
    chosen = f"tags.{KIND_TAG} = '{SEARCH}' and tags.protocol = '{search.protocol}'"
    order = [f"metrics.`{confirmed_metric(search)}` DESC"]
    best: dict[str, str] = {}
    for run in client.search_runs([experiment], chosen, max_results=1000, order_by=order):
        backbone, words = run.data.tags["backbone"], result_words(run.data.metrics, search)
        if words is not None:
            best.setdefault(backbone, f"{backbone} {words}")
    key, value = results_tag(search), ", ".join(best.values())
    if value and client.get_experiment(experiment).tags.get(key) != value:
        client.set_experiment_tag(experiment, key, value)


def _leads_out(item: Path, folder: Path) -> bool:
    return not item.resolve().is_relative_to(folder.resolve())


def _log_dataset(client: "MlflowClient", run_id: str, run: RunDirectory) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.exceptions import MlflowException

    context = InputTag("mlflow.data.context", "search")
    logged = [DatasetInput(Dataset(**dataset_entry(run)), [context])]
    try:
        client.log_inputs(run_id, logged)
    except MlflowException:
        # another search on the same new data may have been first, whose entry is found now
        client.log_inputs(run_id, logged)

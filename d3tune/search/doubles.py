"""What MLflow has of a search more than once, as two mirrors at work on one run leave it: all but one are deleted."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from d3tune.search.mirrored import by_trial, child_faults, runs_of
from d3tune.search.mlflow_file import file_of
from d3tune.search.run import RunDirectory
from d3tune.search.shown import PARENT_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient


def remove_doubles(uri: str, run: RunDirectory, trials: list[FrozenTrial]) -> int:
    """Delete doubled MLflow runs of a search; the caller owns the run.

    Of a trial the one is kept that agrees with the study; where none does, none is: a `Mirror` then writes it anew. Of
    the parents the one that most trials name. MLflow keeps what is deleted until its garbage is collected.

    Args:
        uri: the store.
        run: the search.
        trials: of its study.

    Returns:
        How many runs were deleted.
    """
    from mlflow import MlflowClient

    file = file_of(uri)
    if file is not None and not file.exists():
        # a client would create it
        return 0
    client = MlflowClient(uri)
    parents, children = by_trial(runs_of(client, run.uid))
    doubled: list[Any] = []
    for trial in trials:
        found = children.get(trial.number, [])
        if len(found) > 1:
            ended = trial.state.is_finished()
            kept = next((item for item in found if not any(child_faults(client, run.search, item, trial, ended))), None)
            doubled += [item for item in found if item is not kept]
            children[trial.number] = [] if kept is None else [kept]
    if len(parents) > 1:
        doubled += _without_one_parent(client, parents, [item for found in children.values() for item in found])
    for item in doubled:
        client.delete_run(item.info.run_id)
    return len(doubled)


def _without_one_parent(client: "MlflowClient", parents: list[Any], children: list[Any]) -> list[Any]:
    """All parents but one, below which all children are put."""
    named = Counter(child.data.tags.get(PARENT_TAG) for child in children)
    kept = max(parents, key=lambda parent: (named[parent.info.run_id], -parent.info.start_time))
    for child in children:
        if child.data.tags.get(PARENT_TAG) != kept.info.run_id:
            client.set_tag(child.info.run_id, PARENT_TAG, kept.info.run_id)
    return [parent for parent in parents if parent is not kept]

"""Whether MLflow holds what the study holds: read through MLflow's own client, nothing is written."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from d3tune.config import SearchConfig
from d3tune.errors import root_cause
from d3tune.search.faults import Fault
from d3tune.search.mlflow_file import file_of
from d3tune.search.reports import best_report
from d3tune.search.run import RunDirectory
from d3tune.search.shown import (
    EXPERIMENT_PREFIX,
    LAYOUT,
    LAYOUT_TAG,
    RUN_TAG,
    STATE_TAG,
    STATUS,
    TRIAL_TAG,
    trial_metrics,
    trial_params,
    tuned_metrics,
)
from d3tune.search.study import reports_of
from d3tune.words import plural

if TYPE_CHECKING:
    from mlflow import MlflowClient

# what a store may lose of a value: MySQL and PostgreSQL keep doubles, SQLite too
TOLERANCE = 1e-12
SAYS = "MLflow says"
# trials whose metrics are compared at each update, a call a metric; of the others in a larger study the last values are
CURVES = 500


def mirror_faults(
    uri: str, run: RunDirectory, trials: list[FrozenTrial], *, settled: bool, closed: bool
) -> list[Fault]:
    """Compare the MLflow runs of a search with its study; of more than `CURVES` trials, the curves of so many.

    Args:
        uri: the store.
        run: the search.
        trials: its study's.
        settled: whether the search is done, so that every trial must be there with all its values.
        closed: whether the run was left in order, so that no MLflow run may be RUNNING.
    """
    from mlflow import MlflowClient

    file = file_of(uri)
    if file is not None and not file.exists():
        # a client would create it; a search that was cut off may not have come so far
        begun = closed or any(trial.state.is_finished() for trial in trials)
        again = f"{run.sync_command} writes it again"
        return [] if not begun else [Fault(f"MLflow at {uri}: there is no such store", again)]
    try:
        client = MlflowClient(uri)
        return list(_faults(client, run, runs_of(client, run.uid), trials, settled, closed))
    except Exception as error:
        # each kind of store has its own errors
        return [
            Fault(f"MLflow at {uri} cannot be read: {root_cause(error)}", "mend it, or give another --tracking-uri")
        ]


def runs_of(client: "MlflowClient", uid: str) -> list[Any]:
    """Every MLflow run of a search, by its identity."""
    # a server that many share may have more experiments than one answer holds
    ours = client.search_experiments(filter_string=f"name LIKE '{EXPERIMENT_PREFIX}%'")
    ids = [experiment.experiment_id for experiment in ours]
    found: list[Any] = []
    token = None
    while True:
        page = client.search_runs(ids, f"tags.`{RUN_TAG}` = '{uid}'", max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def by_trial(runs: list[Any]) -> tuple[list[Any], dict[int, list[Any]]]:
    """The parents among some MLflow runs, which should be one, and the others by the number of their trial."""
    children: dict[int, list[Any]] = {}
    for run in runs:
        if TRIAL_TAG in run.data.tags:
            children.setdefault(int(run.data.tags[TRIAL_TAG]), []).append(run)
    return [run for run in runs if TRIAL_TAG not in run.data.tags], children


def _faults(
    client: "MlflowClient", run: RunDirectory, runs: list[Any], trials: list[FrozenTrial], settled: bool, closed: bool
) -> Iterator[Fault]:
    synced = f"{run.sync_command} mends it"
    parents, children = by_trial(runs)
    if len(parents) > 1 or (settled and not parents):
        yield Fault(f"MLflow has {plural(len(parents), 'parent run')}", synced)
    left = [item.info.run_name for item in runs if item.info.status == "RUNNING"] if closed else []
    yield from (Fault(f"MLflow run {name} is left RUNNING", synced) for name in left)
    for number in sorted(children.keys() - {trial.number for trial in trials}):
        yield Fault(f"MLflow has a trial {number} that the study has not", "delete that run in MLflow")
    stride = math.ceil(len(trials) / CURVES)
    for trial in trials:
        found = children.get(trial.number, [])
        if len(found) > 1 or (settled and not found):
            yield Fault(f"trial {trial.number}: {plural(len(found), 'time')} in MLflow", synced)
        elif found:
            # what a mirror wrote to its end it does not write again
            anew = f"delete run {found[0].info.run_id} in MLflow, then: {run.sync_command}"
            curves = trial.number % stride == 0
            for text in child_faults(client, run.search, found[0], trial, settled, curves=curves):
                yield Fault(f"trial {trial.number}: {text}", synced if text.startswith(SAYS) else anew)


def child_faults(
    client: "MlflowClient", search: SearchConfig, run: Any, trial: FrozenTrial, settled: bool, *, curves: bool = True
) -> Iterator[str]:
    """What an MLflow run says otherwise than the study's trial.

    Args:
        client: of its store.
        search: names the metrics.
        run: the MLflow run.
        trial: the study's.
        settled: whether it must have everything that the study has.
        curves: whether metrics are compared at each update, and not their last values alone.
    """
    if run.data.tags.get(LAYOUT_TAG) != LAYOUT:
        yield f"{SAYS} it as an earlier version did"
        return
    if settled:
        state = (run.data.tags.get(STATE_TAG, "nothing"), run.info.status)
        if state != (trial.state.name, STATUS[trial.state]):
            yield f"{SAYS} {state[0]}, {state[1]}; the study {trial.state.name}"
        if run.data.params != trial_params(trial):
            yield "its parameters in MLflow are not its configuration"
    histories = _expected(search, trial)
    if not curves:
        last = {name: held[max(held)] for name, held in histories.items()}
        names = last.keys() if settled else ()
        yield from (f"MLflow's {name} is not the study's" for name in names if not _equal_last(run, name, last[name]))
        return
    for name in sorted(histories if settled else histories.keys() & run.data.metrics.keys()):
        rows = client.get_metric_history(run.info.run_id, name)
        held = {row.step: row.value for row in rows}
        if len(held) < len(rows):
            yield f"MLflow has a step of {name} twice"
        wrong = [step for step, value in held.items() if not _equal(value, histories[name].get(step))]
        if wrong or (settled and held.keys() != histories[name].keys()):
            yield f"MLflow's {name} is not the study's"


def _expected(search: SearchConfig, trial: FrozenTrial) -> dict[str, dict[int, float]]:
    """Each metric's finite values by update."""
    reports = reports_of(trial)
    rows = {name: {0: value} for name, value in tuned_metrics(trial).items()}
    for index, report in enumerate(reports):
        for name, value in trial_metrics(search, report, best_report(reports[: index + 1])).items():
            if math.isfinite(value):
                rows.setdefault(name, {})[report.update] = value
    return rows


def _equal_last(run: Any, name: str, expected: float) -> bool:
    held = run.data.metrics.get(name)
    return held is not None and _equal(held, expected)


def _equal(held: float, expected: float | None) -> bool:
    return expected is not None and math.isclose(held, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)

"""Whether MLflow holds what the study holds: read through MLflow's own client, nothing is written."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from d3tune.config import SearchConfig
from d3tune.errors import root_cause
from d3tune.search.reports import best_report
from d3tune.search.study import reports_of
from d3tune.search.tracking import RUN_TAG, STATE_TAG, STATUS, TRIAL_TAG, mirrored_metrics, trial_params

if TYPE_CHECKING:
    from mlflow import MlflowClient

# what a store may lose of a value: MySQL and PostgreSQL keep doubles, SQLite too
TOLERANCE = 1e-12


def mirror_faults(
    uri: str, uid: str, search: SearchConfig, trials: list[FrozenTrial], *, settled: bool, closed: bool
) -> list[str]:
    """Compare the MLflow runs of a search with its study.

    Args:
        uri: the store.
        uid: the run's identity.
        search: names the metrics.
        trials: the study's.
        settled: whether the search is done, so that every trial must be there with all its values.
        closed: whether the run was left in order, so that no MLflow run may be RUNNING.

    Returns:
        One line a fault.
    """
    from mlflow import MlflowClient

    file = uri.removeprefix("sqlite:///")
    if file != uri and not Path(file).exists():
        # a client would create it; a search that was cut off may not have come so far
        begun = closed or any(trial.state.is_finished() for trial in trials)
        return [] if not begun else [f"MLflow at {uri}: there is no such store; d3tune sync writes it again"]
    try:
        client = MlflowClient(uri)
        runs = _runs_of(client, uid)
        return list(_faults(client, search, runs, trials, settled, closed))
    except Exception as error:
        # each kind of store has its own errors
        return [f"MLflow at {uri} cannot be read: {root_cause(error)}"]


def _runs_of(client: "MlflowClient", uid: str) -> list[Any]:
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    found: list[Any] = []
    token = None
    while True:
        page = client.search_runs(ids, f"tags.`{RUN_TAG}` = '{uid}'", max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _faults(
    client: "MlflowClient",
    search: SearchConfig,
    runs: list[Any],
    trials: list[FrozenTrial],
    settled: bool,
    closed: bool,
) -> Iterator[str]:
    parents = [run for run in runs if TRIAL_TAG not in run.data.tags]
    if len(parents) > 1 or (settled and not parents):
        yield f"MLflow has {len(parents)} parent runs"
    if closed:
        yield from (f"MLflow run {run.info.run_name} is left RUNNING" for run in runs if run.info.status == "RUNNING")
    by_number: dict[int, list[Any]] = {}
    for run in runs:
        if TRIAL_TAG in run.data.tags:
            by_number.setdefault(int(run.data.tags[TRIAL_TAG]), []).append(run)
    for number in sorted(by_number.keys() - {trial.number for trial in trials}):
        yield f"MLflow has a trial {number} that the study has not"
    for trial in trials:
        found = by_number.get(trial.number, [])
        if len(found) > 1 or (settled and not found):
            yield f"trial {trial.number}: {len(found)} times in MLflow"
        for run in found:
            faults = _child_faults(client, search, run, trial, settled)
            yield from (f"trial {trial.number}: {fault}" for fault in faults)


def _child_faults(
    client: "MlflowClient", search: SearchConfig, run: Any, trial: FrozenTrial, settled: bool
) -> Iterator[str]:
    if settled:
        state = (run.data.tags.get(STATE_TAG), run.info.status)
        if state != (trial.state.name, STATUS[trial.state]):
            yield f"MLflow says {state[0]}, {state[1]}; the study {trial.state.name}"
        expected = {name: str(value) for name, value in trial_params(trial).items()}
        if run.data.params != expected:
            yield "its parameters in MLflow are not its configuration"
    histories = _expected(search, trial)
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
    rows: dict[str, dict[int, float]] = {}
    for index, report in enumerate(reports):
        best = best_report(reports[: index + 1]).value
        for name, value in {**mirrored_metrics(report), search.best_metric: best}.items():
            if math.isfinite(value):
                rows.setdefault(name, {})[report.update] = value
    return rows


def _equal(held: float, expected: float | None) -> bool:
    return expected is not None and math.isclose(held, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)

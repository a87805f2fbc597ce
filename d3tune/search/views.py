"""Views that MLflow's pages open with: which runs are in the table, in which order, in which columns.

A view is a tag of its experiment, ``mlflow.sharedViewState.<key>``, as MLflow's own "Save as new view" writes it: a
JSON object with a name and, as text, the state of the page. ``viewStateShareKey=<key>`` in an address opens it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from d3tune.config import metric_prefix
from d3tune.search.run import RunDirectory
from d3tune.search.shown import CONFIGURATION_TAG, KIND_TAG, RUN_TAG, SEARCH, STATE_TAG, TRIAL, TUNED, parent_name
from d3tune.space import Parameter, Space

TAG = "mlflow.sharedViewState."
SEARCHES_KEY = "d3tune-searches"
NAME_COLUMN = "attributes.`Run Name`"
NAME_WIDTH = 160
SECTION = "d3tune"
# of a view that is no search's
BEGINNING = 1_700_000_000_000


@dataclass(frozen=True)
class View:
    """One view.

    Attributes:
        key: names it in an address.
        value: of its tag.
    """

    key: str
    value: str

    @property
    def tag(self) -> str:
        """The experiment's tag that holds it."""
        return TAG + self.key


def trials_key(uid: str) -> str:
    """The key of the view of a search's trials."""
    return f"d3tune-{uid}"


def trials_view(run: RunDirectory, space: Space) -> View:
    """A search's trials, the best first: H, U and S of their best evaluation, what was varied, how they ended."""
    search = run.search
    prefix = metric_prefix(search.protocol)
    metrics = dict.fromkeys([search.best_metric, *(f"{prefix}/best_{name}" for name in ("H", "U", "S"))])
    columns = [f"metrics.`{name}`" for name in metrics]
    columns.append(f"tags.`{STATE_TAG}`")
    columns += [f"params.`{name}`" for name in space.parameters]
    chosen = f"tags.`{RUN_TAG}` = '{run.uid}' and tags.{KIND_TAG} = '{TRIAL}'"
    created = int(datetime.fromisoformat(run.created).timestamp() * 1000) if run.created else BEGINNING
    name = f"{parent_name(search)} {run.uid[:4]}: trials"
    charts = _parallel([*_axes(space), search.best_metric])
    return View(trials_key(run.uid), _value(name, created, chosen, columns, charts))


def searches_view() -> View:
    """All searches of an experiment, the best confirmed test H first; which test it was, a metric's name says."""
    names = ("test/H", "test/H_sd", "test/U", "test/S", "val/H_confirmed", "val/H", "published/H", "trials/complete")
    columns = [f"metrics.`{name}`" for name in names]
    columns += [f"tags.`{name}`" for name in ("backbone", "protocol", STATE_TAG, CONFIGURATION_TAG)]
    chosen = f"tags.{KIND_TAG} = '{SEARCH}'"
    return View(SEARCHES_KEY, _value("all searches", BEGINNING, chosen, columns))


def view_link(experiment: str, key: str) -> str:
    """Path and query of the page that opens with a view."""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={quote(key)}&workflowType=machine_learning"


def compare_link(experiments: Sequence[str]) -> str:
    """Path and query of the page with the searches of several experiments, the best test H first."""
    query = {
        "experiments": json.dumps(list(experiments), separators=(",", ":")),
        "searchFilter": f"tags.{KIND_TAG} = '{SEARCH}'",
        "orderByKey": "metrics.`test/H`",
        "orderByAsc": "false",
        "workflowType": "machine_learning",
    }
    return "#/compare-experiments/s?" + "&".join(f"{key}={quote(value, safe='')}" for key, value in query.items())


def _axes(space: Space) -> list[str]:
    """Names of `tuned_metrics` that every trial of a space has: a trial that lacks an axis has no line."""
    numbers = {
        name: parameter
        for name, parameter in space.parameters.items()
        if not parameter.off and not parameter.conditions() and _is_numeric(parameter)
    }
    return [f"{TUNED}log10_{name}" if parameter.log else f"{TUNED}{name}" for name, parameter in numbers.items()]


def _is_numeric(parameter: Parameter) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in parameter.choices or ())


def _parallel(axes: Sequence[str]) -> dict[str, Any]:
    """The chart view begins with parallel coordinates; MLflow adds a chart a metric below."""
    section = {"uuid": SECTION, "name": "search", "display": True, "isReordered": False}
    chart = {"uuid": f"{SECTION}-parallel", "type": "PARALLEL", "metricSectionId": SECTION, "runsCountToCompare": 100}
    chart |= {"selectedParams": [], "selectedMetrics": list(axes), "showAllRuns": True}
    flags = {"deleted": False, "isGenerated": False}
    return {"compareRunSections": [{**section, **flags}], "compareRunCharts": [{**chart, **flags}]}


def _value(
    name: str, created: int, chosen: str, columns: Sequence[str], charts: Mapping[str, Any] | None = None
) -> str:
    """A view ordered by its first column, the largest first."""
    state: dict[str, Any] = {
        "searchFilter": chosen,
        "orderByKey": columns[0],
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(columns),
        # as listed, not by kind and alphabet
        "columnOrder": [NAME_COLUMN, *columns],
        "columnWidths": {NAME_COLUMN: NAME_WIDTH},
        **(charts or {}),
    }
    text = json.dumps(state, separators=(",", ":"))
    return json.dumps({"name": name, "createdAt": created, "updatedAt": created, "state": text})

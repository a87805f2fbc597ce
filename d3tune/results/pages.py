"""Where in MLflow's pages the searches of a store are."""

from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from d3tune.errors import D3TuneError, root_cause
from d3tune.search.shown import EXPERIMENT_PREFIX, KIND_TAG, RUN_TAG, SEARCH
from d3tune.search.views import SEARCHES_KEY, compare_link, trials_key, view_link

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENTS = "#/experiments"


def address_of(uri: str) -> str:
    """A server's address as a browser is given it: without user and password, which it asks for itself."""
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def pages(uri: str, uid: str | None = None) -> list[tuple[str, str]]:
    """What to look at, the most useful first.

    Args:
        uri: of a server.
        uid: the run whose trials come first; None is the search that began last.

    Returns:
        For each page what it shows, and its path and query; the list of experiments where there is no search.

    Raises:
        D3TuneError: the server does not answer.
    """
    from mlflow import MlflowClient

    try:
        return _pages(MlflowClient(uri), uid)
    except Exception as error:
        # each kind of store has its own errors
        raise D3TuneError(f"MLflow at {uri}: {root_cause(error)}") from None


def _pages(client: "MlflowClient", uid: str | None) -> list[tuple[str, str]]:
    everything = ("all datasets", EXPERIMENTS)
    ours = client.search_experiments(filter_string=f"name LIKE '{EXPERIMENT_PREFIX}%'")
    experiments = {item.experiment_id: item.name for item in ours}
    if not experiments:
        return [everything]
    chosen = f"tags.{KIND_TAG} = '{SEARCH}'" + ("" if uid is None else f" and tags.`{RUN_TAG}` = '{uid}'")
    last = client.search_runs(list(experiments), chosen, max_results=1, order_by=["attributes.start_time DESC"])
    found = [everything]
    if len(experiments) > 1:
        found.insert(0, ("searches on all datasets", compare_link(list(experiments))))
    for run in last:
        experiment = run.info.experiment_id
        name = experiments[experiment].removeprefix(EXPERIMENT_PREFIX)
        found.insert(0, (f"searches on {name}", view_link(experiment, SEARCHES_KEY)))
        trials = view_link(experiment, trials_key(run.data.tags[RUN_TAG]))
        found.insert(0, (f"trials of {run.info.run_name} on {name}", trials))
    return found

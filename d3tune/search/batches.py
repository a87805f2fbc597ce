"""What is written of one MLflow run, in the batches that MLflow takes."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

# an MLflow batch holds 1000 entities, 100 of them parameters
METRICS_PER_BATCH = 1000
PARAMS_PER_BATCH = 100


def log_run(
    client: "MlflowClient",
    run_id: str,
    rows: Sequence[tuple[str, float, int]] = (),
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Metrics as (name, value, step), parameters and tags in as few calls as MLflow's limits allow."""
    from mlflow.entities import Metric, Param, RunTag

    now = int(time.time() * 1000)
    metrics = [Metric(key, value, now, step) for key, value, step in rows if math.isfinite(value)]
    pairs = [Param(key, str(value)) for key, value in (params or {}).items()]
    labels = [RunTag(key, value) for key, value in (tags or {}).items()]
    while metrics or pairs or labels:
        n_pairs = min(len(pairs), PARAMS_PER_BATCH)
        n_metrics = _whole_steps([metric.step for metric in metrics], METRICS_PER_BATCH - n_pairs - len(labels))
        client.log_batch(run_id, metrics=metrics[:n_metrics], params=pairs[:n_pairs], tags=labels)
        metrics, pairs, labels = metrics[n_metrics:], pairs[n_pairs:], []


def _whole_steps(steps: Sequence[int], most: int) -> int:
    """How many values go into a batch: of a step that is there in part, a later process would write that part twice."""
    if len(steps) <= most:
        return len(steps)
    # one step may be more than a batch
    return steps.index(steps[most]) or most

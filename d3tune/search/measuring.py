"""Measuring a configuration as a confirmation does, with a store of its own that lets the same command go on."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from d3tune.files import home
from d3tune.search.confirm import Selection, TestResult, evaluate, select
from d3tune.search.executor import Executor, StopSignal
from d3tune.search.jobs import TrainingJob


def measure(
    job: TrainingJob,
    seeds: Sequence[int],
    executor: Executor,
    stop: StopSignal,
    store: Path,
    earlier: Path | None = None,
) -> tuple[Selection, TestResult]:
    """Fix update count, head and offset by validation, then test once a seed.

    Args:
        job: the configuration.
        seeds: fresh ones.
        executor: where to train.
        stop: ends between trainings.
        store: a directory that keeps what was trained.
        earlier: a directory of another confirmation, which is read alone: what fits in it is not trained again.

    Raises:
        ConfirmationFailedError: a training diverged, or failed for another reason of its own.
    """
    selection = select(job, seeds, executor, stop, store, earlier)
    return selection, evaluate(job, selection, seeds, executor, stop, store, earlier)


def store_below(folder: str, job: TrainingJob) -> Path:
    """A directory of ``$D3TUNE_HOME`` that follows from a configuration and how it is validated."""
    text = json.dumps([job.backbone, job.config, job.dataset_hash, job.objective, job.splits], sort_keys=True)
    return home() / folder / hashlib.sha256(text.encode()).hexdigest()[:16]

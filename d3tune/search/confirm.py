"""Confirmation: a configuration's update count, head and offset fixed by validation, then tested once a seed.

The same code serves the winner of a search and a configuration file that is retrained.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from d3tune import __version__
from d3tune.config import Device
from d3tune.errors import UsageError
from d3tune.files import write_json
from d3tune.search.executor import Executor, StopSignal
from d3tune.search.jobs import TrainingJob
from d3tune.search.reports import Report
from d3tune.search.trial import curve, evaluate_on_test

FORMAT = 1
TEST_METRICS = ("H", "U", "S", "T1", "AUSUC", "H_raw", "U_raw", "S_raw", "AUROC", "FPR95")


class Selection(BaseModel):
    """What validation fixed before the test: nothing here has seen a test row."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: str = Field("validation", pattern="^validation$")
    objective: str
    splits: tuple[int, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    updates: int = Field(ge=1)
    head: str
    seen_offset: float = Field(allow_inf_nan=False)
    val_H: float = Field(ge=0, le=1)
    threads: int = Field(1, ge=1)
    device: Device = "cpu"


@dataclass(frozen=True)
class TestResult:
    """The test protocol's outcome, one evaluation a seed.

    Attributes:
        seeds: in order.
        per_seed: metrics in [0, 1] by seed.
    """

    __test__ = False

    seeds: tuple[int, ...]
    per_seed: tuple[dict[str, float], ...]

    def mean(self, metric: str) -> float:
        """Mean over seeds."""
        return fmean(row[metric] for row in self.per_seed)

    def sd(self, metric: str) -> float | None:
        """Standard deviation over seeds (n − 1), None for a single seed."""
        return stdev(row[metric] for row in self.per_seed) if len(self.seeds) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """``protocol``, means, deviations and every seed's H, for files and JSON."""
        summary = {name: {"mean": self.mean(name), "sd": self.sd(name)} for name in TEST_METRICS}
        rows = {seed: row["H"] for seed, row in zip(self.seeds, self.per_seed, strict=True)}
        return {"protocol": "test", **summary, "H_per_seed": rows}

    def metrics(self) -> dict[str, float]:
        """``test/H``, ``test/H_sd``, … for MLflow."""
        values = {f"test/{name}": self.mean(name) for name in TEST_METRICS}
        deviations = {f"test/{name}_sd": self.sd(name) for name in TEST_METRICS}
        return values | {key: value for key, value in deviations.items() if value is not None}


def select(
    job: TrainingJob, seeds: Sequence[int], executor: Executor, stop: StopSignal, store: Path | None = None
) -> Selection:
    """Retrain on the validation protocol with fresh seeds; fix update count, head and offset by their mean curve.

    s* and the head maximise the objective averaged over the seeds; δ is the median over the seeds of each one's
    validation-optimal offset at s*.

    Args:
        job: the configuration; its own seed is replaced.
        seeds: fresh ones.
        executor: where to train.
        stop: ends between jobs.
        store: a directory that keeps each seed's curve, so that an interrupted confirmation goes on.
    """
    jobs = [(_with_seed(job, seed),) for seed in seeds]
    names = [f"validation-seed-{seed}" for seed in seeds]
    curves = [
        [Report.from_dict(row) for row in rows] for rows in _stored_map(curve, jobs, names, executor, stop, store)
    ]
    heads = sorted({key.split("/")[1] for key in curves[0][0].metrics if key.count("/") == 2})
    candidates = [
        (fmean(rows[index].metrics[f"val/{head}/{job.objective}"] for rows in curves), -index, head)
        for index in range(len(curves[0]))
        for head in heads
    ]
    _, negative_index, head = max(candidates)
    chosen = [rows[-negative_index] for rows in curves]
    offset = median(report.metrics[f"val/{head}/seen_offset"] for report in chosen)
    return Selection(
        protocol="validation",
        objective=job.objective,
        splits=job.splits,
        seeds=tuple(seeds),
        updates=chosen[0].update,
        head=head,
        seen_offset=0.0 if job.objective == "H_raw" else offset,
        val_H=fmean(report.metrics[f"val/{head}/H"] for report in chosen),
        threads=job.threads,
        device=job.device,
    )


def evaluate(
    job: TrainingJob,
    selection: Selection,
    seeds: Sequence[int],
    executor: Executor,
    stop: StopSignal,
    store: Path | None = None,
) -> TestResult:
    """Train on all of trainval for s* updates and evaluate the test sets once, for each seed.

    Args:
        job: the configuration; its own seed is replaced.
        selection: from `select`.
        seeds: usually the selection's.
        executor: where to train.
        stop: ends between jobs.
        store: see `select`.
    """
    jobs = [(_with_seed(job, seed), selection.updates, selection.head, selection.seen_offset) for seed in seeds]
    names = [f"test-seed-{seed}" for seed in seeds]
    rows = _stored_map(evaluate_on_test, jobs, names, executor, stop, store)
    return TestResult(tuple(seeds), tuple(rows))


def configuration_document(
    job: TrainingJob,
    dataset: Mapping[str, Any],
    selection: Selection | None,
    result: TestResult | None,
    source: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of best.yaml: everything needed to retrain a configuration, and what it reached.

    Args:
        job: the configuration.
        dataset: name, content hash, semantics and feature tag.
        selection: what validation fixed.
        result: the test, where it was made.
        source: run and trial it comes from.
    """
    return {
        "format": FORMAT,
        "d3tune": __version__,
        "dataset": dict(dataset),
        "backbone": job.backbone,
        "config": job.config,
        "selection": None if selection is None else selection.model_dump(mode="json"),
        "test": None if result is None else result.to_dict(),
        "source": dict(source),
    }


def confirmation_seeds(seed: int, count: int) -> list[int]:
    """Seeds that no trial of a search with ``seed`` was trained with."""
    if count < 1:
        raise UsageError(f"--confirm-seeds {count}: must be at least 1")
    return [seed + 1 + index for index in range(count)]


def _with_seed(job: TrainingJob, seed: int) -> TrainingJob:
    return TrainingJob.from_dict({**job.to_dict(), "seed": seed})


def _stored_map(
    function: Any,
    items: Sequence[tuple[Any, ...]],
    names: Sequence[str],
    executor: Executor,
    stop: StopSignal,
    store: Path | None,
) -> list[Any]:
    """`Executor.map` that keeps each result in a JSON file and does not compute a stored one again."""
    results: dict[int, Any] = {}
    if store is not None:
        store.mkdir(parents=True, exist_ok=True)
        for index, name in enumerate(names):
            path = store / f"{name}.json"
            if path.exists():
                results[index] = json.loads(path.read_text(encoding="utf-8"))
    missing = [index for index in range(len(items)) if index not in results]

    def keep(position: int, value: Any) -> None:
        results[missing[position]] = value
        if store is not None:
            write_json(store / f"{names[missing[position]]}.json", value)

    executor.map(function, [items[index] for index in missing], stop, keep)
    return [results[index] for index in range(len(items))]

"""Confirmation: a configuration's update count, head and offset fixed by validation, then tested once a seed.

The same code serves the winner of a search and a configuration file that is retrained.
"""

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from d3tune import __version__
from d3tune.config import Device, Objective, SelectionProtocol, metric_prefix
from d3tune.errors import D3TuneError, UsageError
from d3tune.files import parse_json, write_json
from d3tune.method.trainer import DivergedError
from d3tune.search.analysis import Analysing
from d3tune.search.confirmed_model import ModelRequest, publish
from d3tune.search.executor import Executor, StopSignal
from d3tune.search.jobs import TrainingJob
from d3tune.search.reports import Report, best_report
from d3tune.search.trial import curve, evaluate_on_test

FORMAT = 1
MAX_REASON = 300
TestProtocol = Literal["test", "published"]
TEST_METRICS = ("H", "U", "S", "T1", "AUSUC", "H_raw", "U_raw", "S_raw", "AUROC", "FPR95")


class ConfirmationFailedError(D3TuneError):
    """A training that was to confirm a configuration failed.

    Attributes:
        reason: what went wrong, in one line.
    """

    def __init__(self, reason: str, advice: str = "use another configuration") -> None:
        super().__init__(f"a confirmation failed ({reason}); {advice}")
        self.reason = reason


class ConfirmationDivergedError(ConfirmationFailedError):
    """It diverged: the reason says where, and at which update."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"diverged: {reason}", "use fewer seeds, or another configuration")


class Selection(BaseModel):
    """What was fixed before the test. Under ``validation`` nothing here has seen a test row.

    Under ``published`` the test sets themselves chose: such a result is labelled test-selected wherever it is shown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: SelectionProtocol = "validation"
    objective: Objective
    splits: tuple[int, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    updates: int = Field(ge=1)
    head: str
    seen_offset: float = Field(allow_inf_nan=False)
    val_H: float | None = Field(None, ge=0, le=1)
    published_H: float | None = Field(None, ge=0, le=1)
    threads: int = Field(1, ge=1, le=4096)
    device: Device = "cpu"
    compile: bool = False

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError("must be different whole numbers from 0 on")
        return seeds


@dataclass(frozen=True)
class TestResult:
    """Test accuracies, one row a seed.

    Attributes:
        seeds: in order.
        per_seed: metrics in [0, 1] by seed.
        protocol: ``test``, or ``published`` for each seed's best test epoch.
    """

    __test__ = False

    seeds: tuple[int, ...]
    per_seed: tuple[dict[str, float], ...]
    protocol: TestProtocol = "test"

    @property
    def measured(self) -> list[str]:
        """The metrics that every seed has; a backbone without an OOD score has no AUROC."""
        return [name for name in TEST_METRICS if all(name in row for row in self.per_seed)]

    def mean(self, metric: str) -> float:
        """Mean over seeds."""
        return fmean(row[metric] for row in self.per_seed)

    def sd(self, metric: str) -> float | None:
        """Standard deviation over seeds (n − 1), None for a single seed."""
        return stdev(row[metric] for row in self.per_seed) if len(self.seeds) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """``protocol``, means, deviations and every seed's H, for files and JSON."""
        summary = {name: {"mean": self.mean(name), "sd": self.sd(name)} for name in self.measured}
        rows = {seed: row["H"] for seed, row in zip(self.seeds, self.per_seed, strict=True)}
        return {"protocol": self.protocol, **summary, "H_per_seed": rows}


def select(
    job: TrainingJob,
    seeds: Sequence[int],
    executor: Executor,
    stop: StopSignal,
    store: Path | None = None,
    earlier: Path | None = None,
) -> Selection:
    """Retrain on the selecting protocol with fresh seeds; fix update count, head and offset by their mean curve.

    s* and the head maximise the objective averaged over the seeds; δ is the median over the seeds of each one's
    validation-optimal offset at s*.

    Args:
        job: the configuration; its own seed is replaced.
        seeds: fresh ones.
        executor: where to train.
        stop: ends between jobs.
        store: a directory that keeps each seed's curve, so that an interrupted confirmation goes on.
        earlier: the store of another confirmation, which is read alone.
    """
    curves = confirmed_curves(job, seeds, executor, stop, store, earlier)
    prefix = metric_prefix(job.protocol)
    index, head = point_of(curves, job)
    chosen = [rows[index] for rows in curves]
    shown = "H_raw" if job.objective == "H_raw" else "H"
    offset = median(report.metrics[f"{prefix}/{head}/seen_offset"] for report in chosen)
    return Selection(
        protocol=job.protocol,
        objective=job.objective,
        splits=job.splits,
        seeds=tuple(seeds),
        updates=chosen[0].update,
        head=head,
        seen_offset=0.0 if job.objective == "H_raw" else offset,
        # of rows that are all right, a mean over classes may end a rounding above 1
        **{f"{prefix}_H": min(1.0, fmean(report.metrics[f"{prefix}/{head}/{shown}"] for report in chosen))},
        threads=job.threads,
        device=job.device,
        compile=job.compile,
    )


def point_of(curves: Sequence[Sequence[Report]], job: TrainingJob) -> tuple[int, str]:
    """The evaluation and the head with the largest objective of the mean curve.

    Args:
        curves: the reports of a configuration, one list a seed.
        job: names protocol and objective.
    """
    prefix = metric_prefix(job.protocol)
    heads = sorted({key.split("/")[1] for key in curves[0][0].metrics if key.count("/") == 2})
    candidates = [
        (fmean(rows[index].metrics[f"{prefix}/{head}/{job.objective}"] for rows in curves), -index, head)
        for index in range(len(curves[0]))
        for head in heads
    ]
    _, negative_index, head = max(candidates)
    return -negative_index, head


def curves_with(
    seed: int, jobs: Sequence[tuple[TrainingJob, Path]], executor: Executor, stop: StopSignal
) -> list[list[Report] | ConfirmationFailedError]:
    """The reports of several configurations, each with the same fresh seed, on the selecting protocol.

    Args:
        seed: a fresh one.
        jobs: configurations, each with the store that `select` takes its curves from.
        executor: where to train.
        stop: ends between jobs.

    Returns:
        For each job its reports, or why its training failed.
    """

    def train(some: Sequence[tuple[TrainingJob, Path]]) -> list[list[Report] | ConfirmationFailedError]:
        items = [(_with_seed(job, seed),) for job, _ in some]
        paths = [store / f"{job.protocol}-seed-{seed}" for job, store in some]
        rows = stored_map(curve, items, [path.name for path in paths], executor, stop, [path.parent for path in paths])
        return [[Report.from_dict(row) for row in reports] for reports in rows]

    try:
        return train(jobs)
    except ConfirmationFailedError as error:
        if len(jobs) == 1:
            return [error]
    # which one it was is found out one by one; what the others have is kept
    return [found for job in jobs for found in curves_with(seed, [job], executor, stop)]


def evaluate(
    job: TrainingJob,
    selection: Selection,
    seeds: Sequence[int],
    executor: Executor,
    stop: StopSignal,
    store: Path | None = None,
    earlier: Path | None = None,
    analysis: Path | None = None,
    model: ModelRequest | None = None,
) -> TestResult:
    """Train on all of trainval for s* updates and evaluate the test sets once, for each seed.

    Args:
        job: the configuration; its own seed is replaced.
        selection: from `select`.
        seeds: usually the selection's.
        executor: where to train.
        stop: ends between jobs.
        store: see `select`.
        earlier: see `select`.
        analysis: where one of the first seed's test is written, of a protocol that has a test.
        model: where the first seed's model is kept; under ``published`` there is none.

    Returns:
        One row a seed; under ``published`` each seed's best test epoch instead, as most public code reports.
    """
    if selection.protocol == "published":
        return _best_test_epochs(job, seeds, executor, stop, store, earlier)
    jobs = [(_with_seed(job, seed), selection.updates, selection.head, selection.seen_offset) for seed in seeds]
    names = [f"test-seed-{seed}" for seed in seeds]
    executor = executor if analysis is None else Analysing(executor, analysis, seeds[0])
    if model is None:
        rows = stored_map(evaluate_on_test, jobs, names, executor, stop, store, earlier)
        return TestResult(tuple(seeds), tuple(rows))
    model = replace(model, key=stored_key(evaluate_on_test, jobs[0]))
    # trained again where its result is there and its model is not
    further = {} if model.settled else {0: (model,)}
    rows = stored_map(evaluate_on_test, jobs, names, executor, stop, store, earlier, further)
    publish(model)
    return TestResult(tuple(seeds), tuple(rows))


def _best_test_epochs(
    job: TrainingJob,
    seeds: Sequence[int],
    executor: Executor,
    stop: StopSignal,
    store: Path | None,
    earlier: Path | None,
) -> TestResult:
    rows = []
    for reports in confirmed_curves(replace(job, protocol="published"), seeds, executor, stop, store, earlier):
        best = best_report(reports)
        shared = {name: best.metrics.get(f"published/{name}", math.nan) for name in TEST_METRICS}
        rows.append({name: value for name, value in shared.items() if math.isfinite(value)})
    return TestResult(tuple(seeds), tuple(rows), protocol="published")


def confirmed_curves(
    job: TrainingJob,
    seeds: Sequence[int],
    executor: Executor,
    stop: StopSignal,
    store: Path | None,
    earlier: Path | None,
) -> list[list[Report]]:
    """Every seed's reports on the selecting protocol, see `select`."""
    jobs = [(_with_seed(job, seed),) for seed in seeds]
    names = [f"{job.protocol}-seed-{seed}" for seed in seeds]
    rows = stored_map(curve, jobs, names, executor, stop, store, earlier)
    return [[Report.from_dict(row) for row in reports] for reports in rows]


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


def stored_map(
    function: Any,
    items: Sequence[tuple[Any, ...]],
    names: Sequence[str],
    executor: Executor,
    stop: StopSignal,
    store: Path | Sequence[Path] | None,
    earlier: Path | None = None,
    further: Mapping[int, tuple[Any, ...]] | None = None,
) -> list[Any]:
    """`Executor.map` that keeps each result in a JSON file and does not compute a stored one again.

    A file holds the key of what it is the result of: the job, its arguments and the version. Another key, or a damaged
    file, is computed again.

    Args:
        function: of an item.
        items: its arguments.
        names: of their files.
        executor: where.
        stop: ends between items.
        store: directory of the files, or one for each item; None keeps nothing.
        earlier: see `select`.
        further: arguments of some items that leave their results as they are; such an item is computed in any case.

    Raises:
        ConfirmationFailedError: a training diverged, or failed for another reason of its own.
    """
    further = further or {}
    keys = [stored_key(function, item) for item in items]
    results: dict[int, Any] = {}
    stores = [store] * len(items) if store is None or isinstance(store, Path) else store
    for folder in filter(None, stores):
        folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        for place in (earlier, stores[index]):
            value = None if place is None else _stored(place / f"{name}.json", keys[index])
            if value is not None:
                results[index] = value
    missing = [index for index in range(len(items)) if index not in results or index in further]

    def keep(position: int, value: Any) -> None:
        index = missing[position]
        results[index] = value
        place = stores[index]
        if place is not None:
            write_json(place / f"{names[index]}.json", {"key": keys[index], "value": value})

    try:
        executor.map(function, [(*items[index], *further.get(index, ())) for index in missing], stop, keep)
    except DivergedError as error:
        raise ConfirmationDivergedError(str(error)) from None
    except (D3TuneError, OSError):
        raise
    except Exception as error:
        logging.getLogger(__name__).debug("a confirmation failed", exc_info=True)
        raise ConfirmationFailedError(f"{type(error).__name__}: {_one_line(error)}") from None
    return [results[index] for index in range(len(items))]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:MAX_REASON]


def stored_key(function: Any, item: tuple[Any, ...]) -> str:
    """What a stored result is known by, see `stored_map`."""
    plain = [part.to_dict() if isinstance(part, TrainingJob) else part for part in item]
    text = json.dumps([__version__, function.__name__, plain], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _stored(path: Path, key: str) -> Any:
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("value") if isinstance(content, dict) and content.get("key") == key else None

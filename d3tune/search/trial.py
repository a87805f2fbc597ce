"""One trial as a worker runs it: train, evaluate, report, checkpoint; go on from a checkpoint."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from d3tune.config import metric_prefix
from d3tune.errors import RunError
from d3tune.method.memory import give_back, out_of_gpu_memory
from d3tune.method.readings import Readings
from d3tune.method.trainer import Trainer
from d3tune.search.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, save_weights
from d3tune.search.confirmed_model import ModelRequest, keep_model
from d3tune.search.jobs import TrainingJob, describe_worker
from d3tune.search.reports import Report, make_report


class RunningTrial:
    """The trainings of one trial, one a validation split, advanced together from evaluation to evaluation."""

    def __init__(self, job: TrainingJob, directory: Path, known_update: int = 0, keep_weights: bool = False) -> None:
        """Build the trainings and go on from the newest intact checkpoint, if there is one.

        Args:
            job: what to train.
            directory: of this trial, for checkpoints.
            known_update: the last update whose report the study already has; reports up to there are not repeated.
            keep_weights: whether the weights of the best evaluation so far are kept in the directory.
        """
        self._job, self._directory, self._keep_weights = job, directory, keep_weights
        self._notes: list[str] = []
        self._worker = describe_worker(job)
        self._started = time.monotonic()
        self._reports: list[Report] = []
        self._trainings = job.selecting_trainings()
        self._restore()
        give_back()
        self._unsent = [report for report in self._reports if report.update > known_update]

    @property
    def finished(self) -> bool:
        """Whether the full budget is used and every report was handed out."""
        return not self._unsent and self._trainings[0].update >= self._trainings[0].config.updates

    def next_report(self) -> Report:
        """Train to the next evaluation and report it; the state is on disk before the report is out.

        Raises:
            DivergedError: a loss or a score is not finite.
            RunError: the trial's directory cannot be written.
        """
        if self._unsent:
            return self._unsent.pop(0)
        target = next(u for u in self._trainings[0].config.evaluation_updates if u > self._trainings[0].update)
        for training in self._trainings:
            training.advance(target)
        evaluations = [training.evaluate() for training in self._trainings]
        report = make_report(evaluations, self._job.objective, self._seconds(), metric_prefix(self._job.protocol))
        report = replace(report, worker=self._worker, notes=tuple(self._notes))
        self._worker, self._notes = {}, []
        best = max((earlier.value for earlier in self._reports), default=-math.inf)
        self._reports.append(report)
        self._save(target, improved=report.value > best)
        give_back()
        return report

    def _seconds(self) -> float:
        before = self._reports_before
        return before + time.monotonic() - self._started

    def _save(self, update: int, improved: bool) -> None:
        last = update >= self._trainings[0].config.updates
        if last and not (improved and self._keep_weights):
            return
        tensors = {
            f"{index}/{name}": tensor
            for index, training in enumerate(self._trainings)
            for name, tensor in training.state_dict().items()
        }
        checkpoint = Checkpoint(update, tensors, [r.to_dict() for r in self._reports])
        try:
            # weights first: a checkpoint whose best report has none would never get them
            if improved and self._keep_weights:
                save_weights(self._directory, checkpoint)
            if not last:
                save_checkpoint(self._directory, checkpoint)
        except (OSError, SafetensorError) as error:
            # the disk's fault, not the trial's: the search ends and this trial goes on with the next
            reason = getattr(error, "strerror", None) or str(error)
            raise RunError(f"{self._directory}: cannot be written: {reason}; mend that, then resume") from None

    def _restore(self) -> None:
        self._reports_before = 0.0
        checkpoint, damaged = load_checkpoint(self._directory)
        if checkpoint is None:
            self._notes = [f"{line}: begun anew" for line in damaged]
            return
        self._notes = [f"{line}: gone on from update {checkpoint.update}" for line in damaged]
        try:
            reports = [Report.from_dict(value) for value in checkpoint.reports]
            load_trainings(self._trainings, checkpoint.tensors)
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            if out_of_gpu_memory(error):
                raise
            self._notes = ["its checkpoint is of another device or version: begun anew"]
            self._trainings = self._job.selecting_trainings()
            return
        self._reports = reports
        self._reports_before = self._reports[-1].seconds if self._reports else 0.0


def load_trainings(trainings: Sequence[Trainer], tensors: Mapping[str, Tensor]) -> None:
    """Put the trainings of one trial where a checkpoint or kept weights left them.

    Args:
        trainings: one a split, of the trial's own job.
        tensors: as `save_checkpoint` or `save_weights` got them.

    Raises:
        RuntimeError, KeyError, ValueError: they are of another configuration.
    """
    for index, training in enumerate(trainings):
        training.load_state_dict(_below(tensors, f"{index}/"))


def curve(job: TrainingJob) -> list[dict[str, Any]]:
    """Train on the selecting protocol to the full budget and return every report, as plain values."""
    trainings = job.selecting_trainings()
    give_back()
    started = time.monotonic()
    reports = []
    for evaluations in zip(*(training.evaluations() for training in trainings), strict=True):
        report = make_report(evaluations, job.objective, time.monotonic() - started, metric_prefix(job.protocol))
        reports.append(report.to_dict())
        give_back()
    return reports


def evaluate_on_test(
    job: TrainingJob,
    updates: int,
    head: Any,
    seen_offset: float,
    model: ModelRequest | None = None,
    readings: Readings | None = None,
) -> dict[str, float]:
    """Train on all of trainval for exactly ``updates`` updates and evaluate the test sets once.

    Args:
        job: what to train.
        updates: s*, fixed by validation.
        head: the head that validation chose.
        seen_offset: δ, fixed by validation.
        model: where the model is kept; None keeps none.
        readings: takes what the evaluation reads.

    Returns:
        ``H``, ``U``, ``S``, … of that head, and the diagnostics.
    """
    (training,) = job.trainings("test")
    give_back()
    training.advance(updates)
    training.readings = readings
    evaluation = training.evaluate([head], seen_offset)
    found = {**vars(evaluation.heads[head]), **evaluation.diagnostics}
    if model is not None:
        keep_model(model, job, training, head, evaluation.fitted.get(head), seen_offset, found)
    return found


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

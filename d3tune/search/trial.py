"""One trial as a worker runs it: train, evaluate, report, checkpoint; go on from a checkpoint."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from d3tune.config import metric_prefix
from d3tune.search.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from d3tune.search.jobs import TrainingJob
from d3tune.search.reports import Report, make_report


class RunningTrial:
    """The trainings of one trial, one a validation split, advanced together from evaluation to evaluation."""

    def __init__(self, job: TrainingJob, directory: Path, known_update: int = 0) -> None:
        """Build the trainings and go on from the newest intact checkpoint, if there is one.

        Args:
            job: what to train.
            directory: of this trial, for checkpoints.
            known_update: the last update whose report the study already has; reports up to there are not repeated.
        """
        self._job, self._directory = job, directory
        self._started = time.monotonic()
        self._reports: list[Report] = []
        self._trainings = job.selecting_trainings()
        self._restore()
        self._unsent = [report for report in self._reports if report.update > known_update]

    @property
    def finished(self) -> bool:
        """Whether the full budget is used and every report was handed out."""
        return not self._unsent and self._trainings[0].update >= self._trainings[0].config.updates

    def next_report(self) -> Report:
        """Train to the next evaluation and report it; the state is on disk before the report is out.

        Raises:
            DivergedError: a loss or a score is not finite.
        """
        if self._unsent:
            return self._unsent.pop(0)
        target = next(u for u in self._trainings[0].config.evaluation_updates if u > self._trainings[0].update)
        for training in self._trainings:
            training.advance(target)
        evaluations = [training.evaluate() for training in self._trainings]
        report = make_report(evaluations, self._job.objective, self._seconds(), metric_prefix(self._job.protocol))
        self._reports.append(report)
        if target < self._trainings[0].config.updates:
            self._save(target)
        return report

    def _seconds(self) -> float:
        before = self._reports_before
        return before + time.monotonic() - self._started

    def _save(self, update: int) -> None:
        tensors = {
            f"{index}/{name}": tensor
            for index, training in enumerate(self._trainings)
            for name, tensor in training.state_dict().items()
        }
        save_checkpoint(self._directory, Checkpoint(update, tensors, [r.to_dict() for r in self._reports]))

    def _restore(self) -> None:
        self._reports_before = 0.0
        checkpoint = load_checkpoint(self._directory)
        if checkpoint is None:
            return
        try:
            for index, training in enumerate(self._trainings):
                training.load_state_dict(_below(checkpoint.tensors, f"{index}/"))
        except (RuntimeError, KeyError, ValueError):
            # of another device or version: the trial begins anew
            self._trainings = self._job.selecting_trainings()
            return
        self._reports = [Report.from_dict(value) for value in checkpoint.reports]
        self._reports_before = self._reports[-1].seconds if self._reports else 0.0


def curve(job: TrainingJob) -> list[dict[str, Any]]:
    """Train on the selecting protocol to the full budget and return every report, as plain values."""
    trainings = job.selecting_trainings()
    started = time.monotonic()
    reports = []
    for evaluations in zip(*(training.evaluations() for training in trainings), strict=True):
        report = make_report(evaluations, job.objective, time.monotonic() - started, metric_prefix(job.protocol))
        reports.append(report.to_dict())
    return reports


def evaluate_on_test(job: TrainingJob, updates: int, head: Any, seen_offset: float) -> dict[str, float]:
    """Train on all of trainval for exactly ``updates`` updates and evaluate the test sets once.

    Args:
        job: what to train.
        updates: s*, fixed by validation.
        head: the head that validation chose.
        seen_offset: δ, fixed by validation.

    Returns:
        ``H``, ``U``, ``S``, … of that head, and the diagnostics.
    """
    (training,) = job.trainings("test")
    training.advance(updates)
    evaluation = training.evaluate([head], seen_offset)
    return {**vars(evaluation.heads[head]), **evaluation.diagnostics}


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

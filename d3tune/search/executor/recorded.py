"""A recorded trial: it trains nothing and hands out what was measured before, for simulations in virtual time."""

from collections.abc import Callable, Sequence
from pathlib import Path

from d3tune.search.executor.inprocess import Begin
from d3tune.search.jobs import TrainingJob
from d3tune.search.reports import Report


class RecordedTrial:
    """Repeats the reports of a trial that was trained before."""

    def __init__(self, reports: Sequence[Report], known_update: int = 0) -> None:
        """Take the record.

        Args:
            reports: in order of update, of the full budget; their ``seconds`` count from the trial's begin.
            known_update: reports up to there are not repeated.
        """
        self._left = [report for report in reports if report.update > known_update]

    @property
    def finished(self) -> bool:
        """Whether every report was handed out."""
        return not self._left

    def next_report(self) -> Report:
        """The next recorded report."""
        return self._left.pop(0)


def recorded(reports: Callable[[TrainingJob], Sequence[Report]]) -> Begin:
    """Make trials of a record, for `InProcessExecutor`.

    Args:
        reports: what a job's training reported, or would by a model of it.
    """

    def begin(job: TrainingJob, directory: Path, known_update: int, keep_weights: bool) -> RecordedTrial:
        return RecordedTrial(reports(job), known_update)

    return begin

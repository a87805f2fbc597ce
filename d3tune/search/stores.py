"""What is kept in step with a search and may be read by others: MLflow, and a copy of the study where one is wanted."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from d3tune.errors import UsageError
from d3tune.search.following import PATIENCE
from d3tune.search.mlflow_model import model_writer
from d3tune.search.run import RunDirectory
from d3tune.search.shown import end_tags
from d3tune.search.study import Ledger
from d3tune.search.study_copy import StudyCopy
from d3tune.search.summary import best_artifacts, parent_metrics
from d3tune.search.tracking import Mirror


@dataclass(frozen=True)
class Stores:
    """The stores of one search.

    Attributes:
        mirror: in MLflow.
        copy: of the study in a database, or None.
    """

    mirror: Mirror
    copy: StudyCopy | None

    def start(self) -> None:
        """Open them, and follow the study from now on.

        Raises:
            UsageError: a file can be none of them.
        """
        if self.copy is not None:
            self.copy.start()
        try:
            self.mirror.start()
        except UsageError:
            if self.copy is not None:
                self.copy.finish(0.0)
            raise

    def finish(
        self,
        run: RunDirectory,
        summary: Mapping[str, Any],
        register: str | None,
        say: Callable[[str], None],
        hurry: Callable[[], float | None] = lambda: None,
    ) -> bool:
        """Write what became of a search, and the rest of its trials.

        Args:
            run: the search.
            summary: see `d3tune.search.summary.summarise`.
            register: see `d3tune.search.search.Plan.register_as`.
            say: takes one line of each store that is not complete.
            hurry: see `d3tune.search.following.Following.finish`.

        Returns:
            Whether they have everything.
        """
        mirror = self.mirror
        mirror.further = model_writer(run.model, register, say)
        metrics, tags = parent_metrics(summary), end_tags(run, summary)
        missed = mirror.finish(summary["state"], metrics, best_artifacts(run), PATIENCE, tags, hurry)
        if missed is not None:
            say(f"MLflow at {mirror.uri} is not complete ({missed}); write the rest with: {run.sync_command}")
        return self._copied(run, say, hurry) and missed is None

    def _copied(self, run: RunDirectory, say: Callable[[str], None], hurry: Callable[[], float | None]) -> bool:
        missed = None if self.copy is None else self.copy.finish(PATIENCE, hurry)
        if self.copy is not None and missed is not None:
            say(f"the study's copy in {self.copy.url} is not complete ({missed}); the rest: {run.sync_command}")
        return missed is None


def open_stores(
    tracking_uri: str, study_url: str | None, ledger: Ledger, run: RunDirectory, say: Callable[[str], None]
) -> Stores:
    """The stores that a command names; nothing is opened yet."""
    copy = None if study_url is None else StudyCopy(study_url, ledger, run, say)
    return Stores(Mirror(tracking_uri, ledger, run, say), copy)


def begun(start: Callable[[], None]) -> "Future[None]":
    """Something done in a thread of its own: MLflow is imported and its store made ready while Ray starts."""
    thread = ThreadPoolExecutor(1, "mlflow-start")
    try:
        return thread.submit(start)
    finally:
        thread.shutdown(wait=False)

"""The MLflow mirror: what the study says, written in batches, found again instead of duplicated.

What a run says is in `shown`, what its experiment and parent hold in `parent`; here is how they are kept in step.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from optuna.trial import FrozenTrial, TrialState

from d3tune.errors import UsageError, root_cause
from d3tune.files import home, writable_directory
from d3tune.search import chatter
from d3tune.search.batches import log_run
from d3tune.search.databases import driven
from d3tune.search.following import OPENING, PATIENCE, SYNC_SECONDS, Following
from d3tune.search.journal import CONFIG_ATTR
from d3tune.search.mlflow_file import absolute, create_store, file_of, fold_log
from d3tune.search.parent import attach, note_best, open_experiment, open_parent
from d3tune.search.reports import best_report
from d3tune.search.run import RunDirectory
from d3tune.search.shown import (
    LAYOUT,
    LAYOUT_TAG,
    PARENT_STATUS,
    RUN_TAG,
    STATE_TAG,
    STATUS,
    TRIAL_TAG,
    TUNED,
    best_metrics,
    child_name,
    child_tags,
    confirmed_metric,
    experiment_name,
    git_commit,
    trial_end_tags,
    trial_metrics,
    trial_params,
    tuned_metrics,
)
from d3tune.search.study import Ledger, reports_of
from d3tune.search.views import trials_key, view_link
from d3tune.search.writer import Part, Writer, WriterEndedError, of_use, write

if TYPE_CHECKING:
    from mlflow import MlflowClient

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # a server that is down costs seconds, not minutes; what it misses is written later
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # else a server's run ends with two lines on stdout, and a request for them
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
for _key, _value in ENVIRONMENT.items():
    os.environ.setdefault(_key, _value)

VARIABLE = "MLFLOW_TRACKING_URI"
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
# what SQLite says of a store that may be used again later
PASSING = ("database is locked", "database or disk is full", "disk I/O error")


def default_uri() -> str:
    """The store in ``$D3TUNE_HOME``."""
    return f"sqlite:///{home() / 'mlflow.db'}"


def store_uri(given: str | None) -> str:
    """The MLflow store to use: the one given, ``$MLFLOW_TRACKING_URI``, or the one in ``$D3TUNE_HOME``.

    Raises:
        UsageError: see `check_uri`, and `d3tune.search.databases.driven`.
    """
    uri = check_uri(given or os.environ.get(VARIABLE) or default_uri())
    # a run remembers it, and is gone on with from anywhere
    return driven(origin(uri), absolute(uri))


def origin(uri: str) -> str:
    """What names a store, to be changed where that is wrong."""
    named = os.environ.get(VARIABLE)
    return VARIABLE if named is not None and uri in (named, absolute(named)) else "--tracking-uri"


def check_uri(uri: str) -> str:
    """Check a tracking URI as far as that is possible without a server.

    Raises:
        UsageError: the scheme is none of MLflow's stores, or the folder of an SQLite file cannot be written.
    """
    option = origin(uri)
    scheme = urlparse(uri).scheme.split("+")[0]
    if scheme not in SCHEMES:
        raise UsageError(
            f"{option} {uri}: '{scheme or uri}' is no MLflow store; use sqlite:///FILE, http://HOST:PORT, "
            "or a postgresql, mysql or mssql URI"
        )
    if scheme == "sqlite":
        path = file_of(uri)
        if path is None:
            raise UsageError(f"{option} {uri}: an SQLite store is sqlite:///FILE")
        folder = path.absolute().parent
        # a slip of the hand would make a new store; d3tune's own home is made where it is not there
        if not folder.is_dir() and folder != home().absolute():
            raise UsageError(f"{option} {uri}: there is no folder {folder}; make it, or give another")
        writable_directory(folder, f"give another {option}")
    elif scheme in ("http", "https") and not urlparse(uri).netloc:
        raise UsageError(f"{option} {uri}: names no host; use http://HOST:PORT")
    return uri


class Mirror:
    """Keeps one parent run and one child run a trial in step with the study.

    Runs are found by tags before any is created, so a mirror that starts again continues the runs of the one before
    it. It reads the study only; what it misses now it writes at the next `sync`.

    Attributes:
        further: writes more at the end, given client, experiment and parent run; it may be called again.
    """

    def __init__(self, uri: str, ledger: Ledger, run: RunDirectory, say: Callable[[str], None] | None = None) -> None:
        """Prepare; nothing is opened before the first `sync`.

        Args:
            uri: the MLflow store.
            ledger: the study.
            run: the search.
            say: takes one line when the store stops taking what is written, and one when it takes it again.
        """
        self.uri = uri
        self._following = Following(f"MLflow at {uri}", self.sync, say or (lambda line: None))
        self._ledger, self._run, self._search = ledger, run, run.search
        self._commit: str | None = None
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._parent = ""
        self._children: dict[int, str] = {}
        self._written: dict[int, int] = {}
        self._closed: dict[int, str] = {}
        self._states: dict[int, str] = {}
        self._with_params: set[int] = set()
        self._with_tuned: set[int] = set()
        self._with_end: set[int] = set()
        self._behind = False
        self._apart = of_use(uri)
        self._writer: Writer | None = None
        self.further: Callable[[MlflowClient, str, str], None] | None = None

    @property
    def experiment_name(self) -> str:
        """See `d3tune.search.shown.experiment_name`."""
        return experiment_name(self._search)

    def start(self) -> None:
        """Create store, experiment and parent run, then sync from a thread until `finish`.

        Raises:
            UsageError: a local store cannot be used at all. A server that does not answer is no error: the search
                goes on and the mirror tries again.
        """
        self._commit = git_commit(Path.cwd())
        if self.uri.startswith("sqlite"):
            try:
                self.sync()
            except UsageError:
                raise
            except Exception as error:
                if any(words in str(error) for words in PASSING):
                    self._following.note(error)
                else:
                    raise UsageError(
                        f"{origin(self.uri)} {self.uri}: not an MLflow store: {root_cause(error)}"
                    ) from None
        self._following.start()

    def sync(self) -> None:
        """Write everything the study has and MLflow has not; one thread at a time calls it."""
        began = time.monotonic()
        try:
            self._open()
            for trial in self._due(self._ledger.trials()):
                if self._following.given_up.is_set():
                    return
                self._write_trial(trial)
        except WriterEndedError:
            # from now on all is written here
            self._client, self._apart = None, False
            self._leave_writer()
            raise
        except Exception:
            # a run may have been created although its answer was lost: look all runs up again
            self._client = None
            raise
        self._behind = time.monotonic() - began > SYNC_SECONDS

    def _due(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """What to write of a study: a store that cannot keep up gets of a trial all at once, after its end."""
        later = self._behind and not self._following.ending
        return [
            trial
            for trial in trials
            if self._closed.get(trial.number) != trial.state.name and (trial.state.is_finished() or not later)
        ]

    def finish(
        self,
        state: str,
        metrics: Mapping[str, float],
        artifacts: Sequence[Path] = (),
        patience: float = PATIENCE,
        tags: Mapping[str, str] | None = None,
        hurry: Callable[[], float | None] = lambda: None,
    ) -> str | None:
        """Stop the thread, write the rest and close the parent.

        Args:
            state: ``done``, ``interrupted`` or ``failed``; any trial still running is marked interrupted.
            metrics: of the parent: best ``val/H`` and the confirmed ``test/…``.
            artifacts: files and folders to attach to the parent, see `d3tune.search.parent.attach`.
            patience: seconds to go on trying while the store takes nothing.
            tags: of the parent: its note.
            hurry: see `Following.finish`.

        Returns:
            Why the store is not complete, or None where it is.
        """
        try:
            return self._following.finish(lambda: self._close(state, metrics, artifacts, tags or {}), patience, hurry)
        finally:
            self._leave_writer()

    def _close(
        self, state: str, metrics: Mapping[str, float], artifacts: Sequence[Path], tags: Mapping[str, str]
    ) -> None:
        client = self._opened()
        for number, run_id in self._children.items():
            if self._closed.get(number) is None:
                client.set_tag(run_id, STATE_TAG, "INTERRUPTED")
                client.set_terminated(run_id, "KILLED")
                self._following.took("interrupted", number)
        best = best_metrics(self._search, self._ledger.trials())
        rows = [(key, value, 0) for key, value in {**best, **metrics}.items()]
        log_run(client, self._parent, rows, tags={**tags, STATE_TAG: state})
        for path in artifacts:
            attach(client, self._parent, path)
            self._following.took("attached", path)
        if confirmed_metric(self._search) in metrics:
            note_best(client, self._experiment, self._search)
        client.set_terminated(self._parent, PARENT_STATUS[state])
        self._following.took("ended")
        # last: a store may refuse a model and have all the rest
        if self.further is not None:
            self.further(client, self._experiment, self._parent)
        fold_log(self.uri)

    def _leave_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def link(self) -> str:
        """Path and query of the MLflow page that compares this run's trials, best first."""
        return view_link(self._experiment, trials_key(self._run.uid)) if self._experiment else ""

    def _opened(self) -> "MlflowClient":
        assert self._client is not None
        return self._client

    def _open(self) -> None:
        if self._client is not None:
            return
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # else a store that is locked or full prints a traceback at each try; it is told in one line
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        chatter.redirect()
        with self._following.step(), OPENING:
            create_store(self.uri)
        with OPENING:
            client = MlflowClient(self.uri)
        self._experiment = open_experiment(client, self.uri, self._run, self._ledger.space)
        self._following.took("experiment")
        self._states = {trial.number: trial.state.name for trial in self._ledger.trials()}
        held = self._find_runs(client)
        self._parent = open_parent(client, self._experiment, self._run, self._ledger.space, held, self._commit)
        self._client = client

    def _find_runs(self, client: "MlflowClient") -> Any:
        """Continue the runs of trials that are there; returns the search's own, or None."""
        parent, token = None, None
        while True:
            page = client.search_runs(
                [self._experiment], f"tags.`{RUN_TAG}` = '{self._run.uid}'", max_results=1000, page_token=token
            )
            for run in page:
                number = run.data.tags.get(TRIAL_TAG)
                if run.data.tags.get(LAYOUT_TAG) != LAYOUT:
                    # of an earlier version: what has other names and values cannot be continued
                    client.delete_run(run.info.run_id)
                elif number is None:
                    parent = run
                else:
                    self._adopt(client, int(number), run)
                    self._following.took("found", number)
            token = page.token
            if not token:
                return parent

    def _adopt(self, client: "MlflowClient", number: int, run: Any) -> None:
        """Continue the run of an earlier process: what it holds is not written again."""
        run_id = run.info.run_id
        self._children[number] = run_id
        state = run.data.tags.get(STATE_TAG, "")
        ended = state in TrialState.__members__ and run.info.status == STATUS.get(TrialState[state])
        # a study that lost a trial's end makes it again
        if ended and state == self._states.get(number):
            self._closed[number] = state
            return
        if run.data.params:
            self._with_params.add(number)
        if any(name.startswith(TUNED) for name in run.data.metrics):
            self._with_tuned.add(number)
        history = client.get_metric_history(run_id, self._search.best_metric)
        self._written[number] = max((metric.step for metric in history), default=0)
        client.update_run(run_id, status="RUNNING")

    def _write_trial(self, trial: FrozenTrial) -> None:
        number, made = trial.number, trial.number in self._children
        if not made and CONFIG_ATTR not in trial.user_attrs and trial.state == TrialState.RUNNING:
            return
        part, reports = self._part(trial), reports_of(trial)
        self._children[number] = self._write(part)
        if not made:
            self._following.took("created", number)
            self._with_end |= {number} if trial.state.is_finished() else set()
        if part.rows or part.params or part.further:
            self._following.took("written", number, len(reports))
        self._with_params.add(number)
        self._with_tuned.add(number)
        # a study that lost its last record is behind MLflow until it has made that again
        self._written[number] = max(self._written.get(number, 0), *(r.update for r in reports), 0)
        if part.status is not None:
            self._closed[number] = trial.state.name
            self._following.took("ended", number)

    def _part(self, trial: FrozenTrial) -> Part:
        """What MLflow has not of a trial."""
        number, reports, ended = trial.number, reports_of(trial), trial.state != TrialState.RUNNING
        # first, so that a batch that is cut short has them
        rows = [] if number in self._with_tuned else [(key, value, 0) for key, value in tuned_metrics(trial).items()]
        for index, report in enumerate(reports):
            if report.update > self._written.get(number, 0):
                shown = trial_metrics(self._search, report, best_report(reports[: index + 1]))
                rows += [(key, value, report.update) for key, value in shown.items()]
        run_id, of_end = self._children.get(number), _tags_of_end(trial)
        return Part(
            run_id,
            self._experiment,
            child_name(self._search, number),
            # the end's of a trial that is over already are one write less; its status says that it is not all there
            {**child_tags(self._run, number, self._parent), **of_end},
            _milliseconds(trial.datetime_start),
            _milliseconds(trial.datetime_complete),
            rows,
            {} if number in self._with_params else trial_params(trial),
            {} if run_id is None or number in self._with_end else of_end,
            STATUS[trial.state] if ended else None,
        )

    def _write(self, part: Part) -> str:
        """Write it here, or have it written where a store has once been behind; the id of the trial's run."""
        if self._behind and self._apart and self._writer is None:
            with self._following.step():
                self._writer = Writer(self.uri)
        return write(self._opened(), part) if self._writer is None else self._writer.write(part)


def _tags_of_end(trial: FrozenTrial) -> dict[str, str]:
    return trial_end_tags(trial) if trial.state.is_finished() else {}


def _milliseconds(when: datetime | None) -> int | None:
    """As MLflow counts time; None is now."""
    return None if when is None else int(when.timestamp() * 1000)

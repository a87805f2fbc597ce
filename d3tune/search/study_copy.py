"""A copy of the study in a database, for optuna-dashboard and other readers; the journal stays the truth."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from sqlalchemy.exc import IntegrityError, ProgrammingError

from d3tune.errors import UsageError, root_cause
from d3tune.files import make_new, slug, writable_directory
from d3tune.search.aims import directions
from d3tune.search.databases import driven, refuse_unreadable, same_database
from d3tune.search.following import OPENING, Following
from d3tune.search.mlflow_file import PREFIX, absolute, file_of
from d3tune.search.reports import REPORT_KEY
from d3tune.search.run import RunDirectory
from d3tune.search.study import Ledger
from d3tune.search.tracking import PASSING

OPTION = "--study-url"
SCHEMES = ("sqlite", "postgresql", "mysql")
# two searches that make the tables at once: one of them finds them half made
TRIES = 5
ANSWER_SECONDS = 10


def study_url(given: str | None, tracking_uri: str) -> str | None:
    """The database for a copy of the study, checked as far as that is possible without opening it.

    Args:
        given: on the command line or by an earlier command; None, ``""`` or ``none`` for no copy.
        tracking_uri: the MLflow store, which may not be the same database.

    Raises:
        UsageError: the scheme is none that Optuna can write, a driver or a folder is missing, or MLflow is there.
    """
    if given in (None, "", "none"):
        return None
    scheme = urlparse(given).scheme.partition("+")[0]
    if scheme not in SCHEMES:
        raise UsageError(
            f"{OPTION} {given}: '{scheme or given}' is no database that Optuna writes; use sqlite:///FILE, "
            "postgresql://USER@HOST/DATABASE, mysql://USER@HOST/DATABASE, or none"
        )
    url = driven(OPTION, absolute(given))
    refuse_unreadable(OPTION, url)
    if scheme == "sqlite":
        _check_file(url)
    if same_database(url, tracking_uri):
        # both keep the version of their tables in one table of the same name
        raise UsageError(f"{OPTION} {given}: MLflow's store is there; give the study a database of its own")
    return url


def _check_file(url: str) -> None:
    path = file_of(url)
    if path is None:
        raise UsageError(f"{OPTION} {url}: an SQLite database is sqlite:///FILE")
    if not path.parent.is_dir():
        raise UsageError(f"{OPTION} {url}: there is no folder {path.parent}; make it, or give another")
    writable_directory(path.parent, f"give another {OPTION}")


def copy_name(run: RunDirectory) -> str:
    """The name of a run's study in the database: a run that is renamed keeps it, a copied one has its own."""
    return f"{slug(run.search.dataset)}-{run.search.backbone}-{run.uid}"


class StudyCopy:
    """Keeps a study in a database in step with a run's own; the database may hold those of many runs.

    Trials have the same numbers, parameters, values and states. What differs from the run's study, because that lost
    its last record in a crash, is written anew.
    """

    def __init__(self, url: str, ledger: Ledger, run: RunDirectory, say: Callable[[str], None] | None = None) -> None:
        """Prepare; nothing is opened before the first `sync`.

        Args:
            url: of the database, see `study_url`.
            ledger: the study.
            run: the search.
            say: takes one line when the database stops taking what is written, and one when it takes it again.
        """
        self.url = url
        self._ledger, self._run = ledger, run
        self._say = say or (lambda line: None)
        self._following = Following(f"the study's copy in {url}", self.sync, self._say)
        self._storage: BaseStorage | None = None
        self._study = 0
        self._held: list[FrozenTrial] = []

    def start(self) -> None:
        """Make or find the study in the database, then sync from a thread until `finish`.

        Raises:
            UsageError: a file cannot be used at all. A server that does not answer is no error: the search goes on and
                the copy is tried again.
        """
        if self.url.startswith("sqlite"):
            try:
                self.sync()
            except Exception as error:
                if not any(words in root_cause(error) for words in PASSING):
                    raise UsageError(f"{OPTION} {self.url}: not a database of Optuna's: {root_cause(error)}") from None
                self._following.note(error)
        self._following.start()

    def sync(self) -> None:
        """Write everything the study has and its copy has not; one thread at a time calls it."""
        try:
            trials = self._ledger.trials()
            storage = self._storage or self._open(trials)
            for trial in trials:
                if self._following.given_up.is_set():
                    return
                if not self._has(trial):
                    self._write(storage, trial)
        except Exception:
            # a trial may have been written although the answer was lost: look at them all again
            self._close()
            raise

    def finish(self, patience: float, hurry: Callable[[], float | None] = lambda: None) -> str | None:
        """Stop the thread and write the rest; see `Following.finish`."""
        missed = self._following.finish(lambda: None, patience, hurry)
        if missed is None:
            self._close()
        return missed

    def _close(self) -> None:
        storage, self._storage = self._storage, None
        if storage is not None:
            _dispose(storage)

    def _open(self, trials: Sequence[FrozenTrial]) -> BaseStorage:
        # a host that does not answer is waited for here, and not where other stores wait too
        _await(self.url)
        with self._following.step(), OPENING:
            storage = _opened(self.url)
        name = copy_name(self._run)
        ways = directions(self._run.search)
        study = _study(storage, name, ways)
        self._following.took("study")
        self._held = sorted(storage.get_all_trials(study, deepcopy=False), key=lambda trial: trial.number)
        self._following.took("trials")
        if not _continues(self._held, trials):
            self._say(f"the study's copy in {self.url} differs from the run's study and is written anew")
            storage.delete_study(study)
            study, self._held = _study(storage, name, ways), []
        for key, value in self._labels().items():
            storage.set_study_user_attr(study, key, value)
        self._storage, self._study = storage, study
        return storage

    def _labels(self) -> dict[str, str]:
        search = self._run.search
        return {
            "run": str(self._run.path),
            "dataset": search.dataset,
            "backbone": search.backbone,
            "protocol": search.protocol,
            "objective": search.searched_metric,
        }

    def _has(self, trial: FrozenTrial) -> bool:
        """Whether a trial is there to its end."""
        return trial.number < len(self._held) and self._held[trial.number].state.is_finished()

    def _write(self, storage: BaseStorage, trial: FrozenTrial) -> None:
        held = self._held[trial.number] if trial.number < len(self._held) else None
        shown = _shown(trial)
        if held is None:
            made = storage.get_trial(storage.create_new_trial(self._study, template_trial=shown))
            if made.number != trial.number:
                # written twice, because the answer to the first was lost: the next look finds that it differs
                raise RuntimeError(f"trial {trial.number} is there as {made.number}")
            self._held.append(made)
            self._following.took("created", trial.number)
            return
        for step, value in shown.intermediate_values.items():
            if step not in held.intermediate_values:
                storage.set_trial_intermediate_value(held._trial_id, step, value)
                self._following.took("reported", trial.number, step)
        for key, attribute in shown.user_attrs.items():
            if key not in held.user_attrs:
                storage.set_trial_user_attr(held._trial_id, key, attribute)
        for key, violation in shown.system_attrs.items():
            if key not in held.system_attrs:
                storage.set_trial_system_attr(held._trial_id, key, violation)
        if trial.state.is_finished():
            # last: what is finished takes no more
            storage.set_trial_state_values(held._trial_id, trial.state, trial.values)
            self._following.took("ended", trial.number)
        self._held[trial.number] = storage.get_trial(held._trial_id)


def _shown(trial: FrozenTrial) -> FrozenTrial:
    """A trial without its reports, whose values are there anyway, and of Optuna's own notes with its constraints."""
    attributes = {key: value for key, value in trial.user_attrs.items() if not key.startswith(REPORT_KEY)}
    return FrozenTrial(
        number=trial.number,
        state=trial.state,
        value=None,
        values=trial.values,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        params=dict(trial.params),
        distributions=dict(trial.distributions),
        user_attrs=attributes,
        system_attrs=_constraints(trial),
        intermediate_values=dict(trial.intermediate_values),
        trial_id=trial._trial_id,
    )


def _constraints(trial: FrozenTrial) -> dict[str, Any]:
    """Optuna's notes of what the trial breaks."""
    return {key: value for key, value in trial.system_attrs.items() if key.startswith("constraints:")}


def _continues(held: Sequence[FrozenTrial], trials: Sequence[FrozenTrial]) -> bool:
    """Whether what the database holds is what the study had earlier."""
    return len(held) <= len(trials) and all(_earlier(*pair) for pair in zip(held, trials, strict=False))


def _earlier(held: FrozenTrial, trial: FrozenTrial) -> bool:
    ended = held.state.is_finished()
    return (
        held.number == trial.number
        and held.params == trial.params
        and held.distributions == trial.distributions
        and (not ended or (held.state == trial.state and held.values == trial.values))
        and (not ended or held.intermediate_values.keys() == trial.intermediate_values.keys())
        and held.intermediate_values.items() <= trial.intermediate_values.items()
    )


def _study(storage: BaseStorage, name: str, ways: Sequence[StudyDirection]) -> int:
    try:
        return storage.create_new_study(ways, name)
    except DuplicatedStudyError:
        return storage.get_study_id_from_name(name)


def _opened(url: str) -> BaseStorage:
    """Open a database, making the tables of a new one: those of a file whole or not at all."""
    path = file_of(url)
    if path is not None and "?" not in url and not path.exists():
        make_new(path, _make_tables)
    for _ in range(TRIES):
        # another search that makes the tables at the same time
        with suppress(IntegrityError, ProgrammingError):
            return _connected(url)
    return _connected(url)


def _make_tables(path: Path) -> None:
    _dispose(_connected(f"{PREFIX}{path}"))


def _await(url: str) -> None:
    """Connect to a database once; one in a file needs no waiting."""
    if url.startswith("sqlite"):
        return
    import sqlalchemy

    engine = sqlalchemy.create_engine(url, **_patience(url))
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def _connected(url: str) -> BaseStorage:
    return RDBStorage(url, engine_kwargs={"pool_pre_ping": True, **_patience(url)})


def _patience(url: str) -> dict[str, Any]:
    """What bounds the wait for a host that does not answer: it is asked again later."""
    if url.startswith("sqlite"):
        return {}
    name = "timeout" if url.startswith("postgresql+pg8000") else "connect_timeout"
    return {"connect_args": {name: ANSWER_SECONDS}}


def _dispose(storage: Any) -> None:
    storage.remove_session()
    storage.engine.dispose()

"""The ledger: the Optuna study in a journal file, the only truth about a search's trials."""

import logging
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError

from d3tune.config import SearchConfig, TrialConfig, first_fault, metric_prefix
from d3tune.errors import RunError
from d3tune.search.aims import constraints_at, directions, values_at
from d3tune.search.faults import INTACT
from d3tune.search.journal import CONFIG_ATTR, Journal, mend
from d3tune.search.pruning import make_pruner
from d3tune.search.reports import REPORT_KEY, Report, best_report, collapse
from d3tune.search.sampling import enqueue_params, fitting_params, make_sampler, suggest
from d3tune.search.standing import Standing
from d3tune.search.storage import StudyStorage
from d3tune.space import Space

RETRY_ATTR, WORKER_ATTR = "retry_of", "worker"
# where Optuna keeps the parameters of a trial that is enqueued
FIXED_PARAMS = "fixed_params"
# what a journal that is no journal, or not ours, makes Optuna raise
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, AssertionError, RecursionError)
MAX_FAILURE_TEXT = 500


@dataclass(frozen=True)
class Assignment:
    """A trial to run.

    Attributes:
        number: its number in the study.
        config: every hyper-parameter.
        known_update: the last update the study has a report of; above 0 for an interrupted trial.
        known_seconds: spent on it up to that report.
    """

    number: int
    config: dict[str, Any]
    known_update: int = 0
    known_seconds: float = 0.0


class Ledger:
    """Gives out trials, takes their reports and outcomes, and says which to prune.

    Everything is in the study's journal before a call returns, and whole: a killed process leaves a trial suggested or
    not, a report recorded or not. One process at a time owns it (see `RunDirectory`).

    Attributes:
        study: the Optuna study.
        standing: how many trials began and ended, and the best.
        mended: what a killed process had left unfinished in the journal, or None.
    """

    def __init__(self, journal: Path, name: str, search: SearchConfig, space: Space, config: type[TrialConfig]) -> None:
        """Open the study, or create it with its warm-start points.

        Args:
            journal: path of the journal file.
            name: the study's name where it is created.
            search: the frozen search configuration.
            space: what is searched.
            config: the backbone's configuration class.

        Raises:
            RunError: the journal is damaged.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._search, self._space, self._config = search, space, config
        self._updates = config(**space.fixed).updates
        self._lock = threading.RLock()
        self.study, self._journal, self.mended = _open_study(journal, name, directions(search))
        self.study.pruner = make_pruner(search.pruner, self._updates, search.compares_by_value)
        self._enqueue_warm_starts()
        there = self.trials()
        self.standing = Standing(there)
        self._interrupted = [trial.number for trial in there if trial.state == TrialState.RUNNING]
        self._running: dict[int, optuna.Trial] = {}
        self._aside: list[int] = []

    def trials(self) -> list[FrozenTrial]:
        """Every trial that was ever given out, in order of number; warm starts not yet begun are left out."""
        with self._lock:
            if self._journal.broken:
                # what the file did not take did not happen
                return read_trials(self._journal.path)
            return [t for t in self.study.get_trials(deepcopy=False) if t.state != TrialState.WAITING]

    def trial(self, number: int) -> FrozenTrial:
        """One of `trials`, without listing them all.

        Raises:
            KeyError: there is none of that number.
        """
        with self._lock:
            if self._journal.broken:
                return {trial.number: trial for trial in self.trials()}[number]
            return self._frozen(number)

    def next_trial(self, limit: int) -> Assignment | None:
        """The next trial to run: an interrupted one, else a warm start, else a suggestion.

        Args:
            limit: how many trials the search may have in all.

        Returns:
            None when there is nothing left to give out.
        """
        if self._interrupted:
            number = self._interrupted.pop(0)
            frozen = self._frozen(number)
            self._running[number] = optuna.Trial(self.study, frozen._trial_id)
            reports = reports_of(frozen)
            known = (reports[-1].update, reports[-1].seconds) if reports else (0, 0.0)
            return Assignment(number, frozen.user_attrs[CONFIG_ATTR], *known)
        while self.standing.begun < limit:
            assignment = self._suggested()
            if assignment is not None:
                return assignment
        return None

    def _suggested(self) -> Assignment | None:
        """A new trial; None where the suggestion is no legal configuration, which then is a FAIL on record."""
        self.study.sampler = make_sampler(self._search.sampler, self._search.seed, self.standing.begun)
        with warnings.catch_warnings(), self._one_change():
            warnings.simplefilter("ignore", ExperimentalWarning)
            trial = self.study.ask()
            self.standing.begin()
            return self._configured(trial)

    def _configured(self, trial: optuna.Trial) -> Assignment | None:
        values = suggest(trial, self._space, self._config)
        try:
            full = self._config(**values).model_dump(mode="json")
        except ValidationError as error:
            self._tell_failed(trial.number, f"not a legal configuration: {first_fault(error)}")
            self._end(trial.number)
            return None
        trial.set_user_attr(CONFIG_ATTR, full)
        self._running[trial.number] = trial
        return Assignment(trial.number, full)

    def report(self, number: int, report: Report) -> bool:
        """Record an evaluation; a repeated one changes nothing.

        Returns:
            Whether the trial is to stop; it is then PRUNED in the study.
        """
        trial = self._running.get(number)
        if trial is None:
            return True
        frozen = self._frozen(number)
        with self._one_change():
            if report.update not in frozen.intermediate_values:
                self._record(trial, frozen, report)
            if report.update >= self._updates or not self._is_behind(trial):
                return False
            self._record_best(trial)
            self.study.tell(number, state=TrialState.PRUNED)
        self._end(number)
        return True

    def complete(self, number: int) -> None:
        """The trial used its full budget: COMPLETE with its best value; FAIL where that is not so, or it collapsed."""
        trial = self._running.get(number)
        if trial is None:
            return
        frozen = self._frozen(number)
        if _last_update(frozen) < self._updates:
            self.fail(number, f"ended at update {_last_update(frozen)} of {self._updates}")
            return
        reason = collapse(reports_of(frozen), metric_prefix(self._search.protocol))
        if reason is not None:
            self.fail(number, reason)
            return
        with self._one_change():
            best = self._record_best(trial)
            for name, value in constraints_at(best, self._search).items():
                trial.set_constraint(name, value)
            self.study.tell(number, values_at(best, self._search))
        self._end(number)

    def fail(self, number: int, reason: str) -> None:
        """The trial failed or diverged: FAIL with the reason; does nothing where its outcome is recorded."""
        if number in self._running:
            with self._one_change():
                self._tell_failed(number, reason)
            self._end(number)

    def set_aside(self, number: int) -> None:
        """Leave a running trial interrupted; it is given out again after `recall`, or by the next process."""
        if self._running.pop(number, None) is not None:
            self._aside.append(number)

    def recall(self) -> bool:
        """Give out next what was set aside; returns whether there is any."""
        recalled, self._aside = self._aside, []
        self._interrupted += recalled
        return bool(recalled)

    def retry_failed(self, count: int) -> list[int]:
        """Enqueue failed trials again, each once, under new numbers.

        Args:
            count: how many at most, the earliest first.

        Returns:
            The numbers of the trials that are retried.
        """
        everyone = self.study.get_trials(deepcopy=False)
        retried = {trial.user_attrs.get(RETRY_ATTR) for trial in everyone}
        failed = [t for t in everyone if t.state == TrialState.FAIL and t.number not in retried]
        for trial in failed[:count]:
            params = fitting_params(self._space, trial.params)
            self.study.enqueue_trial(params, user_attrs={RETRY_ATTR: trial.number})
        return [trial.number for trial in failed[:count]]

    @property
    def waiting_retries(self) -> int:
        """How many failed trials are enqueued again and were not begun."""
        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return sum(RETRY_ATTR in trial.user_attrs for trial in waiting)

    @property
    def space(self) -> Space:
        """What is searched."""
        return self._space

    @property
    def n_left(self) -> int:
        """How many interrupted trials were not gone on with, and failed ones that are to be tried again not begun."""
        return len(self._interrupted) + len(self._aside) + self.waiting_retries

    @property
    def running(self) -> list[int]:
        """Numbers of the trials that are being trained."""
        return list(self._running)

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles what it is handed; the ledger stays in its process and travels as an empty shell."""
        return {}

    def _enqueue_warm_starts(self) -> None:
        # an extended space may have others
        if self.study.user_attrs.get("warm_starts_of") == self._space.hash:
            return
        self._fit_waiting()
        for point in self._space.warm_start:
            params = enqueue_params(self._space, point.values)
            self.study.enqueue_trial(params, user_attrs={"warm_start": point.name}, skip_if_exists=True)
        self.study.set_user_attr("warm_starts_of", self._space.hash)

    def _fit_waiting(self) -> None:
        """Of trials enqueued and not yet begun: what lies outside the space now is suggested within it."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            params = trial.system_attrs.get(FIXED_PARAMS, {})
            fitting = fitting_params(self._space, params)
            if fitting != params:
                self.study._storage.set_trial_system_attr(trial._trial_id, FIXED_PARAMS, fitting)

    @contextmanager
    def _one_change(self) -> Iterator[None]:
        """Write what is done to the study as one; other threads see all of it or nothing."""
        with self._lock, self._journal.batch():
            yield

    def _record(self, trial: optuna.Trial, frozen: FrozenTrial, report: Report) -> None:
        reports = [*reports_of(frozen), report]
        plain = report.to_dict()
        if plain.pop("worker", None) and WORKER_ATTR not in frozen.user_attrs:
            trial.set_user_attr(WORKER_ATTR, report.worker)
        trial.set_user_attr(f"{REPORT_KEY}{report.update:08d}", plain)
        value = best_report(reports).value
        if self._search.aims:
            # which an optuna.Trial with two values does not take
            self.study._storage.set_trial_intermediate_value(trial._trial_id, report.update, value)
        else:
            trial.report(value, report.update)

    def _is_behind(self, trial: optuna.Trial) -> bool:
        return self._search.compares_by_value and trial.should_prune()

    def _end(self, number: int) -> None:
        self._running.pop(number, None)
        self.standing.end(self._frozen(number))

    def _frozen(self, number: int) -> FrozenTrial:
        storage = self.study._storage
        return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number))

    def _record_best(self, trial: optuna.Trial) -> Report:
        best = best_report(reports_of(self._frozen(trial.number)))
        trial.set_user_attr("best_update", best.update)
        trial.set_user_attr("best_head", best.head)
        return best

    def _tell_failed(self, number: int, reason: str) -> None:
        # an exception may quote a file name that is no text; databases take no NUL
        printable = reason.encode("utf-8", "replace").decode("utf-8").replace("\0", " ")
        text = " ".join(printable.split())[:MAX_FAILURE_TEXT]
        # an optuna.Trial would ask the sampler for values first
        self.study._storage.set_trial_user_attr(self._frozen(number)._trial_id, "failure", text)
        self.study.tell(number, state=TrialState.FAIL)


def read_trials(journal: Path) -> list[FrozenTrial]:
    """Every trial of a study, without owning it or writing to it.

    Raises:
        RunError: there is no readable journal.
    """
    if not journal.is_file():
        raise RunError(f"{journal}: there is no journal; the run has not begun")
    try:
        study = only_study(optuna.storages.JournalStorage(Journal(journal)))
        trials = [] if study is None else study.get_trials(deepcopy=False)
    except UNREADABLE as error:
        raise unreadable(journal, error) from None
    return [trial for trial in trials if trial.state != TrialState.WAITING]


def unreadable(journal: Path, error: Exception) -> RunError:
    """What to raise where a journal made Optuna or its reader raise one of `UNREADABLE`."""
    reason = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
    return RunError(f"{journal}: the study's journal cannot be read: {reason}; {INTACT}")


def only_study(storage: optuna.storages.BaseStorage) -> optuna.Study | None:
    """The one study of a journal whatever its name, since a run directory may be renamed; None of an empty one.

    Raises:
        ValueError: there are several.
    """
    names = optuna.get_all_study_names(storage)
    if len(names) > 1:
        raise ValueError(f"it holds {len(names)} studies")
    return optuna.load_study(study_name=names[0], storage=storage) if names else None


def reports_of(trial: FrozenTrial) -> list[Report]:
    """The trial's reports in order of update."""
    keys = sorted(key for key in trial.user_attrs if key.startswith(REPORT_KEY))
    return [Report.from_dict(trial.user_attrs[key]) for key in keys]


def last_seconds(trial: FrozenTrial) -> float:
    """Seconds spent on a trial up to its last report; 0 before its first."""
    last = max((key for key in trial.user_attrs if key.startswith(REPORT_KEY)), default=None)
    return 0.0 if last is None else float(trial.user_attrs[last]["seconds"])


def counts(trials: Sequence[FrozenTrial]) -> dict[str, int]:
    """Trials by state: complete, pruned, failed, and interrupted, which a resumed search goes on with."""
    states = Counter(trial.state for trial in trials)
    return {
        "complete": states[TrialState.COMPLETE],
        "pruned": states[TrialState.PRUNED],
        "failed": states[TrialState.FAIL],
        "interrupted": states[TrialState.RUNNING],
    }


def _last_update(trial: FrozenTrial) -> int:
    return max(trial.intermediate_values, default=0)


def _open_study(path: Path, name: str, ways: Sequence[StudyDirection]) -> tuple[optuna.Study, Journal, str | None]:
    try:
        mended = mend(path)
        journal = Journal(path)
        storage = StudyStorage(journal)
        study = only_study(storage) or optuna.create_study(storage=storage, study_name=name, directions=ways)
    except UNREADABLE as error:
        logging.getLogger(__name__).debug("opening the journal", exc_info=True)
        raise unreadable(path, error) from None
    return study, journal, mended

"""A recorded journal, played again: the study as it was at each suggestion, and whether it is suggested again."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import TrialState

from d3tune.config import SearchConfig, TrialConfig
from d3tune.errors import RunError
from d3tune.search.journal import CREATE_TRIAL, LINE, MORE, RUNNING, SET_PARAM, SET_STATE, Journal, Log
from d3tune.search.sampling import make_sampler, suggest
from d3tune.search.study import UNREADABLE, only_study, unreadable
from d3tune.space import Space

# when, by which process and together with what a line was written is no part of what it says
INCIDENTAL = ("worker_id", "datetime_start", "datetime_complete", MORE, LINE, "crc32")


class TapeDiffersError(Exception):
    """What is suggested now is not what was recorded."""


class _Recorded(BaseJournalBackend):
    """Hands out recorded lines; what is appended must be the next one, and the recorded one is what counts."""

    def __init__(self, logs: list[Log]) -> None:
        self.logs = logs
        self.played: list[Log] = []

    def read_logs(self, log_number_from: int) -> Iterable[Log]:
        return self.played[log_number_from:]

    def append_logs(self, logs: list[Log]) -> None:
        for log in logs:
            recorded = self.next()
            if recorded is None or _content(log) != _content(recorded):
                raise TapeDiffersError(_difference(log, recorded))
            # Optuna looks for what it wrote itself
            self.played.append({**recorded, "worker_id": log["worker_id"]})

    def next(self) -> Log | None:
        return self.logs[len(self.played)] if len(self.played) < len(self.logs) else None


class Tape:
    """Plays a journal up to each suggestion."""

    def __init__(self, journal: Path) -> None:
        """Read the journal; nothing is played yet but the study's creation.

        Args:
            journal: its path.

        Raises:
            RunError: it cannot be read.
        """
        if not journal.is_file():
            raise RunError(f"{journal}: there is no journal; the run has not begun")
        try:
            self._recorded = _Recorded(list(Journal(journal).read_logs(0)))
            self._play()
            study = only_study(optuna.storages.JournalStorage(self._recorded))
        except UNREADABLE as error:
            raise unreadable(journal, error) from None
        if study is None:
            raise RunError(f"{journal}: there is no study in it; the run has not begun")
        self._study = study

    @property
    def n_trials(self) -> int:
        """Trials suggested so far."""
        return sum(trial.state != TrialState.WAITING for trial in self._study.get_trials(deepcopy=False))

    def play_to_suggestion(self) -> bool:
        """Play up to where the next trial was suggested; False where there is none."""
        while (log := self._recorded.next()) is not None:
            if _begins_trial(log):
                return True
            self._play()
        return False

    def suggest_again(self, search: SearchConfig, space: Space, config: type[TrialConfig]) -> None:
        """Suggest the next trial with the search's own code.

        Raises:
            TapeDiffersError: it is another; the tape goes on with the recorded one.
        """
        self._study.sampler = make_sampler(search.sampler, search.seed, self.n_trials)
        try:
            suggest(self._study.ask(), space, config)
            following = self._recorded.next()
            if following is not None and following["op_code"] == SET_PARAM:
                raise TapeDiffersError(f"{following['param_name']} was suggested, is not")
        except TapeDiffersError:
            while (log := self._recorded.next()) is not None and (_begins_trial(log) or log["op_code"] == SET_PARAM):
                self._play()
            raise

    def _play(self) -> None:
        log = self._recorded.next()
        if log is not None:
            self._recorded.played.append(log)


def _begins_trial(log: Log) -> bool:
    operation = log["op_code"]
    return (operation == CREATE_TRIAL and log.get("state", RUNNING) == RUNNING) or (
        operation == SET_STATE and log.get("state") == RUNNING
    )


def _content(log: Log) -> Log:
    # as it would be read back: what is appended may hold tuples or numbers that JSON writes alike
    plain: Log = json.loads(json.dumps(log))
    return {key: value for key, value in plain.items() if key not in INCIDENTAL}


def _difference(log: Log, recorded: Log | None) -> str:
    def told(entry: Log) -> Any:
        if entry["op_code"] != SET_PARAM:
            return f"operation {entry['op_code']}"
        return f"{entry['param_name']} {entry['param_value_internal']!r}"

    return f"{'nothing' if recorded is None else told(recorded)} was recorded, {told(log)} is suggested now"

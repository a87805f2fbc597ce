"""Optuna's journal storage for studies of thousands of trials: what it is asked at each trial is not looked for in all.

Trials have ids in order of number, begin once and end once. So whoever asked before need only look at those that were
open then, and at those that came since.
"""

from collections.abc import Callable, Container

from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState


class OpenTrials:
    """The trials of one study that may still become what somebody waits for."""

    def __init__(self, is_open: Callable[[FrozenTrial], bool]) -> None:
        """Prepare.

        Args:
            is_open: whether a trial is to be looked at again; once it is not, it never is.
        """
        self._is_open = is_open
        self._open: list[int] = []
        self._seen = 0

    def take(self, storage: BaseStorage, study_id: int) -> list[FrozenTrial]:
        """Those that were open at the last call, then those that came since."""
        found = [_trial(storage, study_id, number) for number in self._open]
        while True:
            try:
                found.append(_trial(storage, study_id, self._seen))
            except KeyError:
                break
            self._seen += 1
        self._open = [trial.number for trial in found if self._is_open(trial)]
        return found


class StudyStorage(JournalStorage):
    """A journal that holds one study."""

    def __init__(self, backend: BaseJournalBackend) -> None:
        """Read the journal."""
        self._waiting = OpenTrials(_waits)
        super().__init__(backend)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """See `BaseStorage.get_all_trials`; the trials that wait, which each new trial asks for, cost little."""
        if deepcopy or states != (TrialState.WAITING,):
            return super().get_all_trials(study_id, deepcopy, states)
        return [trial for trial in self._waiting.take(self, study_id) if _waits(trial)]


def _waits(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.WAITING


def _trial(storage: BaseStorage, study_id: int, number: int) -> FrozenTrial:
    return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study_id, number))

"""The study's storage answers at once what Optuna's own looks for in all trials."""

from pathlib import Path

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.trial import TrialState

from d3tune.search.journal import Journal
from d3tune.search.storage import StudyStorage

WAITING = (TrialState.WAITING,)


def test_waiting_trials_are_those_that_a_full_look_finds(tmp_path: Path) -> None:
    """Enqueued, begun and ended in a random order, by this storage and by another one of the same file."""
    rng = np.random.default_rng(0)
    storage = StudyStorage(Journal(tmp_path / "journal"))
    study = optuna.create_study(storage=storage)
    other = optuna.load_study(study_name=study.study_name, storage=StudyStorage(Journal(tmp_path / "journal")))
    running: list[optuna.Trial] = []
    seen = set()
    for _ in range(200):
        action = rng.integers(4)
        if action == 0:
            (study, other)[rng.integers(2)].enqueue_trial({"x": rng.random()})
        elif action == 1:
            running.append((study, other)[rng.integers(2)].ask())
        elif running:
            study.tell(running.pop(int(rng.integers(len(running)))).number, 0.5)
        # a storage that was opened just now knows nothing from before
        full = JournalStorage(Journal(tmp_path / "journal")).get_all_trials(0, deepcopy=False)
        waits = [trial.number for trial in full if trial.state == TrialState.WAITING]
        seen.add(len(waits))
        for one in (study, other):
            assert [trial.number for trial in one.get_trials(deepcopy=False, states=WAITING)] == waits
    assert {0, 1, 2, 3} <= seen


def test_an_enqueued_trial_is_the_next_one_asked_for(tmp_path: Path) -> None:
    study = optuna.create_study(storage=StudyStorage(Journal(tmp_path / "journal")))
    for number in range(3):
        assert study.ask().number == number
    study.enqueue_trial({"x": 0.25})
    assert study.ask().suggest_float("x", 0, 1) == 0.25
    assert study.ask().suggest_float("x", 0, 1) != 0.25

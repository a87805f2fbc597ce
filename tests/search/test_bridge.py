"""Ray's searcher, scheduler and stopper over a real study, called as Ray calls them."""

import json
import pickle
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from d3tune.errors import RunError
from d3tune.search.executor import StopSignal, TrialQueue
from d3tune.search.executor.bridge import Drain, Fatal, StudyPruner, StudySearcher
from d3tune.search.executor.turns import Turns
from d3tune.search.jobs import TrainingJob
from d3tune.search.keeping import Keeper
from d3tune.search.reports import Report
from d3tune.search.study import Assignment, Ledger, read_trials, reports_of

Open = Callable[..., Ledger]
MakeReport = Callable[[int, float], Report]
NoFileLarger = Callable[[int], AbstractContextManager[None]]
STEPS = (10, 20, 30, 40)


def job(assignment: Assignment) -> TrainingJob:
    return TrainingJob("gan", assignment.config, "nowhere", "0", seed=0)


@dataclass
class Bridge:
    """Everything that Ray is handed of one search, and what came of it."""

    ledger: Ledger
    queue: TrialQueue
    ended: list[int]
    journal: Path

    def __post_init__(self) -> None:
        self.stop = self.queue.stop
        self.fatal = Fatal(self.stop)
        self.searcher = StudySearcher(Turns(self.queue), self.fatal)
        self.pruner = StudyPruner(Turns(self.queue), self.fatal)
        self.drain = Drain(self.stop)

    def begin(self, name: str) -> int:
        """Ray starts a trial; its number in the study."""
        number: int = self.searcher.suggest(name)["number"]
        return number

    def result(self, number: int, report: Report) -> str:
        """Ray hands on a result that is not the last one."""
        trial = SimpleNamespace(config={"place": 0, "number": number})
        return self.pruner.on_trial_result(None, trial, {"report": json.dumps(report.to_dict())})

    def state(self, number: int) -> TrialState:
        return read_trials(self.journal)[number].state


@pytest.fixture
def bridge(open_ledger: Open, tmp_path: Path) -> Bridge:
    ledger, ended = open_ledger(file="study", pruner="none"), list[int]()

    def folder(number: int) -> Path:
        return tmp_path / "trials" / str(number)

    queue = TrialQueue(ledger, 4, job, folder, Keeper(ledger, folder, 0), on_end=ended.append, stop=StopSignal())
    return Bridge(ledger, queue, ended, tmp_path / "study")


def test_trials_come_from_the_study_and_their_ends_go_to_it(bridge: Bridge, report: MakeReport) -> None:
    names = ["complete", "failed", "lost", "cut off"]
    assert [bridge.begin(name) for name in names] == [0, 1, 2, 3]
    assert bridge.searcher.suggest("one too many") == Searcher.FINISHED
    for step in STEPS[:3]:
        assert bridge.result(0, report(step, 0.5)) == TrialScheduler.CONTINUE
    last = {"report": json.dumps(report(STEPS[3], 0.7).to_dict())}
    bridge.searcher.on_trial_complete("complete", last)
    bridge.searcher.on_trial_complete("failed", {"failure": "MemoryError: no"})
    bridge.searcher.on_trial_complete("lost", error=True)
    # as Ray ends it where the search is stopped; and one that it never began
    bridge.searcher.on_trial_complete("cut off")
    bridge.searcher.on_trial_complete("unknown", error=True)
    trials = read_trials(bridge.journal)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "FAIL", "RUNNING"]
    assert [report.update for report in reports_of(trials[0])] == list(STEPS)
    assert trials[0].value == 0.7
    assert trials[1].user_attrs["failure"] == "MemoryError: no"
    assert trials[2].user_attrs["failure"] == "its worker process died 3 times"
    assert bridge.ended == [0, 1, 2]
    assert (bridge.fatal.error, bridge.drain.stop_all()) == (None, False)


@pytest.mark.parametrize("why", ["stop", "deadline"])
def test_no_trial_is_begun_in_a_search_that_is_being_stopped(why: str, bridge: Bridge) -> None:
    bridge.begin("one")
    if why == "stop":
        bridge.stop.requested = True
    else:
        bridge.stop.deadline = time.monotonic() - 1
    assert bridge.searcher.suggest("another") == Searcher.FINISHED
    assert len(bridge.ledger.trials()) == 1
    assert bridge.drain.stop_all() == (why == "stop")


def test_a_worker_that_is_lost_in_a_search_that_is_being_stopped_is_no_trials_fault(bridge: Bridge) -> None:
    number = bridge.begin("one")
    bridge.stop.requested = True
    bridge.searcher.on_trial_complete("one", error=True)
    assert bridge.state(number) == TrialState.RUNNING
    assert bridge.ended == []


def test_a_trial_that_the_study_prunes_stops_and_keeps_its_end(bridge: Bridge, report: MakeReport) -> None:
    number = bridge.begin("one")
    bridge.ledger.fail(number, "decided")
    assert bridge.result(number, report(10, 0.9)) == TrialScheduler.STOP
    bridge.searcher.on_trial_complete("one", {"report": json.dumps(report(40, 0.9).to_dict())})
    assert bridge.state(number) == TrialState.FAIL
    assert bridge.ended == [number]


@pytest.mark.parametrize("call", ["suggest", "result", "complete"])
def test_a_study_that_cannot_be_written_ends_the_search_and_not_a_trial(
    call: str, bridge: Bridge, report: MakeReport, no_file_larger: NoFileLarger
) -> None:
    """Ray would take the error for the trial's and go on."""
    number = bridge.begin("one")
    before = read_trials(bridge.journal)
    with no_file_larger(bridge.journal.stat().st_size):
        if call == "suggest":
            assert bridge.searcher.suggest("another") == Searcher.FINISHED
        elif call == "result":
            assert bridge.result(number, report(10, 0.5)) == TrialScheduler.CONTINUE
        else:
            bridge.searcher.on_trial_complete("one", {"failure": "it diverged"})
    assert isinstance(bridge.fatal.error, RunError)
    assert "File too large" in str(bridge.fatal.error)
    assert bridge.drain.stop_all()
    assert bridge.searcher.suggest("a third") == Searcher.FINISHED
    assert read_trials(bridge.journal) == before


def test_what_a_worker_calls_fatal_ends_the_search_and_the_first_of_it_is_told(bridge: Bridge) -> None:
    for name in ("one", "two"):
        bridge.begin(name)
    for name in ("one", "two"):
        bridge.searcher.on_trial_complete(name, {"fatal": f"{name}: cannot be written"})
    assert str(bridge.fatal.error) == "one: cannot be written"
    assert bridge.drain.stop_all()
    assert [trial.state for trial in read_trials(bridge.journal)] == [TrialState.RUNNING] * 2
    assert bridge.ended == []


def test_the_study_stays_in_its_process(bridge: Bridge) -> None:
    """Ray pickles what it is handed."""
    for part in (bridge.searcher, bridge.pruner, bridge.drain):
        copy: Any = pickle.loads(pickle.dumps(part))  # noqa: S301
        assert vars(copy) == {}


def test_a_trial_that_cannot_be_described_ends_the_search(bridge: Bridge) -> None:
    """Not Ray's loop, which an exception in a searcher would leave in the middle."""

    def broken(assignment: Assignment) -> TrainingJob:
        raise RunError(f"no job of trial {assignment.number}")

    searcher = StudySearcher(Turns(replace(bridge.queue, job=broken)), bridge.fatal)
    assert searcher.suggest("a") == Searcher.FINISHED
    assert str(bridge.fatal.error) == "no job of trial 0"
    assert bridge.stop.requested


def test_a_trial_that_lacks_memory_on_a_shared_gpu_is_set_aside_and_goes_on_with_a_whole_one(
    bridge: Bridge, report: MakeReport, tmp_path: Path
) -> None:
    said: list[tuple[int, str]] = []
    queue = replace(bridge.queue, on_note=lambda number, line: said.append((number, line)))
    shared = StudySearcher(Turns(queue), bridge.fatal, 0.1666)
    assert json.loads(shared.suggest("one")["assignment"])["gpu_share"] == 0.1666
    assert bridge.result(0, report(10, 0.5)) == TrialScheduler.CONTINUE
    checkpoint = tmp_path / "trials" / "0" / "checkpoint-00000010.json"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    shared.on_trial_complete("one", {"crowded": "OutOfMemoryError: CUDA out of memory"})
    assert said == [(0, "out of GPU memory at a share of 0.17; it goes on alone")]
    assert (bridge.state(0), bridge.ended, checkpoint.exists()) == (TrialState.RUNNING, [], True)
    # others first
    assert shared.suggest("two")["number"] == 1
    assert bridge.ledger.recall()
    alone = StudySearcher(Turns(queue), bridge.fatal, 1.0)
    assignment = json.loads(alone.suggest("one again")["assignment"])
    assert (assignment["gpu_share"], assignment["known_update"]) == (1.0, 10)
    alone.on_trial_complete("one again", {"failure": "OutOfMemoryError: CUDA out of memory"})
    trial = read_trials(bridge.journal)[0]
    assert (trial.state, trial.user_attrs["failure"]) == (TrialState.FAIL, "OutOfMemoryError: CUDA out of memory")
    assert bridge.ended == [0]

"""What a search tells of itself while it goes on, in virtual time: counts, running trials, how long it will take."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from d3tune.config import SearchConfig
from d3tune.search.analysis import Analysing
from d3tune.search.executor import StopSignal, TrialQueue
from d3tune.search.executor.inprocess import InProcessExecutor
from d3tune.search.executor.recorded import recorded
from d3tune.search.jobs import TrainingJob
from d3tune.search.keeping import Keeper
from d3tune.search.progress import Latest, Progress, RunningNow, View, seconds_left
from d3tune.search.reports import Report
from d3tune.search.study import Assignment, Ledger

Open = Callable[..., Ledger]
SEARCH = SearchConfig(dataset="toy", dataset_hash="0", semantics="att10", features="res101", backbone="gan")
UPDATES = (10, 20, 30, 40)


def reports(value: float, seconds: float) -> list[Report]:
    """A trial of four evaluations that ends after so many seconds."""
    return [
        Report(u, value, "softmax", {"val/H": value, "val/S": 0.6, "val/U": 0.5}, seconds * u / 40) for u in UPDATES
    ]


def made(assignment: Assignment) -> TrainingJob:
    return TrainingJob("gan", assignment.config, "", "", 0)


class Watched:
    """A simulated search, looked at whenever a trial was evaluated or ended."""

    def __init__(self, ledger: Ledger, folder: Path, workers: int) -> None:
        self.ledger, self.folder, self.workers, self.views = ledger, folder, workers, list[tuple[float, View]]()
        self.stop = StopSignal()

    def run(self, limit: int, seconds: Callable[[int], float], values: Callable[[int], float]) -> float:
        """Carry it on; the time at which it ended."""
        given: list[int] = []

        def job(assignment: Assignment) -> TrainingJob:
            given.append(assignment.number)
            return made(assignment)

        def curve(job: TrainingJob) -> list[Report]:
            return reports(values(given[-1]), seconds(given[-1]))

        executor = InProcessExecutor(recorded(curve), self.workers)
        progress = Progress(lambda: executor.clock)

        def look(*_: object) -> None:
            self.views.append((executor.clock, progress.view()))

        queue = TrialQueue(
            self.ledger,
            limit,
            job,
            lambda number: self.folder / str(number),
            Keeper(self.ledger, lambda number: self.folder / str(number), 0),
            look,
            stop=self.stop,
        )
        watched = progress.watched(executor, SEARCH)
        watched.run_trials(queue)
        look()
        return executor.clock


@pytest.fixture
def search(open_ledger: Open, tmp_path: Path) -> Callable[..., Watched]:
    def make(workers: int, **search: Any) -> Watched:
        return Watched(open_ledger(sampler="random", **search), tmp_path / "trials", workers)

    return make


def test_equal_trials_side_by_side_end_when_it_says(search: Callable[..., Watched]) -> None:
    watched = search(3, pruner="none")
    end = watched.run(10, lambda number: 8.0, lambda number: 0.5)
    assert end == 32.0
    assert watched.views[0][1].left == pytest.approx(20, abs=8.0)
    # 8 trials to go by three is 22, one after another by threes 24: no more than a round away
    assert all(abs(view.left + now - end) <= 8.0 for now, view in watched.views if view.left is not None)
    assert watched.views[-1][1].left == 0.0
    counts = [(view.complete, len(view.running), view.to_go) for _, view in watched.views]
    assert all(sum(row) == 10 for row in counts)
    assert counts[0][0] == 1
    assert counts[-1] == (10, 0, 0)


def test_pruned_trials_shorten_what_is_left(search: Callable[..., Watched]) -> None:
    watched = search(1)
    end = watched.run(40, lambda number: 40.0, lambda number: 0.9 - number / 100)
    ((_, last),) = watched.views[-1:]
    assert last.pruned > 20
    assert end == last.complete * 40.0 + last.pruned * 10.0
    half = next((now, view) for now, view in watched.views if view.complete + view.pruned == 20)
    assert half[1].left == pytest.approx(end - half[0], rel=0.5)
    assert half[1].left < 20 * 40.0


def test_a_resumed_search_knows_from_its_study_how_long_trials_take(
    search: Callable[..., Watched], open_ledger: Open, tmp_path: Path
) -> None:
    first = search(2, pruner="none")
    first.run(6, lambda number: 12.0, lambda number: 0.5 + number / 100)
    again = Watched(open_ledger(sampler="random", pruner="none"), tmp_path / "trials", 2)
    seen: list[View] = []
    executor = InProcessExecutor(recorded(lambda job: reports(0.4, 12.0)), 2)
    progress = Progress(lambda: executor.clock)
    queue = TrialQueue(
        again.ledger,
        10,
        lambda assignment: (seen.append(progress.view()), made(assignment))[1],
        lambda number: tmp_path / "trials" / str(number),
        Keeper(again.ledger, lambda number: tmp_path / "trials" / str(number), 0),
        lambda number: None,
    )
    progress.watched(executor, SEARCH).run_trials(queue)
    # before any trial of this command has ended: one running, three to go, two at once
    assert (seen[0].complete, len(seen[0].running), seen[0].to_go) == (6, 1, 3)
    assert seen[0].left == pytest.approx(24.0)
    assert seen[0].best is not None
    assert (seen[0].best[0], seen[0].best[1].value) == (5, 0.55)


def test_an_interrupted_trial_comes_with_its_last_evaluation_and_its_seconds(open_ledger: Open, tmp_path: Path) -> None:
    ledger = open_ledger(sampler="random")
    assignment = ledger.next_trial(1)
    assert assignment is not None
    ledger.report(assignment.number, reports(0.7, 80.0)[0])
    again = open_ledger(sampler="random")
    progress = Progress(lambda: 100.0)
    queue = TrialQueue(again, 1, made, Path, Keeper(again, Path, 0), print)
    followed = progress.follow(queue, SEARCH, 1)
    resumed = again.next_trial(1)
    assert resumed is not None
    followed.job(resumed)
    ((running, spent),) = progress.view().running
    assert running.latest == Latest(0.7, "softmax", 10, 0.7, 0.6, 0.5)
    assert (running.updates, spent) == (40, 20.0)


def test_a_look_costs_no_look_at_the_study(search: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch) -> None:
    watched = search(2, pruner="none")
    progress = Progress()
    queue = TrialQueue(watched.ledger, 5, made, Path, Keeper(watched.ledger, Path, 0), print)
    followed = progress.follow(queue, SEARCH, 2)
    assignment = watched.ledger.next_trial(5)
    assert assignment is not None
    followed.job(assignment)
    for name in ("trials", "trial", "next_trial"):
        monkeypatch.setattr(Ledger, name, lambda *_: pytest.fail("the study was read"))
    held = threading.Event()
    with watched.ledger._lock:
        thread = threading.Thread(target=lambda: (progress.view(), held.set()))
        thread.start()
        assert held.wait(30), "a look waits for the study's lock"
    thread.join()
    assert [trial.number for trial, _ in progress.view().running] == [0]


def test_a_stop_and_the_parts_of_a_phase_are_told() -> None:
    progress, seen = Progress(), list[tuple[str, int, int]]()
    executor = progress.watched(InProcessExecutor(), SEARCH)

    def look(index: int, value: int) -> None:
        view = progress.view()
        seen.append((view.phase, view.done, view.total))

    assert executor.map(abs, [(-1,), (-2,)], StopSignal(), look) == [1, 2]
    assert seen == [("working", 1, 2), ("working", 2, 2)]


def test_the_test_of_a_confirmation_is_told_where_it_is_analysed_too(tmp_path: Path) -> None:
    progress, seen = Progress(), list[str]()
    executor = Analysing(progress.watched(InProcessExecutor(), SEARCH), tmp_path / "analysis.json", seed=1)
    job = TrainingJob("gan", {}, "", "", seed=2)

    def test(*_: Any) -> dict[str, float]:
        seen.append(progress.view().phase)
        return {"H": 0.5}

    assert executor.map(test, [(job, 1, "softmax", 0.0)], StopSignal()) == [{"H": 0.5}]
    assert seen == ["confirming: one test a seed"]


def test_seconds_left_by_hand() -> None:
    def running(update: int) -> RunningNow:
        return RunningNow(0, 100, 0.0, Latest(0.5, "a", update, 0.5, 0.5, 0.5) if update else None)

    assert seconds_left(10.0, [], 7, 2) == 35.0
    assert seconds_left(10.0, [(running(0), 4.0), (running(50), 9.0)], 0, 2) == 6.0
    # beyond the mean, by its own pace: 30 s for 75 of 100 updates
    assert seconds_left(10.0, [(running(75), 30.0)], 0, 1) == 10.0
    # more slots than trials help nobody
    assert seconds_left(10.0, [], 2, 100) == 10.0
    # the time limit ends it: those that run go on, the last one begins just before it
    assert seconds_left(10.0, [(running(0), 4.0)], 100, 1, deadline=50.0) == 60.0
    assert seconds_left(10.0, [(running(0), 4.0)], 100, 1, deadline=-1.0) == 6.0


def test_a_trial_that_is_set_aside_is_to_go_and_not_running(open_ledger: Open) -> None:
    ledger, progress, said = open_ledger(sampler="random"), Progress(), list[tuple[int, str]]()
    queue = TrialQueue(
        ledger, 2, made, Path, Keeper(ledger, Path, 0), print, lambda number, line: said.append((number, line))
    )
    followed = progress.follow(queue, SEARCH, 2)
    assignment = ledger.next_trial(2)
    assert assignment is not None
    followed.job(assignment)
    assert len(progress.view().running) == 1
    followed.pause(assignment.number, "no room")
    view = progress.view()
    assert (len(view.running), view.to_go) == (0, 2)
    assert said == [(0, "no room")]

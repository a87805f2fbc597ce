"""The in-process executor with recorded trials: the search's own study, searcher and pruner code in virtual time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from d3tune.method.generators import load_backbone
from d3tune.search.executor import StopSignal, TrialQueue
from d3tune.search.executor.inprocess import Begin, InProcessExecutor
from d3tune.search.executor.recorded import RecordedTrial, recorded
from d3tune.search.jobs import TrainingJob
from d3tune.search.keeping import Keeper
from d3tune.search.reports import Report
from d3tune.search.study import Assignment, Ledger

Open = Callable[..., Ledger]
Curve = Callable[[TrainingJob], Sequence[Report]]
UPDATES = (10, 20, 30, 40)


def job(assignment: Assignment) -> TrainingJob:
    return TrainingJob("gan", assignment.config, "nowhere", "0", seed=0)


def curve(values: Sequence[float], seconds: Sequence[float]) -> list[Report]:
    metrics = [{"val/H": value, "val/softmax/H": value, "val/softmax/T1": 0.9} for value in values]
    rows = zip(UPDATES, values, metrics, seconds, strict=True)
    return [Report(update, value, "softmax", row, second) for update, value, row, second in rows]


def by_rate(job: TrainingJob) -> list[Report]:
    """A curve that a configuration alone decides: the better, the slower."""
    value = 1 / (1 + 500 * abs(job.config["head_lr"] - 3e-3))
    return curve([value * share for share in (0.4, 0.6, 0.9, 1.0)], [(1 + value) * step for step in (1, 2, 3, 4)])


@pytest.fixture
def run(open_ledger: Open, tmp_path: Path) -> Callable[..., tuple[Ledger, InProcessExecutor, list[int]]]:
    """``run(begin, limit, workers, file=…, **search)``: a simulated search and the numbers as the trials ended."""

    def make(
        begin: Begin, limit: int, workers: int, stop: StopSignal | None = None, file: str = "journal", **search: Any
    ) -> tuple[Ledger, InProcessExecutor, list[int]]:
        ledger, ended = open_ledger(file=file, **search), list[int]()

        def folder(number: int) -> Path:
            return tmp_path / f"{file}-trials" / str(number)

        queue = TrialQueue(
            ledger, limit, job, folder, Keeper(ledger, folder, 0), on_end=ended.append, stop=stop or StopSignal()
        )
        executor = InProcessExecutor(begin, workers)
        executor.run_trials(queue)
        return ledger, executor, ended

    return make


Run = Callable[..., tuple[Ledger, InProcessExecutor, list[int]]]


def test_workers_run_side_by_side_and_a_free_one_takes_the_next_trial(run: Run) -> None:
    # three workers; lengths by order of suggestion: 4, 8, 12, then 4 at 4 s, 4 at 8 s
    lengths = iter([1.0, 2.0, 3.0, 1.0, 1.0])

    def curves(job: TrainingJob) -> list[Report]:
        step = next(lengths)
        return curve([0.5] * 4, [step * n for n in (1, 2, 3, 4)])

    ledger, executor, ended = run(recorded(curves), 5, 3, pruner="none")
    assert executor.clock == 12.0
    assert ended == [0, 1, 3, 2, 4]
    assert [trial.state for trial in ledger.trials()] == [TrialState.COMPLETE] * 5
    one, alone, order = run(recorded(by_rate), 5, 1, file="one", pruner="none")
    total = sum(by_rate(TrainingJob("gan", t.user_attrs["config"], "", "", 0))[-1].seconds for t in one.trials())
    assert alone.clock == pytest.approx(total)
    assert order == [0, 1, 2, 3, 4]


def test_a_simulation_repeats_itself_and_knows_nothing_of_real_time(run: Run) -> None:
    first, clock, order = run(recorded(by_rate), 40, 4, file="a")
    second, again, order_again = run(recorded(by_rate), 40, 4, file="b")
    assert clock.clock == again.clock
    assert order == order_again
    assert [t.params for t in first.trials()] == [t.params for t in second.trials()]
    assert [t.state for t in first.trials()] == [t.state for t in second.trials()]
    assert {t.state for t in first.trials()} == {TrialState.COMPLETE, TrialState.PRUNED}


def test_a_pruned_trial_frees_its_worker_at_that_virtual_moment(run: Run) -> None:
    ledger, executor, _ = run(recorded(by_rate), 30, 1)
    spent = 0.0
    for trial in ledger.trials():
        reports = by_rate(TrainingJob("gan", trial.user_attrs["config"], "", "", 0))
        spent += next(report.seconds for report in reports if report.update == trial.last_step)
    assert any(trial.state == TrialState.PRUNED for trial in ledger.trials())
    assert executor.clock == pytest.approx(spent)


def test_a_stopped_simulation_goes_on_with_its_interrupted_trials(run: Run) -> None:
    straight, _, _ = run(recorded(by_rate), 3, 1, file="straight", pruner="none")
    stop, reports = StopSignal(), [0]

    class Stopping(RecordedTrial):
        def next_report(self) -> Report:
            reports[0] += 1
            stop.requested = reports[0] >= 6
            return super().next_report()

    def begin(job: TrainingJob, directory: Path, known_update: int, keep_weights: bool) -> RecordedTrial:
        return Stopping(by_rate(job), known_update)

    ledger, _, _ = run(begin, 3, 1, stop, file="cut", pruner="none")
    assert [trial.state for trial in ledger.trials()] == [TrialState.COMPLETE, TrialState.RUNNING]
    again, executor, _ = run(recorded(by_rate), 3, 1, file="cut", pruner="none")
    assert [trial.value for trial in again.trials()] == [trial.value for trial in straight.trials()]
    rest = [by_rate(TrainingJob("gan", t.user_attrs["config"], "", "", 0)) for t in again.trials()[1:]]
    # of the second trial two reports were known
    assert executor.clock == pytest.approx(rest[0][3].seconds - rest[0][1].seconds + rest[1][3].seconds)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_five_hundred_trials_on_eight_workers_leave_a_sound_study(sampler: str, run: Run) -> None:
    limit = 500 if sampler == "random" else 60
    ledger, _, ended = run(recorded(by_rate), limit, 8, sampler=sampler)
    assert sorted(ended) == list(range(limit))
    updates = load_backbone("gan").config(updates=40, evaluations=4).updates
    for trial in ledger.trials():
        assert (trial.state == TrialState.COMPLETE) == (trial.last_step == updates)

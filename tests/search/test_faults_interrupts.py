"""Interrupts at any point: what is lost is less than an evaluation interval a trial, and the end is the same."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from d3tune.method.training import Training
from d3tune.search import checkpoint, keeping, trial
from d3tune.search.executor import StopSignal
from d3tune.search.invariants import run_faults
from d3tune.search.journal import Journal
from d3tune.search.reports import Report
from d3tune.search.run import RunDirectory, open_run
from d3tune.search.search import Outcome
from d3tune.search.tracking import Mirror, default_uri

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

ToyRun = Callable[..., RunDirectory]
CarryOut = Callable[..., Outcome]
Sound = Callable[..., None]
Record = Callable[[RunDirectory], list[Any]]
Command = Callable[..., Any]
Options = Callable[..., tuple[str, ...]]
OnReport = Callable[[Callable[[int, Report], None]], None]
TRIALS, UPDATES, INTERVAL = 2, 20, 5


@pytest.fixture(scope="module")
def found() -> list[Any]:
    """What an undisturbed search found, for all tests."""
    return []


@pytest.fixture
def straight(found: list[Any], toy_run: ToyRun, carry_out: CarryOut, record: Record) -> list[Any]:
    """What an undisturbed search finds."""
    if not found:
        run = toy_run(pruner="none", run_dir=Path("straight"))
        carry_out(run, trials=TRIALS)
        found += record(run)
    return found


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Updates made, by any process of the search."""
    made, step = [0], Training._step

    def counted(self: Training) -> Any:
        made[0] += 1
        return step(self)

    monkeypatch.setattr(Training, "_step", counted)
    return made


@pytest.mark.parametrize("n", [1, 4, 5])
def test_a_search_stopped_after_any_report_repeats_no_work(
    n: int,
    straight: list[Any],
    steps: list[int],
    toy_run: ToyRun,
    carry_out: CarryOut,
    on_report: OnReport,
    sound: Sound,
    record: Record,
) -> None:
    run, stop = toy_run(pruner="none"), StopSignal()

    def stop_at(made: int, _: Report) -> None:
        stop.requested = made >= n

    on_report(stop_at)
    assert carry_out(run, trials=TRIALS, stop=stop).interrupted
    assert run_faults(run, default_uri()) == []
    assert steps[0] == n * INTERVAL
    on_report(lambda made, report: None)
    assert not carry_out(run, trials=TRIALS).interrupted
    assert steps[0] == TRIALS * UPDATES
    sound(run, TRIALS)
    assert record(run) == straight


# where the second Ctrl-C arrives: the function that is being called, at which call, before or after its work
POINTS: dict[str, tuple[Any, str, int, bool]] = {
    "an update amid an interval": (Training, "_step", 8, False),
    "an update of the second trial": (Training, "_step", 34, False),
    "an evaluation": (Training, "evaluate", 3, False),
    "before a checkpoint": (trial, "save_checkpoint", 2, False),
    "between a checkpoint and its manifest": (checkpoint, "write_text", 4, False),
    "between weights and checkpoint": (trial, "save_weights", 1, True),
    "before a report is written": (Journal, "_write", 7, False),
    "after a report is written": (Journal, "_write", 7, True),
    "between an end and its record": (keeping, "write_json", 1, False),
    "after a record": (keeping, "write_json", 1, True),
}


# much like others of them
LIKE_OTHERS = {"an update of the second trial", "after a report is written", "before a checkpoint"}


@pytest.mark.parametrize("point", [pytest.param(x, marks=[pytest.mark.fault] * (x in LIKE_OTHERS)) for x in POINTS])
def test_a_search_interrupted_at_once_loses_less_than_an_interval(
    point: str,
    straight: list[Any],
    steps: list[int],
    toy_run: ToyRun,
    carry_out: CarryOut,
    sound: Sound,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of, name, n, after = POINTS[point]
    do, calls = getattr(of, name), [0]

    def interrupted(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == n and not after:
            raise KeyboardInterrupt
        result = do(*arguments)
        if calls[0] == n:
            raise KeyboardInterrupt
        return result

    run = toy_run(pruner="none")
    with monkeypatch.context() as context:
        context.setattr(of, name, interrupted)
        outcome = carry_out(run, trials=TRIALS)
    assert outcome.interrupted
    assert calls[0] >= n
    assert run_faults(run, default_uri()) == []
    carry_out(run, trials=TRIALS)
    assert steps[0] <= TRIALS * UPDATES + INTERVAL
    sound(run, TRIALS)
    assert record(run) == straight


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.fault)])
def test_a_signal_ends_the_command_at_the_next_evaluation_and_names_the_one_that_goes_on(
    number: int,
    straight: list[Any],
    steps: list[int],
    toy_run: ToyRun,
    toy_options: Options,
    command: Command,
    on_report: OnReport,
    sound: Sound,
    record: Record,
) -> None:
    toy_run()
    on_report(lambda made, _: os.kill(os.getpid(), number) if made == 2 else None)
    wanted = ("--executor", "local", "--trials", str(TRIALS), "--pruner", "none", "--confirm-seeds", "0")
    end = command("search", *toy_options(), *wanted, "--run-dir", "run")
    run = open_run("run")
    assert end.code == 130
    assert "stopping: trials end at their last checkpoint (again to stop at once)" in end.err.splitlines()
    assert end.err.splitlines()[-1] == f"stopped; go on with: d3tune resume {run.path}"
    assert steps[0] == 2 * INTERVAL
    assert command("resume", "run").code == 0
    sound(run, TRIALS)
    assert record(run) == straight


def test_a_second_signal_ends_it_at_once(
    straight: list[Any],
    toy_run: ToyRun,
    toy_options: Options,
    command: Command,
    sound: Sound,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Amid an interval; while MLflow is being closed it still is the same run."""
    toy_run()
    step, made = Training._step, [0]

    def signalled(self: Training) -> Any:
        made[0] += 1
        if made[0] in (7, 8):
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    wanted = ("--executor", "local", "--trials", str(TRIALS), "--pruner", "none", "--confirm-seeds", "0")
    with monkeypatch.context() as context:
        context.setattr(Training, "_step", signalled)
        end = command("search", *toy_options(), *wanted, "--run-dir", "run")
    assert end.code == 130
    assert made[0] == 8
    assert end.err.splitlines()[-1] == f"stopped; go on with: d3tune resume {open_run('run').path}"
    assert command("resume", "run").code == 0
    sound(open_run("run"), TRIALS)
    assert record(open_run("run")) == straight


def test_an_interrupt_while_mlflow_is_closed_leaves_a_whole_study(
    straight: list[Any],
    toy_run: ToyRun,
    toy_options: Options,
    command: Command,
    sound: Sound,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    toy_run()

    def impatient(*_: Any) -> None:
        raise KeyboardInterrupt

    wanted = ("--executor", "local", "--trials", str(TRIALS), "--pruner", "none", "--confirm-seeds", "0")
    with monkeypatch.context() as context:
        context.setattr(Mirror, "finish", impatient)
        end = command("search", *toy_options(), *wanted, "--run-dir", "run")
    last = f"stopped; go on with: d3tune resume {open_run('run').path}"
    assert (end.code, end.err.splitlines()[-1]) == (130, last)
    assert run_faults(open_run("run")) == []
    assert command("resume", "run").code == 0
    sound(open_run("run"), TRIALS)
    assert record(open_run("run")) == straight

"""Several searches as one: turns, a shared time, one leaderboard, and the same command again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from d3tune.config import Resources
from d3tune.errors import RunError, UsageError
from d3tune.search.executor import StopSignal, TrialQueue
from d3tune.search.executor.inprocess import InProcessExecutor
from d3tune.search.executor.shared import Shared
from d3tune.search.executor.turns import Turns
from d3tune.search.invariants import run_faults
from d3tune.search.jobs import TrainingJob
from d3tune.search.keeping import Keeper
from d3tune.search.run import RunDirectory, open_run
from d3tune.search.search import Plan
from d3tune.search.study import Assignment, Ledger, read_trials
from d3tune.search.sweep import Cell, listed, run_sweep
from d3tune.search.tracking import default_uri

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

Command = Callable[..., Any]
LOCAL = ("--executor", "local", "--confirm-seeds", "1")
BOTH = ("--backbone", "gan,vae")


@pytest.fixture
def plan(isolated: Path) -> Plan:
    return Plan(2, None, Resources(executor="local"), 0, False, default_uri())


@pytest.fixture
def options(toy_options: Callable[..., tuple[str, ...]]) -> Callable[..., tuple[str, ...]]:
    """``toy_options`` without what only an adversarial backbone has."""

    def make(**hyper: Any) -> tuple[str, ...]:
        words = toy_options(**hyper)
        at = words.index("critic_steps=1")
        return (*words[: at - 1], *words[at + 1 :])

    return make


def cells_of(folder: Path) -> list[RunDirectory]:
    return [open_run(str(path)) for path in sorted(folder.iterdir()) if path.is_dir()]


def queue_of(ledger: Ledger, folder: Path, limit: int) -> TrialQueue:
    def job(assignment: Assignment) -> TrainingJob:
        return TrainingJob("gan", assignment.config, "nowhere", "0", seed=0)

    def place(number: int) -> Path:
        return folder / str(number)

    return TrialQueue(ledger, limit, job, place, Keeper(ledger, place, 0), on_end=lambda number: None)


def test_the_search_with_the_fewest_running_is_next(open_ledger: Callable[..., Ledger], tmp_path: Path) -> None:
    first, second = open_ledger(file="first"), open_ledger(file="second")
    turns = Turns(queue_of(first, tmp_path, 5), queue_of(second, tmp_path, 2))
    given = [turns.next() for _ in range(5)]
    assert [place for place, _ in filter(None, given)] == [0, 1, 0, 1, 0]
    first.fail(0, "ended")
    second.fail(0, "ended")
    second.fail(1, "ended")
    # the second has none left, whoever has fewer running
    assert [(item[0], item[1].number) for item in (turns.next(), turns.next()) if item] == [(0, 3), (0, 4)]
    assert turns.next() is None


def test_a_search_that_gives_up_keeps_no_other_waiting(open_ledger: Callable[..., Ledger], tmp_path: Path) -> None:
    shared = Shared(InProcessExecutor(), 2, alone=True)
    gone, last = shared.seat(), shared.seat()
    gone.close()
    gone.close()
    last.close()
    shared.serve(StopSignal())
    assert shared.concurrency == last.concurrency == 1


def test_names_are_listed_with_commas() -> None:
    assert listed("--dataset", "flo, cub,flo") == ["flo", "cub"]
    with pytest.raises(UsageError, match="--dataset flo,,cub: write names with commas"):
        listed("--dataset", "flo,,cub")


def test_a_sweep_ends_in_one_leaderboard_and_goes_on(
    command: Command, options: Callable[..., tuple[str, ...]], tmp_path: Path
) -> None:
    sweep = ("sweep", *options(), *BOTH, *LOCAL, "--run-dir", tmp_path / "all", "--json")
    end = command(*sweep, "--trials", "2")
    assert end.code == 0, end.err
    rows = json.loads(end.out)
    assert {(row["dataset"], row["backbone"], row["trials"]) for row in rows} == {("toy", "gan", 2), ("toy", "vae", 2)}
    assert rows[0]["val_H"] >= rows[1]["val_H"]
    first = {run.path.name: (run.uid, read_trials(run.journal)) for run in cells_of(tmp_path / "all")}
    assert sorted(first) == ["toy-gan", "toy-vae"]

    end = command(*sweep, "--trials", "3")
    assert end.code == 0, end.err
    for run in cells_of(tmp_path / "all"):
        uid, before = first[run.path.name]
        trials = read_trials(run.journal)
        assert run.uid == uid
        assert [trial.params for trial in trials[:2]] == [trial.params for trial in before]
        assert [trial.datetime_complete for trial in trials[:2]] == [trial.datetime_complete for trial in before]
        assert len(trials) == 3
        assert run_faults(run, default_uri()) == []
    # one of them alone is an ordinary run
    assert command("resume", tmp_path / "all" / "toy-vae", "--trials", "4").code == 0


def test_trials_of_all_take_turns(command: Command, options: Callable[..., tuple[str, ...]], tmp_path: Path) -> None:
    end = command(
        *("sweep", *options(), *BOTH, "--executor", "local", "--confirm-seeds", "0", "--pruner", "none"),
        *("--run-dir", tmp_path / "all", "--trials", "3"),
    )
    assert end.code == 0, end.err
    assert "no confirmed run" in end.out
    runs = cells_of(tmp_path / "all")
    begun = sorted((trial.datetime_start, run.search.backbone) for run in runs for trial in read_trials(run.journal))
    assert [backbone for _, backbone in begun] == ["gan", "vae"] * 3


def test_time_is_shared(toy_run: Callable[..., RunDirectory], on_report: Any, plan: Plan, tmp_path: Path) -> None:
    cells = [Cell(toy_run(run_dir=tmp_path / "one")), Cell(toy_run(run_dir=tmp_path / "two", seed=3))]
    stop = StopSignal()

    def over(made: int, report: object) -> None:
        if made == 21:
            assert stop.deadline is not None
            stop.deadline = time.monotonic() - 1

    on_report(over)
    run_sweep(cells, replace(plan, trials=100_000, seconds=3600.0), tmp_path / "log", stop, lambda line: None)
    begun = [len(read_trials(cell.run.journal)) for cell in cells]
    assert min(begun) >= 2
    assert max(begun) - min(begun) <= 1
    assert [cell.error for cell in cells] == [None, None]


def test_a_search_that_cannot_go_on_ends_alone(
    toy_run: Callable[..., RunDirectory], plan: Plan, tmp_path: Path
) -> None:
    good = Cell(toy_run(run_dir=tmp_path / "good"))
    bad = Cell(toy_run(run_dir=tmp_path / "bad", seed=3))
    said: list[str] = []
    # its journal is gone although trials had ended
    bad_trial = bad.run.trial(0)
    bad_trial.mkdir(parents=True)
    (bad_trial / "trial.json").write_text("{}", encoding="utf-8")
    run_sweep([bad, good], plan, tmp_path / "log", StopSignal(), said.append)
    assert isinstance(bad.error, RunError)
    assert any(line.startswith("toy gan  ") and "is missing" in line for line in said)
    assert good.error is None
    assert good.outcome is not None
    assert good.outcome.counts["complete"] == 2


def test_a_disk_that_is_full_ends_all_and_loses_nothing(
    toy_run: Callable[..., RunDirectory], on_report: Any, plan: Plan, tmp_path: Path
) -> None:
    cells = [Cell(toy_run(run_dir=tmp_path / "one")), Cell(toy_run(run_dir=tmp_path / "two", seed=3))]

    def full(made: int, report: object) -> None:
        if made == 3:
            raise RunError("the disk is full")

    on_report(full)
    three = replace(plan, trials=3)
    run_sweep(cells, three, tmp_path / "log", StopSignal(), lambda line: None)
    assert [str(cell.error) for cell in cells] == ["the disk is full"] * 2
    on_report(lambda made, report: None)
    again = [Cell(cell.run) for cell in cells]
    run_sweep(again, three, tmp_path / "log", StopSignal(), lambda line: None)
    for cell in again:
        assert cell.error is None
        assert len(read_trials(cell.run.journal)) == 3
        assert run_faults(cell.run, default_uri()) == []


def test_what_is_wrong_with_one_is_said_before_any_is_made(
    command: Command, options: Callable[..., tuple[str, ...]], tmp_path: Path
) -> None:
    folder = tmp_path / "all"
    sweep = ("sweep", *options(), *LOCAL, "--run-dir", folder, "--trials", "1")
    end = command(*sweep, "--backbone", "gan,vea")
    assert end.code == 2
    assert end.err.splitlines()[-1].startswith("d3tune: toy vea: ")
    assert "vae" in end.err
    end = command(*sweep, "--backbone", "gan,vae", "--set", "critic_steps=2")
    assert end.code == 2
    assert end.err.splitlines()[-1].startswith("d3tune: toy vae: --set: unknown key 'critic_steps'")
    assert not folder.exists()
    assert command(*sweep[:-2], "--backbone", "gan", "--trials", "1").code == 0
    end = command(*sweep[:-4], "--backbone", "gan", "--run-dir", folder / "toy-gan", "--trials", "1")
    assert end.code == 1
    assert "is a run" in end.err


@pytest.mark.fault
def test_ctrl_c_ends_all_at_their_checkpoints_and_the_same_command_goes_on(
    options: Callable[..., tuple[str, ...]], home: Path, tmp_path: Path, commands: Any
) -> None:
    words = [
        *("sweep", *options(updates=400, evaluations=40), *BOTH, "--pruner", "none", "--confirm-seeds", "0"),
        *("--concurrency", "2", "--trials", "2", "--run-dir", str(tmp_path / "all")),
    ]
    run = [sys.executable, "-c", "from d3tune.cli import main; main()", *words]
    process = subprocess.Popen(run, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        commands.until(
            lambda: len({path.parts[-4] for path in tmp_path.glob("all/*/trials/*/checkpoint-*.json")}) == 2,
            "a checkpoint of both searches",
        )
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=commands.PATIENCE)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert process.returncode == 130, err
    assert "the same command goes on" in err
    states = [trial.state for run in cells_of(tmp_path / "all") for trial in read_trials(run.journal)]
    assert TrialState.RUNNING in states
    end = subprocess.run(run, capture_output=True, text=True, timeout=commands.PATIENCE)
    assert end.returncode == 0, end.stderr
    for cell in cells_of(tmp_path / "all"):
        trials = read_trials(cell.journal)
        # one may be found collapsed at its end, which is no matter of the interruption
        assert [trial.state.is_finished() for trial in trials] == [True, True]
        assert [len(trial.intermediate_values) for trial in trials] == [40, 40]
        assert run_faults(cell, default_uri()) == []

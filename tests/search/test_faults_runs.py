"""A run taken up again: failed trials tried again, more or fewer trials, a damaged plan, and on another machine."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from d3tune.errors import NoUsableTrialError
from d3tune.method.training import Training
from d3tune.search.executor import StopSignal
from d3tune.search.invariants import best_value, run_faults
from d3tune.search.keeping import read_record
from d3tune.search.replay import replay_suggestions
from d3tune.search.reports import Report
from d3tune.search.run import RunDirectory, open_run
from d3tune.search.search import Outcome
from d3tune.search.study import RETRY_ATTR, read_trials
from d3tune.search.tracking import default_uri

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

ToyRun = Callable[..., RunDirectory]
CarryOut = Callable[..., Outcome]
Sound = Callable[..., None]
Record = Callable[[RunDirectory], list[Any]]
Command = Callable[..., Any]
Options = Callable[..., tuple[str, ...]]
OnReport = Callable[[Callable[[int, Report], None]], None]
LOCAL = ("--executor", "local", "--confirm-seeds", "0")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[int]], None]:
    """``failing({1, 2})``: the trainings that begin first and second from now on fail; an empty set mends them."""
    build = Training.__init__

    def fail(which: set[int]) -> None:
        begun = [0]

        def broken(self: Training, *arguments: Any) -> None:
            begun[0] += 1
            if begun[0] in which:
                raise RuntimeError("a loose cable")
            build(self, *arguments)

        monkeypatch.setattr(Training, "__init__", broken)

    return fail


Failing = Callable[[set[int]], None]


def retries(run: RunDirectory) -> dict[int, int]:
    """Which trial tries which again."""
    attributes = {trial.number: trial.user_attrs.get(RETRY_ATTR) for trial in read_trials(run.journal)}
    return {number: of for number, of in attributes.items() if of is not None}


def test_failed_trials_are_tried_again_under_new_numbers_and_each_once(
    toy_run: ToyRun, command: Command, toy_options: Options, sound: Sound, failing: Failing
) -> None:
    toy_run()
    failing({1, 3})
    end = command("search", *toy_options(), *LOCAL, "--trials", "3", "--run-dir", "run")
    assert end.code == 0, end.err
    run = open_run("run")
    failed = [trial for trial in read_trials(run.journal) if trial.state == TrialState.FAIL]
    assert [trial.number for trial in failed] == [0, 2]
    best = best_value(run)
    failing(set())

    one = command("resume", "run", "--retry-failed", "1")
    assert "trying again what failed: 0" in one.err.splitlines()
    assert retries(run) == {3: 0}
    two = command("resume", "run", "--retry-failed", "5")
    assert "trying again what failed: 2" in two.err.splitlines()
    none = command("resume", "run", "--retry-failed", "5")
    assert "trying again" not in none.err
    assert (one.code, two.code, none.code) == (0, 0, 0)
    assert retries(run) == {3: 0, 4: 2}
    trials = read_trials(run.journal)
    for number, of in retries(run).items():
        assert trials[number].params == trials[of].params
        assert trials[number].user_attrs["config"] == trials[of].user_attrs["config"]
        assert trials[number].state in (TrialState.COMPLETE, TrialState.PRUNED)
        assert trials[of].state == TrialState.FAIL
        assert (read_record(run.trial(number)) or {})["retry_of"] == of
    assert best_value(run) >= best
    sound(run, 5)
    assert replay_suggestions(run).differences == []


def test_a_trial_that_fails_again_is_tried_again_when_asked_for_again(
    toy_run: ToyRun, carry_out: CarryOut, sound: Sound, failing: Failing
) -> None:
    run = toy_run()
    failing({1})
    carry_out(run, trials=2)
    failing({1})
    carry_out(run, trials=2, retry_failed=9)
    failing(set())
    carry_out(run, trials=3, retry_failed=9)
    assert retries(run) == {2: 0, 3: 2}
    sound(run, 4)


def test_an_interrupted_retry_is_gone_on_with_and_not_repeated(
    toy_run: ToyRun, carry_out: CarryOut, command: Command, sound: Sound, failing: Failing, on_report: OnReport
) -> None:
    run, stop = toy_run(), StopSignal()
    failing({1})
    carry_out(run, trials=2)
    failing(set())

    def stop_at(n: int, _: Report) -> None:
        stop.requested = n == 2

    on_report(stop_at)
    carry_out(run, trials=2, retry_failed=1, stop=stop)
    assert [trial.state for trial in read_trials(run.journal)][2:] == [TrialState.RUNNING]
    on_report(lambda n, _: None)
    assert command("resume", run.name).code == 0
    assert retries(run) == {2: 0}
    sound(run, 3)


def test_a_retry_that_was_asked_for_and_never_begun_is_still_run(
    toy_run: ToyRun,
    carry_out: CarryOut,
    command: Command,
    sound: Sound,
    failing: Failing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process died between the study's entry and the plan."""
    run = toy_run()
    failing({1})
    carry_out(run, trials=2)
    failing(set())
    with monkeypatch.context() as context:
        context.setattr(RunDirectory, "write_plan", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            carry_out(run, trials=2, retry_failed=1)
    assert command("resume", run.name, "--retry-failed", "1").code == 0
    assert retries(run) == {2: 0}
    sound(run, 3)


def test_a_retry_that_the_time_limit_left_over_is_named_and_run_by_a_plain_resume(
    toy_run: ToyRun, carry_out: CarryOut, command: Command, sound: Sound, failing: Failing
) -> None:
    run = toy_run()
    failing({1})
    with pytest.raises(NoUsableTrialError):
        carry_out(run, trials=1)
    failing(set())
    for retry in (("--retry-failed", "1"), ()):
        end = command("resume", run.name, *retry, "--time", "0s")
        assert end.code == 3
        last = end.err.splitlines()[-1]
        assert "1 of 1 failed, most often with: RuntimeError: a loose cable; --time left 1 trial over" in last
        assert last.endswith(f"go on with: {run.resume_command}")
        assert (run.read_summary() or {})["state"] == "interrupted"
    assert command("resume", run.name).code == 0
    assert retries(run) == {1: 0}
    sound(run, 2)


def test_an_interrupted_trial_that_the_time_limit_left_over_is_no_fault(
    toy_run: ToyRun, carry_out: CarryOut, command: Command, sound: Sound, on_report: OnReport
) -> None:
    run, stop = toy_run(pruner="none"), StopSignal()

    def stop_at(n: int, _: Report) -> None:
        stop.requested = n == 6

    on_report(stop_at)
    carry_out(run, trials=2, stop=stop)
    on_report(lambda n, _: None)
    end = command("resume", run.name, "--time", "0s")
    assert end.code == 0
    assert f"--time is over: 1 of 2 trials left; go on with: {run.resume_command}" in end.err.splitlines()
    assert "1 complete, 0 pruned, 0 failed, 1 interrupted" in end.out
    assert run_faults(run, default_uri()) == []
    assert command("resume", run.name).code == 0
    sound(run, 2)


def test_more_trials_count_from_what_is_there_and_fewer_take_none_away(
    toy_run: ToyRun, command: Command, toy_options: Options, sound: Sound
) -> None:
    toy_run()
    assert command("search", *toy_options(), *LOCAL, "--trials", "3", "--run-dir", "run").code == 0
    fewer = command("resume", "run", "--trials", "1")
    assert fewer.code == 0
    assert "3 trials are there already; 1 in all adds none" in fewer.err.splitlines()
    sound(open_run("run"), 3)
    more = command("resume", "run", "--trials", "+2")
    assert more.code == 0
    assert more.err.count("trial   ") == 2
    sound(open_run("run"), 5)
    assert command("resume", "run").code == 0
    sound(open_run("run"), 5)


@pytest.mark.parametrize("trials", ["x", "+", "-1", "1.5", "", "0"])
def test_a_number_of_trials_that_is_none_is_refused(trials: str, toy_run: ToyRun, command: Command) -> None:
    run = toy_run()
    end = command("resume", run.name, "--executor", "local", f"--trials={trials}")
    assert (end.code, end.err.count("\n")) == (2, 1)
    assert end.err.startswith(f"d3tune: --trials {trials}: ")


@pytest.mark.parametrize("text", ["{", "[]", '{"trials": "many"}'])
def test_a_damaged_plan_is_one_line_and_can_be_removed(
    text: str, toy_run: ToyRun, carry_out: CarryOut, command: Command, toy_options: Options, sound: Sound
) -> None:
    run = toy_run()
    carry_out(run, trials=1)
    plan = run.path / "plan.json"
    plan.write_text(text, encoding="utf-8")
    for refused in (("resume", run.name), ("sync", run.name)):
        end = command(*refused)
        if refused[0] == "sync" and end.code == 0:
            # it needs the store's address alone
            assert isinstance(json.loads(text), dict)
            continue
        assert (end.code, end.out, end.err.count("\n")) == (1, "", 1)
        assert end.err.startswith(f"d3tune: {plan}: ")
        assert "remove" in end.err
    assert plan.read_text(encoding="utf-8") == text
    # a search has its own options
    assert command("search", *toy_options(), *LOCAL, "--trials", "2").code == 0
    sound(run, 2)


# on another machine


def test_a_run_goes_on_although_the_prepared_dataset_is_gone(
    toy_run: ToyRun, carry_out: CarryOut, command: Command, sound: Sound, record: Record, tmp_path: Path
) -> None:
    """It is found again by its name, and only where it is told to be."""
    run, straight = toy_run(), toy_run(run_dir=Path("straight"))
    carry_out(straight, trials=3)
    carry_out(run, trials=1)
    shutil.rmtree(run.dataset_path.parent)
    for refused in (("resume", run.name), ("replay", run.name, "0")):
        end = command(*refused)
        assert end.code == 2
        assert end.err.startswith("d3tune: unknown dataset 'toy'")
        assert end.err.count("\n") == 1
    where = ("--data-dir", tmp_path / "toy")
    assert command("replay", run.name, "0", *where).code == 0
    assert command("resume", run.name, "--trials", "3", *where).code == 0
    sound(run, 3)
    assert record(run) == record(straight)


def test_an_embedded_dataset_is_found_again_by_itself(
    new_run: ToyRun, carry_out: CarryOut, command: Command, sound: Sound
) -> None:
    run = new_run({"updates": 4, "evaluations": 2, "critic_steps": 1, "heads": "[prototype]"})
    carry_out(run, trials=1)
    shutil.rmtree(run.dataset_path)
    assert command("replay", run.name, "0").code == 0
    shutil.rmtree(run.dataset_path)
    assert command("resume", run.name, "--trials", "2").code == 0
    sound(run, 2)


def test_a_run_in_another_home_goes_on_there(
    toy_run: ToyRun,
    carry_out: CarryOut,
    command: Command,
    toy_options: Options,
    sound: Sound,
    isolated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The home is moved; then the run alone, under another name."""
    run = toy_run()
    carry_out(run, trials=1)
    home = isolated.rename(tmp_path / "elsewhere")
    monkeypatch.setenv("D3TUNE_HOME", str(home))
    where = ("--data-dir", tmp_path / "toy")
    assert command("resume", run.name, "--trials", "2", *where).code == 0
    sound(open_run(run.name), 2)
    again = command("search", *toy_options(), *LOCAL, "--trials", "3")
    assert again.code == 0, again.err
    assert f"going on with run {home / 'runs' / run.name}" in again.err
    sound(open_run(run.name), 3)

    renamed = shutil.move(home / "runs" / run.name, tmp_path / "renamed")
    assert command("resume", renamed, "--trials", "4", *where).code == 0
    sound(open_run(str(renamed)), 4)
    assert replay_suggestions(open_run(str(renamed))).differences == []
    assert command("replay", renamed, "0", *where).code == 0


def test_a_dataset_of_other_content_is_refused(
    toy_run: ToyRun, carry_out: CarryOut, command: Command, write_toy: Callable[..., Path], tmp_path: Path
) -> None:
    run = toy_run()
    carry_out(run, trials=1)
    before = run.journal.read_bytes()

    def change(arrays: dict[str, Any]) -> None:
        arrays["features"] = arrays["features"] + 1

    other = write_toy(tmp_path / "other", change)
    shutil.rmtree(run.dataset_path.parent)
    for refused in (("resume", run.name, "--trials", "2"), ("replay", run.name, "0")):
        end = command(*refused, "--data-dir", other)
        assert (end.code, end.err.count("\n")) == (1, 1)
        assert end.err.startswith("d3tune: toy: what is found here holds content ")
        assert run.search.dataset_hash[:12] in end.err
    assert run.journal.read_bytes() == before


def test_a_prepared_dataset_that_was_exchanged_is_refused(
    toy_run: ToyRun, carry_out: CarryOut, command: Command, new_run: ToyRun
) -> None:
    run = toy_run()
    carry_out(run, trials=1)
    other = new_run()
    shutil.rmtree(run.dataset_path)
    shutil.copytree(other.dataset_path, run.dataset_path)
    end = command("resume", run.name, "--trials", "2")
    assert (end.code, end.err.count("\n")) == (1, 1)
    assert f"{run.dataset_path}: holds content {other.search.dataset_hash[:12]}" in end.err
    assert len(read_trials(run.journal)) == 1, "no trial is begun that cannot be trained"
    assert run_faults(run, default_uri()) == []


def test_fewer_trials_and_a_retry_are_the_retry_alone(
    toy_run: ToyRun, carry_out: CarryOut, sound: Sound, failing: Failing
) -> None:
    run = toy_run()
    failing({1})
    carry_out(run, trials=3)
    failing(set())
    carry_out(run, trials=1, retry_failed=1)
    assert retries(run) == {3: 0}
    sound(run, 4)


@pytest.mark.parametrize("again", [("resume", "--trials", "+1"), ("sync",)], ids=["resume", "sync"])
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_a_run_that_lost_its_journal_is_not_begun_anew(
    how: str, again: tuple[str, ...], toy_run: ToyRun, carry_out: CarryOut, command: Command
) -> None:
    run = toy_run()
    carry_out(run, trials=2)
    journal = run.journal.read_bytes()
    run.journal.unlink()
    if how == "empty":
        run.journal.touch()
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    end = command(again[0], run.name, *again[1:])
    assert end.code == 1
    assert end.err.splitlines()[-1].startswith(f"d3tune: {run.journal}: is {how}, but 2 trials had ended; put it back")
    left = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert {path for path in left if left[path] != before.get(path)} <= {run.path / "plan.json"}
    run.journal.write_bytes(journal)
    assert command("resume", run.name, "--trials", "+1").code == 0


def test_a_trial_whose_end_the_journal_lost_is_trained_again_and_is_in_mlflow_once(
    toy_run: ToyRun, carry_out: CarryOut, sound: Sound
) -> None:
    run, said = toy_run(pruner="none"), list[str]()
    carry_out(run, trials=2)
    lines = run.journal.read_bytes().splitlines(keepends=True)
    ends = [number for number, line in enumerate(lines) if b'"op_code":6' in line and b'"state":1' in line]
    run.journal.write_bytes(b"".join(lines[: ends[-1]]))
    carry_out(run, trials=2, said=said)
    assert f"{run.journal.name}: lost the end of trial 1, which is trained again" in said
    sound(run, 2)


def test_printed_commands_are_words_for_a_shell(toy_run: ToyRun, tmp_path: Path) -> None:
    run = toy_run(run_dir=tmp_path / "my runs" / "it's")
    assert shlex.split(run.resume_command) == ["d3tune", "resume", str(run.path)]
    assert shlex.split(run.sync_command) == ["d3tune", "sync", str(run.path)]

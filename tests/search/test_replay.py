"""Replay: a recorded trial trained again, all suggestions made again, and what is said where the record differs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from d3tune.errors import NoUsableTrialError, RunError, UsageError
from d3tune.method.generators.gan import Gan
from d3tune.search.executor import StopSignal
from d3tune.search.journal import LINE, SET_PARAM, SET_USER_ATTR
from d3tune.search.replay import replay_suggestions, replay_trial
from d3tune.search.run import RunDirectory
from d3tune.search.search import Outcome
from d3tune.search.study import read_trials

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

NewRun = Callable[..., RunDirectory]
CarryOut = Callable[..., Outcome]


def rewrite(run: RunDirectory, change: Callable[[dict[str, Any]], None]) -> None:
    """Edit the journal's lines as they are."""
    logs = [json.loads(line) for line in run.journal.read_text(encoding="utf-8").splitlines()]
    for log in logs:
        change(log)
    run.journal.write_text("".join(json.dumps(log) + "\n" for log in logs), encoding="utf-8")


@pytest.fixture
def searched(new_run: NewRun, carry_out: CarryOut) -> RunDirectory:
    """A search with a pruned and a complete trial, stopped and resumed once on the way."""
    run = new_run()
    stop = StopSignal()
    said: list[str] = []
    carry_out(run, trials=4)
    stop.requested = True
    carry_out(run, trials=7, stop=stop, said=said)
    carry_out(run, trials=7)
    return run


def first(run: RunDirectory, state: TrialState) -> int:
    return next(trial.number for trial in read_trials(run.journal) if trial.state == state)


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED])
def test_a_trial_trained_again_reports_the_same_to_the_last_bit(state: TrialState, searched: RunDirectory) -> None:
    before = searched.journal.read_bytes()
    number, said = first(searched, state), list[str]()
    replayed = replay_trial(searched, number, said.append)
    assert replayed.differences == []
    assert replayed.elsewhere == said == []
    assert replayed.compared == len(read_trials(searched.journal)[number].intermediate_values)
    assert searched.journal.read_bytes() == before


def test_a_record_that_was_changed_is_found_by_name_and_update(searched: RunDirectory) -> None:
    number = first(searched, TrialState.COMPLETE)

    def change(log: dict[str, Any]) -> None:
        report = log.get("user_attr", {}).get("report:00000020")
        if log["op_code"] == SET_USER_ATTR and log["trial_id"] == number and report:
            report["metrics"]["val/U"] += 1e-12

    rewrite(searched, change)
    replayed = replay_trial(searched, number, lambda line: None)
    assert len(replayed.differences) == 2
    assert replayed.differences[0].startswith("update 20: val/U was ")
    assert replayed.differences[1].startswith("update 20: 1 of ")


def test_another_version_is_named_beside_the_difference(searched: RunDirectory) -> None:
    def change(log: dict[str, Any]) -> None:
        if log["op_code"] == SET_USER_ATTR and "worker" in log["user_attr"]:
            log["user_attr"]["worker"]["torch"] = "1.0"

    rewrite(searched, change)
    said: list[str] = []
    replayed = replay_trial(searched, 0, said.append)
    assert replayed.differences == []
    assert said == replayed.elsewhere
    assert said[0].startswith("torch: 1.0 then, ")


def test_a_diverged_trial_diverges_again_at_the_same_place(
    new_run: NewRun, carry_out: CarryOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = Gan.loss_and_rows

    def poisoned(self: Gan, *arguments: Any) -> Any:
        calls = self.__dict__["calls"] = self.__dict__.get("calls", 0) + 1
        total, *others = sound(self, *arguments)
        return (total * float("nan") if calls == 15 else total, *others)

    run = new_run()
    with monkeypatch.context() as context:
        context.setattr(Gan, "loss_and_rows", poisoned)
        with pytest.raises(NoUsableTrialError, match="no trial was completed"):
            carry_out(run, trials=1)
        replayed = replay_trial(run, 0, print)
        assert (replayed.compared, replayed.differences) == (1, [])
    (trial,) = read_trials(run.journal)
    (difference,) = replay_trial(run, 0, print).differences
    assert difference == f"{trial.user_attrs['failure']} then, it does not diverge now"


@pytest.mark.parametrize("number", [-1, 7, 99])
def test_a_trial_that_is_not_there_is_one_clear_error(number: int, searched: RunDirectory) -> None:
    with pytest.raises(UsageError, match=f"has no trial {number}; there are 7, numbered from 0"):
        replay_trial(searched, number, lambda line: None)


def test_a_trial_that_failed_before_any_report_has_nothing_to_compare_with(
    toy_run: NewRun, carry_out: CarryOut, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = toy_run()

    def broken(*_: Any) -> None:
        raise RuntimeError("a loose cable")

    with monkeypatch.context() as context:
        context.setattr(Gan, "loss_and_rows", broken)
        with pytest.raises(NoUsableTrialError):
            carry_out(run, trials=1)
    end = command("replay", run.name, "0")
    reason = "it failed before its first report: RuntimeError: a loose cable"
    assert (end.code, end.out) == (1, "")
    assert end.err == f"d3tune: {run.path}: trial 0 has nothing to compare with: {reason}\n"


def test_a_trial_that_diverges_before_any_report_does_so_again(
    toy_run: NewRun, carry_out: CarryOut, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = toy_run()
    sound = Gan.loss_and_rows

    def poisoned(self: Gan, *arguments: Any) -> Any:
        total, *others = sound(self, *arguments)
        return (total * float("nan"), *others)

    monkeypatch.setattr(Gan, "loss_and_rows", poisoned)
    with pytest.raises(NoUsableTrialError):
        carry_out(run, trials=1)
    end = command("replay", run.name, "0")
    assert (end.code, end.out) == (0, "trial 0: diverges before its first report, as in the record\n")


def test_a_run_that_has_not_begun_cannot_be_replayed(new_run: NewRun) -> None:
    for replay in (replay_suggestions, lambda run: replay_trial(run, 0, print)):
        with pytest.raises(RunError, match="there is no journal; the run has not begun"):
            replay(new_run())


def test_every_suggestion_is_made_again(searched: RunDirectory) -> None:
    before = searched.journal.read_bytes()
    replayed = replay_suggestions(searched)
    assert (replayed.compared, replayed.differences) == (7, [])
    assert searched.journal.read_bytes() == before


@pytest.mark.parametrize("sampler", ["random", "gp", "cmaes", "tpe"])
def test_every_sampler_suggests_again_after_its_startup(sampler: str, new_run: NewRun, carry_out: CarryOut) -> None:
    run = new_run(sampler=sampler)
    carry_out(run, trials=13)
    replayed = replay_suggestions(run)
    assert (replayed.compared, replayed.differences) == (13, [])


def test_a_suggestion_that_was_changed_is_found_and_the_others_are_compared_on(searched: RunDirectory) -> None:
    changed: list[str] = []

    def change(log: dict[str, Any]) -> None:
        if log["op_code"] == SET_PARAM and log["trial_id"] == 5 and not changed:
            changed.append(log["param_name"])
            log["param_value_internal"] = 1.0 - log["param_value_internal"]

    rewrite(searched, change)
    replayed = replay_suggestions(searched)
    assert replayed.compared == 7
    assert len(replayed.differences) == 1
    assert replayed.differences[0].startswith(f"trial 5: {changed[0]} ")


def test_a_suggestion_the_record_lacks_is_found(searched: RunDirectory) -> None:
    lines = searched.journal.read_text(encoding="utf-8").splitlines(keepends=True)
    logs = [json.loads(line) for line in lines]
    of_last = [i for i, log in enumerate(logs) if log["op_code"] == SET_PARAM and log["trial_id"] == 6]
    del logs[of_last[-1]]
    # as an earlier version wrote it, which does not say where a line stands
    plain = [{key: value for key, value in log.items() if key not in (LINE, "crc32")} for log in logs]
    searched.journal.write_text("".join(json.dumps(log) + "\n" for log in plain), encoding="utf-8")
    (difference,) = replay_suggestions(searched).differences
    assert difference.startswith("trial 6: ")


def test_suggestions_after_an_extension_are_compared_with_the_space_of_their_time(
    new_run: NewRun, carry_out: CarryOut, tmp_path: Path
) -> None:
    place = tmp_path / "extended"
    run = new_run(run_dir=place)
    carry_out(run, trials=5)
    wider = new_run({"head_epochs": 3}, run_dir=place, sampler="random", extend=True)
    carry_out(wider, trials=9)
    replayed = replay_suggestions(wider)
    assert (replayed.compared, replayed.differences) == (9, [])
    assert [extension.trials for extension in wider.extensions] == [5]

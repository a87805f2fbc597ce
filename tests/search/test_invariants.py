"""The examination of a run finds each thing that may be wrong with it, and nothing where all is well."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from d3tune.results.doctor import examine_run
from d3tune.search.executor import StopSignal
from d3tune.search.invariants import best_value, run_faults
from d3tune.search.journal import CREATE_TRIAL, LINE, SET_STATE, SET_USER_ATTR, WAITING
from d3tune.search.lock import was_cut_off
from d3tune.search.run import RunDirectory
from d3tune.search.search import Outcome
from d3tune.search.study import read_trials
from d3tune.search.tracking import default_uri

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

NewRun = Callable[..., RunDirectory]
CarryOut = Callable[..., Outcome]
Log = dict[str, Any]
CREATE_STUDY = 0


@pytest.fixture
def run(new_run: NewRun, carry_out: CarryOut) -> RunDirectory:
    """A search with complete and pruned trials and one that failed."""
    run = new_run()
    carry_out(run, trials=6)
    assert {trial.state for trial in read_trials(run.journal)} == {TrialState.COMPLETE, TrialState.PRUNED}
    return run


def faults(run: RunDirectory) -> list[str]:
    return run_faults(run, default_uri())


def number(run: RunDirectory, state: TrialState) -> int:
    return next(trial.number for trial in read_trials(run.journal) if trial.state == state)


def rewrite(run: RunDirectory, change: Callable[[Log], Log | None]) -> None:
    lines = [json.loads(line) for line in run.journal.read_text(encoding="utf-8").splitlines()]
    # as an earlier version wrote it, which does not say where a line stands
    logs = [change({key: value for key, value in log.items() if key not in (LINE, "crc32")}) for log in lines]
    run.journal.write_text("".join(json.dumps(log) + "\n" for log in logs if log is not None), encoding="utf-8")


def test_a_sound_run_has_no_fault(run: RunDirectory) -> None:
    assert faults(run) == []
    findings = examine_run(run.name, None)
    assert not any(finding.problem or finding.note for finding in findings)


def end(log: Log, trial: int) -> bool:
    return log["op_code"] == SET_STATE and log["trial_id"] == trial and log["state"] != 0


def test_an_early_stopped_trial_that_is_complete_is_found(run: RunDirectory) -> None:
    pruned = number(run, TrialState.PRUNED)

    def change(log: Log) -> Log:
        return {**log, "state": 1, "values": [0.5]} if end(log, pruned) else log

    rewrite(run, change)
    found = faults(run)
    assert any(line.startswith(f"trial {pruned}: COMPLETE at update ") for line in found)
    assert any(line.startswith(f"trial {pruned}: MLflow says PRUNED, KILLED; the study COMPLETE") for line in found)
    assert any(line.endswith("missing, or not what the study holds") for line in found)


def test_a_pruned_trial_with_the_full_budget_and_a_failure_without_a_reason_are_found(run: RunDirectory) -> None:
    complete, pruned = number(run, TrialState.COMPLETE), number(run, TrialState.PRUNED)

    def change(log: Log) -> Log:
        if end(log, complete):
            return {**log, "state": 2, "values": None}
        return {**log, "state": 3} if end(log, pruned) else log

    rewrite(run, change)
    found = faults(run)
    assert f"trial {complete}: PRUNED at update 40 of 40" in found
    assert f"trial {pruned}: FAIL without a reason" in found


def test_a_value_that_no_report_has_is_found(run: RunDirectory) -> None:
    complete = number(run, TrialState.COMPLETE)
    rewrite(run, lambda log: {**log, "values": [0.99]} if end(log, complete) else log)
    assert f"trial {complete}: its value 0.99 is not the one of its best report" in faults(run)


def test_a_report_that_is_lost_or_changed_is_found(run: RunDirectory) -> None:
    complete = number(run, TrialState.COMPLETE)

    def of(log: Log, key: str) -> bool:
        return log["op_code"] == SET_USER_ATTR and log["trial_id"] == complete and key in log["user_attr"]

    def worse(log: Log) -> Log:
        if of(log, "report:00000010"):
            log["user_attr"]["report:00000010"]["value"] += 1
        return log

    whole = run.journal.read_bytes()
    rewrite(run, worse)
    assert f"trial {complete}: at update 10 its value is not the best report's so far" in faults(run)
    run.journal.write_bytes(whole)
    rewrite(run, lambda log: None if of(log, "report:00000020") else log)
    assert f"trial {complete}: its reports and its intermediate values are of other updates" in faults(run)


def test_a_report_at_another_update_is_found(run: RunDirectory) -> None:
    complete = number(run, TrialState.COMPLETE)

    def later(log: Log) -> Log:
        if log.get("trial_id") == complete and log.get("step") == 20:
            log["step"] = 21
        if log.get("trial_id") == complete and "report:00000020" in log.get("user_attr", {}):
            log["user_attr"] = {"report:00000021": {**log["user_attr"]["report:00000020"], "update": 21}}
        return log

    rewrite(run, later)
    line = f"trial {complete}: it was evaluated at updates 10, 21, 30, 40, not as its configuration says"
    assert line in faults(run)


def test_a_trial_without_a_legal_configuration_is_found(run: RunDirectory) -> None:
    def spoilt(log: Log) -> Log:
        if log.get("trial_id") == 1 and "config" in log.get("user_attr", {}):
            log["user_attr"]["config"]["batch_size"] = -1
        return log

    rewrite(run, spoilt)
    assert "trial 1: it has no legal configuration on record" in faults(run)


def test_a_trial_that_was_pruned_before_any_report_is_found(run: RunDirectory) -> None:
    pruned = number(run, TrialState.PRUNED)

    def reported(log: Log) -> bool:
        return "step" in log or any(key.startswith("report:") for key in log.get("user_attr", {}))

    rewrite(run, lambda log: None if log.get("trial_id") == pruned and reported(log) else log)
    assert f"trial {pruned}: PRUNED at update 0 of 40" in faults(run)


def test_a_number_that_no_trial_has_is_found(run: RunDirectory) -> None:
    created = [-1]

    def waiting(log: Log) -> Log | None:
        if log["op_code"] == CREATE_TRIAL:
            created[0] += 1
            if created[0] == 2:
                log["state"] = WAITING
        return None if log.get("trial_id") == 2 else log

    rewrite(run, waiting)
    assert "the study has no trial 2, though later ones" in faults(run)


def test_a_run_that_goes_on_or_was_cut_off_may_have_trials_that_run(run: RunDirectory) -> None:
    complete = number(run, TrialState.COMPLETE)
    rewrite(run, lambda log: None if end(log, complete) else log)
    Store(run).client.set_terminated(Store(run).children[0].info.run_id, "RUNNING")
    assert len(faults(run)) > 2
    with run.owned():
        assert faults(run) == []
    (run.path / "lock").write_text(json.dumps({"pid": 1, "host": "elsewhere"}), encoding="utf-8")
    assert faults(run) == []


def test_an_interrupted_run_has_no_mlflow_run_that_is_running(run: RunDirectory) -> None:
    complete = number(run, TrialState.COMPLETE)
    rewrite(run, lambda log: None if end(log, complete) else log)
    Store(run).client.set_terminated(Store(run).children[0].info.run_id, "RUNNING")
    path = run.path / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**summary, "state": "interrupted"}), encoding="utf-8")
    (found,) = faults(run)
    assert found.endswith("is left RUNNING")


def test_a_trial_left_running_in_a_run_that_is_done_is_found(run: RunDirectory) -> None:
    complete = number(run, TrialState.COMPLETE)
    rewrite(run, lambda log: None if end(log, complete) else log)
    assert f"trial {complete}: RUNNING, but the run is done" in faults(run)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda path: (path / "trial.json").unlink(), "missing, or not what the study holds"),
        (lambda path: (path / "checkpoint-00000010.json").touch(), "left behind by an ended trial"),
        (lambda path: (path / ".trial.json.abc").touch(), "left behind half written"),
        (lambda path: shutil.copytree(path, path.with_name("00099")), "of no trial in the study"),
    ],
    ids=["record", "checkpoint", "half written", "foreign"],
)
def test_a_trials_folder_that_is_not_in_order_is_found(
    damage: Callable[[Path], None], fault: str, run: RunDirectory
) -> None:
    damage(run.trial(0))
    (found,) = faults(run)
    assert found.endswith(fault)


def test_weights_that_are_damaged_or_of_a_trial_far_behind_are_found(run: RunDirectory) -> None:
    (kept, *_) = sorted(run.path.glob("trials/*/weights.safetensors"))
    pruned = run.trial(number(run, TrialState.PRUNED))
    for name in ("weights.json", "weights.safetensors"):
        shutil.copy(kept.with_name(name), pruned / name)
    kept.write_bytes(kept.read_bytes()[:-1])
    found = faults(run)
    assert f"trial {int(pruned.name)}: its weights are kept, though it is not one of the best 3" in found
    assert f"trial {int(kept.parent.name)}: its kept weights are damaged" in found


def test_weights_of_more_trials_than_wanted_are_found(run: RunDirectory) -> None:
    assert len(list(run.path.glob("trials/*/weights.safetensors"))) == 3
    run.write_plan({**run.read_plan(), "keep_weights": 1})
    complete = sorted(
        (trial for trial in read_trials(run.journal) if trial.state == TrialState.COMPLETE),
        key=lambda trial: (-(trial.value or 0.0), trial.number),
    )
    expected = {f"trial {t.number}: its weights are kept, though it is not one of the best 1" for t in complete[1:3]}
    assert set(faults(run)) == expected


def test_a_summary_of_another_winner_is_found(run: RunDirectory) -> None:
    path = run.path / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    summary["winner"]["value"] += 0.01
    summary["trials"]["complete"] += 1
    path.write_text(json.dumps(summary), encoding="utf-8")
    assert [line.split(" is ")[0].split(" counts ")[0] for line in faults(run)] == [
        "the summary's winner",
        "the summary",
    ]


class Store:
    """The run's children in MLflow, to be tampered with."""

    def __init__(self, run: RunDirectory) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(default_uri())
        ids = [experiment.experiment_id for experiment in self.client.search_experiments()]
        runs = self.client.search_runs(ids, f"tags.`d3tune.run` = '{run.uid}'", max_results=1000)
        self.children = {int(r.data.tags["d3tune.trial"]): r for r in runs if "d3tune.trial" in r.data.tags}
        self.parents = [r for r in runs if "d3tune.trial" not in r.data.tags]


def test_what_mlflow_lacks_has_twice_or_has_wrong_is_found(run: RunDirectory) -> None:
    store = Store(run)
    assert len(store.children) == 6
    store.client.delete_run(store.children[0].info.run_id)
    store.client.log_metric(store.children[1].info.run_id, "val/H", 0.123, step=10)
    store.client.set_terminated(store.children[2].info.run_id, "RUNNING")
    store.client.log_param(store.children[3].info.run_id, "another", 1)
    copy = store.children[4]
    store.client.create_run(copy.info.experiment_id, tags=copy.data.tags)
    found = faults(run)
    for line in (
        "trial 0: 0 times in MLflow",
        "trial 1: MLflow has a step of val/H twice",
        "trial 3: its parameters in MLflow are not its configuration",
        "trial 4: 2 times in MLflow",
    ):
        assert line in found, found
    assert any(line.endswith("is left RUNNING") for line in found)


def test_runs_in_mlflow_that_the_study_does_not_know_are_found(run: RunDirectory) -> None:
    store = Store(run)
    one = store.children[0]
    (parent,) = store.parents
    foreign = {**one.data.tags, "d3tune.trial": "99"}
    store.client.set_terminated(store.client.create_run(one.info.experiment_id, tags=foreign).info.run_id)
    second = store.client.create_run(one.info.experiment_id, tags={"d3tune.run": run.uid})
    store.client.set_terminated(second.info.run_id)
    assert sorted(faults(run)) == ["MLflow has 2 parent runs", "MLflow has a trial 99 that the study has not"]
    for item in (parent, second):
        store.client.delete_run(item.info.run_id)
    assert "MLflow has 0 parent runs" in faults(run)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            "update metrics set value = 0.123 where run_uuid = ? and key = 'val/H' and step = 20",
            "MLflow's val/H is not",
        ),
        ("update metrics set step = 21 where run_uuid = ? and key = 'val/H' and step = 20", "MLflow's val/H is not"),
        ("delete from metrics where run_uuid = ? and key = 'val/H' and step = 20", "MLflow's val/H is not"),
        ("delete from metrics where run_uuid = ? and key = 'val/H'", "MLflow's val/H is not"),
        ("update tags set value = 'FAIL' where run_uuid = ? and key = 'd3tune.state'", "MLflow says FAIL, FINISHED"),
        ("update runs set status = 'FAILED' where run_uuid = ?", "MLflow says COMPLETE, FAILED"),
    ],
)
def test_what_differs_in_mlflow_is_found(change: str, fault: str, run: RunDirectory) -> None:
    complete = number(run, TrialState.COMPLETE)
    with closing(sqlite3.connect(default_uri().removeprefix("sqlite:///"))) as connection, connection:
        changed = connection.execute(change, (Store(run).children[complete].info.run_id,)).rowcount
    assert changed > 0
    (found,) = faults(run)
    assert found.startswith(f"trial {complete}: {fault}"), found


def test_every_fault_says_what_to_do(run: RunDirectory, command: Callable[..., Any]) -> None:
    """And shows no value as Python writes it."""
    store = Store(run)
    store.client.delete_run(store.children[0].info.run_id)
    store.client.log_param(store.children[3].info.run_id, "another", 1)
    (run.trial(1) / "trial.json").unlink()
    (run.trial(2) / "checkpoint-00000010.json").touch()
    summary = run.read_summary() or {}
    run.write_summary({**summary, "winner": {"trial": 1, "value": 0.99}, "trials": {**summary["trials"], "failed": 7}})
    examined = command("doctor", run.name, "--json")
    states = [finding["state"] for finding in json.loads(examined.out) if finding["problem"]]
    assert (examined.code, len(states)) == (1, 6)
    assert all(
        state.endswith((" mends it", " writes it again", "; remove it")) or "; delete run " in state for state in states
    )
    assert not any(sign in "".join(states) for sign in "{}[]")
    assert any(state.startswith("the summary's winner is trial 1 with 0.99, the study's trial ") for state in states)


def test_doubles_in_mlflow_are_removed_by_a_sync(run: RunDirectory, command: Callable[..., Any]) -> None:
    """Of each trial the one that agrees with the study stays; where none does, it is written anew."""
    store = Store(run)
    kept, wrong = store.children[1], store.children[2]
    for child in (kept, wrong):
        copy = store.client.create_run(child.info.experiment_id, tags=child.data.tags)
        store.client.log_metric(copy.info.run_id, "val/H", 0.5, step=10)
    store.client.log_metric(wrong.info.run_id, "val/H", 0.123, step=10)
    (parent,) = store.parents
    other = store.client.create_run(parent.info.experiment_id, tags={"d3tune.run": run.uid})
    store.client.set_tag(kept.info.run_id, "mlflow.parentRunId", other.info.run_id)
    advice = f"; {run.sync_command} mends it"
    found = [finding.state for finding in examine_run(run.name, None) if finding.problem]
    assert {f"{line}{advice}" for line in ("trial 1: 2 times in MLflow", "MLflow has 2 parent runs")} <= set(found)
    end = command("sync", run.name)
    assert end.code == 0, end.err
    assert f"MLflow at {default_uri()}: deleted 4 runs that {run.name} had there more than once" in end.err.splitlines()
    assert faults(run) == []
    after = Store(run)
    assert after.children[1].info.run_id == kept.info.run_id
    assert after.children[2].info.run_id != wrong.info.run_id
    assert {child.data.tags["mlflow.parentRunId"] for child in after.children.values()} == {parent.info.run_id}
    assert "deleted" not in command("sync", run.name).err


def test_a_store_that_cannot_be_read_is_one_line(run: RunDirectory, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.db"
    nothing.write_bytes(b"no database" * 1000)
    (line,) = run_faults(run, f"sqlite:///{nothing}")
    absent = tmp_path / "absent.db"
    assert run_faults(run, f"sqlite:///{absent}")[0].endswith("there is no such store")
    assert not absent.exists()
    assert line.startswith(f"MLflow at sqlite:///{nothing} cannot be read: ")


def test_an_interrupted_run_is_sound_and_says_how_to_go_on(new_run: NewRun, carry_out: CarryOut) -> None:
    run = new_run()
    carry_out(run, trials=2, stop=StopSignal(requested=True))
    assert faults(run) == []
    carry_out(run, trials=2)
    carry_out(run, trials=3, stop=StopSignal(requested=True))
    assert faults(run) == []
    assert any(f"d3tune resume {run.path}" in finding.state for finding in examine_run(run.name, None))


def test_a_run_that_was_cut_off_is_told_from_one_that_was_closed(run: RunDirectory) -> None:
    assert not was_cut_off(run.path)
    (run.path / "lock").write_text(json.dumps({"pid": 1, "host": "elsewhere"}), encoding="utf-8")
    assert was_cut_off(run.path)
    assert any("cut off" in finding.state for finding in examine_run(run.name, None))
    # before any trial was ended MLflow's store may not have been made
    absent = f"sqlite:///{run.path / 'not-yet.db'}"
    assert run_faults(run, absent) != []
    rewrite(run, lambda log: None if log["op_code"] > CREATE_STUDY else log)
    assert run_faults(run, absent) == []
    with run.owned():
        assert not was_cut_off(run.path)
        assert any("at work" in finding.state for finding in examine_run(run.name, None))


def test_the_best_value_is_that_of_the_best_complete_trial(run: RunDirectory) -> None:
    complete = [t.value for t in read_trials(run.journal) if t.state == TrialState.COMPLETE]
    assert best_value(run) == max(value for value in complete if value is not None)

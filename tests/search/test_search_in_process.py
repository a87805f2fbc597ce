"""A search from start to end with the in-process executor: study, files and MLflow agree, whatever happens between."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from d3tune.errors import NoUsableTrialError, RunError
from d3tune.method.generators import load_backbone
from d3tune.method.generators.gan import Gan
from d3tune.search.executor import StopSignal, inprocess
from d3tune.search.planning import resumed_plan
from d3tune.search.reports import Report
from d3tune.search.run import RunDirectory, open_run
from d3tune.search.search import Outcome
from d3tune.search.study import Ledger, reports_of
from d3tune.search.summaries import summaries
from d3tune.search.tracking import default_uri
from d3tune.search.trial import RunningTrial
from d3tune.yamlfile import read_yaml

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

NewRun = Callable[..., RunDirectory]
CarryOut = Callable[..., Outcome]
STATUS = {
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "KILLED",
    TrialState.FAIL: "FAILED",
}


def study_of(run: RunDirectory) -> list[FrozenTrial]:
    config = load_backbone(run.search.backbone).config
    return Ledger(run.journal, run.name, run.search, run.load_space(config), config).trials()


class Store:
    """The MLflow runs of a search, read through MLflow's own client."""

    def __init__(self, run: RunDirectory) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(default_uri())
        self.experiments = [e.name for e in self.client.search_experiments() if e.name != "Default"]
        ids = [e.experiment_id for e in self.client.search_experiments()]
        runs = list(self.client.search_runs(ids, f"tags.`d3tune.run` = '{run.uid}'", max_results=1000))
        self.parents = [item for item in runs if "mlflow.parentRunId" not in item.data.tags]
        self.children = sorted(
            (item for item in runs if "mlflow.parentRunId" in item.data.tags),
            key=lambda item: int(item.data.tags["d3tune.trial"]),
        )

    def history(self, child: Any, key: str) -> dict[int, float]:
        rows = self.client.get_metric_history(child.info.run_id, key)
        values = {row.step: row.value for row in rows}
        assert len(values) == len(rows), "a step is written twice"
        return values


def assert_equal_values(run: RunDirectory) -> Store:
    """Every trial once in study and store, in the same state, with the same value at the same step."""
    trials, store = study_of(run), Store(run)
    assert len(store.parents) == 1
    assert [int(child.data.tags["d3tune.trial"]) for child in store.children] == [t.number for t in trials]
    assert [t.number for t in trials] == list(range(len(trials)))
    for trial, child in zip(trials, store.children, strict=True):
        reports = reports_of(trial)
        assert child.data.tags["mlflow.parentRunId"] == store.parents[0].info.run_id
        assert child.info.run_name == f"gan-t{trial.number:03d}"
        assert child.info.status == STATUS[trial.state]
        for key, shown in (("val/H", "val/H"), ("val/U", "val/U"), ("loss/critic", "train/critic")):
            assert store.history(child, shown) == {r.update: pytest.approx(r.metrics[key], rel=1e-5) for r in reports}
        assert store.history(child, "val/best_H") == {
            step: pytest.approx(value, rel=1e-5) for step, value in trial.intermediate_values.items()
        }
        for name, value in trial.user_attrs["config"].items():
            if isinstance(value, float):
                assert float(child.data.params[name]) == pytest.approx(value, rel=5e-4)
            elif isinstance(value, int | str) and not isinstance(value, bool):
                assert child.data.params[name] == str(value)
    return store


def test_a_search_leaves_one_consistent_record(new_run: NewRun, carry_out: CarryOut, isolated: Path) -> None:
    run, said = new_run(dataset="hanzi/1"), list[str]()
    outcome = carry_out(run, trials=4, confirm_seeds=2, said=said)
    assert run.path.parent == isolated / "runs"
    assert run.name.startswith("hanzi-1-gan-s0-")
    store = assert_equal_values(run)
    assert store.experiments == ["d3tune/hanzi-1"]
    assert store.parents[0].info.run_name == "gan-s0"
    assert store.parents[0].info.status == "FINISHED"

    # the winner is the best complete trial
    trials = study_of(run)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    assert outcome.winner is not None
    assert outcome.winner.value == max(t.value for t in complete)
    assert sum(outcome.counts.values()) == 4
    assert sum("trial " in line and "/4" in line for line in said) == 4

    # files and parent run say the same
    summary = json.loads((run.path / "summary.json").read_text(encoding="utf-8"))
    best = read_yaml(run.path / "best.yaml")
    assert {**summary, "path": str(run.path)} == summaries()[0] == run.read_summary()
    assert outcome.test is not None
    assert summary["test"] == json.loads(json.dumps(outcome.test.to_dict())) | {
        "H_per_seed": summary["test"]["H_per_seed"]
    }
    assert summary["winner"] == {"trial": outcome.winner.number, "value": outcome.winner.value}
    assert summary["trials"] == outcome.counts
    assert best["config"] == outcome.winner.user_attrs["config"]
    assert best["selection"] == summary["selection"]
    assert best["dataset"] == summary["dataset"]
    assert best["source"]["trial"] == outcome.winner.number
    metrics = store.parents[0].data.metrics
    assert metrics["val/H"] == pytest.approx(outcome.winner.value, rel=1e-12)
    assert metrics["test/H"] == pytest.approx(outcome.test.mean("H"), rel=1e-12)
    assert metrics["test/H_sd"] == pytest.approx(outcome.test.sd("H"), rel=1e-12)
    artifacts = store.client.list_artifacts(store.parents[0].info.run_id)
    assert [item.path for item in artifacts] == ["best.yaml"]
    assert Path(store.parents[0].info.artifact_uri.removeprefix("file://")).is_relative_to(isolated)

    # checkpoints exist only during a trial
    assert list(run.path.rglob("checkpoint-*")) == []


def content(run: RunDirectory) -> dict[str, bytes]:
    files = {str(p.relative_to(run.path)): p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    files.pop("lock")
    summary = json.loads(files.pop("summary.json"))
    summary.pop("updated")
    return files | {"summary": json.dumps(summary).encode()}


def test_the_same_search_again_goes_on_and_changes_nothing(new_run: NewRun, carry_out: CarryOut) -> None:
    run = new_run()
    carry_out(run, trials=3, confirm_seeds=1)
    before, store, trials = content(run), Store(run), study_of(run)
    again = new_run()
    assert again == run
    outcome = carry_out(again, trials=3, confirm_seeds=1)
    after = content(run)
    assert after.keys() == before.keys()
    # Optuna asks for its study once more, which the journal keeps
    assert after["study.journal"].startswith(before["study.journal"])
    assert [name for name in after if after[name] != before[name] and name != "study.journal"] == []
    assert study_of(run) == trials
    assert outcome.test is not None
    assert [child.info.run_id for child in Store(run).children] == [c.info.run_id for c in store.children]
    assert_equal_values(run)


def test_a_confirmation_with_fewer_seeds_does_not_replace_one_with_more(new_run: NewRun, carry_out: CarryOut) -> None:
    run, said = new_run(), list[str]()
    more = carry_out(run, trials=2, confirm_seeds=2)
    before = content(run)
    fewer = carry_out(run, trials=2, confirm_seeds=1, said=said)
    assert fewer.test == more.test
    after = content(run)
    assert (after["summary"], after["best.yaml"]) == (before["summary"], before["best.yaml"])
    assert any("confirmed already" in line and "2 seeds, which stay: --confirm-seeds 1" in line for line in said)
    assert_equal_values(run)
    # another winner is confirmed as asked
    assert more.winner is not None
    better = carry_out(run, trials=12, confirm_seeds=1)
    assert better.winner is not None
    assert better.winner.number != more.winner.number
    assert better.test is not None
    assert len(better.test.seeds) == 1


def test_going_on_without_confirmation_keeps_the_confirmed_result(new_run: NewRun, carry_out: CarryOut) -> None:
    run = new_run()
    carry_out(run, trials=2, confirm_seeds=1)
    before = summaries()[0]["test"]
    assert before is not None
    carry_out(run, trials=2, confirm_seeds=0)
    assert run.best.exists()
    assert summaries()[0]["test"] == before


def test_an_interrupted_going_on_keeps_the_confirmed_result(new_run: NewRun, carry_out: CarryOut) -> None:
    run = new_run()
    carry_out(run, trials=2, confirm_seeds=1)
    before = summaries()[0]["test"]
    carry_out(run, trials=4, confirm_seeds=1, stop=StopSignal(requested=True))
    assert summaries()[0]["test"] == before


def test_another_search_in_the_same_directory_is_refused_with_the_difference(new_run: NewRun, tmp_path: Path) -> None:
    new_run(run_dir=tmp_path / "mine")
    with pytest.raises(
        RunError, match=r"holds another search \(hidden_dim: 32 → 64\); give another --run-dir, or --extend"
    ):
        new_run({"hidden_dim": 64}, run_dir=tmp_path / "mine")
    with pytest.raises(RunError, match=r"search\.seed: 0 → 5"):
        new_run(run_dir=tmp_path / "mine", seed=5)
    with pytest.raises(RunError, match=r"search\.dataset: hanzi/0 → hanzi/2"):
        new_run(run_dir=tmp_path / "mine", dataset="hanzi/2")
    with pytest.raises(RunError, match=r"\(head_lr: .*, log → 0\.001\)"):
        new_run({"head_lr": 0.001}, run_dir=tmp_path / "mine")
    assert new_run(run_dir=tmp_path / "mine").path == tmp_path / "mine"


def test_another_search_has_another_directory(new_run: NewRun) -> None:
    runs = [new_run(), new_run({"hidden_dim": 64}), new_run(seed=1), new_run(val_split=1), new_run(sampler="random")]
    assert len({run.path for run in runs}) == len(runs)
    assert len({run.uid for run in runs}) == len(runs)


def test_more_trials_may_be_added_and_only_these_are_run(new_run: NewRun, carry_out: CarryOut) -> None:
    run = new_run()
    carry_out(run, trials=2)
    before = study_of(run)
    opened = open_run(run.name)
    assert resumed_plan(opened, {}, "+2").trials == 4
    assert resumed_plan(opened, {}, "7").trials == 7
    again = resumed_plan(opened, {"concurrency": 3})
    assert again.trials == 2
    assert again.resources.executor == "local", "a resume does what the command before it did"
    assert again.resources.concurrency == 3
    carry_out(run, trials=4)
    after = study_of(run)
    assert len(after) == 4
    assert after[:2] == before
    assert_equal_values(run)


def test_a_second_process_on_the_same_run_is_refused(new_run: NewRun) -> None:
    run = new_run()
    code = f"from d3tune.search.run import open_run\nwith open_run({str(run.path)!r}).owned(): print('owned')"
    with run.owned():
        refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert "in use by process" in refused.stderr
    freed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert freed.stdout == "owned\n"


def test_all_trials_failing_ends_with_the_reason(
    new_run: NewRun, carry_out: CarryOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("no room\nfor it")

    monkeypatch.setattr(Gan, "prepare", fail)
    run = new_run()
    with pytest.raises(
        NoUsableTrialError, match="3 of 3 failed, most often with: MemoryError: no room for it"
    ) as error:
        carry_out(run, trials=3)
    assert error.value.exit_code == 3
    store = assert_equal_values(run)
    assert store.parents[0].info.status == "FAILED"
    assert {child.data.tags["d3tune.failure"] for child in store.children} == {"MemoryError: no room for it"}
    assert summaries()[0]["trials"]["failed"] == 3


def test_a_diverged_trial_fails_and_frees_its_place(
    new_run: NewRun, carry_out: CarryOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, calls = Gan.loss_and_rows, [0]

    def poisoned(self: Gan, *arguments: Any) -> Any:
        calls[0] += 1
        total, *others = sound(self, *arguments)
        return (total * float("nan") if calls[0] == 15 else total, *others)

    monkeypatch.setattr(Gan, "loss_and_rows", poisoned)
    run = new_run(pruner="none")
    outcome = carry_out(run, trials=2)
    first, second = study_of(run)
    assert first.state == TrialState.FAIL
    assert first.user_attrs["failure"].startswith("diverged: ")
    assert first.user_attrs["failure"].endswith("at update 16"), "the first loss after the poisoned step"
    assert list(first.intermediate_values) == [10]
    assert second.state == TrialState.COMPLETE
    assert outcome.counts == {"complete": 1, "pruned": 0, "failed": 1, "interrupted": 0}
    assert_equal_values(run)


def test_no_trial_starts_after_the_time_limit(new_run: NewRun, carry_out: CarryOut) -> None:
    run = new_run()
    with pytest.raises(NoUsableTrialError, match=r"0 begun.*--time"):
        carry_out(run, trials=3, seconds=0.0)
    carry_out(run, trials=2)
    outcome = carry_out(run, trials=9, seconds=0.0, confirm_seeds=1)
    assert len(study_of(run)) == 2
    assert outcome.test is not None
    assert not outcome.interrupted


class StopAfter:
    """Requests a stop as soon as the n-th report of a search is made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
        self.signal, self.left = StopSignal(), n
        test = self

        class Observed(RunningTrial):
            def next_report(self) -> Report:
                report = super().next_report()
                test.left -= 1
                if test.left == 0:
                    test.signal.requested = True
                return report

        monkeypatch.setattr(inprocess, "RunningTrial", Observed)


@pytest.mark.parametrize("n", [2, 4, 5])
def test_a_stopped_search_goes_on_to_the_same_end(
    n: int, new_run: NewRun, carry_out: CarryOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped within a trial, after its last report, and at the start of the next one."""
    straight = new_run(pruner="none", seed=4)
    carry_out(straight, trials=2)

    cut = new_run(pruner="none", seed=4, run_dir=straight.path.with_name("cut"))
    with monkeypatch.context() as context:
        outcome = carry_out(cut, trials=2, stop=StopAfter(context, n).signal)
    assert outcome.interrupted
    assert outcome.test is None
    states = [trial.state for trial in study_of(cut)]
    assert len(states) == (1 if n <= 4 else 2)
    store = Store(cut)
    assert store.parents[0].info.status == "KILLED"
    assert {child.info.status for child in store.children} <= {"KILLED", "FINISHED"}
    assert list(cut.path.rglob("checkpoint-*.json")) or n == 4

    calls = []

    class Observed(RunningTrial):
        def next_report(self) -> Report:
            report = super().next_report()
            calls.append(report.update)
            return report

    monkeypatch.setattr(inprocess, "RunningTrial", Observed)
    outcome = carry_out(cut, trials=2)
    assert not outcome.interrupted
    assert len(calls) == 8 - n, "an interrupted trial goes on from its checkpoint"
    expected, got = study_of(straight), study_of(cut)
    assert [trial.params for trial in got] == [trial.params for trial in expected]
    assert [trial.value for trial in got] == [trial.value for trial in expected]
    assert [trial.intermediate_values for trial in got] == [trial.intermediate_values for trial in expected]
    assert_equal_values(cut)


def test_checkpoints_lie_in_the_running_trials_directory_only(
    new_run: NewRun, carry_out: CarryOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(pruner="none")
    carry_out(run, trials=2, stop=StopAfter(monkeypatch, 7).signal)
    found = {path.relative_to(run.path).as_posix() for path in run.path.rglob("checkpoint-*.json")}
    assert found == {"trials/00001/checkpoint-00000020.json", "trials/00001/checkpoint-00000030.json"}


def test_a_store_that_missed_everything_is_filled_later(
    new_run: NewRun, carry_out: CarryOut, isolated: Path, mlflow_template: Path
) -> None:
    run = new_run()
    carry_out(run, trials=2)
    (isolated / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    carry_out(run, trials=2)
    assert_equal_values(run)


def test_two_searches_share_an_experiment_and_not_a_run(new_run: NewRun, carry_out: CarryOut) -> None:
    one, two = new_run(), new_run(seed=1)
    for run in (one, two):
        carry_out(run, trials=1)
    stores = [assert_equal_values(run) for run in (one, two)]
    assert stores[0].experiments == ["d3tune/hanzi-0"]
    assert stores[1].parents[0].info.run_name == "gan-s1"
    assert stores[0].parents[0].info.run_id != stores[1].parents[0].info.run_id


def test_a_damaged_or_foreign_summary_is_left_out(new_run: NewRun, isolated: Path) -> None:
    from d3tune.results.leaderboard import best_run, leaderboard_rows

    for index, text in enumerate(["{", "[]", "{}", "null", '{"test": {}, "selection": {}}']):
        folder = isolated / "runs" / f"r{index}"
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(text, encoding="utf-8")
    assert leaderboard_rows() == []
    assert best_run("hanzi", "gan") is None


def test_a_search_in_which_every_generator_collapses_has_no_winner(
    new_run: Callable[..., RunDirectory], carry_out: Callable[..., Outcome]
) -> None:
    run = new_run(
        {"generator_lr": 1e-9, "anchor": "none", "heads": "[softmax]", "cls_weight": 0, "label_weight": 0},
        warm_start=("none",),
    )
    with pytest.raises(NoUsableTrialError, match=r"2 of 2 failed, most often with: collapsed: mean T1"):
        carry_out(run, trials=2)

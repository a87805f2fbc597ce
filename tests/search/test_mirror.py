"""The mirror over a real store, whatever the store refuses meanwhile: nothing twice, nothing closed too early."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from d3tune.config import SearchConfig
from d3tune.search import following, mirrored, shown, tracking
from d3tune.search.batches import METRICS_PER_BATCH
from d3tune.search.executor import StopSignal
from d3tune.search.mirrored import mirror_faults
from d3tune.search.reports import Report
from d3tune.search.run import RunDirectory
from d3tune.search.search import Outcome
from d3tune.search.study import Ledger
from d3tune.search.tracking import Mirror

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

Open = Callable[..., Ledger]
MakeReport = Callable[[int, float], Report]
STEPS = (10, 20, 30, 40)
SEARCH = SearchConfig(dataset="toy", dataset_hash="0", semantics="att10", features="res101", backbone="gan")
UID = "0123"
RUN = RunDirectory(Path("run"), UID, "run", "", SEARCH, Path("toy"), {})


@pytest.fixture
def store(mlflow_template: Path, tmp_path: Path, isolated: Path) -> str:
    """A store of this test's own."""
    (tmp_path / "store.db").write_bytes(mlflow_template.read_bytes())
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is tried again at once."""
    monkeypatch.setattr(following, "RETRY_SECONDS", 0.01)


def mirror(store: str, ledger: Ledger) -> Mirror:
    """As a process that has just started makes it."""
    return Mirror(store, ledger, RUN)


def train(ledger: Ledger, reports: list[Report], complete: bool = True) -> int:
    assignment = ledger.next_trial(100)
    assert assignment is not None
    for item in reports:
        assert not ledger.report(assignment.number, item)
    if complete:
        ledger.complete(assignment.number)
    return assignment.number


def train_many(ledger: Ledger, report: MakeReport, count: int) -> None:
    for _ in range(count):
        train(ledger, [report(step, 0.5) for step in STEPS])


def faults(store: str, ledger: Ledger, settled: bool = True) -> list[str]:
    return [str(fault) for fault in mirror_faults(store, RUN, ledger.trials(), settled=settled, closed=True)]


def runs(store: str) -> list[Any]:
    client = MlflowClient(store)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(ids, f"tags.`{shown.RUN_TAG}` = '{UID}'", max_results=1000))


def child(store: str, number: int) -> Any:
    (found,) = (run for run in runs(store) if run.data.tags.get(shown.TRIAL_TAG) == str(number))
    return found


def parent(store: str) -> Any:
    (found,) = (run for run in runs(store) if shown.TRIAL_TAG not in run.data.tags)
    return found


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, refused: Callable[[int], bool]) -> list[int]:
    """Let MLflow's client refuse some calls, counted from 1; returns how many there were."""
    do, calls = getattr(MlflowClient, name), [0]

    def limited(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if refused(calls[0]):
            raise ConnectionError("refused")
        return do(*arguments, **options)

    monkeypatch.setattr(MlflowClient, name, limited)
    return calls


def slow(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[int]:
    """A store that takes so long for the run of a trial; returns those begun."""
    make, begun = MlflowClient.create_run, list[int]()

    def late(*arguments: Any, **options: Any) -> Any:
        if "tags" not in options:
            begun.append(len(begun))
            time.sleep(seconds)
        return make(*arguments, **options)

    monkeypatch.setattr(MlflowClient, "create_run", late)
    return begun


def settle() -> None:
    """Wait until whoever was given up has noticed it."""
    for thread in threading.enumerate():
        if thread.name == "completing":
            thread.join(60)
            assert not thread.is_alive(), "it goes on although nobody waits"


@pytest.mark.parametrize("refused", [{1}, {1, 2, 3}, {2}])
def test_what_is_refused_at_the_end_is_tried_again(
    refused: set[int], store: str, open_ledger: Open, report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(pruner="none")
    train(ledger, [report(step, 0.5) for step in STEPS])
    refuse(monkeypatch, "log_batch", lambda call: call in refused)
    assert mirror(store, ledger).finish("done", {"val/H": 0.5}, patience=100) is None
    assert faults(store, ledger) == []
    assert parent(store).info.status == "FINISHED"
    assert parent(store).data.metrics == {"val/H": 0.5}


def test_it_is_given_up_when_patience_is_over_and_the_reason_is_told(
    store: str, open_ledger: Open, report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(pruner="none")
    train(ledger, [report(step, 0.5) for step in STEPS])
    calls = refuse(monkeypatch, "create_run", lambda call: True)
    assert mirror(store, ledger).finish("done", {}, patience=2.0) == "refused"
    assert calls[0] > 1
    settle()


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_a_thread_that_waits_for_a_server_is_left_behind(silent: str, open_ledger: Open) -> None:
    waiting = mirror(silent, open_ledger())
    waiting.start()
    assert waiting.finish("done", {}, patience=0.1) == "no answer within 0.1 s"


def test_a_search_that_is_interrupted_waits_less_for_a_server(
    silent: str, toy_run: Callable[..., RunDirectory], carry_out: Callable[..., Outcome]
) -> None:
    run, said = toy_run(), list[str]()
    outcome = carry_out(run, stop=StopSignal(requested=True), tracking_uri=silent, said=said)
    assert outcome.interrupted
    assert not outcome.mirrored
    (line,) = (line for line in said if "is not complete" in line)
    assert line.startswith(f"MLflow at {silent} is not complete (no answer within 5 s); ")


def test_a_store_that_is_behind_is_waited_for_while_it_takes_what_is_written(
    store: str, open_ledger: Open, report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "SILENT_SECONDS", 0.0)
    ledger, said = open_ledger(pruner="none"), list[str]()
    train_many(ledger, report, 8)
    slow(monkeypatch, 0.6)
    # eight of these are more than patience, and one is less
    assert Mirror(store, ledger, RUN, said.append).finish("done", {}, patience=4.0) is None
    assert faults(store, ledger) == []
    assert said == [f"MLflow at {store} is behind and is being completed; Ctrl-C leaves the rest for later"]


def test_who_asks_to_stop_waits_no_longer_for_a_store_that_is_behind(
    store: str, open_ledger: Open, report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "HURRIED_SECONDS", 0.5)
    ledger = open_ledger(pruner="none")
    train_many(ledger, report, 8)
    with monkeypatch.context() as context:
        begun = slow(context, 0.5)
        # the first is there
        missed = mirror(store, ledger).finish("interrupted", {}, 60.0, hurry=lambda: 60.0 if len(begun) > 1 else None)
        assert missed == "it was behind, and not waited for"
        settle()
    assert len(runs(store)) < 1 + 8
    assert mirror(store, ledger).finish("done", {}) is None
    assert faults(store, ledger) == []


def test_a_trial_that_runs_does_not_keep_the_end_from_giving_up(
    store: str, open_ledger: Open, report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(pruner="none")
    train(ledger, [report(STEPS[0], 0.5)], complete=False)
    train(ledger, [report(step, 0.5) for step in STEPS])
    held = mirror(store, ledger)
    held.sync()
    train(ledger, [report(step, 0.5) for step in STEPS])
    refuse(monkeypatch, "create_run", lambda call: True)
    assert held.finish("interrupted", {}, patience=1.0) == "refused"
    settle()


def test_at_the_end_a_store_that_is_behind_gets_what_trials_that_run_have_reported(
    store: str, open_ledger: Open, report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(pruner="none")
    train(ledger, [report(STEPS[0], 0.5)], complete=False)
    held = mirror(store, ledger)
    held.sync()
    monkeypatch.setattr(tracking, "SYNC_SECONDS", 0.0)
    held.sync()
    assert not ledger.report(0, report(STEPS[1], 0.6))
    train(ledger, [report(STEPS[0], 0.4)], complete=False)
    held.sync()
    assert held.finish("interrupted", {}) is None
    assert child(store, 0).data.metrics["val/H"] == 0.6
    assert child(store, 1).data.metrics["val/H"] == 0.4
    assert child(store, 1).info.status == "KILLED"


def test_of_a_study_with_more_trials_than_curves_are_compared_of_each_last_value_is(
    store: str, open_ledger: Open, report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrored, "CURVES", 2)
    ledger = open_ledger(pruner="none")
    train_many(ledger, report, 4)
    assert mirror(store, ledger).finish("done", {}) is None
    assert faults(store, ledger) == []
    client = MlflowClient(store)
    for number in (1, 2):
        client.log_metric(child(store, number).info.run_id, "val/H", 0.9, step=STEPS[0])
    # of trial 1 only the last value counts, which is that of the last update
    assert [line.partition(";")[0] for line in faults(store, ledger)] == [
        "trial 2: MLflow has a step of val/H twice",
        "trial 2: MLflow's val/H is not the study's",
    ]
    client.log_metric(child(store, 1).info.run_id, "val/H", 0.9, step=STEPS[-1] + 1)
    assert faults(store, ledger)[0].startswith("trial 1: MLflow's val/H is not the study's")


def test_a_slow_opening_is_waited_for(
    store: str, open_ledger: Open, report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(pruner="none")
    train(ledger, [report(step, 0.5) for step in STEPS])
    make = tracking.create_store

    def slowly(uri: str) -> None:
        time.sleep(3.0)
        make(uri)

    monkeypatch.setattr(tracking, "create_store", slowly)
    assert mirror(store, ledger).finish("done", {}, patience=2.0) is None
    assert faults(store, ledger) == []


def test_what_breaks_in_no_usual_way_is_told_too(
    store: str, open_ledger: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(*arguments: Any, **options: Any) -> Any:
        raise SystemExit("a library ends the process")

    monkeypatch.setattr(MlflowClient, "create_run", leave)
    assert mirror(store, open_ledger()).finish("done", {}, patience=1.0) == "a library ends the process"
    settle()


def test_who_interrupts_the_wait_is_the_last_to_be_written_for(
    store: str, open_ledger: Open, report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(pruner="none")
    train_many(ledger, report, 6)
    with monkeypatch.context() as context:
        begun = slow(context, 0.5)

        def hurry() -> float | None:
            if len(begun) > 1:
                raise KeyboardInterrupt
            return None

        with pytest.raises(KeyboardInterrupt):
            mirror(store, ledger).finish("done", {}, hurry=hurry)
        settle()
    assert len(runs(store)) < 1 + 6
    assert parent(store).info.status == "RUNNING"


def test_of_a_trial_that_runs_a_store_that_is_behind_gets_nothing_before_its_end(
    store: str, open_ledger: Open, report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(pruner="none")
    train(ledger, [report(STEPS[0], 0.5)], complete=False)
    held = mirror(store, ledger)
    held.sync()
    assert child(store, 0).data.metrics["val/H"] == 0.5
    # every pass takes too long
    monkeypatch.setattr(tracking, "SYNC_SECONDS", 0.0)
    held.sync()
    assert not ledger.report(0, report(STEPS[1], 0.6))
    held.sync()
    assert child(store, 0).data.metrics["val/H"] == 0.5
    ledger.complete(0)
    held.sync()
    assert child(store, 0).data.metrics["val/H"] == 0.6
    assert held.finish("done", {}) is None
    assert faults(store, ledger) == []


def test_runs_are_found_again_on_whichever_page_they_are(
    store: str, open_ledger: Open, report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = MlflowClient.search_runs
    pages = list[int]()

    def short(*arguments: Any, max_results: int, **options: Any) -> Any:
        page = search(*arguments, max_results=min(max_results, 2), **options)
        pages.append(len(page))
        return page

    ledger = open_ledger(pruner="none")
    train_many(ledger, report, 4)
    train(ledger, [report(10, 0.5)], complete=False)
    assert mirror(store, ledger).finish("interrupted", {}) is None
    before = {run.info.run_id for run in runs(store)}
    assert len(before) == 1 + 5
    with monkeypatch.context() as context:
        context.setattr(MlflowClient, "search_runs", short)
        assert mirror(store, ledger).finish("interrupted", {}) is None
        assert pages == [2, 2, 2]
        assert faults(store, ledger, settled=False) == []
        ledger.fail(4, "so that all is settled")
        assert mirror(store, ledger).finish("done", {}) is None
        assert faults(store, ledger) == []
    assert {run.info.run_id for run in runs(store)} == before


def test_a_trial_is_closed_after_all_of_it_is_written_and_what_was_refused_is_written_once(
    store: str, open_ledger: Open, report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one batch, of which the second is refused: a later process takes what is closed for finished."""
    n = METRICS_PER_BATCH // 3
    ledger = open_ledger(pruner="none")
    plain = [report(step, step / 100) for step in STEPS]
    extra = {f"loss/part{index}": 0.5 for index in range(n)}
    number = train(ledger, [Report(r.update, r.value, r.head, {**r.metrics, **extra}, r.seconds) for r in plain])
    with monkeypatch.context() as context:
        # the parent's batch is the first
        refuse(context, "log_batch", lambda call: call == 3)
        with pytest.raises(ConnectionError):
            mirror(store, ledger).sync()
    half = child(store, number)
    assert len(half.data.metrics) > 0
    assert half.info.status == "RUNNING"
    assert mirror(store, ledger).finish("done", {}) is None
    assert child(store, number).info.status == "FINISHED"
    assert faults(store, ledger) == []


def test_a_run_that_goes_on_is_running_again(store: str, open_ledger: Open, report: MakeReport) -> None:
    ledger = open_ledger(pruner="none")
    number = train(ledger, [report(10, 0.5)], complete=False)
    assert mirror(store, ledger).finish("interrupted", {}) is None
    assert [child(store, number).info.status, parent(store).info.status] == ["KILLED", "KILLED"]
    assert child(store, number).data.tags[shown.STATE_TAG] == "INTERRUPTED"
    again = open_ledger(pruner="none")
    mirror(store, again).sync()
    assert [child(store, number).info.status, parent(store).info.status] == ["RUNNING", "RUNNING"]

"""A store that is behind is written by another process: with all of it, whatever becomes of that process."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from d3tune.config import SearchConfig
from d3tune.search import tracking, writer
from d3tune.search.executor.processes import alive, descendants
from d3tune.search.mirrored import mirror_faults
from d3tune.search.reports import Report
from d3tune.search.run import RunDirectory
from d3tune.search.study import Ledger
from d3tune.search.tracking import Mirror
from d3tune.search.writer import Part, Writer, WriterEndedError

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

MakeReport = Callable[[int, float], Report]
STEPS = (10, 20, 30, 40)
SEARCH = SearchConfig(dataset="toy", dataset_hash="0", semantics="att10", features="res101", backbone="gan")
RUN = RunDirectory(Path("run"), "0123", "run", "", SEARCH, Path("toy"), {})
PART = Part(None, "0", "gan-t000", {"tag": "said"}, 5, 7, [("val/H", 0.5, 10)], {"lr": "0.1"}, {"end": "ü"}, "FINISHED")
PARENT = """
import sys
from d3tune.search.writer import Writer
held = Writer(sys.argv[1])
print(held._process.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def store(mlflow_template: Path, tmp_path: Path, isolated: Path) -> str:
    """A store of this test's own."""
    (tmp_path / "store.db").write_bytes(mlflow_template.read_bytes())
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass takes too long, and there is another core."""
    monkeypatch.setattr(tracking, "SYNC_SECONDS", 0.0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


def train(ledger: Ledger, report: MakeReport, updates: tuple[int, ...] = STEPS) -> int:
    assignment = ledger.next_trial(100)
    assert assignment is not None
    for update in updates:
        assert not ledger.report(assignment.number, report(update, update / 100))
    if updates[-1] == STEPS[-1]:
        ledger.complete(assignment.number)
    return assignment.number


def writers() -> list[int]:
    return [pid for pid, command in descendants(os.getpid()).items() if writer.__name__ in command]


def faults(store: str, ledger: Ledger) -> list[str]:
    return [str(fault) for fault in mirror_faults(store, RUN, ledger.trials(), settled=True, closed=True)]


@pytest.mark.usefixtures("behind")
@pytest.mark.parametrize("killed", [False, True])
def test_a_store_that_is_behind_gets_everything(
    killed: bool, store: str, open_ledger: Callable[..., Ledger], report: MakeReport
) -> None:
    ledger = open_ledger(pruner="none")
    # begun here, ended there
    number = train(ledger, report, STEPS[:1])
    held = Mirror(store, ledger, RUN)
    held.sync()
    assert writers() == []
    for update in STEPS[1:]:
        assert not ledger.report(number, report(update, 0.5))
    ledger.complete(number)
    train(ledger, report)
    held.sync()
    (other,) = writers()
    train(ledger, report)
    if killed:
        os.kill(other, signal.SIGKILL)
        with pytest.raises(WriterEndedError):
            held.sync()
    assert held.finish("done", {}) is None
    assert faults(store, ledger) == []
    assert writers() == []


@pytest.mark.usefixtures("behind")
@pytest.mark.parametrize("refused", ["a process", "a store"])
def test_where_no_process_can_be_started_all_is_written_here(
    refused: str, store: str, open_ledger: Callable[..., Ledger], report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(pruner="none")
    if refused == "a process":
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
    else:
        monkeypatch.setattr(tracking, "Writer", lambda uri: Writer(f"sqlite:///{Path(__file__)}"))
    held = Mirror(store, ledger, RUN)
    held.sync()
    train(ledger, report)
    assert held.finish("done", {}) is None
    assert faults(store, ledger) == []


def test_it_writes_what_mlflow_s_client_here_writes(store: str) -> None:
    client, held = MlflowClient(store), Writer(store)
    try:
        there = client.get_run(held.write(PART))
    finally:
        held.close()
    here = client.get_run(writer.write(client, PART))
    assert there.data.to_dictionary() == here.data.to_dictionary()
    assert there.data.tags["end"] == "ü"
    for name in ("status", "start_time", "end_time", "run_name"):
        assert getattr(there.info, name) == getattr(here.info, name)


def test_what_a_store_refuses_is_told_as_the_store_says_it(store: str) -> None:
    held = Writer(store)
    try:
        with pytest.raises(ConnectionError, match="No Experiment with id=77 exists"):
            held.write(Part(None, "77", "gan-t000", {}, None, None, [], {}, {}, None))
        assert MlflowClient(store).get_run(held.write(PART)).info.status == "FINISHED"
    finally:
        held.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
def test_it_ends_in_the_middle_of_a_write_with_the_process_that_asked(
    store: str, commands: Any, tmp_path: Path
) -> None:
    """One that went on might meet its successor: a trial would be there twice."""
    ask = f"{PARENT}held._process.stdin.write(sys.argv[2] + chr(10)); held._process.stdin.flush(); print(flush=True)\n"
    asked = subprocess.Popen(
        [sys.executable, "-c", ask + "import time; time.sleep(1e6)", store, writer.json.dumps(writer.asdict(PART))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert asked.stdin is not None
    assert asked.stdout is not None
    other = int(asked.stdout.readline())
    with closing(sqlite3.connect(tmp_path / "store.db")) as connection:
        connection.execute("BEGIN IMMEDIATE")
        asked.stdin.close()
        assert asked.stdout.readline() == "\n"
        assert alive(other)
        asked.kill()
        asked.wait()
        asked.stdout.close()
        commands.until(lambda: not alive(other), "the writer's end")
    assert len(MlflowClient(store).search_runs(["0"])) == 0

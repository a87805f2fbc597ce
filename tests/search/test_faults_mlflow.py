"""An MLflow that fails: the search does not mind, says so once, and what was missed is written later."""

import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from d3tune.search import following
from d3tune.search.invariants import run_faults
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
PATIENCE = 240.0
BUSY = "busy_timeout = 50"
PROGRAM = (sys.executable, "-c", "from d3tune.cli import main; main()")
TRIALS, REPORTS = 2, 8
LOCAL = ("--executor", "local", "--pruner", "none", "--trials", str(TRIALS), "--confirm-seeds", "1")


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for something that is bound to happen."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited in vain for {what}")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror that tries again soon and gives up early, of a store that does not wait for 20 s where it is locked."""
    finish, text = Mirror.finish, sqlalchemy.sql.text

    def soon(
        self: Mirror, state: str, metrics: Any, artifacts: Any = (), patience: float = 1.0, *rest: Any, **further: Any
    ) -> str | None:
        return finish(self, state, metrics, artifacts, min(patience, 1.0), *rest, **further)

    monkeypatch.setattr(Mirror, "finish", soon)
    monkeypatch.setattr(sqlalchemy.sql, "text", lambda words: text(words.replace("busy_timeout = 20000", BUSY)))
    monkeypatch.setattr(following, "SYNC_SECONDS", 0.05)
    monkeypatch.setattr(following, "RETRY_SECONDS", 0.05)


@pytest.fixture
def impatient_uri(isolated: Path) -> str:
    """The store of this home; who opens it while it is locked gives up at once, not after 5 s."""
    return f"{default_uri()}?timeout=0.05"


class Lock:
    """Another connection's exclusive lock of the store."""

    def __init__(self, home: Path) -> None:
        self.connection = sqlite3.connect(home / "mlflow.db", timeout=PATIENCE, isolation_level=None)

    def take(self) -> None:
        self.connection.execute("BEGIN EXCLUSIVE")

    def release(self) -> None:
        self.connection.execute("ROLLBACK")


@pytest.fixture
def lock(isolated: Path) -> Iterator[Callable[[], Lock]]:
    taken: list[Lock] = []

    def make() -> Lock:
        taken.append(Lock(isolated))
        return taken[-1]

    yield make
    for item in taken:
        item.connection.close()


@pytest.fixture(scope="module")
def found() -> list[Any]:
    """What an undisturbed search found and confirmed, for all tests."""
    return []


@pytest.fixture
def straight(found: list[Any], toy_run: ToyRun, carry_out: CarryOut, record: Record) -> list[Any]:
    """What an undisturbed search finds and confirms."""
    if not found:
        run = toy_run(run_dir=Path("straight"), pruner="none")
        carry_out(run, trials=TRIALS, confirm_seeds=1)
        found += [record(run), confirmed(run)]
    return found


def confirmed(run: RunDirectory) -> Any:
    summary = run.read_summary() or {}
    return summary["state"], summary["winner"], summary["selection"], summary["test"]


@pytest.mark.parametrize("seconds", [0.0, pytest.param(30.0, marks=pytest.mark.fault)])
@pytest.mark.parametrize("begin", ["before the search", "at the second report"])
def test_a_locked_store_is_said_once_and_filled_when_it_is_free(
    begin: str,
    seconds: float,
    straight: list[Any],
    hasty: None,
    impatient_uri: str,
    lock: Callable[[], Lock],
    toy_run: ToyRun,
    carry_out: CarryOut,
    on_report: OnReport,
    sound: Sound,
    record: Record,
) -> None:
    run, said = toy_run(pruner="none"), list[str]()
    held = lock()
    if begin == "before the search":
        held.take()

    def at(n: int, _: Report) -> None:
        if n == 2 and begin != "before the search":
            held.take()
        if n == 5:
            until(lambda: any("takes nothing now" in line for line in said), "word that the store is locked")
            time.sleep(seconds)
            held.release()
            until(lambda: any("answers again" in line for line in said), "word that it is not")

    on_report(at)
    outcome = carry_out(run, trials=TRIALS, confirm_seeds=1, said=said, tracking_uri=impatient_uri)
    assert outcome.mirrored
    told = [line for line in said if line.startswith("MLflow")]
    locked = f"MLflow at {impatient_uri} takes nothing now (database is locked); the search goes on without it"
    assert told == [locked, f"MLflow at {impatient_uri} answers again and has everything"]
    sound(run, TRIALS)
    assert [record(run), confirmed(run)] == straight


def test_a_store_that_stays_locked_is_filled_by_sync(
    straight: list[Any],
    hasty: None,
    impatient_uri: str,
    lock: Callable[[], Lock],
    toy_run: ToyRun,
    toy_options: Options,
    command: Command,
    on_report: OnReport,
    sound: Sound,
    record: Record,
) -> None:
    toy_run()
    held = lock()
    on_report(lambda n, _: held.take() if n == 2 else None)
    end = command("search", *toy_options(), *LOCAL, "--run-dir", "run", "--tracking-uri", impatient_uri)
    assert end.code == 0, end.err
    run = open_run("run")
    last = end.err.splitlines()[-1]
    assert last.startswith(f"MLflow at {impatient_uri} is not complete (")
    assert last.endswith(f"; write the rest with: d3tune sync {run.path}")
    assert sum("MLflow at" in line for line in end.err.splitlines()) <= 2
    assert "Traceback" not in end.err
    assert run_faults(run) == []
    assert [record(run), confirmed(run)] == straight
    still = command("sync", "run")
    assert still.code == 1
    assert still.err.count("\n") == 1
    held.release()
    assert command("sync", "run").code == 0
    sound(run, TRIALS)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def test_a_server_that_is_down_costs_the_search_nothing(
    straight: list[Any],
    hasty: None,
    toy_run: ToyRun,
    toy_options: Options,
    command: Command,
    sound: Sound,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    toy_run()
    uri = f"http://127.0.0.1:{free_port()}"
    end = command("search", *toy_options(), *LOCAL, "--run-dir", "run", "--tracking-uri", uri)
    assert end.code == 0, end.err
    run = open_run("run")
    told = [line for line in end.err.splitlines() if line.startswith("MLflow")]
    assert len(told) <= 2
    assert told[-1].startswith(f"MLflow at {uri} is not complete (")
    assert told[-1].endswith(f"; write the rest with: d3tune sync {run.path}")
    assert uri not in end.out
    assert run_faults(run) == []
    assert [record(run), confirmed(run)] == straight
    # whoever has no server writes to the store of the home
    assert command("sync", "run", "--tracking-uri", default_uri()).code == 0
    sound(run, TRIALS)


@pytest.mark.parametrize("call", [1, 2])
def test_a_run_whose_creation_was_not_confirmed_is_found_again(
    call: int,
    straight: list[Any],
    hasty: None,
    toy_run: ToyRun,
    carry_out: CarryOut,
    sound: Sound,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store has it although the answer was lost: the parent, or a trial's."""
    from mlflow import MlflowClient

    create, calls = MlflowClient.create_run, [0]

    def lost(self: Any, *arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        run = create(self, *arguments, **options)
        if calls[0] == call:
            raise ConnectionError("database is locked")
        return run

    monkeypatch.setattr(MlflowClient, "create_run", lost)
    run = toy_run(pruner="none")
    assert carry_out(run, trials=TRIALS).mirrored
    assert calls[0] == 1 + TRIALS
    sound(run, TRIALS)


def test_a_file_that_is_no_store_is_refused_and_left_alone(
    toy_options: Options, command: Command, tmp_path: Path, toy_run: ToyRun
) -> None:
    toy_run()
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"no database at all " * 500)
    end = command("search", *toy_options(), *LOCAL, "--run-dir", "run", "--tracking-uri", f"sqlite:///{garbage}")
    assert end.code == 2
    last = end.err.splitlines()[-1]
    assert last.startswith(f"d3tune: --tracking-uri sqlite:///{garbage}: not an MLflow store: ")
    assert "Traceback" not in end.err
    assert garbage.read_bytes() == b"no database at all " * 500

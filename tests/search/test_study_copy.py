"""A copy of the study in a database: SQLite and a real PostgreSQL, read by Optuna itself."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from d3tune.errors import UsageError
from d3tune.search.executor import StopSignal
from d3tune.search.run import RunDirectory
from d3tune.search.search import Outcome
from d3tune.search.study import read_trials
from d3tune.search.study_copy import copy_name, study_url

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

ToyRun = Callable[..., RunDirectory]
CarryOut = Callable[..., Outcome]


def copied(url: str, run: RunDirectory) -> list[Any]:
    """What Optuna reads of a run's copy, as `studied` gives the study's own."""
    storage = optuna.storages.RDBStorage(url)
    try:
        study = optuna.load_study(study_name=copy_name(run), storage=storage)
        return [record(trial) for trial in study.get_trials()]
    finally:
        storage.remove_session()
        storage.engine.dispose()


def studied(run: RunDirectory) -> list[Any]:
    return [record(trial) for trial in read_trials(run.journal)]


def record(trial: optuna.trial.FrozenTrial) -> tuple[Any, ...]:
    shown = {key: value for key, value in trial.user_attrs.items() if not key.startswith("report:")}
    return (trial.number, trial.state, trial.params, trial.values, trial.intermediate_values, shown)


def test_the_copy_is_the_study(toy_run: ToyRun, carry_out: CarryOut, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    first, second = toy_run(run_dir=tmp_path / "first"), toy_run(run_dir=tmp_path / "second", seed=3)
    assert carry_out(first, trials=3, study_url=url).mirrored
    assert carry_out(second, trials=2, study_url=url).mirrored
    assert copied(url, first) == studied(first)
    assert copied(url, second) == studied(second)
    assert len(copied(url, first)) == 3


def test_what_was_interrupted_goes_on_in_the_copy(
    toy_run: ToyRun, carry_out: CarryOut, on_report: Any, tmp_path: Path
) -> None:
    url, run, stop = f"sqlite:///{tmp_path / 'studies.db'}", toy_run(pruner="none"), StopSignal()

    def stop_at_the_sixth(made: int, report: object) -> None:
        stop.requested = stop.requested or made == 6

    on_report(stop_at_the_sixth)
    carry_out(run, trials=3, study_url=url, stop=stop)
    before = copied(url, run)
    assert [row[1] for row in before] == [TrialState.COMPLETE, TrialState.RUNNING]
    assert before == studied(run)
    carry_out(run, trials=3, study_url=url)
    assert [row[1] for row in copied(url, run)] == [TrialState.COMPLETE] * 3
    assert copied(url, run) == studied(run)


def test_a_copy_that_differs_is_written_anew(toy_run: ToyRun, carry_out: CarryOut, tmp_path: Path) -> None:
    url, run = f"sqlite:///{tmp_path / 'studies.db'}", toy_run()
    storage = optuna.storages.RDBStorage(url)
    optuna.create_study(study_name=copy_name(run), storage=storage, direction="maximize").add_trial(
        optuna.trial.create_trial(value=0.99)
    )
    storage.remove_session()
    storage.engine.dispose()
    carry_out(run, trials=2, study_url=url)
    assert copied(url, run) == studied(run)


def test_sync_writes_the_copy_and_resume_remembers_it(
    command: Callable[..., Any], toy_options: Callable[..., Any], tmp_path: Path
) -> None:
    short = ("--trials", "1", "--confirm-seeds", "0", "--executor", "local", "--run-dir", tmp_path / "run")
    assert command("search", *toy_options(), *short).code == 0
    end = command("sync", tmp_path / "run", "--study-url", "sqlite:///studies.db")
    assert end.code == 0, end.err
    from d3tune.search.run import open_run

    run, url = open_run(str(tmp_path / "run")), f"sqlite:///{Path('studies.db').absolute()}"
    assert copy_name(run) in end.err
    assert copied(url, run) == studied(run)
    assert command("resume", tmp_path / "run", "--trials", "2", "--study-url", "sqlite:///studies.db").code == 0
    assert command("resume", tmp_path / "run", "--trials", "3").code == 0
    assert len(copied(url, run)) == 3
    assert command("resume", tmp_path / "run", "--trials", "4", "--study-url", "none").code == 0
    assert len(copied(url, run)) == 3


def test_a_database_that_cannot_be_used_is_refused(
    command: Callable[..., Any], toy_options: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "no.db").write_bytes(b"no database at all, but long enough to be taken for one" * 20)
    short = ("--trials", "1", "--confirm-seeds", "0", "--executor", "local", "--run-dir", tmp_path / "run")
    for url, words in (
        ("redis://host", "'redis' is no database that Optuna writes"),
        (f"sqlite:///{tmp_path}/none/x.db", "there is no folder"),
        ("sqlite://", "is sqlite:///FILE"),
        ("postgresql+nodriver://host/db", "its driver 'nodriver' is not installed"),
        (f"sqlite:///{tmp_path}/no.db", "not a database of Optuna's"),
    ):
        end = command("search", *toy_options(), *short, "--study-url", url)
        assert end.code == 2, (url, end.err)
        last = end.err.strip().splitlines()[-1]
        assert last.startswith(f"d3tune: --study-url {url}: "), last
        assert words in last


def test_mlflow_and_the_copy_need_databases_of_their_own() -> None:
    with pytest.raises(UsageError, match="MLflow's store is there"):
        study_url("postgresql+psycopg://me:one@127.0.0.1/shared", "postgresql+psycopg://you@localhost:5432/shared")
    assert study_url("postgresql+psycopg://me@localhost/a", "postgresql+psycopg://me@localhost/b")
    assert study_url(None, "sqlite:///x.db") is None


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A PostgreSQL of the test's own on a port of 127.0.0.1: its address, without a database."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = str(found[-1]) if found else shutil.which("initdb")
    if initdb is None:
        pytest.skip("PostgreSQL is not installed")
    # it refuses to run as root
    user: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="d3tune-postgres-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        if user:
            shutil.chown(folder, "postgres", "postgres")
        options = {"cwd": folder, "check": True, "stdout": subprocess.DEVNULL, "timeout": 120, **user}
        subprocess.run([initdb, "-D", folder / "data", "-U", "d3tune", "-A", "trust", "-N"], **options)
        control = [str(Path(initdb).with_name("pg_ctl")), "-D", str(folder / "data"), "-w"]
        server = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        subprocess.run([*control, "-l", folder / "log", "-o", server, "start"], **options)
        try:
            yield f"postgresql://d3tune@127.0.0.1:{port}"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def made(postgres: str) -> str:
    """The address of a new, empty database."""
    import psycopg

    name = f"d{secrets.token_hex(4)}"
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return f"{postgres}/{name}"


@contextmanager
def served(database: str, folder: Path) -> Iterator[str]:
    """The address of an MLflow server in front of a database."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", database, "--artifacts-destination", str(folder / "served")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    uri, end = f"http://127.0.0.1:{port}", time.monotonic() + 240
    try:
        while True:
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=5).close()  # noqa: S310 - a server of the test's own
                break
            except OSError:
                said = (folder / "server.log").read_text(encoding="utf-8", errors="replace")
                assert process.poll() is None, said
                assert time.monotonic() < end, said
                time.sleep(0.2)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize(
    "behind_a_server", [False, pytest.param(True, marks=pytest.mark.cluster)], ids=["database", "server"]
)
def test_two_searches_at_once_share_empty_databases_of_postgresql(
    postgres: str,
    toy_options: Callable[..., tuple[str, ...]],
    home: Path,
    tmp_path: Path,
    behind_a_server: bool,
) -> None:
    studies, store = made(postgres), made(postgres)
    with served(study_url(store, "") or "", tmp_path) if behind_a_server else nullcontext(store) as uri:
        search_twice(toy_options(), studies, uri, tmp_path)


def search_twice(toy: Sequence[str], studies: str, store: str, tmp_path: Path) -> None:
    """Two searches as processes of their own at the same time, and whether both stores have both of them."""
    shared = ("--study-url", studies, "--tracking-uri", store, "--trials", "4", "--confirm-seeds", "1")
    command = [
        sys.executable,
        "-c",
        "from d3tune.cli import main; main()",
        "search",
        *toy,
        "--executor",
        "local",
        *shared,
    ]
    both = [
        subprocess.Popen([*command, "--run-dir", str(tmp_path / name)], stderr=subprocess.PIPE, text=True)
        for name in ("first", "second")
    ]
    ends = [(process.communicate(timeout=300)[1], process.returncode) for process in both]
    assert [code for _, code in ends] == [0, 0], ends
    from d3tune.search.invariants import run_faults
    from d3tune.search.run import open_run

    for name, (said, _) in zip(("first", "second"), ends, strict=True):
        assert "is not complete" not in said
        run = open_run(str(tmp_path / name))
        assert len(studied(run)) == 4
        assert copied(study_url(studies, store) or "", run) == studied(run)
        assert run_faults(run, store if store.startswith("http") else study_url(store, "") or "") == []

"""MLflow's own server killed, and a disk that has no room for its store: slow, with the kernel's own means."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from d3tune.search.invariants import run_faults
from d3tune.search.reports import Report
from d3tune.search.run import RunDirectory, open_run
from d3tune.search.search import Outcome

# MLflow on SQLAlchemy 2.1
pytestmark = [pytest.mark.fault, pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")]

ToyRun = Callable[..., RunDirectory]
CarryOut = Callable[..., Outcome]
Record = Callable[[RunDirectory], list[Any]]
Command = Callable[..., Any]
Options = Callable[..., tuple[str, ...]]
OnReport = Callable[[Callable[[int, Report], None]], None]
PATIENCE = 240.0
PROGRAM = (sys.executable, "-c", "from d3tune.cli import main; main()")
TRIALS = 4
LOCAL = ("--executor", "local", "--trials", str(TRIALS), "--confirm-seeds", "1")


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for something that is bound to happen."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def answers(uri: str) -> bool:
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=5) as response:  # noqa: S310
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's server on this machine alone, with all its processes in one group."""
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *(
            "--backend-store-uri",
            f"sqlite:///{folder / 'served.db'}",
            "--artifacts-destination",
            str(folder / "served"),
        ),
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        until(lambda: answers(f"http://127.0.0.1:{port}"), "MLflow's server")
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def confirmed(run: RunDirectory) -> Any:
    summary = run.read_summary() or {}
    return summary["state"], summary["winner"], summary["selection"], summary["test"]


@pytest.fixture
def straight(toy_run: ToyRun, carry_out: CarryOut, record: Record) -> list[Any]:
    """What an undisturbed search finds and confirms."""
    run = toy_run(run_dir=Path("straight"))
    carry_out(run, trials=TRIALS, confirm_seeds=1)
    return [record(run), confirmed(run)]


def assert_not_disturbed(end: Any, uri: str, straight: list[Any], record: Record) -> RunDirectory:
    """The search ended well, said once what became of the store, and how to write the rest."""
    assert end.code == 0, end.err
    run = open_run("run")
    told = [line for line in end.err.splitlines() if line.startswith("MLflow")]
    assert 1 <= len(told) <= 2
    assert told[-1].startswith(f"MLflow at {uri} is not complete (")
    assert told[-1].endswith(f"; write the rest with: d3tune sync {run.path}")
    assert "Traceback" not in end.err
    assert run_faults(run) == []
    assert [record(run), confirmed(run)] == straight
    return run


def test_a_server_that_is_killed_and_comes_back_later_is_filled_by_sync(
    straight: list[Any], toy_options: Options, command: Command, on_report: OnReport, record: Record, tmp_path: Path
) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    with server(tmp_path, port) as process:

        def at(n: int, _: Report) -> None:
            if n == 6:
                # the mirror has begun, so that runs are half written
                until(lambda: b"d3tune/toy" in (tmp_path / "served.db").read_bytes(), "the experiment")
                kill(process)

        on_report(at)
        end = command("search", *toy_options(), *LOCAL, "--run-dir", "run", "--tracking-uri", uri)
    run = assert_not_disturbed(end, uri, straight, record)
    missed = command("sync", "run")
    assert (missed.code, missed.err.count("\n")) == (1, 1)
    with server(tmp_path, port):
        again = command("sync", "run")
        assert again.code == 0, again.err
        assert again.err == f"{TRIALS} trials of {run.name} are in MLflow at {uri}\n"
        assert run_faults(run, uri) == []
        assert command("resume", "run").code == 0
        assert run_faults(run, uri) == []


def test_a_server_that_takes_connections_and_never_answers_does_not_hold_the_search_up(
    straight: list[Any], toy_options: Options, record: Record
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        end = program("search", *toy_options(), *LOCAL, "--run-dir", "run", "--tracking-uri", uri)
    assert_not_disturbed(end, uri, straight, record)


class Ended:
    """A command that ended."""

    def __init__(self, process: "subprocess.CompletedProcess[str]") -> None:
        self.code, self.out, self.err = process.returncode, process.stdout, process.stderr


def program(*arguments: str) -> Ended:
    return Ended(subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, timeout=PATIENCE))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=755", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting is not permitted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


@pytest.mark.parametrize("begin", ["before the search", "after the first trial"])
def test_a_store_whose_disk_is_full_is_filled_when_there_is_room(
    begin: str,
    straight: list[Any],
    small_disk: Path,
    mlflow_template: Path,
    toy_options: Options,
    command: Command,
    record: Record,
) -> None:
    """In a process of its own, whose every word is seen."""
    store = small_disk / "mlflow.db"
    store.write_bytes(mlflow_template.read_bytes())
    uri = f"sqlite:///{store}"
    arguments = [*PROGRAM, "search", *toy_options(), *LOCAL, "--run-dir", "run", "--tracking-uri", uri]
    if begin == "before the search":
        fill(small_disk)
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("trial ") and begin != "before the search":
            fill(small_disk)
    out, _ = process.communicate(timeout=PATIENCE)
    end = Ended(subprocess.CompletedProcess(arguments, process.returncode, out, "".join(lines)))
    run = assert_not_disturbed(end, uri, straight, record)
    assert all(line.split()[0] in ("run", "trial", "confirming", "MLflow") for line in lines)
    (small_disk / "filler").unlink()
    again = command("sync", "run")
    assert again.code == 0, again.err
    assert run_faults(run, uri) == []

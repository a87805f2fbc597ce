"""What `d3tune doctor` calls sound, what a problem, and what it exits with."""

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from d3tune.results import store

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

Command = Callable[..., Any]


@pytest.fixture
def examined(d3tune: Command) -> Callable[..., tuple[int, dict[str, dict[str, Any]]]]:
    """``examined(*options)``: the exit code, and the findings by what they are about."""

    def run(*options: object) -> tuple[int, dict[str, dict[str, Any]]]:
        end = d3tune("doctor", "--json", *options)
        return end.code, {finding["what"]: finding for finding in json.loads(end.out)}

    return run


Examined = Callable[..., tuple[int, dict[str, dict[str, Any]]]]


def test_the_doctor_examines(d3tune: Command, isolated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end = d3tune("doctor", "--json")
    assert end.code == 0
    findings = {finding["what"]: finding for finding in json.loads(end.out)}
    assert findings["D3TUNE_HOME"]["state"] == str(isolated)
    assert not any(finding["problem"] for finding in findings.values())
    (tmp_path / "file").touch()
    monkeypatch.setenv("D3TUNE_HOME", str(tmp_path / "file"))
    end = d3tune("doctor")
    assert end.code == 1
    assert "✗" in end.out
    assert str(tmp_path / "file") in end.out


def test_an_absent_dataset_is_no_problem_but_a_broken_one_is(
    d3tune: Command, examined: Examined, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    code, findings = examined("--data-dir", data)
    assert code == 0
    assert not [what for what in findings if what.startswith("dataset ") and "hanzi" not in what]
    assert d3tune("data", "simulate", data, "--like", "apy", "--rows", "0.01").code == 0
    code, findings = examined("--data-dir", data)
    assert (code, findings["dataset apy"]["problem"]) == (0, False)

    (data / "half").mkdir()
    shutil.copy(data / "APY" / "res101.mat", data / "half")
    code, findings = examined("--data-dir", data)
    assert (code, findings["dataset half"]["problem"], findings["dataset apy"]["problem"]) == (1, True, False)
    for words in ("att_splits.mat is missing", "mend or remove", str(data / "half")):
        assert words in findings["dataset half"]["state"]
    shutil.rmtree(data / "half")

    (data / "APY" / "res101.mat").write_bytes(b"not MATLAB")
    code, findings = examined("--data-dir", data)
    assert (code, findings["dataset apy"]["problem"]) == (1, True)
    assert findings["dataset apy"]["state"].startswith(f"{data / 'APY' / 'res101.mat'}: ")
    (line,) = [line for line in d3tune("doctor", "--data-dir", data).out.splitlines() if "dataset apy" in line]
    assert line.lstrip().startswith("✗")


def test_a_dataset_behind_another_of_its_name_is_a_note(
    d3tune: Command, examined: Examined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for parent in ("one", "two"):
        assert d3tune("data", "simulate", tmp_path / parent, "--like", "apy", "--rows", "0.01").code == 0
    monkeypatch.setenv("D3TUNE_DATA", str(tmp_path / "two"))
    end = d3tune("doctor", "--data-dir", tmp_path / "one")
    assert end.code == 0
    marks = [line.split()[0] for line in end.out.splitlines() if "dataset apy" in line]
    assert marks == ["✓", "!"]
    _, findings = examined("--data-dir", tmp_path / "one")
    hidden = findings["dataset apy"]
    assert f"{tmp_path / 'two' / 'APY'}: hidden by {tmp_path / 'one' / 'APY'}" in hidden["state"]
    assert (hidden["problem"], hidden["note"]) == (False, True)


def test_a_store_that_is_no_database(examined: Examined, with_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert examined()[0] == 0
    (with_store / "mlflow.db").write_bytes(b"not a database" * 100)
    code, findings = examined()
    assert (code, findings["MLflow store"]["problem"]) == (1, True)
    for words in ("file is not a database", str(with_store / "mlflow.db"), "move it away", "d3tune sync"):
        assert words in findings["MLflow store"]["state"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{with_store / 'other.db'}")
    assert examined()[0] == 0
    assert not (with_store / "other.db").exists()


def test_a_store_of_a_wrong_address(examined: Examined, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "ftp://x")
    code, findings = examined()
    assert (code, findings["MLflow store"]["problem"]) == (1, True)
    assert findings["MLflow store"]["state"].startswith("MLFLOW_TRACKING_URI ftp://x: 'ftp' is no MLflow store; use ")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A server that takes connections and never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield silent


def test_a_server_that_is_down_or_silent(
    examined: Examined, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        code, findings = examined()
    assert (code, findings["MLflow store"]["problem"]) == (1, True)
    for words in (uri, "Connection refused", "MLFLOW_TRACKING_URI"):
        assert words in findings["MLflow store"]["state"]

    assert store.SECONDS <= 3
    monkeypatch.setattr(store, "SECONDS", 0.3)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{listener.getsockname()[1]}")
    begin = time.monotonic()
    code, findings = examined()
    assert time.monotonic() - begin < 5
    assert (code, findings["MLflow store"]["problem"]) == (1, True)
    assert "no answer within 0.3 s" in findings["MLflow store"]["state"]


class _Answers(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"experiments": []}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""


def test_a_server_that_answers(examined: Examined, monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), _Answers) as server:
        server.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            uri = f"http://127.0.0.1:{server.server_port}"
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
            code, findings = examined()
        finally:
            server.shutdown()
            thread.join()
    assert (code, findings["MLflow store"]["state"], findings["MLflow store"]["problem"]) == (0, uri, False)
    assert server.asked == ["/api/2.0/mlflow/experiments/search"]  # type: ignore[attr-defined]

"""The command line, in this process or as the real program, in a home of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from d3tune.cli import main

TINY = (
    *("--set", "updates=40", "--set", "evaluations=4", "--set", "hidden_dim=32", "--set", "embed_dim=32"),
    *("--set", "teacher_epochs=2", "--set", "head_epochs=2", "--set", "n_synthetic_final=5"),
)


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow store: creating its tables takes over a second."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own for each test, and nothing of the machine's settings."""
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("D3TUNE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("D3TUNE_DATA", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.fixture
def with_store(isolated: Path, mlflow_template: Path) -> Path:
    """The home, with an empty MLflow store in it."""
    isolated.mkdir()
    shutil.copy(mlflow_template, isolated / "mlflow.db")
    return isolated


@pytest.fixture
def d3tune(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """``d3tune("data", "list")``: the command line in this process; anything but an exit is a traceback."""

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["d3tune", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capfd.readouterr()
        code = end.value.code
        return Ended(code if isinstance(code, int) else int(bool(code)), out, err)

    return run


@pytest.fixture
def program() -> Callable[..., Ended]:
    """``program("data", "list")``: the real program in a process of its own."""

    def run(*arguments: object, **environment: str) -> Ended:
        end = subprocess.run(
            [sys.executable, "-c", "from d3tune.cli import main; main()", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, **environment},
        )
        return Ended(end.returncode, end.stdout, end.stderr)

    return run


@pytest.fixture
def tiny() -> tuple[str, ...]:
    """Options of a search whose trials take a fraction of a second."""
    return TINY

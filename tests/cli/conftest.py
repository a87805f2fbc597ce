"""The command line, in this process or as the real program, in a home of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@pytest.fixture(autouse=True)
def isolated(home: Path) -> Path:
    """A home of its own for each test."""
    return home


@pytest.fixture
def with_store(isolated: Path, mlflow_template: Path) -> Path:
    """The home, with an empty MLflow store in it."""
    isolated.mkdir()
    shutil.copy(mlflow_template, isolated / "mlflow.db")
    return isolated


@pytest.fixture
def d3tune(command: Callable[..., Any]) -> Callable[..., Any]:
    """``d3tune("data", "list")``: the command line in this process; anything but an exit is a traceback."""
    return command


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


@pytest.fixture(scope="session")
def one_search(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> tuple[Path, Path]:
    """A home and a folder in which ``d3tune search … --run-dir mine`` and ``d3tune export mine -o best.yaml`` were run.

    The search is of one small trial; a copy of the run is in the home, where the leaderboard looks.
    """
    home, work = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("work")
    shutil.copy(mlflow_template, home / "mlflow.db")
    budget = ("--executor", "local", "--trials", "1", "--confirm-seeds", "1")
    search = ("search", "--dataset", "hanzi", "--run-dir", "mine", *budget, *TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("D3TUNE_HOME", str(home))
        patch.delenv("D3TUNE_DATA", raising=False)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(work)
        for arguments in (search, ("export", "mine", "-o", "best.yaml")):
            patch.setattr(sys, "argv", ["d3tune", *arguments])
            with pytest.raises(SystemExit) as end:
                main()
            assert end.value.code == 0
    shutil.copytree(work / "mine", home / "runs" / "hanzi-gan")
    return home, work


@pytest.fixture
def searched(one_search: tuple[Path, Path], isolated: Path) -> Path:
    """A copy of `one_search` for this test alone; the current folder, with ``mine`` and ``best.yaml``."""
    home, work = one_search
    shutil.copytree(home, isolated)
    shutil.copytree(work, Path.cwd(), dirs_exist_ok=True)
    return Path.cwd()


@pytest.fixture
def tiny() -> tuple[str, ...]:
    """Options of a search whose trials take a fraction of a second."""
    return TINY

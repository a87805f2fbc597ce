"""The command line, in this process or as the real program, in a home of its own."""

import json
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

GOLDEN = Path(__file__).parents[1] / "golden" / "run-format-1"


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


@pytest.fixture
def write(isolated: Path) -> Callable[..., Path]:
    """``write("name", dataset={…}, test_H=(0.6, 0.01))``: a run as a search left it, with this changed."""

    def make(name: str, protocol: str = "test", **changes: Any) -> Path:
        path = isolated / "runs" / name
        (path / "trials").mkdir(parents=True)
        shutil.copytree(GOLDEN / "trials" / "00001", path / "trials" / "00001")
        shutil.copy(GOLDEN / "best.yaml", path)
        summary = json.loads((GOLDEN / "summary.json").read_text(encoding="utf-8"))
        summary["baselines"] = []
        if protocol == "published":
            summary["selection"] |= {"protocol": "published", "val_H": None, "published_H": 0.9}
            summary["test"]["protocol"] = "published"
        for key, value in changes.items():
            part, _, metric = key.partition("_")
            if part == "test":
                summary["test"][metric] = dict(zip(("mean", "sd"), value, strict=True))
            elif isinstance(value, dict):
                summary[key] |= value
            else:
                summary[key] = value
        (path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
        return path

    return make


@pytest.fixture
def cub(write: Callable[..., Path]) -> Path:
    """Two backbones on CUB with attributes, one of them also test-selected, and hanzi."""
    data = {"name": "cub", "semantics": "att312", "features": "clip"}
    seeds = {"seeds": [1, 2, 3], "splits": [0, 1]}
    write("low", dataset=data, backbone="vae", selection={"val_H": 0.4}, test_H=(0.39, None))
    run = write(
        "high",
        dataset=data,
        selection={"val_H": 0.62, **seeds},
        test_H=(0.6, 0.012),
        test_U=(0.55, 0.02),
        trial_hours=12.5,
    )
    write("best-of-test", "published", dataset=data, test_H=(0.655, 0.001))
    write("alone", "published", dataset=data, backbone="diffusion", test_H=(0.7, None))
    write("hanzi-run")
    return run

"""The exit codes that `d3tune --help` lists, each from a real command."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

Command = Callable[..., Any]

SEARCH = ("search", "--dataset", "hanzi", "--executor", "local", "--confirm-seeds", "0")


@pytest.fixture
def listed(d3tune: Command) -> dict[str, int]:
    """What the help says: each code by its name."""
    (line,) = [line for line in d3tune("--help").out.splitlines() if line.strip().startswith("Exit codes: ")]
    return {name: int(code) for code, name in re.findall(r"(\d+) ([a-z ]+)", line)}


def test_five_codes_are_listed(listed: dict[str, int]) -> None:
    assert listed == {"done": 0, "failed": 1, "usage": 2, "no usable trial": 3, "interrupted": 130}


def test_done(listed: dict[str, int], d3tune: Command) -> None:
    assert d3tune("data", "list").code == listed["done"]


def test_failed(listed: dict[str, int], d3tune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("D3TUNE_HOME", str(tmp_path / "file"))
    assert d3tune("leaderboard").code == listed["failed"]
    assert d3tune("doctor").code == listed["failed"]


@pytest.mark.parametrize(
    "arguments", [(), ("serach",), ("search",), ("search", "--nothing"), ("resume", "nowhere"), ("data", "check", "x")]
)
def test_usage(arguments: tuple[str, ...], listed: dict[str, int], d3tune: Command) -> None:
    assert d3tune(*arguments).code == listed["usage"]


def test_no_usable_trial(listed: dict[str, int], d3tune: Command, tiny: tuple[str, ...], with_store: Path) -> None:
    end = d3tune(*SEARCH, *tiny, "--trials", "1", "--time", "0s")
    assert (end.code, end.out) == (listed["no usable trial"], "")


def test_interrupted(listed: dict[str, int], tiny: tuple[str, ...], with_store: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from d3tune.cli import main; main()",
        *SEARCH,
        *tiny,
        "--trials",
        "1000",
        "--json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ) as search:
        assert search.stderr is not None
        for line in search.stderr:
            if line.startswith("trial "):
                break
        search.send_signal(signal.SIGINT)
        rest = search.communicate(timeout=300)[1]
    assert search.returncode == listed["interrupted"], rest
    assert "go on with: d3tune resume" in rest

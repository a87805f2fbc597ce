"""Completion, asked for by the real shells where they are installed."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from d3tune.config import Sampler
from d3tune.method.generators import backbone_names

Command = Callable[..., Any]
Completed = Callable[..., list[str]]

ASK = {
    "bash": """
source <(d3tune completion bash)
COMP_WORDS=(d3tune "$@")
COMP_CWORD=$#
_d3tune_completion d3tune
printf '%s\\n' "${COMPREPLY[@]}"
""",
    # zsh's own _arguments needs a terminal; what it is given is looked at
    "zsh": """
compdef() { : }
_files() { : }
_arguments() { print -r -- "$@" }
source <(d3tune completion zsh)
words=(d3tune "$@")
CURRENT=$#words
_d3tune_completion
""",
    "fish": """
d3tune completion fish | source
complete -C "d3tune $argv"
""",
}


@pytest.fixture(params=ASK)
def completed(request: pytest.FixtureRequest, isolated: Path, tmp_path: Path) -> Completed:
    """``completed("search", "--samp")``: what the shell offers for the last word."""
    shell = shutil.which(request.param)
    if shell is None:
        pytest.skip(f"{request.param} is not installed")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "d3tune").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -c "from d3tune.cli import main; main()" "$@"\n', encoding="utf-8"
    )
    (folder / "d3tune").chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    bare = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[request.param]

    def ask(*words: str) -> list[str]:
        script = [shell, *bare, "-c", ASK[request.param]]
        script += [] if request.param == "fish" else [request.param]
        end = subprocess.run([*script, *words], env=environment, capture_output=True, text=True, timeout=120)
        assert end.stderr == "", end.stderr
        if request.param == "zsh":
            return read_zsh(end.stdout)
        return [line.split("\t")[0] for line in end.stdout.splitlines() if line]

    return ask


def read_zsh(text: str) -> list[str]:
    """The words of ``*: :(("one":"what it is" "two"))``."""
    return re.findall(r"[(\s]\"([^\"]+)\"", text)


def test_commands_and_options(completed: Completed, isolated: Path) -> None:
    assert completed("sea") == ["search"]
    assert set(completed("data", "")) == {"list", "check", "import", "simulate"}
    assert set(completed("search", "--tr")) == {"--trials", "--trial-timeout", "--tracking-uri"}
    assert set(completed("completion", "")) == {"bash", "zsh", "fish"}
    assert not isolated.exists(), "nothing is written"


def test_choices(completed: Completed) -> None:
    assert set(completed("search", "--dataset", "hanzi", "--sampler", "")) == set(get_args(Sampler))
    assert set(completed("search", "--backbone", "")) == set(backbone_names())
    assert completed("leaderboard", "--format", "la") == ["latex"]
    assert completed("search", "--pruner", "as") == ["asha"]


def test_datasets_and_runs_that_are_there(completed: Completed, isolated: Path, tmp_path: Path) -> None:
    nasty = "mine$(touch pwned);`touch pwned`"
    for name in ("MineA", "mine-b", nasty):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "res101.mat").touch()
        (isolated / "runs" / name).mkdir(parents=True)
        (isolated / "runs" / name / "run.yaml").touch()
    (tmp_path / "data" / "mine-without").mkdir()
    (isolated / "runs" / "mine-without").mkdir()
    found = completed("search", "--data-dir", str(tmp_path / "data"), "--dataset", "mine")
    assert sorted(found) == ["mine-b", "minea"]
    assert completed("data", "check", "hanzi/") == [f"hanzi/{split}" for split in range(6)]
    assert completed("resume", "mine") == ["mine-b"]
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize(
    "words", ["sea", "search --dataset ", "search --backbone ", "resume ", "leaderboard --format "]
)
def test_nothing_heavy_is_loaded(words: str) -> None:
    code = """
import atexit, sys
heavy = {"torch", "ray", "mlflow", "optuna", "pandas", "scipy", "matplotlib"}
atexit.register(lambda: print("heavy:", *sorted(heavy & set(sys.modules))))
from d3tune.cli import main
main()
"""
    asked = {
        "_D3TUNE_COMPLETE": "complete_bash",
        "COMP_WORDS": f"d3tune {words}",
        "COMP_CWORD": str(words.count(" ") + 1),
    }
    end = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, timeout=120
    )
    assert (end.returncode, end.stderr) == (0, "")
    assert end.stdout.splitlines()[-1].strip() == "heavy:"


def test_another_shell_is_refused(d3tune: Command) -> None:
    end = d3tune("completion", "bsh")
    assert (end.code, end.out) == (2, "")
    assert "did you mean 'bash'?" in end.err

"""The examples that end each command's --help are run as they stand, in a home where earlier ones were run.

An example is a line of the help text that begins with at least two blanks and ``d3tune ``, in the block after a line
that is ``Example:`` or ``Examples:`` alone; or what stands behind ``Example: `` in one paragraph. What would train for
long gets the options of `BUDGET` behind it, of which click takes the last, and a search the smallest networks too. A
run that is named like that of a search without --run-dir is a copy of the one run there is.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from d3tune.cli import app
from d3tune.yamlfile import dump_yaml, read_yaml

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

Command = Callable[..., Any]

LOCAL = ("--executor", "local")
BUDGET: dict[str, tuple[str, ...]] = {
    "search": (*LOCAL, "--trials", "1", "--confirm-seeds", "1"),
    "resume": (*LOCAL, "--trials", "+1", "--confirm-seeds", "1"),
    "sweep": (*LOCAL, "--trials", "1", "--confirm-seeds", "1"),
    "train": ("--seeds", "1"),
    "ablate": (*LOCAL, "--seeds", "1"),
    "compare": (*LOCAL, "--seeds", "2"),
    "ensemble": (*LOCAL, "--seeds", "1"),
}
# what another run of one's own is made by
OTHER = ("search", "--dataset", "hanzi", "--backbone", "gaussian", *LOCAL, "--trials", "1", "--confirm-seeds", "0")
DEFAULT_NAME = re.compile(r"hanzi-0-[a-z]+-s0-[0-9a-f]{6}")


def helps(group: Any = None, parent: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every command and group of the program, as typed, with its help text."""
    command = typer.main.get_command(app) if group is None else group
    context = typer.Context(command, info_name=path[-1] if path else "d3tune", parent=parent)
    yield path, command.get_help(context)
    for name, inner in getattr(command, "commands", {}).items():
        yield from helps(inner, context, (*path, name))


def examples(text: str) -> list[str]:
    """The examples of a help text, without ``d3tune``."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        head, *lines = [line.strip() for line in paragraph.strip().splitlines()] or [""]
        if head in ("Example:", "Examples:"):
            found += lines
        elif head.startswith("Example: "):
            found.append(" ".join([head.removeprefix("Example: "), *lines]))
    return [line.removeprefix("d3tune ") for line in found if line.startswith("d3tune ")]


HELPS = dict(helps())
EXAMPLES = list(dict.fromkeys(line for text in HELPS.values() for line in examples(text)))


def budget(words: list[str], tiny: tuple[str, ...]) -> list[str]:
    """An example's words, cheaper where they would train for long: a search gets the smallest networks as well."""
    if words[0] == "search" and "list" in words:
        return words
    return [*words, *BUDGET.get(words[0], ()), *(tiny if words[0] in ("search", "sweep") else ())]


@pytest.fixture
def ready(searched: Path, isolated: Path) -> Path:
    """The current folder, where those of ``search`` and ``export`` were run, with the files of one's own of others."""
    for name in {word for line in EXAMPLES for word in line.split() if DEFAULT_NAME.fullmatch(word)}:
        shutil.copytree(searched / "mine", isolated / "runs" / name)
    best = read_yaml(searched / "best.yaml")
    other = {**best, "config": {**best["config"], "student_lr": 2 * best["config"]["student_lr"]}}
    (searched / "other.yaml").write_text(dump_yaml(other), encoding="utf-8")
    generator = np.random.default_rng(0)
    np.save(searched / "features.npy", generator.random((5, 256), dtype=np.float32))
    np.savez(
        searched / "flowers.npz",
        features=generator.random((80, 8), dtype=np.float32),
        labels=np.arange(80) % 8,
        semantics=generator.random((8, 4), dtype=np.float32),
        unseen_classes=np.array([6, 7]),
    )
    return searched


@pytest.mark.parametrize("path", HELPS, ids=lambda path: " ".join(path) or "d3tune")
def test_every_help_ends_with_an_example_of_its_own(path: tuple[str, ...]) -> None:
    text = HELPS[path]
    found = examples(text)
    assert found, f"d3tune {' '.join(path)} --help shows no example"
    assert " ".join(text.split()).endswith(f"d3tune {found[-1]}")
    assert all(tuple(shlex.split(line)[: len(path)]) == path for line in found)


@pytest.mark.parametrize("line", [line for line in EXAMPLES if not line.startswith("ui")])
def test_every_example_works(line: str, d3tune: Command, ready: Path, tiny: tuple[str, ...]) -> None:
    words = shlex.split(line)
    if "other" in words:
        assert d3tune(*OTHER, "--run-dir", "other").code == 0
    end = d3tune(*budget(words, tiny))
    assert end.code == 0, end.err
    assert end.out or end.err
    written = [Path(after) for word, after in pairwise(words) if word == "-o"]
    assert all((ready / path).exists() for path in written)


@pytest.mark.parametrize("line", [line for line in EXAMPLES if line.startswith("ui")])
def test_the_pages_are_served(line: str, ready: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from d3tune.cli import main; main()", *shlex.split(line), "--port", str(port)]
    with (ready / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        assert b"<html" in answer(port, server).lower(), (ready / "log").read_text("utf-8")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def answer(port: int, server: subprocess.Popen[bytes]) -> bytes:
    """What a server that is starting says at last; nothing if it ends."""
    for _ in range(600):
        if server.poll() is not None:
            break
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read()
        except (OSError, HTTPException):
            time.sleep(0.2)
        finally:
            connection.close()
    return b""

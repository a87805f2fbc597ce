"""Hostile files that are real: payloads that would run, and readers held to little memory."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from d3tune.errors import D3TuneError

Content = dict[str, Any]
Refused = Callable[[Callable[[], object]], str]

# what a reader may take on top of what its process had before it began
MEGABYTES = 128
READER = """
import json, resource, sys
from pathlib import Path
{imports}
from d3tune.errors import D3TuneError
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
read = lambda path: {expression}
read(Path(sys.argv[1]))
before, now = peak(), int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 2**29, now + 2**29))
for name in sys.argv[2:]:
    try:
        said = "read " + repr(read(Path(name)))[:200]
    except D3TuneError as error:
        said = str(error)
    print(json.dumps([said, peak() - before]))
"""


class Payload:
    """An object whose pickle makes a folder when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@dataclass(frozen=True)
class Trap:
    """A payload in the forms that a file can carry it, and whether it has run."""

    marker: Path

    @property
    def payload(self) -> Payload:
        return Payload(self.marker)

    @property
    def pickled(self) -> bytes:
        return pickle.dumps(self.payload)

    @property
    def objects(self) -> Any:
        return np.array([self.payload], dtype=object)

    @property
    def sprung(self) -> bool:
        return self.marker.exists()


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path / "the payload ran")


@pytest.fixture(autouse=True)
def isolated(home: Path) -> Path:
    """A home of its own for each test."""
    return home


@pytest.fixture
def refused() -> Refused:
    """``refused(call)``: the one line that a call ends in."""

    def line(call: Callable[[], object]) -> str:
        with pytest.raises(D3TuneError) as error:
            call()
        message = str(error.value)
        assert message.isprintable(), message
        assert "Traceback" not in message
        return message

    return line


@pytest.fixture
def in_little_memory() -> Callable[..., list[str]]:
    """``in_little_memory(imports, expression, sound, files)``: what reading each file says, in a process of its own.

    The expression reads ``path``. The sound file is read first, so that what a reader loads at its first use does not
    count. An exception that is no D3TuneError, or memory beyond the allowance, fails the test.
    """

    def said(imports: str, expression: str, sound: Path, files: list[Path]) -> list[str]:
        program = READER.format(imports=imports, expression=expression)
        end = subprocess.run(
            [sys.executable, "-c", program, str(sound), *map(str, files)],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        assert end.returncode == 0, end.stderr[-2000:]
        lines = [json.loads(line) for line in end.stdout.splitlines()]
        for path, (message, megabytes) in zip(files, lines, strict=True):
            assert megabytes <= MEGABYTES, f"{path.name}: {megabytes} MB: {message}"
        return [message for message, _ in lines]

    return said


@pytest.fixture
def run_program(command: Callable[..., Any]) -> Callable[..., str]:
    """``run_program("data", "list")``: the line in which the command line ends; it must be one, and an error."""

    def run(*arguments: object) -> str:
        end = command(*arguments)
        assert end.code in (1, 2, 3)
        assert end.out == ""
        assert end.err.startswith("d3tune: ")
        assert end.err.count("\n") == 1, end.err
        line: str = end.err.rstrip("\n")
        return line

    return run


def _arrays() -> Content:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 6)
    return {
        "features": generator.random((48, 7)),
        "labels": labels,
        "semantics": generator.random((8, 5)) + 0.1,
        "class_names": np.array([f"bird {number}" for number in range(8)]),
        "trainval": np.flatnonzero((labels < 6) & (np.arange(48) % 6 < 4)),
        "test_seen": np.flatnonzero((labels < 6) & (np.arange(48) % 6 >= 4)),
        "test_unseen": np.flatnonzero(labels >= 6),
    }


@pytest.fixture
def arrays() -> Content:
    """A sound dataset as one would have it in numpy, everything counted from 0."""
    return _arrays()


def _matlab() -> tuple[Content, Content]:
    own = _arrays()
    names = np.empty((8, 1), dtype=object)
    names[:, 0] = own["class_names"]
    rows = {f"{part}_loc": own[part].reshape(-1, 1) + 1 for part in ("trainval", "test_seen", "test_unseen")}
    features = {"features": own["features"].T, "labels": own["labels"].reshape(-1, 1) + 1}
    return features, {"att": own["semantics"].T, "allclasses_names": names, **rows}


@pytest.fixture
def write_pair() -> Callable[..., Path]:
    """``write_pair(folder, features, splits)``: a sound pair of files, with these keys of each file changed."""

    def write(folder: Path, features: Content | None = None, splits: Content | None = None) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        first, second = _matlab()
        scipy.io.savemat(folder / "res101.mat", first | (features or {}))
        scipy.io.savemat(folder / "att_splits.mat", second | (splits or {}))
        return folder

    return write


@pytest.fixture
def seal() -> Callable[[Path], None]:
    """``seal(manifest)``: make a checkpoint's manifest vouch for whatever lies beside it."""

    def vouch(manifest: Path, **changes: Any) -> None:
        content = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else {"update": 10}
        weights = manifest.with_suffix(".safetensors").read_bytes()
        content = {"reports": [], **content, "sha256": hashlib.sha256(weights).hexdigest(), **changes}
        manifest.write_text(json.dumps(content), encoding="utf-8")

    return vouch

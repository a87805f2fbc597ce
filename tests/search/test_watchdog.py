"""A trial that hangs ends its process and leaves word, which is read once and says where."""

import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import d3tune
from d3tune.errors import RunError
from d3tune.search.executor.watchdog import HUNG_FILE, found, watched

SITE = Path(sysconfig.get_path("purelib"))
SOURCE = Path(d3tune.__file__).parent
PROGRAM = """
import os, signal, sys, threading, time
from pathlib import Path
from d3tune.search.executor.watchdog import watched

idle = threading.Event()

def wait_for_work():
    idle.set()
    time.sleep(1e6)

def train():
    {train}

def {caller}():
    train()

# its frames come first in the word
threading.Thread(target=wait_for_work, daemon=True).start()
idle.wait()
with watched(Path(sys.argv[1]), {limit}):
    {caller}()
"""
HANG = "time.sleep(60)"


def ended(folder: Path, caller: str = "next_report", train: str = HANG, limit: float = 0.5) -> int:
    program = folder / "program.py"
    program.write_text(PROGRAM.format(caller=caller, train=train, limit=limit), encoding="utf-8")
    return subprocess.run([sys.executable, str(program), str(folder / "trial")], timeout=150, check=False).returncode


def line(of: str) -> int:
    return PROGRAM.splitlines().index(f"    {of}") + 1


@pytest.mark.parametrize(
    ("caller", "place"),
    [
        ("next_report", f"program.py line {line('{train}')} in train"),
        ("_begin", f"program.py line {line('{train}')} in train"),
        ("another", f"program.py line {line('time.sleep(1e6)')} in wait_for_work"),
    ],
)
def test_the_word_names_the_place_of_the_thread_that_trains_and_is_read_once(
    caller: str, place: str, tmp_path: Path
) -> None:
    """Among several threads; where none is known to train, that of the first."""
    assert ended(tmp_path, caller) == 1
    assert found(tmp_path / "trial", 0.5) == f"hung: no report within 0.5 s; it was at {tmp_path}/{place}"
    assert found(tmp_path / "trial", 0.5) is None
    assert list((tmp_path / "trial").iterdir()) == []


def test_a_word_from_before_the_limit_was_taken_back_is_understood(tmp_path: Path) -> None:
    """A search that is resumed with ``--trial-timeout none``."""
    (tmp_path / HUNG_FILE).write_text("Timeout (0:00:20)!\n", encoding="utf-8")
    assert found(tmp_path, None) == "hung: no report within the time limit"


def test_a_process_that_was_killed_leaves_no_word(tmp_path: Path) -> None:
    """Its file is there and empty; the trial goes on from its checkpoint."""
    assert ended(tmp_path, train="os.kill(os.getpid(), signal.SIGKILL)", limit=600) == -signal.SIGKILL
    assert (tmp_path / "trial" / HUNG_FILE).read_bytes() == b""
    assert found(tmp_path / "trial", 600) is None
    assert list((tmp_path / "trial").iterdir()) == []


@pytest.mark.parametrize("limit", [600.0, None])
def test_a_block_that_ends_in_time_leaves_nothing(limit: float | None, tmp_path: Path) -> None:
    with watched(tmp_path / "trial", limit):
        assert [path.name for path in tmp_path.glob("trial/*")] == ([] if limit is None else [HUNG_FILE])
    assert list(tmp_path.glob("trial/*")) == []


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        (SOURCE / "method" / "gan.py", "d3tune/method/gan.py"),
        (SITE / "torch" / "nn" / "functional.py", "torch/nn/functional.py"),
        (Path.home() / "mine" / "backbone.py", "mine/backbone.py"),
        (Path("/nowhere/else.py"), "/nowhere/else.py"),
    ],
)
def test_the_place_is_named_as_its_package_has_it(file: Path, shown: str, tmp_path: Path) -> None:
    frames = f'  File "{file}", line 3 in loss\n  File "{SOURCE}/search/trial.py", line 9 in next_report\n'
    (tmp_path / HUNG_FILE).write_text(f"Timeout (0:00:01)!\nThread 0x1 (most recent call first):\n{frames}")
    assert found(tmp_path, 1.0) == f"hung: no report within 1 s; it was at {shown} line 3 in loss"
    assert found(tmp_path, 1.0) is None


def test_a_directory_that_cannot_be_written_is_no_fault_of_the_trial(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(RunError, match=r"cannot be written: .*; mend that"),
        watched(tmp_path / "file", 60),
    ):
        raise AssertionError("nothing is trained")

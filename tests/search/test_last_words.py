"""The line that is said where a process is ended by what it cannot handle, and only there."""

import subprocess
import sys

import pytest

BLOCK = """
import os, signal, sys
from d3tune.search.executor.lastwords import last_words
with last_words("d3tune: 50% of '$HOME' \\\\n and no more"):
    {end}
print("after")
"""


def ended(end: str) -> tuple[int, str, list[str]]:
    process = subprocess.run(
        [sys.executable, "-c", BLOCK.format(end=end)], capture_output=True, text=True, timeout=60, check=False
    )
    return process.returncode, process.stdout, process.stderr.splitlines()


@pytest.mark.parametrize(("end", "code"), [("os._exit(3)", 3), ("os.kill(os.getpid(), signal.SIGKILL)", -9)])
def test_a_process_that_cannot_speak_any_more_has_its_line_said(end: str, code: int) -> None:
    assert ended(end) == (code, "", ["d3tune: 50% of '$HOME' \\n and no more"])


def test_nothing_is_said_by_one_that_goes_on() -> None:
    assert ended("pass") == (0, "after\n", [])


def test_nothing_is_said_by_one_that_speaks_for_itself() -> None:
    assert ended("sys.exit('its own line')") == (1, "", ["its own line"])


def test_ctrl_c_at_the_terminal_does_not_silence_it() -> None:
    caught = "try: os.killpg(os.getpgrp(), signal.SIGINT)\n    except KeyboardInterrupt: pass"
    process = subprocess.run(
        [sys.executable, "-c", BLOCK.format(end=f"{caught}\n    os._exit(3)")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        start_new_session=True,
    )
    assert (process.returncode, process.stdout) == (3, "")
    assert process.stderr.startswith("d3tune: 50%")


def test_a_witness_that_was_ended_is_not_missed() -> None:
    kill = "from d3tune.search.executor.processes import descendants"
    kill += "\n    for pid in descendants(os.getpid()): os.kill(pid, signal.SIGKILL)"
    assert ended(kill) == (0, "after\n", [])

"""A worker ends with the process that started it, even where that is killed."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from d3tune.search.executor.processes import alive

PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
WORKER = """
import json, os, time
from d3tune.search.executor.worker import TrialActor, call
{begin}
print(os.getpid(), flush=True)
time.sleep(1e6)
"""
BEGIN = {
    "a trial": """TrialActor({"assignment": json.dumps({"directory": "trial"})})""",
    "a call of map": """call("", 0.0, int)""",
}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the call")
@pytest.mark.parametrize("begin", BEGIN)
def test_a_worker_does_not_outlive_its_parent(begin: str, commands: Any, tmp_path: Path) -> None:
    """One that did would write its checkpoints beside its successor's."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, WORKER.format(begin=BEGIN[begin])],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    try:
        assert alive(worker)
        parent.kill()
        parent.wait()
        commands.until(lambda: not alive(worker), "the worker's end")
    finally:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
        parent.stdout.close()

"""Calls in Ray's workers: the order of results, an end at once, a worker that is lost, and a cluster of others."""

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.fault

PROGRAM = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
from d3tune.config import Resources
from d3tune.errors import D3TuneError, UsageError
from d3tune.search.executor import StopSignal
from d3tune.search.executor.environment import ray
from d3tune.search.executor.processes import alive
from d3tune.search.executor.ray import RayExecutor

PATIENCE = 120
found = {}

def until(condition):
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)

def first_ends_last(index):
    if index == 0:
        until(Path("others").exists)
    return index

def endless(index):
    if index:
        Path(f"named-{index}").write_text(str(os.getpid()))
        Path(f"named-{index}").rename(f"pid-{index}")
        time.sleep(1e6)

def killed():
    with open("times", "a") as file:
        file.write("once\\n")
    os.kill(os.getpid(), signal.SIGKILL)

def refused():
    raise UsageError("not like this")

def note(index, result):
    ended.append((index, result))
    if len(ended) == 3:
        Path("others").touch()

def stop_amid(index, result):
    until(lambda: Path("pid-1").exists() and Path("pid-2").exists())
    stop.requested = True

executor = RayExecutor(Resources(cpus_per_trial=0.1, concurrency=3), Path("log.txt"))
ended = []
results = executor.map(first_ends_last, [(n,) for n in range(4)], StopSignal(), note)
found["order"] = [results, ended]

for name, function in (("lost", killed), ("raised", refused)):
    try:
        executor.map(function, [()], StopSignal())
    except D3TuneError as error:
        found[name] = [type(error).__name__, str(error)]
found["times"] = len(Path("times").read_text().splitlines())

address = ray.get_runtime_context().gcs_address
JOINED = '''
import sys
from pathlib import Path
from d3tune.config import Resources
from d3tune.search.executor import StopSignal, lifeline
from d3tune.search.executor.ray import RayExecutor
lifeline.POLL_SECONDS = 0.01
executor = RayExecutor(Resources(cpus_per_trial=0.1, address=sys.argv[1]), Path("joined.txt"))
print(executor.map(abs, [(-3,), (-4,)], StopSignal()))
executor.close()
'''
joined = subprocess.run([sys.executable, "-c", JOINED, address], capture_output=True, text=True, timeout=120)
found["joined"] = [joined.returncode, joined.stdout, joined.stderr]

def endless_or_refused(index):
    if index == 0:
        until(Path("pid-5").exists)
        raise UsageError("not like this")
    endless(5)

try:
    executor.map(endless_or_refused, [(0,), (1,)], StopSignal())
except UsageError:
    other = int(Path("pid-5").read_text())
    until(lambda: not alive(other))
    found["left behind"] = alive(other)
    Path("pid-5").unlink()

stop = StopSignal()
try:
    executor.map(endless, [(n,) for n in range(4)], stop, stop_amid)
except KeyboardInterrupt:
    found["stopped"] = True
pids = [int(path.read_text()) for path in Path().glob("pid-*")]
until(lambda: not any(alive(pid) for pid in pids))
found["cancelled"] = [len(pids), sum(alive(pid) for pid in pids)]
executor.close()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one private Ray made of all of it."""
    end = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=550,
        cwd=tmp_path_factory.mktemp("map"),
        check=False,
    )
    assert end.returncode == 0, end.stderr
    result: dict[str, Any] = json.loads(end.stdout.splitlines()[-1])
    return result


def test_results_have_the_order_of_the_items_whichever_ends_first(found: dict[str, Any]) -> None:
    results, ended = found["order"]
    assert results == [0, 1, 2, 3]
    assert ended[-1] == [0, 0]
    assert sorted(ended) == [[n, n] for n in range(4)]


def test_a_call_whose_worker_is_killed_is_tried_again_and_then_an_error_of_one_line(found: dict[str, Any]) -> None:
    kind, text = found["lost"]
    assert kind == "D3TuneError"
    assert text.startswith("a worker was lost: ")
    assert "\n" not in text
    assert found["times"] == 3


def test_an_error_of_a_call_is_raised_as_it_is(found: dict[str, Any]) -> None:
    assert found["raised"] == ["UsageError", "not like this"]


def test_an_error_of_a_call_ends_the_others(found: dict[str, Any]) -> None:
    """Whoever takes it for a result goes on with the same workers."""
    assert found["left behind"] is False


def test_a_stop_ends_the_calls_that_are_running(found: dict[str, Any]) -> None:
    assert found["stopped"]
    assert found["cancelled"] == [2, 0]


def test_the_programs_of_a_cluster_that_is_joined_are_not_watched(found: dict[str, Any]) -> None:
    """They are no children of the process that joins, and would be taken for lost."""
    code, out, error = found["joined"]
    assert (code, out) == (0, "[3, 4]\n"), error

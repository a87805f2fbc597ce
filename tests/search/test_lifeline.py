"""A search whose Ray has died ends; its stand-ins here are shells by the names of Ray's programs."""

import json
import subprocess
import sys
from typing import Any

import pytest

# each scenario in a process of its own, all of them forked from one: what is imported takes seconds
PROGRAM = """
import json, os, signal, subprocess, sys, threading, time, traceback
from d3tune.cli.terminal import draining
from d3tune.search.executor import StopSignal, lifeline
from d3tune.search.executor.processes import alive, program

NAMES = ("raylet", "gcs_server")
lifeline.POLL_SECONDS = 0.05
# a shell has its background jobs ignore it, and so whatever those start
signal.signal(signal.SIGINT, signal.default_int_handler)

def start(name, script="read _"):
    # ends with this process, whose end of the pipe it reads
    command, pipe = [f"/opt/some folder/{name}", "-c", script], subprocess.PIPE
    return subprocess.Popen(command, executable="/bin/sh", stdin=pipe, stdout=pipe)

def abandon(lost):
    print("abandoned", lost, flush=True)

def poll(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.02)

def watch():
    found = lifeline.Lifeline(lifeline.children(NAMES), abandon)
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "lifeline")
    return found, thread

def play(script, out):
    os.dup2(out, 1)
    try:
        exec(script, globals())
        sys.stdout.flush()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(70)

ended = {}
for name, script in json.load(sys.stdin).items():
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        play(script, write)
    os.close(write)
    with os.fdopen(read) as pipe:
        lines = pipe.read().splitlines()
    ended[name] = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), lines]
print(json.dumps(ended))
"""
LOST = """
there = {{name: start(name) for name in {present!r}}}
life, thread = watch()
life.stop = stop = StopSignal()
with draining(stop):
    try:
        for name in {killed!r}:
            there[name].kill()
        poll(60)
        print("waited in vain")
    except KeyboardInterrupt:
        print(life.lost, stop.requested)
life.release()
life.close()
# an end in order: it does not come back to end this process
thread.join()
"""
ORDERLY = """
raylet, server = (start(name) for name in NAMES)
life, thread = watch()
poll(0.5)
print(life.lost == "", thread.is_alive())
life.release()
raylet.kill()
thread.join()
life.close()
print(life.lost == "")
"""
MEANWHILE = """
raylet, server = (start(name) for name in NAMES)
life, thread = watch()

def told_to_end_meanwhile(pid):
    life.release()
    return False

lifeline.alive = told_to_end_meanwhile
try:
    thread.join()
    poll(0.1)
except KeyboardInterrupt:
    print("interrupted")
print(life.lost == "")
life.close()
"""
STUCK = """
lifeline.PATIENCE = 0.2
raylet, server = (start(name) for name in NAMES)
life, thread = watch()
raylet.kill()
# an interrupt does not end it: no signal arrives
time.sleep(60)
"""
BELOW = """
raylet, server = start("raylet", "sleep 1000 <&- & echo $!; wait"), start("gcs_server")
below = int(raylet.stdout.readline())
while program(below) != "sleep":
    time.sleep(0.02)
life, thread = watch()
try:
    if {lost}:
        server.kill()
        poll(60)
        print("waited in vain")
except KeyboardInterrupt:
    pass
life.release()
raylet.kill()
raylet.wait()
life.close()
try:
    end = time.monotonic() + (60 if {lost} else 0.5)
    while alive(below) and time.monotonic() < end:
        time.sleep(0.02)
    print(alive(below))
finally:
    if alive(below):
        os.kill(below, signal.SIGKILL)
"""
RAYLET, SERVER = "raylet", "gcs_server"
# which programs are there, which are killed, and what is lost
ENDS = {
    "one is killed": ((RAYLET, SERVER), (RAYLET,), RAYLET),
    "the other is killed": ((RAYLET, SERVER), (SERVER,), SERVER),
    "one was gone before the look": ((RAYLET,), (), SERVER),
    "both were gone before the look": ((), (), f"{RAYLET} and {SERVER}"),
}
SCENARIOS = {
    **{name: LOST.format(present=present, killed=killed) for name, (present, killed, _) in ENDS.items()},
    "orderly": ORDERLY,
    "meanwhile": MEANWHILE,
    "stuck": STUCK,
    **{f"below {lost}": BELOW.format(lost=lost) for lost in (True, False)},
}


@pytest.fixture(scope="module")
def ended() -> dict[str, Any]:
    """Exit code and output of every scenario."""
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(SCENARIOS),
        stdout=subprocess.PIPE,
        text=True,
        timeout=500,
        check=True,
    )
    found: dict[str, Any] = json.loads(process.stdout)
    return found


@pytest.mark.parametrize("how", ENDS)
def test_the_main_thread_is_interrupted_where_a_program_ends(how: str, ended: dict[str, Any]) -> None:
    """Also where a signal handler drains at first, as the search's own does: nothing is left to drain."""
    assert ended[how] == [0, [f"{ENDS[how][2]} True"]]


def test_nothing_is_lost_while_all_live_and_when_they_end_as_they_should(ended: dict[str, Any]) -> None:
    assert ended["orderly"] == [0, ["True True", "True"]]


def test_a_program_that_ends_as_it_should_while_it_is_looked_at_is_not_lost(ended: dict[str, Any]) -> None:
    """The moment between a look and what follows from it, which no real process can be brought to hit."""
    assert ended["meanwhile"] == [0, ["True"]]


def test_a_main_thread_that_is_stuck_ends_with_the_process(ended: dict[str, Any]) -> None:
    assert ended["stuck"] == [1, ["abandoned raylet"]]


@pytest.mark.parametrize("lost", [True, False])
def test_what_lost_its_parent_is_ended_and_what_ends_in_order_is_left_alone(lost: bool, ended: dict[str, Any]) -> None:
    """A raylet whose server has died does not tell its workers to end."""
    assert ended[f"below {lost}"] == [0, [str(not lost)]]

"""Processes of this machine, and how a worker ends with the one that started it."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1
ZOMBIE = "Z"


def processes() -> dict[int, tuple[int, str]]:
    """Parent and command line of every live process by its id; empty where there is no ``/proc``."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = _state_and_parent(folder)
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if state != ZOMBIE:
            found[int(folder.name)] = (parent, command.strip())
    return found


def alive(pid: int) -> bool:
    """Whether a process lives."""
    try:
        return _state_and_parent(Path("/proc") / str(pid))[0] != ZOMBIE
    except OSError:
        return False


def program(pid: int) -> str:
    """The name of the program that a process runs; empty where it has ended."""
    try:
        command = (Path("/proc") / str(pid) / "cmdline").read_bytes()
    except OSError:
        return ""
    # of the first word alone: its folder may have blanks in its name
    return Path(command.split(b"\0")[0].decode(errors="replace")).name


def descendants(root: int) -> dict[int, str]:
    """Live processes below one, and their command lines."""
    table, below = processes(), {root}
    while grown := {pid for pid, (parent, _) in table.items() if parent in below and pid not in below}:
        below |= grown
    return {pid: table[pid][1] for pid in below - {root} if pid in table}


def left_of(seen: Mapping[int, str]) -> dict[int, str]:
    """Which of some processes still live, by id and command line; Ray's change theirs behind the colons."""
    table = processes()
    return {p: c for p, c in seen.items() if p in table and table[p][1].split("::")[0] == c.split("::")[0]}


def kill(pids: Iterable[int]) -> None:
    """End processes that this one started; one that is gone already is no error."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def end_with_parent() -> None:
    """Let the kernel end this process when the one that started it ends, however that ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


def _state_and_parent(folder: Path) -> tuple[str, int]:
    fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return fields[0], int(fields[1])

"""Real ``d3tune`` commands as processes: started, watched, signalled, and gone at the end.

Only processes of a command under test are signalled. Tests get this module as the fixture ``commands``.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d3tune.search.executor.processes import descendants, left_of
from d3tune.search.run import RunDirectory, open_run

PATIENCE = 180.0
PROGRAM = [sys.executable, "-c", "from d3tune.cli import main; main()"]


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for something that is bound to happen."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited in vain for {what}")


def state(pid: int) -> str:
    """The kernel's letter for what a process does."""
    return (Path("/proc") / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]


def runs_trials(command: str) -> bool:
    """Whether a command line is that of a worker which runs trials."""
    return command.startswith("ray::") and ("TrialActor" in command or "Trainable" in command)


@dataclass
class Command:
    """A running ``d3tune`` with all processes it ever had."""

    process: subprocess.Popen[str]
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)
    seen: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        streams = ((self.process.stdout, self.out), (self.process.stderr, self.err))
        self.readers = [threading.Thread(target=lambda s=s, k=k: k.extend(s), daemon=True) for s, k in streams]
        self.readers.append(threading.Thread(target=self._watch, daemon=True))
        for reader in self.readers:
            reader.start()

    def _watch(self) -> None:
        while self.process.poll() is None:
            self.look()
            time.sleep(0.1)

    def look(self) -> dict[int, str]:
        """The processes below the command now, which are then known for good."""
        now = descendants(self.process.pid)
        for pid, command in now.items():
            if pid not in self.seen or "::" in command:
                self.seen[pid] = command
        return now

    def trial_actors(self) -> set[int]:
        """Processes that run trials now."""
        return {pid for pid, command in self.look().items() if runs_trials(command)}

    def workers(self) -> set[int]:
        """Processes that ever ran trials."""
        return {pid for pid, command in self.seen.items() if runs_trials(command)}

    def named(self, program: str) -> int:
        """The one process of a program, e.g. ``raylet``."""
        (found,) = (p for p, c in self.look().items() if Path(c.partition(" ")[0]).name == program)
        return found

    def kill(self, pid: int) -> None:
        """End a process of the command, after it knows of all others: what loses its parent is not found later."""
        self.look()
        os.kill(pid, signal.SIGKILL)

    def wait(self, seconds: float) -> None:
        """Let it run for a time, or to its end where that comes before."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def end(self) -> int:
        """Wait for its end."""
        code = self.process.wait(PATIENCE)
        self.close()
        return code

    def close(self) -> None:
        """Wait for the readers and close their streams."""
        for reader in self.readers:
            reader.join(PATIENCE)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def alive(self) -> dict[int, str]:
        """Processes of the command that are left, by id and command line."""
        return left_of(self.seen)


@contextmanager
def running(home: Path, *arguments: str, **environment: str) -> Iterator[Command]:
    """A ``d3tune`` command in a process group of its own, as a terminal gives it one."""
    # what is ignored here is ignored by a child, and under nohup a hangup is
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "D3TUNE_HOME": str(home), **environment},
        start_new_session=True,
    )
    signal.signal(signal.SIGHUP, hangup)
    command = Command(process)
    try:
        yield command
    finally:
        if command.process.poll() is None:
            command.process.kill()
            command.process.wait()
        for pid in command.alive():
            os.kill(pid, signal.SIGKILL)
        command.close()


def options(settings: dict[str, Any], **hyper: Any) -> list[str]:
    """A search of hanzi with some hyper-parameters fixed."""
    pairs = [("--set", f"{key}={value}") for key, value in {**settings, **hyper}.items()]
    return ["search", "--dataset", "hanzi", *(word for pair in pairs for word in pair)]


def only_run(home: Path) -> RunDirectory:
    """The one run in a home."""
    (path,) = (home / "runs").iterdir()
    return open_run(str(path))

"""Several tasks at a time, each a process of its own; what ends well becomes a record."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from benchmarks.accuracy.records import Record, Records
from benchmarks.accuracy.tasks import Task

ROOT = Path(__file__).resolve().parents[2]
POLL, PATIENCE = 0.2, 60.0


@dataclass
class _Running:
    task: Task
    process: subprocess.Popen[bytes]
    slot: int
    log: IO[bytes]
    began: float


@dataclass
class Runner:
    """Carries out tasks in their order, as soon as what they need is there.

    Attributes:
        records: where what is done is kept.
        work: folder for runs, logs and the user's home.
        jobs: processes at once.
        deadline: `time.monotonic` after which no task is begun.
        commit: of this code.
        say: takes one line a task.
        failures: why tasks did not end well, by name.
    """

    records: Records
    work: Path
    jobs: int
    deadline: float
    commit: str
    say: Callable[[str], None] = print
    failures: dict[str, str] = field(default_factory=dict)

    def run(self, tasks: Sequence[Task]) -> dict[str, Record]:
        """Do what has no record yet; all records of these tasks that there are then.

        Raises:
            UsageError: a record was made with other settings, or is about another winner.
            KeyboardInterrupt: after every process was ended.
        """
        done = self.records.found(task.name for task in tasks)
        for task in tasks:
            if task.name in done:
                task.check(done[task.name], done)
        todo, running = [task for task in tasks if task.name not in done], list[_Running]()
        self.say(f"{len(done)} of {len(tasks)} tasks have a record")
        with _ended_by_signals():
            try:
                while todo or running:
                    self._begin(todo, running, done)
                    if not running:
                        break
                    time.sleep(POLL)
                    for item in [item for item in running if item.process.poll() is not None]:
                        running.remove(item)
                        self._end(item, done, len(tasks))
            finally:
                _stop(running)
        return done

    def _begin(self, todo: list[Task], running: list[_Running], done: dict[str, Record]) -> None:
        while len(running) < self.jobs and time.monotonic() < self.deadline:
            ready = next((task for task in todo if all(name in done for name in task.needs)), None)
            if ready is None:
                return
            todo.remove(ready)
            slot = min(set(range(self.jobs)) - {item.slot for item in running})
            running.append(self._start(ready, {name: done[name] for name in ready.needs}, slot))

    def _start(self, task: Task, found: dict[str, Record], slot: int) -> _Running:
        log = (self.work / f"{task.name}.log").open("wb")
        command = task.command(self.work, found, slot)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        # of a session of its own: Ctrl-C is this process's to pass on, once
        process = subprocess.Popen(  # noqa: S603
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        return _Running(task, process, slot, log, time.monotonic())

    def _end(self, item: _Running, done: dict[str, Record], count: int) -> None:
        item.log.close()
        seconds, task, code = time.monotonic() - item.began, item.task, item.process.returncode
        if code != 0:
            self.failures[task.name] = f"exit code {code}: {_last_line(self.work / f'{task.name}.log')}"
            self.say(f"{task.name}  failed, {self.failures[task.name]}")
            return
        done[task.name] = self.records.keep(task.name, self.commit, seconds, task.collect(self.work))
        self.say(f"{len(done)}/{count}  {task.name}  {task.line(done[task.name])}  {seconds:.0f} s")


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "no message"


def _stop(running: Sequence[_Running]) -> None:
    """Ask every process to end, by a signal that none of them ignores; wait, and end those that do not."""
    for item in running:
        item.process.terminate()
    until = time.monotonic() + PATIENCE
    for item in running:
        try:
            item.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            item.process.kill()
            item.process.wait()
        item.log.close()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal end this process alike, so that no process of it stays behind."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    # under nohup a hangup is to be ignored; Ctrl-C works in a shell's background jobs too
    hangup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM, *hangup)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

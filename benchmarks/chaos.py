"""Kill a search again and again, and look whether anything is lost: ``python benchmarks/chaos.py --kills 20``.

A search of the embedded dataset, tiny but real (Ray with two workers, MLflow on SQLite, Hyperband), is first carried
out undisturbed, which says how long one takes. Then searches are killed, the next one once the one before has come to
its end, until there were as many kills as asked for:

- The moment is uniform over that length, from the start of the command: imports, the start of Ray, trials and the end
  are all hit. A command that ends before is no kill.
- The target is drawn from what is there then: the driver, the raylet, a worker that trains, or the driver's whole
  process group. All get SIGKILL, which nothing can handle.
- After a kill the run is examined by `d3tune.search.invariants.run_faults`, as it lies there: study, trial folders,
  summary and MLflow must agree as far as a run that was cut off can, and its best value must not be worse than before.
- A killed worker is replaced and the command goes on. A search that loses its raylet must end by itself: with exit code
  1 and a last line that says so or, where its trials and confirmations were over, with exit code 0 and every trial.
  In every other case what is left of Ray is ended by its process ids. Then ``d3tune resume`` goes on.

A kill counts as clean where nothing was found afterwards and the command that followed did its work: it was killed in
turn, or ended with exit code 0 and a run without fault that has every trial. The last run is resumed to its end.

All is in one temporary folder, Ray's files too, and that is removed. The exit code is 1 where a kill was not clean.
"""

import argparse
import math
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from d3tune.errors import D3TuneError
from d3tune.search.executor.processes import descendants, left_of
from d3tune.search.invariants import best_value, run_faults
from d3tune.search.run import open_run
from d3tune.search.study import counts, read_trials
from d3tune.search.tracking import default_uri

PROGRAM = (sys.executable, "-c", "from d3tune.cli import main; main()")
TRIALS = 10
SETTINGS = (
    *("updates=120", "evaluations=8", "hidden_dim=32", "embed_dim=32"),
    *("teacher_epochs=2", "head_epochs=2", "n_synthetic_final=5"),
)
POLL_SECONDS = 0.1
# of what must end by itself
PATIENCE = 120.0
# of what a command said, in characters
SHOWN = 600
# trials, and what confirms
WORKERS = ("ray::ResourceTrainable", "ray::TrialActor", "ray::call")
TARGETS = ("driver", "raylet", "worker", "group")


@dataclass
class Command:
    """A ``d3tune`` command in a process group of its own, with every process that it had.

    Attributes:
        process: the driver.
        messages: the file of its stderr.
        began: when, on the monotonic clock.
        seen: processes below it so far, by id and command line.
    """

    process: subprocess.Popen[bytes]
    messages: Path
    began: float
    seen: dict[int, str] = field(default_factory=dict)

    def wait(self, seconds: float) -> bool:
        """Let it run until a time after its start; whether it still does."""
        while self.process.poll() is None and time.monotonic() < self.began + seconds:
            self.look()
            time.sleep(POLL_SECONDS)
        return self.process.poll() is None

    def look(self) -> dict[int, str]:
        """What is below it now; what loses its parent later is known from here on."""
        now = descendants(self.process.pid)
        self.seen |= now
        return now

    def targets(self) -> dict[str, int]:
        """What can be killed now, by kind."""
        now = self.look()
        raylets = [pid for pid, line in now.items() if Path(line.partition(" ")[0]).name == "raylet"]
        workers = [pid for pid, line in now.items() if line.startswith(WORKERS)]
        found = {"driver": [self.process.pid], "raylet": raylets, "worker": workers, "group": [self.process.pid]}
        return {kind: found[kind][0] for kind in TARGETS if found[kind]}

    def end_rest(self) -> None:
        """End what is left of its processes, and wait until that is so."""
        end = time.monotonic() + PATIENCE
        while (left := left_of(self.seen)) and time.monotonic() < end:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(POLL_SECONDS)

    def let_speak(self) -> None:
        """Wait until a shell that speaks for it is gone, if there is one."""
        end = time.monotonic() + PATIENCE
        while any(line.startswith("/bin/sh") for line in left_of(self.seen).values()) and time.monotonic() < end:
            time.sleep(POLL_SECONDS)

    def said(self) -> str:
        """What it said."""
        return self.messages.read_text(encoding="utf-8", errors="replace").strip()


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[Command]:
    """Start a command; in the end it and all its processes are gone."""
    messages = folder / "messages.txt"
    with messages.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603
            [*PROGRAM, *arguments], stdout=subprocess.DEVNULL, stderr=file, start_new_session=True
        )
    command = Command(process, messages, time.monotonic())
    try:
        yield command
    finally:
        command.look()
        process.kill()
        process.wait()
        command.end_rest()


class Chaos:
    """Searches one after another and what became of each kill.

    Attributes:
        problems: of each kill, empty where it was clean.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        """Prepare.

        Args:
            folder: for everything.
            seed: of moments and targets.
        """
        self._folder, self._draw = folder, random.Random(seed)
        self._searches = 0
        self._best = -math.inf
        self.problems: list[list[str]] = []

    def undisturbed(self) -> tuple[float, list[str]]:
        """Seconds of a search that nothing happens to, and what is wrong with it."""
        with started(self._folder, *self._next_search()) as command:
            command.wait(PATIENCE)
            seconds = time.monotonic() - command.began
            return seconds, self._ended(command)

    def run(self, kills: int, seconds: float) -> None:
        """Kill until there were as many kills, then let the last run come to its end.

        Args:
            kills: how many.
            seconds: which a search takes.
        """
        arguments = self._next_search()
        while len(self.problems) < kills:
            with started(self._folder, *arguments) as command:
                ended = self._disturb(command, kills, seconds)
            arguments = self._next_search() if ended else self._again(arguments)
        with started(self._folder, *arguments) as command:
            command.wait(PATIENCE)
            self._blame(self._ended(command))

    def _disturb(self, command: Command, kills: int, seconds: float) -> bool:
        """Kill a command, its workers first or not; whether it came to its end instead."""
        while len(self.problems) < kills:
            moment = time.monotonic() - command.began + self._draw.uniform(0, seconds)
            if not command.wait(moment):
                self._blame(self._ended(command))
                return True
            targets = command.targets()
            kind = self._draw.choice(list(targets))
            before = self._states()
            (os.killpg if kind == "group" else os.kill)(targets[kind], signal.SIGKILL)
            problems = [] if kind == "worker" else self._death(command, kind)
            problems += self._faults()
            self.problems.append(problems)
            number, shown = f"{len(self.problems):>3}/{kills}", f"{kind:<6} at {moment:5.1f} s"
            print(f"{number}  {shown}  before: {before}  after: {self._states()}  faults: {len(problems)}", flush=True)
            if kind != "worker":
                return False
        return False

    def _death(self, command: Command, kind: str) -> list[str]:
        """Wait until a command is dead of a kill; what it did wrong."""
        try:
            code = command.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return [f"still there {PATIENCE:g} s after its {kind} was killed: {command.said()[-SHOWN:]}"]
        # a driver that Ray's native code ended has its last line said by a process beside it
        if kind == "raylet":
            command.let_speak()
        command.end_rest()
        said = command.said()
        if kind != "raylet":
            return []
        if code == 0:
            # trials and confirmation were over: there was nothing left to lose
            return self._unfinished()
        last = said.rpartition("\n")[2]
        if code != 1 or "Traceback" in said or not last.startswith("d3tune: Ray"):
            return [f"exit code {code} after its raylet was killed: {said[-SHOWN:]}"]
        return []

    def _ended(self, command: Command) -> list[str]:
        """What is wrong with a command that was not killed, and with its run."""
        code = command.process.poll()
        if code != 0:
            return [f"exit code {code}, by itself: {command.said()[-SHOWN:]}"]
        return self._faults() + self._unfinished()

    def _unfinished(self) -> list[str]:
        """What a run that should be done lacks."""
        run = open_run(str(self._path))
        if (run.read_summary() or {}).get("state") != "done" or len(read_trials(run.journal)) != TRIALS:
            return [f"the run is not done: {self._states()}"]
        return []

    def _faults(self) -> list[str]:
        """What is wrong with the run as it is, which may not have begun."""
        if not (self._path / "study.journal").exists():
            return []
        try:
            run = open_run(str(self._path))
            faults, best = run_faults(run, default_uri()), best_value(run)
        except D3TuneError as error:
            return [str(error)]
        if best < self._best:
            faults.append(f"the best value was {self._best}, it is {best}")
        self._best = best
        return faults

    def _blame(self, problems: list[str]) -> None:
        """Put what was found later down to the last kill."""
        if self.problems:
            self.problems[-1] += problems
        for line in problems:
            print(f"        {line}", flush=True)

    def _states(self) -> str:
        try:
            found = counts(read_trials(self._path / "study.journal"))
        except D3TuneError:
            return "no trial"
        return " ".join(f"{number} {state}" for state, number in found.items())

    @property
    def _path(self) -> Path:
        return self._folder / "home" / "runs" / f"search-{self._searches}"

    def _next_search(self) -> tuple[str, ...]:
        self._searches, self._best = self._searches + 1, -math.inf
        settings = [word for setting in SETTINGS for word in ("--set", setting)]
        budget = ("--trials", str(TRIALS), "--concurrency", "2", "--confirm-seeds", "1")
        where = ("--run-dir", str(self._path), "--seed", str(self._searches))
        return (
            "search",
            "--dataset",
            "hanzi",
            "--backbone",
            "gan",
            "--pruner",
            "hyperband",
            *settings,
            *budget,
            *where,
        )

    def _again(self, arguments: tuple[str, ...]) -> tuple[str, ...]:
        """The resume of a run that was killed; the same command again where it had written nothing yet."""
        return ("resume", str(self._path)) if (self._path / "run.yaml").exists() else arguments


def main() -> int:
    """Measure, kill, and say with the exit code whether all was well."""
    parser = argparse.ArgumentParser(prog="python benchmarks/chaos.py", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--kills", type=int, default=20, help="how many (default 20)")
    parser.add_argument("--seed", type=int, help="of moments and targets (default: drawn)")
    options = parser.parse_args()
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    # a short name: the paths of Ray's sockets may not be longer than 107 bytes
    with tempfile.TemporaryDirectory(prefix="d3c-", ignore_cleanup_errors=True) as name:
        (Path(name) / "home").mkdir()
        os.environ.update({"D3TUNE_HOME": f"{name}/home", "TMPDIR": name, "PYTHONDONTWRITEBYTECODE": "1"})
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        chaos = Chaos(Path(name), seed)
        seconds, problems = chaos.undisturbed()
        print(f"seed {seed}; an undisturbed search of {TRIALS} trials takes {seconds:.1f} s", flush=True)
        if problems:
            print("\n".join(problems))
            return 1
        chaos.run(options.kills, seconds)
    for number, found in enumerate(chaos.problems, 1):
        for line in found:
            print(f"kill {number}: {line}")
    clean = sum(not found for found in chaos.problems)
    print(f"{clean} of {options.kills} invariant-clean resumes (seed {seed})")
    return 0 if clean == options.kills else 1


if __name__ == "__main__":
    sys.exit(main())

"""Processes that die, hang or are told to stop, with real Ray: the search goes on, or says so and is resumed.

Most searches here train the backbone of ``brittle_backbone.py``, which stands still or falls ill where it is told, so
that no test depends on how fast anything is. Three kills of real processes run every time (the third, a worker's, is in
``test_ray.py``); ``pytest -m fault`` runs the rest.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from d3tune.search.executor.processes import alive
from d3tune.search.invariants import best_value, run_faults
from d3tune.search.run import RunDirectory
from d3tune.search.study import read_trials, reports_of
from d3tune.yamlfile import dump_yaml

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

UPDATES, INTERVAL, HELD_AT, ILL_AT = 40, 5, 13, 22
ILLS = ("none", "diverges", "raises", "cuda", "allocates", "killed", "sleeps", "spins")
LIST = {"brittle-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: brittle\nVersion: 1\n"}
LIST["brittle-1.dist-info/entry_points.txt"] = "[d3tune.backbones]\nbrittle = brittle_backbone:BACKBONE\n"


@dataclass
class Bench:
    """One home with one search of the brittle backbone, and what its workers noted."""

    folder: Path
    commands: Any

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def hold(self) -> Path:
        """As long as this file is there, trials stand still at update 13."""
        return self.folder / "hold"

    @property
    def run(self) -> RunDirectory:
        run: RunDirectory = self.commands.only_run(self.home)
        return run

    def command(self, *arguments: str, pause: float = 0.0) -> AbstractContextManager[Any]:
        """A command whose workers find the backbone."""
        path = os.pathsep.join([str(self.folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {"BRITTLE_LOG": str(self.folder / "log"), "BRITTLE_HOLD": str(self.hold)}
        running: AbstractContextManager[Any] = self.commands.running(
            self.home, *arguments, PYTHONPATH=path, BRITTLE_PAUSE=str(pause), **environment
        )
        return running

    def search(self, *ills: str, concurrency: int = 2) -> tuple[str, ...]:
        """Arguments of a search with one trial for each illness, in this order."""
        points = [
            {"name": f"{n} {ill}", "source": "test", "values": {"rate": 0.9 - 0.1 * n, "ill": ill}}
            for n, ill in enumerate(ills)
        ]
        rate = {"low": 0.01, "high": 1.0, "log": True, "about": "step size"}
        space = {
            "backbone": "brittle",
            "fixed": {"updates": UPDATES, "evaluations": UPDATES // INTERVAL},
            "parameters": {"rate": rate, "ill": {"choices": list(ILLS), "about": "what goes wrong"}},
            "warm_start": points,
        }
        file = self.folder / "brittle.yaml"
        file.write_text(dump_yaml(space), encoding="utf-8")
        budget = ("--trials", str(len(ills)), "--concurrency", str(concurrency), "--confirm-seeds", "0")
        return (
            "search",
            "--dataset",
            "hanzi",
            "--backbone",
            "brittle",
            "--space",
            str(file),
            "--pruner",
            "none",
            *budget,
        )

    def resume(self, *arguments: str) -> None:
        """Carry the run to its end, undisturbed."""
        with self.command("resume", self.run.name, *arguments) as command:
            assert command.end() == 0, command.err
            self.commands.until(lambda: not command.alive(), "the end of all its processes")

    def trained(self) -> dict[float, list[tuple[int, int]]]:
        """Process and number of every update that was begun, by the trial's rate."""
        found: dict[float, list[tuple[int, int]]] = {}
        text = (self.folder / "log").read_text(encoding="utf-8") if (self.folder / "log").exists() else ""
        for line in text.splitlines():
            pid, rate, update = line.split()
            found.setdefault(float(rate), []).append((int(pid), int(update)))
        return found

    def begun(self, update: int) -> int:
        """How often any trial began an update."""
        return sum(number == update for lines in self.trained().values() for _, number in lines)

    def standing(self, command: Any, trials: int, times: int = 1) -> set[int]:
        """Wait until so many trials stand still so many times each; their workers."""
        self.commands.until(lambda: self.begun(HELD_AT) == trials * times, f"{trials} trials that stand still")
        workers: set[int] = self.commands.until(command.trial_actors, "their workers")
        return workers

    def faults(self) -> list[str]:
        return run_faults(self.run, f"sqlite:///{self.home / 'mlflow.db'}")

    def check(self, trials: int, cut: int, best: float) -> list[FrozenTrial]:
        """The run is done and sound; its trials.

        Args:
            trials: how many it has.
            cut: how often a running trial was cut off, which costs it less than an interval each time.
            best: a best value that it had before.
        """
        assert (self.run.read_summary() or {})["state"] == "done"
        assert self.faults() == []
        assert best_value(self.run) >= best
        found = read_trials(self.run.journal)
        assert [trial.number for trial in found] == list(range(trials))
        for trial in found:
            assert [report.update for report in reports_of(trial)] == sorted(trial.intermediate_values)
        assert sum(map(len, self.trained().values())) <= trials * UPDATES + cut * INTERVAL
        return found


@pytest.fixture
def bench(
    tmp_path: Path, isolated: Path, mlflow_template: Path, commands: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    site = tmp_path / "site"
    for name, content in LIST.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(content, encoding="utf-8")
    shutil.copy(Path(__file__).with_name("brittle_backbone.py"), site)
    isolated.mkdir()
    shutil.copy(mlflow_template, isolated / "mlflow.db")
    monkeypatch.syspath_prepend(str(site))
    yield Bench(tmp_path, commands)


def test_a_search_whose_driver_is_killed_goes_on_where_it_was(bench: Bench) -> None:
    bench.hold.touch()
    with bench.command(*bench.search("none", "none", "none")) as command:
        workers = bench.standing(command, 2)
        command.kill(command.process.pid)
        # one that outlived its search would write beside its successor
        bench.commands.until(lambda: not workers & command.alive().keys(), "the end of its workers")
    assert bench.faults() == []
    best = best_value(bench.run)
    bench.hold.unlink()
    bench.resume()
    assert all(trial.state == TrialState.COMPLETE for trial in bench.check(3, 2, best))
    once, cut = list(range(1, UPDATES + 1)), [*range(1, HELD_AT + 1), *range(HELD_AT // INTERVAL * INTERVAL + 1, 41)]
    assert [[update for _, update in lines] for lines in bench.trained().values()] == [cut, cut, once]


@pytest.mark.parametrize("program", ["raylet", pytest.param("gcs_server", marks=pytest.mark.fault)])
def test_a_search_whose_ray_is_killed_says_so_in_one_line_and_can_be_resumed(bench: Bench, program: str) -> None:
    bench.hold.touch()
    with bench.command(*bench.search("none", "none", "none"), "--json") as command:
        bench.standing(command, 2)
        command.kill(command.named(program))
        assert command.end() == 1, command.err
        assert command.out == []
        assert [line.split()[0] for line in command.err] == ["run", "d3tune:"], command.err
        assert f"Ray's {program} ended unexpectedly" in command.err[1]
        bench.commands.until(lambda: not command.alive(), "the end of all its processes")
    assert bench.faults() == []
    bench.hold.unlink()
    bench.resume()
    assert all(trial.state == TrialState.COMPLETE for trial in bench.check(3, 2, best_value(bench.run)))


@pytest.mark.fault
@pytest.mark.parametrize("registered", [False, True])
def test_a_search_whose_ray_is_killed_while_it_starts_says_so_and_can_be_resumed(
    bench: Bench, registered: bool
) -> None:
    with bench.command(*bench.search("none", "none"), "--json") as command:
        bench.commands.until(lambda: "/raylet " in " ".join(command.look().values()), "the raylet")
        if registered:
            # the search stands still until the raylet is there for it: Ray's native code then ends who connects in vain
            command.process.send_signal(signal.SIGSTOP)
            command.wait(15)
        command.kill(command.named("raylet"))
        command.process.send_signal(signal.SIGCONT)
        assert command.end() == 1, command.err
        assert command.out == []
        assert "Traceback" not in "".join(command.err)
        reason = "this process was ended while it connected" if registered else ""
        assert command.err[-1].startswith(f"d3tune: Ray did not start: {reason}"), command.err
        bench.commands.until(lambda: not command.alive(), "the end of all its processes")
    assert bench.faults() == []
    bench.resume()
    assert all(trial.state == TrialState.COMPLETE for trial in bench.check(2, 2, float("-inf")))


@pytest.mark.fault
@pytest.mark.parametrize("seed", [1])
def test_a_driver_may_be_killed_at_any_time(bench: Bench, seed: int) -> None:
    moment = random.Random(seed)
    (bench.home / "mlflow.db").unlink()
    search = bench.search(*["none"] * 6)
    best = float("-inf")
    with ExitStack() as stack:
        killed = []
        for _ in range(3):
            command = stack.enter_context(bench.command(*search, pause=0.05))
            wait = moment.uniform(0, 20)
            command.wait(wait)
            command.kill(command.process.pid)
            killed.append(command)
            where = f"seed {seed}, killed after {wait:.2f} s: {command.err}"
            workers = command.workers()
            bench.commands.until(lambda c=command, w=workers: not w & c.alive().keys(), "the end of its workers")
            if list(bench.home.glob("runs/*/study.journal")):
                assert bench.faults() == [], where
                assert best_value(bench.run) >= best, where
                best = best_value(bench.run)
        for command in killed:
            bench.commands.until(lambda c=command: not c.alive(), "the end of Ray's processes by themselves")
    with bench.command(*search) as command:
        assert command.end() == 0, (seed, command.err)
    bench.check(6, 3 * 2, best)


@pytest.mark.fault
def test_a_trial_whose_worker_is_killed_too_often_fails_and_the_search_goes_on(bench: Bench) -> None:
    bench.hold.touch()
    with bench.command(*bench.search("none", "none", concurrency=1), "--json") as command:
        for time in range(3):
            (worker,) = bench.standing(command, 1, time + 1)
            command.kill(worker)
        bench.hold.unlink()
        assert command.end() == 0, command.err
        # what Ray has to say of it is not on stdout
        assert command.out[0] == "{\n"
    first, second = bench.check(2, 2, float("-inf"))
    assert (first.state, first.user_attrs["failure"]) == (TrialState.FAIL, "its worker process died 3 times")
    assert second.state == TrialState.COMPLETE
    again = list(range(HELD_AT // INTERVAL * INTERVAL + 1, HELD_AT + 1))
    updates = [number for _, number in bench.trained()[0.9]]
    assert updates == [*range(1, HELD_AT + 1), *again, *again]


@pytest.mark.fault
def test_a_trial_that_fails_frees_its_worker_for_the_next(bench: Bench) -> None:
    ills = ("none", "diverges", "raises", "cuda", "allocates", "none")
    with bench.command(*bench.search(*ills, concurrency=1)) as command:
        assert command.end() == 0, command.err
    trials = bench.check(6, 0, float("-inf"))
    assert [trial.state == TrialState.COMPLETE for trial in trials] == [ill == "none" for ill in ills]
    reasons = [trial.user_attrs.get("failure", "") for trial in trials]
    assert reasons[1] == f"diverged: loss mse is not finite at update {ILL_AT}"
    assert reasons[2] == "MemoryError: no memory for the table of pairs"
    assert reasons[3].startswith("OutOfMemoryError: CUDA out of memory")
    assert "can't allocate memory: you tried to allocate" in reasons[4]
    assert len({pid for lines in bench.trained().values() for pid, _ in lines}) == 1, "each ran in the same worker"


@pytest.mark.fault
def test_a_folder_that_a_worker_cannot_write_to_ends_the_search_and_fails_no_trial(bench: Bench) -> None:
    bench.hold.touch()
    with bench.command(*bench.search("none", "none")) as command:
        bench.standing(command, 2)
        place = bench.run.trial(0)
        shutil.rmtree(place)
        place.touch()
        bench.hold.unlink()
        assert command.end() == 1, command.err
        assert command.err[-1].startswith(f"d3tune: {place}: cannot be written: "), command.err
        assert "Traceback" not in "".join(command.err)
        bench.commands.until(lambda: not command.alive(), "the end of all its processes")
    assert TrialState.FAIL not in {trial.state for trial in read_trials(bench.run.journal)}
    place.unlink()
    bench.resume()
    # the first trial's checkpoints are gone: it is begun anew
    assert all(trial.state == TrialState.COMPLETE for trial in bench.check(2, 2 + HELD_AT // INTERVAL, float("-inf")))


@pytest.mark.fault
def test_a_trial_that_is_killed_for_its_memory_fails_and_the_search_goes_on(bench: Bench) -> None:
    with bench.command(*bench.search("killed", "none", concurrency=1)) as command:
        assert command.end() == 0, command.err
    first, second = bench.check(2, 2, float("-inf"))
    assert (first.state, first.user_attrs["failure"]) == (TrialState.FAIL, "its worker process died 3 times")
    assert second.state == TrialState.COMPLETE


@pytest.mark.fault
def test_a_trial_that_hangs_fails_and_says_where_and_the_others_go_on(bench: Bench) -> None:
    search = bench.search("sleeps", "spins", "none", "none")
    with bench.command(*search, "--trial-timeout", "20s") as command:
        assert command.end() == 0, command.err
    sleeping, spinning, *others = bench.check(4, 0, float("-inf"))
    assert [trial.state for trial in (sleeping, spinning)] == [TrialState.FAIL] * 2
    assert all(trial.state == TrialState.COMPLETE for trial in others)
    assert sleeping.user_attrs["failure"].startswith("hung: no report within 20 s; it was at brittle_backbone.py line")
    assert sleeping.user_attrs["failure"].endswith("in _fall_ill")
    assert spinning.user_attrs["failure"].endswith("in match")


@pytest.mark.fault
@pytest.mark.parametrize("how", ["once", "twice", "terminate", "terminate group", "hang up"])
def test_a_search_that_is_told_to_stop_can_be_resumed(bench: Bench, how: str) -> None:
    bench.hold.touch()
    with bench.command(*bench.search("none", "none", "none")) as command:
        bench.standing(command, 2)
        if how == "terminate":
            command.process.terminate()
        else:
            # as a terminal, `timeout` or a scheduler does
            groups = {"terminate group": signal.SIGTERM, "hang up": signal.SIGHUP}
            os.killpg(command.process.pid, groups.get(how, signal.SIGINT))
        if how == "twice":
            bench.commands.until(lambda: "stopping" in "".join(command.err), "its answer to the first")
            os.killpg(command.process.pid, signal.SIGINT)
        assert command.end() == 130, command.err
        said = "".join(command.err)
        assert command.err[-1].startswith("stopped; "), said
        assert "stopping: trials end at their last checkpoint" in said
        assert f"stopped; go on with: d3tune resume {bench.run.path}" in said
        assert "Traceback" not in said
        bench.commands.until(lambda: not command.alive(), "the end of all its processes")
    assert bench.faults() == []
    bench.hold.unlink()
    bench.resume()
    assert all(trial.state == TrialState.COMPLETE for trial in bench.check(3, 2, best_value(bench.run)))


AT_ONCE = """
import os, sys
from pathlib import Path
from d3tune.config import Resources
from d3tune.search.executor import StopSignal, ray as module
from d3tune.search.executor.ending import end_now
from d3tune.search.executor.processes import descendants
stop = StopSignal()
executor = module.RayExecutor(Resources(concurrency=1), Path(sys.argv[1]), 0, stop)
print(os.environ["TMPDIR"], *descendants(os.getpid()), flush=True)
module.ray.shutdown = lambda: print("in order")
stop.at_once = True
executor.close()
end_now(130)
"""


@pytest.mark.fault
def test_a_ray_that_is_ended_at_once_is_killed_and_leaves_nothing(tmp_path: Path, commands: Any) -> None:
    # Ray's sockets have long names
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        ended = subprocess.run(
            [sys.executable, "-c", AT_ONCE, str(tmp_path / "log.txt")],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "TMPDIR": folder},
        )
        assert ended.returncode == 130, ended.stderr
        (line,) = ended.stdout.splitlines()
        pids = [int(word) for word in line.split()[1:]]
        assert len(pids) > 1
        commands.until(lambda: not any(map(alive, pids)), "the end of all its processes")
        assert list(Path(folder).glob("d3tune-*")) == []


@pytest.mark.fault
def test_a_search_goes_on_with_fewer_workers_and_without_ray(bench: Bench) -> None:
    bench.hold.touch()
    for arguments, workers in ((bench.search("none", "none", "none"), 2), (("resume", "--concurrency", "1"), 1)):
        told = [*arguments[:1], bench.run.name, *arguments[1:]] if arguments[0] == "resume" else arguments
        with bench.command(*told) as command:
            before = bench.begun(HELD_AT)
            bench.commands.until(lambda b=before, w=workers: bench.begun(HELD_AT) == b + w, "trials that stand still")
            assert len(command.trial_actors()) == workers
            os.killpg(command.process.pid, signal.SIGINT)
            assert command.end() == 130, command.err
    bench.hold.unlink()
    bench.resume("--executor", "local")
    assert all(trial.state == TrialState.COMPLETE for trial in bench.check(3, 3, float("-inf")))

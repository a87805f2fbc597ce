"""Real Ray: pruning, reuse of workers, interruption, a killed worker, and what fits on the machine.

One Ray at a time, each private to its search; only processes of the search under test are signalled.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from d3tune.config import Resources
from d3tune.search.reports import Report
from d3tune.search.run import RunDirectory
from d3tune.search.search import training_job
from d3tune.search.standing import winner
from d3tune.search.study import read_trials, reports_of
from d3tune.search.trial import RunningTrial

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

RESOURCES = Resources(executor="local")


def children_of(home: Path, run: RunDirectory) -> tuple[Any, list[Any]]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    ids = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(ids, f"tags.`d3tune.run` = '{run.uid}'", max_results=1000)
    return client, [item for item in runs if "d3tune.trial" in item.data.tags]


def assert_each_trial_once(home: Path, run: RunDirectory, n: int) -> list[FrozenTrial]:
    """In the study and in MLflow, with equal values, which are shown there to six digits."""
    trials = read_trials(run.journal)
    client, children = children_of(home, run)
    assert [trial.number for trial in trials] == list(range(n))
    assert sorted(int(child.data.tags["d3tune.trial"]) for child in children) == list(range(n))
    for child in children:
        trial = trials[int(child.data.tags["d3tune.trial"])]
        assert child.data.tags["d3tune.state"] == trial.state.name
        history = client.get_metric_history(child.info.run_id, "val/H")
        values = sorted((row.step, row.value) for row in history)
        assert values == [(r.update, pytest.approx(r.metrics["val/H"], rel=5e-6)) for r in reports_of(trial)]
    return trials


@dataclass
class Finished:
    home: Path
    run: RunDirectory
    command: Any
    code: int


TRIALS = 30


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any], mlflow_template: Path, commands: Any
) -> Iterator[Finished]:
    """A search of 30 trials, two at a time."""
    home = tmp_path_factory.mktemp("ray") / "home"
    home.mkdir()
    shutil.copy(mlflow_template, home / "mlflow.db")
    with (
        pytest.MonkeyPatch.context() as patch,
        commands.running(
            home,
            *commands.options(tiny),
            *("--trials", str(TRIALS), "--concurrency", "2", "--confirm-seeds", "1", "--json"),
        ) as command,
    ):
        patch.setenv("D3TUNE_HOME", str(home))
        code = command.end()
        yield Finished(home, commands.only_run(home), command, code)


def test_pruned_trials_are_never_complete(finished: Finished) -> None:
    assert finished.code == 0, finished.command.err
    trials = assert_each_trial_once(finished.home, finished.run, TRIALS)
    updates = {trial.number: [report.update for report in reports_of(trial)] for trial in trials}
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert len(complete) + len(pruned) == TRIALS
    assert len(pruned) > 3
    for trial in complete:
        assert updates[trial.number] == [10, 20, 30, 40]
        assert trial.value == max(report.value for report in reports_of(trial))
    for trial in pruned:
        assert updates[trial.number] == [10, 20, 30, 40][: len(updates[trial.number])]
        assert trial.last_step == updates[trial.number][-1] < 40


def test_the_summary_is_of_the_best_complete_trial(finished: Finished) -> None:
    data = json.loads("".join(finished.command.out))
    best = winner(read_trials(finished.run.journal))
    assert best is not None
    assert data["winner"] == {"trial": best.number, "value": best.value}
    assert data["test"]["protocol"] == "test"


def test_the_terminal_shows_the_search_alone(finished: Finished) -> None:
    kinds = [line.split()[0] for line in finished.command.err]
    assert kinds == ["run", *["trial"] * TRIALS, "confirming"], finished.command.err


def test_workers_are_reused_and_gone(finished: Finished, commands: Any) -> None:
    workers = finished.command.workers()
    assert 1 <= len(workers) < TRIALS / 2
    commands.until(lambda: not finished.command.alive(), "the end of Ray's processes")
    assert list(finished.run.path.rglob("checkpoint-*")) == []


def test_an_interrupted_search_goes_on_to_its_end(
    isolated: Path, mlflow_template: Path, tiny: dict[str, Any], commands: Any
) -> None:
    isolated.mkdir()
    shutil.copy(mlflow_template, isolated / "mlflow.db")
    search = commands.options(tiny, updates=200, evaluations=12)
    total = 4
    with commands.running(
        isolated, *search, "--trials", str(total), "--concurrency", "2", "--pruner", "none"
    ) as command:
        commands.until(lambda: any(line.startswith("trial ") for line in command.err), "the first trial's end")
        (path,) = (isolated / "runs").iterdir()
        os.killpg(command.process.pid, signal.SIGINT)
        assert command.end() == 130, command.err
        assert f"d3tune resume {path}" in "".join(command.err)
        assert "Traceback" not in "".join(command.err)
        commands.until(lambda: not command.alive(), "the end of Ray's processes")
    before = read_trials(commands.only_run(isolated).journal)
    ended = [trial for trial in before if trial.state == TrialState.COMPLETE]
    cut = [trial for trial in before if trial.state == TrialState.RUNNING]
    assert ended
    assert len(ended) + len(cut) == len(before)
    for trial in cut:
        if trial.intermediate_values:
            assert list((path / "trials" / f"{trial.number:05d}").glob("checkpoint-*.json"))
    _, children = children_of(isolated, commands.only_run(isolated))
    assert all(child.info.status in ("FINISHED", "KILLED") for child in children)

    with commands.running(isolated, "resume", path.name, "--confirm-seeds", "0") as command:
        assert command.end() == 0, command.err
    trials = assert_each_trial_once(isolated, commands.only_run(isolated), total)
    assert all(trial.state == TrialState.COMPLETE for trial in trials)
    for trial in before:
        assert trials[trial.number].user_attrs["config"] == trial.user_attrs["config"]
    for trial in cut:
        kept = [report for report in reports_of(trials[trial.number]) if report.update in trial.intermediate_values]
        assert kept == reports_of(trial)


def test_a_killed_worker_is_replaced_and_goes_on_from_the_checkpoint(
    isolated: Path, mlflow_template: Path, tiny: dict[str, Any], tmp_path: Path, commands: Any
) -> None:
    isolated.mkdir()
    shutil.copy(mlflow_template, isolated / "mlflow.db")
    search = commands.options(tiny, updates=800, evaluations=40)
    mark = 1e6
    with commands.running(isolated, *search, "--trials", "1", "--concurrency", "1", "--confirm-seeds", "0") as command:
        # the worker first: between its first checkpoint and the stop, the trial must not come to its end
        worker = commands.until(lambda: command.trial_actors(), "a worker").pop()
        commands.until(lambda: list(isolated.glob("runs/*/trials/00000/checkpoint-*.json")), "a checkpoint")
        os.kill(worker, signal.SIGSTOP)
        commands.until(lambda: commands.state(worker) == "T", "the worker's standstill")
        # the stopped worker's checkpoints say a time that no trial takes: later reports count on from it
        for manifest in isolated.glob("runs/*/trials/00000/checkpoint-*.json"):
            value = json.loads(manifest.read_text(encoding="utf-8"))
            value["reports"][-1]["seconds"] = mark
            manifest.write_text(json.dumps(value), encoding="utf-8")
        os.kill(worker, signal.SIGKILL)
        assert command.end() == 0, command.err
    run = commands.only_run(isolated)
    (trial,) = assert_each_trial_once(isolated, run, 1)
    assert trial.state == TrialState.COMPLETE
    assert reports_of(trial)[-1].seconds > mark

    undisturbed = RunningTrial(training_job(run, trial.user_attrs["config"], RESOURCES), tmp_path / "undisturbed")
    expected: list[Report] = []
    while not undisturbed.finished:
        expected.append(replace(undisturbed.next_report(), seconds=0.0, worker={}))
    assert [replace(report, seconds=0.0) for report in reports_of(trial)] == expected


FITTING = """
from pathlib import Path
from d3tune.config import Resources
from d3tune.errors import UsageError
from d3tune.search.executor.ray import RayExecutor
executor = RayExecutor(Resources(cpus_per_trial=0.1, gpus_per_trial=0.5), Path("log.txt"), num_gpus=1)
print(executor.concurrency)
executor.close()
try:
    RayExecutor(Resources(gpus_per_trial=2), Path("log.txt"), num_gpus=1)
except UsageError as error:
    print(error)
"""


def test_fractions_of_a_gpu_fit_together_and_too_much_is_refused(commands: Any) -> None:
    end = subprocess.run([sys.executable, "-c", FITTING], capture_output=True, text=True, timeout=commands.PATIENCE)
    assert end.returncode == 0, end.stderr
    first, second = end.stdout.splitlines()
    assert first == "2"
    assert "--gpus-per-trial 2" in second
    assert "1 GPUs" in second


def listening(pid: int) -> set[str]:
    """The addresses, of IPv4 and IPv6, at which a process listens, as the kernel writes them."""
    inodes = set()
    with suppress(OSError):
        # it may end meanwhile
        for link in (Path("/proc") / str(pid) / "fd").iterdir():
            with suppress(OSError):
                inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            # 0A: it listens
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1].partition(":")[0])
    return found


# 127.0.0.1, alone and as IPv6 writes it, and ::1
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def test_a_private_ray_listens_on_loopback_alone(
    isolated: Path, mlflow_template: Path, tiny: dict[str, Any], commands: Any
) -> None:
    isolated.mkdir()
    shutil.copy(mlflow_template, isolated / "mlflow.db")
    search = commands.options(tiny, updates=800, evaluations=40)
    with commands.running(isolated, *search, "--trials", "1", "--confirm-seeds", "0") as command:
        commands.until(lambda: list(isolated.glob("runs/*/trials/00000/checkpoint-*.json")), "a checkpoint")
        addresses = {address for pid in [command.process.pid, *command.look()] for address in listening(pid)}
        os.kill(command.process.pid, signal.SIGINT)
        assert command.end() == 130, command.err
    assert addresses
    assert addresses <= LOOPBACK

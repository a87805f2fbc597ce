"""The runner for SLURM, run by a real bash: what it asks of the scheduler, what ends it, what it leaves."""

import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import d3tune
from d3tune.search.invariants import run_faults
from d3tune.search.study import read_trials, reports_of

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

Tiny = Callable[..., list[str]]


def option(call: list[str], name: str) -> str:
    """The value of ``--name=value`` in a call."""
    (value,) = (word.partition("=")[2] for word in call if word.startswith(f"--{name}="))
    return value


def gone(slurm: Any, command: Any) -> None:
    """Every process of the job has ended, and nothing of it is left on the node."""
    slurm.commands.until(lambda: not command.alive(), "the end of all processes of the job")
    assert slurm.left == []


def test_shellcheck_finds_nothing(root: Path) -> None:
    program = shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed")
    scripts = [str(path) for path in sorted((root / "runners").iterdir()) if path.suffix in (".sh", ".sbatch")]
    end = subprocess.run([program, *scripts], capture_output=True, text=True, check=False)
    assert end.returncode == 0, end.stdout


def test_it_ends_as_the_search_does_and_so_do_its_nodes(slurm: Any) -> None:
    slurm.asleep()
    with slurm.running("--trials", "0", HOSTS="alpha beta gamma") as command:
        assert command.end() == 2, command.err
        assert command.err[-1].startswith("d3tune: --trials 0: ")
        gone(slurm, command)
    assert sorted(option(call, "nodelist") for call in slurm.calls("srun")) == ["alpha", "beta", "gamma"]
    head, *workers = sorted(slurm.calls("ray"), key=lambda call: "--head" not in call)
    assert head[:2] == ["start", "--head"]
    assert option(head, "num-cpus") == "0"
    assert option(head, "dashboard-host") == "127.0.0.1"
    assert option(head, "include-dashboard") == "false"
    for worker in workers:
        assert option(worker, "address") == "127.0.0.2:6379"
        assert option(worker, "num-cpus") == "2"
    # no two nodes of one machine share a port or a folder
    ports = [word for call in workers for word in call if word.partition("=")[0].endswith("-port")]
    assert {word.partition("=")[2] for word in ports} == {"0"}
    assert len({option(call, "temp-dir") for call in (head, *workers)}) == 3
    assert slurm.token_modes == ["600"]
    assert slurm.requeued == []


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ["search", "--dataset", "hanzi", "--backbone", "gan", "--address", "auto"]),
        (
            {"DATASET": "flo", "BACKBONE": "vae", "DATA": "/a folder", "RUN_DIR": "mine", "SLURM_GPUS_ON_NODE": "4"},
            [
                *("search", "--dataset", "flo", "--backbone", "vae", "--run-dir", "mine", "--address", "auto"),
                *("--data-dir", "/a folder", "--gpus-per-trial", "1"),
            ],
        ),
        ({"RESUME": "mine"}, ["resume", "mine", "--address", "auto"]),
        # what a run had of a GPU stays
        ({"RESUME": "mine", "SLURM_GPUS_ON_NODE": "4"}, ["resume", "mine", "--address", "auto"]),
    ],
)
def test_the_search_is_the_one_of_any_machine(slurm: Any, environment: dict[str, str], expected: list[str]) -> None:
    slurm.asleep()
    with slurm.running("--confirm-seeds", "-1", **environment) as command:
        assert command.end() == 2, command.err
        gone(slurm, command)
    assert slurm.calls("d3tune") == [[*expected, "--confirm-seeds", "-1"]]
    # the only node trains
    (head,) = slurm.calls("ray")
    assert option(head, "num-cpus") == "2"


def test_two_jobs_on_one_node_share_neither_port_nor_folder(slurm: Any) -> None:
    slurm.asleep()
    first = int(slurm.environment["SLURM_JOB_ID"])
    for job in (first, first + 1):
        with slurm.running("--trials", "0", SLURM_JOB_ID=str(job)) as command:
            assert command.end() == 2, command.err
    heads = slurm.calls("ray")
    ports = [int(option(call, name)) for call in heads for name in ("port", "dashboard-port")]
    assert len(set(ports)) == 4
    assert all(1024 < port < 32768 for port in ports)
    assert len({option(call, "temp-dir") for call in heads}) == 2


def test_where_the_path_of_temporary_files_is_too_long_for_ray_another_is_taken(slurm: Any, tmp_path: Path) -> None:
    slurm.asleep()
    long = tmp_path / "a-folder-with-a-long-name"
    long.mkdir()
    with slurm.running("--trials", "0", TMPDIR=str(long)) as command:
        assert command.end() == 2, command.err
    (head,) = slurm.calls("ray")
    folder = Path(option(head, "temp-dir"))
    assert len(str(folder)) <= 43
    assert not folder.parent.exists()


@pytest.mark.parametrize(("number", "requeued"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_job_that_is_told_to_end_while_its_nodes_start_begins_no_search(
    slurm: Any, number: int, requeued: bool
) -> None:
    slurm.asleep(said="not yet")
    with slurm.running() as command:
        slurm.commands.until(lambda: slurm.calls("ray"), "the first node")
        command.process.send_signal(number)
        assert command.end() == 130, command.err
        gone(slurm, command)
    assert slurm.calls("d3tune") == []
    assert slurm.requeued == ([["requeue", slurm.environment["SLURM_JOB_ID"]]] if requeued else [])


@pytest.mark.parametrize(
    ("state", "before", "requeued"), [("RUNNING", 0, True), ("COMPLETING", 0, False), ("RUNNING", 3, False)]
)
def test_a_cancelled_job_is_not_requeued_and_one_only_so_often(
    slurm: Any, state: str, before: int, requeued: bool
) -> None:
    slurm.asleep(said="not yet")
    slurm.program("squeue", f"echo {state}\n")
    with slurm.running(SLURM_RESTART_COUNT=str(before), MAX_REQUEUES="3") as command:
        slurm.commands.until(lambda: slurm.calls("ray"), "the first node")
        command.process.send_signal(signal.SIGTERM)
        assert command.end() == 130, command.err
        gone(slurm, command)
    assert bool(slurm.requeued) == requeued
    assert any("requeued 3 times (MAX_REQUEUES)" in line for line in command.err) == (before == 3)


@pytest.mark.parametrize("words", [("--trials", "+50"), ("--trials=+50",), ("--retry-failed", "3")])
def test_what_a_requeued_job_would_do_again_is_refused(slurm: Any, words: tuple[str, ...]) -> None:
    slurm.asleep()
    with slurm.running(*words, RESUME="mine") as command:
        assert command.end() == 2
    (line,) = command.err
    assert "a requeued job would do that again; give --trials the number in all" in line
    assert slurm.calls("ray") == []


def test_a_node_that_does_not_start_ends_the_job_in_one_line(slurm: Any) -> None:
    slurm.program("ray", "echo no such option >&2\nexit 2\n")
    with slurm.running() as command:
        assert command.end() == 1
        gone(slurm, command)
    (line,) = command.err
    assert line.startswith("slurm.sbatch: Ray did not start on node 0 (alpha): see ")
    assert "no such option" in Path(line.split()[-1]).read_text(encoding="utf-8")


@pytest.mark.cluster
def test_a_search_on_a_real_node(slurm: Any, isolated: Path, tiny: Tiny) -> None:
    with slurm.running("--trials", "2", "--pruner", "none", "--confirm-seeds", "0", *tiny()) as command:
        assert command.end() == 0, (command.err, logs(isolated))
        gone(slurm, command)
    run = slurm.commands.only_run(isolated)
    assert list(d3tune.load_run(run.path).trials()["state"]) == ["COMPLETE"] * 2
    assert run_faults(run, f"sqlite:///{isolated / 'mlflow.db'}") == []
    assert slurm.requeued == []


@pytest.mark.cluster
def test_a_job_whose_time_is_over_is_requeued_and_goes_on(slurm: Any, isolated: Path, tiny: Tiny) -> None:
    total = 4
    options = ("--trials", str(total), "--pruner", "none", "--confirm-seeds", "0", *tiny(updates=800, evaluations=40))
    with slurm.running(*options, HOSTS="alpha beta") as command:
        checkpoint = "runs/*/trials/00000/checkpoint-*.json"
        slurm.commands.until(lambda: list(isolated.glob(checkpoint)), "the first trial's checkpoint")
        command.process.send_signal(signal.SIGTERM)
        assert command.end() == 130, (command.err, logs(isolated))
        gone(slurm, command)
    assert "stopping: trials end at their last checkpoint" in "".join(command.err)
    assert slurm.requeued == [["requeue", slurm.environment["SLURM_JOB_ID"]]]
    run = slurm.commands.only_run(isolated)
    before = read_trials(run.journal)
    cut = [trial for trial in before if not trial.state.is_finished()]
    assert cut

    # as SLURM starts it again: the same job, the same words
    with slurm.running(*options, HOSTS="alpha beta") as command:
        assert command.end() == 0, (command.err, logs(isolated))
        gone(slurm, command)
    assert len(slurm.requeued) == 1
    assert list(d3tune.load_run(run.path).trials()["state"]) == ["COMPLETE"] * total
    assert run_faults(run, f"sqlite:///{isolated / 'mlflow.db'}") == []
    after = read_trials(run.journal)
    for trial in before:
        assert after[trial.number].user_attrs["config"] == trial.user_attrs["config"]
        # what was known of it is kept, not trained again
        known = [report for report in reports_of(after[trial.number]) if report.update in trial.intermediate_values]
        assert known == reports_of(trial)


@pytest.mark.cluster
def test_a_search_at_the_side_of_another_job_on_the_same_machine(slurm: Any, isolated: Path, tiny: Tiny) -> None:
    """The end of one job's Ray leaves the other's alone."""
    other = str(int(slurm.environment["SLURM_JOB_ID"]) + 1)
    options = ("--pruner", "none", "--confirm-seeds", "0")
    longer = ("--trials", "3", *options, *tiny(updates=400, evaluations=20))
    with (
        slurm.running(*longer, RUN_DIR=str(isolated / "runs" / "longer")) as first,
        slurm.running("--trials", "1", *options, *tiny(), SLURM_JOB_ID=other, HEAD_IP="127.0.0.3") as second,
    ):
        assert second.end() == 0, (second.err, logs(isolated))
        assert first.end() == 0, (first.err, logs(isolated))
        gone(slurm, first)
        gone(slurm, second)
    assert list(d3tune.load_run("longer").trials()["state"]) == ["COMPLETE"] * 3


def logs(home: Path) -> str:
    """What the nodes said, for a test that failed."""
    paths = sorted(home.glob("slurm/*/node-*.log"))
    return "\n".join(f"{path.name}: {path.read_text(encoding='utf-8')[-2000:]}" for path in paths)

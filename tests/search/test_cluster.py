"""Searches on real Ray clusters of several nodes: lost and joining nodes, a lost head, what nodes must share.

All nodes are this machine's, each with an address, processes and, where that is said, a network or a view of the disk
of its own.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from optuna.trial import TrialState

import d3tune
from d3tune.data.prepared import open_prepared
from d3tune.search.invariants import run_faults
from d3tune.search.run import RunDirectory
from d3tune.search.study import read_trials, reports_of

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

LONG = {"updates": 400, "evaluations": 40}
PLAIN = ("--pruner", "none", "--confirm-seeds", "0")


@pytest.fixture(scope="session")
def clusters(module_of: Callable[[Path], ModuleType]) -> ModuleType:
    """The module ``clusters.py`` beside this file."""
    return module_of(Path(__file__).with_name("clusters.py"))


@pytest.fixture
def pair(clusters: Any) -> Iterator[Any]:
    """A head that runs one trial at a time."""
    with clusters.cluster() as made:
        yield made


@pytest.fixture
def apart(clusters: Any) -> Iterator[tuple[Any, Any]]:
    """A network and a head on it; nodes are in network namespaces of their own, joined by that network alone."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("only root can make networks, by ip of iproute2")
    with clusters.network() as network, clusters.cluster(places=network) as made:
        yield network, made


@pytest.fixture
def ready(isolated: Path, mlflow_template: Path) -> Path:
    isolated.mkdir()
    shutil.copy(mlflow_template, isolated / "mlflow.db")
    return isolated


def assert_whole(run: RunDirectory, home: Path, n: int, evaluations: int = 40) -> None:
    """Each trial once, with its whole curve, in the study and in MLflow."""
    trials = read_trials(run.journal)
    assert [trial.number for trial in trials] == list(range(n))
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * n
    for trial in trials:
        assert len(reports_of(trial)) == len(trial.intermediate_values) == evaluations
    assert run_faults(run, f"sqlite:///{home / 'mlflow.db'}") == []


def actors(node: Any) -> int:
    """How many workers on a node run trials now."""
    return sum(line.startswith("ray::") and ("TrialActor" in line or "Trainable" in line) for line in node.programs())


def test_trials_of_a_node_that_is_killed_go_on_elsewhere(
    pair: Any, ready: Path, tiny: dict[str, Any], commands: Any
) -> None:
    node = pair.join()
    search = commands.options(tiny, **LONG)
    with commands.running(
        ready, *search, *PLAIN, "--trials", "4", "--address", pair.address, **pair.environment
    ) as command:
        commands.until(lambda: actors(pair.head) == 1 and actors(node) == 1, "a trial on each node")
        commands.until(
            lambda: len({path.parent for path in ready.glob("runs/*/trials/*/checkpoint-*.json")}) >= 2,
            "a checkpoint of both",
        )
        node.kill("raylet")
        assert command.end() == 0, command.err
    assert_whole(commands.only_run(ready), ready, 4)


@pytest.mark.cluster
@pytest.mark.parametrize("end", ["killed", "cut"])
def test_on_a_network_a_node_is_lost_and_another_that_joins_is_used(
    apart: tuple[Any, Any], ready: Path, tiny: dict[str, Any], commands: Any, end: str
) -> None:
    network, made = apart
    lost = made.join()
    search = commands.options(tiny, **LONG)
    words = (*search, *PLAIN, "--trials", "6", "--concurrency", "2", "--address", made.address)
    with commands.running(ready, *words, **made.environment) as command:
        commands.until(lambda: actors(made.head) == 1 and actors(lost) == 1, "a trial on each node")
        commands.until(
            lambda: len({path.parent for path in ready.glob("runs/*/trials/*/checkpoint-*.json")}) >= 2,
            "a checkpoint of both",
        )
        if end == "killed":
            lost.kill("raylet")
        else:
            # its worker trains on, and writes where the one that takes over writes
            network.cut(1)
        other = made.join()
        commands.until(lambda: actors(other) == 1, "a trial on the node that joined")
        assert command.end() == 0, command.err
    assert_whole(commands.only_run(ready), ready, 6)


@pytest.mark.cluster
def test_a_cluster_without_a_node_that_trains_is_said_and_goes_on_when_one_joins(
    clusters: Any, ready: Path, tiny: dict[str, Any], commands: Any
) -> None:
    words = (*commands.options(tiny, **LONG), *PLAIN, "--trials", "2")
    with clusters.cluster(cpus=0) as made:
        node = made.join()
        with commands.running(ready, *words, "--address", made.address, **made.environment) as command:
            commands.until(lambda: list(ready.glob("runs/*/trials/*/checkpoint-*.json")), "a checkpoint")
            node.kill("raylet")
            commands.until(lambda: "no machine of the cluster can train" in "".join(command.err), "the line")
            made.join()
            assert command.end() == 0, command.err
        assert "can train again" in "".join(command.err)
    assert_whole(commands.only_run(ready), ready, 2)


@pytest.mark.cluster
def test_a_search_whose_time_is_over_does_not_wait_for_a_node(
    clusters: Any, ready: Path, tiny: dict[str, Any], commands: Any
) -> None:
    words = (*commands.options(tiny, **LONG), *PLAIN, "--trials", "2", "--time", "40s")
    with clusters.cluster(cpus=0) as made:
        node = made.join()
        with commands.running(ready, *words, "--address", made.address, **made.environment) as command:
            commands.until(lambda: list(ready.glob("runs/*/trials/*/checkpoint-*.json")), "a checkpoint")
            node.kill("raylet")
            assert command.end() == 130, command.err
        assert "the time is over and no machine of the cluster can train" in "".join(command.err)
    run = commands.only_run(ready)
    with commands.running(ready, "resume", run.name, "--address", "none", "--time", "1h") as command:
        assert command.end() == 0, command.err
    assert_whole(run, ready, 2)


@pytest.mark.cluster
def test_a_node_that_joins_is_used(pair: Any, ready: Path, tiny: dict[str, Any], commands: Any) -> None:
    search = commands.options(tiny, **LONG)
    with commands.running(
        ready, *search, *PLAIN, "--trials", "6", "--concurrency", "2", "--address", pair.address, **pair.environment
    ) as command:
        commands.until(lambda: actors(pair.head) == 1, "the first trial")
        node = pair.join()
        commands.until(lambda: actors(node) == 1, "a trial on the new node")
        assert command.end() == 0, command.err
    assert_whole(commands.only_run(ready), ready, 6)


@pytest.mark.cluster
def test_a_lost_head_ends_the_search_and_another_cluster_goes_on(
    clusters: Any, ready: Path, tiny: dict[str, Any], commands: Any
) -> None:
    search = commands.options(tiny, **LONG)
    with (
        clusters.cluster() as lost,
        commands.running(
            ready, *search, *PLAIN, "--trials", "3", "--address", lost.address, **lost.environment
        ) as command,
    ):
        commands.until(lambda: list(ready.glob("runs/*/trials/*/checkpoint-*.json")), "a checkpoint")
        lost.head.kill("gcs_server")
        assert command.end() not in (0, 130), command.err
        assert "head node ended unexpectedly" in "".join(command.err)
        assert "Traceback" not in "".join(command.err)
    run = commands.only_run(ready)
    before = {trial.number: reports_of(trial) for trial in read_trials(run.journal)}
    assert any(before.values())
    with (
        clusters.cluster() as other,
        commands.running(ready, "resume", run.name, "--address", other.address, **other.environment) as command,
    ):
        assert command.end() == 0, command.err
    assert_whole(run, ready, 3)
    for number, reports in before.items():
        assert reports_of(read_trials(run.journal)[number])[: len(reports)] == reports


def hidden(folder: Path, empty: Path) -> list[str]:
    """A command that runs another where a folder is empty."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can give a process a view of the disk of its own")
    empty.mkdir(exist_ok=True)
    script = f"mount --bind '{empty}' '{folder}' && exec \"$@\""
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]


@pytest.mark.cluster
def test_a_node_that_does_not_see_the_run_is_refused_by_its_address(
    pair: Any, ready: Path, tiny: dict[str, Any], commands: Any, tmp_path: Path
) -> None:
    (ready / "runs").mkdir()
    pair.join(before=hidden(ready / "runs", tmp_path / "empty"))
    search = commands.options(tiny)
    words = (*search, *PLAIN, "--trials", "2", "--address", pair.address)
    with commands.running(ready, *words, **pair.environment) as command:
        assert command.end() == 2, command.err
    assert command.err[-1].startswith("d3tune: node 127.0.0.3: it does not see the run directory ")
    assert read_trials(commands.only_run(ready).journal) == []


@pytest.mark.cluster
def test_a_node_that_joins_and_cannot_load_d3tune_ends_the_search_and_fails_no_trial(
    pair: Any, ready: Path, tiny: dict[str, Any], commands: Any, tmp_path: Path
) -> None:
    package = Path(d3tune.__file__).parent
    words = (*commands.options(tiny, **LONG), *PLAIN, "--trials", "6", "--concurrency", "2", "--address", pair.address)
    with commands.running(ready, *words, **pair.environment) as command:
        commands.until(lambda: actors(pair.head) == 1, "the first trial")
        pair.join(before=hidden(package, tmp_path / "empty"))
        assert command.end() == 2, command.err
    assert command.err[-1].startswith("d3tune: node 127.0.0.3: "), command.err
    run = commands.only_run(ready)
    assert TrialState.FAIL not in {trial.state for trial in read_trials(run.journal)}
    with commands.running(ready, "resume", run.name, "--address", "none") as command:
        assert command.end() == 0, command.err
    assert_whole(run, ready, 6)


@pytest.mark.cluster
def test_a_node_without_the_data_gets_it_and_one_with_other_data_is_refused(
    pair: Any, ready: Path, tiny: dict[str, Any], commands: Any, tmp_path: Path
) -> None:
    own = tmp_path / "node-home"
    own.mkdir()
    (ready / "datasets").mkdir()
    pair.join(before=hidden(ready / "datasets", tmp_path / "empty"), D3TUNE_HOME=str(own))
    words = (*commands.options(tiny, **LONG), *PLAIN, "--trials", "3", "--address", pair.address)
    with commands.running(ready, *words, **pair.environment) as command:
        assert command.end() == 0, command.err
    run = commands.only_run(ready)
    assert_whole(run, ready, 3)
    (copy,) = (path for path in (own / "datasets").iterdir() if not path.name.startswith("."))
    assert copy.name == run.dataset_path.name
    assert open_prepared(copy, verify=True).content_hash == run.search.dataset_hash
    # what the node computed of it lies beside its copy: it was trained from that
    assert list((copy / "scaled").iterdir())

    labels = copy / "labels.npy"
    content = bytearray(labels.read_bytes())
    content[-8] ^= 1
    labels.write_bytes(content)
    with commands.running(ready, *words[:-4], "--trials", "4", *words[-2:], **pair.environment) as command:
        assert command.end() == 2, command.err
    assert command.err[-1].startswith(f"d3tune: node 127.0.0.3: the prepared dataset in {copy} is damaged")
    assert len(read_trials(run.journal)) == 3

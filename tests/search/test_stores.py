"""The MLflow store that a search is given: the same from anywhere, shared by several, restored where it was deleted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from d3tune.search.invariants import run_faults
from d3tune.search.run import RunDirectory, open_run
from d3tune.search.search import Outcome
from d3tune.search.tracking import check_uri, default_uri, origin, store_uri

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

ToyRun = Callable[..., RunDirectory]
CarryOut = Callable[..., Outcome]


def test_a_relative_store_is_the_same_one_from_another_folder(
    command: Callable[..., Any], toy_options: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = ("--trials", "1", "--confirm-seeds", "0", "--executor", "local", "--run-dir", tmp_path / "run")
    assert command("search", *toy_options(), *short, "--tracking-uri", "sqlite:///mine.db").code == 0
    store = Path("mine.db").absolute()
    assert store.is_file()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command("sync", tmp_path / "run").code == 0
    end = command("resume", tmp_path / "run", "--trials", "2")
    assert end.code == 0, end.err
    assert list(Path.cwd().iterdir()) == []
    assert run_faults(open_run(str(tmp_path / "run")), f"sqlite:///{store}") == []


def test_the_variable_is_named_where_it_named_the_store(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine.db?timeout=9")
    uri = store_uri(None)
    assert uri == f"sqlite:///{Path.cwd()}/mine.db?timeout=9"
    assert origin(uri) == "MLFLOW_TRACKING_URI"
    assert origin("sqlite:///other.db") == "--tracking-uri"
    assert store_uri("http://host:1") == check_uri("http://host:1") == "http://host:1"


def test_options_of_a_store_are_no_part_of_its_files_name(toy_run: ToyRun, carry_out: CarryOut) -> None:
    run = toy_run()
    carry_out(run, trials=1)
    assert run_faults(run, f"{default_uri()}?timeout=60") == []


def test_a_deleted_experiment_is_restored_and_goes_on(toy_run: ToyRun, carry_out: CarryOut, sound: Any) -> None:
    run = toy_run()
    carry_out(run, trials=1)
    client = MlflowClient(default_uri())
    experiment = client.get_experiment_by_name("d3tune/toy")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    carry_out(run, trials=2)
    sound(run, 2)


def test_two_searches_may_make_the_experiment_at_once(
    toy_run: ToyRun, carry_out: CarryOut, sound: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = toy_run(run_dir=tmp_path / "first"), toy_run(run_dir=tmp_path / "second")
    look, looks = MlflowClient.get_experiment_by_name, list[str]()

    def too_early(client: MlflowClient, name: str) -> Any:
        looks.append(name)
        if len(looks) == 1:
            # the other one makes it between this one's look and its own try
            carry_out(first, trials=1)
            return None
        return look(client, name)

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", too_early)
    carry_out(second, trials=1)
    sound(first, 1)
    sound(second, 1)

"""Commands that work: what they print, what is data alone, and what they leave."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

import d3tune as package
from d3tune.cli import app
from d3tune.search.summaries import configuration_id
from d3tune.yamlfile import read_yaml

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

Command = Callable[..., Any]
LOCAL = ("search", "--dataset", "hanzi", "--executor", "local", "--confirm-seeds", "1")


def commands() -> list[list[str]]:
    """Every command and group, as typed."""
    top = typer.main.get_command(app)
    found: list[list[str]] = [[]]
    for name, command in top.commands.items():  # type: ignore[attr-defined]
        found.append([name])
        found += [[name, inner] for inner in getattr(command, "commands", {})]
    return found


def test_help_of_every_command_works_and_loads_nothing_heavy() -> None:
    code = f"""
import sys
from d3tune.cli import main
for arguments in {commands()}:
    sys.argv = ["d3tune", *arguments, "--help"]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0, arguments
heavy = sorted({{"torch", "ray", "mlflow", "optuna", "pandas", "numpy", "scipy"}} & set(sys.modules))
assert not heavy, heavy
"""
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert end.returncode == 0, end.stderr
    assert end.stderr == ""
    assert end.stdout.count("Usage:") == len(commands())
    assert len(commands()) > 10


@pytest.mark.parametrize("arguments", [(), ("data",)])
def test_no_command_shows_the_help_as_it_is(arguments: tuple[str, ...], d3tune: Command) -> None:
    end = d3tune(*arguments)
    text = end.out + end.err
    assert end.code in (0, 2)
    assert "Usage:" in text
    assert not text.startswith("d3tune: ")
    assert len(text.splitlines()) > 5


def test_an_empty_leaderboard_says_how_to_start(d3tune: Command) -> None:
    end = d3tune("leaderboard")
    assert end.code == 0
    assert "d3tune search --dataset hanzi" in end.out
    assert json.loads(d3tune("leaderboard", "--json").out) == []


def test_datasets_are_listed(d3tune: Command, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "FLO"
    folder.mkdir(parents=True)
    (folder / "att_splits.mat").touch()
    end = d3tune("data", "list", "--data-dir", tmp_path / "data")
    assert end.code == 0
    assert "hanzi/0" in end.out
    assert "res101.mat is missing" in end.out
    rows = {row["name"]: row for row in json.loads(d3tune("data", "list", "--json").out)}
    assert rows["hanzi/0"]["rows"] == 7226
    assert rows["hanzi/0"]["complete"] is True


def test_a_simulated_pair_is_checked_and_listed(d3tune: Command, tmp_path: Path) -> None:
    end = d3tune("data", "simulate", tmp_path / "data", "--like", "apy", "--rows", "0.01")
    assert end.code == 0
    assert end.err == f"wrote {tmp_path / 'data' / 'APY'}\n"
    end = d3tune("data", "check", "apy", "--data-dir", tmp_path / "data")
    assert end.code == 0
    assert "apy: every check passed" in end.out
    assert "20 seen, 12 unseen" in end.out
    assert "simulated" in end.out
    summary = json.loads(d3tune("data", "check", "apy", "--data-dir", tmp_path / "data", "--json").out)
    assert (summary["n_seen"], summary["n_unseen"], summary["n_features"]) == (20, 12, 2048)
    again = d3tune("data", "simulate", tmp_path / "data", "--like", "apy", "--rows", "0.01")
    assert again.code == 2
    assert "already holds" in again.err


def test_hanzi_is_checked(d3tune: Command) -> None:
    end = d3tune("data", "check", "hanzi", "--json")
    assert json.loads(end.out)["name"] == "hanzi/0"
    assert end.err == ""


def test_the_version_is_printed(d3tune: Command) -> None:
    end = d3tune("--version")
    assert (end.code, end.out, end.err) == (0, f"d3tune {package.__version__}\n", "")


def test_python_users_see_what_is_offered_before_anything_heavy_is_loaded() -> None:
    code = """
import sys
import d3tune
print(*dir(d3tune))
heavy = sorted({"torch", "ray", "mlflow", "optuna", "pandas", "numpy"} & set(sys.modules))
assert not heavy, heavy
"""
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert end.returncode == 0, end.stderr
    assert {"load_run", "leaderboard", "__version__"} <= set(end.stdout.split())


def test_a_space_of_ones_own_says_what_its_overrides_replace(
    d3tune: Command, tiny: tuple[str, ...], with_store: Path, tmp_path: Path
) -> None:
    space = tmp_path / "mine.yaml"
    space.write_text(
        "backbone: gan\nfixed: {head_lr: .001}\nparameters: {generator_lr: {low: .001, high: .01}}\n"
        "overrides: [{scope: {max_features: 512}, fixed: {head_lr: .002, batch_size: 64}}]\n",
        encoding="utf-8",
    )
    run = tmp_path / "run"
    end = d3tune(*LOCAL, *tiny, "--trials", "1", "--time", "0s", "--run-dir", run, "--space", space)
    assert "override" not in end.out
    (line,) = [line for line in end.err.splitlines() if "override" in line]
    assert line == f"{space}: the override for max_features 512 covers hanzi/0 and replaces what is above it: head_lr"
    assert read_yaml(run / "run.yaml")["space"]["fixed"]["head_lr"] == 0.002
    shipped = d3tune(*LOCAL, *tiny, "--trials", "1", "--time", "0s")
    assert "override" not in shipped.err


def test_a_search_prints_table_winner_and_paths(
    d3tune: Command, tiny: tuple[str, ...], with_store: Path, tmp_path: Path
) -> None:
    end = d3tune(*LOCAL, *tiny, "--trials", "2", "--baselines")
    assert end.code == 0
    (run,) = (with_store / "runs").iterdir()
    assert str(run / "best.yaml") in end.out
    for words in ("gan (", "gaussian (baseline)", "ESZSL (baseline)", "val H", "test H", "winner: trial "):
        assert words in end.out
    assert "d3tune/hanzi-0" in end.out
    assert f"run {run}" in end.err
    assert end.err.count("\ntrial ") == 2

    # the same again: nothing is trained, the same result; as JSON, data alone
    again = d3tune(*LOCAL, *tiny, "--trials", "2", "--json")
    assert again.code == 0
    assert f"going on with run {run}" in again.err
    assert "\ntrial " not in again.err
    data = json.loads(again.out)
    assert data == {**json.loads((run / "summary.json").read_text(encoding="utf-8")), "path": str(run)}
    assert data["test"]["H"]["sd"] is None

    # two more and only two
    more = d3tune("resume", run.name, "--executor", "local", "--trials", "+2", "--confirm-seeds", "1")
    assert more.code == 0
    assert more.err.count("trial   ") == 2
    assert sum(json.loads((run / "summary.json").read_text(encoding="utf-8"))["trials"].values()) == 4
    less = d3tune("resume", run.name, "--executor", "local", "--trials", "+x")
    assert (less.code, less.err.count("\n")) == (2, 1)

    # leaderboard, export, training
    rows = json.loads(d3tune("leaderboard", "--json").out)
    rows.sort(key=lambda row: row["kind"] != "search")
    assert [row["run"] for row in rows] == [run.name] * 3
    assert [row["kind"] for row in rows] == ["search", "baseline", "baseline"]
    best = read_yaml(run / "best.yaml")
    assert rows[0]["configuration"] == configuration_id(best["backbone"], best["config"])
    assert data["configuration"] == rows[0]["configuration"]
    table = d3tune("leaderboard")
    assert run.name in table.out
    out = tmp_path / "out.yaml"
    assert d3tune("export", run, "-o", out).err == f"wrote {out}\n"
    trained = d3tune("train", out, "--seeds", "1", "--json")
    assert json.loads(trained.out)["test"]["H_per_seed"].values()
    held = json.loads((run / "summary.json").read_text(encoding="utf-8"))["test"]["H_per_seed"]
    assert json.loads(trained.out)["test"]["H_per_seed"] == held

    # another search in the same directory
    other = d3tune(*LOCAL, *tiny, "--set", "noise_dim=9", "--run-dir", run)
    assert (other.code, other.out, other.err.count("\n")) == (1, "", 1)
    assert "noise_dim" in other.err


def test_a_value_is_not_called_val_h_under_another_objective(
    d3tune: Command, tiny: tuple[str, ...], with_store: Path
) -> None:
    end = d3tune(*LOCAL, *tiny, "--trials", "1", "--objective", "AUSUC", "--confirm-seeds", "0", "--json")
    value = json.loads(end.out)["winner"]["value"]
    again = d3tune(*LOCAL, *tiny, "--trials", "1", "--objective", "AUSUC", "--confirm-seeds", "0")
    (line,) = [line for line in again.out.splitlines() if line.startswith("winner: ")]
    assert f"{value:.3f}" in line
    assert "AUSUC" in line
    assert "val/H " not in line


def test_every_trial_failing_is_exit_code_3(
    d3tune: Command, tiny: tuple[str, ...], with_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from d3tune.method.generators.gan import Gan

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Gan, "prepare", fail)
    end = d3tune(*LOCAL, *tiny, "--trials", "2")
    assert end.code == 3
    last = end.err.splitlines()[-1]
    assert last.startswith("d3tune: no trial was completed: 2 of 2 failed")
    assert "out of memory" in last
    assert "Traceback" not in end.err


def test_a_store_that_was_lost_is_written_again(
    d3tune: Command, tiny: tuple[str, ...], with_store: Path, mlflow_template: Path
) -> None:
    from mlflow import MlflowClient

    d3tune(*LOCAL, *tiny, "--trials", "2")
    (run,) = (with_store / "runs").iterdir()
    (with_store / "second.db").write_bytes(mlflow_template.read_bytes())
    uri = f"sqlite:///{with_store / 'second.db'}"
    end = d3tune("sync", run.name, "--tracking-uri", uri)
    assert (end.code, end.out) == (0, "")
    stores = []
    for place in (uri, f"sqlite:///{with_store / 'mlflow.db'}"):
        client = MlflowClient(place)
        runs = client.search_runs([client.get_experiment_by_name("d3tune/hanzi-0").experiment_id])  # type: ignore[union-attr]
        stores.append(sorted((r.info.run_name, r.info.status, r.data.metrics.get("val/best_H")) for r in runs))
    assert stores[0] == stores[1]
    assert len(stores[0]) == 3


def test_every_setting_is_listed(d3tune: Command) -> None:
    end = d3tune("search", "--dataset", "hanzi", "--backbone", "gaussian", "--set", "list")
    assert (end.code, end.err) == (0, "")
    (line,) = [line for line in end.out.splitlines() if "feature_scaling" in line]
    assert line.split()[:2] == ["feature_scaling", "standard"]


def test_a_run_in_use_is_refused(d3tune: Command, tiny: tuple[str, ...], with_store: Path) -> None:
    from d3tune.search.run import open_run

    d3tune(*LOCAL, *tiny, "--trials", "1", "--time", "0s")
    (path,) = (with_store / "runs").iterdir()
    with open_run(str(path)).owned():
        end = d3tune("resume", path, "--executor", "local")
    assert end.code == 1
    assert end.err.startswith(f"d3tune: {path}: in use by process ")


def test_a_new_store_is_created_without_chatter(program: Command, tiny: tuple[str, ...], isolated: Path) -> None:
    end = program(*LOCAL, *tiny, "--trials", "1", "--confirm-seeds", "0")
    assert end.code == 0, end.err
    lines = end.err.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "trial"], end.err
    assert (isolated / "mlflow.db").exists()


def test_a_terminal_that_knows_ascii_alone_gets_a_result_too(program: Command) -> None:
    for arguments in (("data", "list"), ("doctor",), ("--help",)):
        end = program(*arguments, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
        assert end.code == 0, end.err[-300:]

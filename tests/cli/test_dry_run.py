"""``d3tune search --dry-run``: what it says is what the search would do, and it leaves nothing behind."""

import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from d3tune.config import Resources
from d3tune.errors import D3TuneError
from d3tune.search.dryrun import estimate
from d3tune.search.jobs import TrainingJob
from d3tune.search.lock import owned
from d3tune.search.probe import Probe, probe
from d3tune.search.search import Plan
from d3tune.search.study import read_trials

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

LOCAL = ("--executor", "local", "--confirm-seeds", "0")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for temporary files."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def content(folder: Path) -> dict[str, Any]:
    """Every file below a folder, with its content and when it was changed."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_it_says_what_would_be_searched_and_keeps_nothing(
    program: Callable[..., Any], tiny: tuple[str, ...], isolated: Path, scratch: Path
) -> None:
    end = program("search", "--dataset", "hanzi", *tiny, "--trials", "7", "--time", "2h", "--dry-run")
    assert end.code == 0, end.err
    assert not isolated.exists()
    assert list(Path.cwd().iterdir()) == []
    assert list(scratch.iterdir()) == []
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in end.out.splitlines() if re.match(r"\w.*  ", line))
    assert lines["dataset"] == "hanzi/0 (7226 rows of 256, 150 seen and 50 unseen classes; pixels)"
    assert lines["budget of a trial"] == "40 updates, 4 evaluations"
    assert lines["trials"] == "7, none begun after 2 h"
    assert lines["run"].startswith(f"{isolated}/runs/hanzi-0-gan-s0-")
    assert lines["run"].endswith("(new)")
    assert re.search(r"generator_lr +0.0005 to 0.005 +log", end.out)
    assert re.search(r"gcls_weight +0, or 0.01 to 5 +log", end.out)
    assert re.search(r"temperature +0.5 to 4 +log +label_weight > 0", end.out)
    assert re.search(r"sample +trial 0 +trial 1 +trial 2\n.*\n +warm start 'student-head'", end.out)
    assert re.search(r"an update [\d.e+]+ m?s \(mean of \d+\), an evaluation [\d.e+]+ m?s", end.out)
    assert "no trial is pruned" in end.out


def test_as_data_it_names_what_the_search_begins_with(
    d3tune: Callable[..., Any], tiny: tuple[str, ...], with_store: Path
) -> None:
    options = ("search", "--dataset", "hanzi", *tiny, *LOCAL, "--trials", "3", "--seed", "5")
    dry = d3tune(*options, "--dry-run", "--json")
    assert dry.code == 0, dry.err
    found = json.loads(dry.out)
    assert [file.name for file in with_store.iterdir()] == ["mlflow.db"]
    assert json.loads(d3tune(*options, "--dry-run", "--json").out)["samples"] == found["samples"]
    end = d3tune(*options, "--json")
    assert end.code == 0, end.err
    (run,) = (with_store / "runs").iterdir()
    assert found["run"] == {"path": str(run), "trials_there": None, "trials_left": 3}
    trials = read_trials(run / "study.journal")
    assert [sample["config"] for sample in found["samples"]] == [trial.user_attrs["config"] for trial in trials]
    origins = [trial.user_attrs.get("warm_start") for trial in trials]
    assert [sample["origin"] for sample in found["samples"]] == [
        "sampled" if name is None else f"warm start '{name}'" for name in origins
    ]
    assert all(sample["values"].items() <= sample["config"].items() for sample in found["samples"])
    assert found["machine"]["at_once"] == 1
    probe = found["probe"]
    assert probe["updates"] >= 1
    assert min(probe["setup_seconds"], probe["update_seconds"], probe["evaluation_seconds"]) > 0
    # torch alone is more, this machine less
    assert 5e7 < probe["memory_bytes"] < 5e10
    weights = max(file.stat().st_size for file in run.rglob("weights.safetensors"))
    assert probe["weights_bytes"] == pytest.approx(weights, rel=1.5)


def test_of_a_run_that_is_there_it_says_what_comes_next_and_changes_nothing(
    d3tune: Callable[..., Any], tiny: tuple[str, ...], with_store: Path
) -> None:
    options = ("search", "--dataset", "hanzi", *tiny, *LOCAL, "--warm-start", "none")
    assert d3tune(*options, "--trials", "2").code == 0
    before = content(with_store)
    dry = d3tune(*options, "--trials", "4", "--dry-run", "--json")
    assert content(with_store) == before
    found = json.loads(dry.out)
    assert found["run"]["trials_there"] == 2
    assert found["run"]["trials_left"] == 2
    assert [sample["trial"] for sample in found["samples"]] == [2, 3]
    assert d3tune(*options, "--trials", "4").code == 0
    (run,) = (with_store / "runs").iterdir()
    trials = read_trials(run / "study.journal")
    # the sampler has seen trial 2 by the time it suggests trial 3: the next one is what can be known
    assert found["samples"][0]["config"] == trials[2].user_attrs["config"]
    done = d3tune(*options, "--trials", "4", "--dry-run")
    assert "goes on: 4 trials there, 0 left" in done.out
    assert "samples: no trial is left" in done.out


def wrong(tmp_path: Path) -> list[tuple[str, ...]]:
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thing").write_text("x")
    return [
        ("--dataset", "hanzy"),
        ("--dataset", "hanzi", "--backbone", "gna"),
        ("--dataset", "hanzi", "--cpus-per-trial", "999"),
        ("--dataset", "hanzi", "--gpus-per-trial", "99"),
        ("--dataset", "hanzi", "--time", "soon"),
        ("--dataset", "hanzi", "--set", "updates=0"),
        ("--dataset", "hanzi", "--sampler", "tp"),
        ("--dataset", "hanzi", "--space", str(tmp_path / "none.yaml")),
        ("--dataset", "hanzi", "--run-dir", str(tmp_path / "file")),
        ("--dataset", "hanzi", "--run-dir", str(tmp_path / "other")),
        ("--dataset", "hanzi", "--extend"),
        ("--dataset", "hanzi", "--extend", "--run-dir", str(tmp_path / "none")),
        ("--dataset", "hanzi", "--tracking-uri", "ftp://here"),
        ("--dataset", "hanzi", "--tracking-uri", f"sqlite:///{tmp_path}/none/mlflow.db"),
        ("--dataset", "hanzi", "--address", "127.0.0.1:1"),
    ]


@pytest.mark.parametrize("index", range(15))
def test_what_the_search_refuses_it_refuses(
    index: int, d3tune: Callable[..., Any], tmp_path: Path, isolated: Path
) -> None:
    options = wrong(tmp_path)[index]
    dry = d3tune("search", *options, "--dry-run")
    assert not isolated.exists()
    real = d3tune("search", *options)
    assert real.code in (1, 2)
    assert (dry.code, dry.out, dry.err) == (real.code, "", real.err)


def test_a_run_of_another_space_is_refused_and_a_run_in_use_too(
    d3tune: Callable[..., Any], tiny: tuple[str, ...], with_store: Path, tmp_path: Path
) -> None:
    options = ("search", "--dataset", "hanzi", *tiny, *LOCAL, "--trials", "1", "--run-dir", str(tmp_path / "run"))
    assert d3tune(*options).code == 0
    before = content(tmp_path)
    other = (*options, "--set", "batch_size=64")
    dry, real = d3tune(*other, "--dry-run"), d3tune(*other)
    assert (dry.code, dry.err) == (real.code, real.err) == (1, dry.err)
    assert "holds another search" in dry.err
    extended = d3tune(*other, "--extend", "--dry-run")
    assert extended.code == 0, extended.err
    comparable = d3tune(*other, "--extend", "--seed", "9", "--dry-run")
    assert comparable.code == 1
    assert "would not be comparable" in comparable.err
    assert content(tmp_path) == before
    with owned(tmp_path / "run"):
        dry, real = d3tune(*options, "--dry-run"), d3tune(*options)
        assert (dry.code, dry.err.splitlines()[-1]) == (real.code, real.err.splitlines()[-1])
        assert "in use by process" in dry.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_that_cannot_be_written_is_refused(d3tune: Callable[..., Any], isolated: Path) -> None:
    isolated.mkdir(mode=0o500)
    dry, real = (d3tune("search", "--dataset", "hanzi", *more) for more in (("--dry-run",), ()))
    assert (dry.code, dry.err) == (real.code, real.err)


def test_a_home_that_is_a_file_is_refused(d3tune: Callable[..., Any], isolated: Path) -> None:
    isolated.write_text("x")
    dry = d3tune("search", "--dataset", "hanzi", "--dry-run")
    assert dry.code == 1
    assert str(isolated) in dry.err
    assert "D3TUNE_HOME" in dry.err


def test_a_configuration_that_cannot_be_trained_is_told_in_one_line(tmp_path: Path) -> None:
    job = TrainingJob("gan", {}, str(tmp_path / "none"), "0", 0)
    with pytest.raises(
        D3TuneError, match="cannot be trained here: DatasetError: there is no prepared dataset"
    ) as raised:
        probe(job, tmp_path, 0.1)
    assert "\n" not in str(raised.value)


def test_the_estimate_is_that_of_a_slow_count() -> None:
    measured = Probe(3.0, 0.01, 50, 0.5, 200_000_000, 0, 1_000_000, 400_000, 2_000)
    plan = Plan(11, None, Resources(), 3, False, "", keep_weights=2)
    budget = {"updates": 100, "evaluations": 4}
    trial = 3.0 + sum(0.01 for _ in range(100)) + 4 * 0.5
    workers = [0.0] * 4
    for _ in range(9):
        workers.sort()
        workers[0] += trial
    found = estimate(measured, plan, budget, 9, 4)
    assert found.trial_seconds == pytest.approx(trial)
    assert found.search_seconds == pytest.approx(max(workers))
    assert found.confirm_seconds == pytest.approx(trial + 3.0 + 1.0 + 0.5)
    records = sum(2_000 for _ in range(11) for _ in range(4) for _ in ("study", "record"))
    assert found.disk_bytes == 2 * 400_000 + records
    assert found.most_disk_bytes == found.disk_bytes + 4 * (2 * 1_000_000 + 400_000)
    hurried = Plan(11, 1.0, Resources(), 0, False, "")
    assert estimate(measured, hurried, budget, 9, 4).search_seconds == pytest.approx(1.0 + trial)
    assert estimate(measured, hurried, budget, 9, 4).confirm_seconds == 0.0

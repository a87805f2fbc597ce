"""Recorded trials are what a training reports, are not trained twice, and never of two spaces in one table."""

import importlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from d3tune.data.registry import find_dataset, prepared_path
from d3tune.search.jobs import TrainingJob
from d3tune.search.trial import curve

SMALL = ("updates=40", "evaluations=2", "hidden_dim=32", "embed_dim=32", "teacher_epochs=1", "head_epochs=1")
GAN = ("--backbones", "gan", "--datasets", "hanzi/0", "--jobs", "1", "--repeated", "1", "--seeds", "2")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What the program sets for its own process is put back."""
    for name in ("D3TUNE_HOME", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    before, verbosity = signal.getsignal(signal.SIGTERM), optuna.logging.get_verbosity()
    yield
    signal.signal(signal.SIGTERM, before)
    optuna.logging.set_verbosity(verbosity)


def record(tables: Path, trials: int, *settings: str) -> int:
    program: Any = importlib.import_module("benchmarks.record")
    options = ("--trials", str(trials), "--tables", str(tables), "--set", *SMALL, *settings)
    return int(program.main([*GAN, *options]))


def table(tables: Path) -> Any:
    trials: Any = importlib.import_module("benchmarks.trials")
    return trials.Table(trials.Cell("gan", "hanzi/0"), tables)


def test_what_is_recorded_is_what_a_training_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record(tmp_path, 1) == 0
    first = table(tmp_path)
    assert list(first.rows) == [(0, 0), (0, 1)]
    # another configuration goes on from there, and trains nothing again
    assert record(tmp_path, 2) == 0
    rows = table(tmp_path).rows
    assert list(rows) == [(0, 0), (0, 1), (1, 0)]
    assert {key: rows[key] for key in first.rows} == first.rows
    assert rows[0, 0].config == rows[0, 1].config != rows[1, 0].config
    assert rows[0, 0].reports != rows[0, 1].reports
    monkeypatch.setenv("D3TUNE_HOME", str(tmp_path / "home"))
    dataset = find_dataset("hanzi/0")
    for row in rows.values():
        job = TrainingJob("gan", dict(row.config), str(prepared_path(dataset)), dataset.content_hash, row.seed)
        again = curve(job)
        assert [report.update for report in row.reports] == [20, 40]
        assert [report.value for report in row.reports] == [report["value"] for report in again]
        assert [report.head for report in row.reports] == [report["head"] for report in again]
        for report, expected in zip(row.reports, again, strict=True):
            assert report.metrics == {name: float(np.float32(x)) for name, x in expected["metrics"].items()}
    # the space is another one
    capsys.readouterr()
    assert record(tmp_path, 2, "batch_size=64") == 2
    said = capsys.readouterr().err
    assert "gan-hanzi-0.parquet: its rows have another space hash; give another --tables, or remove it" in said
    assert table(tmp_path).rows == rows


def test_within_no_time_nothing_is_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program: Any = importlib.import_module("benchmarks.record")
    assert program.main([*GAN, "--trials", "2", "--hours", "0", "--tables", str(tmp_path)]) == 1
    assert "3 trainings left" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_damaged_table_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gan-hanzi-0.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "gan-hanzi-0.json").write_text("{}", encoding="utf-8")
    assert record(tmp_path, 1) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path / 'gan-hanzi-0.parquet'}: cannot be read")
    assert said.count("\n") == 1

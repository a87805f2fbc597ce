"""Small searches: a home of its own for each test, tiny hyper-parameters, a toy dataset as a pair of files."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from d3tune.config import Resources, SearchConfig
from d3tune.method.generators import load_backbone
from d3tune.search.executor import StopSignal
from d3tune.search.reports import Report
from d3tune.search.request import Request, prepare_run
from d3tune.search.run import RunDirectory
from d3tune.search.search import Outcome, Plan, run_search
from d3tune.search.study import Ledger
from d3tune.search.tracking import default_uri
from d3tune.space import Space, WarmStart, load_space

TINY = {
    "updates": 40,
    "evaluations": 4,
    "hidden_dim": 32,
    "embed_dim": 32,
    "teacher_epochs": 2,
    "head_epochs": 2,
    "n_synthetic_final": 5,
}
SEEN, UNSEEN, WIDTH, SEMANTICS = 12, 4, 24, 10


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow store: creating its tables takes over a second."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own for each test, and nothing of the machine's settings."""
    home = tmp_path / "home"
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("D3TUNE_HOME", str(home))
    monkeypatch.delenv("D3TUNE_DATA", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path / "work")
    return home


@pytest.fixture(scope="session")
def tiny() -> dict[str, Any]:
    """Hyper-parameters of a training that takes a fraction of a second."""
    return dict(TINY)


@pytest.fixture
def new_run(isolated: Path, mlflow_template: Path) -> Callable[..., RunDirectory]:
    """``new_run(hyper=…, **request)``: a run directory of a tiny search on hanzi."""

    def make(hyper: dict[str, Any] | None = None, **request: Any) -> RunDirectory:
        isolated.mkdir(exist_ok=True)
        if not (isolated / "mlflow.db").exists():
            shutil.copy(mlflow_template, isolated / "mlflow.db")
        settings = tuple(f"{key}={value}" for key, value in {**TINY, **(hyper or {})}.items())
        run, _ = prepare_run(Request(**{"dataset": "hanzi", "backbone": "gan", "settings": settings, **request}))
        return run

    return make


@pytest.fixture
def carry_out() -> Callable[..., Outcome]:
    """``carry_out(run, trials=…)``: carry a run to a plan in this process, as its owner."""

    def search(
        run: RunDirectory,
        trials: int = 3,
        confirm_seeds: int = 0,
        seconds: float | None = None,
        stop: StopSignal | None = None,
        said: list[str] | None = None,
    ) -> Outcome:
        plan = Plan(trials, seconds, Resources(executor="local"), confirm_seeds, False, default_uri())
        lines = [] if said is None else said
        with run.owned():
            return run_search(run, plan, stop or StopSignal(), lines.append)

    return search


@pytest.fixture
def space() -> Space:
    """The shipped gan space for hanzi with a budget of 40 updates."""
    config = load_backbone("gan").config
    return load_space("gan", config, "hanzi/0", 256).with_fixed({"updates": 40, "evaluations": 4})


@pytest.fixture
def open_ledger(tmp_path: Path, space: Space) -> Callable[..., Ledger]:
    """``open_ledger(…)`` opens the study of a synthetic search, again at each call."""

    def make(
        file: str = "study.journal", points: tuple[WarmStart, ...] = (), space: Space = space, **search: Any
    ) -> Ledger:
        identity = {"dataset": "toy", "dataset_hash": "0", "semantics": "att10", "features": "res101"}
        frozen = SearchConfig(**{**identity, "backbone": "gan", **search})
        searched = Space(space.backbone, space.fixed, space.parameters, points)
        return Ledger(tmp_path / file, "synthetic", frozen, searched, load_backbone("gan").config)

    return make


@pytest.fixture
def report() -> Callable[..., Report]:
    """``report(update, value)``: what a worker would send."""

    def make(update: int, value: float, head: str = "softmax") -> Report:
        metrics = {"val/H": value, f"val/{head}/H": value, "loss/critic": -1.5}
        return Report(update, value, head, metrics, seconds=float(update))

    return make


@pytest.fixture
def write_toy() -> Callable[..., Path]:
    """``write_toy(parent, change)``: a folder of pairs with one learnable dataset ``toy``.

    ``change`` may edit the arrays before they are written: features (X, n), labels (n, 1), the ``_loc`` rows.
    """

    def write(parent: Path, change: Callable[[dict[str, Any]], None] | None = None) -> Path:
        generator = np.random.default_rng(3)
        att = generator.random((SEMANTICS, SEEN + UNSEEN)) + 0.05
        labels = np.repeat(np.arange(1, SEEN + UNSEEN + 1), 16)
        mixing = generator.standard_normal((WIDTH, SEMANTICS))
        noise = 0.4 * generator.standard_normal((WIDTH, len(labels)))
        rows = np.arange(1, len(labels) + 1)
        seen = labels <= SEEN
        test = (rows - 1) % 16 >= 12
        content: dict[str, Any] = {
            "features": np.maximum(mixing @ att[:, labels - 1] + noise, 0),
            "labels": labels.reshape(-1, 1).astype(np.float64),
            "att": att,
            "trainval_loc": rows[seen & ~test].reshape(-1, 1).astype(np.uint16),
            "test_seen_loc": rows[seen & test].reshape(-1, 1).astype(np.uint16),
            "test_unseen_loc": rows[~seen].reshape(-1, 1).astype(np.uint16),
        }
        if change is not None:
            change(content)
        folder = parent / "TOY"
        folder.mkdir(parents=True)
        scipy.io.savemat(folder / "res101.mat", {k: content.pop(k) for k in ("features", "labels")})
        scipy.io.savemat(folder / "att_splits.mat", content)
        return parent

    return write

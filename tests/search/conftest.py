"""Small searches: a home of its own for each test, tiny hyper-parameters, a toy dataset as a pair of files."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.io

from d3tune.config import Resources, SearchConfig
from d3tune.data.prepared import open_prepared
from d3tune.method.generators import load_backbone
from d3tune.search.executor import StopSignal, inprocess
from d3tune.search.invariants import run_faults
from d3tune.search.reports import Report
from d3tune.search.request import Request, prepare_run
from d3tune.search.run import RunDirectory
from d3tune.search.search import Outcome, Plan, run_search
from d3tune.search.study import Ledger, read_trials, reports_of
from d3tune.search.tracking import default_uri
from d3tune.search.trial import RunningTrial
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
# trials of the toy dataset that take a tenth of a second
LIGHT = {
    "updates": 20,
    "evaluations": 4,
    "batch_size": 16,
    "critic_steps": 1,
    "hidden_dim": 8,
    "embed_dim": 8,
    "noise_dim": 4,
    "teacher_epochs": 2,
    "head_epochs": 2,
    "n_synthetic_step": 2,
    "n_synthetic_final": 3,
    "generator_lr": 0.003,
    "anchor": "none",
    "heads": "[softmax, prototype]",
}
SEEN, UNSEEN, WIDTH, SEMANTICS = 12, 4, 24, 10


@pytest.fixture(autouse=True)
def isolated(home: Path) -> Path:
    """A home of its own for each test."""
    return home


@pytest.fixture(scope="session")
def commands(module_of: Callable[[Path], ModuleType]) -> ModuleType:
    """The module ``commands.py`` beside this file."""
    return module_of(Path(__file__).with_name("commands.py"))


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
def toy_options(tmp_path: Path, write_toy: Callable[..., Path]) -> Callable[..., tuple[str, ...]]:
    """``toy_options(**hyper)``: options of a search of the toy dataset whose trials take a tenth of a second."""

    def make(**hyper: Any) -> tuple[str, ...]:
        if not (tmp_path / "toy").exists():
            write_toy(tmp_path / "toy")
        pairs = [("--set", f"{key}={value}") for key, value in {**LIGHT, **hyper}.items()]
        settings = tuple(word for pair in pairs for word in pair)
        toy = ("--dataset", "toy", "--data-dir", str(tmp_path / "toy"))
        return (*toy, "--warm-start", "none", "--seed", "2", *settings)

    return make


@pytest.fixture
def toy_run(
    new_run: Callable[..., RunDirectory], tmp_path: Path, write_toy: Callable[..., Path]
) -> Callable[..., RunDirectory]:
    """``toy_run(hyper=…, **request)``: a run directory of a search of the toy dataset, see `LIGHT`."""

    def make(hyper: dict[str, Any] | None = None, **request: Any) -> RunDirectory:
        if not (tmp_path / "toy").exists():
            write_toy(tmp_path / "toy")
        toy = {"dataset": "toy", "data_dir": tmp_path / "toy", "warm_start": ("none",), "seed": 2}
        return new_run({**LIGHT, **(hyper or {})}, **{**toy, **request})

    return make


@pytest.fixture
def carry_out() -> Callable[..., Outcome]:
    """``carry_out(run, trials=…)``: carry a run to a plan in this process, as its owner; further words are `Plan`'s."""

    def search(
        run: RunDirectory,
        trials: int = 3,
        confirm_seeds: int = 0,
        seconds: float | None = None,
        stop: StopSignal | None = None,
        said: list[str] | None = None,
        **further: Any,
    ) -> Outcome:
        plan = Plan(trials, seconds, Resources(executor="local"), confirm_seeds, False, default_uri())
        plan = replace(plan, **further)
        lines = [] if said is None else said
        with run.owned():
            return run_search(run, plan, stop or StopSignal(), lines.append)

    return search


@pytest.fixture
def on_report(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int, Report], None]], None]:
    """``on_report(do)``: from now on ``do`` is called after each report with how many there were, and with it."""

    def observe(do: Callable[[int, Report], None]) -> None:
        made = [0]

        class Observed(RunningTrial):
            def next_report(self) -> Report:
                report = super().next_report()
                made[0] += 1
                do(made[0], report)
                return report

        monkeypatch.setattr(inprocess, "RunningTrial", Observed)

    return observe


@pytest.fixture
def sound() -> Callable[..., None]:
    """``sound(run, trials)``: the run is done with so many trials, and study, folders and MLflow agree."""

    def check(run: RunDirectory, trials: int, store: str | None = None) -> None:
        assert (run.read_summary() or {}).get("state") == "done"
        assert run_faults(run, store or default_uri()) == []
        assert [trial.number for trial in read_trials(run.journal)] == list(range(trials))

    return check


@pytest.fixture
def record() -> Callable[[RunDirectory], list[Any]]:
    """``record(run)``: all that a search found, without what depends on when and where it was run."""

    def of(run: RunDirectory) -> list[Any]:
        rows = []
        for trial in read_trials(run.journal):
            reports = [replace(report, seconds=0.0, worker={}, notes=()) for report in reports_of(trial)]
            failure = trial.user_attrs.get("failure")
            weights = run.trial(trial.number) / "weights.safetensors"
            kept = weights.read_bytes() if weights.exists() else None
            rows.append((trial.state, trial.params, trial.value, trial.intermediate_values, failure, reports, kept))
        return rows

    return of


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


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def shared_model(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any], mlflow_template: Path) -> Outcome:
    """A small search whose winner is confirmed with two seeds; only to be read."""
    home = tmp_path_factory.mktemp("model") / "home"
    home.mkdir()
    shutil.copy(mlflow_template, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("D3TUNE_HOME", str(home))
        settings = tuple(f"{key}={value}" for key, value in {**tiny, "heads": "[softmax]"}.items())
        run, _ = prepare_run(Request("hanzi", "gan", settings=settings))
        plan = Plan(2, None, Resources(executor="local"), 2, False, default_uri())
        with run.owned():
            return run_search(run, plan, StopSignal(), lambda line: None)


@pytest.fixture
def with_model(shared_model: Outcome, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """That search, in its own home."""
    monkeypatch.setenv("D3TUNE_HOME", str(shared_model.run.path.parents[1]))
    return shared_model


@pytest.fixture
def run_copy(with_model: Outcome, tmp_path: Path) -> RunDirectory:
    """A copy of the run at a place of its own."""
    shutil.copytree(with_model.run.path, tmp_path / "copy")
    place = json.loads((tmp_path / "copy" / "plan.json").read_text(encoding="utf-8"))
    (tmp_path / "copy" / "plan.json").write_text(json.dumps({**place, "place": str(tmp_path / "copy")}), "utf-8")
    return replace(with_model.run, path=tmp_path / "copy", name="copy")


@pytest.fixture
def features(with_model: Outcome, tmp_path: Path) -> Path:
    """The features of both test sets."""
    dataset = open_prepared(with_model.run.dataset_path)
    rows = np.concatenate([dataset.test_seen, dataset.test_unseen])
    np.save(tmp_path / "features.npy", dataset.features[rows])
    return tmp_path / "features.npy"

"""Small data for the method: tensors made up from six seen and three unseen classes, and a slice of hanzi."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from d3tune.data.registry import find_dataset
from d3tune.data.scaling import Scaler
from d3tune.data.tensors import Tensors, load_tensors
from d3tune.method.generators import load_backbone
from d3tune.method.trainer import Evaluation
from d3tune.method.training import Training

N_SEEN, N_UNSEEN, WIDTH, SEMANTICS = 6, 3, 12, 5
TRAIN_ROWS = (14, 9, 17, 11, 8, 13)
SMALL_GAN: dict[str, Any] = {
    "updates": 8,
    "evaluations": 2,
    "batch_size": 24,
    "hidden_dim": 24,
    "noise_dim": 6,
    "embed_dim": 12,
    "critic_steps": 2,
    "generator_lr": 2e-3,
    "student_lr": 3e-3,
    "teacher_lr": 3e-3,
    "teacher_epochs": 1,
    "n_synthetic_step": 2,
    "n_synthetic_final": 6,
    "head_epochs": 1,
    "cls_weight": 0.1,
    "embedding_weight": 0.05,
    "label_weight": 0.2,
    "ood_weight": 0.02,
    "generator_d3_weight": 0.1,
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums over one thread have one order, so that equal means equal bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is prepared or looked for outside the test's own folder."""
    monkeypatch.setenv("D3TUNE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("D3TUNE_DATA", raising=False)


@pytest.fixture(scope="session")
def tiny() -> Tensors:
    """Six seen and three unseen classes around means that are linear in their semantics, with unequal counts."""
    rng = np.random.default_rng(5)
    semantics = rng.normal(size=(N_SEEN + N_UNSEEN, SEMANTICS))
    semantics /= np.linalg.norm(semantics, axis=1, keepdims=True)
    means = 0.5 + 0.4 * semantics @ rng.normal(size=(SEMANTICS, WIDTH))

    def rows(classes: range, counts: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        y = np.repeat(list(classes), counts)
        x = np.abs(means[y] + 0.15 * rng.normal(size=(len(y), WIDTH)))
        order = rng.permutation(len(y))
        return torch.tensor(x[order], dtype=torch.float32), torch.tensor(y[order])

    seen, unseen = range(N_SEEN), range(N_SEEN, N_SEEN + N_UNSEEN)
    train_x, train_y = rows(seen, TRAIN_ROWS)
    eval_seen_x, eval_seen_y = rows(seen, (4, 3, 5, 2, 6, 3))
    eval_unseen_x, eval_unseen_y = rows(unseen, (7, 4, 9))
    return Tensors(
        train_x=train_x,
        train_y=train_y,
        eval_seen_x=eval_seen_x,
        eval_seen_y=eval_seen_y,
        eval_unseen_x=eval_unseen_x,
        eval_unseen_y=eval_unseen_y,
        semantics=torch.tensor(semantics, dtype=torch.float32),
        n_seen=N_SEEN,
        n_unseen=N_UNSEEN,
        class_ids=torch.arange(N_SEEN + N_UNSEEN),
        scaler=Scaler(np.zeros(WIDTH, np.float32), np.ones(WIDTH, np.float32)),
    )


@pytest.fixture(scope="session")
def hanzi(tmp_path_factory: pytest.TempPathFactory) -> Tensors:
    """The embedded dataset's validation protocol, semantics centred and four long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("D3TUNE_HOME", str(tmp_path_factory.mktemp("home")))
        view = find_dataset("hanzi").view("validation")
        return load_tensors(view, center_semantics=True, semantics_scale=4.0)


@pytest.fixture(scope="session")
def hanzi_slice(hanzi: Tensors) -> Tensors:
    """The first ten seen and four unseen classes of hanzi."""
    n_seen, n_unseen = 10, 4
    train, seen = hanzi.train_y < n_seen, hanzi.eval_seen_y < n_seen
    unseen = hanzi.eval_unseen_y < hanzi.n_seen + n_unseen
    classes = torch.cat([torch.arange(n_seen), hanzi.n_seen + torch.arange(n_unseen)])
    return replace(
        hanzi,
        train_x=hanzi.train_x[train],
        train_y=hanzi.train_y[train],
        eval_seen_x=hanzi.eval_seen_x[seen],
        eval_seen_y=hanzi.eval_seen_y[seen],
        eval_unseen_x=hanzi.eval_unseen_x[unseen],
        eval_unseen_y=hanzi.eval_unseen_y[unseen] - hanzi.n_seen + n_seen,
        semantics=hanzi.semantics[classes],
        n_seen=n_seen,
        n_unseen=n_unseen,
        class_ids=hanzi.class_ids[classes],
    )


@pytest.fixture
def small_gan() -> dict[str, Any]:
    """Settings of a small training of the gan with every term on."""
    return dict(SMALL_GAN)


@pytest.fixture
def make_gan(hanzi_slice: Tensors) -> Callable[..., Training]:
    """``make_gan(seed=…, name=value…)``: such a training on the slice of hanzi."""
    backbone = load_backbone("gan")

    def build(seed: int = 0, **values: Any) -> Training:
        return Training(hanzi_slice, backbone, backbone.config(**(SMALL_GAN | values)), seed)

    return build


@pytest.fixture(scope="session")
def all_finite() -> Callable[[Evaluation], bool]:
    """Whether no number of an evaluation is infinite or none."""

    def of(evaluation: Evaluation) -> bool:
        numbers = [*evaluation.losses.values(), *evaluation.diagnostics.values()]
        numbers += [value for accuracies in evaluation.heads.values() for value in vars(accuracies).values()]
        return bool(np.isfinite(numbers).all())

    return of

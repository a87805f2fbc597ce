"""The teacher: a classifier of the seen classes, trained first and then frozen."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from d3tune.config import D3Config
from d3tune.method.adam import Adam
from d3tune.method.distillation import ood_score
from d3tune.method.networks import EmbeddingClassifier

HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class TeacherTable:
    """The frozen teacher's outputs on all training rows, computed once.

    Attributes:
        z: (n, E) embeddings.
        v: (n, N_s) logits.
    """

    z: Tensor
    v: Tensor


def train_teacher(x: Tensor, y: Tensor, n_classes: int, config: D3Config, rng: torch.Generator) -> EmbeddingClassifier:
    """Train E_o and C_o by cross-entropy on real seen rows, then freeze them (public code: 30 epochs of 128, 1e-4).

    Args:
        x: (n, X) training rows.
        y: (n,) class ids in [0, n_classes).
        n_classes: N_s.
        config: sizes, learning rate and epochs.
        rng: CPU generator of weights and row order.
    """
    teacher = EmbeddingClassifier(x.shape[1], config.embed_dim, n_classes, config.embed_activation, rng)
    teacher.to(x.device)
    optimizer = Adam(list(teacher.parameters()), config.teacher_lr)
    for _ in range(config.teacher_epochs):
        order = torch.randperm(len(x), generator=rng).to(x.device)
        for rows in torch.split(order, config.teacher_batch_size):
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(teacher(x[rows])[1], y[rows]))
            optimizer.step()
    optimizer.zero_grad()
    return teacher.requires_grad_(False)


@torch.no_grad()
def teacher_table(teacher: EmbeddingClassifier, x: Tensor) -> TeacherTable:
    """The teacher's outputs on all rows of ``x`` (n, X)."""
    return TeacherTable(*teacher(x))


def held_out_scores(x: Tensor, y: Tensor, n_classes: int, config: D3Config, rng: torch.Generator) -> Tensor:
    """OOD scores (m,) of a random 20 % of the training rows under a teacher fitted on the other 80 %."""
    order = torch.randperm(len(x), generator=rng).to(x.device)
    n_held_out = max(1, round(HELD_OUT_SHARE * len(x)))
    held_out, rest = order[:n_held_out], order[n_held_out:]
    teacher = train_teacher(x[rest], y[rest], n_classes, config, rng)
    with torch.no_grad():
        return ood_score(teacher(x[held_out])[1], config.ood_score)

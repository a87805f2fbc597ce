"""The final head: a softmax classifier on real seen and synthetic unseen rows, and its evaluation on both test sets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.reference.trial import Trial, adam


@dataclass(frozen=True)
class TestSets:
    """Rows and classes of the seen and of the unseen test set."""

    __test__ = False

    seen_x: Tensor
    seen_y: Tensor
    unseen_x: Tensor
    unseen_y: Tensor


@dataclass(frozen=True)
class Accuracies:
    """GZSL accuracies (Xian et al., TPAMI 2018) at a seen-class offset (Chao et al., ECCV 2016).

    Attributes:
        U: per-class accuracy on unseen classes, all classes as candidates.
        S: the same on seen classes.
        H: 2US/(U + S), 0 where both are 0.
        T1: per-class accuracy on unseen classes, unseen candidates.
        offset: what was subtracted from the scores of seen classes.
    """

    U: float
    S: float
    H: float
    T1: float
    offset: float


def final_rows(trial: Trial[Any, Any], noise: Tensor, per_class: int) -> tuple[Tensor, Tensor]:
    """Real seen rows followed by synthetic ones of every unseen class, made class by class.

    Args:
        trial: trained.
        noise: (N_u · per_class, ·).
        per_class: rows per unseen class.
    """
    features, labels = [trial.data.x], [trial.data.y]
    for index, label in enumerate(trial.data.unseen):
        a = trial.data.semantics[label].repeat(per_class, 1)
        features.append(trial.sample_final(noise[index * per_class : (index + 1) * per_class], a))
        labels.append(torch.full((per_class,), label))
    return torch.cat(features), torch.cat(labels)


def train_softmax(
    x: Tensor, y: Tensor, n_classes: int, orders: Sequence[Tensor], batch_size: int = 256, lr: float = 1e-3
) -> nn.Linear:
    """Fit a linear classifier by cross-entropy from zero (f-CLSWGAN's final classifier; zero start: docs/method.md).

    Args:
        x: (n, D) features or embeddings.
        y: (n,).
        n_classes: N.
        orders: for each epoch a permutation of the rows.
        batch_size: rows a step.
        lr: of Adam.
    """
    layer = nn.Linear(x.shape[1], n_classes, dtype=x.dtype)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = adam(list(layer.parameters()), lr)
    for order in orders:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(layer(x[rows]), y[rows]))
            optimizer.step()
    return layer


@torch.no_grad()
def evaluate(
    score: Callable[[Tensor], Tensor], tests: TestSets, n_seen: int, offset: float | None = None
) -> Accuracies:
    """Accuracies of a classifier.

    Args:
        score: rows (m, D) to class scores (m, N).
        tests: both test sets, in the classifier's space.
        n_seen: N_s.
        offset: δ; None tries all that change a prediction and takes the one with the largest H.
    """
    seen, unseen = score(tests.seen_x).double(), score(tests.unseen_x).double()
    if offset is not None:
        return _at_offset(seen, unseen, tests, n_seen, offset)
    tried = [_at_offset(seen, unseen, tests, n_seen, delta) for delta in _offsets(seen, unseen, n_seen)]
    return max(tried, key=lambda found: found.H)


def per_class_accuracy(prediction: Tensor, y: Tensor) -> float:
    """Share of right predictions in each class that occurs, averaged over classes."""
    shares = [(prediction[y == label] == label).double().mean().item() for label in torch.unique(y)]
    return float(sum(shares) / len(shares))


def _at_offset(seen: Tensor, unseen: Tensor, tests: TestSets, n_seen: int, offset: float) -> Accuracies:
    shift = torch.zeros(seen.shape[1], dtype=seen.dtype)
    shift[:n_seen] = offset
    u = per_class_accuracy((unseen - shift).argmax(dim=1), tests.unseen_y)
    s = per_class_accuracy((seen - shift).argmax(dim=1), tests.seen_y)
    t1 = per_class_accuracy(n_seen + unseen[:, n_seen:].argmax(dim=1), tests.unseen_y)
    return Accuracies(u, s, 2 * u * s / (u + s) if u + s > 0 else 0.0, t1, offset)


def _offsets(seen: Tensor, unseen: Tensor, n_seen: int) -> list[float]:
    """One offset between each two neighbouring margins of best seen over best unseen score, and one beyond each end."""
    scores = torch.cat([seen, unseen])
    margin = scores[:, :n_seen].max(dim=1).values - scores[:, n_seen:].max(dim=1).values
    margins = sorted(set(margin.tolist()))
    between = [(low + high) / 2 for low, high in pairwise(margins)]
    return [margins[0] - 1, *between, margins[-1] + 1]

"""From a protocol's view of a dataset to the tensors that training and evaluation work on."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from d3tune.data.dataset import ProtocolView, Rows
from d3tune.errors import UsageError

Scaling = Literal["minmax", "standard", "none"]
Features = npt.NDArray[np.float32]

_BLOCK = 4096
# Below these, relative to the feature's (or the typical) size, a spread is rounding noise.
_CONSTANT = 1e-7
_SD_FLOOR = 1e-3


@dataclass(frozen=True, eq=False)
class Scaler:
    """x → (x − shift) / divisor, feature by feature; an infinite divisor makes a constant feature 0.

    Attributes:
        shift: (X,) float32.
        divisor: (X,) float32, positive.
    """

    shift: Features
    divisor: Features

    def apply(self, features: Features) -> Features:
        """Scale rows (n, X) in place and return them."""
        for block in _blocks(features):
            block -= self.shift
            block /= self.divisor
        return features


@dataclass(frozen=True, eq=False)
class Tensors:
    """A view as tensors. Classes have local ids: the seen [0, N_s), then the unseen [N_s, N_s + N_u).

    Attributes:
        train_x: (n, X) float32, scaled.
        train_y: (n,) int64 local ids, all seen.
        eval_seen_x: (m, X) float32.
        eval_seen_y: (m,) int64, all seen.
        eval_unseen_x: (k, X) float32.
        eval_unseen_y: (k,) int64, all unseen.
        semantics: (N_s + N_u, A) float32 in local order.
        n_seen: N_s.
        n_unseen: N_u.
        class_ids: (N_s + N_u,) int64 the dataset's ids in local order, each group ascending.
        scaler: what the features went through, for features that come later.
    """

    train_x: torch.Tensor
    train_y: torch.Tensor
    eval_seen_x: torch.Tensor
    eval_seen_y: torch.Tensor
    eval_unseen_x: torch.Tensor
    eval_unseen_y: torch.Tensor
    semantics: torch.Tensor
    n_seen: int
    n_unseen: int
    class_ids: torch.Tensor
    scaler: Scaler

    @property
    def n_classes(self) -> int:
        """N_s + N_u."""
        return self.n_seen + self.n_unseen

    @property
    def n_features(self) -> int:
        """X."""
        return self.train_x.shape[1]


def load_tensors(
    view: ProtocolView,
    *,
    scaling: Scaling = "minmax",
    center_semantics: bool = False,
    semantics_scale: float = 1.0,
    device: str | torch.device = "cpu",
) -> Tensors:
    """Copy a view's rows out of the dataset, scale them, and give classes their local ids.

    Args:
        view: the rows and classes of one protocol.
        scaling: see ``fit_scaler``; test rows are scaled alike and not clipped.
        center_semantics: see ``class_semantics``.
        semantics_scale: see ``class_semantics``.
        device: where the tensors go.

    Raises:
        UsageError: the scaling is unknown or the semantics scale is not a positive number.
    """
    classes = np.concatenate([view.seen_classes, view.unseen_classes])
    semantics = class_semantics(view, center=center_semantics, scale=semantics_scale)
    train = _copy_rows(view, view.train_rows)
    scaler = _fit(train, scaling)

    def tensor(array: npt.NDArray[np.float32] | Rows) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    def local(rows: Rows) -> torch.Tensor:
        return tensor(_local_ids(classes, view.dataset.labels[rows]))

    return Tensors(
        train_x=tensor(scaler.apply(train)),
        train_y=local(view.train_rows),
        eval_seen_x=tensor(scaler.apply(_copy_rows(view, view.eval_seen_rows))),
        eval_seen_y=local(view.eval_seen_rows),
        eval_unseen_x=tensor(scaler.apply(_copy_rows(view, view.eval_unseen_rows))),
        eval_unseen_y=local(view.eval_unseen_rows),
        semantics=tensor(semantics),
        n_seen=len(view.seen_classes),
        n_unseen=len(view.unseen_classes),
        class_ids=tensor(classes),
        scaler=scaler,
    )


def fit_scaler(view: ProtocolView, scaling: Scaling = "minmax") -> Scaler:
    """Fit a scaler on a view's training rows alone.

    ``minmax`` takes each feature's training range to [0, 1]; ``standard`` takes it to mean 0 and standard
    deviation 1, with deviations below a thousandth of the typical one raised to that; features that are
    constant over the training rows become 0 in both; ``none`` leaves features as they are.

    Raises:
        UsageError: the scaling is unknown.
    """
    return _fit(_copy_rows(view, view.train_rows), scaling)


def class_semantics(view: ProtocolView, *, center: bool = False, scale: float = 1.0) -> Features:
    """A view's semantics: (N_s + N_u, A) float32, seen classes first, L2-normalised, times ``scale``.

    Args:
        view: whose classes.
        center: subtract the mean over the view's seen classes before normalising.
        scale: the length of every vector, > 0.

    Raises:
        UsageError: ``scale`` is not a positive number.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise UsageError(f"semantics_scale is {scale}; it must be a positive number")
    classes = np.concatenate([view.seen_classes, view.unseen_classes])
    vectors = view.dataset.semantics[classes].astype(np.float64)
    if center:
        vectors -= vectors[: len(view.seen_classes)].mean(axis=0)
    norms: npt.NDArray[np.float64] = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: npt.NDArray[np.float64] = vectors / np.maximum(norms, 1e-12)
    return (scale * unit).astype(np.float32)


def _fit(train: Features, scaling: Scaling) -> Scaler:
    if scaling == "minmax":
        return _fit_minmax(train)
    if scaling == "standard":
        return _fit_standard(train)
    if scaling == "none":
        width = train.shape[1]
        return Scaler(np.zeros(width, np.float32), np.ones(width, np.float32))
    raise UsageError(f"unknown scaling '{scaling}'; known: minmax, standard, none")


def _fit_minmax(train: Features) -> Scaler:
    low, high = train.min(axis=0), train.max(axis=0)
    spread = high - low
    constant = spread <= _CONSTANT * np.maximum(np.abs(low), np.abs(high))
    return Scaler(low, np.where(constant, np.float32(np.inf), spread))


def _fit_standard(train: Features) -> Scaler:
    mean = train.mean(axis=0, dtype=np.float64)
    squares = np.zeros_like(mean)
    for block in _blocks(train):
        squares += np.square(block - mean).sum(axis=0)
    sd = np.sqrt(squares / len(train))
    constant = sd <= _CONSTANT * np.abs(mean)
    floor = _SD_FLOOR * math.sqrt(float(np.mean(sd**2)))
    divisor = np.where(constant, np.inf, np.maximum(sd, floor))
    return Scaler(mean.astype(np.float32), divisor.astype(np.float32))


def _copy_rows(view: ProtocolView, rows: Rows) -> Features:
    """A writable copy of the rows: the only one made of them."""
    copied: Features = np.take(np.asarray(view.dataset.features), rows, axis=0)
    return copied


def _local_ids(classes: Rows, labels: Rows) -> Rows:
    table = np.full(int(classes.max()) + 1, -1, dtype=np.int64)
    table[classes] = np.arange(len(classes))
    return table[labels]


def _blocks(features: Features) -> Iterator[Features]:
    """Views of a few thousand rows at a time, so that temporaries stay small."""
    for start in range(0, len(features), _BLOCK):
        yield features[start : start + _BLOCK]

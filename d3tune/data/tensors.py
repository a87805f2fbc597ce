"""From a protocol's view of a dataset to the tensors that training and evaluation work on."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from d3tune.data.dataset import ProtocolView, Rows
from d3tune.data.scaling import Features, Scaler, Scaling, scaled_rows
from d3tune.data.shared import shared_rows
from d3tune.errors import UsageError


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
    shared: bool = False,
) -> Tensors:
    """A view's rows, scaled, and its classes with their local ids.

    Args:
        view: the rows and classes of one protocol.
        scaling: see ``fit_scaler``; test rows are scaled alike and not clipped.
        center_semantics: see ``class_semantics``.
        semantics_scale: see ``class_semantics``.
        device: where the tensors go.
        shared: map the rows from a file that other processes map too, see ``shared_rows``; they must not be changed.

    Raises:
        UsageError: the scaling is unknown or the semantics scale is not a positive number.
    """
    classes = np.concatenate([view.seen_classes, view.unseen_classes])
    semantics = class_semantics(view, center=center_semantics, scale=semantics_scale)
    rows = shared_rows(view, scaling) if shared else scaled_rows(view, scaling)

    def tensor(array: npt.NDArray[np.float32] | Rows) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    def local(rows: Rows) -> torch.Tensor:
        return tensor(_local_ids(classes, view.dataset.labels[rows]))

    return Tensors(
        train_x=tensor(rows.train),
        train_y=local(view.train_rows),
        eval_seen_x=tensor(rows.eval_seen),
        eval_seen_y=local(view.eval_seen_rows),
        eval_unseen_x=tensor(rows.eval_unseen),
        eval_unseen_y=local(view.eval_unseen_rows),
        semantics=tensor(semantics),
        n_seen=len(view.seen_classes),
        n_unseen=len(view.unseen_classes),
        class_ids=tensor(classes),
        scaler=rows.scaler,
    )


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
    return semantics_scaler(view, center=center, scale=scale).apply(view.dataset.semantics[classes])


@dataclass(frozen=True, eq=False)
class SemanticsScaler:
    """What a class's semantics go through before a model sees them.

    Attributes:
        mean: (A,) float64, subtracted.
        scale: the length of every vector then.
    """

    mean: npt.NDArray[np.float64]
    scale: float

    def apply(self, vectors: npt.NDArray[np.float32]) -> Features:
        """Semantics (C, A) as a dataset has them to (C, A) float32."""
        centred = vectors.astype(np.float64) - self.mean
        norms: npt.NDArray[np.float64] = np.linalg.norm(centred, axis=1, keepdims=True)
        unit: npt.NDArray[np.float64] = centred / np.maximum(norms, 1e-12)
        return (self.scale * unit).astype(np.float32)


def semantics_scaler(view: ProtocolView, *, center: bool = False, scale: float = 1.0) -> SemanticsScaler:
    """Fit it on a view's seen classes; see ``class_semantics``."""
    seen = view.dataset.semantics[view.seen_classes].astype(np.float64)
    return SemanticsScaler(seen.mean(axis=0) if center else np.zeros(seen.shape[1]), scale)


def _local_ids(classes: Rows, labels: Rows) -> Rows:
    table = np.full(int(classes.max()) + 1, -1, dtype=np.int64)
    table[classes] = np.arange(len(classes))
    return table[labels]

"""Scaling of features: fitted on a view's training rows alone."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

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


def fit_scaler(view: ProtocolView, scaling: Scaling = "minmax") -> Scaler:
    """Fit a scaler on a view's training rows alone.

    ``minmax`` takes each feature's training range to [0, 1]; ``standard`` takes it to mean 0 and standard
    deviation 1, with deviations below a thousandth of the typical one raised to that; features that are
    constant over the training rows become 0 in both; ``none`` leaves features as they are.

    Raises:
        UsageError: the scaling is unknown.
    """
    return _fit(_copy_rows(view, view.train_rows), scaling)


@dataclass(frozen=True, eq=False)
class ScaledRows:
    """A view's features, scaled.

    Attributes:
        train: (n, X) float32.
        eval_seen: (m, X) float32.
        eval_unseen: (k, X) float32.
        scaler: what they went through.
    """

    train: Features
    eval_seen: Features
    eval_unseen: Features
    scaler: Scaler


def scaled_rows(view: ProtocolView, scaling: Scaling) -> ScaledRows:
    """Copy a view's rows out of the dataset and scale them; evaluation rows are scaled alike and not clipped.

    Raises:
        UsageError: the scaling is unknown.
    """
    train = _copy_rows(view, view.train_rows)
    scaler = _fit(train, scaling)
    return ScaledRows(
        train=scaler.apply(train),
        eval_seen=scaler.apply(_copy_rows(view, view.eval_seen_rows)),
        eval_unseen=scaler.apply(_copy_rows(view, view.eval_unseen_rows)),
        scaler=scaler,
    )


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


def _blocks(features: Features) -> Iterator[Features]:
    """Views of a few thousand rows at a time, so that temporaries stay small."""
    for start in range(0, len(features), _BLOCK):
        yield features[start : start + _BLOCK]

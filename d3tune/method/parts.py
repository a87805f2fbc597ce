"""Fitted maps of rows made of tensors and plain values alone, so that what evaluation reads can be saved as it is.

A head is such a map from features to class scores. Evaluation calls the very object that a saved model is made of.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from d3tune.method.parted import SLOPE

Map = Callable[[Tensor], Tensor]
Activation = Literal["identity", "relu", "leaky_relu"]


class NotExtendableError(Exception):
    """A map has no columns for classes that nobody trained on."""


@dataclass(frozen=True, eq=False)
class Part(ABC):
    """A map of rows. Its fields are tensors, numbers, words, further parts, and tuples of tensors or of parts."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Rows (n, …) to what the part makes of them (n, …)."""

    def extended(self, semantics: Tensor, means: Map | None = None) -> "Part":
        """The same scores with a further column for each of some classes.

        Args:
            semantics: (C, A) of these classes, scaled as in training.
            means: from semantics to class means of features (C, X), for scores that have no such map of their own.

        Raises:
            NotExtendableError: these scores know their classes by training alone.
        """
        raise NotExtendableError


@dataclass(frozen=True, eq=False)
class Same(Part):
    """The rows themselves."""

    def __call__(self, x: Tensor) -> Tensor:
        """Rows (n, D) to the same."""
        return x


@dataclass(frozen=True, eq=False)
class Layer(Part):
    """An affine layer and its activation.

    Attributes:
        weight: (M, D).
        bias: (M,).
        activation: after it.
    """

    weight: Tensor
    bias: Tensor
    activation: Activation = "identity"

    def __call__(self, x: Tensor) -> Tensor:
        """Rows (n, D) to (n, M)."""
        y = F.linear(x, self.weight, self.bias)
        if self.activation == "leaky_relu":
            return F.leaky_relu(y, SLOPE)
        return torch.relu(y) if self.activation == "relu" else y


@dataclass(frozen=True, eq=False)
class Chain(Part):
    """One map after another.

    Attributes:
        first: e.g. to an embedding.
        second: e.g. to class scores.
    """

    first: Map
    second: Map

    def __call__(self, x: Tensor) -> Tensor:
        """Rows (n, D) to (n, M)."""
        return self.second(self.first(x))

    def extended(self, semantics: Tensor, means: Map | None = None) -> "Chain":
        """See `Part.extended`; means of features say nothing of what the first map makes of them."""
        return Chain(self.first, extended(self.second, semantics, means if isinstance(self.first, Same) else None))


@dataclass(frozen=True, eq=False)
class Beside(Part):
    """What a map makes of the rows, beside the rows.

    Attributes:
        further: the map.
    """

    further: Map

    def __call__(self, x: Tensor) -> Tensor:
        """Rows (n, D) to (n, D + M)."""
        return torch.cat([x, self.further(x)], dim=1)


@dataclass(frozen=True, eq=False)
class Divided(Part):
    """Scores in another unit.

    Attributes:
        score: rows to class scores.
        unit: scalar > 0.
    """

    score: Map
    unit: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Rows (n, D) to (n, N)."""
        return self.score(x) / self.unit

    def extended(self, semantics: Tensor, means: Map | None = None) -> "Divided":
        """See `Part.extended`; the unit stays that of the classes trained on."""
        return Divided(extended(self.score, semantics, means), self.unit)


@dataclass(frozen=True, eq=False)
class Mean(Part):
    """The mean of several scores of the same rows.

    Attributes:
        scores: each from rows to class scores.
    """

    scores: tuple[Map, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Rows (n, D) to (n, N) float64."""
        return torch.stack([score(x).double() for score in self.scores]).mean(dim=0)

    def extended(self, semantics: Tensor, means: Map | None = None) -> "Mean":
        """See `Part.extended`."""
        return Mean(tuple(extended(score, semantics, means) for score in self.scores))


def extended(score: Map, semantics: Tensor, means: Map | None) -> Part:
    """`Part.extended` of what may be no part.

    Raises:
        NotExtendableError: it is none, or cannot.
    """
    if not isinstance(score, Part):
        raise NotExtendableError
    return score.extended(semantics, means)


def layers(weights: Sequence[torch.nn.Linear], activation: Activation) -> Part:
    """The map of some linear layers with an activation between each two; later training changes it too."""
    *inner, last = weights
    part: Part = Layer(last.weight.detach(), last.bias.detach())
    for layer in reversed(inner):
        part = Chain(Layer(layer.weight.detach(), layer.bias.detach(), activation), part)
    return part

"""Networks of one shape trained side by side, each on rows of its own."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d3tune.method.networks import scaled_linear
from d3tune.method.parts import Map, Part


class _Layers(nn.Module):
    """K linear layers, weights N(0, 1/n_in) and biases 0, as one batched product."""

    def __init__(self, layers: list[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias[:, None], x, self.weight.transpose(1, 2))


class Regressors(nn.Module):
    """K maps from features to semantics, each linear or with one hidden ReLU layer.

    The scale of what they predict does not matter to a loss of directions.
    """

    def __init__(self, members: int, n_in: int, hidden: int, n_out: int, rng: torch.Generator) -> None:
        """Draw the weights, one member after another.

        Args:
            members: K.
            n_in: X.
            hidden: width of the hidden layer, 0 for none.
            n_out: A.
            rng: a CPU generator.
        """
        super().__init__()
        widths = [(n_in, hidden), (hidden, n_out)] if hidden else [(n_in, n_out)]
        drawn = [[scaled_linear(*width, rng) for width in widths] for _ in range(members)]
        self.layers = nn.ModuleList(_Layers(list(layers)) for layers in zip(*drawn, strict=True))

    def forward(self, x: Tensor, hidden_mask: Tensor | None = None) -> Tensor:
        """Rows of each member (K, B, X) to predictions (K, B, A).

        Args:
            x: the rows.
            hidden_mask: (K, B, hidden) factors of the hidden units, see `dropout_mask`.
        """
        *inner, last = self.layers
        for layer in inner:
            x = torch.relu(layer(x))
            x = x if hidden_mask is None else x * hidden_mask
        predicted: Tensor = last(x)
        return predicted

    def members(self) -> "Members":
        """The maps as a part of a head; training on changes it."""
        found = [layer for layer in self.layers if isinstance(layer, _Layers)]
        return Members(tuple(layer.weight.detach() for layer in found), tuple(layer.bias.detach() for layer in found))


@dataclass(frozen=True, eq=False)
class Members(Part):
    """Every member's prediction of the same rows.

    Attributes:
        weights: of each layer, (K, M, D).
        biases: of each layer, (K, M).
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Rows (n, X) to predictions (K, n, A)."""
        x = x.expand(len(self.weights[0]), *x.shape)
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias[:, None], torch.relu(x) if index else x, weight.transpose(1, 2))
        return x


@dataclass(frozen=True, eq=False)
class Directions(Part):
    """All members' predictions of length 1, side by side.

    Attributes:
        members: see `Members`.
    """

    members: Map

    def __call__(self, x: Tensor) -> Tensor:
        """Rows (n, X) to (n, K·A)."""
        return F.normalize(self.members(x), dim=2).transpose(0, 1).flatten(1)


@dataclass(frozen=True, eq=False)
class Cosine(Part):
    """The members' mean of scale·cos(a^, a_c).

    Attributes:
        members: see `Members`.
        unit_semantics: (N, A) of length 1.
        scale: of the cosine.
    """

    members: Map
    unit_semantics: Tensor
    scale: float

    def __call__(self, x: Tensor) -> Tensor:
        """Rows (n, X) to (n, N)."""
        cosines = F.normalize(self.members(x), dim=2) @ self.unit_semantics.T
        return self.scale * cosines.mean(dim=0)

    def extended(self, semantics: Tensor, means: Map | None = None) -> "Cosine":
        """See `Part.extended`: a class is its semantics."""
        return Cosine(self.members, torch.cat([self.unit_semantics, F.normalize(semantics, dim=1)]), self.scale)


def dropout_mask(shape: tuple[int, ...], share: float, rng: torch.Generator) -> Tensor:
    """Factors that switch a share of units off and scale the others up (Srivastava et al., JMLR 2014).

    Args:
        shape: of the units.
        share: in [0, 1).
        rng: on the device that the mask is for.
    """
    kept = torch.empty(shape, device=rng.device).bernoulli_(1 - share, generator=rng)
    return kept / (1 - share)

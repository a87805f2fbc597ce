"""The small networks of the method, initialised from an explicit random generator."""

from typing import Literal

import torch
from torch import Tensor, nn

from d3tune.method.adam import Adam
from d3tune.method.parts import Chain, Layer

Activation = Literal["relu", "identity"]
INIT_SD = 0.02


class _Blank(nn.Linear):
    """A linear layer whose values are set by whoever makes it: torch's own would draw from its global generator."""

    def reset_parameters(self) -> None:
        """Leave them as they are."""


def linear(n_in: int, n_out: int, rng: torch.Generator) -> nn.Linear:
    """A linear layer with weights N(0, .02) and bias 0, as in the authors' code.

    Args:
        n_in: input width.
        n_out: output width.
        rng: a CPU generator, so that one seed gives the same weights on every device.
    """
    layer = _Blank(n_in, n_out)
    with torch.no_grad():
        layer.weight.normal_(0.0, INIT_SD, generator=rng)
        layer.bias.zero_()
    return layer


def scaled_linear(n_in: int, n_out: int, rng: torch.Generator) -> nn.Linear:
    """A linear layer with weights N(0, 1/n_in) and bias 0, which keeps the scale of what goes through it."""
    layer = linear(n_in, n_out, rng)
    with torch.no_grad():
        layer.weight.mul_(n_in**-0.5 / INIT_SD)
    return layer


class EmbeddingClassifier(nn.Module):
    """Embedding E = Linear + activation and classifier C = Linear: teacher (E_o, C_o) and student (E_s, C_s)."""

    def __init__(
        self, n_features: int, embed_dim: int, n_classes: int, activation: Activation, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.embed_layer = linear(n_features, embed_dim, rng)
        self.logit_layer = linear(embed_dim, n_classes, rng)
        self.activation = activation

    def embed(self, x: Tensor) -> Tensor:
        """Features (B, X) to embeddings (B, E)."""
        z: Tensor = self.embed_layer(x)
        return torch.relu(z) if self.activation == "relu" else z

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, X) to embeddings (B, E) and logits (B, classes)."""
        z = self.embed(x)
        return z, self.logit_layer(z)

    def embed_map(self) -> Layer:
        """`embed` as a part of a head; training on changes it."""
        return Layer(self.embed_layer.weight.detach(), self.embed_layer.bias.detach(), self.activation)

    def logit_map(self) -> Chain:
        """Features (B, X) to logits (B, classes) as a part of a head; training on changes it."""
        return Chain(self.embed_map(), Layer(self.logit_layer.weight.detach(), self.logit_layer.bias.detach()))


def descend(loss: Tensor, *optimizers: Adam) -> None:
    """A step of each optimiser on the gradients of a loss by its own parameters alone; no gradient is kept.

    Gradients take as much memory as the model, and what follows a step has use for it.
    """
    parameters = [p for optimizer in optimizers for p in optimizer.parameters if p.requires_grad]
    for parameter in parameters:
        # whatever another backward pass left
        parameter.grad = None
    torch.autograd.backward(loss, inputs=parameters)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()

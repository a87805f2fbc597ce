"""Heads: what classifies among all classes, from real seen and synthetic unseen rows."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d3tune.config import D3Config
from d3tune.method.adam import Adam
from d3tune.method.closed_form import Discriminant, discriminant, shrunk_factor, within_class_covariance
from d3tune.method.networks import linear
from d3tune.method.parted import SLOPE
from d3tune.method.parts import Layer, Map, Part, layers


@dataclass(frozen=True, eq=False)
class Prototypes(Part):
    """scale·cos(x, w_c) with prototypes w_c = mapping(a_c).

    Attributes:
        scaled: (N, X) scale·w_c/‖w_c‖.
        mapping: from semantics to prototypes.
        scale: of the cosine.
    """

    scaled: Tensor
    mapping: Map
    scale: float

    def __call__(self, x: Tensor) -> Tensor:
        """Rows (n, X) to (n, N)."""
        return F.normalize(x, dim=1) @ self.scaled.T

    def extended(self, semantics: Tensor, means: Map | None = None) -> "Prototypes":
        """See `Part.extended`: a prototype is a function of its class's semantics."""
        further = self.scale * F.normalize(self.mapping(semantics), dim=1)
        return Prototypes(torch.cat([self.scaled, further]), self.mapping, self.scale)


@torch.no_grad()
def train_linear_head(
    x: Tensor,
    y: Tensor,
    n_classes: int,
    config: D3Config,
    rng: torch.Generator,
    logit_shift: Tensor | None = None,
) -> Layer:
    """Fit a linear softmax classifier by cross-entropy (f-CLSWGAN's final classifier, zero-initialised).

    Args:
        x: (n, D) rows: features or embeddings.
        y: (n,) classes in [0, n_classes).
        n_classes: N.
        config: ``head_lr``, ``head_epochs``, ``head_batch_size``.
        rng: CPU generator of the row order.
        logit_shift: (N,) added to the logits in training alone, see `logit_adjustment`.

    Returns:
        The function from rows (m, D) to logits (m, N).
    """
    weight = nn.Parameter(x.new_zeros(n_classes, x.shape[1]))
    bias = nn.Parameter(x.new_zeros(n_classes))
    shift = 0.0 if logit_shift is None else logit_shift
    optimizer = Adam([weight, bias], config.head_lr)
    for rows in _batches(len(x), config, rng, x.device):
        x_rows, one_hot_at = x[rows], y[rows][:, None]
        # the gradient of cross-entropy by hand: for one linear layer autograd costs more than the products
        error = (F.linear(x_rows, weight, bias) + shift).softmax(dim=1)
        error.scatter_add_(1, one_hot_at, error.new_full(one_hot_at.shape, -1.0))
        error /= len(rows)
        weight.grad = error.T @ x_rows
        bias.grad = error.sum(dim=0)
        optimizer.step()
    return Layer(weight.detach(), bias.detach())


def train_prototype_head(
    x: Tensor,
    y: Tensor,
    semantics: Tensor,
    config: D3Config,
    rng: torch.Generator,
    logit_shift: Tensor | None = None,
) -> Prototypes:
    """Fit prototypes w_c = MLP(a_c) by cross-entropy of scale·cos(x, w_c), as ZLAP does.

    A prototype is tied to its class's semantics, so that seen classes teach what unseen ones look like.

    Args:
        x: (n, X) rows.
        y: (n,) classes.
        semantics: (N, A).
        config: ``head_lr``, ``head_epochs``, ``head_batch_size``, ``prototype_hidden``, ``cosine_scale``.
        rng: CPU generator of weights and row order.
        logit_shift: (N,) added to the logits in training alone.

    Returns:
        The function from rows (m, X) to logits (m, N), cosine × scale.
    """
    hidden = linear(semantics.shape[1], config.prototype_hidden, rng)
    output = linear(config.prototype_hidden, x.shape[1], rng)
    mapping = nn.Sequential(hidden, nn.LeakyReLU(SLOPE), output).to(x.device)
    optimizer = Adam(list(mapping.parameters()), config.head_lr)
    shift = 0.0 if logit_shift is None else logit_shift
    unit = F.normalize(x, dim=1)
    for rows in _batches(len(x), config, rng, x.device):
        logits = config.cosine_scale * unit[rows] @ F.normalize(mapping(semantics), dim=1).T
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(logits + shift, y[rows]))
        optimizer.step()
    with torch.no_grad():
        prototypes = config.cosine_scale * F.normalize(mapping(semantics), dim=1)
    return Prototypes(prototypes, layers([hidden, output], "leaky_relu"), config.cosine_scale)


def lda_head(x: Tensor, y: Tensor, n_seen: int, unseen_means: Tensor, shrinkage: float) -> Discriminant:
    """Linear discriminants: one covariance pooled from real rows, unseen class means from synthetic ones.

    Args:
        x: (n, X) real rows of seen classes.
        y: (n,) their classes.
        n_seen: N_s.
        unseen_means: (N_u, X) means of synthetic rows.
        shrinkage: of the covariance to its diagonal, in [0, 1].

    Returns:
        The function from rows (m, X) to x'Σ⁻¹μ − ½μ'Σ⁻¹μ (m, N).
    """
    means, covariance = within_class_covariance(x.double(), y, n_seen)
    return discriminant(torch.cat([means, unseen_means.double()]), shrunk_factor(covariance, shrinkage))


def logit_adjustment(labels: Tensor, n_classes: int, n_seen: int, config: D3Config) -> Tensor | None:
    """What is added to the logits in training: log class priors and a shift of the unseen classes.

    A classifier trained with its logits shifted by the log priors of its training rows scores without them as if all
    classes were equally likely (Menon et al., 2021; ZLAP).

    Args:
        labels: (n,) classes of the training rows.
        n_classes: N.
        n_seen: N_s.
        config: ``logit_prior`` and ``unseen_shift``.

    Returns:
        (N,), or None where both are off.
    """
    if not config.logit_prior and config.unseen_shift == 0:
        return None
    shift = torch.zeros(n_classes, device=labels.device)
    if config.logit_prior:
        shift += (torch.bincount(labels, minlength=n_classes).clamp(min=1) / len(labels)).log()
    shift[n_seen:] += config.unseen_shift
    return shift


def _batches(n: int, config: D3Config, rng: torch.Generator, device: torch.device) -> list[Tensor]:
    """Row numbers of every step of a head's training: each epoch is a new order."""
    orders = [torch.randperm(n, generator=rng).to(device) for _ in range(config.head_epochs)]
    return [rows for order in orders for rows in torch.split(order, config.head_batch_size)]

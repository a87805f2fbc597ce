"""Heads: the linear softmax classifiers that read real seen and synthetic unseen rows."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d3tune.config import TrialConfig
from d3tune.method.networks import adam


def train_linear_head(
    x: Tensor, y: Tensor, n_classes: int, config: TrialConfig, rng: torch.Generator
) -> Callable[[Tensor], Tensor]:
    """Fit a linear softmax classifier by cross-entropy (f-CLSWGAN's final classifier, zero-initialised).

    Args:
        x: (n, D) rows: features or embeddings.
        y: (n,) classes in [0, n_classes).
        n_classes: N.
        config: ``head_lr``, ``head_epochs``, ``head_batch_size``.
        rng: CPU generator of the row order.

    Returns:
        The function from rows (m, D) to logits (m, N).
    """
    weight = nn.Parameter(x.new_zeros(n_classes, x.shape[1]))
    bias = nn.Parameter(x.new_zeros(n_classes))
    optimizer = adam([weight, bias], config.head_lr)
    for _ in range(config.head_epochs):
        order = torch.randperm(len(x), generator=rng).to(x.device)
        for rows in order.split(config.head_batch_size):
            logits = F.linear(x[rows], weight, bias)
            # the gradient of cross-entropy by hand: for one linear layer autograd costs more than the products
            error = logits.softmax(dim=1)
            error[torch.arange(len(rows), device=x.device), y[rows]] -= 1
            error /= len(rows)
            weight.grad = error.T @ x[rows]
            bias.grad = error.sum(dim=0)
            optimizer.step()
    weight, bias = weight.detach(), bias.detach()  # type: ignore[assignment]
    return lambda rows: F.linear(rows, weight, bias)

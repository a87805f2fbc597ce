"""Heads: the linear softmax classifiers that read real seen and synthetic unseen rows."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d3tune.config import TrialConfig
from d3tune.method.networks import adam


@torch.no_grad()
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
        for rows in torch.split(order, config.head_batch_size):
            x_rows, one_hot_at = x[rows], y[rows][:, None]
            # the gradient of cross-entropy by hand: for one linear layer autograd costs more than the products
            error = F.linear(x_rows, weight, bias).softmax(dim=1)
            error.scatter_add_(1, one_hot_at, error.new_full(one_hot_at.shape, -1.0))
            error /= len(rows)
            weight.grad = error.T @ x_rows
            bias.grad = error.sum(dim=0)
            optimizer.step()
    return partial(F.linear, weight=weight.detach(), bias=bias.detach())

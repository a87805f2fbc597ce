"""ReMSE, the rebalanced mean squared error of semantic regression (Ye et al., ReZSL, TIP 2023)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ERROR_FLOOR = 1e-6


class RebalancedMSE(nn.Module):
    """Mean squared error on L2-normalised semantics, weighted up where classes or dimensions lag behind.

    E[c, s] is the latest mean squared error of class c in dimension s. With minima over the non-zero entries of seen
    classes, w1[c, s] = (1 + ln(E[c, s]/min_c' E[c', s]))^p and w2[c, s] = (1 + ln(E[c, s]/min_s' E[c, s']))^p2; an
    entry that is still 0 weighs 1. A class absent from a batch keeps its last E. p = p2 = 0 is the plain MSE.
    """

    errors: Tensor

    def __init__(self, n_classes: int, n_semantics: int, p: float, p2: float, in_batch: bool = False) -> None:
        """Start with no error on record.

        Args:
            n_classes: N_s, the classes that can occur.
            n_semantics: A.
            p: exponent over classes, ≥ 0.
            p2: exponent over dimensions, ≥ 0.
            in_batch: forget all errors before each batch, so that only its own classes are compared; the authors' code
                computes this.
        """
        super().__init__()
        self.in_batch = in_batch
        self.p, self.p2 = p, p2
        self.register_buffer("errors", torch.zeros(n_classes, n_semantics))

    def forward(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch; the record is updated first, weights carry no gradient.

        Args:
            predicted: (B, A), normalised here.
            target: (B, A), the classes' semantics, normalised here.
            labels: (B,) in [0, n_classes).

        Returns:
            Scalar ≥ 0, mean over rows and dimensions.
        """
        squared = (F.normalize(predicted, dim=1) - F.normalize(target, dim=1)).square()
        self._record(squared.detach(), labels)
        return (self.weights()[labels] * squared).mean()

    @torch.no_grad()
    def weights(self) -> Tensor:
        """w1·w2 (n_classes, A), each at least 1."""
        errors = self.errors
        known = errors > 0
        floored = errors.clamp(min=ERROR_FLOOR)
        comparable = torch.where(known, floored, torch.inf)
        over_classes = floored / comparable.amin(dim=0, keepdim=True)
        over_semantics = floored / comparable.amin(dim=1, keepdim=True)
        weights = (1 + over_classes.log()).pow(self.p) * (1 + over_semantics.log()).pow(self.p2)
        return torch.where(known, weights, 1.0)

    @torch.no_grad()
    def _record(self, squared: Tensor, labels: Tensor) -> None:
        counts = self.errors.new_zeros(len(self.errors), 1).index_add_(0, labels, squared.new_ones(len(labels), 1))
        means = torch.zeros_like(self.errors).index_add_(0, labels, squared) / counts.clamp(min=1)
        kept = torch.zeros_like(self.errors) if self.in_batch else self.errors
        self.errors.copy_(torch.where(counts > 0, means, kept))

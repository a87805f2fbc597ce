"""The D³ terms and the two small networks that only they use.

Source: the D³GZSL framework figure; what it leaves open is as docs/method.md decides. z~, v~: the teacher's embeddings
and logits (seen classes); z^, v^: the student's (all N classes, the seen ones first).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.reference.networks import normal_linear

OodScore = Literal["msp", "energy", "maxlogit", "entropy"]
OodInput = Literal["prob", "logprob"]

EPSILON = 1e-4


def pair_similarity(a: Tensor, b: Tensor) -> Tensor:
    """ε + (1 − 2ε)(1 + cos(a_i, b_j))/2 of every pair of rows, ε = 1e-4.

    Args:
        a: (B, d).
        b: (B', d).

    Returns:
        (B, B').
    """
    left = a.repeat_interleave(len(b), dim=0)
    right = b.repeat(len(a), 1)
    cosine = F.cosine_similarity(left, right, dim=1, eps=1e-8).view(len(a), len(b))
    return EPSILON + (1 - 2 * EPSILON) * (1 + cosine) / 2


def pair_loss(similarity: Tensor, labels: Tensor, balance: bool) -> Tensor:
    """BCE(similarity, Y), Y_ij = 1[y_i = y_j], i = j included.

    Args:
        similarity: (B, B) in (0, 1).
        labels: (B,).
        balance: ½ mean over positive pairs + ½ mean over negative ones, instead of the mean over all.
    """
    same = labels[:, None] == labels[None, :]
    loss = F.binary_cross_entropy(similarity, same.to(similarity.dtype), reduction="none")
    if not balance:
        return loss.mean()
    positive, negative = loss[same], loss[~same]
    return 0.5 * positive.mean() + (0.5 * negative.mean() if len(negative) > 0 else 0.0)


def embedding_loss(teacher_z: Tensor, student_z: Tensor, labels: Tensor, balance: bool) -> Tensor:
    """L_be = BCE(M, Y), M_ij = (1 + cos(z~_i, z^_j))/2, on real seen rows."""
    return pair_loss(pair_similarity(teacher_z, student_z), labels, balance)


def label_loss(teacher_v: Tensor, student_v: Tensor, temperature: float) -> Tensor:
    """L_kl = T²·KL(softmax(v~/T) ‖ softmax(v^[seen]/T)), mean over real seen rows (T: Hinton et al., 2015)."""
    n_seen = teacher_v.shape[1]
    p = F.softmax(teacher_v / temperature, dim=1)
    log_p = F.log_softmax(teacher_v / temperature, dim=1)
    log_q = F.log_softmax(student_v[:, :n_seen] / temperature, dim=1)
    return temperature**2 * (p * (log_p - log_q)).sum(dim=1).mean()


def outlier_loss(student_h: Tensor, teacher_h: Tensor, labels: Tensor, balance: bool) -> Tensor:
    """L_od = BCE(R, Y), R_ij = (1 + cos(h^_i, h~_j))/2, on real seen and synthetic unseen rows."""
    return pair_loss(pair_similarity(student_h, teacher_h), labels, balance)


def ood_score(teacher_v: Tensor, kind: OodScore) -> Tensor:
    """O(v~) (B,): the largest log-probability, logsumexp, the largest logit or the negative entropy."""
    if kind == "msp":
        return F.log_softmax(teacher_v, dim=1).max(dim=1).values
    if kind == "energy":
        return torch.logsumexp(teacher_v, dim=1)
    if kind == "maxlogit":
        return teacher_v.max(dim=1).values
    p = F.softmax(teacher_v, dim=1)
    return (p * F.log_softmax(teacher_v, dim=1)).sum(dim=1)


class Projector(nn.Module):
    """H: h^ = Linear(softmax(v^)) (figure), or of log-softmax (public code)."""

    def __init__(self, n_classes: int, dim: int, ood_input: OodInput) -> None:
        super().__init__()
        self.layer = normal_linear(n_classes, dim)
        self.ood_input = ood_input

    def forward(self, student_v: Tensor) -> Tensor:
        """Logits (B, N) to h^ (B, d)."""
        p = F.softmax(student_v, dim=1) if self.ood_input == "prob" else F.log_softmax(student_v, dim=1)
        h: Tensor = self.layer(p)
        return h


class Gates(nn.Module):
    """S: h~ = [g, 1 − g], g_k = σ(w_k(s + b_k)) of the standardised score s; d = 2 is the public code's form."""

    mean: Tensor
    sd: Tensor

    def __init__(self, dim: int, held_out_scores: Tensor | None) -> None:
        """Start from w = 1, and b = 0 for d = 2 or −quantile((2k − 1)/d) of the standardised scores for d > 2.

        Args:
            dim: d = 2K.
            held_out_scores: (n,) scores of rows that the teacher was not fitted on; read where d > 2.
        """
        super().__init__()
        mean, sd, shift = torch.tensor(0.0), torch.tensor(1.0), torch.zeros(dim // 2)
        if dim > 2 and held_out_scores is not None:
            mean, sd = held_out_scores.mean(), held_out_scores.std()
            levels = torch.tensor([(2 * k - 1) / dim for k in range(1, dim // 2 + 1)], dtype=held_out_scores.dtype)
            shift = -torch.quantile((held_out_scores - mean) / sd, levels)
        self.register_buffer("mean", mean)
        self.register_buffer("sd", sd)
        self.weight = nn.Parameter(torch.ones(dim // 2))
        self.shift = nn.Parameter(shift)

    def forward(self, score: Tensor) -> Tensor:
        """Scores (B,) to h~ (B, d)."""
        s = (score - self.mean) / self.sd
        gates = torch.sigmoid(self.weight * (s[:, None] + self.shift))
        return torch.cat([gates, 1 - gates], dim=1)

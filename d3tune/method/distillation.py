"""The four D³ terms, as functions of tensors.

Source: the D³GZSL framework figure and the authors' public code; where neither fixes a form, the decision is
documented at the function. Symbols: teacher embedding z~ and logits v~ (seen classes only), student embedding z^
and logits v^ (all classes, the seen ones first), B rows, N_s seen of N classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d3tune.config import OodScore
from d3tune.method.networks import linear

PAIR_EPS = 1e-4
COSINE_EPS = 1e-8


def pair_similarity(a: Tensor, b: Tensor) -> Tensor:
    """All-pairs similarity (1 + cos(a_i, b_j))/2, squeezed into [ε, 1 − ε] with ε = 1e-4.

    The squeeze is affine: a clamp would have no gradient exactly at the worst pairs.

    Args:
        a: (B, d).
        b: (B', d).

    Returns:
        (B, B') in [1e-4, 1 − 1e-4].
    """
    cosine = F.normalize(a, dim=1, eps=COSINE_EPS) @ F.normalize(b, dim=1, eps=COSINE_EPS).T
    return PAIR_EPS + (1 - 2 * PAIR_EPS) * (1 + cosine) / 2


def pair_loss(similarity: Tensor, labels: Tensor, balance: bool) -> Tensor:
    """Binary cross-entropy between a similarity matrix and "same class", over all pairs, i = j included.

    Args:
        similarity: (B, B) in (0, 1).
        labels: (B,) class ids of rows and of columns.
        balance: give positives and negatives half of the weight each, instead of one plain mean.

    Returns:
        Scalar ≥ 0.
    """
    same = labels[:, None] == labels[None, :]
    loss = -torch.where(same, similarity, 1 - similarity).log()
    if not balance:
        return loss.mean()
    positives = same.to(loss.dtype)
    negatives = 1 - positives
    on_positives = (loss * positives).sum() / positives.sum()
    on_negatives = (loss * negatives).sum() / negatives.sum().clamp(min=1)
    return (on_positives + on_negatives) / 2


def embedding_loss(teacher_z: Tensor, student_z: Tensor, labels: Tensor, balance: bool) -> Tensor:
    """L_be, in-distribution dual-space distillation of embeddings, on real seen rows.

    BCE(M, Y) with M_ij = (1 + cos(z~_i, z^_j))/2 and Y_ij = 1[y_i = y_j].

    Args:
        teacher_z: (B, E), no gradient.
        student_z: (B, E).
        labels: (B,).
        balance: see `pair_loss`.
    """
    return pair_loss(pair_similarity(teacher_z, student_z), labels, balance)


def label_loss(teacher_v: Tensor, student_v: Tensor, temperature: float) -> Tensor:
    """L_kl, in-distribution dual-space distillation of labels, on real seen rows.

    T²·KL(softmax(v~/T) ‖ softmax(v^[seen]/T)), mean over the batch, on logits.

    Args:
        teacher_v: (B, N_s), no gradient.
        student_v: (B, N) logits, the seen classes first.
        temperature: T > 0.
    """
    n_seen = teacher_v.shape[1]
    log_teacher = F.log_softmax(teacher_v / temperature, dim=1)
    log_student = F.log_softmax(student_v[:, :n_seen] / temperature, dim=1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def outlier_loss(student_h: Tensor, teacher_h: Tensor, labels: Tensor, balance: bool) -> Tensor:
    """L_od, out-of-distribution batch distillation, on real seen and synthetic unseen rows.

    BCE(R, Y) with R_ij = (1 + cos(h^_i, h~_j))/2 and Y_ij = 1[same class].

    Args:
        student_h: (B, d), H of the student's output.
        teacher_h: (B, d), S of the teacher's OOD score.
        labels: (B,).
        balance: see `pair_loss`.
    """
    return pair_loss(pair_similarity(student_h, teacher_h), labels, balance)


def ood_score(teacher_v: Tensor, kind: OodScore) -> Tensor:
    """O: how in-distribution the teacher finds a row; higher is more like the seen classes.

    Args:
        teacher_v: (B, N_s) logits.
        kind: ``msp`` the largest log-softmax, ``energy`` logsumexp, ``maxlogit``, ``entropy`` its negative.

    Returns:
        (B,).
    """
    if kind == "energy":
        return teacher_v.logsumexp(dim=1)
    if kind == "maxlogit":
        return teacher_v.amax(dim=1)
    log_p = F.log_softmax(teacher_v, dim=1)
    if kind == "msp":
        return log_p.amax(dim=1)
    return (log_p.exp() * log_p).sum(dim=1)


class OodProjector(nn.Module):
    """H: the student's class distribution to its OOD embedding h^, linear N → d."""

    def __init__(self, n_classes: int, dim: int, log_input: bool, rng: torch.Generator) -> None:
        super().__init__()
        self.layer = linear(n_classes, dim, rng)
        self.log_input = log_input

    def forward(self, student_v: Tensor) -> Tensor:
        """Logits (B, N) to embeddings (B, d)."""
        p = F.log_softmax(student_v, dim=1) if self.log_input else F.softmax(student_v, dim=1)
        h: Tensor = self.layer(p)
        return h


class OodGates(nn.Module):
    """S: a teacher's OOD score to its OOD embedding h~ of K gates and their K complements, learnable.

    gate_k = σ(w_k(s + b_k)). For d = 2: the raw score, w = 1, b = 0 (the public code). For d = 2K > 2 (a decision):
    the score standardised on held-out rows and b_k = −quantile((2k − 1)/2K), so that the gates open one after another
    over the range that scores really take.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, dim: int, held_out_scores: Tensor | None) -> None:
        """Start from the published form for d = 2, from quantiles otherwise.

        Args:
            dim: d, even.
            held_out_scores: (n,) scores of rows that the scoring teacher was not fitted on; needed for d > 2.
        """
        super().__init__()
        n_gates = dim // 2
        mean, sd, shift = torch.zeros(()), torch.ones(()), torch.zeros(n_gates)
        if dim > 2:
            assert held_out_scores is not None, "d > 2 needs held-out scores"
            scores = held_out_scores.float().cpu()
            mean, sd = scores.mean(), scores.std().clamp(min=1e-6)
            levels = (2 * torch.arange(1, n_gates + 1) - 1) / (2 * n_gates)
            shift = -torch.quantile((scores - mean) / sd, levels)
        self.register_buffer("mean", mean)
        self.register_buffer("sd", sd)
        self.weight = nn.Parameter(torch.ones(n_gates))
        self.shift = nn.Parameter(shift)

    def forward(self, score: Tensor) -> Tensor:
        """Scores (B,) to embeddings (B, 2K)."""
        standardised = (score - self.mean) / self.sd
        gate = torch.sigmoid(self.weight * (standardised[:, None] + self.shift))
        return torch.cat([gate, 1 - gate], dim=1)


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """``x`` itself, whose gradient is multiplied by ``factor``; 0 cuts it, 1 leaves it."""
    fixed = x.detach()
    return fixed + (x - fixed) * factor

"""The three distillation terms exactly as the authors' public code computes them (``fidelity: official``).

They differ from `d3tune.method.distillation`, which follows the framework figure: the label term applies a softmax to
what is a softmax already, the pair terms apply a sigmoid to similarities that are in [0, 1] already, and both OOD
embeddings go through another softmax. So the label term cannot exceed .0113 for 150 classes, and a pair costs at
least ln(1 + 1/e) = .313 (same class) or, where all cosines are ≥ 0, ln(1 + √e) = .974 (different classes).
Source: PJBQ/D3GZSL, calc_ood_loss.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from d3tune.method.distillation import COSINE_EPS


def embedding_loss(teacher_z: Tensor, student_z: Tensor, labels: Tensor, balance: bool = False) -> Tensor:
    """BCE with logits on (1 + cos)/2 of all pairs, plain mean; ``balance`` is not read.

    Args:
        teacher_z: (B, E).
        student_z: (B, E).
        labels: (B,).
        balance: for the signature's sake.
    """
    return _pair_loss(teacher_z, student_z, labels)


def label_loss(teacher_v: Tensor, student_v: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(softmax(softmax(v~)) ‖ softmax(softmax(v^[seen]))), batchmean; ``temperature`` is not read.

    Args:
        teacher_v: (B, N_s) logits.
        student_v: (B, N) logits, the seen classes first.
        temperature: for the signature's sake.
    """
    n_seen = teacher_v.shape[1]
    log_teacher = F.log_softmax(teacher_v.softmax(dim=1), dim=1)
    log_student = F.log_softmax(student_v[:, :n_seen].softmax(dim=1), dim=1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def outlier_loss(student_h: Tensor, teacher_h: Tensor, labels: Tensor, balance: bool = False) -> Tensor:
    """BCE with logits on (1 + cos)/2 of softmax(h^) and softmax(h~), plain mean; ``balance`` is not read.

    Args:
        student_h: (B, d).
        teacher_h: (B, d).
        labels: (B,).
        balance: for the signature's sake.
    """
    return _pair_loss(student_h.softmax(dim=1), teacher_h.softmax(dim=1), labels)


def _pair_loss(a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
    cosine = F.normalize(a, dim=1, eps=COSINE_EPS) @ F.normalize(b, dim=1, eps=COSINE_EPS).T
    same = (labels[:, None] == labels[None, :]).to(cosine.dtype)
    return torch.nn.functional.binary_cross_entropy_with_logits((1 + cosine) / 2, same)

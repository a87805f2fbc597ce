"""The student side of D³: student, H and S, and the weighted sum of the four terms on one batch."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d3tune.config import D3Config
from d3tune.method import distillation, official
from d3tune.method.distillation import OodGates, OodProjector, ood_score, scale_gradient
from d3tune.method.generators.base import Batch, Sizes
from d3tune.method.networks import EmbeddingClassifier


@dataclass(frozen=True)
class Synthetic:
    """Synthetic rows of unseen classes.

    Attributes:
        x: (M, X), with a graph to the generator.
        y: (M,) classes in [N_s, N).
    """

    x: Tensor
    y: Tensor


class StudentSide(nn.Module):
    """Student (E_s, C_s) over all classes, projector H and gates S."""

    def __init__(self, sizes: Sizes, config: D3Config, held_out_scores: Tensor | None, rng: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.n_seen = sizes.n_seen
        self.student = EmbeddingClassifier(
            sizes.n_features, config.embed_dim, sizes.n_classes, config.embed_activation, rng
        )
        self.projector = OodProjector(sizes.n_classes, config.ood_embed_dim, config.reads_log_probabilities, rng)
        self.gates = OodGates(config.ood_embed_dim, held_out_scores)

    def loss(
        self, batch: Batch, synthetic: Synthetic, teacher: EmbeddingClassifier
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """w_cls·L_cls + w_be·L_be + w_kl·L_kl + w_od·L_od, and each term by name (detached, unweighted).

        The gradient into ``synthetic.x`` is scaled by ``generator_d3_weight``; it flows through the student (L_cls,
        L_od) and through the frozen teacher (L_od). A term of weight 0 is not computed.
        """
        config = self.config
        terms = official if config.fidelity == "official" else distillation
        n_real = len(batch.x)
        fake = scale_gradient(synthetic.x, config.generator_d3_weight)
        labels = torch.cat([batch.y, synthetic.y])
        z, v = self.student(torch.cat([batch.x, fake]))
        weighted: list[Tensor] = []
        parts: dict[str, Tensor] = {}

        def add(name: str, weight: float, term: Tensor) -> None:
            weighted.append(weight * term)
            parts[name] = term.detach()

        if config.cls_weight > 0:
            add("student_classification", config.cls_weight, F.cross_entropy(v, labels))
        if config.embedding_weight > 0:
            term = terms.embedding_loss(batch.teacher_z, z[:n_real], batch.y, config.pair_balance)
            add("embedding_distillation", config.embedding_weight, term)
        if config.label_weight > 0:
            term = terms.label_loss(batch.teacher_v, v[:n_real], config.temperature)
            add("label_distillation", config.label_weight, term)
        if config.ood_weight > 0:
            teacher_v = torch.cat([batch.teacher_v, teacher(fake)[1]])
            teacher_h = self.gates(ood_score(teacher_v, config.ood_score))
            term = terms.outlier_loss(self.projector(v), teacher_h, labels, config.pair_balance)
            add("outlier_distillation", config.ood_weight, term)
        return torch.stack(weighted).sum(), parts

"""``cegan``: CE-GZSL (Han et al., CVPR 2021), f-CLSWGAN with instance and class contrast in an embedding."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.reference.gan import AdversarialTrial, GanSettings
from benchmarks.reference.networks import SLOPE, normal_linear
from benchmarks.reference.trial import Batch, Losses


@dataclass(frozen=True, kw_only=True)
class CeganSettings(GanSettings):
    """Hyper-parameters of ``cegan``."""

    contrast_dim: int = 2048
    projection_dim: int = 512
    relation_dim: int = 2048
    instance_weight: float = 0.001
    class_weight: float = 0.001
    instance_temperature: float = 0.1
    class_temperature: float = 0.1


class ContrastiveEmbedding(nn.Module):
    """h = ReLU(Linear(x)), z = Linear(h) of length 1."""

    def __init__(self, n_features: int, contrast_dim: int, projection_dim: int) -> None:
        super().__init__()
        self.embedding = normal_linear(n_features, contrast_dim)
        self.projection = normal_linear(contrast_dim, projection_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, X) to h (B, E) and z (B, P)."""
        h = torch.relu(self.embedding(x))
        return h, F.normalize(self.projection(h), dim=1)


class ClassComparator(nn.Module):
    """F: [h; a] → hidden LeakyReLU(.2) → 1, a score of a row and a class."""

    def __init__(self, contrast_dim: int, n_semantics: int, relation_dim: int) -> None:
        super().__init__()
        self.hidden = normal_linear(contrast_dim + n_semantics, relation_dim)
        self.output = normal_linear(relation_dim, 1)

    def forward(self, h: Tensor, a: Tensor) -> Tensor:
        """Scores (B, C) of embeddings h (B, E) and classes a (C, A), one row of input for every pair."""
        rows = h.repeat_interleave(len(a), dim=0)
        classes = a.repeat(len(h), 1)
        score: Tensor = self.output(F.leaky_relu(self.hidden(torch.cat([rows, classes], dim=1)), SLOPE))
        return score.view(len(h), len(a))


def supervised_contrast(z: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """SupCon (Khosla et al., 2020), its L_out, over the rows that have a positive.

    Mean over rows i of −1/|P(i)| Σ_{p ∈ P(i)} ln(exp(z_i·z_p/τ) / Σ_{j ≠ i} exp(z_i·z_j/τ)), with P(i) the other rows
    of i's class.

    Args:
        z: (B, d) of length 1.
        labels: (B,).
        temperature: τ.
    """
    others = ~torch.eye(len(z), dtype=torch.bool)
    positives = (labels[:, None] == labels[None, :]) & others
    similarity = z @ z.T / temperature
    log_sum = similarity.masked_fill(~others, -torch.inf).logsumexp(dim=1, keepdim=True)
    count = positives.sum(dim=1)
    per_row = ((log_sum - similarity) * positives).sum(dim=1)[count > 0] / count[count > 0]
    return per_row.mean() if len(per_row) > 0 else z.new_zeros(())


class CeganTrial(AdversarialTrial[CeganSettings]):
    """Real rows train embedding and comparator in the critic's steps; fakes train the generator alone."""

    def build(self) -> None:
        """The embedding and the comparator."""
        settings, n_semantics = self.settings, self.data.semantics.shape[1]
        self.embedding = ContrastiveEmbedding(self.data.x.shape[1], settings.contrast_dim, settings.projection_dim)
        self.comparator = ClassComparator(settings.contrast_dim, n_semantics, settings.relation_dim)

    def critic_parameters(self) -> list[nn.Parameter]:
        """Critic, embedding and comparator."""
        return [*self.critic.parameters(), *self.embedding.parameters(), *self.comparator.parameters()]

    def critic_terms(self, batch: Batch) -> Losses:
        """SupCon(z) and CE(F([h; a_c])/τ_c, y) of real rows."""
        h, z = self.embedding(batch.x)
        return {
            "instance_contrast": supervised_contrast(z, batch.y, self.settings.instance_temperature),
            "class_contrast": self.class_contrast(h, batch.y),
        }

    def generator_terms(self, batch: Batch, fake: Tensor) -> tuple[Tensor, Losses]:
        """w_i·SupCon([z of fakes; z of real rows]) + w_c·CE(F([h of fakes; a_c])/τ_c, y)."""
        h, z = self.embedding(fake)
        real_z = self.embedding(batch.x)[1]
        both, labels = torch.cat([z, real_z]), torch.cat([batch.y, batch.y])
        instance = supervised_contrast(both, labels, self.settings.instance_temperature)
        by_class = self.class_contrast(h, batch.y)
        total = self.settings.instance_weight * instance + self.settings.class_weight * by_class
        return total, {"fake_instance_contrast": instance.detach(), "fake_class_contrast": by_class.detach()}

    def class_contrast(self, h: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy over the seen classes."""
        scores = self.comparator(h, self.data.semantics[: self.data.n_seen])
        return F.cross_entropy(scores / self.settings.class_temperature, labels)

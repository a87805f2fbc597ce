"""The `cegan` backbone: CE-GZSL (Han et al., CVPR 2021), f-CLSWGAN with a contrastive embedding."""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from d3tune.method.generators import BackboneEntry
from d3tune.method.generators.base import Batch, Drawn
from d3tune.method.generators.gan import AdversarialBackbone, GanConfig, Losses
from d3tune.method.networks import linear
from d3tune.method.parted import SLOPE, linear_parts
from d3tune.method.parts import Layer


class CeganConfig(GanConfig):
    """Hyper-parameters of `cegan`; defaults as published for CUB."""

    gcls_weight: float = Field(0.0, ge=0, le=1e6, description="weight of the teacher's CE on synthetic seen")
    contrast_dim: int = Field(2048, ge=1, le=65536, description="size of the embedding h")
    projection_dim: int = Field(512, ge=1, le=65536, description="size of its projection z")
    relation_dim: int = Field(2048, ge=1, le=65536, description="hidden width of the class comparator F")
    instance_weight: float = Field(0.001, ge=0, le=1e6, description="weight of SupCon in the generator's loss")
    class_weight: float = Field(0.001, ge=0, le=1e6, description="weight of class contrast in the generator's loss")
    instance_temperature: float = Field(0.1, gt=0, le=100, description="τ of SupCon")
    class_temperature: float = Field(0.1, gt=0, le=100, description="τ of class contrast")


class ContrastiveEmbedding(nn.Module):
    """h = ReLU(Linear(x)) and z, its L2-normalised linear projection."""

    def __init__(self, n_features: int, config: CeganConfig, rng: torch.Generator) -> None:
        super().__init__()
        self.embed = linear(n_features, config.contrast_dim, rng)
        self.project = linear(config.contrast_dim, config.projection_dim, rng)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, X) to h (B, E) and z (B, projection)."""
        h = torch.relu(self.embed(x))
        return h, F.normalize(self.project(h), dim=1)


class ClassComparator(nn.Module):
    """F([h; a]) = w₂·LeakyReLU(.2)(W_h h + W_a a + b) + b₂ for all pairs of rows and classes."""

    def __init__(self, embed_dim: int, n_semantics: int, hidden_dim: int, rng: torch.Generator) -> None:
        super().__init__()
        self.hidden = linear(embed_dim + n_semantics, hidden_dim, rng)
        self.output = linear(hidden_dim, 1, rng)

    def forward(self, h: Tensor, a: Tensor) -> Tensor:
        """Scores (B, N_s) of embeddings h (B, E) against class semantics a (N_s, A), no (B, N_s, hidden) tensor.

        With p = W_h h and q = W_a a + b, LeakyReLU(.2)(u) = .6u + .4|u|, and for w = w⁺ − w⁻ with w⁺, w⁻ ≥ 0:
        Σ w|p + q| = ‖w⁺p − (−w⁺q)‖₁ − ‖w⁻p − (−w⁻q)‖₁, two L1 distance matrices.
        """
        p, q = linear_parts(h, a, self.hidden.weight, self.hidden.bias)
        w = self.output.weight.squeeze(0)
        linear_part = (p @ w)[:, None] + (q @ w)[None, :]
        up, down = w.clamp(min=0), (-w).clamp(min=0)
        absolute = torch.cdist(up * p, -up * q, p=1) - torch.cdist(down * p, -down * q, p=1)
        return (1 + SLOPE) / 2 * linear_part + (1 - SLOPE) / 2 * absolute + self.output.bias


def supervised_contrast(z: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """SupCon (Khosla et al., 2020): mean over rows of − mean log-softmax at the row's positives, itself left out.

    Rows without a positive are left out of the mean.

    Args:
        z: (B, d), normalised.
        labels: (B,).
        temperature: τ > 0.
    """
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(itself, float("-inf"))
    log_p = (logits - logits.logsumexp(dim=1, keepdim=True)).masked_fill(itself, 0.0)
    positive = ((labels[:, None] == labels[None, :]) & ~itself).to(z.dtype)
    count = positive.sum(dim=1)
    per_row = -(positive * log_p).sum(dim=1) / count.clamp(min=1)
    has_positive = (count > 0).to(z.dtype)
    return (per_row * has_positive).sum() / has_positive.sum().clamp(min=1)


class Cegan(AdversarialBackbone[CeganConfig]):
    """The critic steps also train h, z and F on real rows; the generator's loss adds both contrasts on fakes."""

    seen_semantics: Tensor

    def add_parts(self, rng: torch.Generator) -> None:
        """The contrastive embedding and the class comparator."""
        config, sizes = self.config, self.sizes
        self.embedding = ContrastiveEmbedding(sizes.n_features, config, rng)
        self.comparator = ClassComparator(config.contrast_dim, sizes.n_semantics, config.relation_dim, rng)

    def critic_parameters(self) -> list[nn.Parameter]:
        """Critic, embedding and comparator, stepped together as in the authors' code."""
        return [*self.critic.parameters(), *self.embedding.parameters(), *self.comparator.parameters()]

    def critic_terms(self, batch: Batch) -> Losses:
        """SupCon and class contrast on real rows, weight 1."""
        h, z = self.embedding(batch.x)
        return {
            "instance_contrast": supervised_contrast(z, batch.y, self.config.instance_temperature),
            "class_contrast": self._class_contrast(h, batch.y),
        }

    def generator_terms(self, batch: Batch, fake: Tensor, drawn: Drawn) -> tuple[Tensor, Losses]:
        """w_i·SupCon(fake and real z) + w_c·class contrast of the fakes; only the generator steps on it."""
        h, z = self.embedding(fake)
        with torch.no_grad():
            real_z = self.embedding(batch.x)[1]
        labels = torch.cat([batch.y, batch.y])
        instance = supervised_contrast(torch.cat([z, real_z]), labels, self.config.instance_temperature)
        by_class = self._class_contrast(h, batch.y)
        total = self.config.instance_weight * instance + self.config.class_weight * by_class
        return total, {"fake_instance_contrast": instance.detach(), "fake_class_contrast": by_class.detach()}

    def head_map(self) -> Layer:
        """h: the space that CE-GZSL classifies in."""
        layer = self.embedding.embed
        return Layer(layer.weight.detach(), layer.bias.detach(), "relu")

    def _class_contrast(self, h: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of F([h; a_c])/τ over the seen classes."""
        return F.cross_entropy(self.comparator(h, self.seen_semantics) / self.config.class_temperature, labels)


BACKBONE = BackboneEntry(config=CeganConfig, build=Cegan)

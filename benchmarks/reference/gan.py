"""``gan``: f-CLSWGAN (Xian et al., CVPR 2018), a conditional WGAN with gradient penalty (Gulrajani et al., 2017)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.reference.networks import SLOPE, EmbeddingClassifier, Generator, normal_linear
from benchmarks.reference.trial import Batch, Data, Losses, Settings, Trial, adam


@dataclass(frozen=True, kw_only=True)
class GanSettings(Settings):
    """Hyper-parameters of ``gan``."""

    critic_steps: int = 5
    gp_weight: float = 10.0
    gcls_weight: float = 0.01


@dataclass(frozen=True)
class GanDraws:
    """The noise of one update.

    Attributes:
        critic_noise: one (B, noise_dim) a critic step.
        mix: u of the interpolates, one (B, 1) a critic step.
        generator_noise: (B, noise_dim).
        synthetic_noise: (N_u · n_synthetic_step, noise_dim).
    """

    critic_noise: Sequence[Tensor]
    mix: Sequence[Tensor]
    generator_noise: Tensor
    synthetic_noise: Tensor


class Critic(nn.Module):
    """D: [x; a] → hidden LeakyReLU(.2) → 1."""

    def __init__(self, n_features: int, n_semantics: int, hidden_dim: int) -> None:
        super().__init__()
        self.hidden = normal_linear(n_features + n_semantics, hidden_dim)
        self.output = normal_linear(hidden_dim, 1)

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        """D(x, a) (B,)."""
        value: Tensor = self.output(F.leaky_relu(self.hidden(torch.cat([x, a], dim=1)), SLOPE))
        return value.squeeze(1)


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, a: Tensor, mix: Tensor) -> Tensor:
    """E[(‖∇ₓD(x̄, a)‖ − 1)²] at x̄ = u·x + (1 − u)·x~; on x, not on a.

    Args:
        critic: D.
        real: x (B, X).
        fake: x~ (B, X).
        a: (B, A).
        mix: u (B, 1).
    """
    between = (mix * real + (1 - mix) * fake).requires_grad_()
    value = critic(between, a)
    (gradient,) = torch.autograd.grad(value, between, grad_outputs=torch.ones_like(value), create_graph=True)
    norm: Tensor = torch.linalg.vector_norm(gradient, dim=1)
    return (norm - 1).square().mean()


GanSettingsT = TypeVar("GanSettingsT", bound=GanSettings)


class AdversarialTrial(Trial[GanSettingsT, GanDraws]):
    """Critic steps, then one step of generator and student; an extension adds terms to both losses."""

    def __init__(
        self,
        data: Data,
        settings: GanSettingsT,
        teacher: EmbeddingClassifier,
        held_out_scores: Tensor | None = None,
    ) -> None:
        super().__init__(data, settings, teacher, held_out_scores)
        n_features, n_semantics = data.x.shape[1], data.semantics.shape[1]
        self.generator = Generator(
            settings.noise_dim, n_semantics, settings.hidden_dim, n_features, settings.output_activation
        )
        self.critic = Critic(n_features, n_semantics, settings.hidden_dim)
        self.build()
        self.generator_optimizer = adam(list(self.generator.parameters()), settings.generator_lr)
        self.critic_optimizer = adam(self.critic_parameters(), settings.generator_lr)

    @property
    def batches_per_update(self) -> int:
        """One a critic step."""
        return self.settings.critic_steps

    def build(self) -> None:
        """Build further networks."""

    def critic_parameters(self) -> list[nn.Parameter]:
        """What a critic step changes."""
        return list(self.critic.parameters())

    def critic_terms(self, batch: Batch) -> Losses:
        """Further losses of a critic step, of weight 1."""
        return {}

    def generator_terms(self, batch: Batch, fake: Tensor) -> tuple[Tensor, Losses]:
        """Further weighted loss of the generator on ``fake`` (B, X) of the batch's classes, and its parts."""
        return torch.zeros(()), {}

    def generate(self, noise: Tensor, a: Tensor) -> Tensor:
        """G(noise, a)."""
        x: Tensor = self.generator(noise, a)
        return x

    def draw(self) -> GanDraws:
        """See `Trial.draw`."""
        settings = self.settings
        steps, rows, width = range(settings.critic_steps), settings.batch_size, settings.noise_dim
        return GanDraws(
            critic_noise=[torch.randn(rows, width) for _ in steps],
            mix=[torch.rand(rows, 1) for _ in steps],
            generator_noise=torch.randn(rows, width),
            synthetic_noise=torch.randn(self.data.n_unseen * settings.n_synthetic_step, width),
        )

    def update(self, batches: Sequence[Batch], draws: GanDraws) -> Losses:
        """See `Trial.update`; losses of the critic steps are averaged over them."""
        steps = [self.critic_step(*given) for given in zip(batches, draws.critic_noise, draws.mix, strict=True)]
        losses = {name: sum((step[name] for step in steps), torch.zeros(())) / len(steps) for name in steps[0]}
        generator_loss, parts = self.generator_loss(batches[-1], draws.generator_noise)
        losses |= parts
        return losses | self.joint_step(generator_loss, batches[-1], draws.synthetic_noise)

    def critic_step(self, batch: Batch, noise: Tensor, mix: Tensor) -> Losses:
        """One Adam step on E[D(x~, a)] − E[D(x, a)] + λ·penalty + further terms."""
        self._train_critic(True)
        with torch.no_grad():
            fake = self.generate(noise, batch.a)
        wasserstein = self.critic(fake, batch.a).mean() - self.critic(batch.x, batch.a).mean()
        penalty = gradient_penalty(self.critic, batch.x, fake, batch.a, mix)
        terms = self.critic_terms(batch)
        self.critic_optimizer.zero_grad()
        torch.autograd.backward(wasserstein + self.settings.gp_weight * penalty + sum(terms.values()))
        self.critic_optimizer.step()
        losses = {"critic": wasserstein, "gradient_penalty": penalty, **terms}
        return {name: loss.detach() for name, loss in losses.items()}

    def generator_loss(self, batch: Batch, noise: Tensor) -> tuple[Tensor, Losses]:
        """L_gen = −E[D(x~, a)] + w_gcls·CE(v~(x~), y) + further terms, and its parts."""
        self._train_critic(False)
        fake = self.generate(noise, batch.a)
        adversarial = -self.critic(fake, batch.a).mean()
        classification = F.cross_entropy(self.teacher(fake)[1], batch.y)
        further, parts = self.generator_terms(batch, fake)
        parts |= {"adversarial": adversarial.detach(), "generator_classification": classification.detach()}
        return adversarial + self.settings.gcls_weight * classification + further, parts

    def _train_critic(self, needed: bool) -> None:
        """Whether gradients reach what the critic steps change; the generator's step needs none there."""
        for parameter in self.critic_parameters():
            parameter.requires_grad_(needed)


class GanTrial(AdversarialTrial[GanSettings]):
    """f-CLSWGAN, with the frozen teacher as the classifier of its generator's loss."""

"""The `gan` backbone: f-CLSWGAN (Xian et al., CVPR 2018), a conditional Wasserstein GAN with gradient penalty."""

from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from d3tune.method.generators import BackboneEntry
from d3tune.method.generators.base import Backbone, Batch, Drawn, GeneratorConfig, SemanticGenerator, Sizes
from d3tune.method.networks import EmbeddingClassifier, adam, linear

SLOPE = 0.2


class GanConfig(GeneratorConfig):
    """Hyper-parameters of `gan`; defaults as published."""

    critic_steps: int = Field(5, ge=1, le=100, description="critic updates per generator update")
    gp_weight: float = Field(10.0, ge=0, le=1e6, description="weight of the gradient penalty on x")
    gcls_weight: float = Field(0.01, ge=0, le=1e6, description="weight of the teacher's CE on synthetic seen")


class Critic(nn.Module):
    """[x; a] → hidden LeakyReLU(.2) → 1, kept as the parts that the closed-form penalty needs."""

    def __init__(self, sizes: Sizes, hidden_dim: int, rng: torch.Generator) -> None:
        super().__init__()
        self.n_features = sizes.n_features
        self.hidden = linear(sizes.n_features + sizes.n_semantics, hidden_dim, rng)
        self.output = linear(hidden_dim, 1, rng)

    def frozen_value(self, x: Tensor, a: Tensor) -> Tensor:
        """D(x, a) (B,) with gradient to x alone: the critic's own weights are constants here."""
        hidden, output = self.hidden, self.output
        pre = F.linear(torch.cat([x, a], dim=1), hidden.weight.detach(), hidden.bias.detach())
        return F.linear(F.leaky_relu(pre, SLOPE), output.weight.detach(), output.bias.detach()).squeeze(1)

    def loss(self, real: Tensor, fake: Tensor, a: Tensor, mix: Tensor) -> tuple[Tensor, Tensor]:
        """Wasserstein loss E[D(fake)] − E[D(real)] and gradient penalty, in one pass.

        The penalty needs ∇ₓD at x̄ = u·real + (1 − u)·fake. Both share a and the bias, and the hidden layer is
        linear before its activation, so the pre-activation at x̄ is u·pre(real) + (1 − u)·pre(fake): no third
        forward pass. With one LeakyReLU layer ∇ₓD = W_xᵀ(w₂ ⊙ slope), where slope is 1 or .2 by the sign of that
        pre-activation and has derivative 0 almost everywhere: no double backward pass either.

        Args:
            real: (B, X).
            fake: (B, X), no gradient.
            a: (B, A).
            mix: u, (B, 1) in [0, 1].

        Returns:
            The Wasserstein loss and mean (‖∇ₓD‖ − 1)², scalars.
        """
        weight_x, weight_a = torch.split(self.hidden.weight, [self.n_features, a.shape[1]], dim=1)
        shared = F.linear(a, weight_a, self.hidden.bias)
        pre_real, pre_fake = (F.linear(torch.cat([real, fake]), weight_x) + shared.repeat(2, 1)).chunk(2)
        value_real = self.output(F.leaky_relu(pre_real, SLOPE))
        value_fake = self.output(F.leaky_relu(pre_fake, SLOPE))
        with torch.no_grad():
            at_mix = torch.lerp(pre_fake, pre_real, mix)
            slope = torch.where(at_mix > 0, torch.ones_like(at_mix), torch.full_like(at_mix, SLOPE))
        gradient = (self.output.weight * slope) @ weight_x
        penalty = (gradient.norm(dim=1) - 1).square().mean()
        return value_fake.mean() - value_real.mean(), penalty


G = TypeVar("G", bound=GanConfig)
Losses = dict[str, Tensor]


class AdversarialBackbone(Backbone[G]):
    """Generator and critic of f-CLSWGAN; what extends it adds terms to the critic's and the generator's loss."""

    def __init__(self, sizes: Sizes, config: G, teacher: EmbeddingClassifier, rng: torch.Generator) -> None:
        super().__init__(sizes, config, teacher)
        self.generator = SemanticGenerator(sizes, config, self.noise_dim, rng)
        self.critic = Critic(sizes, config.hidden_dim, rng)
        self.add_parts(rng)
        self.to(next(teacher.parameters()).device)
        self._critic_optimizer = adam(self.critic_parameters(), config.generator_lr)

    @property
    def batches_per_update(self) -> int:
        """One real batch a critic step."""
        return self.config.critic_steps

    @property
    def inner_steps(self) -> int:
        """The critic's."""
        return self.config.critic_steps

    def add_parts(self, rng: torch.Generator) -> None:
        """Build further networks; by default none."""

    def generator_parameters(self) -> list[nn.Parameter]:
        """The generator's, not the critic's."""
        return list(self.generator.parameters())

    def critic_parameters(self) -> list[nn.Parameter]:
        """What the critic steps change."""
        return list(self.critic.parameters())

    def critic_terms(self, batch: Batch) -> Losses:
        """Further losses of the critic steps by name, weighted as they are added; by default none."""
        return {}

    def generator_terms(self, batch: Batch, fake: Tensor, drawn: Drawn) -> tuple[Tensor, Losses]:
        """Further weighted losses of the generator and their parts by name (detached); by default 0.

        Args:
            batch: real seen rows.
            fake: (B, X) features of the same classes, with gradient to the generator.
            drawn: what `draw` gave.
        """
        return fake.new_zeros(()), {}

    def own_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The critic's Adam."""
        return {"critic": self._critic_optimizer}

    def generate(self, noise: Tensor, semantics: Tensor) -> Tensor:
        """See `Backbone.generate`."""
        x: Tensor = self.generator(noise, semantics)
        return x

    def prepare(self, batches: Sequence[Batch], rng: torch.Generator) -> Losses:
        """The critic steps; their fakes come from one generator pass, since the generator does not change."""
        semantics = torch.cat([batch.a for batch in batches])
        with torch.no_grad():
            fakes = self.generate(self.draw_noise(len(semantics), rng), semantics)
        totals: Losses = {}
        for batch, fake in zip(batches, torch.split(fakes, [len(batch.x) for batch in batches]), strict=True):
            mix = torch.rand(len(fake), 1, generator=rng, device=fake.device)
            total, parts = self.critic_loss(batch, fake, mix)
            self._critic_optimizer.zero_grad()
            torch.autograd.backward(total)
            self._critic_optimizer.step()
            for name, loss in parts.items():
                totals[name] = totals.get(name, 0) + loss / len(batches)
        return totals

    def critic_loss(self, batch: Batch, fake: Tensor, mix: Tensor) -> tuple[Tensor, Losses]:
        """The loss of a critic step, a scalar, and its parts by name (detached).

        Args:
            batch: real rows.
            fake: (B, X) of the same classes, no gradient.
            mix: (B, 1), see `Critic.loss`.
        """
        wasserstein, penalty = self.critic.loss(batch.target, fake, batch.a, mix)
        terms = self.critic_terms(batch)
        total = wasserstein + self.config.gp_weight * penalty + sum(terms.values())
        parts = {"critic": wasserstein, "gradient_penalty": penalty, **terms}
        return total, {name: loss.detach() for name, loss in parts.items()}

    def loss_on(self, batch: Batch, drawn: Drawn) -> tuple[Tensor, Losses]:
        """− D(G(noise, a)) + w_gcls·CE of the frozen teacher on these synthetic seen rows, and further terms."""
        generated = self.generate(drawn["noise"], batch.a)
        fake = self.anchored(generated, batch.a)
        adversarial = -self.critic.frozen_value(generated, batch.a).mean()
        further, parts = self.generator_terms(batch, fake, drawn)
        total, parts = adversarial + further, {"adversarial": adversarial.detach(), **parts}
        if self.config.gcls_weight > 0:
            classification = F.cross_entropy(self.teacher(fake)[1], batch.y)
            parts["generator_classification"] = classification.detach()
            total = total + self.config.gcls_weight * classification
        return total, parts


class Gan(AdversarialBackbone[GanConfig]):
    """f-CLSWGAN: critic steps with WGAN-GP, then − D(G) + w_gcls·CE(teacher on synthetic seen rows)."""


BACKBONE = BackboneEntry(config=GanConfig, build=Gan)

"""The `gan` backbone: f-CLSWGAN (Xian et al., CVPR 2018), a conditional Wasserstein GAN with gradient penalty."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from d3tune.method.adam import Adam
from d3tune.method.generators import BackboneEntry
from d3tune.method.generators.base import Backbone, Batch, Drawn, GeneratorConfig, SemanticGenerator, Sizes
from d3tune.method.networks import EmbeddingClassifier, descend, linear
from d3tune.method.parted import SLOPE, Rows, parted_linear, rows_of, wasserstein_and_penalty


class GanConfig(GeneratorConfig):
    """Hyper-parameters of `gan`; defaults as published."""

    critic_steps: int = Field(5, ge=1, le=100, description="critic updates per generator update")
    gp_weight: float = Field(10.0, ge=0, le=1e6, description="weight of the gradient penalty on x")
    gcls_weight: float = Field(0.01, ge=0, le=1e6, description="weight of the teacher's CE on synthetic seen")


class Critic(nn.Module):
    """[x; a] → hidden LeakyReLU(.2) → 1."""

    def __init__(self, sizes: Sizes, config: GanConfig, rng: torch.Generator) -> None:
        super().__init__()
        self.hidden = linear(sizes.n_features + sizes.n_semantics, config.hidden_dim, rng)
        self.output = linear(config.hidden_dim, 1, rng)
        self.dtype = config.product_type

    def frozen_value(self, x: Tensor, a: Tensor, index: Tensor | None = None) -> Tensor:
        """D(x, a_index) (B,) with gradient to x alone: the critic's own weights are constants here."""
        hidden, output = self.hidden, self.output
        pre = parted_linear(x, a, index, hidden.weight.detach(), hidden.bias.detach(), self.dtype)
        return F.linear(F.leaky_relu(pre, SLOPE), output.weight.detach(), output.bias.detach()).squeeze(1)

    def loss(
        self, real: Tensor, fake: Tensor, a: Tensor, mix: Tensor, index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Wasserstein loss E[D(fake)] − E[D(real)] and gradient penalty; see `wasserstein_and_penalty`.

        Args:
            real: (B, X).
            fake: (B, X), no gradient.
            a: (B, A), or (C, A) with an index.
            mix: u, (B, 1) in [0, 1].
            index: (B,) rows of ``a``.

        Returns:
            The Wasserstein loss and mean (‖∇ₓD‖ − 1)², scalars.
        """
        hidden, output = self.hidden, self.output
        return wasserstein_and_penalty(
            real, fake, a, index, mix, hidden.weight, hidden.bias, output.weight, output.bias, self.dtype
        )


G = TypeVar("G", bound=GanConfig)
Losses = dict[str, Tensor]


class AdversarialBackbone(Backbone[G]):
    """Generator and critic of f-CLSWGAN; what extends it adds terms to the critic's and the generator's loss."""

    def __init__(self, sizes: Sizes, config: G, teacher: EmbeddingClassifier, rng: torch.Generator) -> None:
        super().__init__(sizes, config, teacher)
        self.generator = SemanticGenerator(sizes, config, self.noise_dim, rng)
        self.critic = Critic(sizes, config, rng)
        self.add_parts(rng)
        self._compiled_loss: Callable[..., Any] | None = None
        self.to(next(teacher.parameters()).device)
        self._critic_optimizer = Adam(self.critic_parameters(), config.generator_lr)

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

    def compile_losses(self, compiled: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """The loss of a critic step."""
        self._compiled_loss = compiled(self.critic_loss)

    def own_optimizers(self) -> dict[str, Adam]:
        """The critic's Adam."""
        return {"critic": self._critic_optimizer}

    def generate(self, noise: Tensor, semantics: Tensor, index: Tensor | None = None) -> Tensor:
        """See `Backbone.generate`."""
        x: Tensor = self.generator(noise, semantics, index)
        return x

    def prepare(self, batches: Sequence[Batch], rng: torch.Generator) -> Losses:
        """The critic steps; their fakes come from one generator pass, since the generator does not change."""
        noise = self.draw_noise(sum(len(batch.y) for batch in batches), rng)
        with torch.no_grad():
            fakes = self.generate(noise, *_joined(batches))
        totals: Losses = {}
        critic_loss = self._compiled_loss or self.critic_loss
        for batch, fake in zip(batches, torch.split(fakes, [len(batch.x) for batch in batches]), strict=True):
            mix = torch.rand(len(fake), 1, generator=rng, device=fake.device)
            total, parts = critic_loss(batch, fake, mix)
            descend(total, self._critic_optimizer)
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
        a, index = batch.semantics
        wasserstein, penalty = self.critic.loss(batch.target, fake, a, mix, index)
        terms = self.critic_terms(batch)
        total = wasserstein + self.config.gp_weight * penalty + sum(terms.values())
        parts = {"critic": wasserstein, "gradient_penalty": penalty, **terms}
        return total, {name: loss.detach() for name, loss in parts.items()}

    def loss_on(self, batch: Batch, drawn: Drawn) -> tuple[Tensor, Losses]:
        """− D(G(noise, a)) + w_gcls·CE of the frozen teacher on these synthetic seen rows, and further terms."""
        return self._loss_of(self.generate(drawn["noise"], *batch.semantics), batch, drawn)

    def loss_and_rows(self, batch: Batch, drawn: Drawn, noise: Tensor, y: Tensor) -> tuple[Tensor, Losses, Tensor]:
        """See `Backbone.loss_and_rows`; one pass of the generator makes both."""
        assert batch.table is not None
        both = torch.cat([drawn["noise"], noise])
        generated = self.generate(both, *rows_of(batch.table, torch.cat([batch.y, y])))
        own, rows = torch.split(generated, [len(batch.y), len(y)])
        return *self._loss_of(own, batch, drawn), self.anchored(rows, batch.table[y])

    def _loss_of(self, generated: Tensor, batch: Batch, drawn: Drawn) -> tuple[Tensor, Losses]:
        fake = self.anchored(generated, batch.a)
        adversarial = -self.critic.frozen_value(generated, *batch.semantics).mean()
        further, parts = self.generator_terms(batch, fake, drawn)
        total, parts = adversarial + further, {"adversarial": adversarial.detach(), **parts}
        if self.config.gcls_weight > 0:
            classification = F.cross_entropy(self.teacher(fake)[1], batch.y)
            parts["generator_classification"] = classification.detach()
            total = total + self.config.gcls_weight * classification
        return total, parts


def _joined(batches: Sequence[Batch]) -> Rows:
    """The semantics of all rows of some batches, of one table."""
    y, table = torch.cat([batch.y for batch in batches]), batches[0].table
    return (torch.cat([batch.a for batch in batches]), None) if table is None else rows_of(table, y)


class Gan(AdversarialBackbone[GanConfig]):
    """f-CLSWGAN: critic steps with WGAN-GP, then − D(G) + w_gcls·CE(teacher on synthetic seen rows)."""


BACKBONE = BackboneEntry(config=GanConfig, build=Gan)

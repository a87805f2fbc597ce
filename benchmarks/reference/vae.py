"""``vae``: a conditional variational autoencoder (Kingma and Welling, 2014) whose decoder is f-CLSWGAN's generator."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.reference.networks import SLOPE, EmbeddingClassifier, Generator, normal_linear
from benchmarks.reference.trial import Batch, Data, Losses, Settings, Trial, adam

LOG_VARIANCE_BOUND = 8.0
PROBABILITY_BOUND = 1e-6


@dataclass(frozen=True, kw_only=True)
class VaeSettings(Settings):
    """Hyper-parameters of ``vae``; ``noise_dim`` is the latent's size."""

    reconstruction: Literal["mse", "bce"] = "mse"
    vae_beta: float = 1.0
    vae_warmup: int = 100


@dataclass(frozen=True)
class VaeDraws:
    """The noise of one update: ε of the latents (B, latent) and that of the synthetic rows (M, latent)."""

    epsilon: Tensor
    synthetic_noise: Tensor


class Encoder(nn.Module):
    """[x; a] → hidden LeakyReLU(.2) → μ and log σ², the latter clamped to ±8."""

    def __init__(self, n_features: int, n_semantics: int, hidden_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.hidden = normal_linear(n_features + n_semantics, hidden_dim)
        self.output = normal_linear(hidden_dim, 2 * latent_dim)

    def forward(self, x: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, X) and semantics (B, A) to μ and log σ² (B, latent)."""
        both = self.output(F.leaky_relu(self.hidden(torch.cat([x, a], dim=1)), SLOPE))
        log_variance = torch.clamp(both[:, self.latent_dim :], -LOG_VARIANCE_BOUND, LOG_VARIANCE_BOUND)
        return both[:, : self.latent_dim], log_variance


class VaeTrial(Trial[VaeSettings, VaeDraws]):
    """L_gen = (rec(x, dec(z, a)) + β·KL(N(μ, σ²) ‖ N(0, I)))/X, z = μ + σε, sums over dimensions, mean over rows."""

    def __init__(
        self,
        data: Data,
        settings: VaeSettings,
        teacher: EmbeddingClassifier,
        held_out_scores: Tensor | None = None,
    ) -> None:
        super().__init__(data, settings, teacher, held_out_scores)
        n_features, n_semantics = data.x.shape[1], data.semantics.shape[1]
        self.encoder = Encoder(n_features, n_semantics, settings.hidden_dim, settings.noise_dim)
        self.decoder = Generator(
            settings.noise_dim, n_semantics, settings.hidden_dim, n_features, settings.output_activation
        )
        parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.generator_optimizer = adam(parameters, settings.generator_lr)
        self.updates = 0

    def generate(self, noise: Tensor, a: Tensor) -> Tensor:
        """Decode a latent."""
        x: Tensor = self.decoder(noise, a)
        return x

    def draw(self) -> VaeDraws:
        """See `Trial.draw`."""
        rows, synthetic = self.settings.batch_size, self.data.n_unseen * self.settings.n_synthetic_step
        width = self.settings.noise_dim
        return VaeDraws(torch.randn(rows, width), torch.randn(synthetic, width))

    def update(self, batches: Sequence[Batch], draws: VaeDraws) -> Losses:
        """See `Trial.update`; β rises linearly over the first ``vae_warmup`` updates."""
        (batch,) = batches
        mean, log_variance = self.encoder(batch.x, batch.a)
        latent = mean + torch.exp(0.5 * log_variance) * draws.epsilon
        reconstruction = self.reconstruction(self.decoder(latent, batch.a), batch.x)
        kl = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=1).mean()
        loss = (reconstruction + self.beta() * kl) / batch.x.shape[1]
        losses = {"reconstruction": reconstruction.detach(), "kl": kl.detach()}
        return losses | self.joint_step(loss, batch, draws.synthetic_noise)

    def reconstruction(self, decoded: Tensor, x: Tensor) -> Tensor:
        """Squared error, or binary cross-entropy of features in [0, 1]."""
        if self.settings.reconstruction == "mse":
            return (decoded - x).square().sum(dim=1).mean()
        p = decoded.clamp(PROBABILITY_BOUND, 1 - PROBABILITY_BOUND)
        return F.binary_cross_entropy(p, x, reduction="none").sum(dim=1).mean()

    def beta(self) -> float:
        """β of this update; counts it."""
        self.updates += 1
        warmup = self.settings.vae_warmup
        return self.settings.vae_beta * (min(1.0, self.updates / warmup) if warmup > 0 else 1.0)

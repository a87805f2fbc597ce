"""The `vae` backbone: a conditional variational autoencoder whose decoder has the shape of `gan`'s generator."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from d3tune.method.generators import BackboneEntry
from d3tune.method.generators.base import Backbone, Batch, Drawn, GeneratorConfig, SemanticGenerator, Sizes
from d3tune.method.networks import EmbeddingClassifier, linear
from d3tune.method.parted import SLOPE, affine, parted_linear, rows_of

LOG_VARIANCE_BOUND = 8.0
RESIDUAL_DECAY = 0.99
BCE_EPS = 1e-6


class VaeConfig(GeneratorConfig):
    """Hyper-parameters of `vae`."""

    reconstruction: Literal["bce", "mse"] = Field("mse", description="bce needs minmax features and a sigmoid output")
    vae_beta: float = Field(1.0, ge=0, le=1e3, description="β, weight of the KL term")
    vae_warmup: int = Field(100, ge=0, le=10_000_000, description="updates over which β rises to its value")
    output_noise: float = Field(
        0.0, ge=0, le=10, description="noise on samples, in units of each feature's residual sd"
    )

    @model_validator(mode="after")
    def _bce_is_defined(self) -> "VaeConfig":
        fits = self.feature_scaling == "minmax" and self.resolved_activation == "sigmoid"
        if self.reconstruction == "bce" and not fits:
            raise ValueError("reconstruction bce needs feature_scaling minmax, output_activation sigmoid and no anchor")
        return self


class Encoder(nn.Module):
    """[x; a] → hidden LeakyReLU(.2) → μ and log σ², the latter clamped to ±8."""

    def __init__(self, sizes: Sizes, config: GeneratorConfig, latent_dim: int, rng: torch.Generator) -> None:
        super().__init__()
        self.hidden = linear(sizes.n_features + sizes.n_semantics, config.hidden_dim, rng)
        self.output = linear(config.hidden_dim, 2 * latent_dim, rng)
        self.dtype = config.product_type

    def forward(self, x: Tensor, a: Tensor, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features (B, X) and semantics (B, A), or (C, A) with an index (B,), to μ and log σ² (B, latent)."""
        h = F.leaky_relu(parted_linear(x, a, index, self.hidden.weight, self.hidden.bias, self.dtype), SLOPE)
        both = affine(h, self.output.weight, self.output.bias, self.dtype)
        mean, log_variance = both.chunk(2, dim=1)
        return mean, log_variance.clamp(-LOG_VARIANCE_BOUND, LOG_VARIANCE_BOUND)


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, I)) summed over dimensions, mean over rows (Kingma and Welling, 2014)."""
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(dim=1).mean()


class Vae(Backbone[VaeConfig]):
    """L_gen = (reconstruction + β·KL)/X, both summed over dimensions and averaged over rows.

    The division by X changes no optimum; it puts L_gen on the scale of the D³ terms for any feature width.
    """

    step: Tensor
    residual_variance: Tensor

    def __init__(self, sizes: Sizes, config: VaeConfig, teacher: EmbeddingClassifier, rng: torch.Generator) -> None:
        super().__init__(sizes, config, teacher)
        self._latent_dim = config.noise_dim or sizes.n_semantics
        self.encoder = Encoder(sizes, config, self._latent_dim, rng)
        self.decoder = SemanticGenerator(sizes, config, self._latent_dim, rng)
        self.register_buffer("step", torch.zeros(()))
        self.register_buffer("residual_variance", torch.zeros(sizes.n_features))
        self.to(next(teacher.parameters()).device)

    @property
    def noise_dim(self) -> int:
        """The latent's size, and X more where samples get output noise."""
        return self._latent_dim + (self.sizes.n_features if self.config.output_noise > 0 else 0)

    def generator_parameters(self) -> list[nn.Parameter]:
        """Encoder and decoder."""
        return list(self.parameters())

    def generate(self, noise: Tensor, semantics: Tensor) -> Tensor:
        """Decode a latent; the rest of the noise, where there is any, is the output noise."""
        decoded: Tensor = self.decoder(noise[:, : self._latent_dim], semantics)
        return self._noisy(decoded, noise)

    def _noisy(self, decoded: Tensor, noise: Tensor) -> Tensor:
        if self.config.output_noise == 0:
            return decoded
        rest = noise[:, self._latent_dim :]
        return decoded + self.config.output_noise * self.residual_variance.sqrt() * rest

    def draw(self, n: int, rng: torch.Generator) -> Drawn:
        """The noise of the latents."""
        return {"latent": torch.randn(n, self._latent_dim, generator=rng, device=rng.device)}

    def loss_on(self, batch: Batch, drawn: Drawn) -> tuple[Tensor, dict[str, Tensor]]:
        """The negative evidence lower bound, β-weighted and divided by X."""
        mean, log_variance = self.encoder(batch.target, *batch.semantics)
        latent = mean + drawn["latent"] * (0.5 * log_variance).exp()
        return self._loss_of(self.decoder(latent, *batch.semantics), mean, log_variance, batch)

    def loss_and_rows(
        self, batch: Batch, drawn: Drawn, noise: Tensor, y: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """See `Backbone.loss_and_rows`; one pass of the decoder makes both."""
        assert batch.table is not None
        mean, log_variance = self.encoder(batch.target, *batch.semantics)
        latent = mean + drawn["latent"] * (0.5 * log_variance).exp()
        both = torch.cat([latent, noise[:, : self._latent_dim]])
        decoded = self.decoder(both, *rows_of(batch.table, torch.cat([batch.y, y])))
        own, rows = torch.split(decoded, [len(batch.y), len(y)])
        # after the loss, which moves the residual variance
        total, parts = self._loss_of(own, mean, log_variance, batch)
        return total, parts, self.anchored(self._noisy(rows, noise), batch.table[y])

    def _loss_of(
        self, decoded: Tensor, mean: Tensor, log_variance: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        reconstruction = self._reconstruction(decoded, batch.target)
        kl = kl_to_standard_normal(mean, log_variance)
        self._follow(decoded.detach() - batch.target)
        total = (reconstruction + self._beta() * kl) / self.sizes.n_features
        return total, {"reconstruction": reconstruction.detach(), "kl": kl.detach()}

    def after_update(self) -> None:
        """Advance the warm-up; in the loss, a compiled backward pass would read the next update's β."""
        self.step += 1

    def _reconstruction(self, decoded: Tensor, x: Tensor) -> Tensor:
        if self.config.reconstruction == "bce":
            # not torch's own, which raises on NaN instead of returning it to the divergence guard
            p = decoded.clamp(BCE_EPS, 1 - BCE_EPS)
            return -(x * p.log() + (1 - x) * (1 - p).log()).sum() / len(x)
        return F.mse_loss(decoded, x, reduction="sum") / len(x)

    def _beta(self) -> Tensor | float:
        if self.config.vae_warmup == 0:
            return self.config.vae_beta
        return self.config.vae_beta * ((self.step + 1) / self.config.vae_warmup).clamp(max=1)

    @torch.no_grad()
    def _follow(self, residual: Tensor) -> None:
        """Advance the running residual variance, without bias at the start."""
        weight = (1 - RESIDUAL_DECAY) / (1 - RESIDUAL_DECAY ** (self.step + 1))
        self.residual_variance.lerp_(residual.square().mean(dim=0), weight)


BACKBONE = BackboneEntry(config=VaeConfig, build=Vae)

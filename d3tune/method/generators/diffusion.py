"""The `diffusion` backbone: conditional denoising diffusion of features, predicting x₀ with few steps."""

import copy
import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from d3tune.method.generators import BackboneEntry
from d3tune.method.generators.base import Backbone, Batch, Drawn, GeneratorConfig, Sizes
from d3tune.method.networks import EmbeddingClassifier, scaled_linear
from d3tune.method.parted import Rows, affine, rows_of, spread

TIME_DIM = 64
CONDITION_DROP = 0.1
MIN_SNR_GAMMA = 5.0


class DiffusionConfig(GeneratorConfig):
    """Hyper-parameters of `diffusion`; it models standardised features."""

    feature_scaling: Literal["minmax", "standard"] = "standard"
    diffusion_steps: int = Field(10, ge=1, le=1000, description="T: noise levels, and steps of a full sample")
    diffusion_schedule: Literal["cosine", "vp"] = Field("cosine", description="how noise grows with t")
    guidance: float = Field(0.0, ge=0, le=10, description="g: classifier-free guidance of samples; 0 is none")
    semantics_noise: float = Field(0.0, ge=0, le=10, description="σ of noise on a in training, a + σ·N(0, I)")
    min_snr: bool = Field(False, description="weight the loss by min(SNR, 5)")
    ema_decay: float = Field(0.99, ge=0, lt=1, description="of the weights that samples are drawn with")
    final_sampler: Literal["full", "one_step"] = Field("full", description="how a head's rows are drawn")


class Denoiser(nn.Module):
    """x_t, t and a to v: a two-layer SiLU network, a by FiLM, t by sinusoids and a small network."""

    def __init__(self, sizes: Sizes, config: DiffusionConfig, rng: torch.Generator) -> None:
        super().__init__()
        hidden_dim, self.dtype = config.hidden_dim, config.product_type
        self.input = scaled_linear(sizes.n_features, hidden_dim, rng)
        self.middle = scaled_linear(hidden_dim, hidden_dim, rng)
        self.output = scaled_linear(hidden_dim, sizes.n_features, rng)
        self.time = nn.Sequential(
            scaled_linear(TIME_DIM, hidden_dim, rng), nn.SiLU(), scaled_linear(hidden_dim, hidden_dim, rng)
        )
        self.film = scaled_linear(sizes.n_semantics, 2 * hidden_dim, rng)
        self.empty = nn.Parameter(torch.zeros(sizes.n_semantics))

    def forward(self, x: Tensor, times: Rows, semantics: Rows) -> Tensor:
        """Noisy features (B, X), times (B,) in [0, 1] and semantics (B, A) to v (B, X).

        Times and semantics are given once a level and once a class where those are fewer than rows; a single time may
        stand for all.
        """
        (time, level), (a, index) = times, semantics
        scale, shift = spread(self.film(a), index).chunk(2, dim=1)
        h = F.silu((self._affine(self.input, x) + spread(self.time(_sinusoids(time)), level)) * (1 + scale) + shift)
        return self._affine(self.output, F.silu(self._affine(self.middle, h)))

    def _affine(self, layer: nn.Linear, x: Tensor) -> Tensor:
        return affine(x, layer.weight, layer.bias, self.dtype)


class Diffusion(Backbone[DiffusionConfig]):
    """MSE to x₀ over T noise levels x_t = α_t x₀ + σ_t ε, α² + σ² = 1.

    The network predicts v = α_t ε − σ_t x₀, so that x₀ = α_t x_t − σ_t v: at high noise the network gives x₀ itself,
    at low noise x_t does. Samples are drawn with an exponential moving average of the weights.
    """

    alpha: Tensor
    sigma: Tensor

    def __init__(
        self, sizes: Sizes, config: DiffusionConfig, teacher: EmbeddingClassifier, rng: torch.Generator
    ) -> None:
        super().__init__(sizes, config, teacher)
        self.denoiser = Denoiser(sizes, config, rng)
        self.average = copy.deepcopy(self.denoiser).requires_grad_(False)
        alpha = signal_levels(config.diffusion_steps, config.diffusion_schedule)
        self.register_buffer("alpha", alpha)
        self.register_buffer("sigma", (1 - alpha.square()).sqrt())
        self.to(next(teacher.parameters()).device)

    @property
    def noise_dim(self) -> int:
        """Noise is drawn in feature space."""
        return self.sizes.n_features

    def generator_parameters(self) -> list[nn.Parameter]:
        """The denoiser's."""
        return list(self.denoiser.parameters())

    def generate(self, noise: Tensor, semantics: Tensor) -> Tensor:
        """One step from noise to x₀, differentiable: what the D³ terms see."""
        return self._x0(self.denoiser, noise, self._last(1, noise.device), (semantics, None))

    @torch.no_grad()
    def sample_final(self, noise: Tensor, semantics: Tensor) -> Tensor:
        """T deterministic DDIM steps (η = 0; Song et al., 2021) with the averaged weights, or one step."""
        x = noise
        for t in reversed(range(self.config.diffusion_steps)):
            x0 = self._guided(x, torch.full((1,), t, device=noise.device), semantics)
            if t == 0 or self.config.final_sampler == "one_step":
                break
            epsilon = (x - self.alpha[t] * x0) / self.sigma[t]
            x = self.alpha[t - 1] * x0 + self.sigma[t - 1] * epsilon
        return self.anchored(x0, semantics)

    def draw(self, n: int, rng: torch.Generator) -> Drawn:
        """A noise level and noise for each row, and what changes its semantics where that is used."""
        config, device = self.config, rng.device
        drawn = {
            "level": torch.randint(config.diffusion_steps, (n,), generator=rng, device=device),
            "noise": torch.randn(n, self.sizes.n_features, generator=rng, device=device),
        }
        if config.semantics_noise > 0:
            drawn["semantics"] = torch.randn(n, self.sizes.n_semantics, generator=rng, device=device)
        if config.guidance > 0:
            drawn["dropped"] = torch.rand(n, 1, generator=rng, device=device) < CONDITION_DROP
        return drawn

    def loss_on(self, batch: Batch, drawn: Drawn) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error to x₀ at random noise levels, per dimension."""
        semantics = self._conditioned(batch.a, batch.semantics, drawn)
        return self._loss_of(
            self._x0(self.denoiser, self._noisy(batch, drawn), drawn["level"], semantics), batch, drawn
        )

    def loss_and_rows(
        self, batch: Batch, drawn: Drawn, noise: Tensor, y: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """See `Backbone.loss_and_rows`; one pass of the denoiser makes both."""
        assert batch.table is not None
        a, n = torch.cat([batch.a, batch.table[y]]), len(batch.y)
        semantics = self._conditioned(a, rows_of(batch.table, torch.cat([batch.y, y])), drawn)
        level = torch.cat([drawn["level"], self._last(len(y), y.device)])
        x0 = self._x0(self.denoiser, torch.cat([self._noisy(batch, drawn), noise]), level, semantics)
        own, rows = torch.split(x0, [n, len(y)])
        return *self._loss_of(own, batch, drawn), self.anchored(rows, a[n:])

    def _noisy(self, batch: Batch, drawn: Drawn) -> Tensor:
        level = drawn["level"]
        return self.alpha[level, None] * batch.target + self.sigma[level, None] * drawn["noise"]

    def _loss_of(self, x0: Tensor, batch: Batch, drawn: Drawn) -> tuple[Tensor, dict[str, Tensor]]:
        target, level = batch.target, drawn["level"]
        error = (x0 - target).square().mean(dim=1)
        if self.config.min_snr:
            snr = (self.alpha[level] / self.sigma[level]).square()
            # of an x₀ loss; min(SNR, γ)/SNR is the same weight for an ε loss (Hang et al., 2023)
            error = error * snr.clamp(max=MIN_SNR_GAMMA)
        total = error.mean()
        return total, {"denoising": total.detach()}

    @torch.no_grad()
    def after_update(self) -> None:
        """Move the averaged weights."""
        for average, current in zip(self.average.parameters(), self.denoiser.parameters(), strict=True):
            average.lerp_(current, 1 - self.config.ema_decay)

    def _conditioned(self, a: Tensor, semantics: Rows, drawn: Drawn) -> Rows:
        """Semantics as training sees them: with noise, and replaced by the learned empty one where guidance is used.

        Args:
            a: (B + M, A), of which the first B are real rows'; only these are changed.
            semantics: the same, perhaps once a class; that serves as long as nothing differs from row to row.
            drawn: what `draw` gave for B rows.
        """
        if self.config.semantics_noise == 0 and self.config.guidance == 0:
            return semantics
        real, others = a[: len(drawn["level"])], a[len(drawn["level"]) :]
        if self.config.semantics_noise > 0:
            real = real + self.config.semantics_noise * drawn["semantics"]
        if self.config.guidance > 0:
            real = torch.where(drawn["dropped"], self.denoiser.empty, real)
        return torch.cat([real, others]), None

    def _guided(self, x: Tensor, level: Tensor, a: Tensor) -> Tensor:
        conditional = self._x0(self.average, x, level, (a, None))
        g = self.config.guidance
        if g == 0:
            return conditional
        empty = self.average.empty.expand_as(a)
        return (1 + g) * conditional - g * self._x0(self.average, x, level, (empty, None))

    def _last(self, n: int, device: torch.device) -> Tensor:
        """The level of pure noise, n times."""
        return torch.full((n,), self.config.diffusion_steps - 1, device=device)

    def _x0(self, denoiser: Denoiser, x: Tensor, level: Tensor, semantics: Rows) -> Tensor:
        steps = self.config.diffusion_steps
        times = torch.arange(1, steps + 1, device=level.device) / steps
        v: Tensor = denoiser(x, rows_of(times, level), semantics)
        return self.alpha[level, None] * x - self.sigma[level, None] * v


def signal_levels(steps: int, schedule: Literal["cosine", "vp"]) -> Tensor:
    """α_t for t = 1 … T, falling from near 1 to near 0.

    Args:
        steps: T.
        schedule: ``cosine`` (Nichol and Dhariwal, 2021) or ``vp``, the linear β(t) from .1 to 20 of Song et al. (2021).
    """
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    if schedule == "cosine":
        alpha = torch.cos((t + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
    else:
        alpha = torch.exp(-0.25 * t.square() * (20 - 0.1) - 0.5 * t * 0.1)
    return alpha.clamp(1e-3, 1 - 1e-4).float()


def _sinusoids(time: Tensor) -> Tensor:
    """Times (B,) in [0, 1] to (B, 64) sines and cosines of frequencies 1 … 1000."""
    half = TIME_DIM // 2
    frequencies = torch.exp(torch.linspace(0, math.log(1000), half, device=time.device))
    angles = time[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


BACKBONE = BackboneEntry(config=DiffusionConfig, build=Diffusion)

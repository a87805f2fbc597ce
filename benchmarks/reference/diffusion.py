"""``diffusion``: conditional denoising diffusion of standardised features (Ho et al., 2020), read off as x₀."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.reference.networks import EmbeddingClassifier, normal_linear
from benchmarks.reference.trial import Batch, Data, Losses, Settings, Trial, adam

TIME_DIM = 64
DROP_PROBABILITY = 0.1


@dataclass(frozen=True, kw_only=True)
class DiffusionSettings(Settings):
    """Hyper-parameters of ``diffusion``; ``noise_dim`` is X."""

    diffusion_steps: int = 10
    diffusion_schedule: Literal["cosine", "vp"] = "cosine"
    guidance: float = 0.0
    semantics_noise: float = 0.0
    min_snr: bool = False
    ema_decay: float = 0.99


@dataclass(frozen=True)
class DiffusionDraws:
    """The noise of one update.

    Attributes:
        level: (B,) noise levels in [0, T).
        epsilon: (B, X).
        semantics_noise: (B, A).
        drop: (B, 1) uniform; where it is below .1 and guidance is on, a is replaced by the empty condition.
        synthetic_noise: (M, X).
    """

    level: Tensor
    epsilon: Tensor
    semantics_noise: Tensor
    drop: Tensor
    synthetic_noise: Tensor


def signal_levels(steps: int, schedule: Literal["cosine", "vp"]) -> Tensor:
    """α_t for t = 1 … T, within [1e-3, 1 − 1e-4].

    ``cosine``: cos of Nichol and Dhariwal (2021), normalised at 0; ``vp``: exp(−½∫β) of Song et al. (2021) with β
    linear from .1 to 20.

    Args:
        steps: T.
        schedule: which.
    """
    alphas = []
    for step in range(1, steps + 1):
        t = step / steps
        if schedule == "cosine":
            alpha = math.cos((t + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
        else:
            alpha = math.exp(-0.5 * (0.1 * t + 0.5 * (20 - 0.1) * t**2))
        alphas.append(min(max(alpha, 1e-3), 1 - 1e-4))
    return torch.tensor(alphas)


def time_features(time: Tensor) -> Tensor:
    """Times (B,) to sines and cosines (B, 64) of 32 frequencies from 1 to 1000, evenly spaced in their logarithm."""
    frequencies = torch.exp(torch.linspace(0, math.log(1000), TIME_DIM // 2))
    angles = time[:, None] * frequencies[None, :]
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


class Denoiser(nn.Module):
    """v(x_t, t, a): two hidden SiLU layers, a by FiLM (Perez et al., 2018), t by sinusoids and a small network."""

    def __init__(self, n_features: int, n_semantics: int, hidden_dim: int) -> None:
        super().__init__()
        self.input = normal_linear(n_features, hidden_dim, n_features**-0.5)
        self.middle = normal_linear(hidden_dim, hidden_dim, hidden_dim**-0.5)
        self.output = normal_linear(hidden_dim, n_features, hidden_dim**-0.5)
        self.time_hidden = normal_linear(TIME_DIM, hidden_dim, TIME_DIM**-0.5)
        self.time_output = normal_linear(hidden_dim, hidden_dim, hidden_dim**-0.5)
        self.film = normal_linear(n_semantics, 2 * hidden_dim, n_semantics**-0.5)
        self.empty = nn.Parameter(torch.zeros(n_semantics))

    def forward(self, x: Tensor, time: Tensor, a: Tensor) -> Tensor:
        """Noisy features (B, X), times (B,) in (0, 1] and semantics (B, A) to v (B, X)."""
        time_part = self.time_output(F.silu(self.time_hidden(time_features(time))))
        scale, shift = self.film(a).chunk(2, dim=1)
        h = F.silu((self.input(x) + time_part) * (1 + scale) + shift)
        v: Tensor = self.output(F.silu(self.middle(h)))
        return v


class DiffusionTrial(Trial[DiffusionSettings, DiffusionDraws]):
    """L_gen = E[mean over X of (x^₀ − x₀)²], x_t = α_t x₀ + σ_t ε, x^₀ = α_t x_t − σ_t v (Salimans and Ho, 2022)."""

    alpha: Tensor
    sigma: Tensor

    def __init__(
        self,
        data: Data,
        settings: DiffusionSettings,
        teacher: EmbeddingClassifier,
        held_out_scores: Tensor | None = None,
    ) -> None:
        super().__init__(data, settings, teacher, held_out_scores)
        self.denoiser = Denoiser(data.x.shape[1], data.semantics.shape[1], settings.hidden_dim)
        self.average = copy.deepcopy(self.denoiser)
        self.generator_optimizer = adam(list(self.denoiser.parameters()), settings.generator_lr)
        alpha = signal_levels(settings.diffusion_steps, settings.diffusion_schedule)
        self.register_buffer("alpha", alpha)
        self.register_buffer("sigma", (1 - alpha.square()).sqrt())

    def generate(self, noise: Tensor, a: Tensor) -> Tensor:
        """x^₀ in one step from pure noise with the current weights: what the D³ terms see."""
        level = torch.full((len(noise),), self.settings.diffusion_steps - 1)
        return self.x0(self.denoiser, noise, level, a)

    def draw(self) -> DiffusionDraws:
        """See `Trial.draw`."""
        rows, (_, width) = self.settings.batch_size, self.data.x.shape
        synthetic = self.data.n_unseen * self.settings.n_synthetic_step
        return DiffusionDraws(
            level=torch.randint(self.settings.diffusion_steps, (rows,)),
            epsilon=torch.randn(rows, width),
            semantics_noise=torch.randn(rows, self.data.semantics.shape[1]),
            drop=torch.rand(rows, 1),
            synthetic_noise=torch.randn(synthetic, width),
        )

    def update(self, batches: Sequence[Batch], draws: DiffusionDraws) -> Losses:
        """See `Trial.update`; the averaged weights follow at the end."""
        (batch,) = batches
        alpha, sigma = self.alpha[draws.level, None], self.sigma[draws.level, None]
        noisy = alpha * batch.x + sigma * draws.epsilon
        x0 = self.x0(self.denoiser, noisy, draws.level, self.condition(batch.a, draws))
        error = (x0 - batch.x).square().mean(dim=1, keepdim=True)
        if self.settings.min_snr:
            # Min-SNR-5 (Hang et al., 2023), the weight of an x₀ loss
            error = error * ((alpha / sigma) ** 2).clamp(max=5.0)
        loss = error.mean()
        losses = {"denoising": loss.detach()} | self.joint_step(loss, batch, draws.synthetic_noise)
        self.move_average()
        return losses

    def condition(self, a: Tensor, draws: DiffusionDraws) -> Tensor:
        """Give a + σ_a·N(0, I), replaced by the empty condition in one of ten rows where guidance is on."""
        if self.settings.semantics_noise > 0:
            a = a + self.settings.semantics_noise * draws.semantics_noise
        if self.settings.guidance > 0:
            a = torch.where(draws.drop < DROP_PROBABILITY, self.denoiser.empty, a)
        return a

    @torch.no_grad()
    def move_average(self) -> None:
        """θ' ← d·θ' + (1 − d)·θ."""
        decay = self.settings.ema_decay
        for average, current in zip(self.average.parameters(), self.denoiser.parameters(), strict=True):
            average.mul_(decay).add_((1 - decay) * current)

    @torch.no_grad()
    def sample_final(self, noise: Tensor, a: Tensor) -> Tensor:
        """T DDIM steps with η = 0 (Song et al., ICLR 2021), averaged weights and guidance (Ho and Salimans, 2021)."""
        x, g = noise, self.settings.guidance
        x0 = x
        for t in range(self.settings.diffusion_steps - 1, -1, -1):
            level = torch.full((len(noise),), t)
            x0 = self.x0(self.average, x, level, a)
            if g > 0:
                x0 = (1 + g) * x0 - g * self.x0(self.average, x, level, self.average.empty.repeat(len(a), 1))
            if t > 0:
                epsilon = (x - self.alpha[t] * x0) / self.sigma[t]
                x = self.alpha[t - 1] * x0 + self.sigma[t - 1] * epsilon
        return x0

    def x0(self, denoiser: Denoiser, x: Tensor, level: Tensor, a: Tensor) -> Tensor:
        """x^₀ = α_t x_t − σ_t v."""
        v: Tensor = denoiser(x, (level + 1) / self.settings.diffusion_steps, a)
        return self.alpha[level, None] * x - self.sigma[level, None] * v

"""The `vaegan` backbone: f-VAEGAN-D2 (Xian et al., CVPR 2019) with a semantic decoder trained by ReMSE."""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from d3tune.method.generators import BackboneEntry
from d3tune.method.generators.base import Batch, Drawn
from d3tune.method.generators.gan import AdversarialBackbone, GanConfig, Losses
from d3tune.method.generators.vae import Encoder, kl_to_standard_normal
from d3tune.method.networks import linear
from d3tune.method.parted import SLOPE
from d3tune.method.parts import Beside, Layer
from d3tune.method.rebalanced import RebalancedMSE


class VaeganConfig(GanConfig):
    """Hyper-parameters of `vaegan`."""

    gcls_weight: float = Field(0.0, ge=0, le=1e6, description="weight of the teacher's CE on synthetic seen")
    vae_weight: float = Field(1.0, ge=0, le=1e6, description="weight of (reconstruction + β·KL)/X")
    vae_beta: float = Field(1.0, ge=0, le=1e3, description="β, weight of the KL term")
    decoder_dim: int = Field(4096, ge=1, le=65536, description="hidden width of the semantic decoder")
    remse_weight: float = Field(0.01, ge=0, le=1e6, description="weight of ReMSE on synthetic rows")
    remse_p: float = Field(0.1, ge=0, le=10, description="exponent over classes; with p2 = 0 plain MSE")
    remse_p2: float = Field(0.1, ge=0, le=10, description="exponent over semantic dimensions")


class SemanticDecoder(nn.Module):
    """x → hidden LeakyReLU(.2) → a^."""

    def __init__(self, n_features: int, hidden_dim: int, n_semantics: int, rng: torch.Generator) -> None:
        super().__init__()
        self.hidden = linear(n_features, hidden_dim, rng)
        self.output = linear(hidden_dim, n_semantics, rng)

    def features(self, x: Tensor) -> Tensor:
        """The hidden layer (B, hidden)."""
        return F.leaky_relu(self.hidden(x), SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, X) to semantics (B, A)."""
        a: Tensor = self.output(self.features(x))
        return a


class Vaegan(AdversarialBackbone[VaeganConfig]):
    """Critic steps as `gan`, with the decoder's ReMSE on real rows; the generator also decodes the VAE's latents.

    L_gen = − D(G) + w_vae·(MSE + β·KL)/X + λ·ReMSE(decoder on fakes) [+ w_gcls·CE].
    """

    def add_parts(self, rng: torch.Generator) -> None:
        """The encoder and the semantic decoder, with one record of errors for real and one for synthetic rows."""
        config, sizes = self.config, self.sizes
        self.encoder = Encoder(sizes, config, self.noise_dim, rng)
        self.decoder = SemanticDecoder(sizes.n_features, config.decoder_dim, sizes.n_semantics, rng)
        in_batch = config.fidelity == "official"
        arguments = (sizes.n_seen, sizes.n_semantics, config.remse_p, config.remse_p2, in_batch)
        self.real_remse, self.fake_remse = RebalancedMSE(*arguments), RebalancedMSE(*arguments)

    def generator_parameters(self) -> list[nn.Parameter]:
        """Generator and encoder."""
        return [*self.generator.parameters(), *self.encoder.parameters()]

    def critic_parameters(self) -> list[nn.Parameter]:
        """Critic and semantic decoder."""
        return [*self.critic.parameters(), *self.decoder.parameters()]

    def critic_terms(self, batch: Batch) -> Losses:
        """ReMSE of the decoder on real rows."""
        return {"remse": self.real_remse(self.decoder(batch.x), batch.a, batch.y)}

    def draw(self, n: int, rng: torch.Generator) -> Drawn:
        """The generator's noise, and that of the encoder's latents."""
        noise = self.draw_noise(n, rng)
        return {"noise": noise, "latent": torch.randn(noise.shape, generator=rng, device=noise.device)}

    def generator_terms(self, batch: Batch, fake: Tensor, drawn: Drawn) -> tuple[Tensor, Losses]:
        """The VAE's loss on real rows and ReMSE on the fakes."""
        config = self.config
        mean, log_variance = self.encoder(batch.target, *batch.semantics)
        decoded = self.generate(mean + drawn["latent"] * (0.5 * log_variance).exp(), *batch.semantics)
        reconstruction = F.mse_loss(decoded, batch.target, reduction="sum") / len(batch.x)
        kl = kl_to_standard_normal(mean, log_variance)
        vae = (reconstruction + config.vae_beta * kl) / self.sizes.n_features
        remse = self.fake_remse(self.decoder(fake), batch.a, batch.y)
        parts = {"reconstruction": reconstruction.detach(), "kl": kl.detach(), "fake_remse": remse.detach()}
        return config.vae_weight * vae + config.remse_weight * remse, parts

    def head_map(self) -> Beside:
        """X joined by the decoder's hidden layer, as TF-VAEGAN feeds its classifier."""
        layer = self.decoder.hidden
        return Beside(Layer(layer.weight.detach(), layer.bias.detach(), "leaky_relu"))


BACKBONE = BackboneEntry(config=VaeganConfig, build=Vaegan)

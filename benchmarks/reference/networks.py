"""Networks of more than one part. Sources are named at each; weights come from torch's global random stream."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OutputActivation = Literal["sigmoid", "relu", "linear"]
EmbedActivation = Literal["relu", "identity"]

SLOPE = 0.2


def normal_linear(n_in: int, n_out: int, sd: float = 0.02) -> nn.Linear:
    """A linear layer with weights N(0, sd²) and bias 0 (public code of f-CLSWGAN and D³GZSL: sd = .02).

    Args:
        n_in: input width.
        n_out: output width.
        sd: standard deviation of the weights.
    """
    layer = nn.Linear(n_in, n_out)
    nn.init.normal_(layer.weight, 0.0, sd)
    nn.init.zeros_(layer.bias)
    return layer


class EmbeddingClassifier(nn.Module):
    """z = E(x), v = C(z): teacher and student of D³GZSL (framework figure); E linear and an activation, C linear."""

    def __init__(self, n_features: int, embed_dim: int, n_classes: int, activation: EmbedActivation = "relu") -> None:
        super().__init__()
        self.embedding = normal_linear(n_features, embed_dim)
        self.classifier = normal_linear(embed_dim, n_classes)
        self.activation = activation

    def embed(self, x: Tensor) -> Tensor:
        """Features (B, X) to embeddings (B, E)."""
        z: Tensor = self.embedding(x)
        return torch.relu(z) if self.activation == "relu" else z

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, X) to embeddings (B, E) and logits (B, classes)."""
        z = self.embed(x)
        return z, self.classifier(z)


class Generator(nn.Module):
    """G: [noise; a] → hidden LeakyReLU(.2) → X (f-CLSWGAN, Xian et al., CVPR 2018); also the vae's decoder."""

    def __init__(
        self, noise_dim: int, n_semantics: int, hidden_dim: int, n_features: int, activation: OutputActivation
    ) -> None:
        super().__init__()
        self.hidden = normal_linear(noise_dim + n_semantics, hidden_dim)
        self.output = normal_linear(hidden_dim, n_features)
        self.activation = activation

    def forward(self, noise: Tensor, a: Tensor) -> Tensor:
        """Noise (B, noise_dim) and semantics (B, A) to features (B, X)."""
        x: Tensor = self.output(F.leaky_relu(self.hidden(torch.cat([noise, a], dim=1)), SLOPE))
        if self.activation == "sigmoid":
            return torch.sigmoid(x)
        return torch.relu(x) if self.activation == "relu" else x

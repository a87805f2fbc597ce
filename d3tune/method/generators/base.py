"""What every generative backbone offers to the joint training."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from d3tune.config import D3Config
from d3tune.method.adam import Adam
from d3tune.method.networks import EmbeddingClassifier, linear
from d3tune.method.parted import SLOPE, Rows, affine, parted_linear, rows_of
from d3tune.method.parts import Map, Same

OutputActivation = Literal["auto", "sigmoid", "relu", "linear"]


class GeneratorConfig(D3Config):
    """Hyper-parameters of every generative backbone."""

    generator_lr: float = Field(1e-4, gt=0, le=1, description="Adam learning rate of the backbone")
    hidden_dim: int = Field(4096, ge=1, le=65536, description="width of the backbone's hidden layers")
    noise_dim: int | None = Field(None, ge=1, le=65536, description="size of the noise; null = that of a")
    output_activation: OutputActivation = Field(
        "auto", description="after the last layer; auto is relu for minmax features and linear for standard ones"
    )

    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="of the products in generator and critic; losses and optimiser are fp32 always"
    )

    @property
    def product_type(self) -> torch.dtype | None:
        """What the factors of these products are rounded to; None leaves them as they are."""
        return torch.bfloat16 if self.precision == "bf16" else None

    @property
    def resolved_activation(self) -> OutputActivation:
        """The output activation with ``auto`` resolved by the features' range; a residual has none."""
        if self.anchor != "none":
            return "linear"
        if self.output_activation != "auto":
            return self.output_activation
        return "relu" if self.feature_scaling == "minmax" else "linear"


C = TypeVar("C", bound=GeneratorConfig)
Drawn = Mapping[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """Real seen rows.

    Attributes:
        x: (B, X) features.
        y: (B,) classes in [0, N_s).
        a: (B, A) their semantics; rows of the table where there is one, so that none of the two may be changed alone.
        teacher_z: (B, E) the teacher's embeddings of x.
        teacher_v: (B, N_s) the teacher's logits of x.
        residual: (B, X) what the generator models, x − anchor(a); None where there is no anchor.
        table: (N, A) semantics of all classes, of which ``a`` is rows; None where they are not at hand.
    """

    x: Tensor
    y: Tensor
    a: Tensor
    teacher_z: Tensor
    teacher_v: Tensor
    residual: Tensor | None = None
    table: Tensor | None = None

    @property
    def target(self) -> Tensor:
        """What the generator models: the residual, or x itself."""
        return self.x if self.residual is None else self.residual

    @property
    def semantics(self) -> Rows:
        """``a``, once a class where that is less."""
        return (self.a, None) if self.table is None else rows_of(self.table, self.y)


@dataclass(frozen=True)
class Sizes:
    """X, A and the class counts of the data that a model is built for."""

    n_features: int
    n_semantics: int
    n_seen: int
    n_unseen: int

    @property
    def n_classes(self) -> int:
        """N = N_s + N_u."""
        return self.n_seen + self.n_unseen


class Backbone(nn.Module, ABC, Generic[C]):
    """A generator of features from noise and class semantics, with its own loss.

    The joint training calls `prepare` and `loss_and_rows` once an update, adds the D³ terms on the rows, and steps the
    optimiser of `generator_parameters`. Every random number comes from the generator that is handed in; the losses
    themselves read tensors alone, and change none but running figures in buffers, so that they may be compiled.
    """

    def __init__(self, sizes: Sizes, config: C, teacher: EmbeddingClassifier) -> None:
        super().__init__()
        self.sizes = sizes
        self.config = config
        self.anchor: Callable[[Tensor], Tensor] | None = None
        self.seen_semantics = torch.empty(0)
        # in a tuple, so that the frozen teacher is not a part of this module's own state
        self._teacher = (teacher,)

    @property
    def teacher(self) -> EmbeddingClassifier:
        """The frozen teacher."""
        return self._teacher[0]

    @property
    def noise_dim(self) -> int:
        """Width of the noise that `sample` reads."""
        return self.config.noise_dim or self.sizes.n_semantics

    @property
    def batches_per_update(self) -> int:
        """Real batches that one update reads; the last one is also the D³ batch."""
        return 1

    @abstractmethod
    def generator_parameters(self) -> list[nn.Parameter]:
        """What one update of the generator changes."""

    def loss_and_rows(
        self, batch: Batch, drawn: Drawn, noise: Tensor, y: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """`loss_on`, and what `sample` makes of a noise (M, noise_dim) for classes (M,); perhaps in one pass.

        Args:
            batch: real rows, with its table of semantics.
            drawn: what `draw` gave.
            noise: (M, noise_dim).
            y: (M,) classes in [0, N).

        Returns:
            The loss, its parts, and rows (M, X).
        """
        assert batch.table is not None
        return *self.loss_on(batch, drawn), self.sample(noise, batch.table[y])

    @property
    def inner_steps(self) -> int:
        """Steps that `prepare` makes before the generator's, one a batch: the critic's."""
        return 0

    @abstractmethod
    def generate(self, noise: Tensor, semantics: Tensor) -> Tensor:
        """Differentiable samples (B, X) of `Batch.target` from noise (B, noise_dim) and semantics (B, A)."""

    def sample(self, noise: Tensor, semantics: Tensor) -> Tensor:
        """Differentiable samples (B, X) of features: what `generate` makes, plus the anchor where there is one."""
        return self.anchored(self.generate(noise, semantics), semantics)

    def anchored(self, generated: Tensor, semantics: Tensor) -> Tensor:
        """Features from what `generate` made for these semantics."""
        return generated if self.anchor is None else generated + self.anchor(semantics)

    def loss(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """`loss_on` fresh draws, for use outside the joint training."""
        return self.loss_on(batch, self.draw(len(batch.y), rng))

    def draw(self, n: int, rng: torch.Generator) -> Drawn:
        """The random numbers that `loss_on` reads for n rows; by default the noise of `generate`."""
        return {"noise": self.draw_noise(n, rng)}

    @abstractmethod
    def loss_on(self, batch: Batch, drawn: Drawn) -> tuple[Tensor, dict[str, Tensor]]:
        """L_gen, a scalar, and its parts by name (detached), as a function of what `draw` gave."""

    def sample_final(self, noise: Tensor, semantics: Tensor) -> Tensor:
        """Samples for the heads, where those may be drawn better than `sample`'s; by default the same."""
        return self.sample(noise, semantics)

    def head_map(self) -> Map:
        """From features (B, X) to the backbone's own space (B, D), read by head ``backbone_embedding``; by default x.

        Made of parts, a model that reads this space can be saved; see `d3tune.method.parts`.
        """
        return Same() if type(self).head_features is Backbone.head_features else self.head_features

    def head_features(self, x: Tensor) -> Tensor:
        """What `head_map` makes of x."""
        return self.head_map()(x)

    def after_update(self) -> None:
        """What follows the optimiser's step, e.g. averaging weights; by default nothing."""

    def compile_losses(self, compiled: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Put compiled forms in the place of losses that `prepare` uses; by default there are none."""

    def own_optimizers(self) -> dict[str, Adam]:
        """Optimisers that `prepare` steps itself, by name; part of the training's state."""
        return {}

    def prepare(self, batches: Sequence[Batch], rng: torch.Generator) -> dict[str, Tensor]:
        """What comes before the generator's update, e.g. critic steps; returns losses by name (detached)."""
        return {}

    def draw_noise(self, n: int, rng: torch.Generator) -> Tensor:
        """Standard normal noise (n, noise_dim) on the generator's device."""
        return torch.randn(n, self.noise_dim, generator=rng, device=rng.device)


class SemanticGenerator(nn.Module):
    """[noise; a] → hidden LeakyReLU(.2) → X, the generator of f-CLSWGAN (Xian et al., 2018)."""

    def __init__(self, sizes: Sizes, config: GeneratorConfig, noise_dim: int, rng: torch.Generator) -> None:
        super().__init__()
        self.hidden = linear(noise_dim + sizes.n_semantics, config.hidden_dim, rng)
        self.output = linear(config.hidden_dim, sizes.n_features, rng)
        self.activation, self.dtype = config.resolved_activation, config.product_type

    def forward(self, noise: Tensor, semantics: Tensor, index: Tensor | None = None) -> Tensor:
        """Noise (B, noise_dim) and semantics (B, A), or (C, A) with an index (B,) into them, to features (B, X)."""
        pre = parted_linear(noise, semantics, index, self.hidden.weight, self.hidden.bias, self.dtype)
        h = nn.functional.leaky_relu(pre, SLOPE)
        return activate(affine(h, self.output.weight, self.output.bias, self.dtype), self.activation)


def activate(x: Tensor, activation: OutputActivation) -> Tensor:
    """Apply an output activation."""
    if activation == "sigmoid":
        return torch.sigmoid(x)
    return torch.relu(x) if activation == "relu" else x

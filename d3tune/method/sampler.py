"""A trained generator by itself: class means of classes that were described after the training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from d3tune.method.closed_form import RidgeAnchor
from d3tune.method.generators import BackboneEntry
from d3tune.method.generators.base import Backbone, GeneratorConfig, Sizes
from d3tune.method.networks import EmbeddingClassifier
from d3tune.method.randomness import stream

ANCHOR, NETWORK = "anchor.", "network."


@dataclass(frozen=True, eq=False)
class Sampler:
    """From semantics to the means of a generator's samples.

    Attributes:
        backbone: trained.
        n_per_class: samples of a class.
        seed: of their noise, which is the same for every class: a class's mean does not depend on the others asked for.
    """

    backbone: Backbone[Any]
    n_per_class: int
    seed: int

    @torch.no_grad()
    def __call__(self, semantics: Tensor) -> Tensor:
        """Semantics (C, A), scaled as in training, to class means (C, X) of scaled features."""
        noise = self.backbone.draw_noise(self.n_per_class, stream(self.seed, "further classes"))
        rows = [self.backbone.sample_final(noise, a.expand(self.n_per_class, -1)) for a in semantics]
        return torch.stack([samples.mean(dim=0) for samples in rows])


def sampler_state(backbone: Backbone[Any]) -> dict[str, Tensor]:
    """The tensors that `load_sampler` makes the backbone of again."""
    network = {f"{NETWORK}{name}": tensor for name, tensor in backbone.state_dict().items()}
    anchor = backbone.anchor.tensors() if isinstance(backbone.anchor, RidgeAnchor) else {}
    return {**network, **{f"{ANCHOR}{name}": tensor for name, tensor in anchor.items()}}


def load_sampler(
    entry: BackboneEntry, config: GeneratorConfig, sizes: Sizes, tensors: Mapping[str, Tensor], seed: int
) -> Sampler:
    """Make a trained generator again.

    Args:
        entry: its backbone.
        config: of the training.
        sizes: of the data.
        tensors: from `sampler_state`.
        seed: of the noise.

    Raises:
        RuntimeError, KeyError: the tensors are of another configuration.
    """
    assert entry.build is not None, "not a generative backbone"
    # sampling reads no teacher, but a backbone is built with one
    unread = stream(0, "unread")
    teacher = EmbeddingClassifier(sizes.n_features, config.embed_dim, sizes.n_seen, config.embed_activation, unread)
    backbone = cast(Backbone[Any], entry.build(sizes, config, teacher.requires_grad_(False), unread))
    backbone.load_state_dict(_below(tensors, NETWORK))
    if config.anchor != "none":
        backbone.anchor = RidgeAnchor.restored(_below(tensors, ANCHOR))
    return Sampler(backbone.requires_grad_(False), config.n_synthetic_final, seed)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

"""Class means of classes that were described after a model was made."""

from collections.abc import Callable
from typing import cast

from torch import Tensor

from d3tune.config import validated
from d3tune.errors import RunError
from d3tune.method.generators import load_backbone
from d3tune.method.generators.base import GeneratorConfig, Sizes
from d3tune.method.sampler import load_sampler
from d3tune.search.model import Model


def class_means(model: Model) -> Callable[[Tensor], Tensor] | None:
    """From scaled semantics to means of scaled features by the model's own generator; None where it has none.

    Raises:
        UsageError: its backbone is not installed.
        RunError: the generator is damaged.
    """
    if not model.generator:
        return None
    document = model.document
    entry = load_backbone(document.backbone)
    config = cast(GeneratorConfig, validated(entry.config, document.config, f"{model.path}: config"))
    counts = (len(document.seen_classes), len(document.unseen_classes))
    sizes = Sizes(document.features.width, document.semantics.width, *counts)
    try:
        return load_sampler(entry, config, sizes, model.generator, document.seed)
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise RunError(f"{model.path}: its generator is damaged ({reason}); train the configuration again") from None

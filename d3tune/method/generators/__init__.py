"""The backbones by name, each one module with its configuration, networks and loss."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from d3tune.config import TrialConfig
from d3tune.errors import UsageError, nearest

ENTRY_POINTS = "d3tune.backbones"
_SHIPPED = {
    "gan": "d3tune.method.generators.gan:BACKBONE",
    "vae": "d3tune.method.generators.vae:BACKBONE",
    "diffusion": "d3tune.method.generators.diffusion:BACKBONE",
    "cegan": "d3tune.method.generators.cegan:BACKBONE",
    "vaegan": "d3tune.method.generators.vaegan:BACKBONE",
    "rezsl": "d3tune.method.regression:BACKBONE",
    "gaussian": "d3tune.method.gaussian:BACKBONE",
}


@dataclass(frozen=True)
class BackboneEntry:
    """A backbone's configuration class and how its training begins: one of ``build`` and ``start`` is given.

    Attributes:
        config: subclass of `TrialConfig`; of `GeneratorConfig` for a generator.
        build: for a generator, ``build(sizes, config, teacher, rng)`` → `Backbone`, trained by `Training`.
        start: for anything else, ``start(tensors, config, seed)`` → `Trainer`.
    """

    config: type[TrialConfig]
    build: Callable[..., Any] | None = None
    start: Callable[..., Any] | None = None


def backbone_names() -> list[str]:
    """Every backbone that can be named: the shipped ones, then those of installed entry points."""
    return [*_SHIPPED, *sorted(point.name for point in entry_points(group=ENTRY_POINTS))]


def load_backbone(name: str) -> BackboneEntry:
    """Import a backbone.

    Raises:
        UsageError: there is none of that name.
    """
    if name in _SHIPPED:
        module, attribute = _SHIPPED[name].split(":")
        entry = getattr(importlib.import_module(module), attribute)
    else:
        points = [point for point in entry_points(group=ENTRY_POINTS) if point.name == name]
        if not points:
            raise UsageError(f"unknown backbone '{name}'{nearest(name, backbone_names())}")
        entry = points[0].load()
    if not isinstance(entry, BackboneEntry):
        raise UsageError(f"backbone '{name}': its entry point is not a BackboneEntry")
    return entry

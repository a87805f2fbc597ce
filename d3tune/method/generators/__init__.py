"""The generative backbones by name, each one module with its configuration, networks and loss."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from d3tune.config import TrialConfig
from d3tune.errors import UsageError, nearest

ENTRY_POINTS = "d3tune.backbones"
_SHIPPED = {"gan": "d3tune.method.generators.gan:BACKBONE"}


@dataclass(frozen=True)
class BackboneEntry:
    """A backbone's configuration class and the function that builds it.

    Attributes:
        config: subclass of `TrialConfig`.
        build: ``build(sizes, config, teacher, rng)`` → `Backbone`.
    """

    config: type[TrialConfig]
    build: Callable[..., Any]


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

"""The names that a shell completes; nothing is written, and no torch, Ray, Optuna or MLflow imported."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import typer

from d3tune.words import WARM_STARTS

# a shell evaluates what it is offered: other names have to be typed
PLAIN = re.compile(r"[A-Za-z0-9_./+-]+")


def runs() -> list[str]:
    """Runs in the home."""
    from d3tune.files import home_path

    return _plain(path.parent.name for path in home_path().glob("runs/*/run.yaml"))


def datasets(ctx: typer.Context) -> list[str]:
    """Datasets that are found, with the --data-dir that was typed before."""
    from d3tune.data.registry import dataset_names

    given = ctx.params.get("data_dir")
    return _plain(dataset_names(Path(given) if given else None))


def backbones() -> list[str]:
    """Backbones, of other packages too."""
    from d3tune.method.generators import backbone_names

    return _plain(backbone_names())


def simulated() -> list[str]:
    """Datasets whose shapes can be simulated."""
    from d3tune.data.registry import KNOWN_NAMES

    return [*KNOWN_NAMES]


def samplers() -> list[str]:
    """Of --sampler."""
    from d3tune.config import Sampler

    return _choices(Sampler)


def pruners() -> list[str]:
    """Of --pruner."""
    from d3tune.config import Pruner

    return _choices(Pruner)


def objectives() -> list[str]:
    """Of --objective."""
    from d3tune.config import Objective

    return [*_choices(Objective), "S,U", "H,seconds"]


def protocols() -> list[str]:
    """Of a search's --protocol."""
    from d3tune.config import SelectionProtocol

    return _choices(SelectionProtocol)


def warm_starts() -> list[str]:
    """Of a search's --warm-start; files are not offered."""
    return [*WARM_STARTS, *runs()]


def shared_warm_starts() -> list[str]:
    """Of a sweep's --warm-start."""
    return [*WARM_STARTS]


def executors() -> list[str]:
    """Of --executor."""
    from d3tune.config import Resources

    return _choices(Resources.model_fields["executor"].annotation)


def export_formats() -> list[str]:
    """Of an export's --format."""
    from d3tune.results.forms import FORMS

    return [*FORMS]


def board_formats() -> list[str]:
    """Of the leaderboard's --format."""
    from d3tune.results.board import FORMS

    return [*FORMS]


def board_protocols() -> list[str]:
    """Of the leaderboard's --protocol."""
    from d3tune.results.board import EMPTY

    return [*EMPTY]


def _choices(literal: Any) -> list[str]:
    return [*map(str, get_args(literal))]


def _plain(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if PLAIN.fullmatch(name))

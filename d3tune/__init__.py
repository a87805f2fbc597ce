"""d3tune: hyper-parameter search for D³GZSL, generalized zero-shot learning by distillation and OOD detection."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from d3tune.data.registry import find_dataset
    from d3tune.results.frames import load_run
    from d3tune.results.leaderboard import leaderboard
    from d3tune.search.train import retrain

__version__ = "0.3.0"
__all__ = ["__version__", "find_dataset", "leaderboard", "load_run", "retrain"]


def __getattr__(name: str) -> Any:
    """Import what is asked for, and not before: ``import d3tune`` stays instant."""
    if name == "find_dataset":
        from d3tune.data.registry import find_dataset

        return find_dataset
    if name == "load_run":
        from d3tune.results.frames import load_run

        return load_run
    if name == "leaderboard":
        from d3tune.results.leaderboard import leaderboard

        return leaderboard
    if name == "retrain":
        from d3tune.search.train import retrain

        return retrain
    raise AttributeError(f"module 'd3tune' has no attribute '{name}'")


def __dir__() -> list[str]:
    """What is offered, imported already or not."""
    return sorted({*globals(), *__all__})

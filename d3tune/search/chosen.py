"""The choice that a summary holds, in words; see `d3tune.search.choice`."""

from collections.abc import Mapping
from typing import Any

from d3tune.words import plural


def choice_lines(choice: Mapping[str, Any], metric: str) -> list[str]:
    """What a choice was, as the end of a search, MLflow and the report say it.

    Args:
        choice: see `Choice.to_dict`.
        metric: name of the searched quantity.

    Returns:
        A line of the candidates, and one on the optimism.

    Raises:
        KeyError, TypeError, ValueError: it is damaged.
    """
    rows = choice["candidates"]
    lines = [f"candidates, {metric} with fresh seeds: " + ", ".join(_candidate(row, choice["chosen"]) for row in rows)]
    if choice["optimism"] is not None:
        best = max(rows, key=lambda row: (row["searched_value"], -row["trial"]))
        lines.append(
            f"optimism of the search: {choice['optimism']:+.3f} (trial {best['trial']}: {best['searched_value']:.3f}, "
            f"with fresh seeds {best['mean']:.3f})"
        )
    return lines


def choice_of(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The choice that led to what a summary's run confirmed; None where the best trial was confirmed, whatever else."""
    choice = summary.get("choice")
    chosen = choice.get("chosen") if isinstance(choice, dict) else None
    return choice if isinstance(chosen, int) and chosen == summary.get("confirmed_trial") else None


def _candidate(row: Mapping[str, Any], chosen: int) -> str:
    if row["mean"] is None:
        return f"trial {row['trial']} failed"
    seeds = plural(len(row["value_per_seed"]), "seed")
    spread = "" if row["sd"] is None else f" ± {row['sd']:.3f}"
    note = ", chosen" if row["trial"] == chosen else ", then failed" if row["failure"] else ""
    return f"trial {row['trial']} {row['mean']:.3f}{spread} ({seeds}{note})"

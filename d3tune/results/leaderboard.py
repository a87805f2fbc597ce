"""The leaderboard: the best confirmed run for each dataset and backbone, chosen by validation."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from d3tune.search.summaries import summaries

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = [
    "dataset",
    "semantics",
    "features",
    "backbone",
    "val_H",
    "test_H",
    "test_H_sd",
    "test_U",
    "test_S",
    "test_T1",
    "test_AUSUC",
    "seeds",
    "protocol",
    "trials",
    "trial_hours",
    "run",
]


def leaderboard_rows(say: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """One row a dataset, semantics, features, protocol and backbone: the run with the largest confirmed H.

    Accuracies are in [0, 1], means over confirmation seeds. Runs are ranked by validation H; test-selected runs are
    rows of their own, with protocol ``published`` and no validation H.

    Args:
        say: takes one line for each run that is left out because its summary is damaged.
    """
    best: dict[tuple[str, ...], dict[str, Any]] = {}
    for summary in summaries(say):
        row = _row(summary)
        if row is None:
            continue
        key = tuple(str(row[name]) for name in ("dataset", "semantics", "features", "protocol", "backbone"))
        if key not in best or _selected_by(row) > _selected_by(best[key]):
            best[key] = row
    return sorted(best.values(), key=lambda row: (row["dataset"], row["protocol"] != "test", -_selected_by(row)))


def leaderboard() -> "pd.DataFrame":
    """`leaderboard_rows` as a data frame, with these columns also where there is no row."""
    import pandas as pd

    return pd.DataFrame(leaderboard_rows(), columns=COLUMNS)


def best_run(dataset: str, backbone: str) -> str | None:
    """Path of the confirmed run with the largest validation H, or None."""
    candidates = [
        (row["val_H"], summary["path"])
        for summary in summaries()
        if (row := _row(summary)) is not None
        and row["dataset"] in (dataset, f"{dataset}/0")
        and row["backbone"] == backbone
        and row["protocol"] == "test"
    ]
    return max(candidates)[1] if candidates else None


def _selected_by(row: dict[str, Any]) -> float:
    """What ranks a row: validation H; for a test-selected row, which has none, its test H."""
    return float(row["test_H"] if row["val_H"] is None else row["val_H"])


def _row(summary: dict[str, Any]) -> dict[str, Any] | None:
    """The row of a confirmed run; None of one that is not confirmed, or whose summary is damaged."""
    test, selection = summary["test"], summary["selection"]
    try:
        row = {
            "dataset": str(summary["dataset"]["name"]),
            "semantics": str(summary["dataset"]["semantics"]),
            "features": str(summary["dataset"]["features"]),
            "backbone": str(summary["backbone"]),
            "val_H": float(selection["val_H"]) if test["protocol"] == "test" else None,
            "test_H": float(test["H"]["mean"]),
            "test_H_sd": None if test["H"]["sd"] is None else float(test["H"]["sd"]),
            **{f"test_{name}": float(test[name]["mean"]) for name in ("U", "S", "T1", "AUSUC")},
            "seeds": len(selection["seeds"]),
            "protocol": str(test["protocol"]),
            "trials": sum(map(int, summary["trials"].values())),
            "trial_hours": float(summary["trial_hours"]),
            "run": summary["run"],
        }
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    return row

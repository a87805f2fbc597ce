"""The leaderboard: the best confirmed run for each dataset and backbone, chosen by validation."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from d3tune.search.summaries import confirmed_configuration, summaries

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("H", "U", "S", "T1", "AUSUC")
GROUP = ("dataset", "semantics", "features", "backbone")
# of a test-selected row: the honest one on the same data
CONFIRMED = ("confirmed_H", "confirmed_H_sd", "confirmed_run", "gap")
COLUMNS = [
    *GROUP,
    "val_H",
    *(name for metric in METRICS for name in (f"test_{metric}", f"test_{metric}_sd")),
    "protocol",
    "seeds",
    "splits",
    "trials",
    "trial_hours",
    "run",
    "configuration",
    *CONFIRMED,
]


def leaderboard_rows(
    say: Callable[[str], None] | None = None, of_runs: Sequence[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """One row a dataset, semantics, features, protocol and backbone: the run with the largest confirmed H.

    Accuracies are in [0, 1], means and standard deviations (n − 1; None for one seed) over confirmation seeds. Runs are
    ranked by validation H, the mean over ``splits`` draws of pseudo-unseen classes. Test-selected runs are rows of
    their own, with protocol ``published`` and no validation H; ``gap`` is what such a row claims beyond
    ``confirmed_H``, the test H of the row of protocol ``test`` of the same data and backbone, where there is one.

    Args:
        say: takes one line for each run that is left out because its summary is damaged.
        of_runs: summaries of the runs to rank, as `d3tune.search.run.RunDirectory.read_summary` gives them; None for
            those of all runs in ``$D3TUNE_HOME``.
    """
    best: dict[tuple[str, ...], dict[str, Any]] = {}
    of: dict[tuple[str, ...], dict[str, Any]] = {}
    for summary in summaries(say) if of_runs is None else of_runs:
        row = summary_row(summary)
        if row is None:
            continue
        key = _key(row, row["protocol"])
        if key not in best or _selected_by(row) > _selected_by(best[key]):
            best[key], of[key] = row, summary
    for key, row in best.items():
        row["configuration"] = confirmed_configuration(of[key])
        honest = None if row["protocol"] == "test" else best.get(_key(row, "test"))
        row |= dict.fromkeys(CONFIRMED) if honest is None else _beside(row, honest)
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
        if (row := summary_row(summary)) is not None
        and row["dataset"] in (dataset, f"{dataset}/0")
        and row["backbone"] == backbone
        and row["protocol"] == "test"
    ]
    return max(candidates)[1] if candidates else None


def _key(row: dict[str, Any], protocol: str) -> tuple[str, ...]:
    return *(row[name] for name in GROUP), protocol


def _beside(row: dict[str, Any], honest: dict[str, Any]) -> dict[str, Any]:
    """What a test-selected row claims beyond an honest one."""
    h, gap = honest["test_H"], row["test_H"] - honest["test_H"]
    return {"confirmed_H": h, "confirmed_H_sd": honest["test_H_sd"], "confirmed_run": honest["run"], "gap": gap}


def _selected_by(row: dict[str, Any]) -> float:
    """What ranks a row: validation H; for a test-selected row, which has none, its test H."""
    return float(row["test_H"] if row["val_H"] is None else row["val_H"])


def summary_row(summary: dict[str, Any]) -> dict[str, Any] | None:
    """The row of a confirmed run; None of one that is not confirmed, or whose summary is damaged."""
    test, selection = summary["test"], summary["selection"]
    try:
        row = {
            "dataset": str(summary["dataset"]["name"]),
            "semantics": str(summary["dataset"]["semantics"]),
            "features": str(summary["dataset"]["features"]),
            "backbone": str(summary["backbone"]),
            "val_H": float(selection["val_H"]) if test["protocol"] == "test" else None,
            **{f"test_{name}": float(test[name]["mean"]) for name in METRICS},
            **{f"test_{name}_sd": _or_none(float, test[name].get("sd")) for name in METRICS},
            "protocol": str(test["protocol"]),
            "seeds": len(selection["seeds"]),
            "splits": _or_none(len, selection.get("splits")),
            "trials": sum(map(int, summary["trials"].values())),
            "trial_hours": float(summary["trial_hours"]),
            "run": summary["run"],
        }
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    return row


def _or_none(read: Callable[[Any], float], value: Any) -> float | None:
    return None if value is None else read(value)

"""The leaderboard: the best confirmed run for each dataset and backbone, chosen by validation, and baselines."""

from collections.abc import Callable, Iterator, Sequence
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
    "kind",
    "val_H",
    *(name for metric in METRICS for name in (f"test_{metric}", f"test_{metric}_sd")),
    "protocol",
    "seeds",
    "splits",
    "trials",
    "trial_hours",
    "run",
    "runs",
    "configuration",
    *CONFIRMED,
]


def leaderboard_rows(
    say: Callable[[str], None] | None = None, of_runs: Sequence[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """One row a dataset, semantics, features, protocol and backbone: the run with the largest confirmed H.

    Accuracies are in [0, 1], means and standard deviations (n − 1; None for one seed) over confirmation seeds. Runs are
    ranked by validation H, the mean over ``splits`` draws of pseudo-unseen classes; of ``runs`` that confirmed the same
    configuration the one with most seeds counts. Test-selected runs are rows of their own, with protocol ``published``
    and no validation H; ``gap`` is what such a row claims beyond ``confirmed_H``, the test H of the row of protocol
    ``test`` of the same data and backbone, where there is one. The baselines that searches tuned beside their trials
    are rows of ``kind`` ``baseline`` without seeds, trials, hours and configuration: nothing in them is drawn.
    Ensembles are rows of ``kind`` and backbone ``ensemble``, with the trials and hours of their runs.

    Args:
        say: takes one line for each run that is left out because its summary is damaged.
        of_runs: summaries of the runs to rank, as `d3tune.search.run.RunDirectory.read_summary` gives them; None for
            those of all runs in ``$D3TUNE_HOME``.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for summary in summaries(say) if of_runs is None else of_runs:
        for row in _rows(summary):
            groups.setdefault(_key(row, row["protocol"]), []).append(row)
    best = {key: {**_best(rows), "runs": len(rows)} for key, rows in groups.items()}
    for row in best.values():
        honest = None if row["protocol"] == "test" else best.get(_key(row, "test"))
        row |= dict.fromkeys(CONFIRMED) if honest is None else _beside(row, honest)
    return sorted(best.values(), key=lambda row: (row["dataset"], row["protocol"] != "test", -_selected_by(row)))


def leaderboard() -> "pd.DataFrame":
    """`leaderboard_rows` as a data frame, with these columns also where there is no row."""
    import pandas as pd

    return pd.DataFrame(leaderboard_rows(), columns=COLUMNS)


def best_run(dataset: str, backbone: str) -> str | None:
    """Path of the confirmed run that leads the leaderboard's rows of this dataset and backbone, or None."""
    rows = {
        summary["path"]: row
        for summary in summaries()
        for row in _rows(summary)
        if row["dataset"] in (dataset, f"{dataset}/0")
        and (row["backbone"], row["kind"], row["protocol"]) == (backbone, "search", "test")
    }
    if not rows:
        return None
    best = _best(list(rows.values()))
    return str(next(path for path, row in rows.items() if row is best))


def _rows(summary: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a run confirmed, with the id of its configuration, and its baselines."""
    row = summary_row(summary)
    if row is not None:
        yield {**row, "configuration": confirmed_configuration(summary)}
    baselines = summary.get("baselines")
    for tested in baselines if isinstance(baselines, list) else []:
        row = _baseline_row(summary, tested)
        if row is not None:
            yield row


def _best(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What stands for several runs on the same data with one backbone: the configuration with the largest H.

    Of runs that confirmed the same configuration the one that knows it best counts, whatever it found: the largest H
    would be that of the run with the fewest seeds too often.
    """
    of: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        # a configuration that cannot be told is one of its own, and a baseline is the same method in every run
        same = ("run", row["run"]) if row["configuration"] is None else ("configuration", row["configuration"])
        same = ("kind", "baseline") if row["kind"] == "baseline" else same
        if same not in of or _known(row) > _known(of[same]):
            of[same] = row
    return max(of.values(), key=_selected_by)


def _known(row: dict[str, Any]) -> tuple[float, ...]:
    # of baselines the first with most splits: the largest H would be that of the luckiest draw of validation classes
    value = 0.0 if row["kind"] == "baseline" else _selected_by(row)
    return row["seeds"] or 0, row["splits"] or 0, value


def _key(row: dict[str, Any], protocol: str) -> tuple[str, ...]:
    return *(row[name] for name in GROUP), row["kind"], protocol


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
            **_data(summary),
            "backbone": str(summary["backbone"]),
            "kind": "ensemble" if summary.get("kind") == "ensemble" else "search",
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


def _baseline_row(summary: dict[str, Any], tested: dict[str, Any]) -> dict[str, Any] | None:
    """The row of a baseline; None of one that is damaged. It was chosen by validation whatever chose the winner."""
    try:
        return {
            **_data(summary),
            "backbone": str(tested["name"]),
            "kind": "baseline",
            "val_H": float(tested["val/H"]),
            **{f"test_{name}": float(tested[f"test/{name}"]) for name in METRICS},
            **{f"test_{name}_sd": None for name in METRICS},
            "protocol": "test",
            "seeds": None,
            "splits": _or_none(len, summary.get("splits")),
            "trials": None,
            "trial_hours": None,
            "run": summary["run"],
            "configuration": None,
        }
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _data(summary: dict[str, Any]) -> dict[str, str]:
    data = summary["dataset"]
    return {name: str(data[key]) for name, key in zip(GROUP[:3], ("name", "semantics", "features"), strict=True)}


def _or_none(read: Callable[[Any], float], value: Any) -> float | None:
    return None if value is None else read(value)

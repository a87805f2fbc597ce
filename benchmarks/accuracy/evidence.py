"""What the directory of a finished search says, as its record keeps it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from optuna.trial import FrozenTrial

from d3tune.method.generators import load_backbone
from d3tune.search.reports import Report
from d3tune.search.run import RunDirectory, open_run
from d3tune.search.study import read_trials, reports_of
from d3tune.yamlfile import read_yaml

SHOWN = ("U", "S", "H", "T1", "AUSUC")


def evidence(run_directory: Path) -> dict[str, Any]:
    """The winner, what validation fixed for it, its test, the baselines, and the trials in brief.

    Raises:
        RuntimeError: the search has no confirmed winner.
    """
    run = open_run(str(run_directory))
    summary = run.read_summary()
    if summary is None or summary["state"] != "done" or summary["test"] is None:
        raise RuntimeError(f"{run.path}: not confirmed")
    selection, number = summary["selection"], summary["confirmed_trial"]
    place = run.path / "confirm" / f"trial-{number:05d}"
    tested = [_kept(place / f"test-seed-{seed}.json") for seed in selection["seeds"]]
    return {
        "dataset_hash": run.search.dataset_hash,
        "space_hash": run.load_space(load_backbone(run.search.backbone).config).hash,
        "winner": {"trial": number, "val/H": summary["winner"]["value"], "config": _config(run)},
        "selection": selection,
        "test": summary["test"],
        "per_seed": [
            {"seed": seed, **{name: row[name] for name in SHOWN}}
            for seed, row in zip(selection["seeds"], tested, strict=True)
        ],
        "heads": confirmed_heads(place, selection["seeds"]),
        "baselines": summary["baselines"],
        "trials": [brief(trial) for trial in read_trials(run.journal)],
    }


def confirmed_heads(place: Path, seeds: Sequence[int]) -> dict[str, float]:
    """`head_values` of the curves that a confirmation kept in a folder."""
    curves = [_kept(place / f"validation-seed-{seed}.json") for seed in seeds]
    return head_values([[Report.from_dict(row) for row in reports] for reports in curves])


def head_values(curves: Sequence[Sequence[Report]]) -> dict[str, float]:
    """Each head's best validation H over updates, averaged over seeds before the best is taken.

    Args:
        curves: every seed's reports.
    """
    means: dict[str, list[float]] = {}
    for reports in zip(*curves, strict=True):
        for head in heads_of(reports[0].metrics):
            means.setdefault(head, []).append(fmean(report.metrics[f"val/{head}/H"] for report in reports))
    return {head: max(values) for head, values in means.items()}


def brief(trial: FrozenTrial) -> dict[str, Any]:
    """A trial's number, state, warm start, best validation H, and that of each head."""
    reports = reports_of(trial)
    heads = heads_of(reports[0].metrics) if reports else []
    return {
        "number": trial.number,
        "state": trial.state.name,
        "warm_start": trial.user_attrs.get("warm_start"),
        "seconds": round(reports[-1].seconds, 1) if reports else 0.0,
        "val/H": max((report.value for report in reports), default=None),
        "heads": {head: max(report.metrics[f"val/{head}/H"] for report in reports) for head in heads},
    }


def heads_of(metrics: Mapping[str, float]) -> list[str]:
    """The heads that a report is about."""
    return sorted(
        name.split("/")[1]
        for name in metrics
        if name.startswith("val/") and name.endswith("/H_raw") and name.count("/") == 2
    )


def _config(run: RunDirectory) -> dict[str, Any]:
    config: dict[str, Any] = read_yaml(run.best)["config"]
    return config


def _kept(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))["value"]

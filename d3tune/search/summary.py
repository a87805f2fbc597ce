"""The summary of a search: what the leaderboard, MLflow's parent run and other readers need of it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from d3tune.config import metric_prefix
from d3tune.search.aims import SECONDS, value_of
from d3tune.search.journal import CONFIG_ATTR
from d3tune.search.run import RunDirectory
from d3tune.search.study import reports_of
from d3tune.search.summaries import configuration_id

if TYPE_CHECKING:
    from d3tune.search.search import Outcome


def summarise(outcome: "Outcome", trials: Sequence[FrozenTrial], state: str) -> dict[str, Any]:
    """The summary of a search, as ``summary.json`` holds it.

    Args:
        outcome: what came of it.
        trials: of its study.
        state: ``done``, ``interrupted`` or ``failed``.
    """
    run, trial = outcome.run, outcome.winner
    seconds = sum(reports_of(item)[-1].seconds for item in trials if reports_of(item))
    front = outcome.front
    return {
        "format": 1,
        "uid": run.uid,
        "run": run.name,
        "created": run.created,
        "updated": datetime.now(UTC).isoformat(timespec="seconds"),
        "dataset": dataset_identity(run),
        "backbone": run.search.backbone,
        "searched_metric": run.search.searched_metric,
        "splits": list(run.search.splits),
        "seed": run.search.seed,
        "state": state,
        "trials": outcome.counts,
        "trial_hours": seconds / 3600,
        "winner": None if trial is None else {"trial": trial.number, "value": value_of(trial)},
        **({"constraints": list(run.search.constraints)} if run.search.constraints else {}),
        **({} if front is None else {"aims": list(front.aims), "front": front.to_dict()}),
        **({} if outcome.converged is None else {"converged": vars(outcome.converged)}),
        **_confirmed(outcome),
    }


def _confirmed(outcome: "Outcome") -> dict[str, Any]:
    """What was confirmed by this command, or else by an earlier one: a result is never dropped for a newer nothing."""
    earlier = outcome.run.read_summary() or {}
    choice = None if outcome.choice is None else outcome.choice.to_dict()
    if outcome.test is None or outcome.selection is None or outcome.confirmed is None:
        choice = earlier.get("choice")
        found = {key: earlier.get(key) for key in ("confirmed_trial", "configuration", "selection", "test")}
        found |= {"unmet": earlier["unmet"]} if "unmet" in earlier else {}
    else:
        found = {
            "confirmed_trial": outcome.confirmed.number,
            "configuration": configuration_id(outcome.run.search.backbone, outcome.confirmed.user_attrs[CONFIG_ATTR]),
            "selection": outcome.selection.model_dump(mode="json"),
            "test": outcome.test.to_dict(),
        }
        found |= {"unmet": outcome.unmet} if outcome.run.search.constraints else {}
    found |= {} if choice is None else {"choice": choice}
    return {**found, "baselines": outcome.baselines or earlier.get("baselines", [])}


def dataset_identity(run: RunDirectory) -> dict[str, str]:
    """What best.yaml and summaries say of the dataset."""
    search = run.search
    return {
        "name": search.dataset,
        "content_hash": search.dataset_hash,
        "semantics": search.semantics,
        "features": search.features,
    }


def parent_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """What the parent run shows, from the run's summary."""
    metrics = {f"trials/{state}": float(count) for state, count in summary["trials"].items()}
    if summary["winner"] is not None:
        metrics[summary["searched_metric"]] = summary["winner"]["value"]
    if "front" in summary:
        front = summary["front"]
        metrics[f"{front_prefix(summary)}/front_trials"] = float(len(front["points"]))
        if SECONDS not in summary["aims"]:
            # of seconds it is a share of another box in each search
            metrics[f"{front_prefix(summary)}/front_hypervolume"] = front["hypervolume"]
    if summary["selection"] is not None:
        prefix = metric_prefix(summary["selection"]["protocol"])
        metrics[f"{prefix}/H_confirmed"] = summary["selection"][f"{prefix}_H"]
    for name, value in (summary["test"] or {}).items():
        if isinstance(value, dict) and "mean" in value:
            metrics[f"{summary['test']['protocol']}/{name}"] = value["mean"]
            if value["sd"] is not None:
                metrics[f"{summary['test']['protocol']}/{name}_sd"] = value["sd"]
    for row in summary["baselines"]:
        metrics |= {f"baseline/{row['name']}/{key}": row[key] for key in ("val/H", "test/H")}
    return metrics


def front_prefix(summary: Mapping[str, Any]) -> str:
    """``val``, or ``published`` where the test sets selected."""
    return str(summary["searched_metric"]).partition("/")[0]


def best_artifacts(run: RunDirectory) -> list[Path]:
    """The file of the best configuration, where there is one, for MLflow."""
    return [run.best] if run.best.exists() else []

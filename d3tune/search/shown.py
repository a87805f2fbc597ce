"""What MLflow shows of a search: names, tags, parameters, metrics and notes; how it gets there is `tracking`'s matter.

Layout 2. A run that lacks it is of an earlier version, whose metrics have other names; it is written anew.
"""

import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from d3tune.config import SearchConfig, metric_prefix
from d3tune.files import slug
from d3tune.search.aims import aim_names, aims_words
from d3tune.search.chosen import choice_lines, choice_of
from d3tune.search.journal import CONFIG_ATTR
from d3tune.search.reports import Report, best_report
from d3tune.search.run import RunDirectory
from d3tune.search.standing import winner
from d3tune.search.study import reports_of
from d3tune.space import Space
from d3tune.words import TEST_SELECTED, plural

RUN_TAG, TRIAL_TAG, STATE_TAG, LAYOUT_TAG = "d3tune.run", "d3tune.trial", "d3tune.state", "d3tune.layout"
LAYOUT = "2"
EXPERIMENT_PREFIX = "d3tune/"
KIND_TAG, SEARCH, TRIAL = "kind", "search", "trial"
CONFIGURATION_TAG = "configuration"
PARENT_TAG, NOTE_TAG, COMMIT_TAG = "mlflow.parentRunId", "mlflow.note.content", "mlflow.source.git.commit"
STATUS = {
    TrialState.RUNNING: "RUNNING",
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "KILLED",
    TrialState.FAIL: "FAILED",
}
PARENT_STATUS = {"done": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
PACKAGES = ("d3tune", "torch", "ray", "optuna", "mlflow")
# enough to tell two trials apart, and a table's cell holds them
DIGITS = 6
TUNED = "tuned/"
# the same in every report of a trial
CONSTANT = "T1_chance"
SHOWN = ("H", "U", "S")
GIT_SECONDS = 5.0
# what MLflow takes of a digest
DIGEST_LENGTH = 36

EXPERIMENT_NOTE = """\
Searches of **d3tune** on one dataset. One run a search, e.g. `gan-s0` (backbone, seed); below it one a trial, e.g.
`gan-t008`. "Saved views" above the table has one of all searches and one of the trials of each search.

| column | what it is |
|---|---|
| `val/best_H`, `val/best_U`, `val/best_S` | of a trial: harmonic mean, unseen and seen accuracy, best evaluation |
| `val/H`, `val/U`, `val/S`, … | of a trial: at each evaluation, pseudo-unseen classes; of a search: its best trial's |
| `val/<head>/H` | of each head that reads the trained parts |
| `val/H_confirmed`, `test/H`, `test/H_sd`, … | of a search: its best configuration with fresh seeds: H on \
validation, then mean and deviation over seeds of the one test |
| `train/…` | losses; steps are updates of the generator |
| `tuned/…` | what the search varied, as numbers, which sort; `log10_` where the scale is logarithmic |
| `published/…` | test-selected: the test set chose; no estimate of what a new test would give |
| `baseline/…` | closed-form methods, tuned on the same validation rows |

Status: FINISHED trials used their full budget, KILLED ones were pruned or interrupted (`d3tune.state` says which),
FAILED ones have their reason in the note. Parameters and values are rounded here; the run directory has all digits.
"""


def experiment_name(search: SearchConfig) -> str:
    """``d3tune/<dataset>``, a slash in the dataset's name written as a dash."""
    return f"{EXPERIMENT_PREFIX}{slug(search.dataset)}"


def parent_name(search: SearchConfig) -> str:
    """``<backbone>-s<seed>``."""
    return f"{search.backbone}-s{search.seed}"


def child_name(search: SearchConfig, number: int) -> str:
    """``<backbone>-t<number>``."""
    return f"{search.backbone}-t{number:03d}"


def run_tags(run: RunDirectory) -> dict[str, str]:
    """What every MLflow run of a search has: how it is found again."""
    return {RUN_TAG: run.uid, "d3tune.run_name": run.name, LAYOUT_TAG: LAYOUT}


def parent_tags(run: RunDirectory, space: Space, commit: str | None) -> dict[str, str]:
    """Tags of a search's parent as it begins.

    Args:
        run: the search.
        space: what it searches.
        commit: see `git_commit`.
    """
    search = run.search
    return {
        **run_tags(run),
        KIND_TAG: SEARCH,
        "dataset": search.dataset,
        "backbone": search.backbone,
        "protocol": search.protocol,
        "space": space.hash[:12],
        **{f"version.{name}": text for name, text in _versions().items()},
        "mlflow.source.name": "d3tune search",
        "mlflow.source.type": "LOCAL",
        **({COMMIT_TAG: commit} if commit else {}),
        NOTE_TAG: f"Search of {_what(search)}.\n\n{_commands(run)}",
    }


def child_tags(run: RunDirectory, number: int, parent: str) -> dict[str, str]:
    """Tags of a trial's run as it is created."""
    return {**run_tags(run), KIND_TAG: TRIAL, TRIAL_TAG: str(number), PARENT_TAG: parent}


def end_tags(run: RunDirectory, summary: Mapping[str, Any]) -> dict[str, str]:
    """What a search's parent is given when the search ends.

    Args:
        run: the search.
        summary: of it, see `d3tune.search.summary.summarise`.

    Raises:
        KeyError: it lacks something.
        TypeError: something is of another type.
    """
    states = ", ".join(f"{count} {state}" for state, count in summary["trials"].items() if count)
    lines = [f"Search of {_what(run.search)}: {summary['state']}. Trials: {states or 'none'}."]
    if summary["winner"] is not None:
        best = summary["winner"]
        name = child_name(run.search, best["trial"])
        lines.append(f"Best trial: `{name}`, {run.search.searched_metric} {best['value']:.4f}.")
    if "front" in summary:
        lines.append(_front(run.search, summary["front"]["points"]))
    if summary["test"] is not None:
        confirmed, best = summary.get("confirmed_trial"), (summary["winner"] or {}).get("trial")
        choice = choice_of(summary)
        if choice is not None:
            lines.append(f"Confirmed, chosen with fresh seeds: `{child_name(run.search, choice['chosen'])}`.")
            lines += [line[0].upper() + line[1:] + "." for line in choice_lines(choice, run.search.searched_metric)]
        elif confirmed not in (None, best):
            lines.append(f"Confirmed, the best of an earlier command: `{child_name(run.search, confirmed)}`.")
        lines.append(f"{_confirmed(summary['test'])} The configuration is in `best.yaml`.")
    tags = {NOTE_TAG: "\n\n".join([*lines, _commands(run)])}
    # a summary of 0.1.0 does not name it
    identity = summary.get("configuration")
    return {**tags, CONFIGURATION_TAG: str(identity)} if identity else tags


def best_metrics(search: SearchConfig, trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """H, U and S of a search's best trial, at its best evaluation; empty where there is none."""
    best = winner(trials)
    return {} if best is None else _accuracies(search, best_report(reports_of(best)), "")


def trial_metrics(search: SearchConfig, report: Report, best: Report) -> dict[str, float]:
    """What MLflow shows of a report: of each head H alone, of the best head everything, losses and diagnostics.

    The rest stays in the study: every value costs MLflow some 50 µs, and its pages drown in a metric a head and kind.

    Args:
        search: names the metrics.
        report: one evaluation.
        best: the best one up to it.

    Returns:
        Finite or not; ``train/…`` for losses, ``val/best_H`` … of the best, to `DIGITS` digits.
    """
    shown = {
        name.replace("loss/", "train/", 1) if name.startswith("loss/") else name: value
        for name, value in report.metrics.items()
        if (name.count("/") < 2 or name.endswith("/H")) and not name.endswith(CONSTANT)
    }
    best_so_far = {**_accuracies(search, best, "best_"), search.best_metric: best.value}
    return {name: _rounded(value) for name, value in {**shown, **best_so_far}.items()}


def tuned_metrics(trial: FrozenTrial) -> dict[str, float]:
    """What the search varied in a trial, as numbers: MLflow sorts parameters as text, and its axes are linear.

    Returns:
        ``tuned/log10_<name>`` of what is searched on a log scale and not off, ``tuned/<name>`` of other numbers.
    """
    config, found = trial.user_attrs.get(CONFIG_ATTR, {}), {}
    for name, distribution in trial.distributions.items():
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not getattr(distribution, "log", False):
            found[f"{TUNED}{name}"] = _rounded(value)
        elif value > 0:
            found[f"{TUNED}log10_{name}"] = _rounded(math.log10(value))
    return found


def trial_params(trial: FrozenTrial) -> dict[str, str]:
    """A trial's configuration in short values; the study and ``trial.json`` have all digits."""
    return {name: short(value) for name, value in trial.user_attrs.get(CONFIG_ATTR, {}).items()}


def trial_end_tags(trial: FrozenTrial) -> dict[str, str]:
    """What a trial's run is given when the trial ends: its state, and why it failed."""
    tags = {STATE_TAG: trial.state.name}
    if "failure" in trial.user_attrs:
        tags |= {"d3tune.failure": trial.user_attrs["failure"], NOTE_TAG: f"Failed: {trial.user_attrs['failure']}"}
    return tags


def short(value: Any) -> str:
    """A hyper-parameter as a table shows it: 4 digits of a number, a list's items, else as ``--set`` takes it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(short, value)) if isinstance(value, list | tuple) else str(value)


def dataset_entry(run: RunDirectory) -> dict[str, str]:
    """What MLflow's entity of the dataset says: no feature leaves the machine.

    Returns:
        Name, digest (the content hash, cut to what MLflow takes), type and address of the source, and a profile.
    """
    search = run.search
    identity = {"content_hash": search.dataset_hash, "semantics": search.semantics, "features": search.features}
    return {
        "name": search.dataset,
        "digest": search.dataset_hash[:DIGEST_LENGTH],
        "source_type": "local",
        "source": json.dumps({"uri": str(run.dataset_path)}),
        "profile": json.dumps(identity),
    }


def git_commit(folder: Path) -> str | None:
    """The commit that a folder is checked out at, as MLflow notes of a script's; None where it is in no checkout."""
    command = ["git", "-C", str(folder), "rev-parse", "--verify", "HEAD"]
    try:
        end = subprocess.run(  # noqa: S603 - fixed arguments
            command, capture_output=True, text=True, timeout=GIT_SECONDS, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return end.stdout.strip() if end.returncode == 0 else None


def confirmed_metric(search: SearchConfig) -> str:
    """The parent's metric by which searches are ranked: H with fresh seeds, on what selected."""
    return f"{metric_prefix(search.protocol)}/H_confirmed"


def results_tag(search: SearchConfig) -> str:
    """The experiment's tag that holds the results of all backbones."""
    # MLflow takes no brackets in a key
    return "test H" if search.protocol == "validation" else f"published H: {TEST_SELECTED}"


def result_words(metrics: Mapping[str, float], search: SearchConfig) -> str | None:
    """A search's test result in a few words, e.g. ``0.812 ± 0.003``.

    Args:
        metrics: the parent's.
        search: one of the same protocol.

    Returns:
        None where it is not confirmed.
    """
    name = "test" if search.protocol == "validation" else "published"
    if confirmed_metric(search) not in metrics or f"{name}/H" not in metrics:
        return None
    sd = metrics.get(f"{name}/H_sd")
    return f"{metrics[f'{name}/H']:.3f}" + ("" if sd is None else f" ± {sd:.3f}")


def _accuracies(search: SearchConfig, report: Report, of: str) -> dict[str, float]:
    prefix = metric_prefix(search.protocol)
    held = {name: report.metrics.get(f"{prefix}/{name}") for name in SHOWN}
    return {f"{prefix}/{of}{name}": value for name, value in held.items() if value is not None}


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _front(search: SearchConfig, points: Sequence[Mapping[str, Any]]) -> str:
    """The Pareto front in a sentence."""

    def told(point: Mapping[str, Any]) -> str:
        pairs = zip(aim_names(search), point["values"], strict=True)
        return f"`{child_name(search, point['trial'])}` ({', '.join(f'{name} {value:.4f}' for name, value in pairs)})"

    return f"Pareto front: {', '.join(map(told, points)) or 'no trial'}."


def _what(search: SearchConfig) -> str:
    note = "" if search.protocol == "validation" else f" ({TEST_SELECTED})"
    return f"{search.backbone} on {search.dataset}, {aims_words(search)}{note}"


def _confirmed(test: Mapping[str, Any]) -> str:
    sd = test["H"]["sd"]
    spread = "" if sd is None else f" ± {sd:.4f}"
    seeds = plural(len(test["H_per_seed"]), "seed")
    if test["protocol"] != "test":
        return f"Published H {test['H']['mean']:.4f}{spread}, {seeds}, {TEST_SELECTED}."
    accuracies = f"U {test['U']['mean']:.3f}, S {test['S']['mean']:.3f}"
    return f"Test H {test['H']['mean']:.4f}{spread} ({accuracies}; {seeds}, each tested once)."


def _commands(run: RunDirectory) -> str:
    sync = run.sync_command
    commands = [run.resume_command, *(sync.replace(" sync ", f" {word} ", 1) for word in ("export", "report"))]
    return "\n".join(["```", *commands, "```"])


def _versions() -> dict[str, str]:
    found = {"python": python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

"""What a run exports: its confirmed winner, or any completed trial, with all that is known of where it comes from."""

from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from d3tune import __version__
from d3tune.documents import read_document
from d3tune.errors import RunError, UsageError
from d3tune.search.aims import nothing_wins, value_of
from d3tune.search.configuration import SEARCH_KEY, Searched, check_keys
from d3tune.search.confirm import FORMAT
from d3tune.search.journal import CONFIG_ATTR
from d3tune.search.keeping import read_record
from d3tune.search.run import RunDirectory
from d3tune.search.standing import winner
from d3tune.search.study import WORKER_ATTR, read_trials
from d3tune.search.summaries import configuration_id
from d3tune.search.summary import dataset_identity


def confirmed_document(run: RunDirectory) -> dict[str, Any]:
    """The confirmed winner, as best.yaml has it.

    Returns:
        A configuration, see `d3tune.search.confirm.configuration_document`. Its ``source`` says also ``created``, when
        the run was begun (UTC), ``configuration``, see `configuration_id`, and ``worker``, what the trial was trained
        with (versions, processor, threads, device).

    Raises:
        RunError: there is no confirmed winner yet, or best.yaml is damaged.
    """
    if not run.best.exists():
        raise RunError(f"{run.path}: no confirmed winner yet; finish it with: {run.resume_command}")
    try:
        document = read_document(run.best)
        check_keys(document, str(run.best))
    except UsageError as error:
        raise RunError(f"{error}; {run.resume_command} writes it again") from None
    source = document.get("source") or {}
    number = source.get("trial")
    record = read_record(run.trial(number)) if isinstance(number, int) else None
    worker = (record or {}).get(WORKER_ATTR)
    return {**document, "source": {**source, **_origin(run, str(document["backbone"]), document["config"], worker)}}


def trial_document(run: RunDirectory, number: int) -> dict[str, Any]:
    """A completed trial: the confirmed winner as `confirmed_document`, another without selection and test.

    Its ``source`` says under ``search`` how the search chose, so that a selection made later is made in the same way.

    Raises:
        UsageError: there is no such trial, or it was not completed.
        RunError: the run has not begun or is damaged.
    """
    trials = {trial.number: trial for trial in read_trials(run.journal)}
    if number not in trials:
        raise UsageError(f"{run.path}: has no trial {number}; there are {len(trials)}, numbered from 0")
    trial = trials[number]
    if trial.state != TrialState.COMPLETE:
        best = winner(trials.values())
        why = nothing_wins(trials.values(), run.search)
        advice = why if best is None else f"the best complete one is trial {best.number}"
        raise UsageError(f"{run.path}: trial {number} is {trial.state.name}, not COMPLETE; {advice}")
    return confirmed_document(run) if _is_confirmed(run, number) else _unconfirmed(run, trial)


def _is_confirmed(run: RunDirectory, number: int) -> bool:
    return run.best.exists() and (confirmed_document(run).get("source") or {}).get("trial") == number


def _unconfirmed(run: RunDirectory, trial: FrozenTrial) -> dict[str, Any]:
    search, config = run.search, trial.user_attrs[CONFIG_ATTR]
    worker = trial.user_attrs.get(WORKER_ATTR) or {}
    searched = Searched(
        protocol=search.protocol,
        objective=search.objective,
        splits=search.splits,
        seed=search.seed,
        threads=int(worker.get("threads", 1)),
        compile="compiled" in worker,
    )
    source = {
        "run": run.name,
        "uid": run.uid,
        "trial": trial.number,
        "searched_metric": search.searched_metric,
        "searched_value": value_of(trial),
        **_origin(run, search.backbone, config, worker),
        SEARCH_KEY: searched.model_dump(mode="json"),
    }
    return {
        "format": FORMAT,
        "d3tune": str(worker.get("d3tune", __version__)),
        "dataset": dataset_identity(run),
        "backbone": search.backbone,
        "config": config,
        "selection": None,
        "test": None,
        "source": source,
    }


def _origin(run: RunDirectory, backbone: str, config: dict[str, Any], worker: Any) -> dict[str, Any]:
    known = {"created": run.created, "configuration": configuration_id(backbone, config)}
    return {**known, "worker": dict(worker)} if isinstance(worker, dict) and worker else known


def confirmation_store(run: RunDirectory, number: int) -> Path:
    """Where a search keeps what it trained to confirm a trial."""
    return run.path / "confirm" / f"trial-{number:05d}"

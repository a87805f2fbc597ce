"""What a run's study has and MLflow, or the copy of the study, has not, written there: ``d3tune sync``."""

from d3tune.errors import D3TuneError, root_cause
from d3tune.method.generators import load_backbone
from d3tune.search.doubles import remove_doubles
from d3tune.search.following import PATIENCE
from d3tune.search.going_on import Say, refuse_lost_journal, say_lost, say_mended
from d3tune.search.mlflow_model import model_writer
from d3tune.search.run import RunDirectory, as_itself
from d3tune.search.shown import end_tags
from d3tune.search.study import Ledger
from d3tune.search.study_copy import StudyCopy, copy_name
from d3tune.search.summaries import SUMMARY_FILE
from d3tune.search.summary import best_artifacts, parent_metrics
from d3tune.search.tracking import Mirror
from d3tune.words import plural


def sync_run(
    run: RunDirectory, tracking_uri: str, say: Say, register: str | None = None, study_url: str | None = None
) -> None:
    """Write to MLflow, and to a copy of the study, what a run's study has and they have not; the caller owns the run.

    Args:
        run: an earlier run.
        tracking_uri: the store.
        say: takes one line an event.
        register: see `d3tune.search.search.Plan.register_as`.
        study_url: see `d3tune.search.search.Plan.study_url`.

    Raises:
        D3TuneError: the store still does not take it.
        RunError: the run's journal was lost.
    """
    config = load_backbone(run.search.backbone).config
    refuse_lost_journal(run)
    run = as_itself(run, say)
    ledger = Ledger(run.journal, run.name, run.search, run.load_space(config), config)
    say_mended(run, ledger, say)
    say_lost(run, ledger, say)
    mirror = Mirror(tracking_uri, ledger, run)
    if deleted := _without_doubles(tracking_uri, run, ledger):
        say(f"MLflow at {tracking_uri}: deleted {plural(deleted, 'run')} that {run.name} had there more than once")
    state, metrics, tags = _summarised(run, say)
    report = run.path / "report"
    artifacts = [*best_artifacts(run), *([report] if report.is_dir() else [])]
    mirror.further = model_writer(run.model, register, say)
    missed = mirror.finish(state, metrics, artifacts, tags=tags)
    if missed is not None:
        raise D3TuneError(f"MLflow at {tracking_uri} did not take it: {missed}")
    if study_url is not None:
        _copy(study_url, run, ledger)
    n_trials = len(ledger.trials())
    say(f"{plural(n_trials, 'trial')} of {run.name} {'is' if n_trials == 1 else 'are'} in MLflow at {tracking_uri}")
    if study_url is not None:
        say(f"its study is in {study_url} as {copy_name(run)}")


def _copy(study_url: str, run: RunDirectory, ledger: Ledger) -> None:
    missed = StudyCopy(study_url, ledger, run).finish(PATIENCE)
    if missed is not None:
        raise D3TuneError(f"the study's copy in {study_url} did not take it: {missed}")


def _without_doubles(tracking_uri: str, run: RunDirectory, ledger: Ledger) -> int:
    try:
        return remove_doubles(tracking_uri, run, ledger.trials())
    except Exception as error:
        # each kind of store has its own errors
        raise D3TuneError(f"MLflow at {tracking_uri} did not take it: {root_cause(error)}") from None


def _summarised(run: RunDirectory, say: Say) -> tuple[str, dict[str, float], dict[str, str]]:
    """State, metrics and tags of the last command's summary; without one, or with a damaged one, those of no end."""
    summary = run.read_summary()
    try:
        if summary is not None:
            return str(summary["state"]), parent_metrics(summary), end_tags(run, summary)
    except (KeyError, TypeError, AttributeError, ValueError):
        say(f"{run.path / SUMMARY_FILE}: lacks something; {run.resume_command} writes it again from the study")
    if run.summary_damage:
        say(run.summary_damage)
    return "interrupted", {}, {}

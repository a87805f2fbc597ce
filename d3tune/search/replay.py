"""Replay: train a trial again from its record, or suggest every trial again, and compare with what was recorded."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial

from d3tune.config import Resources, SearchConfig, metric_prefix
from d3tune.errors import RunError, UsageError
from d3tune.method.generators import load_backbone
from d3tune.method.trainer import DivergedError
from d3tune.search.jobs import TrainingJob, describe_worker
from d3tune.search.journal import CONFIG_ATTR
from d3tune.search.reports import Report, make_report
from d3tune.search.run import RunDirectory
from d3tune.search.search import training_job
from d3tune.search.study import WORKER_ATTR, read_trials, reports_of
from d3tune.search.tape import Tape, TapeDiffersError
from d3tune.space import space_from_dict

SHOWN = 3
DIVERGED = "diverged"


@dataclass(frozen=True)
class Replayed:
    """What came of a replay.

    Attributes:
        what: what was replayed, e.g. ``trial 3``.
        compared: how many reports, or suggestions, were compared.
        differences: one line each; empty where everything is equal to the last bit.
        elsewhere: how this machine or version differs from the one of the record, one line each: with differences,
            what may explain them.
    """

    what: str
    compared: int
    differences: list[str]
    elsewhere: list[str] = field(default_factory=list)


def replay_trial(run: RunDirectory, number: int, say: Callable[[str], None]) -> Replayed:
    """Train a trial again as far as it went and compare every report; seconds do not count.

    Args:
        run: the run, with its dataset where this machine has it.
        number: of a trial that has reports or failed.
        say: takes one line where this machine is not the one of the record.

    Raises:
        UsageError: there is no such trial.
        RunError: it has nothing on record to compare with.
        D3TuneError: the dataset is another.
    """
    trials = read_trials(run.journal)
    if not 0 <= number < len(trials):
        raise UsageError(f"{run.path}: has no trial {number}; there are {len(trials)}, numbered from 0")
    trial = trials[number]
    if CONFIG_ATTR not in trial.user_attrs:
        raise RunError(f"{run.path}: trial {number} was never trained: {trial.user_attrs.get('failure', 'no reason')}")
    recorded = reports_of(trial)
    failure = str(trial.user_attrs.get("failure", ""))
    diverged = failure if failure.startswith(DIVERGED) else ""
    if not recorded and not diverged:
        why = f"it failed before its first report: {failure}" if failure else "it has no report yet"
        raise RunError(f"{run.path}: trial {number} has nothing to compare with: {why}")
    recorded_worker = dict(trial.user_attrs.get(WORKER_ATTR, {}))
    job = recorded_job(run, trial)
    here = describe_worker(job)
    elsewhere = [
        f"{name}: {before} then, {here.get(name)} here"
        for name, before in recorded_worker.items()
        if before != here.get(name)
    ]
    for line in elsewhere:
        say(line)
    again, end = _trained(job, len(recorded) + bool(diverged))
    differences = list(_report_differences(recorded, again))
    if end != diverged:
        differences.append(f"{diverged or 'it did not diverge'} then, {end or 'it does not diverge'} now")
    return Replayed(f"trial {number}", len(recorded), differences, elsewhere)


def recorded_job(run: RunDirectory, trial: FrozenTrial) -> TrainingJob:
    """What a trial trained, with the run's own seed, and on as many threads and what kind of device as it did."""
    worker = dict(trial.user_attrs.get(WORKER_ATTR, {}))
    threads = int(worker.get("threads", "1"))
    device = 1.0 if worker.get("device", "cpu") != "cpu" else 0.0
    compiled = "compiled" in worker
    resources = Resources(cpus_per_trial=threads, gpus_per_trial=device, executor="local", compile=compiled)
    return training_job(run, trial.user_attrs[CONFIG_ATTR], resources)


def _trained(job: TrainingJob, n_reports: int) -> tuple[list[Report], str]:
    """The first reports, and why there are fewer of them."""
    started, reports = time.monotonic(), list[Report]()
    evaluations = zip(*(training.evaluations() for training in job.selecting_trainings()), strict=True)
    try:
        for group in islice(evaluations, n_reports):
            seconds = time.monotonic() - started
            reports.append(make_report(group, job.objective, seconds, metric_prefix(job.protocol)))
    except DivergedError as error:
        return reports, f"{DIVERGED}: {error}"
    return reports, ""


def _report_differences(recorded: Sequence[Report], again: Sequence[Report]) -> Iterator[str]:
    if len(again) < len(recorded):
        yield f"{len(recorded)} reports then, {len(again)} now"
    for before, now in zip(recorded, again, strict=False):
        if (before.update, before.head) != (now.update, now.head):
            yield f"update {before.update}, head {before.head} then; update {now.update}, head {now.head} now"
            return
        changed = {
            name: value
            for name, value in before.metrics.items()
            if value != now.metrics.get(name) and not (value != value and name in now.metrics)
        }
        for name, value in list(changed.items())[:SHOWN]:
            yield f"update {before.update}: {name} was {value!r}, is {now.metrics.get(name)!r}"
        if changed:
            yield f"update {before.update}: {len(changed)} of {len(before.metrics)} metrics differ"
            return


def replay_suggestions(run: RunDirectory) -> Replayed:
    """Suggest every trial again, each from what the study held when it was suggested, and compare.

    Raises:
        RunError: the journal cannot be read, or has no suggestion yet.
    """
    tape = Tape(run.journal)
    config = load_backbone(run.search.backbone).config
    differences, compared = list[str](), 0
    while tape.play_to_suggestion():
        search, raw = _identity_at(run, tape.n_trials)
        space = space_from_dict(raw, config, f"{run.path}: space")
        number = tape.n_trials
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                tape.suggest_again(search, space, config)
        except TapeDiffersError as error:
            differences.append(f"trial {number}: {error}")
        compared += 1
    if not compared:
        raise RunError(f"{run.path}: no trial was suggested yet; begin with: {run.resume_command}")
    return Replayed("suggestions", compared, differences)


def _identity_at(run: RunDirectory, n_trials: int) -> tuple[SearchConfig, dict[str, object]]:
    """The search and its raw space as they were when that many trials had been suggested."""
    for extension in run.extensions:
        if n_trials < extension.trials:
            return SearchConfig.model_validate(extension.search), extension.space
    return run.search, run.space

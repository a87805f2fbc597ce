"""A search from start to end: trials, confirmation, baselines, summary. All state is in the run directory."""

import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.trial import FrozenTrial

from d3tune.config import Resources
from d3tune.errors import RunError, UsageError
from d3tune.files import write_text
from d3tune.method.generators import load_backbone
from d3tune.search import packing
from d3tune.search.aims import value_of
from d3tune.search.analysis import ANALYSIS_FILE
from d3tune.search.baselines import METHODS, baseline
from d3tune.search.choice import Choice, check_top, choose
from d3tune.search.confirm import (
    Selection,
    TestResult,
    configuration_document,
    confirmation_seeds,
    evaluate,
    select,
)
from d3tune.search.confirmed_model import ModelRequest
from d3tune.search.convergence import Converged, check_convergence, converged
from d3tune.search.executor import Executor, StopSignal, TrialQueue
from d3tune.search.executor.choice import open_executor
from d3tune.search.executor.site import Site
from d3tune.search.exported import confirmation_store
from d3tune.search.front import Front, front_of
from d3tune.search.going_on import Say, refuse_lost_journal, refuse_other_content, say_lost, say_mended
from d3tune.search.jobs import TrainingJob
from d3tune.search.keeping import Keeper, bytes_used
from d3tune.search.progress import Progress
from d3tune.search.run import RunDirectory, as_itself
from d3tune.search.standing import winner
from d3tune.search.stores import Stores, begun, open_stores
from d3tune.search.study import Assignment, Ledger, counts
from d3tune.search.summaries import SUMMARY_FILE
from d3tune.search.summary import dataset_identity, summarise
from d3tune.search.telling import (
    confirming_line,
    converged_line,
    left_line,
    refuse_without_winner,
    seeds_before,
    trial_line,
)
from d3tune.search.tracking import default_uri
from d3tune.search.unmet import confirmed_unmet
from d3tune.yamlfile import dump_yaml


@dataclass(frozen=True)
class Plan:
    """What one command wants of a run; may differ from one resumption to the next.

    Attributes:
        trials: the run's trials in all.
        seconds: after which no new trial starts; None for no limit.
        resources: for trials.
        confirm_seeds: seeds of the confirmation; 0 leaves it out.
        baselines: whether closed-form methods are tuned and tested too.
        tracking_uri: the MLflow store.
        num_gpus: logical GPUs of a private Ray; None detects the real ones.
        trial_timeout: seconds after which a trial without a report counts as hung; None for never.
        keep_weights: of how many of the best trials the weights are kept.
        retry_failed: failed trials to try again under new numbers, on top of ``trials``.
        register_as: name of a registered model of MLflow that the winner's becomes a version of; None for none.
        study_url: a database for a copy of the study; None for none.
        auto_gpus: whether ``resources.gpus_per_trial`` is what a trial is measured to need.
        measured_gpus: that, as an earlier command measured it; None where it is to be measured, on the whole GPU of
            ``resources``.
        confirm_top: among how many of the best trials the one to confirm is chosen with fresh seeds.
        stop_when_converged: whether no trial is begun where those left would hardly raise the best value.
    """

    trials: int
    seconds: float | None
    resources: Resources
    confirm_seeds: int
    baselines: bool
    tracking_uri: str
    num_gpus: int | None = None
    trial_timeout: float | None = None
    keep_weights: int = 3
    retry_failed: int = 0
    register_as: str | None = None
    study_url: str | None = None
    auto_gpus: bool = False
    measured_gpus: float | None = None
    confirm_top: int = 1
    stop_when_converged: bool = False

    def to_options(self) -> dict[str, Any]:
        """What a resume without options shall do again; the time limit was for one command alone."""
        return {
            "trials": self.trials,
            **self.resources.model_dump(),
            **({"gpus_per_trial": "auto"} if self.auto_gpus else {}),
            "measured_gpus": self.measured_gpus,
            "confirm_seeds": self.confirm_seeds,
            **({"confirm_top": self.confirm_top} if self.confirm_top > 1 else {}),
            **({"stop_when_converged": True} if self.stop_when_converged else {}),
            "baselines": self.baselines,
            # the store of this home: a run that is moved to another home goes on with that one's
            "tracking_uri": None if self.tracking_uri == default_uri() else self.tracking_uri,
            "trial_timeout": self.trial_timeout,
            "keep_weights": self.keep_weights,
            "register_as": self.register_as,
            "study_url": self.study_url,
        }


@dataclass
class Outcome:
    """What came of a search.

    Attributes:
        run: its directory.
        counts: trials by state.
        winner: the best COMPLETE trial, None where a search was stopped before there was one.
        front: of a search with two aims, what it found.
        converged: why trials were left over, where `Plan.stop_when_converged` left some.
        choice: how another was chosen among the best, where that was asked for.
        confirmed: the trial that was confirmed: the winner, or what was chosen.
        selection: what validation fixed for it.
        unmet: constraints that do not hold of it on average over the fresh seeds, each with what it has.
        test: its confirmed test result.
        baselines: rows of `baseline`.
        interrupted: whether a stop was requested.
        link: path of the MLflow view, appended to a server's address.
        experiment: the MLflow experiment's name.
        mirrored: whether MLflow, and the copy of the study, have everything.
        bytes: size of the run directory.
    """

    run: RunDirectory
    counts: dict[str, int] = field(default_factory=dict)
    winner: FrozenTrial | None = None
    front: Front | None = None
    converged: Converged | None = None
    choice: Choice | None = None
    confirmed: FrozenTrial | None = None
    selection: Selection | None = None
    unmet: list[str] = field(default_factory=list)
    test: TestResult | None = None
    baselines: list[dict[str, Any]] = field(default_factory=list)
    interrupted: bool = False
    link: str = ""
    experiment: str = ""
    mirrored: bool = True
    bytes: int = 0


def run_search(
    run: RunDirectory,
    plan: Plan,
    stop: StopSignal,
    say: Say,
    executor: Executor | None = None,
    progress: Progress | None = None,
    measure: packing.Measure = packing.measure,
) -> Outcome:
    """Carry a run to its plan: what is done is not done again.

    Args:
        run: a new or an earlier run; the caller owns it (`RunDirectory.owned`).
        plan: how far.
        stop: requested by a signal handler to drain.
        say: takes one line an event.
        executor: carries out the trials, for simulations; None is what the plan's resources say. It is closed.
        progress: is told how far it is, for whoever shows that meanwhile.
        measure: reads in a worker what a job takes of a GPU, for a plan with ``auto_gpus``.

    Raises:
        NoUsableTrialError: every trial failed.
        D3TuneError: the dataset is gone or changed, a trial can never fit, or the run directory cannot be written.
    """
    check_top(plan.confirm_top, run.search.protocol)
    check_convergence(plan.stop_when_converged, len(run.search.aims))
    config = load_backbone(run.search.backbone).config
    refuse_other_content(run)
    refuse_lost_journal(run)
    run = as_itself(run, say)
    ledger = Ledger(run.journal, run.name, run.search, run.load_space(config), config)
    say_mended(run, ledger, say)
    say_lost(run, ledger, say)
    if run.summary_damage:
        say(f"{run.path / SUMMARY_FILE}: damaged, taken for absent; it is written again from the study")
    plan = _extended(plan, ledger, say)
    run.write_plan(plan.to_options())
    keeper = Keeper(ledger, run.trial, plan.keep_weights)
    keeper.settle_all()
    stores = open_stores(plan.tracking_uri, plan.study_url, ledger, run, say)
    if plan.seconds is not None:
        stop.deadline = time.monotonic() + plan.seconds
    opening = begun(stores.start)
    progress = progress or Progress()
    state = "failed"
    outcome = Outcome(run, experiment=stores.mirror.experiment_name)
    try:
        opened = executor or open_executor(plan.resources, run.log, stop, plan.num_gpus, [site_of(run)], say)
        with closing(progress.watched(opened, run.search)) as executor:
            opening.result()
            plan = _packed(run, plan, ledger, executor, measure, stop, say)
            _run_trials(run, plan, ledger, keeper, executor, stop, say)
            outcome.winner = winner(ledger.trials())
            outcome.counts = counts(ledger.trials())
            if not stop.requested:
                outcome.converged = converged(ledger, plan.trials) if plan.stop_when_converged else None
                left = 0 if outcome.converged else _left_by_time(ledger, plan)
                state = "interrupted" if ledger.n_left else state
                refuse_without_winner(ledger.trials(), left, run.resume_command, run.search)
                if outcome.converged:
                    say(converged_line(outcome.converged, plan.trials, run.search.searched_metric))
                if left:
                    say(left_line(left, plan.trials, run.resume_command))
                _confirm(outcome, plan, ledger, executor, stop, say)
                outcome.baselines = _baselines(run, plan, executor, stop, say)
            progress.enter("ending")
        state = "interrupted" if ledger.n_left else "done"
    except KeyboardInterrupt:
        stop.requested = True
    finally:
        refused = isinstance(opening.exception(), UsageError)
        unwritten = None if refused else _end(outcome, stores, ledger, plan.register_as, state, stop, say)
    if unwritten is not None:
        raise RunError(f"{unwritten}; mend that, then resume")
    outcome.link = stores.mirror.link()
    outcome.bytes = bytes_used(run.path)
    return outcome


def _packed(
    run: RunDirectory,
    plan: Plan,
    ledger: Ledger,
    executor: Executor,
    measure: packing.Measure,
    stop: StopSignal,
    say: Say,
) -> Plan:
    """The plan with what a trial needs of a GPU, measured where that was asked for and is not known, and remembered."""
    if not plan.auto_gpus or plan.measured_gpus is not None or ledger.standing.ended >= plan.trials:
        return plan
    config = load_backbone(run.search.backbone).config
    configurations = packing.largest_first(ledger.space, config, run.search.seed)
    jobs = [training_job(run, values, plan.resources) for values in configurations]
    share = packing.measured_share(jobs, executor, measure, stop, say)
    executor.share_gpus(share)
    resources = plan.resources.model_copy(update={"gpus_per_trial": share})
    plan = replace(plan, resources=resources, measured_gpus=share)
    run.write_plan(plan.to_options())
    return plan


def _end(
    outcome: Outcome, stores: Stores, ledger: Ledger, register: str | None, state: str, stop: StopSignal, say: Say
) -> str | None:
    """Put what became of the search into outcome, summary and stores; why the summary could not be written."""
    outcome.interrupted = stop.requested
    outcome.counts = counts(ledger.trials())
    outcome.winner = winner(ledger.trials())
    outcome.front = front_of(ledger.trials(), outcome.run.search)
    summary = summarise(outcome, ledger.trials(), "interrupted" if stop.requested else state)
    unwritten = _write_summary(outcome.run, summary)
    if unwritten is not None and summary["state"] == "failed":
        # another error is on its way
        say(unwritten)

    def hurry() -> float | None:
        return None if not stop.requested else 5.0 if not stop.at_once else 0.5

    outcome.mirrored = stores.finish(outcome.run, summary, register, say, hurry)
    return unwritten


def _extended(plan: Plan, ledger: Ledger, say: Say) -> Plan:
    """The plan with failed trials enqueued again, and with no fewer trials than there are."""
    # asked for by a process that died before it had written its plan
    asked_before = ledger.waiting_retries
    again = ledger.retry_failed(plan.retry_failed) if plan.retry_failed else []
    if again:
        say(f"trying again what failed: {', '.join(str(number) for number in again)}")
    there = len(ledger.trials())
    if plan.trials < there:
        already = "1 trial is" if there == 1 else f"{there} trials are"
        say(f"{already} there already; {plan.trials} in all adds none")
    return replace(plan, trials=max(plan.trials, there + asked_before) + len(again))


def _left_by_time(ledger: Ledger, plan: Plan) -> int:
    """How many trials were not begun, or not gone on with, because the time was over."""
    if plan.seconds is None:
        return 0
    return plan.trials - ledger.standing.ended


def _write_summary(run: RunDirectory, summary: dict[str, Any]) -> str | None:
    """Write it; returns why that could not be done, which is no reason to leave MLflow behind."""
    try:
        run.write_summary(summary)
    except OSError as error:
        return f"{run.path}: the summary cannot be written: {error.strerror}; the study is whole"
    return None


def site_of(run: RunDirectory) -> Site:
    """What every node of a cluster must have of a run."""
    return Site(str(run.path), run.uid, str(run.dataset_path), run.search.dataset_hash)


def training_job(run: RunDirectory, config: dict[str, Any], resources: Resources) -> TrainingJob:
    """The job of one configuration of a run, with the run's own seed."""
    return TrainingJob(
        backbone=run.search.backbone,
        config=config,
        dataset=str(run.dataset_path),
        dataset_hash=run.search.dataset_hash,
        seed=run.search.seed,
        threads=resources.threads,
        device=resources.device,
        objective=run.search.objective,
        splits=run.search.splits,
        protocol=run.search.protocol,
        compile=resources.compile,
    )


def _run_trials(
    run: RunDirectory, plan: Plan, ledger: Ledger, keeper: Keeper, executor: Executor, stop: StopSignal, say: Say
) -> None:
    def job(assignment: Assignment) -> TrainingJob:
        return training_job(run, assignment.config, plan.resources)

    def on_end(number: int) -> None:
        say(trial_line(ledger.trial(number), ledger.standing, plan.trials, run.search))

    def on_note(number: int, line: str) -> None:
        say(f"trial {number:>3}  {line}")

    def enough() -> bool:
        return plan.stop_when_converged and converged(ledger, plan.trials) is not None

    queue = TrialQueue(ledger, plan.trials, job, run.trial, keeper, on_end, on_note, plan.trial_timeout, stop)
    executor.run_trials(replace(queue, enough=enough))


def _chosen(
    outcome: Outcome, plan: Plan, ledger: Ledger, executor: Executor, stop: StopSignal, say: Say
) -> FrozenTrial | None:
    """The trial to confirm; None for none."""
    if plan.confirm_seeds == 0 or plan.confirm_top == 1:
        return outcome.winner if plan.confirm_seeds else None

    def job(trial: FrozenTrial) -> TrainingJob:
        return training_job(outcome.run, trial.user_attrs["config"], plan.resources)

    outcome.choice = choose(outcome.run, ledger.trials(), plan.confirm_top, job, executor, stop, say)
    return outcome.winner if outcome.choice is None else ledger.trial(outcome.choice.chosen)


def _confirm(outcome: Outcome, plan: Plan, ledger: Ledger, executor: Executor, stop: StopSignal, say: Say) -> None:
    trial = _chosen(outcome, plan, ledger, executor, stop, say)
    if trial is None:
        return
    run = outcome.run
    earlier = run.read_summary() or {}
    value = f"{run.search.searched_metric} {value_of(trial):.3f}"
    say(confirming_line(earlier, trial.number, value, plan.confirm_seeds))
    # a test over more seeds is never given up for one over fewer
    n_seeds = max(plan.confirm_seeds, seeds_before(earlier, trial.number))
    seeds = confirmation_seeds(run.search.seed, n_seeds)
    job = training_job(run, trial.user_attrs["config"], plan.resources)
    store = confirmation_store(run, trial.number)
    outcome.selection = select(job, seeds, executor, stop, store)
    outcome.unmet = confirmed_unmet(job, seeds, run.search, executor, stop, store)
    searched = {"searched_metric": run.search.searched_metric, "searched_value": value_of(trial)}
    source: dict[str, Any] = {"run": run.name, "uid": run.uid, "trial": trial.number, **searched}
    model = ModelRequest(store / "model", source, place=run.model)
    analysis = store / ANALYSIS_FILE
    outcome.test = evaluate(job, outcome.selection, seeds, executor, stop, store, analysis=analysis, model=model)
    if outcome.test.protocol == "test" and not run.model.exists():
        say(f"backbone '{run.search.backbone}': its head '{outcome.selection.head}' cannot be saved: there is no model")
    outcome.confirmed = trial
    source |= {} if outcome.choice is None else {"choice": outcome.choice.to_dict()}
    document = configuration_document(job, dataset_identity(run), outcome.selection, outcome.test, source)
    write_text(run.best, dump_yaml(document))


def _baselines(run: RunDirectory, plan: Plan, executor: Executor, stop: StopSignal, say: Say) -> list[dict[str, Any]]:
    if not plan.baselines:
        return []
    say("baselines: " + ", ".join(METHODS))
    items = [(name, str(run.dataset_path), run.search.splits, plan.resources.threads) for name in METHODS]
    return executor.map(baseline, items, stop)

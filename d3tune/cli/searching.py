"""Commands that train: search, resume, train, replay; and sync, which writes again what a search wrote."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from d3tune.cli import names
from d3tune.cli.options import (
    BEST,
    MINE,
    Address,
    Baselines,
    Concurrency,
    ConfirmSeeds,
    ConfirmTop,
    Constraint,
    CpusPerTrial,
    DataDir,
    Executor,
    Json,
    KeepWeights,
    Objective,
    Pruner,
    Register,
    Run,
    Sampler,
    Seed,
    Semantics,
    StopWhenConverged,
    StudyUrl,
    TimeLimit,
    TrackingUri,
    Trials,
    TrialTimeout,
    ValSplit,
    ValSplits,
    Verbose,
    examples,
)
from d3tune.cli.program import app
from d3tune.cli.terminal import EXIT_INTERRUPTED, draining, put, say
from d3tune.errors import UsageError
from d3tune.words import FIRST_SEARCH

if TYPE_CHECKING:
    from d3tune.search.executor import StopSignal
    from d3tune.search.planning import PlanOptions
    from d3tune.search.request import Request
    from d3tune.search.run import RunDirectory
    from d3tune.search.search import Plan

# the options that a resume takes from the command before, where they are not given
RESUMED = "; else as before"


@app.command(
    epilog=examples(
        FIRST_SEARCH,
        "d3tune search --dataset hanzi --trials 12 --run-dir mine",
        "d3tune search --dataset hanzi --backbone vae --set list",
        "d3tune search --dataset hanzi --backbone diffusion --dry-run",
    )
)
def search(
    dataset: Annotated[
        str, typer.Option(help="hanzi (embedded), flo, cub, awa1, … or a folder's name.", autocompletion=names.datasets)
    ],
    backbone: Annotated[
        str, typer.Option(help="gan, vae, diffusion, cegan, vaegan, rezsl or gaussian.", autocompletion=names.backbones)
    ] = "gan",
    trials: Trials = 50,
    time: TimeLimit = None,
    data_dir: DataDir = None,
    semantics: Semantics = None,
    space: Annotated[Path | None, typer.Option(help="Search space of your own, a YAML file.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Fix a hyper-parameter: key=value; list shows all.")
    ] = None,
    warm_start: Annotated[
        list[str] | None,
        typer.Option(
            help="Tried first: shipped, none, a run's best, leaderboard, or exported configurations.",
            autocompletion=names.warm_starts,
        ),
    ] = None,
    objective: Objective = "H",
    constraint: Constraint = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="What selects: validation, or published (best test epoch: test-selected).",
            autocompletion=names.protocols,
        ),
    ] = "validation",
    val_split: ValSplit = 0,
    val_splits: ValSplits = 1,
    seed: Seed = 0,
    sampler: Sampler = "auto",
    pruner: Pruner = "auto",
    cpus_per_trial: CpusPerTrial = 1.0,
    gpus_per_trial: Annotated[
        str | None, typer.Option(help="GPUs a trial: 1 where there is one, a fraction, or auto: as measured.")
    ] = None,
    concurrency: Concurrency = None,
    executor: Executor = "ray",
    address: Address = None,
    confirm_seeds: ConfirmSeeds = 5,
    confirm_top: ConfirmTop = 1,
    stop_when_converged: StopWhenConverged = False,
    baselines: Baselines = False,
    trial_timeout: TrialTimeout = None,
    keep_weights: KeepWeights = 3,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the losses, for GPUs: minutes a trial, then faster steps.")
    ] = False,
    run_dir: Annotated[Path | None, typer.Option(help="Where the run is kept; under $D3TUNE_HOME/runs.")] = None,
    extend: Annotated[bool, typer.Option("--extend", help="Go on in --run-dir with this changed space.")] = False,
    tracking_uri: TrackingUri = None,
    study_url: StudyUrl = None,
    register: Register = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Search nothing: show configuration, space, samples and what it costs.")
    ] = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Search, confirm the winner and test it once. The same command again goes on where it stopped."""
    if settings == ["list"]:
        _list_settings(backbone, as_json)
        return
    from d3tune.search.choice import check_top
    from d3tune.search.convergence import check_convergence
    from d3tune.search.planning import PlanOptions, make_plan, parse_gpus
    from d3tune.search.request import Request, prepare_run

    options = PlanOptions(
        trials=trials,
        cpus_per_trial=cpus_per_trial,
        gpus_per_trial=parse_gpus(gpus_per_trial),
        concurrency=concurrency,
        executor=executor,
        address=address,
        confirm_seeds=confirm_seeds,
        confirm_top=confirm_top,
        stop_when_converged=stop_when_converged,
        baselines=baselines,
        tracking_uri=tracking_uri,
        trial_timeout=trial_timeout,
        keep_weights=keep_weights,
        compile=compiled,
        register_as=register,
        study_url=study_url,
    )
    request = Request(
        dataset=dataset,
        backbone=backbone,
        data_dir=data_dir,
        semantics=semantics,
        space=space,
        settings=tuple(settings or ()),
        warm_start=tuple(warm_start or ("shipped",)),
        objective=objective,
        constraints=tuple(constraint or ()),
        protocol=protocol,
        val_split=val_split,
        val_splits=val_splits,
        seed=seed,
        sampler=sampler,
        pruner=pruner,
        run_dir=run_dir,
        extend=extend,
    )
    if dry_run:
        _dry_run(request, options, time, as_json)
        return
    plan = make_plan(options, time)
    check_top(plan.confirm_top, protocol)
    check_convergence(stop_when_converged, objective.count(","))
    run, new = prepare_run(request, say)
    say(f"run {run.path}" if new else f"going on with run {run.path}")
    _carry_out(run, plan, as_json, verbose)


@app.command(epilog=examples("d3tune resume mine --trials +10", note=MINE))
def resume(
    run: Run,
    trials: Annotated[str | None, typer.Option(help="Trials in all, or +N more than there are.")] = None,
    time: TimeLimit = None,
    retry_failed: Annotated[int, typer.Option(help="Try so many failed trials again, on top of --trials.")] = 0,
    data_dir: DataDir = None,
    cpus_per_trial: Annotated[float | None, typer.Option(help="CPU cores a trial" + RESUMED)] = None,
    gpus_per_trial: Annotated[str | None, typer.Option(help="GPUs a trial, or auto" + RESUMED)] = None,
    concurrency: Annotated[int | None, typer.Option(help="Most trials at once" + RESUMED)] = None,
    executor: Annotated[str | None, typer.Option(help="ray or local" + RESUMED, autocompletion=names.executors)] = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster to join, or none" + RESUMED)] = None,
    confirm_seeds: Annotated[int | None, typer.Option(help="Fresh seeds that confirm the winner" + RESUMED)] = None,
    confirm_top: Annotated[int | None, typer.Option(help="Trials that fresh seeds choose among" + RESUMED)] = None,
    stop_when_converged: Annotated[
        bool | None,
        typer.Option(
            "--stop-when-converged/--no-stop-when-converged", help="Where trials left would hardly raise it" + RESUMED
        ),
    ] = None,
    baselines: Annotated[
        bool | None, typer.Option("--baselines/--no-baselines", help="Also gaussian and ESZSL" + RESUMED)
    ] = None,
    trial_timeout: Annotated[str | None, typer.Option(help="10m, 1h, or none" + RESUMED)] = None,
    keep_weights: Annotated[int | None, typer.Option(help="Of how many of the best trials" + RESUMED)] = None,
    compiled: Annotated[bool | None, typer.Option("--compile/--no-compile", help="The losses" + RESUMED)] = None,
    tracking_uri: Annotated[str | None, typer.Option(help="MLflow store" + RESUMED)] = None,
    study_url: Annotated[str | None, typer.Option(help="Database for a copy of the study, or none" + RESUMED)] = None,
    register: Register = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Go on with a run: interrupted trials from their checkpoint, finished ones untouched, options as before."""
    from d3tune.search.planning import parse_gpus, resumed_plan
    from d3tune.search.request import located
    from d3tune.search.run import open_run

    opened = open_run(run)
    given = {
        "cpus_per_trial": cpus_per_trial,
        "gpus_per_trial": parse_gpus(gpus_per_trial),
        "concurrency": concurrency,
        "executor": executor,
        "address": address,
        "confirm_seeds": confirm_seeds,
        "confirm_top": confirm_top,
        "stop_when_converged": stop_when_converged,
        "baselines": baselines,
        "trial_timeout": trial_timeout,
        "keep_weights": keep_weights,
        "compile": compiled,
        "tracking_uri": tracking_uri,
        "register_as": register,
        "study_url": study_url,
    }
    plan = resumed_plan(opened, given, trials, time, retry_failed)
    _carry_out(located(opened, data_dir), plan, as_json, verbose)


@app.command(epilog=examples("d3tune train best.yaml --seeds 3", note=BEST))
def train(
    config: Annotated[Path, typer.Argument(help="A configuration: exported, or dataset, backbone and config.")],
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 5,
    data_dir: DataDir = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the result here (YAML, or .json).")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="New folder for the first seed's model, for d3tune predict.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Retrain a configuration on trainval and test it once a seed."""
    from d3tune.documents import document_text
    from d3tune.files import writable_file, write_text
    from d3tune.results.text import train_text
    from d3tune.search.executor import StopSignal
    from d3tune.search.executor.inprocess import InProcessExecutor
    from d3tune.search.train import train as retrain

    if output is not None:
        writable_file(output, "give another -o")
    trained = retrain(config, seeds, data_dir, InProcessExecutor(), StopSignal(), say, model)
    if output is not None:
        write_text(output, document_text(trained.document, output))
    put(trained.document if as_json else train_text(trained))


@app.command(epilog=examples("d3tune replay mine 0", "d3tune replay mine --suggestions", note=MINE))
def replay(
    run: Run,
    trial: Annotated[int | None, typer.Argument(min=0, help="The trial to train again.")] = None,
    suggestions: Annotated[bool, typer.Option("--suggestions", help="Suggest every trial again.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Train a trial again from its record, or suggest all again, and compare with what was recorded."""
    from d3tune.results.text import replay_text
    from d3tune.search.replay import replay_suggestions, replay_trial
    from d3tune.search.request import located
    from d3tune.search.run import open_run

    if (trial is None) != suggestions:
        raise UsageError("replay: give a trial's number, or --suggestions")
    opened = open_run(run)
    replayed = replay_suggestions(opened) if trial is None else replay_trial(located(opened, data_dir), trial, say)
    put(vars(replayed) if as_json else replay_text(replayed))
    if replayed.differences:
        raise typer.Exit(1)


@app.command(epilog=examples("d3tune sync mine", note=MINE))
def sync(
    run: Run,
    tracking_uri: Annotated[str | None, typer.Option(help="MLflow store" + RESUMED)] = None,
    study_url: Annotated[str | None, typer.Option(help="Database for a copy of the study" + RESUMED)] = None,
    register: Register = None,
) -> None:
    """Write to MLflow, and to the copy of the study where there is one, what a run has and they have not."""
    from d3tune.search import study_copy
    from d3tune.search.mlflow_model import check_name
    from d3tune.search.run import open_run
    from d3tune.search.syncing import sync_run
    from d3tune.search.tracking import store_uri

    opened = open_run(run)
    plan = opened.read_plan()
    name = check_name(register or plan.get("register_as"))
    uri = store_uri(tracking_uri or plan.get("tracking_uri"))
    copy = study_copy.study_url(study_url or plan.get("study_url"), uri)
    with opened.owned(say):
        sync_run(opened, uri, say, name, copy)


def _list_settings(backbone: str, as_json: bool) -> None:
    from d3tune.method.generators import load_backbone
    from d3tune.results.text import settings_rows, settings_text

    config = load_backbone(backbone).config
    put(settings_rows(config) if as_json else settings_text(config))


def _dry_run(request: "Request", options: "PlanOptions", time_limit: str | None, as_json: bool) -> None:
    from d3tune.results.dryrun import dry_run_text
    from d3tune.search.dryrun import dry_run

    found = dry_run(request, options, time_limit, say)
    put(found.to_dict() if as_json else dry_run_text(found))


def _carry_out(run: "RunDirectory", plan: "Plan", as_json: bool, verbose: bool) -> None:
    from d3tune.cli.live import on_screen
    from d3tune.results.text import outcome_text
    from d3tune.search.chatter import kept
    from d3tune.search.executor import StopSignal
    from d3tune.search.progress import Progress
    from d3tune.search.search import run_search

    stop, progress = StopSignal(), Progress()
    try:
        with (
            run.owned(say),
            on_screen(progress) as tell,
            kept(run.log, tell if verbose else None),
            draining(stop, tell=tell),
        ):
            outcome = run_search(run, plan, stop, tell, progress=progress)
    except KeyboardInterrupt:
        # while MLflow was being closed
        _stopped(run, plan, stop)
    put(outcome.run.read_summary() if as_json else outcome_text(outcome, plan.tracking_uri))
    if outcome.interrupted:
        _stopped(run, plan, stop)


def _stopped(run: "RunDirectory", plan: "Plan", stop: "StopSignal") -> NoReturn:
    from d3tune.search.executor.ending import end_now

    say(f"stopped; go on with: {run.resume_command}")
    if stop.at_once and plan.resources.executor == "ray":
        end_now(EXIT_INTERRUPTED)
    raise typer.Exit(EXIT_INTERRUPTED)

"""The command that runs several searches as one: sweep."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d3tune.cli import names
from d3tune.cli.options import (
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
from d3tune.errors import D3TuneError
from d3tune.words import WARM_STARTS

if TYPE_CHECKING:
    from d3tune.search.sweep import Cell


@app.command(epilog=examples("d3tune sweep --dataset hanzi --backbone gan,vae --trials 12"))
def sweep(
    dataset: Annotated[str, typer.Option(help="Names with commas: flo,cub,awa2.", autocompletion=names.datasets)],
    backbone: Annotated[str, typer.Option(help="Names with commas: gan,vae.", autocompletion=names.backbones)],
    trials: Trials = 50,
    time: TimeLimit = None,
    data_dir: DataDir = None,
    semantics: Semantics = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Fix a hyper-parameter of all: key=value.")
    ] = None,
    warm_start: Annotated[
        list[str] | None,
        typer.Option(help="Tried first: shipped, none or leaderboard.", autocompletion=names.shared_warm_starts),
    ] = None,
    objective: Objective = "H",
    constraint: Constraint = None,
    val_split: ValSplit = 0,
    val_splits: ValSplits = 1,
    seed: Seed = 0,
    sampler: Sampler = "auto",
    pruner: Pruner = "auto",
    cpus_per_trial: CpusPerTrial = 1.0,
    gpus_per_trial: Annotated[
        float | None, typer.Option(help="GPUs a trial, fractions allowed; 1 where there is a GPU.")
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
    run_dir: Annotated[Path | None, typer.Option(help="Folder of the runs; $D3TUNE_HOME/runs.")] = None,
    tracking_uri: TrackingUri = None,
    study_url: StudyUrl = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Search every dataset with every backbone on shared workers, and end in one leaderboard.

    Each search is a run of its own. The same command again goes on where it stopped.
    """
    from d3tune.errors import one_of
    from d3tune.files import home
    from d3tune.search.chatter import kept
    from d3tune.search.convergence import check_convergence
    from d3tune.search.executor import StopSignal
    from d3tune.search.planning import PlanOptions, make_plan
    from d3tune.search.request import Request
    from d3tune.search.sweep import listed, prepare_sweep, run_sweep

    warm_starts = tuple(warm_start or ("shipped",))
    for choice in warm_starts:
        one_of("--warm-start", choice, WARM_STARTS)
    options = PlanOptions(
        trials=trials,
        cpus_per_trial=cpus_per_trial,
        gpus_per_trial=gpus_per_trial,
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
        study_url=study_url,
    )
    request = Request(
        dataset="",
        backbone="",
        data_dir=data_dir,
        semantics=semantics,
        settings=tuple(settings or ()),
        warm_start=warm_starts,
        objective=objective,
        constraints=tuple(constraint or ()),
        val_split=val_split,
        val_splits=val_splits,
        seed=seed,
        sampler=sampler,
        pruner=pruner,
    )
    datasets, backbones = listed("--dataset", dataset), listed("--backbone", backbone)
    plan = make_plan(options, time)
    check_convergence(stop_when_converged, objective.count(","))
    cells = prepare_sweep(request, datasets, backbones, run_dir, say)
    for cell in cells:
        say(f"{cell.name}  run {cell.run.path}")
    stop, log = StopSignal(), (run_dir or home()) / "sweep.log"
    with kept(log, say if verbose else None), draining(stop):
        try:
            run_sweep(cells, plan, log, stop, say)
        except KeyboardInterrupt:
            # told so again while Ray started, or the nodes were looked at
            stop.requested = True
    _ended(cells, as_json)
    _exit(cells, stop.requested, stop.at_once and executor == "ray")


def _ended(cells: "list[Cell]", as_json: bool) -> None:
    """Print the leaderboard of a sweep's searches, and on stderr how each ended."""
    from d3tune.results.board import FORMS
    from d3tune.results.leaderboard import leaderboard_rows

    for cell in cells:
        say(f"{cell.name}  {_state(cell)}")
    summaries: list[dict[str, Any]] = [summary for cell in cells if (summary := cell.run.read_summary()) is not None]
    rows = leaderboard_rows(say, summaries)
    put(FORMS["json" if as_json else "table"](rows, "all"))


def _state(cell: "Cell") -> str:
    from d3tune.search.aims import value_of

    outcome = cell.outcome
    if outcome is None or outcome.winner is None:
        return f"no winner; see it, or go on, with: {cell.run.resume_command}"
    counted = ", ".join(f"{n} {state}" for state, n in outcome.counts.items() if n)
    value = f"{cell.run.search.searched_metric} {value_of(outcome.winner):.3f}"
    winner = f"winner: trial {outcome.winner.number}, {value}"
    winner += "" if outcome.choice is None else f", chosen with fresh seeds: trial {outcome.choice.chosen}"
    further = f"; stopped, go on with: {cell.run.resume_command}" if outcome.interrupted else ""
    return f"{counted}; {winner}{further}"


def _exit(cells: "list[Cell]", interrupted: bool, at_once: bool) -> None:
    """End as interrupted, or else with the gravest error of a cell, which was told."""
    errors = [cell.error for cell in cells if cell.error is not None]
    for error in errors:
        if not isinstance(error, D3TuneError | KeyboardInterrupt):
            raise error
    if interrupted:
        say("stopped; the same command goes on")
        if at_once:
            from d3tune.search.executor.ending import end_now

            end_now(EXIT_INTERRUPTED)
        raise typer.Exit(EXIT_INTERRUPTED)
    if errors:
        raise typer.Exit(max(error.exit_code for error in errors if isinstance(error, D3TuneError)))

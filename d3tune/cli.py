"""The command line: parse, call, print. Heavy imports happen inside commands, so that --help is instant."""

import io
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from d3tune.errors import D3TuneError

if TYPE_CHECKING:
    from d3tune.search.executor import StopSignal
    from d3tune.search.run import RunDirectory
    from d3tune.search.search import Outcome, Plan

EXIT_USAGE, EXIT_INTERRUPTED = 2, 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Find the best hyper-parameters for D³GZSL: chosen on validation, tested once.",
)
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Find, check, import and simulate datasets.")
app.add_typer(data_app, name="data")

DataDir = Annotated[Path | None, typer.Option(help="Folder of datasets; then $D3TUNE_DATA, then ./data.")]
Semantics = Annotated[str | None, typer.Option(help="Which class semantics, e.g. att312 or sent1024.")]
Json = Annotated[bool, typer.Option("--json", help="Data alone on stdout, as JSON; messages on stderr.")]
Trials = Annotated[int, typer.Option(help="Trials of the run in all.")]
TimeLimit = Annotated[str | None, typer.Option("--time", help="Start no trial after this long: 90s, 45m, 2h.")]
Cpus = Annotated[float, typer.Option(help="CPU cores a trial, and its torch threads.")]
Gpus = Annotated[float | None, typer.Option(help="GPUs a trial, fractions allowed; 1 where there is a GPU.")]
Concurrency = Annotated[int | None, typer.Option(help="Most trials at once; as many as fit.")]
ExecutorName = Annotated[str, typer.Option("--executor", help="ray, or local: one after another, without Ray.")]
Address = Annotated[str | None, typer.Option(help="A Ray cluster to join, e.g. auto.")]
ConfirmSeeds = Annotated[int, typer.Option(help="Fresh seeds that confirm the winner; 0 for none.")]
Baselines = Annotated[bool, typer.Option("--baselines", help="Also tune and test gaussian and ESZSL.")]
TrackingUri = Annotated[str | None, typer.Option(help="MLflow store; $MLFLOW_TRACKING_URI, else $D3TUNE_HOME.")]


def _show_version(asked: bool) -> None:
    from d3tune import __version__

    if asked:
        _print(f"d3tune {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show it.")] = False,
) -> None:
    """Options of the program itself."""


@app.command()
def search(
    dataset: Annotated[str, typer.Option(help="hanzi (embedded), flo, cub, awa1, … or a folder's name.")],
    backbone: Annotated[str, typer.Option(help="gan, vae, diffusion, cegan, vaegan, rezsl or gaussian.")] = "gan",
    trials: Trials = 50,
    time: TimeLimit = None,
    data_dir: DataDir = None,
    semantics: Semantics = None,
    space: Annotated[Path | None, typer.Option(help="Search space of your own, a YAML file.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Fix a hyper-parameter: key=value.")] = None,
    warm_start: Annotated[
        list[str] | None, typer.Option(help="Tried first: shipped, none, or exported configurations.")
    ] = None,
    objective: Annotated[str, typer.Option(help="Maximised on validation: H, H_raw or AUSUC.")] = "H",
    protocol: Annotated[
        str, typer.Option(help="What selects: validation, or published (best test epoch: test-selected).")
    ] = "validation",
    val_split: Annotated[int, typer.Option(help="Which draw of pseudo-unseen classes.")] = 0,
    val_splits: Annotated[int, typer.Option(help="Draws to average over.")] = 1,
    seed: Annotated[int, typer.Option(help="Of suggestions and trainings.")] = 0,
    sampler: Annotated[str, typer.Option(help="auto, tpe, gp, cmaes or random.")] = "auto",
    pruner: Annotated[str, typer.Option(help="auto, asha, hyperband or none.")] = "auto",
    cpus_per_trial: Cpus = 1.0,
    gpus_per_trial: Gpus = None,
    concurrency: Concurrency = None,
    executor: ExecutorName = "ray",
    address: Address = None,
    confirm_seeds: ConfirmSeeds = 5,
    baselines: Baselines = False,
    run_dir: Annotated[Path | None, typer.Option(help="Where the run is kept; under $D3TUNE_HOME/runs.")] = None,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Search, confirm the winner and test it once. The same command again goes on where it stopped."""
    from d3tune.search.request import Request, make_plan, prepare_run

    plan = make_plan(
        trials=trials,
        time_limit=time,
        cpus_per_trial=cpus_per_trial,
        gpus_per_trial=gpus_per_trial,
        concurrency=concurrency,
        executor=executor,
        address=address,
        confirm_seeds=confirm_seeds,
        baselines=baselines,
        tracking_uri=tracking_uri,
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
        protocol=protocol,
        val_split=val_split,
        val_splits=val_splits,
        seed=seed,
        sampler=sampler,
        pruner=pruner,
        run_dir=run_dir,
    )
    run, new = prepare_run(request, say)
    say(f"{'run' if new else 'going on with run'} {run.path}")
    _carry_out(run, plan, as_json)


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="A run's directory, or its name.")],
    trials: Annotated[str | None, typer.Option(help="Trials in all, or +N more than planned.")] = None,
    time: TimeLimit = None,
    cpus_per_trial: Annotated[float | None, typer.Option(help="CPU cores a trial; else as before.")] = None,
    gpus_per_trial: Annotated[float | None, typer.Option(help="GPUs a trial; else as before.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Most trials at once; else as before.")] = None,
    executor: Annotated[str | None, typer.Option("--executor", help="ray or local; else as before.")] = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster to join; else as before.")] = None,
    confirm_seeds: Annotated[int | None, typer.Option(help="Fresh seeds; else as before.")] = None,
    baselines: Annotated[
        bool | None, typer.Option("--baselines/--no-baselines", help="Also gaussian and ESZSL; else as before.")
    ] = None,
    tracking_uri: Annotated[str | None, typer.Option(help="MLflow store; else as before.")] = None,
    as_json: Json = False,
) -> None:
    """Go on with a run: interrupted trials from their checkpoint, finished ones untouched, options as before."""
    from d3tune.search.request import resumed_plan
    from d3tune.search.run import open_run

    opened = open_run(run)
    given = {
        "cpus_per_trial": cpus_per_trial,
        "gpus_per_trial": gpus_per_trial,
        "concurrency": concurrency,
        "executor": executor,
        "address": address,
        "confirm_seeds": confirm_seeds,
        "baselines": baselines,
        "tracking_uri": tracking_uri,
    }
    _carry_out(opened, resumed_plan(opened, trials, time, given), as_json)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A configuration: exported, or dataset, backbone and config.")],
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 5,
    data_dir: DataDir = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the result here (YAML).")] = None,
    as_json: Json = False,
) -> None:
    """Retrain a configuration on trainval and test it once a seed."""
    from d3tune.files import writable_file, write_text
    from d3tune.results.text import train_text
    from d3tune.search.executor import StopSignal
    from d3tune.search.executor.inprocess import InProcessExecutor
    from d3tune.search.train import train as retrain
    from d3tune.yamlfile import dump_yaml

    if output is not None:
        writable_file(output, "give another -o")
    trained = retrain(config, seeds, data_dir, InProcessExecutor(), StopSignal(), say)
    if output is not None:
        write_text(output, dump_yaml(trained.document))
    _print(trained.document if as_json else train_text(trained))


@app.command()
def export(
    run: Annotated[str | None, typer.Argument(help="A run's directory or name; or give both options.")] = None,
    dataset: Annotated[str | None, typer.Option(help="With --backbone: its best confirmed run.")] = None,
    backbone: Annotated[str | None, typer.Option(help="With --dataset.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("best.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
) -> None:
    """Write the best configuration of a run as a file that `d3tune train` takes."""
    from d3tune.results.export import export_best

    say(f"wrote {export_best(run, dataset, backbone, output, force)}")


@app.command()
def sync(
    run: Annotated[str, typer.Argument(help="A run's directory, or its name.")], tracking_uri: TrackingUri = None
) -> None:
    """Write to MLflow what a run has and the store has not."""
    from d3tune.search.run import open_run
    from d3tune.search.search import sync_run
    from d3tune.search.tracking import store_uri

    opened = open_run(run)
    with opened.owned():
        sync_run(opened, store_uri(tracking_uri or opened.read_plan().get("tracking_uri")), say)


@app.command()
def leaderboard(as_json: Json = False) -> None:
    """Best confirmed H for each dataset and backbone."""
    from d3tune.results.leaderboard import leaderboard_rows
    from d3tune.results.text import leaderboard_text

    rows = leaderboard_rows()
    _print(rows if as_json else leaderboard_text(rows))


@app.command()
def doctor(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Versions, devices, what is writable and which datasets are found."""
    from d3tune.results.doctor import examine
    from d3tune.results.text import doctor_text

    findings = examine(data_dir)
    _print([vars(finding) for finding in findings] if as_json else doctor_text(findings))
    if any(finding.problem for finding in findings):
        raise typer.Exit(1)


@app.command()
def ui(port: Annotated[int, typer.Option(min=1, max=65535)] = 5000, tracking_uri: TrackingUri = None) -> None:
    """Serve the MLflow pages of the store on this machine alone."""
    from d3tune.results.ui import serve

    serve(port, tracking_uri)


@data_app.command("list")
def data_list(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Datasets that can be found."""
    from d3tune.data.registry import list_datasets
    from d3tune.results.text import datasets_text

    infos = list_datasets(data_dir)
    _print([vars(info) for info in infos] if as_json else datasets_text(infos))


@data_app.command("check")
def data_check(dataset: str, data_dir: DataDir = None, semantics: Semantics = None, as_json: Json = False) -> None:
    """Read a dataset whole and say what is in it."""
    from d3tune.data.registry import check_dataset
    from d3tune.results.text import dataset_text

    summary = check_dataset(dataset, data_dir, semantics)
    _print(vars(summary) if as_json else dataset_text(summary))


@data_app.command("import")
def data_import(
    name: Annotated[str, typer.Argument(help="The new dataset's name.")],
    into: Annotated[Path, typer.Option(help="Folder of datasets to put it in; later --data-dir.")],
    feature_tag: Annotated[str, typer.Option(help="What the features are, e.g. vit or clip.")],
    source: Annotated[Path | None, typer.Option(help="One .npz with everything, or a part of it.")] = None,
    features: Annotated[Path | None, typer.Option(help="(n, X): .npy or .csv.")] = None,
    labels: Annotated[Path | None, typer.Option(help="n class numbers or names: .npy, .csv or .txt.")] = None,
    semantics: Annotated[Path | None, typer.Option(help="(N, A): .npy or .csv.")] = None,
    splits: Annotated[Path | None, typer.Option(help="Rows or unseen classes: .npz, .npy, .csv or .txt.")] = None,
    class_names: Annotated[Path | None, typer.Option(help="N names: .npy, .csv or .txt.")] = None,
    semantics_kind: Annotated[str, typer.Option(help="Kind of the class semantics, e.g. att or sent.")] = "att",
    test_seen_share: Annotated[float, typer.Option(help="Of each seen class, if only unseen classes are given.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Of that share.")] = 0,
    count_from: Annotated[int | None, typer.Option(help="0 or 1, where the numbers do not show it.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a dataset of that name.")] = False,
) -> None:
    """Make a dataset of your own features from .npz, .npy or CSV files."""
    from d3tune.data.importing import import_dataset

    imported = import_dataset(
        name,
        into,
        source=source,
        features=features,
        labels=labels,
        semantics=semantics,
        splits=splits,
        class_names=class_names,
        feature_tag=feature_tag,
        semantics_kind=semantics_kind,
        test_seen_share=test_seen_share,
        seed=seed,
        count_from=count_from,
        force=force,
    )
    for note in imported.notes:
        say(note)
    say(f"wrote {imported.folder}; search it with --data-dir {into} --dataset {name}")


@data_app.command("simulate")
def data_simulate(
    directory: Path,
    like: Annotated[str, typer.Option(help="flo, cub, awa1, awa2, sun or apy.")],
    seed: int = 0,
    rows: Annotated[float, typer.Option(help="Share of the real number of rows.")] = 1.0,
    source: Annotated[Path | None, typer.Option(help="Folder of the real att_splits.mat, where you have it.")] = None,
) -> None:
    """Write a simulated pair of files of a real dataset's shapes, to rehearse with."""
    from d3tune.data.simulate import simulate_pair

    say(f"wrote {simulate_pair(directory, like, seed=seed, rows=rows, source=source)}")


def main() -> NoReturn:
    """Run the command line: errors a user can cause are one line on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    command = typer.main.get_command(app)
    try:
        code = command.main(standalone_mode=False)
    except D3TuneError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            say(error.format_message())
            sys.exit(EXIT_USAGE)
        _fail(error.format_message() + "; see --help", EXIT_USAGE)
    sys.exit(code if isinstance(code, int) else 0)


def say(line: str) -> None:
    """One line for people: on stderr, so that stdout is data alone."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def _carry_out(run: "RunDirectory", plan: "Plan", as_json: bool) -> None:
    from d3tune.results.text import outcome_text
    from d3tune.search.executor import StopSignal
    from d3tune.search.search import run_search

    stop = StopSignal()
    with run.owned(), _draining(stop):
        outcome = run_search(run, plan, stop, say)
    _print(_outcome_json(outcome) if as_json else outcome_text(outcome, plan.tracking_uri))
    if outcome.interrupted:
        say(f"stopped; go on with: d3tune resume {run.path}")
        raise typer.Exit(EXIT_INTERRUPTED)


def _outcome_json(outcome: "Outcome") -> Any:
    return outcome.run.read_summary()


@contextmanager
def _draining(stop: "StopSignal") -> Iterator[None]:
    """First Ctrl-C or SIGTERM: drain. Second: at once."""

    def handle(number: int, frame: object) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True
        say("stopping: trials end at their last checkpoint (again to stop at once)")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print(value: Any) -> None:
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False, default=str)
    print(text)  # noqa: T201


def _fail(message: str, code: int) -> NoReturn:
    say("d3tune: " + " ".join(message.split()))
    sys.exit(code)

"""Commands on datasets: find, check, import and simulate them."""

from pathlib import Path
from typing import Annotated

import typer

from d3tune.cli import names
from d3tune.cli.mistakes import Commands
from d3tune.cli.options import DataDir, Json, Semantics, examples
from d3tune.cli.program import app
from d3tune.cli.terminal import put, say

data_app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Find, check, import and simulate datasets.",
    epilog=examples("d3tune data list", "d3tune data check hanzi"),
)
app.add_typer(data_app, name="data")


@data_app.command("list", epilog=examples("d3tune data list"))
def data_list(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Datasets that can be found."""
    from d3tune.data.registry import list_datasets
    from d3tune.results.text import datasets_text

    infos = list_datasets(data_dir)
    put([vars(info) for info in infos] if as_json else datasets_text(infos))


@data_app.command("check", epilog=examples("d3tune data check hanzi"))
def data_check(
    dataset: Annotated[str, typer.Argument(autocompletion=names.datasets)],
    data_dir: DataDir = None,
    semantics: Semantics = None,
    as_json: Json = False,
) -> None:
    """Read a dataset whole and say what is in it."""
    from d3tune.data.registry import check_dataset
    from d3tune.results.text import dataset_text

    summary = check_dataset(dataset, data_dir, semantics)
    put(vars(summary) if as_json else dataset_text(summary))


@data_app.command(
    "import",
    epilog=examples(
        "d3tune data import flowers --into data --feature-tag vit --source flowers.npz",
        note="The file flowers.npz is yours; its arrays: features, labels, semantics, unseen_classes.",
    ),
)
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


@data_app.command("simulate", epilog=examples("d3tune data simulate data --like apy --rows 0.01"))
def data_simulate(
    directory: Path,
    like: Annotated[str, typer.Option(help="flo, cub, awa1, awa2, sun or apy.", autocompletion=names.simulated)],
    seed: int = 0,
    rows: Annotated[float, typer.Option(help="Share of the real number of rows.")] = 1.0,
    source: Annotated[Path | None, typer.Option(help="Folder of the real att_splits.mat, where you have it.")] = None,
) -> None:
    """Write a simulated pair of files of a real dataset's shapes, to rehearse with."""
    from d3tune.data.simulate import simulate_pair

    say(f"wrote {simulate_pair(directory, like, seed=seed, rows=rows, source=source)}")

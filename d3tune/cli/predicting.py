"""The command that uses a model: predict."""

from pathlib import Path
from typing import Annotated

import typer

from d3tune.cli import names
from d3tune.cli.options import MINE, Json, examples
from d3tune.cli.program import app
from d3tune.cli.terminal import put, say

NOTE = f"{MINE} features.npy holds features (n, X) as that run's dataset has them."


@app.command(
    epilog=examples(
        "d3tune predict mine features.npy", "d3tune predict mine features.npy --top 3 -o labels.csv", note=NOTE
    )
)
def predict(
    model: Annotated[
        str, typer.Argument(help="A model's folder, or a run's directory or name.", autocompletion=names.runs)
    ],
    features: Annotated[Path, typer.Argument(help="(n, X): .npy, .npz (features), .csv, or .mat (features, X × n).")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the CSV here.")] = None,
    scores: Annotated[Path | None, typer.Option(help="Write all calibrated scores here: .npy, (n, classes).")] = None,
    top: Annotated[int, typer.Option(min=1, help="So many of the best classes of each row.")] = 1,
    classes: Annotated[
        Path | None, typer.Option(help="Further classes: a CSV with a name and its semantics a line.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Classify features by a confirmed model: seen and unseen classes, the offset of validation applied.

    Features are raw, of the same kind and width as the model's dataset. Rows are counted from 0.
    """
    from d3tune.errors import UsageError
    from d3tune.files import writable_file, write_text
    from d3tune.results.predict import check_top, predictions_csv, predictions_plain, write_scores
    from d3tune.results.predict import predict as classify

    taken = {path.resolve(): name for path, name in ((features, "the features"), (classes, "--classes")) if path}
    for option, path in (("-o", output), ("--scores", scores)):
        if path is None:
            continue
        if (other := taken.setdefault(path.resolve(), option)) != option:
            raise UsageError(f"{option} {path}: is the file of {other}; give another")
        writable_file(path, f"give another {option}")
    if scores is not None and scores.suffix.lower() != ".npy":
        raise UsageError(f"--scores {scores}: write it as a .npy file")
    found, predictions = classify(model, features, classes)
    check_top(top, found)
    if scores is not None:
        write_scores(scores, predictions)
        say(f"wrote {scores}: {predictions.scores.shape[0]} rows × {predictions.scores.shape[1]} classes")
    if output is not None:
        write_text(output, predictions_csv(predictions, top))
        say(f"wrote {output}")
    if as_json or output is None:
        put(predictions_plain(found, predictions, top) if as_json else predictions_csv(predictions, top).rstrip("\n"))

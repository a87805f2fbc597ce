"""What a confirmed model says of features: classes, calibrated scores, and further classes by their descriptions."""

import csv
import io
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import torch

from d3tune.data.rows import read_descriptions, read_features
from d3tune.data.tensors import SemanticsScaler
from d3tune.errors import RunError, UsageError
from d3tune.files import write_atomically
from d3tune.method.parts import NotExtendableError
from d3tune.search.ensemble_place import ensemble_folder
from d3tune.search.further import class_means
from d3tune.search.model import DOCUMENT, Model, load_model
from d3tune.search.run import open_run
from d3tune.search.scoring import Predictions, score_rows

EXTENDABLE = ("lda", "prototype", "cosine", "discriminant", "combined")


def predict(model: str, features: Path, classes: Path | None = None) -> tuple[Model, Predictions]:
    """Score a file of features by a model.

    Args:
        model: a model's folder, or the directory or name of a run or an ensemble.
        features: see `read_features`.
        classes: a file of further classes, see `read_descriptions`.

    Raises:
        UsageError: a file is missing or wrong, its values are too large to be scored, or the model's head takes no
            further classes.
        RunError: the model is damaged, or the run has none.
    """
    found = find_model(model)
    rows = read_features(features, found.document.features.width)
    if classes is not None:
        found = with_classes(found, classes)
    predictions = score_rows(found, rows)
    whole = np.isfinite(predictions.scores).all(axis=1)
    if not whole.all():
        raise UsageError(
            f"{features}: row {int(whole.argmin())}: too large to be scored; is it of this kind of feature?"
        )
    return found, predictions


def find_model(name: str) -> Model:
    """The model of a folder, of a run, or of an ensemble.

    Raises:
        UsageError: there is neither.
        RunError: it is damaged, or the run has none.
    """
    path = Path(name).expanduser()
    if (path / DOCUMENT).is_file():
        return load_model(path)
    ensemble = ensemble_folder(name)
    if ensemble is not None:
        return _ensemble_model(ensemble)
    try:
        run = open_run(name)
    except UsageError as error:
        if path.is_dir():
            raise UsageError(f"{name}: is neither a model (it has no {DOCUMENT}) nor a run") from None
        raise UsageError(f"no model '{name}': neither a model's folder nor a run ({error})") from None
    if (run.model / DOCUMENT).is_file():
        return load_model(run.model)
    if run.search.protocol == "published":
        raise RunError(f"{run.path}: has no model: it is test-selected, nothing was fixed before the test")
    if not run.best.is_file():
        raise RunError(f"{run.path}: has no confirmed winner yet; finish it with: {run.resume_command}")
    raise RunError(f"{run.path}: has no model; make one: d3tune train {quote(str(run.best))} --seeds 1 --model DIR")


def _ensemble_model(folder: Path) -> Model:
    if (folder / "model" / DOCUMENT).is_file():
        return load_model(folder / "model")
    raise RunError(f"{folder}: has no model; the d3tune ensemble that made it makes one, unless a member has none")


def with_classes(model: Model, path: Path) -> Model:
    """A model that also knows the classes of a file, as unseen ones behind its own.

    Raises:
        UsageError: the file is wrong, names a class that the model has, or the head takes no further classes.
    """
    document = model.document
    names, vectors = read_descriptions(path, document.semantics.width)
    known = next((name for name in names if name in document.classes), None)
    if known is not None:
        raise UsageError(f"{path}: class '{known}' is one of the model's already; give another name")
    predictor = model.predictor
    scaled = SemanticsScaler(predictor.semantics_mean.numpy(), predictor.semantics_scale).apply(vectors)
    try:
        predictor = predictor.extended(torch.from_numpy(scaled), class_means(model))
    except NotExtendableError:
        heads = ", ".join(EXTENDABLE)
        raise UsageError(
            f"--classes: head '{document.head}' knows only the classes it was trained with; heads that take further "
            f"ones: {heads}"
        ) from None
    further = document.model_copy(update={"unseen_classes": (*document.unseen_classes, *names)})
    return replace(model, predictor=predictor, document=further)


def predictions_csv(predictions: Predictions, top: int) -> str:
    """A line a row: its number from 0, class, calibrated score and group, and those of the next best up to ``top``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = ["", *(f"_{place}" for place in range(2, top + 1))]
    writer.writerow(["row", *(f"{name}{end}" for end in ends for name in ("label", "score", "group"))])
    for row, best in enumerate(predictions.best(top).tolist()):
        writer.writerow([row, *(cell for number in best for cell in _cells(predictions, row, number))])
    return text.getvalue()


def predictions_plain(model: Model, predictions: Predictions, top: int) -> dict[str, Any]:
    """The same as plain values."""
    document = model.document
    rows = [
        {
            "row": row,
            "best": [
                dict(zip(("label", "score", "group"), _cells(predictions, row, number), strict=True))
                for number in numbers
            ],
        }
        for row, numbers in enumerate(predictions.best(top).tolist())
    ]
    return {
        "model": str(model.path),
        "backbone": document.backbone,
        "head": document.head,
        "dataset": document.dataset.name,
        "seen_classes": list(predictions.classes[: predictions.n_seen]),
        "unseen_classes": list(predictions.classes[predictions.n_seen :]),
        "rows": rows,
    }


def write_scores(path: Path, predictions: Predictions) -> None:
    """Write all scores (n, N) as ``.npy``, whole or not at all."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.save(file, predictions.scores, allow_pickle=False)

    write_atomically(path, write)


def check_top(top: int, model: Model) -> None:
    """Refuse more best classes than there are.

    Raises:
        UsageError: it is more.
    """
    n_classes = len(model.document.classes)
    if not 1 <= top <= n_classes:
        raise UsageError(f"--top {top}: the model has {n_classes} classes")


def _cells(predictions: Predictions, row: int, number: int) -> tuple[str, float, str]:
    return predictions.classes[number], float(predictions.scores[row, number]), predictions.group(number)

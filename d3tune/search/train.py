"""Retraining a configuration file: select on validation where the file does not say, then test once a seed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from d3tune.config import first_fault, validated
from d3tune.data.dataset import GZSLDataset
from d3tune.data.registry import find_dataset, prepared_path
from d3tune.errors import UsageError, nearest
from d3tune.files import writable_directory
from d3tune.method.generators import load_backbone
from d3tune.search.confirm import (
    FORMAT,
    Selection,
    TestResult,
    configuration_document,
    confirmation_seeds,
    evaluate,
    select,
)
from d3tune.search.confirmed_model import ModelRequest
from d3tune.search.executor import Executor, StopSignal
from d3tune.search.jobs import TrainingJob
from d3tune.words import TEST_SELECTED, plural
from d3tune.yamlfile import read_yaml

KEYS = {"format", "d3tune", "dataset", "backbone", "config", "selection", "test", "source"}


@dataclass(frozen=True)
class Configuration:
    """What a configuration file says, on the dataset that was found for it.

    Attributes:
        job: to train, with seed 0.
        selection: what validation fixed before, None where the file does not say.
        dataset: the dataset.
        source: where the file comes from.
    """

    job: TrainingJob
    selection: Selection | None
    dataset: GZSLDataset
    source: dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """A retrained configuration.

    Attributes:
        document: as best.yaml holds it.
        selection: what validation fixed.
        test: the test result.
    """

    document: dict[str, Any]
    selection: Selection
    test: TestResult


def train(
    path: Path,
    n_seeds: int,
    data_dir: Path | None,
    executor: Executor,
    stop: StopSignal,
    say: Callable[[str], None],
    model: Path | None = None,
) -> Trained:
    """Retrain a configuration file.

    Args:
        path: a file of `d3tune export`, or one with ``dataset``, ``backbone`` and ``config`` alone.
        n_seeds: how many seeds; those of the file's selection come first.
        data_dir: where datasets are looked for.
        executor: where to train.
        stop: ends between seeds.
        say: takes one line an event.
        model: a new folder for the model of the first seed; None keeps none.

    Raises:
        UsageError: the file is wrong, its dataset is missing or has another content, or there can be no such folder.
    """
    if n_seeds < 1:
        raise UsageError(f"--seeds {n_seeds}: must be at least 1")
    found = read_configuration(path, data_dir)
    job, selection, dataset = found.job, found.selection, found.dataset
    if model is not None:
        _refuse_folder(model, selection, path)
    if selection is None:
        say(f"no selection in {path}: fixing updates, head and offset on validation")
        selection = select(job, confirmation_seeds(0, n_seeds), executor, stop)
    job = replace(
        job,
        threads=selection.threads,
        compile=selection.compile,
        objective=selection.objective,
        splits=selection.splits,
        protocol=selection.protocol,
    )
    if job.device != selection.device:
        say(f"{path} was made on {selection.device}; on {job.device} the last digits may differ")
    first, last = selection.seeds[0], selection.seeds[-1]
    seeds = [*selection.seeds, *range(last + 1, last + 1 + n_seeds)][:n_seeds]
    budget = f"for {selection.updates} updates" if selection.protocol == "validation" else "for the full budget"
    say(f"training on trainval {budget}, {plural(len(seeds), 'seed')} from {first}")
    kept = None if model is None else ModelRequest(model.absolute(), {"file": path.name, **found.source})
    result = evaluate(job, selection, seeds, executor, stop, model=kept)
    if model is not None:
        say(f"wrote {model}" if model.exists() else f"head '{selection.head}' cannot be saved: there is no model")
    identity = {
        "name": dataset.name,
        "content_hash": dataset.content_hash,
        "semantics": dataset.semantics_id,
        "features": dataset.feature_tag,
    }
    return Trained(configuration_document(job, identity, selection, result, found.source), selection, result)


def _refuse_folder(folder: Path, selection: Selection | None, path: Path) -> None:
    """Refuse a folder that is in use, before anything is trained.

    Raises:
        UsageError: it is, or the configuration is one that the test sets chose.
    """
    if selection is not None and selection.protocol == "published":
        raise UsageError(f"{path}: is {TEST_SELECTED}: nothing was fixed before the test, so there is no model to keep")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--model {folder}: is there already; give a new folder")
    writable_directory(folder.absolute().parent, "give another --model")


def read_configuration(path: Path, data_dir: Path | None) -> Configuration:
    """Read a configuration file and find its dataset.

    Args:
        path: a file of `d3tune export`, or one with ``dataset``, ``backbone`` and ``config`` alone.
        data_dir: where datasets are looked for.

    Raises:
        UsageError: the file is wrong, or its dataset is missing or has another content.
    """
    document = _read(path)
    dataset = _dataset(document, data_dir, path)
    job = _job(document, dataset, path)
    source = document.get("source") or {"file": path.name}
    return Configuration(job, _selection(document, job, path), dataset, source)


def _read(path: Path) -> dict[str, Any]:
    document = read_yaml(path)
    unknown = sorted(set(document) - KEYS)
    if unknown:
        raise UsageError(f"{path}: unknown key '{unknown[0]}'; known: {', '.join(sorted(KEYS))}")
    for key in ("dataset", "backbone", "config"):
        if key not in document:
            raise UsageError(f"{path}: '{key}' is missing")
    if document.get("format", FORMAT) != FORMAT:
        raise UsageError(f"{path}: format {document['format']!r} is not known to this version (format {FORMAT})")
    if not isinstance(document["config"], dict):
        raise UsageError(f"{path}: config: must be a mapping of hyper-parameters")
    if not isinstance(document.get("source") or {}, dict):
        raise UsageError(f"{path}: source: must be a mapping")
    return document


def _dataset(document: dict[str, Any], data_dir: Path | None, path: Path) -> GZSLDataset:
    wanted = document["dataset"]
    wanted = {"name": wanted} if isinstance(wanted, str) else wanted
    if not isinstance(wanted, dict) or not isinstance(wanted.get("name"), str):
        raise UsageError(f"{path}: dataset: needs a name")
    if not isinstance(wanted.get("semantics"), str | None):
        raise UsageError(f"{path}: dataset.semantics: must be a word, e.g. att312")
    dataset = find_dataset(wanted["name"], data_dir, wanted.get("semantics"))
    held = wanted.get("content_hash")
    if held is not None and held != dataset.content_hash:
        raise UsageError(
            f"{path}: made for a '{dataset.name}' of content {str(held)[:12]}, but the one found has "
            f"{dataset.content_hash[:12]}: other features, splits or semantics"
        )
    return dataset


def _job(document: dict[str, Any], dataset: GZSLDataset, path: Path) -> TrainingJob:
    backbone = str(document["backbone"])
    config = validated(load_backbone(backbone).config, document["config"], f"{path}: config")
    return TrainingJob(
        backbone=backbone,
        config=config.model_dump(mode="json"),
        dataset=str(prepared_path(dataset)),
        dataset_hash=dataset.content_hash,
        seed=0,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )


def _selection(document: dict[str, Any], job: TrainingJob, path: Path) -> Selection | None:
    if document.get("selection") is None:
        return None
    try:
        selection = Selection.model_validate(document["selection"])
    except ValidationError as error:
        raise UsageError(f"{path}: selection.{first_fault(error)}") from None
    offered = load_backbone(job.backbone).config.model_validate(job.config).offered_heads
    if selection.head not in offered:
        raise UsageError(f"{path}: selection.head: '{selection.head}' is not trained{nearest(selection.head, offered)}")
    return selection

"""A configuration that is to be trained: from a file, or from what a run holds."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from d3tune.config import Objective, SelectionProtocol, first_fault, validated
from d3tune.data.dataset import GZSLDataset
from d3tune.data.prepared import open_prepared
from d3tune.data.registry import find_dataset, prepared_path
from d3tune.documents import read_document
from d3tune.errors import UsageError, nearest
from d3tune.method.generators import load_backbone
from d3tune.search.confirm import FORMAT, Selection, confirmation_seeds
from d3tune.search.jobs import TrainingJob

KEYS = {"format", "d3tune", "dataset", "backbone", "config", "selection", "test", "source"}
# under ``source``: what a selection that is yet to be made takes from the search
SEARCH_KEY = "search"


class Searched(BaseModel):
    """How the search of a trial chose, for a trial that was not confirmed: its selection shall be made like that."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: SelectionProtocol = "validation"
    objective: Objective = "H"
    splits: tuple[int, ...] = Field((0,), min_length=1)
    seed: int = Field(0, ge=0, lt=2**31)
    threads: int = Field(1, ge=1, le=4096)
    compile: bool = False


@dataclass(frozen=True)
class Configuration:
    """What a configuration says, on the dataset that was found for it.

    Attributes:
        job: to train, with seed 0.
        selection: what was fixed before, None where the configuration does not say.
        dataset: the dataset.
        source: where it comes from.
        first_seed: of its confirmation; those before it may be of its search.
    """

    job: TrainingJob
    selection: Selection | None
    dataset: GZSLDataset
    source: dict[str, Any]
    first_seed: int = 1

    def seeds(self, count: int) -> list[int]:
        """Seeds of a confirmation: those of the selection first, then those that follow."""
        if self.selection is None:
            return confirmation_seeds(self.first_seed - 1, count)
        confirmed = self.selection.seeds
        last = max(confirmed)
        return [*confirmed, *range(last + 1, last + 1 + count)][:count]

    @property
    def test_selected(self) -> bool:
        """Whether the test sets chose the hyper-parameters: no result of these is free of that again."""
        return self.job.protocol == "published"

    @property
    def identity(self) -> dict[str, str]:
        """What best.yaml says of the dataset."""
        return {
            "name": self.dataset.name,
            "content_hash": self.dataset.content_hash,
            "semantics": self.dataset.semantics_id,
            "features": self.dataset.feature_tag,
        }


def read_configuration(path: Path, data_dir: Path | None) -> Configuration:
    """Read a configuration file and find its dataset.

    Args:
        path: a file of `d3tune export`, or one with ``dataset``, ``backbone`` and ``config`` alone; YAML, or JSON where
            its name ends in ``.json``.
        data_dir: where datasets are looked for.

    Raises:
        UsageError: the file is wrong, or its dataset is missing or has another content.
    """
    return configuration_of(read_document(path), str(path), data_dir, {"file": path.name})


def configuration_of(
    document: Mapping[str, Any],
    where: str,
    data_dir: Path | None,
    source: Mapping[str, Any] | None = None,
    prepared: Path | None = None,
) -> Configuration:
    """Check a configuration and find its dataset.

    Args:
        document: what the file of `read_configuration` holds.
        where: what to name in an error.
        data_dir: where datasets are looked for.
        source: where the document itself does not say.
        prepared: the dataset, where a run has it; it is not looked for then.

    Raises:
        UsageError: see `read_configuration`.
    """
    check_keys(document, where)
    dataset = _dataset(document, data_dir, where, prepared)
    job = _job(document, dataset, where)
    selection = _selection(document, job, where)
    # as any file gives it back: keys are text there
    origin = json.loads(json.dumps(dict(document.get("source") or source or {}), allow_nan=False))
    if selection is not None:
        return Configuration(_as_selected(job, selection), selection, dataset, origin, selection.seeds[0])
    searched = _searched(origin, where)
    return Configuration(_as_selected(job, searched), None, dataset, origin, searched.seed + 1)


def check_keys(document: Mapping[str, Any], where: str) -> None:
    """Refuse a document that is no configuration by its keys and the kinds of their values.

    Raises:
        UsageError: one line that names the first key that is wrong.
    """
    unknown = sorted(set(document) - KEYS)
    if unknown:
        raise UsageError(f"{where}: unknown key '{unknown[0]}'{nearest(unknown[0], sorted(KEYS))}")
    for key in ("dataset", "backbone", "config"):
        if key not in document:
            raise UsageError(f"{where}: '{key}' is missing; a configuration has dataset, backbone and config")
    if document.get("format", FORMAT) != FORMAT:
        raise UsageError(f"{where}: format {document['format']!r} is not known to this version (format {FORMAT})")
    if not isinstance(document["config"], dict):
        raise UsageError(f"{where}: config: must be a mapping of hyper-parameters")
    source = document.get("source") or {}
    if not isinstance(source, dict):
        raise UsageError(f"{where}: source: must be a mapping")
    try:
        json.dumps(source, allow_nan=False)
    except ValueError:
        raise UsageError(f"{where}: source: a number in it is NaN or infinite") from None
    except TypeError as error:
        raise UsageError(f"{where}: source: must hold plain values alone ({error})") from None


def _dataset(document: Mapping[str, Any], data_dir: Path | None, where: str, prepared: Path | None) -> GZSLDataset:
    wanted = document["dataset"]
    wanted = {"name": wanted} if isinstance(wanted, str) else wanted
    if not isinstance(wanted, dict) or not isinstance(wanted.get("name"), str):
        raise UsageError(f"{where}: dataset: needs a name")
    if not isinstance(wanted.get("semantics"), str | None):
        raise UsageError(f"{where}: dataset.semantics: must be a word, e.g. att312")
    if prepared is None:
        dataset = find_dataset(wanted["name"], data_dir, wanted.get("semantics"))
    else:
        dataset = open_prepared(prepared)
    held = wanted.get("content_hash")
    if held is not None and held != dataset.content_hash:
        raise UsageError(
            f"{where}: made for a '{dataset.name}' of content {str(held)[:12]}, but the one found has "
            f"{dataset.content_hash[:12]}: other features, splits or semantics; give the folder of its own with "
            "--data-dir"
        )
    return dataset


def _job(document: Mapping[str, Any], dataset: GZSLDataset, where: str) -> TrainingJob:
    backbone = str(document["backbone"])
    config = validated(load_backbone(backbone).config, document["config"], f"{where}: config")
    return TrainingJob(
        backbone=backbone,
        config=config.model_dump(mode="json"),
        dataset=str(prepared_path(dataset)),
        dataset_hash=dataset.content_hash,
        seed=0,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )


def _selection(document: Mapping[str, Any], job: TrainingJob, where: str) -> Selection | None:
    if document.get("selection") is None:
        return None
    try:
        selection = Selection.model_validate(document["selection"])
    except ValidationError as error:
        raise UsageError(f"{where}: selection.{first_fault(error)}") from None
    offered = load_backbone(job.backbone).config.model_validate(job.config).offered_heads
    if selection.head not in offered:
        raise UsageError(
            f"{where}: selection.head: '{selection.head}' is not trained{nearest(selection.head, offered)}"
        )
    return selection


def _searched(source: Mapping[str, Any], where: str) -> Searched:
    given = source.get(SEARCH_KEY)
    if given is not None and not isinstance(given, dict):
        raise UsageError(f"{where}: source.{SEARCH_KEY}: must be a mapping")
    return validated(Searched, given or {}, f"{where}: source.{SEARCH_KEY}")


def _as_selected(job: TrainingJob, by: Selection | Searched) -> TrainingJob:
    return replace(
        job,
        threads=by.threads,
        compile=by.compile,
        objective=by.objective,
        splits=by.splits,
        protocol=by.protocol,
    )

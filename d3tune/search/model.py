"""A confirmed model on disk: ``model.safetensors`` and ``model.json``, from which features are scored again."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from d3tune.errors import RunError, UsageError
from d3tune.files import parse_json, write_folder, write_json
from d3tune.method.predictor import Predictor, from_plain

FORMAT = 1
WEIGHTS, DOCUMENT = "model.safetensors", "model.json"
# names of the tensors that are no part of the head
SHIFT, DIVISOR, MEAN = "features.shift", "features.divisor", "semantics.mean"
GENERATOR = "generator."
DAMAGES = (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError, RecursionError, SafetensorError)


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Features(_Plain):
    """What the features are that a model takes."""

    width: int = Field(ge=1)
    tag: str
    scaling: str


class Semantics(_Plain):
    """What its classes are described by."""

    id: str
    width: int = Field(ge=1)
    centred: bool
    scale: float = Field(gt=0, allow_inf_nan=False)


class DatasetName(_Plain):
    """What it was trained on."""

    name: str
    content_hash: str


class ModelDocument(_Plain):
    """The content of model.json.

    Attributes:
        format: of the folder.
        d3tune: version that wrote it.
        torch: version that trained it.
        key: names exactly what was trained and tested.
        backbone: its name.
        config: all hyper-parameters.
        configuration: their id.
        head: which one scores.
        updates: that it was trained for.
        seed: of the training.
        threads: torch threads of the test; scores are equal to the last bit with the same number.
        seen_offset: δ, in ``offset_unit``, subtracted from the scores of seen classes.
        offset_unit: see `TrialConfig`.
        seen_classes: their names, in the order of the scores.
        unseen_classes: the names that follow.
        features: what is scored.
        semantics: what describes a class.
        dataset: what it was trained on.
        test: what this model reached on the test sets.
        source: where the configuration comes from.
        score: the head as plain values, see `d3tune.method.predictor`.
    """

    format: Literal[1] = 1
    d3tune: str
    torch: str
    key: str
    backbone: str
    config: dict[str, Any]
    configuration: str
    head: str
    updates: int = Field(ge=1)
    seed: int
    threads: int = Field(ge=1, le=4096)
    seen_offset: float = Field(allow_inf_nan=False)
    offset_unit: Literal["score", "margin_sd"]
    seen_classes: tuple[str, ...] = Field(min_length=1)
    unseen_classes: tuple[str, ...] = Field(min_length=1)
    features: Features
    semantics: Semantics
    dataset: DatasetName
    test: dict[str, float]
    source: dict[str, Any]
    score: dict[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of the scores."""
        return (*self.seen_classes, *self.unseen_classes)


@dataclass(frozen=True, eq=False)
class Model:
    """A model that was read.

    Attributes:
        path: its folder.
        document: what it says of itself.
        predictor: what scores.
        generator: the tensors of its generator, by name; empty where its head needs none for further classes.
    """

    path: Path
    document: ModelDocument
    predictor: Predictor
    generator: dict[str, Tensor]


def save_model(folder: Path, document: ModelDocument, tensors: Mapping[str, Tensor]) -> None:
    """Write a model's folder, whole or not at all; an earlier one there is replaced.

    Raises:
        OSError, SafetensorError: it cannot be written.
    """

    def write(temporary: Path) -> None:
        # copies: no two may share memory
        save_file(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, temporary / WEIGHTS
        )
        plain = document.model_dump(mode="json")
        write_json(temporary / DOCUMENT, {**plain, "sha256": _digests(temporary, plain)})

    write_folder(folder, write)


def load_model(folder: Path) -> Model:
    """Read a model's folder.

    Raises:
        UsageError: there is none.
        RunError: it is damaged, or of another version.
    """
    if not (folder / DOCUMENT).is_file():
        raise UsageError(f"{folder}: is no model: it has no {DOCUMENT}")
    try:
        document = _read_document(folder)
        # each where memory of its own would be: products may differ in the last bit otherwise
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
        predictor = _predictor(document, tensors)
        _refuse_misfit(document, predictor)
    except OSError as error:
        raise RunError(f"{folder}: cannot be read: {error.strerror or error}") from None
    except DAMAGES as error:
        reason = " ".join(str(error).split())[:160]
        raise RunError(
            f"{folder}: a damaged model ({reason}); make it again: d3tune train CONFIG --model DIR"
        ) from None
    generator = {name.removeprefix(GENERATOR): tensors[name] for name in tensors if name.startswith(GENERATOR)}
    return Model(folder, document, predictor, generator)


def kept_key(folder: Path) -> str | None:
    """The key of the model in a folder; None where there is none, or a damaged one."""
    try:
        return _read_document(folder).key
    except (OSError, *DAMAGES):
        return None


def _read_document(folder: Path) -> ModelDocument:
    """What a folder says of itself, where its files are those that were written."""
    content = parse_json((folder / DOCUMENT).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{DOCUMENT} is no mapping")
    if content.get("format") != FORMAT:
        raise ValueError(f"format {content.get('format')!r}, this version reads {FORMAT}")
    held = content.pop("sha256", None)
    if held != _digests(folder, content):
        raise ValueError(f"{DOCUMENT} or {WEIGHTS} has changed since it was written")
    return ModelDocument.model_validate(content)


def _digests(folder: Path, plain: Mapping[str, Any]) -> dict[str, str]:
    with (folder / WEIGHTS).open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    return {"weights": weights, "document": hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()}


def _predictor(document: ModelDocument, tensors: Mapping[str, Tensor]) -> Predictor:
    return Predictor(
        score=from_plain(document.score, tensors),
        shift=tensors[SHIFT],
        divisor=tensors[DIVISOR],
        n_seen=len(document.seen_classes),
        seen_offset=document.seen_offset,
        semantics_mean=tensors[MEAN],
        semantics_scale=document.semantics.scale,
    )


def _refuse_misfit(document: ModelDocument, predictor: Predictor) -> None:
    """Refuse tensors that do not fit together, by scoring two rows.

    Raises:
        ValueError, RuntimeError: they do not.
    """
    width, semantics = document.features.width, document.semantics.width
    shapes = [predictor.shift.shape, predictor.divisor.shape, predictor.semantics_mean.shape]
    if shapes != [(width,), (width,), (semantics,)]:
        raise ValueError("its scaling is of another width than its features")
    found = predictor.scores(torch.zeros(2, width)).shape
    if found != (2, len(document.classes)):
        raise ValueError(f"its scores are of {found[-1]} classes, its names of {len(document.classes)}")

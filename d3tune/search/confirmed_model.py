"""From a training that was tested to its model on disk."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor

from d3tune import __version__
from d3tune.data.prepared import open_prepared
from d3tune.data.scaling import Scaler
from d3tune.data.tensors import semantics_scaler
from d3tune.errors import RunError
from d3tune.files import parse_json, write_folder, write_json
from d3tune.method.parts import NotExtendableError, Part
from d3tune.method.predictor import NotSavableError, to_plain
from d3tune.method.sampler import sampler_state
from d3tune.method.trainer import Trainer
from d3tune.method.training import Training
from d3tune.search.jobs import TrainingJob
from d3tune.search.model import (
    DIVISOR,
    GENERATOR,
    MEAN,
    SHIFT,
    DatasetName,
    Features,
    ModelDocument,
    Semantics,
    kept_key,
    save_model,
)
from d3tune.search.summaries import configuration_id

REFUSED = "no-model.json"


@dataclass(frozen=True)
class ModelRequest:
    """What shall become of the model of a test training.

    Attributes:
        folder: where it is kept.
        source: where its configuration comes from.
        key: names what is trained and tested.
        place: where it may have been moved to; with one, a model that cannot be saved is noted beside ``folder``.
    """

    folder: Path
    source: Mapping[str, Any]
    key: str = ""
    place: Path | None = field(default=None)

    @property
    def settled(self) -> bool:
        """Whether this very model is there, or is known to be none that can be saved."""
        places = [self.folder] if self.place is None else [self.folder, self.place]
        return self.key in [kept_key(place) for place in places] or self.refused

    @property
    def refused(self) -> bool:
        """Whether this very model is known to be none that can be saved."""
        try:
            held = parse_json((self.folder.parent / REFUSED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(held, dict) and held.get("key") == self.key


def publish(request: ModelRequest) -> None:
    """Move a kept model to its place, once all that it is of is confirmed; there it takes that of an earlier winner's.

    Raises:
        RunError: it cannot be moved.
    """
    place = request.place
    if place is None or kept_key(place) == request.key:
        return
    try:
        if kept_key(request.folder) == request.key:
            write_folder(place, lambda temporary: _link_files(request.folder, temporary))
            shutil.rmtree(request.folder, ignore_errors=True)
        elif place.exists():
            shutil.rmtree(place)
    except OSError as error:
        raise RunError(f"{place}: cannot be written: {error.strerror}; mend that, then resume") from None


def _link_files(source: Path, target: Path) -> None:
    for file in source.iterdir():
        try:
            os.link(file, target / file.name)
        except OSError:
            # not every file system has links
            shutil.copyfile(file, target / file.name)


def keep_model(
    request: ModelRequest,
    job: TrainingJob,
    training: Trainer,
    head: str,
    score: Part | None,
    seen_offset: float,
    test: Mapping[str, float],
) -> None:
    """Save a training as it was tested, or a note that its backbone offers nothing that can be saved.

    Args:
        request: where, and what for.
        job: what was trained.
        training: at the end.
        head: that was tested.
        score: what it scored by; None where that is no part.
        seen_offset: δ of the test.
        test: what it reached.

    Raises:
        RunError: it cannot be written.
    """
    try:
        spec, tensors = to_plain(cast(Part, score))
    except NotSavableError:
        refuse(request)
        return
    dataset = open_prepared(Path(job.dataset))
    config, data = training.config, training.tensors
    names = [dataset.class_names[number] for number in data.class_ids.tolist()]
    semantics = semantics_scaler(dataset.view("test"), center=config.center_semantics, scale=config.semantics_scale)
    document = ModelDocument(
        d3tune=__version__,
        torch=torch.__version__,
        key=request.key,
        backbone=job.backbone,
        config=job.config,
        configuration=configuration_id(job.backbone, job.config),
        head=head,
        updates=training.update,
        seed=job.seed,
        threads=job.threads,
        seen_offset=seen_offset,
        offset_unit=config.offset_unit,
        seen_classes=tuple(names[: data.n_seen]),
        unseen_classes=tuple(names[data.n_seen :]),
        features=Features(width=data.n_features, tag=dataset.feature_tag, scaling=config.feature_scaling),
        semantics=Semantics(
            id=dataset.semantics_id,
            width=dataset.n_semantics,
            centred=config.center_semantics,
            scale=config.semantics_scale,
        ),
        dataset=DatasetName(name=dataset.name, content_hash=dataset.content_hash),
        test=dict(test),
        source=dict(request.source),
        score=spec,
    )
    scaling = {**_scaling(data.scaler), MEAN: torch.from_numpy(semantics.mean)}
    write_model(request, document, {**tensors, **scaling, **_generator(score, training)})


def refuse(request: ModelRequest) -> None:
    """Note that this very model is none that can be saved."""
    if request.place is not None:
        request.folder.parent.mkdir(parents=True, exist_ok=True)
        write_json(request.folder.parent / REFUSED, {"key": request.key})


def write_model(request: ModelRequest, document: ModelDocument, tensors: Mapping[str, Tensor]) -> None:
    """Save a model where it was asked for.

    Raises:
        RunError: it cannot be written.
    """
    try:
        save_model(request.folder, document, tensors)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RunError(f"{request.folder}: cannot be written: {reason}; mend that, then resume") from None


def _generator(score: Part | None, training: Trainer) -> dict[str, Tensor]:
    """The generator's tensors, where the head would take the means of further classes from one."""
    if not isinstance(training, Training) or score is None:
        return {}
    try:
        score.extended(training.tensors.semantics[:1])
    except NotExtendableError:
        pass
    else:
        return {}
    try:
        score.extended(training.tensors.semantics[:1], lambda semantics: training.tensors.train_x[:1])
    except NotExtendableError:
        return {}
    return {f"{GENERATOR}{name}": tensor for name, tensor in sampler_state(training.backbone).items()}


def _scaling(scaler: Scaler) -> dict[str, Tensor]:
    return {SHIFT: torch.from_numpy(scaler.shift), DIVISOR: torch.from_numpy(scaler.divisor)}

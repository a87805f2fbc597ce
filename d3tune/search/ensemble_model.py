"""From the members of an ensemble, as they were tested, to one model on disk, which scores as any other does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from d3tune import __version__
from d3tune.data.prepared import open_prepared
from d3tune.method.mixture import Weighted, standardised_part
from d3tune.method.parts import Map
from d3tune.method.parts import Part as ScorePart
from d3tune.method.predictor import NotSavableError, to_plain
from d3tune.method.trainer import Trainer
from d3tune.search.confirmed_model import ModelRequest, refuse, write_model
from d3tune.search.model import DIVISOR, MEAN, SHIFT, DatasetName, Features, ModelDocument, Semantics
from d3tune.search.summaries import configuration_id

ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class Kept:
    """A member after its training.

    Attributes:
        score: from scaled features to class scores.
        training_scores: (n, N) of the rows that it was fitted on.
        shift: (X,) of its feature scaling.
        divisor: (X,) of its feature scaling.
        class_ids: of the classes in the order of the scores.
        n_seen: N_s.
    """

    score: Map
    training_scores: Tensor
    shift: Tensor
    divisor: Tensor
    class_ids: tuple[int, ...]
    n_seen: int


def kept_of(training: Trainer, score: Map, training_scores: Tensor) -> Kept:
    """What is kept of a member, whose training is not: one at a time is in memory."""
    data = training.tensors
    return Kept(
        score=score,
        training_scores=training_scores.cpu(),
        shift=torch.from_numpy(data.scaler.shift),
        divisor=torch.from_numpy(data.scaler.divisor),
        class_ids=tuple(data.class_ids.tolist()),
        n_seen=data.n_seen,
    )


def keep_mixture(
    request: ModelRequest,
    parts: Sequence[Mapping[str, Any]],
    members: Sequence[Kept],
    seen_offset: float,
    test: Mapping[str, float],
) -> None:
    """Save a mixture as it was tested, or a note that a member's backbone offers nothing that can be saved.

    Args:
        request: where, and what for.
        parts: the members as they were trained, see `d3tune.search.ensemble_scoring.mix_on_test`.
        members: after their trainings.
        seen_offset: δ of the test.
        test: what the mixture reached.

    Raises:
        RunError: it cannot be written.
    """
    units = [
        standardised_part(cast(ScorePart, item.score), item.shift, item.divisor, item.training_scores)
        for item in members
    ]
    try:
        spec, tensors = to_plain(Weighted(tuple(units), tuple(float(part["weight"]) for part in parts)))
    except NotSavableError:
        refuse(request)
        return
    jobs = [part["job"] for part in parts]
    dataset, first = open_prepared(Path(jobs[0]["dataset"])), members[0]
    names = [dataset.class_names[number] for number in first.class_ids]
    width, n_semantics = len(first.shift), dataset.n_semantics
    config = {"members": [_shown(part) for part in parts]}
    document = ModelDocument(
        d3tune=__version__,
        torch=torch.__version__,
        key=request.key,
        backbone=ENSEMBLE,
        config=config,
        configuration=configuration_id(ENSEMBLE, config),
        head=ENSEMBLE,
        updates=max(part["updates"] for part in parts),
        seed=jobs[0]["seed"],
        threads=max(job["threads"] for job in jobs),
        seen_offset=seen_offset,
        offset_unit="score",
        seen_classes=tuple(names[: first.n_seen]),
        unseen_classes=tuple(names[first.n_seen :]),
        # each member scales them as it was trained, and describes classes likewise
        features=Features(width=width, tag=dataset.feature_tag, scaling="none"),
        semantics=Semantics(id=dataset.semantics_id, width=n_semantics, centred=False, scale=1.0),
        dataset=DatasetName(name=dataset.name, content_hash=dataset.content_hash),
        test=dict(test),
        source=dict(request.source),
        score=spec,
    )
    untouched = {SHIFT: torch.zeros(width), DIVISOR: torch.ones(width)}
    write_model(request, document, {**tensors, **untouched, MEAN: torch.zeros(n_semantics, dtype=torch.float64)})


def _shown(part: Mapping[str, Any]) -> dict[str, Any]:
    job = part["job"]
    rest = {name: part[name] for name in ("head", "updates", "weight")}
    return {"backbone": job["backbone"], "config": job["config"], **rest}

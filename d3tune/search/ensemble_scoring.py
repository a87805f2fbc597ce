"""What workers do for an ensemble: score validation rows by one member; train, mix and read all members of a seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from d3tune.data.dataset import Protocol
from d3tune.errors import RunError
from d3tune.method.ensembling import mixed, standardised
from d3tune.method.memory import give_back, out_of_gpu_memory
from d3tune.method.metrics import Scores, accuracies
from d3tune.method.readings import Readings
from d3tune.method.trainer import Trainer
from d3tune.search.checkpoint import load_weights
from d3tune.search.confirmed_model import ModelRequest
from d3tune.search.ensemble_model import Kept, keep_mixture, kept_of
from d3tune.search.jobs import TrainingJob
from d3tune.search.trial import load_trainings

# trainings of one member, as plain values: job, updates, head, weight
Part = Mapping[str, Any]
VALIDATED = ("H", "U", "S", "T1", "AUSUC", "seen_offset")


def validation_scores(job: TrainingJob, update: int, head: str, directory: str) -> list[Scores]:
    """A trial's standardised scores of the validation rows, one a split; no other rows are read.

    Args:
        job: of the trial, with its own seed.
        update: of its best evaluation.
        head: of the same.
        directory: of the trial: weights that were kept at that update are used, or else it is trained again.

    Raises:
        RunError: the backbone does not hand out its scores.
    """
    trainings = _kept(job, update, Path(directory))
    if trainings is None:
        trainings = job.trainings("validation")
        for training in trainings:
            training.advance(update)
    found = [_read(training, head) for training in trainings]
    give_back()
    return found


def mix_on_validation(parts: Sequence[Part]) -> dict[str, float]:
    """Train all members on the validation protocol and read their mixture, with the best offset on these rows.

    Returns:
        ``H``, ``U``, ``S``, ``T1``, ``AUSUC`` and ``seen_offset``, means over splits.
    """
    read = [vars(accuracies(scores)) for scores in _mixture(parts, "validation")]
    return {name: fmean(row[name] for row in read) for name in VALIDATED}


def mix_on_test(parts: Sequence[Part], seen_offset: float, model: ModelRequest | None = None) -> dict[str, float]:
    """Train all members on all of trainval and read their mixture on the test sets once.

    Args:
        parts: the members.
        seen_offset: δ, fixed by validation, in units of the standardised scores.
        model: where the mixture is kept as a model; None keeps none.
    """
    kept = None if model is None else list[Kept]()
    (scores,) = _mixture(parts, "test", kept)
    found = dict(vars(accuracies(scores, seen_offset)))
    if model is not None and kept is not None:
        keep_mixture(model, parts, kept, seen_offset, found)
    return found


def _mixture(parts: Sequence[Part], protocol: Protocol, kept: list[Kept] | None = None) -> list[Scores]:
    """The weighted mean of the members' standardised scores, one a split; one member at a time is in memory.

    Args:
        parts: the members.
        protocol: that they are trained on.
        kept: takes what each scores by, where that is kept.
    """
    total: list[Scores] | None = None
    for part in parts:
        trainings = TrainingJob.from_dict(part["job"]).trainings(protocol)
        give_back()
        for training in trainings:
            training.advance(part["updates"])
        read = [_read(training, part["head"], kept) for training in trainings]
        total = [
            mixed([scores], [part["weight"]]) if total is None else mixed([total[index], scores], [1.0, part["weight"]])
            for index, scores in enumerate(read)
        ]
        give_back()
    assert total is not None, "no member"
    return total


def _kept(job: TrainingJob, update: int, directory: Path) -> list[Trainer] | None:
    """The trial's models from its kept weights, or None where there are none of that update that fit."""
    weights = load_weights(directory)
    if weights is None or weights.update != update:
        return None
    trainings = job.trainings("validation")
    try:
        load_trainings(trainings, weights.tensors)
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        # of another device or version
        if out_of_gpu_memory(error):
            raise
        return None
    return trainings


def _read(training: Trainer, head: str, kept: list[Kept] | None = None) -> Scores:
    """Standardised scores of the evaluation rows, on the CPU; the offset of 0 calibrates on none of them."""
    training.readings = Readings()
    training.evaluate([head], seen_offset=0.0)
    scores = training.readings.scores.get(head)
    if scores is None or scores.score is None:
        raise RunError(f"head '{head}' does not hand out its scores; leave the runs of its backbone out")
    with torch.no_grad():
        of_training = scores.score(training.tensors.train_x)
        found = standardised(scores, of_training)
    if kept is not None:
        kept.append(kept_of(training, scores.score, of_training))
    training.readings = None
    return Scores(found.seen.cpu(), found.seen_y.cpu(), found.unseen.cpu(), found.unseen_y.cpu(), found.n_seen)

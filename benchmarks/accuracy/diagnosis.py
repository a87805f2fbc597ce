"""Where the D³ terms gain or lose: one training of a winner on the validation protocol, looked into.

No test row takes part: the seen rows that are held out and the pseudo-unseen classes are validation's.
"""

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.accuracy.spaces import WEIGHTS
from benchmarks.accuracy.variants import Given, winner_of
from d3tune.method.generators.base import Batch
from d3tune.method.randomness import stream
from d3tune.method.student import Synthetic
from d3tune.method.training import Training
from d3tune.search.jobs import TrainingJob
from d3tune.search.trial import curve

# the terms whose gradient reaches the generator
REACHING = {"L_cls": "cls_weight", "L_od": "ood_weight"}
BATCHES = 5


def answer(given: Given) -> dict[str, Any]:
    """Teacher, pairs, gradients at the generator, and drift of synthetic class means."""
    job = winner_of(given.only_cell()).job
    training, probe = (cast(Training, job.selecting_trainings()[0]) for _ in range(2))
    gradients = []
    for update in training.config.evaluation_updates:
        training.advance(update)
        gradients.append({"update": update, **_gradients(training, probe)})
    evaluation = training.evaluate()
    return {
        "weights": {name: job.config[name] for name in (*WEIGHTS, "generator_d3_weight")},
        "teacher": {"seen_accuracy": _seen_accuracy(training), "AUROC": evaluation.diagnostics["AUROC"]},
        "pairs": _pairs(training),
        "gradients": gradients,
        "drift": drift(job),
    }


def drift(job: TrainingJob) -> list[dict[str, Any]]:
    """Error of synthetic class means by update, with the D³ gradient into the generator off, as it is, and whole."""
    own = float(job.config["generator_d3_weight"])
    found = []
    for weight in sorted({0.0, own, 1.0}):
        reports = curve(replace(job, config={**job.config, "generator_d3_weight": weight}))
        found.append(
            {
                "generator_d3_weight": weight,
                "updates": [report["update"] for report in reports],
                "drift": [report["metrics"]["val/drift"] for report in reports],
                "val_H": max(float(report["value"]) for report in reports),
            }
        )
    return found


def positive_share(labels: Tensor) -> float:
    """Which part of all pairs, i = j included, is of one class."""
    return float((labels[:, None] == labels[None, :]).double().mean())


def _seen_accuracy(training: Training) -> float:
    """The teacher's per-class accuracy on seen rows that no training saw, among seen classes."""
    data = training.tensors
    with torch.no_grad():
        right = (training.teacher(data.eval_seen_x)[1].argmax(dim=1) == data.eval_seen_y).double()
    counts = torch.bincount(data.eval_seen_y, minlength=data.n_seen).double()
    sums = torch.zeros_like(counts).index_add_(0, data.eval_seen_y, right)
    return float((sums / counts.clamp(min=1))[counts > 0].mean())


def _pairs(training: Training) -> dict[str, float]:
    rng = stream(training.seed, "diagnosis")
    batches = [_batch(training, rng) for _ in range(BATCHES)]
    unseen = _step_labels(training)
    return {
        "L_be": fmean(positive_share(batch.y) for batch in batches),
        "L_od": fmean(positive_share(torch.cat([batch.y, unseen])) for batch in batches),
        "rows_L_be": len(batches[0].y),
        "rows_L_od": len(batches[0].y) + len(unseen),
    }


def _gradients(training: Training, probe: Training) -> dict[str, float]:
    """Norms of the generator's gradient from its own loss and from each term at weight 1, mean over batches.

    Args:
        training: at some update; not changed.
        probe: a training of the same job, which takes its state.
    """
    probe.load_state_dict(training.state_dict())
    rng = stream(training.seed, "diagnosis", training.update)
    rows = [_norms(probe, _batch(probe, rng), rng) for _ in range(BATCHES)]
    return {name: fmean(row[name] for row in rows) for name in rows[0]}


def _norms(probe: Training, batch: Batch, rng: torch.Generator) -> dict[str, float]:
    backbone, labels = probe.backbone, _step_labels(probe)
    drawn, noise = backbone.draw(len(batch.y), rng), backbone.draw_noise(len(labels), rng)
    own, _, rows = backbone.loss_and_rows(batch, drawn, noise, labels)
    losses = {"L_gen": own}
    for name, weight in REACHING.items():
        probe.student.config = probe.config.model_copy(update=_alone(weight))
        losses[name] = probe.student.loss(batch, Synthetic(rows, labels), probe.teacher)[0]
    probe.student.config = probe.config
    return {name: _norm(loss, probe) for name, loss in losses.items()}


def _alone(weight: str) -> Mapping[str, float]:
    return {**dict.fromkeys(WEIGHTS, 0.0), weight: 1.0, "generator_d3_weight": 1.0}


def _norm(loss: Tensor, probe: Training) -> float:
    parameters = probe.backbone.generator_parameters()
    parts = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return float(torch.stack([part.square().sum() for part in parts if part is not None]).sum().sqrt())


def _batch(training: Training, rng: torch.Generator) -> Batch:
    data, teacher = training.tensors, training.teacher
    rows = torch.randperm(len(data.train_x), generator=rng)[: training.config.batch_size]
    x, y = data.train_x[rows], data.train_y[rows]
    a, anchor = data.semantics[y], training.backbone.anchor
    with torch.no_grad():
        z, v = teacher(x)
    return Batch(x, y, a, z, v, None if anchor is None else x - anchor(a), data.semantics)


def _step_labels(training: Training) -> Tensor:
    sizes = training.sizes
    return torch.arange(sizes.n_seen, sizes.n_classes).repeat_interleave(training.config.n_synthetic_step)

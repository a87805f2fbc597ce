"""How much one draw of validation classes is worth, and what averaging three of them gains.

``gaussian``, whose test takes no training, also says what the setting chosen by one draw or by three reaches on test;
``rezsl`` is trained at a few fixed configurations on validation alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean, median, stdev
from typing import Any

from benchmarks.accuracy.spaces import applicable, shipped
from benchmarks.accuracy.stored import stored
from benchmarks.accuracy.variants import Given, job_of
from d3tune.data.registry import find_dataset
from d3tune.data.tensors import Tensors, load_tensors
from d3tune.method.closed_form import evaluation_scores, fit_gaussian
from d3tune.method.generators import load_backbone
from d3tune.method.metrics import accuracies
from d3tune.search.jobs import TrainingJob
from d3tune.search.trial import curve

BACKBONES = ("gaussian", "rezsl")
TOGETHER = 3
GAUSSIAN_DRAWS, REZSL_DRAWS = 12, 9
Table = Sequence[Sequence[float]]


def answer(given: Given) -> dict[str, Any]:
    """Spread of validation H over draws; for gaussian also the test H of what draws choose."""
    return _gaussian(given) if given.backbone == "gaussian" else _rezsl(given)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean and sd of validation H over draws, and sd of the means of three over disjoint sets of draws."""
    triples = [fmean(values[start : start + TOGETHER]) for start in range(0, len(values), TOGETHER)]
    return {"draws": len(values), "mean": fmean(values), "sd_of_one": stdev(values), "sd_of_three": stdev(triples)}


def choices(values: Table, offsets: Table, size: int) -> list[tuple[int, float]]:
    """Which setting each disjoint set of draws chooses by mean validation H, and its median offset.

    Args:
        values: validation H by draw and setting.
        offsets: validation-optimal offsets likewise.
        size: draws in a set.
    """
    found = []
    for start in range(0, len(values) - size + 1, size):
        means = [fmean(column) for column in zip(*values[start : start + size], strict=True)]
        chosen = max(range(len(means)), key=lambda index: means[index])
        found.append((chosen, median(row[chosen] for row in offsets[start : start + size])))
    return found


def _gaussian(given: Given) -> dict[str, Any]:
    rows = [
        stored(given.place, [given.dataset, draw], lambda draw=draw: _grid(_data(given.dataset, draw)))  # type: ignore[misc]
        for draw in range(GAUSSIAN_DRAWS)
    ]
    values, offsets = [row["H"] for row in rows], [row["seen_offset"] for row in rows]
    means = [fmean(column) for column in zip(*values, strict=True)]
    best = max(range(len(means)), key=lambda index: means[index])
    chosen = {size: choices(values, offsets, size) for size in (1, TOGETHER)}
    tested = _tested(given.dataset, [choice for listed in chosen.values() for choice in listed])
    return {
        "spread": {"best setting of all draws": spread([row[best] for row in values])},
        "test": {str(size): _summary([tested[choice] for choice in listed]) for size, listed in chosen.items()},
    }


def _summary(values: Sequence[float]) -> dict[str, Any]:
    return {"choices": len(values), "mean": fmean(values), "sd": stdev(values), "lowest": min(values)}


def _grid(data: Tensors) -> dict[str, list[float]]:
    found = [accuracies(evaluation_scores(data, item.score)) for item in fit_gaussian(data)]
    return {"H": [item.H for item in found], "seen_offset": [item.seen_offset for item in found]}


def _tested(dataset: str, chosen: Sequence[tuple[int, float]]) -> dict[tuple[int, float], float]:
    data = _data(dataset, None)
    fitted = dict(enumerate(fit_gaussian(data)))
    return {
        (index, offset): accuracies(evaluation_scores(data, fitted[index].score), offset).H
        for index, offset in dict.fromkeys(chosen)
    }


def _data(dataset: str, draw: int | None) -> Tensors:
    found = find_dataset(dataset)
    view = found.view("test") if draw is None else found.view("validation", draw)
    return load_tensors(view, scaling="standard", center_semantics=True)


def _rezsl(given: Given) -> dict[str, Any]:
    space, config = shipped("rezsl", given.dataset), load_backbone("rezsl").config
    found = {}
    for point in space.warm_start:
        values = {**space.fixed, **point.values}
        values |= applicable(given.further, config, values)
        job = job_of("rezsl", config.model_validate(values).model_dump(mode="json"), given.dataset, 1)
        found[point.name] = spread(_over_draws(job, given))
    return {"spread": found}


def _over_draws(job: TrainingJob, given: Given) -> list[float]:
    jobs = [replace(job, splits=(draw,)) for draw in range(REZSL_DRAWS)]
    return [float(stored(given.place, item.to_dict(), _best_of(item))) for item in jobs]


def _best_of(job: TrainingJob) -> Callable[[], float]:
    return lambda: max(float(report["value"]) for report in curve(job))

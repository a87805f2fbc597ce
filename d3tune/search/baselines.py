"""Baselines of a search: tuned on its validation splits, tested once, in seconds."""

from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from d3tune.data.dataset import GZSLDataset, Protocol
from d3tune.data.prepared import open_prepared
from d3tune.data.tensors import Tensors, load_tensors
from d3tune.method.closed_form import Fitted, evaluation_scores, fit_eszsl, fit_gaussian
from d3tune.method.metrics import Accuracies, accuracies

METHODS: dict[str, Callable[[Tensors], Iterator[Fitted]]] = {"gaussian": fit_gaussian, "ESZSL": fit_eszsl}


def baseline(name: str, path: str, splits: tuple[int, ...], threads: int) -> dict[str, Any]:
    """Tune a closed-form method by mean calibrated H over the validation splits, then test it once.

    Args:
        name: ``gaussian`` or ``ESZSL``.
        path: of the prepared dataset, opened where this runs.
        splits: the search's validation draws.
        threads: torch threads.

    Returns:
        ``name``, ``setting``, ``val/H``, ``seen_offset`` (the median over splits), and ``test/H``, ``test/U``, ….
    """
    torch.set_num_threads(threads)
    fit, dataset = METHODS[name], open_prepared(Path(path))
    per_split = [_validate(fit, _data(dataset, "validation", split)) for split in splits]
    means = [fmean(rows[index].H for rows in per_split) for index in range(len(per_split[0]))]
    chosen = max(range(len(means)), key=lambda index: means[index])
    offset = median(rows[chosen].seen_offset for rows in per_split)
    data = _data(dataset, "test", 0)
    fitted = next(item for index, item in enumerate(fit(data)) if index == chosen)
    test = accuracies(evaluation_scores(data, fitted.score), offset)
    return {
        "name": name,
        "setting": fitted.setting,
        "val/H": means[chosen],
        "seen_offset": offset,
        **{f"test/{key}": value for key, value in vars(test).items() if key != "seen_offset"},
    }


def _validate(fit: Callable[[Tensors], Iterator[Fitted]], data: Tensors) -> list[Accuracies]:
    return [accuracies(evaluation_scores(data, item.score)) for item in fit(data)]


def _data(dataset: GZSLDataset, protocol: Protocol, split: int) -> Tensors:
    # standardised features and centred semantics: the better choice for ESZSL by validation H on hanzi/0-2;
    # gaussian does not depend on it
    return load_tensors(dataset.view(protocol, split), scaling="standard", center_semantics=True)

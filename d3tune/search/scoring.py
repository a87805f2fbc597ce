"""What a model on disk says of rows of features."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from d3tune.search.model import Model


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says of some rows.

    Attributes:
        scores: (n, N) float64, calibrated: the largest of a row is its class's.
        classes: N names.
        n_seen: how many of these, at the front, were trained on.
    """

    scores: npt.NDArray[np.float64]
    classes: tuple[str, ...]
    n_seen: int

    def best(self, top: int) -> npt.NDArray[np.int64]:
        """The numbers (n, top) of each row's best classes, best first, the earlier of equals first."""
        order: npt.NDArray[np.int64] = np.argsort(-self.scores, axis=1, kind="stable")[:, :top]
        return order

    def group(self, number: int) -> str:
        """``seen`` or ``unseen``."""
        return "seen" if number < self.n_seen else "unseen"


def score_rows(model: Model, rows: npt.NDArray[np.float32]) -> Predictions:
    """Score rows (n, X), as they were measured."""
    with _threads(model.document.threads):
        scores = model.predictor.scores(torch.tensor(rows)).numpy()
    return Predictions(scores, model.document.classes, len(model.document.seen_classes))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """As many torch threads as the test had: with others the last bits of scores may differ."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""A backbone for benchmarks whose trials take a given time: with each update, a fixed share of it is over.

Installed as an entry point ``paced`` by `benchmarks.overhead`. In the environment: ``PACED_SECONDS`` is the CPU time of
a trial, its evaluations included; ``PACED_LOG`` a file that takes a line (process, what, seconds since the epoch) as a
trial makes its first update and when its last evaluation is done.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from d3tune.config import TrialConfig
from d3tune.method.generators import BackboneEntry
from d3tune.method.metrics import Scores, accuracies
from d3tune.method.trainer import Evaluation, Trainer


class PacedConfig(TrialConfig):
    """One hyper-parameter, so that there is something to search."""

    rate: float = Field(0.5, gt=0, le=1, description="no more than a number")


class Paced(Trainer):
    """Computes until its time is over, and scores by chance."""

    _began = 0.0

    def _step(self) -> dict[str, Tensor]:
        """Compute until this update's share is over, too, of which evaluations before it took their part."""
        if self.update == 0:
            _note("begin")
            self._began = time.thread_time()
        end = self._began + float(os.environ["PACED_SECONDS"]) * (self.update + 1) / self.config.updates
        x = self.tensors.train_x[:256]
        while time.thread_time() < end:
            x @ x.T
        return {"nothing": torch.zeros(())}

    def evaluate(self, heads: Sequence[str] | None = None, seen_offset: float | None = None) -> Evaluation:
        """Random scores of both evaluation sets."""
        losses, data = self._take_losses(), self.tensors
        rng = torch.Generator().manual_seed(self.update)

        def scored(labels: Tensor) -> Tensor:
            made = torch.rand(len(labels), data.n_classes, generator=rng)
            # better than chance: a trial that is not counts as collapsed
            made[torch.arange(len(labels)), labels] += 0.5
            return made

        seen, unseen = scored(data.eval_seen_y), scored(data.eval_unseen_y)
        scores = Scores(seen, data.eval_seen_y, unseen, data.eval_unseen_y, data.n_seen)
        evaluation = Evaluation(self.update, {"model": accuracies(scores, seen_offset)}, losses)
        if self.update == self.config.updates:
            _note("end")
        return evaluation

    def state_dict(self) -> dict[str, Tensor]:
        """The update count."""
        return {"update": torch.tensor(self.update)}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave."""
        self.update = int(tensors["update"])
        self._forget_losses()


def _note(what: str) -> None:
    with Path(os.environ["PACED_LOG"]).open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {what} {time.time()!r}\n")


BACKBONE = BackboneEntry(config=PacedConfig, start=Paced)

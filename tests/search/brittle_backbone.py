"""A backbone for tests that trains in no time and falls ill as it is told; installed as an entry point ``brittle``.

In the environment: ``BRITTLE_LOG`` names a file that takes one line an update (process, trial's rate, update), and
``BRITTLE_HOLD`` another one: a trial stands still at update 13 as long as that exists. ``BRITTLE_PAUSE`` is a time in
seconds that every update takes at least.
"""

import os
import re
import resource
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from d3tune.config import TrialConfig
from d3tune.data.tensors import Tensors
from d3tune.method.generators import BackboneEntry
from d3tune.method.metrics import Scores, accuracies
from d3tune.method.trainer import Evaluation, Trainer

HELD_AT = 13
ILL_AT = 22


class BrittleConfig(TrialConfig):
    """What goes wrong at update 22, and one hyper-parameter to search."""

    rate: float = Field(0.1, gt=0, le=1, description="step size, as a share of the largest that is stable")
    ill: Literal["none", "diverges", "raises", "cuda", "allocates", "killed", "sleeps", "spins"] = Field(
        "none", description="how the trial ends"
    )


class Brittle(Trainer):
    """Features to semantics by gradient descent on the mean squared error of all rows."""

    config: BrittleConfig

    def __init__(self, tensors: Tensors, config: BrittleConfig, seed: int) -> None:
        super().__init__(tensors, config, seed)
        self._weights = torch.zeros(tensors.n_features, tensors.semantics.shape[1])
        x = tensors.train_x
        self._step_size = config.rate / float(torch.linalg.matrix_norm(x.T @ x, 2))

    def _step(self) -> dict[str, Tensor]:
        """One update, or what the trial dies of."""
        update = self.update + 1
        _note(f"{os.getpid()} {self.config.rate!r} {update}")
        time.sleep(float(os.environ.get("BRITTLE_PAUSE", "0")))
        while update == HELD_AT and Path(os.environ.get("BRITTLE_HOLD", "/nowhere/at/all")).exists():
            time.sleep(0.05)
        x, y = self.tensors.train_x, self.tensors.train_y
        error = x @ self._weights - self.tensors.semantics[y]
        if update == ILL_AT:
            error = error + _fall_ill(self.config.ill)
        self._weights -= self._step_size * x.T @ error
        return {"mse": error.square().mean()}

    @torch.no_grad()
    def evaluate(self, heads: Sequence[str] | None = None, seen_offset: float | None = None) -> Evaluation:
        """Score both evaluation sets."""
        losses, data = self._take_losses(), self.tensors
        seen, unseen = (x @ self._weights @ data.semantics.T for x in (data.eval_seen_x, data.eval_unseen_x))
        self._require_finite("a score", seen, unseen)
        scores = Scores(seen, data.eval_seen_y, unseen, data.eval_unseen_y, data.n_seen)
        return Evaluation(self.update, {"model": accuracies(scores, seen_offset)}, losses)

    def state_dict(self) -> dict[str, Tensor]:
        """Weights and update count."""
        return {"weights": self._weights, "update": torch.tensor(self.update)}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave."""
        self._weights = tensors["weights"].clone()
        self.update = int(tensors["update"])
        self._forget_losses()


def _note(line: str) -> None:
    if path := os.environ.get("BRITTLE_LOG"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


def _fall_ill(ill: str) -> float:
    """Returns where the trial goes on: with a number that is none, or with nothing wrong."""
    if ill == "raises":
        raise MemoryError("no memory for the table of pairs")
    if ill == "cuda":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    if ill == "allocates":
        _allocate_too_much()
    if ill == "killed":
        # what the kernel does to a process that takes too much memory
        os.kill(os.getpid(), signal.SIGKILL)
    if ill == "sleeps":
        time.sleep(1e6)
    if ill == "spins":
        # inside the regular expression engine, with the interpreter's lock
        re.match(r"(a+)+$", "a" * 60 + "b")
    return float("nan") if ill == "diverges" else 0.0


def _allocate_too_much() -> None:
    """Ask for eight gigabytes where the process may have half of one more than it has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, before[1]))
    try:
        torch.zeros(2**31)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


BACKBONE = BackboneEntry(config=BrittleConfig, start=Brittle)

"""A backbone for tests of trials that share a GPU; installed as an entry point ``packed``, on a GPU or without one.

Its trials note in the file that ``PACKED_LOG`` names when they begin and end. One that is ``crowded`` finds no memory
at its second evaluation while others run beside it; the others stand still until that has happened.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from brittle_backbone import HELD_AT, Brittle, BrittleConfig
from pydantic import Field
from torch import Tensor

from d3tune.data.tensors import Tensors
from d3tune.method.generators import BackboneEntry
from d3tune.method.trainer import Evaluation
from d3tune.search.jobs import TrainingJob
from d3tune.search.packing import Peak

AT_ONCE, SECOND = 3, 10
PATIENCE = 120.0


class PackedConfig(BrittleConfig):
    """Whether the trial needs more of a GPU than its share."""

    crowded: bool = Field(False, description="whether it runs out of memory where it is not alone")


class Packed(Brittle):
    """`Brittle` on any device, which says when it runs."""

    config: PackedConfig

    def __init__(self, tensors: Tensors, config: PackedConfig, seed: int) -> None:
        super().__init__(tensors, config, seed)
        self._weights = self._weights.to(tensors.train_x.device)
        note(f"begin {config.rate!r}")

    def _step(self) -> dict[str, Tensor]:
        if not self.config.crowded and self.update == HELD_AT:
            wait(lambda: "crowded" in kinds())
        return super()._step()

    def evaluate(self, heads: Sequence[str] | None = None, seen_offset: float | None = None) -> Evaluation:
        if self.config.crowded and self.update == SECOND:
            self._find_room()
        evaluation = super().evaluate(heads, seen_offset)
        if self.update == self.config.updates:
            note(f"end {self.config.rate!r}")
        return evaluation

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        super().load_state_dict(tensors)
        self._weights = self._weights.to(self.tensors.train_x.device)

    def _find_room(self) -> None:
        if "crowded" not in kinds():
            wait(lambda: running() >= AT_ONCE)
        if running() > 1:
            note(f"crowded {self.config.rate!r}")
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def three_fit(job: TrainingJob) -> Peak:
    """What a measurement says of a GPU on which three trials fit; it notes what it was given of one itself."""
    import ray

    note(f"measured {ray.get_runtime_context().get_assigned_resources()['GPU']}")
    return Peak(4 * 10**9, 16 * 10**9)


def note(line: str) -> None:
    """Add a line to the log."""
    with Path(os.environ["PACKED_LOG"]).open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def kinds() -> list[str]:
    """The first word of every line."""
    return [line.split()[0] for line in Path(os.environ["PACKED_LOG"]).read_text(encoding="utf-8").splitlines()]


def running() -> int:
    """How many trials run now."""
    found = kinds()
    return found.count("begin") - found.count("end") - found.count("crowded")


def wait(condition: Callable[[], bool]) -> None:
    """Wait for something that is bound to happen."""
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)


BACKBONE = BackboneEntry(config=PackedConfig, start=Packed)

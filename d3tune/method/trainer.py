"""What every backbone's training offers to a search: advance, evaluate, save and restore."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from d3tune.config import TrialConfig
from d3tune.data.tensors import Tensors
from d3tune.method.metrics import Accuracies, Scores
from d3tune.method.parts import Part
from d3tune.method.readings import OodScores, Readings

LOSSES_AT_ONCE = 256


class DivergedError(Exception):
    """A loss, a score or a diagnostic is NaN or infinite.

    Attributes:
        where: the first such quantity.
        update: the update at which a loss first was, or the count at which anything else was noticed.
    """

    def __init__(self, where: str, update: int) -> None:
        super().__init__(where, update)
        self.where = where
        self.update = update

    def __str__(self) -> str:
        return f"{self.where} is not finite at update {self.update}"


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation found.

    Attributes:
        update: updates so far.
        heads: accuracies by head.
        losses: mean of each loss since the evaluation before.
        diagnostics: further measures by name, e.g. ``AUROC``.
        fitted: what each head scored rows by, in the unit of offsets, where that can be saved; good until training
            goes on.
    """

    update: int
    heads: dict[str, Accuracies]
    losses: dict[str, float] = field(default_factory=dict)
    diagnostics: dict[str, float] = field(default_factory=dict)
    fitted: dict[str, Part] = field(default_factory=dict, compare=False, repr=False)

    @property
    def best_head(self) -> str:
        """The head with the largest H; the first in order where several have it."""
        return max(self.heads, key=lambda head: self.heads[head].H)


def fitted(scores: Mapping[str, Scores]) -> dict[str, Part]:
    """What gave some heads' scores, as `Evaluation` has it."""
    return {head: found.score for head, found in scores.items() if isinstance(found.score, Part)}


class Trainer(ABC):
    """One model of one configuration on one protocol's tensors, resumable at any update.

    Learning rates are constant or follow the update number, never the total; every random number depends on the seed
    and on the draws before it alone. So a run cut at update s equals a run of length s.

    Attributes:
        tensors: the protocol's data.
        config: hyper-parameters.
        seed: of weights, batches and noise.
        update: updates made so far.
        readings: takes what evaluations read, where somebody wants it; None for nobody.
    """

    def __init__(self, tensors: Tensors, config: TrialConfig, seed: int) -> None:
        self.tensors, self.config, self.seed = tensors, config, seed
        self.update = 0
        self.readings: Readings | None = None
        self._losses: list[dict[str, Tensor]] = []
        self._loss_tables: list[dict[str, Tensor]] = []

    def evaluations(self) -> Iterator[Evaluation]:
        """Train on to the full budget, yielding an evaluation at each of its update counts still ahead.

        Raises:
            DivergedError: a loss or a score became NaN or infinite.
        """
        for update in self.config.evaluation_updates:
            if update > self.update:
                self.advance(update)
                yield self.evaluate()

    def advance(self, update: int) -> None:
        """Train until ``update`` updates have been made in all."""
        while self.update < update:
            losses = self._step()
            self._losses += [losses] if losses else []
            self.update += 1
            if len(self._losses) == LOSSES_AT_ONCE:
                self._stack_losses()

    @abstractmethod
    def evaluate(self, heads: Sequence[str] | None = None, seen_offset: float | None = None) -> Evaluation:
        """Read the model by heads on the two evaluation sets; does not change the training.

        Args:
            heads: which; None means all that the configuration offers.
            seen_offset: δ carried from validation; None calibrates on these very rows.

        Raises:
            DivergedError: a loss or a score is NaN or infinite.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Everything that training goes on from, as flat tensors; no copies, training on may change them."""

    @abstractmethod
    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` of the same configuration and data gave."""

    @abstractmethod
    def _step(self) -> dict[str, Tensor]:
        """One update; returns losses by name, detached and on the device."""

    def _stack_losses(self) -> None:
        """Losses kept one tensor an update would take more memory than they say."""
        if self._losses:
            names = self._losses[0]
            self._loss_tables.append({name: torch.stack([row[name] for row in self._losses]) for name in names})
            self._losses = []

    def _take_losses(self) -> dict[str, float]:
        """The mean losses since the last call: the one point where the step's numbers leave the device.

        Raises:
            DivergedError: one was NaN or infinite; the first update at which any was, and the first such loss there.
        """
        self._stack_losses()
        if not self._loss_tables:
            return {}
        names = list(self._loss_tables[0])
        table = torch.cat([torch.stack([part[name] for name in names]) for part in self._loss_tables], dim=1)
        self._forget_losses()
        values = table.double().cpu()
        bad = ~torch.isfinite(values)
        if bad.any():
            step = int(bad.any(dim=0).nonzero()[0])
            name = names[int(bad[:, step].nonzero()[0])]
            raise DivergedError(f"loss {name}", self.update - values.shape[1] + step + 1)
        return dict(zip(names, values.mean(dim=1).tolist(), strict=True))

    def _forget_losses(self) -> None:
        self._losses, self._loss_tables = [], []

    def _keep_scores(self, head: str, scores: Scores) -> None:
        """Hand the scores that a head's accuracies are of to whoever wants them; see `Readings`."""
        if self.readings is not None:
            self.readings.scores[head] = scores

    def _keep_ood(self, name: str, seen: Tensor, unseen: Tensor) -> None:
        """Likewise the scores that ``AUROC`` and ``FPR95`` are of; see `OodScores`."""
        if self.readings is not None:
            self.readings.ood = OodScores(name, seen, unseen)

    def _require_finite(self, what: str, *tensors: Tensor) -> None:
        """Raise `DivergedError` where a tensor holds NaN or infinity."""
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
            raise DivergedError(what, self.update)

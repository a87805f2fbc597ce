"""The `rezsl` backbone: semantic regression with ReMSE on fixed features, no generator (Ye et al., TIP 2023)."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from d3tune.config import TrialConfig
from d3tune.data.tensors import Tensors
from d3tune.method import state
from d3tune.method.adam import Adam
from d3tune.method.closed_form import GaussianSetting, gaussian_scorer
from d3tune.method.generators import BackboneEntry
from d3tune.method.metrics import Scores, accuracies, auroc, fpr_at_95, in_margins, read_scores
from d3tune.method.parts import Chain, Map, Mean, Same
from d3tune.method.randomness import stream
from d3tune.method.rebalanced import RebalancedMSE
from d3tune.method.regressors import Cosine, Directions, Regressors, dropout_mask
from d3tune.method.trainer import Evaluation, Trainer, fitted

Head = Literal["cosine", "discriminant", "combined"]


class RezslConfig(TrialConfig):
    """Hyper-parameters of `rezsl`; the defaults are the published system, one network read by its cosine."""

    batch_size: int = Field(128, ge=2, le=65536, description="real seen rows per update")
    hidden_dim: int = Field(1024, ge=0, le=65536, description="width of the hidden layer; 0 is a linear map")
    regressor_lr: float = Field(3e-3, gt=0, le=1, description="Adam learning rate of the regressor")
    cosine_scale: float = Field(20.0, gt=0, le=1e3, description="scale of cos(a^, a) as a logit")
    remse_weight: float = Field(1.0, ge=0, le=1e6, description="λ, weight of ReMSE")
    remse_p: float = Field(0.1, ge=0, le=10, description="exponent over classes; with p2 = 0 plain MSE")
    remse_p2: float = Field(0.1, ge=0, le=10, description="exponent over semantic dimensions")

    fidelity: Literal["reconstructed", "official"] = Field(
        "reconstructed", description="official weighs by the batch's own errors alone, as the authors' code computes"
    )

    members: int = Field(1, ge=1, le=256, description="networks trained side by side; heads read all of them")
    hidden_dropout: float = Field(0.0, ge=0, lt=1, description="share of hidden units off at each row of an update")
    input_dropout: float = Field(0.0, ge=0, lt=1, description="share of features off at each row of an update")

    heads: tuple[Head, ...] = Field(
        ("cosine",), min_length=1, description="the classifiers that read the networks; the best on validation counts"
    )
    kernel_gamma: float = Field(1.0, gt=0, le=100, description="γ of heads with class means, see gaussian")
    ridge: float = Field(0.1, gt=0, le=1e4, description="of the class means of heads that have them")
    shrinkage: float = Field(0.8, ge=0, le=1, description="of the covariance of predicted semantics to its diagonal")
    feature_shrinkage: float = Field(0.1, ge=0, le=1, description="of the covariance of features to its diagonal")

    @field_validator("heads")
    @classmethod
    def _different(cls, heads: tuple[Head, ...]) -> tuple[Head, ...]:
        if len(set(heads)) != len(heads):
            raise ValueError(f"names one head twice: {', '.join(heads)}")
        return heads

    @property
    def offered_heads(self) -> tuple[str, ...]:
        """See ``heads``."""
        return self.heads


class Rezsl(Trainer):
    """x → hidden → a^, trained by CE over scale·cos(a^, a_c) of the seen classes + λ·ReMSE(a^, a_y).

    With K members the loss is the sum of each one's own, on rows and dropout of its own; the record of ReMSE's errors
    is one for all. Heads:

    - ``cosine``: the members' mean of scale·cos(a^, a_c), of all classes.
    - ``discriminant``: `gaussian` in the space of all members' a^ of length 1, side by side. Unseen class means by
      kernel ridge from the seen ones take what regression gets wrong at seen classes into account.
    - ``combined``: the mean of these two and of `gaussian` on the features, each divided by `margin_sd`.
    """

    config: RezslConfig

    def __init__(self, tensors: Tensors, config: RezslConfig, seed: int) -> None:
        """Initialise the regressor.

        Args:
            tensors: of a protocol view, all on one device.
            config: hyper-parameters.
            seed: of weights and batches.
        """
        super().__init__(tensors, config, seed)
        device = tensors.train_x.device
        widths = (tensors.n_features, config.hidden_dim, tensors.semantics.shape[1])
        self.regressor = Regressors(config.members, *widths, stream(seed, "regressor")).to(device)
        n_semantics = tensors.semantics.shape[1]
        self.remse = RebalancedMSE(
            tensors.n_seen, n_semantics, config.remse_p, config.remse_p2, in_batch=config.fidelity == "official"
        ).to(device)
        self._unit_semantics = F.normalize(tensors.semantics, dim=1)
        self._optimizer = Adam(list(self.regressor.parameters()), config.regressor_lr)
        self._rng = stream(seed, "updates", device=device)

    def evaluate(self, heads: Sequence[str] | None = None, seen_offset: float | None = None) -> Evaluation:
        """See `Trainer.evaluate`; AUROC is of the largest seen score of the first head."""
        losses = self._take_losses()
        data, config = self.tensors, self.config
        read: dict[str, Scores] = {}
        with torch.no_grad():
            for head in heads or config.heads:
                read[head] = self._scores(head)
                self._require_finite(f"a score of head {head}", read[head].seen, read[head].unseen)
                self._keep_scores(head, read[head])
        first = next(iter(read.values()))
        seen_max, unseen_max = (rows[:, : data.n_seen].amax(dim=1) for rows in (first.seen, first.unseen))
        self._keep_ood("largest seen-class score", seen_max, unseen_max)
        diagnostics = {"AUROC": auroc(seen_max, unseen_max), "FPR95": fpr_at_95(seen_max, unseen_max)}
        found = {head: accuracies(scores, seen_offset) for head, scores in read.items()}
        return Evaluation(self.update, found, losses, diagnostics, fitted(read))

    def state_dict(self) -> dict[str, Tensor]:
        """See `Trainer.state_dict`."""
        tensors = state.pack(self._modules(), {"regressor": self._optimizer})
        return {**tensors, "rng": self._rng.get_state(), "update": torch.tensor(self.update)}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Trainer.load_state_dict`."""
        state.unpack(tensors, self._modules(), {"regressor": self._optimizer})
        self._rng.set_state(tensors["rng"].cpu())
        self.update = state.updates_made(tensors)
        self._forget_losses()

    def _modules(self) -> dict[str, nn.Module]:
        return {"regressor": self.regressor, "remse": self.remse}

    def _scores(self, head: str) -> Scores:
        data, unit, members = self.tensors, self.config.offset_unit, self.regressor.members()
        cosine = Cosine(members, self._unit_semantics, self.config.cosine_scale)
        if head == "cosine":
            return read_scores(data, cosine, unit)
        directions = self._discriminant(Directions(members), self.config.shrinkage)
        if head == "discriminant":
            return read_scores(data, directions, unit)
        parts = [cosine, directions, self._discriminant(Same(), self.config.feature_shrinkage)]
        return read_scores(data, Mean(tuple(in_margins(part, data) for part in parts)))

    def _discriminant(self, read: Map, shrinkage: float) -> Chain:
        """`gaussian` in the space of a map of the features."""
        data, config = self.tensors, self.config
        setting = GaussianSetting("rbf", config.kernel_gamma, config.ridge, shrinkage)
        return Chain(read, gaussian_scorer(read(data.train_x).double(), data, setting))

    def _step(self) -> dict[str, Tensor]:
        data, config = self.tensors, self.config
        rows = self._rows()
        x, y = data.train_x[rows], data.train_y[rows].flatten()
        if config.input_dropout > 0:
            x = x * dropout_mask(x.shape, config.input_dropout, self._rng)
        mask = None
        if config.hidden_dropout > 0 and config.hidden_dim > 0:
            mask = dropout_mask((*rows.shape, config.hidden_dim), config.hidden_dropout, self._rng)
        predicted = self.regressor(x, mask).flatten(0, 1)
        logits = config.cosine_scale * F.normalize(predicted, dim=1) @ self._unit_semantics[: data.n_seen].T
        classification = F.cross_entropy(logits, y)
        regression = self.remse(predicted, data.semantics[y], y)
        self._optimizer.zero_grad()
        torch.autograd.backward(config.members * (classification + config.remse_weight * regression))
        self._optimizer.step()
        return {"classification": classification.detach(), "remse": regression.detach()}

    def _rows(self) -> Tensor:
        """Each member's rows (K, B) of an update, in passes over all rows that the members share."""
        n, members = len(self.tensors.train_x), self.config.members
        size = min(n, self.config.batch_size)
        passes = -(-members * size // n)
        drawn = [torch.randperm(n, generator=self._rng, device=self._rng.device) for _ in range(passes)]
        return torch.cat(drawn)[: members * size].view(members, size)


BACKBONE = BackboneEntry(config=RezslConfig, start=Rezsl)

"""The `rezsl` backbone: semantic regression with ReMSE on fixed features, no generator (Ye et al., TIP 2023)."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from d3tune.config import TrialConfig
from d3tune.data.tensors import Tensors
from d3tune.method import state
from d3tune.method.adam import Adam
from d3tune.method.generators import BackboneEntry
from d3tune.method.metrics import accuracies, auroc, fpr_at_95, read_scores
from d3tune.method.networks import scaled_linear
from d3tune.method.randomness import stream
from d3tune.method.rebalanced import RebalancedMSE
from d3tune.method.trainer import Evaluation, Trainer

HEAD = "cosine"


class RezslConfig(TrialConfig):
    """Hyper-parameters of `rezsl`."""

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

    @property
    def offered_heads(self) -> tuple[str, ...]:
        """One: cosine to the semantics."""
        return (HEAD,)


class Rezsl(Trainer):
    """x → hidden → a^, trained by CE over scale·cos(a^, a_c) of the seen classes + λ·ReMSE(a^, a_y).

    Scores are scale·cos(a^, a_c) of all classes.
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
        self.regressor = _regressor(tensors, config, stream(seed, "regressor")).to(device)
        n_semantics = tensors.semantics.shape[1]
        self.remse = RebalancedMSE(
            tensors.n_seen, n_semantics, config.remse_p, config.remse_p2, in_batch=config.fidelity == "official"
        ).to(device)
        self._unit_semantics = F.normalize(tensors.semantics, dim=1)
        self._optimizer = Adam(list(self.regressor.parameters()), config.regressor_lr)
        self._rng = stream(seed, "updates", device=device)

    def evaluate(self, heads: Sequence[str] | None = None, seen_offset: float | None = None) -> Evaluation:
        """See `Trainer.evaluate`; the one head is ``cosine``."""
        losses = self._take_losses()
        data = self.tensors
        with torch.no_grad():
            scores = read_scores(data, self._logits, self.config.offset_unit)
        self._require_finite(f"a score of head {HEAD}", scores.seen, scores.unseen)
        seen_max, unseen_max = (rows[:, : data.n_seen].amax(dim=1) for rows in (scores.seen, scores.unseen))
        diagnostics = {"AUROC": auroc(seen_max, unseen_max), "FPR95": fpr_at_95(seen_max, unseen_max)}
        return Evaluation(self.update, {HEAD: accuracies(scores, seen_offset)}, losses, diagnostics)

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

    def _logits(self, x: Tensor) -> Tensor:
        return self.config.cosine_scale * F.normalize(self.regressor(x), dim=1) @ self._unit_semantics.T

    def _step(self) -> dict[str, Tensor]:
        data, config = self.tensors, self.config
        order = torch.randperm(len(data.train_x), generator=self._rng, device=self._rng.device)
        rows = order[: config.batch_size]
        x, y = data.train_x[rows], data.train_y[rows]
        predicted = self.regressor(x)
        logits = config.cosine_scale * F.normalize(predicted, dim=1) @ self._unit_semantics[: data.n_seen].T
        classification = F.cross_entropy(logits, y)
        regression = self.remse(predicted, data.semantics[y], y)
        self._optimizer.zero_grad()
        torch.autograd.backward(classification + config.remse_weight * regression)
        self._optimizer.step()
        return {"classification": classification.detach(), "remse": regression.detach()}


def _regressor(tensors: Tensors, config: RezslConfig, rng: torch.Generator) -> nn.Module:
    """A linear map or one hidden ReLU layer, weights N(0, 1/n_in): the scale of a^ does not matter to its loss."""
    n_in, n_out = tensors.train_x.shape[1], tensors.semantics.shape[1]
    if config.hidden_dim == 0:
        return scaled_linear(n_in, n_out, rng)
    hidden, output = scaled_linear(n_in, config.hidden_dim, rng), scaled_linear(config.hidden_dim, n_out, rng)
    return nn.Sequential(hidden, nn.ReLU(), output)


BACKBONE = BackboneEntry(config=RezslConfig, start=Rezsl)

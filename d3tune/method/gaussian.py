"""The `gaussian` backbone: class means by kernel ridge from semantics under one shared Gaussian, in closed form."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from d3tune.config import TrialConfig
from d3tune.method.closed_form import GaussianSetting, gaussian_scorer
from d3tune.method.generators import BackboneEntry
from d3tune.method.metrics import accuracies, read_scores
from d3tune.method.state import updates_made
from d3tune.method.trainer import Evaluation, Trainer, fitted

HEAD = "discriminant"


class GaussianConfig(TrialConfig):
    """Hyper-parameters of `gaussian`; see `GaussianSetting`."""

    feature_scaling: Literal["minmax", "standard"] = "standard"
    updates: int = Field(1, ge=1, le=1, description="closed form: one step")
    evaluations: int = Field(1, ge=1, le=1, description="closed form: one evaluation")
    kernel: Literal["linear", "rbf"] = Field("rbf", description="of the semantics")
    kernel_gamma: float = Field(1.0, gt=0, le=100, description="γ: rbf width in median distances of seen classes")
    ridge: float = Field(0.03, gt=0, le=1e4, description="of the kernel regression, relative to the diagonal")
    shrinkage: float = Field(0.1, ge=0, le=1, description="of the covariance to its diagonal")

    @property
    def offered_heads(self) -> tuple[str, ...]:
        """One: the linear discriminant."""
        return (HEAD,)


class Gaussian(Trainer):
    """One "update" fits everything; there is no randomness, so seeds do not matter."""

    config: GaussianConfig

    def evaluate(self, heads: Sequence[str] | None = None, seen_offset: float | None = None) -> Evaluation:
        """See `Trainer.evaluate`; the one head is ``discriminant``."""
        data, config = self.tensors, self.config
        setting = GaussianSetting(config.kernel, config.kernel_gamma, config.ridge, config.shrinkage)
        score = gaussian_scorer(data.train_x.double(), data, setting)
        scores = read_scores(data, score, config.offset_unit)
        self._require_finite(f"a score of head {HEAD}", scores.seen, scores.unseen)
        self._keep_scores(HEAD, scores)
        found = {HEAD: accuracies(scores, seen_offset)}
        return Evaluation(self.update, found, self._take_losses(), fitted=fitted({HEAD: scores}))

    def state_dict(self) -> dict[str, Tensor]:
        """The update count: there is nothing else to go on from."""
        return {"update": torch.tensor(self.update)}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Trainer.load_state_dict`."""
        self.update = updates_made(tensors)

    def _step(self) -> dict[str, Tensor]:
        return {}


BACKBONE = BackboneEntry(config=GaussianConfig, start=Gaussian)

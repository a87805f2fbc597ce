"""The gaussian backbone where its closed form has no solution: the trial diverged."""

from dataclasses import replace

import pytest
import torch

from d3tune.data.tensors import Tensors
from d3tune.method.gaussian import GaussianConfig
from d3tune.method.generators import load_backbone
from d3tune.method.trainer import DivergedError
from d3tune.method.training import start_training


def test_scores_that_are_no_numbers_are_a_divergence(tiny: Tensors) -> None:
    """Seen classes of one and the same semantics: the width of the kernel, their median distance, is 0."""
    same = tiny.semantics[:1].expand(tiny.n_seen, -1)
    data = replace(tiny, semantics=torch.cat([same, tiny.semantics[tiny.n_seen :]]))
    trainer = start_training(load_backbone("gaussian"), data, GaussianConfig(kernel="rbf"), 0)
    with pytest.raises(DivergedError, match="a score of head discriminant is not finite at update 1"):
        list(trainer.evaluations())

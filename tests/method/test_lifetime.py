"""A model's memory is free as soon as nothing uses the model: trials of one process follow each other."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from d3tune.data.tensors import Tensors
from d3tune.method.generators import load_backbone
from d3tune.method.training import start_training

SMALL = {
    "updates": 2,
    "evaluations": 2,
    "batch_size": 20,
    "hidden_dim": 8,
    "embed_dim": 8,
    "teacher_epochs": 1,
    "head_epochs": 1,
    "n_synthetic_final": 3,
    "members": 2,
    "hidden_dropout": 0.1,
}
SHIPPED = ("gan", "vae", "diffusion", "cegan", "vaegan", "rezsl", "gaussian")


@pytest.fixture
def uncollected() -> Iterator[None]:
    """The collector of cycles is off."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("name", SHIPPED)
def test_a_training_is_in_no_cycle(tiny: Tensors, name: str) -> None:
    entry = load_backbone(name)
    known = {key: value for key, value in SMALL.items() if key in entry.config.model_fields and name != "gaussian"}
    training = start_training(entry, tiny, entry.config.model_validate(known), 0)
    for evaluation in training.evaluations():
        assert evaluation.heads
    gone = weakref.ref(training)
    del training
    assert gone() is None

"""Adam against torch's own optimiser, and what it leaves out."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from d3tune.method.adam import Adam
from d3tune.method.state import unpack

WITHOUT_COMPILER = """
import sys
from d3tune.data.embedded import load_embedded
from d3tune.data.tensors import load_tensors
from d3tune.method.generators import load_backbone
from d3tune.method.training import start_training
backbone = load_backbone("gan")
config = backbone.config(updates=2, evaluations=1, hidden_dim=8, embed_dim=8, teacher_epochs=1, head_epochs=1)
(evaluation,) = start_training(backbone, load_tensors(load_embedded("hanzi").view("test")), config, 1).evaluations()
assert evaluation.update == 2
assert not {"torch._dynamo", "sympy"} & sys.modules.keys()
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_steps_as_torch_does(dtype: torch.dtype) -> None:
    """To the last bit, also where a parameter has a gradient only now and then."""
    rng = torch.Generator().manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape, generator=rng, dtype=dtype)) for shape in [(5, 3), (3,), (7,)]]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    optimizer = Adam(ours, 1e-2)
    expected = torch.optim.Adam(theirs, lr=1e-2, betas=(0.5, 0.999), fused=True)
    for step in range(30):
        for place, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            gradient = torch.randn(a.shape, generator=rng, dtype=dtype)
            a.grad, b.grad = (gradient, gradient.clone()) if place < 2 or step % 3 == 1 else (None, None)
        optimizer.step()
        expected.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    state = expected.state_dict()["state"]
    assert optimizer.state.keys() == state.keys() == {0, 1, 2}
    for place, fields in optimizer.state.items():
        assert fields.keys() == state[place].keys()
        assert all(torch.equal(value, state[place][name]) for name, value in fields.items())
    assert [int(optimizer.state[place]["step"]) for place in range(3)] == [30, 30, 10]


def test_no_gradient_stays() -> None:
    layer = nn.Linear(2, 2)
    optimizer = Adam(list(layer.parameters()), 1e-3)
    torch.autograd.backward(layer(torch.ones(1, 2)).sum())
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in layer.parameters())
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))
    assert not optimizer.state


def test_the_compiler_is_not_imported() -> None:
    """It would cost every worker 70 MB, and its first trial two seconds."""
    subprocess.run([sys.executable, "-c", WITHOUT_COMPILER], check=True)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_restored_moments_are_copies_where_the_parameters_are(device: str) -> None:
    """Checkpoints are read on the CPU, whatever they were written from; torch's own moves them too."""
    optimizer = Adam([nn.Parameter(torch.zeros(2, device=device))], 1e-3)
    stored = {"step": torch.tensor(3.0), "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}
    unpack({f"adam/generator/0/{name}": value for name, value in stored.items()}, {}, {"generator": optimizer})
    assert optimizer.state[0].keys() == stored.keys()
    for name, value in optimizer.state[0].items():
        assert value.device.type == device
        assert value.shape == stored[name].shape
        assert value.data_ptr() != stored[name].data_ptr()

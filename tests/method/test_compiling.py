"""``--compile``: the same training, its losses as graphs."""

from typing import Any

import pytest
import torch
from torch import Tensor

from d3tune.data.tensors import Tensors
from d3tune.errors import D3TuneError
from d3tune.method.compiling import compiled
from d3tune.method.generators import load_backbone
from d3tune.method.training import Training, start_training

# torch's own: its tracer asks for an attribute that it has deprecated
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "batch_size": 12,
    "hidden_dim": 16,
    "embed_dim": 8,
    "teacher_epochs": 1,
    "head_epochs": 1,
    "n_synthetic_step": 2,
    "n_synthetic_final": 3,
    "updates": 4,
    "evaluations": 2,
}


def square(x: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    return (x**2).sum(), {"largest": x.detach().max()}, 2 * x


def test_a_compiled_loss_is_the_loss() -> None:
    torch.compiler.reset()
    loss = compiled(square, CPU, backend="aot_eager")
    x = torch.arange(3.0, requires_grad=True)
    total, parts, more = loss(x)
    assert float(total.detach()) == 5
    assert {name: float(part) for name, part in parts.items()} == {"largest": 2}
    assert torch.equal(more, 2 * x)
    (gradient,) = torch.autograd.grad(total, x)
    assert torch.equal(gradient, 2 * x)


def test_parts_are_not_written_over_by_the_next_call() -> None:
    torch.compiler.reset()
    kept = torch.zeros(())

    def loss(x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # as a CUDA graph does: the same memory at each call
        kept.copy_(x.detach().sum())
        return x.sum(), {"sum": kept}

    call = compiled(loss, CPU, backend="eager")
    first = call(torch.ones(2))[1]["sum"]
    second = call(torch.ones(3))[1]["sum"]
    assert (float(first), float(second)) == (2, 3)


def test_what_cannot_be_compiled_is_one_clear_error() -> None:
    torch.compiler.reset()

    def loss(x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        print("no part of a graph")
        return x.sum() * x.sum().item(), {}

    with pytest.raises(D3TuneError, match=r"--compile: torch cannot compile the losses here: .*; leave it out"):
        compiled(loss, CPU, backend="aot_eager")(torch.ones(2))


@pytest.mark.parametrize("name", ["gan", "vae"])
def test_a_training_with_compiled_losses_is_the_same_training(
    name: str, hanzi_slice: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By torch's tracer and its graphs of gradients; kernels of their own would take a minute to make."""
    torch.compiler.reset()
    calls = []

    def traced(loss: Any, device: torch.device) -> Any:
        graph = compiled(loss, device, backend="aot_eager")

        def call(*arguments: Any) -> Any:
            calls.append(loss.__name__)
            return graph(*arguments)

        return call

    monkeypatch.setattr("d3tune.method.training.compiled", traced)
    entry = load_backbone(name)
    config = entry.config(**SMALL)
    plain, graphs = (start_training(entry, hanzi_slice, config, 0, compile_losses) for compile_losses in (False, True))
    expected, found = list(plain.evaluations()), list(graphs.evaluations())
    assert set(calls) == ({"_joint_loss", "critic_loss"} if name == "gan" else {"_joint_loss"})
    for before, now in zip(expected, found, strict=True):
        assert now.losses == pytest.approx(before.losses, rel=1e-4, abs=1e-6)
    assert isinstance(graphs, Training)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(graphs.state_dict()[key], value, rtol=1e-4, atol=1e-5)

"""The step as a device sees it: losses are whole graphs of fixed shape, and nothing waits for a number.

Each loss compiles in one graph (with noise drawn before and backward and optimisers after it) to the same values and
gradients, and a step never brings a value or a shape that depends on values to the host.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from d3tune.data.tensors import Tensors
from d3tune.method.generators import load_backbone
from d3tune.method.generators.gan import AdversarialBackbone
from d3tune.method.training import Training

# torch's own: its tracer asks for an attribute that it has deprecated
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")

SMALL: dict[str, Any] = {
    "batch_size": 12,
    "hidden_dim": 16,
    "embed_dim": 8,
    "ood_embed_dim": 4,
    "teacher_epochs": 1,
    "n_synthetic_step": 2,
    "cls_weight": 0.1,
    "embedding_weight": 0.05,
    "label_weight": 0.2,
    "ood_weight": 0.02,
    "generator_d3_weight": 0.1,
}
ADVERSARIAL = {"gcls_weight": 0.01, "critic_steps": 2}
CASES: dict[str, dict[str, Any]] = {
    "gan": ADVERSARIAL,
    "cegan": {**ADVERSARIAL, "contrast_dim": 8, "projection_dim": 4, "relation_dim": 8},
    "vaegan": {**ADVERSARIAL, "decoder_dim": 8},
    "vae": {"output_noise": 0.1},
    "diffusion": {"diffusion_steps": 4, "guidance": 1.0, "semantics_noise": 0.1, "min_snr": True},
}
# what brings a value, or a shape that depends on values, from the device to the host
WAITS = {
    "aten::_local_scalar_dense",
    "aten::is_nonzero",
    "aten::item",
    "aten::equal",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
    "aten::repeat_interleave.Tensor",
}


# with a mask it looks for the places that are set
INDEX = {"aten::index.Tensor", "aten::index_put", "aten::index_put_"}


class Waits(TorchDispatchMode):
    """Notes every operation for which a host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the operation and carry it out."""
        name = function.name()
        self.operations += 1
        masks = [index for index in args[1] if index is not None and index.dtype == torch.bool] if name in INDEX else []
        if masks or name in WAITS or name.removesuffix("." + function._overloadname) in WAITS:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def make(name: str, data: Tensors, **values: Any) -> Training:
    entry = load_backbone(name)
    return Training(data, entry, entry.config(**{**SMALL, **CASES[name], **values}), seed=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("fidelity", ["reconstructed", "official"])
def test_a_step_waits_for_no_number(name: str, fidelity: str, hanzi_slice: Tensors) -> None:
    training = make(name, hanzi_slice, fidelity=fidelity)
    with Waits() as waits:
        training.advance(3)
    assert waits.operations > 100
    assert waits.found == []


def test_the_guard_notices_what_waits() -> None:
    x = torch.arange(3)
    for wait in (lambda: x[0].item(), lambda: bool(x[0] > 0), lambda: x[x > 1], lambda: x.nonzero(), x.unique):
        with Waits() as waits:
            wait()
        assert waits.found != []


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    torch.compiler.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager")


def assert_same(module: nn.Module, function: Callable[..., Any], trained: list[nn.Parameter], *arguments: Any) -> None:
    """Compiled in one graph it has the same value, parts and gradients."""
    # running figures, which every call moves on
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = []
    for call in (function, compiled(function)):
        module.load_state_dict(before)
        total, parts = call(*arguments)
        gradients = torch.autograd.grad(total, trained, allow_unused=True)
        found.append([total.detach(), *parts.values(), *(gradient for gradient in gradients if gradient is not None)])
    assert len(found[0]) == len(found[1]) > 4
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", CASES)
def test_the_loss_of_an_update_is_one_graph(name: str, precision: str, hanzi_slice: Tensors) -> None:
    training = make(name, hanzi_slice, precision=precision)
    backbone, rng = training.backbone, torch.Generator().manual_seed(1)
    batch = training._draw_batch()
    drawn, noise = backbone.draw(len(batch.y), rng), backbone.draw_noise(len(training._step_y), rng)
    trained = [*backbone.generator_parameters(), *training.student.parameters()]
    assert_same(backbone, training._joint_loss, trained, batch, drawn, noise)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["gan", "cegan", "vaegan"])
def test_the_loss_of_a_critic_step_is_one_graph(name: str, precision: str, hanzi_slice: Tensors) -> None:
    training = make(name, hanzi_slice, precision=precision)
    backbone, rng = training.backbone, torch.Generator().manual_seed(1)
    assert isinstance(backbone, AdversarialBackbone)
    batch = training._draw_batch()
    with torch.no_grad():
        fake = backbone.generate(backbone.draw_noise(len(batch.y), rng), batch.a)
    assert_same(backbone, backbone.critic_loss, backbone.critic_parameters(), batch, fake, torch.rand(len(fake), 1))

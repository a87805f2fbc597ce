"""``precision: bf16``: the products of generator and critic are rounded, and nothing else is."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from d3tune.data.tensors import Tensors
from d3tune.method.generators import load_backbone
from d3tune.method.parted import affine, parted_linear, product, wasserstein_and_penalty
from d3tune.method.training import Training

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
    "cls_weight": 0.1,
    "embedding_weight": 0.05,
    "label_weight": 0.2,
    "ood_weight": 0.02,
}
CASES: dict[str, dict[str, Any]] = {
    "gan": {"critic_steps": 2},
    "cegan": {"critic_steps": 2, "contrast_dim": 8, "projection_dim": 4, "relation_dim": 8},
    "vaegan": {"critic_steps": 2, "decoder_dim": 8},
    "vae": {},
    "diffusion": {"diffusion_steps": 4},
}
PRODUCTS = {"aten::mm", "aten::addmm"}
# rounding itself, and other views of the same numbers
SAME_NUMBERS = {"aten::_to_copy", "aten::t", "aten::transpose.int", "aten::slice.Tensor", "aten::detach", "aten::alias"}


def make(name: str, data: Tensors, **values: Any) -> Training:
    entry = load_backbone(name)
    return Training(data, entry, entry.config(**{**SMALL, **CASES[name], **values}), seed=0)  # type: ignore[arg-type]


class Rounded(TorchDispatchMode):
    """Notes which operations read rounded numbers, and how many products do and do not."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[str] = set()
        self.products = {torch.bfloat16: 0, torch.float32: 0}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the operation and carry it out."""
        types_read = {leaf.dtype for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        if torch.bfloat16 in types_read:
            self.readers.add(function.name())
        if function.name() in PRODUCTS:
            self.products[torch.bfloat16 if torch.bfloat16 in types_read else torch.float32] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", CASES)
def test_only_products_of_generator_and_critic_are_rounded(name: str, hanzi_slice: Tensors) -> None:
    exact, rounded = Rounded(), Rounded()
    with exact:
        make(name, hanzi_slice).advance(2)
    training = make(name, hanzi_slice, precision="bf16")
    with rounded:
        training.advance(2)
    assert exact.readers == set()
    assert rounded.readers & PRODUCTS
    assert rounded.readers <= PRODUCTS | SAME_NUMBERS
    # teacher, student and the losses have theirs still
    assert rounded.products[torch.bfloat16] > 5
    assert 0 < rounded.products[torch.float32] < exact.products[torch.float32]
    kinds = {tensor.dtype for tensor in training.state_dict().values() if tensor.is_floating_point()}
    assert kinds == {torch.float32}


@pytest.mark.parametrize("name", CASES)
def test_it_trains_to_nearly_the_same(name: str, hanzi_slice: Tensors) -> None:
    *_, exact = make(name, hanzi_slice).evaluations()
    *_, rounded = make(name, hanzi_slice, precision="bf16").evaluations()
    assert exact.losses != rounded.losses
    for loss, value in exact.losses.items():
        assert rounded.losses[loss] == pytest.approx(value, rel=0.05, abs=0.02), loss


def whole(*shape: int, seed: int) -> Tensor:
    """Small whole numbers: their products and sums are bfloat16 numbers too."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(-2, 3, shape, generator=rng).float()


def test_what_needs_no_rounding_is_exact() -> None:
    """The rounded forms are the same formulas as the exact ones, gradients included."""
    x, a, index = whole(6, 5, seed=0).requires_grad_(), whole(4, 3, seed=1).requires_grad_(), torch.tensor([2, 0, 2, 1])
    weight, bias = whole(7, 8, seed=2).requires_grad_(), whole(7, seed=3).requires_grad_()
    inputs, toward = (x, a, weight, bias), whole(4, 7, seed=4)
    found = []
    for dtype in (None, torch.bfloat16):
        y = parted_linear(x[:4], a, index, weight, bias, dtype)
        found.append([y, *torch.autograd.grad(y, inputs, toward)])
    assert all(torch.equal(exact, rounded) for exact, rounded in zip(*found, strict=True))
    plain = affine(x[:, :5], weight[:, :5], bias, None)
    assert torch.equal(plain, affine(x[:, :5], weight[:, :5], bias, torch.bfloat16))
    third = torch.full((1, 1), 1 / 3)
    assert float(product(third, torch.ones(1, 1), torch.bfloat16)) == 0.333984375


def test_the_rounded_critic_is_the_exact_one_on_rounded_numbers() -> None:
    rng = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    real, fake, a, mix = some(64, 24), some(64, 24), some(64, 6), some(64, 1).sigmoid()
    parameters = [some(32, 30), some(32), some(1, 32), some(1)]
    found = []
    for dtype in (None, torch.bfloat16):
        own = [parameter.clone().requires_grad_() for parameter in parameters]
        difference, penalty = wasserstein_and_penalty(real, fake, a, None, mix, *own, dtype)
        gradients = torch.autograd.grad(difference + penalty, own)
        found.append([difference.detach(), penalty.detach(), *gradients])
    for exact, rounded in zip(*found, strict=True):
        assert rounded.dtype == torch.float32
        error = (rounded - exact).norm() / exact.norm().clamp(min=1)
        assert error < 0.02

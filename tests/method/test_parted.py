"""Layers in two parts against the plain layer of [x; a] and autograd, in double precision."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from d3tune.method.parted import parted_linear, rows_of, wasserstein_and_penalty

B, X, A, H, C = 6, 5, 3, 7, 4
INDEX = torch.tensor([2, 0, 2, 1, 2, 0])


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer() -> tuple[Tensor, Tensor]:
    return some(H, X + A, seed=1).requires_grad_(), some(H, seed=2).requires_grad_()


def test_few_classes_are_read_once_and_many_are_not() -> None:
    table = some(C, A)
    found, index = rows_of(table, INDEX)
    assert found is table
    assert index is INDEX
    rows, nothing = rows_of(table, INDEX[:C])
    assert torch.equal(rows, table[INDEX[:C]])
    assert nothing is None


@pytest.mark.parametrize("by_class", [True, False])
def test_a_parted_layer_is_the_plain_one(by_class: bool) -> None:
    x, table = some(B, X).requires_grad_(), some(C, A, seed=3).requires_grad_()
    weight, bias = layer()
    inputs = (x, table, weight, bias)
    found = parted_linear(x, *((table, INDEX) if by_class else (table[INDEX], None)), weight, bias)
    plain = F.linear(torch.cat([x, table[INDEX]], dim=1), weight, bias)
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)
    toward = some(B, H, seed=4)
    expected = torch.autograd.grad(plain, inputs, toward)
    torch.testing.assert_close(torch.autograd.grad(found, inputs, toward), expected, rtol=1e-10, atol=1e-12)


def test_what_needs_no_gradient_gets_none() -> None:
    weight, bias = layer()
    x = some(B, X).requires_grad_()
    y = parted_linear(x, some(C, A), INDEX, weight.detach(), bias.detach())
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is None
    torch.testing.assert_close(x.grad, weight[:, :X].sum(dim=0).expand(B, X).detach())


@pytest.mark.parametrize("by_class", [True, False])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (0.7, 10.0)])
def test_the_critics_loss_is_that_of_double_backward(weights: tuple[float, float], by_class: bool) -> None:
    real, fake, table, mix = some(B, X), some(B, X, seed=5), some(C, A, seed=6), some(B, 1, seed=7).sigmoid()
    parameters = (*layer(), some(1, H, seed=8).requires_grad_(), some(1, seed=9).requires_grad_())
    semantics = (table, INDEX) if by_class else (table[INDEX], None)
    found = wasserstein_and_penalty(real, fake, *semantics, mix, *parameters)

    def critic(x: Tensor) -> Tensor:
        weight, bias, output, output_bias = parameters
        hidden = F.leaky_relu(F.linear(torch.cat([x, table[INDEX]], dim=1), weight, bias), 0.2)
        return F.linear(hidden, output, output_bias)

    between = (mix * real + (1 - mix) * fake).requires_grad_()
    (slopes,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    plain = (critic(fake).mean() - critic(real).mean(), (slopes.norm(dim=1) - 1).square().mean())
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)
    mine, textbook = (sum(w * part for w, part in zip(weights, parts, strict=True)) for parts in (found, plain))
    gradients = torch.autograd.grad(mine, parameters)  # type: ignore[arg-type]
    expected = torch.autograd.grad(textbook, parameters, materialize_grads=True)  # type: ignore[arg-type]
    torch.testing.assert_close(gradients, expected, rtol=1e-10, atol=1e-12)


def test_a_critic_that_is_zero_everywhere_has_a_finite_gradient() -> None:
    weight, bias = layer()
    output = torch.zeros(1, H, dtype=torch.float64, requires_grad=True)
    arguments = (some(B, X), some(B, X, seed=5), some(B, A), None, torch.full((B, 1), 0.5, dtype=torch.float64))
    parameters = (weight, bias, output, torch.zeros(1, dtype=torch.float64, requires_grad=True))
    difference, penalty = wasserstein_and_penalty(*arguments, *parameters)
    assert (difference.item(), penalty.item()) == (0.0, 1.0)
    for gradient in torch.autograd.grad(difference + penalty, parameters):
        assert torch.isfinite(gradient).all()

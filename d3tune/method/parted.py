"""Linear layers that read a row beside its class's semantics, [x; a], in two parts; with gradients derived by hand.

All take a type for their products, see `product`; None is that of their arguments.

Autograd would slice the weight, compute a gradient for each slice and use, add the uses up and put the slices together
again: for a layer of 4096 × 3072 these copies take longer than the products of a batch of 64.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SLOPE = 0.2
# values of rows (B, …) and None, or by class (C, …) and each row's place (B,) in them
Rows = tuple[Tensor, Tensor | None]


def rows_of(table: Tensor, index: Tensor) -> Rows:
    """What `parted_linear` should read for ``table[index]``: the table itself where it has fewer rows.

    Args:
        table: (C, A) semantics of classes.
        index: (B,) the rows' classes.

    Returns:
        Semantics (C, A) and the index into them, or semantics (B, A) and None.
    """
    return (table, index) if len(table) < len(index) else (table[index], None)


def spread(by_class: Tensor, index: Tensor | None) -> Tensor:
    """Rows (B, d) of what was computed by class (C, d); without an index they are rows already."""
    return by_class if index is None else by_class.index_select(0, index)


def product(left: Tensor, right: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Matrix product of factors rounded to a type, e.g. bfloat16, as the type that they had.

    Args:
        left: (B, K).
        right: (K, H).
        dtype: None rounds nothing.
    """
    return left @ right if dtype is None else (left.to(dtype) @ right.to(dtype)).to(left.dtype)


def affine(x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Wx + b of rows (B, X), the product as `product` makes it."""
    return F.linear(x, weight, bias) if dtype is None else product(x, weight.T, dtype) + bias


def linear_parts(
    x: Tensor, a: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """The two terms of W[x; a] + b: p = W_x x and q = W_a a + b, of rows that need not belong together.

    With G and G' their gradients: ∂W = [Gᵀx, G'ᵀa], each product written into its columns; ∂x = GW_x, ∂a = G'W_a.

    Args:
        x: (B, X).
        a: (C, A).
        weight: W, (H, X + A).
        bias: b, (H,).
        dtype: of the products.

    Returns:
        p (B, H) and q (C, H).
    """
    p, q = _LinearParts.apply(x, a, weight, bias, dtype)  # type: ignore[no-untyped-call]
    return p, q


def parted_linear(
    x: Tensor, a: Tensor, index: Tensor | None, weight: Tensor, bias: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """W[x; a_index] + b, the semantics' term once a class.

    Args:
        x: (B, X).
        a: (C, A), or (B, A) without an index.
        index: (B,) rows of ``a``, or None.
        weight: W, (H, X + A).
        bias: b, (H,).
        dtype: of the products.

    Returns:
        (B, H).
    """
    p, q = linear_parts(x, a, weight, bias, dtype)
    return p + spread(q, index)


def wasserstein_and_penalty(
    real: Tensor,
    fake: Tensor,
    a: Tensor,
    index: Tensor | None,
    mix: Tensor,
    weight: Tensor,
    bias: Tensor,
    output: Tensor,
    output_bias: Tensor,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """E[D(fake)] − E[D(real)] and the gradient penalty of a critic D(x, a) = w₂·LeakyReLU(.2)(W[x; a] + b) + b₂.

    The penalty needs ∇ₓD at x̄ = u·real + (1 − u)·fake. Both share a and the bias, and the hidden layer is linear before
    its activation, so the pre-activation at x̄ is u·pre(real) + (1 − u)·pre(fake): no third forward pass. With one
    LeakyReLU layer ∇ₓD = s W_x with s = w₂ ⊙ slope, where slope is 1 or .2 by the sign of that pre-activation and has
    derivative 0 almost everywhere: no double backward pass either. b₂ cancels.

    Gradients: of the difference, ±w₂ ⊙ slope/B for each pre-activation P; of the penalty P̄ = mean (‖g‖ − 1)² with
    g = s W_x, ∂g = 2(‖g‖ − 1)/(B‖g‖)·g, and from there ∂W_x = sᵀ∂g and ∂w₂ = Σ slope ⊙ (∂g W_xᵀ). Both parts of
    ∂W_x are one product, [∂P; s]ᵀ[x; ∂g].

    Args:
        real: (B, X).
        fake: (B, X), no gradient.
        a: (C, A) semantics, or (B, A) without an index; no gradient.
        index: (B,) rows of ``a``, or None.
        mix: u, (B, 1) in [0, 1].
        weight: W, (H, X + A).
        bias: b, (H,).
        output: w₂, (1, H).
        output_bias: b₂, (1,); its gradient is 0.
        dtype: of the products.

    Returns:
        Two scalars.
    """
    arguments = (real, fake, a, index, mix, weight, bias, output, output_bias, dtype)
    difference, penalty = _WassersteinAndPenalty.apply(*arguments)  # type: ignore[no-untyped-call]
    return difference, penalty


class _LinearParts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype | None
    ) -> tuple[Tensor, Tensor]:
        n, ctx.dtype = x.shape[1], dtype
        ctx.save_for_backward(x, a, weight)
        return product(x, weight[:, :n].T, dtype), affine(a, weight[:, n:], bias, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, a, weight = ctx.saved_tensors
        (g, g_a), n, dtype = gradients, x.shape[1], ctx.dtype
        to_x = product(g, weight[:, :n], dtype) if ctx.needs_input_grad[0] else None
        to_a = product(g_a, weight[:, n:], dtype) if ctx.needs_input_grad[1] else None
        to_weight = to_bias = None
        if ctx.needs_input_grad[2]:
            to_weight = _beside(weight, n, (g, x), (g_a, a), dtype)
        if ctx.needs_input_grad[3]:
            to_bias = g_a.sum(dim=0)
        return to_x, to_a, to_weight, to_bias, None


class _WassersteinAndPenalty(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        real: Tensor,
        fake: Tensor,
        a: Tensor,
        index: Tensor | None,
        mix: Tensor,
        weight: Tensor,
        bias: Tensor,
        output: Tensor,
        output_bias: Tensor,
        dtype: torch.dtype | None,
    ) -> tuple[Tensor, Tensor]:
        (b, n), ctx.dtype = real.shape, dtype
        x, weight_x = torch.cat([real, fake]), weight[:, :n]
        shared = spread(affine(a, weight[:, n:], bias, dtype), index)
        pre = product(x, weight_x.T, dtype).view(2, b, -1).add_(shared)
        means = F.leaky_relu(pre, SLOPE).mean(dim=1)
        apart = means[1] - means[0]
        at_mix = torch.lerp(pre[1], pre[0], mix)
        scaled = _sloped(output, at_mix)
        g = product(scaled, weight_x, dtype)
        norm = g.norm(dim=1, keepdim=True)
        ctx.save_for_backward(x, a, index, weight, output, pre, apart, at_mix, scaled, g, norm)
        return output[0] @ apart, (norm - 1).square().mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, a, index, weight, output, pre, apart, at_mix, scaled, g, norm = ctx.saved_tensors
        (of_difference, of_penalty), dtype = gradients, ctx.dtype
        b, n = g.shape
        to_pre = _sloped(output * (of_difference / b), pre)
        to_pre[0].neg_()
        # at g = 0 the norm has no gradient; autograd takes 0
        to_g = g * torch.where(norm > 0, 2 * (norm - 1) / (b * norm), 0.0)
        to_scaled = of_penalty * product(to_g, weight[:, :n].T, dtype)
        to_output = of_difference * apart + _sloped(to_scaled, at_mix).sum(dim=0)
        to_shared = to_pre.sum(dim=0)
        left, right = torch.cat([to_pre.flatten(0, 1), of_penalty * scaled]), torch.cat([x, to_g])
        to_weight = _beside(weight, n, (left, right), (_gathered(to_shared, index, len(a)), a), dtype)
        return None, None, None, None, None, to_weight, to_shared.sum(dim=0), to_output[None], g.new_zeros(1), None


def _sloped(value: Tensor, pre: Tensor) -> Tensor:
    """A value times the slope of LeakyReLU at a pre-activation."""
    return torch.where(pre > 0, value, SLOPE * value)


def _gathered(by_row: Tensor, index: Tensor | None, n_classes: int) -> Tensor:
    """Sums by class, the gradient of `spread`."""
    if index is None:
        return by_row
    return by_row.new_zeros(n_classes, by_row.shape[1]).index_add_(0, index, by_row)


def _beside(
    weight: Tensor,
    n: int,
    left: tuple[Tensor, Tensor],
    right: tuple[Tensor, Tensor],
    dtype: torch.dtype | None,
) -> Tensor:
    """[lᵀl', rᵀr'], each product written into its columns."""
    both = torch.empty_like(weight)
    if dtype is not None:
        both[:, :n], both[:, n:] = product(left[0].T, left[1], dtype), product(right[0].T, right[1], dtype)
        return both
    both[:, :n].addmm_(left[0].T, left[1], beta=0)
    both[:, n:].addmm_(right[0].T, right[1], beta=0)
    return both

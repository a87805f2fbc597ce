"""The D³ terms against their formulas in plain float64 loops, and their gradients against differences."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from d3tune.method.distillation import (
    OodGates,
    OodProjector,
    embedding_loss,
    label_loss,
    ood_score,
    outlier_loss,
    pair_loss,
    pair_similarity,
    scale_gradient,
)

Array = npt.NDArray[np.float64]
EPS = 1e-4
SCORES = ("msp", "energy", "maxlogit", "entropy")
PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=["float32", "float64"]
)


# --- the formulas, slowly


def slow_similarity(a: Array, b: Array) -> Array:
    result = np.zeros((len(a), len(b)))
    for i in range(len(a)):
        for j in range(len(b)):
            norm_a = max(math.sqrt(sum(value**2 for value in a[i])), 1e-8)
            norm_b = max(math.sqrt(sum(value**2 for value in b[j])), 1e-8)
            cosine = sum(p * q for p, q in zip(a[i], b[j], strict=True)) / (norm_a * norm_b)
            result[i, j] = EPS + (1 - 2 * EPS) * (1 + cosine) / 2
    return result


def slow_pair_loss(similarity: Array, labels: list[int], balance: bool) -> float:
    positives, negatives = [], []
    for i, row in enumerate(labels):
        for j, column in enumerate(labels):
            if row == column:
                positives.append(-math.log(similarity[i, j]))
            else:
                negatives.append(-math.log(1 - similarity[i, j]))
    if not balance:
        return sum(positives + negatives) / len(labels) ** 2
    mean_negative = sum(negatives) / len(negatives) if negatives else 0.0
    return 0.5 * sum(positives) / len(positives) + 0.5 * mean_negative


def slow_softmax(v: Array) -> Array:
    result = np.zeros_like(v)
    for i, row in enumerate(v):
        exponentials = [math.exp(value - max(row)) for value in row]
        result[i] = [value / sum(exponentials) for value in exponentials]
    return result


def slow_label_loss(teacher_v: Array, student_v: Array, temperature: float) -> float:
    p = slow_softmax(teacher_v / temperature)
    q = slow_softmax(student_v[:, : teacher_v.shape[1]] / temperature)
    total = 0.0
    for i in range(len(p)):
        for c in range(p.shape[1]):
            total += p[i, c] * (math.log(p[i, c]) - math.log(q[i, c]))
    return temperature**2 * total / len(p)


def slow_ood_score(v: Array, kind: str) -> Array:
    p = slow_softmax(v)
    scores = []
    for logits, row in zip(v, p, strict=True):
        if kind == "msp":
            scores.append(math.log(max(row)))
        elif kind == "energy":
            scores.append(max(logits) + math.log(sum(math.exp(value - max(logits)) for value in logits)))
        elif kind == "maxlogit":
            scores.append(max(logits))
        else:
            scores.append(sum(value * math.log(value) for value in row))
    return np.array(scores)


def slow_gates(score: Array, weight: Array, shift: Array, mean: float, sd: float) -> Array:
    rows = []
    for s in score:
        gates = [1 / (1 + math.exp(-w * ((s - mean) / sd + b))) for w, b in zip(weight, shift, strict=True)]
        rows.append(gates + [1 - gate for gate in gates])
    return np.array(rows)


# --- comparing


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    return scale * np.random.default_rng(seed).normal(size=shape)


def tensor(array: Array, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(array, dtype=dtype)


def assert_close(found: Tensor, expected: Array | float, relative: float) -> None:
    np.testing.assert_allclose(found.detach().double().numpy(), expected, rtol=relative, atol=relative * 1e-2)


def rounded(array: Array, dtype: torch.dtype) -> Array:
    """What a tensor of that precision really holds."""
    return tensor(array, dtype).double().numpy()


def central_difference(function: Callable[[Array], float], at: Array, step: float = 1e-6) -> Array:
    gradient = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        up, down = at.copy(), at.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (function(up) - function(down)) / (2 * step)
    return gradient


# --- pair similarity and pair loss


@PRECISIONS
def test_pair_similarity(dtype: torch.dtype, tolerance: float) -> None:
    a, b = normal(5, 4, seed=1), normal(7, 4, seed=2)
    found = pair_similarity(tensor(a, dtype), tensor(b, dtype))
    assert found.shape == (5, 7)
    assert_close(found, slow_similarity(rounded(a, dtype), rounded(b, dtype)), tolerance)


def test_pair_similarity_is_squeezed_into_the_open_interval() -> None:
    a = tensor(np.array([[1.0, 0.0]]))
    b = tensor(np.array([[3.0, 0.0], [-2.0, 0.0], [0.0, 5.0]]))
    np.testing.assert_allclose(pair_similarity(a, b).numpy(), [[1 - EPS, EPS, 0.5]], atol=1e-15)


def test_pair_similarity_of_a_zero_vector_is_neutral() -> None:
    a = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    similarity = pair_similarity(a, a)
    assert similarity[0].tolist() == [0.5, 0.5]
    assert torch.isfinite(pair_loss(similarity, torch.tensor([0, 1]), balance=True))


def test_pair_similarity_divides_a_tiny_vector_by_the_cosine_eps() -> None:
    a, b = np.array([[3e-9, 4e-9]]), np.array([[1.0, 0.0]])
    # the norm 5e-9 counts as 1e-8, so that the cosine is .3 and not .6
    assert pair_similarity(tensor(a), tensor(b)).item() == pytest.approx(EPS + (1 - 2 * EPS) * 0.65, abs=1e-12)


@PRECISIONS
@pytest.mark.parametrize("balance", [True, False])
@pytest.mark.parametrize("labels", [[0, 1, 0, 2, 1, 1], [3, 3, 3, 3, 3, 3], [0, 1, 2, 3, 4, 5]])
def test_pair_loss(labels: list[int], balance: bool, dtype: torch.dtype, tolerance: float) -> None:
    similarity = rounded(np.random.default_rng(3).uniform(0.05, 0.95, size=(6, 6)), dtype)
    found = pair_loss(tensor(similarity, dtype), torch.tensor(labels), balance)
    assert_close(found, slow_pair_loss(similarity, labels, balance), tolerance)


def test_pair_loss_of_one_class_has_only_positives() -> None:
    similarity = torch.full((4, 4), 0.25, dtype=torch.float64)
    labels = torch.zeros(4, dtype=torch.int64)
    assert pair_loss(similarity, labels, balance=False).item() == pytest.approx(math.log(4))
    assert pair_loss(similarity, labels, balance=True).item() == pytest.approx(math.log(4) / 2)


def test_pair_loss_balance_makes_the_shares_independent_of_the_counts() -> None:
    """Eleven classes of one row and of three rows: balanced, the loss stays; plain, negatives prevail."""
    for copies in (1, 3):
        labels = torch.arange(11).repeat_interleave(copies)
        same = labels[:, None] == labels[None, :]
        similarity = torch.where(same, 0.5, 0.75).double()
        expected = 0.5 * math.log(2) + 0.5 * math.log(4)
        assert pair_loss(similarity, labels, balance=True).item() == pytest.approx(expected)
        plain = (math.log(2) + 10 * math.log(4)) / 11
        assert pair_loss(similarity, labels, balance=False).item() == pytest.approx(plain)


# --- the four terms


@PRECISIONS
@pytest.mark.parametrize("balance", [True, False])
@pytest.mark.parametrize("loss", [embedding_loss, outlier_loss])
def test_pair_terms(loss: Callable[..., Tensor], balance: bool, dtype: torch.dtype, tolerance: float) -> None:
    first, second, labels = normal(6, 4, seed=4), normal(6, 4, seed=5), [0, 1, 0, 2, 1, 1]
    found = loss(tensor(first, dtype), tensor(second, dtype), torch.tensor(labels), balance)
    similarity = slow_similarity(rounded(first, dtype), rounded(second, dtype))
    assert_close(found, slow_pair_loss(similarity, labels, balance), tolerance)


@PRECISIONS
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_label_loss(temperature: float, dtype: torch.dtype, tolerance: float) -> None:
    teacher_v, student_v = normal(5, 4, seed=8, scale=2), normal(5, 7, seed=9, scale=2)
    found = label_loss(tensor(teacher_v, dtype), tensor(student_v, dtype), temperature)
    expected = slow_label_loss(rounded(teacher_v, dtype), rounded(student_v, dtype), temperature)
    assert_close(found, expected, tolerance)


def test_label_loss_is_zero_for_equal_logits_and_does_not_read_unseen_ones() -> None:
    teacher_v = tensor(normal(5, 4, seed=10))
    unseen = tensor(normal(5, 3, seed=11, scale=50))
    student_v = torch.cat([teacher_v + 7.0, unseen], dim=1)
    assert label_loss(teacher_v, student_v, 2.0).item() == pytest.approx(0.0, abs=1e-12)


def test_label_loss_gradient_keeps_its_size_at_high_temperature() -> None:
    """T² makes the limit (v^ − v~, both centred)·/N_s, as Hinton et al. have it."""
    teacher_v, student_v = tensor(normal(6, 4, seed=12)), tensor(normal(6, 4, seed=13)).requires_grad_()
    label_loss(teacher_v, student_v, 1e4).backward()
    difference = student_v.detach() - teacher_v
    expected = (difference - difference.mean(dim=1, keepdim=True)) / 4 / 6
    assert student_v.grad is not None
    np.testing.assert_allclose(student_v.grad.numpy(), expected.numpy(), rtol=1e-2, atol=1e-4)


@PRECISIONS
@pytest.mark.parametrize("kind", SCORES)
def test_ood_score(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    v = normal(6, 5, seed=14, scale=3)
    found = ood_score(tensor(v, dtype), kind)  # type: ignore[arg-type]
    assert_close(found, slow_ood_score(rounded(v, dtype), kind), tolerance)


@pytest.mark.parametrize("kind", SCORES)
def test_ood_score_is_higher_for_a_sure_teacher_and_finite_for_large_logits(kind: str) -> None:
    sure, unsure = torch.tensor([[9.0, 0, 0]]), torch.tensor([[3.0, 3, 3]])
    score = ood_score(torch.cat([sure, unsure, 1e4 * sure]), kind)  # type: ignore[arg-type]
    assert score[0] > score[1]
    assert torch.isfinite(score).all()


@PRECISIONS
@pytest.mark.parametrize("log_input", [False, True])
def test_projector(log_input: bool, dtype: torch.dtype, tolerance: float) -> None:
    projector = OodProjector(5, 4, log_input, torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        projector.layer.bias.copy_(torch.arange(4))
    v = normal(6, 5, seed=15)
    p = slow_softmax(rounded(v, dtype))
    weight, bias = (value.detach().double().numpy() for value in projector.parameters())
    expected = (np.log(p) if log_input else p) @ weight.T + bias
    assert_close(projector(tensor(v, dtype)), expected, tolerance)


# --- gates


def test_two_gates_take_the_raw_score() -> None:
    gates = OodGates(2, None).double()
    score = normal(9, seed=16, scale=3)
    expected = slow_gates(score, np.ones(1), np.zeros(1), 0.0, 1.0)
    assert_close(gates(tensor(score)), expected, 1e-10)
    assert sorted(name for name, _ in gates.named_parameters()) == ["shift", "weight"]


@pytest.mark.parametrize("n_gates", [2, 4])
def test_many_gates_are_set_by_held_out_scores(n_gates: int) -> None:
    held_out = np.random.default_rng(17).gamma(2.0, 3.0, size=201) - 40
    gates = OodGates(2 * n_gates, tensor(held_out))
    score = normal(9, seed=18, scale=4) - 35
    mean, sd = held_out.mean(), held_out.std(ddof=1)
    levels = [(2 * k - 1) / (2 * n_gates) for k in range(1, n_gates + 1)]
    shift = -np.quantile((held_out - mean) / sd, levels)
    found = gates(tensor(score, torch.float32))
    assert found.shape == (9, 2 * n_gates)
    np.testing.assert_allclose(
        found.detach().numpy(), slow_gates(score, np.ones(n_gates), shift, mean, sd), rtol=1e-4, atol=1e-5
    )


def test_gate_k_is_half_open_at_its_quantile() -> None:
    held_out = np.random.default_rng(19).exponential(size=101)
    n_gates = 4
    gates = OodGates(2 * n_gates, tensor(held_out))
    quantiles = np.quantile(held_out, [(2 * k - 1) / (2 * n_gates) for k in range(1, n_gates + 1)])
    found = gates(tensor(quantiles, torch.float32))
    np.testing.assert_allclose(found[:, :n_gates].diagonal().detach().numpy(), 0.5, atol=1e-5)


@pytest.mark.parametrize("dim", [2, 8])
def test_gates_and_their_complements_sum_to_one_and_rise_with_the_score(dim: int) -> None:
    gates = OodGates(dim, torch.linspace(-3, 1, 50))
    found = gates(torch.linspace(-5, 5, 30))
    gate, complement = found.chunk(2, dim=1)
    torch.testing.assert_close(gate + complement, torch.ones_like(gate))
    assert (gate.diff(dim=0) > 0).all()
    assert all(parameter.requires_grad for parameter in gates.parameters())


@PRECISIONS
def test_gates_follow_their_learnt_weight_and_shift(dtype: torch.dtype, tolerance: float) -> None:
    gates = OodGates(2, None).to(dtype)
    with torch.no_grad():
        gates.weight.fill_(0.5)
        gates.shift.fill_(2.0)
    score = normal(7, seed=20, scale=3)
    expected = slow_gates(rounded(score, dtype), np.array([0.5]), np.array([2.0]), 0.0, 1.0)
    assert_close(gates(tensor(score, dtype)), expected, tolerance)


# --- gradients


def test_embedding_loss_gradient_is_the_central_difference_of_the_formula() -> None:
    teacher, student, labels = normal(4, 3, seed=21), normal(4, 3, seed=22), [0, 1, 0, 2]
    leaf = tensor(student).requires_grad_()
    embedding_loss(tensor(teacher), leaf, torch.tensor(labels), True).backward()
    expected = central_difference(lambda z: slow_pair_loss(slow_similarity(teacher, z), labels, True), student)
    assert leaf.grad is not None
    np.testing.assert_allclose(leaf.grad.numpy(), expected, rtol=1e-6, atol=1e-8)


def test_label_loss_gradient_is_the_central_difference_of_the_formula() -> None:
    teacher, student = normal(3, 3, seed=23), normal(3, 5, seed=24)
    leaf = tensor(student).requires_grad_()
    label_loss(tensor(teacher), leaf, 2.5).backward()
    expected = central_difference(lambda v: slow_label_loss(teacher, v, 2.5), student)
    assert leaf.grad is not None
    np.testing.assert_allclose(leaf.grad.numpy(), expected, rtol=1e-6, atol=1e-8)


def test_the_worst_pairs_keep_their_gradient() -> None:
    """All but opposite vectors of one class: a clamp at 1e-4 would be flat here."""
    teacher, student = np.array([[1.0, 0.0]]), np.array([[-1.0, 1e-3]])
    leaf = tensor(student).requires_grad_()
    embedding_loss(tensor(teacher), leaf, torch.tensor([0]), False).backward()
    expected = central_difference(lambda z: slow_pair_loss(slow_similarity(teacher, z), [0], False), student)
    assert leaf.grad is not None
    assert abs(expected[0, 1]) > 1
    np.testing.assert_allclose(leaf.grad.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("balance", [True, False])
def test_gradcheck_of_the_pair_terms(balance: bool) -> None:
    first, second = (tensor(normal(5, 3, seed=seed)).requires_grad_() for seed in (25, 26))
    labels = torch.tensor([0, 1, 0, 2, 1])
    assert torch.autograd.gradcheck(lambda a, b: outlier_loss(a, b, labels, balance), (first, second))


@pytest.mark.parametrize("kind", SCORES)
def test_gradcheck_through_score_and_gates(kind: str) -> None:
    gates = OodGates(6, torch.linspace(-4, 1, 40)).double()
    v = tensor(normal(4, 5, seed=27)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, w, b: torch.func.functional_call(
            gates,
            {"weight": w, "shift": b},
            (ood_score(x, kind),),  # type: ignore[arg-type]
        ),
        (v, gates.weight, gates.shift),
    )


@pytest.mark.parametrize("log_input", [False, True])
def test_gradcheck_of_the_projector(log_input: bool) -> None:
    projector = OodProjector(4, 2, log_input, torch.Generator().manual_seed(1)).double()
    v = tensor(normal(3, 4, seed=28)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, w, b: torch.func.functional_call(projector, {"layer.weight": w, "layer.bias": b}, (x,)),
        (v, projector.layer.weight, projector.layer.bias),
    )


@pytest.mark.parametrize("factor", [0.0, 0.01, 1.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scale_gradient(factor: float, dtype: torch.dtype) -> None:
    x = tensor(normal(4, 3, seed=29, scale=1e3), dtype).requires_grad_()
    incoming = tensor(normal(4, 3, seed=30), dtype)
    scaled = scale_gradient(x, factor)
    assert torch.equal(scaled, x)
    scaled.backward(incoming)
    assert x.grad is not None
    assert torch.equal(x.grad, incoming * factor)


# --- properties

vectors = st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=2, max_size=6)
quick = settings(max_examples=40, deadline=None, database=None, derandomize=True)


@quick
@given(vectors, st.floats(0.1, 10))
def test_pair_similarity_ignores_lengths_and_stays_inside(rows: list[list[float]], scale: float) -> None:
    a = torch.tensor(rows, dtype=torch.float64)
    a = a[a.norm(dim=1) > 1e-3]
    similarity = pair_similarity(a, a)
    assert ((similarity > EPS / 2) & (similarity < 1 - EPS / 2)).all()
    torch.testing.assert_close(pair_similarity(scale * a, a), similarity)
    torch.testing.assert_close(similarity, similarity.T)


@quick
@given(vectors, vectors, st.floats(0.3, 5))
def test_label_loss_is_never_negative(
    teacher: list[list[float]], student: list[list[float]], temperature: float
) -> None:
    n = min(len(teacher), len(student))
    found = label_loss(
        torch.tensor(teacher[:n], dtype=torch.float64),
        torch.tensor(student[:n], dtype=torch.float64),
        temperature,
    )
    assert found >= -1e-12

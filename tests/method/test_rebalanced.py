"""ReMSE against float64 loops over rows, classes and dimensions."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from d3tune.data.tensors import Tensors
from d3tune.method.generators import load_backbone
from d3tune.method.rebalanced import RebalancedMSE
from d3tune.method.training import start_training

Array = npt.NDArray[np.float64]
CLASSES, DIMENSIONS = 5, 4


class SlowRebalancedMSE:
    """One number at a time; a class that has not occurred has no record."""

    def __init__(self, p: float, p2: float) -> None:
        self.p, self.p2 = p, p2
        self.errors = [[0.0] * DIMENSIONS for _ in range(CLASSES)]

    def weight(self, c: int, s: int) -> float:
        own = self.errors[c][s]
        if own == 0:
            return 1.0
        over_classes = min(max(self.errors[k][s], 1e-6) for k in range(CLASSES) if self.errors[k][s] > 0)
        over_dimensions = min(max(value, 1e-6) for value in self.errors[c] if value > 0)
        first = (1 + np.log(max(own, 1e-6) / over_classes)) ** self.p
        second = (1 + np.log(max(own, 1e-6) / over_dimensions)) ** self.p2
        return float(first * second)

    def __call__(self, predicted: Array, target: Array, labels: list[int]) -> float:
        squared = np.array(
            [
                [(p[s] / np.sqrt(sum(p**2)) - t[s] / np.sqrt(sum(t**2))) ** 2 for s in range(DIMENSIONS)]
                for p, t in zip(predicted, target, strict=True)
            ]
        )
        for c in sorted(set(labels)):
            rows = [row for row, label in zip(squared, labels, strict=True) if label == c]
            self.errors[c] = [float(np.mean([row[s] for row in rows])) for s in range(DIMENSIONS)]
        return float(
            np.mean(
                [self.weight(c, s) * row[s] for row, c in zip(squared, labels, strict=True) for s in range(DIMENSIONS)]
            )
        )


def rows(n: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, DIMENSIONS, generator=generator, dtype=torch.float64).to(dtype)


def targets(labels: list[int], dtype: torch.dtype = torch.float64) -> Tensor:
    return rows(CLASSES, 99, dtype)[torch.tensor(labels)]


def record(loss: RebalancedMSE, labels: list[int], errors: list[list[float]]) -> None:
    """Put given errors on record, whatever the batches were."""
    values = loss.errors.clone()
    for label, row in zip(labels, errors, strict=True):
        values[label] = torch.tensor(row, dtype=values.dtype)
    loss.load_state_dict({"errors": values})


# some classes are absent from some batches, class 4 from all but the last
BATCHES = ([0, 1, 0, 2], [3, 3, 1], [2], [0, 3, 2, 1, 1, 0], [4, 0])
EXPONENTS = [(0.1, 0.1), (1.0, 0.1), (0.1, 0.75), (0.0, 0.5), (2.0, 0.0), (1.0, 1.0)]


@pytest.mark.parametrize(("p", "p2"), EXPONENTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_batches_in_sequence_are_the_slow_loops(p: float, p2: float, dtype: torch.dtype, tolerance: float) -> None:
    loss, slow = RebalancedMSE(CLASSES, DIMENSIONS, p, p2).to(dtype), SlowRebalancedMSE(p, p2)
    for seed, labels in enumerate(BATCHES):
        # of any length: only directions count
        predicted, target = rows(len(labels), seed) * (seed + 0.5), 3 * targets(labels)
        found = loss(predicted.to(dtype), target.to(dtype), torch.tensor(labels))
        expected = slow(predicted.numpy(), target.numpy(), labels)
        assert found.shape == ()
        assert found.item() == pytest.approx(expected, rel=tolerance)
        np.testing.assert_allclose(loss.errors.double().numpy(), slow.errors, rtol=10 * tolerance, atol=1e-9)
        expected_weights = [[slow.weight(c, s) for s in range(DIMENSIONS)] for c in range(CLASSES)]
        np.testing.assert_allclose(loss.weights().double().numpy(), expected_weights, rtol=10 * tolerance)


@pytest.mark.parametrize(("p", "p2"), EXPONENTS)
def test_in_batch_errors_are_those_of_slow_loops_that_begin_anew(p: float, p2: float) -> None:
    loss = RebalancedMSE(CLASSES, DIMENSIONS, p, p2, in_batch=True).double()
    for seed, labels in enumerate(BATCHES):
        predicted, target = rows(len(labels), seed), targets(labels)
        expected = SlowRebalancedMSE(p, p2)(predicted.numpy(), target.numpy(), labels)
        assert loss(predicted, target, torch.tensor(labels)).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("fidelity", ["reconstructed", "official"])
def test_fidelity_says_whether_rezsl_remembers_absent_classes(fidelity: str, hanzi_slice: Tensors) -> None:
    entry = load_backbone("rezsl")
    config = entry.config(**{"updates": 6, "evaluations": 1, "batch_size": 4, "hidden_dim": 8, "fidelity": fidelity})
    training = start_training(entry, hanzi_slice, config, 0)
    training.advance(6)
    known = int((training.state_dict()["remse/errors"].sum(dim=1) > 0).sum())
    assert known <= 4 if fidelity == "official" else known > 4


def test_absent_classes_keep_their_last_error() -> None:
    loss = RebalancedMSE(CLASSES, DIMENSIONS, 1.0, 1.0).double()
    loss(rows(4, 0), targets([0, 1, 2, 2]), torch.tensor([0, 1, 2, 2]))
    before = loss.errors.clone()
    assert before[3:].abs().max() == 0
    loss(rows(2, 1), targets([1, 3]), torch.tensor([1, 3]))
    for c in (0, 2, 4):
        assert torch.equal(loss.errors[c], before[c])
    for c in (1, 3):
        assert not torch.equal(loss.errors[c], before[c])


def test_weights_are_updated_before_use() -> None:
    """The first batch is weighted by its own errors, not by 1."""
    plain, weighted = (RebalancedMSE(CLASSES, DIMENSIONS, p, p).double() for p in (0.0, 1.0))
    inputs = rows(6, 3), targets([0, 1, 2, 3, 4, 0]), torch.tensor([0, 1, 2, 3, 4, 0])
    assert weighted(*inputs) > plain(*inputs)


def test_minima_are_over_what_has_occurred_and_zero_weighs_1() -> None:
    loss = RebalancedMSE(CLASSES, DIMENSIONS, 1.0, 1.0).double()
    record(loss, [0, 1], [[0.2, 0.1, 0.0, 0.4], [0.1, 0.3, 0.0, 0.4]])
    over_classes = np.array([[2, 1, 1, 1], [1, 3, 1, 1]])
    over_dimensions = np.array([[2, 1, 1, 4], [1, 3, 1, 4]])
    expected = np.ones((CLASSES, DIMENSIONS))
    expected[:2] = (1 + np.log(over_classes)) * (1 + np.log(over_dimensions))
    np.testing.assert_allclose(loss.weights().numpy(), expected, rtol=1e-12)


def test_errors_are_floored_at_one_millionth() -> None:
    loss = RebalancedMSE(CLASSES, DIMENSIONS, 1.0, 0.0).double()
    record(loss, [0, 1, 2], [[1e-12, 1e-3, 1e-7, 1e-6], [1e-3, 1e-12, 1e-9, 1e-6], [1e-6, 1e-5, 1e-8, 1e-6]])
    ratios = np.array([[1, 1e3, 1, 1], [1e3, 1, 1, 1], [1, 10, 1, 1]])
    np.testing.assert_allclose(loss.weights()[:3].numpy(), 1 + np.log(ratios), rtol=1e-10)


def test_weights_are_at_least_1_and_1_without_exponents() -> None:
    loss = RebalancedMSE(CLASSES, DIMENSIONS, 0.7, 0.3)
    assert torch.equal(loss.weights(), torch.ones(CLASSES, DIMENSIONS))
    loss(rows(4, 5, torch.float32), targets([0, 1, 2, 3], torch.float32), torch.tensor([0, 1, 2, 3]))
    assert loss.weights().min() >= 1
    plain = RebalancedMSE(CLASSES, DIMENSIONS, 0.0, 0.0)
    plain.load_state_dict(loss.state_dict())
    assert torch.equal(plain.weights(), torch.ones(CLASSES, DIMENSIONS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_exponents_it_is_the_mse_of_unit_vectors_exactly(dtype: torch.dtype) -> None:
    loss = RebalancedMSE(CLASSES, DIMENSIONS, 0.0, 0.0).to(dtype)
    for seed, labels in enumerate(BATCHES):
        predicted, target = rows(len(labels), seed, dtype), targets(labels, dtype)
        unit = [torch.nn.functional.normalize(value, dim=1) for value in (predicted, target)]
        assert torch.equal(loss(predicted, target, torch.tensor(labels)), (unit[0] - unit[1]).square().mean())


def test_a_perfect_prediction_costs_nothing() -> None:
    loss = RebalancedMSE(CLASSES, DIMENSIONS, 1.0, 1.0)
    target = targets([0, 1, 2], torch.float32)
    predicted = target.clone().requires_grad_()
    value = loss(predicted, target, torch.tensor([0, 1, 2]))
    assert value.item() == 0
    value.backward()
    assert predicted.grad is not None
    assert torch.isfinite(predicted.grad).all()


@pytest.mark.parametrize(("p", "p2"), [(0.5, 1.0), (0.0, 0.0)])
def test_gradient_is_that_of_constant_weights(p: float, p2: float) -> None:
    """By finite differences of Σ w·(a^ − a)², w as the batch itself sets it."""
    labels = [0, 1, 0, 3]
    predicted, target = rows(4, 7).requires_grad_(), targets(labels)
    loss = RebalancedMSE(CLASSES, DIMENSIONS, p, p2).double()
    loss(rows(3, 8), targets([1, 2, 3]), torch.tensor([1, 2, 3]))
    loss(predicted, target, torch.tensor(labels)).backward()
    assert predicted.grad is not None
    weights = loss.weights().numpy()[labels]

    def value(x: Array) -> float:
        unit_x = x / np.sqrt((x**2).sum(axis=1, keepdims=True))
        unit_t = target.numpy() / np.sqrt((target.numpy() ** 2).sum(axis=1, keepdims=True))
        return float((weights * (unit_x - unit_t) ** 2).mean())

    base = predicted.detach().numpy()
    for i in range(4):
        for s in range(DIMENSIONS):
            step = np.zeros_like(base)
            step[i, s] = 1e-6
            slope = (value(base + step) - value(base - step)) / 2e-6
            assert predicted.grad[i, s].item() == pytest.approx(slope, abs=1e-8)


def test_record_carries_no_graph_and_no_parameter() -> None:
    loss = RebalancedMSE(CLASSES, DIMENSIONS, 1.0, 1.0).double()
    for seed in range(2):
        predicted = rows(2, seed).requires_grad_()
        loss(predicted, targets([0, 1]), torch.tensor([0, 1])).backward()
    assert not loss.errors.requires_grad
    assert not loss.weights().requires_grad
    assert list(loss.parameters()) == []


def test_record_is_part_of_the_state() -> None:
    one, other = (RebalancedMSE(CLASSES, DIMENSIONS, 0.5, 0.5) for _ in range(2))
    inputs: list[Any] = [
        (rows(len(labels), seed, torch.float32), targets(labels, torch.float32), torch.tensor(labels))
        for seed, labels in enumerate(BATCHES)
    ]
    for batch in inputs[:3]:
        one(*batch)
    assert list(one.state_dict()) == ["errors"]
    other.load_state_dict(one.state_dict())
    for batch in inputs[3:]:
        assert torch.equal(one(*batch), other(*batch))


def test_a_large_error_elsewhere_raises_no_infinity() -> None:
    loss = RebalancedMSE(CLASSES, DIMENSIONS, 10.0, 10.0)
    record(loss, [0, 1], [[1e-12, 4.0, 4.0, 4.0], [4.0, 1e-12, 4.0, 4.0]])
    assert torch.isfinite(loss.weights()).all()

"""``fidelity: official``: the D³ terms as the authors' code computes them, against plain float64 loops."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from d3tune.config import D3Config
from d3tune.data.tensors import Tensors
from d3tune.method import distillation
from d3tune.method.generators import load_backbone
from d3tune.method.generators.base import Batch, Sizes
from d3tune.method.networks import EmbeddingClassifier
from d3tune.method.official import embedding_loss, label_loss, outlier_loss
from d3tune.method.student import StudentSide, Synthetic
from d3tune.method.training import Training

Array = npt.NDArray[np.float64]
LABELS = [0, 1, 0, 2, 1, 1]
WEIGHTS = {"cls_weight": 0.3, "embedding_weight": 0.7, "label_weight": 1.9, "ood_weight": 0.45}


# --- the formulas, slowly


def slow_softmax(v: Array) -> Array:
    rows = []
    for row in v:
        exponentials = [math.exp(value - max(row)) for value in row]
        rows.append([value / sum(exponentials) for value in exponentials])
    return np.array(rows)


def slow_label_loss(teacher_v: Array, student_v: Array) -> float:
    p = slow_softmax(slow_softmax(teacher_v))
    q = slow_softmax(slow_softmax(student_v[:, : teacher_v.shape[1]]))
    return sum(a * math.log(a / b) for a, b in zip(p.ravel(), q.ravel(), strict=True)) / len(p)


def slow_pair_loss(a: Array, b: Array, labels: list[int]) -> float:
    """BCE with logits, the logits being similarities (1 + cos)/2, over all pairs."""
    total = 0.0
    for i, row in enumerate(labels):
        for j, column in enumerate(labels):
            norms = max(math.sqrt(sum(a[i] ** 2)), 1e-8) * max(math.sqrt(sum(b[j] ** 2)), 1e-8)
            logit = (1 + sum(a[i] * b[j]) / norms) / 2
            probability = 1 / (1 + math.exp(-logit))
            total -= math.log(probability if row == column else 1 - probability)
    return total / len(labels) ** 2


def slow_outlier_loss(student_h: Array, teacher_h: Array, labels: list[int]) -> float:
    return slow_pair_loss(slow_softmax(student_h), slow_softmax(teacher_h), labels)


def normal(*shape: int, seed: int, scale: float = 1.0) -> Array:
    return scale * np.random.default_rng(seed).normal(size=shape)


def tensor(array: Array) -> Tensor:
    return torch.tensor(array, dtype=torch.float64)


def central_difference(function: Callable[[Array], float], at: Array, step: float = 1e-6) -> Array:
    gradient = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        up, down = at.copy(), at.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (function(up) - function(down)) / (2 * step)
    return gradient


# --- each term


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_label_loss(scale: float) -> None:
    teacher_v, student_v = normal(5, 4, seed=1, scale=scale), normal(5, 7, seed=2, scale=scale)
    found = label_loss(tensor(teacher_v), tensor(student_v))
    assert found.shape == ()
    assert found.item() == pytest.approx(slow_label_loss(teacher_v, student_v), rel=1e-10, abs=1e-14)


@pytest.mark.parametrize("labels", [LABELS, [3] * 6, list(range(6))])
def test_embedding_loss(labels: list[int]) -> None:
    teacher_z, student_z = normal(6, 4, seed=3), normal(6, 4, seed=4)
    teacher_z[2] = 0
    found = embedding_loss(tensor(teacher_z), tensor(student_z), torch.tensor(labels))
    assert found.shape == ()
    assert found.item() == pytest.approx(slow_pair_loss(teacher_z, student_z, labels), rel=1e-10)


@pytest.mark.parametrize("labels", [LABELS, [3] * 6, list(range(6))])
def test_outlier_loss(labels: list[int]) -> None:
    student_h, teacher_h = normal(6, 4, seed=5, scale=3), np.random.default_rng(6).random((6, 4))
    found = outlier_loss(tensor(student_h), tensor(teacher_h), torch.tensor(labels))
    assert found.item() == pytest.approx(slow_outlier_loss(student_h, teacher_h, labels), rel=1e-10)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 7.0])
def test_there_is_no_temperature_and_no_balance(temperature: float) -> None:
    teacher_v, student_v, labels = tensor(normal(6, 4, seed=7)), tensor(normal(6, 9, seed=8)), torch.tensor(LABELS)
    assert label_loss(teacher_v, student_v, temperature) == label_loss(teacher_v, student_v)
    z, h = tensor(normal(6, 4, seed=9)), tensor(normal(6, 4, seed=10))
    assert embedding_loss(z, h, labels, True) == embedding_loss(z, h, labels, False)
    assert outlier_loss(z, h, labels, True) == outlier_loss(z, h, labels, False)


def test_signatures_are_those_of_the_reconstructed_terms() -> None:
    """`StudentSide` calls either module with the same positional arguments."""
    teacher_v, student_v, labels = tensor(normal(6, 4, seed=7)), tensor(normal(6, 9, seed=8)), torch.tensor(LABELS)
    z, h = tensor(normal(6, 4, seed=9)), tensor(normal(6, 4, seed=10))
    assert label_loss(teacher_v, student_v, 2.0) != distillation.label_loss(teacher_v, student_v, 2.0)
    assert embedding_loss(z, h, labels, True) != distillation.embedding_loss(z, h, labels, True)
    assert outlier_loss(z, h, labels, True) != distillation.outlier_loss(z, h, labels, True)


@pytest.mark.parametrize("name", ["student_v", "student_z", "student_h", "teacher_h"])
def test_gradients_are_those_of_the_slow_forms(name: str) -> None:
    labels = torch.tensor(LABELS)
    teacher_v, teacher_z, other_h = normal(6, 4, seed=11), normal(6, 4, seed=12), normal(6, 4, seed=13)
    terms: dict[str, tuple[Array, Callable[[Tensor], Tensor], Callable[[Array], float]]] = {
        "student_v": (
            normal(6, 7, seed=14),
            lambda v: label_loss(tensor(teacher_v), v),
            lambda v: slow_label_loss(teacher_v, v),
        ),
        "student_z": (
            normal(6, 4, seed=15),
            lambda z: embedding_loss(tensor(teacher_z), z, labels),
            lambda z: slow_pair_loss(teacher_z, z, LABELS),
        ),
        "student_h": (
            normal(6, 4, seed=16),
            lambda h: outlier_loss(h, tensor(other_h), labels),
            lambda h: slow_outlier_loss(h, other_h, LABELS),
        ),
        "teacher_h": (
            normal(6, 4, seed=17),
            lambda h: outlier_loss(tensor(other_h), h, labels),
            lambda h: slow_outlier_loss(other_h, h, LABELS),
        ),
    }
    at, term, slow = terms[name]
    x = tensor(at).requires_grad_()
    (gradient,) = torch.autograd.grad(term(x), x)
    np.testing.assert_allclose(gradient.numpy(), central_difference(slow, at), rtol=1e-5, atol=1e-9)
    assert gradient.abs().max() > 1e-5


# --- what these forms can reach


def test_label_loss_reaches_at_most_0_0113_of_150_classes() -> None:
    """Two certain and opposite predictions: (e − 1)/(e + 149)."""
    sure = 1e4 * torch.eye(150, dtype=torch.float64)
    worst = label_loss(sure[:3], sure[3:6]).item()
    assert worst == pytest.approx((math.e - 1) / (math.e + 149), rel=1e-10)
    assert round(worst, 4) == 0.0113


@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 1.0, 5.0, 50.0, 1e4]))
@settings(max_examples=60, deadline=None)
def test_label_loss_never_exceeds_its_maximum(seed: int, scale: float) -> None:
    teacher_v, student_v = normal(3, 150, seed=seed, scale=scale), normal(3, 200, seed=seed + 1, scale=scale)
    assert 0 <= label_loss(tensor(teacher_v), tensor(student_v)).item() <= (math.e - 1) / (math.e + 149) + 1e-12


def test_a_perfect_pair_still_costs_0_313_or_0_974() -> None:
    z = torch.eye(4, dtype=torch.float64)
    one_class = embedding_loss(z[:1].repeat(3, 1), z[:1].repeat(3, 1), torch.zeros(3, dtype=torch.int64)).item()
    assert one_class == pytest.approx(math.log(1 + 1 / math.e))
    assert round(one_class, 3) == 0.313
    mixed = embedding_loss(z, z, torch.arange(4)).item()
    negative = (16 * mixed - 4 * one_class) / 12
    assert negative == pytest.approx(math.log(1 + math.sqrt(math.e)))
    assert round(negative, 3) == 0.974


@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.01, 1.0, 40.0]))
@settings(max_examples=60, deadline=None)
def test_no_pair_of_relu_or_softmax_embeddings_costs_less(seed: int, scale: float) -> None:
    first, second = (tensor(np.abs(normal(5, 4, seed=seed + k, scale=scale))) for k in range(2))
    for loss in (embedding_loss, outlier_loss):
        assert loss(first, second, torch.zeros(5, dtype=torch.int64)).item() >= math.log(1 + 1 / math.e) - 1e-12
        labels = torch.arange(5)
        positives = (5 * math.log(1 + 1 / math.e) + 20 * math.log(1 + math.sqrt(math.e))) / 25
        assert loss(first, second, labels).item() >= positives - 1e-12


# --- the student's side under ``fidelity: official``


def spread(module: nn.Module, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=rng))


class Scene:
    """A frozen teacher, a student's side, six real rows of four seen classes and four synthetic ones, in float64."""

    real_y, fake_y = [0, 3, 1, 1, 2, 0], [4, 4, 5, 5]

    def __init__(self, **values: Any) -> None:
        config = D3Config(**({"embed_dim": 6, "fidelity": "official"} | WEIGHTS | values))
        rng = torch.Generator().manual_seed(0)
        self.config = config
        self.teacher = EmbeddingClassifier(5, 6, 4, "relu", rng)
        spread(self.teacher, 1)
        self.teacher.double().requires_grad_(False)
        self.side = StudentSide(Sizes(5, 3, 4, 2), config, None, rng)
        spread(self.side.student, 2)
        spread(self.side.projector, 3)
        self.side.double()
        numbers = np.random.default_rng(4)
        self.real, self.fake = numbers.random((6, 5)), numbers.random((4, 5))
        x = tensor(self.real)
        self.batch = Batch(x, torch.tensor(self.real_y), torch.zeros(6, 3).double(), *self.teacher(x))

    def loss(self) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        x = tensor(self.fake).requires_grad_()
        total, parts = self.side.loss(self.batch, Synthetic(x, torch.tensor(self.fake_y)), self.teacher)
        return total, parts, x

    def manual(self, fake: Array) -> dict[str, float]:
        x, labels, n = np.concatenate([self.real, fake]), self.real_y + self.fake_y, len(self.real_y)
        teacher_z, teacher_v = self._forward(self.teacher, x)
        z, v = self._forward(self.side.student, x)
        log_p = np.log(slow_softmax(v))
        projector = {name: value.numpy() for name, value in self.side.projector.state_dict().items()}
        h = log_p @ projector["layer.weight"].T + projector["layer.bias"]
        gate = 1 / (1 + np.exp(-np.log(slow_softmax(teacher_v).max(axis=1, keepdims=True))))
        gates = np.concatenate([gate, 1 - gate], axis=1)
        return {
            "student_classification": -float(np.mean([log_p[i, y] for i, y in enumerate(labels)])),
            "embedding_distillation": slow_pair_loss(teacher_z[:n], z[:n], self.real_y),
            "label_distillation": slow_label_loss(teacher_v[:n], v[:n]),
            "outlier_distillation": slow_outlier_loss(h, gates, labels),
        }

    def manual_sum(self, fake: Array, without: str = "") -> float:
        terms = zip(WEIGHTS.values(), self.manual(fake).items(), strict=True)
        return sum(weight * value for weight, (name, value) in terms if name != without)

    @staticmethod
    def _forward(model: EmbeddingClassifier, x: Array) -> tuple[Array, Array]:
        values = {name: value.numpy() for name, value in model.state_dict().items()}
        z = np.maximum(x @ values["embed_layer.weight"].T + values["embed_layer.bias"], 0)
        return z, z @ values["logit_layer.weight"].T + values["logit_layer.bias"]


def test_student_side_sums_the_official_terms() -> None:
    scene = Scene()
    total, parts, _ = scene.loss()
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(scene.manual(scene.fake), rel=1e-10)
    assert total.item() == pytest.approx(scene.manual_sum(scene.fake), rel=1e-10)


@pytest.mark.parametrize(
    "ignored", [{"ood_input": "prob"}, {"ood_input": "logprob"}, {"pair_balance": False}, {"temperature": 3.5}]
)
def test_student_side_ignores_what_the_authors_code_does_not_have(ignored: dict[str, Any]) -> None:
    assert Scene(**ignored).loss()[0] == Scene().loss()[0]


def test_student_side_is_another_one_when_reconstructed() -> None:
    official, reconstructed = Scene().loss()[1], Scene(fidelity="reconstructed", ood_input="logprob").loss()[1]
    assert official["student_classification"] == reconstructed["student_classification"]
    for name in ("embedding_distillation", "label_distillation", "outlier_distillation"):
        assert official[name] != reconstructed[name]


@pytest.mark.parametrize("factor", [1.0, 0.25, 0.0])
def test_gradient_at_the_synthetic_rows_is_that_of_the_sum(factor: float) -> None:
    """L_be and L_kl do not read synthetic rows, so the sum's difference is that of L_cls and L_od."""
    scene = Scene(generator_d3_weight=factor)
    total, _, x = scene.loss()
    (gradient,) = torch.autograd.grad(total, x)
    expected = factor * central_difference(scene.manual_sum, scene.fake)
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-5, atol=1e-9)


def test_gradient_reaches_gates_projector_and_student() -> None:
    scene = Scene()
    scene.loss()[0].backward()  # type: ignore[no-untyped-call]
    for name, parameter in scene.side.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
    assert all(parameter.grad is None for parameter in scene.teacher.parameters())


# --- joint training


@pytest.mark.parametrize(
    ("values", "steps"),
    [({"fidelity": "official"}, 4), ({"fidelity": "official", "student_steps": "generator"}, 4), ({}, 1)],
)
def test_student_steps_with_the_critic_too(tiny: Tensors, values: dict[str, Any], steps: int) -> None:
    backbone = load_backbone("gan")
    small = {"hidden_dim": 8, "embed_dim": 6, "teacher_epochs": 1, "critic_steps": 3, "batch_size": 16}
    training = Training(tiny, backbone, backbone.config(**small, **values), 0)
    training.advance(2)
    counts = {key: value for key, value in training.state_dict().items() if key.startswith("adam/student/")}
    taken = {int(value) for key, value in counts.items() if key.endswith("/step")}
    assert taken == {2 * steps}

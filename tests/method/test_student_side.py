"""The student side: the weighted sum of the four terms, and where its gradient goes."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from d3tune.config import D3Config
from d3tune.method.generators.base import Batch, Sizes
from d3tune.method.networks import EmbeddingClassifier
from d3tune.method.student import StudentSide, Synthetic

Array = npt.NDArray[np.float64]
SIZES = Sizes(n_features=5, n_semantics=3, n_seen=4, n_unseen=2)
WEIGHTS = {"cls_weight": 0.7, "embedding_weight": 0.3, "label_weight": 1.9, "ood_weight": 0.45}
TERMS = {
    "cls_weight": "student_classification",
    "embedding_weight": "embedding_distillation",
    "label_weight": "label_distillation",
    "ood_weight": "outlier_distillation",
}
REAL_Y, FAKE_Y = [0, 3, 1, 1, 2, 0], [4, 4, 5, 5]


def spread(module: nn.Module, seed: int) -> None:
    """Weights of ordinary size: the initial ones are too small for a strict comparison."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=rng))


class Scene:
    """A frozen teacher, a student side, a batch and synthetic rows, all in float64."""

    def __init__(self, **values: Any) -> None:
        self.config = D3Config(**({"embed_dim": 6, "temperature": 1.7} | WEIGHTS | values))
        rng = torch.Generator().manual_seed(0)
        self.teacher = EmbeddingClassifier(5, 6, 4, self.config.embed_activation, rng)
        spread(self.teacher, 1)
        self.teacher.double().requires_grad_(False)
        self.held_out = torch.linspace(-2, -0.1, 40)
        self.side = StudentSide(SIZES, self.config, self.held_out, rng)
        spread(self.side.student, 2)
        spread(self.side.projector, 3)
        self.side.double()
        numbers = np.random.default_rng(4)
        self.real, self.fake = numbers.random((6, 5)), numbers.random((4, 5))
        x = torch.tensor(self.real)
        z, v = self.teacher(x)
        self.batch = Batch(x, torch.tensor(REAL_Y), torch.zeros(6, 3, dtype=torch.float64), z, v)

    def synthetic(self, rows: Array | None = None) -> Synthetic:
        x = torch.tensor(self.fake if rows is None else rows).requires_grad_()
        return Synthetic(x, torch.tensor(FAKE_Y))

    def loss(self, synthetic: Synthetic) -> tuple[Tensor, dict[str, Tensor]]:
        return self.side.loss(self.batch, synthetic, self.teacher)


def forward(model: EmbeddingClassifier, x: Array) -> tuple[Array, Array]:
    values = {name: value.numpy() for name, value in model.state_dict().items()}
    z = x @ values["embed_layer.weight"].T + values["embed_layer.bias"]
    if model.activation == "relu":
        z = np.maximum(z, 0)
    return z, z @ values["logit_layer.weight"].T + values["logit_layer.bias"]


def log_softmax(v: Array) -> Array:
    return v - np.log(np.exp(v - v.max(1, keepdims=True)).sum(1, keepdims=True)) - v.max(1, keepdims=True)


def pairs(a: Array, b: Array, labels: list[int], balance: bool) -> float:
    on: dict[bool, list[float]] = {True: [], False: []}
    for i, row in enumerate(labels):
        for j, column in enumerate(labels):
            norms = max(np.linalg.norm(a[i]), 1e-8) * max(np.linalg.norm(b[j]), 1e-8)
            m = 1e-4 + (1 - 2e-4) * (1 + float(a[i] @ b[j]) / norms) / 2
            on[row == column].append(-math.log(m if row == column else 1 - m))
    if balance:
        return 0.5 * float(np.mean(on[True])) + 0.5 * float(np.mean(on[False]))
    return float(np.mean(on[True] + on[False]))


def manual_terms(scene: Scene, fake: Array) -> dict[str, float]:
    config = scene.config
    labels = REAL_Y + FAKE_Y
    x = np.concatenate([scene.real, fake])
    teacher_z, teacher_v = forward(scene.teacher, x)
    z, v = forward(scene.side.student, x)
    n = len(REAL_Y)
    log_p = log_softmax(v)
    cross_entropy = -float(np.mean([log_p[i, y] for i, y in enumerate(labels)]))
    t = config.temperature
    log_teacher, log_student = log_softmax(teacher_v[:n] / t), log_softmax(v[:n, :4] / t)
    kl = t**2 * float((np.exp(log_teacher) * (log_teacher - log_student)).sum()) / n
    score = log_softmax(teacher_v).max(axis=1)
    if config.ood_embed_dim > 2:
        held_out = scene.held_out.double().numpy()
        mean, sd = held_out.mean(), held_out.std(ddof=1)
        n_gates = config.ood_embed_dim // 2
        levels = (2 * np.arange(1, n_gates + 1) - 1) / (2 * n_gates)
        gate = (score[:, None] - mean) / sd - np.quantile((held_out - mean) / sd, levels)
    else:
        gate = score[:, None]
    gate = 1 / (1 + np.exp(-gate))
    projector = {name: value.numpy() for name, value in scene.side.projector.state_dict().items()}
    read = log_p if config.ood_input == "logprob" else np.exp(log_p)
    h = read @ projector["layer.weight"].T + projector["layer.bias"]
    return {
        "student_classification": cross_entropy,
        "embedding_distillation": pairs(teacher_z[:n], z[:n], REAL_Y, config.pair_balance),
        "label_distillation": kl,
        "outlier_distillation": pairs(h, np.concatenate([gate, 1 - gate], axis=1), labels, config.pair_balance),
    }


def manual_sum(scene: Scene, fake: Array) -> float:
    terms = manual_terms(scene, fake)
    return sum(getattr(scene.config, weight) * terms[name] for weight, name in TERMS.items())


@pytest.mark.parametrize(
    ("values", "tolerance"),
    [
        ({}, 1e-10),
        ({"pair_balance": False}, 1e-10),
        ({"ood_input": "logprob", "embed_activation": "identity"}, 1e-10),
        ({"ood_embed_dim": 6}, 1e-5),  # the gates' statistics are float32
    ],
)
def test_loss_is_the_weighted_sum_of_the_terms(values: dict[str, Any], tolerance: float) -> None:
    scene = Scene(**values)
    total, parts = scene.loss(scene.synthetic())
    expected = manual_terms(scene, scene.fake)
    assert {name: value.item() for name, value in parts.items()} == pytest.approx(expected, rel=tolerance)
    assert total.item() == pytest.approx(manual_sum(scene, scene.fake), rel=tolerance)
    assert not any(value.requires_grad for value in parts.values())


@pytest.mark.parametrize("off", [[weight] for weight in WEIGHTS] + [["embedding_weight", "ood_weight"]])
def test_a_term_of_weight_0_is_not_computed(off: list[str]) -> None:
    scene = Scene(**dict.fromkeys(off, 0))
    total, parts = scene.loss(scene.synthetic())
    assert set(parts) == {name for weight, name in TERMS.items() if weight not in off}
    assert total.item() == pytest.approx(manual_sum(scene, scene.fake), rel=1e-10)


def test_a_term_of_weight_0_cannot_spoil_the_others() -> None:
    """0·∞ would be NaN."""
    scene = Scene(label_weight=0)
    batch = scene.batch
    scene.batch = Batch(batch.x, batch.y, batch.a, batch.teacher_z, batch.teacher_v.new_full((6, 4), math.inf))
    scene.config = scene.config.model_copy(update={"ood_weight": 0.0})
    scene.side.config = scene.config
    assert torch.isfinite(scene.loss(scene.synthetic())[0])


def gradient(scene: Scene) -> Tensor:
    synthetic = scene.synthetic()
    scene.loss(synthetic)[0].backward()  # type: ignore[no-untyped-call]
    assert synthetic.x.grad is not None
    return synthetic.x.grad


@pytest.mark.parametrize("values", [{}, {"cls_weight": 0}, {"ood_weight": 0}, {"ood_score": "energy"}])
def test_gradient_into_synthetic_rows_is_the_central_difference(values: dict[str, Any]) -> None:
    scene = Scene(**values)
    found = gradient(scene).numpy()
    value: Callable[[Array], float]
    if "ood_score" in values:
        value = lambda rows: scene.loss(scene.synthetic(rows))[0].item()  # noqa: E731
    else:
        value = lambda rows: manual_sum(scene, rows)  # noqa: E731
    expected = np.zeros_like(found)
    for index in np.ndindex(*found.shape):
        up, down = scene.fake.copy(), scene.fake.copy()
        up[index] += 1e-6
        down[index] -= 1e-6
        expected[index] = (value(up) - value(down)) / 2e-6
    assert np.abs(expected).max() > 1e-4
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("factor", [0.0, 0.01, 2.0, 3.0])
def test_generator_d3_weight_scales_that_gradient_and_nothing_else(factor: float) -> None:
    plain, scaled = Scene(), Scene(generator_d3_weight=factor)
    torch.testing.assert_close(gradient(scaled), factor * gradient(plain), rtol=1e-14, atol=0)
    assert torch.equal(plain.loss(plain.synthetic())[0], scaled.loss(scaled.synthetic())[0])
    for one, other in zip(plain.side.parameters(), scaled.side.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_outlier_loss_reaches_synthetic_rows_through_the_frozen_teacher() -> None:
    """With a projector that ignores the student, only the path through teacher, score and gates is left."""
    scene = Scene(cls_weight=0, embedding_weight=0, label_weight=0)
    with torch.no_grad():
        scene.side.projector.layer.weight.zero_()
    found = gradient(scene)
    assert found.abs().max() > 1e-4
    assert (found.abs().sum(dim=1) > 0).all()


def test_outlier_loss_reaches_synthetic_rows_through_the_student() -> None:
    """With gates that ignore the score, only the path through the student is left."""
    scene = Scene(cls_weight=0, embedding_weight=0, label_weight=0)
    with torch.no_grad():
        scene.side.gates.weight.zero_()
    assert gradient(scene).abs().max() > 1e-4


@pytest.mark.parametrize("kept", ["embedding_weight", "label_weight"])
def test_distillation_of_seen_rows_says_nothing_to_the_generator(kept: str) -> None:
    scene = Scene(**{weight: 0 for weight in WEIGHTS if weight != kept})
    assert torch.equal(gradient(scene), torch.zeros(4, 5, dtype=torch.float64))


def test_teacher_gets_no_gradient_and_the_student_side_does() -> None:
    scene = Scene()
    before = {name: value.clone() for name, value in scene.teacher.state_dict().items()}
    gradient(scene)
    assert all(parameter.grad is None for parameter in scene.teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in scene.teacher.state_dict().items())
    assert scene.batch.teacher_z.grad is None
    assert scene.batch.teacher_v.grad is None
    for name, parameter in scene.side.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_student_knows_all_classes_and_projects_to_the_ood_dimension() -> None:
    scene = Scene(ood_embed_dim=8)
    z, v = scene.side.student(scene.batch.x)
    assert z.shape == (6, 6)
    assert v.shape == (6, 6)
    assert scene.side.projector(v).shape == (6, 8)
    assert scene.side.gates(torch.zeros(3, dtype=torch.float64)).shape == (3, 8)

"""Teacher and linear heads against slow float64 training of the same minibatches."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import d3tune.method.teacher as teacher_module
from d3tune.config import D3Config
from d3tune.data.tensors import Tensors
from d3tune.method.classifier import train_linear_head, train_prototype_head
from d3tune.method.networks import EmbeddingClassifier, linear
from d3tune.method.teacher import held_out_scores, teacher_table, train_teacher

Array = npt.NDArray[np.float64]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class SlowAdam:
    """Adam (Kingma and Ba, 2015) with the betas (.5, .999), changing arrays in place."""

    def __init__(self, parameters: list[Array], lr: float) -> None:
        self.parameters, self.lr, self.t = parameters, lr, 0
        self.m = [np.zeros_like(p) for p in parameters]
        self.v = [np.zeros_like(p) for p in parameters]

    def step(self, gradients: list[Array]) -> None:
        self.t += 1
        for p, g, m, v in zip(self.parameters, gradients, self.m, self.v, strict=True):
            m[...] = 0.5 * m + 0.5 * g
            v[...] = 0.999 * v + 0.001 * g * g
            p -= self.lr * (m / (1 - 0.5**self.t)) / (np.sqrt(v / (1 - 0.999**self.t)) + 1e-8)


def softmax_error(logits: Array, y: Array) -> Array:
    """The gradient of mean cross-entropy in the logits."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return p / len(y)


def minibatches(n: int, size: int, rng: torch.Generator) -> list[Array]:
    return [rows.numpy() for rows in torch.randperm(n, generator=rng).split(size)]


# --- the linear head


def slow_head(
    x: Array, y: Array, n_classes: int, config: D3Config, rng: torch.Generator, shift: Array | float = 0.0
) -> list[Array]:
    weight, bias = np.zeros((n_classes, x.shape[1])), np.zeros(n_classes)
    optimizer = SlowAdam([weight, bias], config.head_lr)
    for _ in range(config.head_epochs):
        for rows in minibatches(len(x), config.head_batch_size, rng):
            error = softmax_error(x[rows] @ weight.T + bias + shift, y[rows])
            optimizer.step([error.T @ x[rows], error.sum(axis=0)])
    return [weight, bias]


@pytest.mark.parametrize(
    ("values", "dtype", "tolerance"),
    [
        ({}, torch.float64, 1e-10),
        ({"head_batch_size": 10, "head_lr": 0.05}, torch.float64, 1e-10),
        ({"head_batch_size": 1000}, torch.float64, 1e-10),
        ({}, torch.float32, 1e-3),
    ],
)
def test_head_is_adam_on_cross_entropy(
    tiny: Tensors, values: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    config = D3Config(**({"head_epochs": 4, "head_batch_size": 32, "head_lr": 0.01} | values))
    x, y = tiny.train_x.to(dtype), tiny.train_y
    classify = train_linear_head(x, y, 9, config, seeded())
    weight, bias = slow_head(x.double().numpy(), y.numpy(), 9, config, seeded())
    rows = tiny.eval_seen_x.to(dtype)
    expected = rows.double().numpy() @ weight.T + bias
    np.testing.assert_allclose(classify(rows).double().numpy(), expected, rtol=tolerance, atol=tolerance)


def test_head_is_what_autograd_trains(tiny: Tensors) -> None:
    config = D3Config(head_epochs=3, head_batch_size=20, head_lr=0.02)
    x, y = tiny.train_x, tiny.train_y
    layer = torch.nn.utils.skip_init(torch.nn.Linear, tiny.n_features, 9)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02, betas=(0.5, 0.999))
    rng = seeded(3)
    for _ in range(3):
        for rows in minibatches(len(x), 20, rng):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(x[rows]), y[rows]).backward()
            optimizer.step()
    classify = train_linear_head(x, y, 9, config, seeded(3))
    torch.testing.assert_close(classify(x), layer(x), rtol=1e-5, atol=1e-5)


def test_head_learns_and_needs_no_gradient(tiny: Tensors) -> None:
    config = D3Config(head_epochs=80, head_lr=0.02, head_batch_size=32)
    with torch.no_grad():
        classify = train_linear_head(tiny.train_x, tiny.train_y, tiny.n_seen, config, seeded())
    logits = classify(tiny.train_x)
    assert logits.shape == (len(tiny.train_x), tiny.n_seen)
    assert not logits.requires_grad
    assert (logits.argmax(dim=1) == tiny.train_y).double().mean() > 0.8


def test_head_follows_its_generator(tiny: Tensors) -> None:
    config = D3Config(head_epochs=2, head_batch_size=16)

    def logits(seed: int) -> torch.Tensor:
        return train_linear_head(tiny.train_x, tiny.train_y, 9, config, seeded(seed))(tiny.eval_seen_x)

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))


def test_a_logit_shift_is_part_of_the_training_logits_alone(tiny: Tensors) -> None:
    config = D3Config(head_epochs=4, head_batch_size=32, head_lr=0.01)
    shift = np.linspace(-2, 2, 9)
    x, y = tiny.train_x.double(), tiny.train_y
    classify = train_linear_head(x, y, 9, config, seeded(), torch.tensor(shift))
    weight, bias = slow_head(x.numpy(), y.numpy(), 9, config, seeded(), shift)
    rows = tiny.eval_seen_x.double()
    np.testing.assert_allclose(classify(rows).numpy(), rows.numpy() @ weight.T + bias, rtol=1e-9, atol=1e-10)


# --- the prototype head


def unit_rows(x: Array) -> Array:
    return np.asarray(x / np.sqrt((x**2).sum(axis=1, keepdims=True)))


def slow_prototypes(
    x: Array, y: Array, semantics: Array, config: D3Config, rng: torch.Generator, shift: Array
) -> Array:
    """Prototypes w_c = MLP(a_c), from the given initial weights, gradients by hand."""
    layers = [
        linear(semantics.shape[1], config.prototype_hidden, rng),
        linear(config.prototype_hidden, x.shape[1], rng),
    ]
    w1, b1, w2, b2 = (p.detach().double().numpy().copy() for layer in layers for p in layer.parameters())
    optimizer = SlowAdam([w1, b1, w2, b2], config.head_lr)
    for rows in [rows for _ in range(config.head_epochs) for rows in minibatches(len(x), config.head_batch_size, rng)]:
        pre = semantics @ w1.T + b1
        slope = np.where(pre > 0, 1.0, 0.2)
        hidden = pre * slope
        prototypes = hidden @ w2.T + b2
        length = np.sqrt((prototypes**2).sum(axis=1, keepdims=True))
        unit, unit_x = prototypes / length, unit_rows(x[rows])
        error = softmax_error(config.cosine_scale * unit_x @ unit.T + shift, y[rows])
        back_unit = config.cosine_scale * error.T @ unit_x
        back = (back_unit - (back_unit * unit).sum(axis=1, keepdims=True) * unit) / length
        back_hidden = (back @ w2) * slope
        optimizer.step([back_hidden.T @ semantics, back_hidden.sum(axis=0), back.T @ hidden, back.sum(axis=0)])
    hidden = semantics @ w1.T + b1
    return np.asarray(np.where(hidden > 0, hidden, 0.2 * hidden) @ w2.T + b2)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("values", [{}, {"head_batch_size": 10, "cosine_scale": 3.0}], ids=str)
def test_prototype_head_is_adam_on_scaled_cosines(tiny: Tensors, values: dict[str, Any], shifted: bool) -> None:
    settings = {"head_epochs": 3, "head_batch_size": 32, "head_lr": 0.01, "prototype_hidden": 14}
    config = D3Config(**(settings | values))
    shift = np.linspace(-2, 2, 9) if shifted else np.zeros(9)
    arguments = tiny.train_x, tiny.train_y, 3 * tiny.semantics, config
    given = torch.tensor(shift, dtype=torch.float32) if shifted else None
    classify = train_prototype_head(*arguments, seeded(6), given)
    x, semantics = tiny.train_x.double().numpy(), 3 * tiny.semantics.double().numpy()
    prototypes = slow_prototypes(x, tiny.train_y.numpy(), semantics, config, seeded(6), shift)
    expected = config.cosine_scale * unit_rows(tiny.eval_seen_x.double().numpy()) @ unit_rows(prototypes).T
    found = classify(tiny.eval_seen_x)
    assert not found.requires_grad
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-3 * config.cosine_scale)


def test_prototype_head_learns_and_follows_its_generator(tiny: Tensors) -> None:
    config = D3Config(head_epochs=40, head_batch_size=32, head_lr=0.01, prototype_hidden=32)

    def logits(seed: int) -> torch.Tensor:
        return train_prototype_head(tiny.train_x, tiny.train_y, tiny.semantics, config, seeded(seed))(tiny.train_x)

    assert (logits(0).argmax(dim=1) == tiny.train_y).double().mean() > 0.8
    assert logits(0).abs().max() <= config.cosine_scale * (1 + 1e-6)
    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))


# --- the teacher


def slow_teacher(x: Array, y: Array, config: D3Config, rng: torch.Generator, n_classes: int) -> list[Array]:
    """E = Linear + ReLU, C = Linear, from the given initial weights, gradients by hand."""
    model = EmbeddingClassifier(x.shape[1], config.embed_dim, n_classes, config.embed_activation, rng)
    w1, b1, w2, b2 = (p.detach().double().numpy().copy() for p in model.parameters())
    optimizer = SlowAdam([w1, b1, w2, b2], config.teacher_lr)
    for _ in range(config.teacher_epochs):
        for rows in minibatches(len(x), config.teacher_batch_size, rng):
            pre = x[rows] @ w1.T + b1
            open_ = pre > 0 if config.embed_activation == "relu" else np.ones_like(pre)
            z = pre * open_
            error = softmax_error(z @ w2.T + b2, y[rows])
            back = (error @ w2) * open_
            optimizer.step([back.T @ x[rows], back.sum(axis=0), error.T @ z, error.sum(axis=0)])
    return [w1, b1, w2, b2]


@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_teacher_is_adam_on_cross_entropy(tiny: Tensors, activation: str) -> None:
    config = D3Config(
        embed_dim=10, embed_activation=activation, teacher_lr=5e-3, teacher_epochs=5, teacher_batch_size=16
    )
    teacher = train_teacher(tiny.train_x, tiny.train_y, tiny.n_seen, config, seeded(4))
    expected = slow_teacher(tiny.train_x.double().numpy(), tiny.train_y.numpy(), config, seeded(4), tiny.n_seen)
    for found, slow in zip(teacher.parameters(), expected, strict=True):
        np.testing.assert_allclose(found.double().numpy(), slow, rtol=1e-3, atol=1e-5)


def test_teacher_learns_and_is_frozen(hanzi_slice: Tensors) -> None:
    config = D3Config(embed_dim=32, teacher_lr=5e-3, teacher_epochs=8, teacher_batch_size=32)
    teacher = train_teacher(hanzi_slice.train_x, hanzi_slice.train_y, hanzi_slice.n_seen, config, seeded())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    for x, y, least in (
        (hanzi_slice.train_x, hanzi_slice.train_y, 0.9),
        (hanzi_slice.eval_seen_x, hanzi_slice.eval_seen_y, 0.7),
    ):
        assert (teacher(x)[1].argmax(dim=1) == y).double().mean() > least  # chance is .1


def test_teacher_table_is_the_forward_pass(tiny: Tensors) -> None:
    config = D3Config(embed_dim=10, teacher_lr=5e-3, teacher_epochs=3)
    teacher = train_teacher(tiny.train_x, tiny.train_y, tiny.n_seen, config, seeded())
    table = teacher_table(teacher, tiny.train_x)
    n = len(tiny.train_x)
    assert table.z.shape == (n, 10)
    assert table.v.shape == (n, tiny.n_seen)
    assert (table.z >= 0).all()
    w1, b1, w2, b2 = (p.double().numpy() for p in teacher.parameters())
    z = np.maximum(tiny.train_x.double().numpy() @ w1.T + b1, 0)
    np.testing.assert_allclose(table.z.numpy(), z, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(table.v.numpy(), z @ w2.T + b2, rtol=1e-4, atol=1e-6)


def test_held_out_scores_are_of_a_fifth_of_the_rows_and_repeatable(tiny: Tensors) -> None:
    config = D3Config(embed_dim=10, teacher_lr=5e-3, teacher_epochs=3)

    def scores(seed: int) -> torch.Tensor:
        return held_out_scores(tiny.train_x, tiny.train_y, tiny.n_seen, config, seeded(seed))

    assert scores(1).shape == (round(0.2 * len(tiny.train_x)),)
    assert torch.equal(scores(1), scores(1))
    assert not torch.equal(scores(1), scores(2))
    assert (scores(1) <= 0).all()  # log-softmax


def test_held_out_scores_are_of_rows_that_their_teacher_never_saw(
    tiny: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Watch what the teacher is fitted on, and recompute the scores of all other rows."""
    fits: list[tuple[torch.Tensor, torch.Tensor, EmbeddingClassifier]] = []

    def watched(x: torch.Tensor, y: torch.Tensor, *rest: Any) -> EmbeddingClassifier:
        teacher = train_teacher(x, y, *rest)
        fits.append((x, y, teacher))
        return teacher

    monkeypatch.setattr(teacher_module, "train_teacher", watched)
    config = D3Config(embed_dim=10, teacher_lr=5e-3, teacher_epochs=3)
    scores = held_out_scores(tiny.train_x, tiny.train_y, tiny.n_seen, config, seeded(5))
    ((fitted_x, fitted_y, teacher),) = fits
    assert len(fitted_x) + len(scores) == len(tiny.train_x)
    labels = {tuple(row): label for row, label in zip(tiny.train_x.tolist(), tiny.train_y.tolist(), strict=True)}
    fitted = {tuple(row): label for row, label in zip(fitted_x.tolist(), fitted_y.tolist(), strict=True)}
    assert len(fitted) == len(fitted_x)
    assert fitted.items() <= labels.items()
    rest = torch.tensor([row for row in labels if row not in fitted])
    expected = teacher(rest)[1].log_softmax(dim=1).amax(dim=1)
    torch.testing.assert_close(scores.sort().values, expected.sort().values, rtol=1e-5, atol=1e-6)

"""The cegan backbone: the class comparator and SupCon against naive forms, and who is stepped by which loss."""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from d3tune.data.tensors import Tensors
from d3tune.method import heads
from d3tune.method.adam import Adam
from d3tune.method.generators import load_backbone
from d3tune.method.generators.base import Batch
from d3tune.method.generators.cegan import Cegan, CeganConfig, ClassComparator, supervised_contrast
from d3tune.method.training import Training

SMALL: dict[str, Any] = {
    "updates": 4,
    "evaluations": 1,
    "batch_size": 16,
    "hidden_dim": 12,
    "noise_dim": 3,
    "embed_dim": 8,
    "generator_lr": 2e-3,
    "teacher_lr": 3e-3,
    "teacher_epochs": 1,
    "n_synthetic_final": 4,
    "head_epochs": 1,
    "critic_steps": 2,
    "contrast_dim": 10,
    "projection_dim": 6,
    "relation_dim": 7,
    "instance_weight": 0.3,
    "class_weight": 0.8,
}
Make = Callable[..., Training]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def spread(module: torch.nn.Module, seed: int) -> None:
    """Weights of ordinary size: the initial ones are too small for a strict comparison."""
    rng = seeded(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=rng))


@pytest.fixture
def make(tiny: Tensors) -> Make:
    def build(**values: Any) -> Training:
        training = Training(tiny, load_backbone("cegan"), CeganConfig(**(SMALL | values)), 0)
        for seed, name in enumerate(("embedding", "comparator", "critic")):
            spread(getattr(training.backbone, name), seed)
        return training

    return build


def moved(training: Training, before: dict[str, Tensor]) -> set[str]:
    """The parts of the backbone that are not as before."""
    after = training.state_dict()
    names = [name for name in before if name.startswith("backbone/") and not torch.equal(before[name], after[name])]
    return {name.split("/")[1].split(".")[0] for name in names}


# --- F([h; a])


def naive_comparison(comparator: ClassComparator, h: Tensor, a: Tensor) -> Tensor:
    pairs = torch.stack([torch.cat([row, semantics]) for row in h for semantics in a])
    hidden = F.leaky_relu(F.linear(pairs, comparator.hidden.weight, comparator.hidden.bias), 0.2)
    return F.linear(hidden, comparator.output.weight, comparator.output.bias).view(len(h), len(a))


@pytest.mark.parametrize(("rows", "classes"), [(5, 4), (1, 4), (5, 1), (40, 33)])
def test_comparator_is_the_naive_network_on_all_pairs(rows: int, classes: int) -> None:
    comparator = ClassComparator(6, 3, 9, seeded(0)).double()
    spread(comparator, 1)
    h, a = normal(rows, 6, seed=2).requires_grad_(), normal(classes, 3, seed=3).requires_grad_()
    upstream = normal(rows, classes, seed=4)
    found, expected = comparator(h, a), naive_comparison(comparator, h, a)
    assert found.shape == (rows, classes)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    wanted = [h, a, *comparator.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad((upstream * found).sum(), wanted),
        torch.autograd.grad((upstream * expected).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_comparator_in_float32_is_the_float64_one() -> None:
    comparator = ClassComparator(6, 3, 64, seeded(0))
    spread(comparator, 1)
    h, a = normal(9, 6, seed=2), normal(5, 3, seed=3)
    single = comparator(h.float(), a.float())
    torch.testing.assert_close(single.double(), naive_comparison(comparator.double(), h, a), rtol=1e-4, atol=1e-4)


def test_comparator_starts_with_small_weights_and_finite_gradients() -> None:
    comparator = ClassComparator(6, 3, 9, seeded(0))
    h = torch.zeros(4, 6, requires_grad=True)
    comparator(h, torch.zeros(3, 3)).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in [h, *comparator.parameters()])


# --- SupCon


def slow_contrast(z: Tensor, labels: list[int], temperature: float) -> Tensor:
    losses = []
    for i in range(len(labels)):
        others = [j for j in range(len(labels)) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        if not positives:
            continue
        denominator = torch.stack([(z[i] @ z[j] / temperature).exp() for j in others]).sum()
        terms = [-((z[i] @ z[j] / temperature).exp() / denominator).log() for j in positives]
        losses.append(torch.stack(terms).mean())
    return torch.stack(losses).mean() if losses else z.sum() * 0


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("labels", [[0, 1, 0, 2, 1, 1], [4] * 6, [0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 3, 4], [1, 1]])
def test_supervised_contrast_is_supcon(labels: list[int], temperature: float) -> None:
    """With rows of which there is no second, down to none at all."""
    z = F.normalize(normal(len(labels), 5, seed=5), dim=1).requires_grad_()
    found = supervised_contrast(z, torch.tensor(labels), temperature)
    expected = slow_contrast(z, labels, temperature)
    assert found.shape == ()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    ours, theirs = (torch.autograd.grad(value, z)[0] for value in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_supervised_contrast_of_one_row_is_0_without_a_nan() -> None:
    z = torch.tensor([[0.6, 0.8]], requires_grad=True)
    loss = supervised_contrast(z, torch.tensor([0]), 0.1)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert z.grad is not None
    assert torch.equal(z.grad, torch.zeros_like(z))


def test_supervised_contrast_prefers_classes_apart() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    apart = torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0]])
    assert supervised_contrast(apart, labels, 0.1) < supervised_contrast(apart.roll(1, 0), labels, 0.1)
    # certain of the one positive row
    assert supervised_contrast(apart, labels, 0.1).item() == pytest.approx(math.log(1 + 2 * math.exp(-20)), abs=1e-6)


# --- the terms


def embedded(model: Cegan, x: Tensor) -> tuple[Tensor, Tensor]:
    values = model.embedding.state_dict()
    h = (x @ values["embed.weight"].T + values["embed.bias"]).clamp(min=0)
    projected = h @ values["project.weight"].T + values["project.bias"]
    return h, projected / projected.norm(dim=1, keepdim=True)


def class_contrast(model: Cegan, h: Tensor, y: Tensor, seen: Tensor) -> Tensor:
    logits = naive_comparison(model.comparator, h, seen) / model.config.class_temperature
    return torch.stack([-(row.log_softmax(dim=0)[label]) for row, label in zip(logits, y, strict=True)]).mean()


def test_embedding_is_a_relu_layer_and_a_normalised_projection(make: Make, tiny: Tensors) -> None:
    model: Any = make().backbone
    h, z = model.embedding(tiny.train_x)
    expected_h, expected_z = embedded(model, tiny.train_x)
    torch.testing.assert_close(h, expected_h)
    torch.testing.assert_close(z, expected_z)
    assert h.shape[1] == 10
    assert (h >= 0).all()
    assert (h == 0).any()
    torch.testing.assert_close(z.norm(dim=1), torch.ones(len(z)))


def test_critic_terms_are_both_contrasts_of_real_rows_with_weight_1(make: Make, tiny: Tensors) -> None:
    training = make(instance_temperature=0.4, class_temperature=0.7)
    model: Any = training.backbone
    batch = training._draw_batch()
    h, z = embedded(model, batch.x)
    expected = {
        "instance_contrast": slow_contrast(z, batch.y.tolist(), 0.4).item(),
        "class_contrast": class_contrast(model, h, batch.y, tiny.semantics[: tiny.n_seen]).item(),
    }
    terms = model.critic_terms(batch)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)
    losses = model.prepare([batch], seeded(1))
    assert {name: losses[name].item() for name in expected} == pytest.approx(expected, rel=1e-5)
    assert not any(loss.requires_grad for loss in losses.values())


class PlainDescent(Adam):
    """Steps of the learning rate along the gradient."""

    @torch.no_grad()
    def step(self) -> None:
        for parameter in self.parameters:
            assert parameter.grad is not None
            parameter -= self.lr * parameter.grad


def test_one_critic_step_is_one_step_on_the_sum(make: Make, tiny: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    """By plain gradient descent: Adam would make whole steps of gradients that cancel but for rounding."""
    training, reference = make(critic_steps=1, gp_weight=2.5), make(critic_steps=1, gp_weight=2.5)
    batch = training._draw_batch()
    model: Any = reference.backbone
    rng = seeded(5)
    with torch.no_grad():
        fake = model.generate(model.draw_noise(16, rng), batch.a)
    mix = torch.rand(16, 1, generator=rng)
    wasserstein, penalty = model.critic.loss(batch.x, fake, batch.a, mix)
    h, z = model.embedding(batch.x)
    total = wasserstein + 2.5 * penalty + slow_contrast(z, batch.y.tolist(), 0.1)
    total = total + class_contrast(model, h, batch.y, tiny.semantics[: tiny.n_seen])
    parts = [*model.critic.parameters(), *model.embedding.parameters(), *model.comparator.parameters()]
    total.backward()
    with torch.no_grad():
        for parameter in parts:
            assert parameter.grad is not None
            parameter -= 0.5 * parameter.grad
    stepped: Any = training.backbone
    before = deepcopy(training.state_dict())
    monkeypatch.setattr(stepped, "_critic_optimizer", PlainDescent(stepped.critic_parameters(), lr=0.5))
    stepped.prepare([batch], seeded(5))
    assert moved(training, before) == {"critic", "embedding", "comparator"}
    for name, value in stepped.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gcls_weight", [0.0, 0.6])
@pytest.mark.parametrize("weights", [(0.3, 0.8), (0.0, 0.8), (0.3, 0.0)])
def test_generator_loss_is_the_sum_of_its_terms(
    make: Make, tiny: Tensors, weights: tuple[float, float], gcls_weight: float
) -> None:
    training = make(instance_weight=weights[0], class_weight=weights[1], gcls_weight=gcls_weight)
    model: Any = training.backbone
    batch: Batch = training._draw_batch()
    total, parts = model.loss(batch, seeded(7))
    fake = model.generate(model.draw_noise(16, seeded(7)), batch.a)
    h, z = embedded(model, fake)
    real_z = embedded(model, batch.x)[1]
    expected = {
        "adversarial": -model.critic.frozen_value(fake, batch.a).mean().item(),
        "fake_instance_contrast": slow_contrast(torch.cat([z, real_z]), batch.y.tolist() * 2, 0.1).item(),
        "fake_class_contrast": class_contrast(model, h, batch.y, tiny.semantics[: tiny.n_seen]).item(),
    }
    manual = expected["adversarial"]
    manual += weights[0] * expected["fake_instance_contrast"] + weights[1] * expected["fake_class_contrast"]
    if gcls_weight:
        expected["generator_classification"] = F.cross_entropy(model.teacher(fake)[1], batch.y).item()
        manual += gcls_weight * expected["generator_classification"]
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert total.item() == pytest.approx(manual, rel=1e-4, abs=1e-6)
    assert not any(part.requires_grad for part in parts.values())


def test_generator_gradient_is_that_of_the_manual_sum(make: Make, tiny: Tensors) -> None:
    """Real rows are constants in the contrast, and the generator is the only one behind the fakes."""
    training = make()
    model: Any = training.backbone
    batch = training._draw_batch()
    total, _ = model.loss(batch, seeded(7))
    fake = model.generate(model.draw_noise(16, seeded(7)), batch.a)
    h, z = model.embedding(fake)
    labels = batch.y.tolist() * 2
    instance = slow_contrast(torch.cat([z, model.embedding(batch.x)[1].detach()]), labels, 0.1)
    manual = -model.critic.frozen_value(fake, batch.a).mean() + 0.3 * instance
    manual = manual + 0.8 * class_contrast(model, h, batch.y, tiny.semantics[: tiny.n_seen])
    parameters = model.generator_parameters()
    for ours, theirs in zip(
        torch.autograd.grad(total, parameters), torch.autograd.grad(manual, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
        assert ours.abs().max() > 0


def test_generators_loss_steps_the_generator_alone(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    training = make()
    monkeypatch.setattr(Cegan, "prepare", lambda *_: {})
    before = deepcopy(training.state_dict())
    training.advance(3)
    assert moved(training, before) == {"generator"}
    assert not any(name.startswith("adam/critic/") for name in training.state_dict())
    generator = {id(p) for p in training.backbone.generator_parameters()}
    assert generator == {id(p) for p in training.backbone.generator.parameters()}


def test_gradient_of_the_generators_loss_does_not_leak_into_the_next_critic_step(make: Make) -> None:
    """It reaches embedding and comparator, so a critic step must begin by forgetting it."""
    clean, used = make(critic_steps=1), make(critic_steps=1)
    batch = clean._draw_batch()
    total, _ = used.backbone.loss(batch, seeded(1))
    total.backward()  # type: ignore[no-untyped-call]
    for training in (clean, used):
        training.backbone.prepare([batch], seeded(2))
    first, second = clean.backbone.state_dict(), used.backbone.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


# --- the head of its own


def test_backbone_head_reads_h_of_real_and_synthetic_rows(
    make: Make, tiny: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = make(heads=("backbone_embedding",))
    training.advance(2)
    model: Any = training.backbone
    read: list[Tensor] = []
    train = heads.train_linear_head

    def watched(x: Tensor, *rest: Any) -> Any:
        read.append(x)
        return train(x, *rest)

    monkeypatch.setattr(heads, "train_linear_head", watched)
    evaluation = training.evaluate()
    rows = training.synthesise(4, "evaluation")
    assert list(evaluation.heads) == ["backbone_embedding"]
    (x,) = read
    assert not x.requires_grad
    torch.testing.assert_close(x, torch.cat([embedded(model, part)[0] for part in (tiny.train_x, rows.x)]))
    torch.testing.assert_close(model.head_features(tiny.eval_seen_x), embedded(model, tiny.eval_seen_x)[0])


def test_weights_and_temperatures_have_legal_bounds() -> None:
    published = CeganConfig()
    assert (published.instance_temperature, published.class_temperature) == (0.1, 0.1)
    assert (published.instance_weight, published.class_weight, published.projection_dim) == (0.001, 0.001, 512)
    for name, value in (("instance_temperature", 0), ("class_temperature", -1), ("class_weight", -0.1)):
        with pytest.raises(ValueError, match=name):
            CeganConfig(**{name: value})

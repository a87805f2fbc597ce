"""The gan backbone: the closed-form gradient penalty against double backward, and who gets which gradient."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from d3tune.data.tensors import Tensors
from d3tune.errors import UsageError
from d3tune.method.generators import BackboneEntry, backbone_names, load_backbone
from d3tune.method.generators.base import Backbone, Batch, Sizes
from d3tune.method.generators.gan import Critic, Gan, GanConfig
from d3tune.method.networks import EmbeddingClassifier
from d3tune.method.teacher import train_teacher

SIZES = Sizes(n_features=7, n_semantics=4, n_seen=6, n_unseen=3)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def make_critic(hidden: int = 9) -> Critic:
    critic = Critic(SIZES, GanConfig(hidden_dim=hidden), seeded(0))
    with torch.no_grad():
        for seed, parameter in enumerate(critic.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(seed)))
    return critic.double()


def textbook_value(critic: Critic, x: Tensor, a: Tensor) -> Tensor:
    h = F.leaky_relu(F.linear(torch.cat([x, a], dim=1), critic.hidden.weight, critic.hidden.bias), 0.2)
    return F.linear(h, critic.output.weight, critic.output.bias).squeeze(1)


def textbook_loss(critic: Critic, real: Tensor, fake: Tensor, a: Tensor, mix: Tensor) -> tuple[Tensor, Tensor]:
    """WGAN-GP (Gulrajani et al., 2017) by a third forward pass and double backward."""
    between = (mix * real + (1 - mix) * fake).requires_grad_()
    value = textbook_value(critic, between, a)
    (gradient,) = torch.autograd.grad(value.sum(), between, create_graph=True)
    penalty = ((gradient.square().sum(dim=1).sqrt() - 1) ** 2).mean()
    return textbook_value(critic, fake, a).mean() - textbook_value(critic, real, a).mean(), penalty


def gradients(critic: Critic, loss: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(critic.parameters()), retain_graph=True, allow_unused=True)
    return [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(critic.parameters(), found, strict=True)
    ]


@pytest.mark.parametrize("mix", ["random", "real", "fake"])
def test_critic_loss_is_the_textbook_form_with_double_backward(mix: str) -> None:
    critic = make_critic()
    real, fake, a = uniform(8, 7, seed=1), uniform(8, 7, seed=2), uniform(8, 4, seed=3)
    u = {"random": uniform(8, 1, seed=4), "real": torch.ones(8, 1).double(), "fake": torch.zeros(8, 1).double()}[mix]
    found, expected = critic.loss(real, fake, a, u), textbook_loss(critic, real, fake, a, u)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == ()
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
        for ours, theirs in zip(gradients(critic, one), gradients(critic, other), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_critic_loss_in_float32_is_the_float64_one() -> None:
    critic = make_critic()
    inputs = [uniform(8, 7, seed=1), uniform(8, 7, seed=2), uniform(8, 4, seed=3), uniform(8, 1, seed=4)]
    expected = [value.item() for value in textbook_loss(critic, *inputs)]
    found = critic.float().loss(*(value.float() for value in inputs))
    assert [value.item() for value in found] == pytest.approx(expected, rel=1e-5)


def test_penalty_interpolates_with_u_on_the_real_side() -> None:
    """One hidden unit that is on for real and off for fake rows: ‖∇D‖ is 1 above the kink and .2 below."""
    critic = make_critic(hidden=1)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.zero_()
        critic.hidden.weight[0, 0] = 1.0
        critic.output.weight.fill_(1.0)
    real, fake, a = torch.ones(2, 7).double(), -torch.ones(2, 7).double(), torch.zeros(2, 4).double()
    _, penalty = critic.loss(real, fake, a, torch.tensor([[0.75], [0.25]]).double())
    assert penalty.item() == pytest.approx(0.8**2 / 2, rel=1e-7)


def test_frozen_value_is_the_value_without_gradient_to_the_critic() -> None:
    critic = make_critic()
    x, a = uniform(5, 7, seed=5).requires_grad_(), uniform(5, 4, seed=6)
    value = critic.frozen_value(x, a)
    expected = textbook_value(critic, x, a)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    (gradient_x,) = torch.autograd.grad(value.sum(), x, retain_graph=True)
    torch.testing.assert_close(gradient_x, torch.autograd.grad(expected.sum(), x)[0], rtol=1e-12, atol=0)
    value.sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in critic.parameters())


# --- the backbone


def make_gan(tiny: Tensors, **values: Any) -> Gan:
    config = GanConfig(
        **({"hidden_dim": 16, "noise_dim": 3, "embed_dim": 8, "teacher_lr": 1e-2, "generator_lr": 1e-3} | values)
    )
    sizes = Sizes(tiny.n_features, tiny.semantics.shape[1], tiny.n_seen, tiny.n_unseen)
    teacher = train_teacher(tiny.train_x, tiny.train_y, tiny.n_seen, config, seeded(0))
    return Gan(sizes, config, teacher, seeded(1))


def make_batch(tiny: Tensors, gan: Gan, start: int = 0, n: int = 16) -> Batch:
    x, y = tiny.train_x[start : start + n], tiny.train_y[start : start + n]
    return Batch(x, y, tiny.semantics[y], *gan.teacher(x))


def snapshot(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def slow_sample(gan: Gan, noise: Tensor, semantics: Tensor) -> np.ndarray:
    values = {name: value.double().numpy() for name, value in gan.generator.state_dict().items()}
    x = np.concatenate([noise.double().numpy(), semantics.double().numpy()], axis=1)
    h = x @ values["hidden.weight"].T + values["hidden.bias"]
    h = np.where(h > 0, h, 0.2 * h)
    out = h @ values["output.weight"].T + values["output.bias"]
    if gan.config.output_activation == "linear":
        return out
    return np.maximum(out, 0) if gan.config.output_activation == "relu" else 1 / (1 + np.exp(-out))


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "linear"])
def test_sample_is_the_formula_and_differentiable(tiny: Tensors, activation: str) -> None:
    gan = make_gan(tiny, output_activation=activation)
    noise = gan.draw_noise(9, seeded(2)).requires_grad_()
    assert noise.shape == (9, 3)
    semantics = tiny.semantics[tiny.n_seen :].repeat(3, 1)
    x = gan.sample(noise, semantics)
    assert x.shape == (9, tiny.n_features)
    np.testing.assert_allclose(x.detach().numpy(), slow_sample(gan, noise.detach(), semantics), rtol=1e-4, atol=1e-7)
    x.sum().backward()  # type: ignore[no-untyped-call]
    assert noise.grad is not None
    assert noise.grad.abs().max() > 0
    assert all(parameter.grad is not None for parameter in gan.generator_parameters())


def test_noise_is_as_wide_as_the_semantics_unless_told(tiny: Tensors) -> None:
    gan = make_gan(tiny, noise_dim=None)
    assert gan.draw_noise(2, seeded(0)).shape == (2, 5)
    assert make_gan(tiny, noise_dim=11).draw_noise(2, seeded(0)).shape == (2, 11)
    large = gan.draw_noise(4000, seeded(1))
    assert abs(float(large.mean())) < 0.03
    assert float(large.std()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("gcls_weight", [0.0, 0.6])
def test_loss_is_minus_the_critic_plus_the_teachers_cross_entropy(tiny: Tensors, gcls_weight: float) -> None:
    gan = make_gan(tiny, gcls_weight=gcls_weight, output_activation="linear")
    batch = make_batch(tiny, gan)
    total, parts = gan.loss(batch, seeded(7))
    fake = slow_sample(gan, gan.draw_noise(16, seeded(7)), batch.a)
    critic = {name: value.double().numpy() for name, value in gan.critic.state_dict().items()}
    h = np.concatenate([fake, batch.a.double().numpy()], axis=1) @ critic["hidden.weight"].T
    h += critic["hidden.bias"]
    value = np.where(h > 0, h, 0.2 * h) @ critic["output.weight"].T + critic["output.bias"]
    teacher = {name: value.double().numpy() for name, value in gan.teacher.state_dict().items()}
    z = np.maximum(fake @ teacher["embed_layer.weight"].T + teacher["embed_layer.bias"], 0)
    v = z @ teacher["logit_layer.weight"].T + teacher["logit_layer.bias"]
    log_p = v - np.log(np.exp(v).sum(axis=1, keepdims=True))
    cross_entropy = -np.mean([log_p[i, y] for i, y in enumerate(batch.y.tolist())])
    expected = {"adversarial": -value.mean()}
    if gcls_weight:
        expected["generator_classification"] = cross_entropy
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert total.item() == pytest.approx(-value.mean() + gcls_weight * cross_entropy, rel=1e-4, abs=1e-7)
    assert not any(part.requires_grad for part in parts.values())


@pytest.mark.parametrize("gcls_weight", [0.0, 1.0])
def test_loss_moves_the_generator_and_neither_critic_nor_teacher(tiny: Tensors, gcls_weight: float) -> None:
    gan = make_gan(tiny, gcls_weight=gcls_weight)
    gan.teacher.zero_grad()
    gan.loss(make_batch(tiny, gan), seeded(3))[0].backward()  # type: ignore[no-untyped-call]
    parameters = gan.generator_parameters()
    assert {id(parameter) for parameter in parameters} == {id(p) for p in gan.generator.parameters()}
    for parameter in parameters:
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in gan.critic.parameters())
    assert all(parameter.grad is None for parameter in gan.teacher.parameters())


def test_prepare_changes_the_critic_alone(tiny: Tensors) -> None:
    gan = make_gan(tiny, critic_steps=3)
    generator, critic, teacher = (snapshot(m) for m in (gan.generator, gan.critic, gan.teacher))
    batches = [make_batch(tiny, gan, start) for start in (0, 16, 32)]
    assert gan.batches_per_update == len(batches)
    losses = gan.prepare(batches, seeded(4))
    assert set(losses) == {"critic", "gradient_penalty"}
    assert not any(loss.requires_grad for loss in losses.values())
    assert same(generator, snapshot(gan.generator))
    assert same(teacher, snapshot(gan.teacher))
    # the output bias cancels in E[D(fake)] − E[D(real)]
    changed = {name for name, value in gan.critic.state_dict().items() if not torch.equal(critic[name], value)}
    assert changed == {"hidden.weight", "hidden.bias", "output.weight"}
    assert all(parameter.grad is None for parameter in gan.generator.parameters())


def test_prepare_of_one_step_is_one_adam_step_on_the_textbook_loss(tiny: Tensors) -> None:
    gan = make_gan(tiny, critic_steps=1, gp_weight=2.5)
    batch = make_batch(tiny, gan)
    reference = Critic(gan.sizes, GanConfig(hidden_dim=16), seeded(0))
    reference.load_state_dict(gan.critic.state_dict())
    rng = seeded(5)
    with torch.no_grad():
        fake = gan.sample(gan.draw_noise(16, rng), batch.a)
    mix = torch.rand(16, 1, generator=rng)
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-3, betas=(0.5, 0.999))
    wasserstein, penalty = textbook_loss(reference, batch.x, fake, batch.a, mix)
    (wasserstein + 2.5 * penalty).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    losses = gan.prepare([batch], seeded(5))
    assert losses["critic"].item() == pytest.approx(wasserstein.item(), rel=1e-4, abs=1e-7)
    assert losses["gradient_penalty"].item() == pytest.approx(penalty.item(), rel=1e-4)
    for one, other in zip(gan.critic.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_critic_learns_to_tell_real_from_synthetic_under_its_penalty(tiny: Tensors) -> None:
    gan = make_gan(tiny, critic_steps=1, generator_lr=5e-3)
    batch, rng = make_batch(tiny, gan, n=32), seeded(6)
    first = gan.prepare([batch], rng)
    for _ in range(400):
        last = gan.prepare([batch], rng)
    assert last["critic"] < first["critic"] - 0.1
    assert last["gradient_penalty"] < 0.5 * first["gradient_penalty"]


def test_teacher_is_not_part_of_the_backbones_state(tiny: Tensors) -> None:
    gan = make_gan(tiny)
    assert isinstance(gan, Backbone)
    assert {name.split(".")[0] for name in gan.state_dict()} == {"generator", "critic"}
    assert set(gan.own_optimizers()) == {"critic"}


# --- the registry of backbones


def test_backbones_are_found_by_name() -> None:
    assert "gan" in backbone_names()
    entry = load_backbone("gan")
    assert isinstance(entry, BackboneEntry)
    assert entry.config is GanConfig


def test_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown backbone 'gam'; did you mean 'gan'"):
        load_backbone("gam")


def test_initial_weights_are_normal_and_small_with_zero_biases() -> None:
    model = EmbeddingClassifier(80, 90, 70, "relu", seeded(0))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert torch.equal(parameter, torch.zeros_like(parameter))
        else:
            assert parameter.mean().item() == pytest.approx(0, abs=1e-3)
            assert parameter.std().item() == pytest.approx(0.02, rel=0.03)

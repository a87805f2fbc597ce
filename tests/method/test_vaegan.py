"""The vaegan backbone: its terms against slow formulas, and which part is stepped by which loss."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from d3tune.data.tensors import Tensors
from d3tune.method import heads
from d3tune.method.generators import load_backbone
from d3tune.method.generators.vaegan import Vaegan, VaeganConfig
from d3tune.method.training import Training

Array = npt.NDArray[np.float64]
SMALL: dict[str, Any] = {
    "updates": 4,
    "evaluations": 2,
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
    "decoder_dim": 7,
    "vae_weight": 0.7,
    "vae_beta": 1.3,
    "remse_weight": 0.4,
    "remse_p": 0.6,
    "remse_p2": 1.4,
}
Make = Callable[..., Training]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spread(module: torch.nn.Module, seed: int) -> None:
    rng = seeded(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=rng))


@pytest.fixture
def make(tiny: Tensors) -> Make:
    def build(**values: Any) -> Training:
        training = Training(tiny, load_backbone("vaegan"), VaeganConfig(**(SMALL | values)), 0)
        for seed, name in enumerate(("generator", "encoder", "decoder", "critic")):
            spread(getattr(training.backbone, name), seed)
        return training

    return build


def moved(training: Training, before: dict[str, Tensor]) -> set[str]:
    after = training.state_dict()
    names = [name for name in before if name.startswith("backbone/") and not torch.equal(before[name], after[name])]
    return {name.split("/")[1].split(".")[0] for name in names}


# --- slow formulas


def array(x: Tensor) -> Array:
    return x.detach().double().numpy()


def two_layers(module: Any, x: Array) -> Array:
    h = x @ array(module.hidden.weight).T + array(module.hidden.bias)
    return np.where(h > 0, h, 0.2 * h) @ array(module.output.weight).T + array(module.output.bias)


def generated(model: Vaegan, noise: Array, a: Array) -> Array:
    out = two_layers(model.generator, np.concatenate([noise, a], axis=1))
    return np.maximum(out, 0) if model.generator.activation == "relu" else out


def slow_vae(model: Vaegan, x: Array, a: Array, noise: Array) -> tuple[float, float]:
    """Mean squared reconstruction error and KL, both summed over dimensions."""
    mean, log_variance = np.split(two_layers(model.encoder, np.concatenate([x, a], axis=1)), 2, axis=1)
    log_variance = log_variance.clip(-8, 8)
    decoded = generated(model, mean + noise * np.exp(log_variance / 2), a)
    n = len(x)
    reconstruction = sum((decoded[i, k] - x[i, k]) ** 2 for i in range(n) for k in range(x.shape[1])) / n
    kl = 0.0
    for mu, log_var in zip(mean.ravel(), log_variance.ravel(), strict=True):
        kl += 0.5 * (np.exp(log_var) + mu**2 - 1 - log_var) / n
    return float(reconstruction), float(kl)


class SlowReMSE:
    """ReMSE by loops; ``errors`` by (class, dimension) are kept from batch to batch."""

    def __init__(self, p: float, p2: float) -> None:
        self.p, self.p2 = p, p2
        self.errors: dict[tuple[int, int], float] = {}

    def __call__(self, predicted: Array, target: Array, labels: list[int]) -> float:
        predicted = predicted / np.linalg.norm(predicted, axis=1, keepdims=True)
        target = target / np.linalg.norm(target, axis=1, keepdims=True)
        squared = (predicted - target) ** 2
        dims = range(squared.shape[1])
        for c in set(labels):
            for s in dims:
                rows = [squared[i, s] for i, label in enumerate(labels) if label == c]
                self.errors[c, s] = max(sum(rows) / len(rows), 1e-6)
        known = {c for c, _ in self.errors}
        total = 0.0
        for i, c in enumerate(labels):
            for s in dims:
                own = self.errors[c, s]
                w1 = (1 + np.log(own / min(self.errors[d, s] for d in known))) ** self.p
                w2 = (1 + np.log(own / min(self.errors[c, t] for t in dims))) ** self.p2
                total += w1 * w2 * squared[i, s]
        return float(total / squared.size)


# --- the terms


def test_critic_term_is_remse_of_the_decoder_on_real_rows(make: Make) -> None:
    """The record of errors goes on from batch to batch, so a class absent now keeps its last error."""
    training = make()
    model: Any = training.backbone
    slow = SlowReMSE(0.6, 1.4)
    for k in range(3):
        batch = training._draw_batch()
        terms = model.critic_terms(batch)
        expected = slow(two_layers(model.decoder, array(batch.x)), array(batch.a), batch.y.tolist())
        assert set(terms) == {"remse"}
        assert terms["remse"].item() == pytest.approx(expected, rel=1e-4), k
    assert not model.fake_remse.errors.any(), "synthetic rows have a record of their own"


def test_without_exponents_it_is_the_plain_error_of_directions(make: Make) -> None:
    training = make(remse_p=0, remse_p2=0)
    model: Any = training.backbone
    batch = training._draw_batch()
    expected = F.mse_loss(F.normalize(model.decoder(batch.x), dim=1), F.normalize(batch.a, dim=1))
    assert model.critic_terms(batch)["remse"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("anchor", ["none", "ridge"])
@pytest.mark.parametrize("gcls_weight", [0.0, 0.6])
def test_generator_loss_is_the_sum_of_its_terms(make: Make, anchor: str, gcls_weight: float) -> None:
    training = make(anchor=anchor, gcls_weight=gcls_weight)
    model: Any = training.backbone
    batch = training._draw_batch()
    total, parts = model.loss(batch, seeded(7))
    rng = seeded(7)
    first, second = model.draw_noise(16, rng), torch.randn(16, 3, generator=rng)
    a, n_features = array(batch.a), batch.x.shape[1]
    residual = generated(model, array(first), a)
    fake = residual if model.anchor is None else residual + array(model.anchor(batch.a))
    reconstruction, kl = slow_vae(model, array(batch.target), a, array(second))
    expected = {
        "adversarial": -float(two_layers(model.critic, np.concatenate([residual, a], axis=1)).mean()),
        "reconstruction": reconstruction,
        "kl": kl,
        "fake_remse": SlowReMSE(0.6, 1.4)(two_layers(model.decoder, fake), a, batch.y.tolist()),
    }
    manual = expected["adversarial"] + 0.7 * (reconstruction + 1.3 * kl) / n_features + 0.4 * expected["fake_remse"]
    if gcls_weight:
        logits = model.teacher(torch.tensor(fake, dtype=torch.float32))[1]
        expected["generator_classification"] = F.cross_entropy(logits, batch.y).item()
        manual += gcls_weight * expected["generator_classification"]
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert total.item() == pytest.approx(manual, rel=1e-4, abs=1e-6)
    assert not any(part.requires_grad for part in parts.values())
    assert not model.real_remse.errors.any(), "real rows have a record of their own"


def test_generator_gradient_is_that_of_the_sum(make: Make) -> None:
    """Differences along one random direction of all of the generator's and the encoder's weights."""
    training = make(remse_p=0, remse_p2=0, output_activation="linear")
    model: Any = training.backbone
    batch = training._draw_batch()
    parameters = model.generator_parameters()
    total, _ = model.loss(batch, seeded(7))
    gradients = torch.autograd.grad(total, parameters)
    rng = seeded(8)
    direction = [torch.randn(p.shape, generator=rng) for p in parameters]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    start = [p.detach().clone() for p in parameters]

    def at(step: float) -> float:
        with torch.no_grad():
            for p, s, d in zip(parameters, start, direction, strict=True):
                p.copy_(s + step * d)
        return float(model.loss(batch, seeded(7))[0].detach())

    assert (at(2e-4) - at(-2e-4)) / 4e-4 == pytest.approx(slope, rel=1e-2)


@pytest.mark.parametrize("off", ["vae_weight", "remse_weight"])
def test_a_weight_of_0_takes_its_term_out(make: Make, off: str) -> None:
    training = make(**{off: 0})
    model: Any = training.backbone
    total, parts = model.loss(training._draw_batch(), seeded(7))
    expected = parts["adversarial"]
    if off == "remse_weight":
        expected = expected + 0.7 * (parts["reconstruction"] + 1.3 * parts["kl"]) / training.sizes.n_features
    else:
        expected = expected + 0.4 * parts["fake_remse"]
    assert total.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-7)


# --- who is stepped by which loss


def test_critic_steps_move_critic_and_decoder(make: Make) -> None:
    training = make()
    before = deepcopy(training.state_dict())
    losses = training.backbone.prepare([training._draw_batch() for _ in range(2)], seeded(1))
    assert set(losses) == {"critic", "gradient_penalty", "remse"}
    assert moved(training, before) == {"critic", "decoder", "real_remse"}


def test_one_critic_step_is_one_adam_step_on_the_sum(make: Make) -> None:
    training, reference = make(critic_steps=1, gp_weight=2.5), make(critic_steps=1, gp_weight=2.5)
    batch = training._draw_batch()
    model: Any = reference.backbone
    rng = seeded(5)
    with torch.no_grad():
        fake = model.generate(model.draw_noise(16, rng), batch.a)
    mix = torch.rand(16, 1, generator=rng)
    wasserstein, penalty = model.critic.loss(batch.x, fake, batch.a, mix)
    total = wasserstein + 2.5 * penalty + model.real_remse(model.decoder(batch.x), batch.a, batch.y)
    parts = [*model.critic.parameters(), *model.decoder.parameters()]
    optimizer = torch.optim.Adam(parts, lr=2e-3, betas=(0.5, 0.999))
    total.backward()
    optimizer.step()
    training.backbone.prepare([batch], seeded(5))
    for name, value in training.backbone.state_dict().items():
        if name != "critic.output.bias":  # its gradient cancels, so that Adam makes steps of mere rounding
            torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-3, atol=1e-5)


def test_generators_loss_steps_generator_and_encoder(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    training = make()
    monkeypatch.setattr(Vaegan, "prepare", lambda *_: {})
    before = deepcopy(training.state_dict())
    training.advance(3)
    assert moved(training, before) == {"generator", "encoder", "fake_remse"}
    assert not any(name.startswith("adam/critic/") for name in training.state_dict())


def test_gradient_of_the_generators_loss_does_not_leak_into_the_next_critic_step(make: Make) -> None:
    clean, used = make(), make()
    batch = clean._draw_batch()
    used.backbone.loss(batch, seeded(1))[0].backward()  # type: ignore[no-untyped-call]
    for training in (clean, used):
        training.backbone.prepare([batch], seeded(2))
    for part in ("critic", "decoder"):
        first, second = (getattr(training.backbone, part).state_dict() for training in (clean, used))
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_records_of_errors_are_a_part_of_the_state(make: Make) -> None:
    whole, cut, resumed = make(), make(), make()
    reports = list(whole.evaluations())
    cut.advance(2)
    saved = safetensors.torch.load(safetensors.torch.save(cut.state_dict()))
    for name in ("backbone/real_remse.errors", "backbone/fake_remse.errors"):
        assert saved[name].any()
    resumed.load_state_dict(saved)
    assert list(resumed.evaluations()) == reports[1:]
    first, second = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


# --- the head of its own


def test_backbone_head_reads_x_and_the_decoders_hidden_layer(
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
    assert list(training.evaluate().heads) == ["backbone_embedding"]
    x = array(torch.cat([tiny.train_x, training.synthesise(4, "evaluation").x]))
    h = x @ array(model.decoder.hidden.weight).T + array(model.decoder.hidden.bias)
    expected = np.concatenate([x, np.where(h > 0, h, 0.2 * h)], axis=1)
    (found,) = read
    assert found.shape[1] == tiny.n_features + 7
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_noise_and_latent_are_one_space(make: Make) -> None:
    for noise_dim, width in ((3, 3), (None, 5)):
        model: Any = make(noise_dim=noise_dim).backbone
        assert model.encoder.output.out_features == 2 * width
        assert model.draw_noise(2, seeded(0)).shape == (2, width)

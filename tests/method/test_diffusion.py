"""The diffusion backbone against float64 loops over rows and steps."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from d3tune.data.tensors import Tensors
from d3tune.method.generators.base import Batch, Sizes
from d3tune.method.generators.diffusion import Diffusion, DiffusionConfig, signal_levels
from d3tune.method.teacher import train_teacher

Array = npt.NDArray[np.float64]
SCHEDULES: tuple[Any, ...] = ("cosine", "vp")


@pytest.fixture
def double() -> Iterator[None]:
    """New tensors in float64, for comparisons to 1e-10."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_diffusion(tiny: Tensors, **values: Any) -> Diffusion:
    """In the default type, with weights so large that no unit is negligible, the averaged ones other than the rest."""
    small = {"hidden_dim": 10, "embed_dim": 8, "teacher_epochs": 1, "diffusion_steps": 4}
    config = DiffusionConfig(**(small | values))
    sizes = Sizes(tiny.n_features, tiny.semantics.shape[1], tiny.n_seen, tiny.n_unseen)
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    teacher = train_teacher(tiny.train_x, tiny.train_y, tiny.n_seen, config, seeded(0))
    model = Diffusion(sizes, config, teacher, seeded(1))
    torch.set_default_dtype(dtype)
    model.to(dtype)
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=seeded(seed)))
    return model


def make_batch(tiny: Tensors, start: int = 0, n: int = 16, residual: Tensor | None = None) -> Batch:
    dtype = torch.get_default_dtype()
    x, y = tiny.train_x[start : start + n].to(dtype), tiny.train_y[start : start + n]
    return Batch(x, y, tiny.semantics[y].to(dtype), torch.empty(0), torch.empty(0), residual)


# --- the slow form


def slow_signal(steps: int, schedule: str) -> list[float]:
    """Square root of the share of signal after t/T: cos² of Nichol and Dhariwal, or exp(−∫β) of Song et al."""

    def cosine(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    found = []
    for k in range(1, steps + 1):
        t = k / steps
        if schedule == "cosine":
            share = cosine(t) / cosine(0)
        else:
            grid = np.linspace(0, t, 2001)
            share = math.exp(-float(np.trapezoid(0.1 + (20 - 0.1) * grid, grid)))
        found.append(min(max(math.sqrt(share), 1e-3), 1 - 1e-4))
    return found


def silu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))


def weights_of(module: torch.nn.Module) -> dict[str, Array]:
    return {name: value.double().numpy().copy() for name, value in module.state_dict().items()}


def slow_v(weights: dict[str, Array], x: Array, time: float, a: Array) -> Array:
    """The network for one row."""

    def layer(name: str, h: Array) -> Array:
        return np.asarray(weights[f"{name}.weight"] @ h + weights[f"{name}.bias"])

    angles = np.array([time * 1000 ** (k / 31) for k in range(32)])
    of_time = layer("time.2", silu(layer("time.0", np.concatenate([np.sin(angles), np.cos(angles)]))))
    film = layer("film", a)
    half = len(film) // 2
    h = silu((layer("input", x) + of_time) * (1 + film[:half]) + film[half:])
    return layer("output", silu(layer("middle", h)))


def slow_x0(model: Diffusion, weights: dict[str, Array], x: Array, t: int, a: Array) -> Array:
    """α·x − σ·v for one row at level t of 0 … T − 1."""
    alpha, sigma = float(model.alpha[t]), float(model.sigma[t])
    return alpha * x - sigma * slow_v(weights, x, (t + 1) / model.config.diffusion_steps, a)


def slow_loss(model: Diffusion, x: Array, a: Array, rng: torch.Generator) -> float:
    config, weights = model.config, weights_of(model.denoiser)
    levels = torch.randint(config.diffusion_steps, (len(x),), generator=rng).tolist()
    epsilon = torch.randn(x.shape, generator=rng).double().numpy()
    a = a.copy()
    if config.semantics_noise > 0:
        noise = torch.randn(a.shape, generator=rng).double().numpy()
        for i, row in enumerate(a.copy()):
            a[i] = row + config.semantics_noise * noise[i]
    if config.guidance > 0:
        for i, u in enumerate(torch.rand(len(x), 1, generator=rng).double().numpy()[:, 0]):
            if u < 0.1:
                a[i] = weights["empty"]
    errors = []
    for i, t in enumerate(levels):
        alpha, sigma = float(model.alpha[t]), float(model.sigma[t])
        x0 = slow_x0(model, weights, alpha * x[i] + sigma * epsilon[i], t, a[i])
        error = sum((x0[j] - x[i, j]) ** 2 for j in range(x.shape[1])) / x.shape[1]
        snr = alpha**2 / sigma**2
        errors.append(error * min(snr, 5.0) if config.min_snr else error)
    return float(np.mean(errors))


def slow_sample(model: Diffusion, noise: Array, a: Array, steps: int | None = None) -> Array:
    """DDIM with η = 0 (Song et al., 2021, eq. 12), row by row, with the averaged weights."""
    weights, g, total = weights_of(model.average), model.config.guidance, model.config.diffusion_steps
    found = []
    for x, semantics in zip(noise, a, strict=True):
        current = x
        for t in range(total - 1, -1, -1):
            x0 = slow_x0(model, weights, current, t, semantics)
            if g > 0:
                x0 = (1 + g) * x0 - g * slow_x0(model, weights, current, t, weights["empty"])
            if t == 0 or steps == 1:
                break
            predicted_noise = (current - float(model.alpha[t]) * x0) / float(model.sigma[t])
            current = float(model.alpha[t - 1]) * x0 + float(model.sigma[t - 1]) * predicted_noise
        found.append(x0)
    return np.array(found)


# --- noise levels


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 4, 10, 100, 1000])
def test_signal_levels_are_the_schedules(schedule: Any, steps: int) -> None:
    alpha = signal_levels(steps, schedule)
    assert alpha.shape == (steps,)
    np.testing.assert_allclose(alpha.double().numpy(), slow_signal(steps, schedule), rtol=1e-5)
    falls = alpha.diff()
    assert (falls <= 0).all()
    assert steps > 10 or (falls < 0).all()
    assert 0 < alpha[-1] < 0.01


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 10, 1000])
def test_signal_and_noise_make_a_unit_variance(tiny: Tensors, schedule: str, steps: int) -> None:
    model = make_diffusion(tiny, diffusion_steps=steps, diffusion_schedule=schedule)
    alpha, sigma = model.alpha.double(), model.sigma.double()
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), rtol=0, atol=1e-6)
    assert sigma.min() > 0
    assert (sigma.diff() >= 0).all()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_true_v_gives_x0_back(tiny: Tensors, schedule: str) -> None:
    """A network that says v = α·ε − σ·x₀ makes no loss at any level."""
    model = make_diffusion(tiny, diffusion_steps=6, diffusion_schedule=schedule)
    batch = make_batch(tiny)
    rng = seeded(3)
    level = torch.randint(6, (16,), generator=rng)
    epsilon = torch.randn(batch.x.shape, generator=rng)
    v = model.alpha[level, None] * epsilon - model.sigma[level, None] * batch.x
    handle = model.denoiser.register_forward_hook(lambda *_: v)
    total, _ = model.loss(batch, seeded(3))
    handle.remove()
    # σ is rounded to float32
    assert total.item() == pytest.approx(0, abs=1e-12)


# --- the loss

LOSSES: list[dict[str, Any]] = [
    {},
    {"diffusion_schedule": "vp", "diffusion_steps": 9},
    {"diffusion_steps": 1},
    {"min_snr": True, "diffusion_steps": 10},
    {"semantics_noise": 0.7},
    {"guidance": 0.5},
    {"guidance": 0.5, "semantics_noise": 0.3, "min_snr": True, "diffusion_steps": 7},
]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("values", LOSSES, ids=str)
def test_loss_is_the_slow_one(tiny: Tensors, values: dict[str, Any]) -> None:
    model = make_diffusion(tiny, **values)
    batch = make_batch(tiny, n=40)
    total, parts = model.loss(batch, seeded(7))
    expected = slow_loss(model, batch.x.numpy(), batch.a.numpy(), seeded(7))
    assert total.item() == pytest.approx(expected, rel=1e-10)
    assert {name: part.item() for name, part in parts.items()} == {"denoising": total.item()}
    assert not parts["denoising"].requires_grad


def test_loss_in_float32_is_the_float64_one(tiny: Tensors) -> None:
    model = make_diffusion(tiny, guidance=0.5, semantics_noise=0.3, min_snr=True)
    batch = make_batch(tiny, n=40)
    expected = slow_loss(model, batch.x.double().numpy(), batch.a.double().numpy(), seeded(7))
    assert model.loss(batch, seeded(7))[0].item() == pytest.approx(expected, rel=2e-5)


@pytest.mark.usefixtures("double")
def test_gradient_is_that_of_the_slow_loss(tiny: Tensors) -> None:
    """Finite differences in a few entries of every parameter; the averaged weights get none."""
    model = make_diffusion(tiny, guidance=0.5, semantics_noise=0.3, min_snr=True)
    batch = make_batch(tiny, n=40)
    model.loss(batch, seeded(7))[0].backward()
    for parameter in model.generator_parameters():
        assert parameter.grad is not None
        flat, gradient = parameter.detach().view(-1), parameter.grad.view(-1)
        for index in {0, len(flat) - 1}:
            value, ends = flat[index].item(), []
            for step in (1e-6, -1e-6):
                flat[index] = value + step
                ends.append(slow_loss(model, batch.x.numpy(), batch.a.numpy(), seeded(7)))
            flat[index] = value
            assert gradient[index].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-8)
    assert model.denoiser.empty.grad is not None
    assert model.denoiser.empty.grad.abs().min() > 0  # some condition was dropped
    assert all(parameter.grad is None for parameter in model.average.parameters())


@pytest.mark.usefixtures("double")
def test_residual_is_modelled_where_there_is_one(tiny: Tensors) -> None:
    model = make_diffusion(tiny, anchor="ridge")
    batch = make_batch(tiny)
    residual = batch.x - 0.3
    anchored = make_batch(tiny, residual=residual)
    expected = slow_loss(model, residual.numpy(), batch.a.numpy(), seeded(4))
    assert model.loss(anchored, seeded(4))[0].item() == pytest.approx(expected, rel=1e-10)


def seen_conditions(model: Diffusion, tiny: Tensors, n: int) -> tuple[Tensor, Tensor]:
    """The semantics that the network got in one loss on ``n`` rows of class 0, and those of the class."""
    given: list[Tensor] = []
    handle = model.denoiser.register_forward_pre_hook(lambda _, inputs: given.append(inputs[2][0].detach()))
    x, a = tiny.train_x[:1].expand(n, -1), tiny.semantics[:1].expand(n, -1)
    model.loss(Batch(x, torch.zeros(n, dtype=torch.long), a, torch.empty(0), torch.empty(0)), seeded(0))
    handle.remove()
    (conditions,) = given
    return conditions, a


@pytest.mark.parametrize("guidance", [0.0, 0.2])
def test_condition_is_dropped_once_in_ten_where_guidance_is_used(tiny: Tensors, guidance: float) -> None:
    model = make_diffusion(tiny, guidance=guidance)
    conditions, a = seen_conditions(model, tiny, 5000)
    dropped = (conditions == model.denoiser.empty).all(dim=1)
    assert torch.equal(conditions[~dropped], a[~dropped])
    assert dropped.double().mean().item() == pytest.approx(0.1 if guidance else 0, abs=0.015 if guidance else 0)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_semantics_noise_is_standard_normal_times_sigma(tiny: Tensors, scale: float) -> None:
    """The noise does not depend on how long the semantics are."""
    model = make_diffusion(tiny, semantics_noise=0.3)
    data = Tensors(**(vars(tiny) | {"semantics": scale * tiny.semantics}))
    conditions, a = seen_conditions(model, data, 5000)
    noise = (conditions - a).double()
    assert noise.square().mean().sqrt().item() == pytest.approx(0.3, rel=0.03)
    assert noise.mean(dim=0).abs().max().item() < 0.02


# --- samples


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("guidance", [0.0, 0.6])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_full_samples_are_ddim(tiny: Tensors, steps: int, schedule: str, guidance: float) -> None:
    model = make_diffusion(tiny, diffusion_steps=steps, diffusion_schedule=schedule, guidance=guidance)
    noise, a = model.draw_noise(5, seeded(2)), tiny.semantics[-5:].double()
    expected = slow_sample(model, noise.numpy(), a.numpy())
    np.testing.assert_allclose(model.sample_final(noise, a).numpy(), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("guidance", [0.0, 0.6])
def test_one_step_samples_are_the_first_x0(tiny: Tensors, guidance: float) -> None:
    full, one = (make_diffusion(tiny, guidance=guidance, final_sampler=sampler) for sampler in ("full", "one_step"))
    noise, a = one.draw_noise(5, seeded(2)), tiny.semantics[-5:].double()
    expected = slow_sample(one, noise.numpy(), a.numpy(), steps=1)
    np.testing.assert_allclose(one.sample_final(noise, a).numpy(), expected, rtol=1e-9, atol=1e-10)
    assert (one.sample_final(noise, a) - full.sample_final(noise, a)).abs().max() > 1e-3


def test_one_step_is_full_where_there_is_one_level(tiny: Tensors) -> None:
    full, one = (make_diffusion(tiny, diffusion_steps=1, final_sampler=s) for s in ("full", "one_step"))
    noise, a = one.draw_noise(5, seeded(2)), tiny.semantics[-5:]
    assert torch.equal(full.sample_final(noise, a), one.sample_final(noise, a))


@pytest.mark.usefixtures("double")
def test_guidance_moves_away_from_the_empty_condition(tiny: Tensors) -> None:
    """Linear in g: x(g) = x(0) + g·(x(0) − x(∅))."""
    plain, guided = (make_diffusion(tiny, guidance=g, final_sampler="one_step") for g in (0.0, 2.5))
    noise, a = plain.draw_noise(5, seeded(2)), tiny.semantics[-5:].double()
    with_a, without = plain.sample_final(noise, a), plain.sample_final(noise, plain.average.empty.expand_as(a))
    torch.testing.assert_close(guided.sample_final(noise, a), with_a + 2.5 * (with_a - without))


@pytest.mark.usefixtures("double")
def test_training_samples_are_one_step_of_the_current_weights(tiny: Tensors) -> None:
    """Differentiable, without guidance, and not of the averaged weights."""
    model = make_diffusion(tiny, guidance=0.6)
    noise, a = model.draw_noise(5, seeded(2)), tiny.semantics[-5:].double()
    weights = weights_of(model.denoiser)
    expected = [slow_x0(model, weights, x, 3, s) for x, s in zip(noise.numpy(), a.numpy(), strict=True)]
    found = model.sample(noise, a)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-9, atol=1e-10)
    found.square().sum().backward()
    reached = {name for name, p in model.denoiser.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert reached == {name for name, _ in model.denoiser.named_parameters()} - {"empty"}
    assert all(parameter.grad is None for parameter in model.average.parameters())
    assert not model.sample_final(noise, a).requires_grad


@pytest.mark.usefixtures("double")
def test_training_samples_have_the_gradient_of_the_formula(tiny: Tensors) -> None:
    model = make_diffusion(tiny)
    inputs = model.draw_noise(2, seeded(2)).requires_grad_(), tiny.semantics[-2:].double().requires_grad_()
    assert torch.autograd.gradcheck(model.sample, inputs)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_averaged_weights_follow_exponentially(tiny: Tensors, decay: float) -> None:
    model = make_diffusion(tiny, ema_decay=decay)
    expected = weights_of(model.average)
    for update in range(4):
        with torch.no_grad():
            for parameter in model.denoiser.parameters():
                parameter.add_(0.1 * (update + 1))
        before = weights_of(model.denoiser)
        model.after_update()
        for name, current in before.items():
            expected[name] = decay * expected[name] + (1 - decay) * current
            np.testing.assert_allclose(weights_of(model.average)[name], expected[name], rtol=1e-10)
            assert np.array_equal(weights_of(model.denoiser)[name], current)


def test_averaged_weights_begin_as_the_current_ones_and_are_not_trained(tiny: Tensors) -> None:
    config = DiffusionConfig(hidden_dim=10, embed_dim=8, teacher_epochs=1)
    sizes = Sizes(tiny.n_features, tiny.semantics.shape[1], tiny.n_seen, tiny.n_unseen)
    teacher = train_teacher(tiny.train_x, tiny.train_y, tiny.n_seen, config, seeded(0))
    model = Diffusion(sizes, config, teacher, seeded(1))
    current, average = weights_of(model.denoiser), weights_of(model.average)
    assert current.keys() == average.keys()
    assert all(np.array_equal(current[name], average[name]) for name in current)
    assert not any(parameter.requires_grad for parameter in model.average.parameters())
    averaged = {id(parameter) for parameter in model.average.parameters()}
    assert averaged.isdisjoint({id(parameter) for parameter in model.generator_parameters()})


def test_noise_is_in_feature_space(tiny: Tensors) -> None:
    assert make_diffusion(tiny).draw_noise(4, seeded(0)).shape == (4, tiny.n_features)

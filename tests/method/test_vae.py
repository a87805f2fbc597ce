"""The vae backbone against float64 numpy from its weights."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from d3tune.config import validated
from d3tune.data.tensors import Tensors
from d3tune.errors import UsageError
from d3tune.method.generators import load_backbone
from d3tune.method.generators.base import Batch, Sizes
from d3tune.method.generators.vae import Vae, VaeConfig, kl_to_standard_normal
from d3tune.method.teacher import train_teacher
from d3tune.method.training import Training

Array = npt.NDArray[np.float64]
LATENT = 3


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_vae(tiny: Tensors, **values: Any) -> Vae:
    """In float64, with weights so large that no unit is negligible."""
    config = VaeConfig(**({"hidden_dim": 16, "noise_dim": LATENT, "embed_dim": 8, "teacher_epochs": 1} | values))
    sizes = Sizes(tiny.n_features, tiny.semantics.shape[1], tiny.n_seen, tiny.n_unseen)
    teacher = train_teacher(tiny.train_x, tiny.train_y, tiny.n_seen, config, seeded(0))
    vae = Vae(sizes, config, teacher, seeded(1)).double()
    with torch.no_grad():
        for seed, parameter in enumerate(vae.parameters()):
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=seeded(seed)))
    return vae


def make_batch(tiny: Tensors, start: int = 0, n: int = 16) -> Batch:
    x, y = tiny.train_x[start : start + n].double().clamp(max=1), tiny.train_y[start : start + n]
    return Batch(x, y, tiny.semantics[y].double(), torch.empty(0), torch.empty(0))


def slow_layer(values: dict[str, Array], name: str, x: Array) -> Array:
    return x @ values[f"{name}.weight"].T + values[f"{name}.bias"]


def leaky(x: Array) -> Array:
    return np.where(x > 0, x, 0.2 * x)


def slow_decode(vae: Vae, latent: Array, a: Array) -> Array:
    values = {name: value.double().numpy() for name, value in vae.decoder.state_dict().items()}
    out = slow_layer(values, "output", leaky(slow_layer(values, "hidden", np.concatenate([latent, a], axis=1))))
    activation = vae.config.resolved_activation
    if activation == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-out)))
    return np.maximum(out, 0) if activation == "relu" else out


def slow_encode(vae: Vae, x: Array, a: Array) -> tuple[Array, Array]:
    values = {name: value.double().numpy() for name, value in vae.encoder.state_dict().items()}
    out = slow_layer(values, "output", leaky(slow_layer(values, "hidden", np.concatenate([x, a], axis=1))))
    return out[:, :LATENT], np.clip(out[:, LATENT:], -8, 8)


def slow_loss(vae: Vae, batch: Batch, rng: torch.Generator, beta: float) -> tuple[float, float, float, Array]:
    """Total, reconstruction and KL row by row, and the residuals."""
    x, a = batch.x.numpy(), batch.a.numpy()
    mean, log_variance = slow_encode(vae, x, a)
    noise = torch.randn(mean.shape, generator=rng).double().numpy()
    decoded = slow_decode(vae, mean + noise * np.sqrt(np.exp(log_variance)), a)
    reconstructions, kls = [], []
    for i in range(len(x)):
        if vae.config.reconstruction == "mse":
            terms = [(decoded[i, j] - x[i, j]) ** 2 for j in range(x.shape[1])]
        else:
            terms = [
                -(x[i, j] * np.log(decoded[i, j]) + (1 - x[i, j]) * np.log(1 - decoded[i, j]))
                for j in range(x.shape[1])
            ]
        reconstructions.append(sum(terms))
        kls.append(
            sum((np.exp(log_variance[i, k]) + mean[i, k] ** 2 - 1 - log_variance[i, k]) / 2 for k in range(LATENT))
        )
    reconstruction, kl = float(np.mean(reconstructions)), float(np.mean(kls))
    return (reconstruction + beta * kl) / x.shape[1], reconstruction, kl, decoded - x


SETTINGS: list[dict[str, Any]] = [
    {"reconstruction": "mse", "output_activation": "relu"},
    {"reconstruction": "mse", "output_activation": "linear", "vae_beta": 0.0},
    {"reconstruction": "mse", "feature_scaling": "standard", "vae_beta": 3.0},
    {"reconstruction": "bce", "output_activation": "sigmoid", "vae_beta": 0.1},
]


@pytest.mark.parametrize("values", SETTINGS, ids=str)
def test_loss_is_the_slow_one(tiny: Tensors, values: dict[str, Any]) -> None:
    vae = make_vae(tiny, vae_warmup=0, **values)
    batch = make_batch(tiny)
    total, parts = vae.loss(batch, seeded(7))
    expected, reconstruction, kl, _ = slow_loss(vae, batch, seeded(7), vae.config.vae_beta)
    assert total.item() == pytest.approx(expected, rel=1e-10)
    found = {name: part.item() for name, part in parts.items()}
    assert found == pytest.approx({"reconstruction": reconstruction, "kl": kl}, rel=1e-10)
    assert not any(part.requires_grad for part in parts.values())


def test_loss_in_float32_is_the_float64_one(tiny: Tensors) -> None:
    vae = make_vae(tiny, vae_warmup=0)
    batch = make_batch(tiny)
    expected, *_ = slow_loss(vae, batch, seeded(7), 1.0)
    single = Batch(batch.x.float(), batch.y, batch.a.float(), batch.teacher_z, batch.teacher_v)
    assert vae.float().loss(single, seeded(7))[0].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("values", SETTINGS, ids=str)
def test_gradient_is_that_of_the_slow_loss(tiny: Tensors, values: dict[str, Any]) -> None:
    """Finite differences in a few entries of every parameter."""
    vae = make_vae(tiny, vae_warmup=0, **values)
    batch = make_batch(tiny, n=6)
    vae.loss(batch, seeded(7))[0].backward()
    for parameter in vae.generator_parameters():
        assert parameter.grad is not None
        flat, gradient = parameter.detach().view(-1), parameter.grad.view(-1)
        for index in {0, len(flat) // 2, len(flat) - 1}:
            value, ends = flat[index].item(), []
            for step in (1e-6, -1e-6):
                flat[index] = value + step
                ends.append(slow_loss(vae, batch, seeded(7), vae.config.vae_beta)[0])
            flat[index] = value
            assert gradient[index].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-8)


def test_kl_is_its_integral() -> None:
    """One dimension by quadrature of q·(ln q − ln p)."""
    for mean, log_variance in ((0.0, 0.0), (1.3, -1.0), (-0.4, 1.5)):
        sd = np.exp(log_variance / 2)
        z = np.linspace(mean - 12 * sd, mean + 12 * sd, 20001)
        log_q = -((z - mean) ** 2) / (2 * sd**2) - np.log(sd)
        integrand = np.exp(log_q) / np.sqrt(2 * np.pi) * (log_q + z**2 / 2)
        expected = np.trapezoid(integrand, z)
        found = kl_to_standard_normal(
            torch.tensor([[mean]], dtype=torch.float64), torch.tensor([[log_variance]], dtype=torch.float64)
        )
        assert found.item() == pytest.approx(expected, abs=1e-8)


def test_kl_is_a_sum_over_dimensions_and_a_mean_over_rows() -> None:
    mean, log_variance = (torch.randn(4, 5, generator=seeded(s), dtype=torch.float64) for s in (0, 1))
    rows = []
    for m, v in zip(mean.tolist(), log_variance.tolist(), strict=True):
        rows.append(sum(0.5 * (np.exp(b) + a * a - 1 - b) for a, b in zip(m, v, strict=True)))
    assert kl_to_standard_normal(mean, log_variance).item() == pytest.approx(np.mean(rows), rel=1e-12)
    assert kl_to_standard_normal(torch.zeros(3, 2), torch.zeros(3, 2)).item() == 0


def test_kl_gradient() -> None:
    inputs = [torch.randn(3, 2, generator=seeded(s), dtype=torch.float64).requires_grad_() for s in (0, 1)]
    assert torch.autograd.gradcheck(kl_to_standard_normal, inputs)


def test_beta_rises_with_the_updates_and_stays(tiny: Tensors) -> None:
    vae = make_vae(tiny, vae_warmup=4, vae_beta=2.0)
    batch = make_batch(tiny)
    for update in range(1, 7):
        total, _ = vae.loss(batch, seeded(update))
        expected, *_ = slow_loss(vae, batch, seeded(update), 2.0 * min(update / 4, 1))
        assert total.item() == pytest.approx(expected, rel=1e-6)
        vae.after_update()


def test_warm_up_is_part_of_the_state(tiny: Tensors) -> None:
    one, other = make_vae(tiny, vae_warmup=5), make_vae(tiny, vae_warmup=5)
    for update in range(3):
        one.loss(make_batch(tiny), seeded(update))
        one.after_update()
    assert not torch.equal(one.loss(make_batch(tiny), seeded(9))[0], other.loss(make_batch(tiny), seeded(9))[0])
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.loss(make_batch(tiny), seeded(9))[0], other.loss(make_batch(tiny), seeded(9))[0])


@pytest.mark.parametrize("sign", [1, -1])
def test_log_variances_are_clamped(tiny: Tensors, sign: int) -> None:
    vae = make_vae(tiny, vae_warmup=0)
    with torch.no_grad():
        vae.encoder.output.bias[LATENT:] = sign * 1e4
    batch = make_batch(tiny)
    _, log_variance = vae.encoder(batch.x, batch.a)
    assert torch.equal(log_variance, torch.full_like(log_variance, sign * 8.0))
    total, _ = vae.loss(batch, seeded(0))
    assert total.item() == pytest.approx(slow_loss(vae, batch, seeded(0), 1.0)[0], rel=1e-10)
    assert torch.isfinite(total)


# --- samples


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "linear"])
def test_samples_are_decoded_noise(tiny: Tensors, activation: str) -> None:
    vae = make_vae(tiny, output_activation=activation)
    noise, a = vae.draw_noise(6, seeded(3)).double(), tiny.semantics[-6:].double()
    expected = slow_decode(vae, noise.numpy(), a.numpy())
    for how in (vae.sample, vae.sample_final):
        np.testing.assert_allclose(how(noise, a).detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_residual_variance_is_an_average_that_forgets(tiny: Tensors) -> None:
    """Weights .99^age, summing to 1 from the first update on."""
    vae = make_vae(tiny, vae_warmup=0, output_noise=0.5)
    assert torch.equal(vae.residual_variance, torch.zeros_like(vae.residual_variance))
    squares: list[Array] = []
    for update in range(5):
        batch = make_batch(tiny, start=8 * update, n=8)
        residual = slow_loss(vae, batch, seeded(update), 1.0)[3]
        squares.append(np.array([np.mean(residual[:, j] ** 2) for j in range(tiny.n_features)]))
        vae.loss(batch, seeded(update))
        vae.after_update()
        weights = np.array([0.99**age for age in reversed(range(len(squares)))])
        expected = (weights[:, None] * np.array(squares)).sum(axis=0) / weights.sum()
        np.testing.assert_allclose(vae.residual_variance.numpy(), expected, rtol=1e-6)
    assert not vae.residual_variance.requires_grad


def test_output_noise_is_in_units_of_the_residual_sd(tiny: Tensors) -> None:
    plain, noisy = make_vae(tiny), make_vae(tiny, output_noise=0.7)
    assert plain.noise_dim == LATENT
    assert noisy.noise_dim == LATENT + tiny.n_features
    noisy.loss(make_batch(tiny), seeded(0))
    noise, a = noisy.draw_noise(5, seeded(1)).double(), tiny.semantics[:5].double()
    decoded = slow_decode(noisy, noise[:, :LATENT].numpy(), a.numpy())
    expected = decoded + 0.7 * np.sqrt(noisy.residual_variance.numpy()) * noise[:, LATENT:].numpy()
    np.testing.assert_allclose(noisy.sample(noise, a).detach().numpy(), expected, rtol=1e-10)
    assert noisy.noise_dim == noise.shape[1]


def test_latent_is_as_wide_as_the_semantics_unless_told(tiny: Tensors) -> None:
    assert make_vae(tiny, noise_dim=None).noise_dim == tiny.semantics.shape[1]


def test_encoder_and_decoder_are_trained(tiny: Tensors) -> None:
    vae = make_vae(tiny)
    found = {id(parameter) for parameter in vae.generator_parameters()}
    assert found == {id(p) for part in (vae.encoder, vae.decoder) for p in part.parameters()}


@pytest.mark.parametrize(
    "values",
    [
        {"reconstruction": "bce"},
        {"reconstruction": "bce", "output_activation": "linear"},
        {"reconstruction": "bce", "output_activation": "sigmoid", "feature_scaling": "standard"},
        {"reconstruction": "bce", "output_activation": "sigmoid", "anchor": "ridge"},
    ],
    ids=str,
)
def test_bce_where_it_is_not_defined_is_refused_or_trains(tiny: Tensors, values: dict[str, Any]) -> None:
    """It needs targets and outputs in [0, 1]; a configuration without them must not fail in the middle of a trial."""
    small = {"updates": 20, "evaluations": 1, "hidden_dim": 8, "embed_dim": 8, "teacher_epochs": 1, "head_epochs": 1}
    try:
        config = validated(VaeConfig, {**small, **values, "generator_lr": 0.05}, "--set")
    except UsageError as refusal:
        assert "bce" in str(refusal)
        return
    x = tiny.train_x
    low, high = x.amin(dim=0), x.amax(dim=0)
    if config.feature_scaling == "standard":
        low, high = x.mean(dim=0), x.mean(dim=0) + x.std(dim=0)
    scaled = replace(tiny, train_x=(x - low) / (high - low))
    (evaluation,) = Training(scaled, load_backbone("vae"), config, 0).evaluations()
    assert np.isfinite(list(evaluation.losses.values())).all()


def test_bce_trains_on_minmax_features(hanzi_slice: Tensors) -> None:
    config = VaeConfig(
        reconstruction="bce",
        output_activation="sigmoid",
        updates=4,
        evaluations=1,
        hidden_dim=16,
        embed_dim=8,
        teacher_epochs=1,
        head_epochs=1,
        n_synthetic_final=3,
    )
    (evaluation,) = Training(hanzi_slice, load_backbone("vae"), config, 0).evaluations()
    assert 0 < evaluation.losses["reconstruction"] < hanzi_slice.n_features


def test_residual_is_modelled_where_there_is_one(tiny: Tensors) -> None:
    """With an anchor the loss reads x − anchor(a) alone."""
    vae = make_vae(tiny, anchor="ridge", vae_warmup=0)
    batch = make_batch(tiny)
    residual = batch.x - 0.3
    anchored = Batch(batch.x, batch.y, batch.a, batch.teacher_z, batch.teacher_v, residual)
    shifted = Batch(residual, batch.y, batch.a, batch.teacher_z, batch.teacher_v)
    expected, *_ = slow_loss(vae, shifted, seeded(2), 1.0)
    assert vae.loss(anchored, seeded(2))[0].item() == pytest.approx(expected, rel=1e-10)

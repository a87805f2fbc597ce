"""``anchor: ridge``: class means by slow kernel ridge, residuals for the generator, features for everything else."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from d3tune.data.tensors import Tensors
from d3tune.method.closed_form import RidgeAnchor, class_means
from d3tune.method.generators import load_backbone
from d3tune.method.generators.base import Batch
from d3tune.method.networks import EmbeddingClassifier
from d3tune.method.student import StudentSide, Synthetic
from d3tune.method.training import Training

Array = npt.NDArray[np.float64]
RIDGE = 0.05
SMALL: dict[str, Any] = {
    "updates": 4,
    "evaluations": 2,
    "batch_size": 16,
    "hidden_dim": 12,
    "embed_dim": 8,
    "generator_lr": 2e-3,
    "student_lr": 3e-3,
    "teacher_lr": 3e-3,
    "teacher_epochs": 1,
    "n_synthetic_final": 4,
    "head_epochs": 1,
    "ood_weight": 0.1,
    "anchor": "ridge",
    "anchor_ridge": RIDGE,
}
OWN: dict[str, dict[str, Any]] = {
    "gan": {"critic_steps": 2, "gcls_weight": 0.5},
    "cegan": {"critic_steps": 2, "contrast_dim": 8, "projection_dim": 4, "relation_dim": 6, "gcls_weight": 0.5},
    "vaegan": {"critic_steps": 2, "decoder_dim": 8, "gcls_weight": 0.5},
    "vae": {"noise_dim": 4, "vae_warmup": 2},
    "diffusion": {"diffusion_steps": 3, "ema_decay": 0.5},
}
BACKBONES = pytest.mark.parametrize("backbone", list(OWN))
Make = Callable[..., Training]


@pytest.fixture
def make(tiny: Tensors) -> Make:
    def build(backbone: str, **values: Any) -> Training:
        entry = load_backbone(backbone)
        return Training(tiny, entry, entry.config(**(SMALL | OWN[backbone] | values)), 0)

    return build


# --- the anchor itself


def slow_anchor(x: Array, y: list[int], seen: Array, ridge: float, at: Array) -> Array:
    """m̄ + k(a)'(K + ridge·I)⁻¹(M − m̄), K of rbf at the median distance of seen classes."""
    n = len(seen)
    means = np.array([np.mean([row for row, label in zip(x, y, strict=True) if label == c], axis=0) for c in range(n)])
    center = sum(means) / n

    def distance(a: Array, b: Array) -> float:
        return math.sqrt(sum((a - b) ** 2))

    among = sorted(distance(seen[i], seen[j]) for i in range(n) for j in range(i))
    width = among[(len(among) - 1) // 2]
    gram = np.array([[math.exp(-(distance(a, b) ** 2) / (2 * width**2)) for b in seen] for a in seen])
    weights = np.linalg.inv(gram + ridge * np.eye(n)) @ (means - center)
    kernel = np.array([[math.exp(-(distance(a, b) ** 2) / (2 * width**2)) for b in seen] for a in at])
    return center + kernel @ weights


def expected_anchor(data: Tensors, at: Tensor, ridge: float = RIDGE) -> Array:
    seen = data.semantics[: data.n_seen].double().numpy()
    return slow_anchor(data.train_x.double().numpy(), data.train_y.tolist(), seen, ridge, at.double().numpy())


@pytest.mark.parametrize("ridge", [1e-6, 0.05, 3.0])
@pytest.mark.parametrize("n_seen", [3, 4, 9, 31])
def test_anchor_is_kernel_ridge_regression(ridge: float, n_seen: int) -> None:
    rng = np.random.default_rng(n_seen)
    y = [*range(n_seen), *rng.integers(0, n_seen, 40).tolist()]
    x, seen, at = rng.normal(size=(len(y), 7)), rng.normal(size=(n_seen, 3)), rng.normal(size=(5, 3))
    anchor = RidgeAnchor(torch.tensor(x), torch.tensor(y), torch.tensor(seen), ridge)
    found = anchor(torch.tensor(at))
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), slow_anchor(x, y, seen, ridge, at), rtol=1e-7, atol=1e-8)


def test_anchor_takes_and_gives_single_precision_and_computes_in_double(tiny: Tensors) -> None:
    anchor = RidgeAnchor(tiny.train_x, tiny.train_y, tiny.semantics[: tiny.n_seen], RIDGE)
    found = anchor(tiny.semantics)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected_anchor(tiny, tiny.semantics), rtol=1e-6, atol=1e-6)


def test_anchor_goes_from_the_class_means_to_their_mean(tiny: Tensors) -> None:
    seen = tiny.semantics[: tiny.n_seen].double()
    means = class_means(tiny.train_x.double(), tiny.train_y, tiny.n_seen)
    close = RidgeAnchor(tiny.train_x.double(), tiny.train_y, seen, 1e-10)(seen)
    torch.testing.assert_close(close, means, rtol=0, atol=1e-6)
    far = RidgeAnchor(tiny.train_x.double(), tiny.train_y, seen, 1e10)(tiny.semantics.double())
    # each class counts once, however many rows it has
    torch.testing.assert_close(far, means.mean(dim=0).expand_as(far), rtol=0, atol=1e-6)


# --- what sees residuals and what sees features


@BACKBONES
def test_training_gives_the_backbone_x_less_the_anchor(
    make: Make, tiny: Tensors, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = make(backbone)
    batches: list[Batch] = []
    own = type(training.backbone).loss_and_rows

    def watched(model: Any, batch: Batch, *others: Any) -> Any:
        batches.append(batch)
        return own(model, batch, *others)

    monkeypatch.setattr(type(training.backbone), "loss_and_rows", watched)
    training.advance(2)
    assert len(batches) == 2
    rows = [row.tolist() for row in tiny.train_x]
    for batch in batches:
        assert all(row.tolist() in rows for row in batch.x)
        expected = batch.x.double().numpy() - expected_anchor(tiny, tiny.semantics[batch.y])
        assert batch.residual is not None
        np.testing.assert_allclose(batch.residual.numpy(), expected, atol=1e-6)
        assert batch.target is batch.residual
        torch.testing.assert_close(batch.teacher_z, training.teacher(batch.x)[0])


@BACKBONES
def test_without_an_anchor_the_backbone_models_x(make: Make, backbone: str) -> None:
    training = make(backbone, anchor="none")
    assert training.backbone.anchor is None
    batch = training._draw_batch()
    assert batch.residual is None
    assert batch.target is batch.x


@BACKBONES
@pytest.mark.parametrize("how", ["sample", "sample_final"])
def test_samples_have_the_anchor_added_back(make: Make, tiny: Tensors, backbone: str, how: str) -> None:
    training = make(backbone)
    training.advance(2)
    model = training.backbone
    semantics = tiny.semantics[tiny.n_seen :].repeat(3, 1)
    noise = model.draw_noise(len(semantics), torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = getattr(model, how)(noise, semantics)
        anchor, model.anchor = model.anchor, None
        residuals = getattr(model, how)(noise, semantics)
        if how == "sample":
            assert torch.equal(residuals, model.generate(noise, semantics))
        model.anchor = anchor
    expected = residuals.double().numpy() + expected_anchor(tiny, semantics)
    np.testing.assert_allclose(features.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("final_sampler", ["full", "one_step"])
@pytest.mark.parametrize("guidance", [0.0, 0.7])
def test_diffusion_adds_the_anchor_once_after_all_steps(
    make: Make, tiny: Tensors, final_sampler: str, guidance: float
) -> None:
    values = {"final_sampler": final_sampler, "guidance": guidance, "diffusion_steps": 4}
    anchored, plain = make("diffusion", **values), make("diffusion", **values, anchor="none")
    plain.backbone.load_state_dict(anchored.backbone.state_dict())
    semantics = tiny.semantics[tiny.n_seen :]
    noise = anchored.backbone.draw_noise(len(semantics), torch.Generator().manual_seed(1))
    found = anchored.backbone.sample_final(noise, semantics) - plain.backbone.sample_final(noise, semantics)
    np.testing.assert_allclose(found.numpy(), expected_anchor(tiny, semantics), atol=1e-5)


@pytest.mark.parametrize("backbone", ["gan", "cegan", "vaegan", "vae"])
def test_a_generator_of_zeros_gives_the_class_means_to_every_reader(
    make: Make, tiny: Tensors, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D³ terms, teacher's cross-entropy and heads read features; what the generator gives is a residual."""
    training = make(backbone)
    decoder: Any = training.backbone.decoder if backbone == "vae" else training.backbone.generator
    with torch.no_grad():
        decoder.output.weight.zero_()
        decoder.output.bias.zero_()
    seen_by_student: list[Tensor] = []
    batches: list[Batch] = []
    loss, own = StudentSide.loss, type(training.backbone).loss_and_rows

    def watched(side: StudentSide, batch: Batch, synthetic: Synthetic, teacher: EmbeddingClassifier) -> Any:
        seen_by_student.append(synthetic.x.detach().clone())
        return loss(side, batch, synthetic, teacher)

    def parts_of(model: Any, batch: Batch, *others: Any) -> Any:
        batches.append(batch)
        return own(model, batch, *others)

    monkeypatch.setattr(StudentSide, "loss", watched)
    monkeypatch.setattr(type(training.backbone), "loss_and_rows", parts_of)
    rows = training.synthesise(3, "evaluation")
    np.testing.assert_allclose(rows.x.numpy(), expected_anchor(tiny, tiny.semantics[rows.y]), atol=1e-6)
    losses = training._step()
    unseen = tiny.semantics[tiny.n_seen :].repeat_interleave(2, dim=0)
    np.testing.assert_allclose(seen_by_student[0].numpy(), expected_anchor(tiny, unseen), atol=1e-6)
    if backbone != "vae":
        anchors = torch.tensor(expected_anchor(tiny, batches[0].a), dtype=torch.float32)
        cross_entropy = F.cross_entropy(training.teacher(anchors)[1], batches[0].y)
        assert losses["generator_classification"].item() == pytest.approx(cross_entropy.item(), rel=1e-5)
    else:
        assert batches[0].residual is not None
        squared = batches[0].residual.double().square().sum(dim=1).mean().item()
        assert losses["reconstruction"].item() == pytest.approx(squared, rel=1e-5)


@pytest.mark.parametrize("backbone", ["gan", "cegan", "vaegan"])
def test_the_critic_tells_residuals_apart(make: Make, backbone: str) -> None:
    training = make(backbone, critic_steps=1)
    model: Any = training.backbone
    batch = training._draw_batch()
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        fake = model.generate(model.draw_noise(len(batch.y), rng), batch.a)
        mix = torch.rand(len(fake), 1, generator=rng)
        wasserstein, penalty = model.critic.loss(batch.residual, fake, batch.a, mix)
    losses = model.prepare([batch], torch.Generator().manual_seed(2))
    assert losses["critic"].item() == pytest.approx(wasserstein.item(), rel=1e-5, abs=1e-8)
    assert losses["gradient_penalty"].item() == pytest.approx(penalty.item(), rel=1e-5)
    total, parts = model.loss(batch, torch.Generator().manual_seed(3))
    generated = model.generate(model.draw_noise(len(batch.y), torch.Generator().manual_seed(3)), batch.a)
    value = model.critic.frozen_value(generated, batch.a).mean().item()
    assert parts["adversarial"].item() == pytest.approx(-value, rel=1e-5, abs=1e-8)
    assert torch.isfinite(total)


@BACKBONES
@pytest.mark.parametrize("activation", ["relu", "sigmoid", "auto"])
def test_residuals_may_be_negative_whatever_the_output_activation(make: Make, backbone: str, activation: str) -> None:
    training = make(backbone, output_activation=activation)
    training.advance(2)
    model = training.backbone
    semantics = training.tensors.semantics.repeat(4, 1)
    noise = model.draw_noise(len(semantics), torch.Generator().manual_seed(1))
    assert model.generate(noise, semantics).min() < 0


# --- the training around it


@BACKBONES
def test_resumes_bit_for_bit(make: Make, backbone: str) -> None:
    whole, cut, resumed = (make(backbone) for _ in range(3))
    reports = list(whole.evaluations())
    cut.advance(2)
    saved = safetensors.torch.load(safetensors.torch.save(cut.state_dict()))
    assert not any("anchor" in name for name in saved)
    resumed.load_state_dict(saved)
    assert list(resumed.evaluations()) == reports[1:]
    first, second = whole.state_dict(), resumed.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_anchor_is_of_the_training_rows_alone(make: Make, tiny: Tensors) -> None:
    """Other evaluation rows change no state, so nothing of them is in the anchor."""
    spoilt = replace(tiny, eval_seen_x=tiny.eval_seen_x.flip(0) * 3, eval_unseen_x=tiny.eval_unseen_x.flip(0) + 5)
    entry = load_backbone("gan")
    one, other = make("gan"), Training(spoilt, entry, entry.config(**SMALL | OWN["gan"]), 0)
    one.advance(2)
    other.advance(2)
    first, second = one.state_dict(), other.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(one.synthesise(3, "evaluation").x, other.synthesise(3, "evaluation").x)


def test_ridge_is_the_one_of_the_configuration(make: Make, tiny: Tensors) -> None:
    for ridge in (0.001, 2.0):
        anchor = make("vae", anchor_ridge=ridge).backbone.anchor
        assert anchor is not None
        expected = expected_anchor(tiny, tiny.semantics, ridge)
        np.testing.assert_allclose(anchor(tiny.semantics).numpy(), expected, atol=1e-5)

"""Discriminants, logit adjustment, the reader of heads, and the backbones without a generator."""

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from d3tune.config import D3Config, Head
from d3tune.data.tensors import Tensors
from d3tune.method.classifier import lda_head, logit_adjustment, train_linear_head, train_prototype_head
from d3tune.method.closed_form import evaluation_scores, fit_gaussian
from d3tune.method.gaussian import HEAD, GaussianConfig
from d3tune.method.generators import load_backbone
from d3tune.method.heads import HeadReader, Spaces
from d3tune.method.metrics import accuracies
from d3tune.method.networks import EmbeddingClassifier
from d3tune.method.randomness import stream
from d3tune.method.student import Synthetic
from d3tune.method.training import start_training

Array = npt.NDArray[np.float64]
HEADS: tuple[Head, ...] = get_args(Head)
N_SEEN, N_CLASSES = 6, 9


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def synthetic(tiny: Tensors) -> Synthetic:
    """Rows of the three unseen classes, in unequal numbers."""
    y = torch.tensor([6] * 5 + [7] * 2 + [8] * 9)
    x = tiny.eval_unseen_x[: len(y)] + 0.1 * torch.randn(len(y), tiny.n_features, generator=seeded(2))
    return Synthetic(x, y)


# --- discriminants


def slow_lda(data: Tensors, synthetic: Synthetic, shrinkage: float, rows: Tensor) -> Array:
    """x'Σ⁻¹μ − ½μ'Σ⁻¹μ, one row and class at a time, by an explicit inverse."""
    x, y = data.train_x.double().numpy(), data.train_y.tolist()
    fake, fake_y = synthetic.x.double().numpy(), synthetic.y.tolist()
    means = [np.mean([row for row, c in zip(x, y, strict=True) if c == k], axis=0) for k in range(N_SEEN)]
    covariance = np.zeros((x.shape[1], x.shape[1]))
    for row, c in zip(x, y, strict=True):
        covariance += np.outer(row - means[c], row - means[c]) / len(x)
    means += [
        np.mean([row for row, c in zip(fake, fake_y, strict=True) if c == k], axis=0) for k in range(N_SEEN, N_CLASSES)
    ]
    inverse = np.linalg.inv((1 - shrinkage) * covariance + shrinkage * np.diag(np.diag(covariance)))
    return np.array([[r @ inverse @ m - m @ inverse @ m / 2 for m in means] for r in rows.double().numpy()])


def unseen_means(synthetic: Synthetic) -> Tensor:
    return torch.stack([synthetic.x[synthetic.y == c].mean(dim=0) for c in range(N_SEEN, N_CLASSES)])


@pytest.mark.parametrize("shrinkage", [0.0, 0.4, 1.0])
def test_lda_is_the_discriminant_under_the_inverse_covariance(
    tiny: Tensors, synthetic: Synthetic, shrinkage: float
) -> None:
    score = lda_head(tiny.train_x, tiny.train_y, N_SEEN, unseen_means(synthetic), shrinkage)
    found = score(tiny.eval_unseen_x)
    expected = slow_lda(tiny, synthetic, shrinkage, tiny.eval_unseen_x)
    assert found.shape == (len(tiny.eval_unseen_x), N_CLASSES)
    # the factor adds a millionth of the mean variance to each feature
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_lda_reads_the_means_of_synthetic_rows_alone(tiny: Tensors, synthetic: Synthetic) -> None:
    """A wider spread of synthetic rows around the same means changes nothing."""
    reader = HeadReader(tiny, D3Config(), 0)
    means = unseen_means(synthetic)[synthetic.y - N_SEEN]
    wide = Synthetic(means + 3 * (synthetic.x - means), synthetic.y)
    one, other = (reader.scores("lda", rows, spaces(tiny), 1) for rows in (synthetic, wide))
    torch.testing.assert_close(one.unseen, other.unseen, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 0.7])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_lda_takes_a_constant_feature(tiny: Tensors, synthetic: Synthetic, value: float, noise: float) -> None:
    """Synthetic rows need not hit the constant; no class may gain or lose much by that."""

    def widened(x: Tensor, extra: float = 0.0) -> Tensor:
        column = x.new_full((len(x), 1), value) + extra * torch.randn(len(x), 1, generator=seeded(4))
        return torch.cat([x, column], dim=1)

    parts = ("train_x", "eval_seen_x", "eval_unseen_x")
    wide = replace(tiny, **{part: widened(getattr(tiny, part)) for part in parts})
    fakes = Synthetic(widened(synthetic.x, noise), synthetic.y)
    plain = HeadReader(tiny, D3Config(), 0).scores("lda", synthetic, spaces(tiny), 1)
    found = HeadReader(wide, D3Config(), 0).scores("lda", fakes, spaces(wide), 1)
    assert torch.isfinite(found.seen).all()
    # the constant counts as a feature of the mean variance: a class loses by what its mean misses, and only so
    x, y = wide.train_x.double(), wide.train_y
    means = torch.stack([x[y == c].mean(dim=0) for c in range(N_SEEN)])
    variance = (x - means[y]).square().mean(dim=0).mean()
    missed = torch.tensor([(fakes.x[fakes.y == c, -1].double().mean() - value) for c in range(N_SEEN, N_CLASSES)])
    expected = torch.cat([torch.zeros(N_SEEN), -missed.square() / variance / 2]).double()
    for one, other in ((plain.seen, found.seen), (plain.unseen, found.unseen)):
        change = other - one
        change = change - change[:, :1].clone()  # what all classes share decides nothing
        torch.testing.assert_close(change, expected.expand_as(change), rtol=1e-4, atol=1e-4)


# --- logit adjustment


def test_no_adjustment_unless_asked_for() -> None:
    assert logit_adjustment(torch.tensor([0, 1, 2]), 3, 2, D3Config()) is None


@pytest.mark.parametrize(("prior", "shift"), [(True, 0.0), (False, -1.5), (True, 2.0)])
def test_adjustment_is_log_priors_and_an_unseen_shift(prior: bool, shift: float) -> None:
    labels = [0, 0, 0, 1, 2, 2, 4, 4, 4, 4]  # class 3 has no row: as if it had one
    counts = [3, 1, 2, 1, 4]
    config = D3Config(logit_prior=prior, unseen_shift=shift)
    found = logit_adjustment(torch.tensor(labels), 5, 3, config)
    assert found is not None
    expected = [(np.log(counts[c] / 10) if prior else 0) + (shift if c >= 3 else 0) for c in range(5)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("head", ["softmax", "prototype"])
def test_an_unseen_shift_in_training_lowers_unseen_scores(tiny: Tensors, synthetic: Synthetic, head: Head) -> None:
    """Training makes up for what was added; the scores are read without it."""

    def margin(shift: float) -> float:
        config = D3Config(
            unseen_shift=shift, head_epochs=30, head_lr=0.02, head_batch_size=32, prototype_hidden=32, cosine_scale=5
        )
        scores = HeadReader(tiny, config, 0).scores(head, synthetic, spaces(tiny), 1)
        rows = torch.cat([scores.seen, scores.unseen])
        return float((rows[:, N_SEEN:].mean(dim=1) - rows[:, :N_SEEN].mean(dim=1)).mean())

    assert margin(4.0) < margin(0.0) - 0.5 < margin(-4.0) - 1.0


def test_log_priors_in_training_make_classes_alike(tiny: Tensors) -> None:
    """On rows that say nothing, a plain head learns the class frequencies, an adjusted one nothing."""
    y = torch.tensor([0] * 60 + [1] * 15 + [2] * 5)
    x = torch.ones(len(y), 3)

    def learnt(prior: bool) -> Tensor:
        config = D3Config(logit_prior=prior, head_epochs=400, head_lr=0.02, head_batch_size=1000)
        shift = logit_adjustment(y, 3, 2, config)
        return train_linear_head(x, y, 3, config, seeded(0), shift)(x[:1]).softmax(dim=1)[0]

    torch.testing.assert_close(learnt(False), torch.tensor([60, 15, 5]) / 80, rtol=0, atol=0.01)
    torch.testing.assert_close(learnt(True), torch.full((3,), 1 / 3), rtol=0, atol=0.01)


# --- the reader


def spaces(data: Tensors) -> Spaces:
    """A teacher, a student and a space that all differ from the features."""
    rngs = [seeded(s) for s in (10, 11)]
    teacher = EmbeddingClassifier(data.n_features, 7, data.n_seen, "relu", rngs[0]).requires_grad_(False)
    student = EmbeddingClassifier(data.n_features, 8, data.n_seen + data.n_unseen, "identity", rngs[1])
    with torch.no_grad():
        for seed, parameter in enumerate([*teacher.parameters(), *student.parameters()]):
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(seed)))
    return Spaces(teacher, student, lambda x: torch.cat([x, x.square()], dim=1))


@pytest.mark.parametrize("adjusted", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_reader_is_the_composition_of_its_parts(
    tiny: Tensors, synthetic: Synthetic, head: Head, adjusted: bool
) -> None:
    values: dict[str, Any] = {"logit_prior": True, "unseen_shift": -0.7} if adjusted else {}
    config = D3Config(head_epochs=2, head_batch_size=20, head_lr=0.01, prototype_hidden=9, lda_shrinkage=0.3, **values)
    parts = spaces(tiny)
    embeddings = {
        "softmax": lambda x: x,
        "teacher_embedding": lambda x: parts.teacher(x)[0],
        "student_embedding": lambda x: parts.student(x)[0].detach(),
        "backbone_embedding": lambda x: torch.cat([x, x**2], dim=1),
    }
    x, y = torch.cat([tiny.train_x, synthetic.x]), torch.cat([tiny.train_y, synthetic.y])
    counts = torch.tensor([int((y == c).sum()) for c in range(N_CLASSES)])
    shift = (counts / len(y)).log() + torch.tensor([0.0] * N_SEEN + [-0.7] * 3) if adjusted else None
    rng = stream(5, head, 40)
    if head == "student":
        score = lambda rows: parts.student(rows)[1].detach()  # noqa: E731
    elif head == "lda":
        score = lda_head(tiny.train_x, tiny.train_y, N_SEEN, unseen_means(synthetic), 0.3)
    elif head == "prototype":
        score = train_prototype_head(x, y, tiny.semantics, config, rng, shift)
    else:
        classify = train_linear_head(embeddings[head](x), y, N_CLASSES, config, rng, shift)
        score = lambda rows: classify(embeddings[head](rows))  # noqa: E731
    found = HeadReader(tiny, config, 5).scores(head, synthetic, parts, 40)
    torch.testing.assert_close(found.seen, score(tiny.eval_seen_x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.unseen, score(tiny.eval_unseen_x), rtol=1e-5, atol=1e-6)
    assert found.seen.shape == (len(tiny.eval_seen_x), N_CLASSES)
    assert torch.equal(found.seen_y, tiny.eval_seen_y)
    assert torch.equal(found.unseen_y, tiny.eval_unseen_y)
    assert found.n_seen == N_SEEN
    assert not found.seen.requires_grad


@pytest.mark.parametrize("head", ["softmax", "prototype"])
def test_reader_repeats_itself_and_follows_seed_and_update(tiny: Tensors, synthetic: Synthetic, head: Head) -> None:
    config = D3Config(head_epochs=1, head_batch_size=16, prototype_hidden=8)

    def scores(seed: int, update: int) -> Tensor:
        return HeadReader(tiny, config, seed).scores(head, synthetic, spaces(tiny), update).seen

    assert torch.equal(scores(0, 3), scores(0, 3))
    assert not torch.equal(scores(0, 3), scores(1, 3))
    assert not torch.equal(scores(0, 3), scores(0, 4))


def test_reader_changes_no_model(tiny: Tensors, synthetic: Synthetic) -> None:
    parts = spaces(tiny)
    before = [p.detach().clone() for p in (*parts.teacher.parameters(), *parts.student.parameters())]
    for head in HEADS:
        HeadReader(tiny, D3Config(head_epochs=1, prototype_hidden=8), 0).scores(head, synthetic, parts, 0)
    after = [*parts.teacher.parameters(), *parts.student.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(parameter.grad is None for parameter in after)


# --- gaussian


def test_gaussian_backbone_is_the_closed_form_baseline(tiny: Tensors) -> None:
    entry = load_backbone("gaussian")
    compared = 0
    for fitted in list(fit_gaussian(tiny))[::11]:
        setting = dict(fitted.setting)
        setting["kernel_gamma"] = setting.pop("gamma")
        trainer = start_training(entry, tiny, GaussianConfig(**setting), 0)
        (evaluation,) = trainer.evaluations()
        assert evaluation.heads == {HEAD: accuracies(evaluation_scores(tiny, fitted.score))}
        fixed = trainer.evaluate(seen_offset=0.2).heads[HEAD]
        assert fixed == accuracies(evaluation_scores(tiny, fitted.score), 0.2)
        compared += 1
    assert compared > 5


@pytest.mark.parametrize(
    "values", [{"kernel": "linear"}, {"kernel_gamma": 0.3}, {"ridge": 2.0}, {"shrinkage": 0.95}], ids=str
)
def test_every_setting_of_gaussian_has_an_effect(tiny: Tensors, values: dict[str, Any]) -> None:
    entry = load_backbone("gaussian")
    (base,), (changed,) = (
        start_training(entry, tiny, GaussianConfig(**given), 0).evaluations() for given in ({}, values)
    )
    assert base != changed

"""The closed-form baselines against float64 numpy with explicit inverses."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from d3tune.data.tensors import Tensors
from d3tune.method.closed_form import (
    GaussianSetting,
    evaluation_scores,
    fit_eszsl,
    fit_gaussian,
    predict_means,
)
from d3tune.method.metrics import accuracies

Array = npt.NDArray[np.float64]


def slow_class_means(data: Tensors) -> Array:
    x, y = data.train_x.double().numpy(), data.train_y.numpy()
    return np.array([x[y == c].mean(axis=0) for c in range(data.n_seen)])


def slow_unseen_means(means: Array, semantics: Array, kernel: str, gamma: float, ridge: float) -> Array:
    n_seen = len(means)
    distances = [np.linalg.norm(semantics[i] - semantics[j]) for i in range(n_seen) for j in range(n_seen) if i < j]
    median = np.median(distances)

    def k(a: Array, b: Array) -> float:
        if kernel == "linear":
            return float(sum(p * q for p, q in zip(a, b, strict=True)))
        return float(np.exp(-sum((a - b) ** 2) / (2 * (gamma * median) ** 2)))

    gram = np.array([[k(a, b) for b in semantics[:n_seen]] for a in semantics])
    known = gram[:n_seen]
    center = means.mean(axis=0)
    inverse = np.linalg.inv(known + ridge * np.trace(known) / n_seen * np.eye(n_seen))
    return center + gram[n_seen:] @ inverse @ (means - center)


def slow_covariance(data: Tensors, shrinkage: float) -> Array:
    x, y = data.train_x.double().numpy(), data.train_y.numpy()
    means = slow_class_means(data)
    total = np.zeros((x.shape[1], x.shape[1]))
    for row, label in zip(x, y, strict=True):
        total += np.outer(row - means[label], row - means[label])
    total /= len(x)
    return (1 - shrinkage) * total + shrinkage * np.diag(np.diag(total))


@pytest.mark.parametrize("ridge", [1e-3, 0.3])
@pytest.mark.parametrize(("kernel", "gamma"), [("linear", 1.0), ("rbf", 0.5), ("rbf", 2.0)])
def test_unseen_means_are_kernel_ridge_regression(tiny: Tensors, kernel: Any, gamma: float, ridge: float) -> None:
    # longer than 1: the ridge is relative to the kernel's diagonal
    means, semantics = slow_class_means(tiny), 3 * tiny.semantics.double()
    setting = GaussianSetting(kernel, gamma, ridge, 0.5)
    found = predict_means(torch.tensor(means), semantics, tiny.n_seen, setting)
    expected = slow_unseen_means(means, semantics.numpy(), kernel, gamma, ridge)
    assert found.shape == (tiny.n_unseen, tiny.n_features)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8, atol=1e-9)


def test_unseen_means_fall_back_to_the_mean_under_a_large_ridge(tiny: Tensors) -> None:
    means = torch.tensor(slow_class_means(tiny))
    setting = GaussianSetting("rbf", 1.0, 1e9, 0.5)
    found = predict_means(means, tiny.semantics.double(), tiny.n_seen, setting)
    torch.testing.assert_close(found, means.mean(dim=0).expand_as(found), rtol=0, atol=1e-6)


def test_a_class_with_the_semantics_of_a_seen_one_gets_its_mean(tiny: Tensors) -> None:
    means = torch.tensor(slow_class_means(tiny))
    semantics = torch.cat([tiny.semantics[: tiny.n_seen], tiny.semantics[2:3]]).double()
    found = predict_means(means, semantics, tiny.n_seen, GaussianSetting("rbf", 0.5, 1e-9, 0.5))
    torch.testing.assert_close(found[0], means[2], rtol=0, atol=1e-5)


def test_gaussian_scores_are_the_discriminants_under_the_inverse_covariance(tiny: Tensors) -> None:
    rows = torch.cat([tiny.eval_seen_x, tiny.eval_unseen_x]).double()
    means, semantics = slow_class_means(tiny), tiny.semantics.double().numpy()
    settings = []
    for fitted in fit_gaussian(tiny):
        setting = fitted.setting
        settings.append(tuple(setting.values()))
        kernel, gamma, ridge = setting["kernel"], setting["gamma"], setting["ridge"]
        mu = np.concatenate([means, slow_unseen_means(means, semantics, kernel, gamma, ridge)])
        inverse = np.linalg.inv(slow_covariance(tiny, setting["shrinkage"]))
        quadratic = np.array([0.5 * m @ inverse @ m for m in mu])
        expected = rows.numpy() @ inverse @ mu.T - quadratic
        found = fitted.score(rows)
        assert found.shape == (len(rows), 9)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert len(set(settings)) == len(settings) >= 100
    assert {setting[0] for setting in settings} == {"linear", "rbf"}


def test_gaussian_takes_a_constant_feature(tiny: Tensors) -> None:
    """It has no variance; no class may gain by it."""

    def widened(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x.new_zeros(len(x), 1)], dim=1)

    names = ("train_x", "eval_seen_x", "eval_unseen_x")
    wide = replace(tiny, **{name: widened(getattr(tiny, name)) for name in names})
    for plain, constant in zip(fit_gaussian(tiny), fit_gaussian(wide), strict=True):
        one, other = evaluation_scores(tiny, plain.score), evaluation_scores(wide, constant.score)
        assert torch.isfinite(other.unseen).all()
        assert pytest.approx(accuracies(other).H) == accuracies(one).H


def test_eszsl_weights_solve_the_normal_equations(tiny: Tensors) -> None:
    x, s = tiny.train_x.double().numpy(), tiny.semantics.double().numpy()
    y = np.full((len(x), tiny.n_seen), -1.0)
    for row, label in enumerate(tiny.train_y.tolist()):
        y[row, label] = 1.0
    seen = s[: tiny.n_seen]
    rows = torch.cat([tiny.eval_seen_x, tiny.eval_unseen_x]).double()
    grid = []
    for fitted in fit_eszsl(tiny):
        gamma, lam = fitted.setting["gamma"], fitted.setting["lam"]
        grid.append((gamma, lam))
        left = np.linalg.inv(x.T @ x + gamma * np.eye(x.shape[1]))
        right = np.linalg.inv(seen.T @ seen + lam * np.eye(s.shape[1]))
        expected = rows.numpy() @ left @ x.T @ y @ seen @ right @ s.T
        np.testing.assert_allclose(fitted.score(rows).numpy(), expected, rtol=1e-6, atol=1e-8)
    powers = [10.0**k for k in range(-3, 4)]
    assert sorted(grid) == [(gamma, lam) for gamma in powers for lam in powers]


def test_evaluation_scores_are_of_both_sets(tiny: Tensors) -> None:
    scores = evaluation_scores(tiny, lambda x: 2 * x)
    torch.testing.assert_close(scores.seen, 2 * tiny.eval_seen_x.double())
    torch.testing.assert_close(scores.unseen, 2 * tiny.eval_unseen_x.double())
    assert scores.seen_y is tiny.eval_seen_y
    assert scores.unseen_y is tiny.eval_unseen_y
    assert scores.n_seen == tiny.n_seen


def test_baselines_repeat_themselves(tiny: Tensors) -> None:
    for fit in (fit_gaussian, fit_eszsl):
        for one, other in zip(fit(tiny), fit(tiny), strict=True):
            assert one.setting == other.setting
            assert torch.equal(one.score(tiny.eval_seen_x.double()), other.score(tiny.eval_seen_x.double()))


def test_gaussian_is_strong_on_hanzi(hanzi: Tensors) -> None:
    best = max(accuracies(evaluation_scores(hanzi, fitted.score)).H for fitted in fit_gaussian(hanzi))
    assert best > 0.7


def test_eszsl_is_above_chance_on_hanzi(hanzi: Tensors) -> None:
    best = max(accuracies(evaluation_scores(hanzi, fitted.score)).H for fitted in fit_eszsl(hanzi))
    assert best > 0.4

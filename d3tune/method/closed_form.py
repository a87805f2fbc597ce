"""Closed-form baselines: class means by kernel ridge under one Gaussian (`gaussian`), and ESZSL.

Both take seconds, have no seed, and belong beside every searched result.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from d3tune.data.tensors import Tensors
from d3tune.method.metrics import Scores, read_scores
from d3tune.method.parts import Map, NotExtendableError, Part

Scorer = Callable[[Tensor], Tensor]
CONSTANT = 1e-6


@dataclass(frozen=True)
class GaussianSetting:
    """Hyper-parameters of `gaussian`.

    Attributes:
        kernel: of the semantics: ``linear`` or ``rbf`` exp(−‖a − b‖²/(2(γm)²)), m the median distance of seen classes.
        gamma: γ; not read by ``linear``.
        ridge: of the kernel regression, relative to the mean diagonal of the kernel.
        shrinkage: share of the covariance's diagonal in [0, 1].
    """

    kernel: Literal["linear", "rbf"]
    gamma: float
    ridge: float
    shrinkage: float


@dataclass(frozen=True)
class EszslSetting:
    """Ridges of ESZSL (Romera-Paredes and Torr, 2015): ``gamma`` on features, ``lam`` on semantics."""

    gamma: float
    lam: float


@dataclass(frozen=True)
class Fitted:
    """One setting and its class scores: rows (n, X) → (n, N)."""

    setting: dict[str, Any]
    score: Scorer


@dataclass(frozen=True, eq=False)
class KernelRidge(Part):
    """Class means as a function of semantics, see `predict_means`.

    Attributes:
        means: (N_s, D) float64 of the seen classes.
        semantics: (N_s, A) float64 of the seen classes.
        kernel: see `GaussianSetting`.
        gamma: see `GaussianSetting`.
        ridge: see `GaussianSetting`.
    """

    means: Tensor
    semantics: Tensor
    kernel: Literal["linear", "rbf"]
    gamma: float
    ridge: float

    def __call__(self, x: Tensor) -> Tensor:
        """Semantics (C, A) to class means (C, D) float64."""
        setting = GaussianSetting(self.kernel, self.gamma, self.ridge, 0.0)
        return predict_means(self.means, torch.cat([self.semantics, x.double()]), len(self.semantics), setting)


@dataclass(frozen=True, eq=False)
class Discriminant(Part):
    """x'Σ⁻¹μ − ½μ'Σ⁻¹μ in float64.

    Attributes:
        weight: (N, D) Σ⁻¹μ of each class.
        bias: (N,).
        factor: (D, D) Cholesky factor of Σ, for further classes.
        means: from semantics to further class means; None where they come from elsewhere.
    """

    weight: Tensor
    bias: Tensor
    factor: Tensor
    means: Map | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Rows (n, D) to (n, N) float64."""
        return x.double() @ self.weight.T + self.bias

    def extended(self, semantics: Tensor, means: Map | None = None) -> "Discriminant":
        """See `Part.extended`."""
        source = self.means or means
        if source is None:
            raise NotExtendableError
        further = discriminant(source(semantics).double(), self.factor)
        weight, bias = torch.cat([self.weight, further.weight]), torch.cat([self.bias, further.bias])
        return Discriminant(weight, bias, self.factor, self.means)


def fit_gaussian(data: Tensors) -> Iterator[Fitted]:
    """Fit `gaussian` for every setting of its grid; the covariance and its factors are shared.

    Seen class means are the data's; unseen ones come from kernel ridge regression of the seen means on semantics.
    Score: x'Σ⁻¹μ − ½μ'Σ⁻¹μ with the pooled within-class covariance Σ shrunk to its diagonal.
    """
    means, covariance = within_class_covariance(data.train_x.double(), data.train_y, data.n_seen)
    semantics = data.semantics.double()
    for shrinkage in (0.1, 0.3, 0.5, 0.7, 0.9):
        factor = shrunk_factor(covariance, shrinkage)
        for kernel, gamma in (("linear", 1.0), ("rbf", 0.5), ("rbf", 1.0), ("rbf", 2.0)):
            for ridge in (1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0):
                setting = GaussianSetting(kernel, gamma, ridge, shrinkage)  # type: ignore[arg-type]
                mu = torch.cat([means, predict_means(means, semantics, data.n_seen, setting)])
                yield Fitted(asdict(setting), discriminant(mu, factor))


def fit_eszsl(data: Tensors) -> Iterator[Fitted]:
    """Fit ESZSL for ridges in 10^{−3 … 3} each: W = (X'X + γI)⁻¹X'YS(S'S + λI)⁻¹, Y = ±1, score xWa'.

    Both inverses come from one eigendecomposition each, so that the grid costs two products a setting.
    """
    x, s = data.train_x.double(), data.semantics.double()
    y = -torch.ones(len(x), data.n_seen, dtype=torch.float64, device=x.device)
    y[torch.arange(len(x), device=x.device), data.train_y] = 1
    seen = s[: data.n_seen]
    x_values, x_vectors = torch.linalg.eigh(x.T @ x)
    s_values, s_vectors = torch.linalg.eigh(seen.T @ seen)
    core = x_vectors.T @ (x.T @ (y @ seen)) @ s_vectors
    for gamma in range(-3, 4):
        for lam in range(-3, 4):
            scaled = core / (x_values[:, None] + 10.0**gamma) / (s_values[None, :] + 10.0**lam)
            weight = x_vectors @ scaled @ (s_vectors.T @ s.T)
            yield Fitted(asdict(EszslSetting(10.0**gamma, 10.0**lam)), _linear(weight))


def gaussian_scorer(x: Tensor, data: Tensors, setting: GaussianSetting) -> Discriminant:
    """`gaussian` of one setting in any space.

    Args:
        x: (n, D) float64, the training rows there.
        data: classes and semantics.
        setting: hyper-parameters.

    Returns:
        From rows (m, D) float64 to scores of all classes (m, N).
    """
    means, covariance = within_class_covariance(x, data.train_y, data.n_seen)
    semantics = data.semantics.double()
    mu = torch.cat([means, predict_means(means, semantics, data.n_seen, setting)])
    of_semantics = KernelRidge(means, semantics[: data.n_seen], setting.kernel, setting.gamma, setting.ridge)
    return discriminant(mu, shrunk_factor(covariance, setting.shrinkage), of_semantics)


def predict_means(means: Tensor, semantics: Tensor, n_seen: int, setting: GaussianSetting) -> Tensor:
    """Unseen class means (N_u, X) by kernel ridge regression from semantics.

    Args:
        means: (N_s, X) of the seen classes.
        semantics: (N, A), the seen classes first.
        n_seen: N_s.
        setting: kernel and ridge.
    """
    gram = _gram(semantics, n_seen, setting)
    known = gram[:n_seen]
    ridge = setting.ridge * known.diagonal().mean()
    center = means.mean(dim=0)
    identity = torch.eye(n_seen, dtype=gram.dtype, device=gram.device)
    weights: Tensor = torch.linalg.solve(known + ridge * identity, means - center)
    return center + gram[n_seen:] @ weights


class RidgeAnchor:
    """Class means as a function of semantics, by rbf kernel ridge regression of the seen classes' means.

    A generator may model the residual around it (``anchor: ridge``). It is smoothed at seen classes too, so that what
    remains for the generator means the same at seen and unseen ones.
    """

    def __init__(self, x: Tensor, y: Tensor, seen_semantics: Tensor, ridge: float) -> None:
        """Fit.

        Args:
            x: (n, X) training rows.
            y: (n,) their classes in [0, N_s).
            seen_semantics: (N_s, A).
            ridge: relative to the kernel's diagonal, 1.
        """
        n_seen = len(seen_semantics)
        means = class_means(x.double(), y, n_seen)
        self._seen = seen_semantics.double()
        distance = torch.cdist(self._seen, self._seen)
        self._width = distance[~torch.eye(n_seen, dtype=torch.bool, device=x.device)].median()
        gram = torch.exp(-distance.square() / (2 * self._width.square()))
        identity = torch.eye(n_seen, dtype=gram.dtype, device=gram.device)
        self._center = means.mean(dim=0)
        self._weights: Tensor = torch.linalg.solve(gram + ridge * identity, means - self._center)

    def tensors(self) -> dict[str, Tensor]:
        """All that was fitted, by name."""
        weights = self._weights.contiguous()
        return {"seen": self._seen, "width": self._width, "center": self._center, "weights": weights}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor]) -> "RidgeAnchor":
        """What `tensors` is of.

        Raises:
            KeyError: one is missing.
        """
        anchor = cls.__new__(cls)
        anchor._seen, anchor._width = tensors["seen"], tensors["width"]
        anchor._center, anchor._weights = tensors["center"], tensors["weights"]
        return anchor

    def __call__(self, semantics: Tensor) -> Tensor:
        """Semantics (B, A) to class means (B, X), in their type."""
        distance = torch.cdist(semantics.double(), self._seen)
        kernel = torch.exp(-distance.square() / (2 * self._width.square()))
        return (self._center + kernel @ self._weights).to(semantics.dtype)


def evaluation_scores(data: Tensors, score: Scorer, offset_unit: Literal["score", "margin_sd"] = "score") -> Scores:
    """A float64 scorer's class scores of both evaluation sets, see `read_scores`."""
    return read_scores(data, lambda x: score(x.double()), offset_unit)


def _gram(semantics: Tensor, n_seen: int, setting: GaussianSetting) -> Tensor:
    """Kernel of all classes (rows) with the seen ones (columns)."""
    seen = semantics[:n_seen]
    if setting.kernel == "linear":
        return semantics @ seen.T
    distance = torch.cdist(semantics, seen)
    among = distance[:n_seen]
    median = among[~torch.eye(n_seen, dtype=torch.bool, device=among.device)].median()
    return torch.exp(-distance.square() / (2 * (setting.gamma * median).square()))


def within_class_covariance(x: Tensor, y: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Class means (n_classes, X) and the covariance (X, X) of rows (n, X) around them, pooled over classes."""
    means = class_means(x, y, n_classes)
    centred = x - means[y]
    return means, centred.T @ centred / len(x)


def shrunk_factor(covariance: Tensor, shrinkage: float) -> Tensor:
    """Cholesky factor of (1 − s)·Σ + s·diag(Σ), s in [0, 1].

    A feature that does not vary within classes gets the mean variance: it would otherwise outweigh all others
    wherever a synthetic class mean is not exactly the real constant.
    """
    diagonal = covariance.diagonal()
    typical = diagonal.mean().clamp(min=1e-12)
    varying = diagonal > CONSTANT * typical
    shrunk = (1 - shrinkage) * covariance + shrinkage * torch.diag(diagonal)
    filling = torch.where(varying, CONSTANT * typical, typical)
    factor: Tensor = torch.linalg.cholesky(shrunk + torch.diag(filling))
    return factor


def discriminant(mu: Tensor, factor: Tensor, means: Map | None = None) -> Discriminant:
    """x'Σ⁻¹μ − ½μ'Σ⁻¹μ for class means μ (N, X) and the Cholesky factor of Σ.

    Args:
        mu: class means.
        factor: of Σ.
        means: of further classes, from their semantics.
    """
    weight = torch.cholesky_solve(mu.T, factor)
    bias = -0.5 * (mu.T * weight).sum(dim=0)
    # as rows, which is how LAPACK leaves them: a layout of its own would give other last bits when it is read again
    return Discriminant(weight.T.contiguous(), bias, factor, means)


def _linear(weight: Tensor) -> Scorer:
    return lambda x: x @ weight


def class_means(x: Tensor, y: Tensor, n_classes: int) -> Tensor:
    """Means (n_classes, X) of rows (n, X); 0 for a class without a row."""
    sums = x.new_zeros(n_classes, x.shape[1]).index_add_(0, y, x)
    return sums / torch.bincount(y, minlength=n_classes).clamp(min=1)[:, None]

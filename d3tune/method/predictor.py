"""A trained model as what scores features: scaling, one head, and the offset; to plain values and tensors and back."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args

import torch
from torch import Tensor

from d3tune.method.classifier import Prototypes
from d3tune.method.closed_form import Discriminant, KernelRidge
from d3tune.method.mixture import Standardised, Weighted
from d3tune.method.parts import Activation, Beside, Chain, Divided, Layer, Map, Mean, Part, Same
from d3tune.method.regressors import Cosine, Directions, Members

KINDS: dict[str, type[Part]] = {
    "same": Same,
    "layer": Layer,
    "chain": Chain,
    "beside": Beside,
    "divided": Divided,
    "mean": Mean,
    "discriminant": Discriminant,
    "kernel_ridge": KernelRidge,
    "prototypes": Prototypes,
    "members": Members,
    "directions": Directions,
    "cosine": Cosine,
    "standardised": Standardised,
    "weighted": Weighted,
}
NAMES = {kind: name for name, kind in KINDS.items()}
WORDS = {"activation": get_args(Activation), "kernel": ("linear", "rbf")}
# rows scored at once: more than any published test set has, so that scores do not depend on it there
BLOCK = 32768


class NotSavableError(Exception):
    """A head is, or holds, a function that is no `Part`."""


@dataclass(frozen=True, eq=False)
class Predictor:
    """From features as they were measured to calibrated class scores.

    Attributes:
        score: scaled rows (n, X) to scores (n, N) of the seen classes, then the unseen, in the offset's unit.
        shift: (X,) float32 that scaling subtracts.
        divisor: (X,) float32 that it then divides by.
        n_seen: N_s.
        seen_offset: δ, subtracted from the seen classes' scores.
        semantics_mean: (A,) float64 subtracted from a class's semantics.
        semantics_scale: their length then.
    """

    score: Part
    shift: Tensor
    divisor: Tensor
    n_seen: int
    seen_offset: float
    semantics_mean: Tensor
    semantics_scale: float

    @property
    def n_features(self) -> int:
        """X."""
        return len(self.shift)

    @torch.no_grad()
    def scores(self, features: Tensor) -> Tensor:
        """Calibrated scores (n, N) float64 of features (n, X) float32; a row's class is that of the largest."""
        return torch.cat([self._calibrated(block) for block in torch.split(features, BLOCK)])

    def _calibrated(self, features: Tensor) -> Tensor:
        found = self.score((features - self.shift) / self.divisor).double()
        return torch.cat([found[:, : self.n_seen] - self.seen_offset, found[:, self.n_seen :]], dim=1)

    @torch.no_grad()
    def extended(self, semantics: Tensor, means: Map | None = None) -> "Predictor":
        """The same model with further unseen classes behind those it has.

        Args:
            semantics: (C, A) float32, scaled as in training.
            means: from these to class means of scaled features, for heads that have no such map of their own.

        Raises:
            NotExtendableError: its head knows classes by training alone.
        """
        score = self.score.extended(semantics, means)
        rest = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "score"}
        return Predictor(score, **rest)


def to_plain(part: Map) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A part as plain values, which name its tensors, and these tensors.

    Raises:
        NotSavableError: it is, or holds, another function.
    """
    tensors: dict[str, Tensor] = {}
    return _plain(part, "score", tensors), tensors


def from_plain(spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Part:
    """What `to_plain` took apart.

    Raises:
        ValueError, KeyError, TypeError: it is none of that.
    """
    kind = KINDS[spec["kind"]]
    expected = {field.name for field in fields(kind)}
    if expected != spec.keys() - {"kind"}:
        raise ValueError(f"a {spec['kind']} has {', '.join(sorted(expected)) or 'nothing'}")
    return kind(**{name: _value(name, spec[name], tensors) for name in expected})


def _plain(part: Map, place: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if not isinstance(part, Part) or type(part) not in NAMES:
        raise NotSavableError
    spec: dict[str, Any] = {"kind": NAMES[type(part)]}
    for name, value in _fields(part):
        inner = f"{place}.{name}"
        if isinstance(value, tuple):
            spec[name] = [_leaf(item, f"{inner}.{index}", tensors) for index, item in enumerate(value)]
        else:
            spec[name] = _leaf(value, inner, tensors)
    return spec


def _fields(part: Any) -> Iterator[tuple[str, Any]]:
    return ((field.name, getattr(part, field.name)) for field in fields(part))


def _leaf(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[place] = value.contiguous()
        return {"tensor": place}
    return value if value is None or isinstance(value, str | float | int) else _plain(value, place, tensors)


def _value(name: str, value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return tuple(_value(name, item, tensors) for item in value)
    if isinstance(value, Mapping):
        return tensors[value["tensor"]] if "tensor" in value else from_plain(value, tensors)
    if name in WORDS and value not in WORDS[name]:
        raise ValueError(f"{name} {value!r}")
    return value

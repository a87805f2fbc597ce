"""Simulated file pairs of the real datasets' shapes, to try or time a search without the real files.

The features are made up: no figure from them says anything about a real dataset.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from d3tune.data.dataset import Rows
from d3tune.data.matwrite import cell, column, write_mat
from d3tune.data.xlsa17 import FEATURES_FILE, PAIR, SPLITS_FILE, read_splits_file
from d3tune.errors import DatasetError, UsageError, nearest
from d3tune.files import writable_directory, write_text

N_FEATURES = 2048

_LATENT = 16
_HIDDEN = 128
_CLASS_NOISE = 1.1
_PIXEL_NOISE = 0.3
_FEWEST = {"trainval": 4, "test_seen": 1, "test_unseen": 5}
_BLOCK = 4096


@dataclass(frozen=True)
class _Shape:
    seen: int
    unseen: int
    semantics: int
    trainval: int
    test_seen: int
    test_unseen: int
    validation: int | None
    """Seen classes in val_loc; None where the file has no train_loc and val_loc."""


_SHAPES = {
    "awa1": _Shape(40, 10, 85, 19832, 4958, 5685, 13),
    "awa2": _Shape(40, 10, 85, 23527, 5882, 7913, 13),
    "cub": _Shape(150, 50, 312, 7057, 1764, 2967, None),
    "flo": _Shape(82, 20, 1024, 5631, 1403, 1155, 20),
    "sun": _Shape(645, 72, 102, 10320, 2580, 1440, 65),
    "apy": _Shape(20, 12, 64, 5932, 1483, 7924, 5),
}


@dataclass(frozen=True)
class _Layout:
    """Labels (n,), the splits as rows (all counted from 0), semantics (A, N) and N class names."""

    labels: npt.NDArray[np.int64]
    rows: dict[str, Rows]
    semantics: npt.NDArray[np.float32]
    class_names: tuple[str, ...]


def simulate_pair(directory: Path, like: str, *, seed: int = 0, rows: float = 1.0, source: Path | None = None) -> Path:
    """Write a simulated ``res101.mat`` + ``att_splits.mat`` pair into ``directory/<LIKE>``.

    A feature vector is the ReLU output of a fixed random two-layer network of the class's semantics plus
    noise, so that classes can be learnt and unseen ones predicted. The splits have the real sizes, and
    ``train_loc`` and ``val_loc`` contain test_seen rows as the real ones do. Feature tag, class names and a
    note beside the files say that they are simulated.

    Args:
        directory: the data folder, to be named by ``--data-dir``.
        like: flo, cub, awa1, awa2, sun or apy.
        seed: of everything random.
        rows: the part of each class's rows to keep, in (0, 1]; at least 5 rows a class.
        source: a real ``att_splits.mat`` or its folder, for the real semantics and splits.

    Returns:
        The folder of the pair.

    Raises:
        UsageError: ``like`` or ``rows`` is wrong.
        DatasetError: a pair is there already, the source does not fit, or the files cannot be written.
    """
    name = like.lower()
    if name not in _SHAPES:
        raise UsageError(f"cannot simulate '{like}'{nearest(name, _SHAPES)}")
    if not 0 < rows <= 1:
        raise UsageError(f"rows is {rows}; it must be above 0 and at most 1")
    folder = directory / name.upper()
    present = [file for file in PAIR if (folder / file).exists()]
    if present:
        raise DatasetError(f"{folder} already holds {present[0]}; choose another folder")
    generator = np.random.default_rng(seed)
    layout = _real_layout(source, name, generator) if source else _made_up_layout(_SHAPES[name], generator)
    layout = _shrink(layout, rows)
    features = _features(layout, generator)
    _write_pair(writable_directory(folder, "choose another folder"), name, layout, features)
    return folder


def _made_up_layout(shape: _Shape, generator: np.random.Generator) -> _Layout:
    n_classes = shape.seen + shape.unseen
    parts = {part: getattr(shape, part) for part in _FEWEST}
    order = generator.permutation(sum(parts.values()))
    pieces = np.split(order, np.cumsum(list(parts.values()))[:-1])
    rows = {part: np.sort(piece) for part, piece in zip(parts, pieces, strict=True)}
    factors = generator.standard_normal((_LATENT, n_classes))
    weights = generator.standard_normal((shape.semantics, _LATENT))
    semantics = np.maximum(weights @ factors, 0) + 0.05 * generator.random((shape.semantics, n_classes))
    semantics /= np.linalg.norm(semantics, axis=0)
    labels, validation = _assign(shape, rows, None, generator)
    if validation is not None:
        # As in the published files, these two cover the test rows of the seen classes too.
        seen_rows = np.union1d(rows["trainval"], rows["test_seen"])
        held_out = np.isin(labels[seen_rows], validation)
        rows |= {"train": seen_rows[~held_out], "val": seen_rows[held_out]}
    return _Layout(labels, rows, semantics.astype(np.float32), _numbered(n_classes))


def _real_layout(source: Path, name: str, generator: np.random.Generator) -> _Layout:
    shape = _SHAPES[name]
    path = source / SPLITS_FILE if source.is_dir() else source
    content = read_splits_file(path)
    rows = {key.removesuffix("_loc"): content[key] for key in content if key.endswith("_loc")}
    sizes = {part: len(rows[part]) for part in _FEWEST}
    if content["att"].shape[1] != shape.seen + shape.unseen or sizes != {p: getattr(shape, p) for p in _FEWEST}:
        raise DatasetError(f"{path} has not the shape of {name}; give the att_splits.mat of {name}")
    labels, _ = _assign(shape, rows, rows.get("val"), generator)
    return _Layout(labels, rows, content["att"], tuple(f"simulated {name}" for name in content["allclasses_names"]))


def _assign(
    shape: _Shape, rows: dict[str, Rows], val: Rows | None, generator: np.random.Generator
) -> tuple[npt.NDArray[np.int64], Rows | None]:
    """Give each row a class that fits its split; also the validation classes, where there are any.

    Rows of ``val``, where it is given, get validation classes and the other seen rows the others.
    """
    classes = generator.permutation(shape.seen + shape.unseen)
    unseen, seen = classes[: shape.unseen], classes[shape.unseen :]
    validation = None if shape.validation is None else seen[: shape.validation]
    labels = np.zeros(1 + max(int(part.max()) for part in rows.values()), dtype=np.int64)
    labels[rows["test_unseen"]] = _spread(unseen, len(rows["test_unseen"]), generator)
    for part in ("trainval", "test_seen"):
        groups = [(rows[part], seen)]
        if val is not None and validation is not None:
            inside = np.isin(rows[part], val)
            groups = [(rows[part][inside], validation), (rows[part][~inside], seen[len(validation) :])]
        for members, choices in groups:
            labels[members] = _spread(choices, len(members), generator)
    return labels, validation


def _spread(classes: Rows, count: int, generator: np.random.Generator) -> Rows:
    """``count`` labels that use the classes as evenly as can be, in random order."""
    return generator.permutation(np.resize(classes, count))


def _shrink(layout: _Layout, rows: float) -> _Layout:
    """Keep the first part of each class's rows of each split."""
    if rows == 1:
        return layout
    kept = np.sort(np.concatenate([_keep(layout, part, rows) for part in _FEWEST]))
    place = np.full(len(layout.labels), -1, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    moved = {part: place[members] for part, members in layout.rows.items()}
    return replace(
        layout,
        labels=layout.labels[kept],
        rows={part: members[members >= 0] for part, members in moved.items()},
    )


def _keep(layout: _Layout, part: str, rows: float) -> Rows:
    members = layout.rows[part]
    labels = layout.labels[members]
    kept = []
    for class_id in np.unique(labels):
        own = members[labels == class_id]
        kept.append(own[: max(_FEWEST[part], round(rows * len(own)))])
    return np.concatenate(kept)


def _features(layout: _Layout, generator: np.random.Generator) -> npt.NDArray[np.float32]:
    """(n, X) non-negative features."""
    latent = _latent_factors(layout.semantics)
    first = generator.standard_normal((_LATENT, _HIDDEN)) / np.sqrt(_LATENT)
    second = generator.standard_normal((_HIDDEN, N_FEATURES)) / np.sqrt(_HIDDEN)
    features = np.empty((len(layout.labels), N_FEATURES), dtype=np.float32)
    for start in range(0, len(features), _BLOCK):
        block = features[start : start + _BLOCK]
        factors = latent[layout.labels[start : start + _BLOCK]]
        factors = factors + _CLASS_NOISE * generator.standard_normal(factors.shape)
        hidden = (np.maximum(factors @ first, 0) @ second).astype(np.float32)
        noise = generator.standard_normal(block.shape, dtype=np.float32)
        np.maximum(hidden + _PIXEL_NOISE * noise, 0, out=block)
    return features


def _latent_factors(semantics: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(N, 16): the classes' leading principal components, each of unit variance."""
    centred = semantics.T.astype(np.float64)
    centred -= centred.mean(axis=0)
    left, _, _ = np.linalg.svd(centred, full_matrices=False)
    factors: npt.NDArray[np.float64] = np.sqrt(len(centred)) * left[:, :_LATENT]
    return factors


def _write_pair(folder: Path, name: str, layout: _Layout, features: npt.NDArray[np.float32]) -> None:
    splits: dict[str, Any] = {f"{part}_loc": column(members) for part, members in layout.rows.items()}
    splits |= {"att": layout.semantics.astype(np.float64), "allclasses_names": cell(layout.class_names)}
    content = {"features": features.T, "labels": column(layout.labels), "feature_tag": "simulated"}
    note = f"The files in this folder are simulated by d3tune in the shape of {name}. They are not real data.\n"
    try:
        write_text(folder / "SIMULATED.txt", note)
        write_mat(folder / SPLITS_FILE, splits)
        write_mat(folder / FEATURES_FILE, content)
    except OSError as error:
        raise DatasetError(f"cannot write in {folder}: {error.strerror}; choose another folder") from None


def _numbered(n_classes: int) -> tuple[str, ...]:
    return tuple(f"simulated {number}" for number in range(1, n_classes + 1))

"""Reader of the xlsa17 layout: ``res101.mat`` and ``att_splits.mat`` in one folder (Xian et al., 2018)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from d3tune.data.dataset import GZSLDataset, Rows, make_dataset
from d3tune.data.matfile import MatFile, open_mat
from d3tune.errors import DatasetError
from d3tune.files import slug

FEATURES_FILE = "res101.mat"
SPLITS_FILE = "att_splits.mat"
SENTENCES_FILE = "sent_splits.mat"
PAIR = (FEATURES_FILE, SPLITS_FILE)

_SENTENCE_DATASETS = ("flo",)
_MIN_CLASS_ROWS = 2
_MOST_ROWS = 2**16 - 1  # of the 16-bit row numbers in a splits file


def read_pair(directory: Path, name: str, semantics: str | None = None) -> GZSLDataset:
    """Read and check the file pair of one dataset.

    ``res101.mat``: ``features`` (X, n), ``labels`` n values in 1…N, optionally ``feature_tag`` (text).
    ``att_splits.mat``: ``att`` (A, N), ``trainval_loc``, ``test_seen_loc``, ``test_unseen_loc`` (1-based
    rows), optionally ``original_att`` (A, N), ``train_loc`` with ``val_loc``, ``allclasses_names`` (N texts).
    ``sent_splits.mat``: optional, only its ``att`` is read.

    Args:
        directory: the folder of the pair.
        name: the dataset's name, lower-case; it decides what kind of semantics ``att`` is.
        semantics: an id such as ``att312`` or a kind such as ``sent``; None takes ``att`` of att_splits.mat.

    Returns:
        The dataset in memory; rows and classes counted from 0, features and semantics float32.

    Raises:
        DatasetError: anything is missing, damaged or inconsistent; one line naming the file and the key.
    """
    splits_file = open_mat(directory / SPLITS_FILE)
    features_file = open_mat(directory / FEATURES_FILE)
    semantics_id, semantics_file, key = _choose_semantics(splits_file, name, semantics)
    n_classes = _matrix_shape(splits_file, "att")[1]
    vectors = _read_semantics(semantics_file, key, n_classes)
    labels = _read_labels(features_file, n_classes)
    rows = {part: _read_rows(splits_file, f"{part}_loc", len(labels)) for part in _parts(splits_file)}
    _check_splits(splits_file, labels, rows)
    used = np.unique(np.concatenate([labels[rows[p]] for p in ("trainval", "test_unseen")]))
    _refuse_zero_vectors(semantics_file, key, vectors, used)
    return make_dataset(
        name=name,
        features=_read_features(features_file, len(labels)),
        labels=labels,
        semantics=vectors,
        class_names=_read_class_names(splits_file, n_classes),
        trainval=rows["trainval"],
        test_seen=rows["test_seen"],
        test_unseen=rows["test_unseen"],
        train=rows.get("train"),
        val=rows.get("val"),
        semantics_id=semantics_id,
        feature_tag=_read_feature_tag(features_file),
    )


def read_splits_file(path: Path) -> dict[str, Any]:
    """What an ``att_splits.mat`` says by itself, for the simulation of a pair around it.

    Returns:
        ``att`` (A, N) float32, the ``*_loc`` arrays as ascending rows counted from 0, and the N class names,
        under their keys in the file.

    Raises:
        DatasetError: it is missing, damaged or inconsistent.
    """
    splits_file = open_mat(path)
    n_classes = _matrix_shape(splits_file, "att")[1]
    content: dict[str, Any] = {"att": _read_semantics(splits_file, "att", n_classes).T}
    for part in _parts(splits_file):
        content[f"{part}_loc"] = _read_rows(splits_file, f"{part}_loc", _MOST_ROWS)
    content["allclasses_names"] = _read_class_names(splits_file, n_classes)
    return content


def _parts(splits_file: MatFile) -> list[str]:
    """The splits to read; train and val serve only together."""
    parts = ["trainval", "test_seen", "test_unseen"]
    if "train_loc" in splits_file and "val_loc" in splits_file:
        parts += ["train", "val"]
    return parts


def _choose_semantics(splits_file: MatFile, name: str, wanted: str | None) -> tuple[str, MatFile, str]:
    """The id, file and key of the semantics asked for."""
    offers: dict[str, tuple[MatFile, str]] = {}
    for semantics_id, file, key in _offered_semantics(splits_file, name, wanted):
        offers.setdefault(semantics_id, (file, key))
        kind = re.sub(r"\d+$", "", semantics_id)
        if wanted is None or wanted.lower() in (kind, semantics_id):
            return semantics_id, file, key
    raise DatasetError(
        f"dataset '{name}' has no semantics '{wanted}'; {splits_file.path.parent} offers {', '.join(offers)}"
    )


def _offered_semantics(splits_file: MatFile, name: str, wanted: str | None) -> Iterator[tuple[str, MatFile, str]]:
    kind = "sent" if name in _SENTENCE_DATASETS else "att"
    yield f"{kind}{_matrix_shape(splits_file, 'att')[0]}", splits_file, "att"
    if "original_att" in splits_file:
        yield f"original{_matrix_shape(splits_file, 'original_att')[0]}", splits_file, "original_att"
    sentences = splits_file.path.with_name(SENTENCES_FILE)
    if wanted is not None and sentences.is_file():
        sentences_file = open_mat(sentences)
        yield f"sent{_matrix_shape(sentences_file, 'att')[0]}", sentences_file, "att"


def _matrix_shape(file: MatFile, key: str) -> tuple[int, int]:
    shape = file.shape(key)
    if len(shape) != 2 or 0 in shape:
        raise file.fail(key, f"has the shape {shape}; it must be a matrix that is not empty")
    return shape[0], shape[1]


def _read_semantics(file: MatFile, key: str, n_classes: int) -> npt.NDArray[np.float32]:
    shape = _matrix_shape(file, key)
    if shape[1] != n_classes:
        raise file.fail(key, f"has {shape[1]} columns; it must have one for each of the {n_classes} classes")
    vectors = _as_float32(file.array(key).T)
    _refuse_non_finite(file, key, vectors, "class")
    return vectors


def _read_features(file: MatFile, n_labels: int) -> npt.NDArray[np.float32]:
    shape = _matrix_shape(file, "features")
    if shape[1] != n_labels:
        hint = "; is it transposed?" if shape[0] == n_labels else ""
        raise file.fail("features", f"has {shape[1]} columns but 'labels' has {n_labels} rows{hint}")
    features = _as_float32(file.array("features").T)
    _refuse_non_finite(file, "features", features, "row")
    return features


def _read_labels(file: MatFile, n_classes: int) -> npt.NDArray[np.int64]:
    _matrix_shape(file, "features")
    labels = _whole_numbers(file, "labels")
    wrong = np.flatnonzero((labels < 1) | (labels > n_classes))
    if len(wrong):
        raise file.fail(
            "labels",
            f"holds {labels[wrong[0]]} in row {wrong[0] + 1}; labels run from 1 to {n_classes}, "
            "the number of columns of 'att'",
        )
    return labels - 1


def _read_rows(file: MatFile, key: str, n_rows: int) -> Rows:
    rows = _whole_numbers(file, key)
    wrong = rows[(rows < 1) | (rows > n_rows)]
    if len(wrong):
        raise file.fail(key, f"holds {wrong[0]}; rows run from 1 to {n_rows}, the number of 'labels'")
    distinct, counts = np.unique(rows, return_counts=True)
    if len(distinct) < len(rows):
        raise file.fail(key, f"holds row {distinct[counts > 1][0]} more than once; every row counts once")
    return distinct - 1


def _whole_numbers(file: MatFile, key: str) -> npt.NDArray[np.int64]:
    """A vector of whole numbers, whichever of (n, 1), (1, n) and (n,) it is."""
    shape = file.shape(key)
    size = int(np.prod(shape, dtype=object)) if shape else 1
    if size == 0:
        raise file.fail(key, "is empty")
    if size != max(shape, default=1):
        raise file.fail(key, f"has the shape {shape}; it must be a single column")
    values = file.array(key).reshape(-1)
    if values.dtype.kind == "f":
        whole = np.isfinite(values) & (np.abs(values) < 2**53) & (values == np.rint(values))
        if not whole.all():
            row = int(np.argmin(whole))
            raise file.fail(key, f"holds {values[row]} in row {row + 1}; it must hold whole numbers")
    return values.astype(np.int64)


def _as_float32(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what overflows is infinite and refused as such
        return np.ascontiguousarray(values, dtype=np.float32)


def _refuse_non_finite(file: MatFile, key: str, values: npt.NDArray[np.float32], unit: str) -> None:
    bad = ~np.isfinite(values)
    count = int(np.count_nonzero(bad))
    if count:
        first = int(np.flatnonzero(bad.any(axis=1))[0]) + 1
        many = "1 value that is" if count == 1 else f"{count} values that are"
        raise file.fail(key, f"holds {many} NaN or infinite, first in {unit} {first}; correct the file")


def _check_splits(file: MatFile, labels: npt.NDArray[np.int64], rows: dict[str, Rows]) -> None:
    for one, other in (("trainval", "test_seen"), ("trainval", "test_unseen"), ("test_seen", "test_unseen")):
        common = np.intersect1d(rows[one], rows[other])
        if len(common):
            raise file.fail(f"{one}_loc", f"and '{other}_loc' share {len(common)} rows (first: row {common[0] + 1})")
    seen, counts = np.unique(labels[rows["trainval"]], return_counts=True)
    unseen = np.unique(labels[rows["test_unseen"]])
    both = np.intersect1d(seen, unseen)
    if len(both):
        raise file.fail(
            "test_unseen_loc", f"has rows of class {both[0] + 1}, which 'trainval_loc' has too; separate them"
        )
    strange = np.setdiff1d(labels[rows["test_seen"]], seen)
    if len(strange):
        raise file.fail("test_seen_loc", f"has rows of class {strange[0] + 1}, of which 'trainval_loc' has none")
    small = np.flatnonzero(counts < _MIN_CLASS_ROWS)
    if len(small):
        raise file.fail(
            "trainval_loc", f"has {counts[small[0]]} row of class {seen[small[0]] + 1}; at least 2 are needed"
        )


def _refuse_zero_vectors(file: MatFile, key: str, vectors: npt.NDArray[np.float32], used: Rows) -> None:
    zero = used[~vectors[used].any(axis=1)]
    if len(zero):
        raise file.fail(key, f"is all zero for class {zero[0] + 1} ({len(zero)} such classes)")


def _read_class_names(file: MatFile, n_classes: int) -> tuple[str, ...]:
    if "allclasses_names" not in file:
        return tuple(f"class {number}" for number in range(1, n_classes + 1))
    names = file.strings("allclasses_names")
    if len(names) != n_classes:
        raise file.fail("allclasses_names", f"has {len(names)} names for {n_classes} classes")
    return tuple(name or f"class {number}" for number, name in enumerate(names, start=1))


def _read_feature_tag(file: MatFile) -> str:
    if "feature_tag" not in file:
        return "res101"
    texts = file.strings("feature_tag")
    return slug(texts[0])[:40] if texts else "res101"

"""Reader of the xlsa17 layout: ``res101.mat`` and ``att_splits.mat`` in one folder (Xian et al., 2018)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from d3tune.data import checks
from d3tune.data.dataset import GZSLDataset, Rows, make_dataset
from d3tune.data.matfile import MatFile, open_mat
from d3tune.errors import DatasetError, meant
from d3tune.files import slug

FEATURES_FILE = "res101.mat"
SPLITS_FILE = "att_splits.mat"
SENTENCES_FILE = "sent_splits.mat"
PAIR = (FEATURES_FILE, SPLITS_FILE)
SEMANTICS_KIND = re.compile(r"[a-z][a-z0-9_-]{0,38}[a-z_-]|[a-z]")
"""Lower-case and without a digit at the end, where the dimension follows."""

_SENTENCE_DATASETS = ("flo",)
_MOST_ROWS = 2**16 - 1  # of the 16-bit row numbers in a splits file


def read_pair(directory: Path, name: str, semantics: str | None = None) -> GZSLDataset:
    """Read and check the file pair of one dataset.

    ``res101.mat``: ``features`` (X, n), ``labels`` n values in 1…N, optionally ``feature_tag`` (text).
    ``att_splits.mat``: ``att`` (A, N), ``trainval_loc``, ``test_seen_loc``, ``test_unseen_loc`` (1-based
    rows), optionally ``original_att`` (A, N), ``train_loc`` with ``val_loc``, ``allclasses_names`` (N texts),
    ``semantics_kind`` (text: what ``att`` is, for its id).
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
    checks.check_splits(splits_file, {part: f"{part}_loc" for part in rows}, labels, rows)
    checks.refuse_zero_vectors(semantics_file, key, vectors, labels, rows)
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
        f"{meant(wanted or '', offers)}"
    )


def _offered_semantics(splits_file: MatFile, name: str, wanted: str | None) -> Iterator[tuple[str, MatFile, str]]:
    kind = _read_semantics_kind(splits_file) or ("sent" if name in _SENTENCE_DATASETS else "att")
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
    vectors = checks.as_float32(file.array(key).T)
    checks.refuse_non_finite(file, key, vectors, "class")
    return vectors


def _read_features(file: MatFile, n_labels: int) -> npt.NDArray[np.float32]:
    shape = _matrix_shape(file, "features")
    if shape[1] != n_labels:
        hint = "; is it transposed?" if shape[0] == n_labels else ""
        raise file.fail("features", f"has {shape[1]} columns but 'labels' has {n_labels} rows{hint}")
    features = checks.as_float32(file.array("features").T)
    checks.refuse_non_finite(file, "features", features, "row")
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
    checks.refuse_repeats(file, key, rows - 1)
    return np.sort(rows - 1)


def _whole_numbers(file: MatFile, key: str) -> npt.NDArray[np.int64]:
    shape = file.shape(key)
    checks.single_column(file, key, shape)  # before the values are read
    return checks.whole_numbers(file, key, shape, file.array(key))


def _read_class_names(file: MatFile, n_classes: int) -> tuple[str, ...]:
    if "allclasses_names" not in file:
        return tuple(f"class {number}" for number in range(1, n_classes + 1))
    names = file.strings("allclasses_names")
    if len(names) != n_classes:
        raise file.fail("allclasses_names", f"has {len(names)} names for {n_classes} classes")
    return tuple(name or f"class {number}" for number, name in enumerate(names, start=1))


def _read_semantics_kind(file: MatFile) -> str | None:
    """What the file itself says that ``att`` is; the published files do not."""
    if "semantics_kind" not in file:
        return None
    texts = file.strings("semantics_kind")
    if len(texts) != 1 or not SEMANTICS_KIND.fullmatch(texts[0]):
        raise file.fail("semantics_kind", f"is {' '.join(texts)[:40]!r}; it must be one word such as att or sent")
    return texts[0]


def _read_feature_tag(file: MatFile) -> str:
    if "feature_tag" not in file:
        return "res101"
    texts = file.strings("feature_tag")
    return slug(texts[0])[:40] if texts else "res101"

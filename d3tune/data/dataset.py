"""A dataset for generalized zero-shot learning and the views of it that each protocol may see."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from d3tune.errors import DatasetError, UsageError

Rows = npt.NDArray[np.int64]
Protocol = Literal["validation", "test"]

ARRAYS = ("features", "labels", "semantics", "trainval", "test_seen", "test_unseen", "train", "val")
HELD_OUT = 0.2


@dataclass(frozen=True, eq=False)
class GZSLDataset:
    """Features, class semantics and the "Proposed Split" of one dataset (Xian et al., 2018).

    Attributes:
        name: e.g. ``flo`` or ``hanzi/0``.
        features: (n, X) float32, read-only, usually memory-mapped.
        labels: (n,) class ids in [0, N).
        semantics: (N, A) float32, as the file has them (neither centred nor normalised).
        class_names: N names; ``class 17`` (1-based) where the file has none.
        trainval: rows of seen classes for training.
        test_seen: rows of seen classes for the test.
        test_unseen: rows of unseen classes for the test.
        train: the file's own ``train_loc`` rows, or None.
        val: the file's own ``val_loc`` rows, or None.
        semantics_id: kind and dimension, e.g. ``att85``.
        feature_tag: what the features are, e.g. ``res101``.
        content_hash: SHA-256 (hex) of everything above but the name.
        path: the prepared folder that the arrays are mapped from, or None where they are in memory.
    """

    name: str
    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    semantics: npt.NDArray[np.float32]
    class_names: tuple[str, ...]
    trainval: Rows
    test_seen: Rows
    test_unseen: Rows
    train: Rows | None
    val: Rows | None
    semantics_id: str
    feature_tag: str
    content_hash: str
    path: Path | None = None

    @cached_property
    def seen_classes(self) -> Rows:
        """The sorted ids of the classes that have trainval rows."""
        return np.unique(self.labels[self.trainval])

    @cached_property
    def unseen_classes(self) -> Rows:
        """The sorted ids of the classes that have test_unseen rows."""
        return np.unique(self.labels[self.test_unseen])

    @property
    def n_features(self) -> int:
        """X, the width of a feature vector."""
        return int(self.features.shape[1])

    @property
    def n_semantics(self) -> int:
        """A, the width of a class's semantics vector."""
        return int(self.semantics.shape[1])

    @property
    def n_classes(self) -> int:
        """N, the number of classes."""
        return int(self.semantics.shape[0])

    def view(self, protocol: Protocol, split: int = 0) -> "ProtocolView":
        """The rows and classes that one evaluation protocol may use.

        ``test``: training on all of trainval, evaluation on test_seen and test_unseen; ``split`` is ignored.

        ``validation``: from trainval alone, the truly unseen classes do not occur. Split 0 of a file that
        has ``train_loc`` and ``val_loc`` takes the file's own validation classes as pseudo-unseen; every
        other split, and every split of a file without them, draws round(N_s·N_u/N) seen classes with
        ``default_rng(split)``. The other classes' trainval rows are for training, less a seeded 20 % of
        each class, which are the pseudo-test-seen rows.

        Args:
            protocol: ``validation`` or ``test``.
            split: v ≥ 0, the seed of the validation draw; never the seed of a run.

        Raises:
            UsageError: the protocol is unknown or the split is negative.
            DatasetError: too few seen classes or rows for a validation split, or a test row would leak.
        """
        if protocol == "test":
            return _view(self, "test", 0, self.seen_classes, self.trainval, self.test_seen, self.test_unseen)
        if protocol == "validation":
            return _validation_view(self, split)
        raise UsageError(f"unknown protocol '{protocol}'; known: validation, test")


@dataclass(frozen=True, eq=False)
class ProtocolView:
    """What one protocol may see of a dataset. Rows index ``dataset.features``; all arrays are sorted.

    Attributes:
        dataset: the dataset viewed.
        protocol: ``validation`` or ``test``.
        split: the seed of the validation draw; 0 in the test protocol.
        seen_classes: ids of the classes trained on.
        unseen_classes: ids of the (pseudo-)unseen classes.
        train_rows: rows to train on, all of seen classes.
        eval_seen_rows: other rows of seen classes.
        eval_unseen_rows: rows of unseen classes.
        key: 16 hex digits that name the dataset's content, the protocol and the split.
    """

    dataset: GZSLDataset
    protocol: Protocol
    split: int
    seen_classes: Rows
    unseen_classes: Rows
    train_rows: Rows
    eval_seen_rows: Rows
    eval_unseen_rows: Rows
    key: str


def make_dataset(**fields: Any) -> GZSLDataset:
    """A GZSLDataset from all its fields but ``content_hash``, which one pass over the arrays yields."""
    arrays = {name: fields[name] for name in ARRAYS if fields[name] is not None}
    digests = {name: array_digest(array) for name, array in arrays.items()}
    identity = content_hash(digests, fields["class_names"], fields["semantics_id"], fields["feature_tag"])
    return GZSLDataset(**fields, content_hash=identity)


def array_digest(array: npt.NDArray[Any]) -> str:
    """SHA-256 (hex) of an array's element type, shape and values in row order."""
    array = np.ascontiguousarray(array)
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(array.reshape(-1).data)
    return digest.hexdigest()


def content_hash(digests: Mapping[str, str], class_names: Sequence[str], semantics_id: str, feature_tag: str) -> str:
    """SHA-256 (hex) of a dataset's content, from the digests of its arrays; name and place play no part."""
    content = [sorted(digests.items()), list(class_names), semantics_id, feature_tag]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def file_validation_classes(dataset: GZSLDataset) -> Rows | None:
    """The pseudo-unseen classes that the file itself proposes, or None where none of them can serve.

    The published files' ``train_loc`` and ``val_loc`` contain rows of ``test_seen_loc``, so both are first
    cut down to trainval. Classes on both sides do not count, and at least two must remain to train on.
    """
    if dataset.train is None or dataset.val is None:
        return None
    train = dataset.labels[np.intersect1d(dataset.train, dataset.trainval)]
    val = dataset.labels[np.intersect1d(dataset.val, dataset.trainval)]
    classes = np.setdiff1d(val, train)
    usable = 1 <= len(classes) <= len(dataset.seen_classes) - 2
    return classes if usable else None


def _drawn_validation_classes(dataset: GZSLDataset, split: int) -> Rows:
    n_seen, n_unseen = len(dataset.seen_classes), len(dataset.unseen_classes)
    if n_seen < 3:
        raise DatasetError(
            f"dataset '{dataset.name}' has {n_seen} seen classes; the validation protocol needs at least 3"
        )
    count = round(n_seen * n_unseen / (n_seen + n_unseen))
    count = min(max(count, 1), n_seen - 2)
    return np.sort(np.random.default_rng(split).permutation(dataset.seen_classes)[:count])


def _validation_view(dataset: GZSLDataset, split: int) -> ProtocolView:
    if split < 0:
        raise UsageError(f"validation split {split} is negative; use 0, 1, 2, …")
    pseudo_unseen = file_validation_classes(dataset) if split == 0 else None
    if pseudo_unseen is None:
        pseudo_unseen = _drawn_validation_classes(dataset, split)
    seen = np.setdiff1d(dataset.seen_classes, pseudo_unseen)
    parts = [_held_out(dataset, int(class_id), split) for class_id in seen]
    train = np.concatenate([rows for rows, _ in parts])
    eval_seen = np.concatenate([rows for _, rows in parts])
    eval_unseen = dataset.trainval[np.isin(dataset.labels[dataset.trainval], pseudo_unseen)]
    for rows in (train, eval_seen, eval_unseen):
        _refuse_test_rows(dataset, rows)
    return _view(dataset, "validation", split, seen, train, eval_seen, eval_unseen)


def _held_out(dataset: GZSLDataset, class_id: int, split: int) -> tuple[Rows, Rows]:
    """One class's trainval rows, split into (training, pseudo-test-seen)."""
    rows = np.sort(dataset.trainval[dataset.labels[dataset.trainval] == class_id])
    if len(rows) < 2:
        raise DatasetError(
            f"dataset '{dataset.name}': class {class_id + 1} has {len(rows)} trainval row; "
            "the validation protocol needs at least 2"
        )
    # The class is part of the seed: which rows are held out does not depend on which classes were drawn.
    shuffled = np.random.default_rng([split, class_id]).permutation(rows)
    count = max(1, round(HELD_OUT * len(rows)))
    return shuffled[count:], shuffled[:count]


def _refuse_test_rows(dataset: GZSLDataset, rows: Rows) -> None:
    leaked = np.intersect1d(rows, np.concatenate([dataset.test_seen, dataset.test_unseen]))
    if len(leaked):
        raise DatasetError(
            f"dataset '{dataset.name}': {len(leaked)} test rows are also in trainval "
            f"(first: row {leaked[0] + 1}); correct the splits"
        )


def _view(
    dataset: GZSLDataset,
    protocol: Protocol,
    split: int,
    seen: Rows,
    train: Rows,
    eval_seen: Rows,
    eval_unseen: Rows,
) -> ProtocolView:
    if protocol == "test":
        _refuse_test_rows(dataset, train)
    key = hashlib.sha256(f"{dataset.content_hash} {protocol} {split}".encode()).hexdigest()[:16]
    return ProtocolView(
        dataset=dataset,
        protocol=protocol,
        split=split,
        seen_classes=seen,
        unseen_classes=np.unique(dataset.labels[eval_unseen]),
        train_rows=np.sort(train),
        eval_seen_rows=np.sort(eval_seen),
        eval_unseen_rows=np.sort(eval_unseen),
        key=key,
    )

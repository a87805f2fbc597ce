"""What ``d3tune data check`` says about a dataset."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d3tune.data.dataset import GZSLDataset, file_validation_classes
from d3tune.errors import DatasetError


@dataclass(frozen=True)
class DatasetSummary:
    """Counts and observations on a dataset that passed every check.

    Attributes:
        name: the dataset.
        path: its prepared folder, or None where it is in memory.
        n_seen: N_s.
        n_unseen: N_u.
        n_trainval: rows of the split, as are the next two.
        n_test_seen: see above.
        n_test_unseen: see above.
        n_features: X.
        n_semantics: A.
        semantics_id: kind and dimension.
        feature_tag: what the features are.
        content_hash: SHA-256 (hex) of the content.
        feature_min: the smallest feature value.
        feature_max: the largest.
        pseudo_unseen: pseudo-unseen classes of validation split 0; 0 where there can be none.
        notes: things worth knowing, one line each.
    """

    name: str
    path: Path | None
    n_seen: int
    n_unseen: int
    n_trainval: int
    n_test_seen: int
    n_test_unseen: int
    n_features: int
    n_semantics: int
    semantics_id: str
    feature_tag: str
    content_hash: str
    feature_min: float
    feature_max: float
    pseudo_unseen: int
    notes: tuple[str, ...]


def summarise(dataset: GZSLDataset) -> DatasetSummary:
    """Count and look through a dataset, reading all of it."""
    pseudo_unseen, validation_note = _validation(dataset)
    notes = [
        validation_note,
        _leak_note(dataset),
        _unused_note(dataset),
        _constant_note(dataset),
        _twin_note(dataset),
        _simulated_note(dataset),
    ]
    return DatasetSummary(
        name=dataset.name,
        path=dataset.path,
        n_seen=len(dataset.seen_classes),
        n_unseen=len(dataset.unseen_classes),
        n_trainval=len(dataset.trainval),
        n_test_seen=len(dataset.test_seen),
        n_test_unseen=len(dataset.test_unseen),
        n_features=dataset.n_features,
        n_semantics=dataset.n_semantics,
        semantics_id=dataset.semantics_id,
        feature_tag=dataset.feature_tag,
        content_hash=dataset.content_hash,
        feature_min=float(dataset.features.min()),
        feature_max=float(dataset.features.max()),
        pseudo_unseen=pseudo_unseen,
        notes=tuple(note for note in notes if note),
    )


def _validation(dataset: GZSLDataset) -> tuple[int, str]:
    try:
        count = len(dataset.view("validation").unseen_classes)
    except DatasetError as error:
        return 0, f"no validation protocol: {error}"
    if file_validation_classes(dataset) is not None:
        return count, f"validation split 0: the file's own {count} validation classes are pseudo-unseen"
    given = "gives no validation classes of its own" if dataset.val is not None else "has no train_loc/val_loc"
    return count, f"validation split 0: the file {given}, {count} seeded seen classes are pseudo-unseen"


def _leak_note(dataset: GZSLDataset) -> str:
    if dataset.train is None or dataset.val is None:
        return ""
    proposed = np.union1d(dataset.train, dataset.val)
    seen = len(np.intersect1d(proposed, dataset.test_seen))
    unseen = len(np.intersect1d(proposed, dataset.test_unseen))
    if not seen and not unseen:
        return ""
    which = f"{seen} test_seen rows" + (f" and {unseen} test_unseen rows" if unseen else "")
    return f"train_loc ∪ val_loc contains {which}: intersected with trainval"


def _unused_note(dataset: GZSLDataset) -> str:
    used_rows = len(dataset.trainval) + len(dataset.test_seen) + len(dataset.test_unseen)
    rows = len(dataset.labels) - used_rows
    classes = dataset.n_classes - len(dataset.seen_classes) - len(dataset.unseen_classes)
    return f"{rows} rows and {classes} classes are in no split" if rows or classes else ""


def _constant_note(dataset: GZSLDataset) -> str:
    train = np.take(np.asarray(dataset.features), dataset.trainval, axis=0)
    constant = int(np.count_nonzero(train.min(axis=0) == train.max(axis=0)))
    return f"{constant} features are constant over trainval" if constant else ""


def _twin_note(dataset: GZSLDataset) -> str:
    used = np.concatenate([dataset.seen_classes, dataset.unseen_classes])
    distinct = len(np.unique(dataset.semantics[used], axis=0))
    return f"{len(used) - distinct} classes share their semantics with another class" if distinct < len(used) else ""


def _simulated_note(dataset: GZSLDataset) -> str:
    return "the features are simulated, not real" if dataset.feature_tag == "simulated" else ""

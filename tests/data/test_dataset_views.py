"""What the validation and test protocols may see."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from d3tune.data.dataset import GZSLDataset, ProtocolView, make_dataset
from d3tune.errors import DatasetError, UsageError


def without_file_split(dataset: GZSLDataset) -> GZSLDataset:
    return replace(dataset, train=None, val=None)


def random_dataset(seed: int) -> GZSLDataset:
    """Classes of unequal sizes in shuffled rows, train/val rows that leak into every split."""
    generator = np.random.default_rng(seed)
    n_classes = int(generator.integers(5, 30))
    labels = generator.permutation(np.repeat(np.arange(n_classes), generator.integers(3, 20, n_classes)))
    unseen = generator.permutation(n_classes)[: max(1, n_classes // 4)]
    test_unseen = np.flatnonzero(np.isin(labels, unseen))
    parts: dict[str, list[int]] = {"trainval": [], "test_seen": []}
    for class_id in np.setdiff1d(np.arange(n_classes), unseen):
        rows = np.flatnonzero(labels == class_id)
        parts["trainval"] += rows[:-1].tolist()
        parts["test_seen"] += rows[-1:].tolist()
    in_val = np.isin(labels, generator.permutation(n_classes)[: n_classes // 3])
    return make_dataset(
        name="random",
        features=generator.random((len(labels), 3), dtype=np.float32),
        labels=labels,
        semantics=generator.random((n_classes, 4), dtype=np.float32),
        class_names=tuple(f"class {number + 1}" for number in range(n_classes)),
        trainval=np.array(parts["trainval"]),
        test_seen=np.array(parts["test_seen"]),
        test_unseen=test_unseen,
        train=np.flatnonzero(~in_val),
        val=np.flatnonzero(in_val),
        semantics_id="att4",
        feature_tag="res101",
    )


def all_rows(view: ProtocolView) -> np.ndarray[Any, Any]:
    return np.concatenate([view.train_rows, view.eval_seen_rows, view.eval_unseen_rows])


def test_the_classes_of_a_dataset(dataset: GZSLDataset) -> None:
    np.testing.assert_array_equal(dataset.seen_classes, np.arange(6))
    np.testing.assert_array_equal(dataset.unseen_classes, [6, 7])
    assert (dataset.n_features, dataset.n_semantics, dataset.n_classes) == (7, 5, 8)


def test_the_test_protocol_is_the_proposed_split(dataset: GZSLDataset) -> None:
    view = dataset.view("test")
    np.testing.assert_array_equal(view.train_rows, dataset.trainval)
    np.testing.assert_array_equal(view.eval_seen_rows, dataset.test_seen)
    np.testing.assert_array_equal(view.eval_unseen_rows, dataset.test_unseen)
    np.testing.assert_array_equal(view.seen_classes, dataset.seen_classes)
    np.testing.assert_array_equal(view.unseen_classes, dataset.unseen_classes)
    assert dataset.view("test", 3).key == view.key


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("split", [0, 1, 2])
@pytest.mark.parametrize("own", [True, False])
def test_no_test_row_is_ever_in_a_validation_view(seed: int, split: int, own: bool) -> None:
    dataset = random_dataset(seed) if own else without_file_split(random_dataset(seed))
    view = dataset.view("validation", split)
    rows = all_rows(view)
    assert not np.intersect1d(rows, np.concatenate([dataset.test_seen, dataset.test_unseen])).size
    # Every trainval row is used exactly once, and classes are where they belong.
    np.testing.assert_array_equal(np.sort(rows), np.sort(dataset.trainval))
    np.testing.assert_array_equal(np.unique(dataset.labels[view.train_rows]), view.seen_classes)
    np.testing.assert_array_equal(np.unique(dataset.labels[view.eval_seen_rows]), view.seen_classes)
    np.testing.assert_array_equal(np.unique(dataset.labels[view.eval_unseen_rows]), view.unseen_classes)
    np.testing.assert_array_equal(np.union1d(view.seen_classes, view.unseen_classes), dataset.seen_classes)
    assert not np.intersect1d(view.seen_classes, view.unseen_classes).size
    assert not np.intersect1d(np.union1d(view.seen_classes, view.unseen_classes), dataset.unseen_classes).size


@pytest.mark.parametrize("seed", range(4))
def test_a_fifth_of_each_class_is_held_out(seed: int) -> None:
    dataset = random_dataset(seed)
    view = dataset.view("validation", 1)
    for class_id in view.seen_classes:
        held_out = int(np.count_nonzero(dataset.labels[view.eval_seen_rows] == class_id))
        total = int(np.count_nonzero(dataset.labels[dataset.trainval] == class_id))
        assert held_out == max(1, round(0.2 * total))


def test_split_0_takes_the_files_own_validation_classes(dataset: GZSLDataset) -> None:
    assert dataset.val is not None
    assert np.intersect1d(dataset.val, dataset.test_seen).size  # the leak that real files have
    view = dataset.view("validation")
    np.testing.assert_array_equal(view.unseen_classes, [4, 5])
    np.testing.assert_array_equal(view.eval_unseen_rows, np.setdiff1d(dataset.val, dataset.test_seen))


def test_classes_in_both_train_and_val_are_not_pseudo_unseen(dataset: GZSLDataset) -> None:
    assert dataset.train is not None
    assert dataset.val is not None
    row_of_class_4 = dataset.trainval[dataset.labels[dataset.trainval] == 4][:1]
    mixed = replace(dataset, train=np.append(dataset.train, row_of_class_4))
    np.testing.assert_array_equal(mixed.view("validation").unseen_classes, [5])


def test_a_val_that_shares_all_classes_with_train_leads_to_a_draw(dataset: GZSLDataset) -> None:
    shared = replace(dataset, train=dataset.trainval, val=dataset.trainval)
    expected = without_file_split(dataset).view("validation").unseen_classes
    np.testing.assert_array_equal(shared.view("validation").unseen_classes, expected)


def test_a_val_of_test_rows_alone_leads_to_a_draw(dataset: GZSLDataset) -> None:
    leaked = replace(dataset, val=dataset.test_seen)
    expected = without_file_split(dataset).view("validation").unseen_classes
    np.testing.assert_array_equal(leaked.view("validation").unseen_classes, expected)


@pytest.mark.parametrize("split", [0, 1, 5])
def test_the_draw_is_seeded_by_the_split_alone(split: int) -> None:
    dataset = without_file_split(random_dataset(3))
    n_seen, n_unseen = len(dataset.seen_classes), len(dataset.unseen_classes)
    count = round(n_seen * n_unseen / (n_seen + n_unseen))
    expected = np.random.default_rng(split).permutation(dataset.seen_classes)[:count]
    first, second = dataset.view("validation", split), dataset.view("validation", split)
    np.testing.assert_array_equal(first.unseen_classes, np.sort(expected))
    np.testing.assert_array_equal(first.train_rows, second.train_rows)
    assert first.key == second.key


def test_another_split_is_another_draw_also_where_the_file_has_its_own(dataset: GZSLDataset) -> None:
    big = random_dataset(5)
    for one in (dataset, big, without_file_split(big)):
        keys = {one.view("validation", split).key for split in range(4)} | {one.view("test").key}
        assert len(keys) == 5
    draws = {tuple(big.view("validation", split).unseen_classes) for split in range(4)}
    assert len(draws) > 1
    held_out = {tuple(big.view("validation", split).eval_seen_rows) for split in range(4)}
    assert len(held_out) == 4


def test_which_rows_are_held_out_does_not_depend_on_the_classes_drawn(dataset: GZSLDataset) -> None:
    own, drawn = dataset.view("validation"), without_file_split(dataset).view("validation")
    for class_id in np.intersect1d(own.seen_classes, drawn.seen_classes):
        rows = [view.eval_seen_rows[dataset.labels[view.eval_seen_rows] == class_id] for view in (own, drawn)]
        np.testing.assert_array_equal(rows[0], rows[1])


def test_a_test_row_in_trainval_is_refused(dataset: GZSLDataset) -> None:
    row = dataset.test_seen[:1]
    leaking = replace(dataset, trainval=np.append(dataset.trainval, row))
    for protocol in ("validation", "test"):
        with pytest.raises(DatasetError, match=f"1 test rows are also in trainval .*row {row[0] + 1}"):
            leaking.view(protocol)  # type: ignore[arg-type]


def test_what_cannot_be_viewed(dataset: GZSLDataset) -> None:
    with pytest.raises(UsageError, match="unknown protocol 'published'"):
        dataset.view("published")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="negative"):
        dataset.view("validation", -1)
    two = replace(dataset, trainval=dataset.trainval[dataset.labels[dataset.trainval] < 2], train=None)
    with pytest.raises(DatasetError, match="2 seen classes; the validation protocol needs at least 3"):
        two.view("validation")
    of_class_0 = dataset.trainval[dataset.labels[dataset.trainval] == 0]
    one_row = replace(dataset, trainval=np.setdiff1d(dataset.trainval, of_class_0[1:]))
    with pytest.raises(DatasetError, match="class 1 has 1 trainval row"):
        one_row.view("validation")


def test_the_hash_covers_content_and_splits_but_not_the_name(dataset: GZSLDataset) -> None:
    fields = {key: value for key, value in vars(dataset).items() if key != "content_hash"}
    assert make_dataset(**fields | {"name": "other"}).content_hash == dataset.content_hash
    changes: dict[str, Any] = {
        "features": dataset.features + np.float32(1e-6),
        "labels": dataset.labels[::-1],
        "semantics": dataset.semantics * 2,
        "class_names": tuple(reversed(dataset.class_names)),
        "trainval": dataset.trainval[1:],
        "test_seen": dataset.test_seen[1:],
        "test_unseen": dataset.test_unseen[1:],
        "train": None,
        "val": None,
        "semantics_id": "original5",
        "feature_tag": "vit",
    }
    hashes = {make_dataset(**fields | {key: value}).content_hash for key, value in changes.items()}
    assert len(hashes | {dataset.content_hash}) == len(changes) + 1

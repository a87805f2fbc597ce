"""Simulated pairs: sound, of the real shapes, labelled, learnable."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from d3tune.data.registry import check_dataset, find_dataset
from d3tune.data.simulate import simulate_pair
from d3tune.data.tensors import load_tensors
from d3tune.errors import D3TuneError, DatasetError, UsageError

SIZES = {
    "awa1": (40, 10, "att85"),
    "awa2": (40, 10, "att85"),
    "cub": (150, 50, "att312"),
    "flo": (82, 20, "sent1024"),
    "sun": (645, 72, "att102"),
    "apy": (20, 12, "att64"),
}


@pytest.mark.parametrize("like", SIZES)
def test_each_shape_reads_back(tmp_path: Path, like: str) -> None:
    simulate_pair(tmp_path / "data", like, rows=0.01)
    summary = check_dataset(like, tmp_path / "data")
    assert (summary.n_seen, summary.n_unseen, summary.semantics_id) == SIZES[like]
    assert summary.n_features == 2048
    assert summary.feature_tag == "simulated"
    assert summary.n_trainval >= 4 * summary.n_seen
    assert summary.n_test_unseen >= 5 * summary.n_unseen
    notes = "; ".join(summary.notes)
    assert "simulated, not real" in notes
    assert ("test_seen rows: intersected" in notes) == (like != "cub")


def test_the_full_size_is_the_real_one(tmp_path: Path) -> None:
    folder = simulate_pair(tmp_path / "data", "FLO")
    assert folder == tmp_path / "data" / "FLO"
    assert sorted(path.name for path in folder.iterdir()) == ["SIMULATED.txt", "att_splits.mat", "res101.mat"]
    assert "not real data" in (folder / "SIMULATED.txt").read_text()
    dataset = find_dataset("flo", tmp_path / "data")
    assert dataset.features.shape == (8189, 2048)
    assert (len(dataset.trainval), len(dataset.test_seen), len(dataset.test_unseen)) == (5631, 1403, 1155)
    assert all(name.startswith("simulated") for name in dataset.class_names)
    assert dataset.view("validation").unseen_classes.size == 20
    assert float(dataset.features.min()) == 0


def test_classes_can_be_learnt_and_unseen_ones_predicted(tmp_path: Path) -> None:
    simulate_pair(tmp_path / "data", "awa1", rows=0.05)
    tensors = load_tensors(find_dataset("awa1", tmp_path / "data").view("test"), center_semantics=True)
    n_seen = tensors.n_seen
    means = np.stack([tensors.train_x[tensors.train_y == c].mean(dim=0).numpy() for c in range(n_seen)])
    kernel = (tensors.semantics @ tensors.semantics.T).numpy()
    weights = np.linalg.solve(kernel[:n_seen, :n_seen] + 0.1 * np.eye(n_seen), means - means.mean(axis=0))
    predicted = means.mean(axis=0) + kernel[n_seen:, :n_seen] @ weights
    assert accuracy(tensors.eval_seen_x, tensors.eval_seen_y, means) > 0.5  # chance: .025
    assert accuracy(tensors.eval_unseen_x, tensors.eval_unseen_y - n_seen, predicted) > 0.4  # chance: .1


def accuracy(features: Any, labels: Any, means: Any) -> float:
    distances = ((features.numpy()[:, None, :] - means[None]) ** 2).sum(axis=2)
    return float((distances.argmin(axis=1) == labels.numpy()).mean())


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    for place, seed in (("a", 0), ("b", 0), ("c", 1)):
        simulate_pair(tmp_path / place, "cub", seed=seed, rows=0.05)
    a, b, c = (find_dataset("cub", tmp_path / place).content_hash for place in "abc")
    assert a == b != c


def test_the_splits_of_a_given_file(tmp_path: Path) -> None:
    source = simulate_pair(tmp_path / "source", "apy", rows=1.0) / "att_splits.mat"
    folder = simulate_pair(tmp_path / "data", "apy", seed=3, source=source)
    given, written = scipy.io.loadmat(source), scipy.io.loadmat(folder / "att_splits.mat")
    for key in ("trainval_loc", "test_seen_loc", "test_unseen_loc", "train_loc", "val_loc"):
        np.testing.assert_array_equal(given[key], written[key])
    np.testing.assert_allclose(given["att"], written["att"], rtol=1e-6)
    assert check_dataset("apy", tmp_path / "data").pseudo_unseen == 5
    with pytest.raises(DatasetError, match="has not the shape of flo"):
        simulate_pair(tmp_path / "other", "flo", source=source)


def test_an_existing_pair_is_left_alone(tmp_path: Path) -> None:
    folder = simulate_pair(tmp_path / "data", "apy", rows=0.01)
    before = (folder / "res101.mat").read_bytes()
    with pytest.raises(DatasetError, match=r"already holds res101.mat"):
        simulate_pair(tmp_path / "data", "apy", rows=0.02)
    assert (folder / "res101.mat").read_bytes() == before


def test_wrong_requests(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot simulate 'flow'; did you mean 'flo'"):
        simulate_pair(tmp_path, "flow")
    for rows in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(UsageError, match="rows is"):
            simulate_pair(tmp_path, "flo", rows=rows)
    (tmp_path / "file").write_text("")
    with pytest.raises(D3TuneError, match="cannot write in"):
        simulate_pair(tmp_path / "file", "apy", rows=0.01)

"""The real xlsa17 split files and real features in that layout, where they are at hand."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from d3tune.data.mat5 import list_entries
from d3tune.data.matfile import open_mat
from d3tune.data.registry import check_dataset, find_dataset
from d3tune.data.simulate import simulate_pair
from d3tune.data.tensors import load_tensors


@pytest.fixture
def awa1(real_data: Path, tmp_path: Path) -> Path:
    """A data folder that holds AWA1's real splits and its images' 2009 features as a pair."""
    folder = tmp_path / "data" / "AWA1"
    folder.mkdir(parents=True)
    shutil.copy(real_data / "AWA1" / "att_splits.mat", folder)
    content = np.load(real_data / "AWA1" / "bow256_int8.npz", allow_pickle=False)
    features = content["features"].astype(np.float32) * content["scale"]
    labels = content["labels"].astype(np.uint8).reshape(-1, 1)
    scipy.io.savemat(folder / "res101.mat", {"features": features.T, "labels": labels})
    return folder.parent


def test_awa1(awa1: Path) -> None:
    summary = check_dataset("awa1", awa1)
    assert (summary.n_seen, summary.n_unseen, summary.semantics_id) == (40, 10, "att85")
    assert (summary.n_trainval, summary.n_test_seen, summary.n_test_unseen) == (19832, 4958, 5685)
    assert summary.pseudo_unseen == 13
    assert "train_loc ∪ val_loc contains 4958 test_seen rows: intersected with trainval" in summary.notes
    dataset = find_dataset("awa1", awa1)
    assert dataset.class_names[:2] == ("antelope", "grizzly+bear")
    for split, n_unseen in ((0, 13), (1, 8)):
        view = dataset.view("validation", split)
        rows = np.concatenate([view.train_rows, view.eval_seen_rows, view.eval_unseen_rows])
        np.testing.assert_array_equal(np.sort(rows), dataset.trainval)
        assert (len(view.seen_classes), len(view.unseen_classes)) == (40 - n_unseen, n_unseen)
    tensors = load_tensors(dataset.view("test"))
    assert tensors.train_x.shape == (19832, 256)
    assert tensors.semantics.shape == (50, 85)
    assert find_dataset("awa1", awa1, "original").semantics_id == "original85"


@pytest.mark.parametrize("name", ["AWA1", "FLO", "CUB"])
def test_real_files_are_read_as_scipy_reads_them(real_data: Path, name: str) -> None:
    path = real_data / name / "att_splits.mat"
    expected, file = scipy.io.loadmat(path), open_mat(path)
    for entry in list_entries(path):
        if entry.kind == "cell":
            assert file.strings(entry.name) == tuple(str(cell[0].item()) for cell in expected[entry.name])
        else:
            np.testing.assert_array_equal(file.array(entry.name), expected[entry.name], strict=True)


@pytest.mark.parametrize(("name", "leak", "pseudo_unseen"), [("flo", 1403, 20), ("cub", 0, 38)])
def test_real_splits_under_simulated_features(
    real_data: Path, tmp_path: Path, name: str, leak: int, pseudo_unseen: int
) -> None:
    source = real_data / name.upper()
    simulate_pair(tmp_path / "data", name, source=source)
    shutil.copy(source / "att_splits.mat", tmp_path / "data" / name.upper() / "att_splits.mat")
    summary = check_dataset(name, tmp_path / "data")
    assert summary.pseudo_unseen == pseudo_unseen
    leaks = [note for note in summary.notes if "test_seen rows" in note]
    assert leaks == [f"train_loc ∪ val_loc contains {leak} test_seen rows: intersected with trainval"][: bool(leak)]

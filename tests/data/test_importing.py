"""Importing a dataset of one's own: what it becomes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d3tune.data.dataset import GZSLDataset
from d3tune.data.importing import Imported, import_dataset
from d3tune.data.registry import check_dataset, find_dataset, list_datasets
from d3tune.data.tensors import load_tensors
from d3tune.errors import D3TuneError, DatasetError

Content = dict[str, Any]
Write = Callable[..., Path]

PARTS = ("trainval", "test_seen", "test_unseen")


def npz(path: Path, arrays: Content) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def run(tmp_path: Path, arrays: Content, **options: Any) -> Imported:
    source = npz(tmp_path / "own.npz", arrays)
    return import_dataset("birds", tmp_path / "data", source=source, **{"feature_tag": "clip"} | options)


def without(arrays: Content, *keys: str) -> Content:
    return {key: value for key, value in arrays.items() if key not in keys}


def line(error: pytest.ExceptionInfo[D3TuneError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert "Traceback" not in message
    return message


def test_an_npz_becomes_a_dataset_that_is_found_and_loaded(
    tmp_path: Path, arrays: Content, dataset: GZSLDataset
) -> None:
    imported = run(tmp_path, arrays, feature_tag="res101")
    assert imported.folder == tmp_path / "data" / "BIRDS"
    assert imported.notes == ("labels count from 0", "rows count from 0")
    assert sorted(path.name for path in imported.folder.iterdir()) == ["att_splits.mat", "res101.mat"]
    found = find_dataset("birds", tmp_path / "data")
    # The content's hash is that of the same arrays put together by hand: nothing was lost or moved.
    assert found.content_hash == dataset.content_hash
    tensors = load_tensors(found.view("validation"))
    assert tensors.train_x.shape[1] == 7
    assert (tensors.n_seen, tensors.n_unseen) == (4, 2)
    (info,) = (info for info in list_datasets(tmp_path / "data") if info.name == "birds")
    assert info.complete
    assert check_dataset("birds", tmp_path / "data").n_trainval == 36


@pytest.mark.parametrize("first_row", [0, 1])
@pytest.mark.parametrize("first_label", [0, 1])
def test_the_first_number_is_detected_and_said(
    tmp_path: Path, arrays: Content, dataset: GZSLDataset, first_row: int, first_label: int
) -> None:
    arrays["labels"] = (arrays["labels"] + first_label).astype(np.uint8).reshape(-1, 1)
    for part in (*PARTS, "train", "val"):
        arrays[part] = (arrays[part] + first_row).astype(np.float64)
    imported = run(tmp_path, arrays, feature_tag="res101")
    assert imported.notes == (f"labels count from {first_label}", f"rows count from {first_row}")
    assert find_dataset("birds", tmp_path / "data").content_hash == dataset.content_hash


def test_the_tag_and_the_kind_are_part_of_the_identity(tmp_path: Path, arrays: Content) -> None:
    hashes = set()
    for tag, kind in (("clip", "att"), ("vit-l-14", "att"), ("clip", "w2v")):
        run(tmp_path, arrays, feature_tag=tag, semantics_kind=kind, force=True)
        found = find_dataset("birds", tmp_path / "data")
        assert (found.feature_tag, found.semantics_id) == (tag, f"{kind}5")
        assert find_dataset("birds", tmp_path / "data", kind).content_hash == found.content_hash
        hashes.add(found.content_hash)
    assert len(hashes) == 3


def test_files_of_their_own_and_names_for_labels(tmp_path: Path, arrays: Content, dataset: GZSLDataset) -> None:
    np.save(tmp_path / "x.npy", arrays["features"].astype(np.float32))
    names = arrays["class_names"]
    (tmp_path / "y.csv").write_text("label\n" + "\n".join(names[arrays["labels"]]) + "\n")
    lines = [",".join([name, *map(repr, row)]) for name, row in zip(names, arrays["semantics"].tolist(), strict=True)]
    (tmp_path / "a.csv").write_text("name,a,b,c,d,e\n" + "\n".join(lines))
    npz(tmp_path / "s.npz", {part: arrays[part] for part in (*PARTS, "train", "val")})
    imported = import_dataset(
        "birds",
        tmp_path / "data",
        features=tmp_path / "x.npy",
        labels=tmp_path / "y.csv",
        semantics=tmp_path / "a.csv",
        splits=tmp_path / "s.npz",
        feature_tag="res101",
    )
    assert imported.notes == ("rows count from 0",)
    assert find_dataset("birds", tmp_path / "data").content_hash == dataset.content_hash


@pytest.mark.parametrize("header", ["", "f1,f2,f3,f4,f5,f6,f7\n", "0,1,2,3,4,5,6\n", "\ufeff"])
def test_everything_as_csv(tmp_path: Path, arrays: Content, header: str) -> None:
    part = np.full(56, "unused", dtype="U12")
    for name in PARTS:
        part[arrays[name]] = name
    part[arrays["test_seen"][:1]] = "unused"
    tables = {
        "features": header + "\n".join(",".join(map(repr, row)) for row in arrays["features"].tolist()),
        "labels": "\n".join(map(str, arrays["labels"] + 1)),
        "semantics": "\n".join(",".join(map(repr, row)) for row in arrays["semantics"].tolist()),
        "class_names": "class\n" + "\n".join(arrays["class_names"]),
        "splits": "split\n" + "\n".join(part),
    }
    files = {}
    for name, text in tables.items():
        files[name] = tmp_path / f"{name}.csv"
        files[name].write_text(text, encoding="utf-8")
    imported = import_dataset("birds", tmp_path / "data", feature_tag="clip", **files)  # type: ignore[arg-type]
    assert imported.notes == ("labels count from 1",)
    found = find_dataset("birds", tmp_path / "data")
    np.testing.assert_array_equal(found.features, arrays["features"].astype(np.float32))
    np.testing.assert_array_equal(found.trainval, arrays["trainval"])
    np.testing.assert_array_equal(found.test_seen, arrays["test_seen"][1:])
    assert found.class_names == tuple(arrays["class_names"])


@pytest.mark.parametrize("header", ["", "name,a,b,c,d,e\n", "a1,a2,a3,a4,a5,a6\n", ",0,1,2,3,4\n", "class,1,2,3,4,5\n"])
def test_the_header_of_semantics(tmp_path: Path, arrays: Content, header: str) -> None:
    rows = zip(arrays["class_names"], arrays["semantics"].tolist(), strict=True)
    file = tmp_path / "a.csv"
    file.write_text(header + "\n".join(",".join([name, *map(repr, row)]) for name, row in rows))
    run(tmp_path, without(arrays, "semantics", "class_names"), semantics=file)
    found = find_dataset("birds", tmp_path / "data")
    np.testing.assert_array_equal(found.semantics, arrays["semantics"].astype(np.float32))
    assert found.class_names == tuple(arrays["class_names"])


@pytest.mark.parametrize("form", ["ids", "names", "text", "npy", "bytes"])
def test_unseen_classes_and_a_seeded_share(tmp_path: Path, arrays: Content, form: str) -> None:
    options: dict[str, Any] = {}
    content = without(arrays, *PARTS, "train", "val") | {"unseen_classes": np.array([6, 7])}
    if form in ("names", "bytes"):
        content["unseen_classes"] = arrays["class_names"][6:].astype("S" if form == "bytes" else "U")
    if form in ("text", "npy"):
        del content["unseen_classes"]
        options["splits"] = tmp_path / ("unseen.txt" if form == "text" else "unseen.npy")
        if form == "text":
            options["splits"].write_text("007.animal\n008.animal\n")
        else:
            np.save(options["splits"], np.array([6, 7]))
    imported = run(tmp_path, content, test_seen_share=0.25, seed=3, **options)
    assert "test_seen: 25% of the rows of each seen class, drawn with seed 3" in imported.notes
    found = find_dataset("birds", tmp_path / "data")
    np.testing.assert_array_equal(found.unseen_classes, [6, 7])
    generator = np.random.default_rng(3)
    expected = [generator.permutation(np.flatnonzero(arrays["labels"] == class_id))[:2] for class_id in range(6)]
    np.testing.assert_array_equal(found.test_seen, np.sort(np.concatenate(expected)))
    assert len(found.trainval) + len(found.test_seen) + len(found.test_unseen) == 56
    assert found.view("validation").train_rows.size


def test_more_rows_than_16_bits_count(tmp_path: Path) -> None:
    labels = np.arange(70_000) % 5
    arrays = {
        "features": np.arange(70_000, dtype=np.float32).reshape(-1, 1),
        "labels": labels,
        "semantics": np.eye(5, dtype=bool),
        "unseen_classes": np.array([4]),
    }
    run(tmp_path, arrays)
    found = find_dataset("birds", tmp_path / "data")
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.test_unseen, np.flatnonzero(labels == 4))


def test_a_pair_that_is_there_is_kept_unless_forced(
    tmp_path: Path, arrays: Content, content: Content, write_pair: Write
) -> None:
    folder = write_pair(tmp_path / "data" / "Birds", content)
    (folder / "SIMULATED.txt").write_text("simulated")
    (folder / "mine.txt").write_text("keep")
    before = (folder / "res101.mat").read_bytes()
    with pytest.raises(DatasetError, match=r"Birds already holds res101.mat") as error:
        run(tmp_path, arrays)
    line(error)
    with pytest.raises(DatasetError, match="NaN"):
        run(tmp_path, arrays | {"features": np.full((56, 7), np.nan)}, force=True)
    assert (folder / "res101.mat").read_bytes() == before
    assert run(tmp_path, arrays, force=True).folder == folder
    assert sorted(path.name for path in folder.iterdir()) == ["att_splits.mat", "mine.txt", "res101.mat"]
    assert find_dataset("birds", tmp_path / "data").feature_tag == "clip"
    (folder / "sent_splits.mat").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"sent_splits.mat, of another dataset"):
        run(tmp_path, arrays, force=True)


def test_a_write_that_fails_leaves_nothing_and_the_old_pair(
    tmp_path: Path, arrays: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: Content) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("d3tune.data.importing.write_mat", full)
        with pytest.raises(DatasetError, match="No space left on device; choose another folder"):
            run(tmp_path, arrays)
    assert list((tmp_path / "data").iterdir()) == []
    run(tmp_path, arrays)
    with monkeypatch.context() as patch:
        patch.setattr("d3tune.data.importing.write_mat", full)
        with pytest.raises(DatasetError, match="No space left"):
            run(tmp_path, arrays, feature_tag="other", force=True)
    assert find_dataset("birds", tmp_path / "data").feature_tag == "clip"


def test_what_the_numbers_do_not_show_can_be_said(tmp_path: Path, arrays: Content) -> None:
    inner = {part: np.setdiff1d(arrays[part], [0, 55]) for part in (*PARTS, "train", "val")}
    imported = run(tmp_path, arrays | inner, count_from=0)
    assert imported.notes == ("labels count from 0", "rows count from 0")
    with pytest.raises(DatasetError, match=r"'labels' runs from 0 to 7 and so cannot count .* from 1"):
        run(tmp_path, arrays, count_from=1, force=True)


def test_a_class_without_rows_is_said(tmp_path: Path, arrays: Content) -> None:
    arrays["semantics"] = np.vstack([arrays["semantics"], np.ones((1, 5))])
    assert "1 classes have no rows" in run(tmp_path, without(arrays, "class_names")).notes
    assert find_dataset("birds", tmp_path / "data").class_names[8] == "class 9"


def test_a_pair_with_a_wrong_kind_of_semantics_is_refused(tmp_path: Path, content: Content, write_pair: Write) -> None:
    content["semantics_kind"] = "att 85"
    write_pair(tmp_path / "data" / "birds", content)
    with pytest.raises(DatasetError, match="'semantics_kind' is 'att 85'; it must be one word"):
        find_dataset("birds", tmp_path / "data")

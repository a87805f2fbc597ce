"""The file pair reader: what sound files yield, and the one line that each fault yields."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from d3tune.data.dataset import GZSLDataset
from d3tune.data.xlsa17 import read_pair
from d3tune.errors import DatasetError

Content = dict[str, Any]
Write = Callable[..., Path]


def same_content(one: GZSLDataset, other: GZSLDataset) -> bool:
    return one.content_hash == other.content_hash


def one_line(error: pytest.ExceptionInfo[DatasetError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize("compress", [False, True])
def test_a_sound_pair_is_read_exactly(
    tmp_path: Path, content: Content, dataset: GZSLDataset, write_pair: Write, compress: bool
) -> None:
    read = read_pair(write_pair(tmp_path / "T", content, compress), "tiny")
    assert same_content(read, dataset)
    np.testing.assert_array_equal(read.features, content["features"].T.astype(np.float32))
    np.testing.assert_array_equal(read.labels, content["labels"].ravel() - 1)
    np.testing.assert_array_equal(read.trainval, content["trainval_loc"].ravel() - 1)
    assert read.features.dtype == np.float32
    assert read.labels.dtype == np.int64
    assert read.class_names[0] == "001.animal"
    assert (read.semantics_id, read.feature_tag) == ("att5", "res101")


def test_v73_files_yield_the_same_dataset(
    tmp_path: Path, content: Content, dataset: GZSLDataset, write_v73_pair: Write
) -> None:
    content["feature_tag"] = "res101"
    assert same_content(read_pair(write_v73_pair(tmp_path / "T", content), "tiny"), dataset)


def test_one_file_of_each_version_may_stand_together(
    tmp_path: Path, content: Content, dataset: GZSLDataset, write_pair: Write, write_v73_pair: Write
) -> None:
    write_v73_pair(tmp_path / "new", content)
    folder = write_pair(tmp_path / "T", content)
    (tmp_path / "new" / "res101.mat").replace(folder / "res101.mat")
    assert same_content(read_pair(folder, "tiny"), dataset)


def test_v73_without_h5py_names_the_extra(
    tmp_path: Path, content: Content, write_v73_pair: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_v73_pair(tmp_path / "T", content)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DatasetError) as error:
        read_pair(folder, "tiny")
    assert "pip install 'd3tune[mat73]'" in one_line(error)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(-1, 1), (1, -1)])
def test_labels_and_rows_of_any_whole_type_and_orientation(
    tmp_path: Path, content: Content, dataset: GZSLDataset, write_pair: Write, kind: Any, shape: Any
) -> None:
    for key in ("labels", "trainval_loc", "test_seen_loc"):
        content[key] = content[key].astype(kind).reshape(shape)
    assert same_content(read_pair(write_pair(tmp_path / "T", content), "tiny"), dataset)


def test_names_are_numbers_where_the_file_has_none(tmp_path: Path, content: Content, write_pair: Write) -> None:
    del content["allclasses_names"]
    assert read_pair(write_pair(tmp_path / "T", content), "tiny").class_names[6] == "class 7"


def test_names_lose_what_cannot_be_printed(tmp_path: Path, content: Content, write_pair: Write) -> None:
    content["allclasses_names"][:2] = ["red\x1b[31m fox\n", ""]
    names = read_pair(write_pair(tmp_path / "T", content), "tiny").class_names
    assert names[:2] == ("red[31m fox", "class 2")


def test_no_train_and_val_rows(tmp_path: Path, content: Content, write_pair: Write) -> None:
    del content["train_loc"]
    read = read_pair(write_pair(tmp_path / "T", content), "tiny")
    assert read.train is None
    assert read.val is None


def test_the_feature_tag_of_the_file(tmp_path: Path, content: Content, write_pair: Write) -> None:
    content["feature_tag"] = "vit l/14"
    assert read_pair(write_pair(tmp_path / "T", content), "tiny").feature_tag == "vit-l-14"


@pytest.fixture
def all_semantics(tmp_path: Path, content: Content, write_pair: Write) -> Path:
    """Holds att (5), original_att (5, doubled) and sent_splits.mat (9)."""
    content["original_att"] = 2 * content["att"]
    folder = write_pair(tmp_path / "T", content)
    scipy.io.savemat(folder / "sent_splits.mat", {"att": np.full((9, 8), 3.0)})
    return folder


@pytest.mark.parametrize(
    ("name", "wanted", "semantics_id"),
    [
        ("cub", None, "att5"),
        ("cub", "att", "att5"),
        ("cub", "ATT5", "att5"),
        ("cub", "original", "original5"),
        ("cub", "sent", "sent9"),
        ("cub", "sent9", "sent9"),
        ("flo", None, "sent5"),
        ("flo", "sent", "sent5"),
    ],
)
def test_semantics_by_id_and_kind(all_semantics: Path, name: str, wanted: str | None, semantics_id: str) -> None:
    assert read_pair(all_semantics, name, wanted).semantics_id == semantics_id


def test_each_kind_of_semantics_comes_from_its_place(all_semantics: Path, content: Content) -> None:
    original = read_pair(all_semantics, "cub", "original").semantics
    np.testing.assert_array_equal(original, (2 * content["att"]).T.astype(np.float32))
    np.testing.assert_array_equal(read_pair(all_semantics, "cub", "sent").semantics, np.full((8, 9), 3.0))


@pytest.mark.parametrize("wanted", ["att85", "word2vec", ""])
def test_unknown_semantics_names_what_there_is(all_semantics: Path, wanted: str) -> None:
    with pytest.raises(DatasetError, match="att5, original5, sent9") as error:
        read_pair(all_semantics, "cub", wanted)
    one_line(error)


def put(key: str, index: Any, value: Any) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        content[key] = np.array(content[key], dtype=np.float64)
        content[key][index] = value

    return change


def replace(key: str, value: Any) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        content[key] = value(content) if callable(value) else value

    return change


def drop(key: str) -> Callable[[Content], None]:
    return lambda content: content.pop(key)


def rows_of(content: Content, class_id: int, part: str) -> Any:
    rows = content[f"{part}_loc"].ravel()
    return rows[content["labels"].ravel()[rows.astype(int) - 1] == class_id]


def only_one_row_of_class_3(content: Content) -> Any:
    rows = content["trainval_loc"].ravel()
    return np.setdiff1d(rows, rows_of(content, 3, "trainval")[1:]).reshape(-1, 1)


def without_class_3(content: Content) -> Any:
    return np.setdiff1d(content["trainval_loc"].ravel(), rows_of(content, 3, "trainval")).reshape(-1, 1)


FAULTS = {
    "no features": (drop("features"), "res101.mat: has no key 'features' (found: labels)"),
    "no labels": (drop("labels"), "res101.mat: has no key 'labels' (found: features)"),
    "no att": (drop("att"), "att_splits.mat: has no key 'att'"),
    "no trainval": (drop("trainval_loc"), "att_splits.mat: has no key 'trainval_loc'"),
    "no test_seen": (drop("test_seen_loc"), "att_splits.mat: has no key 'test_seen_loc'"),
    "no test_unseen": (drop("test_unseen_loc"), "att_splits.mat: has no key 'test_unseen_loc'"),
    "transposed": (
        replace("features", lambda content: content["features"].T),
        "'features' has 7 columns but 'labels' has 56 rows; is it transposed?",
    ),
    "short features": (
        replace("features", lambda content: content["features"][:, :50]),
        "'features' has 50 columns but 'labels' has 56 rows",
    ),
    "empty features": (replace("features", np.zeros((7, 0))), "'features' has the shape (7, 0)"),
    "three axes": (replace("features", np.zeros((7, 8, 7))), "'features' has the shape (7, 8, 7)"),
    "fewer att columns": (
        replace("att", lambda content: content["att"][:, :7]),
        "res101.mat: 'labels' holds 8 in row",
    ),
    "labels matrix": (replace("labels", np.ones((28, 2))), "'labels' has the shape (28, 2)"),
    "labels empty": (replace("labels", np.zeros((0, 0))), "'labels' is empty"),
    "zero-based labels": (
        replace("labels", lambda content: content["labels"] - 1),
        "labels run from 1 to 8",
    ),
    "label .5": (put("labels", (4, 0), 2.5), "'labels' holds 2.5 in row 5"),
    "label NaN": (put("labels", (4, 0), np.nan), "'labels' holds nan in row 5"),
    "label huge": (put("labels", (4, 0), 1e300), "'labels' holds 1e+300 in row 5"),
    "row 0": (put("trainval_loc", (3, 0), 0), "'trainval_loc' holds 0; rows run from 1 to 56"),
    "row 57": (put("test_seen_loc", (3, 0), 57), "'test_seen_loc' holds 57; rows run from 1 to 56"),
    "row -1": (put("val_loc", (0, 0), -1), "'val_loc' holds -1; rows run from 1 to 56"),
    "row .5": (put("test_unseen_loc", (0, 0), 0.5), "'test_unseen_loc' holds 0.5 in row 1"),
    "rows empty": (replace("test_unseen_loc", np.zeros((0, 1))), "'test_unseen_loc' is empty"),
    "row twice": (
        replace("trainval_loc", lambda content: np.repeat(content["trainval_loc"], 2).reshape(-1, 1)),
        "more than once",
    ),
    "one NaN": (
        put("features", (2, 16), np.nan),
        "'features' holds 1 value that is NaN or infinite, first in row 17",
    ),
    "infinities": (
        put("features", (2, slice(20, 22)), np.inf),
        "2 values that are NaN or infinite, first in row 21",
    ),
    "beyond float32": (put("features", (0, 0), 1e300), "'features' holds 1 value that is NaN or infinite"),
    "att NaN": (put("att", (0, 3), np.nan), "'att' holds 1 value that is NaN or infinite, first in class 4"),
    "trainval in test": (
        replace("test_seen_loc", lambda content: content["trainval_loc"][:4]),
        "'trainval_loc' and 'test_seen_loc' share 4 rows",
    ),
    "test in test": (
        replace(
            "test_seen_loc",
            lambda content: np.vstack([content["test_seen_loc"], content["test_unseen_loc"][:1]]),
        ),
        "'test_seen_loc' and 'test_unseen_loc' share 1 rows",
    ),
    "class on both sides": (
        replace("test_unseen_loc", lambda content: rows_of(content, 2, "test_seen").reshape(-1, 1)),
        "share 2 rows",
    ),
    "class seen and unseen": (
        lambda content: content.update(
            test_unseen_loc=np.vstack([content["test_unseen_loc"], content["test_seen_loc"][:1]]),
            test_seen_loc=content["test_seen_loc"][1:],
        ),
        "which 'trainval_loc' has too",
    ),
    "test class without training": (
        replace("trainval_loc", without_class_3),
        "'test_seen_loc' has rows of class 3",
    ),
    "one row": (
        replace("trainval_loc", only_one_row_of_class_3),
        "has 1 row of class 3; at least 2 are needed",
    ),
    "zero semantics": (put("att", (slice(None), 7), 0), "'att' is all zero for class 8"),
    "complex": (replace("features", np.ones((7, 56)) * 1j), "is of type complex"),
    "text features": (replace("features", "not numbers"), "is of type char"),
    "cell features": (replace("features", ["a", "b"]), "is of type cell"),
    "struct att": (replace("att", {"a": 1.0}), "is of type struct"),
    "sparse att": (replace("att", scipy.sparse.csc_array(np.eye(8))), "is of type sparse"),
    "too few names": (
        replace("allclasses_names", ["a", "b"]),
        "'allclasses_names' has 2 names for 8 classes",
    ),
    "numbers for names": (
        replace("allclasses_names", np.arange(8.0)),
        "'allclasses_names' holds something other",
    ),
    "scalars": (
        lambda content: content.update(features=1.0, labels=1.0),
        "'trainval_loc' holds",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_clear_line(tmp_path: Path, content: Content, write_pair: Write, fault: str) -> None:
    change, expected = FAULTS[fault]
    change(content)
    folder = write_pair(tmp_path / "T", content)
    with pytest.raises(DatasetError) as error:
        read_pair(folder, "tiny")
    message = one_line(error)
    assert expected in message
    assert str(folder) in message


V5_ONLY = ("struct att", "sparse att", "complex", "three axes")


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in V5_ONLY])
def test_each_fault_in_a_v73_file(tmp_path: Path, content: Content, write_v73_pair: Write, fault: str) -> None:
    change, expected = FAULTS[fault]
    change(content)
    with pytest.raises(DatasetError) as error:
        read_pair(write_v73_pair(tmp_path / "T", content), "tiny")
    assert expected in one_line(error) or "'features' has the shape ()" in one_line(error)


def test_sentences_of_other_classes_are_refused(all_semantics: Path) -> None:
    scipy.io.savemat(all_semantics / "sent_splits.mat", {"att": np.ones((9, 3))})
    with pytest.raises(DatasetError, match=r"sent_splits.mat: 'att' has 3 columns; .* the 8 classes"):
        read_pair(all_semantics, "cub", "sent")


def test_a_zero_vector_of_an_unused_class_is_no_fault(tmp_path: Path, content: Content, write_pair: Write) -> None:
    content["att"] = np.hstack([content["att"], np.zeros((5, 1))])
    content["allclasses_names"].append("unused")
    assert read_pair(write_pair(tmp_path / "T", content), "tiny").n_classes == 9

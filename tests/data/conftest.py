"""Small datasets in every form the data layer reads: arrays, MATLAB v5 pairs, MATLAB v7.3 pairs."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.io

from d3tune.data.dataset import GZSLDataset, make_dataset

Content = dict[str, Any]

SEEN, UNSEEN, WIDTH, SEMANTICS = 6, 2, 7, 5
VALIDATION_CLASSES = (5, 6)  # 1-based


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home of its own for each test, and nothing of the machine's on the search path."""
    monkeypatch.setenv("D3TUNE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("D3TUNE_DATA", raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)


@pytest.fixture
def real_data() -> Path:
    """The folder of the real files."""
    folder = os.environ.get("D3TUNE_REAL_DATA", "")
    if not folder:
        pytest.skip("D3TUNE_REAL_DATA is not set: the real xlsa17 files are not here")
    return Path(folder)


def _content() -> Content:
    """A file pair's content: 6 seen classes of 6 + 2 rows, 2 unseen of 4; train/val leak test_seen rows."""
    generator = np.random.default_rng(11)
    labels = np.concatenate([np.repeat(np.arange(1, SEEN + 1), 8), np.repeat([7, 8], 4)])
    rows = np.arange(1, len(labels) + 1)
    shuffle = generator.permutation(len(labels))
    labels = labels[shuffle]
    part = np.empty(len(labels), dtype=object)
    for class_id in range(1, SEEN + 1):
        own = np.flatnonzero(labels == class_id)
        part[own[:6]], part[own[6:]] = "trainval", "test_seen"
    part[labels > SEEN] = "test_unseen"
    seen_rows = labels <= SEEN
    in_val = np.isin(labels, VALIDATION_CLASSES)
    return {
        "features": generator.random((WIDTH, len(labels))),
        "labels": labels.reshape(-1, 1).astype(np.float64),
        "att": generator.random((SEMANTICS, SEEN + UNSEEN)),
        "trainval_loc": _column(rows[part == "trainval"]),
        "test_seen_loc": _column(rows[part == "test_seen"]),
        "test_unseen_loc": _column(rows[part == "test_unseen"]),
        "train_loc": _column(rows[seen_rows & ~in_val]),
        "val_loc": _column(rows[seen_rows & in_val]),
        "allclasses_names": [f"{number:03}.animal" for number in range(1, SEEN + UNSEEN + 1)],
    }


def _column(rows: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    return rows.astype(np.uint16).reshape(-1, 1)


@pytest.fixture
def content() -> Content:
    """The keys of both files of a sound pair, in MATLAB's orientation; change it and write it."""
    return _content()


def _halves(content: Content) -> tuple[Content, Content]:
    first = {"features", "labels", "feature_tag", "image_files"}
    return (
        {key: value for key, value in content.items() if key in first},
        {key: value for key, value in content.items() if key not in first},
    )


def _cells(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    cells = np.empty((len(value), 1), dtype=object)
    cells[:, 0] = value
    return cells


def _write_pair(folder: Path, content: Content, compress: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    features, splits = _halves({key: _cells(value) for key, value in content.items()})
    scipy.io.savemat(folder / "res101.mat", features, do_compression=compress)
    scipy.io.savemat(folder / "att_splits.mat", splits, do_compression=compress)
    return folder


@pytest.fixture
def write_pair() -> Callable[..., Path]:
    """``write_pair(folder, content)`` writes MATLAB v5 files."""
    return _write_pair


def _write_v73(path: Path, content: Content) -> None:
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:
        for key, value in content.items():
            if isinstance(value, list):
                _write_cells(h5py, file, key, value)
            elif isinstance(value, str):
                _write_text(file, key, value)
            else:
                array = np.asarray(value)
                file[key] = array.T if array.ndim else array
                file[key].attrs["MATLAB_class"] = np.bytes_("double")
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


def _write_text(file: Any, key: str, text: str) -> None:
    file[key] = np.frombuffer(text.encode("utf-16-le"), dtype=np.uint16).reshape(-1, 1)
    file[key].attrs["MATLAB_class"] = np.bytes_("char")


def _write_cells(h5py: Any, file: Any, key: str, texts: list[str]) -> None:
    for number, text in enumerate(texts):
        _write_text(file, f"#refs#/{key}{number}", text)
    references = [file[f"#refs#/{key}{number}"].ref for number in range(len(texts))]
    file.create_dataset(key, data=np.array([references], dtype=h5py.ref_dtype))
    file[key].attrs["MATLAB_class"] = np.bytes_("cell")


@pytest.fixture
def write_v73_pair() -> Callable[[Path, Content], Path]:
    """``write_v73_pair(folder, content)`` writes MATLAB v7.3 files as MATLAB does."""

    def write(folder: Path, content: Content) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        features, splits = _halves(content)
        _write_v73(folder / "res101.mat", features)
        _write_v73(folder / "att_splits.mat", splits)
        return folder

    return write


@pytest.fixture
def arrays(content: Content) -> Content:
    """The sound pair's content as one would have it in numpy, everything counted from 0."""
    return {
        "features": content["features"].T,
        "labels": content["labels"].ravel().astype(np.int64) - 1,
        "semantics": content["att"].T,
        "class_names": np.array(content["allclasses_names"]),
        **{
            key.removesuffix("_loc"): content[key].ravel().astype(np.int64) - 1
            for key in content
            if key.endswith("_loc")
        },
    }


@pytest.fixture
def dataset(content: Content) -> GZSLDataset:
    """The sound pair's dataset in memory, made without the reader."""
    return make_dataset(
        name="tiny",
        features=content["features"].T.astype(np.float32),
        labels=content["labels"].ravel().astype(np.int64) - 1,
        semantics=content["att"].T.astype(np.float32),
        class_names=tuple(content["allclasses_names"]),
        semantics_id="att5",
        feature_tag="res101",
        **{
            part: content[f"{part}_loc"].ravel().astype(np.int64) - 1
            for part in ("trainval", "test_seen", "test_unseen", "train", "val")
        },
    )

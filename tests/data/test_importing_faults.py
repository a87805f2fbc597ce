"""Importing a dataset of one's own: the one line that each fault yields."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d3tune.data.importing import Imported, import_dataset
from d3tune.errors import D3TuneError, DatasetError, UsageError

Content = dict[str, Any]

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


def by_unseen(arrays: Content, unseen: Any = (6, 7)) -> Content:
    return without(arrays, *PARTS, "train", "val") | {"unseen_classes": np.array(unseen)}


def change(key: str, value: Any) -> Callable[[Content], Content]:
    def changed(arrays: Content) -> Content:
        return arrays | {key: value(arrays) if callable(value) else value}

    return changed


def nan_in(key: str, row: int) -> Callable[[Content], Any]:
    def spoilt(arrays: Content) -> Any:
        array = arrays[key].copy()
        array[row, 0] = np.nan
        return array

    return spoilt


FAULTS: dict[str, tuple[Callable[[Content], Content], str]] = {
    "unknown key": (change("trianval", np.arange(3)), "has an unknown key 'trianval'; did you mean 'trainval'?"),
    "no features": (lambda arrays: without(arrays, "features"), "there are no 'features' (read: "),
    "no splits": (lambda arrays: without(arrays, *PARTS, "train", "val"), "the splits are given by nothing"),
    "one list": (lambda arrays: without(arrays, "test_seen"), "there are no 'test_seen'"),
    "two forms": (change("unseen_classes", [6]), "given by row lists and unseen_classes"),
    "train alone": (lambda arrays: without(arrays, "val"), "'train' is alone"),
    "NaN feature": (change("features", nan_in("features", 16)), "'features' holds 1 value that is NaN or infinite"),
    "NaN semantics": (change("semantics", nan_in("semantics", 3)), "NaN or infinite, first in class 4"),
    "transposed": (change("features", lambda a: a["features"].T), "has 7 rows but there are 56 labels; are they trans"),
    "short": (change("features", lambda a: a["features"][:50]), "has 50 rows but there are 56 labels"),
    "three axes": (change("features", np.zeros((56, 1, 7))), "'features' has the shape (56, 1, 7)"),
    "complex": (change("features", np.ones((56, 7), complex)), "'features' holds complex128 values"),
    "records": (change("features", np.zeros(56, [("a", "f4")])), "must hold real numbers or texts"),
    "texts": (change("features", np.full((56, 7), "x")), "'features' holds <U1 values"),
    "label matrix": (change("labels", np.zeros((28, 2))), "'labels' has the shape (28, 2); it must be a single"),
    "no label": (change("labels", np.zeros(0)), "'labels' is empty"),
    "label .5": (change("labels", np.full(56, 0.5)), "'labels' holds 0.5 in row 1; it must hold whole numbers"),
    "label range": (
        change("labels", lambda a: a["labels"] * 2),
        "'labels' runs from 0 to 14; with 8 rows of 'semantics' it must lie in 0 … 7 or in 1 … 8",
    ),
    "ambiguous label": (
        lambda a: a | {"semantics": a["semantics"][:5], "class_names": a["class_names"][:5]}
        | {"labels": 1 + a["labels"] % 4},
        "'labels' runs from 1 to 4 and could count the 5 rows of 'semantics' from 0 or from 1; say which",
    ),
    "ambiguous rows": (
        lambda a: a | {part: np.setdiff1d(a[part], [0, 55]) for part in (*PARTS, "train", "val")},
        "could count the 56 rows (all lists together) from 0 or from 1",
    ),
    "strange name": (
        change("labels", np.full(56, "007.anima")),
        "'labels' holds '007.anima', which is not in 'class_names'; did you mean '007.animal'?",
    ),
    "names of nothing": (
        lambda a: without(a, "class_names") | {"labels": np.full(56, "007.animal")},
        "'labels' holds names, but there are no 'class_names'",
    ),
    "few names": (change("class_names", ["a", "b"]), "'class_names' has 2 names for the 8 rows of 'semantics'"),
    "name twice": (change("class_names", list("abcdefga")), "'class_names' holds 'a' twice"),
    "blank name": (change("class_names", [*"abcdefg", " "]), "'class_names' holds '' for class 8"),
    "mask": (change("trainval", np.ones(56, bool)), "'trainval' is a mask; give numbers"),
    "row range": (change("test_seen", [0, 80]), "'trainval' runs from 0 to 80; with 56 rows"),
    "row twice": (change("test_seen", lambda a: np.repeat(a["test_seen"], 2)), "more than once"),
    "overlap": (change("test_seen", lambda a: a["trainval"][:4]), "'trainval' and 'test_seen' share 4 rows"),
    "seen and unseen": (
        lambda a: a | {"test_unseen": np.append(a["test_unseen"], a["test_seen"][:1]), "test_seen": a["test_seen"][1:]},
        "which 'trainval' has too; separate them",
    ),
    "zero semantics": (change("semantics", lambda a: a["semantics"] * (np.arange(8) != 7)[:, None]), "is all zero for"),
    "unseen without rows": (lambda a: by_unseen(a, [6, 9]), "'unseen_classes' holds class 9, of which there are no"),
    "all unseen": (lambda a: by_unseen(a, range(8)), "'unseen_classes' holds every class that has rows"),
    "no unseen": (lambda a: by_unseen(a, np.zeros(0)), "'unseen_classes' is empty"),
    "unseen name": (lambda a: by_unseen(a, ["007.animall"]), "'unseen_classes' holds '007.animall', which is not in"),
    "small seen class": (
        lambda a: by_unseen(a) | {"labels": np.r_[np.arange(8), np.zeros(48, int)]},
        "'labels' has 1 rows of class 1, too few for test-seen and 2 to train on",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_clear_line(tmp_path: Path, arrays: Content, fault: str) -> None:
    spoil, expected = FAULTS[fault]
    with pytest.raises(DatasetError) as error:
        run(tmp_path, spoil(arrays))
    assert expected in line(error)
    assert not (tmp_path / "data").exists()


def test_pickles_are_refused_in_every_guise(tmp_path: Path, arrays: Content) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (pytest.fail, ("a pickle was read",))

    objects = np.array([Trap()], dtype=object)
    np.savez(tmp_path / "own.npz", **without(arrays, "labels"), labels=objects)
    np.save(tmp_path / "y.npy", objects)
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Trap()))
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Trap()))
    rest = npz(tmp_path / "rest.npz", without(arrays, "labels"))
    cases: list[tuple[Path, Path | None, str]] = [
        (tmp_path / "own.npz", None, "Python objects, a pickle, which is never read"),
        (rest, tmp_path / "y.npy", "Python objects, a pickle, which is never read"),
        (rest, tmp_path / "bare.npy", "is not an .npy file"),
        (tmp_path / "bare.npz", None, "is not an .npz file"),
    ]
    for source, labels, expected in cases:
        with pytest.raises(DatasetError) as error:
            import_dataset("birds", tmp_path / "data", source=source, labels=labels, feature_tag="clip")
        assert expected in line(error)


FILES = {
    "missing": ("labels", "none.npy", None, "cannot be opened: No such file"),
    "format": ("labels", "y.mat", b"x", "is no file of labels; give a .npy, .csv or .txt file"),
    "split format": ("splits", "s.json", b"x", "give a .npz, .npy, .csv or .txt file"),
    "truncated": ("labels", "y.npy", b"\x93NUMPY\x01\x00v\x00{", "damaged or of another format"),
    "empty": ("labels", "y.csv", b"\n", "is empty"),
    "empty table": ("features", "x.csv", b"a,b\n", "damaged or of another format"),
    "two columns": ("labels", "y.csv", b"1\n2,3\n", "has 2 cells in line 2; it must be a single column"),
    "not UTF-8": ("labels", "y.csv", b"\xff\xfe\x00", "damaged or of another format"),
    "a word": ("features", "x.csv", b"1,2\n3,four\n", "'four'"),
    "a word at once": ("features", "x.csv", b"1,two\n3,4\n", "'two'"),
    "ragged": ("features", "x.csv", b"1,2\n3\n", "number of columns"),
    "word in semantics": ("semantics", "a.csv", b"a,1,2\nb,x,3\n", "'semantics' holds 'x' in class 2"),
    "word in its first line": ("semantics", "a.csv", b"a,x,2\nb,1,3\n", "'semantics' holds 'x' in class 1"),
    "ragged semantics": ("semantics", "a.csv", b"1,2\n3\n", "'semantics' has 1 values in class 2, 2 before"),
    "parts": ("splits", "s.csv", b"trainval\ntest_seen\n", "'parts' has 2 lines for 56 rows"),
    "no unseen part": ("splits", "s.csv", b"trainval\n" * 30 + b"test_seen\n" * 26, "'parts' has no row of test_un"),
    "split keys": ("splits", "s.npz", {"labels": [1]}, "has an unknown key 'labels'"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FILES)
def test_each_faulty_file_is_one_clear_line(tmp_path: Path, arrays: Content, fault: str) -> None:
    what, name, data, expected = FILES[fault]
    file = tmp_path / name
    if isinstance(data, dict):
        np.savez(file, **data)
    elif data is not None:
        file.write_bytes(data)
    dropped = {"splits": (*PARTS, "train", "val"), "semantics": ("semantics", "class_names")}.get(what, (what,))
    with pytest.raises(DatasetError) as error:
        run(tmp_path, without(arrays, *dropped), **{what: file})
    assert expected in line(error)
    assert str(file) in line(error)


def test_nothing_is_given_twice(tmp_path: Path, arrays: Content) -> None:
    np.save(tmp_path / "y.npy", arrays["labels"])
    with pytest.raises(DatasetError, match=r"'labels' is in .*own.npz and in .*y.npy; give it once"):
        run(tmp_path, arrays, labels=tmp_path / "y.npy")


@pytest.mark.parametrize(
    "options",
    [
        {"feature_tag": "vit l/14"},
        {"feature_tag": ""},
        {"feature_tag": "x" * 41},
        {"semantics_kind": "att85"},
        {"semantics_kind": "Att"},
        {"test_seen_share": 0},
        {"test_seen_share": 1.0},
        {"test_seen_share": float("nan")},
        {"seed": -1},
        {"count_from": 2},
    ],
)
def test_illegal_options(tmp_path: Path, arrays: Content, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as error:
        run(tmp_path, arrays, **options)
    line(error)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "hanzi", "HANZI", ".hidden", "a\nb"])
def test_illegal_names(tmp_path: Path, arrays: Content, name: str) -> None:
    source = npz(tmp_path / "own.npz", arrays)
    with pytest.raises(UsageError, match="cannot be the name of a dataset"):
        import_dataset(name, tmp_path / "data", source=source, feature_tag="clip")

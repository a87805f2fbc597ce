"""``d3tune predict``: what a confirmed model says of files of features, and what it says of wrong ones."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.io

from d3tune.data.dataset import GZSLDataset
from d3tune.data.prepared import open_prepared
from d3tune.search.model import load_model
from d3tune.search.run import RunDirectory
from d3tune.search.search import Outcome

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

Command = Callable[..., Any]


@pytest.fixture
def found(with_model: Outcome) -> Outcome:
    return with_model


def both_tests(run: RunDirectory) -> tuple[GZSLDataset, npt.NDArray[np.int64]]:
    dataset = open_prepared(run.dataset_path)
    return dataset, np.concatenate([dataset.test_seen, dataset.test_unseen])


def h_of(run: RunDirectory, labels: list[str]) -> float:
    """H by counting: the mean over classes of the share of their rows that are named right."""
    dataset, rows = both_tests(run)
    truth = [dataset.class_names[number] for number in dataset.labels[rows]]
    u, s = (
        np.mean([np.mean([a == b for a, b in zip(labels, truth, strict=True) if b == name]) for name in names])
        for names in (
            {dataset.class_names[number] for number in dataset.labels[part]}
            for part in (dataset.test_unseen, dataset.test_seen)
        )
    )
    return float(2 * u * s / (u + s))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_h_of_predictions_is_the_confirmed_h_of_that_seed(
    found: Outcome, features: Path, tmp_path: Path, command: Command
) -> None:
    assert found.test is not None
    end = command("predict", found.run.name, features, "-o", tmp_path / "out.csv", "--scores", tmp_path / "s.npy")
    assert end.code == 0, end.err
    assert end.out == ""
    rows = rows_of(tmp_path / "out.csv")
    assert [row["row"] for row in rows] == [str(number) for number in range(len(rows))]
    assert h_of(found.run, [row["label"] for row in rows]) == pytest.approx(found.test.per_seed[0]["H"], abs=1e-12)
    document = load_model(found.run.model).document
    assert {row["group"] for row in rows if row["label"] in document.seen_classes} == {"seen"}
    assert {row["group"] for row in rows if row["label"] in document.unseen_classes} == {"unseen"}
    scores = np.load(tmp_path / "s.npy", allow_pickle=False)
    assert scores.shape == (len(rows), len(document.classes))
    assert [document.classes[number] for number in scores.argmax(axis=1)] == [row["label"] for row in rows]
    assert [float(row["score"]) for row in rows] == scores.max(axis=1).tolist()


def test_every_kind_of_file_gives_the_same(found: Outcome, features: Path, tmp_path: Path, command: Command) -> None:
    few = np.load(features)[:6]
    np.save(tmp_path / "few.npy", few)
    np.savez(tmp_path / "few.npz", features=few)
    text = "\n".join(",".join(repr(float(value)) for value in row) for row in few)
    (tmp_path / "few.csv").write_text(text + "\n", encoding="utf-8")
    header = ",".join(f"f{number}" for number in range(few.shape[1]))
    (tmp_path / "headed.csv").write_text(f"{header}\n{text}\n", encoding="utf-8")
    scipy.io.savemat(tmp_path / "few.mat", {"features": few.T})
    ends = [
        command("predict", found.run.model, tmp_path / name)
        for name in ("few.npy", "few.npz", "few.csv", "headed.csv", "few.mat")
    ]
    assert [end.code for end in ends] == [0] * 5, ends
    assert len({end.out for end in ends}) == 1
    assert ends[0].out.count("\n") == 7


def test_top_and_json_say_the_same_as_the_table(
    found: Outcome, features: Path, tmp_path: Path, command: Command
) -> None:
    np.save(tmp_path / "few.npy", np.load(features)[:4])
    table = command("predict", found.run.path, tmp_path / "few.npy", "--top", 3)
    plain = json.loads(command("predict", found.run.path, tmp_path / "few.npy", "--top", 3, "--json").out)
    rows = list(csv.DictReader(table.out.splitlines()))
    for row, entry in zip(rows, plain["rows"], strict=True):
        listed = [(row[f"label{end}"], float(row[f"score{end}"])) for end in ("", "_2", "_3")]
        assert [(best["label"], best["score"]) for best in entry["best"]] == listed
        assert listed == sorted(listed, key=lambda pair: -pair[1])
        assert len({label for label, _ in listed}) == 3
    assert (plain["head"], plain["dataset"]) == ("softmax", "hanzi/0")


class Payload:
    def __reduce__(self) -> Any:
        return (Path("ran").touch, ())


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "narrow.npy": (lambda path: np.save(path, np.ones((3, 5))), "are 3×5; the model takes rows of 256 numbers"),
    "flat.npy": (lambda path: np.save(path, np.ones(256)), "are 256; the model takes rows of 256"),
    "empty.npy": (lambda path: np.save(path, np.ones((0, 256))), "have no row"),
    "nan.npy": (lambda path: np.save(path, np.full((2, 256), np.nan)), "NaN or infinite, first in row 0"),
    "huge.npy": (lambda path: np.save(path, np.full((2, 256), 1e300)), "NaN or infinite, first in row 0"),
    "large.npy": (lambda path: np.save(path, np.full((2, 256), 3e38)), "row 0: too large to be scored"),
    "text.npy": (lambda path: np.save(path, np.full((2, 256), "x")), "it must be an array of real numbers"),
    "complex.npy": (lambda path: np.save(path, np.ones((2, 256)) * 1j), "it must hold real numbers"),
    "pickle.npy": (lambda path: np.save(path, np.full((1, 1), Payload()), allow_pickle=True), "never read"),
    "zip.npy": (lambda path: path.write_bytes(b"PK\x03\x04rest"), "is not an .npy file"),
    "cut.npy": (lambda path: path.write_bytes(b"\x93NUMPY"), "damaged"),
    "other.npz": (lambda path: np.savez(path, labels=np.ones(3)), "there are no 'features'"),
    "words.csv": (lambda path: path.write_text("a,b\nc,d\n", encoding="utf-8"), "damaged or of another format"),
    "void.csv": (lambda path: path.write_text("", encoding="utf-8"), "damaged or of another format"),
    "x.mat": (lambda path: scipy.io.savemat(path, {"x": np.ones((256, 2))}), "'features'"),
    "turned.mat": (lambda path: scipy.io.savemat(path, {"features": np.ones((2, 256))}), "are 256×2"),
    "features.txt": (lambda path: path.write_text("1", encoding="utf-8"), "give a .npy, .npz, .csv or .mat file"),
    "absent.npy": (lambda path: None, "cannot be opened: No such file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_features_are_refused_by_one_line(name: str, found: Outcome, tmp_path: Path, command: Command) -> None:
    write, words = WRONG[name]
    write(tmp_path / name)
    end = command("predict", found.run.name, tmp_path / name, "-o", tmp_path / "out.csv")
    assert end.code == 2
    assert end.out == ""
    assert end.err.count("\n") == 1
    assert words in end.err
    assert name in end.err
    assert not (tmp_path / "out.csv").exists()
    assert not Path("ran").exists()


def test_wrong_options_are_refused_by_one_line(
    found: Outcome, features: Path, tmp_path: Path, command: Command
) -> None:
    refused = {
        ("nowhere", features): "no model 'nowhere'",
        (tmp_path, features): "is neither a model",
        (found.run.name, features, "--top", 201): "--top 201: the model has 200 classes",
        (found.run.name, features, "--scores", tmp_path / "s.txt"): "write it as a .npy file",
        (found.run.name, features, "-o", tmp_path / "no" / "out.csv"): "its folder does not exist",
        (found.run.name, features, "-o", features): "is the file of the features; give another",
        (found.run.name, features, "-o", tmp_path / "s.npy", "--scores", tmp_path / "s.npy"): "is the file of -o",
    }
    before = features.read_bytes()
    for arguments, words in refused.items():
        end = command("predict", *arguments)
        assert (end.code, end.out, end.err.count("\n")) == (2, "", 1), end
        assert words in end.err
    assert features.read_bytes() == before
    assert not (tmp_path / "s.npy").exists()

"""``predict --classes``: classes that a model was never told of, by their descriptions, as well as those it was."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d3tune.data.registry import find_dataset
from d3tune.method.generators import load_backbone
from d3tune.search.confirm import Selection
from d3tune.search.model import load_model
from d3tune.yamlfile import dump_yaml

Toy = Callable[..., Path]
Command = Callable[..., Any]
SMALL = {"updates": 20, "evaluations": 1, "hidden_dim": 16, "batch_size": 32}
GAN = SMALL | {
    "critic_steps": 1,
    "embed_dim": 8,
    "teacher_epochs": 2,
    "head_epochs": 4,
    "n_synthetic_final": 30,
    "generator_lr": 3e-3,
    "prototype_hidden": 32,
    "head_lr": 5e-3,
    "anchor": "ridge",
    "updates": 100,
}
LEFT_OUT = 16
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gaussian": ("discriminant", {"center_semantics": True, "semantics_scale": 2.0}),
    "rezsl cosine": ("cosine", SMALL | {"updates": 100}),
    "rezsl discriminant": ("discriminant", SMALL | {"updates": 100, "heads": ("discriminant",), "members": 2}),
    "rezsl combined": ("combined", SMALL | {"updates": 100, "heads": ("combined",)}),
    # a generator that has hardly begun: the anchor's means with little noise
    "gan lda": ("lda", GAN | {"heads": ("lda",), "updates": 10, "generator_lr": 1e-4}),
    "gan prototype": ("prototype", GAN | {"heads": ("prototype",)}),
    "diffusion lda": ("lda", {key: GAN[key] for key in GAN if key != "critic_steps"} | {"heads": ("lda",)}),
}


def without_last(content: dict[str, Any]) -> None:
    """The class 16 has rows, and no split has them: nobody is told of it."""
    labels = content["labels"].ravel()
    rows = content["test_unseen_loc"].ravel()
    content["test_unseen_loc"] = rows[labels[rows - 1] != LEFT_OUT].reshape(-1, 1).astype(np.uint16)


@pytest.fixture
def model(write_toy: Toy, tmp_path: Path, command: Command) -> Callable[..., Path]:
    """``model(case, change)``: a model of a case, trained on the toy dataset with a change."""

    def make(case: str, change: Callable[[dict[str, Any]], None] | None = None, **hyper: Any) -> Path:
        backbone, (head, values) = case.partition(" ")[0], CASES[case]
        name = "whole" if change is None else "less"
        data = write_toy(tmp_path / name, change) if not (tmp_path / name).exists() else tmp_path / name
        config = load_backbone(backbone).config(**{**values, **hyper})
        selection = Selection(
            objective="H", splits=(0,), seeds=(1,), updates=config.updates, head=head, seen_offset=0.0, val_H=0.5
        )
        document = {
            "dataset": "toy",
            "backbone": backbone,
            "config": config.model_dump(mode="json"),
            "selection": selection.model_dump(mode="json"),
        }
        (tmp_path / f"{name}.yaml").write_text(dump_yaml(document), encoding="utf-8")
        place = tmp_path / f"model-{name}"
        end = command("train", tmp_path / f"{name}.yaml", "--seeds", 1, "--data-dir", data, "--model", place)
        assert end.code == 0, end.err
        return place

    return make


@pytest.fixture
def described(write_toy: Toy, tmp_path: Path) -> Path:
    """The left out class as a line, with the features of its rows beside it."""
    data = write_toy(tmp_path / "described")
    dataset = find_dataset("toy", data)
    rows = np.flatnonzero(dataset.labels == LEFT_OUT - 1)
    np.save(tmp_path / "rows.npy", dataset.features[rows])
    vector = ",".join(repr(float(value)) for value in dataset.semantics[LEFT_OUT - 1])
    other = ",".join(repr(float(value)) for value in dataset.semantics[0][::-1])
    (tmp_path / "new.csv").write_text(f"new,{vector}\n", encoding="utf-8")
    (tmp_path / "two.csv").write_text(f"name,{','.join(map(str, range(10)))}\nother,{other}\nnew,{vector}\n", "utf-8")
    return tmp_path


def among_unseen(command: Command, place: Path, folder: Path, *further: Any) -> float:
    """The share of the rows whose largest score of the unseen classes is the last one's."""
    classified(command, place, folder, "--scores", folder / "scores.npy", *further)
    unseen = np.load(folder / "scores.npy")[:, len(load_model(place).document.seen_classes) :]
    return float(np.mean(unseen.argmax(axis=1) == unseen.shape[1] - 1))


def classified(command: Command, place: Path, folder: Path, *further: Any) -> list[dict[str, str]]:
    end = command("predict", place, folder / "rows.npy", *further)
    assert end.code == 0, end.err
    return list(csv.DictReader(end.out.splitlines()))


@pytest.mark.parametrize("case", CASES)
def test_a_class_left_out_and_given_back_is_recognised_as_with_it_in(
    case: str, model: Callable[..., Path], described: Path, command: Command
) -> None:
    less, whole = model(case, without_last), model(case)
    assert load_model(less).document.unseen_classes == load_model(whole).document.unseen_classes[:-1]
    again = ("--classes", described / "new.csv")
    with_it, given_back = classified(command, whole, described), classified(command, less, described, *again)
    assert {row["label"] for row in classified(command, less, described)} <= set(load_model(less).document.classes)
    assert {row["group"] for row in given_back if row["label"] == "new"} <= {"unseen"}
    shares = among_unseen(command, whole, described), among_unseen(command, less, described, *again)
    assert min(shares) > 0.6, "among four classes"
    assert abs(shares[0] - shares[1]) <= 0.25
    if case in ("gaussian", "rezsl cosine", "rezsl discriminant"):
        # what is trained does not depend on unseen classes
        found = [row["label"] == "new" for row in given_back]
        assert found == [row["label"] == f"class {LEFT_OUT}" for row in with_it]
        assert np.mean(found) > 0.5


@pytest.mark.parametrize("case", ["gaussian", "rezsl cosine", "gan lda", "gan prototype"])
def test_what_a_class_scores_depends_on_nothing_but_its_description(
    case: str, model: Callable[..., Path], described: Path, command: Command, tmp_path: Path
) -> None:
    less = model(case, without_last)
    for name, classes in (("one", "new.csv"), ("two", "two.csv"), ("again", "two.csv")):
        options = ("--classes", described / classes, "--scores", tmp_path / f"{name}.npy")
        classified(command, less, described, *options)
    one, two, again = (np.load(tmp_path / f"{name}.npy") for name in ("one", "two", "again"))
    np.testing.assert_allclose(two[:, -1], one[:, -1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(two[:, :-2], one[:, :-1], rtol=1e-12)
    assert np.array_equal(two, again)


@pytest.mark.parametrize("head", ["softmax", "student", "student_embedding", "teacher_embedding"])
def test_heads_that_know_classes_by_training_alone_refuse_and_name_those_that_take_them(
    head: str, model: Callable[..., Path], described: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CASES, "gan trained", (head, GAN | {"updates": 2, "heads": (head,)}))
    place = model("gan trained")
    assert load_model(place).generator == {}, "what no head needs is not kept"
    end = command("predict", place, described / "rows.npy", "--classes", described / "new.csv")
    assert (end.code, end.out, end.err.count("\n")) == (2, "", 1)
    assert f"head '{head}' knows only the classes it was trained with" in end.err
    assert "lda, prototype, cosine, discriminant, combined" in end.err


WRONG = {
    "narrow": ("new,1,2\n", "describes a class by 2 numbers; the model's semantics have 10"),
    "twice": ("new," + ",".join("1" * 10) + "\nnew," + ",".join("2" * 10) + "\n", "names class 'new' twice"),
    "known": ("class 3," + ",".join("1" * 10) + "\n", "class 'class 3' is one of the model's already"),
    "nameless": (",".join("1" * 10) + "\n", "has no names"),
    "words": ("new,a" + ",1" * 9 + "\n", "it must hold numbers"),
    "nan": ("new,nan" + ",1" * 9 + "\n", "NaN or infinite"),
    "zero": ("new" + ",0" * 10 + "\n", "class 'new' is all zero"),
    "empty": ("", "is empty"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_descriptions_are_refused_by_one_line(
    name: str, model: Callable[..., Path], described: Path, command: Command
) -> None:
    text, words = WRONG[name]
    (described / "wrong.csv").write_text(text, encoding="utf-8")
    end = command("predict", model("gaussian"), described / "rows.npy", "--classes", described / "wrong.csv")
    assert (end.code, end.out, end.err.count("\n")) == (2, "", 1), end
    assert words in end.err
    assert "wrong.csv" in end.err

"""Finding datasets by name, and what is said where they cannot be found."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d3tune.data.dataset import GZSLDataset
from d3tune.data.registry import check_dataset, find_dataset, list_datasets, prepared_path
from d3tune.errors import D3TuneError, DatasetError

Content = dict[str, Any]
Write = Callable[..., Path]


def message(name: str, data_dir: Path | None = None, semantics: str | None = None) -> str:
    with pytest.raises(DatasetError) as error:
        find_dataset(name, data_dir, semantics)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("folder", ["FLO", "flo", "Flo", "xlsa17/data/FLO"])
@pytest.mark.parametrize("name", ["flo", "FLO"])
def test_a_folder_in_any_case(tmp_path: Path, content: Content, write_pair: Write, folder: str, name: str) -> None:
    write_pair(tmp_path / "data" / folder, content)
    dataset = find_dataset(name, tmp_path / "data")
    assert dataset.name == "flo"
    assert dataset.semantics_id == "sent5"
    assert isinstance(dataset.features, np.memmap)
    assert prepared_path(dataset).parent == tmp_path / "home" / "datasets"


def test_the_order_of_the_search_path(
    tmp_path: Path, content: Content, write_pair: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [tmp_path / "given", tmp_path / "env1", tmp_path / "env2", tmp_path / "work" / "data"]
    for number, place in enumerate(places):
        content["features"][0, 0] = number
        write_pair(place / "birds", content)
    monkeypatch.setenv("D3TUNE_DATA", os.pathsep.join(map(str, places[1:3])))
    assert find_dataset("birds", places[0]).features[0, 0] == 0
    assert find_dataset("birds").features[0, 0] == 1
    monkeypatch.setenv("D3TUNE_DATA", str(places[2]))
    assert find_dataset("birds").features[0, 0] == 2
    monkeypatch.delenv("D3TUNE_DATA")
    assert find_dataset("birds").features[0, 0] == 3
    (tmp_path / "empty").mkdir()
    assert find_dataset("birds", tmp_path / "empty").features[0, 0] == 3


def test_the_embedded_dataset_is_prepared_too() -> None:
    dataset = find_dataset("hanzi")
    assert dataset.name == "hanzi/0"
    assert isinstance(dataset.features, np.memmap)
    assert prepared_path(dataset).name.startswith("hanzi-0-")
    assert "it offers parts103" in message("hanzi/2", semantics="att312")
    assert "unknown dataset 'hanzi/9'" in message("hanzi/9")


def test_a_known_dataset_without_files_says_where_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    text = message("cub", tmp_path / "given")
    for part in (
        "res101.mat",
        "att_splits.mat",
        str(tmp_path / "given" / "CUB"),
        "data/CUB",
        "xlsa17/data/CUB",
    ):
        assert part in text
    assert "Xian et al.'s xlsa17 archive, 'Proposed Splits v2'" in text


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("flow", "'flo'"),
        ("awa", "'awa"),
        ("birdz", "'birds'"),
        ("hanzy", "'hanzi'"),
        ("zzz", "known: birds, flo"),
    ],
)
def test_an_unknown_dataset_names_the_nearest(
    tmp_path: Path, content: Content, write_pair: Write, name: str, hint: str
) -> None:
    write_pair(tmp_path / "data" / "Birds", content)
    text = message(name, tmp_path / "data")
    assert f"unknown dataset '{name}' (a folder of your own needs --data-dir PARENT)" in text
    assert hint in text


@pytest.mark.parametrize("missing", ["res101.mat", "att_splits.mat"])
def test_half_a_pair_says_which_half(tmp_path: Path, content: Content, write_pair: Write, missing: str) -> None:
    (write_pair(tmp_path / "data" / "birds", content) / missing).unlink()
    text = message("birds", tmp_path / "data")
    assert f"has no {missing}" in text
    assert str(tmp_path / "data" / "birds") in text


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/etc", "../x", "a/../b", "a//b", "a\\b", "a\nb", "a\x00b", " ", "hanzi/"]
)
def test_names_that_are_paths_are_refused(tmp_path: Path, name: str) -> None:
    assert "is not a dataset name" in message(name, tmp_path)


def test_half_of_a_public_pair_says_where_the_rest_comes_from(
    tmp_path: Path, content: Content, write_pair: Write
) -> None:
    (write_pair(tmp_path / "data" / "FLO", content) / "res101.mat").unlink()
    assert "has no res101.mat; put it there (from Xian et al." in message("flo", tmp_path / "data")


def test_a_home_that_does_not_exist_is_looked_in_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D3TUNE_DATA", "~no-such-user/data")
    assert "D3TUNE_DATA ~no-such-user/data: " in message("flo")


@pytest.mark.parametrize("name", ["hanzi", "flo", "birds"])
def test_a_named_folder_that_is_none_is_refused(
    tmp_path: Path, name: str, content: Content, write_pair: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pair(tmp_path / "data" / "birds", content)
    (tmp_path / "file").touch()
    for wrong in ("nowhere", "file"):
        assert f"--data-dir {tmp_path / wrong}: " in message(name, tmp_path / wrong)
        with pytest.raises(DatasetError, match=f"--data-dir .*{wrong}: "):
            list_datasets(tmp_path / wrong)
        with monkeypatch.context() as patch:
            patch.setenv("D3TUNE_DATA", os.pathsep.join([str(tmp_path / "data"), str(tmp_path / wrong)]))
            assert f"D3TUNE_DATA {tmp_path / wrong}: " in message(name, tmp_path / "data")
            with pytest.raises(DatasetError, match=f"D3TUNE_DATA .*{wrong}: "):
                list_datasets()
    (tmp_path / "empty").mkdir()
    assert len(list_datasets(tmp_path / "empty")) == 6


def test_a_folder_below_a_folder_is_refused(tmp_path: Path, content: Content, write_pair: Write) -> None:
    write_pair(tmp_path / "data" / "birds", content)
    assert "holds a '/'" in message("data/birds", tmp_path)


def test_a_faulty_pair_says_so(tmp_path: Path, content: Content, write_pair: Write) -> None:
    content["features"][3, 3] = np.nan
    write_pair(tmp_path / "data" / "birds", content)
    assert "NaN" in message("birds", tmp_path / "data")
    assert "offers att5" in message("birds", tmp_path / "data", "sent")


def test_an_unwritable_home_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("D3TUNE_HOME", str(tmp_path / "file"))
    with pytest.raises(D3TuneError, match="D3TUNE_HOME"):
        find_dataset("hanzi")


def test_the_list(tmp_path: Path, content: Content, write_pair: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pair(tmp_path / "one" / "Birds", content)
    write_pair(tmp_path / "one" / "xlsa17" / "data" / "CUB", content)
    (write_pair(tmp_path / "two" / "half", content) / "res101.mat").unlink()
    write_pair(tmp_path / "two" / "BIRDS", content)
    (write_pair(tmp_path / "two" / "broken", content) / "att_splits.mat").write_bytes(b"x")
    content["att"] = "text"
    write_pair(tmp_path / "two" / "odd", content)
    monkeypatch.setenv("D3TUNE_DATA", str(tmp_path / "two"))
    infos = list_datasets(tmp_path / "one")
    assert [info.name for info in infos[:6]] == [f"hanzi/{number}" for number in range(6)]
    assert all(info.place == "embedded" and info.complete and info.problem is None for info in infos[:6])
    found = {str(info.place): info for info in infos[6:]}
    assert len(found) == 6
    birds = found[str(tmp_path / "one" / "Birds")]
    assert (birds.name, birds.complete, birds.problem) == ("birds", True, None)
    assert (birds.rows, birds.n_features, birds.n_classes, birds.n_semantics) == (56, 7, 8, 5)
    assert found[str(tmp_path / "one" / "xlsa17" / "data" / "CUB")].complete
    problems = {place.rsplit("/", 1)[1]: info.problem or "" for place, info in found.items() if not info.complete}
    assert problems["half"] == "res101.mat is missing"
    assert problems["BIRDS"] == f"hidden by {tmp_path / 'one' / 'Birds'}"
    assert [info.place for info in infos if info.hidden] == [tmp_path / "two" / "BIRDS"]
    assert "not a MATLAB" in problems["broken"]
    assert "is of type char" in problems["odd"]


def test_the_check_counts_and_notes(tmp_path: Path, content: Content, write_pair: Write) -> None:
    content["features"][2] = 1
    content["att"][:, 1] = content["att"][:, 0]
    write_pair(tmp_path / "data" / "birds", content)
    summary = check_dataset("birds", tmp_path / "data")
    assert (summary.n_seen, summary.n_unseen) == (6, 2)
    assert (summary.n_trainval, summary.n_test_seen, summary.n_test_unseen) == (36, 12, 8)
    assert (summary.n_features, summary.n_semantics, summary.semantics_id) == (7, 5, "att5")
    assert summary.feature_min == pytest.approx(content["features"].min(), rel=1e-6)
    assert summary.feature_max == 1
    assert summary.pseudo_unseen == 2
    notes = "; ".join(summary.notes)
    assert "train_loc ∪ val_loc contains 12 test_seen rows: intersected with trainval" in notes
    assert "the file's own 2 validation classes" in notes
    assert "1 features are constant" in notes
    assert "1 classes share their semantics" in notes


def test_the_check_reads_every_byte(tmp_path: Path, content: Content, write_pair: Write) -> None:
    write_pair(tmp_path / "data" / "birds", content)
    file = prepared_path(find_dataset("birds", tmp_path / "data")) / "features.npy"
    raw = bytearray(file.read_bytes())
    raw[-2] ^= 1
    file.write_bytes(raw)
    find_dataset("birds", tmp_path / "data")
    with pytest.raises(DatasetError, match="is damaged"):
        check_dataset("birds", tmp_path / "data")


def test_a_dataset_in_memory_has_no_prepared_path(dataset: GZSLDataset) -> None:
    with pytest.raises(DatasetError, match="is not prepared"):
        prepared_path(dataset)

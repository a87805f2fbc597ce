"""The analysis of a confirmed winner: of the very test that is reported, made with it or not at all."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from d3tune.config import Resources
from d3tune.data.prepared import open_prepared
from d3tune.data.registry import find_dataset, prepared_path
from d3tune.method.generators import load_backbone
from d3tune.method.heads import HeadReader
from d3tune.method.readings import Readings
from d3tune.method.training import Training
from d3tune.search.analysis import Recorded, read_analysis, record
from d3tune.search.confirm import Selection, TestResult, evaluate
from d3tune.search.executor import StopSignal
from d3tune.search.executor.inprocess import InProcessExecutor
from d3tune.search.jobs import TrainingJob
from d3tune.search.request import Request, prepare_run
from d3tune.search.run import RunDirectory, open_run
from d3tune.search.search import Outcome, Plan, run_search
from d3tune.search.tracking import default_uri
from d3tune.words import TEST_SELECTED

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

SELECTION = Selection(objective="H", splits=(0,), seeds=(1, 2), updates=20, head="softmax", seen_offset=0.25)


class StopsAfterOne(InProcessExecutor):
    """As if the user stopped the search while the first item was in work."""

    def map(self, function: Any, items: Any, stop: StopSignal, on_result: Any = None) -> list[Any]:
        def once(*item: Any) -> Any:
            value = function(*item)
            stop.requested = True
            return value

        return super().map(once, items, stop, on_result)


@pytest.fixture(scope="module")
def shared_search(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any], mlflow_template: Path) -> Outcome:
    """A small search of hanzi whose winner is confirmed with two seeds; only to be read."""
    home = tmp_path_factory.mktemp("analysed") / "home"
    home.mkdir()
    shutil.copy(mlflow_template, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("D3TUNE_HOME", str(home))
        run, _ = prepare_run(Request("hanzi", "gan", settings=tuple(f"{k}={v}" for k, v in tiny.items())))
        plan = Plan(1, None, Resources(executor="local"), 2, False, default_uri())
        with run.owned():
            return run_search(run, plan, StopSignal(), lambda _: None)


@pytest.fixture
def run(shared_search: Outcome, tmp_path: Path) -> RunDirectory:
    """A copy of its directory."""
    return open_run(str(shutil.copytree(shared_search.run.path, tmp_path / "copy")))


def place_of(run: RunDirectory) -> Path:
    (place,) = (run.path / "confirm").iterdir()
    return place


def content(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def job(write_toy: Callable[..., Path], tmp_path: Path, tiny: dict[str, Any]) -> TrainingJob:
    dataset = find_dataset("toy", write_toy(tmp_path / "data"))
    config = load_backbone("gan").config(**{**tiny, "teacher_lr": 1e-3}).model_dump(mode="json")
    return TrainingJob("gan", config, str(prepared_path(dataset)), dataset.content_hash, seed=0)


def evaluated(job: TrainingJob, store: Path | None, analysis: Path | None, **further: Any) -> TestResult:
    executor, stop = further.get("executor", InProcessExecutor()), StopSignal()
    return evaluate(job, further.get("selection", SELECTION), [1, 2], executor, stop, store, analysis=analysis)


# what it says


def test_it_is_of_the_test_that_is_reported(run: RunDirectory) -> None:
    found, place = read_analysis(run), place_of(run)
    assert isinstance(found, Recorded)
    assert found.analysis is not None
    summary, test = content(run.path / "summary.json"), content(place / "test-seed-1.json")["value"]
    assert found.test == test
    assert summary["test"]["H_per_seed"]["1"] == found.test["H"] == found.analysis.chosen.H
    assert (test["U"], test["S"]) == (found.analysis.chosen.U, found.analysis.chosen.S)
    assert test["AUSUC"] == found.analysis.curve.AUSUC
    assert abs(np.trapezoid(found.analysis.curve.S, found.analysis.curve.U) - test["AUSUC"]) < 1e-3
    assert found.analysis.ood is not None
    assert (test["AUROC"], test["FPR95"]) == (found.analysis.ood.AUROC, found.analysis.ood.FPR95)
    assert found.analysis.ood.name == "teacher's msp"
    for name in ("updates", "head", "seen_offset"):
        assert getattr(found, name) == summary["selection"][name]
    for seen, mean in ((True, test["S"]), (False, test["U"])):
        values = [item.accuracy for item in found.analysis.classes if item.seen == seen and item.accuracy is not None]
        assert fmean(values) == pytest.approx(mean, abs=1e-12)
    # means over seeds of the summary are of this seed and the other one
    other = content(place / "test-seed-2.json")["value"]
    assert summary["test"]["U"]["mean"] == fmean([test["U"], other["U"]])


def test_classes_have_the_datasets_names_and_all_its_test_rows(run: RunDirectory) -> None:
    found, dataset = read_analysis(run), open_prepared(run.dataset_path)
    assert isinstance(found, Recorded)
    assert found.analysis is not None
    counts = Counter(dataset.labels[np.concatenate([dataset.test_seen, dataset.test_unseen])].tolist())
    unseen = set(dataset.labels[dataset.test_unseen].tolist())
    expected = {name: (i not in unseen, counts[i]) for i, name in enumerate(dataset.class_names)}
    assert {item.name: (item.seen, item.rows) for item in found.analysis.classes} == expected
    assert len(found.analysis.classes) == 200
    assert sum(found.analysis.ood.seen if found.analysis.ood else ()) == len(dataset.test_seen)


def test_the_file_is_small_and_says_protocol_and_units(run: RunDirectory) -> None:
    path = place_of(run) / "analysis.json"
    assert path.stat().st_size < 200_000
    written = content(path)
    assert written["protocol"] == "test"
    assert TEST_SELECTED in written["about"]
    assert TEST_SELECTED in written["analysis"]["test_optimal"]["chosen_on"]
    assert {"accuracy", "seen_offset"} <= written["units"].keys()


# made with the test


def test_it_changes_no_number_and_is_of_the_first_seed_alone(job: TrainingJob, tmp_path: Path) -> None:
    plain, path = evaluated(job, tmp_path / "plain", None), tmp_path / "analysed" / "analysis.json"
    analysed = evaluated(job, path.parent, path)
    assert analysed == plain
    files = [f"test-seed-{seed}.json" for seed in (1, 2)]
    assert [(path.parent / name).read_bytes() for name in files] == [
        (tmp_path / "plain" / name).read_bytes() for name in files
    ]
    assert sorted(item.name for item in path.parent.iterdir()) == ["analysis.json", *files]
    assert content(path)["test"] == plain.per_seed[0]
    assert content(path)["seed"] == 1


def test_the_test_sets_are_read_once_a_seed(job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(owner: Any, name: str) -> None:
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kw: calls.append(name) or original(*args, **kw))

    for owner, name in ((Training, "evaluate"), (HeadReader, "scores"), (Training, "_diagnostics")):
        counted(owner, name)
    evaluated(job, tmp_path, tmp_path / "analysis.json")
    assert (tmp_path / "analysis.json").exists()
    assert Counter(calls) == {"evaluate": 2, "scores": 2, "_diagnostics": 2}


def test_an_interrupted_confirmation_ends_with_it(job: TrainingJob, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    evaluated(job, whole, whole / "analysis.json")
    with pytest.raises(KeyboardInterrupt):
        evaluated(job, cut, cut / "analysis.json", executor=StopsAfterOne())
    assert sorted(item.name for item in cut.iterdir()) == ["analysis.json", "test-seed-1.json"]
    evaluated(job, cut, cut / "analysis.json")
    assert {p.name: p.read_bytes() for p in cut.iterdir()} == {p.name: p.read_bytes() for p in whole.iterdir()}


def test_a_result_is_not_stored_before_its_analysis(job: TrainingJob, tmp_path: Path) -> None:
    """Else an end between the two would leave it without one for good."""
    with pytest.raises(OSError, match="absent"):
        evaluated(job, tmp_path / "store", tmp_path / "absent" / "analysis.json")
    assert list((tmp_path / "store").iterdir()) == []


def test_a_stored_result_without_one_is_not_tested_again(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an earlier version left it; the other seed's test is not analysed in its place."""
    before = evaluated(job, tmp_path, None)
    (tmp_path / "test-seed-2.json").unlink()
    trained: list[int] = []
    original = TrainingJob.trainings
    monkeypatch.setattr(TrainingJob, "trainings", lambda self, *a: trained.append(self.seed) or original(self, *a))
    assert evaluated(job, tmp_path, tmp_path / "analysis.json") == before
    assert trained == [2]
    assert not (tmp_path / "analysis.json").exists()


def test_another_selection_gets_another_analysis(job: TrainingJob, tmp_path: Path) -> None:
    path = tmp_path / "analysis.json"
    evaluated(job, tmp_path, path)
    other = SELECTION.model_copy(update={"head": "prototype", "seen_offset": -0.5})
    result = evaluated(job, tmp_path, path, selection=other)
    assert (content(path)["head"], content(path)["seen_offset"]) == ("prototype", -0.5)
    assert content(path)["test"] == result.per_seed[0]


def test_a_backbone_that_hands_out_no_scores_is_told_so(job: TrainingJob) -> None:
    found = record(job, 20, "softmax", 0.25, {"H": 0.5}, Readings())
    assert found.analysis is None
    assert "'gan' does not hand out its scores" in found.missing


# why there is none


def test_a_search_that_chose_on_the_test_has_none(job: TrainingJob, tmp_path: Path, run: RunDirectory) -> None:
    published = SELECTION.model_copy(update={"protocol": "published"})
    evaluated(job, tmp_path, tmp_path / "analysis.json", selection=published)
    assert not (tmp_path / "analysis.json").exists()
    summary = content(run.path / "summary.json")
    run.write_summary({**summary, "selection": {**summary["selection"], "protocol": "published"}})
    assert TEST_SELECTED in str(read_analysis(run))


def test_a_run_of_an_earlier_version_has_none(tmp_path: Path) -> None:
    golden = Path(__file__).parent.parent / "golden" / "run-format-1"
    old = open_run(str(shutil.copytree(golden, tmp_path / "old")))
    assert "not recorded when the test was made" in str(read_analysis(old))


def test_a_run_without_a_confirmed_winner_has_none(new_run: Callable[..., RunDirectory]) -> None:
    assert "no confirmed winner yet; finish it with: d3tune resume" in str(read_analysis(new_run()))


def test_one_of_another_confirmation_is_not_shown(run: RunDirectory) -> None:
    summary = content(run.path / "summary.json")
    for changed in (
        {"selection": {**summary["selection"], "seen_offset": 7.0}},
        {"test": {**summary["test"], "H_per_seed": {"1": 0.5, "2": 0.5}}},
        {"test": {**summary["test"], "H_per_seed": None}},
    ):
        run.write_summary({**summary, **changed})
        assert "of another confirmation" in str(read_analysis(run))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "[" * 100_000,
        lambda text: text.replace('"format": 1', '"format": 2'),
        lambda text: text.replace('"accuracy": ', '"accuracy": 7'),
        lambda text: text.replace('"seen_offset": ', '"seen_offset": NaN, "x": '),
        lambda text: text + " " * 5_000_000,
        lambda text: text.encode("utf-16").decode("latin-1"),
    ],
    ids=["half", "a list", "nested", "newer", "illegal", "not a number", "huge", "binary"],
)
def test_a_damaged_one_is_one_line(run: RunDirectory, spoil: Callable[[str], str]) -> None:
    path = place_of(run) / "analysis.json"
    path.write_text(spoil(path.read_text(encoding="utf-8")), encoding="latin-1", errors="replace")
    reason = read_analysis(run)
    assert isinstance(reason, str)
    assert f"{path}: damaged" in reason
    assert "\n" not in reason
    assert len(reason) < 200 + len(str(path))

"""Ensembles of real searches: weighed on validation, confirmed member by member, tested once a seed, gone on with."""

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from d3tune.config import Resources
from d3tune.data.prepared import open_prepared
from d3tune.errors import D3TuneError, NoUsableTrialError, RunError, UsageError
from d3tune.method.ensembling import ensemble_weights, spread
from d3tune.method.generators import load_backbone
from d3tune.method.metrics import Scores, accuracies
from d3tune.method.readings import Readings
from d3tune.method.trainer import DivergedError
from d3tune.results.leaderboard import leaderboard_rows
from d3tune.results.predict import find_model, predict
from d3tune.search.checkpoint import load_weights
from d3tune.search.confirm import Selection, select
from d3tune.search.ensemble import Ensemble, ensemble, prepare
from d3tune.search.ensemble_members import Member
from d3tune.search.executor import StopSignal, TrialQueue
from d3tune.search.executor.inprocess import InProcessExecutor
from d3tune.search.jobs import TrainingJob
from d3tune.search.keeping import Keeper
from d3tune.search.replay import recorded_job
from d3tune.search.request import Request, prepare_run
from d3tune.search.run import RunDirectory, open_run
from d3tune.search.scoring import score_rows
from d3tune.search.search import training_job
from d3tune.search.standing import winner
from d3tune.search.study import Assignment, Ledger
from d3tune.search.tracking import default_uri

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

GAN = {
    **{"updates": 20, "evaluations": 2, "batch_size": 16, "critic_steps": 1, "hidden_dim": 8, "embed_dim": 8},
    **{"noise_dim": 4, "teacher_epochs": 2, "head_epochs": 2, "n_synthetic_step": 2, "n_synthetic_final": 3},
    **{"generator_lr": 0.003, "anchor": "none", "heads": "[softmax, prototype]"},
}
REZSL = {"updates": 20, "evaluations": 2, "hidden_dim": 8, "batch_size": 16}


class Counting(InProcessExecutor):
    """Counts what is computed by the name of its function, and interrupts or fails where told so."""

    def __init__(self, fail: Callable[[str, Any], None] = lambda name, item: None, most: int | None = None) -> None:
        super().__init__()
        self.made: list[str] = []
        self._fail, self._most = fail, most

    def map(self, function: Any, items: Any, stop: StopSignal, on_result: Any = None) -> list[Any]:
        """See `Executor.map`."""

        def counted(*item: Any) -> Any:
            self._fail(function.__name__, item)
            if len(self.made) == self._most:
                raise KeyboardInterrupt
            self.made.append(function.__name__)
            return function(*item)

        return super().map(counted, items, stop, on_result)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, write_toy: Callable[..., Path]) -> tuple[Path, Path]:
    """A home with trials of two backbones on the toy dataset, the winners' selections confirmed; and its folder."""
    home, data = tmp_path_factory.mktemp("home"), write_toy(tmp_path_factory.mktemp("data") / "toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("D3TUNE_HOME", str(home))
        for backbone, settings, trials in (("gan", GAN, 4), ("rezsl", REZSL, 2)):
            run, _ = prepare_run(
                Request(
                    "toy",
                    backbone,
                    data_dir=data,
                    settings=tuple(f"{key}={value}" for key, value in settings.items()),
                    warm_start=("none",),
                    seed=2,
                    val_splits=2,
                    pruner="none",
                    run_dir=home / "runs" / backbone,
                )
            )
            _search(run, trials)
    return home, data


def _search(run: RunDirectory, n_trials: int) -> None:
    """Trials of a search without MLflow, the best one's weights kept and its selection made."""
    config = load_backbone(run.search.backbone).config
    ledger = Ledger(run.journal, run.name, run.search, run.load_space(config), config)
    keeper, executor = Keeper(ledger, run.trial, 1), InProcessExecutor()

    def job(assignment: Assignment) -> TrainingJob:
        return training_job(run, assignment.config, Resources(executor="local"))

    executor.run_trials(TrialQueue(ledger, n_trials, job, run.trial, keeper, lambda number: None))
    best = winner(ledger.trials())
    assert best is not None
    store = run.path / "confirm" / f"trial-{best.number:05d}"
    select(recorded_job(run, best), [3, 4], executor, StopSignal(), store)


@pytest.fixture
def runs(made: tuple[Path, Path], isolated: Path) -> Path:
    """A folder with copies of these runs, in a home of the test's own."""
    shutil.copytree(made[0] / "runs", isolated / "runs")
    return isolated / "runs"


def combined(
    *names: str, seeds: int = 2, top: int = 2, executor: InProcessExecutor | None = None, said: list[str] | None = None
) -> Ensemble:
    material, place, _ = prepare(names or ("gan", "rezsl"), top, None, None)
    lines = [] if said is None else said
    with place.owned():
        return ensemble(material, place, seeds, executor or InProcessExecutor(), StopSignal(), lines.append)


def read(job: TrainingJob, protocol: Any, updates: int, head: str) -> list[tuple[Scores, float]]:
    """A model's scores by its training from the begin, and the unit of its training rows."""
    found = []
    for training in job.trainings(protocol):
        training.advance(updates)
        training.readings = Readings()
        training.evaluate([head], seen_offset=0.0)
        scores = training.readings.scores[head]
        assert scores.score is not None
        with torch.no_grad():
            found.append((scores, float(spread(scores.score(training.tensors.train_x)))))
    return found


def averaged(parts: Sequence[tuple[float, tuple[Scores, float]]]) -> Scores:
    """The mean of scores in their units, rows not centred: no arg max depends on that."""
    seen = sum(weight * scores.seen.double() / unit for weight, (scores, unit) in parts)
    unseen = sum(weight * scores.unseen.double() / unit for weight, (scores, unit) in parts)
    return replace(parts[0][1][0], seen=seen, unseen=unseen)


def test_it_is_what_its_members_make_by_hand(runs: Path) -> None:
    said: list[str] = []
    found = combined(said=said)
    assert not [line for line in said if "on record" in line], "weights, and trainings again, give the trials' scores"
    members = [item.member for item in found.members]
    assert [(member.run, member.job.backbone) for member in members] == [("gan", "gan")] * 2 + [("rezsl", "rezsl")] * 2
    assert [load_weights(member.directory) is not None for member in members] == [True, False] * 2
    own = [read(member.job, "validation", member.update, member.head) for member in members]
    for member, by_split in zip(members, own, strict=True):
        assert fmean(accuracies(scores).H for scores, _ in by_split) == pytest.approx(member.val_H, abs=1e-9)
    units = [[averaged([(1.0, split)]) for split in by_split] for by_split in own]
    assert [item.weight for item in found.members] == pytest.approx(ensemble_weights(units))
    assert found.val_H >= max(member.val_H for member in members) - 1e-9
    _check_confirmation(found)


def _check_confirmation(found: Ensemble) -> None:
    chosen = [(item.weight, item.member, item.selection) for item in found.members if item.selection is not None]
    assert all((item.selection is None) == (item.weight == 0) for item in found.members)
    assert found.seeds == (3, 4)
    for _, member, selection in chosen:
        assert selection == select(member.job, found.seeds, InProcessExecutor(), StopSignal())
    offsets, values = [], []
    for seed in found.seeds:
        by_split = zip(
            *(_confirmed(member, selection, seed, "validation") for _, member, selection in chosen), strict=True
        )
        read = [
            accuracies(averaged([(w, s) for (w, _, _), s in zip(chosen, split, strict=True)])) for split in by_split
        ]
        offsets.append(fmean(item.seen_offset for item in read))
        values.append(fmean(item.H for item in read))
    assert found.seen_offset == pytest.approx(median(offsets))
    assert found.confirmed_H == pytest.approx(fmean(values))
    for seed, row in zip(found.seeds, found.test.per_seed, strict=True):
        parts = [(weight, _confirmed(member, selection, seed, "test")[0]) for weight, member, selection in chosen]
        tested = accuracies(averaged(parts), found.seen_offset)
        assert row == pytest.approx(vars(tested))


def _confirmed(member: Member, selection: Selection | None, seed: int, protocol: Any) -> list[tuple[Scores, float]]:
    assert selection is not None
    return read(replace(member.job, seed=seed), protocol, selection.updates, selection.head)


def test_the_same_again_trains_nothing_and_the_leaderboard_has_it(runs: Path) -> None:
    first = Counting()
    found = combined(executor=first)
    assert first.made.count("validation_scores") == 4
    assert first.made.count("mix_on_test") == 2
    again = Counting()
    assert combined(executor=again, seeds=1) == found, "two seeds are not given up for one"
    assert again.made == []
    (row,) = [row for row in leaderboard_rows() if row["kind"] == "ensemble"]
    assert (row["backbone"], row["protocol"], row["seeds"], row["splits"]) == ("ensemble", "test", 2, 2)
    assert (row["val_H"], row["test_H"]) == (found.confirmed_H, found.test.mean("H"))
    assert (row["test_H_sd"], row["trials"]) == (found.test.sd("H"), 6)
    assert row["run"] == found.place.path.name


def test_the_confirmation_of_a_runs_winner_is_not_made_again(runs: Path) -> None:
    with_it, without = Counting(), Counting()
    combined("rezsl", seeds=1, executor=with_it)
    for path in runs.glob("*/confirm"):
        shutil.rmtree(path)
    shutil.rmtree(next(runs.glob("*-ensemble-*")))
    combined("rezsl", seeds=1, executor=without)
    assert with_it.made.count("curve") < without.made.count("curve")


def test_it_goes_on_after_an_interruption_wherever_that_came(runs: Path) -> None:
    whole = Counting()
    found = combined("rezsl", seeds=1, executor=whole)
    shutil.rmtree(found.place.path)
    done: list[str] = []
    for count in range(len(whole.made)):
        part = Counting(most=1)
        with pytest.raises(KeyboardInterrupt) if count < len(whole.made) - 1 else nullcontext():
            end = combined("rezsl", seeds=1, executor=part)
        done += part.made
        assert (found.place.path / "summary.json").exists() == (done == whole.made)
    assert done == whole.made, "nothing is made twice"
    assert replace(end, place=found.place) == found


def test_a_stop_ends_the_choice_of_weights(runs: Path) -> None:
    stop = StopSignal()

    class Stopping(Counting):
        def map(self, function: Any, items: Any, stop_: StopSignal, on_result: Any = None) -> list[Any]:
            found = super().map(function, items, stop_, on_result)
            stop.requested = True
            return found

    material, place, _ = prepare(("gan", "rezsl"), 2, None, None)
    executor = Stopping()
    with place.owned(), pytest.raises(KeyboardInterrupt):
        ensemble(material, place, 1, executor, stop, lambda line: None)
    assert executor.made == ["validation_scores"] * 4
    again = Counting()
    combined(seeds=1, executor=again)
    assert "validation_scores" not in again.made


def test_damaged_scores_and_results_are_made_again(runs: Path) -> None:
    found = combined("rezsl", seeds=1)
    scores = sorted(found.place.scores.glob("*.safetensors"))[0]
    scores.write_bytes(scores.read_bytes()[:-8])
    (found.place.confirm / "ensemble-test-seed-3.json").write_text("{", encoding="utf-8")
    (found.place.path / "summary.json").write_text("{", encoding="utf-8")
    lines: list[str] = []
    leaderboard_rows(lines.append)
    assert lines == [
        f"left out: {found.place.path}/summary.json: damaged; the d3tune ensemble that made it writes it again"
    ]
    again = Counting()
    assert combined("rezsl", seeds=1, executor=again) == found
    assert again.made == ["validation_scores", "mix_on_test"]


def test_a_member_that_fails_with_fresh_seeds_is_left_out(runs: Path) -> None:
    def fail(name: str, item: Any) -> None:
        if name == "curve" and item[0].backbone == "gan":
            raise DivergedError("loss critic", 3)

    for path in runs.glob("*/confirm"):
        shutil.rmtree(path)
    said: list[str] = []
    found = combined(seeds=1, executor=Counting(fail), said=said)
    weights = {(item.member.run, item.member.number): item.weight for item in found.members}
    assert sum(weight for (run, _), weight in weights.items() if run == "rezsl") == pytest.approx(1)
    left_out = [line for line in said if "left out" in line]
    assert all(line.endswith("left out: diverged: loss critic is not finite at update 3") for line in left_out)

    def fail_always(name: str, item: Any) -> None:
        if name == "curve":
            raise DivergedError("loss critic", 3)

    shutil.rmtree(found.place.path)
    with pytest.raises(D3TuneError, match=r"loss critic is not finite at update 3\); give other runs$"):
        combined(seeds=1, executor=Counting(fail_always))


@pytest.fixture
def refused() -> Callable[..., str]:
    """``refused(error, *runs)``: the one line with which these are refused."""

    def line(kind: type[D3TuneError], *names: str, top: int = 2, run_dir: Path | None = None) -> str:
        with pytest.raises(kind) as error:
            prepare(names, top, None, run_dir)
        assert "\n" not in str(error.value)
        return str(error.value)

    return line


Refused = Callable[..., str]


def test_runs_that_do_not_belong_together_are_refused(
    runs: Path, made: tuple[Path, Path], refused: Refused, tmp_path: Path
) -> None:
    def also(name: str, **request: Any) -> RunDirectory:
        wanted = {"dataset": "toy", "data_dir": made[1], "val_splits": 2, "warm_start": ("none",)}
        run, _ = prepare_run(Request(backbone="gaussian", run_dir=runs / name, **{**wanted, **request}))
        return run

    also("splits", val_splits=1)
    assert "its list of validation splits is 0, that of " in refused(UsageError, "gan", "splits")
    also("hanzi", dataset="hanzi", data_dir=None)
    assert "its dataset is hanzi/0, that of " in refused(UsageError, "gan", "hanzi")
    also("claimed", protocol="published")
    assert "chosen on the test sets (test-selected)" in refused(UsageError, "gan", "claimed")
    assert "given twice" in refused(UsageError, "gan", "rezsl", "gan")
    assert "needs two trials" in refused(UsageError, "gan", top=1)
    assert refused(UsageError, "gan", "rezsl", top=0) == "--top 0: must be at least 1"
    assert "there is no journal" in refused(RunError, "gan", also("new").name)
    assert refused(UsageError, "gan", "nothing").startswith("no run 'nothing'")
    assert not list(runs.glob("*-ensemble-*")), "nothing is made of what is refused"


def test_of_a_run_without_a_complete_trial(runs: Path, refused: Refused) -> None:
    run = open_run(str(runs / "gan"))
    # the journal up to its first report
    lines = run.journal.read_text(encoding="utf-8").splitlines()
    begun = next(index for index, line in enumerate(lines) if '"report' in line)
    run.journal.write_text("\n".join(lines[:begun]) + "\n", encoding="utf-8")
    assert "no complete trial yet; go on with: d3tune resume" in refused(NoUsableTrialError, "rezsl", "gan")


def test_a_directory_of_something_else_is_refused(runs: Path, refused: Refused, tmp_path: Path) -> None:
    both = ("gan", "rezsl")
    assert "is not empty and not an ensemble" in refused(RunError, *both, run_dir=runs / "gan")
    place = tmp_path / "mine"
    _, made, new = prepare(both, 2, None, place)
    assert (made.path, new) == (place, True)
    with pytest.raises(UsageError, match="is an ensemble, and this takes searches"):
        open_run(str(place))
    assert prepare(both, 2, None, place)[2] is False
    assert prepare(both[::-1], 2, None, place)[2] is False, "in whatever order"
    assert (
        refused(RunError, *both, top=1, run_dir=place)
        == f"{place}: holds an ensemble of other trials; give another --run-dir"
    )
    document = json.loads((place / "ensemble.json").read_text(encoding="utf-8"))
    for damage in ("", "{}", "[]", json.dumps({**document, "members": [3]}), json.dumps({**document, "format": 9})):
        (place / "ensemble.json").write_text(damage, encoding="utf-8")
        assert refused(RunError, *both, run_dir=place).startswith(f"{place}/ensemble.json: ")


def test_its_model_scores_the_test_rows_as_they_were_tested(runs: Path, tmp_path: Path) -> None:
    found = combined()
    dataset = open_prepared(prepare(("gan", "rezsl"), 2, None, None)[0].runs[0].dataset_path)
    model = find_model(found.place.path.name)
    assert model.document.backbone == "ensemble"
    weights = [item.weight for item in found.members if item.weight > 0]
    assert [item["weight"] for item in model.document.config["members"]] == weights
    rows = {"seen": dataset.test_seen, "unseen": dataset.test_unseen}
    right: dict[str, list[float]] = {"seen": [], "unseen": []}
    for side, numbers in rows.items():
        predicted = score_rows(model, np.asarray(dataset.features[numbers], np.float32))
        names = [predicted.classes[best] for best in predicted.best(1)[:, 0]]
        wanted = [dataset.class_names[label] for label in dataset.labels[numbers]]
        for name in set(wanted):
            guesses = [guess for label, guess in zip(wanted, names, strict=True) if label == name]
            right[side].append(guesses.count(name) / len(guesses))
    first = found.test.per_seed[0]
    assert (fmean(right["seen"]), fmean(right["unseen"])) == pytest.approx((first["S"], first["U"]))
    assert model.document.test["H"] == first["H"]
    np.save(tmp_path / "rows.npy", dataset.features[dataset.test_unseen])
    _, scored = predict(str(found.place.path), tmp_path / "rows.npy")
    assert len(scored.scores) == len(dataset.test_unseen)


def test_a_model_that_is_gone_or_damaged_is_made_again_by_the_same_command(runs: Path) -> None:
    found = combined()
    before = (found.place.model / "model.safetensors").read_bytes()
    shutil.rmtree(found.place.model)
    with pytest.raises(RunError, match="has no model; the d3tune ensemble that made it makes one"):
        find_model(found.place.path.name)
    again = Counting()
    assert combined(executor=again) == found
    assert again.made == ["mix_on_test"]
    assert (found.place.model / "model.safetensors").read_bytes() == before
    (found.place.model / "model.safetensors").write_bytes(before[:-8] + b"\xff" * 8)
    third = Counting()
    combined(executor=third)
    assert third.made == ["mix_on_test"]
    assert (found.place.model / "model.safetensors").read_bytes() == before


def test_it_is_in_mlflow_once_with_its_model_and_a_version(
    runs: Path, isolated: Path, mlflow_template: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(mlflow_template, isolated / "mlflow.db")
    words = ("ensemble", "gan", "rezsl", "--top", 2, "--seeds", 2, "--executor", "local", "--register", "best of both")

    def lost(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("the store is gone")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", lost)
        patch.setattr("d3tune.search.ensemble_mlflow.PATIENCE", 1.0)
        end = command(*words)
    assert end.code == 0, end.err
    assert "is not complete (the store is gone); the same command writes the rest" in end.err
    for _ in range(2):
        end = command(*words)
        assert end.code == 0, end.err
        assert "MLflow: experiment d3tune/toy in sqlite:///" in end.err
    client = MlflowClient(default_uri())
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(ids, "tags.kind = 'ensemble'")
    summary = json.loads(next(runs.glob("*-ensemble-*/summary.json")).read_text(encoding="utf-8"))
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/H"] == pytest.approx(summary["test"]["H"]["mean"])
    assert run.data.metrics["val/H_confirmed"] == pytest.approx(summary["selection"]["val_H"])
    (version,) = client.search_model_versions("name = 'best of both'")
    (logged,) = client.search_logged_models(ids)
    assert version.source == logged.artifact_location
    loaded = mlflow.pyfunc.load_model(logged.artifact_location)
    dataset = open_prepared(prepare(("gan", "rezsl"), 2, None, None)[0].runs[0].dataset_path)
    rows = np.asarray(dataset.features[dataset.test_unseen], np.float32)
    mine = score_rows(find_model(summary["run"]), rows)
    assert np.array_equal(loaded.predict(rows).iloc[:, 1:].to_numpy(), mine.scores)


def test_what_mlflow_would_not_take_is_refused_before_anything_is_trained(
    runs: Path, command: Callable[..., Any]
) -> None:
    for further, words in (
        (("--register", "a/b"), "--register a/b"),
        (("--tracking-uri", "ftp://x"), "--tracking-uri"),
    ):
        end = command("ensemble", "gan", "--executor", "local", *further)
        assert end.code == 2
        assert words in end.err
    assert not list(runs.glob("*-ensemble-*"))

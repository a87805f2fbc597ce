"""The choice among the best trials: fresh seeds on validation, by halves, nothing trained twice, no test row before."""

import json
import shutil
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from mlflow import MlflowClient

from d3tune.config import Resources
from d3tune.documents import read_document
from d3tune.errors import UsageError
from d3tune.method.trainer import DivergedError
from d3tune.results.leaderboard import leaderboard_rows
from d3tune.results.report.material import read_material
from d3tune.results.report.tables import configuration
from d3tune.results.report.tables import outcome as outcome_parts
from d3tune.results.text import outcome_text
from d3tune.search.compare import read_side
from d3tune.search.confirm import ConfirmationFailedError
from d3tune.search.dryrun import estimate
from d3tune.search.executor import StopSignal
from d3tune.search.executor.inprocess import InProcessExecutor
from d3tune.search.exported import confirmed_document, trial_document
from d3tune.search.jobs import TrainingJob
from d3tune.search.probe import Probe
from d3tune.search.run import RunDirectory, open_run
from d3tune.search.search import Outcome, Plan, run_search
from d3tune.search.study import read_trials
from d3tune.search.tracking import default_uri
from d3tune.search.trial import curve
from d3tune.yamlfile import read_yaml

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

MakeRun = Callable[..., RunDirectory]
# with this seed the trial with the best value is not the one that fresh seeds choose
SEED = 3
FRESH = [SEED + 1, SEED + 2]


class Recording(InProcessExecutor):
    """Notes what is trained for the confirmation; may be interrupted after so many, and may see one diverge."""

    def __init__(self, interrupt_after: int | None = None, diverges: Callable[[Any], bool] | None = None) -> None:
        super().__init__()
        self.trained: list[tuple[str, int, str]] = []
        self._limit, self._diverges = interrupt_after, diverges or (lambda job: False)

    def map(self, function: Any, items: Sequence[Any], stop: StopSignal, on_result: Any = None) -> list[Any]:
        def noted(*arguments: Any) -> Any:
            (job,) = (part for part in arguments if isinstance(part, TrainingJob))
            if len(self.trained) == self._limit:
                raise KeyboardInterrupt
            if self._diverges(job):
                raise DivergedError("loss/critic", 3)
            self.trained.append(("curve" if function is curve else "test", job.seed, json.dumps(job.config)))
            return function(*arguments)

        return super().map(noted, items, stop, on_result)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the trials are kept that every test goes on from."""
    return tmp_path_factory.mktemp("searched")


@pytest.fixture
def searched(toy_run: MakeRun, carry_out: Callable[..., Any], isolated: Path, kept: Path) -> RunDirectory:
    """A search of three complete trials and a collapsed one, nothing confirmed yet."""
    if not (kept / "home").exists():
        carry_out(toy_run(seed=SEED, pruner="none"), trials=4, confirm_seeds=0)
        shutil.copytree(isolated, kept / "home")
    elif not isolated.exists():
        shutil.copytree(kept / "home", isolated)
    (path,) = (isolated / "runs").iterdir()
    run = open_run(str(path))
    plan = run.read_plan()
    # it was not copied for the search
    run.write_plan({key: value for key, value in plan.items() if key != "place"})
    return run


def go_on(run: RunDirectory, executor: Recording, top: int = 4, said: list[str] | None = None, n: int = 2) -> Outcome:
    plan = Plan(4, None, Resources(executor="local"), n, False, default_uri(), confirm_top=top)
    lines = [] if said is None else said
    with run.owned():
        return run_search(run, plan, StopSignal(), lines.append, executor)


def curves(run: RunDirectory, trial: int, seeds: Sequence[int]) -> list[list[dict[str, Any]]]:
    folder = run.path / "confirm" / f"trial-{trial:05d}"
    files = [folder / f"validation-seed-{seed}.json" for seed in seeds]
    return [json.loads(path.read_text(encoding="utf-8"))["value"] for path in files]


def at_the_best_of_the_mean(rows: list[list[dict[str, Any]]]) -> list[float]:
    """H with each seed where the mean over seeds is largest."""
    heads = {key.split("/")[1] for key in rows[0][0]["metrics"] if key.endswith("/H") and key.count("/") == 2}
    places = [
        [[reports[index]["metrics"][f"val/{head}/H"] for reports in rows] for head in heads]
        for index in range(len(rows[0]))
    ]
    return max((values for place in places for values in place), key=fmean)


def complete_of(run: RunDirectory) -> dict[int, float]:
    return {trial.number: trial.value for trial in read_trials(run.journal) if trial.value is not None}


def content(run: RunDirectory) -> dict[str, Any]:
    """What the choice and the confirmation leave, without what depends on the time."""
    summary = run.read_summary() or {}
    kept = {key: summary.get(key) for key in ("winner", "confirmed_trial", "choice", "selection", "test")}
    return {**kept, "best": (read_yaml(run.best) or {})["config"]}


def test_the_choice_is_that_of_the_stored_curves_and_nothing_is_trained_twice(
    searched: RunDirectory, sound: Callable[..., None]
) -> None:
    executor, said = Recording(), list[str]()
    outcome = go_on(searched, executor, said=said)
    values = complete_of(searched)
    best = max(values, key=lambda number: values[number])
    left, given_up, rows = sorted(values), list[int](), dict[int, list[float]]()
    for n_seeds in count(1):
        seeds = FRESH[:n_seeds]
        rows |= {number: at_the_best_of_the_mean(curves(searched, number, seeds)) for number in left}
        ranked = sorted(left, key=lambda number: -fmean(rows[number]))
        left, out = ranked[: -(len(left) // 2)], ranked[-(len(left) // 2) :]
        given_up = [*out, *given_up]
        if len(left) == 1:
            break
    summary = searched.read_summary() or {}
    choice = summary["choice"]
    assert choice["chosen"] == summary["confirmed_trial"] == left[0] != best == summary["winner"]["trial"]
    assert outcome.confirmed is not None
    assert (outcome.confirmed.number, outcome.winner and outcome.winner.number) == (left[0], best)
    assert [row["trial"] for row in choice["candidates"]] == [*left, *given_up]
    for row in choice["candidates"]:
        found = rows[row["trial"]]
        assert (row["mean"], row["searched_value"]) == (pytest.approx(fmean(found)), values[row["trial"]])
        assert row["sd"] == (pytest.approx(stdev(found)) if len(found) > 1 else None)
        assert row["value_per_seed"] == dict(zip(map(str, FRESH), found, strict=False))
    assert choice["optimism"] == pytest.approx(values[best] - fmean(rows[best]))
    document = read_yaml(searched.best)
    assert document["source"]["trial"] == left[0]
    assert document["source"]["choice"] == choice
    # each round's trainings, then the test of what was chosen, whose validation curves are there already
    configs = {trial.number: json.dumps(trial.user_attrs["config"]) for trial in read_trials(searched.journal)}
    second = [number for number in values if len(rows[number]) == 2]
    expected = [("curve", FRESH[0], configs[number]) for number in values]
    expected += [("curve", FRESH[1], configs[number]) for number in second]
    assert sorted(executor.trained[:5]) == sorted(expected)
    assert executor.trained[5:] == [("test", seed, configs[left[0]]) for seed in FRESH]
    assert summary["selection"]["val_H"] == pytest.approx(fmean(rows[left[0]]))
    assert [line.split(":")[0] for line in said if line.startswith(("choosing", "round"))] == [
        "choosing among the best 3 trials by val/H with fresh seeds",
        f"round 1, seed {FRESH[0]}",
        f"round 2, seed {FRESH[1]}",
    ]
    sound(searched, 4)


def test_an_interrupted_choice_goes_on_where_it_was(searched: RunDirectory, tmp_path: Path) -> None:
    whole = Recording()
    go_on(searched, whole)
    expected = content(searched)
    for after in (2, 4):
        shutil.rmtree(searched.path / "confirm")
        shutil.rmtree(searched.path / "model")
        (searched.path / "summary.json").unlink()
        searched.best.unlink()
        first, second = Recording(interrupt_after=after), Recording()
        assert go_on(searched, first).interrupted
        assert not searched.best.exists()
        assert not list(searched.path.glob("confirm/*/test-*"))
        go_on(searched, second)
        assert [*first.trained, *second.trained] == whole.trained
        assert content(searched) == expected
    # once more: all of it is there
    again = Recording()
    go_on(searched, again)
    assert again.trained == []
    assert content(searched) == expected


def test_with_one_candidate_it_is_as_it_was(searched: RunDirectory) -> None:
    executor = Recording()
    outcome = go_on(searched, executor, top=1)
    values = complete_of(searched)
    best = max(values, key=lambda number: values[number])
    assert [path.name for path in searched.path.glob("confirm/*")] == [f"trial-{best:05d}"]
    assert [(name, seed) for name, seed, _ in executor.trained] == [
        (name, seed) for name in ("curve", "test") for seed in FRESH
    ]
    assert outcome.choice is None
    assert "choice" not in (searched.read_summary() or {})
    assert "confirm_top" not in searched.read_plan()
    assert list(read_yaml(searched.best)["source"]) == ["run", "uid", "trial", "searched_metric", "searched_value"]
    assert "candidates" not in outcome_text(outcome, default_uri())
    # a choice that is made later takes the curves that are there
    later = Recording()
    go_on(searched, later)
    assert len([name for name, _, config in later.trained if name == "curve"]) < 5
    assert (searched.read_summary() or {})["confirmed_trial"] != best
    # and is given up by who asks for the best again
    go_on(searched, Recording(), top=1)
    assert (searched.read_summary() or {})["confirmed_trial"] == best
    assert "choice" not in (searched.read_summary() or {})


def test_more_rounds_than_seeds_of_the_confirmation(searched: RunDirectory) -> None:
    executor = Recording()
    go_on(searched, executor, top=50, n=1)
    summary = searched.read_summary() or {}
    assert len(summary["choice"]["candidates"]) == 3
    assert list(summary["choice"]["candidates"][0]["value_per_seed"]) == [str(seed) for seed in FRESH]
    assert summary["selection"]["seeds"] == FRESH[:1]
    assert [seed for name, seed, _ in executor.trained if name == "test"] == FRESH[:1]


def test_a_candidate_that_diverges_is_given_up(searched: RunDirectory) -> None:
    values = complete_of(searched)
    best = max(values, key=lambda number: values[number])
    config = {trial.number: trial.user_attrs["config"] for trial in read_trials(searched.journal)}[best]
    said: list[str] = []
    executor = Recording(diverges=lambda job: job.config == config)
    outcome = go_on(searched, executor, said=said, n=1)
    choice = (searched.read_summary() or {})["choice"]
    rows = {row["trial"]: row for row in choice["candidates"]}
    assert (rows[best]["mean"], rows[best]["value_per_seed"], choice["optimism"]) == (None, {}, None)
    assert "loss/critic" in rows[best]["failure"]
    # the others' first curves were kept
    assert len(executor.trained) == len(set(executor.trained)) == 2 + 2 + 1
    assert f"trial {best} failed" in outcome_text(outcome, default_uri())
    assert any(f"given up: trial {best} failed (" in line for line in said)
    shutil.rmtree(searched.path / "confirm")
    with pytest.raises(ConfirmationFailedError, match="none of the candidates is left; use --confirm-top 1"):
        go_on(searched, Recording(diverges=lambda job: True))


def test_where_all_that_are_left_diverge_the_best_that_was_given_up_is_taken_back(searched: RunDirectory) -> None:
    second = searched.search.seed + 2
    said: list[str] = []
    go_on(searched, Recording(diverges=lambda job: job.seed == second), said=said, n=1)
    choice = (searched.read_summary() or {})["choice"]
    sound = [row for row in choice["candidates"] if row["failure"] is None]
    assert choice["chosen"] == max(sound, key=lambda row: (row["mean"], -row["trial"]))["trial"]
    assert len(sound) < len(choice["candidates"])


def test_every_reader_says_what_was_chosen(searched: RunDirectory, command: Callable[..., Any]) -> None:
    outcome = go_on(searched, Recording())
    choice = (searched.read_summary() or {})["choice"]
    chosen, best = choice["chosen"], outcome.winner and outcome.winner.number
    rows = {row["trial"]: row for row in choice["candidates"]}
    candidate = f"trial {chosen} {rows[chosen]['mean']:.3f} ± {rows[chosen]['sd']:.3f} (2 seeds, chosen)"
    optimism = f"ptimism of the search: {choice['optimism']:+.3f} (trial {best}: "
    text = outcome_text(outcome, default_uri())
    note = _parent_note(searched)
    material = read_material(searched)
    page = "".join(outcome_parts(material))
    for said in (text, note, page):
        assert candidate in said
        assert optimism in said
    assert f"Configuration of trial {chosen}: searched" in "".join(configuration(material))
    assert "earlier command" not in note + page
    (row,) = leaderboard_rows()
    config = {trial.number: trial.user_attrs["config"] for trial in read_trials(searched.journal)}
    assert row["val_H"] == pytest.approx(rows[chosen]["mean"])
    for document in (confirmed_document(searched), trial_document(searched, chosen)):
        assert (document["source"]["trial"], document["config"]) == (chosen, config[chosen])
    assert trial_document(searched, best or 0)["test"] is None
    assert read_side(searched.name, None).configuration.source["trial"] == chosen
    assert json.loads((searched.model / "model.json").read_text(encoding="utf-8"))["source"]["trial"] == chosen
    for form in ("yaml", "json", "python", "shell"):
        end = command("export", searched.name, "--format", form, "-o", f"best.{form}")
        assert end.code == 0, end.err
        words = "" if form == "json" else f"# candidates, val/H with fresh seeds: {candidate}"
        assert words in Path(f"best.{form}").read_text(encoding="utf-8")
    source = read_document(Path("best.yaml"))["source"]
    assert source["choice"] == read_document(Path("best.json"))["source"]["choice"] == choice
    end = command("resume", searched.name, "--confirm-top", 0)
    assert (end.code, end.err.count("\n")) == (2, 1), end.err
    assert "--confirm-top 0: must be 1 or more" in end.err
    end = command("resume", searched.name, "--json")
    assert (end.code, json.loads(end.out)["choice"]) == (0, choice), end.err


def _parent_note(run: RunDirectory) -> str:
    client = MlflowClient(default_uri())
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    (parent,) = client.search_runs(ids, "tags.kind = 'search'")
    return str(parent.data.tags["mlflow.note.content"])


def test_a_test_selected_search_has_no_such_choice(toy_run: MakeRun, command: Callable[..., Any]) -> None:
    words = ("--protocol", "published", "--confirm-top", 3)
    end = command("search", "--dataset", "hanzi", *words)
    assert (end.code, end.err.count("\n")) == (2, 1), end.err
    assert "--confirm-top 3: the trials of a test-selected search" in end.err
    run = toy_run(protocol="published")
    with pytest.raises(UsageError, match="--confirm-top 3"):
        go_on(run, Recording(), top=3)
    assert not run.journal.exists()


def test_the_estimate_counts_the_rounds() -> None:
    probe = Probe(0.0, 1.0, 10, 0.0, 1, 0, 0, 0, 0)
    plan = Plan(8, None, Resources(executor="local"), 4, False, "", confirm_top=5)

    def seconds(at_once: int, **changed: Any) -> float:
        budget = {"updates": 10, "evaluations": 1}
        return estimate(probe, Plan(**{**vars(plan), **changed}), budget, 0, at_once).confirm_seconds

    # 5, 3 and 2 candidates, then one more seed of the chosen one, and four tests, 10 s each
    assert seconds(1) == 10 * (5 + 3 + 2 + 1 + 4)
    assert seconds(4) == 10 * (2 + 1 + 1 + 1 + 1)
    assert seconds(1, confirm_top=1) == 10 * (4 + 4)
    assert seconds(1, trials=2) == 10 * (2 + 3 + 4)
    assert seconds(1, confirm_seeds=0) == 0

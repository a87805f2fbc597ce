"""A run that is resumed with something else: refused and left as it was, or extended with that on record."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from d3tune.errors import RunError
from d3tune.method.generators import load_backbone
from d3tune.search.executor import StopSignal, choice
from d3tune.search.executor.inprocess import InProcessExecutor
from d3tune.search.invariants import best_value
from d3tune.search.replay import replay_suggestions
from d3tune.search.reports import Report
from d3tune.search.run import RunDirectory, extend_run, open_run
from d3tune.search.search import Outcome
from d3tune.search.study import Ledger, read_trials
from d3tune.space import Parameter, Space, WarmStart
from d3tune.yamlfile import read_yaml

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

ToyRun = Callable[..., RunDirectory]
CarryOut = Callable[..., Outcome]
Open = Callable[..., Ledger]
Sound = Callable[..., None]
Command = Callable[..., Any]
Options = Callable[..., tuple[str, ...]]
OnReport = Callable[[Callable[[int, Report], None]], None]
LOCAL = ("--executor", "local", "--confirm-seeds", "0")


def content(run: RunDirectory) -> dict[Path, tuple[int, bytes]]:
    files = (path for path in run.path.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files if path.name != "lock"}


CHANGES: dict[str, tuple[tuple[str, ...], str]] = {
    "a fixed value": (("--set", "teacher_epochs=3"), "(teacher_epochs: 2 → 3)"),
    "a fixed parameter": (("--set", "gcls_weight=0.5"), "(gcls_weight: 0.01 to 5, log, or 0 → 0.5)"),
    "the seed": (("--seed", "3"), "(search.seed: 2 → 3)"),
    "the sampler": (("--sampler", "random"), "(search.sampler: auto → random)"),
    "the dataset": (("--dataset", "hanzi"), "(search.dataset: toy → hanzi/0"),
    "the budget": (("--set", "updates=40"), "(updates: 20 → 40)"),
}


NEVER = ("the seed", "the dataset", "the budget")


@pytest.mark.parametrize("change", ["a fixed value", "a fixed parameter", "the sampler", "the dataset", "the budget"])
def test_another_search_in_the_same_run_is_refused_with_the_difference(
    change: str, toy_run: ToyRun, carry_out: CarryOut, toy_options: Options, command: Command
) -> None:
    run = toy_run(run_dir=Path("run"))
    carry_out(run, trials=1)
    before = content(run)
    options, words = CHANGES[change]
    end = command("search", *toy_options(), *LOCAL, "--run-dir", "run", *options)
    assert (end.code, end.out, end.err.count("\n")) == (1, "", 1)
    assert end.err.startswith(f"d3tune: {run.path}: holds another search (")
    assert words in end.err
    # only where that is possible
    assert end.err.endswith("; give another --run-dir\n" if change in NEVER else ", or --extend this one\n")
    assert content(run) == before


@pytest.mark.parametrize("change", NEVER)
def test_an_extension_whose_trials_would_not_compare_is_refused(
    change: str, toy_run: ToyRun, carry_out: CarryOut, toy_options: Options, command: Command
) -> None:
    run = toy_run(run_dir=Path("run"))
    carry_out(run, trials=1)
    before = content(run)
    options, words = CHANGES[change]
    end = command("search", *toy_options(), *LOCAL, "--run-dir", "run", "--extend", *options)
    assert (end.code, end.out, end.err.count("\n")) == (1, "", 1)
    assert end.err.startswith(f"d3tune: {run.path}: cannot be extended by this, its trials would not be comparable (")
    assert words in end.err
    assert content(run) == before


def test_extending_needs_a_run(toy_options: Options, command: Command) -> None:
    end = command("search", *toy_options(), *LOCAL, "--extend")
    assert (end.code, end.err) == (2, "d3tune: --extend: needs --run-dir, the run to extend\n")


# Optuna's side of it: the study alone


def within(space: Space, **intervals: Parameter) -> Space:
    return Space(space.backbone, space.fixed, {**space.parameters, **intervals}, space.warm_start)


def points(*rates: float) -> tuple[WarmStart, ...]:
    return tuple(WarmStart(name=f"at {rate}", source="", values={"head_lr": rate, "ood_weight": 0}) for rate in rates)


def test_warm_starts_outside_a_narrowed_interval_are_suggested_within_it(open_ledger: Open, space: Space) -> None:
    """What else they say still holds; the one that began before is as it was."""
    wide = within(space, head_lr=Parameter(low=1e-4, high=0.05, log=True))
    narrow = within(space, head_lr=Parameter(low=1e-3, high=1e-2, log=True))
    assert open_ledger(space=wide, points=points(2e-4, 3e-4, 2e-3, 4e-2)).next_trial(9) is not None
    ledger = open_ledger(space=narrow)
    trials = [ledger.next_trial(9) for _ in range(5)]
    rates = [trial.config["head_lr"] for trial in trials if trial is not None]
    assert rates[0] == 2e-4
    assert all(1e-3 <= rate <= 1e-2 for rate in rates[1:])
    assert rates[2] == 2e-3
    assert len(set(rates)) == 5
    stored = open_ledger(space=narrow).trials()
    assert [trial.user_attrs.get("warm_start") for trial in stored] == [f"at {r}" for r in (2e-4, 3e-4, 2e-3, 4e-2)] + [
        None
    ]
    assert all(trial.user_attrs["config"]["ood_weight"] == 0 for trial in stored[:4])


def test_a_failed_trial_outside_a_narrowed_interval_is_tried_again_within_it(open_ledger: Open, space: Space) -> None:
    wide = within(space, head_lr=Parameter(low=1e-4, high=0.05, log=True))
    narrow = within(space, head_lr=Parameter(low=1e-3, high=1e-2, log=True))
    ledger = open_ledger(space=wide, points=points(2e-4))
    first = ledger.next_trial(9)
    assert first is not None
    ledger.fail(first.number, "no luck")
    ledger = open_ledger(space=narrow)
    assert ledger.retry_failed(1) == [0]
    again = ledger.next_trial(9)
    assert again is not None
    assert 1e-3 <= again.config["head_lr"] <= 1e-2
    same = first.config.keys() - {"head_lr"}
    assert {name: again.config[name] for name in same} == {name: first.config[name] for name in same}


def test_a_warm_start_of_what_is_fixed_or_always_on_now_is_no_hindrance(open_ledger: Open, space: Space) -> None:
    always_on = within(space, ood_weight=Parameter(low=0.001, high=1, log=True))
    parameters = {name: parameter for name, parameter in space.parameters.items() if name != "head_lr"}
    fixed = Space(space.backbone, {**space.fixed, "head_lr": 0.005}, parameters, ())
    first = open_ledger(points=points(2e-3, 3e-3, 4e-3)).next_trial(9)
    second = [trial for trial in map(open_ledger(space=always_on).next_trial, (9, 9)) if trial is not None][-1]
    third = [trial for trial in map(open_ledger(space=fixed).next_trial, (9, 9, 9)) if trial is not None][-1]
    assert first is not None
    assert (first.config["head_lr"], first.config["ood_weight"]) == (2e-3, 0)
    assert second.config["head_lr"] == 3e-3
    assert second.config["ood_weight"] >= 0.001
    assert third.config["head_lr"] == 0.005


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Parameter(low=0.001, high=0.01), ", log → 0.001 to 0.01)"),
        (Parameter(choices=[0.001, 0.002]), ", log → one of 0.001, 0.002)"),
    ],
    ids=["scale", "choices"],
)
def test_another_scale_or_other_choices_are_refused(
    change: Parameter, words: str, toy_run: ToyRun, carry_out: CarryOut
) -> None:
    run = toy_run(run_dir=Path("run"))
    carry_out(run, trials=1)
    config = load_backbone("gan").config
    before = content(run)
    space = within(run.load_space(config), head_lr=change)
    with run.owned(), pytest.raises(RunError, match="would not be comparable") as error:
        extend_run(run, run.search, space, config)
    assert words in str(error.value)
    assert content(run) == before


# a whole search


def test_an_extension_is_on_record_and_the_search_goes_on_with_it(
    toy_run: ToyRun, carry_out: CarryOut, sound: Sound
) -> None:
    """Twice, beyond the sampler's startup; every suggestion can be made again."""
    run = toy_run(run_dir=Path("run"))
    carry_out(run, trials=11)
    best = best_value(run)
    once = toy_run({"head_lr": 0.002}, run_dir=Path("run"), extend=True)
    carry_out(once, trials=12)
    twice = toy_run({"head_lr": 0.002}, run_dir=Path("run"), sampler="random", pruner="none", extend=True)
    carry_out(twice, trials=13)
    assert toy_run({"head_lr": 0.002}, run_dir=Path("run"), sampler="random", pruner="none", extend=True) == twice
    sound(twice, 13)
    assert best_value(twice) >= best
    document = read_yaml(run.path / "run.yaml")
    assert [extension["trials"] for extension in document["extensions"]] == [11, 12]
    assert document["extensions"][0]["space"] == run.space
    assert [line.split(" → ")[1] for line in document["extensions"][0]["changes"]] == ["0.002"]
    assert document["extensions"][1]["changes"] == ["search.pruner: auto → none", "search.sampler: auto → random"]
    assert document["extensions"][1]["search"]["sampler"] == "auto"
    replayed = replay_suggestions(open_run("run"))
    assert (replayed.compared, replayed.differences) == (13, [])


def test_an_extension_with_an_interrupted_trial_finishes_that_as_it_was_begun(
    toy_run: ToyRun, carry_out: CarryOut, sound: Sound, on_report: OnReport
) -> None:
    run, stop = toy_run(run_dir=Path("run")), StopSignal()

    def stop_at(n: int, _: Report) -> None:
        stop.requested = n == 6

    on_report(stop_at)
    carry_out(run, trials=3, stop=stop)
    begun = read_trials(run.journal)
    assert [trial.state for trial in begun] == [TrialState.COMPLETE, TrialState.RUNNING]
    on_report(lambda n, _: None)
    extended = toy_run({"head_lr": 0.002}, run_dir=Path("run"), extend=True)
    carry_out(extended, trials=3)
    sound(extended, 3)
    trials = read_trials(extended.journal)
    assert [trial.params for trial in trials[:2]] == [trial.params for trial in begun]
    assert "head_lr" not in trials[2].params
    replayed = replay_suggestions(extended)
    assert (replayed.compared, replayed.differences) == (3, [])


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1)])
def test_another_number_of_trials_at_once_goes_on_with_the_interrupted_ones(
    before: int,
    after: int,
    toy_run: ToyRun,
    carry_out: CarryOut,
    sound: Sound,
    on_report: OnReport,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, stop = toy_run(), StopSignal()

    def stop_at(n: int, _: Report) -> None:
        stop.requested = n == 7

    on_report(stop_at)
    monkeypatch.setattr(choice, "InProcessExecutor", lambda: InProcessExecutor(workers=before))
    carry_out(run, trials=6, stop=stop)
    begun = read_trials(run.journal)
    assert 1 <= sum(trial.state == TrialState.RUNNING for trial in begun) <= before
    on_report(lambda n, _: None)
    monkeypatch.setattr(choice, "InProcessExecutor", lambda: InProcessExecutor(workers=after))
    carry_out(run, trials=6)
    sound(run, 6)
    trials = read_trials(run.journal)
    assert [trial.params for trial in trials[: len(begun)]] == [trial.params for trial in begun]
    assert replay_suggestions(run).differences == []

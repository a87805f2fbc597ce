"""The study as a ledger: what it gives out, and what it keeps of reports and ends. Nothing is trained here."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from d3tune.errors import RunError
from d3tune.method.generators import load_backbone
from d3tune.search.journal import Journal
from d3tune.search.reports import Report
from d3tune.search.sampling import suggest
from d3tune.search.standing import winner
from d3tune.search.study import Ledger, counts, read_trials, reports_of
from d3tune.space import Space, WarmStart

Open = Callable[..., Ledger]
MakeReport = Callable[[int, float], Report]
STEPS = (10, 20, 30, 40)
D3_WEIGHTS = ("cls_weight", "embedding_weight", "label_weight", "ood_weight")


def run_through(ledger: Ledger, number: int, values: list[float], report: MakeReport) -> bool:
    """Report and complete; False where it was pruned."""
    for step, value in zip(STEPS, values, strict=True):
        if ledger.report(number, report(step, value)):
            return False
    ledger.complete(number)
    return True


def lead(ledger: Ledger, report: MakeReport) -> None:
    """Three good trials: nobody is pruned before a few have been at the same update."""
    for _ in range(3):
        (trial,) = _take(ledger, 1)
        assert run_through(ledger, trial.number, [0.5, 0.6, 0.6, 0.7], report)


def points(*rates: float) -> tuple[WarmStart, ...]:
    return tuple(
        WarmStart(name=f"point {rate}", source="a paper", values={"head_lr": rate, "label_weight": 0}) for rate in rates
    )


def test_warm_starts_come_first_and_once_across_openings(open_ledger: Open, report: MakeReport) -> None:
    warm = points(2e-3, 3e-3)
    ledger = open_ledger(points=warm)
    first = ledger.next_trial(10)
    assert first is not None
    assert first.number == 0
    assert first.config["head_lr"] == 2e-3
    assert first.config["label_weight"] == 0
    run_through(ledger, 0, [0.1] * 4, report)
    ledger = open_ledger(points=warm)
    rates = [trial.config["head_lr"] for trial in _take(ledger, 4)]
    assert rates[0] == 3e-3
    assert not {2e-3, 3e-3} & set(rates[1:])
    names = [trial.user_attrs.get("warm_start") for trial in open_ledger(points=warm).trials()]
    assert names == ["point 0.002", "point 0.003", None, None, None]


def _take(ledger: Ledger, n: int) -> list[Any]:
    assignments = [ledger.next_trial(100) for _ in range(n)]
    assert None not in assignments
    return assignments


def test_a_warm_start_not_yet_given_out_is_no_trial(open_ledger: Open) -> None:
    ledger = open_ledger(points=points(2e-3, 3e-3))
    assert ledger.trials() == []
    assert counts(ledger.trials()) == {"complete": 0, "pruned": 0, "failed": 0, "interrupted": 0}


def test_a_pruned_trial_is_pruned_with_its_step_and_values(open_ledger: Open, report: MakeReport) -> None:
    ledger = open_ledger()
    lead(ledger, report)
    (bad,) = _take(ledger, 1)
    assert ledger.report(bad.number, report(10, 0.1))
    ledger.complete(bad.number)
    ledger.fail(bad.number, "too late")
    trial = open_ledger().trials()[bad.number]
    assert trial.state == TrialState.PRUNED
    assert trial.last_step == 10
    assert trial.intermediate_values == {10: 0.1}
    assert "failure" not in trial.user_attrs
    assert counts(ledger.trials()) == {"complete": 3, "pruned": 1, "failed": 0, "interrupted": 0}


def test_a_pruned_trial_stops_whatever_it_still_reports(open_ledger: Open, report: MakeReport) -> None:
    ledger = open_ledger()
    lead(ledger, report)
    (bad,) = _take(ledger, 1)
    assert ledger.report(bad.number, report(10, 0.1))
    assert ledger.report(bad.number, report(20, 0.9))
    assert ledger.trials()[bad.number].intermediate_values == {10: 0.1}


def test_nobody_is_pruned_among_few(open_ledger: Open, report: MakeReport) -> None:
    ledger = open_ledger()
    for value in (0.9, 0.5, 0.1):
        (trial,) = _take(ledger, 1)
        assert run_through(ledger, trial.number, [value] * 4, report)


def test_the_last_report_never_prunes(open_ledger: Open, report: MakeReport) -> None:
    ledger = open_ledger(pruner="asha")
    for value in (0.9, 0.8, 0.7, 0.6, 0.5):
        (trial,) = _take(ledger, 1)
        for step in STEPS[:3]:
            assert not ledger.report(trial.number, report(step, 0.9))
        assert not ledger.report(trial.number, report(40, value))
        ledger.complete(trial.number)
    assert counts(ledger.trials())["complete"] == 5


def test_without_a_pruner_nothing_is_pruned(open_ledger: Open, report: MakeReport) -> None:
    ledger = open_ledger(pruner="none")
    for value in (0.9, 0.5, 0.1, 0.05):
        (trial,) = _take(ledger, 1)
        assert run_through(ledger, trial.number, [value] * 4, report)
    assert counts(ledger.trials())["complete"] == 4


@pytest.mark.parametrize("pruner", ["auto", "asha", "hyperband"])
def test_each_pruner_prunes_what_is_far_behind(pruner: str, open_ledger: Open, report: MakeReport) -> None:
    ledger = open_ledger(pruner=pruner)
    for index in range(8):
        (trial,) = _take(ledger, 1)
        run_through(ledger, trial.number, [0.9 / (index + 1)] * 4, report)
    states = [trial.state for trial in ledger.trials()]
    assert states[0] == TrialState.COMPLETE
    assert TrialState.PRUNED in states
    assert all(trial.last_step < 40 for trial in ledger.trials() if trial.state == TrialState.PRUNED)
    assert all(trial.last_step == 40 for trial in ledger.trials() if trial.state == TrialState.COMPLETE)


def test_complete_needs_the_full_budget(open_ledger: Open, report: MakeReport) -> None:
    ledger = open_ledger()
    short, none = _take(ledger, 2)
    ledger.report(short.number, report(10, 0.9))
    ledger.complete(short.number)
    ledger.complete(none.number)
    trials = open_ledger().trials()
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 2
    assert trials[0].user_attrs["failure"] == "ended at update 10 of 40"
    assert trials[1].user_attrs["failure"] == "ended at update 0 of 40"
    assert ledger.running == []


def test_a_failed_trial_keeps_the_first_reason_in_one_line(open_ledger: Open) -> None:
    ledger = open_ledger()
    (trial,) = _take(ledger, 1)
    ledger.fail(trial.number, "ValueError: no\n  luck " + "x" * 1000)
    ledger.fail(trial.number, "another")
    ledger.complete(trial.number)
    kept = open_ledger().trials()[0]
    assert kept.state == TrialState.FAIL
    assert kept.user_attrs["failure"].startswith("ValueError: no luck xxx")
    assert len(kept.user_attrs["failure"]) <= 500


def test_repeated_reports_change_nothing(open_ledger: Open, report: MakeReport) -> None:
    ledger = open_ledger()
    (trial,) = _take(ledger, 1)
    ledger.report(trial.number, report(10, 0.5))
    ledger.report(trial.number, report(20, 0.4))
    before = ledger.trials()[0]
    for step, value in ((10, 0.9), (20, 0.8), (20, 0.4)):
        assert not ledger.report(trial.number, report(step, value))
    after = open_ledger().trials()[0]
    assert after.intermediate_values == before.intermediate_values == {10: 0.5, 20: 0.5}
    assert reports_of(after) == [report(10, 0.5), report(20, 0.4)]


def test_a_value_is_the_best_so_far_and_the_best_update_is_kept(open_ledger: Open, report: MakeReport) -> None:
    ledger = open_ledger(pruner="none")
    (trial,) = _take(ledger, 1)
    run_through(ledger, trial.number, [0.2, 0.6, 0.3, 0.6], report)
    kept = open_ledger().trials()[0]
    assert kept.intermediate_values == {10: 0.2, 20: 0.6, 30: 0.6, 40: 0.6}
    assert kept.value == 0.6
    assert kept.user_attrs["best_update"] == 20
    assert kept.user_attrs["best_head"] == "softmax"
    assert [item.value for item in reports_of(kept)] == [0.2, 0.6, 0.3, 0.6]


def test_interrupted_trials_come_first_with_the_same_configuration(open_ledger: Open, report: MakeReport) -> None:
    ledger = open_ledger(points=points(2e-3, 3e-3, 4e-3))
    given = _take(ledger, 3)
    ledger.report(given[0].number, report(10, 0.3))
    ledger.report(given[0].number, report(20, 0.3))
    run_through(ledger, given[1].number, [0.1] * 4, report)
    again = open_ledger(points=points(2e-3, 3e-3, 4e-3))
    first, second, new = _take(again, 3)
    assert (first.number, first.config, first.known_update) == (0, given[0].config, 20)
    assert (second.number, second.config, second.known_update) == (2, given[2].config, 0)
    assert (new.number, new.known_update) == (3, 0)
    assert not again.report(0, report(30, 0.4))
    assert not again.report(0, report(40, 0.4))
    again.complete(0)
    assert again.trials()[0].state == TrialState.COMPLETE
    assert again.trials()[0].value == 0.4


def test_a_trial_cut_between_last_report_and_end_is_completed(open_ledger: Open, report: MakeReport) -> None:
    ledger = open_ledger()
    (trial,) = _take(ledger, 1)
    for step in STEPS:
        ledger.report(trial.number, report(step, 0.5))
    again = open_ledger()
    (same,) = _take(again, 1)
    assert (same.number, same.known_update) == (0, 40)
    again.report(0, report(40, 0.5))
    again.complete(0)
    assert again.trials()[0].state == TrialState.COMPLETE


def test_a_trial_cut_before_its_configuration_was_kept_is_given_again(open_ledger: Open) -> None:
    """A process that died between asking and recording costs no trial, and a warm start stays one."""
    ledger = open_ledger()
    first = ledger.study.ask()
    again = open_ledger()
    (trial,) = _take(again, 1)
    assert trial.number == first.number == 0
    assert again.trials()[0].user_attrs["config"] == trial.config
    assert _take(again, 1)[0].number == 1


def test_the_limit_holds_and_counts_every_state(open_ledger: Open, report: MakeReport) -> None:
    ledger = open_ledger(points=points(2e-3))
    a, b, _ = _take(ledger, 3)
    run_through(ledger, a.number, [0.5] * 4, report)
    ledger.fail(b.number, "no luck")
    assert ledger.next_trial(3) is None
    assert len(ledger.trials()) == 3
    again = open_ledger(points=points(2e-3))
    interrupted = again.next_trial(3)
    assert interrupted is not None
    assert interrupted.number == 2
    assert again.next_trial(3) is None
    assert again.next_trial(4) is not None


def test_an_interrupted_trial_goes_on_even_where_fewer_are_wanted_now(open_ledger: Open) -> None:
    _take(open_ledger(), 3)
    again = open_ledger()
    assert [again.next_trial(1).number for _ in range(3)] == [0, 1, 2]  # type: ignore[union-attr]
    assert again.next_trial(1) is None


def objective(config: dict[str, Any]) -> float:
    return 1 / (1 + abs(config["head_lr"] - 3e-3) * 500 + config["label_weight"])


def play(open_ledger: Open, report: MakeReport, file: str, n: int, reopen: set[int], seed: int = 0) -> list[Any]:
    """Two trials at a time, the second one ending first; the ledger is opened again within the pairs of ``reopen``."""
    ledger = open_ledger(file=file, seed=seed, pruner="none")
    configs = []
    for pair in range(n // 2):
        a, b = _take(ledger, 2)
        configs += [a.config, b.config]
        ledger.report(a.number, report(10, objective(a.config)))
        if pair in reopen:
            ledger = open_ledger(file=file, seed=seed, pruner="none")
            again = _take(ledger, 2)
            assert [item.config for item in again] == [a.config, b.config]
        for item in (b, a):
            run_through(ledger, item.number, [objective(item.config)] * 4, report)
    return configs


def test_suggestions_depend_on_seed_and_completion_order_alone(open_ledger: Open, report: MakeReport) -> None:
    straight = play(open_ledger, report, "a", 16, set())
    assert play(open_ledger, report, "b", 16, {0, 3, 6, 7}) == straight
    assert play(open_ledger, report, "c", 4, set(), seed=1) != straight[:4]
    rates = [config["head_lr"] for config in straight]
    assert len(set(rates)) == len(rates)


@pytest.mark.parametrize("sampler", ["random", "gp", "cmaes"])
def test_a_resumed_sampler_does_not_repeat_itself(sampler: str, open_ledger: Open, report: MakeReport) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    rates = []
    for _ in range(4):
        ledger = open_ledger(sampler=sampler)
        for assignment in _take(ledger, 3):
            rates.append(assignment.config["head_lr"])
            run_through(ledger, assignment.number, [objective(assignment.config)] * 4, report)
    assert len(set(rates)) == 12


def test_the_winner_is_the_best_complete_trial(open_ledger: Open, report: MakeReport) -> None:
    ledger = open_ledger(pruner="none")
    assert winner(ledger.trials()) is None
    a, b, c, d = _take(ledger, 4)
    run_through(ledger, a.number, [0.4] * 4, report)
    assert not ledger.report(b.number, report(10, 0.99))
    ledger.study.tell(b.number, state=TrialState.PRUNED)
    ledger.report(c.number, report(10, 0.98))
    ledger.fail(c.number, "no luck")
    run_through(ledger, d.number, [0.1, 0.4, 0.1, 0.1], report)
    best = winner(ledger.trials())
    assert best is not None
    assert (best.number, best.value) == (0, 0.4)


def test_inactive_parameters_are_absent_and_an_off_weight_is_exactly_0(space: Space) -> None:
    config = load_backbone("gan").config
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=5))
    seen: dict[str, set[bool]] = {name: set() for name in D3_WEIGHTS}
    for _ in range(60):
        trial = study.ask()
        values = suggest(trial, space, config)
        for name in D3_WEIGHTS:
            parameter = space.parameters[name]
            seen[name].add(values[name] == 0)
            assert values[name] == 0 or parameter.low <= values[name] <= parameter.high
            assert (name in trial.params) == (values[name] > 0)
        assert ("temperature" in values) == (values["label_weight"] > 0) == ("temperature" in trial.params)
        assert ("ood_score" in values) == (values["ood_weight"] > 0)
        assert ("student_lr" in values) == any(values[name] > 0 for name in D3_WEIGHTS)
        config(**values)
    assert all(both == {True, False} for both in seen.values())


def test_the_kept_configuration_is_whole(open_ledger: Open) -> None:
    (trial,) = _take(open_ledger(), 1)
    config = load_backbone("gan").config
    assert set(trial.config) == set(config.model_fields)
    assert config(**trial.config).updates == 40


def test_a_suggestion_that_the_configuration_refuses_does_not_end_the_search(
    open_ledger: Open, space: Space, report: MakeReport
) -> None:
    """With the student's own head alone, a draw with all of its weights off leaves no head."""
    narrow = space.with_fixed({"heads": ["student"]})
    ledger = open_ledger(space=narrow, sampler="random")
    for _ in range(25):
        assignment = ledger.next_trial(1000)
        assert assignment is not None
        run_through(ledger, assignment.number, [0.5] * 4, report)


def test_a_damaged_journal_is_one_clear_error(open_ledger: Open, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"\x00\xffnot a journal\n" * 3)
    with pytest.raises(RunError, match="bad: the study's journal cannot be read"):
        open_ledger(file="bad")


def test_a_line_half_written_by_a_killed_process_is_dropped(
    open_ledger: Open, report: MakeReport, tmp_path: Path
) -> None:
    ledger = open_ledger()
    (trial,) = _take(ledger, 1)
    ledger.report(trial.number, report(10, 0.5))
    journal = tmp_path / "study.journal"
    with journal.open("ab") as file:
        file.write(b'{"op_code": 6, "worker_id": "x", "tri')
    again = open_ledger()
    (same,) = _take(again, 1)
    assert (same.number, same.config, same.known_update) == (0, trial.config, 10)
    run_through(again, 0, [0.5] * 4, report)
    assert open_ledger().trials()[0].state == TrialState.COMPLETE


def with_t1(made: Report, values: dict[str, float], chance: float = 0.25) -> Report:
    heads = {f"val/{head}/T1": value for head, value in values.items()}
    return replace(made, metrics={**made.metrics, **heads, "val/T1_chance": chance})


@pytest.mark.parametrize(("late", "state"), [(0.26, TrialState.FAIL), (0.9, TrialState.COMPLETE)])
def test_a_trial_that_only_guesses_is_a_failure(
    late: float, state: TrialState, open_ledger: Open, report: MakeReport
) -> None:
    """One head that learned something is enough, however late."""
    ledger = open_ledger()
    (trial,) = _take(ledger, 1)
    for step in STEPS:
        t1 = {"softmax": 0.2, "lda": late if step == 40 else 0.1}
        assert not ledger.report(trial.number, with_t1(report(step, 0.1), t1))
    ledger.complete(trial.number)
    (frozen,) = open_ledger().trials()
    assert frozen.state == state
    if state == TrialState.FAIL:
        assert frozen.user_attrs["failure"] == (
            "collapsed: mean T1 0.200, where guessing among the unseen classes reaches 0.250"
        )
        assert winner(open_ledger().trials()) is None


def test_a_failure_after_the_last_report_is_the_end_of_a_trial(open_ledger: Open, report: MakeReport) -> None:
    ledger = open_ledger(pruner="none")
    (trial,) = _take(ledger, 1)
    for step in STEPS:
        ledger.report(trial.number, report(step, 0.5))
    ledger.fail(trial.number, "its worker process died 3 times")
    ledger.complete(trial.number)
    (found,) = ledger.trials()
    assert (found.state, found.user_attrs["failure"]) == (TrialState.FAIL, "its worker process died 3 times")


def test_a_process_that_died_while_it_enqueued_warm_starts_does_not_try_them_twice(
    open_ledger: Open, tmp_path: Path
) -> None:
    warm = points(2e-3, 3e-3)
    open_ledger(points=warm)
    journal = tmp_path / "study.journal"
    lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if "warm_starts_of" in line)
    journal.write_text("".join(lines[:last]), encoding="utf-8")
    rates = [trial.config["head_lr"] for trial in _take(open_ledger(points=warm), 5)]
    assert rates[:2] == [2e-3, 3e-3]
    assert not {2e-3, 3e-3} & set(rates[2:])


def test_a_journal_of_two_studies_is_refused(open_ledger: Open, tmp_path: Path) -> None:
    open_ledger()
    path = tmp_path / "study.journal"
    optuna.create_study(storage=optuna.storages.JournalStorage(Journal(path)), study_name="another")
    with pytest.raises(RunError, match="it holds 2 studies"):
        open_ledger()
    with pytest.raises(RunError, match="it holds 2 studies"):
        read_trials(path)


def test_a_journal_that_ends_in_half_a_line_is_read_without_it_and_left_alone(
    open_ledger: Open, report: MakeReport, tmp_path: Path
) -> None:
    ledger = open_ledger(pruner="none")
    for trial in _take(ledger, 2):
        run_through(ledger, trial.number, [0.1, 0.2, 0.3, 0.4], report)
    path = tmp_path / "study.journal"
    whole = [(trial.number, trial.intermediate_values) for trial in read_trials(path)]
    with path.open("ab") as file:
        file.write(b'{"op_code":4,"worker_id":"half')
    before = path.read_bytes()
    assert [(trial.number, trial.intermediate_values) for trial in read_trials(path)] == whole
    assert path.read_bytes() == before

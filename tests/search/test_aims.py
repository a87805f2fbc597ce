"""Two aims and constraints: what is told to Optuna, who may win, what is on the front, and what a search leaves."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from d3tune.config import Resources, SearchConfig
from d3tune.errors import NoUsableTrialError, RunError, UsageError
from d3tune.search.aims import Constraint, aims_words, parse_constraints, parse_objective, value_of
from d3tune.search.confirm import point_of
from d3tune.search.front import front_of
from d3tune.search.replay import replay_suggestions
from d3tune.search.reports import Report, best_report
from d3tune.search.run import RunDirectory, open_run
from d3tune.search.search import Outcome, training_job
from d3tune.search.standing import ranked_trials, winner
from d3tune.search.study import Ledger, read_trials, reports_of
from d3tune.search.study_copy import copy_name
from d3tune.search.tracking import default_uri
from d3tune.search.unmet import unmet_constraints

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

OpenLedger = Callable[..., Ledger]
ToyRun = Callable[..., RunDirectory]
CarryOut = Callable[..., Outcome]
Command = Callable[..., Any]
IDENTITY = {"dataset": "toy", "dataset_hash": "0", "semantics": "att10", "features": "res101", "backbone": "gan"}


def searching(**search: Any) -> SearchConfig:
    return SearchConfig(**{**IDENTITY, **search})


def told(values: list[float], holds: bool = True, number: int = 0) -> FrozenTrial:
    """A complete trial of two aims as Optuna has it, with 0.5 as its objective."""
    report = Report(10, 0.5, "softmax", {}, 1.0)
    attributes: dict[str, Any] = {"best_update": 10, "report:00000010": report.to_dict()}
    trial = optuna.trial.create_trial(values=values, user_attrs=attributes, constraints={"T1>=0.1": 0.1 - holds})
    trial.number = number
    return trial


def evaluation(update: int, S: float, U: float, seconds: float = 1.0) -> Report:
    H = 2 * S * U / (S + U)
    metrics = {"val/H": H, "val/softmax/H": H, "val/S": S, "val/U": U, "val/T1": U}
    return Report(update, H, "softmax", metrics, seconds)


def train(ledger: Ledger, *points: tuple[float, float], seconds: float = 1.0) -> int:
    """Carry out a trial of 40 updates whose evaluations have these S and U; the later ones the last."""
    assignment = ledger.next_trial(1000)
    assert assignment is not None
    reached = [*points, *([points[-1]] * (4 - len(points)))]
    for index, (S, U) in enumerate(reached):
        assert not ledger.report(assignment.number, evaluation(10 * (index + 1), S, U, seconds * (index + 1)))
    ledger.complete(assignment.number)
    return assignment.number


@pytest.mark.parametrize(
    ("text", "objective", "aims"),
    [
        ("H", "H", ()),
        ("AUSUC", "AUSUC", ()),
        ("S,U", "H", ("S", "U")),
        ("H, seconds", "H", ("H", "seconds")),
        ("seconds,AUSUC", "AUSUC", ("seconds", "AUSUC")),
        ("T1,H_raw", "H_raw", ("T1", "H_raw")),
    ],
)
def test_an_objective_names_one_quantity_or_two(text: str, objective: str, aims: tuple[str, ...]) -> None:
    assert parse_objective(text) == (objective, aims)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("S", "known: H, H_raw, AUSUC"),
        ("S,", "--objective : no such choice"),
        ("S,S", "one aim or two different ones"),
        ("S,U,H", "one aim or two different ones"),
        ("S,accuracy", "--objective accuracy"),
    ],
)
def test_another_objective_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_objective(text)
    assert words in str(refused.value)


def test_constraints_are_kept_in_one_form_and_order() -> None:
    wanted = ("S>=0.5", "seconds<=60")
    assert parse_constraints(["seconds <= 6e1", "S>=.50", "S >= 0.5"]) == wanted
    assert parse_constraints(wanted) == wanted
    low, high = map(Constraint.parse, wanted)
    assert [low.violation(value) for value in (0.5, 0.25, 0.75)] == [0.0, 0.5, -0.5]
    assert [high.violation(value) for value in (60.0, 66.0)] == [0.0, 0.1]
    assert [Constraint.parse(text).violation(0.25) for text in ("S>=0", "S<=0")] == [-0.25, 0.25]


@pytest.mark.parametrize("objective", ["H_raw,S", "H,H_raw", "H_raw"])
def test_what_is_read_at_an_offset_does_not_go_with_models_that_have_none(objective: str, toy_run: ToyRun) -> None:
    wanted = {"constraints": ("U>=0.1",)} if objective == "H_raw" else {}
    if objective == "H,H_raw":
        assert toy_run(objective=objective).search.objective == "H", "the first leads, and has one"
        return
    with pytest.raises(UsageError, match="its models have no offset"):
        toy_run(objective=objective, **wanted)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("S>0.5", "write it as NAME>=BOUND"),
        ("S", "write it as NAME>=BOUND"),
        ("0.1<=S<=0.5", "write it as NAME>=BOUND"),
        ("s>=0.5", "--constraint s"),
        ("S>=half", "must be a number in [0, 1]"),
        ("S>=50", "must be a number in [0, 1]"),
        ("S>=nan", "must be a number in [0, 1]"),
        ("seconds<=-1", "must be a number of seconds"),
        ("seconds<=inf", "must be a number of seconds"),
    ],
)
def test_another_constraint_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_constraints([text])
    assert words in str(refused.value)


def test_a_search_without_them_is_the_search_it_always_was() -> None:
    plain = searching()
    assert not {"aims", "constraints"} & plain.model_dump(mode="json").keys()
    assert "aims" not in plain.model_dump_json()
    assert SearchConfig.model_validate(plain.model_dump(mode="json")) == plain
    both = searching(aims=("S", "U"), constraints=("S>=0.5",))
    assert SearchConfig.model_validate(json.loads(both.model_dump_json())) == both
    assert aims_words(plain) == "val/H"
    assert aims_words(both) == "val/S and val/U, the winner by val/H, where S>=0.5"


accuracies = st.integers(0, 8).map(lambda eighths: eighths / 8)


def slow_volume(gains: list[tuple[float, float]]) -> float:
    """Area of the cells between all coordinates whose upper right corner some point reaches."""
    xs, ys = (sorted({0.0, *(gain[axis] for gain in gains)}) for axis in (0, 1))
    cells = [((x1 - x0) * (y1 - y0), x1, y1) for x0, x1 in pairwise(xs) for y0, y1 in pairwise(ys)]
    return sum(area for area, x, y in cells if any(a >= x and b >= y for a, b in gains))


@settings(deadline=None)
@given(st.lists(st.tuples(accuracies, accuracies, st.booleans()), max_size=12))
def test_the_front_is_what_no_other_exceeds_and_its_volume_the_area_below(
    points: list[tuple[float, float, bool]],
) -> None:
    trials = [told([S, U], holds, number) for number, (S, U, holds) in enumerate(points)]
    found = front_of(trials, searching(aims=("S", "U"), constraints=("T1>=0.1",)))
    assert found is not None
    holding = [(S, U) for S, U, holds in points if holds]
    wanted = {p for p in holding if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in holding)}
    assert {tuple(trial.values) for trial in found.trials} == wanted
    assert len(found.trials) == len(wanted), "of equal ones one"
    assert all(trial.number == holding_first(points, trial.values) for trial in found.trials)
    assert found.hypervolume == pytest.approx(slow_volume(holding))


def holding_first(points: list[tuple[float, float, bool]], values: list[float]) -> int:
    return next(number for number, (S, U, holds) in enumerate(points) if holds and values == [S, U])


def test_seconds_are_an_aim_to_be_small() -> None:
    trials = [told([H, s], number=n) for n, (H, s) in enumerate([(0.5, 10.0), (0.4, 5.0), (0.4, 6.0), (0.1, 20.0)])]
    found = front_of(trials, searching(aims=("H", "seconds")))
    assert found is not None
    assert [trial.number for trial in found.trials] == [0, 1]
    assert found.reference == (0.0, 20.0)
    assert found.hypervolume == pytest.approx(0.5 * (1 - 10 / 20) + 0.4 * (10 / 20 - 5 / 20))
    turned = [told(trial.values[::-1], number=trial.number) for trial in trials]
    other = front_of(turned, searching(aims=("seconds", "H")))
    assert other is not None
    assert [trial.number for trial in other.trials] == [1, 0]
    assert other.hypervolume == pytest.approx(found.hypervolume)
    assert front_of(trials, searching()) is None


def test_a_trial_has_both_aims_where_its_objective_is_best(open_ledger: OpenLedger) -> None:
    ledger = open_ledger(aims=("seconds", "U"))
    number = train(ledger, (0.9, 0.1), (0.6, 0.5), (0.5, 0.5), seconds=2.5)
    (trial,) = ledger.trials()
    assert trial.state == TrialState.COMPLETE
    assert trial.values == [5.0, 0.5]
    assert value_of(trial) == pytest.approx(2 * 0.6 * 0.5 / 1.1) == best_report(reports_of(trial)).value
    assert ledger.study.directions == [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]
    assert ledger.standing.best is not None
    assert ledger.standing.best.number == number
    again = open_ledger(aims=("seconds", "U"))
    assert again.standing.best is not None
    assert again.standing.best.number == number


def test_nothing_is_pruned_where_the_objective_does_not_decide(open_ledger: OpenLedger) -> None:
    ledgers = [open_ledger("aims", aims=("S", "U")), open_ledger("bound", constraints=("S>=0.9",))]
    for ledger in ledgers:
        for S in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3):
            train(ledger, (S, S))
        assert {trial.state for trial in ledger.trials()} == {TrialState.COMPLETE}


def test_only_a_trial_that_meets_the_constraints_wins(open_ledger: OpenLedger) -> None:
    constraints = ("S>=0.5", "seconds<=30")
    ledger = open_ledger(constraints=constraints)
    train(ledger, (0.4, 0.9))
    assert ledger.standing.best is None
    assert winner(ledger.trials()) is None
    train(ledger, (0.5, 0.5))
    train(ledger, (0.9, 0.9), seconds=31.0)
    train(ledger, (0.6, 0.3))
    best = winner(ledger.trials())
    assert best is not None
    assert best.number == 1
    assert ledger.standing.best is not None
    assert ledger.standing.best.number == 1
    assert [trial.number for trial in ranked_trials(ledger.trials())] == [1, 3, 2, 0], "the others come last"


def test_optuna_knows_what_each_trial_breaks(open_ledger: OpenLedger) -> None:
    ledger = open_ledger(constraints=("S>=0.5", "seconds<=30"))
    train(ledger, (0.4, 0.9))
    train(ledger, (0.75, 0.5), seconds=31.0)
    # shares of the bounds: TPE adds up what is broken
    assert [trial.constraints for trial in open_ledger(constraints=("S>=0.5", "seconds<=30")).trials()] == [
        {"S>=0.5": pytest.approx(0.2), "seconds<=30": pytest.approx(-29 / 30)},
        {"S>=0.5": pytest.approx(-0.5), "seconds<=30": pytest.approx(1 / 30)},
    ]
    with pytest.raises(ValueError, match="No feasible"):
        _ = ledger.study.best_trial


def test_a_search_with_two_aims_is_whole(
    toy_run: ToyRun, carry_out: CarryOut, sound: Callable[..., None], tmp_path: Path, command: Callable[..., Any]
) -> None:
    run, said = toy_run(objective="S,U"), list[str]()
    url = f"sqlite:///{tmp_path}/studies.db"
    outcome = carry_out(run, trials=12, confirm_seeds=1, said=said, study_url=url)
    sound(run, 12)
    trials = read_trials(run.journal)
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert [line.count(" S 0.") + line.count(" S 1.") for line in said if line.startswith("trial ")] == [1] * 12
    front, summary = outcome.front, run.read_summary() or {}
    assert front is not None
    assert summary["front"] == json.loads(json.dumps(front.to_dict()))
    assert summary["aims"] == ["S", "U"]
    assert replay_suggestions(run).differences == []

    study = optuna.load_study(study_name=copy_name(run), storage=url)
    assert study.directions == [StudyDirection.MAXIMIZE] * 2
    assert [trial.values for trial in study.get_trials()] == [trial.values for trial in trials]
    assert {tuple(trial.values) for trial in study.best_trials} == {tuple(trial.values) for trial in front.trials}

    from mlflow import MlflowClient

    client = MlflowClient(default_uri())
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    (parent,) = client.search_runs(ids, "tags.kind = 'search'")
    assert parent.data.metrics["val/front_hypervolume"] == pytest.approx(front.hypervolume)
    assert parent.data.metrics["val/front_trials"] == len(front.trials)
    last = front.trials[-1].number
    note = parent.data.tags["mlflow.note.content"]
    assert all(f"`gan-t{trial.number:03d}` (val/S {trial.values[0]:.4f}" in note for trial in front.trials)
    output = tmp_path / "point.yaml"
    assert command("export", run.path, "--trial", last, "-o", output).code == 0
    written = yaml.safe_load(output.read_text(encoding="utf-8"))
    assert written["config"] == trials[last].user_attrs["config"]
    assert written["source"]["searched_value"] == value_of(trials[last])
    assert command("report", run.path, "-o", tmp_path / "report").code == 0
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "Pareto front of the two aims" in page
    assert "--trial N" in page
    assert (tmp_path / "report" / "figures" / "front.svg").is_file()


def test_it_goes_on_where_it_was_stopped(
    toy_run: ToyRun, carry_out: CarryOut, record: Callable[[RunDirectory], list[Any]], sound: Callable[..., None]
) -> None:
    def found(run: RunDirectory) -> list[Any]:
        return [(trial.params, trial.values) for trial in read_trials(run.journal)]

    whole = toy_run(objective="S,U", run_dir=Path("whole").absolute())
    carry_out(whole, trials=12)
    parts = toy_run(objective="S,U", run_dir=Path("parts").absolute())
    for trials in (3, 11, 12):
        carry_out(parts, trials=trials)
    assert found(parts) == found(whole)
    sound(parts, 12)


def test_a_search_that_no_trial_satisfies_says_which_is_nearest(
    toy_options: Callable[..., tuple[str, ...]], tmp_path: Path, command: Callable[..., Any]
) -> None:
    place = ("--run-dir", tmp_path / "run", "--executor", "local")
    bound = ("--constraint", "S>=1", "--constraint", "U>=1")
    end = command("search", *toy_options(), *place, "--trials", 3, "--confirm-seeds", 1, *bound)
    assert end.code == 3, end.err
    last = end.err.strip().splitlines()[-1]
    assert last.startswith("d3tune: of 3 complete trials none meets --constraint S>=1 and U>=1; the nearest, trial ")
    assert "Traceback" not in end.err
    run = open_run(str(tmp_path / "run"))
    assert len(read_trials(run.journal)) == 3
    assert not run.best.exists()
    assert (run.read_summary() or {})["winner"] is None
    again = command("search", *toy_options(), *place, "--trials", 3, "--confirm-seeds", 1, "--constraint", "S>=1")
    assert again.code != 0
    assert "holds another search" in again.err
    assert "search.constraints" in again.err
    assert command("report", run.path, "-o", tmp_path / "report").code == 0
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "Of no complete trial S&gt;=1 and U&gt;=1 holds" in page


def test_a_winner_meets_the_constraint_and_is_confirmed(toy_run: ToyRun, carry_out: CarryOut) -> None:
    free = toy_run(run_dir=Path("free").absolute(), pruner="none")
    found = carry_out(free, trials=8)
    assert found.winner is not None
    S = {t.number: best_report(reports_of(t)).metrics["val/S"] for t in read_trials(free.journal)}
    bound = max(S.values())
    run = toy_run(run_dir=Path("bound").absolute(), constraints=(f"S>={bound!r}",))
    outcome = carry_out(run, trials=8, confirm_seeds=1)
    assert outcome.winner is not None
    assert best_report(reports_of(outcome.winner)).metrics["val/S"] >= bound
    assert outcome.confirmed is not None
    assert outcome.confirmed.number == outcome.winner.number
    with pytest.raises(RunError, match="cannot be extended"):
        toy_run(run_dir=Path("bound").absolute(), constraints=("S>=0.1",), extend=True)


def test_what_is_confirmed_is_held_against_the_constraint_with_fresh_seeds(
    toy_run: ToyRun, carry_out: CarryOut, command: Command
) -> None:
    run, said = toy_run(constraints=("S>=0.1", "U>=0.1")), list[str]()
    outcome = carry_out(run, trials=3, confirm_seeds=2, said=said)
    assert outcome.confirmed is not None
    folder = run.path / "confirm" / f"trial-{outcome.confirmed.number:05d}"
    found = sorted(folder.glob("validation-seed-*.json"))
    assert len(found) == 2
    assert outcome.unmet == []
    assert (run.read_summary() or {})["unmet"] == []
    assert (run.read_summary() or {})["constraints"] == ["S>=0.1", "U>=0.1"]
    job = training_job(run, outcome.confirmed.user_attrs["config"], Resources(executor="local"))
    curves = [[Report.from_dict(row) for row in json.loads(file.read_text("utf-8"))["value"]] for file in found]
    index, head = point_of(curves, job)
    mean = fmean(rows[index].metrics[f"val/{head}/S"] for rows in curves)
    strict = searching(constraints=("S>=1", "U>=0.1"))
    assert unmet_constraints(curves, job, strict) == ([] if mean == 1 else [f"S>=1 (S {mean:.3f})"])


def test_candidates_that_break_a_constraint_with_fresh_seeds_are_given_up_first(
    toy_run: ToyRun, carry_out: CarryOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = toy_run(constraints=("S>=0.1",))
    carry_out(run, trials=3)
    best = ranked_trials(read_trials(run.journal))[0].number

    def unmet(curves: Any, job: Any, search: Any) -> list[str]:
        return ["S>=0.1 (S 0.000)"] if job.config == read_trials(run.journal)[best].user_attrs["config"] else []

    monkeypatch.setattr("d3tune.search.choice.unmet_constraints", unmet)
    outcome = carry_out(run, trials=3, confirm_seeds=1, confirm_top=2)
    assert outcome.winner is not None
    assert outcome.winner.number == best
    assert outcome.confirmed is not None
    assert outcome.confirmed.number != best


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("sampler", "wanted"),
    [
        ("auto", {"aims": ("S", "U")}),
        ("auto", {"constraints": ("S>=0.5", "U>=0.3")}),
        ("gp", {"aims": ("H", "seconds"), "constraints": ("U>=0.3",)}),
    ],
)
def test_samplers_suggest_beyond_their_startup(sampler: str, wanted: dict[str, Any], open_ledger: OpenLedger) -> None:
    ledger = open_ledger(sampler=sampler, **wanted)
    for k in range(12):
        train(ledger, (0.3 + 0.04 * k, 0.8 - 0.05 * k), seconds=1.0 + k % 3)
    assert len({tuple(trial.params.items()) for trial in ledger.trials()}) == 12


def test_other_commands_say_that_no_trial_meets_it_and_warm_starts_take_the_best_even_so(
    toy_run: ToyRun, carry_out: CarryOut, command: Command
) -> None:
    run = toy_run(constraints=("S>=1", "U>=1"), run_dir=Path("strict").absolute())
    with pytest.raises(NoUsableTrialError, match="none meets --constraint"):
        carry_out(run, trials=3)
    for words in (("compare", run.path, run.path), ("ensemble", run.path, "--executor", "local")):
        end = command(*words)
        assert end.code != 0
        assert "no complete trial meets S>=1 and U>=1" in end.err, words
    looser = toy_run(constraints=("S>=0.1",), warm_start=("strict",), run_dir=Path("loose").absolute())
    assert len(looser.space["warm_start"]) == 3


def test_where_the_time_was_over_the_rest_is_gone_on_with(toy_run: ToyRun, carry_out: CarryOut) -> None:
    run = toy_run(constraints=("S>=1", "U>=1"))
    carry_out_some = {"trials": 50, "seconds": 0.5}
    with pytest.raises(NoUsableTrialError, match=r"--time left \d+ trials over, go on with: d3tune resume"):
        carry_out(run, **carry_out_some)


def test_a_bound_of_seconds_no_trial_keeps_is_said_by_name(toy_run: ToyRun, carry_out: CarryOut) -> None:
    run = toy_run(constraints=("seconds<=0",))
    with pytest.raises(NoUsableTrialError, match=r"the nearest, trial \d, has seconds \d"):
        carry_out(run, trials=2)


@pytest.mark.parametrize("wanted", [{"objective": "S,U"}, {"constraints": ("S>=0.1",)}])
@pytest.mark.parametrize("helper", [{"sampler": "cmaes"}, {"pruner": "asha"}, {"pruner": "hyperband"}])
def test_what_sees_one_value_alone_is_refused(wanted: dict[str, Any], helper: dict[str, str], toy_run: ToyRun) -> None:
    (option, name) = next(iter(helper.items()))
    with pytest.raises(UsageError, match=rf"^--{option} {name}: .*(--objective S,U|--constraint)"):
        toy_run(**wanted, **helper)

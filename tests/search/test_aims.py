"""Two aims and constraints: what is told to Optuna, who may win, what is on the front, and what a search leaves."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import pytest
import yaml
from optuna.study import StudyDirection
from optuna.trial import TrialState

from d3tune.config import Resources, SearchConfig
from d3tune.errors import NoUsableTrialError, RunError, UsageError
from d3tune.search.aims import value_of
from d3tune.search.confirm import point_of
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

"""Warm starts from earlier runs: what is taken of them, from which, and that the same command stays the same search."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from d3tune.cli import names
from d3tune.method.generators import load_backbone
from d3tune.search import dryrun
from d3tune.search.planning import PlanOptions
from d3tune.search.request import Request, prepare_run
from d3tune.search.run import RunDirectory, open_run
from d3tune.search.study import read_trials
from d3tune.search.sweep import prepare_sweep
from d3tune.space import load_space
from d3tune.yamlfile import dump_yaml, read_yaml

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

MakeRun = Callable[..., RunDirectory]
Command = Callable[..., Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `earlier` is kept for the tests after the first."""
    return tmp_path_factory.mktemp("earlier") / "runs"


@pytest.fixture
def earlier(toy_run: MakeRun, carry_out: Callable[..., Any], isolated: Path, made: Path) -> RunDirectory:
    """A confirmed search of the toy dataset with gan."""
    if not made.exists():
        carry_out(toy_run(), trials=4, confirm_seeds=1)
        shutil.copytree(isolated / "runs", made)
    elif not isolated.exists():
        shutil.copytree(made, isolated / "runs")
    (path,) = (isolated / "runs").iterdir()
    return open_run(str(path))


def best_first(run: RunDirectory) -> list[Any]:
    complete = [trial for trial in read_trials(run.journal) if trial.state == TrialState.COMPLETE]
    return sorted(complete, key=lambda trial: (-(trial.value or 0), trial.number))


def points_of(run: RunDirectory) -> dict[str, dict[str, Any]]:
    return {point["name"]: point["values"] for point in run.space["warm_start"]}


def confirmed(run: RunDirectory, name: str, val_h: float, **changed: Any) -> RunDirectory:
    """A copy of a confirmed run that says something else of itself."""
    place = run.path.with_name(name)
    shutil.copytree(run.path, place)
    summary = json.loads((place / "summary.json").read_text(encoding="utf-8"))
    summary["selection"]["val_H"] = val_h
    (place / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    best = read_yaml(place / "best.yaml")
    best["config"] |= changed
    (place / "best.yaml").write_text(dump_yaml(best), encoding="utf-8")
    return open_run(str(place))


def test_the_best_complete_trials_of_a_run_are_tried_first(
    earlier: RunDirectory, toy_run: MakeRun, carry_out: Callable[..., Any]
) -> None:
    again = toy_run(seed=3, warm_start=(earlier.name,))
    best = best_first(earlier)[:3]
    assert list(points_of(again)) == [f"{earlier.name} trial {trial.number}" for trial in best]
    carry_out(again, trials=len(best))
    trials = read_trials(again.journal)
    # of the same space and backbone all of it is taken
    assert [trial.user_attrs["config"] for trial in trials] == [trial.user_attrs["config"] for trial in best]
    assert [trial.user_attrs["warm_start"] for trial in trials] == list(points_of(again))


def test_what_another_backbone_searches_too_is_taken_and_the_rest_is_as_shipped(
    earlier: RunDirectory, isolated: Path
) -> None:
    said: list[str] = []
    run, _ = prepare_run(Request("hanzi", "vae", warm_start=(str(earlier.path),)), said.append)
    config = load_backbone("vae").config
    shipped = load_space("vae", config, "hanzi/0", 256)
    own, defaults = shipped.warm_start[0].values, config(**shipped.fixed).model_dump(mode="json")
    here = earlier.load_space(load_backbone("gan").config)
    assert points_of(run)
    for trial, (name, values) in zip(best_first(earlier), points_of(run).items(), strict=False):
        taken = 0
        found = trial.user_attrs["config"]
        for key, parameter in shipped.parameters.items():
            assert (key in values) <= parameter.active({**defaults, **values}), key
            if key not in values:
                continue
            searched = key not in here.parameters or key in trial.params or f"{key}.on" in trial.params
            value = found.get(key) if searched else None
            legal = (
                value in parameter.choices
                if parameter.choices is not None
                else value is not None and (parameter.low <= value <= parameter.high or (parameter.off and value == 0))
            )
            taken += legal
            assert values[key] == (value if legal else own.get(key, defaults[key])), key
        assert 0 < taken < len(values)
        assert f"warm start from {name}: {taken} of {len(values)} hyper-parameters" in said


def test_a_value_whose_condition_did_not_hold_is_not_taken(earlier: RunDirectory, isolated: Path) -> None:
    # 2.5 was nobody's choice: the weight that it belongs to is 0
    confirmed(earlier, "idle", 0.9, label_weight=0, temperature=2.5)
    confirmed(earlier, "busy", 0.8, label_weight=0.01, temperature=2.5)
    shutil.rmtree(earlier.path)
    space = isolated / "space.yaml"
    space.write_text(
        "backbone: vae\nparameters:\n"
        "  temperature: {low: 0.5, high: 4}\n"
        "  label_weight: {low: 1e-4, high: 1, off: true}\n"
        "warm_start: [{name: own, source: here, values: {temperature: 1.5}}]\n"
    )
    request = Request("hanzi", "vae", space=space, warm_start=("leaderboard",))
    points = points_of(prepare_run(request)[0])
    assert [values["temperature"] for values in points.values()] == [1.5, 2.5]
    assert [values["label_weight"] for values in points.values()] == [0, 0.01]


def test_points_that_become_equal_are_one_and_what_shares_nothing_is_left_out(
    earlier: RunDirectory, isolated: Path
) -> None:
    said: list[str] = []
    space = isolated / "space.yaml"
    # what the search had fixed
    space.write_text("backbone: gan\nparameters: {noise_dim: {low: 2, high: 9}}\n")
    request = Request("hanzi", "gan", space=space, warm_start=(earlier.name, "leaderboard"))
    run, _ = prepare_run(request, said.append)
    best = best_first(earlier)[:3]
    first = f"{earlier.name} trial {best[0].number}"
    assert points_of(run) == {first: {"noise_dim": 4}}
    assert sum(line.endswith(f"1 of 1 hyper-parameters, the same as {first}") for line in said) == len(best)
    run, _ = prepare_run(Request("hanzi", "gaussian", warm_start=(earlier.name,)), said.append)
    assert points_of(run) == {}
    assert f"warm start from {first}: 0 of 4 hyper-parameters, left out" in said


def test_the_leaderboard_gives_other_datasets_and_backbones_best_first_and_at_most_five(
    earlier: RunDirectory, toy_run: MakeRun, isolated: Path
) -> None:
    for index in range(6):
        confirmed(earlier, f"other-{index}", 0.1 * index, cls_weight=0.1 + 0.1 * index)
    leaderboard = ("leaderboard",)
    # the same data and backbone
    assert points_of(toy_run(seed=4, warm_start=leaderboard)) == {}
    run, _ = prepare_run(Request("hanzi", "gan", warm_start=("leaderboard", "shipped")))
    shipped = load_space("gan", load_backbone("gan").config, "hanzi/0", 256).warm_start
    values = [(point["name"].split(" trial ")[0], point["values"]["cls_weight"]) for point in run.space["warm_start"]]
    mine = json.loads((earlier.path / "summary.json").read_text(encoding="utf-8"))["selection"]["val_H"]
    ranked = sorted(
        [(mine, earlier.name), *((0.1 * index, f"other-{index}") for index in range(6))], key=lambda item: -item[0]
    )
    assert [name for name, _ in values[:5]] == [name for _, name in ranked[:5]]
    assert [point["name"] for point in run.space["warm_start"][5:]] == [point.name for point in shipped]
    assert len(points_of(prepare_run(Request("hanzi", "vae", warm_start=leaderboard))[0])) == 5


def test_test_selected_runs_are_never_used(earlier: RunDirectory, command: Command, isolated: Path) -> None:
    summary = json.loads((earlier.path / "summary.json").read_text(encoding="utf-8"))
    for part in ("selection", "test"):
        summary[part]["protocol"] = "published"
    (earlier.path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    # a summary that says otherwise than its run
    liar = confirmed(earlier, "liar", 0.9)
    summary["selection"]["protocol"], summary["selection"]["val_H"] = "validation", 0.9
    summary["test"]["protocol"] = "test"
    (liar.path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    for run in (earlier, liar):
        text = (run.path / "run.yaml").read_text(encoding="utf-8")
        (run.path / "run.yaml").write_text(text.replace("protocol: validation", "protocol: published"))
    said: list[str] = []
    found, _ = prepare_run(Request("hanzi", "gan", warm_start=("leaderboard",)), said.append)
    assert points_of(found) == {}
    assert said == ["--warm-start leaderboard: nothing to take from runs on other datasets or of other backbones"]
    end = command("search", "--dataset", "hanzi", "--warm-start", earlier.name)
    assert (end.code, end.err.count("\n")) == (2, 1), end.err
    assert "test-selected run (protocol published)" in end.err


def test_what_was_chosen_on_another_class_split_of_the_same_rows_is_not_taken(
    earlier: RunDirectory, isolated: Path
) -> None:
    path = earlier.path / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    request = Request("hanzi/0", "vae", warm_start=("leaderboard",))
    for name, n_points in (("hanzi/1", 0), ("hanzi/0", 1), ("other/1", 1)):
        path.write_text(json.dumps({**summary, "dataset": {**summary["dataset"], "name": name}}), encoding="utf-8")
        run, new = prepare_run(replace(request, run_dir=isolated / name.replace("/", "-")))
        assert new
        assert len(points_of(run)) == n_points, name


@pytest.mark.parametrize("place", [None, Path("own")])
def test_the_same_command_is_the_same_search_although_the_leaderboard_has_changed(
    place: Path | None, earlier: RunDirectory, isolated: Path
) -> None:
    def ask(*words: str, **further: Any) -> tuple[RunDirectory, bool]:
        return prepare_run(Request("hanzi", "gan", warm_start=words, run_dir=place, **further))

    run, new = ask("shipped", "leaderboard")
    assert new
    points = points_of(run)
    assert len(points) > 1
    confirmed(earlier, "better", 0.99, cls_weight=0.5)
    shutil.rmtree(earlier.path)
    again, new = ask("shipped", "leaderboard")
    assert (again.uid, new, points_of(again)) == (run.uid, False, points)
    # another space looks anew
    if place is None:
        other, new = ask("shipped", "leaderboard", settings=("noise_dim=9",))
        assert new
        assert any(name.startswith("better trial") for name in points_of(other))
        assert ask("leaderboard")[1]
    else:
        extended, _ = ask("shipped", "leaderboard", settings=("noise_dim=9",), extend=True)
        assert extended.uid == run.uid
        assert any(name.startswith("better trial") for name in points_of(extended))


def test_a_dry_run_sees_the_runs_of_the_home_and_leaves_them(
    earlier: RunDirectory, isolated: Path, monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Any]
) -> None:
    monkeypatch.setattr(dryrun, "PROBE_SECONDS", 0.01)
    before = sorted(str(path) for path in isolated.rglob("*"))
    settings = tuple(f"{key}={value}" for key, value in tiny.items())
    request = Request("hanzi", "vae", settings=settings, warm_start=(earlier.name,))
    found = dryrun.dry_run(request, PlanOptions(executor="local", trials=2), None)
    best = best_first(earlier)[0]
    assert found.samples[0].origin == f"warm start '{earlier.name} trial {best.number}'"
    assert sorted(str(path) for path in isolated.rglob("*")) == before
    run, _ = prepare_run(request)
    assert found.run == run.path
    assert found.space.to_dict() == run.space


def test_a_sweep_takes_the_leaderboard_and_no_run(earlier: RunDirectory, command: Command, isolated: Path) -> None:
    said: list[str] = []
    request = Request("", "", warm_start=("leaderboard",))
    cells = prepare_sweep(request, ["hanzi"], ["gan", "vae"], None, said.append)
    assert all(points_of(cell.run) for cell in cells)
    assert [line.split(" warm start from ")[0] for line in said] == ["hanzi/0 gan ", "hanzi/0 vae "]
    end = command("sweep", "--dataset", "hanzi", "--backbone", "gan", "--warm-start", "leaderbord")
    assert (end.code, end.err.count("\n")) == (2, 1), end.err
    assert "did you mean 'leaderboard'?" in end.err


def test_a_run_that_has_nothing_to_give_is_one_line(toy_run: MakeRun, command: Command, isolated: Path) -> None:
    run = toy_run()
    Path("folder").mkdir()
    for word, fault in {
        run.name: "there is no journal",
        run.name[:-1]: f"no such run; did you mean '{run.name}'?",
        "folder": "a folder that is no run",
        "leaderbord": "did you mean 'leaderboard'?",
    }.items():
        end = command("search", "--dataset", "hanzi", "--warm-start", word)
        assert (end.code in (1, 2), end.out, end.err.count("\n")) == (True, "", 1), end.err
        assert fault in end.err
    assert [path.name for path in isolated.glob("runs/*")] == [run.name]
    assert run.name in names.warm_starts()
    assert names.shared_warm_starts() == ["shipped", "none", "leaderboard"]


def test_a_damaged_run_is_left_out_of_the_leaderboard_with_a_line(earlier: RunDirectory, isolated: Path) -> None:
    confirmed(earlier, "sound", 0.5)
    (earlier.path / "best.yaml").write_text("x: [")
    said: list[str] = []
    run, _ = prepare_run(Request("hanzi", "gan", warm_start=("leaderboard",)), said.append)
    assert [name.split()[0] for name in points_of(run)] == ["sound"]
    assert any(line.startswith("--warm-start leaderboard: left out: ") and "best.yaml" in line for line in said)

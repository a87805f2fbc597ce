"""A surrogate knows good from bad, a search on it is d3tune's own, and the comparison says what is missing."""

import importlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from d3tune.method.generators import load_backbone
from d3tune.search.reports import Report
from d3tune.search.sampling import suggest
from d3tune.search.study import last_seconds, read_trials
from d3tune.space import Space, space_from_dict

CONFIG = load_backbone("gan").config
UPDATES, SHARES = (10, 20, 30, 40), (0.7, 0.85, 0.95, 1.0)
NOISE = 0.02
SPACE: dict[str, Any] = {
    "backbone": "gan",
    "fixed": {"updates": 40, "evaluations": 4, "label_weight": 0, "embedding_weight": 0, "ood_weight": 0},
    "parameters": {
        "generator_lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "hidden_dim": {"choices": [128, 256, 512]},
        "critic_steps": {"low": 1, "high": 6},
        "embed_dim": {"choices": [64, 128, 256, 512]},
        "cls_weight": {"low": 1e-2, "high": 1, "log": True, "off": True},
        "student_lr": {"low": 1e-4, "high": 1e-2, "log": True, "when": {"cls_weight": "positive"}},
    },
    "warm_start": [],
}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the program sets for its own process is put back."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    verbosity = optuna.logging.get_verbosity()
    yield
    optuna.logging.set_verbosity(verbosity)


def module(name: str) -> Any:
    return importlib.import_module(f"benchmarks.{name}")


def space() -> Space:
    return space_from_dict(SPACE, CONFIG, "test")


def configured(params: dict[str, Any]) -> dict[str, Any]:
    """Every hyper-parameter of what was suggested."""
    return CONFIG(**suggest(optuna.trial.FixedTrial(params), space(), CONFIG)).model_dump(mode="json")  # type: ignore[arg-type]


def truth(config: dict[str, Any]) -> float:
    """The value that a configuration ends with, without noise: best at one learning rate, and with L_cls."""
    return 0.6 * math.exp(-0.4 * abs(math.log(config["generator_lr"] / 1e-3))) * (1.0 if config["cls_weight"] else 0.7)


def trained(number: int, seed: int, params: dict[str, Any], rng: np.random.Generator) -> Any:
    """Diverges with six steps of the critic; collapses with the largest embedding; the widest are the slowest."""
    config = configured(params)
    shift, step = rng.normal(0, NOISE), config["hidden_dim"] / 100
    metrics = {"val/x/T1": 0.1 if config["embed_dim"] == 512 else 0.9, "val/T1_chance": 0.5}
    reports = [
        Report(update, truth(config) * share + shift, "x", metrics, step * (place + 1))
        for place, (update, share) in enumerate(zip(UPDATES, SHARES, strict=True))
    ]
    diverges = config["critic_steps"] == 6
    return module("trials").Trained(
        number, seed, params, config, reports[:2] if diverges else reports, "diverged: loss/g" if diverges else ""
    )


def write_table(folder: Path, configurations: int = 250, repeated: int = 60) -> Any:
    rng, draw = np.random.default_rng(1), module("encoding").draw
    rows = []
    for number in range(configurations):
        params = draw(space(), CONFIG, rng)
        rows += [trained(number, seed, params, rng) for seed in range(3 if number < repeated else 1)]
    made = module("trials").Table(module("trials").Cell("gan", "hanzi/0"), folder)
    made.add(rows, {"space": SPACE, "space_hash": space().hash, "dataset_hash": "0", "backbone": "gan"})
    return made


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return write_table(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def surrogate(table: Any) -> Any:
    return module("surrogate").Surrogate(module("trials").Cell("gan", "hanzi/0"), table)


def fresh(count: int, **given: Any) -> list[dict[str, Any]]:
    """Configurations that no table has."""
    rng = np.random.default_rng(2)
    return [configured(module("encoding").draw(space(), CONFIG, rng, given)) for _ in range(count)]


def test_a_configuration_is_a_row_and_what_is_inactive_has_a_value_of_its_own(table: Any) -> None:
    encoding = module("encoding")
    for row in table.rows.values():
        assert encoding.params_of(space(), row.config) == row.params
    encode = encoding.Encoding(space())
    assert encode.names[:4] == ["generator_lr", "hidden_dim=128", "hidden_dim=256", "hidden_dim=512"]
    assert encode.names[-3:] == ["cls_weight.on", "cls_weight", "student_lr"]
    common = {"hidden_dim": 256, "critic_steps": 1, "embed_dim": 64}
    off = {"generator_lr": 1e-3, "cls_weight.on": False, **common}
    on = {"generator_lr": 1e-2, "cls_weight.on": True, "cls_weight": 0.1, "student_lr": 1e-4, **common}
    rows = encode([off, on])
    assert rows[0] == pytest.approx([0.5, 0, 1, 0, 0, 1, 0, 0, 0, 0, -1, -1])
    assert rows[1] == pytest.approx([1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0.5, 0])


def test_random_configurations_are_as_the_random_sampler_draws_them() -> None:
    rng, encode = np.random.default_rng(0), module("encoding").Encoding(space())
    ours = encode([module("encoding").draw(space(), CONFIG, rng) for _ in range(600)])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    theirs = []
    for _ in range(600):
        trial = study.ask()
        suggest(trial, space(), CONFIG)
        theirs.append(dict(trial.params))
    # sd of a column is at most 0.75, of a mean of 600 at most 0.03
    assert ours.mean(0) == pytest.approx(encode(theirs).mean(0), abs=0.15)
    assert ours.std(0) == pytest.approx(encode(theirs).std(0), abs=0.15)
    kept = module("encoding").draw(space(), CONFIG, rng, {"hidden_dim": 512, "critic_steps": 4})
    assert (kept["hidden_dim"], kept["critic_steps"]) == (512, 4)


def test_trees_as_arrays_predict_what_the_forest_predicts() -> None:
    rng = np.random.default_rng(0)
    x, new = (rng.random((n, 5)).astype(np.float32) for n in (80, 30))
    y = np.stack([x[:, 0] + x[:, 1], np.sin(5 * x[:, 2])], axis=1)
    values = RandomForestRegressor(7, random_state=0).fit(x, y)
    assert module("forest").Forest(values)(new) == pytest.approx(values.predict(new))
    one = RandomForestRegressor(7, random_state=0).fit(x, y[:, 0])
    assert module("forest").Forest(one)(new)[:, 0] == pytest.approx(one.predict(new))
    classes = RandomForestClassifier(7, random_state=0).fit(x, (3 * x[:, 3]).astype(int))
    assert module("forest").Forest(classes)(new) == pytest.approx(classes.predict_proba(new))


def test_a_surrogate_knows_good_from_bad(surrogate: Any) -> None:
    configs = fresh(200)
    rank = spearmanr([surrogate.expected(c) for c in configs], [truth(c) for c in configs]).statistic
    assert rank > 0.9
    assert surrogate.quality.rank == pytest.approx(rank, abs=0.1)
    assert 0.7 < surrogate.quality.r2 < 1
    # the truth's largest is 0.6; the trees' means lie below a peak
    assert 0.5 < surrogate.best < 0.62
    assert surrogate.best >= max(surrogate.expected(config) for config in configs)
    slow, fast = ([c for c in configs if c["hidden_dim"] == width] for width in (512, 128))
    for config in (*slow, *fast):
        training = surrogate.training(config, 0)
        assert [report.seconds for report in training.reports] == sorted(report.seconds for report in training.reports)
    assert fmean(surrogate.training(c, 0).seconds for c in slow) > 2 * fmean(
        surrogate.training(c, 0).seconds for c in fast
    )


def test_noise_is_that_of_the_seeds_and_always_the_same_for_the_same_seed(surrogate: Any) -> None:
    config = fresh(1, generator_lr=1e-3, critic_steps=2, embed_dim=64)[0]
    assert surrogate.training(config, 3) == surrogate.training(config, 3)
    drawn = [surrogate.training(config, seed) for seed in range(600)]
    values = np.array([[report.value for report in training.reports] for training in drawn if training.end == "sound"])
    assert len(values) > 400
    assert values.mean(0) == pytest.approx(surrogate.curve(config), abs=0.005)
    # the table's noise is one shift of the whole curve
    assert surrogate.quality.noise == pytest.approx(NOISE, rel=0.25)
    assert values.std(0) == pytest.approx(np.full(4, NOISE), rel=0.25)
    assert np.corrcoef(values.T).min() > 0.99


def test_trainings_fail_where_they_were_seen_to(surrogate: Any) -> None:
    ends = {
        "diverged": fresh(40, critic_steps=6),
        "collapsed": fresh(40, critic_steps=2, embed_dim=512),
        "sound": fresh(40, critic_steps=2, embed_dim=64),
    }
    for end, configs in ends.items():
        drawn = [surrogate.training(config, 0) for config in configs]
        assert fmean(training.end == end for training in drawn) > 0.8, end
        for training in drawn:
            assert len(training.reports) == (2 if training.end == "diverged" else 4)
            assert (training.best is not None) == (training.end == "sound")
    quality = surrogate.quality
    assert quality.diverged + quality.collapsed < quality.trainings == 250 + 2 * 60
    assert quality.unsound > 0.95


def test_too_few_trainings_are_one_line(tmp_path: Path) -> None:
    errors, cell = importlib.import_module("d3tune.errors"), module("trials").Cell("gan", "hanzi/0")
    with pytest.raises(
        errors.UsageError, match=r"gan-hanzi-0: \d configurations are recorded, 10 are the least to fit"
    ):
        module("surrogate").Surrogate(cell, write_table(tmp_path, 9, 0))


def test_without_repeated_seeds_there_is_no_noise(tmp_path: Path) -> None:
    cell = module("trials").Cell("gan", "hanzi/0")
    quiet = module("surrogate").Surrogate(cell, write_table(tmp_path, 40, 0))
    config = fresh(1, critic_steps=2, embed_dim=64)[0]
    assert quiet.quality.noise is None
    assert [report.value for report in quiet.training(config, 5).reports] == pytest.approx(quiet.curve(config))
    assert list(module("search_statistics").target_of(quiet).thresholds) == ["95 %", "98 %"]


def run(surrogate: Any, folder: Path, **setting: Any) -> tuple[list[Any], list[Any]]:
    """A search's trace and its study's trials."""
    folder.mkdir()
    simulation = module("simulation")
    made = simulation.Setting(**{"sampler": "random", "pruner": "asha", "trials": 60, **setting})
    trace = simulation.Simulation(surrogate, made, folder).run()
    return trace, read_trials(folder / "study.journal")


def test_a_simulated_search_is_the_study_s_own(surrogate: Any, tmp_path: Path) -> None:
    trace, trials = run(surrogate, tmp_path / "a")
    assert sorted(row.number for row in trace) == [trial.number for trial in trials] == list(range(60))
    by_number = {row.number: row for row in trace}
    best, spent = None, 0.0
    for trial in trials:
        row = by_number[trial.number]
        config = trial.user_attrs["config"]
        training = surrogate.training(config, 0)
        assert (row.state, row.value, row.seconds) == (trial.state.name, trial.value, last_seconds(trial))
        assert row.expected == surrogate.expected(config)
        assert (row.full_value, row.full_seconds) == (training.best, training.seconds)
        spent += last_seconds(trial)
        if row.state == "FAIL":
            assert trial.user_attrs["failure"].startswith(training.end)
        if row.state == "COMPLETE":
            assert row.value == training.best
            best = row if best is None or (row.value or 0) > (best.value or 0) else best
    assert {row.state for row in trace} == {"COMPLETE", "PRUNED", "FAIL"}
    assert trace[-1].compute == pytest.approx(spent)
    assert best is not None
    assert trace[-1].best == best.expected
    assert [row.ended for row in trace] == list(range(1, 61))
    assert [row.time for row in trace] == sorted(row.time for row in trace)
    # eight side by side
    assert trace[-1].time < spent / 5
    one, _ = run(surrogate, tmp_path / "one", workers=1, trials=10)
    assert [row.time for row in one] == pytest.approx([row.compute for row in one])


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_simulated_search_repeats_itself_and_another_seed_is_another(surrogate: Any, sampler: str) -> None:
    simulation = module("simulation")
    first, again, other = (
        simulation.simulate(surrogate, simulation.Setting(sampler, "hyperband", seed, 25)) for seed in (0, 0, 1)
    )
    assert first == again
    assert [row.expected for row in first] != [row.expected for row in other]


def test_without_a_pruner_nothing_is_pruned_or_saved(surrogate: Any, tmp_path: Path) -> None:
    plain, _ = run(surrogate, tmp_path / "none", pruner="none")
    pruned, _ = run(surrogate, tmp_path / "asha")
    saved, traces = module("search_statistics").share_saved, module("traces")
    assert {row.state for row in plain} == {"COMPLETE", "FAIL"}
    assert saved(traces.columns(plain)) == pytest.approx(0, abs=1e-6)
    spent, full = (sum(getattr(row, name) for row in pruned) for name in ("seconds", "full_seconds"))
    assert saved(traces.columns(pruned)) == pytest.approx(1 - spent / full)
    assert spent < full


def test_statistics_of_a_trace_by_hand() -> None:
    simulation, told = module("simulation"), module("search_statistics")
    rows = [
        (0, 10.0, "FAIL", None, 0.2, 10.0, None, 10.0, None),
        (1, 30.0, "COMPLETE", 0.5, 0.45, 20.0, 0.5, 20.0, 0.45),
        (2, 35.0, "PRUNED", 0.3, 0.6, 5.0, 0.62, 20.0, 0.45),
        (3, 50.0, "COMPLETE", 0.55, 0.58, 15.0, 0.55, 15.0, 0.58),
    ]
    trace = module("traces").columns(
        [
            simulation.Ended(number, number + 1, 0.0, compute, state, value, expected, spent, full, whole, best)
            for number, compute, state, value, expected, spent, full, whole, best in rows
        ]
    )
    assert told.regret(trace, 0.6) == pytest.approx([0.6, 0.15, 0.15, 0.02], abs=1e-6)
    assert told.regret_at(trace, 0.6, np.array([5.0, 30.0, 49.0, 80.0])) == pytest.approx(
        [0.6, 0.15, 0.15, 0.02], abs=1e-6
    )
    assert told.reached([trace], 0.45 - 1e-6) == told.Reached(2.0, 30.0, 1.0)
    assert told.reached([trace], 0.57) == told.Reached(4.0, 50.0, 1.0)
    assert told.reached([trace], 0.6) == told.Reached(None, None, 0.0)
    assert told.share_saved(trace) == pytest.approx(1 - 50 / 65)
    # the pruned one would have ended with 0.62
    assert told.best_was_pruned(trace)
    assert told.Target(0.6, 0.03, 0.9, 0.9).thresholds == pytest.approx({"95 %": 0.57, "98 %": 0.588, "100 %": 0.57})
    figures = told.figures([trace, trace], told.Target(0.6, None, 0.9, 0.9))
    assert (figures.repetitions, figures.trials, figures.best_pruned, figures.failed) == (2, 4, 2, 0.25)


def test_early_values_are_compared_with_the_final_best(table: Any) -> None:
    told = module("search_statistics").early_ranks(table)
    whole = {row.number: row for row in reversed(table.rows.values()) if not row.failure}
    finals = [max(report.value for report in row.reports) for row in whole.values()]
    assert {share: row["update"] for share, row in told.items()} == {"10 %": 10, "25 %": 10, "50 %": 20}
    for row in told.values():
        early = [max(r.value for r in one.reports if r.update <= row["update"]) for one in whole.values()]
        assert row["rank"] == pytest.approx(float(spearmanr(early, finals).statistic))
        assert row["trainings"] == len(whole)


def compare(tables: Path, tmp_path: Path, *options: str) -> int:
    given = ["--tables", str(tables), "--traces", str(tmp_path / "traces"), "--report", str(tmp_path / "report.md")]
    given += [
        "--jobs",
        "1",
        "--trials",
        "12",
        "--workers",
        "4",
        "--datasets",
        "hanzi/0",
        "--samplers",
        "random",
        "cmaes",
    ]
    return int(module("search").main([*given, *options]))


def test_the_comparison_goes_on_and_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cmaes", None)
    write_table(tmp_path / "tables", 60, 10)
    pruners = ("--pruners", "none", "asha")
    assert compare(tmp_path / "tables", tmp_path, *pruners, "--repetitions", "1", "--hours", "0") == 1
    said = capsys.readouterr()
    assert said.err == "cmaes is left out: --sampler cmaes needs a package: pip install 'd3tune[cmaes]'\n"
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "gan-hanzi-0-random-asha (0 of 1 repetition)" in report
    assert "vae-hanzi-0 (no table)" in report
    assert "No search is simulated yet." in report
    assert compare(tmp_path / "tables", tmp_path, *pruners, "--repetitions", "1") == 1
    assert "2 of 2" in capsys.readouterr().out
    first = pd.read_parquet(tmp_path / "traces" / "gan-hanzi-0-random-asha.parquet")
    # another repetition goes on from there
    only = ("--backbones", "gan", *pruners, "--repetitions", "2")
    assert compare(tmp_path / "tables", tmp_path, *only) == 0
    assert "2 of 2" in capsys.readouterr().out
    both = pd.read_parquet(tmp_path / "traces" / "gan-hanzi-0-random-asha.parquet")
    assert both["repetition"].tolist() == [0, 1]
    assert both["value"][0].tolist() == pytest.approx(first["value"][0].tolist(), nan_ok=True)
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Incomplete" not in report
    assert "**Left out**: cmaes (" in report
    assert "(report/regret-gan-hanzi-0.svg)" in report
    assert (tmp_path / "report" / "regret-gan-hanzi-0.png").stat().st_size > 1000
    figures = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert list(figures["cells"]) == ["gan-hanzi-0"]
    searches = figures["cells"]["gan-hanzi-0"]["searches"]
    assert {name: row["repetitions"] for name, row in searches.items()} == {"random/none": 2, "random/asha": 2}
    assert searches["random/asha"]["saved"] > searches["random/none"]["saved"] == pytest.approx(0, abs=1e-6)
    # other settings do not
    assert compare(tmp_path / "tables", tmp_path, *only, "--workers", "2") == 2
    said = capsys.readouterr()
    assert "made with other settings (workers 4 instead of 2); give those, or another --traces" in said.err


def regret_by_hand(row: Any, best: float, budget: float) -> float:
    value = 0.0
    for spent, noise_free in zip(row["compute"], row["best"], strict=True):
        if spent <= budget and not np.isnan(noise_free):
            value = noise_free
    return best - value


def test_pairs_are_of_the_same_repetition(tmp_path: Path) -> None:
    write_table(tmp_path / "tables", 60, 10)
    options = ("--backbones", "gan", "--samplers", "random", "tpe", "--pruners", "none", "--trials", "40")
    assert compare(tmp_path / "tables", tmp_path, *options, "--repetitions", "3") == 0
    rows = {
        name: pd.read_parquet(tmp_path / "traces" / f"gan-hanzi-0-{name}-none.parquet").to_dict("records")
        for name in ("random", "tpe")
    }
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    cell = report["cells"]["gan-hanzi-0"]
    best, half = cell["target"]["best"], cell["searches"]["random/none"]["compute"] / 2
    assert half == pytest.approx(fmean(row["compute"][-1] for row in rows["random"]) / 2)
    for budget, name in ((half, "budget"), (math.inf, "end")):
        told = [[regret_by_hand(row, best, budget) for row in rows[arm]] for arm in ("tpe", "random")]
        differences = [one - other for one, other in zip(*told, strict=True)]
        # the first ten suggestions are the same
        assert name == "budget" or any(differences)
        (row,) = (row for row in report["overall"] if row["sampler"] == "tpe")
        assert row["regret"][name]["mean"] == pytest.approx(fmean(differences))


def test_without_any_table_there_is_no_result(tmp_path: Path) -> None:
    assert compare(tmp_path / "none", tmp_path, "--backbones", "gan") == 1
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "There is no table of any cell, and so no result." in report
    assert "gan-hanzi-0 (no table)" in report


def test_damaged_traces_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(tmp_path / "tables", 40, 5)
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / "gan-hanzi-0-random-none.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "traces" / "gan-hanzi-0-random-none.json").write_text("{}", encoding="utf-8")
    assert compare(tmp_path / "tables", tmp_path, "--backbones", "gan", "--samplers", "random") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path / 'traces' / 'gan-hanzi-0-random-none.parquet'}: cannot be read")
    assert said.count("\n") == 1

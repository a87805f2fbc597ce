"""Comparison: two configurations fixed by their own validation, on the same seeds and splits, seed by seed."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
import scipy.stats

from d3tune.errors import D3TuneError, UsageError
from d3tune.method.trainer import DivergedError
from d3tune.results.comparison import HEADS, comparison_table
from d3tune.results.noted import noted_latex, noted_markdown, noted_text
from d3tune.search.compare import METRICS, Comparison, compare, pair, parse_splits, read_side
from d3tune.search.configuration import read_configuration
from d3tune.search.confirm import TestResult, evaluate, select
from d3tune.search.executor import StopSignal
from d3tune.search.executor.inprocess import InProcessExecutor
from d3tune.search.pairing import paired, smallest_p
from d3tune.search.request import Request, prepare_run
from d3tune.search.run import RunDirectory
from d3tune.search.search import Outcome
from d3tune.yamlfile import dump_yaml

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

Command = Callable[..., Any]
Write = Callable[..., Path]


class Counting(InProcessExecutor):
    """Counts the trainings; lets those diverge, or stops before those, that it is told of."""

    def __init__(self, diverge: Callable[[Any], bool] = lambda job: False, stop_after: int | None = None) -> None:
        super().__init__()
        self.trained = 0
        self._diverge, self._stop_after = diverge, stop_after

    def map(self, function: Any, items: Any, stop: StopSignal, on_result: Any = None) -> list[Any]:
        """See `Executor.map`."""

        def counted(job: Any, *rest: Any) -> Any:
            if self._diverge(job):
                raise DivergedError("loss critic", 3)
            self.trained += 1
            stop.requested = stop.requested or self.trained == self._stop_after
            return function(job, *rest)

        return super().map(counted, items, stop, on_result)


@pytest.fixture
def write(tmp_path: Path, tiny: dict[str, Any]) -> Write:
    """``write("a.yaml", **hyper)``: a configuration file of a training of hanzi that takes a fraction of a second."""

    def make(
        name: str, backbone: str = "gan", dataset: Any = "hanzi", more: dict[str, Any] | None = None, **hyper: Any
    ) -> Path:
        config = {**tiny, "updates": 20, "evaluations": 2, **hyper} if backbone == "gan" else hyper
        path = tmp_path / name
        document = {"dataset": dataset, "backbone": backbone, "config": config, **(more or {})}
        path.write_text(dump_yaml(document), encoding="utf-8")
        return path

    return make


def compared(
    a: object,
    b: object,
    seeds: int = 2,
    splits: tuple[int, ...] | None = None,
    executor: InProcessExecutor | None = None,
) -> Comparison:
    pairing = pair(read_side(str(a), None), read_side(str(b), None), seeds, splits)
    return compare(pairing, executor or InProcessExecutor(), StopSignal(), lambda line: None)


def by_hand(differences: list[float]) -> tuple[float, float, float, float]:
    """Mean, ends of Student's interval and the exact signed-rank p, from scipy's own functions of the differences."""
    found = scipy.stats.ttest_1samp(differences, 0.0)
    low, high = found.confidence_interval(0.95)
    p = scipy.stats.wilcoxon(differences, method="exact").pvalue
    return fmean(differences), float(low), float(high), float(p)


# statistics


@pytest.mark.parametrize("n", [2, 5, 9])
def test_statistics_of_every_metric_are_scipys(n: int) -> None:
    generator = np.random.default_rng(n)
    sides = [
        TestResult(tuple(range(n)), tuple({name: float(generator.random()) for name in METRICS} for _ in range(n)))
        for _ in range(2)
    ]
    for name in METRICS:
        differences = [a[name] - b[name] for a, b in zip(sides[0].per_seed, sides[1].per_seed, strict=True)]
        found = paired(sides[0], sides[1], name)
        assert (found.mean, found.low, found.high, found.p) == pytest.approx(by_hand(differences))
        half = scipy.stats.t.ppf(0.975, n - 1) * stdev(differences) / math.sqrt(n)
        assert found.high == pytest.approx(fmean(differences) + half)


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_the_smallest_p_is_that_of_differences_of_one_sign(n: int) -> None:
    better = TestResult(tuple(range(n)), tuple({"H": 0.5 + 0.01 * seed} for seed in range(n)))
    worse = TestResult(tuple(range(n)), tuple({"H": 0.4 - 0.01 * seed} for seed in range(n)))
    assert paired(better, worse).p == pytest.approx(smallest_p(n))
    assert paired(worse, better).p == pytest.approx(2 / 2**n)
    assert smallest_p(1) is None


# what is trained


def test_each_side_is_its_own_confirmation_on_the_same_seeds_and_splits(
    write: Write, command: Command, tmp_path: Path
) -> None:
    a, b = write("a.yaml", cls_weight=0.1), write("b.yaml", cls_weight=0.0, generator_lr=0.002)
    ended = command("compare", a, b, "--seeds", 3, "--splits", "0,2", "--executor", "local", "--json")
    assert ended.code == 0, ended.err
    assert ended.err.splitlines() == [f"A: gan of {a}, 3 seeds", f"B: gan of {b}, 3 seeds"]
    data = json.loads(ended.out)
    assert (data["seeds"], data["splits"], data["smallest_p"]) == ([1, 2, 3], [0, 2], 0.25)
    for path, side in ((a, data["a"]), (b, data["b"])):
        job = replace(read_configuration(path, None).job, splits=(0, 2))
        selection = select(job, [1, 2, 3], InProcessExecutor(), StopSignal())
        test = evaluate(job, selection, [1, 2, 3], InProcessExecutor(), StopSignal())
        assert side["selection"] == selection.model_dump(mode="json")
        rows = [{"seed": seed, **row} for seed, row in zip((1, 2, 3), test.per_seed, strict=True)]
        assert side["test"]["per_seed"] == rows
        assert (side["name"], side["backbone"], side["test_selected"]) == (str(path), "gan", False)
    for name in METRICS:
        pairs = zip(data["a"]["test"]["per_seed"], data["b"]["test"]["per_seed"], strict=True)
        found = data["differences"][name]
        expected = by_hand([first[name] - second[name] for first, second in pairs])
        assert (found["mean"], found["low"], found["high"], found["p"]) == pytest.approx(expected)
    assert data["a"]["test"]["H"]["mean"] != data["b"]["test"]["H"]["mean"]
    # again as tables: nothing is trained, the same figures
    table = tmp_path / "table.md"
    what = ("compare", a, b, "--seeds", 3, "--splits", "0,2", "--executor", "local")
    written = command(*what, "--format", "markdown", "-o", table)
    assert (written.code, written.out) == (0, "")
    assert f"{data['differences']['H']['mean']:+.3f}" in table.read_text(encoding="utf-8")
    assert "With 3 seeds the smallest possible two-sided p is 2/2^3 = 0.25." in command(*what).out


def test_backbones_may_differ_and_what_was_trained_is_not_trained_again(write: Write) -> None:
    a, b, c = write("a.yaml"), write("b.yaml", backbone="gaussian"), write("c.yaml", embed_dim=8)
    first, again, other, more = Counting(), Counting(), Counting(), Counting()
    comparison = compared(a, b, executor=first)
    assert (comparison.a.backbone, comparison.b.backbone) == ("gan", "gaussian")
    assert first.trained == 2 * 2 * 2
    assert compared(a, b, executor=again) == comparison
    assert again.trained == 0
    # a side is kept by itself, whatever it is compared with
    assert compared(c, a, executor=other).b.test == comparison.a.test
    assert other.trained == 2 * 2
    assert compared(a, b, seeds=3, executor=more).seeds == (1, 2, 3)
    assert 2 * 2 <= more.trained <= 2 * 4


def test_a_comparison_that_was_stopped_goes_on(write: Write) -> None:
    a, b = write("a.yaml"), write("b.yaml", embed_dim=8)
    stopped, rest = Counting(stop_after=3), Counting()
    with pytest.raises(KeyboardInterrupt):
        compared(a, b, executor=stopped)
    compared(a, b, executor=rest)
    assert (stopped.trained, rest.trained) == (3, 5)


def test_the_difference_is_a_minus_b(write: Write) -> None:
    a, b = write("a.yaml"), write("b.yaml", feature_scaling="standard")
    forth, back = compared(a, b), compared(b, a)
    assert forth.differences["H"].mean != 0
    for name in METRICS:
        assert forth.differences[name].mean == pytest.approx(
            forth.a.test.mean(name) - forth.b.test.mean(name), abs=1e-12
        )
        assert back.differences[name].mean == -forth.differences[name].mean
        assert back.differences[name].p == forth.differences[name].p


def test_seeds_without_randomness_are_one_measurement(write: Write) -> None:
    a = write("a.yaml", backbone="gaussian")
    b = write("b.yaml", backbone="gaussian", semantics_scale=3.0, feature_scaling="minmax")
    comparison = compared(a, b)
    assert comparison.one_measurement
    assert comparison.smallest_p is None
    assert all((found.low, found.high, found.p) == (None, None, None) for found in comparison.differences.values())
    assert "one measurement" in noted_text(comparison_table(comparison))


# runs


@pytest.fixture
def confirmed(new_run: Callable[..., RunDirectory], carry_out: Callable[..., Outcome]) -> Outcome:
    """A search with seed 3 whose winner is confirmed with two seeds."""
    return carry_out(new_run({"updates": 20, "evaluations": 2}, seed=3), trials=1, confirm_seeds=2)


def test_a_runs_confirmation_is_used_again(confirmed: Outcome, write: Write) -> None:
    other = write("other.yaml", embed_dim=8)
    before = {path: path.read_bytes() for path in confirmed.run.path.rglob("*") if path.is_file()}
    counting, exported = Counting(), Counting()
    comparison = compared(confirmed.run.name, other, executor=counting)
    # fresh for both: after the seed of the search
    assert comparison.seeds == (4, 5)
    assert counting.trained == 2 * 2
    assert comparison.a.test == confirmed.test
    assert comparison.a.selection == confirmed.selection
    assert comparison.a.trial == 0
    assert {path: path.read_bytes() for path in confirmed.run.path.rglob("*") if path.is_file()} == before
    # its file instead of the run: the same figures, trained
    again = compared(confirmed.run.best, other, executor=exported)
    assert again.a.test == confirmed.test
    assert exported.trained == 2 * 2
    # other draws: nothing of the confirmation fits
    elsewhere = Counting()
    compared(confirmed.run.name, other, seeds=1, splits=(1,), executor=elsewhere)
    assert elsewhere.trained == 2 * 2


def test_a_run_without_a_confirmation_is_its_best_trial(
    new_run: Callable[..., RunDirectory], carry_out: Callable[..., Outcome], write: Write, command: Command
) -> None:
    run, other = new_run({"updates": 20, "evaluations": 2}), write("other.yaml", embed_dim=8)
    ended = command("compare", run.path, other, "--executor", "local")
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    outcome = carry_out(run, trials=1)
    assert outcome.winner is not None
    comparison = compared(run.path, other, seeds=1)
    assert comparison.a.trial == outcome.winner.number
    assert not run.best.exists()
    # nothing is promised of what one seed cannot say
    assert comparison.differences["H"].low is None
    assert "One seed: without interval or p" in noted_text(comparison_table(comparison))


def test_what_the_test_chose_is_labelled_and_measured_by_validation(
    new_run: Callable[..., RunDirectory], carry_out: Callable[..., Outcome], write: Write
) -> None:
    run = new_run({"updates": 20, "evaluations": 2}, protocol="published")
    carry_out(run, trials=1, confirm_seeds=1)
    comparison = compared(write("other.yaml", embed_dim=8), run.name, seeds=1)
    assert (comparison.a.test_selected, comparison.b.test_selected) == (False, True)
    assert (comparison.b.test.protocol, comparison.b.selection.protocol) == ("test", "validation")
    for form in (noted_text, noted_markdown, noted_latex):
        assert "test-selected: the test sets chose its hyper-parameters" in form(comparison_table(comparison))
    assert comparison.to_dict()["b"]["test_selected"] is True


# what is refused


def test_other_data_is_refused_with_names_and_hashes(write: Write, tmp_path: Path) -> None:
    a, b = write("a.yaml"), write("b.yaml", dataset="hanzi/1", embed_dim=8)
    with pytest.raises(UsageError) as caught:
        compared(a, b)
    hashes = [read_configuration(path, None).dataset.content_hash[:12] for path in (a, b)]
    for word in (str(a), str(b), "hanzi/0", "hanzi/1", *hashes, "they differ in name"):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_same_name_with_other_content_is_refused(
    write_toy: Callable[..., Path], write: Write, tmp_path: Path, command: Command
) -> None:
    def swap(content: dict[str, Any]) -> None:
        trainval, test = content["trainval_loc"], content["test_seen_loc"]
        trainval[0, 0], test[0, 0] = int(test[0, 0]), int(trainval[0, 0])

    runs = []
    for name, change in (("one", None), ("two", swap)):
        folder = write_toy(tmp_path / name, change)
        settings = ("updates=20", "evaluations=2", "hidden_dim=8", "embed_dim=8", "batch_size=16")
        run, _ = prepare_run(Request("toy", "gan", data_dir=folder, settings=settings))
        runs.append(run)
    best = {"format": 1, "backbone": "gan", "config": {}, "selection": None, "test": None}
    for run in runs:
        identity = {"name": "toy", "content_hash": run.search.dataset_hash, "semantics": run.search.semantics}
        run.best.write_text(dump_yaml({**best, "dataset": identity, "source": {"trial": 0}}), encoding="utf-8")
    ended = command("compare", runs[0].path, runs[1].path)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "they differ in content: features, class splits or semantics" in ended.err
    assert all(run.search.dataset_hash[:12] in ended.err for run in runs)


def test_wrong_input_is_one_line(write: Write, command: Command, isolated: Path, tmp_path: Path) -> None:
    a, b = write("a.yaml"), write("b.yaml", embed_dim=8)
    selection = {"objective": "H", "seeds": [1], "updates": 20, "head": "softmax", "seen_offset": 0.0}
    c = write("c.yaml", embed_dim=9, more={"selection": {**selection, "splits": [0]}})
    d = write("d.yaml", embed_dim=10, more={"selection": {**selection, "splits": [0, 1]}})
    (tmp_path / "wrong.json").write_text("{", encoding="utf-8")
    cases: list[tuple[tuple[object, ...], tuple[str, ...]]] = [
        ((a,), ("Missing argument", "B")),
        ((a, "nowhere"), ("nowhere: no file of a configuration, and no run 'nowhere'",)),
        ((a, "absent.yaml"), ("absent.yaml: cannot read",)),
        ((a, tmp_path / "wrong.json"), ("wrong.json: line 1: not JSON",)),
        ((a, a), ("are the same configuration",)),
        ((a, b, "--seeds", 0), ("--seeds",)),
        ((a, b, "--splits", "0,x"), ("--splits 0,x: write numbers from 0",)),
        ((a, b, "--splits", "-1"), ("--splits -1: write numbers from 0",)),
        ((a, b, "--splits", ""), ("--splits : write numbers from 0",)),
        ((a, b, "--splits", "1,1"), ("--splits 1,1: each number once",)),
        ((a, b, "--format", "word"), ("--format word: no such choice", "markdown")),
        ((a, b, "-o", "no/where.md"), ("no/where.md: its folder does not exist",)),
        ((a, b, "--executor", "rya"), ("--executor rya", "'ray'")),
        ((a, b, "--concurrency", 0), ("--concurrency 0",)),
        ((c, d), (f"{c} was validated on splits 0, {d} on 0,1", "--splits")),
        ((a, b, "--data-dir", "nowhere"), ("--data-dir nowhere",)),
    ]
    for arguments, words in cases:
        ended = command("compare", *arguments)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), ended.err
        for word in words:
            assert word in ended.err
    assert not (isolated / "comparisons").exists()
    assert not list(Path.cwd().iterdir())


def test_splits_are_those_of_the_side_that_has_some(write: Write) -> None:
    selection = {"objective": "AUSUC", "splits": [1, 2], "seeds": [7, 8], "updates": 20, "head": "softmax"}
    given = write("given.yaml", embed_dim=9, more={"selection": {**selection, "seen_offset": 0.0}})
    sides = read_side(str(write("bare.yaml")), None), read_side(str(given), None)
    pairing = pair(*sides, 3, None)
    assert (pairing.seeds, pairing.splits) == ((7, 8, 9), (1, 2))
    assert pair(*sides, 1, (4,)).splits == (4,)
    assert parse_splits("0, 3,1") == (0, 3, 1)
    with pytest.raises(UsageError, match="at most 100"):
        parse_splits(",".join(map(str, range(101))))


def test_a_side_that_diverges_is_named(write: Write) -> None:
    a, b = write("a.yaml"), write("b.yaml", embed_dim=8)
    with pytest.raises(D3TuneError, match=rf"{re.escape(str(b))}: .*loss critic is not finite at update 3") as caught:
        compared(a, b, seeds=1, executor=Counting(lambda job: job.config["embed_dim"] == 8))
    assert "\n" not in str(caught.value)


# tables


def test_the_tables_say_the_same(write: Write, tmp_path: Path) -> None:
    comparison = compared(write("a_50%.yaml"), write("b.yaml", feature_scaling="standard"))
    table = comparison_table(comparison)
    plain, markdown, latex = noted_text(table), noted_markdown(table), noted_latex(table)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line[:1] == "|"]
    assert rows[0] == HEADS
    assert [row[0] for row in rows[2:]] == list(METRICS)
    for row in rows[2:]:
        sides = (comparison.a.test, comparison.b.test)
        assert row[1:3] == [f"{test.mean(row[0]):.3f} ± {test.sd(row[0]):.3f}" for test in sides]
        found = comparison.differences[row[0]]
        assert row[3] == f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
        assert row[4] == ("–" if found.p is None else f"{found.p:.3f}")
        assert all(cell in plain for cell in row)
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len(body) == 1 + len(METRICS)
    assert all(line.count("&") == len(HEADS) - 1 for line in body)
    assert not re.search(r"[±Δ–]|(?<!\\)%", "\n".join(body))
    assert "a_50%.yaml" in plain
    assert comparison.a.configuration in plain
    assert f"val H {comparison.b.selection.val_H:.3f}" in plain

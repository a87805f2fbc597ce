"""Ablation: every variant is its own confirmation, compared with the full configuration seed by seed."""

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import yaml

from d3tune.errors import D3TuneError, UsageError
from d3tune.method.trainer import DivergedError
from d3tune.results.ablation import HEADS, ablation_table
from d3tune.results.noted import noted_latex, noted_markdown, noted_text
from d3tune.search.ablate import Ablation, ablate
from d3tune.search.configuration import read_configuration
from d3tune.search.confirm import TestResult, evaluate, select
from d3tune.search.executor import StopSignal
from d3tune.search.executor.inprocess import InProcessExecutor
from d3tune.search.jobs import TrainingJob
from d3tune.search.pairing import Paired, paired

Toy = Callable[..., Path]
# with 5 seeds, Student's t
T_5 = 2.7764451051977987


class Counting(InProcessExecutor):
    """Counts the trainings, and lets some fail, where told so."""

    def __init__(
        self,
        failing: Callable[[TrainingJob], bool] = lambda job: False,
        where: str = "loss critic",
        error: Exception | None = None,
    ) -> None:
        super().__init__()
        self.trained = 0
        self._failing, self._error = failing, error or DivergedError(where, 3)

    def map(self, function: Any, items: Any, stop: StopSignal, on_result: Any = None) -> list[Any]:
        """See `Executor.map`."""
        for item in items:
            if self._failing(item[0]):
                raise self._error
        self.trained += len(items)
        return super().map(function, items, stop, on_result)


@pytest.fixture
def write(write_toy: Toy, tmp_path: Path, tiny: dict[str, Any]) -> Callable[..., Path]:
    """``write(**hyper)``: a configuration file of the toy dataset, all four terms on."""
    write_toy(tmp_path / "data")

    def make(backbone: str = "gan", **hyper: Any) -> Path:
        on = {"cls_weight": 0.1, "embedding_weight": 0.1, "label_weight": 0.1, "ood_weight": 0.1}
        config = {**tiny, **on, **hyper} if backbone == "gan" else hyper
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({"dataset": "toy", "backbone": backbone, "config": config}), encoding="utf-8")
        return path

    return make


def taken_apart(path: Path, tmp_path: Path, executor: InProcessExecutor | None = None, seeds: int = 2) -> Ablation:
    found = read_configuration(path, tmp_path / "data")
    return ablate(found, seeds, executor or InProcessExecutor(), StopSignal(), lambda line: None)


def test_each_row_is_the_confirmation_of_its_configuration(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write()
    ablation = taken_apart(path, tmp_path, seeds=1)
    assert [row.name for row in ablation.rows] == [
        "full",
        *(f"without {name}" for name in ("L_cls", "L_be", "L_kl", "L_od")),
        *(f"{name} alone" for name in ("L_cls", "L_be", "L_kl", "L_od")),
        "no D³ term",
    ]
    assert ablation.seeds == (1,)
    assert ablation.off == ()
    job = read_configuration(path, tmp_path / "data").job
    off = {
        "full": [],
        "without L_od": ["ood_weight"],
        "L_cls alone": ["embedding_weight", "label_weight", "ood_weight"],
    }
    rows = {row.name: row for row in ablation.rows}
    for name, weights in off.items():
        variant = replace(job, config={**job.config, **dict.fromkeys(weights, 0.0)})
        selection = select(variant, [1], InProcessExecutor(), StopSignal())
        assert rows[name].selection == selection
        assert rows[name].test == evaluate(variant, selection, [1], InProcessExecutor(), StopSignal())
    assert rows["full"].difference is None
    full, without = rows["full"].test, rows["without L_od"].test
    assert full is not None
    assert without is not None
    assert rows["without L_od"].difference == paired(without, full)
    assert len({row.test.mean("H") for row in ablation.rows if row.test is not None}) > 1


def of(*h: float) -> TestResult:
    return TestResult(tuple(range(len(h))), tuple({"H": value} for value in h))


def signed_rank(differences: list[float]) -> float:
    """The two-sided p of Wilcoxon's test over all signs, midranks for ties."""
    sizes = [abs(value) for value in differences]
    ranks = [sum(b < a for b in sizes) + (1 + sum(b == a for b in sizes)) / 2 for a in sizes]

    def statistic(signs: tuple[int, ...]) -> float:
        return sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign > 0)

    found = statistic(tuple(1 if value > 0 else -1 for value in differences))
    everything = [statistic(signs) for signs in itertools.product((1, -1), repeat=len(differences))]
    above = sum(value >= found - 1e-9 for value in everything) / len(everything)
    below = sum(value <= found + 1e-9 for value in everything) / len(everything)
    return min(1.0, 2 * min(above, below))


@pytest.mark.parametrize(
    "found", [(0.5, 0.6, 0.55, 0.7, 0.4), (0.45, 0.66, 0.57, 0.73, 0.44), (0.6, 0.7, 0.6, 0.8, 0.5)]
)
def test_differences_interval_and_p_are_those_of_the_textbook(found: tuple[float, ...]) -> None:
    full = (0.52, 0.61, 0.5, 0.72, 0.43)
    differences = [a - b for a, b in zip(found, full, strict=True)]
    difference = paired(of(*found), of(*full))
    half = T_5 * stdev(differences) / 5**0.5
    assert difference.mean == pytest.approx(fmean(differences))
    assert (difference.low, difference.high) == pytest.approx((fmean(differences) - half, fmean(differences) + half))
    assert difference.p == pytest.approx(signed_rank(differences))


def test_one_seed_has_no_interval_and_equal_figures_no_p() -> None:
    assert paired(of(0.5), of(0.4)) == Paired(pytest.approx(0.1), None, None, None)
    assert paired(of(0.5, 0.6), of(0.5, 0.6)) == Paired(0.0, 0.0, 0.0, None)
    assert paired(of(0.5, 0.7), of(0.5, 0.6)).p == 1.0


def test_what_was_trained_is_not_trained_again(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(embedding_weight=0.0, label_weight=0.0)
    first, again, more = Counting(), Counting(), Counting()
    expected = taken_apart(path, tmp_path, first)
    assert [row.name for row in expected.rows] == ["full", "without L_cls", "without L_od", "no D³ term"]
    assert expected.off == ("L_be", "L_kl")
    # each seed once on validation and once on trainval
    assert first.trained == 4 * 2 * 2
    assert taken_apart(path, tmp_path, again) == expected
    assert again.trained == 0
    assert taken_apart(path, tmp_path, more, seeds=3).seeds == (1, 2, 3)
    assert more.trained >= 4


def test_a_variant_without_a_head_or_that_diverges_says_so(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(heads=["student"], embedding_weight=0.0, label_weight=0.0)
    diverging = Counting(lambda job: job.config["ood_weight"] == 0)
    ablation = taken_apart(path, tmp_path, diverging)
    missing = {row.name: row.missing for row in ablation.rows}
    assert missing["full"] == ""
    assert "no head is left" in missing["without L_cls"]
    assert missing["without L_od"] == "diverged: loss critic is not finite at update 3"
    assert [row.test is None for row in ablation.rows] == [False, True, True, True]
    with pytest.raises(D3TuneError, match="diverged"):
        taken_apart(path, tmp_path, Counting(lambda job: True), seeds=1)


def test_a_variant_that_fails_costs_its_own_row_alone(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(heads=["prototype"], embedding_weight=0.0, label_weight=0.0)
    failing = Counting(lambda job: job.config["ood_weight"] == 0, error=RuntimeError("out of memory\non device 0"))
    missing = {row.name: row.missing for row in taken_apart(path, tmp_path, failing, seeds=1).rows}
    assert missing["full"] == missing["without L_cls"] == ""
    assert missing["without L_od"] == "RuntimeError: out of memory on device 0"
    failing = Counting(lambda job: True, error=RuntimeError("out of memory"))
    with pytest.raises(D3TuneError, match=r"a confirmation failed \(RuntimeError: out of memory\)"):
        taken_apart(path, tmp_path, failing, seeds=2)


def test_what_the_test_chose_is_labelled_and_measured_by_validation(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(embedding_weight=0.0, label_weight=0.0, ood_weight=0.0)
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**document, "source": {"search": {"protocol": "published"}}}), encoding="utf-8")
    ablation = taken_apart(path, tmp_path, seeds=1)
    assert ablation.to_dict()["test_selected"] is True
    assert "test-selected" in noted_latex(ablation_table(ablation))
    protocols = {(row.selection.protocol, row.test.protocol) for row in ablation.rows if row.selection and row.test}
    assert protocols == {("validation", "test")}


@pytest.mark.parametrize(
    ("backbone", "hyper", "message"),
    [
        ("rezsl", {}, "backbone 'rezsl' has no D³ terms"),
        ("gan", dict.fromkeys(("cls_weight", "embedding_weight", "label_weight", "ood_weight"), 0.0), "are 0"),
    ],
)
def test_a_configuration_without_terms_is_refused(
    backbone: str, hyper: dict[str, Any], message: str, write: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        taken_apart(write(backbone, **hyper), tmp_path)


def test_the_tables_say_the_same(write: Callable[..., Path], tmp_path: Path) -> None:
    ablation = taken_apart(write(embedding_weight=0.0, label_weight=0.0), tmp_path)
    table = ablation_table(ablation)
    plain, markdown, latex = noted_text(table), noted_markdown(table), noted_latex(table)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line[:1] == "|"]
    assert rows[0] == HEADS
    assert [row[0] for row in rows[2:]] == ["full", "without L_cls", "without L_od", "no D³ term"]
    for row, cells in zip(ablation.rows, rows[2:], strict=True):
        assert row.test is not None
        assert len(cells) == len(HEADS)
        assert cells[2] == f"{row.test.mean('H'):.3f} ± {row.test.sd('H'):.3f}"
        assert all(cell in plain for cell in cells)
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len(body) == 5
    assert all(line.count("&") == len(HEADS) - 1 for line in body)
    assert r"without $L_{\mathrm{od}}$" in latex
    # nothing is left that LaTeX would not print
    assert not re.search(r"[±Δ³–]|(?<!\\)%", "\n".join(body))
    assert "Off in the configuration itself, and so in every row: L_be, L_kl." in markdown


def test_a_reason_is_no_latex(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(embedding_weight=0.0, label_weight=0.0)
    diverging = Counting(lambda job: job.config["ood_weight"] == 0, "loss generator_classification & 5 % of {x}")
    latex = noted_latex(ablation_table(taken_apart(path, tmp_path, diverging)))
    (line,) = [line for line in latex.splitlines() if line.startswith("without $L_{\\mathrm{od}}$")]
    assert r"loss generator\_classification \& 5 \% of \{x\} is not finite" in line
    assert line.count(" & ") == len(HEADS) - 1


def test_the_command_writes_a_table_and_goes_on(
    command: Callable[..., Any], write: Callable[..., Path], tmp_path: Path
) -> None:
    path, table = write(embedding_weight=0.0, label_weight=0.0), tmp_path / "table.md"
    what = ("ablate", path, "--seeds", 2, "--data-dir", tmp_path / "data", "--executor", "local")
    ended = command(*what, "--format", "markdown", "-o", table)
    assert (ended.code, ended.out) == (0, "")
    assert table.read_text(encoding="utf-8").startswith("| variant |")
    again = command(*what)
    assert again.code == 0
    assert "no D³ term" in again.out
    wrong = command(*what, "--format", "word")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    nothing = command(*what[:1], write(**dict.fromkeys(("cls_weight", "embedding_weight"), 0.0)), "--seeds", 0)
    assert nothing.code == 2

"""The comparison's own parts: records, statistics, report and figures; nothing is trained."""

import math
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
from scipy.stats import t

from benchmarks.accuracy.answers import head_rows, head_table, heads_section, pooled, variant_table
from benchmarks.accuracy.cells import Cell, cells
from benchmarks.accuracy.diagnosis import positive_share
from benchmarks.accuracy.draws import choices, spread
from benchmarks.accuracy.figures import iso_values
from benchmarks.accuracy.markdown import BELOW, model_rows
from benchmarks.accuracy.optimism import margin_unit
from benchmarks.accuracy.plan import QUESTIONS, Comparison
from benchmarks.accuracy.records import Record, Records, commits
from benchmarks.accuracy.report import Findings, write_report
from benchmarks.accuracy.running import Runner
from benchmarks.accuracy.statistics import chosen_arms, difference, differences, means, over_pairs
from benchmarks.accuracy.tasks import QuestionTask
from benchmarks.accuracy.terms import variants
from d3tune.config import D3Config
from d3tune.errors import UsageError

SETTINGS = {"trials": 2, "seeds": 3, "set": []}
DATASETS = ("made-up/0", "made-up/1")


def test_intervals_and_p_are_those_of_the_formulas() -> None:
    first, second = [0.61, 0.64, 0.66, 0.59, 0.70, 0.63], [0.60, 0.66, 0.61, 0.52, 0.66, 0.66]
    found = over_pairs(first, second)
    each = [a - b for a, b in zip(first, second, strict=True)]
    half = float(t.ppf(0.975, len(each) - 1)) * stdev(each) / math.sqrt(len(each))
    assert found.mean == pytest.approx(fmean(each))
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))
    assert found.p == pytest.approx(slow_p(each))


def slow_p(each: Sequence[float]) -> float:
    """Wilcoxon's signed-rank test by all signs."""
    sizes = [abs(value) for value in each]
    ranks = [fmean(i + 1 for i, other in enumerate(sorted(sizes)) if math.isclose(other, size)) for size in sizes]
    center = sum(ranks) / 2
    found = abs(sum(rank for rank, value in zip(ranks, each, strict=True) if value > 0) - center)
    sums = [
        sum(rank for rank, on in zip(ranks, signs, strict=True) if on) for signs in product((0, 1), repeat=len(each))
    ]
    return fmean(abs(value - center) >= found - 1e-9 for value in sums)


def record(cell: Cell, h: float, val: float, closed: float | None = None) -> dict[str, Any]:
    """What a cell would leave, with test H about ``h``."""
    seeds = [h - 0.01, h, h + 0.01]
    rows = [
        {"seed": seed, "U": v - 0.02, "S": v + 0.02, "H": v, "T1": v, "AUSUC": v / 2} for seed, v in enumerate(seeds)
    ]
    test = {key: {"mean": fmean(row[key] for row in rows)} for key in ("U", "S", "H", "T1", "AUSUC")}
    baselines = [
        {"name": name, **{f"test/{key}": closed for key in ("U", "S", "H", "T1", "AUSUC")}}
        for name in ("gaussian", "ESZSL")
        if closed is not None
    ]
    return {
        "kind": "cell",
        "cell": cell.to_dict(),
        "commit": "abc",
        "seconds": 10.0,
        "selection": {"val_H": val, "head": "lda"},
        "test": test,
        "per_seed": rows,
        "heads": {"lda": val, "prototype": val - 0.1},
        "trials": [{"number": 0, "heads": {"lda": val - 0.2}}],
        "baselines": baselines,
    }


@pytest.fixture
def found() -> dict[Cell, Record]:
    """Two datasets: the second is harder, and d3 gains there alone."""
    rows = {}
    for number, dataset in enumerate(DATASETS):
        base = 0.6 - 0.2 * number
        rows[Cell(dataset, "gan", "none")] = record(Cell(dataset, "gan", "none"), base, 0.5, base + 0.02)
        rows[Cell(dataset, "gan", "d3")] = record(Cell(dataset, "gan", "d3"), base + 0.04 * number, 0.4)
        rows[Cell(dataset, "gaussian", "tuned")] = record(Cell(dataset, "gaussian", "tuned"), base + 0.01, 0.3)
    return rows


def test_means_are_over_datasets_and_hold_the_closed_forms(found: dict[Cell, Record]) -> None:
    table = means(found, DATASETS)
    assert table["gan, none"]["H"] == pytest.approx(0.5)
    assert table["gan, d3"]["H"] == pytest.approx(0.52)
    assert table["gaussian (closed form)"]["H"] == table["ESZSL (closed form)"]["U"] == pytest.approx(0.52)
    assert list(table)[-1] == "gan, none"


def test_a_row_that_lacks_a_dataset_is_in_no_mean(found: dict[Cell, Record]) -> None:
    del found[Cell(DATASETS[1], "gan", "d3")]
    assert "gan, d3" not in means(found, DATASETS)
    assert "gan, d3" in means(found, DATASETS[:1])


def test_what_gaussian_beats_is_marked(found: dict[Cell, Record]) -> None:
    marked = {row[0]: row[-1] for row in model_rows(means(found, DATASETS))}
    assert marked == {
        "gan, none": BELOW,
        "gan, d3": "",
        "gaussian": "",
        "gaussian (closed form)": "",
        "ESZSL (closed form)": "",
    }


def test_validation_chooses_the_arm_and_no_test_has_a_say(found: dict[Cell, Record]) -> None:
    assert chosen_arms(found, DATASETS) == {"gan": ("none", 0.5), "gaussian": ("tuned", pytest.approx(0.3))}


def test_arms_are_paired_by_dataset_and_seed(found: dict[Cell, Record]) -> None:
    item = difference(found, "gan", "d3", "none")
    assert item is not None
    assert item.pairs == 6
    assert item.paired.mean == pytest.approx(0.02)
    assert item.by_dataset == {DATASETS[0]: pytest.approx(0), DATASETS[1]: pytest.approx(0.04)}
    assert [(other.arm, other.other) for other in differences(found)] == [("d3", "none")]


def test_variants_change_known_hyper_parameters() -> None:
    assert len(variants()) == 19
    for changes in variants().values():
        D3Config.model_validate({**changes, "heads": ["softmax"]})


def test_records_refuse_other_settings(tmp_path: Path) -> None:
    records = Records(tmp_path, SETTINGS)
    assert records.find("a") is None
    made = records.keep("a", "abc", 1.0, {"kind": "cell"})
    assert Records(tmp_path, dict(SETTINGS)).find("a") == made
    with pytest.raises(UsageError, match=r"a\.json: made with other settings \(trials 2 instead of 12\)"):
        Records(tmp_path, {**SETTINGS, "trials": 12}).find("a")
    (tmp_path / "b.json").write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be read"):
        records.found(["a", "b"])
    assert commits([made, made]) == {"abc": 2}


@dataclass(frozen=True)
class Made:
    """A task that prints, waits or fails."""

    name: str
    code: str = ""
    needs: tuple[str, ...] = ()

    def command(self, work: Path, found: Mapping[str, Record], slot: int) -> Sequence[str]:
        return [sys.executable, "-S", "-c", f"open({str(work / self.name)!r}, 'w').write('{len(found)}'); {self.code}"]

    def collect(self, work: Path) -> dict[str, Any]:
        return {"kind": "made", "said": (work / self.name).read_text(encoding="utf-8")}

    def check(self, record: Record, found: Mapping[str, Record]) -> None:
        pass

    def line(self, record: Record) -> str:
        return "well"


def runner(path: Path, said: list[str], seconds: float = 60.0) -> Runner:
    return Runner(Records(path / "records", SETTINGS), path, 2, time.monotonic() + seconds, "abc", said.append)


def test_tasks_wait_for_what_they_need_and_are_done_once(tmp_path: Path) -> None:
    said: list[str] = []
    tasks = [
        Made("second", needs=("first",)),
        Made("first"),
        Made("bad", "raise SystemExit('no')"),
        Made("after", needs=("bad",)),
    ]
    first = runner(tmp_path, said)
    done = first.run(tasks)
    assert {name: record["said"] for name, record in done.items()} == {"first": "0", "second": "1"}
    assert first.failures == {"bad": "exit code 1: no"}
    again = runner(tmp_path, said, seconds=0)
    assert again.run(tasks) == done
    assert said[-1] == "2 of 4 tasks have a record"


def test_an_answer_about_another_winner_is_refused(tmp_path: Path) -> None:
    cell = {"winner": {"config": {"batch_size": 64}}, "selection": {"updates": 9}}
    task = QuestionTask("terms", "made-up/0", "gan", ("made-up-0-gan-d3",), 3)
    task.command(tmp_path, {"made-up-0-gan-d3": cell}, 0)
    (tmp_path / task.name / "result.json").write_text("{}", encoding="utf-8")
    kept = task.collect(tmp_path)
    task.check(kept, {"made-up-0-gan-d3": cell})
    with pytest.raises(UsageError, match="another winner of made-up-0-gan-d3"):
        task.check(kept, {"made-up-0-gan-d3": {**cell, "selection": {"updates": 10}}})


def test_nothing_is_begun_after_the_time(tmp_path: Path) -> None:
    assert runner(tmp_path, [], seconds=-1).run([Made("a")]) == {}


def test_an_interruption_ends_the_processes(tmp_path: Path) -> None:
    processes: list[Any] = []

    def interrupt(line: str) -> None:
        if line.startswith("quick"):
            raise KeyboardInterrupt

    tasks = [Made("slow", "import time; time.sleep(60)"), Made("quick")]
    stopped = runner(tmp_path, [])
    stopped.say = lambda line: interrupt(line.partition("  ")[2])
    start = stopped._start
    stopped._start = lambda *given: processes.append(start(*given)) or processes[-1]  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        stopped.run(tasks)
    assert [item.process.poll() is not None for item in processes] == [True, True]


def test_the_plan_asks_what_can_be_answered() -> None:
    plan = Comparison(DATASETS, ("gan", "rezsl", "gaussian"), ("none", "d3"), QUESTIONS, 2, 3)
    assert len(plan.cells) == 2 * 7 == len(cells(DATASETS, plan.backbones, plan.arms))
    names = [task.name for task in plan.tasks]
    assert names[:7] == [cell.name for cell in plan.cells[:7]]
    assert names[14:] == [
        f"{kind}-{dataset.replace('/', '-')}-{backbone}"
        for dataset in DATASETS
        for kind, backbone in [
            ("terms", "gan"),
            ("diagnosis", "gan"),
            ("anchor", "gan"),
            ("optimism", "gan"),
            ("optimism", "rezsl"),
            ("optimism", "gaussian"),
            ("draws", "rezsl"),
            ("draws", "gaussian"),
        ]
    ]
    for task in plan.tasks:
        assert set(task.needs) <= set(names[: names.index(task.name)])


def answer(dataset: str, h: float) -> dict[str, Any]:
    """A record of question 2."""
    test = dict.fromkeys(("U", "S", "H", "T1", "AUSUC"), h)
    row = {
        "head": "lda",
        "heads": {"lda": 0.5},
        "updates": 9,
        "val_H": 0.5,
        "test": test,
        "H_per_seed": [h, h + 0.1],
        "difference": None,
    }
    worse = {
        **row,
        "name": "without L_od",
        "H_per_seed": [h - 0.02, h + 0.06],
        "difference": vars(over_pairs([0, 0], [0.02, 0.04])),
    }
    rows = [{**row, "name": "winner"}, worse, {"name": "d = 2", "missing": "is the winner itself"}]
    return {
        "kind": "terms",
        "dataset": dataset,
        "backbone": "gan",
        "commit": "abd",
        "seconds": 1.0,
        "answer": {"rows": rows},
    }


def test_variants_are_pooled_over_datasets_and_what_is_missing_is_told() -> None:
    records = [answer(DATASETS[0], 0.6), answer(DATASETS[1], 0.4)]
    assert [item.name for item in pooled(records)] == ["winner", "without L_od", "d = 2"]
    lines = variant_table(records)
    assert "-0.030 [" in lines[3]
    assert "made-up/0 -0.030, made-up/1 -0.030" in lines[3]
    assert "made-up/0: is the winner itself, made-up/1: is the winner itself" in lines[4]
    assert head_table(records)[2:] == ["| winner | 0.500 | lda 2 |", "| without L_od | 0.500 | lda 2 |"]


def test_heads_are_counted_where_they_were_offered(found: dict[Cell, Record]) -> None:
    assert head_rows(found) == [
        ["gan", "lda", "4", "4", "0.450"],
        ["gan", "prototype", "0", "4", "0.350"],
        ["gaussian", "lda", "2", "2", "0.300"],
        ["gaussian", "prototype", "0", "2", "0.200"],
    ]


def test_the_anchor_is_told_one_way_whichever_the_winner_had(found: dict[Cell, Record]) -> None:
    def anchored(dataset: str, own: str, ours: list[float], other: list[float]) -> dict[str, Any]:
        record = answer(dataset, 0.5)
        rows = [{**record["answer"]["rows"][0], "H_per_seed": each} for each in (ours, other)]
        rows[1] |= {"name": "anchor", "difference": vars(over_pairs(other, ours))}
        return {**record, "kind": "anchor", "answer": {"own": own, "rows": rows}}

    answers = {
        "a": anchored(DATASETS[0], "ridge", [0.6, 0.7], [0.5, 0.5]),
        "b": anchored(DATASETS[1], "none", [0.3, 0.3], [0.4, 0.5]),
    }
    text = "\n".join(heads_section(found, answers))
    assert "| gan | +0.150 [" in text
    assert "| 4 | made-up/0 +0.150, made-up/1 +0.150 |" in text


def test_the_report_says_what_is_missing_and_its_figures_are_drawings(
    found: dict[Cell, Record], tmp_path: Path
) -> None:
    wanted = [*found, Cell(DATASETS[1], "rezsl", "mse")]
    answers = {"terms-a": answer(DATASETS[0], 0.6)}
    findings = Findings(wanted, found, answers, {"made-up-1-rezsl-mse": "exit code 3: no usable trial"}, {"seeds": 3})
    path = tmp_path / "accuracy-2026-01-01.md"
    write_report(findings, path)
    text = path.read_text(encoding="utf-8")
    assert "**Incomplete**: 1 task without a record: made-up-1-rezsl-mse (exit code 3: no usable trial)." in text
    assert "abc (6 records), abd (1 record)" in text
    assert "### Mean over made-up/0\n" in text
    for name in ("forest", "plane-gan", "plane-gaussian"):
        assert f"(accuracy-2026-01-01/{name}.svg)" in text
        svg = path.with_suffix("") / f"{name}.svg"
        assert ElementTree.parse(svg).getroot().tag.endswith("svg")  # noqa: S314
        assert svg.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    before = (path.with_suffix("") / "forest.svg").read_bytes()
    write_report(findings, path)
    assert (path.with_suffix("") / "forest.svg").read_bytes() == before


def test_an_empty_report_is_one(tmp_path: Path) -> None:
    write_report(Findings([Cell("a", "gan", "d3")], {}, {}, {"a-gan-d3": ""}), tmp_path / "report.md")
    assert "1 task without a record: a-gan-d3." in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_three_draws_choose_by_their_mean() -> None:
    values = [[0.1, 0.2], [0.9, 0.3], [0.2, 0.3], [0.0, 0.5], [0.1, 0.4], [0.2, 0.3]]
    offsets = [[float(10 * draw + setting) for setting in range(2)] for draw in range(6)]
    assert choices(values, offsets, 1) == [(1, 1.0), (0, 10.0), (1, 21.0), (1, 31.0), (1, 41.0), (1, 51.0)]
    assert choices(values, offsets, 3) == [(0, 10.0), (1, 41.0)]
    told = spread([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert told["sd_of_three"] == pytest.approx(stdev([0.2, 0.5]))
    assert told["sd_of_one"] == pytest.approx(stdev([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))


def test_curves_of_equal_h_are_round_and_few() -> None:
    assert iso_values(0.735, 0.775) == [0.74, 0.75, 0.76, 0.77]
    assert iso_values(0.0, 1.0) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def test_small_measures() -> None:
    assert positive_share(torch.tensor([0, 0, 1])) == pytest.approx(5 / 9)
    assert margin_unit(3.0, 1.5, "score") == 2.0
    assert margin_unit(3.0, 0.0, "score") is None
    assert margin_unit(3.0, 9.0, "margin_sd") == 1.0

"""The leaderboard: what its rows hold, which run stands for several, and what stands beside it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import d3tune as package
from d3tune.results.leaderboard import COLUMNS
from d3tune.results.published import published_beside
from d3tune.search.summaries import configuration_id
from d3tune.yamlfile import read_yaml

Command = Callable[..., Any]
Write = Callable[..., Path]

GOLDEN = Path(__file__).parents[1] / "golden" / "run-format-1"
FORMATS = ("table", "markdown", "csv", "json", "latex", "html")
LABEL = "test-selected"


def test_rows_hold_everything_with_deviations_over_seeds(d3tune: Command, cub: Path) -> None:
    end = d3tune("leaderboard", "--json")
    assert (end.code, end.err) == (0, "")
    rows = json.loads(end.out)
    assert json.loads(d3tune("leaderboard", "--format", "json").out) == rows
    assert [row["run"] for row in rows] == ["high", "low", "alone", "best-of-test", "hanzi-run"]
    assert all(row.keys() == {*COLUMNS, "published"} for row in rows)
    high, low, *_ = rows
    assert (high["test_H"], high["test_H_sd"], high["test_U_sd"], high["test_S_sd"]) == (0.6, 0.012, 0.02, None)
    assert (high["val_H"], high["seeds"], high["splits"], high["trials"], high["trial_hours"]) == (0.62, 3, 2, 7, 12.5)
    assert (low["test_H_sd"], low["splits"], low["gap"]) == (None, 1, None)
    assert list(package.leaderboard().columns) == COLUMNS


def test_the_configuration_id_is_that_of_best_yaml(d3tune: Command, cub: Path) -> None:
    best = read_yaml(GOLDEN / "best.yaml")
    by_run = {row["run"]: row["configuration"] for row in json.loads(d3tune("leaderboard", "--json").out)}
    assert by_run["hanzi-run"] == configuration_id(best["backbone"], best["config"])
    assert by_run["hanzi-run"] == by_run["high"], "the same on every dataset"
    assert by_run["low"] != by_run["high"], "another backbone"
    assert re.fullmatch(r"[0-9a-f]{8}", by_run["high"])
    assert configuration_id("gan", {"a": 1, "b": 2.5}) == configuration_id("gan", {"b": 2.5, "a": 1})
    assert configuration_id("gan", {"a": 1}) != configuration_id("gan", {"a": 2})


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"config": 3}', None])
def test_a_record_that_cannot_be_read_costs_the_id_alone(d3tune: Command, write: Write, damage: str | None) -> None:
    record = write("run") / "trials" / "00001" / "trial.json"
    record.unlink()
    if damage is not None:
        record.write_text(damage, encoding="utf-8")
    (row,) = json.loads(d3tune("leaderboard", "--json").out)
    assert (row["run"], row["configuration"]) == ("run", None)
    for form in FORMATS:
        assert "None" not in d3tune("leaderboard", "--format", form).out


def test_an_id_in_the_summary_needs_no_record(d3tune: Command, write: Write) -> None:
    shutil.rmtree(write("run", configuration="01234567") / "trials")
    (row,) = json.loads(d3tune("leaderboard", "--json").out)
    assert row["configuration"] == "01234567"


def test_a_summary_of_an_earlier_form_is_listed(d3tune: Command, write: Write) -> None:
    path = write("run") / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    for key in ("splits", "confirmed_trial"):
        summary.pop(key)
    summary["selection"].pop("splits")
    del summary["test"]["AUSUC"]["sd"]
    path.write_text(json.dumps(summary), encoding="utf-8")
    (row,) = json.loads(d3tune("leaderboard", "--json").out)
    assert (row["splits"], row["configuration"], row["test_AUSUC_sd"]) == (None, None, None)
    for form in FORMATS:
        assert "None" not in d3tune("leaderboard", "--format", form).out


def test_the_table_fits_a_terminal_and_keeps_three_kinds_of_row_apart(d3tune: Command, cub: Path) -> None:
    end = d3tune("leaderboard")
    lines = end.out.splitlines()
    assert max(map(len, lines)) <= 120
    first = lines.index("cub, att312, features clip")
    claimed = lines.index(f"cub, att312, features clip: {LABEL} runs")
    published = next(i for i, line in enumerate(lines) if line.startswith("cub, att312: published results"))
    assert first < claimed < published
    honest = "\n".join(lines[first:claimed])
    assert honest.index("0.600 ± 0.012") < honest.index("0.390")
    assert LABEL not in honest
    assert "f-CLSWGAN" not in honest
    assert "val H over several validation splits: gan over 2" in honest
    assert [line.split()[0] for line in lines[claimed + 3 : claimed + 5]] == ["diffusion", "gan"]
    block = "\n".join(lines[published:])
    assert LABEL in block
    assert "not ranked with runs" in " ".join(block.split())
    assert "features differ: runs clip; published res101, res101-finetuned" in block
    assert re.search(r"f-CLSWGAN +0\.437 +0\.577 +0\.497 +res101 +SDGZSL table", block)
    # hanzi has no published results, and no splits to speak of
    hanzi = end.out[end.out.index("hanzi/0, parts103") :]
    assert "published results" not in hanzi
    assert "splits" not in hanzi


def test_a_long_name_is_folded_and_not_cut(d3tune: Command, write: Write) -> None:
    name = "run-" + "0123456789" * 9
    write(name)
    out = d3tune("leaderboard").out
    assert max(map(len, out.splitlines())) <= 120
    tails = [line.split()[-1] for line in out.splitlines() if re.search(r"[0-9]{4,}$|run-", line)]
    assert name in "".join(tails)


def test_same_features_are_not_called_different(d3tune: Command, write: Write) -> None:
    write("run", dataset={"name": "flo", "semantics": "sent1024", "features": "res101"})
    out = d3tune("leaderboard").out
    assert "flo, sent1024: published results" in out
    assert "features differ" not in out


def test_published_results_are_in_json_beside_each_row(d3tune: Command, cub: Path) -> None:
    rows = json.loads(d3tune("leaderboard", "--json").out)
    beside = [found.to_dict() for found in published_beside("cub", "att312")]
    assert beside
    assert all(row["published"] == (beside if row["dataset"] == "cub" else []) for row in rows)
    assert {found["selection"] for found in beside} == {LABEL}


def test_the_gap_of_a_test_selected_run(d3tune: Command, cub: Path) -> None:
    rows = {row["run"]: row for row in json.loads(d3tune("leaderboard", "--protocol", "published", "--json").out)}
    assert rows.keys() == {"best-of-test", "alone"}
    beside = rows["best-of-test"]
    assert beside["gap"] == pytest.approx(0.055)
    assert [beside[name] for name in ("confirmed_run", "confirmed_H", "confirmed_H_sd")] == ["high", 0.6, 0.012]
    assert [rows["alone"][name] for name in ("confirmed_run", "confirmed_H", "gap", "val_H")] == [None] * 4
    out = d3tune("leaderboard", "--protocol", "published").out
    assert max(map(len, out.splitlines())) <= 120
    assert re.search(r"gan +0\.655 ± 0\.001 +0\.600 ± 0\.012 +\+0\.055 ", out)
    assert re.search(r"diffusion +0\.700 +– +– ", out)
    assert "val H" not in out
    assert "no estimate of what a new test would give" in " ".join(out.split())


def test_runs_on_other_data_are_not_compared(d3tune: Command, write: Write) -> None:
    data = {"name": "cub", "semantics": "att312", "features": "res101"}
    write("claimed", "published", dataset=data)
    for index, other in enumerate(({"name": "awa2"}, {"semantics": "sent1024"}, {"features": "clip"})):
        write(f"other-{index}", dataset={**data, **other})
    write("backbone", dataset=data, backbone="vae")
    (row,) = json.loads(d3tune("leaderboard", "--protocol", "published", "--json").out)
    assert (row["run"], row["gap"]) == ("claimed", None)


def test_one_protocol_alone(d3tune: Command, cub: Path) -> None:
    rows = json.loads(d3tune("leaderboard", "--protocol", "test", "--json").out)
    assert {row["protocol"] for row in rows} == {"test"}
    assert "best-of-test" not in d3tune("leaderboard", "--protocol", "test").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--format", "word"), "--format word: no such choice"),
        (("--format", "mardown"), "did you mean 'markdown'?"),
        (("--protocol", "validation"), "--protocol validation: no such choice; known: all, test, published"),
        (("--json", "--format", "csv"), "--json and --format csv: give one of them"),
        (("-o", "."), ".: is a folder; give another -o"),
        (("-o", "none/board.md"), "none/board.md: its folder does not exist; give another -o"),
    ],
)
def test_a_wrong_option_is_one_line(d3tune: Command, cub: Path, arguments: tuple[str, ...], words: str) -> None:
    end = d3tune("leaderboard", *arguments)
    assert (end.code, end.out, end.err.count("\n")) == (2, "", 1)
    assert words in end.err


def test_many_runs_are_all_there(d3tune: Command, write: Write) -> None:
    for number in range(100):
        write(f"run-{number}", backbone=f"b{number}")
    rows = json.loads(d3tune("leaderboard", "--json").out)
    assert {row["backbone"] for row in rows} == {f"b{number}" for number in range(100)}


def board(d3tune: Command) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(d3tune("leaderboard", "--json").out)
    return rows


def test_of_several_runs_the_best_by_validation_stands_and_their_number_is_said(d3tune: Command, write: Write) -> None:
    for index, (value, found) in enumerate(((0.61, 0.5), (0.7, 0.4), (0.65, 0.9))):
        write(f"run-{index}", configuration=f"0000000{index}", selection={"val_H": value}, test_H=(found, None))
    write("alone", backbone="vae")
    write("claimed-0", "published", configuration="00000000", test_H=(0.8, None))
    write("claimed-1", "published", configuration="00000001", test_H=(0.9, None))
    found = {row["run"]: row["runs"] for row in board(d3tune)}
    assert found == {"run-1": 3, "alone": 1, "claimed-1": 2}
    text = " ".join(d3tune("leaderboard").out.split())
    assert "of several runs the one with the best val H: gan of 3" in text
    assert "of several runs the one with the best claimed H: gan of 2" in text
    head = d3tune("leaderboard", "--format", "markdown").out.splitlines()[2]
    assert "| run | runs | configuration |" in head


def test_of_runs_of_one_configuration_the_one_with_most_seeds_stands(
    d3tune: Command, write: Write, tmp_path: Path
) -> None:
    def confirmed(name: str, n_seeds: int, value: float, configuration: str, splits: tuple[int, ...] = (0,)) -> None:
        selection = {"val_H": value, "seeds": list(range(n_seeds)), "splits": splits}
        write(name, configuration=configuration, selection=selection)

    confirmed("sure", 5, 0.6, "aaaaaaaa")
    confirmed("lucky", 1, 0.7, "aaaaaaaa")
    (row,) = board(d3tune)
    assert (row["run"], row["seeds"], row["runs"]) == ("sure", 5, 2)
    confirmed("over-splits", 5, 0.55, "aaaaaaaa", splits=(0, 1, 2))
    (row,) = board(d3tune)
    assert (row["run"], row["splits"]) == ("over-splits", 3)
    confirmed("better", 2, 0.65, "bbbbbbbb")
    (row,) = board(d3tune)
    assert (row["run"], row["runs"]) == ("better", 4)
    # what the leaderboard shows is what is exported
    end = d3tune("export", "--dataset", "hanzi", "--backbone", "gan", "-o", tmp_path / "out.yaml")
    assert "better" in end.err


def test_baselines_of_a_search_are_rows_of_their_own(d3tune: Command, write: Write) -> None:
    tested = json.loads((GOLDEN / "summary.json").read_text(encoding="utf-8"))["baselines"]
    write("first", baselines=tested)
    write("second", backbone="gaussian", baselines=tested)
    write("claimed", "published", baselines=[*tested, "damaged", {"name": "ESZSL"}])
    rows = board(d3tune)
    found = {row["backbone"]: row for row in rows if row["kind"] == "baseline"}
    assert found.keys() == {"gaussian", "ESZSL"}
    assert sorted(row["backbone"] for row in rows if row["kind"] == "search") == ["gan", "gan", "gaussian"]
    # not the luckiest draw of validation classes, but the most of them
    lucky = [{**row, "val/H": row["val/H"] + 0.1} for row in tested]
    write("lucky", backbone="vae", baselines=lucky)
    assert {row["run"] for row in board(d3tune) if row["kind"] == "baseline"} == {"claimed"}
    write("several", backbone="cegan", baselines=tested, splits=[0, 1, 2])
    assert {row["run"] for row in board(d3tune) if row["kind"] == "baseline"} == {"several"}
    eszsl = found["ESZSL"]
    assert (eszsl["val_H"], eszsl["test_H"]) == (tested[1]["val/H"], tested[1]["test/H"])
    assert [eszsl[name] for name in ("test_H_sd", "seeds", "trials", "trial_hours", "configuration")] == [None] * 5
    assert eszsl["protocol"] == "test"
    for form in FORMATS:
        out = d3tune("leaderboard", "--format", form).out
        assert "None" not in out
        assert "gaussian (baseline)" in out or form in ("table", "csv", "json")
    table = d3tune("leaderboard").out
    assert re.search(r"^ gaussian\* ", table, re.MULTILINE)
    assert "* baseline, tuned by validation beside a search" in table
    assert "of several runs" not in d3tune("leaderboard", "--protocol", "test").out
    end = d3tune("export", "--dataset", "hanzi", "--backbone", "ESZSL", "-o", "out.yaml")
    assert (end.code, end.err.count("\n")) == (2, 1)
    assert "no confirmed run of ESZSL on hanzi" in end.err

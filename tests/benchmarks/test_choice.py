"""What choosing with fresh seeds is worth, on a surrogate whose noise-free values are known."""

from pathlib import Path
from statistics import fmean

import pytest

from benchmarks.choice import Chosen, main, markdown, search_and_choose, summary
from benchmarks.surrogate import Surrogate
from benchmarks.trials import Cell, Table


@pytest.fixture(scope="module")
def surrogate() -> Surrogate:
    """Of recorded trials."""
    cell = Cell("gan", "hanzi/0")
    return Surrogate(cell, Table(cell))


def test_a_choice_is_worth_what_the_surrogate_says_of_both_trials(surrogate: Surrogate) -> None:
    found = [search_and_choose(surrogate, seed, 20, tops=(1, 4)) for seed in range(3)]
    assert found == [search_and_choose(surrogate, seed, 20, tops=(1, 4)) for seed in range(3)], "always the same"
    whole = [item for item in found if item is not None]
    assert len(whole) == 3
    assert [item.gains[1] for item in whole] == [0, 0, 0], "of one candidate none is chosen"
    assert all(abs(gain) < 1 for item in whole for gain in item.gains.values())
    assert all(-1 < item.optimism < 1 for item in whole)


def test_the_best_of_noisy_trials_promises_more_than_it_has(surrogate: Surrogate) -> None:
    found = [item for seed in range(5) if (item := search_and_choose(surrogate, seed, 20, tops=(8,))) is not None]
    told = summary(found)
    assert told["optimism"].mean > 0
    assert told["optimism"].mean == pytest.approx(fmean(item.optimism for item in found))
    assert told["best 8"].mean == pytest.approx(fmean(item.gains[8] for item in found))


def test_the_report_says_what_there_is_and_what_is_missing(tmp_path: Path) -> None:
    rows = {"gan-hanzi-0": (2, summary([Chosen(0.01, {4: 0.002}), Chosen(0.03, {4: 0.004})]))}
    text = markdown(rows, {"trials": 50}, {"vae-hanzi-0": "no table"})
    assert "| gan-hanzi-0 | 2 | 0.0200 [" in text
    assert "0.0030 [" in text
    assert "vae-hanzi-0 (no table)" in text
    given = [
        "--tables",
        str(tmp_path),
        "--report",
        str(tmp_path / "r.md"),
        "--backbones",
        "gan",
        "--datasets",
        "hanzi/0",
    ]
    assert main([*given, "--jobs", "1"]) == 1
    assert "There is no table of any cell" in (tmp_path / "r.md").read_text(encoding="utf-8")

"""What warm starts from another cell are worth, on surrogates of recorded trials."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.surrogate import Surrogate
from benchmarks.transfer import Pair, main, markdown, points_of, reached, searched, sources_of
from benchmarks.trials import Cell, Table


@pytest.fixture(scope="module")
def cells() -> list[Surrogate]:
    """Two backbones on one class split."""
    return [Surrogate(cell, Table(cell)) for cell in (Cell("gan", "hanzi/0"), Cell("vae", "hanzi/0"))]


def test_a_search_begins_with_the_points_of_the_other_cell(cells: list[Surrogate]) -> None:
    gan, vae = cells
    points, taken = points_of(gan, vae, 1000, 12)
    assert 0 < len(points) <= 3
    assert 0.5 < taken <= 1
    assert points_of(gan, vae, 1000, 12)[0] == points
    cold, warm = searched(vae, 0, 12), searched(vae, 0, 12, points)
    assert len(cold) == len(warm) == 12
    expected = [vae.expected({**vae.config(**vae.space.fixed).model_dump(), **point.values}) for point in points]
    assert warm[0].number == 0
    assert warm[0].expected == pytest.approx(expected[0]), "its first trial is the first point"
    assert cold[0].expected != warm[0].expected


def row(ended: int, best: float | None) -> Any:
    return SimpleNamespace(ended=ended, best=best)


def test_how_soon_is_counted_in_trials_that_ended() -> None:
    traces = [[row(1, None), row(2, 0.7), row(3, 0.78), row(4, 0.8)], [row(1, 0.5), row(2, 0.6)]]
    assert reached(traces, 0.8) == {0.95: [3.0, math.inf], 0.98: [4.0, math.inf]}
    pair = Pair("a", "b", {0.95: [4.0, 6.0, 8.0]}, {0.95: [3.0, math.inf, 1.0]}, 0.5)
    assert pair.ratio(0.95) == 0.5
    assert Pair("a", "b", {0.95: [4.0, 6.0]}, {0.95: [math.inf, math.inf]}, 0.5).ratio(0.95) is None


def test_sources_are_other_backbones_here_and_the_same_elsewhere() -> None:
    cells = [Cell(backbone, split) for split in ("hanzi/0", "hanzi/1") for backbone in ("gan", "vae")]
    assert sources_of(cells[0], cells) == [cells[1], cells[2]]


def test_the_report_has_the_pairs_and_what_is_missing(tmp_path: Path) -> None:
    found = [Pair("gan", "vae", {0.95: [4.0], 0.98: [9.0]}, {0.95: [1.0], 0.98: [math.inf]}, 0.9)]
    text = markdown(found, {}, {"rezsl-hanzi-0": "no table"})
    assert "| vae | gan | 90% | 4 | 1 | 0.25 | 9 | – | – |" in text
    assert "rezsl-hanzi-0 (no table)" in text
    only = ("--backbones", "gan", "--datasets", "hanzi/0", "--jobs", "1")
    assert main(["--tables", str(tmp_path), "--report", str(tmp_path / "r.md"), *only]) == 1
    assert "no two cells with a table" in (tmp_path / "r.md").read_text(encoding="utf-8")

"""The page and its files: whole, self-contained, honest, the same bytes each time, whatever came of a run."""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from d3tune.errors import RunError
from d3tune.results.report import providers
from d3tune.results.report.figure import Drawn
from d3tune.results.report.figures import FIGURES
from d3tune.results.report.winner import FIGURES as WINNER_FIGURES
from d3tune.results.report.writing import Report, write_report
from d3tune.search.run import RunDirectory
from d3tune.words import TEST_SELECTED

Make = Callable[..., RunDirectory]
FULL = [(0.6 + 0.01 * k, 0.5 + 0.01 * k) for k in range(6)]
SVG = "{http://www.w3.org/2000/svg}"


def page_of(report: Report, parse: Any) -> Any:
    """The parsed page, after what every page must hold: no address to load, unique places, files beside it."""
    text = report.page.read_text(encoding="utf-8")
    page = parse(text)
    assert not [link for link in page.links if not link.startswith(("#", "data:"))]
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    assert "script" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    drawn = [figure for figure in report.figures if figure.drawn.figure is not None]
    assert page.figures == [figure.name for figure in drawn]
    assert page.alts == [" ".join(figure.drawn.alt.split()) for figure in drawn]
    assert all(len(alt) > 20 for alt in page.alts)
    files = {path.name for path in (report.page.parent / "figures").iterdir()}
    assert files == {f"{figure.name}.{kind}" for figure in drawn for kind in ("png", "svg")}
    for figure in report.figures:
        assert (figure.drawn.figure is None) == bool(figure.drawn.missing)
        assert (figure.drawn.missing or figure.drawn.caption) in " ".join(page.text.split())
    return page


def cells(page: Any) -> dict[str, list[str]]:
    """Every row of every table by its first cell."""
    return {row[0]: row[1:] for table in page.tables for row in table}


def test_a_report_says_everything_and_each_figure_is_a_file(golden: RunDirectory, parse: Any) -> None:
    report = write_report(["golden"], None)
    assert report.page == golden.path / "report" / "index.html"
    page = page_of(report, parse)
    rows, summary = cells(page), golden.read_summary()
    assert summary is not None
    assert rows["run"] == ["golden"]
    assert rows["backbone"] == ["gan"]
    assert rows["trials"] == ["3 complete, 2 pruned, 1 failed, 1 unfinished"]
    assert "hanzi/0" in rows["dataset"][0]
    test = summary["test"]
    assert rows["gan (prototype)"] == [
        f"{summary['selection']['val_H']:.3f}",
        *(f"{test[name]['mean']:.3f}" for name in ("H", "U", "S", "T1", "AUSUC")),
    ]
    for row in summary["baselines"]:
        shown = [f"{row[key]:.3f}" for key in ("val/H", "test/H", "test/U", "test/S", "test/T1", "test/AUSUC")]
        assert rows[f"{row['name']} (baseline)"] == shown
    record = json.loads((golden.trial(1) / "trial.json").read_text(encoding="utf-8"))
    for name, value in record["config"].items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            assert float(rows[name][0].split()[0]) == pytest.approx(value, rel=1e-5), name
    assert "no choice was made on test rows" in page.text
    for figure in report.figures:
        if figure.svg:
            path = report.page.parent / "figures" / figure.name
            root = ET.fromstring(path.with_suffix(".svg").read_bytes())  # noqa: S314 - our own file
            assert root.tag == f"{SVG}svg"
            # glyphs are paths: no font is needed
            assert not list(root.iter(f"{SVG}text"))
            assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_same_run_gives_the_same_bytes_and_is_only_read(confirmed: RunDirectory) -> None:
    def content() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in confirmed.path.rglob("*") if path.is_file()}

    before = content()
    report = write_report(["confirmed"], None)
    first = content()
    assert {path: data for path, data in first.items() if "/report/" not in path} == before
    assert write_report([str(confirmed.path)], None).page == report.page
    assert content() == first
    assert not [path for path in first if "/." in path.removeprefix(str(confirmed.path))], "a temporary file is left"


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ([], "No trial has begun yet."),
        ([("complete", FULL)], "Winner: trial 0, val/H 0.596"),
        ([("failed", [])] * 3, "Every trial failed; most often (3 of 3): ValueError: made to <b>fail</b> & $x$"),
        ([("pruned", FULL[:2])] * 3, "Every trial was pruned"),
        ([("unfinished", FULL[:1])], "No trial is complete yet"),
        ([("complete", FULL)] * 11, "same value: nothing made a difference"),
    ],
    ids=["none", "one", "all failed", "all pruned", "interrupted", "constant"],
)
def test_whatever_came_of_a_run_there_is_a_page_that_says_so(
    trials: list[Any], said: str, make_run: Make, ends: Any, parse: Any
) -> None:
    run = make_run([ends(*trial) for trial in trials], slim=True)
    page = page_of(write_report([run.name], None), parse)
    assert said in page.text
    if not trials:
        assert page.figures == []
    assert cells(page)["state"][0].startswith("without a summary" if trials else "not begun")


@pytest.mark.parametrize("backbone", ["gaussian", "rezsl", "vae"])
def test_every_backbones_space_is_drawn(backbone: str, make_run: Make, ends: Any, parse: Any) -> None:
    count = 1 if backbone == "gaussian" else 6
    run = make_run([ends("complete", [(0.6, 0.3 + 0.05 * k)] * count) for k in range(4)], backbone=backbone)
    page = page_of(write_report([run.name], None), parse)
    assert {"slices", "parallel-coordinates", "seen-unseen"} <= set(page.figures)


def test_what_the_test_sets_selected_is_labelled_everywhere(make_run: Make, ends: Any, parse: Any) -> None:
    run = make_run([ends("complete", FULL)] * 2, slim=True, protocol="published")
    means = {name: {"mean": 0.7, "sd": 0.01} for name in ("H", "U", "S", "T1", "AUSUC")}
    test = {"protocol": "published", **means, "H_per_seed": {"1": 0.7, "2": 0.7}}
    selection = {"protocol": "published", "published_H": 0.7, "val_H": None, "head": "softmax", "seeds": [1, 2]}
    run.write_summary({"state": "done", "test": test, "selection": selection, "confirmed_trial": 0, "baselines": []})
    report = write_report([run.name], None)
    page = page_of(report, parse)
    rows = cells(page)
    assert rows["gan (softmax)"][:2] == [f"– ({TEST_SELECTED})", f"0.700 ± 0.010 ({TEST_SELECTED})"]
    assert TEST_SELECTED in rows["selected by"][0]
    assert f"published/H 0.596, {TEST_SELECTED}" in page.text
    assert "no estimate of what a new test would give" in " ".join(page.text.split())
    for figure in report.figures:
        if figure.name not in ("seconds", "timeline") and figure.drawn.figure is not None:
            assert TEST_SELECTED in figure.drawn.caption, figure.name
    assert "val/" not in page.text


@pytest.mark.parametrize(
    ("H", "sd", "said"),
    [
        (0.820, 0.02, "does not beat the closed-form gaussian baseline beyond its own spread"),
        (0.835, 0.02, "exceeds the gaussian baseline by more than its sd over seeds"),
        (0.700, 0.02, "does not beat the closed-form gaussian baseline beyond its own spread"),
        (0.900, None, "With one seed there is no spread"),
    ],
)
def test_a_winner_that_is_no_better_than_gaussian_is_said_to_be_so(
    H: float, sd: float | None, said: str, confirmed: RunDirectory
) -> None:
    summary = confirmed.read_summary()
    assert summary is not None
    (gaussian,) = [row for row in summary["baselines"] if row["name"] == "gaussian"]
    gaussian["test/H"] = 0.81
    summary["test"]["H"] = {"mean": H, "sd": sd}
    confirmed.write_summary(summary)
    text = write_report(["confirmed"], None).page.read_text(encoding="utf-8")
    assert said in text
    assert ("does not beat" in text) == ("does not beat" in said)


def test_a_winner_that_was_not_confirmed_is_said_to_be_so(confirmed: RunDirectory) -> None:
    summary = confirmed.read_summary()
    assert summary is not None
    confirmed.write_summary({**summary, "confirmed_trial": 0})
    text = write_report(["confirmed"], None).page.read_text(encoding="utf-8")
    assert "What was confirmed is trial 0, the winner of an earlier command, not this one." in text
    confirmed.write_summary({**summary, "test": None, "selection": None})
    assert "It has not been confirmed" in write_report(["confirmed"], None).page.read_text(encoding="utf-8")


def test_a_summary_that_lacks_keys_or_is_not_there_is_made_up_for_by_the_study(
    confirmed: RunDirectory, parse: Any
) -> None:
    summary = confirmed.read_summary()
    assert summary is not None
    kept = {key: summary[key] for key in ("test", "selection")}
    confirmed.write_summary(kept)
    page = page_of(write_report(["confirmed"], None), parse)
    assert cells(page)["gan (prototype)"][1] == f"{summary['test']['H']['mean']:.3f}"
    del kept["test"]["U"]
    confirmed.write_summary(kept)
    assert "lacks something" in page_of(write_report(["confirmed"], None), parse).text
    (confirmed.path / "summary.json").write_text("{", encoding="utf-8")
    page = page_of(write_report(["confirmed"], None), parse)
    assert "Winner: trial 1" in page.text
    assert "gan (prototype)" not in cells(page)


def test_names_are_shown_and_never_obeyed(make_run: Make, ends: Any, parse: Any, tmp_path: Path) -> None:
    nasty = '<script>alert("1")</script> $x^{$ & 汉字 \\n'.replace("/", "∕")
    run = make_run(
        [ends("complete", FULL)], name=nasty, slim=True, dataset="<b>x</b>$_", semantics="att1", features="a'\"b"
    )
    other = make_run([ends("complete", FULL)], name="other", slim=True, dataset="<b>y</b>$_")
    page = page_of(write_report([str(run.path), other.name], tmp_path / "out"), parse)
    assert not {"script", "b"} & page.tags
    assert " ".join(nasty.split()) in page.text
    assert "<b>x</b>$_" in page.text


def test_a_figure_that_cannot_be_drawn_any_more_leaves_no_file_and_foreign_files_stay(
    confirmed: RunDirectory, make_run: Make, ends: Any, parse: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine", encoding="utf-8")
    assert "history" in page_of(write_report(["confirmed"], out), parse).figures
    empty = make_run([])
    assert page_of(write_report([empty.name], out), parse).figures == []
    assert (out / "mine.txt").read_text(encoding="utf-8") == "mine"


def test_figures_that_another_report_had_are_gone_and_ones_own_stay(
    golden: RunDirectory, confirmed: RunDirectory, parse: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = write_report(["golden", "confirmed"], out)
    assert (out / "figures" / "compared-history.png").is_file()
    assert (out / "figures" / "2-history.svg").is_file()
    page_of(first, parse)
    page_of(write_report(["golden"], out), parse)
    (out / "figures" / "mine.png").write_bytes(b"mine")
    write_report(["golden", "confirmed"], out)
    assert (out / "figures" / "mine.png").read_bytes() == b"mine"
    assert not (out / "figures" / "history.png").exists()


def test_figures_of_others_are_on_the_page_and_their_errors_too(
    confirmed: RunDirectory, monkeypatch: pytest.MonkeyPatch, parse: Any
) -> None:
    def per_class(run: RunDirectory) -> list[Drawn]:
        assert run.path == confirmed.path
        return [
            Drawn(
                "per-class",
                "Each class",
                "Accuracy of each class in [0, 1].",
                "Bars of the accuracy of each class.",
                Figure(),
            )
        ]

    def no_features(run: RunDirectory) -> list[Drawn]:
        raise RunError("the dataset is gone")

    monkeypatch.setattr(providers, "PROVIDERS", (per_class, no_features))
    report = write_report(["confirmed"], None)
    page = page_of(report, parse)
    assert page.figures[-1] == "per-class"
    assert [figure.name for figure in report.figures][len(FIGURES) :] == ["per-class", "no-features"]
    assert "the dataset is gone" in page.text


def test_runs_are_compared_side_by_side(golden: RunDirectory, make_run: Make, ends: Any, parse: Any) -> None:
    mine = make_run([ends("complete", [(0.6, 0.4 + 0.02 * k)] * 6, 2.0) for k in range(3)], name="mine", slim=True)
    far = make_run([ends("complete", FULL)], name="far", slim=True, dataset="cub", semantics="att312", backbone="vae")
    claimed = make_run([ends("complete", FULL)], name="claimed", slim=True, protocol="published")
    names = ["golden", mine.name, far.name, claimed.name, str(golden.path)]
    report = write_report(names, None)
    assert report.page.parent.parent.name == "reports"
    assert [run.name for run in report.runs] == ["golden", "mine", "far", "claimed"], "named twice counts once"
    page = page_of(report, parse)
    honest, selected = page.tables[:2]
    assert [row[0] for row in honest[1:]] == ["1: golden", "2: mine", "3: far"]
    assert [row[0] for row in selected[1:]] == ["4: claimed"]
    head = {name: index for index, name in enumerate(honest[0])}
    summary = golden.read_summary()
    assert summary is not None
    first, second = honest[1:3]
    assert first[head["test H"]] == f"{summary['test']['H']['mean']:.3f}"
    assert first[head["trials"]] == "7"
    assert second[head["winner's"]] == f"val/H {2 * 0.6 * 0.44 / 1.04:.3f}"
    assert second[head["compute hours"]] == f"{3 * 6 * 2 / 3600:.3g}"
    history, planes = (figure.drawn.figure for figure in report.figures[:2])
    assert history is not None
    assert planes is not None
    # validation and published, each against trials and hours
    assert len(history.axes) == 4
    assert [axes.get_title().split(",")[0] for axes in planes.axes] == ["hanzi/0", "cub", "hanzi/0"]
    by_hour = history.axes[1]
    (line,) = [line for line in by_hour.lines if line.get_marker() == "s"]
    assert list(line.get_xdata()) == pytest.approx([12 / 3600, 24 / 3600, 36 / 3600, 36 / 3600])
    assert len(report.figures) == 2 + 4 * (len(FIGURES) + len(WINNER_FIGURES))

"""Figures of the confirmed winner: what they draw is what the file says, and they can be drawn whatever it says."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from d3tune.method.analysis import Analysis, analyse
from d3tune.method.metrics import Scores, accuracies
from d3tune.method.readings import OodScores, Readings
from d3tune.results.report.figure import Drawn
from d3tune.results.report.style import BLUE, ORANGE, VERMILLION, styled
from d3tune.results.report.winner import DRAWING, FIGURES, winner_figures
from d3tune.search.analysis import Recorded
from d3tune.search.run import RunDirectory, open_run
from d3tune.words import TEST_SELECTED

GOLDEN = Path(__file__).parent.parent / "golden" / "run-format-1"


def readings(n_seen: int = 8, n_unseen: int = 4, rows: int = 300, seed: int = 0, ood: bool = True) -> Readings:
    """Scores of a middling classifier; the last seen class has no row."""
    rng = np.random.default_rng(seed)

    def part(low: int, high: int) -> tuple[torch.Tensor, torch.Tensor]:
        y = rng.integers(low, high, rows)
        return torch.tensor(
            rng.normal(size=(rows, n_seen + n_unseen)) + 1.2 * np.eye(n_seen + n_unseen)[y]
        ), torch.tensor(y)

    scores = Scores(*part(0, n_seen - 1), *part(n_seen, n_seen + n_unseen), n_seen)
    found = OodScores("teacher's energy", torch.tensor(rng.normal(1, 1, rows)), torch.tensor(rng.normal(0, 2, rows)))
    return Readings({"softmax": scores}, found if ood else None)


def analysed(names: list[str] | None = None, **further: Any) -> Analysis:
    read = readings(**further)
    n_classes = read.scores["softmax"].seen.shape[1]
    return analyse(read, "softmax", 0.3, names or [f"class {i}" for i in range(n_classes)])


def draw(analysis: Analysis) -> dict[str, Drawn]:
    with styled():
        parts = zip(DRAWING, FIGURES.items(), strict=True)
        return {name: function(name, title, analysis, "Test protocol.") for function, (name, title) in parts}


def axes_of(drawn: Drawn) -> list[Axes]:
    assert drawn.figure is not None
    return list(drawn.figure.axes)


def saved(figure: Figure | None, form: str) -> bytes:
    assert figure is not None
    file = io.BytesIO()
    with styled():
        metadata: dict[str, Any] = {"Date": None} if form == "svg" else {"Software": None}
        figure.savefig(file, format=form, metadata=metadata)
    return file.getvalue()


def texts(axes: Axes) -> str:
    return "\n".join(text.get_text() for text in axes.texts)


@pytest.fixture
def run(home: Path) -> RunDirectory:
    """A confirmed run of an earlier version, which has no analysis."""
    return open_run(str(shutil.copytree(GOLDEN, home / "runs" / "old")))


def write(run: RunDirectory, analysis: Analysis | None, missing: str = "") -> Path:
    """Put an analysis beside the run's stored test, as if it had been made with it."""
    summary = json.loads((run.path / "summary.json").read_text(encoding="utf-8"))
    fixed = {name: summary["selection"][name] for name in ("updates", "head", "seen_offset")}
    test = {"H": summary["test"]["H_per_seed"]["1"]}
    recorded = Recorded(backbone="gan", seed=1, **fixed, test=test, analysis=analysis, missing=missing)
    path = run.path / "confirm" / "trial-00001" / "analysis.json"
    path.write_text(recorded.model_dump_json(), encoding="utf-8")
    return path


# what is drawn


def test_classes_are_drawn_in_the_order_of_their_accuracy(run: RunDirectory) -> None:
    path = write(run, analysed())
    drawn = winner_figures(run)[0]
    classes = json.loads(path.read_text(encoding="utf-8"))["analysis"]["classes"]
    assert (drawn.name, len(axes_of(drawn))) == ("winner-classes", 2)
    for axes, seen in zip(axes_of(drawn), (True, False), strict=True):
        rows = [item for item in classes if item["seen"] == seen and item["rows"]]
        values = sorted(item["accuracy"] for item in rows)
        (stairs,) = axes.patches
        assert list(stairs.get_data().values) == values  # type: ignore[attr-defined]
        mean = [line for line in axes.get_lines() if line.get_linestyle() == "--"]
        assert mean[0].get_ydata()[0] == pytest.approx(np.mean(values))  # type: ignore[index]
        marked = [line for line in axes.get_lines() if line.get_marker() == "v"]
        assert list(marked[0].get_ydata()) == values[: len(rows)][:5]  # type: ignore[arg-type]
        for item in sorted(rows, key=lambda item: (item["accuracy"], -item["rows"]))[:5]:
            assert item["name"] in texts(axes)
            assert item["name"] in drawn.caption
            assert item["name"] in drawn.alt
        assert len(texts(axes).splitlines()) == 1 + min(5, len(rows))
    assert "left out: 1" in drawn.caption


def test_confusions_are_bars_of_their_counts(run: RunDirectory) -> None:
    path = write(run, analysed())
    drawn = winner_figures(run)[1]
    found = json.loads(path.read_text(encoding="utf-8"))["analysis"]
    for axes, key in zip(axes_of(drawn), ("seen_as_unseen", "unseen_as_seen"), strict=True):
        pairs = found[key][:10]
        assert [bar.get_width() for bar in axes.patches] == [pair["rows"] for pair in pairs]  # type: ignore[attr-defined]
        names = [[found["classes"][pair[end]]["name"] for end in ("true", "predicted")] for pair in pairs]
        assert [label.get_text() for label in axes.get_yticklabels()] == [" → ".join(pair) for pair in names]
        told = [f"{pair['rows']} of {found['classes'][pair['true']]['rows']}" for pair in pairs]
        assert texts(axes).splitlines() == told
        assert axes.get_xlim()[1] > max(pair["rows"] for pair in pairs)
    assert [axes.get_title(loc="left") for axes in axes_of(drawn)] == [
        "seen class → unseen class",
        "unseen class → seen class",
    ]


def test_the_curve_and_both_points_are_those_of_the_file(run: RunDirectory) -> None:
    path = write(run, analysed())
    drawn = winner_figures(run)[2]
    found = json.loads(path.read_text(encoding="utf-8"))["analysis"]
    (axes,) = axes_of(drawn)
    lines = {line.get_label(): line for line in axes.get_lines()}
    (curve,) = (line for label, line in lines.items() if "AUSUC" in str(label))
    assert list(curve.get_xdata()) == found["curve"]["S"]  # type: ignore[arg-type]
    assert list(curve.get_ydata()) == found["curve"]["U"]  # type: ignore[arg-type]
    assert f"AUSUC = {found['curve']['AUSUC']:.3f}" in str(curve.get_label())
    for key, words in (("chosen", "offset from validation"), ("test_optimal", "would have been chosen on test")):
        ((label, mark),) = ((label, line) for label, line in lines.items() if words in str(label))
        point = found[key]
        assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (point["S"], point["U"])  # type: ignore[index]
        assert f"H = {point['H']:.3f}" in str(label)
        assert (TEST_SELECTED in str(label)) == (key == "test_optimal")
    dotted = [line for line in axes.get_lines() if line.get_linestyle() == ":"]
    for line, h in zip(dotted, np.arange(1, 10) / 10, strict=True):
        s, u = np.array(line.get_xdata()), np.array(line.get_ydata())
        assert 2 * s * u / (s + u) == pytest.approx(h)


def test_histograms_are_shares_of_the_files_counts(run: RunDirectory) -> None:
    path = write(run, analysed())
    drawn = winner_figures(run)[3]
    found = json.loads(path.read_text(encoding="utf-8"))["analysis"]["ood"]
    (axes,) = axes_of(drawn)
    outlines = {str(patch.get_label()): patch.get_data() for patch in axes.patches if not patch.get_fill()}  # type: ignore[attr-defined]
    assert len(outlines) == 2
    for (label, data), key in zip(outlines.items(), ("seen", "unseen"), strict=True):
        assert label == f"{key} classes (300 rows)"
        assert list(data.values) == [count / 300 for count in found[key]]
        assert list(data.edges) == found["edges"]
    (threshold,) = axes.get_lines()
    assert threshold.get_xdata()[0] == found["threshold"]  # type: ignore[index]
    assert axes.get_title(loc="left") == f"AUROC = {found['AUROC']:.3f}, FPR95 = {found['FPR95']:.3f}"
    assert "logsumexp" in axes.get_xlabel()


def test_captions_and_axes_say_protocol_units_and_what_the_test_chose(run: RunDirectory) -> None:
    write(run, analysed())
    figures = winner_figures(run)
    for drawn in figures:
        assert drawn.caption.startswith("Test protocol, seed 1: trained on all of trainval for 10 updates")
        assert "fixed by validation" in drawn.caption
        assert drawn.alt
        labels = [axes.get_xlabel() + axes.get_ylabel() for axes in axes_of(drawn)]
        assert all("test protocol" in label for label in labels)
    assert TEST_SELECTED in figures[2].caption
    assert TEST_SELECTED in figures[2].alt


def test_colours_are_of_a_palette_that_all_can_tell_apart() -> None:
    found = draw(analysed())
    used = {
        to_hex(patch.get_facecolor()).upper() for axes in axes_of(found["winner-confusions"]) for patch in axes.patches
    }
    assert used == {BLUE, ORANGE}
    (axes,) = axes_of(found["winner-ood"])
    assert {to_hex(patch.get_edgecolor()).upper() for patch in axes.patches if not patch.get_fill()} == {
        BLUE,
        VERMILLION,
    }


# whatever the file says


@pytest.mark.parametrize("form", ["png", "svg"])
def test_the_same_file_gives_the_same_bytes(form: str) -> None:
    first, second = draw(analysed()), draw(analysed())
    for name in FIGURES:
        assert saved(first[name].figure, form) == saved(second[name].figure, form)


STRANGE = [
    "$x^2$",
    "a$b$c\\",
    "伎",
    "two\nlines",
    "\u202eturned",
    "x" * 500,
    "",
    "\x00",
    "é",
    "<b>&",
    "伎伯作佝佳俠俳倬儋吩",
    "😀",
]


def test_names_of_any_signs_are_drawn_and_told() -> None:
    """Every warning is an error: no glyph is missing, no name is taken for a formula."""
    found = draw(analysed(names=STRANGE, rows=900))
    for drawn in found.values():
        assert saved(drawn.figure, "svg").startswith(b"<?xml")
        assert len(saved(drawn.figure, "png")) > 1000
        assert "\n" not in drawn.caption + drawn.alt
    labels = [label.get_text() for axes in axes_of(found["winner-confusions"]) for label in axes.get_yticklabels()]
    assert any("U+4F0E" in label for label in labels)
    assert "U+4F0E is 伎" in found["winner-confusions"].caption
    assert max(map(len, labels)) < 80


@pytest.mark.parametrize(("n_seen", "n_unseen", "rows"), [(645, 72, 2500), (150, 50, 2000), (2, 1, 5)])
def test_many_and_few_classes_are_drawn(n_seen: int, n_unseen: int, rows: int) -> None:
    found = draw(analysed(n_seen=n_seen, n_unseen=n_unseen, rows=rows))
    for drawn in found.values():
        assert drawn.figure is not None
        assert drawn.figure.get_size_inches()[0] <= 7.5
        assert 1000 < len(saved(drawn.figure, "svg")) < 400_000


def test_a_model_without_confusions_is_drawn() -> None:
    read = readings()
    scores = read.scores["softmax"]
    right = {name: 9.0 * torch.eye(12)[getattr(scores, f"{name}_y")] for name in ("seen", "unseen")}
    read.scores["softmax"] = Scores(right["seen"], scores.seen_y, right["unseen"], scores.unseen_y, 8)
    assert pytest.approx(1) == accuracies(read.scores["softmax"], 0.0).H
    found = draw(analyse(read, "softmax", 0.0, [f"class {i}" for i in range(12)]))
    assert [texts(axes) for axes in axes_of(found["winner-confusions"])] == ["none", "none"]
    for drawn in found.values():
        assert saved(drawn.figure, "png")


# why there is none


def reasons(run: RunDirectory) -> list[str]:
    figures = winner_figures(run)
    assert [drawn.name for drawn in figures] == list(FIGURES)
    assert all(drawn.figure is None and drawn.missing.endswith(".") for drawn in figures)
    return [drawn.missing for drawn in figures]


def test_a_run_of_an_earlier_version_says_why_there_is_none(run: RunDirectory) -> None:
    assert all("not recorded when the test was made" in reason.lower() for reason in reasons(run))


def test_a_damaged_file_and_a_backbone_without_scores_say_so(run: RunDirectory) -> None:
    write(run, None, "backbone 'mine' does not hand out its scores")
    assert reasons(run)[0] == "Backbone 'mine' does not hand out its scores."
    write(run, analysed()).write_text("{", encoding="utf-8")
    assert "damaged" in reasons(run)[0]


def test_without_an_ood_score_the_other_figures_are_there(run: RunDirectory) -> None:
    write(run, analysed(ood=False))
    *others, last = winner_figures(run)
    assert all(drawn.figure is not None for drawn in others)
    assert last.figure is None
    assert "no OOD score" in last.missing

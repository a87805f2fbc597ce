"""The command report on a run that the program made: its files, its errors, and the page in a browser."""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from d3tune.search.invariants import run_faults
from d3tune.search.run import open_run

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

Command = Callable[..., Any]

SEARCH = (
    *("search", "--dataset", "hanzi", "--executor", "local", "--trials", "5", "--confirm-seeds", "2", "--baselines"),
    *("--set", "updates=40", "--set", "evaluations=4", "--set", "hidden_dim=32", "--set", "embed_dim=32"),
    *("--set", "teacher_epochs=2", "--set", "head_epochs=2", "--set", "n_synthetic_final=5"),
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Path:
    """A run that a real search made."""
    home = tmp_path_factory.mktemp("searched")
    shutil.copy(mlflow_template, home / "mlflow.db")
    end = subprocess.run(
        [sys.executable, "-c", "from d3tune.cli import main; main()", *SEARCH],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "D3TUNE_HOME": str(home)},
    )
    assert end.returncode == 0, end.stderr
    (run,) = (home / "runs").iterdir()
    return run


@pytest.fixture
def run(searched: Path, isolated: Path) -> Path:
    """A copy of that run in the home of the test."""
    return Path(shutil.copytree(searched, isolated / "runs" / "mine"))


@pytest.fixture(scope="session")
def browser(module_of: Callable[[Path], ModuleType]) -> ModuleType:
    """The module ``browser.py`` beside this file."""
    return module_of(Path(__file__).with_name("browser.py"))


def test_a_run_is_reported_beside_itself(d3tune: Command, run: Path) -> None:
    end = d3tune("report", "mine")
    page = run / "report" / "index.html"
    assert (end.code, end.out, end.err) == (0, "", f"wrote {page}\n")
    text = page.read_text(encoding="utf-8")
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert f"{summary['test']['H']['mean']:.3f} ± {summary['test']['H']['sd']:.3f}" in text
    assert f"Winner: trial {summary['winner']['trial']}, val/H {summary['winner']['value']:.3f}" in text
    data = json.loads(d3tune("report", "mine", "--json").out)
    assert (data["page"], data["runs"]) == (str(page), [str(run)])
    for figure in data["figures"]:
        assert (figure["missing"] is None) == Path(figure["png"] or "").is_file() == Path(figure["svg"] or "").is_file()
        assert (figure["caption"] or figure["missing"]) != ""
    assert {"history", "seen-unseen", "slices"} <= {f["name"] for f in data["figures"] if f["svg"]}
    assert page.read_text(encoding="utf-8") == text
    # the run is as good as before
    assert run_faults(open_run("mine")) == []


def test_a_search_at_work_is_reported_too(d3tune: Command, run: Path, tmp_path: Path) -> None:
    with open_run("mine").owned():
        end = d3tune("report", run, "-o", tmp_path / "out")
    assert end.code == 0
    assert "a process is at work on it" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_two_runs_are_compared(d3tune: Command, run: Path, isolated: Path) -> None:
    shutil.copytree(run, isolated / "runs" / "other")
    end = d3tune("report", "mine", "other")
    (page,) = (isolated / "reports").glob("*/index.html")
    assert (end.code, end.err) == (0, f"wrote {page}\n")
    text = page.read_text(encoding="utf-8")
    assert "1: mine" in text
    assert "2: other" in text


def test_what_cannot_be_done_is_one_line(d3tune: Command, run: Path, tmp_path: Path) -> None:
    def refused(*arguments: object) -> tuple[int, str]:
        end = d3tune("report", *arguments)
        assert end.out == ""
        assert end.err.count("\n") == 1, end.err
        return end.code, end.err

    assert refused("mien") == (2, refused("mien")[1])
    assert "did you mean 'mine'?" in refused("mien")[1]
    file = tmp_path / "file"
    file.write_text("mine", encoding="utf-8")
    code, line = refused("mine", "-o", file)
    assert (code, "is a file; give another place with -o" in line) == (2, True)
    code, line = refused("mine", "-o", file / "below")
    assert (code, "give another place with -o" in line) == (1, True)
    assert file.read_text(encoding="utf-8") == "mine"
    assert d3tune("report").code == 2
    journal = run / "study.journal"
    journal.write_text("no journal\n" * 3, encoding="utf-8")
    code, line = refused("mine")
    assert (code, "journal cannot be read" in line) == (1, True)
    assert not (run / "report").exists()


def test_a_disk_that_is_full_leaves_nothing_half_written(
    d3tune: Command, run: Path, no_file_larger: Callable[[int], AbstractContextManager[None]]
) -> None:
    assert d3tune("report", "mine").code == 0
    page = run / "report" / "index.html"
    before = page.read_bytes()
    with no_file_larger(100_000):
        end = d3tune("report", "mine")
    assert (end.code, end.err.count("\n")) == (1, 1)
    assert page.read_bytes() == before
    assert not list((run / "report").rglob(".*"))


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")
def test_a_browser_shows_every_figure_and_asks_for_nothing(
    d3tune: Command, run: Path, tmp_path: Path, browser: ModuleType
) -> None:
    data = json.loads(d3tune("report", "mine", "-o", tmp_path / "out", "--json").out)
    # the page alone, as it may be sent to somebody
    page = Path(shutil.copy(data["page"], tmp_path / "alone.html"))
    with browser.chromium(str(CHROMIUM), tmp_path / "profile") as chromium:
        chromium.open(page)
        boxes = json.loads(
            chromium.value(
                "JSON.stringify([...document.querySelectorAll('figure')].map(f => {"
                "const inner = [...f.querySelectorAll('svg path, svg use')].map(p => p.getBoundingClientRect());"
                "const box = f.querySelector('svg').getBoundingClientRect();"
                "return [f.id, box.width, box.height, inner.filter(b => b.width + b.height > 0).length]}))"
            )
        )
        overflow = chromium.value("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        pdf = chromium.ask("Page.printToPDF")["data"]
    assert [box[0] for box in boxes] == [figure["name"] for figure in data["figures"] if figure["svg"]]
    for name, width, height, paths in boxes:
        assert width > 300, name
        assert height > 100, name
        assert paths > 20, name
    assert overflow == 0
    assert [url for url in chromium.requests if not url.startswith("data:")] == [page.as_uri()]
    assert chromium.complaints == []
    assert base64.b64decode(pdf).startswith(b"%PDF")

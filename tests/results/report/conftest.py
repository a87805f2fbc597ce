"""Runs whose trials end as a test says: a real study, written by the real ledger, without a training."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from d3tune.config import SearchConfig
from d3tune.method.generators import load_backbone
from d3tune.results.report.material import Material, read_material
from d3tune.results.report.style import styled
from d3tune.search.reports import Report
from d3tune.search.run import RunDirectory, create_run, open_run
from d3tune.search.study import Ledger
from d3tune.space import load_space

GOLDEN = Path(__file__).parents[2] / "golden" / "run-format-1"
WIDTH = 64
SLIM = ("feature_scaling", "generator_lr", "cls_weight", "label_weight", "temperature", "n_synthetic_final")


@dataclass(frozen=True)
class Ends:
    """How a trial ends: ``complete``, ``pruned``, ``failed`` or ``unfinished``, with (S, U) of its evaluations."""

    state: str
    points: Sequence[tuple[float, float]] = ()
    seconds: float = 1.0


@pytest.fixture(autouse=True)
def isolated(home: Path) -> Path:
    """A home of its own for each test."""
    (home / "runs").mkdir(parents=True)
    return home


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    """Figures are drawn in the report's style."""
    with styled():
        yield


@pytest.fixture
def ends() -> type[Ends]:
    """`Ends`: pytest's import mode lets no test import it."""
    return Ends


@pytest.fixture
def golden(isolated: Path) -> RunDirectory:
    """A run of an earlier version with trials of every state, one confirmed."""
    shutil.copytree(GOLDEN, isolated / "runs" / "golden")
    return open_run("golden")


@pytest.fixture
def make_run(isolated: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunDirectory]:
    """``make_run([Ends("complete", …)], name="run", backbone="gan", **search)``: a run whose trials ended so.

    With ``slim`` few hyper-parameters are searched, and figures are drawn in a fraction of the time.
    """

    def make(
        trials: Sequence[Ends], name: str = "run", backbone: str = "gan", slim: bool = False, **search: Any
    ) -> RunDirectory:
        config = load_backbone(backbone).config
        space = load_space(backbone, config, "hanzi/0", WIDTH)
        fixed = {} if backbone == "gaussian" else {"updates": 60, "evaluations": 6}
        data = {"dataset": "hanzi/0", "dataset_hash": "0" * 64, "semantics": "parts103", "features": "pixels"}
        frozen = SearchConfig(**{**data, "backbone": backbone, "sampler": "random", **search})
        if slim:
            fixed |= {key: config.model_fields[key].default for key in space.parameters if key not in SLIM}
        space = space.with_fixed(fixed)
        run, _ = create_run(isolated / "runs" / name, frozen, Path("/nowhere"), space)
        if trials:
            with run.owned():
                _carry_out(run, trials, Ledger(run.journal, name, frozen, space, config), monkeypatch)
        return run

    return make


@pytest.fixture
def confirmed(make_run: Callable[..., RunDirectory]) -> RunDirectory:
    """A slim run with the summary of a confirmed one."""
    points = [(0.6 + 0.01 * k, 0.5 + 0.01 * k) for k in range(6)]
    run = make_run([Ends("complete", [(0.5, 0.4)] * 6), Ends("complete", points)], name="confirmed", slim=True)
    run.write_summary(json.loads((GOLDEN / "summary.json").read_text(encoding="utf-8")))
    return run


@pytest.fixture
def material(make_run: Callable[..., RunDirectory]) -> Callable[..., Material]:
    """``material([Ends(…)], **further)``: what the report knows of such a run."""
    return lambda trials, **further: read_material(make_run(trials, **further))


@pytest.fixture
def mixed() -> list[Ends]:
    """Forty trials of every state."""
    states = ("complete", "pruned", "complete", "pruned", "failed", "complete", "pruned", "complete")
    trials = []
    for k in range(40):
        seen, unseen = 0.5 + 0.4 * ((k * 37) % 41) / 41, 0.3 + 0.5 * ((k * 17) % 43) / 43
        state = states[k % len(states)]
        count = {"complete": 6, "pruned": 1 + k % 3, "failed": k % 2}[state]
        points = [(seen * (1 - 0.3 / (j + 1)), unseen * (1 - 0.4 / (j + 1))) for j in range(count)]
        trials.append(Ends(state, points, 2.0 + k % 5))
    return [*trials, Ends("unfinished", [(0.6, 0.5)])]


@pytest.fixture
def parse() -> type["Page"]:
    """`Page`: reads an HTML page, refusing one that is not balanced."""
    return Page


def harmonic(seen: float, unseen: float) -> float:
    return 2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0


def _carry_out(run: RunDirectory, trials: Sequence[Ends], ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the ledger tell each trial's end; whether one is pruned is the test's choice."""
    prefix = "val" if run.search.protocol == "validation" else "published"
    for number, wanted in enumerate(trials):
        assignment = ledger.next_trial(len(trials))
        assert assignment is not None
        assert assignment.number == number
        for index, (seen, unseen) in enumerate(wanted.points):
            last = index == len(wanted.points) - 1
            prunes = wanted.state == "pruned" and last
            monkeypatch.setattr("optuna.Trial.should_prune", lambda _, prunes=prunes: prunes)
            ledger.report(number, _report(index, seen, unseen, prefix, wanted.seconds, run.search.objective))
        if wanted.state == "complete":
            ledger.complete(number)
        elif wanted.state == "failed":
            ledger.fail(number, "ValueError: made to <b>fail</b> & $x$")
    monkeypatch.undo()
    monkeypatch.setenv("D3TUNE_HOME", str(run.path.parent.parent))


def _report(index: int, seen: float, unseen: float, prefix: str, seconds: float, objective: str) -> Report:
    H = harmonic(seen, unseen)
    accuracies = {"H": H, "U": unseen, "S": seen, "T1": unseen, "AUSUC": H * 0.9, "H_raw": H * 0.8}
    metrics = {f"{prefix}/{name}": value for name, value in accuracies.items()}
    metrics |= {f"{prefix}/softmax/{name}": value for name, value in accuracies.items()}
    metrics[f"{prefix}/T1_chance"] = 0.01
    return Report(10 * (index + 1), accuracies[objective], "softmax", metrics, seconds * (index + 1))


class Page(HTMLParser):
    """Tables, figures, links and text of a page; a tag that is not closed fails."""

    VOID = frozenset({"meta", "link", "br", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.figures: list[str] = []
        self.alts: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, dict(attrs))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, dict(attrs))

    def _note(self, tag: str, attributes: dict[str, str | None]) -> None:
        self.tags.add(tag)
        self.links += [
            str(attributes[name]) for name in ("src", "href", "xlink:href", "data", "srcset") if name in attributes
        ]
        if "id" in attributes:
            self.ids.append(str(attributes["id"]))
        if tag == "figure":
            self.figures.append(str(attributes["id"]))
        if tag == "svg":
            assert attributes["role"] == "img"
            self.alts.append(str(attributes["aria-label"]))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data
        if self._open and self._open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

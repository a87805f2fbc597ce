"""What commands print: plain tables that read the same in a terminal, a file and a paste."""

from collections.abc import Sequence
from shlex import quote
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from d3tune.search.chosen import choice_lines
from d3tune.words import TEST_SELECTED, plural

if TYPE_CHECKING:
    from d3tune.config import TrialConfig
    from d3tune.data.registry import DatasetInfo
    from d3tune.data.summary import DatasetSummary
    from d3tune.results.machine import Finding
    from d3tune.search.confirm import TestResult
    from d3tune.search.front import Front
    from d3tune.search.replay import Replayed
    from d3tune.search.run import RunDirectory
    from d3tune.search.search import Outcome
    from d3tune.search.train import Trained

WIDTH = 170
ONLY_EMBEDDED = (
    "only the embedded dataset is found; put FLO/res101.mat and FLO/att_splits.mat into ./data, bring features of your "
    "own with d3tune data import, or rehearse with: d3tune data simulate data --like flo"
)


def outcome_text(outcome: "Outcome", tracking_uri: str) -> str:
    """The end of a search: the table, the winner, its test result, and where everything is."""
    # the leaderboard imports this module, and shall not wait for Optuna
    from d3tune.search.aims import value_of

    search = outcome.run.search
    notes = ["calibrated"] if search.objective == "H" else []
    notes += [TEST_SELECTED] if search.protocol == "published" else []
    note = f" ({', '.join(notes)})" if notes else ""
    table = _outcome_table(outcome)
    lines = [table] if table else []
    states = ", ".join(f"{n} {state}" for state, n in outcome.counts.items() if n or state != "interrupted")
    lines.append(f"trials: {states}")
    if outcome.winner is not None:
        value = f"{search.searched_metric} {value_of(outcome.winner):.3f}{note}"
        lines.append(f"winner: trial {outcome.winner.number}, {value}")
    if outcome.front is not None:
        lines += _front_lines(outcome.front, outcome.run)
    if outcome.test is not None:
        if outcome.choice is not None:
            lines += choice_lines(outcome.choice.to_dict(), search.searched_metric)
        lines.append(test_line(outcome.test))
        lines += [f"on average over the fresh seeds it does not meet {text}" for text in outcome.unmet]
        lines.append(f"best configuration: {outcome.run.best}")
    lines.append(f"run: {outcome.run.path} ({_size(outcome.bytes)})")
    if not outcome.mirrored:
        return "\n".join(lines)
    lines.append(f"MLflow: experiment {outcome.experiment} in {tracking_uri}")
    if tracking_uri.startswith("http"):
        lines.append(f"  {tracking_uri.rstrip('/')}/{outcome.link}")
    else:
        lines.append(f"  d3tune ui, then http://127.0.0.1:5000/{outcome.link}")
    return "\n".join(lines)


def _front_lines(front: "Front", run: "RunDirectory") -> list[str]:
    """The Pareto front as a table, and how to export a point of it."""
    from d3tune.search.aims import aim_names, value_of

    cells = [
        [str(trial.number), *(f"{value:.3f}" for value in trial.values), f"{value_of(trial):.3f}"]
        for trial in front.trials
    ]
    if not cells:
        return []
    search, names = run.search, aim_names(run.search)
    label = f", {TEST_SELECTED}" if search.protocol == "published" else ""
    title = f"Pareto front of {' and '.join(names)}{label}: {plural(len(cells), 'trial')}, hypervolume "
    return [
        f"{title}{front.hypervolume:.3f} ({front.box})",
        table_text(["trial", *names, search.searched_metric], cells),
        f"export one with: d3tune export {quote(str(run.path))} --trial {front.trials[0].number}",
    ]


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes < 1e9 else f"{n_bytes / 1e9:.1f} GB"


def replay_text(replayed: "Replayed") -> str:
    """Whether a replay gave what was recorded, and what differs."""
    if not replayed.differences and not replayed.compared:
        return f"{replayed.what}: diverges before its first report, as in the record"
    unit = "suggestion" if replayed.what == "suggestions" else "report"
    if not replayed.differences:
        equal = f"1 {unit} is" if replayed.compared == 1 else f"all {replayed.compared} {unit}s are"
        return f"{replayed.what}: {equal} equal to the record, to the last bit"
    lines = [f"{replayed.what}: differs from the record", *(f"  {line}" for line in replayed.differences)]
    if replayed.elsewhere:
        lines += ["which may be because this is not where it was recorded:", *(f"  {x}" for x in replayed.elsewhere)]
    return "\n".join(lines)


def train_text(trained: "Trained") -> str:
    """The result of retraining a configuration."""
    rows = [
        [str(seed), *(f"{row[name]:.3f}" for name in ("H", "U", "S", "T1", "AUSUC"))]
        for seed, row in zip(trained.test.seeds, trained.test.per_seed, strict=True)
    ]
    table = table_text(["seed", f"{trained.test.protocol} H", "U", "S", "T1", "AUSUC"], rows)
    return f"{table}\n{test_line(trained.test)}"


def test_line(test: "TestResult") -> str:
    """``test H mean ± sd`` with the protocol, U and S."""
    seeds = plural(len(test.seeds), "seed")
    if test.protocol == "published":
        return (
            f"published H {_with_sd(test, 'H', 4)}  ({TEST_SELECTED}: each seed's best test epoch, head and offset, "
            f"{seeds}; no estimate of what a new test would give)"
        )
    return (
        f"test H {_with_sd(test, 'H', 4)}  (U {_with_sd(test, 'U')}, S {_with_sd(test, 'S')}; "
        f"protocol test, {seeds}, offset from validation)"
    )


def datasets_text(infos: Sequence["DatasetInfo"]) -> str:
    """The datasets that were found."""
    # the leaderboard imports this module, and shall not wait for NumPy
    from d3tune.data.registry import EMBEDDED

    cells = [
        [
            info.name,
            "–" if info.rows is None else str(info.rows),
            "–" if info.n_features is None else str(info.n_features),
            "–" if info.n_classes is None else str(info.n_classes),
            info.problem or str(info.place),
        ]
        for info in infos
    ]
    table = table_text(["dataset", "rows", "X", "classes", "where, or what is wrong"], cells)
    return table if any(info.place != EMBEDDED for info in infos) else f"{table}\n{ONLY_EMBEDDED}"


def dataset_text(summary: "DatasetSummary") -> str:
    """What is in a dataset."""
    lines = [
        f"{summary.name}: every check passed",
        f"  classes: {summary.n_seen} seen, {summary.n_unseen} unseen",
        f"  rows: {summary.n_trainval} trainval, {summary.n_test_seen} test seen, {summary.n_test_unseen} test unseen",
        f"  features: {summary.n_features} ({summary.feature_tag}), {summary.feature_min:g} to {summary.feature_max:g}",
        f"  semantics: {summary.semantics_id}",
        f"  validation: {summary.pseudo_unseen} pseudo-unseen classes in split 0",
        f"  content: {summary.content_hash}",
    ]
    return "\n".join([*lines, *(f"  note: {note}" for note in summary.notes)])


def settings_text(config: "type[TrialConfig]") -> str:
    """Every hyper-parameter of a backbone: its default, and what it is."""
    cells = [[row["name"], _value(row["default"]), row["about"]] for row in settings_rows(config)]
    return table_text(["--set", "default", "what it is"], cells)


def settings_rows(config: "type[TrialConfig]") -> list[dict[str, Any]]:
    """The same as plain values: ``name``, ``default`` and ``about`` of each."""
    return [
        {"name": name, "default": field.default, "about": field.description or ""}
        for name, field in config.model_fields.items()
    ]


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        # as --set takes it
        return "null" if value is None else str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def doctor_text(findings: Sequence["Finding"]) -> str:
    """The examination, problems and notes marked."""
    cells = [[_mark(finding), finding.what, finding.state] for finding in findings]
    return table_text(["", "what", "state"], cells)


def _mark(finding: "Finding") -> str:
    if finding.problem:
        return "✗"
    return "!" if finding.note else "✓"


def _outcome_table(outcome: "Outcome") -> str:
    rows = []
    test = outcome.test
    if test is not None and outcome.selection is not None:
        name = f"{outcome.run.search.backbone} ({outcome.selection.head})"
        validated = f"{outcome.selection.val_H:.3f}" if test.protocol == "test" else f"– ({TEST_SELECTED})"
        # the deviations of U and S stand in the line below, all of them on the leaderboard: this fits 80 columns
        means = (f"{test.mean(key):.3f}" for key in _SHOWN if key != "H")
        rows.append([name, validated, _with_sd(test, "H"), *means])
    for row in outcome.baselines:
        cells = [f"{row[f'test/{key}']:.3f}" for key in _SHOWN]
        rows.append([f"{row['name']} (baseline)", f"{row['val/H']:.3f}", *cells])
    return table_text(["model", "val H", "test H", "U", "S", "T1", "AUSUC"], rows, tight=True) if rows else ""


_SHOWN = ("H", "U", "S", "T1", "AUSUC")


def _with_sd(test: "TestResult", metric: str, digits: int = 3) -> str:
    sd = test.sd(metric)
    return f"{test.mean(metric):.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")


def table_text(header: Sequence[str], rows: Sequence[Sequence[str]], width: int = WIDTH, tight: bool = False) -> str:
    """A plain table of cells, one line a row; a cell that is too long is folded.

    Args:
        header: of each column.
        rows: of cells.
        width: most characters of a line.
        tight: two blanks between columns instead of three.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0 if tight else 1))
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(width=width, no_color=True, highlight=False, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines() if line.strip())

"""The report: what the records say, and what is missing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.accuracy import prose
from benchmarks.accuracy.answers import heads_section, optimism_section, terms_section
from benchmarks.accuracy.cells import TUNED, Cell
from benchmarks.accuracy.evidence import SHOWN
from benchmarks.accuracy.figures import write_figures
from benchmarks.accuracy.markdown import DIFFERENCE_HEAD, MODEL_HEAD, difference_row, model_rows, table
from benchmarks.accuracy.records import Record, commits
from benchmarks.accuracy.statistics import chosen_arms, complete_datasets, differences, means
from d3tune.words import plural


@dataclass(frozen=True)
class Findings:
    """What the report is about.

    Attributes:
        wanted: every cell.
        found: records of those that are done.
        answers: records of questions, by name.
        missing: names of tasks without a record, each with why where that is known.
        about: machine, versions and settings.
    """

    wanted: Sequence[Cell]
    found: Mapping[Cell, Record]
    answers: Mapping[str, Record]
    missing: Mapping[str, str]
    about: Mapping[str, Any] = field(default_factory=dict)


def write_report(findings: Findings, path: Path) -> None:
    """Write Markdown, JSON and figures.

    Args:
        findings: what there is.
        path: of the Markdown; the JSON is beside it, figures are in a folder of its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = write_figures(findings.found, differences(findings.found), path.with_suffix(""))
    links = {title: f"{path.stem}/{file.name}" for title, file in drawn.items()}
    path.write_text(markdown(findings, links), encoding="utf-8")
    text = json.dumps(figures(findings), indent=1, ensure_ascii=False)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


def markdown(findings: Findings, links: Mapping[str, str]) -> str:
    """The report's text; links are figures by title."""
    records = [*findings.found.values(), *findings.answers.values()]
    made = ", ".join(f"{commit} ({plural(count, 'record')})" for commit, count in commits(records).items())
    lines = ["# What D³GZSL and what is around it are worth", ""]
    lines += [*(f"- {name}: {value}" for name, value in findings.about.items()), f"- made by commits: {made or 'none'}"]
    lines += [f"- time of all records: {sum(record['seconds'] for record in records) / 3600:.1f} h of one core", ""]
    lines += [*_missing(findings), *_models(findings), *_images(links)]
    lines += [*terms_section(findings.answers), *heads_section(findings.found, findings.answers)]
    return "\n".join([*lines, *optimism_section(findings.answers), prose.PUBLISHED])


def figures(findings: Findings) -> dict[str, Any]:
    """What the JSON holds; the records have the rest."""
    complete = complete_datasets(findings.wanted, findings.found)
    return {
        "about": dict(findings.about),
        "missing": dict(findings.missing),
        "datasets": complete,
        "means": means(findings.found, complete) if complete else {},
        "by dataset": {name: means(findings.found, [name]) for name in _datasets(findings)},
        "chosen by validation": {name: arm for name, (arm, _) in chosen_arms(findings.found, complete).items()},
        "differences": [asdict(item) for item in differences(findings.found)],
        "answers": {name: record["answer"] for name, record in findings.answers.items()},
    }


def _datasets(findings: Findings) -> list[str]:
    return list(dict.fromkeys(cell.dataset for cell in findings.found))


def _missing(findings: Findings) -> list[str]:
    if not findings.missing:
        return []
    told = [f"{name} ({why})" if why else name for name, why in findings.missing.items()]
    return [f"**Incomplete**: {plural(len(told), 'task')} without a record: {', '.join(told)}.", ""]


def _models(findings: Findings) -> list[str]:
    complete = complete_datasets(findings.wanted, findings.found)
    lines = ["## 1. Every backbone, with and without D³", "", prose.MODELS]
    if complete:
        lines += [f"### Mean over {', '.join(complete)}", ""]
        lines += [*table(MODEL_HEAD, model_rows(means(findings.found, complete))), "", *_choice(findings, complete)]
    else:
        lines += ["No dataset is complete, so there is no mean over datasets.", ""]
    lines += ["### Paired differences of test H", "", prose.DIFFERENCES]
    lines += [*table(DIFFERENCE_HEAD, [difference_row(item) for item in differences(findings.found)]), ""]
    for dataset in _datasets(findings):
        lines += [f"### {dataset}", "", *table(MODEL_HEAD, model_rows(means(findings.found, [dataset]))), ""]
    return lines


def _choice(findings: Findings, datasets: Sequence[str]) -> list[str]:
    """Each backbone by the arm that validation chooses."""
    chosen = sorted(chosen_arms(findings.found, datasets).items(), key=lambda item: -item[1][1])
    rows = [
        [name, "" if arm == TUNED else arm, f"{value:.3f}", *_tested(findings, name, arm, datasets)]
        for name, (arm, value) in chosen
    ]
    head = ["backbone", "arm", "val H", *(f"test {key}" for key in SHOWN)]
    return ["### Which backbone", "", prose.CHOICE, *table(head, rows), ""]


def _tested(findings: Findings, backbone: str, arm: str, datasets: Sequence[str]) -> list[str]:
    records = [findings.found[Cell(dataset, backbone, arm)] for dataset in datasets]
    return [f"{fmean(record['test'][key]['mean'] for record in records):.3f}" for key in SHOWN]


def _images(links: Mapping[str, str]) -> list[str]:
    return [line for title, link in links.items() for line in (f"![{title}]({link})", "")]

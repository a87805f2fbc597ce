"""Sections of the report on questions 2 to 4, from the records of their answers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from benchmarks.accuracy import prose
from benchmarks.accuracy.evidence import SHOWN
from benchmarks.accuracy.markdown import by_dataset, number, table
from benchmarks.accuracy.records import Record
from benchmarks.accuracy.statistics import Found, over_pairs
from benchmarks.accuracy.variants import difference_cells

VARIANT_HEAD = ["variant", "val H", *SHOWN, "ΔH [95 %]", "p", "by dataset"]
NOT_YET = "This report has no record of this: it was not asked for, or is among what is missing above."


@dataclass(frozen=True)
class Pooled:
    """A variant over datasets.

    Attributes:
        name: of it.
        rows: where it has a result, by dataset.
        missing: why it has none, by dataset.
    """

    name: str
    rows: dict[str, Mapping[str, Any]]
    missing: dict[str, str]


def of_kind(answers: Mapping[str, Record], kind: str, backbone: str | None = None) -> list[Record]:
    """The records of one question."""
    return [record for record in answers.values() if record["kind"] == kind and backbone in (None, record["backbone"])]


def backbones_of(answers: Mapping[str, Record], kind: str) -> list[str]:
    """The backbones that a question was answered for."""
    return list(dict.fromkeys(str(record["backbone"]) for record in of_kind(answers, kind)))


def pooled(records: Sequence[Record]) -> list[Pooled]:
    """The rows of several datasets by name, the winner first."""
    found: dict[str, Pooled] = {}
    for record in records:
        for row in record["answer"]["rows"]:
            item = found.setdefault(row["name"], Pooled(row["name"], {}, {}))
            if "missing" in row:
                item.missing[record["dataset"]] = row["missing"]
            else:
                item.rows[record["dataset"]] = row
    return list(found.values())


def variant_table(records: Sequence[Record]) -> list[str]:
    """A row a variant: means over the datasets that have it, differences to the winner over datasets and seeds."""
    winners = {record["dataset"]: record["answer"]["rows"][0] for record in records}
    return table(VARIANT_HEAD, [_variant_cells(item, winners) for item in pooled(records)])


def _variant_cells(item: Pooled, winners: Mapping[str, Mapping[str, Any]]) -> list[str]:
    told = ", ".join(f"{dataset}: {why}" for dataset, why in item.missing.items())
    if not item.rows:
        return [item.name, *["–"] * (len(VARIANT_HEAD) - 2), told]
    rows = list(item.rows.values())
    means = [f"{fmean(row['test'][key] for row in rows):.3f}" for key in SHOWN]
    validated = f"{fmean(row['val_H'] for row in rows):.3f}"
    shown = ["–", "–", ""]
    if not any(row["difference"] is None for row in rows):
        ours = [h for row in rows for h in row["H_per_seed"]]
        theirs = [h for dataset in item.rows for h in winners[dataset]["H_per_seed"]]
        each = {dataset: row["difference"]["mean"] for dataset, row in item.rows.items()}
        shown = [*difference_cells(vars(over_pairs(ours, theirs))), by_dataset(each)]
    shown[2] = "; ".join(part for part in (shown[2], told) if part)
    return [item.name, validated, *means, *shown]


def terms_section(answers: Mapping[str, Record]) -> list[str]:
    """What each term and decision is worth."""
    lines = ["## 2. What each term and each decision is worth", "", prose.TERMS]
    for backbone in backbones_of(answers, "terms"):
        records = of_kind(answers, "terms", backbone)
        lines += [f"### {backbone}", "", *variant_table(records), "", prose.BY_HEAD, *head_table(records), ""]
    if not backbones_of(answers, "terms"):
        lines += [NOT_YET, ""]
    return [*lines, *diagnosis_section(answers)]


def head_table(records: Sequence[Record]) -> list[str]:
    """Validation H by variant and head, mean over the datasets that have the variant."""
    rows = [item for item in pooled(records) if item.rows]
    heads = sorted({head for item in rows for row in item.rows.values() for head in row["heads"]})
    shown = []
    for item in rows:
        listed = [[row["heads"][head] for row in item.rows.values() if head in row["heads"]] for head in heads]
        chosen = Counter(str(row["head"]) for row in item.rows.values())
        told = ", ".join(f"{head} {count}" for head, count in chosen.items())
        shown.append([item.name, *(number(_mean(values)) for values in listed), told])
    return table(["variant", *heads, "chosen"], shown)


def diagnosis_section(answers: Mapping[str, Record]) -> list[str]:
    """Teacher, pairs, gradients and drift of one training each."""
    records = of_kind(answers, "diagnosis")
    if not records:
        return ["### Where the terms gain or lose", "", NOT_YET, ""]
    lines = ["### Where the terms gain or lose", "", prose.DIAGNOSIS]
    head = ["dataset", "backbone", "teacher's accuracy on held-out seen rows", "its OOD AUROC"]
    lines += table([*head, "same class in L_be", "same class in L_od"], [_teacher_cells(record) for record in records])
    head = ["dataset", "backbone", "update", "L_gen", "L_cls", "L_od"]
    lines += ["", prose.GRADIENTS, *table(head, [row for record in records for row in _gradient_cells(record)])]
    head = ["dataset", "backbone", "D³ gradient ×", "drift, first", "drift, last", "best val H"]
    return [*lines, "", prose.DRIFT, *table(head, [row for record in records for row in _drift_cells(record)]), ""]


def _teacher_cells(record: Record) -> list[str]:
    answer = record["answer"]
    pairs = [f"{answer['pairs'][name]:.4f} of {answer['pairs'][f'rows_{name}']}²" for name in ("L_be", "L_od")]
    teacher = [f"{answer['teacher'][name]:.3f}" for name in ("seen_accuracy", "AUROC")]
    return [record["dataset"], record["backbone"], *teacher, *pairs]


def _gradient_cells(record: Record) -> list[list[str]]:
    weights = record["answer"]["weights"]
    scale = weights["generator_d3_weight"]
    factor = {"L_cls": weights["cls_weight"] * scale, "L_od": weights["ood_weight"] * scale}
    rows = []
    for norms in record["answer"]["gradients"]:
        own = norms["L_gen"]
        terms = [f"{norms[name]:.3g} ({norms[name] * factor[name] / own:.2g})" for name in factor]
        rows.append([record["dataset"], record["backbone"], str(norms["update"]), f"{own:.3g}", *terms])
    return rows


def _drift_cells(record: Record) -> list[list[str]]:
    return [
        [
            record["dataset"],
            record["backbone"],
            f"{item['generator_d3_weight']:g}",
            f"{item['drift'][0]:.3f}",
            f"{item['drift'][-1]:.3f}",
            f"{item['val_H']:.3f}",
        ]
        for item in record["answer"]["drift"]
    ]


def heads_section(found: Found, answers: Mapping[str, Record]) -> list[str]:
    """Which head won, what it is worth on validation, and what anchors and ReMSE add."""
    head = ["backbone", "head", "chosen in", "of cells", "mean val H of winners"]
    lines = ["## 3. Heads, anchors and ReMSE", "", prose.HEADS, *table(head, head_rows(found)), ""]
    rows = [[cell.dataset, cell.row, record["selection"]["head"], _by_head(record)] for cell, record in found.items()]
    lines += table(["dataset", "model", "head chosen", "validation H by head"], rows)
    lines += ["", "### Anchors, and ReMSE in vaegan's decoder", "", prose.ANCHORS]
    if not of_kind(answers, "anchor"):
        return [*lines, NOT_YET, ""]
    head = ["backbone", "ΔH, ridge minus none [95 %]", "p", "pairs", "by dataset"]
    lines += [*table(head, [_anchor_cells(answers, name) for name in backbones_of(answers, "anchor")]), ""]
    for record in of_kind(answers, "anchor"):
        lines += [f"{record['backbone']} on {record['dataset']}:", "", *variant_table([record]), ""]
    return lines


def head_rows(found: Found) -> list[list[str]]:
    """By backbone and head: in how many cells validation chose it, of how many that offered it, and validation H."""
    values: dict[tuple[str, str], list[float]] = {}
    chosen = Counter((cell.backbone, str(record["selection"]["head"])) for cell, record in found.items())
    for cell, record in found.items():
        for head, value in record["heads"].items():
            values.setdefault((cell.backbone, head), []).append(value)
    return [
        [*key, str(chosen[key]), str(len(listed)), f"{fmean(listed):.3f}"] for key, listed in sorted(values.items())
    ]


def _anchor_cells(answers: Mapping[str, Record], backbone: str) -> list[str]:
    """Ridge minus none over datasets and seeds, whichever of them the winners had."""
    ridge: list[float] = []
    none: list[float] = []
    each: dict[str, float] = {}
    for record in of_kind(answers, "anchor", backbone):
        winner, other = record["answer"]["rows"][:2]
        if "missing" not in other:
            pair = (winner["H_per_seed"], other["H_per_seed"])
            one, two = pair if record["answer"]["own"] == "ridge" else pair[::-1]
            ridge, none = [*ridge, *one], [*none, *two]
            each[record["dataset"]] = fmean(one) - fmean(two)
    if not each:
        return [backbone, "–", "–", "0", ""]
    return [backbone, *difference_cells(vars(over_pairs(ridge, none))), str(len(ridge)), by_dataset(each)]


def _by_head(record: Record) -> str:
    searched: dict[str, list[float]] = {}
    for trial in record["trials"]:
        for head, value in trial["heads"].items():
            searched.setdefault(head, []).append(value)
    values = sorted(record["heads"].items(), key=lambda item: -item[1])
    return ", ".join(f"{head} {value:.3f} ({number(_mean(searched.get(head, [])))})" for head, value in values)


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def optimism_section(answers: Mapping[str, Record]) -> list[str]:
    """What choosing on the test set would claim, offsets carried, and draws of validation classes."""
    lines = ["## 4. What choosing on the test set would have claimed", "", prose.OPTIMISM]
    rows = [_optimism_cells(answers, backbone) for backbone in backbones_of(answers, "optimism")]
    head = ["backbone", "arms", "val H", "test H, offset carried", "offset test-selected", "gain [95 %]"]
    lines += table([*head, "epoch, head and offset test-selected", "gain [95 %]"], rows) if rows else [NOT_YET]
    lines += ["", "### How the offset carries", "", prose.OFFSETS]
    rows = [cells for record in of_kind(answers, "optimism") if (cells := _offset_cells(record))]
    head = ["dataset", "model", "carried", "test-optimal", "mean distance", "H lost"]
    return [*lines, *(table(head, rows) if rows else [NOT_YET]), "", *draws_section(answers)]


def _optimism_cells(answers: Mapping[str, Record], backbone: str) -> list[str]:
    records = of_kind(answers, "optimism", backbone)
    rows = [row for record in records for row in _different(record["answer"]["rows"])]
    arms = ", ".join(f"{record['dataset']} {record['answer']['arm']}" for record in records)
    carried = [row["carried"] for row in rows]
    cells = [backbone, arms, number(fmean(record["answer"]["val_H"] for record in records)), number(fmean(carried))]
    for name in ("own_offset", "best_epoch"):
        values = [row[name] for row in rows]
        cells += [number(fmean(values)), difference_cells(vars(over_pairs(values, carried)))[0]]
    return cells


def _different(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One row where every seed has the same, as of a closed form: that is one result and not several."""
    found = {tuple(value for name, value in row.items() if name != "seed"): row for row in rows}
    return list(found.values())


def _offset_cells(record: Record) -> list[str]:
    rows = [row for row in record["answer"]["rows"] if row["own_sd"] is not None]
    if not rows:
        return []
    distance = fmean(abs(row["carried_sd"] - row["own_sd"]) for row in rows)
    lost = fmean(row["own_offset"] - row["carried"] for row in rows)
    means = [fmean(row[name] for row in rows) for name in ("carried_sd", "own_sd")]
    name = f"{record['backbone']}, {record['answer']['arm']}"
    return [record["dataset"], name, *(f"{value:+.2f}" for value in means), f"{distance:.2f}", f"{lost:.3f}"]


def draws_section(answers: Mapping[str, Record]) -> list[str]:
    """What one draw of validation classes is worth, and three."""
    records = of_kind(answers, "draws")
    lines = ["### One draw of validation classes, and the mean of three", ""]
    if not records:
        return [*lines, NOT_YET, ""]
    rows = [
        [record["dataset"], record["backbone"], name, str(item["draws"])]
        + [number(item[key]) for key in ("mean", "sd_of_one", "sd_of_three")]
        for record in records
        for name, item in record["answer"]["spread"].items()
    ]
    head = ["dataset", "backbone", "configuration", "draws", "val H", "sd, one draw", "sd, mean of three"]
    lines += [prose.SPREAD, *table(head, rows), "", prose.CHOSEN]
    rows = [
        [record["dataset"], size, str(item["choices"]), *(number(item[key]) for key in ("mean", "sd", "lowest"))]
        for record in records
        for size, item in record["answer"].get("test", {}).items()
    ]
    return [*lines, *table(["dataset", "draws a choice", "choices", "test H", "sd", "lowest"], rows), ""]

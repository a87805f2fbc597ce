"""The tables and sentences of a run: what it is, how its winner was selected, what the test said."""

from collections.abc import Mapping
from typing import Any

from d3tune.results.leaderboard import summary_row
from d3tune.results.markup import html_paragraph, html_table, with_sd
from d3tune.results.report.front import front_table
from d3tune.results.report.material import SPREAD, UNMET, Material
from d3tune.results.report.resources import spent
from d3tune.search.aims import aims_words
from d3tune.search.chosen import choice_lines, choice_of
from d3tune.search.summary import dataset_identity
from d3tune.words import TEST_SELECTED, masked, plural

SUMMARY_LACKS = "The summary of its confirmation lacks something; d3tune resume RUN writes it again from the study."
TEST_HEAD = ("model", "val H", "test H", *SPREAD[1:])


def about(material: Material) -> str:
    """A table of what the run is, and how far."""
    run, search, cost = material.run, material.run.search, spent(material)
    rows = [
        ["run", run.name],
        ["dataset", f"{search.dataset} (semantics {search.semantics}, features {search.features})"],
        ["backbone", search.backbone],
        ["selected by", f"{aims_words(search)}: {material.protocol}"],
        ["sampler, pruner, seed", f"{search.sampler}, {search.pruner}, {search.seed}"],
        ["state", material.state],
        ["trials", ", ".join(f"{count} {state}" for state, count in material.counts.items())],
        ["compute", f"{cost.hours:.3g} hours in {plural(cost.evaluations, 'evaluation')}"],
        ["created", run.created],
    ]
    if run.extensions:
        rows.append(["extended", plural(len(run.extensions), "time")])
    return html_table("The run", ["what", "value"], rows)


def outcome(material: Material) -> list[str]:
    """Paragraphs and tables: the winner, how it was selected, the test and the baselines."""
    parts = [*(html_paragraph(sentence) for sentence in _selection(material)), *front_table(material)]
    rows = [*_test_rows(material), *_baseline_rows(material.summary)]
    if rows:
        note = "means over classes in [0, 1]; ± sd over seeds (n − 1)"
        parts.append(html_table(f"Tested once a seed: {note}", list(TEST_HEAD), rows))
    parts += [html_paragraph(sentence) for sentence in _beside_gaussian(material)]
    return parts


def configuration(material: Material) -> list[str]:
    """A table of the searched hyper-parameters of the winner, or of what was chosen, and one of the others."""
    choice = choice_of(material.summary)
    chosen = None if choice is None else choice["chosen"]
    trial = next((trial for trial in material.tried if trial.number == chosen), material.winner)
    if trial is None:
        return []
    searched, fixed = [], []
    for name, value in trial.config.items():
        if name not in material.parameters:
            fixed.append([name, _shown(value)])
            continue
        parameter = material.parameters[name]
        interval = (
            f"{parameter.low:g} to {parameter.high:g}" + (", log" if parameter.log else "")
            if parameter.choices is None
            else ", ".join(map(_shown, parameter.choices))
        )
        active = parameter.active(trial.config)
        shown = _shown(value) if active else f"{_shown(value)} (default: not searched for this trial)"
        searched.append([name, shown, interval + (", or 0" if parameter.off else ""), parameter.about])
    tables = [
        html_table(
            f"Configuration of trial {trial.number}: searched",
            ["hyper-parameter", "value", "searched in", "what it is"],
            searched,
        )
    ] * bool(searched)
    inner = html_table(f"Configuration of trial {trial.number}: fixed", ["hyper-parameter", "value"], fixed)
    return [*tables, f"<details>\n<summary>What was not searched</summary>\n{inner}\n</details>"]


def confirmed(material: Material) -> dict[str, Any] | None:
    """The run as a row of the leaderboard; None where it is not confirmed or its summary lacks something."""
    if not {"test", "selection"} <= material.summary.keys():
        return None
    run = material.run
    # what an old summary may lack, the study has
    there: dict[str, Any] = {"dataset": dataset_identity(run), "backbone": run.search.backbone, "run": run.name}
    there |= {"trials": material.counts, "trial_hours": spent(material).hours}
    return summary_row({**material.summary, **there})


def beats_gaussian(summary: Mapping[str, Any]) -> bool | None:
    """Whether the confirmed mean test H exceeds the `gaussian` baseline's by more than the sd over seeds.

    None where the summary does not say, or the run was selected on the test.
    """
    try:
        test = summary["test"]
        (other,) = [row for row in summary["baselines"] if row["name"] == "gaussian"]
        if test["protocol"] != "test" or test["H"]["sd"] is None:
            return None
        return bool(test["H"]["mean"] - other["test/H"] > test["H"]["sd"])
    except (KeyError, TypeError, ValueError):
        return None


def _selection(material: Material) -> list[str]:
    """How the winner was selected and confirmed, in sentences."""
    trial, metric = material.winner, material.run.search.searched_metric
    if trial is None or trial.value is None or trial.best is None:
        return [_no_winner(material)]
    label = f", {TEST_SELECTED}" if material.prefix == "published" else ""
    constraints = material.run.search.constraints
    where = f" among those where {' and '.join(constraints)}" if constraints else ""
    sentences = [
        f"Winner: trial {trial.number}, {metric} {trial.value:.3f}{label}: the largest of the complete trials' best "
        f"evaluations{where} ({trial.best.head} head, update {trial.best.update}; {material.protocol})."
    ]
    row = confirmed(material)
    if row is None:
        lacks = material.summary.get("test") is not None
        return [*sentences, SUMMARY_LACKS if lacks else "It has not been confirmed: there is no test result."]
    number = material.summary.get("confirmed_trial")
    choice = choice_of(material.summary)
    if choice is not None:
        sentences += _choice(choice, metric)
    elif isinstance(number, int) and number != trial.number:
        sentences.append(f"What was confirmed is trial {number}, the winner of an earlier command, not this one.")
    return [*sentences, _confirmation(material, row)]


def _choice(choice: Mapping[str, Any], metric: str) -> list[str]:
    """What was confirmed in place of the winner, or that it was the winner, and why."""
    try:
        lines = choice_lines(choice, metric)
    except (KeyError, TypeError, ValueError):
        return [SUMMARY_LACKS]
    return [
        f"The best {len(choice['candidates'])} trials were trained again on the validation protocol with seeds that no "
        "trial had, and the worse half was given up each round: what they had in the search took no part in it. "
        f"Confirmed: trial {choice['chosen']}.",
        *(f"{line[0].upper()}{line[1:]}." for line in lines),
    ]


def _confirmation(material: Material, row: Mapping[str, Any]) -> str:
    selection = material.summary["selection"]
    seeds = plural(row["seeds"], "seed")
    if row["protocol"] != "test":
        return (
            f"Its result is {TEST_SELECTED}: each seed's best test epoch, head and offset, over {seeds}; no estimate "
            "of what a new test would give."
        )
    return (
        f"Confirmation: retrained on the validation protocol with {seeds} that no trial had; the mean curve fixed "
        f"{selection.get('updates', '?')} updates and the {selection.get('head', '?')} head, the median over seeds the "
        "offset of the seen classes' scores. Then trained on all of trainval and tested once a seed: no choice was "
        "made on test rows."
    )


def _no_winner(material: Material) -> str:
    if not material.tried:
        return "No trial has begun yet."
    counts = material.counts
    if counts["failed"] == len(material.tried):
        reasons = [trial.user_attrs.get("failure", "unknown") for trial in material.frozen]
        common = max(dict.fromkeys(reasons), key=reasons.count)
        return f"Every trial failed; most often ({reasons.count(common)} of {len(reasons)}): {masked(common)}"
    if counts["pruned"] == len(material.tried):
        return "Every trial was pruned: none used its full budget, and only such a one can win."
    if counts.get(UNMET):
        constraints = " and ".join(material.run.search.constraints)
        return f"Of no complete trial {constraints} holds, so there is no winner."
    return "No trial is complete yet, so there is no winner."


def _test_rows(material: Material) -> list[list[str]]:
    row = confirmed(material)
    if row is None:
        return []
    name = f"{row['backbone']} ({material.summary['selection'].get('head', '?')})"
    claimed = row["protocol"] != "test"
    validated = f"– ({TEST_SELECTED})" if claimed else f"{row['val_H']:.3f}"
    cells = [with_sd(row[f"test_{metric}"], row[f"test_{metric}_sd"]) for metric in SPREAD]
    label = f" ({TEST_SELECTED})" if claimed else ""
    return [[name, validated, cells[0] + label, *cells[1:]]]


def _baseline_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    rows = summary.get("baselines")
    return [_baseline_row(row) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _baseline_row(row: Mapping[str, Any]) -> list[str]:
    keys = ("val/H", *(f"test/{metric}" for metric in SPREAD))
    return [f"{row.get('name', '?')} (baseline)", *(_number(row.get(key)) for key in keys)]


def _beside_gaussian(material: Material) -> list[str]:
    """A sentence where the winner is no better than the closed form, or where that cannot be said."""
    row, summary = confirmed(material), material.summary
    if row is None or row["protocol"] != "test":
        return []
    if not any(isinstance(item, dict) and item.get("name") == "gaussian" for item in summary.get("baselines") or []):
        return ["No baseline was tested beside it; d3tune search --baselines does."]
    beats = beats_gaussian(summary)
    if beats is None:
        return ["With one seed there is no spread to compare with the gaussian baseline by."]
    if beats:
        return ["It exceeds the gaussian baseline by more than its sd over seeds."]
    return ["It does not beat the closed-form gaussian baseline beyond its own spread (sd over seeds)."]


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "–"


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower() if value is not None else "null"
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(_shown, value)) if isinstance(value, list | tuple) else str(value)

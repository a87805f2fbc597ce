"""A configuration as text: YAML or JSON that `d3tune train` takes, or a script that retrains it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from d3tune.documents import json_text
from d3tune.method.generators import load_backbone
from d3tune.results.markup import plain, with_sd
from d3tune.search.chosen import choice_lines
from d3tune.words import TEST_SELECTED, plural
from d3tune.yamlfile import dump_yaml

SEEDS = 5
END = "CONFIGURATION"
Document = Mapping[str, Any]


def yaml_form(document: Document, name: str) -> str:
    """YAML with comments: where it comes from, and what each hyper-parameter is.

    Args:
        document: a configuration.
        name: of the file that it is written to.
    """
    retrain = f"retrain it with: d3tune train {quote(name)} --seeds {_n_seeds(document)}"
    return "\n".join([*_comments([*_provenance(document), retrain]), *_yaml_lines(document)]) + "\n"


def json_form(document: Document, name: str) -> str:
    """The same document as JSON, which knows no comments."""
    return json_text(dict(document))


def shell_form(document: Document, name: str) -> str:
    """A POSIX shell script that calls `d3tune train`; its arguments are further options of that."""
    body = _yaml_lines(document)
    end = END
    while end in body:
        end += "_"
    usage = f"retrain it with: sh {quote(name)} [options of d3tune train, e.g. --data-dir DIR]"
    lines = [
        "#!/bin/sh",
        *_comments([*_provenance(document), usage]),
        "set -eu",
        "file=$(mktemp)",
        "trap 'rm -f \"$file\"' EXIT",
        "trap 'exit 130' HUP INT TERM",
        f"cat >\"$file\" <<'{end}'",
        *body,
        end,
        f'd3tune train "$file" --seeds {_n_seeds(document)} "$@"',
    ]
    return "\n".join(lines) + "\n"


def python_form(document: Document, name: str) -> str:
    """A Python script that retrains it in its own process; its argument is a folder of datasets."""
    usage = f"retrain it with: python {quote(name)} [folder of datasets]"
    configuration = _python(document, 0, {"config": _descriptions(document)})
    lines = [
        "#!/usr/bin/env python3",
        *_comments([*_provenance(document), usage]),
        "import sys",
        "",
        "import d3tune",
        "from d3tune.errors import D3TuneError",
        "from d3tune.results.text import train_text",
        "",
        f"CONFIGURATION = {configuration}",
        "",
        'if __name__ == "__main__":',
        "    folder = sys.argv[1] if sys.argv[1:] else None",
        "    try:",
        f"        trained = d3tune.retrain(CONFIGURATION, seeds={_n_seeds(document)}, data_dir=folder)",
        "    except D3TuneError as error:",
        '        sys.exit(f"d3tune: {error}")',
        "    print(train_text(trained))",
    ]
    return "\n".join(lines) + "\n"


FORMS: dict[str, Callable[[Document, str], str]] = {
    "yaml": yaml_form,
    "json": json_form,
    "python": python_form,
    "shell": shell_form,
}
SUFFIXES = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".py": "python", ".sh": "shell"}
SCRIPTS = ("python", "shell")


def form_of(output: Path) -> str | None:
    """The form that a file's name says; None where it says none."""
    return SUFFIXES.get(output.suffix.lower())


def suffix_of(form: str) -> str:
    """How the name of a file of that form ends."""
    return next(suffix for suffix, named in SUFFIXES.items() if named == form)


def _n_seeds(document: Document) -> int:
    selection = document.get("selection")
    return len(selection["seeds"]) if isinstance(selection, dict) and selection.get("seeds") else SEEDS


def _comments(lines: list[str]) -> list[str]:
    return [f"# {plain(line)}" for line in lines]


def _provenance(document: Document) -> list[str]:
    """What a reader wants to know first: one line each, only of what the document says."""
    dataset, source = _part(document, "dataset"), _part(document, "source")
    state = "a trial that was not confirmed" if document.get("selection") is None else "a confirmed winner"
    lines = [f"{document['backbone']} on {dataset.get('name', document['dataset'])}: {state} of a d3tune search"]
    if "run" in source:
        lines.append(f"run: {source['run']}, begun {source.get('created', '?')}, id {source.get('uid', '?')}")
    if "trial" in source:
        metric, value = source.get("searched_metric", "?"), source.get("searched_value")
        found = "" if value is None else f", {metric} {value:.4f} in the search"
        lines.append(f"trial: {source['trial']}, configuration {source.get('configuration', '?')}{found}")
    lines += [*_chosen(source), _validated(document), _tested(document)]
    if worker := _part(source, "worker"):
        known = [f"{key} {worker[key]}" for key in ("d3tune", "torch", "python", "threads", "device") if key in worker]
        lines.append(f"trained with: {', '.join(known)}")
    lines.append(
        f"dataset: semantics {dataset.get('semantics', '?')}, features {dataset.get('features', '?')}, "
        f"content {dataset.get('content_hash', '?')}"
    )
    return lines


def _chosen(source: Document) -> list[str]:
    """How it was chosen among the best trials of its search, where it was and the file still says so."""
    try:
        return choice_lines(source["choice"], str(source.get("searched_metric", "?")))
    except (KeyError, TypeError, ValueError):
        return []


def _validated(document: Document) -> str:
    selection, searched = document.get("selection"), _part(_part(document, "source"), "search")
    label = f" ({TEST_SELECTED})" if _published(document) else ""
    if selection is None:
        splits = ", ".join(str(split) for split in searched.get("splits", ()))
        of = f" by {searched.get('objective', 'H')} on splits {splits}" if searched and not label else ""
        return f"selection: none yet; d3tune train makes it first{of}{label}"
    chosen = f"head {selection['head']} at update {selection['updates']}, offset {selection['seen_offset']:.4g}"
    if label:
        return f"selection: {chosen}{label}"
    value = "–" if selection.get("val_H") is None else f"{selection['val_H']:.4f}"
    return f"val H {value}: {chosen}; {plural(len(selection['seeds']), 'seed')} from {selection['seeds'][0]}"


def _tested(document: Document) -> str:
    test = _part(document, "test")
    if not test:
        return "test H: not tested"
    parts = ", ".join(f"{name} {_mean(test, name)}" for name in ("U", "S", "T1", "AUSUC") if name in test)
    seeds = ", ".join(str(seed) for seed in test.get("H_per_seed", ()))
    if test.get("protocol") == "published":
        return f"published H {_mean(test, 'H')} ({parts}); {TEST_SELECTED}: each seed's best test epoch, seeds {seeds}"
    return f"test H {_mean(test, 'H')} ({parts}); protocol test, seeds {seeds}"


def _mean(test: Document, name: str) -> str:
    return with_sd(test[name]["mean"], test[name].get("sd"))


def _published(document: Document) -> bool:
    """Whether the test sets chose it."""
    chosen = [_part(document, "selection"), _part(document, "test"), _part(_part(document, "source"), "search")]
    return any(part.get("protocol") == "published" for part in chosen)


def _part(document: Document, key: str) -> Document:
    part = document.get(key)
    return part if isinstance(part, dict) else {}


def _descriptions(document: Document) -> dict[str, str]:
    """What each hyper-parameter is, where the backbone says so."""
    fields = load_backbone(str(document["backbone"])).config.model_fields
    return {name: plain(field.description) for name, field in fields.items() if field.description}


def _yaml_lines(document: Document) -> list[str]:
    lines: list[str] = []
    for key, value in document.items():
        if key == "config" and value:
            lines.append("config:")
            lines += [f"  {line}" for line in _explained(value, _descriptions(document))]
        else:
            lines += _dumped(key, value)
    return lines


def _explained(config: Document, descriptions: Mapping[str, str]) -> list[str]:
    lines: list[str] = []
    for name, value in config.items():
        first, *rest = _dumped(name, value)
        comment = f"# {descriptions[name]}" if name in descriptions else ""
        if comment and rest and not first.endswith(":"):
            # within a text of several lines it would be part of it
            lines.append(comment)
        elif comment:
            first = f"{first}  {comment}"
        lines += [first, *rest]
    return lines


def _dumped(key: str, value: Any) -> list[str]:
    return dump_yaml({key: value}).splitlines()


def _python(value: Any, indent: int, inner: Mapping[str, Mapping[str, str]], notes: Mapping[str, str] = {}) -> str:
    """A literal; of a mapping one line a key, with the notes as comments.

    Args:
        value: plain values.
        indent: of the line that it begins on.
        inner: notes of the keys of mappings within, by their name.
        notes: of its own keys.
    """
    if not isinstance(value, Mapping):
        return repr(value)
    margin = " " * (indent + 4)
    lines = []
    for key, item in value.items():
        note = f"  # {notes[key]}" if key in notes else ""
        lines.append(f"{margin}{key!r}: {_python(item, indent + 4, {}, inner.get(key, {}))},{note}")
    return "\n".join(["{", *lines, " " * indent + "}"]) if lines else "{}"

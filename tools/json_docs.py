"""Write docs/json.md from the schemas of what commands print with ``--json``: ``python tools/json_docs.py``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from d3tune.results.schemas import SCHEMAS

PAGE = Path(__file__).parents[1] / "docs" / "json.md"
HEAD = """# What `--json` prints

Every command that has `--json` prints one JSON value on stdout; all messages go to stderr. The value is the same as
what the command shows without it, at full precision. There is no NaN and no infinity; what is not there is `null`.

A key is always there unless its line says that it may be absent. Later versions may add keys; the form of a version is
in its schemas, [`d3tune/results/schemas.json`](../d3tune/results/schemas.json) (JSON Schema 2020-12), from which this
page is made by `python tools/json_docs.py`. A command's schema is `#/$defs/COMMAND`, of `d3tune data list`
`#/$defs/data-list`:

```python
import json, subprocess
from jsonschema import validate
from d3tune.results.schemas import schema

rows = json.loads(subprocess.run(["d3tune", "leaderboard", "--json"], capture_output=True, check=True).stdout)
validate(rows, schema("leaderboard"))
```

Exit codes are those of the command without `--json`: 0 done, 1 failed, 2 usage, 3 no usable trial, 130 interrupted.
But for 0, stdout is empty; only `doctor` and `replay`, which end with 1 where they print what they found wrong, and a
search that was interrupted, which prints what there is and ends with 130, differ.
"""


def page() -> str:
    """The page."""
    return "\n".join([HEAD, *(line for name in SCHEMAS["$defs"] for line in _section(name))])


def _section(name: str) -> Iterator[str]:
    definition = SCHEMAS["$defs"][name]
    yield f"## {name}\n"
    yield f"{definition['description']}\n"
    if "$ref" in definition:
        return
    listed = definition["type"] == "array"
    if listed:
        yield "A list; of each item:\n"
    yield "| key | type | what it is |\n|---|---|---|"
    yield from _rows(definition["items"] if listed else definition)
    yield ""


def _rows(definition: dict[str, Any], before: str = "") -> Iterator[str]:
    for key, value in definition["properties"].items():
        absent = "" if key in definition["required"] else " (may be absent)"
        yield f"| `{before}{key}` | {_type(value)} | {value.get('description', '')}{absent} |"
        inner = value.get("items", value)
        if "properties" in inner:
            yield from _rows(inner, f"{before}{key}." if inner is value else f"{before}{key}[].")


def _type(value: dict[str, Any]) -> str:
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name})"
    if "anyOf" in value:
        return " or ".join(_type(choice) for choice in value["anyOf"])
    if "enum" in value:
        return " or ".join(f"`{choice}`" for choice in value["enum"])
    kinds = value.get("type", "any value")
    shown = " or ".join([kinds] if isinstance(kinds, str) else kinds)
    return f"list of {_type(value['items'])}" if kinds == "array" else shown


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

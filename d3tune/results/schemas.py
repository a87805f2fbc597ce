"""The JSON Schemas of what commands print with ``--json``; docs/json.md says the same for people."""

import json
from importlib.resources import files
from typing import Any

SCHEMAS: dict[str, Any] = json.loads(files(__package__).joinpath("schemas.json").read_text(encoding="utf-8"))


def schema(command: str) -> dict[str, Any]:
    """The schema of what a command prints.

    Args:
        command: as typed, e.g. ``leaderboard`` or ``data list``.

    Raises:
        KeyError: there is none of that name.
    """
    name = command.replace(" ", "-")
    return {**SCHEMAS, **SCHEMAS["$defs"][name]}

"""Results of single trainings, kept so that a question that was interrupted goes on."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from d3tune.files import write_json


def stored(place: Path, what: Any, compute: Callable[[], Any]) -> Any:
    """What was computed before for the same description, else what is computed now, as plain values.

    Args:
        place: a folder.
        what: plain values that decide the result.
        compute: returns plain values.
    """
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
    path = place / f"{digest}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    value = compute()
    place.mkdir(parents=True, exist_ok=True)
    write_json(path, value)
    return value

"""What is done, one small JSON file each, kept with the repository: with a record, nothing is done again."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from d3tune.errors import UsageError
from d3tune.files import write_json

FORMAT = 1
Record = Mapping[str, Any]


class Records:
    """The records of one folder that were made with the same settings.

    Attributes:
        folder: where they are.
        settings: trials, seeds and what is fixed further.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings = folder, dict(settings)

    def find(self, name: str) -> Record | None:
        """The record of that name, None where there is none.

        Raises:
            UsageError: it was made with other settings, or cannot be read.
        """
        path = self._path(name)
        try:
            record: Record = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: cannot be read: {error}") from None
        if record.get("format") != FORMAT or record.get("name") != name:
            raise UsageError(f"{path}: is not a record of {name}")
        other = differing(record["settings"], self.settings)
        if other:
            raise UsageError(f"{path}: made with other settings ({other}); give those, or another --records")
        return record

    def found(self, names: Iterable[str]) -> dict[str, Record]:
        """Those that there are, by name."""
        every = {name: self.find(name) for name in names}
        return {name: record for name, record in every.items() if record is not None}

    def keep(self, name: str, commit: str, seconds: float, body: Mapping[str, Any]) -> Record:
        """Write a record.

        Args:
            name: of its file.
            commit: of the code that made it.
            seconds: that it took.
            body: what was found.
        """
        record = {
            "format": FORMAT,
            "name": name,
            "commit": commit,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
            "settings": self.settings,
            **body,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self._path(name), record)
        return record

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def differing(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What differs between two settings, in words; empty where nothing does."""
    names = [name for name in {**made, **wanted} if made.get(name) != wanted.get(name)]
    return ", ".join(f"{name} {made.get(name)} instead of {wanted.get(name)}" for name in names)


def commits(records: Iterable[Record]) -> dict[str, int]:
    """How many records each commit made."""
    return dict(Counter(str(record["commit"]) for record in records))

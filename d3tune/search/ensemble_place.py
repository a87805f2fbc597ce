"""Where an ensemble is kept: a directory like that of a run, which says of what trials it is made."""

import hashlib
import json
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from d3tune.errors import RunError
from d3tune.files import PROBE, home, home_path, parse_json, slug, writable_directory, write_json, write_new
from d3tune.search.ensemble_members import Material
from d3tune.search.lock import owned, refuse_shared
from d3tune.search.summaries import ENSEMBLE_FILE, SUMMARY_FILE, read_summary
from d3tune.search.summary import dataset_identity

FORMAT = 1
ADVICE = "give another --run-dir"


@dataclass(frozen=True)
class EnsembleDirectory:
    """Paths and frozen content of one ensemble.

    Attributes:
        path: the directory.
        uid: a random id.
        created: UTC, ISO 8601.
        identity: what makes it this ensemble: its data and the trials it may be made of.
    """

    path: Path
    uid: str
    created: str
    identity: dict[str, Any]

    @property
    def scores(self) -> Path:
        """The folder of the members' scores of the validation rows."""
        return self.path / "scores"

    @property
    def confirm(self) -> Path:
        """The folder of what was trained with fresh seeds."""
        return self.path / "confirm"

    @property
    def model(self) -> Path:
        """The folder of its model, once it is tested."""
        return self.path / "model"

    def owned(self, say: Callable[[str], None] | None = None) -> AbstractContextManager[None]:
        """Own it, as `d3tune.search.run.RunDirectory.owned` does."""
        return owned(self.path, say)

    def read_summary(self) -> dict[str, Any] | None:
        """What `write_summary` wrote last and where that is, or None."""
        summary = read_summary(self.path / SUMMARY_FILE)
        return None if summary is None else {**summary, "path": str(self.path)}

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write what the leaderboard and other readers need."""
        write_json(self.path / SUMMARY_FILE, summary)


def open_ensemble(path: Path | None, material: Material) -> tuple[EnsembleDirectory, bool]:
    """Make an ensemble's directory, or open the one that holds the same.

    Args:
        path: where; None derives ``$D3TUNE_HOME/runs/<dataset>-ensemble-<hash>``, so that the same command finds it.
        material: what it is made of.

    Returns:
        The directory and whether it is new.

    Raises:
        RunError: it holds another ensemble, or something else.
    """
    dataset, splits = dataset_identity(material.runs[0]), list(material.runs[0].search.splits)
    identity = {"dataset": dataset, "splits": splits, "members": [member.identity for member in material.members]}
    if path is None:
        path = home() / "runs" / f"{slug(dataset['name'])}-ensemble-{_digest(identity)[:6]}"
    path = path.absolute()
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: is a file; {ADVICE}")
    if path.is_dir() and not (path / ENSEMBLE_FILE).exists() and _holds_something(path):
        raise RunError(f"{path}: is not empty and not an ensemble; {ADVICE}")
    with suppress(OSError):
        path.mkdir(mode=0o775, parents=True, exist_ok=True)
    writable_directory(path, ADVICE)
    refuse_shared(path)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    document = {"format": FORMAT, "uid": secrets.token_hex(8), "created": created, **identity}
    new = write_new(path / ENSEMBLE_FILE, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return _opened(path, identity), new


def ensemble_folder(name: str) -> Path | None:
    """The directory of an ensemble, by its path or by its name under ``$D3TUNE_HOME/runs``; None where it is none."""
    for folder in (Path(name).expanduser(), home_path() / "runs" / name):
        if (folder / ENSEMBLE_FILE).is_file():
            refuse_shared(folder)
            return folder.absolute()
    return None


def _opened(path: Path, identity: dict[str, Any]) -> EnsembleDirectory:
    where = path / ENSEMBLE_FILE
    try:
        document = parse_json(where.read_text(encoding="utf-8"))
        held = {name: document[name] for name in identity}
        if document["format"] != FORMAT:
            raise RunError(f"{where}: format {document['format']!r} is not known to this version (format {FORMAT})")
        found, same = EnsembleDirectory(path, str(document["uid"]), str(document["created"]), held), _same(held)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{where}: damaged ({type(error).__name__}: {error}); {ADVICE}") from None
    if same != _same(identity):
        raise RunError(f"{path}: holds an ensemble of other trials; {ADVICE}")
    return found


def _holds_something(path: Path) -> bool:
    """Whether a directory is in use for something; a process that was killed may have left a part of a first file."""
    return not all(item.name.startswith((PROBE, f".{ENSEMBLE_FILE}.")) for item in path.iterdir())


def _same(identity: dict[str, Any]) -> str:
    """What two of the same ensemble have in common: a run may have been renamed."""
    members = [{key: value for key, value in member.items() if key != "run"} for member in identity["members"]]
    return json.dumps({**identity, "members": members}, sort_keys=True)


def _digest(identity: dict[str, Any]) -> str:
    return hashlib.sha256(_same(identity).encode()).hexdigest()[:8]

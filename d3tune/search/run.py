"""A run directory: the frozen search, its study, its trials and what came of it."""

import hashlib
import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Any

from pydantic import ValidationError

from d3tune.config import SearchConfig, TrialConfig, first_fault
from d3tune.errors import RunError, nearest
from d3tune.files import PROBE, home, parse_json, slug, writable_directory, write_json, write_new, write_text
from d3tune.search.extending import Extension, differences, incompatible, shortened
from d3tune.search.lock import owned, refuse_shared
from d3tune.search.study import read_trials
from d3tune.search.summaries import SUMMARY_FILE
from d3tune.space import Space, space_from_dict
from d3tune.yamlfile import dump_yaml, read_yaml

FORMAT = 1
RUN_FILE = "run.yaml"
PLAN_FILE = "plan.json"


@dataclass(frozen=True)
class RunDirectory:
    """Paths and frozen content of one run.

    Attributes:
        path: the directory.
        uid: a random id, the run's identity in MLflow.
        name: the directory's name.
        created: UTC, ISO 8601.
        search: what is searched; never changes.
        dataset_path: the prepared dataset.
        space: the frozen raw space, see `load_space`.
        extensions: what the search was before it was extended, the earliest first.
    """

    path: Path
    uid: str
    name: str
    created: str
    search: SearchConfig
    dataset_path: Path
    space: dict[str, Any]
    extensions: tuple[Extension, ...] = ()

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it this search and no other: the frozen search and space, as plain values."""
        return {"search": self.search.model_dump(mode="json"), "space": self.space}

    @property
    def journal(self) -> Path:
        """The study's journal file."""
        return self.path / "study.journal"

    @property
    def log(self) -> Path:
        """Where Ray's and MLflow's messages go."""
        return self.path / "log.txt"

    @property
    def best(self) -> Path:
        """The winner's configuration, once it is confirmed."""
        return self.path / "best.yaml"

    @property
    def resume_command(self) -> str:
        """What goes on with it, as a shell takes it."""
        return f"d3tune resume {quote(str(self.path))}"

    @property
    def sync_command(self) -> str:
        """What writes it to MLflow, as a shell takes it."""
        return f"d3tune sync {quote(str(self.path))}"

    def trial(self, number: int) -> Path:
        """The directory of one trial."""
        return self.path / "trials" / f"{number:05d}"

    def read_plan(self) -> dict[str, Any]:
        """What the last command wanted, by option; empty where no command has written that yet.

        Raises:
            RunError: the file is damaged.
        """
        path = self.path / PLAN_FILE
        try:
            plan = parse_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: damaged ({error}); remove it and give the options again") from None
        if not isinstance(plan, dict):
            raise RunError(f"{path}: damaged (no mapping); remove it and give the options again")
        return plan

    def write_plan(self, plan: dict[str, Any]) -> None:
        """Remember what this command wants, for a later resume without options."""
        write_json(self.path / PLAN_FILE, plan)

    def load_space(self, config: type[TrialConfig]) -> Space:
        """The frozen search space."""
        return space_from_dict(self.space, config, f"{self.path / RUN_FILE}: space")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write what the leaderboard and other readers need, without opening the study."""
        write_json(self.path / SUMMARY_FILE, summary)

    def read_summary(self) -> dict[str, Any] | None:
        """What `write_summary` wrote last and where the run is, or None."""
        try:
            summary: dict[str, Any] = parse_json((self.path / SUMMARY_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return {**summary, "path": str(self.path)} if isinstance(summary, dict) else None

    def owned(self, say: Callable[[str], None] | None = None) -> AbstractContextManager[None]:
        """Own the run: one process at a time writes to it; see `d3tune.search.lock`.

        Args:
            say: takes one line where a process died owning the run.

        Raises:
            RunError: another process owns it, or the directory cannot be written.
        """
        return owned(self.path, say)


def create_run(path: Path | None, search: SearchConfig, dataset_path: Path, space: Space) -> tuple[RunDirectory, bool]:
    """Create a run directory, or open the one that holds the same search.

    Args:
        path: where; None derives ``$D3TUNE_HOME/runs/<dataset>-<backbone>-s<seed>-<hash>``, so that the same command
            finds the same run.
        search: the frozen search.
        dataset_path: the prepared dataset.
        space: the resolved space.

    Returns:
        The run and whether it is new.

    Raises:
        RunError: the directory holds another search (the message names what differs) or something else.
    """
    identity = _identity(search, space)
    if path is None:
        text = search.model_dump_json() + space.hash
        digest = hashlib.sha256(text.encode()).hexdigest()[:6]
        path = home() / "runs" / f"{slug(search.dataset)}-{search.backbone}-s{search.seed}-{digest}"
    path = path.absolute()
    if (path / RUN_FILE).exists():
        run = open_run(str(path))
        _refuse_difference(run, identity)
        return run, False
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: is a file; give another --run-dir")
    if path.exists() and _holds_something_else(path):
        raise RunError(f"{path}: is not empty and not a run; give another --run-dir")
    with suppress(OSError):
        # whatever the umask: nobody else decides what is run
        path.mkdir(mode=0o775, parents=True, exist_ok=True)
    writable_directory(path, "give another --run-dir")
    refuse_shared(path)
    uid, created = secrets.token_hex(8), _now()
    document = _document(uid, created, dataset_path, identity, ())
    if not write_new(path / RUN_FILE, dump_yaml(document)):
        # the same command at the same moment was first
        run = open_run(str(path))
        _refuse_difference(run, identity)
        return run, False
    return open_run(str(path)), True


def extend_run(run: RunDirectory, search: SearchConfig, space: Space, config: type[TrialConfig]) -> RunDirectory:
    """Let a run go on with another space, sampler or pruner; what it was before stays on record in run.yaml.

    Args:
        run: the run; the caller owns it.
        search: what it shall be.
        space: what it shall search.
        config: the backbone's configuration class.

    Returns:
        The run as it is now; the same where nothing differs.

    Raises:
        RunError: the trials of the two would not be comparable; the message names what differs.
    """
    wanted = _identity(search, space)
    changed = differences(run.identity, wanted)
    if not changed:
        return run
    refused = incompatible(run.search, run.load_space(config), search, space, config)
    if refused:
        raise RunError(
            f"{run.path}: cannot be extended by this, its trials would not be comparable ({shortened(refused)}); "
            "give another --run-dir"
        )
    trials = len(read_trials(run.journal)) if run.journal.exists() else 0
    extension = Extension(_now(), trials, tuple(changed), **run.identity)
    extensions = (*run.extensions, extension)
    write_text(run.path / RUN_FILE, dump_yaml(_document(run.uid, run.created, run.dataset_path, wanted, extensions)))
    return open_run(str(run.path))


def open_run(name: str) -> RunDirectory:
    """Open a run by its path, or by its name under ``$D3TUNE_HOME/runs``.

    Raises:
        RunError: there is none of that name (the nearest is named), or run.yaml is damaged or of a newer format.
    """
    path = _find(name)
    refuse_shared(path)
    document = read_yaml(path / RUN_FILE)
    where = path / RUN_FILE
    if document.get("format") != FORMAT:
        raise RunError(f"{where}: format {document.get('format')!r} is not known to this version (format {FORMAT})")
    try:
        return RunDirectory(
            path=path,
            uid=str(document["uid"]),
            name=path.name,
            created=str(document["created"]),
            search=SearchConfig.model_validate(document["search"]),
            dataset_path=Path(str(document["dataset_path"])),
            space=dict(document["space"]),
            extensions=tuple(Extension.from_dict(item) for item in document.get("extensions", [])),
        )
    except ValidationError as error:
        raise RunError(f"{where}: search: {first_fault(error)}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{where}: damaged: {error}") from None


def _document(
    uid: str, created: str, dataset_path: Path, identity: dict[str, Any], extensions: Sequence[Extension]
) -> dict[str, Any]:
    document = {"format": FORMAT, "uid": uid, "created": created, "dataset_path": str(dataset_path), **identity}
    return {**document, "extensions": [item.to_dict() for item in extensions]} if extensions else document


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _identity(search: SearchConfig, space: Space) -> dict[str, Any]:
    return {"search": search.model_dump(mode="json"), "space": space.to_dict()}


def _holds_something_else(path: Path) -> bool:
    """Whether a directory is in use for something; the same command at the same moment may be creating the run."""
    names = [item.name for item in path.iterdir()]
    return RUN_FILE not in names and not all(name.startswith((PROBE, f".{RUN_FILE}.")) for name in names)


def _refuse_difference(run: RunDirectory, wanted: dict[str, Any]) -> None:
    changed = differences(run.identity, wanted)
    if changed:
        raise RunError(
            f"{run.path}: holds another search ({shortened(changed)}); give another --run-dir, or --extend this one"
        )


def _find(name: str) -> Path:
    path = Path(name).expanduser()
    if (path / RUN_FILE).is_file():
        return path.absolute()
    known = sorted(item.parent.name for item in (home() / "runs").glob(f"*/{RUN_FILE}"))
    if name in known:
        return home() / "runs" / name
    raise RunError(f"no run '{name}': neither a run directory nor a run under {home() / 'runs'}{nearest(name, known)}")

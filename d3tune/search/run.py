"""A run directory: the frozen search, its study, its trials and what came of it."""

import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Any

from pydantic import ValidationError

from d3tune.config import SearchConfig, TrialConfig, first_fault
from d3tune.errors import RunError, UsageError, nearest
from d3tune.files import (
    HOME_ADVICE,
    PROBE,
    check_writable,
    home,
    home_path,
    parse_json,
    writable_directory,
    write_json,
    write_new,
    write_text,
)
from d3tune.method.generators import load_backbone
from d3tune.search.extending import Extension, differences, search_faults, shortened, space_faults
from d3tune.search.faults import INTACT
from d3tune.search.lock import owned, refuse_shared
from d3tune.search.places import default_path
from d3tune.search.study import read_trials
from d3tune.search.summaries import ENSEMBLE_FILE, SUMMARY_FILE, damage, read_summary
from d3tune.space import Space, space_from_dict
from d3tune.words import FIRST_SEARCH
from d3tune.yamlfile import dump_yaml, read_yaml

FORMAT = 1
RUN_FILE = "run.yaml"
PLAN_FILE, PLACE = "plan.json", "place"


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
    def model(self) -> Path:
        """The folder of its model, once it is confirmed."""
        return self.path / "model"

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
        """Remember what this command wants, for a later resume without options, and where the run was; see `copied`."""
        # an address of a store may have a password
        write_json(self.path / PLAN_FILE, {**plan, PLACE: str(self.path.resolve())}, private=True)

    def load_space(self, config: type[TrialConfig]) -> Space:
        """The frozen search space.

        Raises:
            RunError: it is damaged.
        """
        try:
            return space_from_dict(self.space, config, f"{self.path / RUN_FILE}: space")
        except UsageError as error:
            raise RunError(f"{error}; {INTACT}") from None

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write what the leaderboard and other readers need, without opening the study."""
        write_json(self.path / SUMMARY_FILE, summary)

    def read_summary(self) -> dict[str, Any] | None:
        """What `write_summary` wrote last and where the run is, or None, also where the file is damaged."""
        summary = read_summary(self.path / SUMMARY_FILE)
        return None if summary is None else {**summary, "path": str(self.path)}

    @property
    def summary_damage(self) -> str:
        """One line where the summary is there but damaged; else empty."""
        return damage(self.path / SUMMARY_FILE)

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
    path, there = find_run(path, search, space, home)
    if there is not None:
        return there, False
    with suppress(OSError):
        # whatever the umask: nobody else decides what is run
        path.mkdir(mode=0o775, parents=True, exist_ok=True)
    writable_directory(path, "give another --run-dir")
    refuse_shared(path)
    uid, created = secrets.token_hex(8), _now()
    if not write_new(path / RUN_FILE, _text(uid, created, dataset_path, identity, ())):
        # the same command at the same moment was first
        run = open_run(str(path))
        _refuse_difference(run, search, space)
        return run, False
    return open_run(str(path)), True


def find_run(
    path: Path | None, search: SearchConfig, space: Space, root: Callable[[], Path]
) -> tuple[Path, RunDirectory | None]:
    """Where a search is kept or would be, and the run that is there already; nothing is written.

    Args:
        path: see `create_run`.
        search: the frozen search.
        space: the resolved space.
        root: gives ``$D3TUNE_HOME``, where it is needed.

    Raises:
        RunError: see `create_run`.
    """
    path = (default_path(search, space, root()) if path is None else path).absolute()
    if (path / RUN_FILE).exists():
        run = open_run(str(path))
        _refuse_difference(run, search, space)
        return path, run
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: is a file; give another --run-dir")
    if path.exists() and _holds_something_else(path):
        raise RunError(f"{path}: is not empty and not a run; give another --run-dir")
    return path, None


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
    # a space that is damaged cannot be compared
    run.load_space(config)
    changed = differences(run.identity, wanted)
    if not changed:
        return run
    refuse_incomparable(run, search, space, config)
    trials = len(read_trials(run.journal)) if run.journal.exists() else 0
    extension = Extension(_now(), trials, tuple(changed), **run.identity)
    extensions = (*run.extensions, extension)
    write_text(run.path / RUN_FILE, _text(run.uid, run.created, run.dataset_path, wanted, extensions))
    return open_run(str(run.path))


def refuse_incomparable(run: RunDirectory, search: SearchConfig, space: Space, config: type[TrialConfig]) -> None:
    """Refuse to extend a run by a search whose trials would not be comparable.

    Raises:
        RunError: they would not; the message names what differs.
    """
    refused = _incompatible(run, search, space, config)
    if refused:
        raise RunError(
            f"{run.path}: cannot be extended by this, its trials would not be comparable ({shortened(refused)}); "
            "give another --run-dir"
        )


def copied_from(run: RunDirectory) -> Path | None:
    """The run that a directory is a copy of: where its last command left it, there still is one of its identity.

    None of a directory that was renamed or moved, and of one whose plan cannot be read.
    """
    try:
        place = Path(str(run.read_plan()[PLACE]))
        same = not place.samefile(run.path) and read_yaml(place / RUN_FILE).get("uid") == run.uid
    except (RunError, UsageError, KeyError, OSError, ValueError):
        return None
    return place if same else None


def as_itself(run: RunDirectory, say: Callable[[str], None]) -> RunDirectory:
    """The run; a copy of another gets an identity of its own, or both would write into the same runs of MLflow.

    Args:
        run: the run; the caller owns it.
        say: takes one line of a copy.
    """
    original = copied_from(run)
    if original is None:
        return run
    say(f"{run.path}: a copy of {original}; it is a run of its own from now on, in MLflow too")
    own = replace(run, uid=secrets.token_hex(8))
    write_text(own.path / RUN_FILE, _text(own.uid, own.created, own.dataset_path, own.identity, own.extensions))
    own.write_plan(own.read_plan())
    return own


def open_run(name: str) -> RunDirectory:
    """Open a run by its path, or by its name under ``$D3TUNE_HOME/runs``.

    Raises:
        UsageError: there is none of that name; the nearest is named.
        RunError: run.yaml is damaged or of a newer format.
    """
    path = _find(name)
    refuse_shared(path)
    where = path / RUN_FILE
    try:
        document = read_yaml(where)
    except UsageError as error:
        raise RunError(f"{error}; {INTACT}") from None
    if document.get("format") != FORMAT:
        raise RunError(f"{where}: format {document.get('format')!r} is not known to this version (format {FORMAT})")
    if _cut_short(where, document.get("lines")):
        raise RunError(f"{where}: damaged: its end is missing; {INTACT}")
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
        raise RunError(f"{where}: search: {first_fault(error)}; {INTACT}") from None
    except KeyError as error:
        raise RunError(f"{where}: damaged: {error} is missing; {INTACT}") from None
    except (TypeError, ValueError) as error:
        raise RunError(f"{where}: damaged: {error}; {INTACT}") from None


def _text(uid: str, created: str, dataset_path: Path, identity: dict[str, Any], extensions: Sequence[Extension]) -> str:
    """The content of run.yaml, which says near its begin how many lines it has: half of it may be YAML too."""
    rest = {"uid": uid, "created": created, "dataset_path": str(dataset_path), **identity}
    if extensions:
        rest["extensions"] = [item.to_dict() for item in extensions]
    return dump_yaml({"format": FORMAT, "lines": dump_yaml(rest).count("\n") + 2, **rest})


def _cut_short(path: Path, lines: object) -> bool:
    return isinstance(lines, int) and path.read_text(encoding="utf-8").count("\n") < lines


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _identity(search: SearchConfig, space: Space) -> dict[str, Any]:
    return {"search": search.model_dump(mode="json"), "space": space.to_dict()}


def _holds_something_else(path: Path) -> bool:
    """Whether a directory is in use for something; the same command at the same moment may be creating the run."""
    names = [item.name for item in path.iterdir()]
    return RUN_FILE not in names and not all(name.startswith((PROBE, f".{RUN_FILE}.")) for name in names)


def _refuse_difference(run: RunDirectory, search: SearchConfig, space: Space) -> None:
    # a space that is damaged cannot be compared
    run.load_space(load_backbone(run.search.backbone).config)
    changed = differences(run.identity, _identity(search, space))
    if changed:
        refused = _incompatible(run, search, space, load_backbone(search.backbone).config)
        advice = "give another --run-dir" + ("" if refused else ", or --extend this one")
        raise RunError(f"{run.path}: holds another search ({shortened(changed)}); {advice}")


def _incompatible(run: RunDirectory, search: SearchConfig, space: Space, config: type[TrialConfig]) -> list[str]:
    """Why a run cannot be extended by a search; the spaces of two backbones have nothing to compare."""
    faults = search_faults(run.search, search)
    return (
        faults
        if search.backbone != run.search.backbone
        else faults + space_faults(run.load_space(config), space, config)
    )


def _find(name: str) -> Path:
    path = Path(name).expanduser()
    if (path / RUN_FILE).is_file():
        return path.absolute()
    check_writable(home_path(), HOME_ADVICE)
    place = home_path() / "runs"
    known = sorted(item.parent.name for item in place.glob(f"*/{RUN_FILE}"))
    if name in known:
        return place / name
    if any((folder / ENSEMBLE_FILE).is_file() for folder in (path, place / name)):
        raise UsageError(f"{name}: is an ensemble, and this takes searches; d3tune leaderboard shows it")
    hint = nearest(name, known) if known else f"; there is none yet, start with: {FIRST_SEARCH}"
    raise UsageError(f"no run '{name}': neither a run directory nor a run under {place}{hint}")

"""The file of an SQLite store for MLflow: made with all its tables, or not at all."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from d3tune.files import make_new

PREFIX = "sqlite:///"
LOGS = ("-wal", "-shm", "-journal")
MOUNTS = Path("/proc/self/mounts")
# where every process that opens a file is on the same machine
LOCAL = frozenset(("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "overlay"))


def file_of(uri: str) -> Path | None:
    """The file of an SQLite store; None of any other."""
    path = uri.removeprefix(PREFIX).partition("?")[0]
    return Path(path) if uri.startswith(PREFIX) and path else None


def absolute(uri: str) -> str:
    """A URI that names the same store from every folder: the file of an SQLite store by its whole path."""
    file = file_of(uri)
    if file is None:
        return uri
    return uri.replace(f"{PREFIX}{file}", f"{PREFIX}{file.absolute()}", 1)


def create_store(uri: str) -> None:
    """Make the file of an SQLite store where there is none.

    MLflow makes and changes its tables in many steps, which take seconds. A process killed among them would leave a
    store that no MLflow opens again; here it leaves a file beside it.

    On a disk of this machine changes go to a write-ahead log, which takes a quarter of the time: one file is synced at
    each commit instead of four. SQLite cannot share such a log between machines (https://sqlite.org/wal.html).

    Args:
        uri: of any store; only an SQLite file is made.

    Raises:
        OSError: it cannot be written.
    """
    path = file_of(uri)
    if path is None or "?" in uri:
        return
    # of a store that was deleted without them: SQLite would take them for the new one's
    logs = [log for end in LOGS if (log := path.with_name(path.name + end)).exists()]
    if path.exists():
        return
    for log in logs:
        log.unlink(missing_ok=True)
    if make_new(path, _make_tables) and is_local(path):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")


def is_local(path: Path) -> bool:
    """Whether a file is known to be on a disk of this machine; False where that cannot be told."""
    try:
        mounts = MOUNTS.read_text(encoding="utf-8").splitlines()
        place = os.path.realpath(path)
    except OSError:
        return False
    kinds: dict[str, str] = {}
    for mount in mounts:
        _, point, kind, *_ = mount.split()
        # spaces in it are written as octal numbers
        kinds[point.replace("\\040", " ")] = kind
    above = [point for point in kinds if place == point or place.startswith(point.rstrip("/") + "/")]
    return bool(above) and kinds[max(above, key=len)] in LOCAL


def _make_tables(path: Path) -> None:
    from mlflow import MlflowClient

    MlflowClient(f"{PREFIX}{path}").search_experiments(max_results=1)

"""The file of an SQLite store for MLflow: made with all its tables, or not at all."""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from d3tune.errors import UsageError
from d3tune.files import make_new

PREFIX = "sqlite:///"
LOGS = ("-wal", "-shm", "-journal")
MOUNTS = Path("/proc/self/mounts")
# where every process that opens a file is on the same machine, and where it may be on any
LOCAL = frozenset(("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "overlay"))
SHARED = frozenset(("nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "fuse.ceph", "9p", "fuse.sshfs"))
# of a file's header: the version of the format that writes and reads it, which is 2 where there is a log
HEADER, LOGGED = slice(18, 20), b"\x02\x02"


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
    each commit instead of four. SQLite cannot share such a log between machines (https://sqlite.org/wal.html): a store
    that has one, and is opened where it may be shared, goes on without.

    Args:
        uri: of any store; only an SQLite file is made.

    Raises:
        OSError: it cannot be written.
        UsageError: it has a log, may be shared, and is in use.
    """
    path = file_of(uri)
    if path is None or "?" in uri:
        return
    # of a store that was deleted without them: SQLite would take them for the new one's
    logs = [log for end in LOGS if (log := path.with_name(path.name + end)).exists()]
    if path.exists():
        _refuse_shared_log(path)
        return
    for log in logs:
        log.replace(log.with_name(f"{log.name}.left"))
    if make_new(path, _make_tables) and disk(path) in LOCAL:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")


def fold_log(uri: str) -> None:
    """Bring what is in the log of an SQLite store into its file, which then has everything; whoever uses it goes on."""
    path = file_of(uri)
    if path is not None and path.exists():
        # where it is locked, whoever has locked it does this at its end
        with suppress(sqlite3.Error), closing(sqlite3.connect(path, timeout=1.0)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _refuse_shared_log(path: Path) -> None:
    with path.open("rb") as file:
        logged = file.read(HEADER.stop)[HEADER] == LOGGED
    if not logged or disk(path) not in SHARED:
        return
    try:
        with closing(sqlite3.connect(path, timeout=1.0)) as connection:
            changed = connection.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    except sqlite3.Error:
        changed = False
    if not changed:
        raise UsageError(
            f"{path}: was made on the disk of one machine, is shared now, and is in use; end what uses it, or give "
            "another --tracking-uri"
        )


def disk(path: Path) -> str:
    """The kind of file system that a file is on, as Linux names it; empty where that cannot be told."""
    try:
        mounts = MOUNTS.read_text(encoding="utf-8").splitlines()
        place = os.path.realpath(path)
    except OSError:
        return ""
    kinds: dict[str, str] = {}
    for mount in mounts:
        _, point, kind, *_ = mount.split()
        # spaces in it are written as octal numbers
        kinds[point.replace("\\040", " ")] = kind
    above = [point for point in kinds if place == point or place.startswith(point.rstrip("/") + "/")]
    return kinds[max(above, key=len)] if above else ""


def _make_tables(path: Path) -> None:
    from mlflow import MlflowClient

    MlflowClient(f"{PREFIX}{path}").search_experiments(max_results=1)

"""Who may write to a run directory: one process at a time, and nobody whom its owner did not let in."""

import errno
import fcntl
import json
import os
import platform
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from d3tune.errors import RunError
from d3tune.files import parse_json

LOCK_FILE = "lock"
NAMELESS_SECONDS = 1.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def owned(directory: Path, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Own a run directory until the block ends; the kernel frees it with the process, however that ends.

    The lock file names the owner. Where it still does although nobody holds the lock, that process was killed or the
    machine went down: the directory is taken over.

    Args:
        directory: of the run.
        say: takes one line where it is taken over.

    Raises:
        RunError: another process owns it, or it cannot be written.
    """
    with _opened(directory) as file:
        _lock(file, directory)
        dead = _owner(file)
        if dead and say is not None:
            say(f"taking over {directory} from {_named(dead)}, which ended without closing it")
        try:
            _write(file, json.dumps(_self()))
        except OSError as error:
            # half a name would look like an owner that was killed
            _write(file, "")
            raise RunError(f"{directory}: cannot be written: {error.strerror}; mend that, then resume") from None
        try:
            yield
        finally:
            _write(file, "")


def is_owned(directory: Path) -> bool:
    """Whether a live process owns a run directory."""
    try:
        with (directory / LOCK_FILE).open("r", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def refuse_owned(directory: Path) -> None:
    """Refuse a run directory that another process owns; nothing is written.

    Raises:
        RunError: one does.
    """
    try:
        file = (directory / LOCK_FILE).open("r", encoding="utf-8")
    except OSError:
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"{directory}: in use by {_named(_owner(file))}; wait for it, or stop it first") from None


def was_cut_off(directory: Path) -> bool:
    """Whether the last owner of a run directory ended without closing it, and nobody has taken it over."""
    if is_owned(directory):
        return False
    try:
        with (directory / LOCK_FILE).open("r", encoding="utf-8") as file:
            return bool(_owner(file))
    except OSError:
        return False


def refuse_shared(directory: Path) -> None:
    """Refuse a run directory that others may have written, or that leads elsewhere: it decides what is run and written.

    Raises:
        RunError: another user owns it, everyone can write to it, or there are links in it.
    """
    try:
        status = directory.stat()
    except OSError as error:
        raise RunError(f"{directory}: cannot be read: {error.strerror}") from None
    if status.st_uid != os.geteuid():
        raise RunError(
            f"{directory}: belongs to user {status.st_uid}, not to you ({os.geteuid()}); copy it, or change its owner"
        )
    if status.st_mode & stat.S_IWOTH:
        raise RunError(f"{directory}: everyone can write to it; first: chmod o-w {directory}")
    for part in (directory, *(directory / name for name in ("trials", "confirm", "scores"))):
        links = [item for item in (part.iterdir() if part.is_dir() else ()) if item.is_symlink()]
        if links:
            raise RunError(f"{links[0]}: is a link, and what it leads to would be written; put the file itself there")


def _lock(file: IO[str], directory: Path) -> None:
    """Take the lock, or say who has it; between taking or freeing it and writing so, an owner has no name."""
    end = time.monotonic() + NAMELESS_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise RunError(f"{directory}: this file system has no locks: {error.strerror}") from None
        owner = _owner(file)
        if "host" in owner or time.monotonic() > end:
            raise RunError(f"{directory}: in use by {_named(owner)}; wait for it, or stop it first")
        time.sleep(0.02)


def _opened(directory: Path) -> IO[str]:
    try:
        return (directory / LOCK_FILE).open("a+", encoding="utf-8")
    except OSError as error:
        raise RunError(f"{directory}: cannot be written: {error.strerror}") from None


def _self() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "boot": _boot_id(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _owner(file: IO[str]) -> dict[str, Any]:
    """What the last owner wrote; empty where it closed the directory."""
    file.seek(0)
    try:
        owner = parse_json(file.read() or "{}")
    except ValueError:
        return {"pid": "?"}
    return owner if isinstance(owner, dict) else {"pid": "?"}


def _named(owner: dict[str, Any]) -> str:
    if not owner:
        return "another process"
    place = f" on {owner['host']}" if owner.get("host") else ""
    restarted = " (before a restart)" if owner.get("boot") not in ("", None, _boot_id()) else ""
    since = f" since {owner['since']}" if owner.get("since") else ""
    return f"process {owner.get('pid', '?')}{place}{since}{restarted}"


def _write(file: IO[str], text: str) -> None:
    # past the file's buffer, which would be written again when it is closed; it is open for appending
    os.ftruncate(file.fileno(), 0)
    left = text.encode()
    while left:
        left = left[os.write(file.fileno(), left) :]

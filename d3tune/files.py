"""Where d3tune keeps things, and how it writes them so that nothing is ever half written."""

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from d3tune.errors import D3TuneError, UsageError

# how the names of files begin that only try whether a directory can be written
PROBE = ".d3tune-"
HOME_ADVICE = "set D3TUNE_HOME to a folder you can write"


def home() -> Path:
    """The folder for prepared datasets, runs and the MLflow store: ``$D3TUNE_HOME``, else ``~/.d3tune``.

    Raises:
        D3TuneError: it cannot be created or written.
    """
    return writable_directory(home_path(), HOME_ADVICE)


def home_path() -> Path:
    """Where `home` is or would be; nothing is made."""
    return Path(os.environ.get("D3TUNE_HOME") or "~/.d3tune").expanduser().absolute()


def writable_directory(path: Path, advice: str) -> Path:
    """Create a directory where it is missing and make sure that files can be written in it.

    Raises:
        D3TuneError: it cannot; the message ends with ``advice``.
    """
    probe = path / f"{PROBE}{secrets.token_hex(6)}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise D3TuneError(f"cannot write in {path}: {error.strerror}; {advice}") from None
    return path


def check_writable(path: Path, advice: str) -> None:
    """Refuse a directory that `writable_directory` would refuse, as far as that shows without writing.

    Raises:
        D3TuneError: it could not be made or written; the message ends with ``advice``.
    """
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = os.strerror(errno.EACCES if there.is_dir() else errno.ENOTDIR)
        raise D3TuneError(f"cannot write in {path}: {reason}; {advice}")


def writable_file(path: Path, advice: str) -> Path:
    """Make sure that a file can be written, before the work is done that it shall hold.

    Raises:
        UsageError: it is a folder, or its folder is missing or cannot be written; the message ends with ``advice``.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; {advice}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: its folder does not exist; {advice}")
    writable_directory(path.absolute().parent, advice)
    return path


def slug(name: str) -> str:
    """A name safe for one path component and for MLflow: letters, digits, ``. _ -``; ``hanzi/1`` → ``hanzi-1``."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")
    return cleaned or "unnamed"


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, sync it, and rename it into place.

    A reader sees the old content or the new, never a part, also after a power cut.

    Raises:
        OSError: it cannot; it names ``path``.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        write(temporary)
        sync(temporary)
        temporary.replace(path)
    except OSError as error:
        raise _of(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary folder beside ``path`` and put it in the place of what is there.

    A reader sees the old folder, the new one, or for a moment none, but never a part of one.

    Raises:
        OSError: it cannot; it names ``path``.
    """
    for left in path.parent.glob(f".{path.name}.*"):
        if re.fullmatch(r"[0-9a-f]{12}(\.old)?", left.name.removeprefix(f".{path.name}.")):
            # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
    token = secrets.token_hex(6)
    temporary, old = (path.with_name(f".{path.name}.{token}{end}") for end in ("", ".old"))
    try:
        temporary.mkdir(parents=True)
        write(temporary)
        for file in [*temporary.iterdir(), temporary]:
            sync(file)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    except OSError as error:
        raise _of(path, error) from None
    finally:
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)
    sync(path.parent)


def write_text(path: Path, text: str, private: bool = False) -> None:
    """Write a UTF-8 text file atomically.

    Args:
        path: of the file.
        text: its content.
        private: whether only its owner may read it, as what may hold a password.
    """

    def write(temporary: Path) -> None:
        if private:
            temporary.touch(mode=0o600)
        _write_utf8(temporary, text)

    write_atomically(path, write)


def make_new(path: Path, write: Callable[[Path], None]) -> bool:
    """Let ``write`` fill a file that nobody has made yet, whole or not at all.

    Returns:
        False where the file is there already; it is then left as it is.

    Raises:
        OSError: it cannot; it names ``path``.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        write(temporary)
        sync(temporary)
        _link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        raise _of(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)
    return True


def _link(temporary: Path, path: Path) -> None:
    """Give a whole file its name unless somebody has it, also where the file system knows no hard links."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        # whoever makes the empty file is the one who fills it
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        temporary.replace(path)


def write_new(path: Path, text: str) -> bool:
    """Write a UTF-8 text file that nobody has written yet; see `make_new`."""
    return make_new(path, lambda temporary: _write_utf8(temporary, text))


def parse_json(text: str | bytes) -> Any:
    """A JSON text as plain values.

    Raises:
        ValueError: it is none, or nested too deeply to be one of ours.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def write_json(path: Path, value: Any, private: bool = False) -> None:
    """Write a JSON file atomically; NaN and infinity are refused, since JSON has none. See `write_text`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", private)


def sync(path: Path) -> None:
    """Flush a file or a directory entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _of(path: Path, error: OSError) -> OSError:
    """The same error of the file that was meant: a full disk names none, and the temporary one says nothing."""
    return error if error.errno is None else OSError(error.errno, error.strerror, str(path))


def _write_utf8(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")

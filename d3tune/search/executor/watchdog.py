"""A watchdog in a worker process: a trial that hangs ends its process, and its successor says so."""

import faulthandler
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import d3tune
from d3tune.errors import RunError

HUNG_FILE = "hung.txt"


@contextmanager
def watched(directory: Path, timeout: float | None) -> Iterator[None]:
    """End this process where the block takes longer than a time, leaving word in the trial's directory.

    The timer is a thread of the interpreter's own in C: it fires also where Python code is stuck in an extension.

    Args:
        directory: of the trial.
        timeout: seconds; None for no limit.

    Raises:
        RunError: the directory cannot be written.
    """
    if timeout is None:
        yield
        return
    path = directory / HUNG_FILE
    try:
        directory.mkdir(parents=True, exist_ok=True)
        opened = path.open("w", encoding="utf-8")
    except OSError as error:
        # the disk's fault, not the trial's
        raise RunError(f"{path}: cannot be written: {error.strerror}; mend that, then resume") from None
    with opened as file:
        faulthandler.dump_traceback_later(timeout, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
    path.unlink(missing_ok=True)


def found(directory: Path, timeout: float | None) -> str | None:
    """What a process that was ended as hung left word of; the word is removed.

    Args:
        directory: of the trial.
        timeout: seconds that it was given.

    Returns:
        One line on where it hung, or None.
    """
    path = directory / HUNG_FILE
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    path.unlink(missing_ok=True)
    if not text.strip():
        # the process was killed for another reason
        return None
    limit = "the time limit" if timeout is None else f"{timeout:g} s"
    place = _place(text)
    return f"hung: no report within {limit}" + (f"; it was at {place}" if place else "")


def _place(traceback: str) -> str:
    """The innermost frame of the thread that trains, e.g. ``d3tune/method/gan.py line 3 in loss``."""
    threads = traceback.split("\n\n")
    training = next((text for text in threads if "in next_report" in text or "in _begin" in text), threads[0])
    frames = [line.strip() for line in training.splitlines() if line.strip().startswith("File ")]
    if not frames:
        return ""
    quoted = frames[0].split('"')
    return frames[0] if len(quoted) < 3 else f"{_named(Path(quoted[1]))}{quoted[2].replace(', ', ' ', 1)}"


def _named(path: Path) -> Path:
    """A source file as its package has it: relative to where it was imported from, else to the user's folder."""
    roots = [Path(d3tune.__file__).parents[1], *(Path(entry) for entry in sys.path if entry), Path.home()]
    below = [path.relative_to(root) for root in roots if path.is_relative_to(root)]
    return min(below, key=lambda relative: len(relative.parts), default=path)

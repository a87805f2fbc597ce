"""The study's journal file: one writer, batches that are on disk whole or not at all, damage found and named."""

import json
import os
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from d3tune.errors import RunError
from d3tune.files import parse_json

# the operations of Optuna's journal (JournalOperation) that recovery and replay tell apart
CREATE_TRIAL, SET_PARAM, SET_STATE, SET_USER_ATTR = 4, 5, 6, 8
RUNNING, WAITING = 0, 4
CONFIG_ATTR = "config"
# every line of a batch but its last has this key: a batch whose last line is missing is no batch
MORE = "more"
# the place of a line in the file, from 0: one that is missing before it is noticed
LINE = "line"
# how a line ends that was written here: with the checksum of what is before it
CHECK = b',"crc32":"'

Log = dict[str, Any]


class Journal(BaseJournalBackend):
    """A journal that one process writes and any process reads.

    There is no lock file, which would outlive a killed process: the run directory has an owner (`RunDirectory.owned`).

    Attributes:
        path: of the file.
        broken: why nothing more can be appended; empty where all is well.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or create an empty one.

        Args:
            path: of the journal.
        """
        self.path = path
        self._ends = [0]
        self._pending: list[Log] | None = None
        self.broken = ""
        self._lock = threading.RLock()
        if not path.exists():
            path.touch()

    def read_logs(self, log_number_from: int) -> Iterable[Log]:
        """See `BaseJournalBackend.read_logs`; what a batch holds back is read too."""
        with self._lock:
            logs = self._stored(log_number_from)
            if self._pending:
                logs += self._pending[max(0, log_number_from - (len(self._ends) - 1)) :]
        return logs

    def append_logs(self, logs: list[Log]) -> None:
        """See `BaseJournalBackend.append_logs`.

        Raises:
            RunError: the file cannot be written; it is as it was before.
        """
        with self._lock:
            if self.broken:
                raise RunError(self.broken)
            if self._pending is None:
                self._write(logs)
            else:
                self._pending += logs

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Hold back what is appended and write it at the end in one piece.

        Raises:
            RunError: the file cannot be written; it is as it was before, and nothing more can be appended.
        """
        with self._lock:
            assert self._pending is None, "batches do not nest"
            self._pending = []
        try:
            yield
            with self._lock:
                self._write(self._pending)
        except BaseException as error:
            # the study in memory has what the file has not: it must not go on from there
            self.broken = str(error) or f"{self.path}: the study was left in the middle of a change"
            raise
        finally:
            self._pending = None

    def _stored(self, start: int) -> list[Log]:
        self._find_new_lines()
        first = min(start, len(self._ends) - 1)
        begin, end = self._ends[first], self._ends[-1]
        if begin == end:
            return []
        with self.path.open("rb") as file:
            file.seek(begin)
            content = file.read(end - begin)
        return [_placed(line, number) for number, line in enumerate(content.splitlines(), first)]

    def _find_new_lines(self) -> None:
        # Optuna asks dozens of times a trial, and most often nobody has written since
        if self.path.stat().st_size == self._ends[-1]:
            return
        with self.path.open("rb") as file:
            file.seek(self._ends[-1])
            for line in file:
                if line.endswith(b"\n"):
                    self._ends.append(self._ends[-1] + len(line))

    def _write(self, logs: list[Log]) -> None:
        if not logs:
            return
        marked = [*({**log, MORE: True} for log in logs[:-1]), logs[-1]]
        first = len(self._ends) - 1
        lines = [_line({**log, LINE: number}) for number, log in enumerate(marked, first)]
        size = self._ends[-1]
        try:
            with self.path.open("ab") as file:
                size = file.tell()
                file.write(b"".join(lines))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            _truncate(self.path, size)
            raise RunError(
                f"{self.path}: cannot be written: {error.strerror}; nothing is lost: mend that, then resume"
            ) from None
        self._find_new_lines()


def mend(path: Path) -> str | None:
    """Cut off what a killed process left unfinished: a part of a line or of a batch, a trial not wholly suggested.

    Args:
        path: of a journal whose owner is the caller.

    Returns:
        What was cut off, or None.

    Raises:
        RunError: a line in the middle is damaged.
    """
    keep, what = _whole(path)
    if what is not None:
        _truncate(path, keep)
    return what


def unfinished(path: Path) -> str | None:
    """What `mend` would cut off, or None, also where the journal cannot be read."""
    try:
        return _whole(path)[1]
    except (OSError, ValueError):
        return None


def _whole(path: Path) -> tuple[int, str | None]:
    """How many bytes of a journal are whole, and what follows them."""
    if not path.exists():
        return 0, None
    with path.open("rb") as file:
        content = file.read()
    keep = content.rfind(b"\n") + 1
    for number, line in enumerate(content[:keep].splitlines()):
        # before anything is cut
        _placed(line, number)
    what = "half a line" if keep < len(content) else None
    begun = _unfinished_batch(content[:keep])
    if begun is not None:
        keep, what = begun, "an entry that was not wholly written"
    begun = _unfinished_suggestion(content[:keep])
    if begun is not None:
        keep, what = begun, "a trial that was not wholly suggested"
    return keep, what


def _unfinished_batch(content: bytes) -> int | None:
    """Where the batch begins whose last line is missing; None where there is none such."""
    begin = len(content)
    for line in reversed(content.splitlines(keepends=True)):
        if MORE not in _parsed(line):
            break
        begin -= len(line)
    return begin if begin < len(content) else None


def _unfinished_suggestion(content: bytes) -> int | None:
    """Where the last trial's suggestion begins, if it has neither a configuration nor an end; else None."""
    position, begun, trial, created = 0, None, -1, -1
    for line in content.splitlines(keepends=True):
        log = _parsed(line)
        operation = log.get("op_code")
        if operation == CREATE_TRIAL:
            created += 1
            if log.get("state", RUNNING) == RUNNING:
                begun, trial = position, created
        elif operation == SET_STATE and log.get("state") == RUNNING:
            begun, trial = position, int(log.get("trial_id", -1))
        elif log.get("trial_id") == trial and (
            operation == SET_STATE or (operation == SET_USER_ATTR and CONFIG_ATTR in log.get("user_attr", {}))
        ):
            begun, trial = None, -1
        position += len(line)
    return begun


def _line(log: Log) -> bytes:
    body = json.dumps(log, separators=(",", ":")).encode().removesuffix(b"}")
    return body + CHECK + f'{zlib.crc32(body):08x}"}}\n'.encode()


def _parsed(line: bytes) -> Log:
    """A line as a log; one that Optuna or an editor wrote has no checksum.

    Raises:
        ValueError: it is not one, or not what was written.
    """
    log = parse_json(line)
    body, checked, _ = line.rpartition(CHECK)
    if checked and log["crc32"] != f"{zlib.crc32(body):08x}":
        raise ValueError(f"a changed entry: {line[:60]!r}")
    if not isinstance(log, dict) or not isinstance(log.get("op_code"), int):
        raise ValueError(f"not a journal entry: {line[:60]!r}")
    return log


def _placed(line: bytes, number: int) -> Log:
    """A line that stands where it was written; one of an earlier version does not say where that is.

    Raises:
        ValueError: it does not, or is not what was written.
    """
    try:
        log = _parsed(line)
    except ValueError:
        raise ValueError(f"line {number + 1} is not what was written") from None
    if log.get(LINE, number) != number:
        raise ValueError(f"lines are missing before line {number + 1}")
    return log


def _truncate(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)
        os.fsync(file.fileno())

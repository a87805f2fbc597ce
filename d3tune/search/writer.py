"""Trials that are over are written to MLflow by a process of its own, while the search's goes on with the others.

MLflow's client takes some 35 ms of Python for a trial, in which nothing else of its process runs. Requests and answers
are lines of JSON on pipes. The process ends with the pipe that it reads, in the middle of a write too: what it leaves
in part is found by whoever comes next, as what a killed search leaves is.
"""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING

from d3tune.errors import root_cause
from d3tune.search.batches import log_run

if TYPE_CHECKING:
    from mlflow import MlflowClient

# a server's clients cost it more than they cost here
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


@dataclass(frozen=True)
class Part:
    """What MLflow gets of a trial at once.

    Attributes:
        run_id: of its run; None where that is to be made.
        experiment: the id of its experiment.
        name, tags: that its run is made with.
        began, ended: milliseconds; None is now.
        rows: metrics as name, value and step.
        params: its configuration.
        further: tags that its run gets.
        status: of a trial that is over; None of one that runs.
    """

    run_id: str | None
    experiment: str
    name: str
    tags: dict[str, str]
    began: int | None
    ended: int | None
    rows: list[tuple[str, float, int]]
    params: dict[str, str]
    further: dict[str, str]
    status: str | None


def write(client: "MlflowClient", part: Part) -> str:
    """Write it; the id of the trial's run."""
    run_id = part.run_id
    if run_id is None:
        run_id = str(client.create_run(part.experiment, part.began, part.tags, part.name).info.run_id)
    log_run(client, run_id, part.rows, part.params, part.further)
    if part.status is not None:
        # last: a later process takes a run with the tag and this status for finished
        client.set_terminated(run_id, part.status, part.ended)
    return run_id


class WriterEndedError(Exception):
    """The process that writes is no more, or never came to be."""


class Writer:
    """A process that writes trials; one thread at a time uses it."""

    def __init__(self, uri: str) -> None:
        """Start it, and wait until it has opened the store.

        Args:
            uri: the store, whose tables are there.

        Raises:
            WriterEndedError: it cannot be started, or not open the store, which may have no room for another.
        """
        pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
        try:
            # what lies in the working folder is none of its modules; a session of its own: Ctrl-C is handled here
            self._process = subprocess.Popen(  # noqa: S603 - fixed arguments
                [sys.executable, "-P", "-m", __name__],
                stdin=pipe,
                stdout=pipe,
                stderr=quiet,
                text=True,
                encoding="utf-8",
                start_new_session=True,
            )
        except OSError as error:
            raise WriterEndedError(root_cause(error)) from error
        # not among the arguments, which everyone on the machine may read: it may hold a password
        try:
            self._ask(uri)
        except Exception as error:
            self.close()
            raise WriterEndedError(root_cause(error)) from error

    def write(self, part: Part) -> str:
        """See `write`.

        Raises:
            ConnectionError: the store did not take it.
            WriterEndedError: the process has ended.
        """
        return str(self._ask(asdict(part)))

    def close(self) -> None:
        """End it, in the middle of a write too."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            # what it did not read is not written any more
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        self._process.wait()

    def _ask(self, what: object) -> object:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(f"{json.dumps(what)}\n")
            stdin.flush()
            answer = stdout.readline()
        except (OSError, ValueError) as error:
            raise WriterEndedError("the process that writes trials has ended") from error
        if not answer.endswith("\n"):
            raise WriterEndedError("the process that writes trials has ended")
        found, refused = json.loads(answer)
        if refused is not None:
            raise ConnectionError(refused)
        return found


def of_use(uri: str) -> bool:
    """Whether a writer is: of a database, and where another core can run it."""
    return uri.startswith(DATABASES) and (os.cpu_count() or 1) > 1


def main() -> None:
    """Write what is asked for, until nobody asks any more."""
    lines: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin, lines), daemon=True).start()
    answers = sys.stdout
    # a library that prints must not answer
    sys.stdout = sys.stderr
    logging.disable(logging.CRITICAL)
    client: MlflowClient | None = None
    while True:
        asked, found, said = json.loads(lines.get()), None, None
        try:
            if client is None:
                client = _client(asked)
            else:
                found = write(client, Part(**asked))
        except Exception as error:
            said = root_cause(error)
        answers.write(f"{json.dumps([found, said])}\n")
        answers.flush()


def _client(uri: str) -> "MlflowClient":
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    client.search_experiments(max_results=1)
    return client


def _read(source: Iterable[str], lines: "SimpleQueue[str]") -> None:
    for line in source:
        lines.put(line)
    # whoever asked is gone: a write that went on might meet a successor's
    os._exit(0)


if __name__ == "__main__":
    main()

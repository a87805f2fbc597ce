"""The stores of `benchmarks.tracking`, SQLite or PostgreSQL, with an MLflow server in front or without; their calls."""

import logging
import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

READS = ("get_", "search_", "list_")
WRITES = ("create_", "update_", "delete_", "restore_", "rename_", "log_", "set_", "record_")
SERVER_SECONDS = 120.0
# of a value: trial, metric, step
Key = tuple[int, str, int]


class Calls:
    """Counts calls of MLflow's tracking stores, the outermost of nested ones.

    Attributes:
        by_name: calls by method.
    """

    def __init__(self) -> None:
        self.by_name: Counter[str] = Counter()
        self._within = threading.local()

    @property
    def reads(self) -> int:
        """Calls that change nothing."""
        return sum(count for name, count in self.by_name.items() if name.startswith(READS))

    @property
    def writes(self) -> int:
        """Calls that write."""
        return self.by_name.total() - self.reads

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what is called inside, from any thread."""
        from mlflow.store.tracking.abstract_store import AbstractStore
        from mlflow.store.tracking.rest_store import RestStore
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        with ExitStack() as stack:
            for store in (SqlAlchemyStore, RestStore):
                for name in dir(AbstractStore):
                    if name.startswith(READS + WRITES):
                        original = getattr(store, name)
                        stack.callback(setattr, store, name, original)
                        setattr(store, name, self._counting(name, original))
            yield

    def _counting(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def counting(*args: Any, **options: Any) -> Any:
            if getattr(self._within, "a_call", False):
                return original(*args, **options)
            self.by_name[name] += 1
            self._within.a_call = True
            try:
                return original(*args, **options)
            finally:
                self._within.a_call = False

        return counting


class Store:
    """An MLflow store in a database; with a server in front of it where one is wanted, until `close`.

    Attributes:
        uri: to track to.
    """

    def __init__(self, database: str, log: Path, served: bool = False) -> None:
        """Start the server.

        Args:
            database: its URL, as SQLAlchemy and MLflow take it.
            log: the file for what the server says.
            served: whether there is one.

        Raises:
            RuntimeError: it does not answer.
        """
        self._database = database
        self._server: subprocess.Popen[bytes] | None = None
        self.uri = database
        if served:
            self.uri, self._server = _serve(database, log)

    def prepare(self) -> None:
        """Create the tables."""
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        MlflowClient(self.uri).search_experiments()

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            _end(self._server)

    def server_cpu(self) -> float:
        """CPU seconds of the server's processes so far; 0 without a server, NaN where it cannot be told."""
        if self._server is None:
            return 0.0
        ticks, found = 0, False
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                # from the third field on: state, parent, group, session …
                fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self._server.pid:
                ticks, found = ticks + int(fields[11]) + int(fields[12]), True
        return ticks / os.sysconf("SC_CLK_TCK") if found else math.nan

    def values(self, tag: str) -> dict[Key, float]:
        """Every value of the runs whose trial's number is in a tag.

        Raises:
            RuntimeError: one is there twice.
        """
        query = "SELECT t.value, m.key, m.step, m.value FROM metrics m JOIN tags t USING (run_uuid) WHERE t.key = :tag"
        rows = self._read(query, tag=tag)
        values = {(int(number), key, step): value for number, key, step, value in rows}
        if len(values) != len(rows):
            raise RuntimeError(f"{self.uri}: {len(rows) - len(values)} values are there twice")
        return values

    def open_runs(self) -> int:
        """How many runs are not closed."""
        return int(self._read("SELECT count(*) FROM runs WHERE status = 'RUNNING'")[0][0])

    def _read(self, query: str, **values: str) -> list[Any]:
        import sqlalchemy

        engine = sqlalchemy.create_engine(self._database)
        try:
            with engine.connect() as connection:
                return list(connection.execute(sqlalchemy.text(query), values))
        finally:
            engine.dispose()


@contextmanager
def new_databases(server: str) -> Iterator[Callable[[], str]]:
    """Gives addresses of new, empty databases, which are dropped at the end.

    Args:
        server: a PostgreSQL without a database, e.g. ``postgresql+psycopg://me@127.0.0.1:5432``.
    """
    import sqlalchemy

    engine = sqlalchemy.create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
    made: list[str] = []

    def another() -> str:
        name = f"d3tune_tracking_{secrets.token_hex(4)}"
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
        made.append(name)
        return f"{server}/{name}"

    try:
        yield another
    finally:
        with engine.connect() as connection:
            for name in made:
                connection.execute(sqlalchemy.text(f"DROP DATABASE {name} WITH (FORCE)"))
        engine.dispose()


def _serve(backend: str, log: Path) -> tuple[str, subprocess.Popen[bytes]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", backend]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with log.open("wb") as file:
        server = subprocess.Popen(  # noqa: S603 - our own interpreter, fixed arguments
            command, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        _await(uri, server, log)
    except BaseException:
        _end(server)
        raise
    return uri, server


def _await(uri: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + SERVER_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=5).close()  # noqa: S310 - a server of our own
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
        else:
            return
    last = log.read_text(encoding="utf-8", errors="replace")[-500:]
    raise RuntimeError(f"the MLflow server does not answer: {last}")


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server and its workers: the session that it leads."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
            server.wait(10)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
        return

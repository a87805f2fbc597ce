"""The MLflow pages: served on the loopback interface, or those of a server that is there, opened at the right place."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from d3tune.errors import D3TuneError, UsageError
from d3tune.files import home
from d3tune.results.browser import open_page
from d3tune.results.pages import address_of, pages
from d3tune.results.store import store_fault
from d3tune.search.mlflow_file import create_store, file_of
from d3tune.search.run import open_run
from d3tune.search.tracking import store_uri
from d3tune.words import FIRST_SEARCH

HOST = "127.0.0.1"
# MLflow imports for half a minute where the machine is busy
PATIENCE, END_PATIENCE, POLL_SECONDS = 180.0, 10.0, 0.2
ENVIRONMENT = {
    # without its job runner the server is two processes instead of ten
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
Say = Callable[[str], None]


def show(run: str | None, port: int, tracking_uri: str | None, browser: bool, put: Say, say: Say) -> None:
    """Show the pages of a store, and serve them until Ctrl-C where the store is no server.

    Args:
        run: whose trials to show first; None is the search that began last.
        port: to listen on.
        tracking_uri: the store; None takes the run's, ``$MLFLOW_TRACKING_URI``, else the one in ``$D3TUNE_HOME``.
        browser: whether to open a page where a browser can be shown.
        put: takes the addresses, once something answers there.
        say: takes one line an event.

    Raises:
        UsageError: the URI is wrong, names a file that no search has made yet, or there is no such run.
        D3TuneError: the port is taken, or no server answers.
        KeyboardInterrupt: Ctrl-C, once every process of the server has ended.
    """
    opened = None if run is None else open_run(run)
    uri = store_uri(tracking_uri or (None if opened is None else opened.read_plan().get("tracking_uri")))
    uid = None if opened is None else opened.uid
    if uri.startswith("http"):
        _show(uri, uid, browser, put)
        return
    if uri.startswith("databricks"):
        raise UsageError(f"{uri}: Databricks serves its own pages")
    _check_store(uri)
    _check_port(port)
    _reach_directly()
    with _stopped_by_signals(), _server(uri, port) as server:
        _show(f"http://{HOST}:{port}", uid, browser, put)
        say("serving this machine alone; Ctrl-C ends it")
        code = server.wait()
    raise D3TuneError(f"MLflow's server ended with code {code}")


def _show(uri: str, uid: str | None, browser: bool, put: Say) -> None:
    found = pages(uri, uid)
    for name, link in found:
        put(f"{name}: {address_of(uri)}/{link}")
    # this goes on, and what reads the addresses shall not wait for its end
    sys.stdout.flush()
    if browser:
        open_page(f"{address_of(uri)}/{found[0][1]}")


@contextmanager
def _server(uri: str, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """MLflow's server of a store, once it answers; its processes are a session of their own and end together."""
    try:
        create_store(uri)
    except OSError as error:
        raise D3TuneError(f"{error.filename}: {error.strerror}") from None
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    # never an argument: every user of the machine can read those, and the URI may have a password
    environment = {**os.environ, **ENVIRONMENT, "MLFLOW_BACKEND_STORE_URI": uri}
    # else in the folder that the command was given in
    environment["MLFLOW_ARTIFACTS_DESTINATION"] = (home() / "mlflow-artifacts").as_uri()
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(  # noqa: S603 - our own interpreter, fixed arguments
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            if not _answers(server, port):
                raise D3TuneError(f"MLflow's server does not start: {_last_line(log.fileno())}")
            yield server
        finally:
            _end(server)


def _reach_directly() -> None:
    """Let MLflow's client in this process ask the server here, where the environment names a proxy."""
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), HOST]))


def _check_store(uri: str) -> None:
    """The server would make an empty store, or start on one that it cannot read and show an error on each page."""
    file = file_of(uri)
    if file is not None and not file.exists():
        raise UsageError(f"{uri}: there is no MLflow store yet, start with: {FIRST_SEARCH}")
    fault = store_fault(uri)
    if fault is not None:
        raise D3TuneError(f"{uri}: {fault}")


def _answers(server: "subprocess.Popen[bytes]", port: int) -> bool:
    end = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < end:
        with suppress(urllib.error.URLError, OSError):
            # not by way of a proxy, which would look for the server on its own machine
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            opener.open(f"http://{HOST}:{port}/health", timeout=5).close()
            return server.poll() is None
        time.sleep(POLL_SECONDS)
    return False


def _end(server: "subprocess.Popen[bytes]") -> None:
    """End the server and all that it started: the session that it leads."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        end = time.monotonic() + END_PATIENCE
        while _session_lives(server) and time.monotonic() < end:
            time.sleep(0.05)


def _session_lives(server: "subprocess.Popen[bytes]") -> bool:
    server.poll()
    try:
        os.killpg(server.pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end this as Ctrl-C does, so that no server is left behind."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _last_line(descriptor: int) -> str:
    text = os.pread(descriptor, 1 << 16, max(0, os.fstat(descriptor).st_size - (1 << 16)))
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1].strip()[:200] if lines else f"no answer within {PATIENCE:g} s"


def _check_port(port: int) -> None:
    """The server itself would say it in a traceback's words and exit with 0."""
    with socket.socket() as probe:
        if os.name == "posix":
            # like the server: connections that linger from the one before do not count
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise D3TuneError(f"port {port} on {HOST}: {error.strerror}; give another --port") from None

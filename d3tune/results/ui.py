"""Serving the MLflow pages on the loopback interface."""

import os
import socket
import sys
from pathlib import Path
from typing import NoReturn

from d3tune.errors import D3TuneError, UsageError
from d3tune.search.tracking import store_uri
from d3tune.words import FIRST_SEARCH


def serve(port: int, tracking_uri: str | None) -> NoReturn:
    """Replace this process by MLflow's server, bound to 127.0.0.1.

    Args:
        port: to listen on.
        tracking_uri: the store; None takes ``$MLFLOW_TRACKING_URI``, else the one in ``$D3TUNE_HOME``.

    Raises:
        UsageError: the URI is wrong, or names a file that no search has made yet.
        D3TuneError: the port is taken.
    """
    uri = store_uri(tracking_uri)
    if uri.startswith("http"):
        raise UsageError(f"{uri} is a server already; open it in a browser")
    _check_store(uri)
    _check_port(port)
    environment = {
        **os.environ,
        # without its job runner the server is two processes instead of ten
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    os.execve(sys.executable, command, environment)  # noqa: S606 - our own interpreter, fixed arguments


def _check_store(uri: str) -> None:
    """The server would make an empty store and show nothing."""
    kind, _, file = uri.partition(":///")
    if kind.startswith("sqlite") and not Path(file.partition("?")[0]).exists():
        raise UsageError(f"{uri}: there is no MLflow store yet, start with: {FIRST_SEARCH}")


def _check_port(port: int) -> None:
    """The server itself would say it in a traceback's words and exit with 0."""
    with socket.socket() as probe:
        if os.name == "posix":
            # like the server: connections that linger from the one before do not count
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise D3TuneError(f"port {port} on 127.0.0.1: {error.strerror}; give another --port") from None

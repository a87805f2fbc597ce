"""Serving the MLflow pages on the loopback interface."""

import os
import sys
from typing import NoReturn

from d3tune.errors import UsageError
from d3tune.search.tracking import store_uri


def serve(port: int, tracking_uri: str | None) -> NoReturn:
    """Replace this process by MLflow's server, bound to 127.0.0.1.

    Args:
        port: to listen on.
        tracking_uri: the store; None takes ``$MLFLOW_TRACKING_URI``, else the one in ``$D3TUNE_HOME``.

    Raises:
        UsageError: the URI is wrong.
    """
    uri = store_uri(tracking_uri)
    if uri.startswith("http"):
        raise UsageError(f"{uri} is a server already; open it in a browser")
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

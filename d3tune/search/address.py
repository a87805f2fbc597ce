"""Whether a Ray cluster answers at an address, asked before anything is written: Ray itself retries for minutes."""

import socket

from d3tune.errors import UsageError

SECONDS = 5.0


def check_address(address: str | None) -> None:
    """Refuse an address at which nothing listens; ``auto`` and the like are Ray's to find.

    Raises:
        UsageError: the port is missing or no number, the host is unknown, or nothing answers.
    """
    if address is None or ":" not in address.removeprefix("ray://"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"--address {address}: write it as HOST:PORT, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"--address {address}: no Ray cluster answers there: {reason}; start one, or leave it out"
        ) from None

"""Whether a Ray cluster answers at an address, asked before anything is written: Ray itself retries for minutes."""

import socket

from d3tune.errors import UsageError, meant

SECONDS = 5.0
# what Ray finds itself
FOUND = ("auto",)
# no cluster, but a Ray of the search's own; so that a run can leave its cluster
NONE = ("none", "local")


def named(address: str | None) -> str | None:
    """The address of a cluster, None for none."""
    return None if address in NONE else address


def check_address(address: str | None) -> None:
    """Refuse an address at which nothing listens; ``auto`` is Ray's to find.

    Raises:
        UsageError: the port is missing or no number, the host is unknown, nothing answers, or it is one of Ray's
            client, behind which this machine is no part of the cluster and shares nothing with it.
    """
    if address is None or address in FOUND:
        return
    if address.startswith("ray://"):
        raise UsageError(f"--address {address}: a search runs on a node of its cluster; start it there with auto")
    if ":" not in address:
        raise UsageError(f"--address {address}: write it as HOST:PORT, or auto{meant(address, (*FOUND, *NONE))}")
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"--address {address}: write it as HOST:PORT, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"--address {address}: no Ray cluster answers there: {reason}; start one, or: --address none"
        ) from None

"""Real Ray clusters of several nodes on this machine, with token authentication, for tests; loaded by a fixture."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from d3tune.search.executor.processes import descendants

PATIENCE = 120.0
START = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--block"]
# a node that is killed is missed within seconds
HEALTH = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class Node:
    """One ``ray start`` and all that it started."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        """Start it and wait until it is part of its cluster."""
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._said: list[str] = []
        self._started = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._started.wait(PATIENCE) or not self.up:
            self.end()
            raise AssertionError("".join(self._said))

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.append(line)
            if "Ray runtime started" in line:
                self._started.set()
        self._started.set()

    @property
    def up(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def kill(self, program: str) -> None:
        """Kill -9 of one of its programs, e.g. ``raylet`` or ``gcs_server``."""
        (pid,) = (
            pid for pid, line in descendants(self._process.pid).items() if Path(line.partition(" ")[0]).name == program
        )
        os.kill(pid, signal.SIGKILL)

    def programs(self) -> list[str]:
        """The command lines of all that it started and that runs now."""
        return list(descendants(self._process.pid).values())

    def end(self) -> None:
        """End all of it."""
        below = descendants(self._process.pid)
        for pid in [self._process.pid, *below]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()
        self._reader.join(PATIENCE)
        if self._process.stdout is not None:
            self._process.stdout.close()


class Cluster:
    """A head and nodes, each with an address of this machine's own network.

    Attributes:
        address: what ``--address`` takes.
        environment: what a process needs to join.
    """

    def __init__(self, folder: Path, cpus: int) -> None:
        """Start the head.

        Args:
            folder: for Ray's files; its path is short.
            cpus: of the head.
        """
        self._folder, self._nodes = folder, list[Node]()
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32), encoding="ascii")
        self.environment = {**HEALTH, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        with socket.socket() as free:
            free.bind(("127.0.0.2", 0))
            self.address = f"127.0.0.2:{free.getsockname()[1]}"
        port = self.address.rpartition(":")[2]
        self.head = self._start(
            *("--head", f"--port={port}", "--node-ip-address=127.0.0.2", f"--num-cpus={cpus}"),
            *("--include-dashboard=false", f"--temp-dir={folder}/r"),
        )

    def join(self, cpus: int = 1, before: Sequence[str] = (), **environment: str) -> Node:
        """Start another node.

        Args:
            cpus: of it.
            before: a command that runs it, e.g. within a namespace of its own.
            environment: beside the cluster's.
        """
        ip = f"127.0.0.{len(self._nodes) + 2}"
        return self._start(
            *(f"--address={self.address}", f"--node-ip-address={ip}", f"--num-cpus={cpus}"),
            before=before,
            **environment,
        )

    def end(self) -> None:
        """End every node."""
        for node in reversed(self._nodes):
            node.end()

    def _start(self, *options: str, before: Sequence[str] = (), **environment: str) -> Node:
        command = [*before, *START, *options, "--object-store-memory=100000000", "--disable-usage-stats"]
        node = Node(command, {**os.environ, **self.environment, **environment})
        self._nodes.append(node)
        return node


@contextmanager
def cluster(cpus: int = 1) -> Iterator[Cluster]:
    """A cluster that is ended with the block."""
    # Ray's sockets need a short path
    folder = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))
    try:
        made = Cluster(folder, cpus)
        try:
            yield made
        finally:
            made.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)

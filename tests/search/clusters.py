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


class Loopback:
    """Addresses of this machine alone: every node sees everything that listens on them."""

    head = "127.0.0.2"

    def place(self, index: int) -> tuple[str, list[str]]:
        """Address of the node with an index from 1 on, and the command that runs one there."""
        return f"127.0.0.{index + 2}", []


class Network:
    """A bridge, and for each node a network namespace with one address on it: nodes that reach each other by it alone.

    Attributes:
        head: the bridge's address on this machine, where the head and the search are.
    """

    def __init__(self) -> None:
        """Make the bridge."""
        tag = secrets.token_hex(2)
        self._bridge, self._namespaces = f"d3b{tag}", list[str]()
        # of the block that is set aside for measurements between networks, so that no real address is hidden
        self._net = f"198.18.{secrets.randbelow(255)}"
        self.head = f"{self._net}.1"
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self.head}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")

    def place(self, index: int) -> tuple[str, list[str]]:
        """Address of the node with an index from 1 on, and the command that runs one there."""
        name, address = f"{self._bridge}n{index}", f"{self._net}.{index + 1}"
        _ip("netns", "add", name)
        self._namespaces.append(name)
        _ip("link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", f"{name}v", "master", self._bridge, "up")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")
        return address, ["ip", "netns", "exec", name]

    def cut(self, index: int) -> None:
        """Take a node off the network; it runs on."""
        _ip("link", "set", f"{self._bridge}n{index}v", "down")

    def end(self) -> None:
        """Remove everything."""
        for name in self._namespaces:
            _ip("netns", "del", name)
        _ip("link", "del", self._bridge)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def network() -> Iterator[Network]:
    """A network that is removed with the block."""
    made = Network()
    try:
        yield made
    finally:
        made.end()


class Cluster:
    """A head and nodes, each with an address of its own.

    Attributes:
        address: what ``--address`` takes.
        environment: what a process needs to join.
    """

    def __init__(self, folder: Path, cpus: int, places: Loopback | Network) -> None:
        """Start the head.

        Args:
            folder: for Ray's files; its path is short.
            cpus: of the head.
            places: where nodes are.
        """
        self._places = places
        self._folder, self._nodes = folder, list[Node]()
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32), encoding="ascii")
        self.environment = {**HEALTH, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        with socket.socket() as free:
            free.bind((places.head, 0))
            self.address = f"{places.head}:{free.getsockname()[1]}"
        port = self.address.rpartition(":")[2]
        self.head = self._start(
            *("--head", f"--port={port}", f"--node-ip-address={places.head}", f"--num-cpus={cpus}"),
            *("--include-dashboard=false", f"--temp-dir={folder}/r"),
        )

    def join(self, cpus: int = 1, before: Sequence[str] = (), **environment: str) -> Node:
        """Start another node.

        Args:
            cpus: of it.
            before: a command that runs it, e.g. within a namespace of its own.
            environment: beside the cluster's.
        """
        ip, there = self._places.place(len(self._nodes))
        return self._start(
            *(f"--address={self.address}", f"--node-ip-address={ip}", f"--num-cpus={cpus}"),
            before=[*there, *before],
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
def cluster(cpus: int = 1, places: Loopback | Network | None = None) -> Iterator[Cluster]:
    """A cluster that is ended with the block."""
    # Ray's sockets need a short path
    folder = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))
    try:
        made = Cluster(folder, cpus, places or Loopback())
        try:
            yield made
        finally:
            made.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)

"""A lifeline: a search whose Ray has died ends in seconds, where Ray's own calls would wait for ever."""

import _thread
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence

from d3tune.search.executor import StopSignal
from d3tune.search.executor.processes import alive, descendants, kill, left_of, processes, program

POLL_SECONDS = 0.5
# Ray takes up to ten seconds to close what is left of it
PATIENCE = 20.0
# a head that is started again within this time has its cluster back; Ray itself gives up after a minute
AWAY = 30.0
ANSWER_SECONDS = 2.0


class Lifeline:
    """Watches that without which this process cannot go on: children of its own, or a server elsewhere.

    Where one ends, the search is stopped and the main thread interrupted. A main thread that is stuck in a call that
    cannot be interrupted ends with the process: the study on disk is whole at any time.

    Attributes:
        lost: which one ended; empty while they live.
        stop: of the search that is going on.
    """

    def __init__(self, lost: Callable[[], str], abandon: Callable[[str], None]) -> None:
        """Begin to watch.

        Args:
            lost: names what has ended; empty while all live. See `children` and `server`.
            abandon: called with ``lost`` where the main thread is stuck, before this process is ended.
        """
        self.lost, self.stop = "", StopSignal()
        self._abandon, self._lost = abandon, lost
        self._closing, self._closed = threading.Event(), threading.Event()
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def release(self) -> None:
        """What is watched ends now because it shall; call `close` once it has."""
        self._closing.set()
        self._below = descendants(os.getpid()) if self.lost else {}

    def close(self) -> None:
        """All is over and the main thread was not stuck; ends what lost its parent instead of being told to end."""
        self._closed.set()
        kill(left_of(self._below))

    def _watch(self) -> None:
        while not self._closing.wait(POLL_SECONDS):
            lost = self._lost()
            # unless it ended while the last line was read, because it should
            if lost and not self._closing.is_set():
                self.lost, self.stop.requested = lost, True
                _thread.interrupt_main()
                if not self._closed.wait(PATIENCE):
                    self._abandon(self.lost)
                    os._exit(1)
                return


def children(names: Sequence[str]) -> Callable[[], str]:
    """Watch programs that this process has started.

    Args:
        names: of the programs.
    """
    table = processes()
    below = [pid for pid, (parent, _) in table.items() if parent == os.getpid()]
    vital = {pid: name for pid in below if (name := program(pid)) in names}
    # one that has ended before it could be seen is lost too; without a /proc none can be seen
    missing = [name for name in names if table and name not in vital.values()]
    return lambda: " and ".join([*missing, *(name for pid, name in vital.items() if not alive(pid))])


def server(address: str, what: str) -> Callable[[], str]:
    """Watch a server on another machine, which may be away for `AWAY` seconds.

    Args:
        address: host and port that it listens at.
        what: names it where it is lost.
    """
    host, _, port = address.rpartition(":")
    seen = [time.monotonic()]

    def lost() -> str:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
        except OSError:
            return what if time.monotonic() > seen[0] + AWAY else ""
        seen[0] = time.monotonic()
        # its answer was a connection each time; once in a while is enough
        time.sleep(ANSWER_SECONDS)
        return ""

    return lost

"""A lifeline: a search whose Ray has died ends in seconds, where Ray's own calls would wait for ever."""

import _thread
import os
import threading
from collections.abc import Callable, Sequence

from d3tune.search.executor import StopSignal
from d3tune.search.executor.processes import alive, descendants, kill, left_of, processes, program

POLL_SECONDS = 0.5
# Ray takes up to ten seconds to close what is left of it
PATIENCE = 20.0


class Lifeline:
    """Watches child processes without which this one cannot go on.

    Where one ends, the search is stopped and the main thread interrupted. A main thread that is stuck in a call that
    cannot be interrupted ends with the process: the study on disk is whole at any time.

    Attributes:
        lost: which one ended; empty while they live.
        stop: of the search that is going on.
    """

    def __init__(self, names: Sequence[str], abandon: Callable[[str], None]) -> None:
        """Begin to watch.

        Args:
            names: of the programs, each of which this process has started.
            abandon: called with ``lost`` where the main thread is stuck, before this process is ended.
        """
        self.lost, self.stop = "", StopSignal()
        self._abandon = abandon
        table = processes()
        children = [pid for pid, (parent, _) in table.items() if parent == os.getpid()]
        self._vital = {pid: name for pid in children if (name := program(pid)) in names}
        # one that has ended before it could be seen is lost too; without a /proc none can be seen
        self._missing = [name for name in names if table and name not in self._vital.values()]
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
            lost = " and ".join([*self._missing, *(name for pid, name in self._vital.items() if not alive(pid))])
            # unless it ended while the last line was read, because it should
            if lost and not self._closing.is_set():
                self.lost, self.stop.requested = lost, True
                _thread.interrupt_main()
                if not self._closed.wait(PATIENCE):
                    self._abandon(self.lost)
                    os._exit(1)
                return

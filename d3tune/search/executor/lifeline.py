"""A lifeline: a search whose Ray has died ends in seconds, where Ray's own calls would wait for ever."""

import _thread
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from d3tune.search.executor import StopSignal
from d3tune.search.executor.processes import alive, descendants, left_of, processes

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
            names: of the programs, all of them children of this process or none, and then nothing is watched.
            abandon: called with ``lost`` where the main thread is stuck, before this process is ended.
        """
        self.lost, self.stop = "", StopSignal()
        self._abandon = abandon
        self._vital = {
            pid: name
            for pid, (parent, command) in processes().items()
            for name in names
            if parent == os.getpid() and Path(command.partition(" ")[0]).name == name
        }
        # one that has ended before it could be seen is lost too
        self._missing = set(names) - set(self._vital.values()) if self._vital else set()
        self._closing, self._closed = threading.Event(), threading.Event()
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def release(self) -> None:
        """What is watched ends now because it shall; call `close` once it has."""
        self._closing.set()
        self._below = descendants(os.getpid()) if self.lost else {}

    def close(self) -> None:
        """All is over and the main thread was not stuck; ends what lost its parent instead of being told to end."""
        self._closed.set()
        for pid in left_of(self._below):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _watch(self) -> None:
        while self._vital and not self._closing.wait(POLL_SECONDS):
            lost = " and ".join([*self._missing, *(name for pid, name in self._vital.items() if not alive(pid))])
            # unless it ended while the last line was read, because it should
            if lost and not self._closing.is_set():
                self.lost, self.stop.requested = lost, True
                _thread.interrupt_main()
                if not self._closed.wait(PATIENCE):
                    self._abandon(self.lost)
                    sys.stderr.flush()
                    os._exit(1)
                return

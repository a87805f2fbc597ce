"""A store that a thread keeps in step with the study: it may be away for a while, and has everything at the end."""

import logging
import threading
import time
from collections.abc import Callable

from d3tune.errors import root_cause

SYNC_SECONDS = 3.0
RETRY_SECONDS = 1.0
# stores that are opened make or change their tables, by a library that does one database of a process at a time
OPENING = threading.Lock()
log = logging.getLogger(__name__)


class Following:
    """Calls what writes a store every few seconds, and says where the store stops taking what is written."""

    def __init__(self, store: str, sync: Callable[[], None], say: Callable[[str], None]) -> None:
        """Prepare; nothing is written before `start`.

        Args:
            store: what it is and where, as a line begins with it.
            sync: writes what the study has and the store has not; one thread at a time calls it.
            say: takes one line when the store stops taking what is written, and one when it takes it again.
        """
        self._store, self._sync, self._say = store, sync, say
        self._lagging, self._ending = False, False
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Write from a thread until `finish`."""
        self._thread = threading.Thread(target=self._loop, name="following", daemon=True)
        self._thread.start()

    def note(self, error: Exception | None) -> None:
        """Say once that the store takes nothing, and once that it does again; None is a write that it took."""
        if error is not None:
            log.debug("%s did not take the last batch; it is written with the next", self._store, exc_info=error)
        if error is not None and not self._lagging:
            self._say(f"{self._store} takes nothing now ({root_cause(error)}); the search goes on without it")
        elif error is None and self._lagging:
            self._say(f"{self._store} answers again and has everything")
        self._lagging = error is not None

    def finish(self, close: Callable[[], None], patience: float) -> str | None:
        """Stop the thread and write the rest.

        Args:
            close: writes what is written at the end alone.
            patience: seconds to go on trying.

        Returns:
            Why the store is not complete, or None where it is.
        """
        end = time.monotonic() + patience
        self._ending = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(patience)
            if self._thread.is_alive():
                return f"no answer within {patience:g} s"
        while True:
            try:
                self._sync()
                close()
            except Exception as error:
                log.debug("closing %s", self._store, exc_info=True)
                if time.monotonic() > end:
                    return root_cause(error)
                time.sleep(min(RETRY_SECONDS, patience))
            else:
                return None

    def _loop(self) -> None:
        while not self._ending:
            self._wake.wait(SYNC_SECONDS)
            try:
                self._sync()
            except Exception as error:
                self.note(error)
            else:
                self.note(None)

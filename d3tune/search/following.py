"""A store that a thread keeps in step with the study: it may be away for a while, and has everything at the end."""

import logging
import math
import threading
import time
from collections.abc import Callable

from d3tune.errors import root_cause

SYNC_SECONDS = 3.0
RETRY_SECONDS = 1.0
# how often the end looks whether it is time to give up, and from when on it says that it waits
LOOK_SECONDS = 0.1
SILENT_SECONDS = 5.0
# what a store that still takes things gets once the user has asked to stop
HURRIED_SECONDS = 10.0
# stores that are opened make or change their tables, by a library that does one database of a process at a time
OPENING = threading.Lock()
log = logging.getLogger(__name__)


class Following:
    """Calls what writes a store every few seconds, and says where the store stops taking what is written.

    Attributes:
        given_up: set once nobody waits for it any more: a write on its way is to be the last.
    """

    def __init__(self, store: str, sync: Callable[[], None], say: Callable[[str], None]) -> None:
        """Prepare; nothing is written before `start`.

        Args:
            store: what it is and where, as a line begins with it.
            sync: writes what the study has and the store has not; one thread at a time calls it.
            say: takes one line when the store stops taking what is written, and one when it takes it again.
        """
        self._store, self._sync, self._say = store, sync, say
        self._lagging, self._ending = False, False
        self._taken = 0.0
        self._error: Exception | None = None
        self._closing = False
        self.given_up = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Write from a thread until `finish`."""
        self._thread = threading.Thread(target=self._loop, name="following", daemon=True)
        self._thread.start()

    def took(self) -> None:
        """Note that the store took something: as long as it does, the end goes on."""
        self._taken = time.monotonic()

    def note(self, error: Exception | None) -> None:
        """Say once that the store takes nothing, and once that it does again; None is a write that it took."""
        if error is not None:
            log.debug("%s did not take the last batch; it is written with the next", self._store, exc_info=error)
        if error is not None and not self._lagging:
            self._say(f"{self._store} takes nothing now ({root_cause(error)}); the search goes on without it")
        elif error is None and self._lagging:
            self._say(f"{self._store} answers again and has everything")
        self._lagging = error is not None

    def finish(
        self, close: Callable[[], None], patience: float, hurry: Callable[[], float | None] = lambda: None
    ) -> str | None:
        """Stop the thread and write the rest, which takes as long as it takes while the store goes on taking it.

        Args:
            close: writes what is written at the end alone.
            patience: seconds to go on trying while the store takes nothing.
            hurry: other such seconds once the user has asked to stop, with `HURRIED_SECONDS` for what the store does
                take; None until then. It is asked again and again.

        Returns:
            Why the store is not complete, or None where it is.
        """
        began = time.monotonic()
        self._ending = True
        self._wake.set()
        over = threading.Event()
        # in a thread, because a call that hangs cannot be ended
        threading.Thread(target=self._complete, args=(close, over), name="completing", daemon=True).start()
        said, asked = False, math.inf
        while not over.wait(LOOK_SECONDS):
            now, hurried, taking = time.monotonic(), hurry(), self._taken > began
            if hurried is not None:
                asked = min(asked, now)
            seconds = patience if hurried is None else hurried
            idle = now - max(began, self._taken) > seconds
            if (idle or now - asked > HURRIED_SECONDS) and not self._closing:
                self.given_up.set()
                return self._missed(seconds, taking)
            if not said and now - began > SILENT_SECONDS and taking:
                self._say(f"{self._store} is behind and is being completed; Ctrl-C leaves the rest for later")
                said = True
        return None

    def _missed(self, seconds: float, taking: bool) -> str:
        """Why it was given up."""
        if self._error is not None:
            return root_cause(self._error)
        return "it was behind, and not waited for" if taking else f"no answer within {seconds:g} s"

    def _complete(self, close: Callable[[], None], over: threading.Event) -> None:
        """Write the rest, again and again until it is there or nobody waits any more."""
        if self._thread is not None:
            self._thread.join()
        while not self.given_up.is_set():
            try:
                self._sync()
                # what closes a store gives up by itself
                self._closing = True
                if self.given_up.is_set():
                    return
                close()
            except Exception as error:
                log.debug("closing %s", self._store, exc_info=True)
                self._error, self._closing = error, False
                time.sleep(RETRY_SECONDS)
            else:
                over.set()
                return

    def _loop(self) -> None:
        while not self._ending:
            self._wake.wait(SYNC_SECONDS)
            try:
                self._sync()
            except Exception as error:
                self.note(error)
            else:
                self.note(None)

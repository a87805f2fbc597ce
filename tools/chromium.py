"""Pictures of pages by headless Chromium, over its debugging pipe; it finds no host but this one."""

import base64
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    *("--headless", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
# Chromium reads commands from descriptor 3 and writes to 4
START = 'exec "$0" "$@" 3<&{} 4>&{}'
# seconds; a busy machine draws a page slowly
PATIENCE, POLL_SECONDS, SETTLED_SECONDS = 120.0, 0.2, 1.0


class BrowserError(Exception):
    """The browser ended, refused a command, or a page did not come to show what was waited for."""


class Page:
    """One page of a browser."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._received = bytearray()
        self._session = ""
        self._count = 0

    def open(self, address: str, width: int, height: int, scale: float) -> None:
        """Begin to load an address.

        Args:
            address: of the page.
            width: of the window, in CSS pixels.
            height: of the window, in CSS pixels.
            scale: pixels of a picture for each CSS pixel.
        """
        if not self._session:
            target = self.ask("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.ask("Page.navigate", url=address)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is on the page; None where it has no value yet."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until a JavaScript expression is true.

        Raises:
            BrowserError: it did not come to be.
        """
        end = time.monotonic() + PATIENCE
        while not self.value(expression):
            if time.monotonic() > end:
                raise BrowserError(f"the page did not come to show what it should: {' '.join(expression.split())}")
            time.sleep(POLL_SECONDS)

    def picture(self) -> bytes:
        """What the window shows, as PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])

    def settled(self) -> bytes:
        """What the window shows once that no longer changes, as PNG.

        Raises:
            BrowserError: it goes on to change.
        """
        end = time.monotonic() + PATIENCE
        before, now = b"", self.picture()
        while before != now:
            if time.monotonic() > end:
                raise BrowserError("the page does not come to rest")
            time.sleep(SETTLED_SECONDS)
            before, now = now, self.picture()
        return now

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Raises:
            BrowserError: the browser ended, does not answer, or says that the command is wrong.
        """
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        try:
            os.write(self._commands, json.dumps(message).encode() + b"\0")
        except BrokenPipeError:
            raise BrowserError("Chromium does not start, or ended") from None
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise BrowserError(f"Chromium refuses {method}: {answer['error']}")
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            if not select.select([self._answers], [], [], PATIENCE)[0]:
                raise BrowserError("Chromium does not answer")
            piece = os.read(self._answers, 1 << 16)
            if not piece:
                raise BrowserError("Chromium does not start, or ended")
            self._received += piece
        text, _, rest = self._received.partition(b"\0")
        self._received = rest
        return dict(json.loads(text))


@contextmanager
def chromium(program: str, profile: Path) -> Iterator[Page]:
    """A browser with a profile of its own, ended at the end.

    Args:
        program: Chromium's or Chrome's.
        profile: a folder for what it keeps.
    """
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()
    command = START.format(theirs_in, theirs_out)
    process = subprocess.Popen(  # noqa: S603 - a browser that is on the PATH, fixed arguments
        ["bash", "-c", command, program, *FLAGS, *sandbox, f"--user-data-dir={profile}"],  # noqa: S607
        pass_fds=(theirs_in, theirs_out),
        # it keeps caches there, whatever its profile is
        env={**os.environ, "HOME": str(profile), "XDG_CACHE_HOME": str(profile), "XDG_CONFIG_HOME": str(profile)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        page = Page(ours_out, ours_in)
        yield page
        page.ask("Browser.close")
        process.wait(PATIENCE)
    finally:
        os.close(ours_out)
        os.close(ours_in)
        if process.poll() is None:
            process.kill()
            process.wait()

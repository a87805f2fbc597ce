"""Headless Chromium over its debugging pipe: opens a page and says what it asked for, showed and complained of."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-component-update", "--window-size=1200,900", "--remote-debugging-pipe"),
)
# Chromium reads commands from descriptor 3 and writes to 4
START = 'exec "$0" "$@" 3<&{} 4>&{}'


@dataclass
class Browser:
    """One page of a browser.

    Attributes:
        requests: addresses that the page asked for.
        complaints: errors and warnings of its console, and exceptions.
    """

    commands: int
    answers: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    session: str = ""
    count: int = 0

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.count += 1
        message: dict[str, Any] = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def open(self, page: Path) -> None:
        """Load a file and wait until it is there."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.ask(f"{domain}.enable")
        self.ask("Page.navigate", url=page.as_uri())
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def value(self, expression: str) -> Any:
        """What an expression is on the page."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def _next(self) -> dict[str, Any]:
        text = bytearray()
        while not text.endswith(b"\0"):
            piece = self.answers.read(1)
            assert piece, "the browser ended"
            text += piece
        answer = json.loads(text[:-1])
        self._note(answer.get("method"), answer.get("params", {}))
        return dict(answer)

    def _note(self, method: str | None, parameters: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.complaints.append(json.dumps(parameters))


@contextmanager
def chromium(program: str, profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own, ended at the end."""
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    process = subprocess.Popen(
        ["bash", "-c", START.format(theirs_in, theirs_out), program, *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=(theirs_in, theirs_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        with os.fdopen(ours_in, "rb") as answers:
            browser = Browser(ours_out, answers)
            yield browser
            browser.session = ""
            browser.ask("Browser.close")
        process.wait(60)
    finally:
        os.close(ours_out)
        if process.poll() is None:
            process.kill()
            process.wait()

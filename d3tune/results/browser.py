"""Opening a page in the user's browser, where there is one to be seen."""

import os
import sys
import threading
import webbrowser
from collections.abc import Mapping

# nobody sees what is opened there
REMOTE = ("CI", "SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY")
# seconds
PATIENCE = 10.0
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")


def can_open(environment: Mapping[str, str]) -> bool:
    """Whether a window can be seen: not over SSH, not under CI, and not without a display."""
    if any(environment.get(name) for name in REMOTE):
        return False
    return sys.platform in ("darwin", "win32") or any(environment.get(name) for name in DISPLAYS)


def open_page(address: str) -> None:
    """Open an address in a browser's window; where there is none, nothing happens."""
    if not can_open(os.environ):
        return
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return
    # one that shows pages as text would take the terminal, unless that is what the user set
    if type(browser) is webbrowser.GenericBrowser and not os.environ.get("BROWSER"):
        return
    # some return only once their window is closed; those that return at once are waited for, else this process may end
    # before they are started
    opening = threading.Thread(target=browser.open, args=(address,), name="browser", daemon=True)
    opening.start()
    opening.join(PATIENCE)

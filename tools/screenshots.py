"""Make the README's pictures from real searches: ``python tools/screenshots.py [--out docs/images]``.

Takes some minutes, two free cores, bash, Chromium and ``pip install 'd3tune[docs]'``. The searches are those of a user
whose home is /tmp/demo, a folder that is made for them and removed.
"""

import argparse
import io
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from chromium import BrowserError, Page, chromium
from PIL import Image

try:
    from shell import Shell, shell
except ModuleNotFoundError as error:
    sys.exit(f"screenshots.py: {error.name} is missing; pip install -c constraints.txt -e '.[docs]'")

ROOT = Path(__file__).parents[1]
# its path is in the pictures
HOME = Path("/tmp/demo")  # noqa: S108 - made anew, for its owner alone
MOST_BYTES = 300_000
PATIENCE = 900.0
SEARCH = "d3tune search --dataset hanzi --backbone gan --trials 12 --confirm-seeds 3 --baselines"
# what the leaderboard shows beside it
OTHERS = tuple(
    f"d3tune search --dataset hanzi --backbone {backbone} --trials {trials} --confirm-seeds 3 --executor local"
    for backbone, trials in (("gaussian", 8), ("rezsl", 3))
)
# characters: no line of the search's first half, and none of the leaderboard, is folded
SEARCH_SIZE, BOARD_SIZE = (108, 22), (120, 16)
# a line of the table of running trials that has figures
RUNNING = re.compile(r" +\d+ +\d+/\d+ +0\.\d+ ")
# CSS pixels, and pixels of a picture for each of them
REPORT_WIDTH, REPORT_SCALE = 860, 1.5
MLFLOW_SIZE, MLFLOW_SCALE = (1600, 800), 1.5
MARGIN = 24
LOADED = "document.readyState == 'complete' && [...document.images].every(image => image.complete)"
FROM, TO = "learning-curves", "seen-unseen"
EDGE = "Math.round(document.getElementById('{}').getBoundingClientRect().{})"
# MLflow's panel opens at the first visit; its notice says that the view is a shared one
ROWS = "document.querySelectorAll('.ag-row [col-id*=\"val/best_H\"]').length >= 12"
OPENED = '[data-component-id="mlflow.assistant.chat_panel.close"], [data-component-id$="shared_view.dismiss"]'
CLOSED = f"""(() => {{
  const buttons = [...document.querySelectorAll('{OPENED}')]
  buttons.forEach(button => button.click())
  return buttons.length == 0
}})()"""


class PictureError(Exception):
    """What a picture is to show did not come, or a picture is not what a page can have."""


def main() -> None:
    """Make them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    out: Path = parser.parse_args().out
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if browser is None:
        sys.exit("screenshots.py: needs Chromium or Google Chrome; none is on the PATH")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _home() as environment:
            pictures = _pictures(environment, browser)
    except (PictureError, BrowserError, OSError) as error:
        sys.exit(f"screenshots.py: {error}")
    for name, content in pictures.items():
        (out / name).write_bytes(content)
        print(f"{out / name}: {len(content) / 1000:.0f} KB")  # noqa: T201


@contextmanager
def _home() -> Iterator[dict[str, str]]:
    """A home for a user without settings, and that user's variables."""
    try:
        HOME.mkdir(mode=0o700)
    except FileExistsError:
        raise PictureError(f"{HOME} is there already; remove or rename it") from None
    try:
        commands = HOME / "bin"
        commands.mkdir()
        command = commands / "d3tune"
        program = "from d3tune.cli import main; main()"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{program}" "$@"\n', encoding="utf-8")
        command.chmod(0o755)
        yield {
            "HOME": str(HOME),
            "PATH": f"{commands}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "LANG": "C.UTF-8",
        }
    finally:
        shutil.rmtree(HOME)


def _pictures(environment: dict[str, str], browser: str) -> dict[str, bytes]:
    """Each picture's content by its name."""
    with shell(HOME, environment) as terminal:
        drawn = {"search.svg": _search(terminal)}
        for command in OTHERS:
            _run(terminal, command)
        terminal.resize(*BOARD_SIZE)
        _run(terminal, "d3tune leaderboard")
        drawn["leaderboard.svg"] = terminal.picture()
    (run,) = (HOME / ".d3tune" / "runs").glob("hanzi-0-gan-*")
    subprocess.run(["d3tune", "report", run.name], env=environment, cwd=HOME, check=True, capture_output=True)  # noqa: S603, S607
    with chromium(browser, HOME / "chromium") as page:
        shown = {"report.png": _report(page, run), "mlflow.png": _mlflow(page, run, environment)}
    pictures = {name: text.encode() for name, text in drawn.items()} | {
        name: _smaller(content) for name, content in shown.items()
    }
    for name, content in pictures.items():
        if len(content) > MOST_BYTES:
            raise PictureError(f"{name} has {len(content)} bytes, more than {MOST_BYTES}")
        if name.endswith(".svg") and re.search(rb"https?://", re.sub(rb'xmlns(:\w+)?="[^"]*"', b"", content)):
            raise PictureError(f"{name} refers to the network")
    return pictures


def _search(terminal: Shell) -> str:
    """The screen at about half of a search that then goes on to its end."""
    terminal.resize(*SEARCH_SIZE)
    _wait(terminal, lambda: any(line.startswith("run /") for line in terminal.screen), SEARCH)

    def telling() -> bool:
        running = sum(bool(RUNNING.match(line)) for line in terminal.screen)
        return running == 2 and any(re.match("trials [5-8]/12 ", line) for line in terminal.screen)

    if not terminal.until(lambda: telling() or terminal.ready(), PATIENCE) or not telling():
        raise PictureError(
            "never were two trials, each with figures, running at half of the search; it needs two cores"
        )
    picture = terminal.picture()
    _wait(terminal, terminal.ready)
    return picture


def _run(terminal: Shell, command: str) -> None:
    """Run a command on an empty screen to its end."""
    terminal.resize(*terminal.size)
    _wait(terminal, lambda: terminal.ready() and terminal.screen[0].strip() != "$", command)


def _wait(terminal: Shell, condition: Callable[[], bool], command: str = "") -> None:
    if command:
        terminal.type(command)
    if not terminal.until(condition, PATIENCE):
        shown = " ".join(line for line in terminal.screen if line)
        raise PictureError(f"waited in vain for {command or 'the end of the search'}: {shown[-500:]}")


def _report(page: Page, run: Path) -> bytes:
    """Two figures of a report: how the trials learned, and what they are on seen and on unseen classes."""
    address = (run / "report" / "index.html").as_uri()
    page.open(address, REPORT_WIDTH, 1000, REPORT_SCALE)
    page.until(f"{LOADED} && document.getElementById('{TO}') != null")
    height = page.value(EDGE.format(TO, "bottom")) - page.value(EDGE.format(FROM, "top"))
    page.open(address, REPORT_WIDTH, height + 2 * MARGIN, REPORT_SCALE)
    page.until(f"{LOADED} && innerHeight == {height + 2 * MARGIN} && document.getElementById('{TO}') != null")
    page.value(f"scrollBy(0, {EDGE.format(FROM, 'top')} - {MARGIN})")
    page.until(f"{EDGE.format(FROM, 'top')} == {MARGIN}")
    return page.picture()


def _mlflow(page: Page, run: Path, environment: dict[str, str]) -> bytes:
    """The view of a search's trials that ``d3tune ui`` leads to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = ["d3tune", "ui", run.name, "--no-browser", "--port", str(port)]
    with subprocess.Popen(  # noqa: S603
        command, env=environment, cwd=HOME, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            name, _, address = server.stdout.readline().rstrip("\n").partition(": ")
            if not name.startswith("trials of gan"):
                raise PictureError(f"d3tune ui printed no address of the trials: {name}")
            page.open(address, *MLFLOW_SIZE, MLFLOW_SCALE)
            page.until(ROWS)
            # what is closed may not have been there at first
            page.until("localStorage.getItem('mlflow.assistant.panelOpen_v1') != null")
            page.until(CLOSED)
            page.until(ROWS)
            return page.settled()
        finally:
            server.terminate()


def _smaller(png: bytes) -> bytes:
    """The same picture in 256 colours, which lines and letters do not show."""
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    smaller = io.BytesIO()
    image.save(smaller, "PNG", optimize=True)
    return smaller.getvalue()


if __name__ == "__main__":
    main()

"""The live table: what it shows at any size, and a real search in a real terminal that stays clean."""

import codecs
import fcntl
import json
import math
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from d3tune.cli.live import MOST_LINES, duration, frame
from d3tune.search.progress import Latest, RunningNow, View

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

PROGRAM = [sys.executable, "-c", "from d3tune.cli import main; main()"]
PATIENCE = 240.0
# of the terminals here: no line of these searches is folded
WIDTH = 250
LATEST = Latest(0.7512, "student_embedding", 200, 0.7512, 0.8, 0.7)
SEQUENCE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])")


def view(n_running: int = 1, **changes: object) -> View:
    running = tuple((RunningNow(7 + i, 600, 0.0, LATEST if i % 2 else None), 61.0 + i) for i in range(n_running))
    plain = View("trials", 0, 0, "val/H", False, 2000, 12, 5, 1, running, (3, LATEST), 187.0, 400.0)
    return replace(plain, **changes)


def drawn(shown: View, width: int = 80, height: int = 50) -> list[str]:
    """The lines of a frame as a terminal of that width gets them."""
    console = Console(width=width, height=height, force_terminal=False, no_color=True)
    with console.capture() as capture:
        console.print(frame(shown, width, height))
    return capture.get().removesuffix("\n").split("\n")


def test_one_trial_shows_all_there_is_to_say() -> None:
    text = "\n".join(drawn(view(2)))
    assert "trials 18/2000   3m 07s so far, about 6m 40s of trials left" in text
    assert "12 complete, 5 pruned, 1 failed, 2 running, 1980 to go" in text
    assert "best   trial 3  val/H 0.751  S 0.800  U 0.700  student_embedding, update 200" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["7", "0/600", "–", "–", "–", "1m", "01s"] in rows
    assert ["8", "200/600", "0.751", "0.800", "0.700", "1m", "02s", "student_embedding"] in rows


@pytest.mark.parametrize("n_running", [0, 1, 5, 18, 19, 20, 1000])
@pytest.mark.parametrize("size", [(80, 24), (200, 60), (40, 10), (20, 5), (3, 3), (80, 2), (78, 25)])
def test_it_fits_every_terminal_with_any_number_of_trials(n_running: int, size: tuple[int, int]) -> None:
    lines = drawn(view(n_running), *size)
    assert len(lines) <= min(MOST_LINES, max(size[1] - 1, 2))
    assert all(len(line) < size[0] for line in lines)
    assert lines[-1] == ""
    assert lines[0].startswith(("─", "t"))


def test_more_trials_than_lines_are_counted() -> None:
    lines = drawn(view(1000))
    shown = [line for line in lines if re.match(r" +\d+ +\d+/600", line)]
    assert len(lines) == MOST_LINES
    assert [int(line.split()[0]) for line in shown] == list(range(7, 7 + len(shown)))
    assert lines[-2].strip() == f"… and {1000 - len(shown)} more"
    # at the border no line is spent on a single one more
    most = max(n for n in range(1, 40) if "more" not in "".join(drawn(view(n))))
    assert f"… and {2} more" in "\n".join(drawn(view(most + 1)))


def test_what_is_not_known_is_a_dash_and_no_figure() -> None:
    text = "\n".join(drawn(view(0, best=None, left=None)))
    assert "– of trials left" in text
    assert "best   –" in text
    unmeasured = replace(LATEST, S=math.nan)
    assert "S –  U 0.700" in "\n".join(drawn(view(0, best=(1, unmeasured))))


def test_a_test_selected_value_says_so() -> None:
    text = "\n".join(drawn(view(metric="published/H", test_selected=True)))
    assert "published/H 0.751 (test-selected)" in text


def test_phases_that_count_their_parts_do() -> None:
    assert "baselines 1/2   " in "\n".join(drawn(view(0, phase="baselines", done=1, total=2)))
    assert drawn(View("starting", elapsed=3.0))[1:] == ["starting   3s so far", ""]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (187, "3m 07s"), (7500, "2h 05m"), (275000, "3d 04h"), (-3, "0s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@dataclass
class Terminal:
    """What a terminal shows of what was written to it; as much of one as the table needs.

    Attributes:
        screen: lines from the first on; nothing scrolls away.
    """

    width: int = WIDTH
    screen: list[str] = field(default_factory=lambda: [""])
    row: int = 0
    column: int = 0
    hidden: bool = False
    most: int = 0

    def write(self, text: str) -> None:
        position = 0
        while position < len(text):
            found = SEQUENCE.match(text, position)
            if found:
                self._obey(found[1], found[2])
                position = found.end()
            else:
                self._put(text[position])
                position += 1

    def _obey(self, numbers: str, letter: str) -> None:
        if letter == "A":
            self.row -= int(numbers or 1)
            assert self.row >= 0, "the cursor left the screen"
        elif letter == "K":
            assert numbers == "2"
            self.screen[self.row] = ""
        elif letter in "hl" and numbers == "?25":
            self.hidden = letter == "l"
        else:
            assert letter == "m", f"a sequence that no table needs: {numbers}{letter}"

    def _put(self, sign: str) -> None:
        assert sign == "\n" or sign == "\r" or sign.isprintable(), repr(sign)
        if sign == "\r":
            self.column = 0
            return
        if sign == "\n" or self.column == self.width:
            self.row += 1
            self.column = 0
            self.screen += [""] * (self.row + 1 - len(self.screen))
        if sign != "\n":
            line = self.screen[self.row].ljust(self.column)
            self.screen[self.row] = line[: self.column] + sign + line[self.column + 1 :]
            self.column += 1


@dataclass
class Session:
    """A command whose stderr is a terminal."""

    process: subprocess.Popen[bytes]
    master: int
    out: Path
    written: str = ""
    decoder: Any = field(default_factory=codecs.getincrementaldecoder("utf-8"))

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self, until: str = "") -> str:
        """Read until something was written, or all until the command ends."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            ready, _, _ = select.select([self.master], [], [], 0.2)
            if ready:
                try:
                    data = os.read(self.master, 65536)
                except OSError:
                    # all who had it open are gone
                    data = b""
                if not data:
                    return self.written
                self.written += self.decoder.decode(data)
            if until and re.search(until, self.written):
                return self.written
            if not ready and self.process.poll() is not None:
                return self.written
        raise AssertionError(f"waited in vain for {until or 'the end'}: {self.written[-2000:]}")

    def end(self) -> int:
        self.read()
        return self.process.wait(PATIENCE)


@contextmanager
def terminal(tmp_path: Path, *arguments: str, lines: int = 40, **environment: str) -> Iterator[Session]:
    """A command of a terminal of its own, which is its controlling one; stdout goes to a file."""
    master, slave = pty.openpty()
    out = tmp_path / "stdout"
    variables = {"TERM": "xterm", **environment}
    cleared = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR")}

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(2, termios.TIOCSCTTY, 0)
        # under nohup a hangup would be ignored
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, WIDTH, 0, 0))
    with out.open("wb") as file:
        process = subprocess.Popen(
            [*PROGRAM, *arguments],
            stdin=slave,
            stdout=file,
            stderr=slave,
            env={**cleared, **variables},
            preexec_fn=take_terminal,
        )
    os.close(slave)
    session = Session(process, master, out)
    try:
        yield session
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        with suppress(OSError):
            os.close(master)


def searching(tiny: tuple[str, ...], *more: str) -> tuple[str, ...]:
    return ("search", "--dataset", "hanzi", *tiny, "--executor", "local", *more)


def test_a_real_search_in_a_terminal(tmp_path: Path, with_store: Path, tiny: tuple[str, ...]) -> None:
    options = ("--trials", "4", "--confirm-seeds", "2", "--baselines", "--json")
    with terminal(tmp_path, *searching(tiny, *options)) as session:
        assert session.end() == 0, session.written
    shown = Terminal()
    shown.write(session.written)
    assert not shown.hidden
    assert "trials 0/4" in session.written
    assert "confirming: fresh seeds fix updates, head and offset" in session.written
    assert "to go" in session.written
    # what stays is what a pipe gets, and nothing of the table
    kept = [line for line in shown.screen if line]
    assert kept[0].startswith("run ")
    assert [line[:5] for line in kept[1:5]] == ["trial"] * 4
    assert kept[5].startswith("confirming trial")
    assert kept[6:] == ["baselines: gaussian, ESZSL"]
    assert json.loads(session.out.read_text(encoding="utf-8"))["state"] == "done"


def test_no_frame_is_higher_than_a_terminal_that_shrinks(
    tmp_path: Path, with_store: Path, tiny: tuple[str, ...]
) -> None:
    with terminal(tmp_path, *searching(tiny, "--trials", "6", "--confirm-seeds", "0"), lines=30) as session:
        session.read(r"trials \d/6")
        session.resize(30, 4)
        begun = len(session.written)
        session.read(r"trials 6/6|winner|ending")
        assert session.end() == 0
    # the frame before the resize may be drawn once more
    later = session.written[begun:].split("\r\x1b[2K", 2)[-1]
    ups = [len(re.findall(r"\x1b\[1A", part)) for part in re.split(r"[^\x1b\[\dAK\r]+", later)]
    assert max(ups) <= 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_the_terminal_clean(
    number: int, tmp_path: Path, with_store: Path, tiny: tuple[str, ...]
) -> None:
    with terminal(tmp_path, *searching(tiny, "--trials", "500", "--confirm-seeds", "0")) as session:
        session.read(r"trials [2-9]\d*/500")
        session.process.send_signal(number)
        assert session.end() == 130
    shown = Terminal()
    shown.write(session.written)
    kept = [line for line in shown.screen if line]
    assert any(line.startswith("stopping: trials end") for line in kept)
    assert kept[-2].startswith("stopped; go on with: d3tune resume") or kept[-1].startswith("stopped; go on")
    assert not [line for line in kept if "to go" in line or line.startswith(("─", "best"))]
    assert not shown.hidden


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": "unknown"}])
def test_a_terminal_that_cannot_has_plain_lines(
    environment: dict[str, str], tmp_path: Path, with_store: Path, tiny: tuple[str, ...]
) -> None:
    options = searching(tiny, "--trials", "1", "--confirm-seeds", "0")
    with terminal(tmp_path, *options, **environment) as session:
        assert session.end() == 0
    assert "\x1b" not in session.written
    assert [line[:5] for line in session.written.split("\r\n")] == ["run /", "trial", ""]


def test_no_color_is_obeyed(tmp_path: Path, with_store: Path, tiny: tuple[str, ...]) -> None:
    options = searching(tiny, "--trials", "1", "--confirm-seeds", "0")
    with terminal(tmp_path, *options, NO_COLOR="1", TERM="xterm-256color") as session:
        assert session.end() == 0
    colours = re.findall(r"\x1b\[(?:[\d;]*;)?(?:3[0-8]|4[0-8]|9\d|10\d)(?:;[\d;]*)?m", session.written)
    assert "trials" in session.written
    assert colours == []


def test_a_terminal_that_goes_away_ends_the_search_in_order(
    tmp_path: Path, with_store: Path, tiny: tuple[str, ...]
) -> None:
    with terminal(tmp_path, *searching(tiny, "--trials", "500", "--confirm-seeds", "0")) as session:
        session.read(r"trials [1-9]\d*/500")
        os.close(session.master)
        assert session.process.wait(PATIENCE) == 130
    (run,) = (with_store / "runs").iterdir()
    assert json.loads((run / "summary.json").read_text(encoding="utf-8"))["state"] == "interrupted"

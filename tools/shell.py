"""A shell in a terminal of its own, and what that terminal shows as an SVG that needs no network and no font."""

import codecs
import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import pyte
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import TerminalTheme
from rich.text import Text

PROMPT = "$ "
# of the terminal at first
COLUMNS, LINES = 100, 30
# seconds without output after which a screen is not half drawn
QUIET = 0.2
PATIENCE = 30.0
FAINT, BRIGHT_BLACK = 2, 90
BLUE_TO_WHITE = ((88, 166, 255), (188, 140, 255), (57, 197, 207), (177, 186, 196))
BRIGHT_BLUE_TO_WHITE = ((121, 192, 255), (210, 168, 255), (86, 212, 221), (255, 255, 255))
# readable on light and on dark pages
THEME = TerminalTheme(
    (22, 27, 34),
    (230, 237, 243),
    [(72, 79, 88), (255, 123, 114), (63, 185, 80), (210, 153, 34), *BLUE_TO_WHITE],
    [(145, 152, 161), (255, 161, 152), (86, 211, 100), (227, 179, 65), *BRIGHT_BLUE_TO_WHITE],
)
# rich's own links fonts of a network address
FORMAT = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px;
  line-height: {line_height}px;
}}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


class _Screen(pyte.Screen):
    """One that shows faint text in grey; pyte's own shows it like any other."""

    def select_graphic_rendition(self, *attrs: int, private: bool = False) -> None:
        shown = (BRIGHT_BLACK if attr == FAINT else attr for attr in attrs)
        super().select_graphic_rendition(*shown, **({"private": True} if private else {}))


class Shell:
    """An interactive bash without a user's settings."""

    def __init__(self, process: "subprocess.Popen[bytes]", master: int) -> None:
        self._process, self._master = process, master
        self._screen = _Screen(COLUMNS, LINES)
        self._stream = pyte.Stream(self._screen)
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    @property
    def screen(self) -> list[str]:
        """The lines that the terminal shows, without the spaces at their ends."""
        return [line.rstrip() for line in self._screen.display]

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        return self._screen.columns, self._screen.lines

    def ready(self) -> bool:
        """Whether the shell waits for a command."""
        lines = [line for line in self._screen.display if line.strip()]
        return bool(lines) and lines[-1].rstrip() == PROMPT.rstrip()

    def resize(self, columns: int, lines: int) -> None:
        """Make the terminal so wide and high, and clear it; the shell waits for a command."""
        self.until(self.ready, PATIENCE)
        _set_size(self._master, columns, lines)
        self._screen.resize(lines, columns)
        # the shell clears it and writes its prompt again
        os.write(self._master, b"\x0c")
        self.until(lambda: self.screen[0] == PROMPT.rstrip() and not any(self.screen[1:]), PATIENCE)

    def type(self, command: str) -> None:
        """Type a command and Enter."""
        os.write(self._master, command.encode() + b"\n")

    def until(self, condition: Callable[[], Any], patience: float) -> bool:
        """Follow the terminal until a condition holds while nothing is being written.

        Args:
            condition: is asked whenever the screen is not half drawn.
            patience: seconds.

        Returns:
            Whether it came to hold in time, with the shell still there.
        """
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if select.select([self._master], [], [], QUIET)[0]:
                with suppress(OSError):
                    self._stream.feed(self._decoder.decode(os.read(self._master, 65536)))
            elif condition():
                return True
            elif self._process.poll() is not None:
                return False
        return False

    def picture(self) -> str:
        """The screen as SVG, without the empty lines at its end."""
        console = Console(
            file=io.StringIO(), record=True, width=self._screen.columns, force_terminal=True, color_system="truecolor"
        )
        lines = [self._line(y) for y in range(self._screen.lines)]
        while lines and not lines[-1].plain:
            del lines[-1]
        console.print(Text("\n").join(lines), no_wrap=True, overflow="ignore", crop=False, highlight=False)
        text = console.export_svg(title="", theme=THEME, code_format=FORMAT, unique_id="terminal")
        return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)

    def _line(self, y: int) -> Text:
        row = [self._screen.buffer[y][x] for x in range(self._screen.columns)]
        text = Text()
        for style, characters in groupby(row, _style):
            text.append("".join(character.data for character in characters), style)
        text.rstrip()
        return text


def _style(character: Any) -> Style:
    return Style(
        color=_color(character.fg),
        bgcolor=_color(character.bg),
        bold=character.bold,
        italic=character.italics,
        underline=character.underscore,
        reverse=character.reverse,
    )


def _color(name: str) -> str:
    """Rich's name of a colour of pyte's: one of 16, or six hexadecimal digits."""
    if re.fullmatch("[0-9a-f]{6}", name):
        return f"#{name}"
    plain = name.replace("brown", "yellow")
    return f"bright_{plain.removeprefix('bright')}" if plain.startswith("bright") else plain


@contextmanager
def shell(cwd: Path, environment: Mapping[str, str]) -> Iterator[Shell]:
    """A shell of a terminal, which is its controlling one; both end with the block, and so does what it runs.

    Args:
        cwd: where it starts.
        environment: all its variables but those of the terminal.
    """
    master, slave = pty.openpty()
    _set_size(master, COLUMNS, LINES)

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],  # noqa: S607 - whichever bash a user has
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=cwd,
        env={**environment, "TERM": "xterm-256color", "PS1": PROMPT, "HISTFILE": ""},
        preexec_fn=take_terminal,
    )
    os.close(slave)
    try:
        yield Shell(process, master)
    finally:
        # what hangs up is what bash and a search obey in order
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGHUP)
        os.close(master)
        process.wait()


def _set_size(descriptor: int, columns: int, lines: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

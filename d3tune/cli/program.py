"""The program: its name, its own options, and how errors end it."""

import atexit
import gc
import io
import os
import sys
from typing import Annotated, NoReturn

import typer

from d3tune.cli.mistakes import Commands, wrong_arguments
from d3tune.cli.options import examples
from d3tune.cli.terminal import EXIT_INTERRUPTED, EXIT_USAGE, fail, put, say
from d3tune.errors import D3TuneError
from d3tune.words import FIRST_SEARCH

# a second and a half after a search: the interpreter looks for cycles among all that libraries ever made
atexit.register(gc.freeze)

NAME = "d3tune"
# set where a shell asks what could come next
ASKED = "_D3TUNE_COMPLETE"
# of a package whose import has another name
PIP_NAMES = {"yaml": "pyyaml"}
EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 usage, 3 no usable trial, 130 interrupted."

app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Find the best hyper-parameters for D³GZSL: chosen on validation, tested once.",
    epilog=examples(FIRST_SEARCH, "d3tune leaderboard", note=EXIT_CODES),
)


def _show_version(asked: bool) -> None:
    from d3tune import __version__

    if asked:
        put(f"d3tune {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show it.")] = False,
) -> None:
    """Options of the program itself."""


def main() -> NoReturn:
    """Run the command line: errors a user can cause are one line on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    command = typer.main.get_command(app)
    if ASKED in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
    try:
        code = command.main(prog_name=NAME, complete_var=ASKED, standalone_mode=False)
    except D3TuneError as error:
        fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        fail("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.exit(1)
    except ModuleNotFoundError as error:
        name = str(error.name).partition(".")[0]
        if name == NAME:
            raise
        fail(f"the Python package {name} is missing: {sys.executable} -m pip install {PIP_NAMES.get(name, name)}", 1)
    except OSError as error:
        # a disk that is full, a folder that was taken away while it was used
        place = f"{error.filename}: " if error.filename else ""
        fail(f"{place}{error.strerror or error}", 1)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            say(error.format_message())
            sys.exit(EXIT_USAGE)
        fail(wrong_arguments(error), EXIT_USAGE)
    sys.exit(code if isinstance(code, int) else 0)

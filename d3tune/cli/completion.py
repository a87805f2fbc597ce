"""The script that makes a shell complete commands, options and names."""

from typing import Annotated

import typer

from d3tune.cli.options import examples
from d3tune.cli.program import ASKED, NAME, app
from d3tune.cli.terminal import put
from d3tune.errors import one_of

SHELLS = ("bash", "zsh", "fish")
NOTE = (
    'In bash or zsh, for good: the line  eval "$(d3tune completion bash)"  in ~/.bashrc, or with zsh in ~/.zshrc '
    "after compinit. In fish: d3tune completion fish > ~/.config/fish/completions/d3tune.fish"
)


def _shells() -> list[str]:
    return [*SHELLS]


@app.command(epilog=examples(*(f"d3tune completion {shell}" for shell in SHELLS), note=NOTE))
def completion(shell: Annotated[str, typer.Argument(help="bash, zsh or fish.", autocompletion=_shells)]) -> None:
    """Print the script that makes a shell complete commands, options and names."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    one_of("completion", shell, SHELLS)
    put(get_completion_script(prog_name=NAME, complete_var=ASKED, shell=shell))

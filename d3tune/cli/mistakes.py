"""What is said of a command or an option that does not exist: the nearest one that does."""

from typing import TYPE_CHECKING, Any

from typer.core import TyperGroup

from d3tune.errors import UsageError, nearest

if TYPE_CHECKING:
    import typer


# as a user comes to them; others follow
ORDER = (
    "search", "resume", "sweep", "leaderboard", "report", "ui", "export", "train", "predict", "compare", "ablate",
    "data", "doctor", "replay", "sync", "completion",
)  # fmt: skip


class Commands(TyperGroup):
    """A group of commands in the order of their use, that names the nearest one to a mistyped one."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands as help shows them; see click."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that arguments begin with; see click.

        Raises:
            UsageError: there is none of that name.
        """
        name = args[0]
        unknown = self.get_command(ctx, name) is None and not name.startswith("-")
        if unknown and not ctx.resilient_parsing:
            known = nearest(name, self.list_commands(ctx))
            raise UsageError(f"no such command '{name}'{known}; see {ctx.command_path} --help")
        return super().resolve_command(ctx, args)


def wrong_arguments(error: Any) -> str:
    """What click refused, in one line.

    Args:
        error: a click exception; typer brings a click of its own, so it has no type to name here.
    """
    context = getattr(error, "ctx", None)
    if context is None:
        return f"{error.format_message()}; see --help"
    message = error.format_message().rstrip(".")
    if type(error).__name__ == "NoSuchOption":
        message = f"no such option {error.option_name}{nearest(error.option_name, _options(context))}"
    return f"{message}; see {context.command_path} --help"


def _options(context: "typer.Context") -> list[str]:
    parameters = context.command.get_params(context)
    return [name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts) if name[0] == "-"]

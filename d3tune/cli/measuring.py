"""What the commands share that train configurations and put a table of the results: options, training, output."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from d3tune.cli import names
from d3tune.cli.terminal import EXIT_INTERRUPTED, draining, put, say

if TYPE_CHECKING:
    from d3tune.results.noted import NotedTable
    from d3tune.search.executor import Executor, StopSignal

FORMATS = ("table", "markdown", "latex")


def _formats() -> list[str]:
    return [*FORMATS]


Seeds = Annotated[int, typer.Option(min=1, help="How many seeds.")]
ExecutorName = Annotated[
    str,
    typer.Option(
        "--executor", help="ray, or local: one training after another, without Ray.", autocompletion=names.executors
    ),
]
Concurrency = Annotated[int | None, typer.Option(help="Most trainings at once; as many as fit.")]
Shown = Annotated[str, typer.Option("--format", help="table, markdown or latex.", autocompletion=_formats)]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write the table here instead.")]
ResultT = TypeVar("ResultT")


def check_output(shown: str, output: Path | None) -> None:
    """Refuse, before anything is trained, a form that there is not and a file that cannot be written."""
    from d3tune.errors import one_of
    from d3tune.files import writable_file

    one_of("--format", shown, FORMATS)
    if output is not None:
        writable_file(output, "give another -o")


def check_executor(executor: str, concurrency: int | None) -> None:
    """Refuse, before anything is made, what no training can be carried out with."""
    from d3tune.search.planning import PlanOptions, resources_of

    resources_of(PlanOptions(executor=executor, concurrency=concurrency))


def carried_out(
    work: Callable[["Executor", "StopSignal"], ResultT], name: str, executor: str, concurrency: int | None, threads: int
) -> ResultT:
    """Train with an executor that is closed again; what was trained before a stop is kept by the work itself.

    Args:
        work: what to do.
        name: of the command, for the file of Ray's messages.
        executor: ``ray`` or ``local``.
        concurrency: most trainings at once.
        threads: of each training.
    """
    from contextlib import closing

    from d3tune.files import home
    from d3tune.search.executor import StopSignal
    from d3tune.search.executor.choice import open_executor
    from d3tune.search.executor.ending import end_now
    from d3tune.search.planning import PlanOptions, resources_of

    # a configuration of a larger machine keeps its threads, which decide its last digits, and shares these cores
    cores = min(threads, os.cpu_count() or 1)
    resources = resources_of(PlanOptions(executor=executor, concurrency=concurrency, cpus_per_trial=cores))
    stop = StopSignal()
    try:
        with (
            draining(stop, "stopping: what was trained is kept (again to stop at once)"),
            closing(open_executor(resources, home() / f"{name}.log", stop)) as opened,
        ):
            return work(opened, stop)
    except KeyboardInterrupt:
        say("stopped; the same command goes on")
        if stop.at_once and executor == "ray":
            end_now(EXIT_INTERRUPTED)
        raise typer.Exit(EXIT_INTERRUPTED) from None


def deliver(table: "NotedTable", data: dict[str, Any], shown: str, output: Path | None, as_json: bool) -> None:
    """Write the table to its file, and put it, or the data, where they were asked for."""
    from d3tune.files import write_text
    from d3tune.results.noted import FORMS

    text = FORMS[shown](table)
    if output is not None:
        write_text(output, text + "\n")
        say(f"wrote {output}")
    if as_json or output is None:
        put(data if as_json else text)

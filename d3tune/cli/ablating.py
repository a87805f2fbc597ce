"""The command that takes a configuration apart: ablate."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d3tune.cli import names
from d3tune.cli.options import BEST, DataDir, Json, examples
from d3tune.cli.program import app
from d3tune.cli.terminal import EXIT_INTERRUPTED, draining, put, say

if TYPE_CHECKING:
    from d3tune.search.ablate import Ablation

FORMATS = ("table", "markdown", "latex")


def _formats() -> list[str]:
    return [*FORMATS]


@app.command(epilog=examples("d3tune ablate best.yaml --seeds 3 --format markdown -o ablation.md", note=BEST))
def ablate(
    config: Annotated[Path, typer.Argument(help="A configuration: exported, or dataset, backbone and config.")],
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 5,
    data_dir: DataDir = None,
    executor: Annotated[
        str,
        typer.Option(help="ray, or local: one training after another, without Ray.", autocompletion=names.executors),
    ] = "ray",
    concurrency: Annotated[int | None, typer.Option(help="Most trainings at once; as many as fit.")] = None,
    shown: Annotated[
        str, typer.Option("--format", help="table, markdown or latex.", autocompletion=_formats)
    ] = "table",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the table here instead.")] = None,
    as_json: Json = False,
) -> None:
    """What each D³ term is worth at a configuration: off, alone and left out, on the same seeds.

    The same command again goes on where it stopped.
    """
    from contextlib import closing

    from d3tune.errors import one_of
    from d3tune.files import home, writable_file, write_text
    from d3tune.search.ablate import ablate as take_apart
    from d3tune.search.ablate import terms_on
    from d3tune.search.executor import StopSignal
    from d3tune.search.executor.choice import open_executor
    from d3tune.search.executor.ending import end_now
    from d3tune.search.planning import PlanOptions, resources_of
    from d3tune.search.train import read_configuration

    one_of("--format", shown, FORMATS)
    if output is not None:
        writable_file(output, "give another -o")
    found = read_configuration(config, data_dir)
    # before Ray is started
    terms_on(found.job)
    threads = 1 if found.selection is None else found.selection.threads
    resources = resources_of(PlanOptions(executor=executor, concurrency=concurrency, cpus_per_trial=threads))
    stop = StopSignal()
    try:
        with (
            draining(stop, "stopping: what was trained is kept (again to stop at once)"),
            closing(open_executor(resources, home() / "ablate.log", stop)) as opened,
        ):
            ablation = take_apart(found, seeds, opened, stop, say)
    except KeyboardInterrupt:
        say("stopped; the same command goes on")
        if stop.at_once and executor == "ray":
            end_now(EXIT_INTERRUPTED)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if output is not None:
        write_text(output, _as(shown, ablation) + "\n")
        say(f"wrote {output}")
    if as_json or output is None:
        put(ablation.to_dict() if as_json else _as(shown, ablation))


def _as(shown: str, ablation: "Ablation") -> str:
    from d3tune.results import ablation as tables

    forms = {
        "table": tables.ablation_text,
        "markdown": tables.ablation_markdown,
        "latex": tables.ablation_latex,
    }
    return forms[shown](ablation)

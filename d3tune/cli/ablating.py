"""The command that takes a configuration apart: ablate."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d3tune.cli.measuring import Concurrency, ExecutorName, Output, Seeds, Shown, carried_out, check_output, deliver
from d3tune.cli.options import BEST, DataDir, Json, examples
from d3tune.cli.program import app
from d3tune.cli.terminal import say

if TYPE_CHECKING:
    from d3tune.search.ablate import Ablation
    from d3tune.search.executor import Executor, StopSignal


@app.command(epilog=examples("d3tune ablate best.yaml --seeds 3 --format markdown -o ablation.md", note=BEST))
def ablate(
    config: Annotated[Path, typer.Argument(help="A configuration: exported, or dataset, backbone and config.")],
    seeds: Seeds = 5,
    data_dir: DataDir = None,
    executor: ExecutorName = "ray",
    concurrency: Concurrency = None,
    shown: Shown = "table",
    output: Output = None,
    as_json: Json = False,
) -> None:
    """What each D³ term is worth at a configuration: off, alone and left out, on the same seeds.

    The same command again goes on where it stopped.
    """
    from d3tune.results.ablation import ablation_table
    from d3tune.search.ablate import ablate as take_apart
    from d3tune.search.ablate import terms_on
    from d3tune.search.configuration import read_configuration

    check_output(shown, output)
    found = read_configuration(config, data_dir)
    # before Ray is started
    terms_on(found.job)

    def work(opened: "Executor", stop: "StopSignal") -> "Ablation":
        return take_apart(found, seeds, opened, stop, say)

    ablation = carried_out(work, "ablate", executor, concurrency, found.job.threads)
    deliver(ablation_table(ablation), ablation.to_dict(), shown, output, as_json)

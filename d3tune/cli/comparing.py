"""The command that sets two configurations against each other: compare."""

from typing import TYPE_CHECKING, Annotated

import typer

from d3tune.cli.measuring import Concurrency, ExecutorName, Output, Seeds, Shown, carried_out, check_output, deliver
from d3tune.cli.options import MINE, DataDir, Json, examples
from d3tune.cli.program import app
from d3tune.cli.terminal import say

if TYPE_CHECKING:
    from d3tune.search.compare import Comparison
    from d3tune.search.executor import Executor, StopSignal


@app.command(
    epilog=examples(
        "d3tune compare mine other.yaml --seeds 3 --format markdown -o comparison.md",
        note=f"{MINE} The file other.yaml is yours: another configuration of the same data.",
    )
)
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A configuration file, or a run: its winner.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another, on the same data.")],
    seeds: Seeds = 5,
    splits: Annotated[str | None, typer.Option(help="Validation draws, e.g. 0,1,2; those of A and B.")] = None,
    data_dir: DataDir = None,
    executor: ExecutorName = "ray",
    concurrency: Concurrency = None,
    shown: Shown = "table",
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Whether A is better than B: both fixed by their own validation, tested on the same fresh seeds, in pairs.

    Differences of H, U, S, T1 and AUSUC with their 95 % interval and a signed-rank test, whose p cannot be smaller than
    2/2^SEEDS. The same command again goes on where it stopped.
    """
    from d3tune.results.comparison import comparison_table
    from d3tune.search.compare import compare as set_against
    from d3tune.search.compare import pair, parse_splits, read_side

    check_output(shown, output)
    draws = None if splits is None else parse_splits(splits)
    pairing = pair(read_side(a, data_dir), read_side(b, data_dir), seeds, draws)

    def work(opened: "Executor", stop: "StopSignal") -> "Comparison":
        return set_against(pairing, opened, stop, say)

    threads = max(side.configuration.job.threads for side in (pairing.a, pairing.b))
    comparison = carried_out(work, "compare", executor, concurrency, threads)
    deliver(comparison_table(comparison), comparison.to_dict(), shown, output, as_json)

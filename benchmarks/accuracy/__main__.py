"""What D³GZSL and what is around it are worth, measured fairly: ``python -m benchmarks.accuracy``.

First the cells, a search each (`benchmarks.accuracy.cells`), dataset by dataset; then the questions that go on from
their winners. What is done is kept as a record and not done again, so that the command may be stopped at any time and
the comparison made in several sittings. The report, Markdown, JSON and figures, is written into ``benchmarks/reports/``
from the records that there are. It exits with 1 while one is missing.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.__main__ import REPORTS, environment
from benchmarks.accuracy.cells import GENERATIVE, GENERATIVE_ARMS, OTHERS, SHIPPED
from benchmarks.accuracy.plan import QUESTIONS, Comparison
from benchmarks.accuracy.records import Record, Records
from benchmarks.accuracy.report import Findings, write_report
from benchmarks.accuracy.running import Runner
from d3tune.errors import D3TuneError

HEADLINE = ("hanzi/3", "hanzi/4", "hanzi/5")
TRIALS, SEEDS = 12, 5
TIMES = """
Time for the three default datasets, measured in sittings beside other work: some ten hours of one core, so five on two;
a sitting that is over goes on from the records.
"""


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """What the command was given."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description=(__doc__ or "").partition(":")[0], epilog=TIMES
    )
    parser.add_argument("--datasets", nargs="+", default=HEADLINE, help="default: hanzi/3 hanzi/4 hanzi/5")
    parser.add_argument("--backbones", nargs="+", default=(*GENERATIVE, *OTHERS), help="default: all")
    arms = (*GENERATIVE_ARMS, SHIPPED)
    parser.add_argument(
        "--arms", nargs="+", default=GENERATIVE_ARMS, choices=arms, help="default: all but shipped, the space as it is"
    )
    parser.add_argument("--questions", nargs="*", default=QUESTIONS, choices=QUESTIONS, help="default: all")
    parser.add_argument("--trials", type=int, default=TRIALS, help="of each cell")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of each confirmation")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time; default: cores")
    parser.add_argument("--hours", type=float, default=3.0, help="begin nothing after so long")
    parser.add_argument(
        "--records", type=Path, default=REPORTS / "accuracy", help="default: benchmarks/reports/accuracy"
    )
    parser.add_argument("--work", type=Path, default=Path("accuracy-work"), help="where runs and logs are")
    parser.add_argument(
        "--set", nargs="+", default=(), metavar="KEY=VALUE", help="fix more where a backbone knows it, for rehearsals"
    )
    parser.add_argument("--report", type=Path, help="default: a dated file in benchmarks/reports")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out what is missing within the time, and report what there is."""
    given = arguments(argv)
    work = given.work.absolute()
    (work / "home").mkdir(parents=True, exist_ok=True)
    # datasets are prepared here, and in no home of a user
    os.environ["D3TUNE_HOME"] = str(work / "home")
    comparison = Comparison(
        tuple(given.datasets),
        tuple(given.backbones),
        tuple(given.arms),
        tuple(given.questions),
        given.trials,
        given.seeds,
        tuple(given.set),
    )
    about = environment()
    settings = {"trials": given.trials, "seeds": given.seeds, "set": list(given.set)}
    records = Records(given.records, settings)
    deadline = time.monotonic() + 3600 * given.hours
    runner = Runner(records, work, max(1, given.jobs), deadline, about["commit"], _say)
    try:
        found = runner.run(comparison.tasks)
    except D3TuneError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    findings = gathered(comparison, found, runner.failures, {**about, **settings})
    if given.report is not None and given.report.suffix != ".md":
        print(
            f"--report {given.report}: give a file that ends in .md; figures go into a folder beside it",
            file=sys.stderr,
        )
        return 2
    path = given.report or REPORTS / f"accuracy-{datetime.now(UTC):%Y-%m-%d}.md"
    write_report(findings, path)
    _say(f"wrote {path}; {len(findings.missing)} of {len(comparison.tasks)} tasks have no record")
    return int(bool(findings.missing))


def gathered(
    comparison: Comparison, found: dict[str, Record], failures: dict[str, str], about: dict[str, Any]
) -> Findings:
    """What the report is made of."""
    cells = {cell: found[cell.name] for cell in comparison.cells if cell.name in found}
    answers = {name: record for name, record in found.items() if record["kind"] != "cell"}
    missing = {task.name: failures.get(task.name, "") for task in comparison.tasks if task.name not in found}
    if not about.get("set"):
        about = {name: value for name, value in about.items() if name != "set"}
    return Findings(comparison.cells, cells, answers, missing, about)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())

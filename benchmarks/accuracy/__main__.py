"""Every backbone with and without D³, tuned alike and tested once: ``python -m benchmarks.accuracy``.

A cell is a search of its own (`benchmarks.accuracy.cells`); what is done is kept in the work folder and not done again,
so that the command may be stopped at any time. The report, Markdown and JSON, is written into ``benchmarks/reports/``
from the cells that are done.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.__main__ import REPORTS, environment
from benchmarks.accuracy.cells import GENERATIVE, OTHERS, carry_out, cells
from benchmarks.accuracy.report import differences, markdown, means

HEADLINE = ("hanzi/3", "hanzi/4", "hanzi/5")
TRIALS, SEEDS = 12, 5


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out what is missing within the time, and report what there is."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description=(__doc__ or "").partition(":")[0]
    )
    parser.add_argument("--datasets", nargs="+", default=HEADLINE, help="default: hanzi/3 hanzi/4 hanzi/5")
    parser.add_argument("--backbones", nargs="+", default=(*GENERATIVE, *OTHERS), help="default: all")
    parser.add_argument("--trials", type=int, default=TRIALS, help="of each cell")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of each confirmation")
    parser.add_argument("--work", type=Path, default=Path("accuracy-work"), help="where cells are kept")
    parser.add_argument("--hours", type=float, default=3.0, help="begin no cell after so long")
    parser.add_argument("--set", nargs="+", default=(), metavar="KEY=VALUE", help="fix more, for rehearsals")
    parser.add_argument("--report", type=Path, help="default: a dated file in benchmarks/reports")
    given = parser.parse_args(argv)
    given.work.mkdir(parents=True, exist_ok=True)
    began, found = time.monotonic(), {}
    todo = cells(given.datasets, given.backbones)
    for cell in todo:
        if time.monotonic() - began > 3600 * given.hours:
            break
        found[cell] = carry_out(cell, given.work.absolute(), given.trials, given.seeds, given.set)
        h = found[cell]["test"]["H"]["mean"]
        print(
            f"{len(found)}/{len(todo)}  {cell.name}  test H {h:.3f}  {(time.monotonic() - began) / 60:.1f} min",
            flush=True,
        )
    about = {
        **environment(),
        "trials a cell": given.trials,
        "seeds": given.seeds,
        "cells": f"{len(found)} of {len(todo)}",
    }
    if given.set:
        about["rehearsal, with"] = ", ".join(given.set)
    path = given.report or REPORTS / f"accuracy-{datetime.now(UTC):%Y-%m-%d}.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(markdown(found, list(given.datasets), about), encoding="utf-8")
    figures = {
        "about": about,
        "cells": {cell.name: {"cell": asdict(cell), "summary": summary} for cell, summary in found.items()},
        "means": means(found, None),
        "differences": [asdict(item) for item in differences(found)],
    }
    path.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")
    return int(len(found) < len(todo))


if __name__ == "__main__":
    sys.exit(main())

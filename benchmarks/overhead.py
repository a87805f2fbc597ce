"""What a search costs beside its trials, and what commands cost that train nothing: ``python -m benchmarks.overhead``.

- ``d3tune --help``, and ``d3tune leaderboard`` over 100 runs of 100 trials each: wall seconds, median of five.
- Searches through real Ray with two trials at once, each of which computes for 10 (or 60) CPU seconds and no more
  (`benchmarks.paced`): wall seconds of the whole command, imports and the start and end of Ray included, over the least
  that is possible, which is trials × seconds / 2. What a search costs once and what each trial costs beside its seconds
  follow (with ``--full``) from two lengths of the same search: the overhead of any other length can be told from them.
- The start of a trial in a worker that has run one before: from the end of the last evaluation to the first update.
- The quickstart of the README, wall seconds.

It exits with 1 where a limit does not hold. The figures need a machine that does nothing else.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = (sys.executable, "-c", "from d3tune.cli import main; main()")
QUICKSTART = "search --dataset hanzi --backbone gan --trials 12 --confirm-seeds 3 --baselines"
SPACE = """\
backbone: paced
fixed: {updates: 100, evaluations: 10}
parameters:
  rate: {low: 0.01, high: 1.0, about: no more than a number}
"""
LISTED = {
    "paced-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: paced\nVersion: 1\n",
    "paced-1.dist-info/entry_points.txt": "[d3tune.backbones]\npaced = benchmarks.paced:BACKBONE\n",
}
# trials, seconds of each, the most that it may cost: a search is dozens of trials, and a shorter one is shown too
SHORT = (12, 10.0, 0.2)
SEARCHES = (SHORT, (24, 10.0, 0.2), (24, 60.0, 0.05))
REPEATS = 5
RUNS = TRIALS = 100


@dataclass(frozen=True)
class Figure:
    """One figure, and the most that it may be, where there is a limit."""

    name: str
    value: float
    limit: float | None
    unit: str

    @property
    def holds(self) -> bool:
        """Whether it is within the limit."""
        return self.limit is None or self.value <= self.limit


class Bench:
    """A home of its own for all commands."""

    def __init__(self, folder: Path) -> None:
        """Install the paced backbone for commands that are run here."""
        self.folder = folder
        site = folder / "site"
        for name, content in LISTED.items():
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).write_text(content, encoding="utf-8")
        (folder / "paced.yaml").write_text(SPACE, encoding="utf-8")
        path = os.pathsep.join([str(site), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._environment = {
            **os.environ,
            "D3TUNE_HOME": str(folder / "home"),
            "TMPDIR": str(folder),
            "PYTHONPATH": path,
        }
        self._environment.pop("MLFLOW_TRACKING_URI", None)

    def seconds(self, *arguments: str, **environment: str) -> float:
        """Wall seconds of a command, which must succeed."""
        began = time.perf_counter()
        done = subprocess.run(  # noqa: S603
            [*PROGRAM, *arguments],
            env={**self._environment, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(f"d3tune {' '.join(arguments)}: exit code {done.returncode}: {done.stderr[-600:]}")
        return time.perf_counter() - began

    def help(self) -> Figure:
        """`d3tune --help`."""
        return Figure("d3tune --help", self._median("--help"), 0.3, "s")

    def leaderboard(self) -> Figure:
        """`d3tune leaderboard` over many runs: one real search, copied."""
        runs = self.folder / "home" / "runs"
        budget = ("--trials", str(TRIALS), "--confirm-seeds", "1", "--run-dir", str(self.folder / "run"))
        self.seconds("search", "--dataset", "hanzi", "--backbone", "gaussian", *budget)
        for number in range(RUNS):
            shutil.copytree(self.folder / "run", runs / f"run-{number}")
        listed = subprocess.run(  # noqa: S603
            [*PROGRAM, "leaderboard", "--json"], env=self._environment, capture_output=True, text=True, check=True
        )
        if len(json.loads(listed.stdout)) != 1:
            raise RuntimeError("the leaderboard does not list the runs")
        seconds = self._median("leaderboard")
        shutil.rmtree(runs)
        return Figure(f"d3tune leaderboard, {RUNS} runs of {TRIALS} trials", seconds, 1.0, "s")

    def search(self, trials: int, length: float) -> tuple[float, list[float]]:
        """Wall seconds of a search whose trials take so many CPU seconds, and those between trials in one worker."""
        log = self.folder / f"log-{trials}-{length:g}"
        budget = ("--trials", str(trials), "--concurrency", "2", "--confirm-seeds", "0", "--pruner", "none")
        what = ("search", "--dataset", "hanzi", "--backbone", "paced", "--space", str(self.folder / "paced.yaml"))
        where = ("--run-dir", str(self.folder / "home" / f"paced-{trials}-{length:g}"))
        wall = self.seconds(*what, *budget, *where, PACED_SECONDS=str(length), PACED_LOG=str(log))
        text = log.read_text(encoding="utf-8")
        if text.count(" end ") != trials:
            raise RuntimeError(f"{text.count(' end ')} of {trials} trials came to their end")
        return wall, between_trials(text)

    def quickstart(self) -> Figure:
        """The README's search."""
        return Figure("the README's quickstart", self.seconds(*QUICKSTART.split()), 180, "s")

    def _median(self, *arguments: str) -> float:
        return median(self.seconds(*arguments) for _ in range(REPEATS))


def between_trials(log: str) -> list[float]:
    """Seconds from each end to the next begin in the same process."""
    ended: dict[str, float] = {}
    found = []
    for line in log.splitlines():
        process, what, moment = line.split()
        if what == "end":
            ended[process] = float(moment)
        elif process in ended:
            found.append(float(moment) - ended.pop(process))
    return found


def measure(folder: Path, say: Callable[[str], None], full: bool = False) -> list[Figure]:
    """All figures, one after another."""
    bench, figures = Bench(folder), []

    def add(*found: Figure) -> None:
        for figure in found:
            figures.append(figure)
            say(line_of(figure))

    add(bench.help(), bench.leaderboard())
    gaps, walls = [], {}
    for trials, length, limit in SEARCHES if full else (SHORT,):
        wall, found = bench.search(trials, length)
        gaps += found
        least = trials * length / 2
        walls[trials, length] = wall
        what = f"overhead of {trials} trials of {length:g} s, two at once, over {least:g} s"
        add(Figure(what, 100 * (wall / least - 1), 100 * limit, "%"))
    if full:
        add(*once_and_each(walls))
    add(Figure(f"start of a trial in a warm worker, median of {len(gaps)}", 1e3 * median(gaps), 200, "ms"))
    add(bench.quickstart())
    return figures


def once_and_each(walls: Mapping[tuple[int, float], float]) -> list[Figure]:
    """What a search costs once, and a trial beside its seconds, from two searches that differ in their number alone.

    Args:
        walls: wall seconds by trials and seconds of each.
    """
    (few, length, _), (many, _, _) = SEARCHES[:2]
    spare = {trials: walls[trials, length] - trials * length / 2 for trials in (few, many)}
    each = (spare[many] - spare[few]) / (many - few)
    return [
        Figure("of that: once a search", spare[few] - few * each, None, "s"),
        Figure("of that: each trial, with two at once", each, None, "s"),
    ]


def line_of(figure: Figure) -> str:
    """As it is printed."""
    text = f"{figure.name:<62} {figure.value:>8.3g} {figure.unit:<2}"
    if figure.limit is None:
        return text
    return f"{text} (limit {figure.limit:g} {figure.unit})  {'yes' if figure.holds else 'NO'}"


def to_dict(figures: list[Figure]) -> list[Mapping[str, object]]:
    """For a JSON file."""
    return [{**asdict(figure), "holds": figure.holds} for figure in figures]


def main(argv: list[str] | None = None) -> int:
    """Measure and print; 1 where a limit does not hold."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead", description=(__doc__ or "").partition(":")[0]
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--full", action="store_true", help="also 24 trials of 10 s, and of a minute; 15 min longer")
    given = parser.parse_args(argv)
    # a short name: the paths of Ray's sockets may not be longer than 107 bytes
    with tempfile.TemporaryDirectory(prefix="d3o-", ignore_cleanup_errors=True) as folder:
        figures = measure(Path(folder), lambda line: print(line, flush=True), given.full)
    if given.json:
        given.json.write_text(json.dumps(to_dict(figures), indent=1) + "\n", encoding="utf-8")
    return int(not all(figure.holds for figure in figures))


if __name__ == "__main__":
    sys.exit(main())

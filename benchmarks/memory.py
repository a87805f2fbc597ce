"""What a trial's process holds for itself: ``python -m benchmarks.memory``.

Two trials of `gan` at a time train on a simulated dataset of FLO's shape with the published widths and all D³ terms on,
through real Ray, eight trials in all, which differ in two loss weights alone. Ten times a second the unique memory
(USS: private pages, clean and dirty) of every process that trains is read from the kernel. The limit is for the largest
value ever seen in any of them; the largest while the first and while the last third of the search ran stand beside it:
it must not grow with the trials.

It exits with 1 where a limit does not hold. Linux only.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from d3tune.search.executor.processes import descendants

PROGRAM = (sys.executable, "-c", "from d3tune.cli import main; main()")
MOST_MEGABYTES = 700
MOST_GROWTH = 1.1
TRIALS = 8
SPACE = """\
backbone: gan
fixed:
  {updates: 20, evaluations: 4, batch_size: 64, hidden_dim: 4096, noise_dim: 1024, embed_dim: 256, n_synthetic_step: 2,
   teacher_epochs: 1, teacher_lr: 1e-3, head_epochs: 1, n_synthetic_final: 50}
parameters:
  cls_weight: {low: 0.01, high: 1, about: of the student's classification}
  ood_weight: {low: 0.01, high: 1, about: of the outlier distillation}
"""
WORKERS = ("ray::ResourceTrainable", "ray::TrialActor")
POLL_SECONDS = 0.1
PRIVATE = re.compile(r"^Private_(?:Clean|Dirty):\s+(\d+) kB", re.MULTILINE)


def unique_megabytes(pid: int) -> float:
    """USS of a process; 0 where it is gone."""
    try:
        text = (Path("/proc") / str(pid) / "smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return sum(int(size) for size in PRIVATE.findall(text)) / 1024


def watch(folder: Path, trials: int) -> list[float]:
    """Run the search; the largest USS of its workers at every look."""
    environment = {**os.environ, "D3TUNE_HOME": str(folder / "home"), "TMPDIR": str(folder)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    data = folder / "data"
    make = [*PROGRAM, "data", "simulate", str(data), "--like", "flo"]
    subprocess.run(make, check=True, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603
    (folder / "space.yaml").write_text(SPACE, encoding="utf-8")
    budget = ["--trials", str(trials), "--concurrency", "2", "--confirm-seeds", "0", "--pruner", "none"]
    search = [*PROGRAM, "search", "--dataset", "flo", "--data-dir", str(data), "--backbone", "gan", *budget]
    search += ["--space", str(folder / "space.yaml")]
    process = subprocess.Popen(search, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603
    seen = []
    while process.poll() is None:
        workers = [pid for pid, line in descendants(process.pid).items() if line.startswith(WORKERS)]
        if workers:
            seen.append(max(map(unique_megabytes, workers)))
        time.sleep(POLL_SECONDS)
    # 3: so short a training may end near chance in every trial, which is a failure of all, with the same memory
    if process.returncode not in (0, 3) or not seen:
        raise RuntimeError(f"the search ended with exit code {process.returncode}")
    return seen


def main(argv: list[str] | None = None) -> int:
    """Measure and print; 1 where a limit does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--trials", type=int, default=TRIALS, help="of the search; the more, the surer its growth")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="d3m-", ignore_cleanup_errors=True) as folder:
        seen = watch(Path(folder), given.trials)
    third = max(1, len(seen) // 3)
    most, first, last = max(seen), max(seen[:third]), max(seen[-third:])
    print(
        f"unique memory of a trial's process, largest of {len(seen)} looks: {most:.0f} MB (limit {MOST_MEGABYTES} MB)"
    )
    print(f"first third {first:.0f} MB, last third {last:.0f} MB: {last / first:.2f} x (limit {MOST_GROWTH:g})")
    figures = {"most": most, "limit": MOST_MEGABYTES, "first third": first, "last third": last}
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return int(most > MOST_MEGABYTES or last > MOST_GROWTH * first)


if __name__ == "__main__":
    sys.exit(main())

"""Build the golden run directory: a small search with a trial of every state, as this version writes it.

``python tools/build_golden_run.py tests/golden`` makes ``tests/golden/run-format-<FORMAT>``. It is made once for a
format and kept: every later version must load, resume, export and list it (tests/search/test_golden_run.py). Build a
new one only for a new format, beside the old ones.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

from d3tune.config import Resources
from d3tune.search.executor import StopSignal, inprocess
from d3tune.search.jobs import TrainingJob
from d3tune.search.reports import Report
from d3tune.search.request import Request, prepare_run
from d3tune.search.run import FORMAT
from d3tune.search.search import Plan, run_search
from d3tune.search.tracking import default_uri
from d3tune.search.trial import RunningTrial
from d3tune.yamlfile import dump_yaml, read_yaml

SETTINGS = {
    "updates": 40,
    "evaluations": 4,
    "hidden_dim": 8,
    "embed_dim": 8,
    "teacher_epochs": 1,
    "head_epochs": 2,
    "n_synthetic_final": 5,
}
CONFIRMED, INTERRUPTED = 6, 7
FAILING = 2


def main() -> None:
    """Build it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    place = parser.parse_args().folder.absolute() / f"run-format-{FORMAT}"
    if place.exists():
        parser.error(f"{place} is there already; a golden run is never built again")
    with tempfile.TemporaryDirectory() as home, mock.patch.dict(os.environ, {"D3TUNE_HOME": home}):
        _build(Path(home) / "run")
        shutil.copytree(Path(home) / "run", place, ignore=shutil.ignore_patterns("log.txt"))
    document = read_yaml(place / "run.yaml")
    # of another machine: readers find the dataset by its name
    document["dataset_path"] = "/elsewhere/datasets/hanzi-0"
    (place / "run.yaml").write_text(dump_yaml(document), encoding="utf-8")


def _build(path: Path) -> None:
    settings = tuple(f"{key}={value}" for key, value in SETTINGS.items())
    run, _ = prepare_run(Request(dataset="hanzi", backbone="gan", settings=settings, run_dir=path))
    stop = StopSignal()

    class Built(RunningTrial):
        """Fails where the golden run wants a failure, and stops the search within its last trial."""

        def __init__(
            self, job: TrainingJob, directory: Path, known_update: int = 0, keep_weights: bool = False
        ) -> None:
            self._number = int(directory.name)
            super().__init__(job, directory, known_update, keep_weights)

        def next_report(self) -> Report:
            if self._number == FAILING:
                raise ValueError("made to fail")
            report = super().next_report()
            stop.requested = self._number == INTERRUPTED - 1 and report.update == 20
            return report

    def plan(trials: int) -> Plan:
        return Plan(trials, None, Resources(executor="local"), 1, True, default_uri(), keep_weights=1)

    with mock.patch.object(inprocess, "RunningTrial", Built), run.owned():
        for trials in (CONFIRMED, INTERRUPTED):
            run_search(run, plan(trials), stop, print)


if __name__ == "__main__":
    main()

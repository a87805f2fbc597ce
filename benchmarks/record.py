"""Record random trials for comparing samplers and pruners without training: ``python -m benchmarks.record``.

A cell is a backbone on a class split of the embedded dataset. Of each, random configurations of the shipped space are
trained on the validation protocol, to the full budget and without a pruner, and every report is kept in
``benchmarks/tables/`` (see `benchmarks.trials`); the first configurations are trained with further seeds, which says
how noisy H is. What is recorded is not trained again, so that the command may be stopped at any time and go on in
several sittings: it writes every two minutes. It exits with 1 while something is missing. No test row takes part.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import count, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import optuna
from pydantic import ValidationError

from benchmarks.__main__ import environment
from benchmarks.trials import TABLES, Cell, Table, Trained
from d3tune.config import TrialConfig, metric_prefix
from d3tune.data.registry import prepared_path
from d3tune.errors import D3TuneError
from d3tune.files import home_path
from d3tune.method.memory import give_back
from d3tune.method.trainer import DivergedError
from d3tune.search.jobs import TrainingJob
from d3tune.search.reports import Report, make_report
from d3tune.search.request import Request, resolved
from d3tune.search.sampling import make_sampler, suggest
from d3tune.space import Space

BACKBONES, DATASETS = ("gan", "vae", "diffusion", "rezsl"), ("hanzi/0", "hanzi/1")
TRIALS, REPEATED, SEEDS = 300, 40, 3
WRITE_SECONDS = 120.0


@dataclass(frozen=True)
class Task:
    """One training to do."""

    number: int
    seed: int
    params: dict[str, Any]
    job: TrainingJob


class Recorder:
    """What is recorded of one cell, and what is to be."""

    def __init__(self, cell: Cell, tables: Path, settings: Sequence[str], commit: str) -> None:
        """Read the table and check that it is of this space and these data.

        Args:
            cell: which.
            tables: folder of the tables.
            settings: hyper-parameters to fix, as ``--set`` takes them.
            commit: of this code.

        Raises:
            UsageError: a setting is wrong, or the table is of another space.
        """
        request = Request(cell.dataset, cell.backbone, settings=tuple(settings))
        dataset, self._search, self._space, self._config = resolved(request, None, home_path())
        self.cell, self.table, self._commit = cell, Table(cell, tables), commit
        self._path = str(prepared_path(dataset))
        self.about = {
            "backbone": cell.backbone,
            "dataset": cell.dataset,
            "dataset_hash": self._search.dataset_hash,
            "space_hash": self._space.hash,
            "space": self._space.to_dict(),
            "machine": environment(),
        }
        self.table.check(self.about)

    def missing(self, trials: int, repeated: int, seeds: int) -> list[Task]:
        """What is to be trained: every configuration once, then the first ones with further seeds."""
        wanted = [(number, 0) for number in range(trials)]
        wanted += [(number, seed) for number in range(min(repeated, trials)) for seed in range(1, seeds)]
        points = list(islice(configurations(self._space, self._config), trials))
        return [
            Task(number, seed, points[number][0], self._job(points[number][1], seed))
            for number, seed in wanted
            if (number, seed) not in self.table.rows
        ]

    def keep(self, done: Sequence[tuple[Task, list[Report], str]]) -> None:
        """Write what was trained."""
        rows = [
            Trained(task.number, task.seed, task.params, task.job.config, reports, failure, self._commit)
            for task, reports, failure in done
        ]
        self.table.add(rows, self.about)

    def _job(self, config: dict[str, Any], seed: int) -> TrainingJob:
        return TrainingJob(self.cell.backbone, config, self._path, self._search.dataset_hash, seed)


def configurations(space: Space, config: type[TrialConfig]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Random configurations of a space, always the same ones: Optuna's parameters and every hyper-parameter.

    Those that the space allows and the backbone does not are left out, as a search would fail them at once.
    """
    for number in count():
        study = optuna.create_study(sampler=make_sampler("random", 0, number))
        trial = study.ask()
        try:
            values = config(**suggest(trial, space, config)).model_dump(mode="json")
        except ValidationError:
            continue
        yield dict(trial.params), values


def train(job: TrainingJob) -> tuple[list[Report], str]:
    """Every report of a training on the validation protocol, and why it ended early; in a worker."""
    reports: list[Report] = []
    trainings = job.selecting_trainings()
    give_back()
    # of the processor, which a machine that does other things beside it leaves as it is
    started = time.process_time()
    try:
        for evaluations in zip(*(training.evaluations() for training in trainings), strict=True):
            seconds = time.process_time() - started
            reports.append(make_report(evaluations, job.objective, seconds, metric_prefix(job.protocol)))
            give_back()
    except D3TuneError:
        raise
    except DivergedError as error:
        return reports, f"diverged: {error}"
    except Exception as error:
        # as a search would: its trial fails, the others go on
        return reports, f"{type(error).__name__}: {error}"
    return reports, ""


def _left_alone() -> None:
    """Ctrl-C in a terminal is also the workers'; what they train is waited for and kept."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def record(recorder: Recorder, tasks: Sequence[Task], jobs: int, deadline: float) -> int:
    """Train in processes of their own and write from time to time; how many tasks are left.

    Raises:
        KeyboardInterrupt: once what was being trained is recorded.
    """
    left, done = list(tasks), list[tuple[Task, list[Report], str]]()
    running: dict[Future[tuple[list[Report], str]], Task] = {}
    written, stopped = time.monotonic(), False
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_left_alone) as pool:
        while True:
            try:
                while left and len(running) < jobs and time.monotonic() < deadline and not stopped:
                    task = left.pop(0)
                    running[pool.submit(train, task.job)] = task
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    done.append((running.pop(future), *future.result()))
                if time.monotonic() - written > WRITE_SECONDS:
                    recorder.keep(done)
                    done, written = [], time.monotonic()
            except KeyboardInterrupt:
                stopped = True
    if done:
        recorder.keep(done)
    if stopped:
        raise KeyboardInterrupt
    return len(left)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Record what is missing within the time; 1 while something is."""
    given = arguments(argv)
    deadline = time.monotonic() + 3600 * given.hours
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    signal.signal(signal.SIGTERM, _interrupt)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    commit, left = environment()["commit"], 0
    with tempfile.TemporaryDirectory(prefix="d3tune-record-") as home:
        # datasets are prepared here, and in no home of a user
        os.environ["D3TUNE_HOME"] = home
        try:
            for dataset in given.datasets:
                for backbone in given.backbones:
                    recorder = Recorder(Cell(backbone, dataset), given.tables, given.set, commit)
                    tasks = recorder.missing(given.trials, given.repeated, given.seeds)
                    left += record(recorder, tasks, given.jobs, deadline)
                    print(f"{recorder.cell.name}: {len(recorder.table.rows)} trainings recorded", flush=True)
        except D3TuneError as error:
            print(error, file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("stopped; the same command goes on", file=sys.stderr)
            return 130
    print(f"{left} trainings left" if left else "all is recorded")
    return int(left > 0)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """What the command was given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.record", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--datasets", nargs="+", default=DATASETS)
    parser.add_argument("--trials", type=int, default=TRIALS, help="configurations of each cell")
    parser.add_argument("--repeated", type=int, default=REPEATED, help="so many of them with every seed")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of those")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time; default: cores")
    parser.add_argument("--hours", type=float, default=1.0, help="begin nothing after so long")
    parser.add_argument("--tables", type=Path, default=TABLES, help="default: benchmarks/tables")
    parser.add_argument("--set", nargs="+", default=(), metavar="KEY=VALUE", help="fix more, for rehearsals")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())

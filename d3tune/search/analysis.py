"""The analysis of a confirmed winner: made from the scores of its first seed's test, kept beside the stored result."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from d3tune import __version__
from d3tune.config import first_fault
from d3tune.data.prepared import open_prepared
from d3tune.files import parse_json, write_json
from d3tune.method.analysis import Analysis, analyse
from d3tune.method.readings import Readings
from d3tune.search.confirmed_model import ModelRequest
from d3tune.search.executor import Executor, StopSignal
from d3tune.search.jobs import TrainingJob
from d3tune.search.run import RunDirectory
from d3tune.words import TEST_SELECTED

ANALYSIS_FILE = "analysis.json"
# of 1,000 classes it has 150 kB
MAX_BYTES = 5_000_000
LINE = 160
ABOUT = (
    "Test protocol, one seed: trained on all of trainval for the updates that validation fixed, read once by the head "
    "that validation chose. Everything is at the offset from validation but the curve, which is over all offsets, and "
    f"test_optimal, the offset that the test rows themselves would have chosen ({TEST_SELECTED}, optimistic)."
)
UNITS = {
    "accuracy": "share of a class's test rows, in [0, 1], all classes as candidates",
    "U, S, H, T1, AUSUC": "in [0, 1]; U and S are means of accuracy over unseen and seen classes that have test rows",
    "seen_offset": "subtracted from the scores of seen classes; in the unit that offset_unit names",
    "rows, matrix, ood.seen, ood.unseen": "numbers of test rows",
    "true, predicted": "places in the list of classes, from 0",
    "ood.edges, ood.threshold": "in units of the score, which is higher for rows like those of seen classes",
    "AUROC, FPR95": "in [0, 1]; of the OOD score, seen against unseen test rows",
}


class Recorded(BaseModel):
    """What `ANALYSIS_FILE` holds.

    Attributes:
        format: of the file.
        d3tune: the version that made it.
        about: protocol, in words.
        units: of what is in it, in words.
        protocol: whose rows these are.
        backbone: its name.
        seed: of the training that was tested, the first of the confirmation.
        updates: s*, from validation.
        head: from validation.
        seen_offset: δ, from validation.
        offset_unit: see `TrialConfig`; empty of a backbone that has none.
        test: the seed's test figures, as they are stored and reported.
        analysis: of the scores that gave them; None where ``missing`` says why.
        missing: one line.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    format: Literal[1] = 1
    d3tune: str = __version__
    about: str = ABOUT
    units: dict[str, str] = UNITS
    protocol: Literal["test"] = "test"
    backbone: str
    seed: int
    updates: int
    head: str
    seen_offset: float
    offset_unit: str = ""
    test: dict[str, float]
    analysis: Analysis | None
    missing: str = ""


class Analysing:
    """An executor whose `map` of tests also analyses that of one seed, and writes it before it passes the result on.

    So what is stored has its analysis, and a confirmation that was interrupted ends with it.
    """

    def __init__(self, executor: Executor, path: Path, seed: int) -> None:
        """Wrap an executor.

        Args:
            executor: what trains.
            path: where the analysis is written.
            seed: of the job whose test is analysed.
        """
        self._executor, self._path, self._seed = executor, path, seed
        self.run_trials, self.close = executor.run_trials, executor.close
        self.share_gpus = executor.share_gpus

    @property
    def concurrency(self) -> int:
        """See `Executor.concurrency`."""
        return self._executor.concurrency

    def map(
        self,
        function: Callable[..., dict[str, float]],
        items: Sequence[tuple[Any, ...]],
        stop: StopSignal,
        on_result: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        """See `Executor.map`; the function is `evaluate_on_test`."""
        tests = [(function, item[0].seed == self._seed, *item) for item in items]

        def pass_on(index: int, value: tuple[dict[str, float], dict[str, Any] | None]) -> None:
            test, recorded = value
            if recorded is not None:
                write_json(self._path, recorded)
            if on_result is not None:
                on_result(index, test)

        return [test for test, _ in self._executor.map(tested, tests, stop, pass_on)]


def tested(
    function: Callable[..., dict[str, float]],
    analysed: bool,
    job: TrainingJob,
    updates: int,
    head: str,
    seen_offset: float,
    model: ModelRequest | None = None,
) -> tuple[dict[str, float], dict[str, Any] | None]:
    """A test and, where it is analysed, what `ANALYSIS_FILE` shall hold of it.

    Args:
        function: `evaluate_on_test`.
        analysed: whether it is.
        job: see `evaluate_on_test`.
        updates: see `evaluate_on_test`.
        head: see `evaluate_on_test`.
        seen_offset: see `evaluate_on_test`.
        model: see `evaluate_on_test`.
    """
    if not analysed:
        return function(job, updates, head, seen_offset, model), None
    readings = Readings()
    test = function(job, updates, head, seen_offset, model, readings)
    return test, record(job, updates, head, seen_offset, test, readings).model_dump(mode="json")


def record(
    job: TrainingJob, updates: int, head: str, seen_offset: float, test: dict[str, float], readings: Readings
) -> Recorded:
    """What is kept of one seed's test.

    Args:
        job: what was trained.
        updates: s*.
        head: the head that validation chose.
        seen_offset: δ.
        test: the figures.
        readings: what they were made of; without scores, as a backbone of another package may leave it, the record
            says so.
    """
    analysis, missing = None, f"backbone '{job.backbone}' does not hand out its scores"
    if head in readings.scores:
        analysis, missing = analyse(readings, head, seen_offset, _class_names(job)), ""
    return Recorded(
        backbone=job.backbone,
        seed=job.seed,
        updates=updates,
        head=head,
        seen_offset=seen_offset,
        offset_unit=job.config.get("offset_unit", ""),
        test=test,
        analysis=analysis,
        missing=missing,
    )


def read_analysis(run: RunDirectory) -> Recorded | str:
    """The analysis of a run's confirmed winner, or one line on why there is none."""
    summary = run.read_summary() or {}
    number, selection, test = (summary.get(key) for key in ("confirmed_trial", "selection", "test"))
    if not (isinstance(number, int) and isinstance(selection, dict) and isinstance(test, dict)):
        return f"no confirmed winner yet; finish it with: {run.resume_command}"
    if selection.get("protocol") == "published":
        return f"the search chose on the test sets ({TEST_SELECTED}): there is no test to analyse"
    path = run.path / "confirm" / f"trial-{number:05d}" / ANALYSIS_FILE
    if not path.exists():
        return (
            "not recorded when the test was made, by a version before this; the test sets are not read again "
            f"for it ({path.name} is missing)"
        )
    try:
        recorded = _read(path)
    except ValueError as error:
        return f"{path}: damaged ({error}); it is made with the test alone"
    if not _of(recorded, selection, test):
        return f"{path}: of another confirmation than the summary's; finish it with: {run.resume_command}"
    return recorded


def _read(path: Path) -> Recorded:
    """Read a record.

    Raises:
        ValueError: it is none; one short line.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES // 1_000_000} MB")
        return Recorded.model_validate(parse_json(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise ValueError(first_fault(error)[:LINE]) from None
    except OSError as error:
        raise ValueError(error.strerror) from None


def _of(recorded: Recorded, selection: dict[str, Any], test: dict[str, Any]) -> bool:
    """Whether a record is of the test that a summary reports."""
    fixed = all(selection.get(name) == getattr(recorded, name) for name in ("updates", "head", "seen_offset"))
    per_seed = test.get("H_per_seed")
    return fixed and isinstance(per_seed, dict) and per_seed.get(str(recorded.seed)) == recorded.test.get("H")


def _class_names(job: TrainingJob) -> list[str]:
    """Of the test protocol's classes in local order."""
    dataset = open_prepared(Path(job.dataset))
    return [dataset.class_names[i] for i in (*dataset.seen_classes.tolist(), *dataset.unseen_classes.tolist())]

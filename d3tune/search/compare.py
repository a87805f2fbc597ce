"""Comparison: two configurations, each fixed by its own validation, tested on the same seeds and compared in pairs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from d3tune.documents import is_json
from d3tune.errors import D3TuneError, RunError, UsageError
from d3tune.search.aims import nothing_wins
from d3tune.search.configuration import SEARCH_KEY, Configuration, configuration_of, read_configuration
from d3tune.search.confirm import ConfirmationFailedError, Selection, TestResult
from d3tune.search.executor import Executor, StopSignal
from d3tune.search.exported import confirmation_store, confirmed_document, trial_document
from d3tune.search.jobs import TrainingJob
from d3tune.search.measuring import measure, store_below
from d3tune.search.pairing import Paired, paired, smallest_p
from d3tune.search.run import RunDirectory, open_run
from d3tune.search.standing import winner
from d3tune.search.study import read_trials
from d3tune.search.summaries import configuration_id
from d3tune.words import plural

METRICS = ("H", "U", "S", "T1", "AUSUC")
MAX_SPLITS = 100
# of a result that does not depend on the seed: rounding
SAME = 1e-12


@dataclass(frozen=True)
class Side:
    """One of the two that are compared.

    Attributes:
        name: as it was given.
        configuration: what is trained.
        earlier: where its run keeps what it trained for a confirmation; None of a file.
    """

    name: str
    configuration: Configuration
    earlier: Path | None = None


@dataclass(frozen=True)
class Pairing:
    """Two sides that can be compared, and on what.

    Attributes:
        a: the first side.
        b: the second side.
        seeds: the same for both, none of which either was searched with.
        splits: validation draws, the same for both.
    """

    a: Side
    b: Side
    seeds: tuple[int, ...]
    splits: tuple[int, ...]


@dataclass(frozen=True)
class Measured:
    """What came of one side.

    Attributes:
        name: as it was given.
        backbone: its name.
        configuration: see `configuration_id`.
        trial: of its run, None where it is of none.
        test_selected: whether the test sets had chosen its hyper-parameters.
        selection: what validation fixed for it.
        test: its test result.
    """

    name: str
    backbone: str
    configuration: str
    trial: int | None
    test_selected: bool
    selection: Selection
    test: TestResult

    def to_dict(self) -> dict[str, Any]:
        """Plain values; every seed's metrics too, for statistics of one's own."""
        rows = [{"seed": seed, **row} for seed, row in zip(self.test.seeds, self.test.per_seed, strict=True)]
        return {
            **vars(self),
            "selection": self.selection.model_dump(mode="json"),
            "test": {**self.test.to_dict(), "per_seed": rows},
        }


@dataclass(frozen=True)
class Comparison:
    """Two configurations on the same seeds.

    Attributes:
        dataset: name, content hash, semantics and feature tag.
        seeds: the same for both.
        splits: validation draws, the same for both.
        a: the first.
        b: the second.
        differences: by metric, the first minus the second.
        one_measurement: whether neither depends on the seed, so that all seeds are one measurement.
    """

    dataset: dict[str, str]
    seeds: tuple[int, ...]
    splits: tuple[int, ...]
    a: Measured
    b: Measured
    differences: dict[str, Paired]
    one_measurement: bool

    @property
    def smallest_p(self) -> float | None:
        """The smallest two-sided p that so many seeds can give; None where there is no test."""
        return None if self.one_measurement else smallest_p(len(self.seeds))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "dataset": self.dataset,
            "seeds": list(self.seeds),
            "splits": list(self.splits),
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
            "differences": {name: vars(difference) for name, difference in self.differences.items()},
            "smallest_p": self.smallest_p,
            "one_measurement": self.one_measurement,
        }


def read_side(what: str, data_dir: Path | None) -> Side:
    """A side as a user names it.

    Args:
        what: a configuration file; or a run, whose confirmed winner it is, and before there is one its best complete
            trial.
        data_dir: where datasets are looked for.

    Raises:
        UsageError: it is neither, or its dataset is missing or has another content.
        RunError: the run has no complete trial, or is damaged.
    """
    path = Path(what).expanduser()
    if path.is_file() or path.suffix.lower() in (".yaml", ".yml") or is_json(path):
        return Side(what, read_configuration(path, data_dir))
    try:
        run = open_run(what)
    except UsageError as error:
        raise UsageError(f"{what}: no file of a configuration, and {error}") from None
    document = confirmed_document(run) if run.best.exists() else trial_document(run, _best(run).number)
    prepared = run.dataset_path if data_dir is None and run.dataset_path.is_dir() else None
    configuration = configuration_of(document, str(run.path), data_dir, prepared=prepared)
    number = configuration.source.get("trial")
    return Side(what, configuration, confirmation_store(run, number) if isinstance(number, int) else None)


def pair(a: Side, b: Side, n_seeds: int, splits: Sequence[int] | None) -> Pairing:
    """Make sure that two sides can be compared, and say on what.

    Args:
        a: the first side.
        b: the second side.
        n_seeds: how many.
        splits: validation draws; None is what both were validated on.

    Returns:
        Seeds begin where the later of the two confirmations does.

    Raises:
        UsageError: the datasets, splits or semantics differ, the configurations do not, or were validated on different
            draws.
    """
    _refuse_other_data(a, b)
    first, second = a.configuration, b.configuration
    draws = _draws(a, b) if splits is None else tuple(splits)
    if _identity(first) == _identity(second):
        raise UsageError(f"{a.name} and {b.name} are the same configuration: there is nothing to compare")
    start = max(first.seeds(1)[0], second.seeds(1)[0])
    return Pairing(a, b, tuple(range(start, start + n_seeds)), draws)


def compare(pairing: Pairing, executor: Executor, stop: StopSignal, say: Callable[[str], None]) -> Comparison:
    """Train both sides and test each once a seed.

    Update count, head and offset of each side are fixed by its own validation, with its own objective. What was
    trained is kept below ``$D3TUNE_HOME/comparisons``, by configuration: the same command goes on, and a side that is
    compared with another is not trained again. What a run's confirmation has is used too.

    Args:
        pairing: from `pair`.
        executor: where to train.
        stop: ends between trainings.
        say: takes one line a side.

    Raises:
        D3TuneError: a side diverges.
    """
    sides = []
    for letter, side in (("A", pairing.a), ("B", pairing.b)):
        say(f"{letter}: {side.configuration.job.backbone} of {side.name}, {plural(len(pairing.seeds), 'seed')}")
        sides.append(_measured(side, pairing, executor, stop))
    a, b = sides
    once = len(pairing.seeds) > 1 and not any(_depends_on_seed(side.test) for side in sides)
    differences = {name: paired(a.test, b.test, name) for name in METRICS}
    if once:
        differences = {name: Paired(found.mean, None, None, None) for name, found in differences.items()}
    identity = pairing.a.configuration.identity
    return Comparison(identity, pairing.seeds, pairing.splits, a, b, differences, once)


def _measured(side: Side, pairing: Pairing, executor: Executor, stop: StopSignal) -> Measured:
    found = side.configuration
    # whatever chose the configuration
    job = replace(found.job, protocol="validation", splits=pairing.splits)
    store = store_below("comparisons", job)
    try:
        selection, test = measure(job, pairing.seeds, executor, stop, store, side.earlier)
    except ConfirmationFailedError as error:
        raise D3TuneError(f"{side.name}: {error}") from None
    trial = found.source.get("trial")
    return Measured(
        name=side.name,
        backbone=job.backbone,
        configuration=configuration_id(job.backbone, job.config),
        trial=trial if isinstance(trial, int) else None,
        test_selected=found.test_selected,
        selection=selection,
        test=test,
    )


def _best(run: RunDirectory) -> FrozenTrial:
    trials = read_trials(run.journal)
    best = winner(trials)
    if best is None:
        raise RunError(f"{run.path}: {nothing_wins(trials, run.search)}; go on with: {run.resume_command}")
    return best


def _refuse_other_data(a: Side, b: Side) -> None:
    first, second = a.configuration.identity, b.configuration.identity
    if first["content_hash"] == second["content_hash"]:
        return
    shown = [
        f"{side.name} is about {name['name']} ({name['semantics']}, {name['features']}, {name['content_hash'][:12]})"
        for side, name in ((a, first), (b, second))
    ]
    differing = [key for key in ("name", "semantics", "features") if first[key] != second[key]]
    what = ", ".join(differing) if differing else "content: features, class splits or semantics"
    raise UsageError(f"{shown[0]}, {shown[1]}: they differ in {what}; compare results on the same data alone")


def _draws(a: Side, b: Side) -> tuple[int, ...]:
    """The validation draws of both sides; a side that was never validated takes those of the other."""
    given = [side.configuration.job.splits for side in (a, b) if _was_validated(side.configuration)]
    if len(given) == 2 and given[0] != given[1]:
        words = [",".join(map(str, splits)) for splits in given]
        raise UsageError(
            f"{a.name} was validated on splits {words[0]}, {b.name} on {words[1]}; give the same for both with --splits"
        )
    return given[0] if given else a.configuration.job.splits


def _was_validated(configuration: Configuration) -> bool:
    return configuration.selection is not None or SEARCH_KEY in configuration.source


def _identity(configuration: Configuration) -> tuple[str, str]:
    job: TrainingJob = configuration.job
    return configuration_id(job.backbone, job.config), job.objective


def _depends_on_seed(test: TestResult) -> bool:
    return any(
        max(row[name] for row in test.per_seed) - min(row[name] for row in test.per_seed) > SAME for name in METRICS
    )


def parse_splits(text: str) -> tuple[int, ...]:
    """Validation draws as a user writes them, e.g. ``0,1,2``.

    Raises:
        UsageError: they are not numbers from 0, one is there twice, or there are too many.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and part.isascii() and len(part) < 7 for part in parts):
        raise UsageError(f"--splits {text}: write numbers from 0, separated by commas, e.g. 0,1,2")
    splits = tuple(int(part) for part in parts)
    if len(set(splits)) < len(splits) or len(splits) > MAX_SPLITS:
        raise UsageError(f"--splits {text}: each number once, and at most {MAX_SPLITS}")
    return splits

"""Ablation: what each D³ term is worth at one configuration, on the same seeds, without tuning anything again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from d3tune.config import first_fault
from d3tune.errors import UsageError
from d3tune.method.generators import load_backbone
from d3tune.search.configuration import Configuration
from d3tune.search.confirm import ConfirmationFailedError, Selection, TestResult
from d3tune.search.executor import Executor, StopSignal
from d3tune.search.jobs import TrainingJob
from d3tune.search.measuring import measure, store_below
from d3tune.search.pairing import Paired, paired

# the weight of each term and its name in the method
TERMS = {"cls_weight": "L_cls", "embedding_weight": "L_be", "label_weight": "L_kl", "ood_weight": "L_od"}
FULL, NONE = "full", "no D³ term"


@dataclass(frozen=True)
class Row:
    """One variant.

    Attributes:
        name: ``full``, ``without L_od``, ``L_cls alone`` …
        terms: names of the terms that are on.
        selection: what validation fixed for it; None where it has no result.
        test: its test result.
        difference: to the full configuration; None for that itself.
        missing: why there is no result.
    """

    name: str
    terms: tuple[str, ...]
    selection: Selection | None = None
    test: TestResult | None = None
    difference: Paired | None = None
    missing: str = ""


@dataclass(frozen=True)
class Ablation:
    """All variants of a configuration, the full one first.

    Attributes:
        dataset: its name.
        backbone: its name.
        seeds: the same for every row.
        rows: one a variant.
        off: terms that the configuration itself has off.
        test_selected: whether the test sets had chosen the configuration.
    """

    dataset: str
    backbone: str
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    off: tuple[str, ...]
    test_selected: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        rows = [
            {
                "name": row.name,
                "terms": list(row.terms),
                "selection": None if row.selection is None else row.selection.model_dump(mode="json"),
                "test": None if row.test is None else row.test.to_dict(),
                "difference": None if row.difference is None else vars(row.difference),
                "missing": row.missing or None,
            }
            for row in self.rows
        ]
        return {
            "dataset": self.dataset,
            "backbone": self.backbone,
            "seeds": list(self.seeds),
            "rows": rows,
            "off": list(self.off),
            "test_selected": self.test_selected,
        }


def ablate(
    configuration: Configuration,
    n_seeds: int,
    executor: Executor,
    stop: StopSignal,
    say: Callable[[str], None],
    store: Path | None = None,
) -> Ablation:
    """Train a configuration with every D³ term off, alone and left out, and test each variant once a seed.

    Update count, head and offset of each variant are fixed by validation alone, as the confirmation of a search does
    it; nothing else changes.

    Args:
        configuration: of a generative backbone, with a term on.
        n_seeds: how many.
        executor: where to train.
        stop: ends between trainings.
        say: takes one line a variant.
        store: a directory that keeps what was trained, so that the same command goes on; None is one below
            ``$D3TUNE_HOME/ablations`` that follows from the configuration.

    Raises:
        UsageError: there is nothing to leave out.
        D3TuneError: the full configuration diverges.
    """
    on = terms_on(configuration.job)
    # whatever chose the configuration
    job = replace(configuration.job, protocol="validation")
    seeds = configuration.seeds(n_seeds)
    store = store or store_below("ablations", job)
    rows: list[Row] = []
    for name, kept in _variants(on):
        say(f"{name}: {', '.join(TERMS[term] for term in kept) or 'no term'} on")
        row = _row(name, kept, job, seeds, executor, stop, store)
        if row.test is not None and rows and rows[0].test is not None:
            row = replace(row, difference=paired(row.test, rows[0].test))
        rows.append(row)
    off = tuple(TERMS[term] for term in TERMS if term not in on)
    chosen_by_test = configuration.test_selected
    return Ablation(configuration.dataset.name, job.backbone, tuple(seeds), tuple(rows), off, chosen_by_test)


def terms_on(job: TrainingJob) -> list[str]:
    """The weights of the D³ terms that a configuration has on.

    Raises:
        UsageError: there is none.
    """
    there = [term for term in TERMS if term in job.config]
    if not there:
        raise UsageError(f"backbone '{job.backbone}' has no D³ terms; give a configuration of gan, vae, diffusion, …")
    on = [term for term in there if job.config[term] > 0]
    if not on:
        raise UsageError(f"no D³ term is on ({', '.join(there)} are 0): there is nothing to leave out")
    return on


def _variants(on: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Names, and which terms stay on; no two are the same."""
    variants = [(FULL, tuple(on))]
    if len(on) > 1:
        variants += [(f"without {TERMS[term]}", tuple(other for other in on if other != term)) for term in on]
    if len(on) > 2:
        variants += [(f"{TERMS[term]} alone", (term,)) for term in on]
    return [*variants, (NONE, ())]


def _row(
    name: str,
    kept: tuple[str, ...],
    job: TrainingJob,
    seeds: Sequence[int],
    executor: Executor,
    stop: StopSignal,
    store: Path,
) -> Row:
    shown = tuple(TERMS[term] for term in kept)
    config = {**job.config, **{term: 0.0 for term in TERMS if term in job.config and term not in kept}}
    try:
        load_backbone(job.backbone).config.model_validate(config)
    except ValidationError as error:
        return Row(name, shown, missing=first_fault(error))
    variant = replace(job, config=config)
    place = store / "-".join(["on", *kept])
    try:
        selection, test = measure(variant, seeds, executor, stop, place)
    except ConfirmationFailedError as error:
        if name == FULL:
            raise
        return Row(name, shown, missing=error.reason)
    return Row(name, shown, selection, test)

"""Which constraints of a search do not hold of a configuration once it is trained with fresh seeds."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from d3tune.config import SearchConfig
from d3tune.search.aims import Constraint, reading
from d3tune.search.confirm import confirmed_curves, point_of
from d3tune.search.executor import Executor, StopSignal
from d3tune.search.jobs import TrainingJob
from d3tune.search.reports import Report


def unmet_constraints(curves: Sequence[Sequence[Report]], job: TrainingJob, search: SearchConfig) -> list[str]:
    """The constraints that do not hold on average, at the evaluation and head that the mean curve chooses.

    Args:
        curves: the reports of a configuration, one list a seed.
        job: names protocol and objective.
        search: has the constraints.

    Returns:
        Each with what there is instead, e.g. ``S>=0.5 (S 0.480)``.
    """
    index, head = point_of(curves, job)

    def mean(name: str) -> float:
        return fmean(reading(rows[index], name, search, head) for rows in curves)

    found = {item: mean(item.name) for item in map(Constraint.parse, search.constraints)}
    return [f"{item} ({item.name} {value:.3f})" for item, value in found.items() if item.violation(value) > 0]


def confirmed_unmet(
    job: TrainingJob, seeds: Sequence[int], search: SearchConfig, executor: Executor, stop: StopSignal, store: Path
) -> list[str]:
    """`unmet_constraints` of what was confirmed, whose curves are there.

    Args:
        job: of the trial.
        seeds: that it was confirmed with.
        search: has the constraints.
        executor: see `d3tune.search.confirm.select`.
        stop: likewise.
        store: likewise.
    """
    if not search.constraints:
        return []
    return unmet_constraints(confirmed_curves(job, seeds, executor, stop, store, None), job, search)

"""How much choosing on the test set would claim, and how well the offset carries from validation to test.

The winner of the arm that validation favours is trained again on the test protocol. At the update that validation
fixed, its head is read with the carried offset, which repeats the cell's test, and with the offset that is best on the
test set itself. The best evaluation over all heads and updates is what a test-selected report would tell.
"""

from dataclasses import replace
from typing import Any

from benchmarks.accuracy.stored import stored
from benchmarks.accuracy.variants import Given, Winner, winner_of
from d3tune.method.trainer import Trainer
from d3tune.search.jobs import TrainingJob

OTHER_UNIT = {"score": "margin_sd", "margin_sd": "score"}


def answer(given: Given) -> dict[str, Any]:
    """One row a seed, of the arm with the largest validation H on this dataset."""
    record = max(given.cells.values(), key=lambda item: float(item["selection"]["val_H"]))
    winner = winner_of(record)
    rows = []
    for seed in winner.seeds:
        job = replace(winner.job, seed=seed)
        what = [job.to_dict(), winner.selection.model_dump(mode="json")]
        rows.append(stored(given.place, what, lambda job=job: _one_seed(job, winner)))  # type: ignore[misc]
    return {"arm": record["cell"]["arm"], "val_H": winner.selection.val_H, "rows": rows}


def _one_seed(job: TrainingJob, winner: Winner) -> dict[str, Any]:
    (training,) = job.trainings("test")
    best, selected = 0.0, dict[str, Any]()
    for update in training.config.evaluation_updates:
        training.advance(update)
        best = max(best, *(item.H for item in training.evaluate().heads.values()))
        if update == winner.selection.updates:
            selected = _at_selected(training, job, winner)
    return {"seed": job.seed, **selected, "best_epoch": best}


def _at_selected(training: Trainer, job: TrainingJob, winner: Winner) -> dict[str, Any]:
    head, carried = winner.selection.head, winner.selection.seen_offset
    own = training.evaluate([head]).heads[head]
    unit = margin_unit(own.seen_offset, _own_offset_in_other_unit(training, job, head), job.config["offset_unit"])
    return {
        "carried": training.evaluate([head], carried).heads[head].H,
        "own_offset": own.H,
        "carried_sd": None if unit is None else carried / unit,
        "own_sd": None if unit is None else own.seen_offset / unit,
    }


def _own_offset_in_other_unit(training: Trainer, job: TrainingJob, head: str) -> float:
    """The test-optimal offset of the same model, read in the other unit."""
    unit = OTHER_UNIT[job.config["offset_unit"]]
    (same,) = replace(job, config={**job.config, "offset_unit": unit}).trainings("test")
    same.load_state_dict(training.state_dict())
    return same.evaluate([head]).heads[head].seen_offset


def margin_unit(own: float, other: float, unit: str) -> float | None:
    """What an offset is divided by to be in sd of the training rows' margin; None where it cannot be told.

    Args:
        own: an offset in ``unit``.
        other: the same offset in the other unit.
        unit: ``score`` or ``margin_sd``.
    """
    if unit == "margin_sd":
        return 1.0
    return own / other if own and other else None

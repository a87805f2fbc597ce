"""An ensemble of trials that are there: weighed on validation, confirmed with fresh seeds, tested once a seed."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, median
from typing import Any

from safetensors import SafetensorError

from d3tune import __version__
from d3tune.errors import D3TuneError, RunError, UsageError, root_cause
from d3tune.method.ensembling import calibrated_h, ensemble_weights
from d3tune.method.metrics import Scores
from d3tune.search.checkpoint import Checkpoint, read_tensors, write_tensors
from d3tune.search.confirm import (
    ConfirmationFailedError,
    Selection,
    TestResult,
    confirmation_seeds,
    select,
    stored_key,
    stored_map,
)
from d3tune.search.confirmed_model import ModelRequest, publish
from d3tune.search.ensemble_members import Material, Member, gather
from d3tune.search.ensemble_model import ENSEMBLE
from d3tune.search.ensemble_place import EnsembleDirectory, open_ensemble
from d3tune.search.ensemble_scoring import mix_on_test, mix_on_validation, validation_scores
from d3tune.search.executor import Executor, StopSignal
from d3tune.search.request import located
from d3tune.search.run import open_run
from d3tune.search.summaries import configuration_id
from d3tune.words import plural

Say = Callable[[str], None]
BACKBONE = KIND = ENSEMBLE
# beyond what rounding does to an H
SAME_H = 1e-6
ROWS = ("seen", "seen_y", "unseen", "unseen_y")


@dataclass(frozen=True)
class Weighed:
    """A member and what it is worth.

    Attributes:
        member: the trial.
        weight: in the mean of standardised scores; 0 for one that is left out.
        selection: what validation fixed for it with the fresh seeds; None for one that is left out.
    """

    member: Member
    weight: float
    selection: Selection | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **self.member.identity,
            "configuration": configuration_id(self.member.job.backbone, self.member.job.config),
            "weight": self.weight,
            "update": self.member.update,
            "head": self.member.head,
            "val_H": self.member.val_H,
            "selection": None if self.selection is None else self.selection.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class Ensemble:
    """An ensemble that was confirmed.

    Attributes:
        place: its directory.
        members: all trials that it might be made of, in the order of the runs.
        val_H: calibrated, of the very scores that the weights were chosen by.
        seeds: fresh ones.
        seen_offset: δ, the median of the fresh seeds' own, in units of the standardised scores.
        confirmed_H: calibrated validation H, the mean over the fresh seeds.
        test: the test result.
    """

    place: EnsembleDirectory
    members: tuple[Weighed, ...]
    val_H: float
    seeds: tuple[int, ...]
    seen_offset: float
    confirmed_H: float
    test: TestResult


def prepare(
    names: Sequence[str], top: int, data_dir: Path | None, run_dir: Path | None
) -> tuple[Material, EnsembleDirectory, bool]:
    """Find the members and the directory, before anything is trained.

    Args:
        names: of the runs, or their paths.
        top: trials of each.
        data_dir: where datasets are looked for that are not where the runs had them.
        run_dir: where the ensemble is kept; see `open_ensemble`.

    Returns:
        The members, the directory, and whether it is new.

    Raises:
        D3TuneError: the runs cannot be combined, or the directory holds something else.
    """
    if top < 1:
        raise UsageError(f"--top {top}: must be at least 1")
    material = gather([located(open_run(name), data_dir) for name in names], top)
    return material, *open_ensemble(run_dir, material)


def ensemble(
    material: Material, place: EnsembleDirectory, n_seeds: int, executor: Executor, stop: StopSignal, say: Say
) -> Ensemble:
    """Weigh the members on validation, confirm those that count with fresh seeds, and test their mixture once a seed.

    Nothing but validation is read until weights, updates, heads and the offset are fixed.

    Args:
        material: the members.
        place: keeps what was scored and trained; the caller owns it.
        n_seeds: how many; as many as an earlier command confirmed with, where that were more.
        executor: where to train.
        stop: ends between trainings.
        say: takes one line an event.

    Raises:
        D3TuneError: every member fails with fresh seeds, or something cannot be read or written.
    """
    scores = _scores(material.members, place, executor, stop, say)
    first = max(run.search.seed for run in material.runs)
    seeds = confirmation_seeds(first, max(n_seeds, _seeds_before(place)))
    members = _weighed(material.members, scores, seeds, place, executor, stop, say)
    chosen = [item for item in members if item.selection is not None]
    parts = [([_part(item, seed) for item in chosen],) for seed in seeds]
    say(f"the ensemble with {plural(len(seeds), 'fresh seed')}: validation, then the test")
    names = [f"ensemble-validation-seed-{seed}" for seed in seeds]
    rows = stored_map(mix_on_validation, parts, names, executor, stop, place.confirm, None)
    seen_offset = median(row["seen_offset"] for row in rows)
    names = [f"ensemble-test-seed-{seed}" for seed in seeds]
    tests = [(*part, seen_offset) for part in parts]
    request = ModelRequest(place.confirm / "model", {"run": place.path.name, "uid": place.uid}, place=place.model)
    request = replace(request, key=stored_key(mix_on_test, tests[0]))
    # trained again where its result is there and its model is not
    further = {} if request.settled else {0: (request,)}
    tested = stored_map(mix_on_test, tests, names, executor, stop, place.confirm, None, further)
    publish(request)
    if request.refused:
        say("a member's head cannot be saved: the ensemble has no model")
    found = Ensemble(
        place=place,
        members=tuple(members),
        val_H=_bounded(calibrated_h(scores, [item.weight for item in members])),
        seeds=tuple(seeds),
        seen_offset=seen_offset,
        confirmed_H=_bounded(fmean(row["H"] for row in rows)),
        test=TestResult(tuple(seeds), tuple(tested)),
    )
    place.write_summary(_summary(found, material))
    return found


def _scores(
    members: Sequence[Member], place: EnsembleDirectory, executor: Executor, stop: StopSignal, say: Say
) -> list[list[Scores]]:
    """Each member's standardised validation scores, by split; those that are stored are not made again."""
    keys = [_key(member) for member in members]
    files = [place.scores / f"{member.name}.json" for member in members]
    found = {index: _stored(file, key) for index, (file, key) in enumerate(zip(files, keys, strict=True))}
    missing = [index for index, scores in found.items() if scores is None]

    def keep(position: int, scores: list[Scores]) -> None:
        index = missing[position]
        found[index] = scores
        tensors = {f"{split}/{name}": getattr(item, name) for split, item in enumerate(scores) for name in ROWS}
        report = {"key": keys[index], "n_seen": [item.n_seen for item in scores]}
        try:
            write_tensors(files[index], Checkpoint(members[index].update, tensors, [report]))
        except (OSError, SafetensorError) as error:
            raise RunError(f"{place.path}: cannot be written: {root_cause(error)}; mend that, then go on") from None

    if missing:
        say(f"scoring the validation rows by {plural(len(missing), 'trial')}")
    items = [
        (members[index].job, members[index].update, members[index].head, str(members[index].directory))
        for index in missing
    ]
    try:
        executor.map(validation_scores, items, stop, keep)
    except (D3TuneError, OSError):
        raise
    except Exception as error:
        raise RunError(f"a trial cannot be scored ({root_cause(error)}); leave its run out") from None
    whole = [scores for scores in found.values() if scores is not None]
    for member, scores in zip(members, whole, strict=True):
        here = calibrated_h([scores], [1.0])
        if abs(here - member.val_H) > SAME_H:
            say(f"{member.shown}: val/H {here:.4f} here, {member.val_H:.4f} on record: made elsewhere, or differently")
    return whole


def _stored(file: Path, key: str) -> list[Scores] | None:
    content = read_tensors(file)
    if content is None or not content.reports or content.reports[0].get("key") != key:
        return None
    found = []
    for split, n_seen in enumerate(content.reports[0]["n_seen"]):
        seen, seen_y, unseen, unseen_y = (content.tensors[f"{split}/{name}"] for name in ROWS)
        found.append(Scores(seen, seen_y, unseen, unseen_y, n_seen))
    return found


def _key(member: Member) -> str:
    text = json.dumps([__version__, member.job.to_dict(), member.update, member.head], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _weighed(
    members: Sequence[Member],
    scores: Sequence[list[Scores]],
    seeds: Sequence[int],
    place: EnsembleDirectory,
    executor: Executor,
    stop: StopSignal,
    say: Say,
) -> list[Weighed]:
    """Weights, and the selection of each member that has one; a member that fails with fresh seeds is left out."""
    left = list(range(len(members)))
    while True:
        found = ensemble_weights([scores[index] for index in left], stop.check)
        weights = dict(zip(left, found, strict=True))
        chosen = [index for index in left if weights[index] > 0]
        try:
            selections = {
                index: _selected(members[index], weights[index], seeds, place, executor, stop, say) for index in chosen
            }
        except _MemberFailedError as error:
            left = [index for index in left if members[index] is not error.member]
            if not left:
                raise ConfirmationFailedError(error.reason, "give other runs") from None
            say(f"{error.member.shown}: left out: {error.reason}")
            continue
        return [Weighed(member, weights.get(index, 0.0), selections.get(index)) for index, member in enumerate(members)]


class _MemberFailedError(Exception):
    """A member's training with a fresh seed failed."""

    def __init__(self, member: Member, reason: str) -> None:
        super().__init__(reason)
        self.member, self.reason = member, reason


def _selected(
    member: Member,
    weight: float,
    seeds: Sequence[int],
    place: EnsembleDirectory,
    executor: Executor,
    stop: StopSignal,
    say: Say,
) -> Selection:
    say(f"{member.shown}: weight {weight:.2f}; updates and head with {plural(len(seeds), 'fresh seed')}")
    try:
        return select(member.job, seeds, executor, stop, place.confirm / member.name, member.confirmed)
    except ConfirmationFailedError as error:
        raise _MemberFailedError(member, error.reason) from None


def _part(item: Weighed, seed: int) -> dict[str, Any]:
    assert item.selection is not None, "left out"
    job, selection = replace(item.member.job, seed=seed), item.selection
    return {"job": job.to_dict(), "updates": selection.updates, "head": selection.head, "weight": item.weight}


def _seeds_before(place: EnsembleDirectory) -> int:
    """With how many seeds an earlier command confirmed it: a test over more is never given up for one over fewer."""
    selection = (place.read_summary() or {}).get("selection")
    seeds = selection.get("seeds") if isinstance(selection, dict) else None
    return len(seeds) if isinstance(seeds, list) else 0


def _bounded(h: float) -> float:
    # of rows that are all right, a mean over classes may end a rounding above 1
    return min(1.0, h)


def _summary(found: Ensemble, material: Material) -> dict[str, Any]:
    place = found.place
    members = [item.to_dict() for item in found.members]
    made_of = [[item["configuration"], item["weight"]] for item in members]
    return {
        "format": 1,
        "uid": place.uid,
        "run": place.path.name,
        "created": place.created,
        "updated": datetime.now(UTC).isoformat(timespec="seconds"),
        "dataset": place.identity["dataset"],
        "backbone": BACKBONE,
        "kind": KIND,
        "runs": [run.name for run in material.runs],
        "splits": place.identity["splits"],
        "trials": material.trials,
        "trial_hours": material.trial_hours,
        "members": members,
        "val_H": found.val_H,
        "configuration": configuration_id(BACKBONE, {"members": made_of}),
        "selection": {
            "protocol": "validation",
            "objective": "H",
            "splits": place.identity["splits"],
            "seeds": list(found.seeds),
            "seen_offset": found.seen_offset,
            "val_H": found.confirmed_H,
        },
        "test": found.test.to_dict(),
    }

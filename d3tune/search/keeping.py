"""What stays on disk of ended trials: a small record of each, and the weights of the best few."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from d3tune.files import parse_json, write_json
from d3tune.search.aims import value_of
from d3tune.search.checkpoint import remove_checkpoints, remove_weights, weights_update
from d3tune.search.journal import CONFIG_ATTR
from d3tune.search.reports import best_report
from d3tune.search.standing import ranked_trials
from d3tune.search.study import RETRY_ATTR, WORKER_ATTR, Ledger, reports_of
from d3tune.search.summaries import RECORD


class Keeper:
    """Writes ``trial.json`` of ended trials and keeps the weights of the best COMPLETE ones."""

    def __init__(self, ledger: Ledger, directory: Callable[[int], Path], best: int) -> None:
        """Prepare.

        Args:
            ledger: the study.
            directory: the directory of a trial number.
            best: of how many trials the weights are kept.
        """
        self._ledger, self._directory, self._best = ledger, directory, best
        # the best so far: no other ended trial has weights
        self._kept: list[FrozenTrial] = []

    @property
    def keeps_weights(self) -> bool:
        """Whether the weights of any trial are kept."""
        return self._best > 0

    def settle(self, number: int) -> None:
        """Free what an ended trial no longer needs and record it."""
        trial = self._ledger.trial(number)
        self._settle(trial)
        self._drop_weights([*self._kept, trial])

    def settle_all(self) -> None:
        """Settle what an earlier process ended but did not live to record."""
        trials = self._ledger.trials()
        for trial in trials:
            if trial.state.is_finished() and read_record(self._directory(trial.number)) != record_of(trial):
                self._settle(trial)
        self._drop_weights(trials)

    def _settle(self, trial: FrozenTrial) -> None:
        directory = self._directory(trial.number)
        directory.mkdir(parents=True, exist_ok=True)
        remove_checkpoints(directory)
        if trial.state != TrialState.COMPLETE:
            remove_weights(directory)
        for half_written in directory.glob(f".{RECORD}.*"):
            half_written.unlink(missing_ok=True)
        # last: who finds the record finds nothing left to do
        write_json(directory / RECORD, record_of(trial))

    def _drop_weights(self, trials: list[FrozenTrial]) -> None:
        ranked = ranked_trials(trials)
        self._kept = ranked[: self._best]
        for trial in ranked[self._best :]:
            if weights_update(self._directory(trial.number)) is not None:
                remove_weights(self._directory(trial.number))


def record_of(trial: FrozenTrial) -> dict[str, Any]:
    """An ended trial as plain values, the same that the study holds."""
    reports = reports_of(trial)
    best = best_report(reports) if reports else None
    attributes = trial.user_attrs
    return {
        "format": 1,
        "number": trial.number,
        "state": trial.state.name,
        "value": value_of(trial),
        **({"values": trial.values} if trial.values is not None and len(trial.values) > 1 else {}),
        "last_update": trial.last_step,
        "best": None if best is None else {"update": best.update, "head": best.head, "value": best.value},
        "failure": attributes.get("failure"),
        "seconds": reports[-1].seconds if reports else 0.0,
        "warm_start": attributes.get("warm_start"),
        "retry_of": attributes.get(RETRY_ATTR),
        "worker": attributes.get(WORKER_ATTR),
        "config": attributes.get(CONFIG_ATTR),
        "reports": [{"update": r.update, "value": r.value, "head": r.head, "metrics": r.metrics} for r in reports],
    }


def read_record(directory: Path) -> dict[str, Any] | None:
    """What ``trial.json`` of a trial's directory holds, or None where that is missing or damaged."""
    try:
        record = parse_json((directory / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def bytes_used(path: Path) -> int:
    """Bytes of all files under a run directory."""
    return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())

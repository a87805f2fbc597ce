"""What must hold of a run directory at any time, whatever died: study, trial folders, summary and MLflow agree."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from d3tune.config import SearchConfig, TrialConfig
from d3tune.errors import D3TuneError, RunError
from d3tune.method.generators import load_backbone
from d3tune.search.aims import constraints_at, value_of, values_at
from d3tune.search.checkpoint import examine_checkpoints, load_weights, weights_update
from d3tune.search.faults import INTACT, Fault
from d3tune.search.journal import CONFIG_ATTR, unfinished
from d3tune.search.keeping import read_record, record_of
from d3tune.search.lock import is_owned, was_cut_off
from d3tune.search.mirrored import mirror_faults
from d3tune.search.reports import best_report
from d3tune.search.run import RunDirectory, copied_from
from d3tune.search.standing import ranked_trials, winner
from d3tune.search.study import counts, read_trials, reports_of

SHOWN = 6
REMOVE = "remove it"


def run_faults(run: RunDirectory, tracking_uri: str | None = None) -> list[str]:
    """What `find_faults` finds, without what to do."""
    return [fault.text for fault in find_faults(run, tracking_uri)]


def find_faults(run: RunDirectory, tracking_uri: str | None = None) -> list[Fault]:
    """Examine a run; nothing is written.

    A run that is going on, was interrupted or was cut off has RUNNING trials and may be ahead of its trial folders and
    of MLflow; only what is wrong even so is a fault then.

    Args:
        run: the run directory.
        tracking_uri: the MLflow store to compare with; None leaves MLflow out.

    Returns:
        Empty for a sound run.

    Raises:
        RunError: the frozen space is damaged.
        UsageError: the backbone is not installed.
    """
    config = load_backbone(run.search.backbone).config
    updates = config(**run.load_space(config).fixed).updates
    try:
        trials = read_trials(run.journal)
    except RunError as error:
        return [Fault(str(error))]
    closed = not is_owned(run.path) and not was_cut_off(run.path)
    settled = closed and (run.read_summary() or {}).get("state") == "done"
    faults = [Fault(text, f"{run.journal}: {INTACT}") for text in _study_faults(trials, run.search, updates, config)]
    if run.summary_damage:
        faults.append(Fault(run.summary_damage))
    if settled:
        faults += [*_folder_faults(run, trials), *_summary_faults(run, trials)]
        running = [trial.number for trial in trials if trial.state == TrialState.RUNNING]
        goes_on = f"go on with: {run.resume_command}"
        faults += [Fault(f"trial {number}: RUNNING, but the run is done", goes_on) for number in running]
    # until its next command a copy has the identity, and so MLflow's runs, of its original
    if tracking_uri is not None and copied_from(run) is None:
        faults += mirror_faults(tracking_uri, run, trials, settled=settled, closed=closed)
    return faults


def remarks(run: RunDirectory) -> list[str]:
    """What a process that was killed, or a disk, left in a run, and what the next command makes of it; no faults.

    Empty while a process is at work on the run.
    """
    if is_owned(run.path):
        return []
    lines = []
    if (original := copied_from(run)) is not None:
        lines.append(f"a copy of {original}: the next command makes it a run of its own, in MLflow too")
    if (cut := unfinished(run.journal)) is not None:
        lines.append(f"{run.journal.name}: ends in {cut}, which is harmless: the next command cuts it off")
    for path in sorted((run.path / "trials").glob("*")):
        used, damaged = examine_checkpoints(path)
        then = "the trial is begun anew" if used is None else f"the one before it, of update {used}, is used"
        lines += [f"trial {int(path.name)}: {name} is damaged; {then}" for name in damaged if path.name.isdecimal()]
    return lines


def _study_faults(
    trials: list[FrozenTrial], search: SearchConfig, updates: int, config: type[TrialConfig]
) -> Iterator[str]:
    numbers = [trial.number for trial in trials]
    if numbers != list(range(len(numbers))):
        missing = sorted(set(range(numbers[-1])) - set(numbers))
        yield f"the study has no trial {_listed(missing)}, though later ones"
    for trial in trials:
        yield from (f"trial {trial.number}: {fault}" for fault in _trial_faults(trial, search, updates, config))


def _trial_faults(trial: FrozenTrial, search: SearchConfig, updates: int, config: type[TrialConfig]) -> Iterator[str]:
    reports = reports_of(trial)
    last = reports[-1].update if reports else 0
    if [report.update for report in reports] != sorted(trial.intermediate_values):
        yield "its reports and its intermediate values are of other updates"
        return
    for index, report in enumerate(reports):
        if trial.intermediate_values[report.update] != best_report(reports[: index + 1]).value:
            yield f"at update {report.update} its value is not the best report's so far"
    if trial.state != TrialState.FAIL:
        yield from _schedule_faults(trial, [report.update for report in reports], config)
    if trial.state == TrialState.COMPLETE:
        if last != updates:
            yield f"COMPLETE at update {last} of {updates}"
        elif trial.values != values_at(best_report(reports), search) or not all(map(math.isfinite, trial.values)):
            yield f"its value {', '.join(map(str, trial.values))} is not the one of its best report"
        elif trial.constraints != constraints_at(best_report(reports), search):
            yield "by how much it breaks the constraints is not what its best report says"
    elif trial.state == TrialState.PRUNED and not 0 < last < updates:
        yield f"PRUNED at update {last} of {updates}"
    elif trial.state == TrialState.FAIL and not trial.user_attrs.get("failure"):
        yield "FAIL without a reason"


def _listed(numbers: Sequence[int]) -> str:
    text = ", ".join(map(str, numbers[:SHOWN]))
    return text + (f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else "")


def _schedule_faults(trial: FrozenTrial, updates: list[int], config: type[TrialConfig]) -> Iterator[str]:
    try:
        full = config.model_validate(trial.user_attrs[CONFIG_ATTR])
    except (KeyError, ValueError):
        yield "it has no legal configuration on record"
        return
    if updates != list(full.evaluation_updates)[: len(updates)]:
        yield f"it was evaluated at updates {_listed(updates)}, not as its configuration says"


def _folder_faults(run: RunDirectory, trials: list[FrozenTrial]) -> Iterator[Fault]:
    known = {run.trial(trial.number): trial for trial in trials}
    folders = set((run.path / "trials").glob("*"))
    yield from (Fault(f"{path}: of no trial in the study", REMOVE) for path in sorted(folders - set(known)))
    for path, trial in known.items():
        if trial.state.is_finished() and read_record(path) != record_of(trial):
            again = f"{run.resume_command} writes it again"
            yield Fault(f"{path / 'trial.json'}: missing, or not what the study holds", again)
        if trial.state.is_finished():
            yield from (Fault(text, REMOVE) for text in _leftovers(path))
    kept = _kept(run)
    best = ranked_trials(trials)[:kept]
    for trial in trials:
        if trial not in best and weights_update(run.trial(trial.number)) is not None:
            text = f"trial {trial.number}: its weights are kept, though it is not one of the best {kept}"
            yield Fault(text, f"{run.resume_command} removes them")
    for trial in best:
        if weights_update(run.trial(trial.number)) is not None and load_weights(run.trial(trial.number)) is None:
            files = run.trial(trial.number) / "weights.*"
            yield Fault(f"trial {trial.number}: its kept weights are damaged", f"remove {files}: no command needs them")


def _kept(run: RunDirectory) -> int:
    """Of how many trials the weights are kept, as the last command wanted it."""
    try:
        kept = run.read_plan().get("keep_weights")
    except RunError:
        kept = None
    return kept if isinstance(kept, int) else 3


def _leftovers(path: Path) -> Iterator[str]:
    for left in sorted(path.glob("checkpoint-*")):
        yield f"{left}: left behind by an ended trial"
    for left in sorted(path.glob(".*")):
        yield f"{left}: left behind half written"


def _summary_faults(run: RunDirectory, trials: list[FrozenTrial]) -> Iterator[Fault]:
    summary = run.read_summary() or {}
    best, again = winner(trials), f"{run.resume_command} writes it again"
    expected = None if best is None else {"trial": best.number, "value": value_of(best)}
    if summary.get("winner") != expected:
        held = _winner_words(summary.get("winner"))
        yield Fault(f"the summary's winner is {held}, the study's {_winner_words(expected)}", again)
    if summary.get("trials") != counts(trials):
        held = _counted(summary.get("trials"))
        yield Fault(f"the summary counts {held}, the study {_counted(counts(trials))}", again)


def _winner_words(best: Any) -> str:
    return f"trial {best.get('trial')} with {best.get('value')}" if isinstance(best, dict) else "none"


def _counted(trials: Any) -> str:
    return ", ".join(f"{n} {state}" for state, n in trials.items()) if isinstance(trials, dict) else "nothing"


def best_value(run: RunDirectory) -> float:
    """The largest value of a COMPLETE trial; minus infinity where there is none."""
    try:
        best = winner(read_trials(run.journal))
    except D3TuneError:
        return -math.inf
    value = None if best is None else value_of(best)
    return -math.inf if value is None else value

"""A short examination of the installation: what is there, what is missing, how to get it."""

import os
from collections.abc import Sequence
from pathlib import Path

from d3tune.data.registry import EMBEDDED, DatasetInfo, list_datasets
from d3tune.errors import D3TuneError, RunError
from d3tune.files import home
from d3tune.results.machine import Finding, examine_machine
from d3tune.results.store import store_fault
from d3tune.results.text import ONLY_EMBEDDED
from d3tune.search.invariants import find_faults, remarks
from d3tune.search.lock import is_owned, was_cut_off
from d3tune.search.run import RunDirectory, open_run
from d3tune.search.study import counts, read_trials
from d3tune.search.tracking import VARIABLE, store_uri
from d3tune.words import masked


def examine(data_dir: Path | None, deep: bool = False) -> list[Finding]:
    """Examine packages, devices, folders, Ray, the MLflow store and the datasets; nothing is written but a probe.

    Args:
        data_dir: where datasets are looked for.
        deep: whether to start a private Ray for it, see `examine_machine`.

    Raises:
        DatasetError: a folder to look for datasets in cannot be read.
    """
    datasets = _datasets(list_datasets(data_dir))
    return [*examine_machine(deep), *_places(), *datasets]


def examine_run(name: str, tracking_uri: str | None) -> list[Finding]:
    """Examine a run: its study, its trials' folders, its summary and what MLflow has of it must agree.

    Args:
        name: its directory or name.
        tracking_uri: the MLflow store; None is that of the run's last command.

    Raises:
        UsageError: there is no such run, the URI is wrong, or the run's backbone is not installed.
        RunError: run.yaml is damaged.
    """
    run = open_run(name)
    uri = store_uri(tracking_uri or run.read_plan().get("tracking_uri"))
    state, going_on = _run_state(run)
    findings = [Finding("run", f"{run.path}: {state}", note=going_on)]
    try:
        there = counts(read_trials(run.journal))
        findings.append(Finding("trials", ", ".join(f"{n} {state}" for state, n in there.items())))
    except RunError:
        # the faults below say why
        pass
    findings += [Finding("remark", line, note=True) for line in remarks(run)]
    faults = find_faults(run, uri)
    findings += [Finding("fault", masked(str(fault)), problem=True) for fault in faults]
    return findings if faults else [*findings, Finding("study, folders, MLflow", "agree")]


def _run_state(run: RunDirectory) -> tuple[str, bool]:
    if is_owned(run.path):
        return "a process is at work on it", True
    if was_cut_off(run.path):
        return f"cut off; go on with: {run.resume_command}", True
    summary = run.read_summary()
    if summary is None and run.journal.exists():
        return f"without a summary; go on with: {run.resume_command}", True
    state = str((summary or {}).get("state", "not begun"))
    if state == "failed":
        if run.search.constraints and (summary or {}).get("trials", {}).get("complete"):
            return f"no trial meets its constraints; go on with: {run.resume_command} --trials +N", True
        return f"failed; try its trials again with: {run.resume_command} --retry-failed N", True
    return (state, False) if state == "done" else (f"{state}; go on with: {run.resume_command}", True)


def _places() -> list[Finding]:
    try:
        place = Finding("D3TUNE_HOME", str(home()))
    except D3TuneError as error:
        place = Finding("D3TUNE_HOME", str(error), problem=True)
        if not os.environ.get(VARIABLE):
            return [place]
    return [place, _store()]


def _store() -> Finding:
    given = os.environ.get(VARIABLE)
    try:
        uri = store_uri(None)
    except D3TuneError as error:
        return Finding("MLflow store", masked(str(error)), problem=True)
    fault = store_fault(uri)
    if fault is None:
        return Finding("MLflow store", masked(uri))
    advice = (
        f"mend or start it, or set another {VARIABLE}" if given else "move it away; d3tune sync RUN writes it again"
    )
    return Finding("MLflow store", masked(f"{uri}: {fault}; {advice}"), problem=True)


def _datasets(infos: Sequence[DatasetInfo]) -> list[Finding]:
    findings = [_dataset(info) for info in infos]
    own = any(info.place != EMBEDDED for info in infos)
    return findings if own else [*findings, Finding("datasets", ONLY_EMBEDDED, note=True)]


def _dataset(info: DatasetInfo) -> Finding:
    what = f"dataset {info.name}"
    if info.problem is None:
        return Finding(what, str(info.place))
    if info.hidden:
        return Finding(what, f"{info.place}: {info.problem}; rename one to use both", note=True)
    return Finding(what, f"{info.problem}; mend or remove {info.place}", problem=True)

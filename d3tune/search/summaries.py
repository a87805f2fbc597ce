"""The summaries that searches leave in their run directories, read without what reads a study."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from d3tune.errors import RunError
from d3tune.files import home, parse_json
from d3tune.search.lock import refuse_shared

SUMMARY_FILE = "summary.json"
# what the directory of an ensemble has in the place of run.yaml
ENSEMBLE_FILE = "ensemble.json"
RECORD = "trial.json"
SUMMARY_KEYS = {"run", "dataset", "backbone", "trials", "trial_hours", "selection", "test"}


def read_summary(path: Path) -> dict[str, Any] | None:
    """What a search left in a file, or None where there is none or it is damaged."""
    try:
        summary = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) else None


def configuration_id(backbone: str, config: Mapping[str, Any]) -> str:
    """A name of a configuration, the same on every dataset: 8 hexadecimal digits of the SHA-256 of what it says.

    Args:
        backbone: its name.
        config: every hyper-parameter, as best.yaml and a trial's record hold them.
    """
    text = json.dumps([backbone, config], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def confirmed_configuration(summary: Mapping[str, Any]) -> str | None:
    """The `configuration_id` of what a run confirmed.

    Args:
        summary: one of `summaries`; where it does not say, as in those of 0.1.0, the trial's record does.

    Returns:
        None where neither can be read.
    """
    if isinstance(summary.get("configuration"), str):
        return str(summary["configuration"])
    number = summary.get("confirmed_trial")
    if not isinstance(number, int):
        return None
    record = read_summary(Path(summary["path"], "trials", f"{number:05d}", RECORD))
    config = None if record is None else record.get("config")
    return configuration_id(str(summary["backbone"]), config) if isinstance(config, dict) else None


def damage(path: Path) -> str:
    """One line where a summary is there but cannot be read; else empty."""
    if not path.exists() or read_summary(path) is not None:
        return ""
    if (path.parent / ENSEMBLE_FILE).exists():
        return f"{path}: damaged; the d3tune ensemble that made it writes it again"
    return f"{path}: damaged; d3tune resume {quote(str(path.parent))} writes it again from the study"


def summaries(say: Callable[[str], None] | None = None, place: Path | None = None) -> list[dict[str, Any]]:
    """The summaries of all runs under ``$D3TUNE_HOME/runs``; damaged ones, and what others may write, are left out.

    Args:
        say: takes one line for each damaged one.
        place: another folder of runs.
    """
    found = []
    for path in sorted((place or home() / "runs").glob(f"*/{SUMMARY_FILE}")):
        try:
            refuse_shared(path.parent)
        except RunError:
            continue
        summary = read_summary(path)
        if summary is None and say is not None:
            say(f"left out: {damage(path)}")
        if summary is not None and summary.keys() >= SUMMARY_KEYS:
            found.append({**summary, "run": path.parent.name, "path": str(path.parent)})
    return found

"""The summaries that searches leave in their run directories, read without what reads a study."""

from typing import Any

from d3tune.errors import RunError
from d3tune.files import home, parse_json
from d3tune.search.lock import refuse_shared

SUMMARY_FILE = "summary.json"
SUMMARY_KEYS = {"run", "dataset", "backbone", "trials", "trial_hours", "selection", "test"}


def summaries() -> list[dict[str, Any]]:
    """The summaries of all runs under ``$D3TUNE_HOME/runs``; damaged ones, and what others may write, are left out."""
    found = []
    for path in sorted((home() / "runs").glob(f"*/{SUMMARY_FILE}")):
        try:
            refuse_shared(path.parent)
            summary = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RunError):
            continue
        if isinstance(summary, dict) and summary.keys() >= SUMMARY_KEYS:
            found.append({**summary, "run": path.parent.name, "path": str(path.parent)})
    return found

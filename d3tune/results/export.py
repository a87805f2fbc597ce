"""Exporting the winner of a run as a configuration file."""

from pathlib import Path

from d3tune.errors import RunError, UsageError, nearest
from d3tune.files import writable_file, write_text
from d3tune.results.leaderboard import best_run, leaderboard_rows
from d3tune.search.run import open_run
from d3tune.words import FIRST_SEARCH


def export_best(run: str | None, dataset: str | None, backbone: str | None, output: Path, force: bool) -> Path:
    """Write the confirmed winner's configuration.

    Args:
        run: a run's directory or name; None takes the best confirmed run of dataset and backbone.
        dataset: its name.
        backbone: its name.
        output: the file to write.
        force: whether an existing other file may be replaced.

    Returns:
        The path written.

    Raises:
        UsageError: neither a run nor dataset and backbone are given, there is none of them, or the file exists.
        RunError: the run has no confirmed winner.
    """
    if (run is None) == (dataset is None or backbone is None):
        start = "" if leaderboard_rows() else f"; there is no confirmed run yet, start with: {FIRST_SEARCH}"
        raise UsageError(f"export takes a run, or --dataset with --backbone{start}")
    if run is None:
        assert dataset is not None
        assert backbone is not None
        run = best_run(dataset, backbone)
        if run is None:
            raise UsageError(f"no confirmed run of {backbone} on {dataset}{_instead(backbone, dataset)}")
    opened = open_run(run)
    if not opened.best.exists():
        raise RunError(f"{opened.path}: no confirmed winner yet; finish it with: {opened.resume_command}")
    try:
        text = opened.best.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RunError(f"{opened.best}: damaged: not UTF-8; {opened.resume_command} writes it again") from None
    writable_file(output, "give another -o")
    if output.exists() and not force and output.read_bytes() != text.encode():
        raise UsageError(f"{output}: exists and differs; give another -o, or --force")
    write_text(output, text)
    return output


def _instead(backbone: str, dataset: str) -> str:
    """What there is of confirmed runs, or how to make the first."""
    there = [f"{row['backbone']} on {row['dataset']}" for row in leaderboard_rows() if row["protocol"] == "test"]
    return nearest(f"{backbone} on {dataset}", there) if there else f"; there is none yet, start with: {FIRST_SEARCH}"

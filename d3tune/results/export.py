"""Exporting a configuration of a run, in one of several forms."""

from pathlib import Path

from d3tune.errors import RunError, UsageError, nearest, one_of
from d3tune.files import writable_file, write_atomically
from d3tune.results.forms import FORMS, SCRIPTS, form_of, suffix_of
from d3tune.results.leaderboard import best_run, leaderboard_rows
from d3tune.search.exported import confirmed_document, trial_document
from d3tune.search.run import RunDirectory, open_run
from d3tune.words import FIRST_SEARCH


def export_best(
    run: str | None,
    dataset: str | None,
    backbone: str | None,
    output: Path | None,
    force: bool,
    form: str | None = None,
    trial: int | None = None,
) -> Path:
    """Write the confirmed winner's configuration, or that of a completed trial.

    Args:
        run: a run's directory or name; None takes the best confirmed run of dataset and backbone.
        dataset: its name.
        backbone: its name.
        output: the file to write; None is ``best``, or ``trial-N``, with the form's suffix, in the working directory.
        force: whether an existing other file may be replaced.
        form: one of `FORMS`; None takes the one that the file's name says, else YAML.
        trial: its number; None takes the winner.

    Returns:
        The path written.

    Raises:
        UsageError: neither a run nor dataset and backbone are given, there is none of them, the trial was not
            completed, form and name of the file contradict each other, or the file exists.
        RunError: the run has no confirmed winner, or is damaged.
    """
    output, form = _where(output, form, trial)
    opened = _opened(run, dataset, backbone, trial)
    document = confirmed_document(opened) if trial is None else trial_document(opened, trial)
    try:
        content = FORMS[form](document, output.name).encode()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        # as only another hand would have written it
        raise RunError(f"{opened.best}: damaged ({error}); {opened.resume_command} writes it again") from None
    writable_file(output, "give another -o")
    if output.exists() and not force and output.read_bytes() != content:
        raise UsageError(f"{output}: exists and differs; give another -o, or --force")
    write_atomically(output, lambda temporary: _fill(temporary, content, form in SCRIPTS))
    return output


def _where(output: Path | None, form: str | None, trial: int | None) -> tuple[Path, str]:
    if form is not None:
        one_of("--format", form, tuple(FORMS))
    if output is None:
        form = form or "yaml"
        return Path(("best" if trial is None else f"trial-{trial}") + suffix_of(form)), form
    named = form_of(output)
    if form is not None and named not in (None, form):
        raise UsageError(
            f"-o {output}: by its name that is {named}, but --format is {form}; "
            f"give -o …{suffix_of(form)}, or leave --format out"
        )
    return output, form or named or "yaml"


def _opened(run: str | None, dataset: str | None, backbone: str | None, trial: int | None) -> RunDirectory:
    given = sum(value is not None for value in (dataset, backbone))
    if given != (2 if run is None else 0):
        start = "" if leaderboard_rows() else f"; there is no confirmed run yet, start with: {FIRST_SEARCH}"
        raise UsageError(f"export takes a run, or --dataset with --backbone{start}")
    if run is not None:
        return open_run(run)
    if trial is not None:
        raise UsageError(f"--trial {trial}: needs the run that it is of")
    assert dataset is not None
    assert backbone is not None
    best = best_run(dataset, backbone)
    if best is None:
        raise UsageError(f"no confirmed run of {backbone} on {dataset}{_instead(backbone, dataset)}")
    return open_run(best)


def _instead(backbone: str, dataset: str) -> str:
    """What there is of confirmed runs, or how to make the first."""
    rows = [row for row in leaderboard_rows() if (row["kind"], row["protocol"]) == ("search", "test")]
    there = [f"{row['backbone']} on {row['dataset']}" for row in rows]
    return nearest(f"{backbone} on {dataset}", there) if there else f"; there is none yet, start with: {FIRST_SEARCH}"


def _fill(path: Path, content: bytes, script: bool) -> None:
    path.write_bytes(content)
    if script:
        # who may read it may run it
        mode = path.stat().st_mode
        path.chmod(mode | (mode & 0o444) >> 2)

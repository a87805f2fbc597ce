"""Before a run is gone on with: what was lost or mended is said, and what may not be gone on with is refused."""

from collections.abc import Callable

from d3tune.data.prepared import open_prepared
from d3tune.errors import RunError
from d3tune.search.run import RunDirectory
from d3tune.search.study import Ledger
from d3tune.search.summaries import RECORD
from d3tune.words import plural

Say = Callable[[str], None]


def say_mended(run: RunDirectory, ledger: Ledger, say: Say) -> None:
    """Say what a killed process had left unfinished in the journal, which is cut off."""
    if ledger.mended is not None:
        say(f"{run.journal.name}: {ledger.mended} was cut off, as a process that is killed leaves it")


def _recorded(run: RunDirectory) -> set[int]:
    """Numbers of the ended trials that have a record in their folder."""
    names = [path.parent.name for path in run.path.glob(f"trials/*/{RECORD}")]
    return {int(name) for name in names if name.isdecimal()}


def refuse_lost_journal(run: RunDirectory) -> None:
    """Refuse to begin the study anew where trials were ended: their journal was removed or emptied."""
    there = run.journal.exists() and run.journal.stat().st_size > 0
    ended = 0 if there else len(_recorded(run))
    if ended:
        raise RunError(
            f"{run.journal}: is {'empty' if run.journal.exists() else 'missing'}, but {plural(ended, 'trial')} had "
            "ended; put it back, or search anew with another --run-dir"
        )


def say_lost(run: RunDirectory, ledger: Ledger, say: Say) -> None:
    """Say which ended trials the journal lost; their records are written after it, so no crash does that."""
    ended = {trial.number for trial in ledger.trials() if trial.state.is_finished()}
    for number in sorted(_recorded(run) - ended):
        say(f"{run.journal.name}: lost the end of trial {number}, which is trained again")


def refuse_other_content(run: RunDirectory) -> None:
    """Refuse to go on where the prepared dataset is not the one that the search began with."""
    held = open_prepared(run.dataset_path).content_hash
    if held != run.search.dataset_hash:
        wanted = run.search.dataset_hash[:12]
        raise RunError(f"{run.dataset_path}: holds content {held[:12]}, the search was made for {wanted}")

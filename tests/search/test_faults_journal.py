"""A journal that is cut anywhere is mended to a sound study; one that is damaged in the middle is left as it is."""

import json
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from d3tune.errors import RunError
from d3tune.search.executor import StopSignal
from d3tune.search.journal import MORE, Journal, mend
from d3tune.search.reports import Report
from d3tune.search.run import RunDirectory
from d3tune.search.search import Outcome
from d3tune.search.study import Ledger, read_trials, reports_of

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

ToyRun = Callable[..., RunDirectory]
CarryOut = Callable[..., Outcome]
Sound = Callable[..., None]
Record = Callable[[RunDirectory], list[Any]]
OnReport = Callable[[Callable[[int, Report], None]], None]
NoFileLarger = Callable[[int], AbstractContextManager[None]]
Open = Callable[..., Ledger]
MakeReport = Callable[[int, float], Report]
STEPS = (10, 20, 30, 40)
# the last of them is pruned: it is far behind when four are there
CURVES = ([0.5, 0.6, 0.6, 0.7], [0.6, 0.6, 0.6, 0.6], [0.5, 0.5, 0.5, 0.8], [0.1, 0.2, 0.3, 0.4])
RECORDS = 3


def go_on(ledger: Ledger, report: MakeReport) -> None:
    """Play all curves to their ends, each trial from where the study has it."""
    while (trial := ledger.next_trial(len(CURVES))) is not None:
        for step, value in zip(STEPS, CURVES[trial.number], strict=True):
            if step > trial.known_update and ledger.report(trial.number, report(step, value)):
                break
        else:
            ledger.complete(trial.number)


def held(journal: Path) -> list[Any]:
    """What a journal says of its trials, dates aside."""
    return [
        (trial.number, trial.state, trial.params, trial.value, trial.intermediate_values, trial.user_attrs)
        for trial in read_trials(journal)
    ]


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power is cut here: what is written need not have reached the disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def whole(open_ledger: Open, report: MakeReport, tmp_path: Path) -> tuple[bytes, list[FrozenTrial]]:
    """A journal of a search that was carried to its end, and its trials."""
    ledger = open_ledger(file="whole")
    go_on(ledger, report)
    states = [trial.state for trial in ledger.trials()]
    assert states == [*([TrialState.COMPLETE] * 3), TrialState.PRUNED]
    return (tmp_path / "whole").read_bytes(), ledger.trials()


def line_of(kind: str, content: bytes) -> int:
    """Where the line is that ends a batch of that kind."""
    (index,) = [i for i, line in enumerate(content.splitlines()) if KINDS[kind].encode() in line]
    return index


def last_offsets(kind: str, content: bytes) -> range:
    """Every byte offset of the last records of a batch of that kind."""
    lines = content.splitlines(keepends=True)[: line_of(kind, content) + 1]
    return range(sum(map(len, lines[:-RECORDS])), sum(map(len, lines)) + 1)


def assert_sound(trials: list[FrozenTrial], before: list[FrozenTrial]) -> None:
    """A beginning of the whole study: no gap, no trial twice, nothing that was not there, nothing half there."""
    assert [trial.number for trial in trials] == list(range(len(trials)))
    for trial, original in zip(trials, before, strict=False):
        assert trial.params == original.params
        assert trial.user_attrs["config"] == original.user_attrs["config"]
        assert [report.update for report in reports_of(trial)] == sorted(trial.intermediate_values)
        assert trial.intermediate_values.items() <= original.intermediate_values.items()
        assert trial.state in (original.state, TrialState.RUNNING)


KINDS = {
    "a suggestion": '"trial_id":3,"user_attr":{"config":',
    "a report": '"trial_id":2,"step":20,',
    "the end of a complete trial": '"trial_id":2,"state":1,',
    "the end of a pruned trial": '"trial_id":3,"state":2,',
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_journal_cut_at_any_byte_is_mended_and_goes_on_to_the_same_end(
    kind: str, whole: tuple[bytes, list[FrozenTrial]], open_ledger: Open, report: MakeReport, tmp_path: Path
) -> None:
    content, trials = whole
    cut = tmp_path / "cut"
    ends: dict[bytes, int] = {}
    for offset in last_offsets(kind, content):
        cut.write_bytes(content[:offset])
        mended = mend(cut)
        left = cut.read_bytes()
        assert content.startswith(left)
        assert (mended is None) == (len(left) == offset)
        ends[left] = offset
    # what comes after depends on what is left alone
    for left, offset in ends.items():
        cut.write_bytes(content[:offset])
        ledger = open_ledger(file="cut")
        assert cut.read_bytes() == left
        assert_sound(ledger.trials(), trials)
        go_on(ledger, report)
        assert held(cut) == held(tmp_path / "whole")
    assert len(ends) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_together_is_there_together(
    kind: str, whole: tuple[bytes, list[FrozenTrial]], open_ledger: Open, tmp_path: Path
) -> None:
    """Cut after each of the last lines of a batch: none of it is left."""
    content, _ = whole
    lines = content.splitlines(keepends=True)
    first = last = line_of(kind, content)
    while MORE in json.loads(lines[first - 1]):
        first -= 1
    assert first < last
    for n in range(first + 1, last + 1):
        (tmp_path / "cut").write_bytes(b"".join(lines[:n]))
        assert open_ledger(file="cut").mended == "an entry that was not wholly written"
        assert (tmp_path / "cut").read_bytes() == b"".join(lines[:first])


# a write that fails midway


@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_write_that_fails_midway_leaves_the_journal_as_it_was(
    room: int,
    whole: tuple[bytes, list[FrozenTrial]],
    open_ledger: Open,
    report: MakeReport,
    tmp_path: Path,
    no_file_larger: NoFileLarger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each process makes one change, and the next one fails: at last it is the same search."""
    journal, write, failures = tmp_path / "study.journal", Journal._write, 0
    finished = False
    while not finished:
        ledger = open_ledger()
        finished, opened = True, journal.read_bytes()
        written = [opened]

        def second_fails(self: Journal, logs: list[Any], written: list[bytes] = written) -> None:
            if len(written) < 2:
                write(self, logs)
                written.append(journal.read_bytes())
                return
            with no_file_larger(len(written[-1]) + room):
                write(self, logs)

        with monkeypatch.context() as context:
            context.setattr(Journal, "_write", second_fails)
            try:
                go_on(ledger, report)
            except RunError as error:
                finished = False
                assert str(error).startswith(f"{journal}: cannot be written: File too large")
                assert journal.read_bytes() == written[-1] != opened
        if not finished:
            failures += 1
            with pytest.raises(RunError, match="cannot be written"):
                # a study that lost a change must not go on from there
                ledger.fail(ledger.running[0], "no luck")
            assert [(t.number, t.state, t.intermediate_values) for t in ledger.trials()] == [
                (t.number, t.state, t.intermediate_values) for t in read_trials(journal)
            ]
    assert failures > 10
    assert held(journal) == held(tmp_path / "whole")


def test_another_thread_never_sees_a_change_before_it_is_written(
    open_ledger: Open, report: MakeReport, tmp_path: Path
) -> None:
    """MLflow is written from a thread: it must not run ahead of the study."""
    ledger, seen = open_ledger(), list[int]()
    trial = ledger.next_trial(1)
    assert trial is not None

    def read() -> None:
        (only,) = ledger.trials()
        (stored,) = read_trials(tmp_path / "study.journal")
        seen.append(len(only.intermediate_values) - len(stored.intermediate_values))

    thread = threading.Thread(target=read)

    class Looked(optuna.pruners.BasePruner):
        """Asked when a report is in the study and not yet in the file."""

        def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
            thread.start()
            thread.join(0.2)
            return False

    ledger.study.pruner = Looked()
    ledger.report(trial.number, report(10, 0.5))
    thread.join()
    assert seen == [0]


# damage in the middle


@pytest.mark.parametrize("bit", range(0, 8, 2))
def test_a_flipped_bit_anywhere_is_refused_in_one_line_and_nothing_is_changed(
    bit: int, whole: tuple[bytes, list[FrozenTrial]], open_ledger: Open, tmp_path: Path
) -> None:
    """Within a number too, where what is read would still be a study."""
    content, _ = whole
    path, start = tmp_path / "cut", content.index(b'"op_code":5')
    harmless = 0
    for position in [*range(3), *range(start, len(content) - 2, len(content) // 60)]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        for read in (lambda: open_ledger(file="cut"), lambda: read_trials(path)):
            try:
                read()
            except RunError as error:
                assert str(error).startswith(f"{path}: the study's journal cannot be read: ")
                assert "\n" not in str(error)
            else:
                # the name of the checksum itself
                harmless += 1
                assert held(path) == held(tmp_path / "whole")
        assert path.read_bytes() == bytes(damaged)
    assert harmless < 6


def test_a_line_of_another_program_is_read(open_ledger: Open, tmp_path: Path) -> None:
    """Optuna's own tools know no checksum."""
    open_ledger().next_trial(1)
    journal = tmp_path / "study.journal"
    study = optuna.load_study(
        study_name="synthetic",
        storage=JournalStorage(JournalFileBackend(str(journal), JournalFileOpenLock(str(journal)))),
    )
    study.set_user_attr("note", "seen")
    again = open_ledger()
    assert again.study.user_attrs["note"] == "seen"
    assert len(again.trials()) == 1


def test_a_resumed_search_says_what_was_cut_off_and_goes_on_to_the_same_end(
    toy_run: ToyRun, carry_out: CarryOut, sound: Sound, record: Record, on_report: OnReport
) -> None:
    straight, run = toy_run(), toy_run(run_dir=Path("cut"))
    carry_out(straight, trials=4)
    stop, said = StopSignal(), list[str]()

    def stop_at(n: int, _: Report) -> None:
        stop.requested = n == 6

    on_report(stop_at)
    carry_out(run, trials=4, stop=stop)
    run.journal.write_bytes(run.journal.read_bytes()[:-40])
    carry_out(run, trials=4, said=said)
    cut = "study.journal: an entry that was not wholly written was cut off"
    assert said[0] == f"{cut}, as a process that is killed leaves it"
    sound(run, 4)
    assert record(run) == record(straight)


def test_a_line_that_is_missing_in_the_middle_is_refused_and_nothing_is_changed(
    open_ledger: Open, tmp_path: Path
) -> None:
    ledger = open_ledger()
    for _ in range(3):
        ledger.next_trial(3)
    path = tmp_path / "study.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    for missing in range(1, len(lines) - 1):
        damaged = b"".join([*lines[:missing], *lines[missing + 1 :]])
        path.write_bytes(damaged)
        with pytest.raises(RunError, match=f"lines are missing before line {missing + 1}"):
            open_ledger()
        with pytest.raises(RunError, match=f"lines are missing before line {missing + 1}"):
            read_trials(path)
        assert path.read_bytes() == damaged

"""A disk that fills up or cannot be written: one line, exit code 1, nothing lost, and a resume ends well."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from d3tune.search import checkpoint, confirm, keeping, lock, run, search, trial
from d3tune.search.journal import Journal
from d3tune.search.reports import Report
from d3tune.search.run import RunDirectory, open_run
from d3tune.search.study import read_trials

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

Command = Callable[..., Any]
Options = Callable[..., tuple[str, ...]]
ToyRun = Callable[..., RunDirectory]
Sound = Callable[..., None]
Record = Callable[[RunDirectory], list[Any]]
OnReport = Callable[[Callable[[int, Report], None]], None]
NoFileLarger = Callable[[int], AbstractContextManager[None]]
FullDisk = Callable[[Any, str, int, int], AbstractContextManager[list[int]]]
TRIALS = 2
LOCAL = ("--executor", "local", "--trials", str(TRIALS), "--confirm-seeds", "1")


@pytest.fixture(scope="module")
def found() -> list[Any]:
    """What an undisturbed search found, for all tests."""
    return []


@pytest.fixture
def straight(found: list[Any], toy_run: ToyRun, command: Command, toy_options: Options, record: Record) -> list[Any]:
    """What an undisturbed search finds; there is a store."""
    toy_run(run_dir=Path("straight"))
    if not found:
        end = command("search", *toy_options(), *LOCAL, "--run-dir", "straight")
        assert end.code == 0, end.err
        found += record(open_run("straight"))
    return found


def assert_one_line(end: Any, *words: str) -> None:
    """The command failed, its last line says why, and no line before it is an error of its own."""
    assert end.code == 1, end.err
    lines = end.err.splitlines()
    assert [line for line in lines if line.startswith("d3tune: ")] == lines[-1:]
    assert "Traceback" not in end.err
    for word in words:
        assert word in lines[-1]


@pytest.fixture
def full_disk(no_file_larger: NoFileLarger) -> FullDisk:
    """A context: within the n-th call of a function the disk has room for some bytes alone; yields calls so far."""

    @contextmanager
    def full(of: Any, name: str, n: int, room: int) -> Iterator[list[int]]:
        write, calls = getattr(of, name), [0]

        def limited(*arguments: Any) -> Any:
            calls[0] += 1
            # a journal is appended to, all else is written anew
            size = arguments[0].path.stat().st_size if of is Journal else 0
            with no_file_larger(size + room) if calls[0] == n else nullcontext():
                return write(*arguments)

        with pytest.MonkeyPatch.context() as context:
            context.setattr(of, name, limited)
            yield calls

    return full


# what is being written, the function that does, at which of its calls the disk is full, and bytes that still fit
WRITES: dict[str, tuple[Any, str, int, int]] = {
    "a suggestion": (Journal, "_write", 9, 100),
    "a report": (Journal, "_write", 5, 100),
    "an end": (Journal, "_write", 8, 10),
    "a checkpoint": (trial, "save_checkpoint", 2, 1000),
    "a checkpoint's manifest": (checkpoint, "write_text", 5, 10),
    "weights": (trial, "save_weights", 1, 1000),
    "a trial's record": (keeping, "write_json", 2, 10),
    "a confirmation": (confirm, "write_json", 1, 10),
    "the best configuration": (search, "write_text", 1, 10),
    "the summary": (RunDirectory, "write_summary", 1, 10),
    "the plan": (RunDirectory, "write_plan", 1, 10),
}


# much like others of them
LIKE_OTHERS = {"a suggestion", "an end", "a confirmation", "weights"}


@pytest.mark.parametrize("what", [pytest.param(x, marks=[pytest.mark.fault] * (x in LIKE_OTHERS)) for x in WRITES])
def test_a_disk_that_is_full_for_one_write_costs_nothing_but_a_resume(
    what: str,
    straight: list[Any],
    command: Command,
    toy_options: Options,
    sound: Sound,
    record: Record,
    full_disk: FullDisk,
) -> None:
    of, name, n, room = WRITES[what]
    wanted = ("search", *toy_options(), *LOCAL, "--run-dir", "run")
    with full_disk(of, name, n, room) as calls:
        end = command(*wanted)
    assert calls[0] >= n
    assert_one_line(end, str(Path("run").absolute()), "File too large")
    assert not list(Path("run").rglob(".*")), "a file half written"
    opened = open_run("run")
    before = read_trials(opened.journal) if opened.journal.exists() else []
    # what is wanted is not on record where the plan could not be written
    again = command("resume", "run") if what != "the plan" else command(*wanted)
    assert again.code == 0, again.err
    assert [t.params for t in read_trials(opened.journal)][: len(before)] == [t.params for t in before]
    sound(opened, TRIALS)
    assert record(opened) == straight


def test_a_run_that_cannot_be_begun_leaves_nothing_half(
    straight: list[Any], command: Command, toy_options: Options, full_disk: FullDisk
) -> None:
    wanted = ("search", *toy_options(), *LOCAL, "--run-dir", "run")
    with full_disk(run, "write_new", 1, 50):
        assert_one_line(command(*wanted), str(Path("run/run.yaml").absolute()), "File too large")
    assert list(Path("run").iterdir()) == []
    assert command(*wanted, "--time", "0s").code == 3
    assert open_run("run").search.dataset == "toy"


def test_an_owner_that_cannot_be_named_is_none(
    straight: list[Any], command: Command, toy_options: Options, full_disk: FullDisk
) -> None:
    command("search", *toy_options(), *LOCAL, "--run-dir", "run", "--time", "0s")
    with full_disk(lock, "_write", 1, 5):
        assert_one_line(command("resume", "run"), "cannot be written: File too large; mend that, then resume")
    assert not lock.was_cut_off(Path("run"))
    assert command("resume", "run").code == 0


# with the kernel's own means


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[None]:
    """Something mounted at a place, where that is permitted."""
    place.mkdir(exist_ok=True)
    if subprocess.run(["mount", *options, str(place)], capture_output=True).returncode != 0:
        pytest.skip("mounting is not permitted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs"):
        yield tmp_path / "disk"


def fill(disk: Path, leave: int) -> Path:
    """Take all room but some bytes."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - leave))
    return filler


@pytest.mark.fault
@pytest.mark.parametrize("leave", [0, 8192, 40960])
@pytest.mark.parametrize("report", [1, 3, 4, 7])
def test_a_search_whose_disk_is_full_goes_on_when_there_is_room(
    report: int,
    leave: int,
    small_disk: Path,
    straight: list[Any],
    command: Command,
    toy_options: Options,
    sound: Sound,
    record: Record,
    on_report: OnReport,
) -> None:
    """From some report on: whatever is the first that does not fit, nothing is lost."""
    place = small_disk / "run"
    on_report(lambda n, _: None if n != report else fill(small_disk, leave) and None)
    end = command("search", *toy_options(), *LOCAL, "--run-dir", place)
    if end.code == 0:
        # what was left was enough
        assert leave > 0
    else:
        assert_one_line(end, str(place), "No space left on device")
    known = read_trials(open_run(str(place)).journal)
    (small_disk / "filler").unlink()
    on_report(lambda n, _: None)
    again = command("resume", place)
    assert again.code == 0, again.err
    opened = open_run(str(place))
    assert [t.params for t in read_trials(opened.journal)][: len(known)] == [t.params for t in known]
    sound(opened, TRIALS)
    assert record(opened) == straight


def content(path: Path) -> dict[str, tuple[int, bytes]]:
    files = (item for item in path.rglob("*") if item.is_file())
    return {str(item.relative_to(path)): (item.stat().st_mtime_ns, item.read_bytes()) for item in files}


@pytest.mark.fault
def test_a_run_that_can_only_be_read_is_left_as_it_is_and_can_be_read(
    straight: list[Any], toy_options: Options, command: Command, tmp_path: Path
) -> None:
    place = tmp_path / "run"
    wanted = ("search", *toy_options(), *LOCAL, "--run-dir", str(place))
    assert command(*wanted).code == 0
    before = content(place)
    with mounted(place, "--bind", str(place)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(place)], check=True)
        assert not os.access(place, os.W_OK)
        for refused in (wanted, ("resume", place), ("sync", place), (*wanted, "--set", "head_lr=0.002", "--extend")):
            assert_one_line(command(*refused), f"{place}: cannot be written: Read-only file system")
        for allowed in (("export", place, "-o", "best.yaml"), ("replay", place, "1", "--data-dir", tmp_path / "toy")):
            assert command(*allowed).code == 0
        assert command("replay", place, "--suggestions").code == 0
        assert content(place) == before
    assert command("resume", place).code == 0

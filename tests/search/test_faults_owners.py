"""Who may write to a run: one process at a time, never next to one that lives, and nobody but its owner."""

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from d3tune.errors import RunError
from d3tune.method.generators import load_backbone
from d3tune.results.leaderboard import best_run, leaderboard_rows
from d3tune.search import lock
from d3tune.search import run as run_module
from d3tune.search.run import RunDirectory, create_run, open_run
from d3tune.search.search import Outcome

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

ToyRun = Callable[..., RunDirectory]
CarryOut = Callable[..., Outcome]
Sound = Callable[..., None]
Command = Callable[..., Any]
Options = Callable[..., tuple[str, ...]]
LOCAL = ("--executor", "local", "--confirm-seeds", "0")
PROGRAM = (sys.executable, "-c", "from d3tune.cli import main; main()")
OTHER_USER = 12345


def ended_process() -> int:
    """The id of a process that ran and is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("content", ["", "{", '{"pid": %d, "host": "here", "boot": "another"}'])
def test_a_lock_that_a_dead_process_left_is_taken_over(
    content: str, toy_run: ToyRun, command: Command, toy_options: Options, sound: Sound
) -> None:
    """Whatever it left in there: nothing, half a name, or one of an earlier boot."""
    run = toy_run()
    text = content % ended_process() if "%" in content else content
    (run.path / "lock").write_text(text, encoding="utf-8")
    end = command("search", *toy_options(), *LOCAL, "--trials", "1")
    assert end.code == 0, end.err
    said = [line for line in end.err.splitlines() if line.startswith("taking over")]
    if content == "":
        assert said == []
    else:
        (line,) = said
        assert line.startswith(f"taking over {run.path} from process ")
        assert line.endswith(", which ended without closing it")
        assert ("on here (before a restart)" in line) == ("another" in content)
    sound(run, 1)
    assert (run.path / "lock").read_bytes() == b""


HOLD = """
import sys, time
from d3tune.search.run import open_run
with open_run(sys.argv[1]).owned():
    print("owned", flush=True)
    time.sleep(600)
"""


def test_every_command_that_writes_is_refused_while_another_process_owns_the_run(
    toy_run: ToyRun, carry_out: CarryOut, command: Command, toy_options: Options, sound: Sound
) -> None:
    """Its id is named; killed, it leaves the run free."""
    run = toy_run()
    carry_out(run, trials=1)
    wanted = ("search", *toy_options(), *LOCAL, "--trials", "2")
    extended = (*wanted, "--set", "head_epochs=3", "--run-dir", run.path, "--extend")
    owner = subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "owned\n"
        before = run.journal.read_bytes(), (run.path / "run.yaml").read_bytes()
        for refused in (wanted, extended, ("resume", run.name, "--trials", "+1"), ("sync", run.name)):
            end = command(*refused)
            assert end.code == 1
            last = end.err.splitlines()[-1]
            assert last.startswith(f"d3tune: {run.path}: in use by process {owner.pid} on ")
            assert last.endswith("; wait for it, or stop it first")
        assert (run.journal.read_bytes(), (run.path / "run.yaml").read_bytes()) == before
        assert command("replay", run.name, "0", "--data-dir", toy_options()[3]).code == 0
        owner.send_signal(signal.SIGKILL)
    finally:
        owner.kill()
        owner.communicate()
    end = command(*wanted)
    assert f"taking over {run.path} from process {owner.pid} on " in end.err
    assert end.code == 0
    sound(run, 2)


@pytest.mark.fault
def test_the_same_command_twice_at_once_is_one_search(
    toy_run: ToyRun, toy_options: Options, sound: Sound, isolated: Path
) -> None:
    """One carries it out; the other is refused, or finds it done."""
    toy_run(run_dir=Path("elsewhere"))
    wanted = [*PROGRAM, "search", *toy_options(), *LOCAL, "--trials", "3"]
    both = [subprocess.Popen(wanted, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in both]
    codes = sorted(process.returncode for process in both)
    errors = [err for _, err in outputs]
    assert codes in ([0, 0], [0, 1]), errors
    (path,) = (isolated / "runs").iterdir()
    if codes[1] == 1:
        (refused,) = [err for (_, err), process in zip(outputs, both, strict=True) if process.returncode == 1]
        pids = {process.pid for process in both}
        assert any(f"d3tune: {path}: in use by process {pid} on " in refused for pid in pids), refused
    assert sum(err.count("\ntrial ") for err in errors) == 3
    assert sum(err.startswith("run ") for err in errors) == 1
    sound(open_run(str(path)), 3)


def test_a_run_created_by_many_at_once_is_written_once(toy_run: ToyRun, tmp_path: Path) -> None:
    model = toy_run()
    space = model.load_space(load_backbone("gan").config)
    begin, created = threading.Barrier(8), list[tuple[str, bool]]()

    def create() -> None:
        begin.wait()
        run, new = create_run(tmp_path / "new", model.search, model.dataset_path, space)
        created.append((run.uid, new))

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(created) == 8
    assert len({uid for uid, _ in created}) == 1
    assert [new for _, new in created].count(True) == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["run.yaml"]


def test_what_a_killed_process_left_of_a_run_it_was_creating_is_no_hindrance(toy_run: ToyRun, tmp_path: Path) -> None:
    place = tmp_path / "run"
    place.mkdir()
    for name in (".run.yaml.0123456789ab", ".d3tune-0123456789ab"):
        (place / name).write_text("half", encoding="utf-8")
    assert toy_run(run_dir=place).path == place


# other users


def belongs_to_another(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(path, OTHER_USER, -1)


def everyone_can_write(path: Path) -> None:
    path.chmod(0o757)


@pytest.mark.parametrize(
    ("shared", "words"),
    [
        pytest.param(everyone_can_write, "everyone can write to it; first: chmod o-w", id="world-writable"),
        pytest.param(
            belongs_to_another,
            f"belongs to user {OTHER_USER}, not to you",
            id="another user's",
            marks=pytest.mark.fault,
        ),
    ],
)
def test_a_run_that_others_may_have_written_is_refused_by_every_command(
    shared: Callable[[Path], None],
    words: str,
    toy_run: ToyRun,
    carry_out: CarryOut,
    command: Command,
    toy_options: Options,
) -> None:
    """What is read from it decides what is run; the leaderboard leaves it out."""
    run = toy_run()
    carry_out(run, trials=1, confirm_seeds=1)
    assert [row["run"] for row in leaderboard_rows()] == [run.name]
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    shared(run.path)
    wanted = ("search", *toy_options(), *LOCAL, "--trials", "1")
    for refused in (
        wanted,
        (*wanted, "--run-dir", run.path, "--extend"),
        ("resume", run.name),
        ("export", run.path, "-o", "out.yaml"),
        ("replay", run.name, "0"),
        ("replay", run.name, "--suggestions"),
        ("sync", run.name),
        ("doctor", run.name),
    ):
        end = command(*refused)
        assert (end.code, end.out) == (1, ""), refused
        assert end.err.splitlines()[-1].startswith(f"d3tune: {run.path}: {words}"), refused
        assert end.err.count("\n") == 1
    assert leaderboard_rows() == []
    assert best_run("toy", "gan") is None
    assert command("leaderboard").code == 0
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_a_run_is_not_open_to_everyone_whatever_the_umask(toy_run: ToyRun, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        run = toy_run(run_dir=tmp_path / "deep" / "run")
    finally:
        os.umask(before)
    assert run.path.stat().st_mode & 0o002 == 0
    assert open_run(str(run.path)) == run


@pytest.mark.parametrize("where", ["", "trials", "confirm"])
def test_a_run_that_leads_elsewhere_is_refused(
    where: str, toy_run: ToyRun, carry_out: CarryOut, command: Command, tmp_path: Path
) -> None:
    """A link would have another file written than the one that the run seems to hold."""
    run = toy_run()
    carry_out(run, trials=1, confirm_seeds=1)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = run.path / where / "00007"
    link.symlink_to(elsewhere, target_is_directory=True)
    end = command("resume", run.name)
    assert end.code == 1
    assert f"{link}: is a link" in end.err
    assert list(elsewhere.iterdir()) == []


def test_a_run_directory_that_everyone_can_write_to_is_left_empty(toy_run: ToyRun, tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    everyone_can_write(open_to_all)
    with pytest.raises(RunError, match="everyone can write to it"):
        toy_run(run_dir=open_to_all)
    assert list(open_to_all.iterdir()) == []


def test_another_search_that_was_begun_there_at_the_same_moment_is_refused(
    toy_run: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, write = tmp_path / "run", run_module.write_new

    def late(path: Path, text: str) -> bool:
        monkeypatch.setattr(run_module, "write_new", write)
        toy_run(run_dir=place, seed=5)
        return write(path, text)

    monkeypatch.setattr(run_module, "write_new", late)
    with pytest.raises(RunError, match="seed"):
        toy_run(run_dir=place, seed=6)


def test_an_owner_that_has_not_said_its_name_yet_is_waited_for(toy_run: ToyRun) -> None:
    run = toy_run()
    with (run.path / "lock").open("a+", encoding="utf-8") as held:
        lock.fcntl.flock(held, lock.fcntl.LOCK_EX)
        name = threading.Timer(0.2, (run.path / "lock").write_text, ['{"pid": 7, "host": "elsewhere"}'])
        name.start()
        with pytest.raises(RunError, match="in use by process 7 on elsewhere; wait for it"), run.owned():
            pass
        name.join()


def test_a_lock_that_is_just_being_freed_is_waited_for(toy_run: ToyRun) -> None:
    run = toy_run()
    held = (run.path / "lock").open("a+", encoding="utf-8")
    lock.fcntl.flock(held, lock.fcntl.LOCK_EX)
    freed = threading.Timer(0.2, held.close)
    freed.start()
    with run.owned():
        assert (run.path / "lock").read_text(encoding="utf-8") != ""
    freed.join()


def test_an_owner_without_a_name_is_another_process(toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "NAMELESS_SECONDS", 0.05)
    run = toy_run()
    with (run.path / "lock").open("a+", encoding="utf-8") as held:
        lock.fcntl.flock(held, lock.fcntl.LOCK_EX)
        with pytest.raises(RunError, match="in use by another process; wait for it"), run.owned():
            pass


def test_a_file_system_without_locks_is_named(toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = toy_run()

    def none(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "flock", none)
    with pytest.raises(RunError, match="this file system has no locks"), run.owned():
        raise AssertionError("it is owned by nobody who could hold it")

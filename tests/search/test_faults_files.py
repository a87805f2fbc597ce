"""What of a run is copied, moved, cut short or damaged on disk: told in one line, and never two runs in one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from d3tune.results.doctor import examine_run
from d3tune.search.executor import StopSignal
from d3tune.search.reports import Report
from d3tune.search.run import RunDirectory, open_run
from d3tune.search.search import Outcome
from d3tune.search.tracking import default_uri

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

ToyRun = Callable[..., RunDirectory]
CarryOut = Callable[..., Outcome]
Sound = Callable[..., None]
Command = Callable[..., Any]
OnReport = Callable[[Callable[[int, Report], None]], None]


def mlflow_runs(run: RunDirectory) -> list[str]:
    """Names of the MLflow runs of its identity."""
    from mlflow import MlflowClient

    client = MlflowClient(default_uri())
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return sorted(str(item.info.run_name) for item in client.search_runs(ids, f"tags.`d3tune.run` = '{run.uid}'"))


@pytest.mark.parametrize("by", ["resume", "sync"])
def test_a_copied_run_is_a_run_of_its_own(
    by: str, toy_run: ToyRun, carry_out: CarryOut, command: Command, sound: Sound, tmp_path: Path
) -> None:
    """Both go on, and each has its trials in MLflow once."""
    run = toy_run()
    carry_out(run, trials=1)
    place = shutil.copytree(run.path, tmp_path / "copy")
    examined = command("doctor", place)
    assert examined.code == 0
    assert f"a copy of {run.path}" in examined.out
    assert open_run(str(place)).uid == run.uid, "the examination writes nothing"

    told = f"{place}: a copy of {run.path}; it is a run of its own from now on, in MLflow too"
    if by == "sync":
        assert told in command("sync", place).err.splitlines()
    end = command("resume", place, "--trials", "3")
    assert end.code == 0, end.err
    assert end.err.splitlines().count(told) == (by == "resume")
    assert command("resume", run.name, "--trials", "2").err.count("copy") == 0
    copy = open_run(str(place))
    assert copy.uid != run.uid
    sound(copy, 3)
    sound(open_run(run.name), 2)
    assert [len(mlflow_runs(item)) for item in (run, copy)] == [3, 4]


def test_a_copy_that_is_examined_first_is_not_told_of_its_originals_trials(
    toy_run: ToyRun, carry_out: CarryOut, command: Command, tmp_path: Path
) -> None:
    """It has the identity of the original until its next command; to delete those MLflow runs would be wrong."""
    run = toy_run()
    carry_out(run, trials=1)
    place = shutil.copytree(run.path, tmp_path / "copy")
    assert command("resume", run.name, "--trials", "3").code == 0
    examined = command("doctor", place)
    assert (examined.code, "delete" in examined.out) == (0, False)


def test_a_moved_or_linked_run_and_one_whose_original_is_gone_are_no_copies(
    toy_run: ToyRun, carry_out: CarryOut, command: Command, sound: Sound, tmp_path: Path
) -> None:
    run = toy_run()
    carry_out(run, trials=1)
    moved = run.path.rename(tmp_path / "moved")
    assert "copy" not in command("resume", moved, "--trials", "2").err
    (tmp_path / "link").symlink_to(tmp_path)
    assert "copy" not in command("resume", tmp_path / "link" / "moved", "--trials", "3").err
    shutil.copytree(moved, tmp_path / "restored")
    shutil.rmtree(moved)
    assert "copy" not in command("resume", tmp_path / "restored", "--trials", "4").err
    restored = open_run(str(tmp_path / "restored"))
    assert restored.uid == run.uid
    sound(restored, 4)


# damaged files


def test_a_truncated_summary_is_said_and_written_again(
    toy_run: ToyRun, carry_out: CarryOut, command: Command, sound: Sound
) -> None:
    run = toy_run()
    carry_out(run, trials=2, confirm_seeds=1)
    path = run.path / "summary.json"
    before = json.loads(path.read_text(encoding="utf-8"))
    path.write_bytes(path.read_bytes()[:300])
    line = f"{path}: damaged; {run.resume_command} writes it again from the study"
    examined = command("doctor", run.name, "--json")
    assert (examined.code, [item["state"] for item in json.loads(examined.out) if item["problem"]]) == (1, [line])
    board = command("leaderboard", "--json")
    assert (board.code, json.loads(board.out), board.err) == (0, [], f"left out: {line}\n")
    synced = command("sync", run.name)
    assert (synced.code, synced.err.splitlines()[0]) == (0, line)
    end = command("resume", run.name)
    assert end.code == 0
    assert f"{path}: damaged, taken for absent; it is written again from the study" in end.err.splitlines()
    sound(run, 2)
    after = json.loads(path.read_text(encoding="utf-8"))
    assert {**after, "updated": ""} == {**before, "updated": ""}


@pytest.mark.parametrize("share", [0.0, 0.02, 0.2, 0.5, 0.9, 1.0])
def test_a_truncated_run_file_is_one_line_with_what_to_do(share: float, toy_run: ToyRun, command: Command) -> None:
    run = toy_run()
    path = run.path / "run.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: int(share * len(text))], encoding="utf-8")
    if share == 1.0:
        # a whole line less, which leaves YAML
        path.write_text("".join(text.splitlines(keepends=True)[:-1]), encoding="utf-8")
    end = command("resume", run.path)
    assert (end.code, end.out, end.err.count("\n")) == (1, "", 1)
    assert end.err.startswith(f"d3tune: {path}: ")
    assert end.err.endswith("; put an intact copy of the file there, or search anew with another --run-dir\n")


@pytest.mark.parametrize("lost", ["fixed", "parameters", "warm_start"])
@pytest.mark.parametrize("extend", [False, True])
def test_a_run_file_with_a_damaged_space_is_one_line_for_the_same_search_too(
    lost: str, extend: bool, toy_run: ToyRun, command: Command, toy_options: Callable[..., tuple[str, ...]]
) -> None:
    run = toy_run()
    path = run.path / "run.yaml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    document["space"][lost] = 7
    document.pop("lines", None)
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    options = [*toy_options(), "--run-dir", run.path, *(["--extend"] if extend else [])]
    end = command("search", *options)
    assert (end.code, end.out, end.err.count("\n")) == (1, "", 1), end.err
    assert f"{path}: space" in end.err


@pytest.mark.parametrize("how", ["cut short", "a bit flipped"])
def test_a_damaged_checkpoint_is_a_remark_and_so_is_half_a_line(
    how: str, toy_run: ToyRun, carry_out: CarryOut, on_report: OnReport, command: Command
) -> None:
    run, stop = toy_run(pruner="none"), StopSignal()

    def stop_at(n: int, _: Any) -> None:
        stop.requested = n == 3

    on_report(stop_at)
    carry_out(run, trials=1, stop=stop)
    assert not [finding for finding in examine_run(run.name, None) if finding.what == "remark"]
    newest, before = sorted(run.trial(0).glob("checkpoint-*.safetensors"), reverse=True)
    content = newest.read_bytes()
    newest.write_bytes(content[:-1] if how == "cut short" else content[:-1] + bytes([content[-1] ^ 1]))
    with run.journal.open("ab") as file:
        file.write(b'{"op_code":5,')
    whole = run.journal.read_bytes()
    examined = command("doctor", run.name, "--json")
    remarks = [finding["state"] for finding in json.loads(examined.out) if finding["what"] == "remark"]
    half = "study.journal: ends in half a line, which is harmless: the next command cuts it off"
    assert (examined.code, remarks) == (
        0,
        [half, f"trial 0: {newest.name} is damaged; the one before it, of update 10, is used"],
    )
    assert run.journal.read_bytes() == whole
    before.write_bytes(b"")
    last = examine_run(run.name, None)[-2].state
    assert last == f"trial 0: {before.name} is damaged; the trial is begun anew"

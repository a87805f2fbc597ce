"""Damaged checkpoints of an interrupted search cost an evaluation and no result; and what an ended trial leaves."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from d3tune.search.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from d3tune.search.executor import StopSignal
from d3tune.search.keeping import bytes_used
from d3tune.search.reports import Report
from d3tune.search.run import RunDirectory
from d3tune.search.search import Outcome
from d3tune.search.standing import winner
from d3tune.search.study import read_trials

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

ToyRun = Callable[..., RunDirectory]
CarryOut = Callable[..., Outcome]
Sound = Callable[..., None]
Record = Callable[[RunDirectory], list[Any]]
OnReport = Callable[[Callable[[int, Report], None]], None]
Damage = Callable[[Path], None]
TRIALS = 2


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture
def interrupted(
    toy_run: ToyRun, carry_out: CarryOut, on_report: OnReport
) -> Callable[[], tuple[RunDirectory, list[Path]]]:
    """``interrupted()``: a search stopped after three evaluations of its first trial, and its two checkpoints."""

    def make() -> tuple[RunDirectory, list[Path]]:
        run, stop = toy_run(pruner="none", run_dir=Path("cut")), StopSignal()

        def stop_at(n: int, _: Report) -> None:
            stop.requested = n == 3

        on_report(stop_at)
        carry_out(run, trials=TRIALS, stop=stop)
        on_report(lambda n, _: None)
        manifests = sorted(run.trial(0).glob("checkpoint-*.json"))
        assert [path.stem for path in manifests] == ["checkpoint-00000010", "checkpoint-00000015"]
        return run, manifests

    return make


Interrupted = Callable[[], tuple[RunDirectory, list[Path]]]


@pytest.fixture(scope="module")
def found() -> list[Any]:
    """What an undisturbed search found, for all tests."""
    return []


@pytest.fixture
def straight(found: list[Any], toy_run: ToyRun, carry_out: CarryOut, record: Record) -> list[Any]:
    """What an undisturbed search finds."""
    if not found:
        run = toy_run(pruner="none", run_dir=Path("straight"))
        carry_out(run, trials=TRIALS)
        found += record(run)
    return found


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("damage", [truncate, flip])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    damage: Damage,
    suffix: str,
    straight: list[Any],
    interrupted: Interrupted,
    carry_out: CarryOut,
    sound: Sound,
    record: Record,
) -> None:
    run, manifests = interrupted()
    damage(manifests[-1].with_suffix(suffix))
    said: list[str] = []
    carry_out(run, trials=TRIALS, said=said)
    assert said[0] == "trial   0  checkpoint-00000015.safetensors is damaged: gone on from update 10"
    sound(run, TRIALS)
    assert record(run) == straight


@pytest.mark.parametrize("damage", [pytest.param(truncate, marks=pytest.mark.fault), flip])
def test_a_trial_without_a_sound_checkpoint_is_begun_anew(
    damage: Damage, straight: list[Any], interrupted: Interrupted, carry_out: CarryOut, sound: Sound, record: Record
) -> None:
    run, manifests = interrupted()
    damage(manifests[0])
    damage(manifests[1].with_suffix(".safetensors"))
    said: list[str] = []
    carry_out(run, trials=TRIALS, said=said)
    assert said[:2] == [
        "trial   0  checkpoint-00000015.safetensors is damaged: begun anew",
        "trial   0  checkpoint-00000010.safetensors is damaged: begun anew",
    ]
    sound(run, TRIALS)
    assert record(run) == straight


def test_lost_checkpoints_and_weights_are_made_again(
    straight: list[Any], interrupted: Interrupted, carry_out: CarryOut, sound: Sound, record: Record
) -> None:
    run, _ = interrupted()
    for path in run.trial(0).iterdir():
        path.unlink()
    carry_out(run, trials=TRIALS)
    sound(run, TRIALS)
    assert record(run) == straight


def test_every_flipped_bit_of_a_checkpoint_is_found(tmp_path: Path) -> None:
    """In its weights and in what it says of them; a bit that changes nothing of what is read may stay."""
    reports = [{"update": 5, "value": 0.25, "metrics": {"val/H": 0.25}}]
    saved = Checkpoint(5, {"a": torch.arange(4.0)}, reports)
    save_checkpoint(tmp_path, saved)
    generator = random.Random(0)
    for path in sorted(tmp_path.glob("checkpoint-*")):
        content = path.read_bytes()
        for position in range(len(content)):
            damaged = bytearray(content)
            damaged[position] ^= 1 << generator.randrange(8)
            path.write_bytes(damaged)
            read, lines = load_checkpoint(tmp_path)
            assert lines == ["checkpoint-00000005.safetensors is damaged"] or (
                read is not None and (read.update, read.reports) == (5, reports) and path.suffix == ".json"
            )
        path.write_bytes(content)
    read, lines = load_checkpoint(tmp_path)
    assert read is not None
    assert lines == []


# what an ended trial leaves


@pytest.mark.parametrize("keep", [pytest.param(0, marks=pytest.mark.fault), 1])
def test_only_the_best_trials_keep_weights_and_no_other_takes_a_megabyte(
    keep: int, toy_run: ToyRun, carry_out: CarryOut, sound: Sound
) -> None:
    run = toy_run()
    outcome = carry_out(run, trials=6, keep_weights=keep)
    sound(run, 6)
    trials = read_trials(run.journal)
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    best = sorted(complete, key=lambda trial: -(trial.value or 0.0))[:keep]
    assert len(complete) > keep
    kept = {int(path.parent.name) for path in run.path.glob("trials/*/weights.safetensors")}
    assert kept == {trial.number for trial in best}
    for trial in trials:
        names = {path.name for path in run.trial(trial.number).iterdir()}
        assert names - {"weights.json", "weights.safetensors"} == {"trial.json"}
        if trial.number not in kept:
            assert bytes_used(run.trial(trial.number)) < 1_000_000
    # the lock names its owner as long as there is one
    assert 0 <= outcome.bytes - bytes_used(run.path) < 1000


def test_the_winner_of_a_larger_model_keeps_its_weights_and_the_others_a_record(
    toy_run: ToyRun, carry_out: CarryOut, sound: Sound
) -> None:
    """Weights of 10 MB and checkpoints of 30, of which an ended trial keeps nothing."""
    run = toy_run({"hidden_dim": 1024, "updates": 4, "evaluations": 2}, pruner="none")
    outcome = carry_out(run, trials=3, keep_weights=1)
    sound(run, 3)
    assert outcome.winner is not None
    for trial in read_trials(run.journal):
        used = bytes_used(run.trial(trial.number))
        assert (used > 200_000) == (trial.number == outcome.winner.number)


def test_what_a_killed_process_left_of_ended_trials_is_cleared_away(
    toy_run: ToyRun, carry_out: CarryOut, sound: Sound
) -> None:
    """It died between the study's entry of an end and the record, at any of the steps there are."""
    run = toy_run(pruner="none")
    carry_out(run, trials=3, keep_weights=1)
    best = winner(read_trials(run.journal))
    assert best is not None
    worse = next(number for number in range(3) if number != best.number)
    for number in range(3):
        for name in ("checkpoint-00000005.json", "checkpoint-00000005.safetensors", ".trial.json.0123456789ab"):
            (run.trial(number) / name).write_bytes(b"{}")
        for name in (".checkpoint-00000010.safetensors.0123456789ab", ".weights.json.0123456789ab"):
            (run.trial(number) / name).write_bytes(b"{")
        (run.trial(number) / "trial.json").unlink()
    (run.trial(worse) / "weights.json").write_text('{"update": 5}', encoding="utf-8")
    carry_out(run, trials=3, keep_weights=1)
    sound(run, 3)
    assert [path.name for path in run.trial(worse).iterdir()] == ["trial.json"]


def test_weights_of_a_worse_trial_go_although_the_process_was_killed_on_the_way(
    toy_run: ToyRun, carry_out: CarryOut, sound: Sound, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, unlink = toy_run(pruner="none"), Path.unlink
    carry_out(run, trials=3, keep_weights=3)

    def killed(self: Path, missing_ok: bool = False) -> None:
        unlink(self, missing_ok)
        if self.name.startswith("weights"):
            raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            carry_out(run, trials=3, keep_weights=1)
    carry_out(run, trials=3, keep_weights=1)
    sound(run, 3)
    assert len(list(run.path.glob("trials/*/weights.*"))) == 2


def test_fewer_weights_may_be_kept_from_now_on(toy_run: ToyRun, carry_out: CarryOut, sound: Sound) -> None:
    run = toy_run(pruner="none")
    carry_out(run, trials=3, keep_weights=3)
    assert len(list(run.path.glob("trials/*/weights.safetensors"))) == 3
    carry_out(run, trials=3, keep_weights=1)
    sound(run, 3)
    (kept,) = run.path.glob("trials/*/weights.safetensors")
    best = winner(read_trials(run.journal))
    assert best is not None
    assert int(kept.parent.name) == best.number


def test_the_size_of_the_run_is_printed(
    toy_run: ToyRun, toy_options: Callable[..., tuple[str, ...]], command: Callable[..., Any]
) -> None:
    toy_run()
    end = command(
        "search", *toy_options(), "--trials", "2", "--executor", "local", "--confirm-seeds", "0", "--run-dir", "run"
    )
    used = bytes_used(Path("run"))
    assert f"run: {Path('run').absolute()} ({used / 1e6:.1f} MB)" in end.out.splitlines()

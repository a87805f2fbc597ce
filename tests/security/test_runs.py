"""Run directories that somebody else wrote: what is in them is read as data, and nothing beside them is touched."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.distributions import FloatDistribution

from d3tune import load_run
from d3tune.data.registry import find_dataset, prepared_path
from d3tune.errors import D3TuneError
from d3tune.method.generators import load_backbone
from d3tune.method.trainer import Trainer
from d3tune.results.leaderboard import best_run, leaderboard_rows
from d3tune.search.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    weights_update,
)
from d3tune.search.jobs import TrainingJob
from d3tune.search.keeping import Keeper, read_record
from d3tune.search.planning import resumed_plan
from d3tune.search.reports import Report
from d3tune.search.request import Request, prepare_run
from d3tune.search.run import RunDirectory, open_run
from d3tune.search.search import Plan
from d3tune.search.study import Ledger
from d3tune.search.trial import load_trainings

Refused = Callable[[Callable[[], object]], str]

UPDATES = 4
TINY = ("updates=4", "evaluations=2", "hidden_dim=8", "embed_dim=8", "teacher_epochs=1", "n_synthetic_final=2")


def open_ledger(run: RunDirectory) -> Ledger:
    config = load_backbone(run.search.backbone).config
    return Ledger(run.journal, run.name, run.search, run.load_space(config), config)


def report(update: int, value: float) -> Report:
    metrics = {"val/H": value, "val/softmax/H": value, "val/softmax/T1": 0.5, "val/T1_chance": 0.1}
    return Report(update, value, "softmax", metrics, seconds=float(update))


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two ended trials, nothing of which was trained."""
    home = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("D3TUNE_HOME", str(home))
        made, _ = prepare_run(Request("hanzi", "gan", settings=TINY, run_dir=home / "mine"))
    with made.owned():
        ledger = open_ledger(made)
        for number in range(2):
            assert ledger.next_trial(2) is not None
            for update in (UPDATES // 2, UPDATES):
                ledger.report(number, report(update, 0.5))
            ledger.complete(number)
        Keeper(ledger, made.trial, 1).settle_all()
    made.write_plan({"trials": 2, "executor": "local"})
    made.write_summary({"run": "mine", "state": "done"})
    return made.path


@pytest.fixture
def run(template: Path, tmp_path: Path) -> RunDirectory:
    """A copy of that run, beside which there is nothing."""
    return open_run(str(shutil.copytree(template, tmp_path / "runs" / "mine")))


def go_on(path: Path) -> None:
    """What a resume does before it trains anything."""
    run = open_run(str(path))
    with run.owned():
        Keeper(open_ledger(run), run.trial, 1).settle_all()


def or_refused(call: Callable[[], Any]) -> Any:
    """A value, or None with one line; anything else fails the test."""
    try:
        return call()
    except D3TuneError as error:
        assert "Traceback" not in str(error)
        return None


# records in JSON

DEEP = "[" * 100_000 + "]" * 100_000
TEXTS = {
    "empty": "",
    "a list": "[]",
    "null": "null",
    "a number": "7",
    "deep": DEEP,
    "deep inside": '{"trials": ' + DEEP + "}",
    "many digits": '{"update": ' + "9" * 5000 + "}",
    "digits": '{"update": 1' + "0" * 400 + ', "trials": 1' + "0" * 400 + "}",
    "infinite": '{"update": Infinity, "trials": 1e999, "cpus_per_trial": NaN}',
    "wrong types": '{"update": [], "trials": "x", "tracking_uri": 5, "executor": [], "sha256": {}, "reports": 3}',
    "strings": '{"update": "../x", "trials": "../x", "executor": "os.system", "sha256": "../x", "reports": "x"}',
    "binary": "\x80\x04\x95\x00",
    "half": '{"update": 3, "tri',
}


@pytest.mark.parametrize("text", TEXTS)
def test_records_of_trials(tmp_path: Path, text: str) -> None:
    for name in ("trial.json", "weights.json", "checkpoint-00000010.json"):
        (tmp_path / name).write_text(TEXTS[text], encoding="latin-1")
        (tmp_path / name).with_suffix(".safetensors").write_bytes(b"")
    record = read_record(tmp_path)
    assert record is None or isinstance(record, dict)
    assert weights_update(tmp_path) is None or text in ("digits",)
    assert load_weights(tmp_path) is None
    assert load_checkpoint(tmp_path) == (None, ["checkpoint-00000010.safetensors is damaged"])


@pytest.mark.parametrize("text", TEXTS)
def test_plans(run: RunDirectory, text: str) -> None:
    (run.path / "plan.json").write_text(TEXTS[text], encoding="latin-1")
    plan = or_refused(lambda: resumed_plan(run, {"executor": "local"}))
    assert plan is None or isinstance(plan, Plan)


@pytest.mark.parametrize("text", TEXTS)
def test_locks(run: RunDirectory, text: str) -> None:
    (run.path / "lock").write_text(TEXTS[text], encoding="latin-1")
    said: list[str] = []
    with run.owned(said.append):
        pass
    assert (run.path / "lock").read_text(encoding="utf-8") == ""
    assert all(len(line) < 1000 for line in said)


CONFIRMED = {
    "run": "mine",
    "dataset": {"name": "hanzi/0", "semantics": "parts103", "features": "pixels"},
    "backbone": "gan",
    "trials": {"complete": 2},
    "trial_hours": 1.0,
    "selection": {"val_H": 0.5, "seeds": [1], "protocol": "validation"},
    "test": {"protocol": "test", **{name: {"mean": 0.5, "sd": None} for name in ("H", "U", "S", "T1", "AUSUC")}},
}
SUMMARIES: dict[str, str] = {
    **TEXTS,
    **{f"{key} is {value}": json.dumps({**CONFIRMED, key: value}) for key in CONFIRMED for value in (5, {})},
}


@pytest.mark.parametrize("text", SUMMARIES)
def test_summaries(isolated: Path, text: str) -> None:
    """One bad summary hides no good one."""
    for name, content in (("bad", SUMMARIES[text]), ("good", json.dumps(CONFIRMED))):
        (isolated / "runs" / name).mkdir(parents=True)
        (isolated / "runs" / name / "summary.json").write_text(content, encoding="latin-1")
    assert any(row["backbone"] == "gan" for row in leaderboard_rows())
    assert best_run("hanzi", "gan") in (str(isolated / "runs" / "good"), str(isolated / "runs" / "bad"))


# the journal


def lines_of(run: RunDirectory) -> list[str]:
    return run.journal.read_text(encoding="utf-8").splitlines()


def replaced(before: str, after: str) -> Callable[[list[str]], list[str]]:
    def change(lines: list[str]) -> list[str]:
        assert any(before in line for line in lines)
        return [line.replace(before, after) for line in lines]

    return change


def added(line: str) -> Callable[[list[str]], list[str]]:
    return lambda lines: [*lines, line]


JOURNALS: dict[str, Callable[[list[str]], list[str]]] = {
    "a deep line": added(DEEP),
    "no operation": added("{}"),
    "unknown operation": added('{"op_code": 99, "worker_id": "x"}'),
    "no trial": added('{"op_code": 6, "worker_id": "x"}'),
    "a trial that is none": added('{"op_code": 6, "worker_id": "x", "trial_id": 1' + "0" * 30 + ', "state": 1}'),
    "a trial by a path": added('{"op_code": 6, "worker_id": "x", "trial_id": "../x", "state": 0}'),
    "a strange state": replaced('"state":1', '"state":77'),
    "a text as value": replaced('"values":[0.5]', '"values":["x"]'),
    "two values": replaced('"values":[0.5]', '"values":[0.5,0.5]'),
    "an infinite value": replaced('"values":[0.5]', '"values":[1e999]'),
    "an infinite step": replaced('"step":2', '"step":1e999'),
    "a text as step": replaced('"step":2', '"step":"../x"'),
    "an infinite update": replaced('{"update":2', '{"update":1e999'),
    "a text as update": replaced('{"update":2', '{"update":"x"'),
    "many digits": replaced('"value":0.5', '"value":1' + "0" * 400),
    "metrics in a list": replaced('"metrics":{', '"metrics":[],"others":{'),
    "a report that is a list": replaced('{"report:00000002":{', '{"report:00000002":[],"others":{'),
    "a class as distribution": replaced("FloatDistribution", "os.system"),
    "no configuration": replaced('"config":{', '"another":{'),
    "no study": lambda lines: lines[1:],
    "two studies": lambda lines: [lines[0], lines[0].replace('"mine"', '"../x"'), *lines[1:]],
    "nothing": lambda lines: [],
    "pickled": added("\x80\x04\x95\x00"),
    "null": added("null"),
}


def test_the_journals_are_changed(run: RunDirectory) -> None:
    """The control: each change changes something."""
    lines = lines_of(run)
    assert all(change(list(lines)) != lines for change in JOURNALS.values())


@pytest.mark.parametrize("case", JOURNALS)
def test_journals(run: RunDirectory, case: str) -> None:
    run.journal.write_text("\n".join([*JOURNALS[case](lines_of(run)), ""]), encoding="latin-1")
    or_refused(lambda: load_run(run.path).trials())
    or_refused(lambda: go_on(run.path))
    assert {path.name for path in run.path.parent.iterdir()} == {"mine"}


def test_a_journal_that_is_a_pickle(run: RunDirectory, trap: Any, refused: Refused) -> None:
    run.journal.write_bytes(trap.pickled.replace(b"\n", b"") + b"\n")
    assert "journal cannot be read" in refused(lambda: load_run(run.path).trials())
    assert "journal cannot be read" in refused(lambda: go_on(run.path))
    assert not trap.sprung


def with_sampler_state(
    trap: Any, bounds: dict[str, tuple[float, float]], log: bool = False
) -> optuna.trial.FrozenTrial:
    """An ended trial whose state of the sampler is a program."""
    return optuna.trial.create_trial(
        params={name: low * 2 for name, (low, _) in bounds.items()},
        distributions={name: FloatDistribution(low, high, log=log) for name, (low, high) in bounds.items()},
        value=0.4,
        system_attrs={"cma:optimizer:0": trap.pickled.hex()},
    )


def test_what_a_sampler_keeps_in_the_journal(run: RunDirectory, trap: Any) -> None:
    """Optuna's CMA-ES pickles its state into the trials, and reads it back from there."""
    text = (run.path / "run.yaml").read_text(encoding="utf-8")
    assert "sampler: auto" in text
    (run.path / "run.yaml").write_text(text.replace("sampler: auto", "sampler: cmaes"), encoding="utf-8")
    run = open_run(str(run.path))
    ledger = open_ledger(run)
    rates = {"generator_lr": (5e-4, 5e-3), "head_lr": (1e-3, 1e-2)}
    ledger.study.add_trials([with_sampler_state(trap, rates, log=True) for _ in range(12)])
    # warm starts come first, and are not the sampler's
    for _ in range(4):
        or_refused(lambda: ledger.next_trial(99))
    assert not trap.sprung


def test_what_a_sampler_keeps_is_live(trap: Any) -> None:
    """The control: Optuna itself runs it."""
    study = optuna.create_study(sampler=optuna.samplers.CmaEsSampler(n_startup_trials=1))
    study.add_trials([with_sampler_state(trap, {"x": (0.0, 1.0), "y": (0.0, 1.0)}) for _ in range(2)])
    study.ask({"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)})
    assert trap.sprung


# links out of the run directory


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the run, with files that look like a trial's."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for name in ("checkpoint-00000001.json", "weights.json", "weights.safetensors", "notes.txt"):
        (folder / name).write_text("a line without an end", encoding="utf-8")
    return folder


LINKS = ("lock", "study.journal", "run.yaml", "plan.json", "summary.json", "trials", "trials/00000", "trials/00001")
FILES = ("trials/00000/trial.json", "trials/00001/trial.json", "trials/00000/weights.json", "best.yaml", "log.txt")


@pytest.mark.parametrize("name", (*LINKS, *FILES))
def test_links_out_of_a_run_are_not_followed(run: RunDirectory, outside: Path, name: str) -> None:
    path = run.path / name
    target = outside if path.is_dir() else outside / "notes.txt"
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(target)
    before = {file: file.read_bytes() for file in outside.iterdir()}
    or_refused(lambda: go_on(run.path))
    or_refused(lambda: run.write_summary({"run": "mine"}))
    or_refused(lambda: run.write_plan({"trials": 1}))
    assert {file: file.read_bytes() for file in outside.iterdir()} == before


@pytest.mark.parametrize("name", ["-rf", "x\ny", "00002; touch x", "checkpoint-1", "*", "00000 ", "٠٠٠٠٠"])
def test_strange_names_among_the_trials_are_left_alone(run: RunDirectory, name: str) -> None:
    (run.path / "trials" / name).mkdir()
    (run.path / "trials" / name / "checkpoint-00000001.json").write_text("{}", encoding="utf-8")
    go_on(run.path)
    assert len(load_run(run.path).trials()) == 2
    assert (run.path / "trials" / name / "checkpoint-00000001.json").read_text(encoding="utf-8") == "{}"


# what a checkpoint holds


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Trainer], dict[str, torch.Tensor]]:
    """A training of one validation split, and its state after an update."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("D3TUNE_HOME", str(tmp_path_factory.mktemp("home")))
        dataset = find_dataset("hanzi")
    sizes = {"updates": 4, "evaluations": 2, "hidden_dim": 8, "embed_dim": 8, "teacher_epochs": 1}
    config = load_backbone("gan").config(**sizes, ood_embed_dim=4)
    path, content = str(prepared_path(dataset)), dataset.content_hash
    trainings = TrainingJob("gan", config.model_dump(mode="json"), path, content, seed=3).selecting_trainings()
    trainings[0].advance(1)
    return trainings, {f"0/{name}": tensor.clone() for name, tensor in trainings[0].state_dict().items()}


MOMENT, STEP, WEIGHT = "0/adam/generator/0/exp_avg", "0/adam/generator/0/step", "0/student/gates.weight"
TAMPERED: dict[str, dict[str, torch.Tensor | None]] = {
    "a smaller moment": {MOMENT: torch.zeros(1)},
    "a larger moment": {MOMENT: torch.zeros(99, 99)},
    "an empty moment": {MOMENT: torch.zeros(0)},
    "a moment of another type": {MOMENT: torch.zeros(8, 8, dtype=torch.int8)},
    "a moment of doubles": {MOMENT: torch.zeros(8, 8, dtype=torch.float64)},
    "no moment": {MOMENT: None},
    "one moment more": {"0/adam/generator/0/max_exp_avg_sq": torch.zeros(8, 8)},
    "a moment of no parameter": {"0/adam/generator/99/exp_avg": torch.zeros(8, 8)},
    "a moment before the first": {"0/adam/generator/-1/exp_avg": torch.zeros(8, 8)},
    "a moment by a path": {"0/adam/generator/../../exp_avg": torch.zeros(8, 8)},
    "steps in a row": {STEP: torch.zeros(3)},
    "no number of steps": {STEP: torch.tensor(torch.nan)},
    "steps below 0": {STEP: torch.tensor(-1.0)},
    "steps of another type": {STEP: torch.tensor(1)},
    "a short random state": {"0/rng": torch.zeros(3, dtype=torch.uint8)},
    "a wild random state": {"0/rng": torch.full((5056,), 255, dtype=torch.uint8)},
    "infinite updates": {"0/update": torch.tensor(torch.inf)},
    "updates below 0": {"0/update": torch.tensor(-5)},
    "updates in a row": {"0/update": torch.tensor([1, 2])},
    "no updates": {"0/update": None},
    "a smaller weight": {WEIGHT: torch.zeros(1)},
    "no weight": {WEIGHT: None},
    "a weight by a path": {"0/student/../../x": torch.zeros(1)},
}


def test_the_state_that_is_tampered_with_is_sound(sound: tuple[list[Trainer], dict[str, torch.Tensor]]) -> None:
    """The control: it loads as it is, and holds what the cases change."""
    trainings, tensors = sound
    load_trainings(trainings, tensors)
    assert trainings[0].update == 1
    assert {MOMENT, STEP, WEIGHT, "0/rng", "0/update"} <= tensors.keys()
    assert tensors["0/rng"].shape == (5056,)


@pytest.mark.parametrize("case", TAMPERED)
def test_tampered_state_is_refused_before_a_step(
    sound: tuple[list[Trainer], dict[str, torch.Tensor]], tmp_path: Path, case: str
) -> None:
    """Fused Adam trusts the size of its moments: a step on others writes beyond them and can end the process."""
    trainings, tensors = sound
    changed = {name: tensor for name, tensor in {**tensors, **TAMPERED[case]}.items() if tensor is not None}
    save_checkpoint(tmp_path, Checkpoint(1, changed, []))
    checkpoint, damaged = load_checkpoint(tmp_path)
    assert checkpoint is not None
    assert damaged == []
    with pytest.raises((RuntimeError, KeyError, ValueError, TypeError, AttributeError)):
        load_trainings(trainings, checkpoint.tensors)

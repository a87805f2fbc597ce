"""Exports in every form: the same document, where it comes from, and exactly the confirmed figures when retrained."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import d3tune
from d3tune.config import Resources
from d3tune.documents import read_document
from d3tune.errors import UsageError
from d3tune.method.generators import load_backbone
from d3tune.results.forms import FORMS, python_form, shell_form, yaml_form
from d3tune.results.text import test_line as line_of
from d3tune.search.confirm import confirmation_seeds, evaluate, select
from d3tune.search.executor import StopSignal
from d3tune.search.executor.inprocess import InProcessExecutor
from d3tune.search.request import Request, prepare_run
from d3tune.search.run import RunDirectory
from d3tune.search.search import Outcome, Plan, run_search, training_job
from d3tune.search.study import read_trials
from d3tune.search.summaries import configuration_id
from d3tune.search.tracking import default_uri
from d3tune.yamlfile import dump_yaml, parse_yaml, read_yaml

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

Command = Callable[..., Any]
SUFFIXES = {"yaml": ".yaml", "json": ".json", "python": ".py", "shell": ".sh"}
SEEDS = 2


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any], mlflow_template: Path) -> Outcome:
    """A search on two splits by AUSUC, with another seed than 0, two complete trials and a confirmed winner."""
    home = tmp_path_factory.mktemp("forms") / "home"
    home.mkdir()
    shutil.copy(mlflow_template, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("D3TUNE_HOME", str(home))
        settings = tuple(f"{key}={value}" for key, value in {**tiny, "updates": 20, "evaluations": 2}.items())
        request = Request("hanzi", "gan", settings=settings, pruner="none", val_splits=2, objective="AUSUC", seed=3)
        run, _ = prepare_run(request)
        plan = Plan(2, None, Resources(executor="local"), SEEDS, False, default_uri())
        with run.owned():
            return run_search(run, plan, StopSignal(), lambda _: None)


@pytest.fixture
def confirmed(shared: Outcome, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    monkeypatch.setenv("D3TUNE_HOME", str(shared.run.path.parents[1]))
    assert shared.counts["complete"] == 2
    return shared


def other_trial(outcome: Outcome) -> int:
    """The complete trial that did not win."""
    assert outcome.winner is not None
    return 1 - outcome.winner.number


def as_json(document: dict[str, Any]) -> Any:
    """With the keys that JSON has."""
    return json.loads(json.dumps(document))


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, str]:
    """An environment whose path has the command ``d3tune``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "d3tune"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "from d3tune.cli import main; main()" "$@"\n')
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}


def ran(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=500, env=environment)


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_a_file_retrains_to_exactly_the_confirmed_figures(
    form: str, confirmed: Outcome, command: Command, tmp_path: Path
) -> None:
    path = tmp_path / f"best{SUFFIXES[form]}"
    assert command("export", confirmed.run.name, "-o", path).err == f"wrote {path}\n"
    again = tmp_path / f"again{SUFFIXES[form]}"
    ended = command("train", path, "--seeds", SEEDS, "--json", "-o", again)
    assert ended.code == 0, ended.err
    assert confirmed.test is not None
    assert json.loads(ended.out)["test"] == as_json(confirmed.test.to_dict())
    # what train wrote is a configuration too, in the form that its name says
    assert as_json(read_document(again)) == json.loads(ended.out)
    assert again.read_text(encoding="utf-8").startswith("{") == (form == "json")


def test_the_python_script_retrains_to_exactly_the_confirmed_figures(confirmed: Outcome, command: Command) -> None:
    assert command("export", confirmed.run.name, "-o", "best.py").code == 0
    assert confirmed.test is not None
    held = runpy.run_path("best.py", run_name="read")["CONFIGURATION"]
    assert d3tune.retrain(held, SEEDS).test == confirmed.test
    ended = ran(sys.executable, "best.py", **os.environ)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1] == line_of(confirmed.test)
    # a folder that is not there is one line
    wrong = ran(sys.executable, "best.py", "nowhere", **os.environ)
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (1, "", 1)
    assert wrong.stderr.startswith("d3tune: ")
    assert os.access("best.py", os.X_OK)


def test_the_shell_script_retrains_to_exactly_the_confirmed_figures(
    confirmed: Outcome, command: Command, programs: dict[str, str], tmp_path: Path
) -> None:
    assert command("export", confirmed.run.name, "-o", "best.sh").code == 0
    assert confirmed.test is not None
    ended = ran("./best.sh", "--json", **programs)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["test"] == as_json(confirmed.test.to_dict())
    fewer = ran("sh", "best.sh", "--seeds", "0", **programs)
    assert (fewer.returncode, fewer.stdout) == (2, "")
    assert "--seeds 0" in fewer.stderr
    assert not list(tmp_path.glob("tmp.*")), "the file that it writes is removed"


def test_every_form_holds_the_same_document(confirmed: Outcome, command: Command, tmp_path: Path) -> None:
    for form, suffix in SUFFIXES.items():
        assert command("export", confirmed.run.name, "--format", form).err == f"wrote best{suffix}\n"
    document = read_yaml(Path("best.yaml"))
    assert read_document(Path("best.json")) == as_json(document)
    assert runpy.run_path("best.py", run_name="read")["CONFIGURATION"] == document
    best = read_yaml(confirmed.run.best)
    assert {**document, "source": None} == {**best, "source": None}
    source = document["source"]
    assert source.items() >= best["source"].items()
    assert source["created"] == confirmed.run.created
    assert source["configuration"] == configuration_id("gan", best["config"])
    assert source["worker"]["d3tune"] == d3tune.__version__
    assert {"torch", "python", "threads", "device"} <= source["worker"].keys()


@pytest.mark.parametrize("form", ["yaml", "python", "shell"])
def test_comments_say_where_it_comes_from_and_what_each_hyper_parameter_is(
    form: str, confirmed: Outcome, command: Command
) -> None:
    path = Path(f"best{SUFFIXES[form]}")
    assert command("export", confirmed.run.name, "-o", path).code == 0
    text = path.read_text(encoding="utf-8")
    header = [line for line in text.splitlines() if line.startswith("# ")]
    test, selection, winner = confirmed.test, confirmed.selection, confirmed.winner
    assert test is not None
    assert selection is not None
    assert selection.val_H is not None
    assert winner is not None
    said = "\n".join(header)
    for words in (
        confirmed.run.name,
        confirmed.run.created,
        f"trial: {winner.number}, configuration {configuration_id('gan', winner.user_attrs['config'])}",
        f"val/AUSUC {winner.value:.4f}",
        f"val H {selection.val_H:.4f}",
        f"test H {test.mean('H'):.3f} ± {test.sd('H'):.3f}",
        "protocol test, seeds 4, 5",
        f"d3tune {d3tune.__version__}, torch ",
        confirmed.run.search.dataset_hash,
        f"{'python ' if form == 'python' else ''}{'sh ' if form == 'shell' else ''}{path}"
        if form != "yaml"
        else "d3tune train best.yaml --seeds 2",
    ):
        assert words in said
    fields = load_backbone("gan").config.model_fields
    lines = text.splitlines()
    for name in winner.user_attrs["config"]:
        starts = (f"{name}:", f"'{name}':")
        line = next(line for line in lines if line.strip().startswith(starts))
        assert line.endswith(f"  # {fields[name].description}")


def test_an_existing_file_is_replaced_by_force_alone(confirmed: Outcome, command: Command) -> None:
    for suffix in SUFFIXES.values():
        path = Path(f"mine{suffix}")
        path.write_text("mine: 1\n", encoding="utf-8")
        refused = command("export", confirmed.run.name, "-o", path)
        assert (refused.code, refused.err) == (2, f"d3tune: {path}: exists and differs; give another -o, or --force\n")
        assert path.read_text(encoding="utf-8") == "mine: 1\n"
        assert command("export", confirmed.run.name, "-o", path, "--force").code == 0
        # the same again is no difference
        assert command("export", confirmed.run.name, "-o", path).code == 0


def test_a_trial_that_did_not_win_is_confirmed_as_the_search_would(confirmed: Outcome, command: Command) -> None:
    run, number = confirmed.run, other_trial(confirmed)
    assert command("export", run.name, "--trial", number).err == f"wrote trial-{number}.yaml\n"
    document = read_yaml(Path(f"trial-{number}.yaml"))
    config = read_trials(run.journal)[number].user_attrs["config"]
    assert (document["config"], document["selection"], document["test"]) == (config, None, None)
    assert "not tested" in Path(f"trial-{number}.yaml").read_text(encoding="utf-8")
    ended = command("train", f"trial-{number}.yaml", "--seeds", 1, "--json")
    job = training_job(run, config, Resources(executor="local"))
    seeds = confirmation_seeds(run.search.seed, 1)
    selection = select(job, seeds, InProcessExecutor(), StopSignal())
    test = evaluate(job, selection, seeds, InProcessExecutor(), StopSignal())
    trained = json.loads(ended.out)
    assert trained["selection"] == selection.model_dump(mode="json")
    assert (selection.objective, selection.splits, selection.seeds) == ("AUSUC", (0, 1), (4,))
    assert trained["test"] == as_json(test.to_dict())


def test_the_winners_number_is_the_winner(confirmed: Outcome, command: Command) -> None:
    assert confirmed.winner is not None
    command("export", confirmed.run.name)
    command("export", confirmed.run.name, "--trial", confirmed.winner.number, "-o", "other.yaml")
    assert read_yaml(Path("best.yaml")) == read_yaml(Path("other.yaml"))


def test_what_cannot_be_exported_is_one_line(confirmed: Outcome, command: Command) -> None:
    name = confirmed.run.name
    for arguments, code, words in (
        ((name, "--trial", 7), 2, "has no trial 7; there are 2"),
        (("--dataset", "hanzi", "--backbone", "gan", "--trial", 0), 2, "--trial 0: needs the run"),
        ((name, "--dataset", "cub"), 2, "export takes a run, or --dataset with --backbone"),
        ((name, "--backbone", "vae"), 2, "export takes a run, or --dataset with --backbone"),
        (("--dataset", "hanzi"), 2, "export takes a run, or --dataset with --backbone"),
        ((name, "--format", "yml"), 2, "--format yml: no such choice; did you mean 'yaml'?"),
        ((name, "--format", "json", "-o", "best.yaml"), 2, "-o best.yaml: by its name that is yaml"),
        ((name, "-o", "nowhere/best.sh"), 2, "nowhere/best.sh: its folder does not exist"),
    ):
        ended = command("export", *arguments)
        assert (ended.code, ended.out, ended.err.count("\n")) == (code, "", 1), ended.err
        assert words in ended.err
    assert not list(Path.cwd().iterdir())


def test_a_winner_that_is_damaged_is_one_line(confirmed: Outcome, command: Command, isolated: Path) -> None:
    copy = isolated.parent / "copy"
    shutil.copytree(confirmed.run.path, copy)
    sound = read_yaml(copy / "best.yaml")
    for change in ({"config": 3}, {"test": {"protocol": "test", "H": 3}}, {"selection": {"seeds": 3}}, {"more": 1}):
        (copy / "best.yaml").write_text(dump_yaml({**sound, **change}), encoding="utf-8")
        for suffix in (".yaml", ".sh"):
            ended = command("export", copy, "-o", f"out{suffix}")
            assert (ended.code, ended.err.count("\n")) == (1, 1), ended.err
            assert ended.err.startswith(f"d3tune: {copy / 'best.yaml'}: ")
            assert "d3tune resume" in ended.err
    assert not list(Path.cwd().iterdir())


def test_a_pruned_trial_is_refused_with_the_best_complete_one(
    new_run: Callable[..., RunDirectory], command: Command, isolated: Path
) -> None:
    golden = Path(__file__).parent.parent / "golden" / "run-format-1"
    shutil.copytree(golden, isolated / "runs" / "old")
    ended = command("export", "old", "--trial", 4)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "trial 4 is PRUNED, not COMPLETE; the best complete one is trial 1" in ended.err
    # of version 0.1.0, which knew no ids of configurations
    assert command("export", "old", "--trial", 3, "--format", "json").code == 0
    assert read_document(Path("trial-3.json"))["source"]["worker"]["d3tune"] == "0.1.0"
    # a trial of nothing
    assert command("export", new_run().name, "--trial", 0).code == 1


def test_a_trial_that_the_test_chose_stays_labelled(
    new_run: Callable[..., RunDirectory], carry_out: Callable[..., Outcome], command: Command
) -> None:
    run = new_run({"updates": 20, "evaluations": 2}, protocol="published")
    carry_out(run, trials=1)
    assert command("export", run.name, "--trial", 0).code == 0
    assert "test-selected" in Path("trial-0.yaml").read_text(encoding="utf-8")
    ended = command("train", "trial-0.yaml", "--seeds", 1, "-o", "again.json")
    assert "by the test sets (test-selected)" in ended.err
    assert "published H" in ended.out
    assert "test-selected" in ended.out
    assert read_document(Path("again.json"))["test"]["protocol"] == "published"
    assert read_document(Path("again.json"))["selection"]["val_H"] is None


HOSTILE = 'it\'s "$(touch pwned)" `touch pwned`\n# x\\\n\'\'\'"""\nCONFIGURATION\n1e5 é'


def test_nothing_of_a_name_is_obeyed(programs: dict[str, str], tmp_path: Path, tiny: dict[str, Any]) -> None:
    """Whatever a run, a dataset or a file is called: a script holds it as text."""
    document: dict[str, Any] = {
        "format": 1,
        "dataset": {"name": HOSTILE, "semantics": "12e4567"},
        "backbone": "gan",
        "config": {**tiny, "heads": ["softmax"]},
        "selection": None,
        "CONFIGURATION": None,
        "source": {"run": HOSTILE, "uid": "12345678e12", "trial": 1, "created": HOSTILE},
    }
    Path("script.sh").write_text(shell_form(document, HOSTILE), encoding="utf-8")
    program = tmp_path / "bin" / "d3tune"
    program.write_text('#!/bin/sh\ncat "$2"\n')
    ended = ran("sh", "script.sh", **programs)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert parse_yaml(ended.stdout, "stdout") == document
    Path("script.py").write_text(python_form(document, HOSTILE), encoding="utf-8")
    assert runpy.run_path("script.py", run_name="read")["CONFIGURATION"] == document
    assert parse_yaml(yaml_form(document, HOSTILE), "text") == document
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["script.py", "script.sh"]
    assert list(FORMS) == list(SUFFIXES)


def test_a_long_text_keeps_its_comment_outside() -> None:
    """No hyper-parameter of the shipped backbones has one; another's may."""
    document = {"backbone": "gan", "config": {"feature_scaling": "word " * 60 + "end"}, "dataset": "hanzi"}
    text = yaml_form(document, "best.yaml")
    assert parse_yaml(text, "text") == document
    assert "# features scaled" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "line 1: not JSON: "),
        ('{"dataset": "hanzi",\n "dataset": "hanzi"}', "not JSON: key 'dataset' twice"),
        ('{"config": {"head_lr": NaN}}', "not JSON: NaN is no number"),
        ('{"config": {"head_lr": 1e999}, "dataset": "hanzi", "backbone": "gan"}', "config: head_lr: "),
        ('{"config": ' + "[" * 100 + "]" * 100 + "}", "nested more than 50 deep"),
        ("[" * 100_000, "nested more than 50 deep"),
        ('{"dataset": "a\\u001b[2J"}', "a text with control characters"),
        ('{"dataset": "\\ud800"}', "a text with control characters"),
        ('{"a\\n": 1}', "a key must be a plain word"),
        ('{"a": ' + "9" * 30 + "}", "a number of too many digits"),
        ("[1]", "must be a mapping of keys to values, not list"),
        ('{"dataset": "hanzi", "backbone": "gan", "config": {"head_lrr": 1}}', "config: unknown key 'head_lrr'; did"),
        ('{"dataset": "hanzi", "backbone": "gan", "config": {}, "confg": 1}', "unknown key 'confg'"),
        (
            '{"dataset": "hanzi", "backbone": "gan", "config": {}, "source": {"search": {"splits": []}}}',
            "source.search: splits: ",
        ),
        ('{"dataset": "hanzi", "backbone": "gan", "config": {}, "source": {"search": 1}}', "source.search: must be a"),
        ('{"dataset": "hanzi", "backbone": "gan", "config": {}, "source": {"x": 1e999}}', "source: a number in it is"),
    ],
)
def test_a_wrong_json_file_is_one_line(text: str, words: str, command: Command) -> None:
    Path("wrong.json").write_text(text, encoding="utf-8")
    ended = command("train", "wrong.json", "--seeds", 1)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), ended.err
    assert ended.err.startswith("d3tune: wrong.json: ")
    assert words in ended.err


def test_an_exported_json_file_is_a_warm_start(confirmed: Outcome, command: Command, tiny: dict[str, Any]) -> None:
    command("export", confirmed.run.name, "-o", "best.json")
    document = read_document(Path("best.json"))
    assert document["config"]["output_activation"] == "auto", "which is no choice of the space, but not searched here"
    # what the search fixed for speed is outside the shipped space
    values = {key: value for key, value in document["config"].items() if key not in tiny}
    Path("best.json").write_text(json.dumps({**document, "config": values}), encoding="utf-8")
    settings = [word for key, value in tiny.items() for word in ("--set", f"{key}={value}")]
    ended = command(
        *("search", "--dataset", "hanzi", "--executor", "local", "--trials", 1, "--run-dir", "run"),
        *("--warm-start", "best.json", "--confirm-seeds", 0, *settings),
    )
    assert ended.code == 0, ended.err
    (trial,) = read_trials(Path("run/study.journal"))
    assert trial.user_attrs["warm_start"] == "best"
    assert trial.user_attrs["config"] == {**values, **tiny}


def test_python_users_get_the_errors_of_the_command() -> None:
    for wrong, words in (
        ({"dataset": "hanzi"}, "configuration: 'backbone' is missing"),
        ("absent.yaml", "absent.yaml: cannot read"),
    ):
        with pytest.raises(UsageError, match=words):
            d3tune.retrain(wrong, 1)
    with pytest.raises(UsageError, match="--seeds 0"):
        d3tune.retrain({}, 0)

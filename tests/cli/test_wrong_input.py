"""What a user may get wrong: one line on stderr, the right exit code, and no run left behind."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scipy.io

# MLflow on SQLAlchemy 2.1, whichever module opens it first
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

Command = Callable[..., Any]

# what is wrong: arguments, exit code, words of the message
SEARCH = ("search", "--dataset", "hanzi", "--executor", "local", "--trials", "1")
WRONG: dict[str, tuple[tuple[str, ...], int, tuple[str, ...]]] = {
    "unknown command": (("serach",), 2, ("serach", "search")),
    "unknown option": ((*SEARCH, "--trails", "3"), 2, ("--trails", "--trials")),
    "no dataset": (("search",), 2, ("--dataset",)),
    "a word for a number": ((*SEARCH, "--seed", "x"), 2, ("--seed",)),
    "unknown dataset": (("search", "--dataset", "hansi"), 2, ("'hansi'", "'hanzi'")),
    "dataset without files": (("search", "--dataset", "flo"), 2, ("res101.mat", "att_splits.mat", "--data-dir")),
    "dataset split that is none": (("search", "--dataset", "hanzi/99"), 2, ("hanzi/99",)),
    "unknown semantics": ((*SEARCH, "--semantics", "att312"), 2, ("att312",)),
    "unknown backbone": ((*SEARCH, "--backbone", "gna"), 2, ("'gna'", "'gan'")),
    "unknown key": ((*SEARCH, "--set", "head_lrr=1"), 2, ("--set", "head_lrr", "'head_lr'")),
    "a key like none": ((*SEARCH, "--set", "foo=1"), 2, ("'foo'; nearest of ", "--set list shows all")),
    "no value": ((*SEARCH, "--set", "head_lr"), 2, ("--set head_lr", "key=value")),
    "no key": ((*SEARCH, "--set", "=1"), 2, ("--set =1", "key=value")),
    "illegal value": ((*SEARCH, "--set", "head_lr=7"), 2, ("--set", "head_lr", "7")),
    "word as value": ((*SEARCH, "--set", "head_lr=fast"), 2, ("--set", "head_lr", "fast")),
    "not a number": ((*SEARCH, "--set", "head_lr=.nan"), 2, ("--set", "head_lr")),
    "broken YAML as value": ((*SEARCH, "--set", "heads=[softmax"), 2, ("--set heads=[softmax",)),
    "no trials": (("search", "--dataset", "hanzi", "--trials", "0"), 2, ("--trials 0",)),
    "negative trials": (("search", "--dataset", "hanzi", "--trials", "-1"), 2, ("--trials -1",)),
    "negative seeds": ((*SEARCH, "--confirm-seeds", "-1"), 2, ("--confirm-seeds -1",)),
    "more GPUs than there are": ((*SEARCH, "--gpus-per-trial", "64"), 2, ("--gpus-per-trial 64", "GPUs")),
    "negative GPUs": ((*SEARCH, "--gpus-per-trial", "-1"), 2, ("--gpus-per-trial -1",)),
    "GPUs that are no number": ((*SEARCH, "--gpus-per-trial", "half"), 2, ("--gpus-per-trial half", "or auto")),
    "GPUs to be shared by one": ((*SEARCH, "--gpus-per-trial", "auto"), 2, ("--gpus-per-trial auto", "--executor ray")),
    "more cores than there are": ((*SEARCH, "--cpus-per-trial", "9999"), 2, ("--cpus-per-trial 9999", "cores")),
    "no cores": ((*SEARCH, "--cpus-per-trial", "0"), 2, ("--cpus-per-trial 0",)),
    "cores that are no number": ((*SEARCH, "--cpus-per-trial", "nan"), 2, ("--cpus-per-trial nan",)),
    "no concurrency": ((*SEARCH, "--concurrency", "0"), 2, ("--concurrency 0",)),
    "unreadable time": ((*SEARCH, "--time", "abc"), 2, ("--time abc", "45m")),
    "time without a unit": ((*SEARCH, "--time", "90"), 2, ("--time 90", "90s")),
    "unknown sampler": ((*SEARCH, "--sampler", "tpee"), 2, ("--sampler tpee", "'tpe'")),
    "another sampler": ((*SEARCH, "--sampler", "foo"), 2, ("--sampler foo", "random")),
    "unknown pruner": ((*SEARCH, "--pruner", "ash"), 2, ("--pruner ash", "'asha'")),
    "unknown objective": ((*SEARCH, "--objective", "accuracy"), 2, ("--objective accuracy", "AUSUC")),
    "three aims": ((*SEARCH, "--objective", "S,U,H"), 2, ("--objective S,U,H", "H or S,U")),
    "an aim that is none": ((*SEARCH, "--objective", "S,V"), 2, ("--objective V", "seconds")),
    "a constraint without a bound": ((*SEARCH, "--constraint", "S"), 2, ("--constraint S", "'S>=0.5'")),
    "a constraint in percent": ((*SEARCH, "--constraint", "S>=50"), 2, ("--constraint S>=50", "[0, 1]")),
    "aims and a pruner": ((*SEARCH, "--objective", "S,U", "--pruner", "asha"), 2, ("--pruner asha", "leave it out")),
    "unknown executor": ((*SEARCH, "--executor", "rya"), 2, ("--executor rya", "'ray'")),
    "seed out of range": ((*SEARCH, "--seed", "-1"), 2, ("--seed -1",)),
    "no splits": ((*SEARCH, "--val-splits", "0"), 2, ("--val-splits 0",)),
    "negative split": ((*SEARCH, "--val-split", "-2"), 2, ("--val-split -2",)),
    "space of nowhere": ((*SEARCH, "--space", "absent.yaml"), 2, ("absent.yaml", "cannot read")),
    "warm start of nowhere": ((*SEARCH, "--warm-start", "absent.yaml"), 2, ("absent.yaml", "cannot read")),
    "store by ftp": ((*SEARCH, "--tracking-uri", "ftp://x"), 2, ("--tracking-uri ftp://x", "sqlite:///")),
    "store in files": ((*SEARCH, "--tracking-uri", "file:./mlruns"), 2, ("file:./mlruns", "sqlite:///")),
    "store as a path": ((*SEARCH, "--tracking-uri", "mlruns"), 2, ("mlruns", "sqlite:///")),
    "store without a path": ((*SEARCH, "--tracking-uri", "sqlite://"), 2, ("sqlite://", "sqlite:///FILE")),
    "store in no folder": ((*SEARCH, "--tracking-uri", "sqlite:////no/such/x.db"), 2, ("there is no folder /no/such",)),
    "more trials of nothing": ((*SEARCH, "--trials", "+2"), 2, ("--trials +2", "d3tune resume takes +N")),
    "store with an empty path": ((*SEARCH, "--tracking-uri", "sqlite:///"), 2, ("sqlite:///FILE",)),
    "store without a host": ((*SEARCH, "--tracking-uri", "http://"), 2, ("http://", "host")),
    "resume of nothing": (("resume", "nowhere"), 2, ("'nowhere'",)),
    "resume of no name": (("resume", ""), 2, ("''",)),
    "export of nothing": (("export", "nowhere"), 2, ("'nowhere'",)),
    "export without a name": (("export",), 2, ("--dataset", "--backbone")),
    "export of what is not there": (("export", "--dataset", "hanzi", "--backbone", "gan"), 2, ("no confirmed run",)),
    "training of nothing": (("train", "absent.yaml"), 2, ("absent.yaml",)),
    "check of nothing": (("data", "check", "hansi"), 2, ("'hansi'", "'hanzi'")),
    "check of a strange name": (("data", "check", "../.."), 2, ("not a dataset name",)),
    "simulation of an unknown one": (("data", "simulate", "out", "--like", "flow"), 2, ("'flow'", "'flo'")),
    "simulation of no rows": (("data", "simulate", "out", "--like", "flo", "--rows", "0"), 2, ("rows",)),
    "list of nowhere": (("data", "list", "--data-dir", "nowhere"), 2, ("--data-dir nowhere", "No such file")),
    "check in nowhere": (("data", "check", "hanzi", "--data-dir", "nowhere"), 2, ("--data-dir nowhere",)),
    "examination of nowhere": (("doctor", "--data-dir", "nowhere"), 2, ("--data-dir nowhere", "folder")),
    "search in nowhere": ((*SEARCH, "--data-dir", "nowhere"), 2, ("--data-dir nowhere",)),
    "page at no port": (("ui", "--port", "0"), 2, ("--port",)),
    "page of no store": (("ui", "--tracking-uri", "ftp://x"), 2, ("ftp://x",)),
}


def assert_refused(end: Any, code: int, words: tuple[str, ...], home: Path) -> None:
    assert end.err.startswith("d3tune: "), end.err
    assert end.err.count("\n") == 1, end.err
    assert end.err.endswith("\n")
    assert end.code == code
    assert end.out == ""
    for word in words:
        assert word in end.err
    assert not list(home.glob("runs/*"))


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_command_is_one_line(case: str, d3tune: Command, isolated: Path) -> None:
    arguments, code, words = WRONG[case]
    assert_refused(d3tune(*arguments), code, words, isolated)


@pytest.mark.parametrize("case", ["unknown dataset", "unknown option", "resume of nothing", "unknown key"])
def test_the_real_program_does_the_same(case: str, program: Command, isolated: Path) -> None:
    arguments, code, words = WRONG[case]
    assert_refused(program(*arguments), code, words, isolated)


def test_a_home_that_cannot_be_written(d3tune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv("D3TUNE_HOME", str(home))
        for arguments in (SEARCH, ("leaderboard",), ("resume", "x"), ("data", "check", "hanzi")):
            assert_refused(d3tune(*arguments), 1, (str(home), "D3TUNE_HOME"), home)


def test_a_run_directory_that_cannot_be_written(d3tune: Command, tmp_path: Path, isolated: Path) -> None:
    (tmp_path / "file").touch()
    end = d3tune(*SEARCH, "--run-dir", tmp_path / "file" / "below")
    assert_refused(end, 1, (str(tmp_path / "file" / "below"), "--run-dir"), isolated)


def test_a_run_directory_that_is_a_file(d3tune: Command, tmp_path: Path, isolated: Path) -> None:
    (tmp_path / "file").touch()
    assert_refused(d3tune(*SEARCH, "--run-dir", tmp_path / "file"), 1, ("file", "--run-dir"), isolated)


def test_a_run_directory_with_something_else_in_it(d3tune: Command, tmp_path: Path, isolated: Path) -> None:
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.png").write_bytes(b"meow")
    assert_refused(d3tune(*SEARCH, "--run-dir", other), 1, (str(other), "not empty", "--run-dir"), isolated)
    assert [path.name for path in other.iterdir()] == ["cat.png"]


def test_a_damaged_run_file(d3tune: Command, isolated: Path) -> None:
    run = isolated / "runs" / "mine"
    run.mkdir(parents=True)
    for text, words in {
        "format: 1\nuid: x": ("run.yaml", "damaged", "created"),
        "format: 99": ("run.yaml", "format 99"),
        "format: 1\nuid: x\ncreated: x\nsearch: {}\ndataset_path: x\nspace: {}": ("run.yaml", "search"),
        "format: 1\nuid: x\ncreated: x\nsearch: [1]\ndataset_path: x\nspace: {}": ("run.yaml", "search"),
        "[": ("run.yaml", "line 1"),
    }.items():
        (run / "run.yaml").write_text(text, encoding="utf-8")
        end = d3tune("resume", "mine")
        assert end.err.startswith("d3tune: ")
        assert end.err.count("\n") == 1
        assert end.code == 1
        assert end.err.endswith("; put an intact copy of the file there, or search anew with another --run-dir\n") or (
            text == "format: 99"
        )
        assert all(word in end.err for word in words), end.err


def test_the_nearest_run_is_named(d3tune: Command, isolated: Path) -> None:
    run = isolated / "runs" / "hanzi-0-gan-s0-abcdef"
    run.mkdir(parents=True)
    (run / "run.yaml").touch()
    end = d3tune("resume", "hanzi-0-gan-s0-abcdeg")
    assert end.code == 2
    assert "did you mean 'hanzi-0-gan-s0-abcdef'?" in end.err


CONFIG = (
    "dataset: hanzi\nbackbone: {backbone}\nconfig: {{updates: 2, evaluations: 1, hidden_dim: 8, heads: [softmax], "
    "teacher_epochs: 1, head_epochs: 1, n_synthetic_final: 1{more}}}\n"
)


def test_a_folder_of_datasets_that_is_a_file_or_not_there(
    d3tune: Command, tmp_path: Path, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    config = tmp_path / "mine.yaml"
    config.write_text(CONFIG.format(backbone="gan", more=""), encoding="utf-8")
    commands = [SEARCH, ("train", config), ("doctor",), ("data", "list"), ("data", "check", "hanzi")]
    for arguments in commands:
        end = d3tune(*arguments, "--data-dir", tmp_path / "file")
        assert_refused(end, 2, (f"--data-dir {tmp_path / 'file'}", "Not a directory"), isolated)
    monkeypatch.setenv("D3TUNE_DATA", str(tmp_path / "absent"))
    for arguments in commands:
        assert_refused(d3tune(*arguments), 2, (f"D3TUNE_DATA {tmp_path / 'absent'}", "No such file"), isolated)


def test_a_datasets_own_folder_is_not_a_folder_of_datasets(d3tune: Command, tmp_path: Path, isolated: Path) -> None:
    assert d3tune("data", "simulate", tmp_path / "data", "--like", "apy", "--rows", "0.01").code == 0
    own = tmp_path / "data" / "APY"
    for arguments in (("search", "--dataset", "apy"), ("data", "check", "apy"), ("data", "list"), ("doctor",)):
        words = (f"--data-dir {own}: holds res101.mat itself", f"above it, {tmp_path / 'data'}", "dataset apy")
        assert_refused(d3tune(*arguments, "--data-dir", own), 2, words, isolated)


def test_a_wrong_store_is_named_by_where_it_was_given(
    d3tune: Command, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////no/such/x.db")
    words = ("d3tune: MLFLOW_TRACKING_URI sqlite:////no/such/x.db: there is no folder /no/such",)
    assert_refused(d3tune(*SEARCH), 2, words, isolated)
    assert_refused(d3tune(*SEARCH, "--tracking-uri", "ftp://x"), 2, ("d3tune: --tracking-uri ftp://x: ",), isolated)


def test_no_password_is_shown(d3tune: Command, isolated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    word = "se:cret@or/not"
    for uri in (
        f"ftp://me:{word.replace('/', '')}@host/db",
        f"mysql+x://me:{word}@127.0.0.1:1/db",
        "sqlite:///me:x",
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        for arguments in (("doctor",), ("doctor", "--json"), SEARCH, ("ui", "--tracking-uri", uri)):
            if uri.startswith("ftp") or arguments[0] == "doctor":
                end = d3tune(*arguments)
                assert "cret" not in end.out + end.err
                assert ("me:***@" in end.out + end.err) == (not uri.startswith("sqlite"))


def test_a_warm_start_of_another_backbone_names_both(d3tune: Command, tmp_path: Path, isolated: Path) -> None:
    config = tmp_path / "best.yaml"
    config.write_text(CONFIG.format(backbone="vae", more=", vae_beta: 1"), encoding="utf-8")
    end = d3tune(*SEARCH, "--backbone", "gan", "--warm-start", config)
    assert_refused(end, 2, (str(config), "backbone 'vae'", "'gan' is searched", "--backbone vae"), isolated)
    assert "unknown key" not in end.err
    config.write_text(CONFIG.format(backbone="gan", more=", vae_beta: 1"), encoding="utf-8")
    end = d3tune(*SEARCH, "--backbone", "gan", "--warm-start", config)
    assert_refused(end, 2, (str(config), "unknown key 'vae_beta'"), isolated)


def test_a_port_that_is_taken(program: Command, with_store: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        end = program("ui", "--port", port)
    assert_refused(end, 1, (f"port {port}", "127.0.0.1", "--port"), with_store)


def test_a_damaged_pair_of_files_is_named(d3tune: Command, tmp_path: Path, isolated: Path) -> None:
    folder = tmp_path / "data" / "FLO"
    folder.mkdir(parents=True)
    scipy.io.savemat(folder / "att_splits.mat", {"att": [[1.0, 2.0]]})
    (folder / "res101.mat").write_bytes(b"not MATLAB")
    end = d3tune("search", "--dataset", "flo", "--data-dir", tmp_path / "data")
    assert_refused(end, 2, (str(folder),), isolated)
    (folder / "res101.mat").unlink()
    end = d3tune("search", "--dataset", "flo", "--data-dir", tmp_path / "data")
    assert_refused(end, 2, ("incomplete", "res101.mat"), isolated)


def test_a_result_that_cannot_be_written_is_said_before_training(d3tune: Command, tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(CONFIG.format(backbone="gan", more=""), encoding="utf-8")
    (tmp_path / "file").touch()
    end = d3tune("train", config, "--seeds", "1", "-o", tmp_path / "file" / "below.yaml")
    assert end.code != 0
    assert end.err.splitlines()[-1].startswith("d3tune: ")


def test_a_setting_is_judged_together_with_the_space(d3tune: Command) -> None:
    """The space says 8 evaluations for hanzi, so 9 updates are legal, whatever the configuration's own default."""
    end = d3tune(*SEARCH, "--set", "updates=9", "--time", "0s")
    assert "must not exceed" not in end.err

"""A mistyped name is refused with the nearest right one, wherever a name can be given."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]

GOLDEN = Path(__file__).parents[1] / "golden" / "run-format-1"
SEARCH = ("search", "--dataset", "hanzi", "--executor", "local", "--trials", "1")
# what is mistyped: arguments, what is meant
MISTYPED: dict[str, tuple[tuple[str, ...], str]] = {
    "command": (("serach",), "search"),
    "command of a group": (("data", "lsit"), "list"),
    "group": (("dat",), "data"),
    "option": (("search", "--dataset", "hanzi", "--backbon", "gan"), "--backbone"),
    "option of a group's command": (("data", "check", "hanzi", "--semantic", "x"), "--semantics"),
    "option of the program": (("--verson",), "--version"),
    "switch that is off": (("resume", "x", "--no-baseline"), "--no-baselines"),
    "dataset": (("search", "--dataset", "hansi"), "hanzi"),
    "dataset to check": (("data", "check", "cbu"), "cub"),
    "split of the embedded dataset": (("data", "check", "hanzi/55"), "hanzi/5"),
    "dataset to simulate": (("data", "simulate", "out", "--like", "flow"), "flo"),
    "semantics": (("data", "check", "hanzi", "--semantics", "parts130"), "parts103"),
    "backbone": ((*SEARCH, "--backbone", "gna"), "gan"),
    "backbone whose settings are listed": ((*SEARCH, "--backbone", "vea", "--set", "list"), "vae"),
    "sampler": ((*SEARCH, "--sampler", "tep"), "tpe"),
    "pruner": ((*SEARCH, "--pruner", "hyperbnad"), "hyperband"),
    "objective": ((*SEARCH, "--objective", "H_rwa"), "H_raw"),
    "protocol": ((*SEARCH, "--protocol", "validatoin"), "validation"),
    "executor": (("search", "--dataset", "hanzi", "--executor", "lcal"), "local"),
    "address": ((*SEARCH, "--address", "atuo"), "auto"),
    "warm start": ((*SEARCH, "--warm-start", "shiped"), "shipped"),
    "hyper-parameter": ((*SEARCH, "--set", "nosie_dim=3"), "noise_dim"),
    "choice of a hyper-parameter": ((*SEARCH, "--set", "precision=bf61"), "bf16"),
    "choice in a list": ((*SEARCH, "--set", "heads=[softmax, studnet]"), "student"),
    "format of the leaderboard": (("leaderboard", "--format", "latx"), "latex"),
    "protocol of the leaderboard": (("leaderboard", "--protocol", "publshed"), "published"),
    "format of an ablation": (("ablate", "absent.yaml", "--format", "markdwon"), "markdown"),
}


@pytest.mark.parametrize("case", MISTYPED)
def test_the_nearest_is_named(case: str, d3tune: Command, isolated: Path) -> None:
    arguments, meant = MISTYPED[case]
    end = d3tune(*arguments)
    assert (end.code, end.out, end.err.count("\n")) == (2, "", 1), end.err
    assert f"did you mean '{meant}'?" in end.err
    assert not list(isolated.glob("runs/*"))


# what is mistyped in a space: the file, what is meant
SPACES = {
    "key": ("backbone: gan\nparameter: {}\n", "parameters"),
    "hyper-parameter": ("backbone: gan\nparameters: {noise_dmi: {low: 2, high: 9}}\n", "noise_dim"),
    "fixed hyper-parameter": ("backbone: gan\nparameters: {}\nfixed: {noise_dmi: 2}\n", "noise_dim"),
    "key of a hyper-parameter": ("backbone: gan\nparameters: {noise_dim: {low: 2, hihg: 9}}\n", "high"),
    "choice": ("backbone: gan\nparameters: {ood_score: {choices: [msp, enrgy]}}\n", "energy"),
    "condition": (
        "backbone: gan\nparameters: {noise_dim: {low: 2, high: 9, when: {ood_wieght: positive}}}\n",
        "ood_weight",
    ),
    "key of a warm start": ("backbone: gan\nparameters: {}\nwarm_start: [{nmae: x, source: y, values: {}}]\n", "name"),
    "key of an override": ("backbone: gan\nparameters: {}\noverrides: [{scope: {}, fxed: {}}]\n", "fixed"),
    "key of a scope": ("backbone: gan\nparameters: {}\noverrides: [{scope: {dataset: [flo]}}]\n", "datasets"),
    "key of a hyper-parameter in an override": (
        "backbone: gan\nparameters: {}\noverrides: [{scope: {}, parameters: {noise_dim: {lwo: 2, high: 9}}}]\n",
        "low",
    ),
}


@pytest.mark.parametrize("case", SPACES)
def test_the_nearest_in_a_space_is_named(case: str, d3tune: Command, tmp_path: Path) -> None:
    text, meant = SPACES[case]
    (tmp_path / "space.yaml").write_text(text, encoding="utf-8")
    end = d3tune(*SEARCH, "--space", tmp_path / "space.yaml")
    assert (end.code, end.out, end.err.count("\n")) == (2, "", 1), end.err
    assert "space.yaml" in end.err
    assert f"did you mean '{meant}'?" in end.err


# what is mistyped in a configuration: the file, what is meant
CONFIGURATIONS = {
    "key": ("dataset: hanzi\nbackbone: gan\nconfig: {}\nselectoin: {}\n", "selection"),
    "dataset": ("dataset: hansi\nbackbone: gan\nconfig: {}\n", "hanzi"),
    "backbone": ("dataset: hanzi\nbackbone: gna\nconfig: {}\n", "gan"),
    "hyper-parameter": ("dataset: hanzi\nbackbone: gan\nconfig: {noise_dmi: 2}\n", "noise_dim"),
    "choice": ("dataset: hanzi\nbackbone: gan\nconfig: {precision: fp23}\n", "fp32"),
}


@pytest.mark.parametrize("verb", ["train", "ablate"])
@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_the_nearest_in_a_configuration_is_named(case: str, verb: str, d3tune: Command, tmp_path: Path) -> None:
    text, meant = CONFIGURATIONS[case]
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    end = d3tune(verb, tmp_path / "mine.yaml")
    assert (end.code, end.out, end.err.count("\n")) == (2, "", 1), end.err
    assert f"did you mean '{meant}'?" in end.err


@pytest.fixture
def run(isolated: Path) -> str:
    """A finished run of gan on hanzi."""
    shutil.copytree(GOLDEN, isolated / "runs" / "hanzi-gan")
    return "hanzi-gan"


@pytest.mark.parametrize("words", [("resume",), ("export",), ("replay", "--suggestions"), ("sync",), ("doctor",)])
def test_the_nearest_run_is_named(words: tuple[str, ...], d3tune: Command, run: str) -> None:
    end = d3tune(*words, "hanzi-gna")
    assert (end.code, end.out, end.err.count("\n")) == (2, "", 1), end.err
    assert f"did you mean '{run}'?" in end.err


@pytest.mark.parametrize(("dataset", "backbone"), [("hansi", "gan"), ("hanzi", "gna")])
def test_the_nearest_confirmed_run_is_named(dataset: str, backbone: str, d3tune: Command, run: str) -> None:
    end = d3tune("export", "--dataset", dataset, "--backbone", backbone)
    assert (end.code, end.err.count("\n")) == (2, 1)
    assert "did you mean 'gan on hanzi/0'?" in end.err


def test_a_name_like_none_is_refused_with_all_that_there_are(d3tune: Command) -> None:
    end = d3tune("xyzzy")
    assert end.code == 2
    assert "known: " in end.err
    assert "leaderboard" in end.err


# commands on what there is none of yet
EMPTY = {
    "leaderboard": (("leaderboard",), 0),
    "resume": (("resume", "mine"), 2),
    "examination of a run": (("doctor", "mine"), 2),
    "export": (("export",), 2),
    "export of a run": (("export", "mine"), 2),
    "export of the best": (("export", "--dataset", "hanzi", "--backbone", "gan"), 2),
    "pages": (("ui",), 2),
}


@pytest.mark.parametrize("case", EMPTY)
def test_what_is_empty_says_how_to_start(case: str, d3tune: Command) -> None:
    arguments, code = EMPTY[case]
    end = d3tune(*arguments)
    text = end.out + end.err
    assert (end.code, text.count("\n")) == (code, 1), text
    assert text.endswith("start with: d3tune search --dataset hanzi --backbone gan --trials 12\n")


@pytest.mark.parametrize("arguments", [("data", "list"), ("doctor",)])
def test_without_data_of_ones_own_it_is_said_how_to_bring_some(
    arguments: tuple[str, ...], d3tune: Command, tmp_path: Path
) -> None:
    words = ("only the embedded dataset", "d3tune data import", "d3tune data simulate data --like flo")
    text = " ".join(d3tune(*arguments).out.split())
    assert all(word in text for word in words), text
    assert d3tune("data", "simulate", tmp_path / "data", "--like", "apy", "--rows", "0.01").code == 0
    text = " ".join(d3tune(*arguments, "--data-dir", tmp_path / "data").out.split())
    assert not any(word in text for word in words), text

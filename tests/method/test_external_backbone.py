"""A backbone from outside: the blocks of docs/adding-a-backbone.md, installed as a distribution and run.

Files are taken from the page itself, so that it cannot say what does not work.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from d3tune.errors import UsageError
from d3tune.method.generators import backbone_names, load_backbone
from d3tune.space import load_space

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "adding-a-backbone.md"
MODULES = ("toy_backbone.py", "linear_backbone.py")
SHORT = ("updates=20", "evaluations=2", "teacher_epochs=2", "head_epochs=1", "n_synthetic_final=5", "embed_dim=32")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def named_block(name: str) -> str:
    """The page's code block below the line that ends in the file's name."""
    found = re.findall(rf"`{re.escape(name)}`:\n\n```\w+\n(.*?)^```$", page(), flags=re.DOTALL | re.MULTILINE)
    assert len(found) == 1, f"{name}: {len(found)} blocks in {PAGE}"
    return str(found[0])


def block_with(text: str) -> str:
    """The page's one code block that holds a text."""
    found = [block for block in re.findall(r"^```\w+\n(.*?)^```$", page(), re.DOTALL | re.MULTILINE) if text in block]
    assert len(found) == 1, f"{text}: {len(found)} blocks in {PAGE}"
    return str(found[0])


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """What ``pip install .`` of the page's project leaves in site-packages."""
    site = tmp_path / "site"
    project = tomllib.loads(named_block("pyproject.toml"))["project"]
    information = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    information.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (information / "METADATA").write_text(metadata, encoding="utf-8")
    sections = [
        "\n".join([f"[{group}]", *(f"{name} = {target}" for name, target in points.items())])
        for group, points in project["entry-points"].items()
    ]
    (information / "entry_points.txt").write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    for module in MODULES:
        (site / module).write_text(named_block(module), encoding="utf-8")
    return site


@pytest.fixture
def run(tmp_path: Path, site: Path) -> Run:
    """``run("-c", "…")``: Python in a process of its own, with the distribution installed and one thread."""

    def python(*arguments: object) -> "subprocess.CompletedProcess[str]":
        path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
        kept = {name: value for name, value in os.environ.items() if name not in ("D3TUNE_DATA", "MLFLOW_TRACKING_URI")}
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=tmp_path,
            env={**kept, "PYTHONPATH": path, "D3TUNE_HOME": str(tmp_path / "home"), "PYTHONDONTWRITEBYTECODE": "1"},
        )

    return python


def test_a_search_with_it_ends_with_a_tested_winner(run: Run, tmp_path: Path) -> None:
    space = tmp_path / "toy.yaml"
    space.write_text(named_block("toy.yaml"), encoding="utf-8")
    settings = [part for setting in SHORT for part in ("--set", setting)]
    ended = run(
        *("-c", "from d3tune.cli import main; main()", "search", "--dataset", "hanzi", "--backbone", "toy"),
        *("--space", space, "--executor", "local", "--trials", 2, "--confirm-seeds", 1, "--json", *settings),
    )
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout)
    assert summary["backbone"] == "toy"
    assert summary["trials"]["complete"] == 2
    assert summary["winner"]["trial"] in (0, 1)
    assert summary["selection"]["updates"] in (10, 20)
    # guessing among 200 classes would give .005
    assert 0.1 < summary["test"]["H"]["mean"] <= 1
    run_directory = Path(summary["path"])
    assert run_directory.is_relative_to(tmp_path / "home")
    assert (run_directory / "best.yaml").is_file()


def test_both_kinds_keep_to_the_contract_as_the_page_says(run: Run, tmp_path: Path) -> None:
    """The page's test classes, appended to a copy of the contract."""
    contract = (HERE / "test_backbone_contract.py").read_text(encoding="utf-8")
    classes = block_with("(GenerativeContract)")
    tests = tmp_path / "tests"
    tests.mkdir()
    shutil.copy(HERE / "conftest.py", tests)
    (tests / "test_contract.py").write_text(f"{contract}\n\n{classes}", encoding="utf-8")
    selected = re.search(r'test_backbone_contract\.py -k "(.*)"', page())
    assert selected is not None
    ended = run("-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", tests, "-k", selected[1])
    assert ended.returncode == 0, ended.stdout
    passed = re.search(r"(\d+) passed", ended.stdout)
    assert passed is not None
    assert int(passed[1]) > 30


def test_the_space_of_the_other_kind_is_legal(site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    space = tmp_path / "linear.yaml"
    space.write_text(named_block("linear.yaml"), encoding="utf-8")
    config = load_backbone("linear").config
    monkeypatch.delitem(sys.modules, "linear_backbone")
    assert list(load_space("linear", config, "hanzi/0", 144, space).parameters) == ["lr", "feature_scaling"]
    with pytest.raises(UsageError, match="shipped for backbone 'linear'; give one with --space FILE"):
        load_space("linear", config, "hanzi/0", 144)


def test_an_unknown_name_is_told_of_it(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(site)
    assert {"toy", "linear"} <= set(backbone_names())
    with pytest.raises(UsageError, match="unknown backbone 'tory'; did you mean 'toy'"):
        load_backbone("tory")
    with pytest.raises(UsageError, match=r"unknown backbone 'q'; known: .*linear, toy"):
        load_backbone("q")

"""What commands print with --json is what d3tune/results/schemas.json says, on real runs."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from jsonschema import Draft202012Validator

from d3tune.cli import app
from d3tune.results.schemas import SCHEMAS, schema
from d3tune.yamlfile import dump_yaml, read_yaml

# MLflow on SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

Command = Callable[..., Any]

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "run-format-1"
LOCAL = ("--executor", "local")
SEARCH = ("search", "--dataset", "hanzi", *LOCAL, "--trials", "1")


def with_json(group: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The commands that have --json, as typed."""
    if any("--json" in parameter.opts for parameter in group.params):
        yield " ".join(path)
    for name, command in getattr(group, "commands", {}).items():
        yield from with_json(command, (*path, name))


def no_json(name: str) -> None:
    """NaN and infinity, which Python reads and JSON has not."""
    raise ValueError(name)


@pytest.fixture
def printed(d3tune: Command) -> Callable[..., Any]:
    """``printed("data list", *options)``: what the command printed, which is of its schema."""

    def run(command: str, *options: object, code: int = 0, kind: str = "") -> Any:
        end = d3tune(*command.split(), *options, "--json")
        assert end.code == code, end.err
        value = json.loads(end.out, parse_constant=no_json)
        found = sorted(error.message for error in Draft202012Validator(schema(kind or command)).iter_errors(value))
        assert not found, found
        return value

    return run


Printed = Callable[..., Any]


def test_every_command_with_json_has_a_schema_that_is_one() -> None:
    commands = set(with_json(typer.main.get_command(app)))
    assert {"search", "leaderboard", "doctor", "data list", "data check", "replay"} <= commands
    unwritten = {name for name in commands if name.replace(" ", "-") not in SCHEMAS["$defs"]}
    assert not unwritten, "write them into d3tune/results/schemas.json, then python tools/json_docs.py"
    for command in commands:
        Draft202012Validator.check_schema(schema(command))


def test_the_page_is_made_from_the_schemas() -> None:
    namespace: dict[str, Any] = {"__file__": str(ROOT / "tools" / "json_docs.py"), "__name__": "json_docs"}
    exec(compile((ROOT / "tools" / "json_docs.py").read_text("utf-8"), "json_docs.py", "exec"), namespace)  # noqa: S102
    assert namespace["page"]() == namespace["PAGE"].read_text("utf-8"), "run python tools/json_docs.py"
    for line in namespace["page"]().splitlines():
        assert not line.endswith("| |"), f"no description: {line}"


def test_a_schema_takes_nothing_else(printed: Printed, d3tune: Command) -> None:
    for command, options in (("data check", ("hanzi",)), ("data list", ()), ("doctor", ())):
        value = printed(command, *options)
        item = value[0] if isinstance(value, list) else value
        wrap = (lambda changed: [changed]) if isinstance(value, list) else (lambda changed: changed)
        valid = Draft202012Validator(schema(command)).is_valid
        assert not valid(wrap({**item, "more": 1}))
        for key in item:
            assert not valid(wrap({name: given for name, given in item.items() if name != key}))
            assert not valid(wrap({**item, key: {}}))


def test_of_a_search_and_what_follows_it(printed: Printed, searched: Path, tiny: tuple[str, ...]) -> None:
    again = printed("search", *SEARCH[1:], *tiny, "--run-dir", "mine", "--confirm-seeds", "1", "--baselines")
    assert again["path"] == str(searched / "mine")
    assert [row["name"] for row in again["baselines"]] == ["gaussian", "ESZSL"]
    assert again["test"]["H"]["sd"] is None
    more = printed("resume", "mine", *LOCAL, "--trials", "+1", "--confirm-seeds", "2")
    assert more["test"]["H"]["sd"] is not None
    assert sum(more["trials"].values()) == 2
    assert printed("replay", "mine", "0")["differences"] == []
    assert printed("replay", "mine", "--suggestions")["compared"] == 2
    assert printed("train", "best.yaml", "--seeds", "1")["test"] == again["test"]
    (row,) = printed("leaderboard")
    assert (row["run"], row["test_H"]) == ("hanzi-gan", again["test"]["H"]["mean"])
    assert printed("doctor", "mine")


def test_of_an_ablation(printed: Printed, searched: Path) -> None:
    document = read_yaml(searched / "best.yaml")
    document["config"] |= {"cls_weight": 0.1, "embedding_weight": 0.0, "label_weight": 0.0, "ood_weight": 0.0}
    del document["selection"]
    Path("one.yaml").write_text(dump_yaml(document), encoding="utf-8")
    full, none = printed("ablate", "one.yaml", "--seeds", "1", *LOCAL)["rows"]
    assert full["difference"] is None
    assert none["difference"]["low"] is None


def test_of_an_ensemble(printed: Printed, searched: Path) -> None:
    printed("search", *SEARCH[1:], "--backbone", "gaussian", "--confirm-seeds", "0", "--run-dir", "other")
    made = printed("ensemble", "mine", "other", "--top", "1", "--seeds", "1", *LOCAL)
    assert [member["backbone"] for member in made["members"]] == ["gan", "gaussian"]
    assert sum(member["weight"] for member in made["members"]) == pytest.approx(1)
    assert made["test"]["H"]["sd"] is None
    (row,) = [row for row in printed("leaderboard") if row["kind"] == "ensemble"]
    assert (row["run"], row["test_H"]) == (made["run"], made["test"]["H"]["mean"])


def test_of_a_comparison_and_a_report(printed: Printed, searched: Path) -> None:
    document = read_yaml(searched / "best.yaml")
    document["config"] |= {"generator_lr": 2 * document["config"]["generator_lr"]}
    del document["selection"]
    Path("other.yaml").write_text(dump_yaml(document), encoding="utf-8")
    compared = printed("compare", "mine", "other.yaml", "--seeds", "1", *LOCAL)
    assert [compared[side]["name"] for side in "ab"] == ["mine", "other.yaml"]
    assert compared["a"]["trial"] == 0
    written = printed("report", "mine")
    assert written["page"] == str(searched / "mine" / "report" / "index.html")
    assert {figure["png"] is None for figure in written["figures"]} == {True, False}


def test_of_a_search_that_confirms_nothing(printed: Printed, with_store: Path, tiny: tuple[str, ...]) -> None:
    found = printed("search", *SEARCH[1:], *tiny, "--confirm-seeds", "0")
    assert found["winner"]["trial"] == 0
    assert (found["selection"], found["test"], found["configuration"]) == (None, None, None)
    assert printed("leaderboard") == []


def test_of_a_search_with_two_aims(printed: Printed, with_store: Path, tiny: tuple[str, ...]) -> None:
    further = ("--objective", "S,U", "--constraint", "S>=0.01", *tiny)
    planned = printed("search", *SEARCH[1:], *further, "--dry-run", kind="dry-run")["search"]
    assert (planned["objective"], planned["aims"], planned["constraints"]) == ("H", ["S", "U"], ["S>=0.01"])
    found = printed("search", *SEARCH[1:], *further, "--confirm-seeds", 0)
    assert found["aims"] == ["S", "U"]
    (point,) = found["front"]["points"]
    assert (point["trial"], point["value"]) == (0, found["winner"]["value"])
    assert found["front"]["hypervolume"] == pytest.approx(point["values"][0] * point["values"][1])


@pytest.mark.parametrize("backbone", ["gan", "gaussian", "rezsl"])
def test_of_the_settings(printed: Printed, backbone: str) -> None:
    options = ("--dataset", "hanzi", "--backbone", backbone, "--set", "list")
    rows = {row["name"]: row for row in printed("search", *options, kind="settings")}
    assert rows["feature_scaling"]["default"] in ("minmax", "standard")


def test_of_predictions(printed: Printed, searched: Path) -> None:
    np.save(searched / "features.npy", np.random.default_rng(0).random((3, 256), dtype=np.float32))
    found = printed("predict", "mine", "features.npy", "--top", "2")
    assert [row["row"] for row in found["rows"]] == [0, 1, 2]
    assert all(len(row["best"]) == 2 for row in found["rows"])


def test_of_a_dry_run(printed: Printed, searched: Path, tiny: tuple[str, ...]) -> None:
    new = printed("search", *SEARCH[1:], *tiny, "--dry-run", kind="dry-run")
    assert new["run"]["trials_there"] is None
    assert new["probe"]["updates"] > 0
    there = printed("search", *SEARCH[1:], *tiny, "--run-dir", "mine", "--dry-run", kind="dry-run")
    assert (there["run"]["trials_left"], there["probe"], there["estimate"]) == (0, None, None)


def test_of_runs_that_the_test_sets_selected(printed: Printed, isolated: Path) -> None:
    for name, protocol in (("honest", "test"), ("claimed", "published"), ("old", "test")):
        path = isolated / "runs" / name
        shutil.copytree(GOLDEN, path)
        summary = json.loads((path / "summary.json").read_text("utf-8"))
        summary["dataset"] |= {"name": "cub" if name != "old" else "flo", "semantics": "att312"}
        summary["test"]["protocol"] = protocol
        if name == "old":
            del summary["selection"]["splits"], summary["confirmed_trial"]
        (path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    rows = {row["run"]: row for row in printed("leaderboard") if row["kind"] == "search"}
    assert rows["claimed"]["gap"] == 0
    assert rows["claimed"]["published"]
    assert (rows["old"]["splits"], rows["old"]["configuration"]) == (None, None)
    assert printed("leaderboard", "--protocol", "published")[0]["val_H"] is None


def test_of_datasets(printed: Printed, d3tune: Command, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert d3tune("data", "simulate", data, "--like", "apy", "--rows", "0.01").code == 0
    (data / "half").mkdir()
    shutil.copy(data / "APY" / "res101.mat", data / "half")
    rows = {row["name"]: row for row in printed("data list", "--data-dir", data)}
    assert rows["half"]["problem"]
    assert rows["half"]["rows"] is None
    assert rows["apy"]["n_features"] == 2048
    assert printed("data check", "apy", "--data-dir", data)["n_seen"] == 20
    findings = printed("doctor", "--data-dir", data, code=1)
    assert [finding["what"] for finding in findings if finding["problem"]] == ["dataset half"]


def test_of_a_damaged_run(printed: Printed, isolated: Path) -> None:
    shutil.copytree(GOLDEN, isolated / "runs" / "mine")
    (isolated / "runs" / "mine" / "trials" / "00001" / "trial.json").unlink()
    assert any(finding["problem"] for finding in printed("doctor", "mine", code=1))

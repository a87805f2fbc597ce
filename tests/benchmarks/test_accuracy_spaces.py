"""The search space of each arm of the comparison."""

from pathlib import Path

import pytest

from benchmarks.accuracy.cells import GENERATIVE, REZSL_ARMS, Cell
from benchmarks.accuracy.spaces import EXPONENTS, WEIGHTS, applicable, derived
from d3tune.method.generators import load_backbone
from d3tune.space import Space, check_space, load_space
from d3tune.yamlfile import dump_yaml


def space_of(backbone: str) -> Space:
    return load_space(backbone, load_backbone(backbone).config, "hanzi/0", 256)


@pytest.mark.parametrize("width", [256, 2048])
@pytest.mark.parametrize("backbone", GENERATIVE)
@pytest.mark.parametrize("arm", ["none", "teacher", "cls", "d3"])
def test_spaces_of_arms_hold_what_they_promise(backbone: str, arm: str, width: int, tmp_path: Path) -> None:
    config = load_backbone(backbone).config
    dataset = "hanzi/0" if width == 256 else "cub"
    shipped = load_space(backbone, config, dataset, width)
    space = derived(shipped, Cell(dataset, backbone, arm))
    check_space(space, config, arm)
    on = {"d3": WEIGHTS, "cls": WEIGHTS[:1]}.get(arm, ())
    assert {name for name in WEIGHTS if name in space.parameters} == set(on)
    assert not any(space.parameters[name].off for name in on)
    assert all(space.parameters[name].low >= 0.01 for name in on)
    assert all(point.values.get(name, 1) >= 0.01 for point in space.warm_start for name in on)
    assert ("teacher_embedding" in space.fixed["heads"]) == (arm == "teacher")
    assert not any(name in point.values for point in space.warm_start for name in WEIGHTS if name not in on)
    assert space.warm_start or not shipped.warm_start
    path = tmp_path / "space.yaml"
    path.write_text(dump_yaml(space.to_dict()), encoding="utf-8")
    assert load_space(backbone, config, dataset, width, path).hash == space.hash


def test_controls_read_no_student_and_only_one_reads_the_teacher() -> None:
    heads = {arm: derived(space_of("gan"), Cell("hanzi/0", "gan", arm)).fixed["heads"] for arm in ("none", "teacher")}
    assert heads["teacher"] == [*heads["none"], "teacher_embedding"]
    assert not any(head.startswith("student") for head in heads["teacher"])


def test_warm_starts_that_an_arm_makes_equal_are_tried_once() -> None:
    named = {
        arm: [point.name for point in derived(space_of("gan"), Cell("hanzi/0", "gan", arm)).warm_start]
        for arm in ("none", "d3")
    }
    assert named["none"] == ["student-head", "anchored"]
    assert named["d3"] == ["student-head", "anchored"]


@pytest.mark.parametrize("arm", ["mse", "remse"])
def test_rezsl_has_one_kind_of_error_in_each_arm(arm: str) -> None:
    space = derived(space_of("rezsl"), Cell("hanzi/0", "rezsl", arm))
    check_space(space, load_backbone("rezsl").config, arm)
    assert not space.parameters["remse_weight"].off
    assert [name in space.parameters for name in EXPONENTS] == [arm == "remse"] * 2
    assert not any(item.off for name, item in space.parameters.items() if name in EXPONENTS)
    assert [point.name for point in space.warm_start] == ["members"]


def test_arms_of_rezsl_differ_in_heads_and_members() -> None:
    spaces = {arm: derived(space_of("rezsl"), Cell("hanzi/0", "rezsl", arm)) for arm in REZSL_ARMS}
    heads = {arm: space.fixed["heads"] for arm, space in spaces.items()}
    single = ["cosine", "discriminant"]
    assert heads == {"plain": ["cosine"], "mse": single, "remse": single, "combined": ["combined"]}
    assert spaces["plain"].fixed["members"] == 1 < spaces["combined"].fixed["members"]
    assert not any("dropout" in name for name in spaces["plain"].parameters)
    for arm, space in spaces.items():
        check_space(space, load_backbone("rezsl").config, arm)


def test_what_a_backbone_does_not_know_is_not_fixed() -> None:
    assert applicable(["updates=60", "batch_size=32"], load_backbone("gaussian").config, {}) == {}
    assert applicable(["updates=60"], load_backbone("gan").config, {"evaluations": 5}) == {"updates": 60}

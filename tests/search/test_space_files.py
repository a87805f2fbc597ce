"""Search-space files: the shipped ones are sound, and a wrong one is refused by one line that names file and key."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from d3tune.errors import UsageError
from d3tune.method.generators import load_backbone
from d3tune.space import (
    Parameter,
    Space,
    SpaceFile,
    contains,
    load_space,
    shipped_space,
    space_from_dict,
)
from d3tune.yamlfile import read_yaml

GAN = load_backbone("gan").config
SHIPPED = sorted(shipped_space("gan").parent.glob("*.yaml"))
D3_WEIGHTS = ("cls_weight", "embedding_weight", "label_weight", "ood_weight")


def scopes(path: Path) -> Iterator[tuple[str, int]]:
    """A dataset name and feature width outside of every override, and one inside of each."""
    yield "unheard-of", 2048
    for override in SpaceFile.model_validate(read_yaml(path)).overrides:
        for dataset in override.scope.datasets or ["unheard-of"]:
            yield dataset, override.scope.max_features or 2048


CASES = [(path, dataset, width) for path in SHIPPED for dataset, width in scopes(path)]


@pytest.fixture(params=CASES, ids=[f"{path.stem}-{dataset}-{width}" for path, dataset, width in CASES])
def shipped(request: pytest.FixtureRequest) -> Space:
    path, dataset, width = request.param
    return load_space(path.stem, load_backbone(path.stem).config, dataset, width)


def test_some_space_has_an_override_for_narrow_features() -> None:
    assert ("unheard-of", 512) in [(dataset, width) for _, dataset, width in CASES]
    wide, narrow = (load_space("gan", GAN, "unheard-of", width) for width in (2048, 512))
    assert wide.hash != narrow.hash
    assert load_space("gan", GAN, "unheard-of", 513).hash == wide.hash


def test_intervals_lie_within_the_legal_bounds(shipped: Space) -> None:
    config = load_backbone(shipped.backbone).config
    for name, parameter in shipped.parameters.items():
        field = config.model_fields[name]
        legal: TypeAdapter[Any] = TypeAdapter(field.annotation)
        values = parameter.choices or [parameter.low, parameter.high]
        for value in [*values, 0] if parameter.off else values:
            legal.validate_python(value)
            for bound in field.metadata:
                assert not hasattr(bound, "ge") or value >= bound.ge, name
                assert not hasattr(bound, "gt") or value > bound.gt, name
                assert not hasattr(bound, "le") or value <= bound.le, name


def test_every_parameter_says_what_it_does(shipped: Space) -> None:
    for name, parameter in shipped.parameters.items():
        assert len(parameter.about.strip()) > 10, name
        assert "\n" not in parameter.about.strip(), name


def test_warm_starts_can_be_suggested(shipped: Space) -> None:
    for point in shipped.warm_start:
        assert point.name
        assert point.source
        for name, value in point.values.items():
            if name in shipped.parameters:
                assert contains(shipped.parameters[name], value), (point.name, name)


def test_every_d3_weight_may_be_off(shipped: Space) -> None:
    config = load_backbone(shipped.backbone).config
    for name in D3_WEIGHTS:
        if name in config.model_fields:
            assert shipped.parameters[name].off, name


def test_a_space_reads_back_with_the_same_hash(shipped: Space) -> None:
    config = load_backbone(shipped.backbone).config
    through_yaml = yaml.safe_load(yaml.safe_dump(shipped.to_dict(), sort_keys=False))
    again = space_from_dict(through_yaml, config, "run.yaml: space")
    assert again == shipped
    assert again.hash == shipped.hash
    assert list(again.parameters) == list(shipped.parameters)


def test_a_description_does_not_change_the_hash_but_an_interval_does() -> None:
    space = load_space("gan", GAN, "flo", 2048)

    def changed(**update: Any) -> Space:
        item = space.parameters["generator_lr"].model_copy(update=update)
        return Space(space.backbone, space.fixed, {**space.parameters, "generator_lr": item}, space.warm_start)

    assert changed(about="something else").hash == space.hash
    assert changed(low=2e-5).hash != space.hash


def test_fixing_a_parameter_takes_it_out_of_the_search() -> None:
    space = load_space("gan", GAN, "flo", 2048).with_fixed({"batch_size": 64})
    assert "batch_size" not in space.parameters
    assert space.fixed["batch_size"] == 64


def test_a_condition_of_one_of_several_and_of_all() -> None:
    one = Parameter(low=1, high=2, about="x", when_any={"a": "positive", "b": [1, 2]})
    assert one.active({"a": 0.5, "b": 0})
    assert one.active({"a": 0, "b": 2})
    assert not one.active({"a": 0, "b": 3})
    both = Parameter(low=1, high=2, about="x", when={"a": "positive", "b": [1, 2]})
    assert both.active({"a": 0.5, "b": 1})
    assert not both.active({"a": 0.5, "b": 0})
    assert not both.active({})


# a user's own file

GOOD = """
backbone: gan
fixed: {updates: 40, evaluations: 4}
parameters:
  generator_lr: {low: 1e-4, high: 1e-2, log: true, about: learning rate}
  cls_weight: {low: 1e-3, high: 1, log: true, off: true, about: weight}
  student_lr: {low: 1e-4, high: 1e-2, log: true, when: {cls_weight: positive}, about: learning rate}
"""


def load(text: str | bytes, tmp_path: Path) -> Space:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_space("gan", GAN, "flo", 2048, path)


def test_numbers_and_words_are_read_as_people_write_them(tmp_path: Path) -> None:
    space = load(GOOD, tmp_path)
    assert space.parameters["generator_lr"].low == 1e-4
    assert space.parameters["cls_weight"].off is True
    assert list(space.parameters) == ["generator_lr", "cls_weight", "student_lr"]
    assert space.fixed == {"updates": 40, "evaluations": 4}


P = "backbone: gan\nparameters:\n  "
WRONG = {
    "unknown hyper-parameter": (P + "generator_lrr: {low: .1, high: .2, about: x}", ["generator_lrr", "generator_lr'"]),
    "unknown fixed": ("backbone: gan\nfixed: {updatess: 4}\nparameters: {}", ["fixed", "updatess", "'updates'"]),
    "unknown key of a parameter": (P + "head_lr: {low: .1, high: .2, lgo: true, about: x}", ["head_lr.lgo"]),
    "unknown key of the file": ("backbone: gan\nparameters: {}\nparametres: {}", ["parametres"]),
    "no backbone": ("parameters: {}", ["backbone", "missing"]),
    "word for a number": (P + "head_lr: {low: low, high: .2, about: x}", ["head_lr.low", "number"]),
    "boolean for a number": (P + "head_lr: {low: true, high: .2, about: x}", ["head_lr.low", "number"]),
    "word for a switch": (P + "head_lr: {low: .1, high: .2, log: on, about: x}", ["head_lr.log", "bool"]),
    "fraction for a whole number": (P + "critic_steps: {low: 1.5, high: 3, about: x}", ["critic_steps"]),
    "low is high": (P + "head_lr: {low: .2, high: .2, about: x}", ["head_lr", "below"]),
    "low above high": (P + "head_lr: {low: .3, high: .2, about: x}", ["head_lr", "below"]),
    "no high": (P + "head_lr: {low: .3, about: x}", ["head_lr", "low and high"]),
    "log from 0": (P + "cls_weight: {low: 0, high: 1, log: true, about: x}", ["cls_weight", "above 0"]),
    "log from below 0": (P + "cls_weight: {low: -1, high: 1, log: true, about: x}", ["cls_weight", "above 0"]),
    "choices and interval": (P + "head_lr: {low: .1, choices: [.1], about: x}", ["head_lr", "choices"]),
    "no choice": (P + "head_lr: {choices: [], about: x}", ["head_lr.choices"]),
    "illegal choice": (P + "ood_score: {choices: [msp, msq], about: x}", ["ood_score", "'msp'"]),
    "off where 0 is illegal": (P + "head_lr: {low: .1, high: .2, off: true, about: x}", ["head_lr", "greater than 0"]),
    "below the legal bound": (P + "ood_weight: {low: -2, high: 1, about: x}", ["ood_weight", "equal to 0"]),
    "above the legal bound": (P + "head_lr: {low: .1, high: 20, about: x}", ["head_lr", "20"]),
    "not a number": (P + "head_lr: {low: .nan, high: 1, about: x}", ["head_lr.low", "finite"]),
    "infinite": (P + "head_lr: {low: .1, high: .inf, about: x}", ["head_lr.high", "finite"]),
    "fixed to not a number": ("backbone: gan\nfixed: {head_lr: .nan}\nparameters: {}", ["fixed", "head_lr"]),
    "fixed to an illegal value": ("backbone: gan\nfixed: {head_lr: 3}\nparameters: {}", ["fixed", "head_lr", "3"]),
    "condition on a later one": (
        P + "head_lr: {low: .1, high: .2, when: {cls_weight: positive}, about: x}\n"
        "  cls_weight: {low: .1, high: 1, about: x}",
        ["head_lr", "cls_weight", "before"],
    ),
    "condition on an unknown one": (
        P + "head_lr: {low: .1, high: .2, when: {clsweight: positive}, about: x}",
        ["head_lr", "clsweight", "unknown"],
    ),
    "condition of another word": (
        P + "head_lr: {low: .1, high: .2, when: {cls_weight: negative}, about: x}",
        ["head_lr.when.cls_weight"],
    ),
    "warm start outside of the space": (
        P + "head_lr: {low: .1, high: .2, about: x}\n"
        "warm_start: [{name: paper, source: a paper, values: {head_lr: .5}}]",
        ["warm_start 'paper'", "head_lr", "0.5"],
    ),
    "warm start with an unknown name": (
        P + "head_lr: {low: .1, high: .2, about: x}\n"
        "warm_start: [{name: paper, source: a paper, values: {head_lrr: .1}}]",
        ["warm_start 'paper'", "head_lrr", "'head_lr'"],
    ),
    "another backbone": ("backbone: vae\nparameters: {}", ["backbone", "'vae'", "'gan'"]),
    "a tag": ("backbone: !!python/name:os.system\nparameters: {}", ["line 1", "tag"]),
    "a tag of its own": ("backbone: !mine gan\nparameters: {}", ["line 1", "tag"]),
    "an alias": ("backbone: &b gan\nparameters: {}\nfixed: {backbone: *b}", ["alias"]),
    "a key twice": ("backbone: gan\nparameters: {}\nbackbone: gan", ["line 3", "backbone", "twice"]),
    "a nested key twice": (P + "head_lr: {low: .1, low: .2, about: x}", ["line 3", "low", "twice"]),
    "a list": ("- backbone: gan", ["mapping", "list"]),
    "nothing": ("", ["mapping"]),
    "not YAML": ("backbone: [gan", ["line"]),
    "two documents": ("backbone: gan\n---\nbackbone: gan", ["line 2"]),
    "not UTF-8": (b"backbone: \xff\xfe", ["UTF-8"]),
    "a list for a mapping": ("backbone: gan\nparameters: [head_lr]", ["parameters"]),
    "fixed and searched": (
        "backbone: gan\nfixed: {head_lr: .1}\nparameters: {head_lr: {low: .1, high: .2}}",
        ["'head_lr'", "fixed", "parameters"],
    ),
    # the search is on flo with 2048 features: faults in what it does not use
    "an override with an unknown hyper-parameter": (
        GOOD + "overrides: [{scope: {datasets: [cub]}, parameters: {head_lrr: {low: .1, high: .2}}}]",
        ["overrides.0", "cub", "head_lrr", "'head_lr'"],
    ),
    "an override with an unknown fixed": (
        GOOD + "overrides: [{scope: {max_features: 512}, fixed: {updatess: 4}}]",
        ["overrides.0", "max_features 512", "fixed", "updatess", "'updates'"],
    ),
    "an override with an illegal fixed": (
        GOOD + "overrides: [{scope: {datasets: [flo]}}, {scope: {datasets: [hanzi]}, fixed: {head_lr: 3}}]",
        ["overrides.1", "hanzi", "head_lr", "3"],
    ),
    "an override above the legal bound": (
        GOOD + "overrides: [{scope: {datasets: [cub]}, parameters: {head_lr: {low: .1, high: 20}}}]",
        ["overrides.0", "head_lr", "20"],
    ),
    "an override with a condition on an unknown one": (
        GOOD + "overrides: [{scope: {datasets: [cub]}, parameters:"
        " {head_lr: {low: .1, high: .2, when: {clsweight: positive}}}}]",
        ["overrides.0", "head_lr", "clsweight", "unknown"],
    ),
    "an override that puts a warm start out of the space": (
        GOOD + "warm_start: [{name: paper, source: a paper, values: {generator_lr: .001}}]\n"
        "overrides: [{scope: {datasets: [cub]}, parameters: {generator_lr: {low: .002, high: .01}}}]",
        ["overrides.0", "warm_start 'paper'", "generator_lr"],
    ),
    "an override that fixes and searches": (
        GOOD + "overrides: [{scope: {datasets: [cub]}, fixed: {head_lr: .1}, parameters: {head_lr: {choices: [.1]}}}]",
        ["overrides.0", "'head_lr'", "fixed", "parameters"],
    ),
    "an override of nothing": (GOOD + "overrides: [{scope: {datasets: []}}]", ["overrides.0.scope.datasets"]),
    "an override for no width": (GOOD + "overrides: [{scope: {max_features: 0}}]", ["overrides.0.scope.max_features"]),
    "what the override that applies replaces": (
        "backbone: gan\nfixed: {head_lr: 3}\nparameters: {}\n"
        "overrides: [{scope: {datasets: [flo]}, fixed: {head_lr: .1}}]",
        ["fixed", "head_lr", "3"],
    ),
    "what a later override replaces": (
        GOOD + "overrides: [{scope: {datasets: [flo]}, fixed: {head_lr: 3}}, {scope: {}, fixed: {head_lr: .1}}]",
        ["overrides.0", "head_lr", "3"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_by_one_line_with_file_and_key(case: str, tmp_path: Path) -> None:
    text, words = WRONG[case]
    with pytest.raises(UsageError) as caught:
        load(text, tmp_path)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "mine.yaml"))
    assert "\n" not in message
    for word in words:
        assert word in message


def test_an_override_may_lean_on_one_that_always_comes_with_it(tmp_path: Path) -> None:
    """3 updates are too few for the file's own 4 evaluations, but not for the 2 of every width below 512."""
    space = load_at(
        GOOD + "overrides: [{scope: {max_features: 512}, fixed: {updates: 6, evaluations: 2}},"
        " {scope: {max_features: 256}, fixed: {updates: 3}}]",
        tmp_path,
        256,
    )
    assert space.fixed == {"updates": 3, "evaluations": 2}


OVERRIDDEN = (
    GOOD
    + """
warm_start: [{name: paper, source: a paper, values: {generator_lr: 1e-3}}]
overrides:
  - scope: {datasets: [cub], max_features: 4096}
    fixed: {updates: 50}
  - scope: {max_features: 512}
    fixed: {updates: 30, evaluations: 4, generator_lr: 1e-3, head_lr: 1e-3}
    parameters:
      cls_weight: {choices: [0, 1]}
      label_weight: {choices: [0, 1]}
  - scope: {max_features: 256}
    fixed: {updates: 20}
    warm_start: []
"""
)


def load_at(text: str, tmp_path: Path, width: int, said: list[str] | None = None) -> Space:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return load_space("gan", GAN, "birds", width, path, None if said is None else said.append)


def test_a_scope_names_datasets_in_any_case(tmp_path: Path) -> None:
    assert load_at(OVERRIDDEN.replace("[cub]", "[BIRDS]"), tmp_path, 4096).fixed["updates"] == 50
    assert load_at(OVERRIDDEN, tmp_path, 4096).fixed.get("updates") != 50


def test_an_override_that_applies_says_what_it_replaces(tmp_path: Path) -> None:
    said: list[str] = []
    space = load_at(OVERRIDDEN, tmp_path, 256, said)
    assert space.fixed["updates"] == 20
    assert len(said) == 2
    for line, scope, names in zip(
        said,
        ("max_features 512", "max_features 256"),
        ("updates, generator_lr, cls_weight", "updates, warm_start"),
        strict=True,
    ):
        assert line.startswith(f"{tmp_path / 'mine.yaml'}: the override for {scope} covers birds")
        assert line.endswith(f": {names}")
        assert "\n" not in line


@pytest.mark.parametrize("width", [513, 4096])
def test_an_override_that_does_not_apply_says_nothing(tmp_path: Path, width: int) -> None:
    said: list[str] = []
    assert load_at(OVERRIDDEN, tmp_path, width, said).fixed["updates"] == 40
    assert said == []


def test_a_description_may_be_left_out(tmp_path: Path) -> None:
    with_words = load(GOOD, tmp_path)
    without = load(re.sub(r", about: [a-z ]+", "", GOOD), tmp_path)
    assert without.parameters["generator_lr"].about == ""
    assert without.hash == with_words.hash
    assert space_from_dict(without.to_dict(), GAN, "run.yaml: space") == without


def test_a_missing_file_a_folder_and_a_huge_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.yaml: cannot read: No such file"):
        load_space("gan", GAN, "flo", 2048, tmp_path / "absent.yaml")
    with pytest.raises(UsageError, match="cannot read"):
        load_space("gan", GAN, "flo", 2048, tmp_path)
    with pytest.raises(UsageError, match="larger than"):
        load(GOOD + "#" * 5_000_001, tmp_path)


def test_a_backbone_without_a_shipped_space_asks_for_one() -> None:
    with pytest.raises(UsageError, match="--space"):
        shipped_space("unheard-of")


def test_a_frozen_space_that_was_damaged_names_the_run_file(space: Space) -> None:
    value = space.to_dict()
    value["parameters"]["head_lr"]["high"] = "many"
    with pytest.raises(UsageError, match=r"run\.yaml: space: parameters\.head_lr\.high"):
        space_from_dict(value, GAN, "run.yaml: space")


def test_a_searched_budget_is_refused_because_the_pruner_needs_one_for_all(tmp_path: Path) -> None:
    """Trials of different length cannot be compared at equal updates, and the study would call the short ones FAIL."""
    with pytest.raises(UsageError, match="updates"):
        load(P + "updates: {low: 100, high: 900, about: budget}", tmp_path)

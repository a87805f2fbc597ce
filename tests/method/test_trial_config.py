"""Configurations: bounds, values that do not fit together, and messages that name the fault."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from d3tune.config import D3Config, Resources, SearchConfig, validated
from d3tune.errors import UsageError
from d3tune.method.generators.gan import GanConfig

ALL_HEADS = ("softmax", "student", "student_embedding", "teacher_embedding")


def test_defaults_are_the_published_ones() -> None:
    config = GanConfig()
    assert (config.cls_weight, config.embedding_weight, config.label_weight, config.ood_weight) == (1e-4,) * 4
    assert (config.teacher_epochs, config.teacher_batch_size, config.teacher_lr) == (30, 128, 1e-4)
    assert (config.hidden_dim, config.noise_dim, config.critic_steps, config.gp_weight) == (4096, None, 5, 10.0)
    assert (config.batch_size, config.generator_lr, config.gcls_weight) == (64, 1e-4, 0.01)
    assert (config.head_lr, config.head_epochs) == (1e-3, 25)
    assert (config.temperature, config.ood_embed_dim, config.generator_d3_weight) == (1.0, 2, 1.0)
    assert config.heads == ALL_HEADS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("updates", 0),
        ("updates", 1.5),
        ("evaluations", 0),
        ("batch_size", 1),
        ("embed_dim", 0),
        ("embed_activation", "tanh"),
        ("feature_scaling", "none"),
        ("semantics_scale", 0.0),
        ("teacher_lr", 0.0),
        ("teacher_lr", 1.1),
        ("student_lr", -1e-3),
        ("cls_weight", -1e-9),
        ("embedding_weight", -1.0),
        ("label_weight", -1.0),
        ("ood_weight", -1.0),
        ("ood_weight", 1e7),
        ("temperature", 0.0),
        ("ood_embed_dim", 0),
        ("ood_score", "odin"),
        ("ood_input", "logits"),
        ("generator_d3_weight", -0.1),
        ("n_synthetic_step", 0),
        ("n_synthetic_final", 0),
        ("head_lr", 2.0),
        ("heads", ()),
        ("heads", ("nearest",)),
        ("generator_lr", 0.0),
        ("hidden_dim", 0),
        ("noise_dim", 0),
        ("output_activation", "tanh"),
        ("critic_steps", 0),
        ("gp_weight", -1.0),
        ("gcls_weight", float("nan")),
        ("cls_weight", float("inf")),
    ],
)
def test_illegal_values_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        GanConfig(**{name: value})
    with pytest.raises(UsageError, match=f"^best.yaml: {name}") as caught:
        validated(GanConfig, {name: value}, "best.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ood_embed_dim": 5}, "ood_embed_dim must be even .* not 5"),
        ({"updates": 5, "evaluations": 6}, r"evaluations \(6\) must not exceed updates \(5\)"),
        ({"heads": ("softmax", "softmax")}, "names one head twice"),
        (
            {"heads": ("student",), "cls_weight": 0, "embedding_weight": 0, "label_weight": 0},
            "no head is left",
        ),
    ],
)
def test_values_that_do_not_fit_together_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^--set: .*{message}"):
        validated(D3Config, values, "--set")


def test_unknown_keys_name_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"^--set: unknown key 'temprature'; did you mean 'temperature'\?$"):
        validated(D3Config, {"temprature": 2.0}, "--set")
    with pytest.raises(UsageError, match="unknown key 'critic_step'; did you mean 'critic_steps'"):
        validated(GanConfig, {"critic_step": 2}, "--set")
    with pytest.raises(UsageError, match="unknown key 'critic_steps'"):
        validated(D3Config, {"critic_steps": 2}, "--set")
    with pytest.raises(ValidationError):
        D3Config(lr=1.0)  # type: ignore[call-arg]


def test_legal_values_are_kept_and_frozen() -> None:
    values = {"updates": 7, "evaluations": 7, "ood_embed_dim": 8, "heads": ["student"], "cls_weight": 0}
    config = validated(D3Config, values, "x")
    assert config.model_dump(include=set(values)) == values | {"heads": ("student",), "cls_weight": 0.0}
    with pytest.raises(ValidationError):
        config.updates = 9  # type: ignore[misc]


def test_a_configuration_survives_its_own_dump() -> None:
    config = GanConfig(heads=("softmax",), noise_dim=None, gp_weight=0.1 + 0.2)
    assert validated(GanConfig, config.model_dump(mode="json"), "x") == config


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(st.integers(1, 3000), st.integers(1, 1000))
def test_evaluation_updates_rise_evenly_to_the_budget(updates: int, evaluations: int) -> None:
    if evaluations > updates:
        evaluations, updates = updates, evaluations
    found = D3Config(updates=updates, evaluations=evaluations).evaluation_updates
    assert len(found) == evaluations
    assert found[0] >= 1
    assert found[-1] == updates
    steps = [after - before for before, after in zip((0, *found[:-1]), found, strict=True)]
    assert min(steps) >= 1
    assert max(abs(step - updates / evaluations) for step in steps) <= 1


@pytest.mark.parametrize(
    ("weights", "student", "d3"),
    [
        ({}, True, True),
        ({"cls_weight": 0, "embedding_weight": 0, "label_weight": 0}, False, True),
        ({"cls_weight": 0, "embedding_weight": 0, "label_weight": 0, "ood_weight": 0}, False, False),
        ({"cls_weight": 0, "embedding_weight": 0, "ood_weight": 0}, True, True),
        ({"cls_weight": 0, "label_weight": 0, "ood_weight": 0}, True, True),
    ],
)
def test_offered_heads_follow_the_weights(weights: dict[str, float], student: bool, d3: bool) -> None:
    config = D3Config(**weights)
    assert config.trains_student is student
    assert config.uses_d3 is d3
    assert config.offered_heads == (ALL_HEADS if student else ("softmax", "teacher_embedding"))


def test_every_hyper_parameter_says_what_it_is() -> None:
    for name, field in GanConfig.model_fields.items():
        assert field.description, name


def test_search_splits_are_consecutive_draws() -> None:
    config = SearchConfig(
        dataset="hanzi",
        dataset_hash="0",
        semantics="att103",
        features="x",
        backbone="gan",
        val_split=2,
        val_splits=3,
    )
    assert config.splits == (2, 3, 4)


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, 1), (1.0, 1), (2.9, 2), (4.0, 4)])
def test_threads_follow_the_cores_of_a_trial(cpus: float, threads: int) -> None:
    assert Resources(cpus_per_trial=cpus).threads == threads


@pytest.mark.parametrize("values", [{"cpus_per_trial": 0}, {"gpus_per_trial": -1}, {"concurrency": 0}])
def test_impossible_resources_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Resources(**values)

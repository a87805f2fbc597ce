"""Fuzzed YAML: whatever the text, a configuration that is legal throughout, or one line."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from d3tune.config import SearchConfig, TrialConfig, validated
from d3tune.errors import UsageError
from d3tune.method.generators import backbone_names, load_backbone
from d3tune.search.sampling import enqueue_params
from d3tune.space import Space, check_space, load_space, shipped_space, space_from_dict
from d3tune.yamlfile import MAX_DEPTH, dump_yaml, parse_yaml, read_yaml

Mutation = tuple[str, float, int, str]

FUZZ = settings(
    max_examples=120,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
CONFIG = load_backbone("gan").config
SHIPPED = shipped_space("gan").read_text(encoding="utf-8")
# an early part is enough to mutate, and quicker
FRONT = SHIPPED[: SHIPPED.index("\n", 2500)]
PIECES = (
    *(
        "[",
        "]",
        "{",
        "}",
        ":",
        ": ",
        "- ",
        "\n",
        "\n  ",
        "\n      ",
        "? ",
        "| ",
        "> ",
        "'",
        '"',
        "#",
        "%",
        "@",
        "\t",
        ",",
    ),
    *("!!python/object/apply:os.system [ls]", "&a ", "*a", "<<: ", "!", "---\n", "...\n", "\x00", "\ufeff", "\u2028"),
    *(".nan", ".inf", "-.inf", "1e999", "9" * 18, "9" * 400, "9" * 5000, "0x10", "0o7", "1_0", "1:30", "2001-01-01"),
    *("null", "true", "off", "positive", "[" * 60, "{a: " * 60, "\\x1b[2J", "é", "\U0001f600", "..", "../..", "_"),
)


def mutate(text: str, mutations: list[Mutation]) -> str:
    """Apply mutations: what, where in [0, 1), how long, with what."""
    for what, where, length, piece in mutations:
        place = int(where * len(text))
        if what == "insert":
            text = text[:place] + piece + text[place:]
        elif what == "replace":
            text = text[:place] + piece + text[place + length :]
        elif what == "drop":
            text = text[:place] + text[place + length :]
        elif what == "repeat":
            text = text[:place] + text[place : place + length] + text[place:]
        elif what == "value":
            # all that stands behind the next key
            colon = text.find(": ", place)
            end = text.find("\n", colon)
            if 0 <= colon < end:
                text = text[: colon + 2] + piece + text[end:]
        else:
            text = text[:place]
    return text


KINDS = st.sampled_from(["insert", "replace", "drop", "repeat", "value", "value", "value", "cut"])
MUTATIONS = st.lists(
    st.tuples(KINDS, st.floats(0, 1, exclude_max=True), st.integers(0, 200), st.sampled_from(PIECES)),
    min_size=1,
    max_size=4,
)


def value_or_line(read: Callable[[], Any]) -> Any:
    """What a reader gives, or None where it refuses."""
    try:
        return read()
    except UsageError as error:
        # the command line joins the lines of a text; nothing else of it may move a terminal's cursor
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", str(error)), str(error)
        assert "Traceback" not in str(error)
        return None


def assert_usable(space: Space | None) -> None:
    """A space that was taken can be frozen, read back, and used for suggestions."""
    if space is None:
        return
    check_space(space, CONFIG, "again")
    frozen = parse_yaml(dump_yaml(space.to_dict()), "run.yaml")
    assert space_from_dict(frozen, CONFIG, "run.yaml").hash == space.hash
    for point in space.warm_start:
        enqueue_params(space, dict(point.values))


def depth(value: Any) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(depth, inside), default=0) if isinstance(value, dict | list) else 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "space.yaml"


@FUZZ
@given(mutations=MUTATIONS)
@example(mutations=[])
def test_mutated_spaces(path: Path, mutations: list[Mutation]) -> None:
    path.write_text(mutate(FRONT, mutations), encoding="utf-8", newline="")
    assert_usable(value_or_line(lambda: load_space("gan", CONFIG, "flo", 2048, path)))


@FUZZ
@given(content=st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda text: text.encode("utf-16"))))
@example(content=FRONT.encode("utf-16"))
@example(content=b"\x80\x04\x95" + bytes(60))
def test_random_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    value_or_line(lambda: read_yaml(path))


@FUZZ
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=25))
def test_random_pieces(pieces: list[str]) -> None:
    value = value_or_line(lambda: parse_yaml("".join(pieces), "file.yaml"))
    assert depth(value) <= MAX_DEPTH


@pytest.mark.parametrize("opening", ["[", "{a: ", "{? ", "- ", "? ", "- a: "])
def test_depth_is_bounded_and_far_beyond_what_is_needed(opening: str) -> None:
    assert value_or_line(lambda: parse_yaml("a:\n  " + opening * (MAX_DEPTH + 1), "file.yaml")) is None
    assert depth(parse_yaml("a: " + "[" * 20 + "]" * 20, "file.yaml")) == 21


@pytest.mark.parametrize(
    "text", ['a: "\\e[2J"', 'a: "\\0"', 'a: ["\\x9b"]', '"a\\e[2J": 1', '"a\\nb": 1', 'x: {"a\\u202e": 1}', 'a: "\\r"']
)
def test_escapes_write_nothing_that_moves_a_cursor(text: str) -> None:
    assert value_or_line(lambda: parse_yaml(text, "file.yaml")) is None


def test_texts_of_several_lines_are_kept() -> None:
    assert parse_yaml('a: |\n  one\n  two\nb: "\\t伎 \\u00e9"', "file.yaml") == {"a": "one\ntwo\n", "b": "\t伎 é"}


# documents of the right form with the wrong things in it

WORDS = st.sampled_from(
    ["", "a", "relu", "positive", "..", "../x", "\x1b[2J", "a\nb", "1", "é\u202e", "x" * 500, "batch_size", "updates"]
)
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.integers(-(2**70), 2**70),
    st.sampled_from([10**17, 10**18, 10**400]),
    st.floats(),
    st.sampled_from([1e-320, 1e308]),
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, WORDS)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=6,
)
HYPERPARAMETERS = sorted(CONFIG.model_fields)
HYPERPARAMETER = st.one_of(st.sampled_from(HYPERPARAMETERS), WORDS)


def mostly(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(strategy, strategy, strategy, ANYTHING)


PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "low": mostly(NUMBERS),
        "high": mostly(NUMBERS),
        "log": mostly(st.booleans()),
        "off": mostly(st.booleans()),
        "choices": mostly(st.lists(LEAVES, max_size=3)),
        "when": mostly(st.dictionaries(HYPERPARAMETER, mostly(st.just("positive")), max_size=2)),
        "when_any": mostly(st.dictionaries(HYPERPARAMETER, mostly(st.lists(LEAVES, max_size=2)), max_size=2)),
        "about": mostly(WORDS),
    },
)
POINTS = st.fixed_dictionaries(
    {
        "name": mostly(WORDS),
        "source": mostly(WORDS),
        "values": mostly(st.dictionaries(HYPERPARAMETER, LEAVES, max_size=3)),
    }
)
SOUND_PARAMETERS = st.sampled_from(
    [
        {"generator_lr": {"low": 1e-4, "high": 1e-2, "log": True}},
        {"batch_size": {"choices": [64, 128]}},
        {"cls_weight": {"low": 1e-4, "high": 1, "log": True, "off": True}},
        {"temperature": {"low": 0.5, "high": 4, "when": {"label_weight": "positive"}}},
    ]
)
LAYERS: dict[str, st.SearchStrategy[Any]] = {
    "fixed": mostly(st.dictionaries(HYPERPARAMETER, ANYTHING, max_size=2)),
    "parameters": mostly(st.one_of(SOUND_PARAMETERS, st.dictionaries(HYPERPARAMETER, PARAMETERS, max_size=2))),
    "warm_start": mostly(st.lists(POINTS, max_size=2)),
}
SCOPES = st.fixed_dictionaries(
    {}, optional={"datasets": mostly(st.lists(WORDS, max_size=2)), "max_features": mostly(st.integers(0, 4096))}
)
OVERRIDES = st.fixed_dictionaries({"scope": mostly(SCOPES)}, optional=LAYERS)
DOCUMENTS = st.fixed_dictionaries(
    {"backbone": st.just("gan"), "parameters": LAYERS["parameters"]},
    optional={
        "fixed": LAYERS["fixed"],
        "warm_start": LAYERS["warm_start"],
        "overrides": mostly(st.lists(OVERRIDES, max_size=2)),
    },
)


@settings(FUZZ, max_examples=250)
@given(document=DOCUMENTS)
@example(document={"backbone": "gan", "parameters": {"noise_dim": {"low": 10**400, "high": 10**401}}})
@example(document={"backbone": "gan", "parameters": {"noise_dim": {"low": 1, "high": 10**17}}})
@example(document={"backbone": "gan", "parameters": {"batch_size": {"choices": [float("nan")]}}})
def test_space_documents(path: Path, document: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    assert_usable(value_or_line(lambda: load_space("gan", CONFIG, "flo", 2048, path, lambda line: None)))


@FUZZ
@given(
    backbone=st.sampled_from(backbone_names()),
    field=st.integers(0, 100),
    value=ANYTHING,
    others=st.dictionaries(HYPERPARAMETER, ANYTHING, max_size=2),
)
@example(backbone="gan", field=0, value=float("inf"), others={})
def test_configurations(backbone: str, field: int, value: Any, others: dict[str, Any]) -> None:
    config = load_backbone(backbone).config
    names = sorted(config.model_fields)
    text = yaml.safe_dump({names[field % len(names)]: value, **others}, allow_unicode=True)
    made = value_or_line(lambda: validated(config, parse_yaml(text, "best.yaml"), "best.yaml"))
    if made is not None:
        assert isinstance(made, TrialConfig)
        assert config.model_validate(made.model_dump(mode="json")) == made


@FUZZ
@given(changes=st.dictionaries(st.sampled_from([*SearchConfig.model_fields, "x"]), ANYTHING, min_size=1, max_size=3))
def test_search_configurations(changes: dict[str, Any]) -> None:
    identity = {"dataset": "flo", "dataset_hash": "0", "semantics": "att312", "features": "res101", "backbone": "gan"}
    text = yaml.safe_dump({**identity, **changes}, allow_unicode=True)
    made = value_or_line(lambda: validated(SearchConfig, parse_yaml(text, "run.yaml"), "run.yaml: search"))
    if made is not None:
        assert SearchConfig.model_validate(made.model_dump(mode="json")) == made

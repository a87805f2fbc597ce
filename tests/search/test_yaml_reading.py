"""parse_yaml: whatever the text, a mapping or one clear error."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from d3tune.errors import UsageError
from d3tune.yamlfile import dump_yaml, parse_yaml

WORDS = [
    *"[]{},:?-&*!|>'\"%@` \n\t#=<~",
    *["a", "b: ", "1", "1e5", ".nan", "0x", "0b_", "017", "1:30", "2001-99-99", "2001-12-01", "<<: ", "---", "..."],
    *["!!str ", "!!int ", "!!float ", "!!bool ", "!!null ", "!!binary ", "!!timestamp ", "!!set ", "!!omap "],
    *["!!map ", "!!seq ", "!!pairs ", "!!merge ", "!!python/object:os.system ", "!x ", "&a ", "*a", "? ", "\x00"],
    *["é", "\u2028", "\ud800", "\U0001f600", "_", "9" * 5000, "[" * 300],
]
TEXTS = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WORDS), max_size=12).map("".join))


@settings(
    max_examples=400,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=TEXTS)
@example(text="a: !!timestamp foo")
@example(text="a: !!bool maybe")
@example(text='a: !!int ""')
@example(text="[" * 5000)
@example(text="a: " + "9" * 5000)
def test_any_text_gives_a_mapping_or_a_usage_error(text: str) -> None:
    try:
        value = parse_yaml(text, "file.yaml")
    except UsageError as error:
        assert str(error).startswith("file.yaml: ")
        assert "\n" not in str(error)
    else:
        assert isinstance(value, dict)
        assert all(isinstance(key, str) for key in value)


@pytest.mark.parametrize("text", ["a: !!str 5", "a: !!binary YQ==", "a: !!set {b: c}", "!!map {a: 1}"])
def test_tags_are_refused_whatever_they_say(text: str) -> None:
    with pytest.raises(UsageError, match="tag"):
        parse_yaml(text, "file.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        ("12", 12),
        (".5", 0.5),
        ("true", True),
        ("False", False),
        ("off", "off"),
        ("on", "on"),
        ("yes", "yes"),
        ("no", "no"),
        ("null", None),
        ("[relu, 1e-3]", ["relu", 1e-3]),
    ],
)
def test_numbers_and_words_are_those_of_yaml_1_2(text: str, value: object) -> None:
    got = parse_yaml(f"key: {text}", "file.yaml")["key"]
    assert got == value
    assert type(got) is type(value)


def test_off_is_a_word_as_a_key_too() -> None:
    assert parse_yaml("off: true", "file.yaml") == {"off": True}


def test_what_is_dumped_is_read_back() -> None:
    value = {"a": 1e-05, "b": [0.1, None, True], "c": {"name": "hanzi/1", "d": "off", "e": "漢字"}, "f": 1e300}
    assert parse_yaml(dump_yaml(value), "file.yaml") == value
    assert list(parse_yaml(dump_yaml(value), "file.yaml")) == list(value)

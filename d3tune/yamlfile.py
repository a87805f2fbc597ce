"""Reading YAML that a user wrote: no tags, no duplicate keys, numbers as people write them."""

import re
import unicodedata
from pathlib import Path
from typing import Any

import yaml

from d3tune.errors import UsageError

MAX_BYTES = 5_000_000
# far more than any configuration has: the parser's time grows with the square of the depth, its memory by 300 bytes
# a token
MAX_DEPTH = 50
MAX_TOKENS = 200_000
MAX_DIGITS = 18


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's plain words and one value a key.

    ``1e-4`` is a number and ``on``, ``off``, ``yes`` and ``no`` are words, as YAML 1.2 has it.
    """


_OPENING = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
_CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)
_YAML_1_1 = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:int", "tag:yaml.org,2002:timestamp")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _YAML_1_1]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|false|True|False)$"), list("tfTF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))
_EXPONENT = (
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(*_EXPONENT)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper that also quotes a text such as ``12e4567``, which `_Loader` would take for a number."""


_Dumper.add_implicit_resolver(*_EXPONENT)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if not isinstance(key, str | int | float | bool) or not str(key).isprintable():
            raise yaml.constructor.ConstructorError(None, None, "a key must be a plain word", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key '{key}' twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    # what is longer overflows wherever it is taken for a float
    if len(node.value) > MAX_DIGITS:
        raise yaml.constructor.ConstructorError(None, None, "a number of too many digits", node.start_mark)
    return loader.construct_yaml_int(node)


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    # an escape may write what no text in a terminal should hold
    if any(unicodedata.category(sign) in ("Cc", "Cs") and sign not in "\n\t" for sign in node.value):
        raise yaml.constructor.ConstructorError(None, None, "a text with control characters", node.start_mark)
    return str(loader.construct_yaml_str(node))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:str", _text)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Raises:
        UsageError: the file is missing, too large or too deeply nested, not UTF-8, not YAML, or not a mapping; or it
            uses tags or aliases.
    """
    return parse_yaml(limited_text(path), str(path))


def limited_text(path: Path) -> str:
    """The text of a file that is to be parsed.

    Raises:
        UsageError: it is missing, too large to be one of ours, or not UTF-8.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path}: larger than {MAX_BYTES // 1_000_000} MB; not a configuration")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text") from None


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """Parse YAML text that holds one mapping; see `read_yaml`.

    Args:
        text: the YAML.
        where: what to name in an error.
    """
    try:
        value = _load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}" if mark else "?"
        raise UsageError(f"{where}: {place}: {_one_line(error.problem or 'not YAML')}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not YAML: {_one_line(str(error))}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{where}: must be a mapping of keys to values, not {type(value).__name__}")
    return {str(key): item for key, item in value.items()}


def dump_yaml(value: dict[str, Any]) -> str:
    """A mapping as YAML text, keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _load(text: str) -> Any:
    depth = 0
    for number, token in enumerate(yaml.scan(text)):
        line = token.start_mark.line + 1
        if isinstance(token, yaml.AliasToken | yaml.TagToken):
            raise ValueError(f"line {line}: aliases (*name) and tags (!name) are not allowed")
        depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
        if depth > MAX_DEPTH:
            raise ValueError(f"line {line}: nested more than {MAX_DEPTH} deep")
        if number > MAX_TOKENS:
            raise ValueError(f"line {line}: more than {MAX_TOKENS} words and signs; not a configuration")
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader


def _one_line(text: str) -> str:
    return " ".join(text.split())

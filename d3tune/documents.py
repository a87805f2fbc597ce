"""Configurations as files: JSON where the name ends in .json, else YAML."""

import json
import unicodedata
from pathlib import Path
from typing import Any, NoReturn

from d3tune.errors import UsageError
from d3tune.yamlfile import MAX_DEPTH, MAX_DIGITS, dump_yaml, limited_text, read_yaml

JSON_SUFFIX = ".json"


def read_document(path: Path) -> dict[str, Any]:
    """Read a file that holds one mapping.

    Raises:
        UsageError: see `d3tune.yamlfile.read_yaml`; JSON is held to the same: one value a key, no NaN, no control
            characters.
    """
    return _parse_json(limited_text(path), str(path)) if is_json(path) else read_yaml(path)


def document_text(document: dict[str, Any], path: Path) -> str:
    """A mapping as `read_document` reads it from a file of that name."""
    return json_text(document) if is_json(path) else dump_yaml(document)


def json_text(document: dict[str, Any]) -> str:
    """A mapping as JSON text, keys in their order.

    Raises:
        ValueError: it holds NaN or infinity, which JSON has not.
    """
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def is_json(path: Path) -> bool:
    """Whether a file is JSON, by its name."""
    return path.suffix.lower() == JSON_SUFFIX


def _parse_json(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_mapping, parse_int=_integer, parse_constant=_constant)
        _check(value, MAX_DEPTH)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}: line {error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise UsageError(f"{where}: not JSON: nested more than {MAX_DEPTH} deep") from None
    except ValueError as error:
        raise UsageError(f"{where}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{where}: must be a mapping of keys to values, not {type(value).__name__}")
    return value


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if not key.isprintable():
            raise ValueError("a key must be a plain word")
        if key in found:
            raise ValueError(f"key '{key}' twice")
        found[key] = value
    return found


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("a number of too many digits")
    return int(digits)


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _check(value: Any, depth: int) -> None:
    """Refuse what no YAML of ours may hold either."""
    if depth == 0:
        raise RecursionError
    if isinstance(value, str) and any(
        unicodedata.category(sign) in ("Cc", "Cs") and sign not in "\n\t" for sign in value
    ):
        raise ValueError("a text with control characters")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check(item, depth - 1)

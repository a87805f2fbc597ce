"""Published GZSL results, to be read beside runs: ``published.csv`` in this folder, as their sources print them.

All are marked test-selected: public code of such methods chooses the epoch, and often more, on the test sets.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from d3tune.errors import D3TuneError
from d3tune.words import TEST_SELECTED

FILE = Path(__file__).with_name("published.csv")
HEADER = ["method", "dataset", "semantics", "features", "U", "S", "H", "evidence"]
PERCENT = re.compile(r"\d{1,3}(\.\d)?")
SEMANTICS = re.compile(r"[a-z]+\d+")


@dataclass(frozen=True)
class Published:
    """One published result.

    Attributes:
        method: its name.
        dataset: lower-case, e.g. ``cub``.
        semantics: kind and width, e.g. ``att312``.
        features: what they are, e.g. ``res101``.
        U: accuracy on unseen classes in [0, 1], per class; None where the source has none.
        S: accuracy on seen classes, likewise.
        H: their harmonic mean in [0, 1], as published and not computed from U and S.
        evidence: where the numbers were read.
    """

    method: str
    dataset: str
    semantics: str
    features: str
    U: float | None
    S: float | None
    H: float
    evidence: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the attributes, and ``selection``, which is ``test-selected``."""
        return {**vars(self), "selection": TEST_SELECTED}


@cache
def published_results() -> tuple[Published, ...]:
    """Every published result, in the order of the file."""
    return tuple(parse_published(FILE.read_text(encoding="utf-8")))


def published_beside(dataset: str, semantics: str) -> list[Published]:
    """The published results on the same dataset with the same semantics, in any case.

    Args:
        dataset: of a run, e.g. ``CUB``.
        semantics: of a run, e.g. ``att312``.
    """
    wanted = (dataset.lower(), semantics.lower())
    return [result for result in published_results() if (result.dataset, result.semantics) == wanted]


def parse_published(text: str) -> Iterator[Published]:
    """Read ``published.csv``: accuracies in percent with at most one decimal; U and S may both be empty.

    Raises:
        D3TuneError: a line is not of that form, or is there twice; the message names it.
    """
    lines, seen = _lines(text), set()
    if next(lines, None) != (1, HEADER):
        raise _fault(1, f"the columns must be {','.join(HEADER)}")
    for line, cells in lines:
        result = _result(cells, line)
        key = (result.method, result.dataset, result.semantics, result.features)
        if key in seen:
            raise _fault(line, f"{', '.join(key)}: twice")
        seen.add(key)
        yield result


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(text.splitlines(), strict=True)
    try:
        yield from enumerate(reader, start=1)
    except csv.Error as error:
        raise _fault(reader.line_num, str(error)) from None


def _result(cells: list[str], line: int) -> Published:
    if len(cells) != len(HEADER):
        raise _fault(line, f"has {len(cells)} cells, not {len(HEADER)}")
    method, dataset, semantics, features, u, s, h, evidence = cells
    words = (method, dataset, semantics, features, evidence)
    if not _are_words(words) or dataset != dataset.lower() or not SEMANTICS.fullmatch(semantics):
        raise _fault(line, "a name is missing or badly written")
    if (u == "") != (s == ""):
        raise _fault(line, "U and S: both or none")
    unseen, seen = (None if cell == "" else _share(cell, line) for cell in (u, s))
    return Published(method, dataset, semantics, features, unseen, seen, _share(h, line), evidence)


def _are_words(cells: Iterable[str]) -> bool:
    return all(cell and cell == cell.strip() and cell.isprintable() for cell in cells)


def _share(cell: str, line: int) -> float:
    """``57.9`` percent is 0.579."""
    if not PERCENT.fullmatch(cell) or float(cell) > 100:
        raise _fault(line, f"'{cell}' is no accuracy in percent")
    return round(float(cell) / 100, 3)


def _fault(line: int, what: str) -> D3TuneError:
    return D3TuneError(f"{FILE}: line {line}: {what}; the installation is damaged, install d3tune again")

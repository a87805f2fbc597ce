"""Answer one question in a process of its own: ``python -m benchmarks.accuracy.question FOLDER``."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy import anchors, diagnosis, draws, optimism, terms
from benchmarks.accuracy.tasks import INPUT, RESULT
from benchmarks.accuracy.variants import Given
from d3tune.files import write_json

ANSWERS: dict[str, Callable[[Given], dict[str, Any]]] = {
    "terms": terms.answer,
    "diagnosis": diagnosis.answer,
    "anchor": anchors.answer,
    "optimism": optimism.answer,
    "draws": draws.answer,
}


def main(place: Path) -> None:
    """Read what is asked, answer it, and write the answer beside it."""
    torch.set_num_threads(1)
    given = json.loads((place / INPUT).read_text(encoding="utf-8"))
    kind = given.pop("kind")
    asked = Given(**{**given, "further": tuple(given["further"]), "place": place / "trainings"})
    write_json(place / RESULT, ANSWERS[kind](asked))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

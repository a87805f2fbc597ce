"""The cells of the comparison: a search each, tuned with the same number of trials and tested once by its own command.

Arms differ in what is fixed, not in what is tuned otherwise:

- ``none``: no D³ term, and no head that reads teacher or student.
- ``teacher``: no D³ term, with the head on the frozen teacher's embedding: what the teacher alone brings.
- ``cls``: the student's classification alone.
- ``d3``: all four terms, as the shipped space has them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from d3tune.method.generators import load_backbone
from d3tune.space import load_space

PROGRAM = (sys.executable, "-c", "from d3tune.cli import main; main()")
GENERATIVE = ("gan", "vae", "diffusion", "cegan", "vaegan")
OTHERS = ("rezsl", "gaussian")
WEIGHTS = ("cls_weight", "embedding_weight", "label_weight", "ood_weight")
OF_TEACHER, OF_STUDENT = "teacher_embedding", ("student", "student_embedding")
ARMS = ("none", "teacher", "cls", "d3")
N_FEATURES = 256


@dataclass(frozen=True)
class Cell:
    """One search.

    Attributes:
        dataset: e.g. ``hanzi/3``.
        backbone: its name.
        arm: of `ARMS`; ``d3`` for what has no D³ terms.
    """

    dataset: str
    backbone: str
    arm: str = "d3"

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.dataset.replace('/', '-')}-{self.backbone}-{self.arm}"


def cells(datasets: Sequence[str], backbones: Sequence[str]) -> list[Cell]:
    """Every cell, dataset by dataset, so that an interrupted comparison has whole ones."""
    found = []
    for dataset in datasets:
        found += [Cell(dataset, name, arm) for name in backbones if name in GENERATIVE for arm in ARMS]
        found += [Cell(dataset, name) for name in backbones if name in OTHERS]
    return found


def settings(cell: Cell) -> dict[str, Any]:
    """What a cell fixes beside what the space does."""
    if cell.backbone not in GENERATIVE or cell.arm == "d3":
        return {}
    if cell.arm == "cls":
        return dict.fromkeys(WEIGHTS[1:], 0)
    space = load_space(cell.backbone, load_backbone(cell.backbone).config, cell.dataset, N_FEATURES)
    offered = [head for head in space.fixed["heads"] if head not in (*OF_STUDENT, OF_TEACHER)]
    return {**dict.fromkeys(WEIGHTS, 0), "heads": [*offered, OF_TEACHER] if cell.arm == "teacher" else offered}


def carry_out(cell: Cell, work: Path, trials: int, seeds: int, further: Sequence[str] = ()) -> dict[str, Any]:
    """Search and confirm a cell, or go on with it, or find it done; its summary.

    Raises:
        RuntimeError: the command failed.
    """
    run = work / cell.name
    done = _summary(run)
    if done is not None:
        return done
    fixed = [f"{key}={_plain(value)}" for key, value in settings(cell).items()] + list(further)
    what = ["search", "--dataset", cell.dataset, "--backbone", cell.backbone, "--run-dir", str(run)]
    budget = ["--trials", str(trials), "--confirm-seeds", str(seeds), "--baselines"]
    command = [*PROGRAM, *what, *budget, *(word for setting in fixed for word in ("--set", setting))]
    environment = {**os.environ, "D3TUNE_HOME": str(work / "home")}
    ended = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # noqa: S603
    summary = _summary(run)
    if ended.returncode != 0 or summary is None:
        raise RuntimeError(f"{cell.name}: exit code {ended.returncode}: {ended.stderr.strip().splitlines()[-1:]}")
    return summary


def _summary(run: Path) -> dict[str, Any] | None:
    try:
        found: Mapping[str, Any] = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return dict(found) if found.get("state") == "done" and found.get("test") is not None else None


def _plain(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()

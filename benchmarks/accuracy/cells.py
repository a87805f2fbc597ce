"""The cells of the comparison: a search each, tuned with the same number of trials and tested once by its own command.

Arms differ in what is fixed and in what may be off, not in what is tuned otherwise (`benchmarks.accuracy.spaces`):

- ``none``: no D³ term, and no head that reads teacher or student.
- ``teacher``: no D³ term, with the head on the frozen teacher's embedding: what the teacher alone brings.
- ``cls``: the student's classification alone, never off, and no head on the teacher.
- ``d3``: all four terms with weights of .01 and more, and no head on the teacher.
- ``plain``, of rezsl: one network without dropout, read by its cosine, as published.
- ``mse`` and ``remse``, of rezsl: plain MSE, or both exponents of ReMSE above 0; every single head.
- ``combined``, of rezsl: read by the mean of its heads and ``gaussian`` alone.
- ``shipped``: the space as a user gets it, where each term may also be off.
- ``tuned``: of a backbone that has no arms.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

GENERATIVE = ("gan", "vae", "diffusion", "cegan", "vaegan")
OTHERS = ("rezsl", "gaussian")
SHIPPED, TUNED = "shipped", "tuned"
GENERATIVE_ARMS, REZSL_ARMS = ("none", "teacher", "cls", "d3"), ("plain", "mse", "remse", "combined")
# closed forms are the same for every cell of a dataset
WITH_BASELINES = ("none", "plain", TUNED)


@dataclass(frozen=True)
class Cell:
    """One search.

    Attributes:
        dataset: e.g. ``hanzi/3``.
        backbone: its name.
        arm: see the module.
    """

    dataset: str
    backbone: str
    arm: str

    @property
    def name(self) -> str:
        """Of its record and its folder."""
        return f"{self.dataset.replace('/', '-')}-{self.backbone}-{self.arm}"

    @property
    def row(self) -> str:
        """Its row in a table of models."""
        return self.backbone if self.arm == TUNED else f"{self.backbone}, {self.arm}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def arms_of(backbone: str, arms: Sequence[str]) -> list[str]:
    """Which arms a backbone has.

    Args:
        backbone: its name.
        arms: of generative backbones; ``shipped`` is for rezsl too.
    """
    if backbone in GENERATIVE:
        return [arm for arm in (*GENERATIVE_ARMS, SHIPPED) if arm in arms]
    if backbone == "rezsl":
        return [*REZSL_ARMS, *([SHIPPED] if SHIPPED in arms else [])]
    return [TUNED]


def cells(datasets: Sequence[str], backbones: Sequence[str], arms: Sequence[str] = GENERATIVE_ARMS) -> list[Cell]:
    """Every cell, dataset by dataset, so that an interrupted comparison has whole ones."""
    return [
        Cell(dataset, backbone, arm)
        for dataset in datasets
        for backbone in backbones
        for arm in arms_of(backbone, arms)
    ]

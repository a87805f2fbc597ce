"""What an evaluation read of the evaluation rows, kept for whoever asks for it: nothing is read a second time."""

from dataclasses import dataclass, field

from torch import Tensor

from d3tune.method.metrics import Scores


@dataclass(frozen=True)
class OodScores:
    """A score that should be higher for rows of seen classes.

    Attributes:
        name: what it is, e.g. ``teacher's msp``.
        seen: (n_s,) of rows of seen classes.
        unseen: (n_u,) of rows of unseen classes.
    """

    name: str
    seen: Tensor
    unseen: Tensor


@dataclass
class Readings:
    """Filled by a `Trainer` whose ``readings`` it is.

    Attributes:
        scores: by head, of the latest evaluation.
        ood: what ``AUROC`` and ``FPR95`` are of; None where the backbone has no such score.
    """

    scores: dict[str, Scores] = field(default_factory=dict)
    ood: OodScores | None = None

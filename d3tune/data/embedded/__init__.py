"""The dataset inside the package, ``hanzi``: real glyph pictures, to try everything without a download.

What it is, where it comes from and what it is not fit for: HANZI.md beside this file.
"""

from importlib import resources

import numpy as np
import numpy.typing as npt

from d3tune.data.dataset import GZSLDataset, make_dataset
from d3tune.errors import DatasetError, meant, nearest

EMBEDDED_NAMES = tuple(f"hanzi/{split}" for split in range(6))

_SEMANTICS_ID = "parts103"
_N_UNSEEN = 50
_TEST_SEEN = 0.2


def is_embedded(name: str) -> bool:
    """Whether a name is that of an embedded dataset, rightly spelt or not (``hanzi``, ``hanzi/9``)."""
    return name.lower().split("/")[0] == "hanzi"


def load_embedded(name: str, semantics: str | None = None) -> GZSLDataset:
    """Load ``hanzi`` (= ``hanzi/0``) or one of ``hanzi/0`` … ``hanzi/5``.

    Args:
        name: the number behind the slash chooses which 50 of the 200 characters are unseen.
        semantics: None, ``parts`` or ``parts103``: it has no other.

    Returns:
        7,226 rows of 256 grey values in [0, 1], 150 seen and 50 unseen classes, 0/1 semantics (200, 103).

    Raises:
        DatasetError: there is no such split or no such semantics.
    """
    name = "hanzi/0" if name.lower() == "hanzi" else name.lower()
    if name not in EMBEDDED_NAMES:
        raise DatasetError(f"unknown dataset '{name}'{nearest(name, EMBEDDED_NAMES)}")
    if semantics is not None and semantics.lower() not in ("parts", _SEMANTICS_ID):
        hint = meant(semantics, ("parts", _SEMANTICS_ID))
        raise DatasetError(f"dataset '{name}' has no semantics '{semantics}'; it offers {_SEMANTICS_ID}{hint}")
    with resources.files(__package__).joinpath("hanzi200.npz").open("rb") as file:
        content = np.load(file, allow_pickle=False)
        features, labels, parts, characters = (content[key] for key in ("features", "labels", "att", "chars"))
    return make_dataset(
        name=name,
        features=features.astype(np.float32) / np.float32(255),
        labels=labels.astype(np.int64),
        semantics=parts.astype(np.float32),
        class_names=tuple(characters.tolist()),
        **_split(labels, int(name.removeprefix("hanzi/"))),
        train=None,
        val=None,
        semantics_id=_SEMANTICS_ID,
        feature_tag="pixels",
    )


def _split(labels: npt.NDArray[np.uint8], number: int) -> dict[str, npt.NDArray[np.int64]]:
    """Class split ``number``; the rule is the datasheet's and must never change."""
    n_classes = int(labels.max()) + 1
    unseen = np.sort(np.random.default_rng(number + 5).permutation(n_classes)[:_N_UNSEEN])
    generator = np.random.default_rng(number)
    trainval, test_seen = [], []
    for class_id in np.setdiff1d(np.arange(n_classes), unseen):
        rows = generator.permutation(np.flatnonzero(labels == class_id))
        count = max(1, round(_TEST_SEEN * len(rows)))
        test_seen.append(rows[:count])
        trainval.append(rows[count:])
    return {
        "trainval": np.sort(np.concatenate(trainval)),
        "test_seen": np.sort(np.concatenate(test_seen)),
        "test_unseen": np.flatnonzero(np.isin(labels, unseen)),
    }

"""Where a search is kept that is told no place."""

import hashlib
from pathlib import Path

from d3tune.config import SearchConfig
from d3tune.files import slug
from d3tune.space import Space


def default_path(search: SearchConfig, space: Space, root: Path) -> Path:
    """A run directory below ``$D3TUNE_HOME``, the same for the same search.

    Args:
        search: the frozen search.
        space: the resolved space.
        root: ``$D3TUNE_HOME``.
    """
    text = search.model_dump_json() + space.asked_hash
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    return root / "runs" / f"{slug(search.dataset)}-{search.backbone}-s{search.seed}-{digest}"

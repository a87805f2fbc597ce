"""The published settings are files that `d3tune train` takes."""

from pathlib import Path

import pytest

from d3tune.data.registry import KNOWN_NAMES
from d3tune.errors import DatasetError
from d3tune.method.generators import load_backbone
from d3tune.search.executor import StopSignal
from d3tune.search.executor.inprocess import InProcessExecutor
from d3tune.search.train import train
from d3tune.space import shipped_space
from d3tune.yamlfile import read_yaml

FILES = sorted((shipped_space("gan").parent / "published").glob("*.yaml"))


def test_they_are_shipped() -> None:
    assert {path.stem.split("-")[0] for path in FILES} == {"gan", "cegan", "vaegan", "rezsl"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_is_a_legal_configuration_of_a_known_dataset(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that keeps it from training is that the dataset is not there."""
    monkeypatch.setenv("D3TUNE_HOME", str(tmp_path))
    document = read_yaml(path)
    name = document["dataset"] if isinstance(document["dataset"], str) else document["dataset"]["name"]
    assert name in KNOWN_NAMES
    assert path.stem == f"{document['backbone']}-{name}"
    load_backbone(document["backbone"]).config.model_validate(document["config"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=f"'{name}'"):
        train(path, 1, tmp_path / "empty", InProcessExecutor(), StopSignal(), lambda line: None)

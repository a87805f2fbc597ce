"""A search with ``--compile``, by torch's real compiler."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# MLflow on SQLAlchemy 2.1; torch's tracer asks for an attribute that torch has deprecated
pytestmark = [
    # half a minute of torch's compiler
    pytest.mark.fault,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler"),
]

SMALL = ("updates=4", "evaluations=2", "hidden_dim=8", "embed_dim=8", "teacher_epochs=1", "head_epochs=1")


def test_it_trains_records_that_it_was_compiled_and_repeats(
    command: Callable[..., Any], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    run = tmp_path / "run"
    settings = [word for value in SMALL for word in ("--set", value)]
    what = ("search", "--dataset", "hanzi", "--backbone", "vae", "--trials", 1, "--executor", "local", "--compile")
    ended = command(*what, "--confirm-seeds", 0, "--run-dir", run, *settings)
    assert ended.code == 0, ended.err
    assert any((tmp_path / "kernels").rglob("*.so"))
    record = json.loads((run / "trials" / "00000" / "trial.json").read_text(encoding="utf-8"))
    assert record["state"] == "COMPLETE"
    assert record["worker"]["compiled"] == "yes"
    again = command("replay", run, 0)
    assert (again.code, again.err) == (0, "")
    # what a resume is not told stays as it was
    assert json.loads((run / "plan.json").read_text(encoding="utf-8"))["compile"] is True

"""Trial checkpoints: safetensors beside a JSON manifest with a SHA-256; the newest two are kept."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from d3tune.files import write_atomically, write_json

KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    """A training's state and what was reported before it.

    Attributes:
        update: generator updates made.
        tensors: flat state.
        reports: plain values of all reports so far.
    """

    update: int
    tensors: dict[str, Tensor]
    reports: list[dict[str, Any]]


def save_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint so that a crash leaves the one before it, then drop all but the newest two."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = directory / f"checkpoint-{checkpoint.update:08d}.safetensors"
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    write_atomically(weights, lambda path: save_file(tensors, path))
    # the manifest comes last: a checkpoint without one does not exist
    manifest = {"update": checkpoint.update, "sha256": _sha256(weights), "reports": checkpoint.reports}
    write_json(weights.with_suffix(".json"), manifest)
    for old in _manifests(directory)[KEEP:]:
        _remove(old)


def load_checkpoint(directory: Path) -> Checkpoint | None:
    """The newest intact checkpoint, or None; damaged ones are passed over."""
    for manifest in _manifests(directory):
        checkpoint = _read(manifest)
        if checkpoint is not None:
            return checkpoint
    return None


def remove_checkpoints(directory: Path) -> None:
    """Delete all checkpoints of a trial, and what a killed process left of them."""
    for path in directory.glob("*checkpoint-*"):
        path.unlink(missing_ok=True)


def _manifests(directory: Path) -> list[Path]:
    return sorted(directory.glob("checkpoint-*.json"), reverse=True)


def _read(manifest: Path) -> Checkpoint | None:
    weights = manifest.with_suffix(".safetensors")
    try:
        value: Mapping[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
        if _sha256(weights) != value["sha256"]:
            return None
        return Checkpoint(int(value["update"]), load_file(weights), list(value["reports"]))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None


def _remove(manifest: Path) -> None:
    manifest.unlink(missing_ok=True)
    manifest.with_suffix(".safetensors").unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

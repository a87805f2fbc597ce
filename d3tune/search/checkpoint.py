"""Trial checkpoints and kept weights: safetensors beside a JSON manifest with a SHA-256, and a checksum of itself."""

import errno
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from d3tune.errors import RunError
from d3tune.files import parse_json, write_atomically, write_text

KEEP = 2
WEIGHTS = "weights.json"
OPTIMIZER_STATE = "/adam/"
# the storage is away for a while; what is on it may be whole
AWAY = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN)
# how a manifest ends that was written here: with the checksum of what is before it
CHECK = ',\n  "crc32": "'


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
    write_tensors(directory / f"checkpoint-{checkpoint.update:08d}.json", checkpoint)
    for old in _manifests(directory)[KEEP:]:
        _remove(old)


def load_checkpoint(directory: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest intact checkpoint, or None, and one line for each damaged one that was passed over.

    Raises:
        RunError: the storage cannot be read now.
    """
    damaged: list[str] = []
    for manifest in _manifests(directory):
        checkpoint = read_tensors(manifest)
        if checkpoint is not None:
            return checkpoint, damaged
        damaged.append(f"{manifest.with_suffix('.safetensors').name} is damaged")
    return None, damaged


def examine_checkpoints(directory: Path) -> tuple[int | None, list[str]]:
    """Of which update `load_checkpoint` would be, or None, and the names of all damaged ones."""
    read = [(manifest.with_suffix(".safetensors").name, read_tensors(manifest)) for manifest in _manifests(directory)]
    intact = [checkpoint.update for _, checkpoint in read if checkpoint is not None]
    return (intact[0] if intact else None), [name for name, checkpoint in read if checkpoint is None]


def remove_checkpoints(directory: Path) -> None:
    """Delete all checkpoints of a trial, and what a killed process left of them or of its weights."""
    for pattern in ("*checkpoint-*", ".weights.*"):
        for path in directory.glob(pattern):
            path.unlink(missing_ok=True)


def save_weights(directory: Path, state: Checkpoint) -> None:
    """Keep a training's state without its optimisers', as that of the best evaluation so far.

    Args:
        directory: of the trial.
        state: at that evaluation; its reports are not kept.
    """
    tensors = {name: tensor for name, tensor in state.tensors.items() if OPTIMIZER_STATE not in name}
    write_tensors(directory / WEIGHTS, Checkpoint(state.update, tensors, []))


def load_weights(directory: Path) -> Checkpoint | None:
    """What `save_weights` kept, or None where there is nothing or it is damaged."""
    return read_tensors(directory / WEIGHTS)


def weights_update(directory: Path) -> int | None:
    """The update of the kept weights, without reading them; None where there are none."""
    try:
        return int(parse_json((directory / WEIGHTS).read_text(encoding="utf-8"))["update"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


def remove_weights(directory: Path) -> None:
    """Delete the kept weights of a trial; the manifest last, without which nobody would know of them."""
    manifest = directory / WEIGHTS
    manifest.with_suffix(".safetensors").unlink(missing_ok=True)
    manifest.unlink(missing_ok=True)


def write_tensors(manifest: Path, checkpoint: Checkpoint) -> None:
    """Write tensors beside a manifest of this name, with ``.safetensors`` in the place of its ``.json``.

    Raises:
        OSError, SafetensorError: it cannot.
    """
    manifest.parent.mkdir(parents=True, exist_ok=True)
    weights = manifest.with_suffix(".safetensors")
    tensors = _apart(checkpoint.tensors)
    write_atomically(weights, lambda path: save_file(tensors, path))
    # the manifest comes last: a checkpoint without one does not exist
    content = {"update": checkpoint.update, "sha256": _sha256(weights), "reports": checkpoint.reports}
    body = json.dumps(content, indent=2, allow_nan=False).removesuffix("\n}")
    write_text(manifest, f'{body}{CHECK}{zlib.crc32(body.encode()):08x}"\n}}\n')


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU of which no two share memory, as tied weights do; only those are copied."""
    found: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        here = tensor.detach().cpu().contiguous()
        place = here.untyped_storage().data_ptr()
        found[name] = here.clone() if place in places else here
        places.add(place)
    return found


def _manifests(directory: Path) -> list[Path]:
    return sorted(directory.glob("checkpoint-*.json"), reverse=True)


def read_tensors(manifest: Path) -> Checkpoint | None:
    """What `write_tensors` wrote, or None where there is nothing or it is damaged."""
    weights = manifest.with_suffix(".safetensors")
    try:
        text = manifest.read_text(encoding="utf-8")
        value: Mapping[str, Any] = parse_json(text)
        body, checked, _ = text.rpartition(CHECK)
        if checked and value["crc32"] != f"{zlib.crc32(body.encode()):08x}":
            return None
        if _sha256(weights) != value["sha256"]:
            return None
        return Checkpoint(int(value["update"]), load_file(weights), list(value["reports"]))
    except OSError as error:
        if error.errno in AWAY:
            raise RunError(f"{manifest.parent}: cannot be read: {error.strerror}; mend that, then resume") from None
        return None
    except (ValueError, KeyError, TypeError, OverflowError, SafetensorError):
        return None


def _remove(manifest: Path) -> None:
    manifest.unlink(missing_ok=True)
    manifest.with_suffix(".safetensors").unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Prepared datasets: checked once, then memory-mapped read-only by everyone on the machine.

``$D3TUNE_HOME/datasets/<name>-<hash12>/`` holds one ``.npy`` file an array and ``meta.json``;
``datasets/index/`` remembers which prepared folder an unchanged file pair led to.
"""

import contextlib
import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from d3tune.data.dataset import ARRAYS, GZSLDataset, array_digest, content_hash
from d3tune.data.shared import sweep
from d3tune.data.xlsa17 import FEATURES_FILE, SENTENCES_FILE, SPLITS_FILE, read_pair
from d3tune.errors import DatasetError
from d3tune.files import home, slug, sync, writable_directory, write_json

T = TypeVar("T")

FORMAT = 1

# where this machine has what another one named, see `stand_in`
_STAND_INS: dict[Path, Path] = {}
_ROWS = ("trainval", "test_seen", "test_unseen", "train", "val")
_OPTIONAL = ("train", "val")
_TYPES = {"features": np.float32, "semantics": np.float32}
_ABANDONED_AFTER = 24 * 3600.0
# what a damaged file makes json and numpy raise; too deep a nesting is a RecursionError
_UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    SyntaxError,
    EOFError,
    RecursionError,
    MemoryError,
)


def prepare(dataset: GZSLDataset) -> GZSLDataset:
    """Write a dataset's prepared folder, unless it is there, and open it.

    Any number of processes may do this at once: each writes a folder of its own, and one gets the name.

    Raises:
        DatasetError: it cannot be written, or a damaged folder is in the way.
    """
    folder = _root() / f"{slug(dataset.name)}-{dataset.content_hash[:12]}"
    if not _is_folder(folder):
        try:
            _write(dataset, folder)
        except OSError as error:
            raise DatasetError(f"cannot prepare '{dataset.name}' in {folder}: {error.strerror or error}") from None
    return open_prepared(folder)


def prepare_pair(directory: Path, name: str, semantics: str | None = None) -> GZSLDataset:
    """Open the prepared folder of a file pair; the pair is read only if it is new or has changed.

    Args:
        directory: the folder of ``res101.mat`` and ``att_splits.mat``.
        name: the dataset's name.
        semantics: as in ``xlsa17.read_pair``.

    Raises:
        DatasetError: the pair is damaged or inconsistent, or its prepared folder is damaged.
    """
    key = _source_key(directory, name, semantics)
    entry = _root() / "index" / f"{key}.json"
    folder = _remembered(entry)
    if folder is not None:
        return open_prepared(folder)
    dataset = prepare(read_pair(directory, name, semantics))
    if dataset.path is not None and _source_key(directory, name, semantics) == key:
        with contextlib.suppress(OSError):  # without the entry the pair is only read again
            entry.parent.mkdir(exist_ok=True)
            write_json(entry, {"prepared": dataset.path.name, "source": str(directory.absolute())})
    return dataset


def open_prepared(path: Path, *, verify: bool = False) -> GZSLDataset:
    """Memory-map a prepared dataset read-only.

    Labels, semantics and splits are checked against their digests. Features are checked for type, shape
    and file size alone, which keeps opening quick.

    Args:
        path: the prepared folder; it may lie anywhere.
        verify: also check the features' digest, reading all of them.

    Raises:
        DatasetError: the folder is missing, damaged or of another version.
    """
    path = _STAND_INS.get(path, path)
    meta: dict[str, Any] = _guarded(path, lambda: json.loads((path / "meta.json").read_text(encoding="utf-8")))
    return _guarded(path, lambda: _open(path, meta, verify=verify))


def stand_in(path: Path, folder: Path) -> None:
    """From now on, in this process, open a folder in the place of one that only another machine has.

    Args:
        path: what is asked for.
        folder: what is opened.
    """
    _STAND_INS[path] = folder


def _open(path: Path, meta: dict[str, Any], *, verify: bool) -> GZSLDataset:
    if meta["format"] != FORMAT:
        raise ValueError(f"format {meta['format']}, not {FORMAT}")
    names = [name for name in ARRAYS if name not in _OPTIONAL or name in meta["digests"]]
    arrays = {name: _map(path, name, meta, verify=verify) for name in names}
    _check_fit(arrays, meta)
    identity = content_hash(meta["digests"], meta["class_names"], meta["semantics_id"], meta["feature_tag"])
    if identity != meta["content_hash"] or sorted(names) != sorted(meta["digests"]):
        raise ValueError("the content is not that of its hash")
    return GZSLDataset(
        name=str(meta["name"]),
        features=arrays["features"],
        labels=arrays["labels"],
        semantics=arrays["semantics"],
        class_names=tuple(meta["class_names"]),
        trainval=arrays["trainval"],
        test_seen=arrays["test_seen"],
        test_unseen=arrays["test_unseen"],
        train=arrays.get("train"),
        val=arrays.get("val"),
        semantics_id=meta["semantics_id"],
        feature_tag=meta["feature_tag"],
        content_hash=identity,
        path=path,
    )


def _check_fit(arrays: dict[str, npt.NDArray[Any]], meta: dict[str, Any]) -> None:
    """Refuse numbers that point nowhere: whoever wrote the folder could also compute its digests."""
    features, labels, semantics = arrays["features"], arrays["labels"], arrays["semantics"]
    names = [*meta["class_names"], meta["semantics_id"], meta["feature_tag"], meta["name"]]
    rows = [arrays[name] for name in _ROWS if name in arrays]
    fits = (
        features.ndim == semantics.ndim == 2
        and labels.shape == features.shape[:1]
        and len(meta["class_names"]) == len(semantics)
        and all(isinstance(name, str) for name in names)
        and _within(labels, len(semantics))
        and all(_within(part, len(labels)) for part in rows)
    )
    if not fits:
        raise ValueError("its arrays do not fit together")


def _within(numbers: npt.NDArray[Any], size: int) -> bool:
    return numbers.ndim == 1 and numbers.size > 0 and numbers.min() >= 0 and numbers.max() < size


def _map(path: Path, name: str, meta: dict[str, Any], *, verify: bool) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.lib.format.open_memmap(path / f"{name}.npy", mode="r")
    if array.dtype != _TYPES.get(name, np.int64) or list(array.shape) != meta["shapes"][name]:
        raise ValueError(f"{name}.npy is {array.dtype} {array.shape}")
    if (verify or name != "features") and array_digest(array) != meta["digests"][name]:
        raise ValueError(f"{name}.npy has changed")
    return array


def _guarded(path: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except _UNREADABLE as error:
        if not _is_folder(path):
            raise DatasetError(f"there is no prepared dataset in {path}; name the dataset instead") from None
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DatasetError(
            f"the prepared dataset in {path} is damaged ({' '.join(reason.split())}); delete it and run again"
        ) from None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long
        return False


def _write(dataset: GZSLDataset, folder: Path) -> None:
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}")
    temporary.mkdir()
    try:
        _write_content(dataset, temporary)
        open_prepared(temporary, verify=True)
        sync(temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same content
                raise
        sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_content(dataset: GZSLDataset, folder: Path) -> None:
    arrays = {name: getattr(dataset, name) for name in ARRAYS if getattr(dataset, name) is not None}
    for name, array in arrays.items():
        file = folder / f"{name}.npy"
        np.save(file, np.ascontiguousarray(array), allow_pickle=False)
        sync(file)
    meta = {
        "format": FORMAT,
        "name": dataset.name,
        "semantics_id": dataset.semantics_id,
        "feature_tag": dataset.feature_tag,
        "content_hash": dataset.content_hash,
        "shapes": {name: list(array.shape) for name, array in arrays.items()},
        "digests": {name: array_digest(array) for name, array in arrays.items()},
        "class_names": list(dataset.class_names),
    }
    write_json(folder / "meta.json", meta)


def _root() -> Path:
    """``$D3TUNE_HOME/datasets``, swept of what interrupted preparations left behind."""
    root = writable_directory(home() / "datasets", "make room there or set D3TUNE_HOME")
    for left in root.glob(".*"):
        try:
            if time.time() - left.stat().st_mtime > _ABANDONED_AFTER:
                shutil.rmtree(left, ignore_errors=True)
        except OSError:  # its owner has just renamed or removed it
            continue
    sweep(root)
    return root


def _source_key(directory: Path, name: str, semantics: str | None) -> str:
    source: list[Any] = [FORMAT, name, semantics, str(directory.absolute())]
    for file in (FEATURES_FILE, SPLITS_FILE, SENTENCES_FILE):
        try:
            status = (directory / file).stat()
            source.append([file, status.st_size, status.st_mtime_ns])
        except OSError:
            source.append([file, None])
    return hashlib.sha256(json.dumps(source).encode()).hexdigest()[:32]


def _remembered(entry: Path) -> Path | None:
    """The folder an index entry leads to; with anything wrong in the entry, the pair is just read again."""
    try:
        folder = entry.parent.parent / slug(json.loads(entry.read_text(encoding="utf-8"))["prepared"])
    except _UNREADABLE:
        return None
    return folder if _is_folder(folder) else None

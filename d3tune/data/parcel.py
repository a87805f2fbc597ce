"""A prepared dataset as it travels to a machine without a copy: its files by name, checked by hash on arrival."""

import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from d3tune.data.dataset import ARRAYS, GZSLDataset
from d3tune.data.prepared import open_prepared
from d3tune.data.shared import LOCK, alone
from d3tune.errors import D3TuneError, DatasetError
from d3tune.files import home, sync, writable_directory

Content = npt.NDArray[np.uint8]
FILES = ("meta.json", *(f"{name}.npy" for name in ARRAYS))


def pack(folder: Path) -> dict[str, Content]:
    """The files of a prepared dataset by name, each as bytes (n,) that are read where they are used."""
    present = (folder / name for name in FILES)
    # a plain array over the file's pages: of a subclass Ray would make a copy first
    return {path.name: np.asarray(np.memmap(path, np.uint8, "r")) for path in present if path.exists()}


def unpack(parcel: Mapping[str, Content], folder: Path, content_hash: str) -> GZSLDataset:
    """Write a parcel as a prepared dataset, whole or not at all, and open it.

    Args:
        parcel: see `pack`.
        folder: where it shall be; what is there already is left as it is.
        content_hash: of the dataset, which is computed anew from all that was written.

    Raises:
        D3TuneError: it cannot be written, or the content is another.
    """
    if others := sorted(parcel.keys() - set(FILES)):
        raise DatasetError(f"{folder}: a parcel with other files than a dataset's: {', '.join(others)}")
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}")
    try:
        temporary.mkdir(parents=True)
        for name, content in parcel.items():
            content.tofile(temporary / name)
            sync(temporary / name)
        _refuse_other(open_prepared(temporary, verify=True), content_hash, folder)
        sync(temporary)
        if not folder.is_dir():
            temporary.rename(folder)
            sync(folder.parent)
    except OSError as error:
        raise D3TuneError(f"cannot write the dataset in {folder}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return open_prepared(folder)


def here(path: Path, content_hash: str, *, verify: bool = True) -> Path | None:
    """Where this machine has a prepared dataset: at the path, or under the same name in its own ``$D3TUNE_HOME``.

    Args:
        path: where the machine that began the search has it.
        content_hash: of the dataset.
        verify: see `open_prepared`.

    Raises:
        DatasetError: there is one, but it is damaged or its content is another.
    """
    # the second is looked for only where the first is not: a shared folder needs no home of its own
    folder = path if path.is_dir() else place_of(path)
    if not folder.is_dir():
        return None
    _refuse_other(open_prepared(folder, verify=verify), content_hash, folder)
    return folder


def received(parcel: Mapping[str, Content], path: Path, content_hash: str) -> Path:
    """Unpack a parcel on this machine, once for all its processes; returns where it is.

    Args:
        parcel: see `pack`.
        path: where the machine that began the search has the dataset.
        content_hash: see `unpack`.

    Raises:
        D3TuneError: see `unpack`.
    """
    folder = place_of(path)
    writable_directory(folder.parent, "make room there or set D3TUNE_HOME on that machine")
    try:
        with alone(folder.parent / LOCK):
            return here(path, content_hash) or _unpacked(parcel, folder, content_hash)
    except OSError as error:
        raise D3TuneError(f"cannot write in {folder.parent}: {error.strerror or error}") from None


def place_of(path: Path) -> Path:
    """Where a machine keeps its own copy of a dataset that another has at a path."""
    return home() / "datasets" / path.name


def _unpacked(parcel: Mapping[str, Content], folder: Path, content_hash: str) -> Path:
    unpack(parcel, folder, content_hash)
    return folder


def _refuse_other(dataset: GZSLDataset, content_hash: str, folder: Path) -> None:
    if dataset.content_hash != content_hash:
        raise DatasetError(
            f"{folder}: holds content {dataset.content_hash[:12]}, the search was made for {content_hash[:12]}"
        )

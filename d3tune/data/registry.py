"""From a dataset's name to the dataset: where it is looked for, and what there is."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from d3tune.data.dataset import GZSLDataset
from d3tune.data.embedded import EMBEDDED_NAMES, is_embedded, load_embedded
from d3tune.data.matfile import open_mat
from d3tune.data.prepared import open_prepared, prepare, prepare_pair
from d3tune.data.summary import DatasetSummary, summarise
from d3tune.data.xlsa17 import FEATURES_FILE, PAIR, SPLITS_FILE
from d3tune.errors import DatasetError, nearest

KNOWN_NAMES = ("flo", "cub", "awa1", "awa2", "sun", "apy")
EMBEDDED = "embedded"

_ARCHIVE = Path("xlsa17") / "data"
_SOURCE = "Xian et al.'s xlsa17 archive, 'Proposed Splits v2', from the authors' GBU page"


@dataclass(frozen=True)
class DatasetInfo:
    """One line of ``d3tune data list``.

    Attributes:
        name: what ``--dataset`` takes.
        place: its folder, or ``embedded``.
        complete: whether both files are there and their headers can be read.
        rows: n, or None where it cannot be told.
        n_features: X, or None.
        n_classes: N, or None.
        n_semantics: A of the default semantics, or None.
        problem: what is wrong with it in one line, or None.
        hidden: whether all that is wrong is that another dataset of its name comes first.
    """

    name: str
    place: Path | str
    complete: bool
    rows: int | None = None
    n_features: int | None = None
    n_classes: int | None = None
    n_semantics: int | None = None
    problem: str | None = None
    hidden: bool = False


def find_dataset(name: str, data_dir: Path | None = None, semantics: str | None = None) -> GZSLDataset:
    """Find a dataset by name, prepare it where needed, and memory-map it.

    ``hanzi`` and ``hanzi/0`` … ``hanzi/5`` are in the package. Others are folders of a file pair, looked for
    in ``data_dir``, each folder of ``$D3TUNE_DATA`` and ``./data``, there as ``<NAME>`` (in any case) and as
    ``xlsa17/data/<NAME>``; the first folder that holds one of the files counts.

    Args:
        name: e.g. ``flo``, in any case.
        data_dir: the first folder to look in.
        semantics: an id such as ``att312`` or a kind such as ``sent``; None takes the dataset's default.

    Returns:
        The dataset; ``prepared_path`` says where its arrays lie.

    Raises:
        DatasetError: it is unknown, incomplete, damaged or inconsistent, or a folder to look in cannot be read or is
            a dataset's own.
    """
    _check_name(name)
    _check_roots(data_dir)
    if is_embedded(name):
        return prepare(load_embedded(name, semantics))
    if "/" in name:
        raise DatasetError(
            f"dataset name '{name}' holds a '/'; give the folder's name and point --data-dir at its parent"
        )
    folder = _find_folder(name, data_dir)
    missing = [file for file in PAIR if not (folder / file).is_file()]
    if missing:
        source = f" (from {_SOURCE})" if name.lower() in KNOWN_NAMES else ""
        raise DatasetError(
            f"dataset '{name.lower()}' is incomplete: {folder} has no {missing[0]}; put it there{source}"
        )
    return prepare_pair(folder, name.lower(), semantics)


def prepared_path(dataset: GZSLDataset) -> Path:
    """The folder a dataset is mapped from, for ``open_prepared`` in another process.

    Raises:
        DatasetError: the dataset is in memory only.
    """
    if dataset.path is None:
        raise DatasetError(f"dataset '{dataset.name}' is not prepared; get it by find_dataset")
    return dataset.path


def list_datasets(data_dir: Path | None = None) -> list[DatasetInfo]:
    """Every dataset that can be found, embedded ones first; only file headers are read.

    Raises:
        DatasetError: a folder to look in cannot be read, or is a dataset's own.
    """
    _check_roots(data_dir)
    infos = [_embedded_info(name) for name in EMBEDDED_NAMES]
    first: dict[str, Path | str] = {"hanzi": EMBEDDED}
    for folder in _candidates(data_dir):
        name = folder.name.lower()
        if name in first:
            infos.append(DatasetInfo(name, folder, False, problem=f"hidden by {first[name]}", hidden=True))
        else:
            first[name] = folder
            infos.append(_folder_info(name, folder))
    return infos


def dataset_names(data_dir: Path | None = None) -> list[str]:
    """The names of the datasets that can be found, complete or not; no file is read.

    Args:
        data_dir: the first folder to look in.
    """
    folders = (folder.name.lower() for folder in _candidates(data_dir))
    return list(dict.fromkeys(["hanzi", *EMBEDDED_NAMES, *folders]))


def check_dataset(name: str, data_dir: Path | None = None, semantics: str | None = None) -> DatasetSummary:
    """Find a dataset, verify every byte of its prepared form, and count what is in it.

    Raises:
        DatasetError: as ``find_dataset``, or the prepared form is damaged.
    """
    path = prepared_path(find_dataset(name, data_dir, semantics))
    return summarise(open_prepared(path, verify=True))


def _check_name(name: str) -> None:
    parts = name.split("/")
    if not name or not name.isprintable() or "\\" in name or any(part.strip(". ") == "" for part in parts):
        raise DatasetError(f"{name!r} is not a dataset name; give a name such as flo or hanzi/0")


def _named_roots(data_dir: Path | None) -> list[tuple[str, Path]]:
    """The folders that the user named, each with where."""
    given = [] if data_dir is None else [("--data-dir", data_dir)]
    parts = os.environ.get("D3TUNE_DATA", "").split(os.pathsep)
    environment = [("D3TUNE_DATA", Path(part)) for part in parts if part]
    return [(origin, _expanded(root)) for origin, root in (*given, *environment)]


def _check_roots(data_dir: Path | None) -> None:
    for origin, root in _named_roots(data_dir):
        try:
            next(root.iterdir(), None)
        except OSError as error:
            raise DatasetError(
                f"{origin} {root}: {error.strerror}; name the folder that holds the datasets' folders"
            ) from None
        own = [file for file in PAIR if (root / file).is_file()]
        if own and not any((folder / file).is_file() for folder in _subfolders(root) for file in PAIR):
            folder = root.resolve()
            raise DatasetError(
                f"{origin} {root}: holds {own[0]} itself; name the folder above it, {folder.parent}, "
                f"and the dataset {folder.name.lower()}"
            )


def _search_path(data_dir: Path | None) -> list[Path]:
    roots = [*(root for _, root in _named_roots(data_dir)), Path("data")]
    return list(dict.fromkeys(place for root in roots for place in (root, root / _ARCHIVE)))


def _expanded(root: Path) -> Path:
    try:
        return root.expanduser()
    except RuntimeError:  # ~somebody who does not exist
        return root


def _candidates(data_dir: Path | None) -> Iterator[Path]:
    """The folders on the search path that hold at least one file of a pair, in the order of precedence."""
    met = set()
    for place in _search_path(data_dir):
        for folder in _subfolders(place):
            if folder.absolute() not in met and any((folder / file).is_file() for file in PAIR):
                met.add(folder.absolute())
                yield folder


def _subfolders(place: Path) -> list[Path]:
    try:
        return sorted(folder for folder in place.iterdir() if folder.is_dir())
    except OSError:
        return []


def _find_folder(name: str, data_dir: Path | None) -> Path:
    found = list(_candidates(data_dir))
    for folder in found:
        if folder.name.lower() == name.lower():
            return folder
    if name.lower() not in KNOWN_NAMES:
        known = dict.fromkeys([*(folder.name.lower() for folder in found), *KNOWN_NAMES, "hanzi", *EMBEDDED_NAMES])
        raise DatasetError(
            f"unknown dataset '{name}' (a folder of your own needs --data-dir PARENT){nearest(name, known)}"
        )
    places = ", ".join(str(place / name.upper()) for place in _search_path(data_dir))
    raise DatasetError(
        f"dataset '{name.lower()}' needs {FEATURES_FILE} and {SPLITS_FILE}, looked for in {places}; "
        f"get them from {_SOURCE}, and name their parent folder by --data-dir or D3TUNE_DATA"
    )


def _embedded_info(name: str) -> DatasetInfo:
    return DatasetInfo(name, EMBEDDED, True, rows=7226, n_features=256, n_classes=200, n_semantics=103)


def _folder_info(name: str, folder: Path) -> DatasetInfo:
    missing = [file for file in PAIR if not (folder / file).is_file()]
    if missing:
        return DatasetInfo(name, folder, False, problem=f"{missing[0]} is missing")
    try:
        features, semantics = (
            open_mat(folder / FEATURES_FILE).shape("features"),
            open_mat(folder / SPLITS_FILE).shape("att"),
        )
        (n_features, rows), (n_semantics, n_classes) = features, semantics
    except DatasetError as error:
        return DatasetInfo(name, folder, False, problem=str(error))
    except ValueError:
        return DatasetInfo(name, folder, False, problem="'features' or 'att' is not a matrix")
    return DatasetInfo(name, folder, True, rows, n_features, n_classes, n_semantics)

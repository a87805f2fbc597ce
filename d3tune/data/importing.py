"""Bring features, labels, semantics and splits of one's own into the form that ``find_dataset`` finds."""

import contextlib
import secrets
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from d3tune.data import checks
from d3tune.data.dataset import Rows
from d3tune.data.embedded import is_embedded
from d3tune.data.matwrite import LARGEST_ARRAY, cell, column, write_mat
from d3tune.data.tables import PARTS, UNUSED, Tables, read_tables
from d3tune.data.xlsa17 import FEATURES_FILE, PAIR, SEMANTICS_KIND, SENTENCES_FILE, SPLITS_FILE
from d3tune.errors import DatasetError, UsageError, nearest
from d3tune.files import slug, sync, writable_directory

_SIMULATED_NOTE = "SIMULATED.txt"
_KEYS = {part: part for part in PARTS}
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Imported:
    """What an import led to.

    Attributes:
        folder: holds the file pair.
        notes: what was concluded from the files and should be said, a line each.
    """

    folder: Path
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Options:
    """How to read what the files leave open; as in ``import_dataset``."""

    test_seen_share: float
    seed: int
    count_from: int | None


@dataclass(frozen=True)
class _Content:
    """What is written: features (n, X), labels (n,) and rows counted from 0, semantics (N, A), names or None."""

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    semantics: npt.NDArray[np.float32]
    class_names: list[str] | None
    rows: dict[str, Rows]
    notes: tuple[str, ...] = ()


def import_dataset(
    name: str,
    data_dir: Path,
    *,
    source: Path | None = None,
    features: Path | None = None,
    labels: Path | None = None,
    semantics: Path | None = None,
    splits: Path | None = None,
    class_names: Path | None = None,
    feature_tag: str,
    semantics_kind: str = "att",
    test_seen_share: float = 0.2,
    seed: int = 0,
    count_from: int | None = None,
    force: bool = False,
) -> Imported:
    """Check a dataset of one's own and write it into ``data_dir/<NAME>`` as a file pair in the xlsa17 layout.

    Each array comes from ``source`` or from a file of its own:

    - ``features`` (n, X): ``.npy``, or ``.csv`` with or without a header.
    - ``labels`` (n,): ``.npy``, ``.csv``, ``.txt``; whole numbers, or names that are in ``class_names``.
    - ``semantics`` (N, A), class by class: ``.npy``, or ``.csv`` with or without a header and with or without
      the classes' names in front.
    - ``class_names`` (N,), optional: ``.npy``, ``.csv``, ``.txt``.
    - ``splits``: an ``.npz`` with the row lists ``trainval``, ``test_seen``, ``test_unseen`` (optionally
      ``train`` and ``val``) or with ``unseen_classes``; a ``.csv`` or ``.txt`` that says of each row
      ``trainval``, ``test_seen``, ``test_unseen`` or ``unused``; or a ``.csv``, ``.txt`` or ``.npy`` list of
      the unseen classes, as labels or names.

    With ``unseen_classes``, all their rows are test-unseen. One ``default_rng(seed)`` walks the seen classes in
    ascending order and permutes each one's row numbers; the first ``max(1, round(share·n))`` are test-seen.

    Args:
        name: the dataset's name: letters, digits, ``. _ -``.
        data_dir: the data folder, to be named by ``--data-dir``.
        source: an ``.npz`` with any of the keys above.
        features: a file of its own for them, and so on.
        labels: as above.
        semantics: as above.
        splits: as above.
        class_names: as above.
        feature_tag: what the features are, e.g. ``clip``; part of the dataset's identity.
        semantics_kind: what the semantics are, e.g. ``att``, ``sent``, ``w2v``; with their width the semantics id.
        test_seen_share: in (0, 1); used with ``unseen_classes`` alone.
        seed: of the draw of test-seen rows.
        count_from: 0 or 1, where the numbers themselves do not show what labels or rows count from.
        force: replace the pair that is there.

    Raises:
        UsageError: the name, a tag or an option is illegal.
        DatasetError: a file is missing, damaged or inconsistent, there is a pair already, or it cannot be written.
    """
    _check_words(name, feature_tag, semantics_kind)
    if not 0 < test_seen_share < 1:
        raise UsageError(f"the share of test-seen rows is {test_seen_share}; it must be above 0 and below 1")
    if seed < 0 or count_from not in (None, 0, 1):
        raise UsageError(f"seed {seed} or count-from {count_from} is wrong; a seed is 0, 1, 2, … and count-from 0 or 1")
    folder = _target(data_dir, name, force=force)
    files = {"features": features, "labels": labels, "semantics": semantics, "class_names": class_names}
    tables = read_tables(source, files | {"splits": splits})
    content = _assemble(tables, _Options(test_seen_share, seed, count_from))
    _write(folder, content, feature_tag, semantics_kind)
    return Imported(folder, content.notes)


def _check_words(name: str, feature_tag: str, semantics_kind: str) -> None:
    if slug(name) != name or is_embedded(name) or len(name) > _LONGEST_NAME:
        raise UsageError(
            f"{name!r} cannot be the name of a dataset; use up to {_LONGEST_NAME} letters, digits, '.', '_' and '-', "
            "not hanzi"
        )
    if slug(feature_tag)[:40] != feature_tag:
        raise UsageError(f"feature tag {feature_tag!r} is wrong; use up to 40 letters, digits, '.', '_' and '-'")
    if not SEMANTICS_KIND.fullmatch(semantics_kind):
        raise UsageError(
            f"semantics kind {semantics_kind!r} is wrong; use a word in lower case without a digit at its end"
        )


def _target(data_dir: Path, name: str, *, force: bool) -> Path:
    """The folder to write: the one that has the name in any case, else a new one."""
    folders = sorted(path for path in data_dir.iterdir() if path.is_dir()) if data_dir.is_dir() else []
    folder = next((path for path in folders if path.name.lower() == name.lower()), data_dir / name.upper())
    present = [file for file in PAIR if (folder / file).exists()]
    if present and not force:
        raise DatasetError(f"{folder} already holds {present[0]}; choose another name, or force its replacement")
    if (folder / SENTENCES_FILE).exists():
        raise DatasetError(f"{folder} holds {SENTENCES_FILE}, of another dataset; move it away")
    return folder


def _assemble(tables: Tables, options: _Options) -> _Content:
    semantics = _matrix(tables, "semantics", "class")
    names = _class_names(tables, len(semantics))
    labels, first, said = _labels(tables, len(semantics), names, options)
    features = _matrix(tables, "features", "row")
    if len(features) != len(labels):
        hint = "; are they transposed?" if features.shape[1] == len(labels) else ""
        raise tables.fail("features", f"has {len(features)} rows but there are {len(labels)} labels{hint}")
    content = _Content(features, labels, semantics, names, {}, said)
    content, first_row = _with_rows(tables, content, first, options)
    checks.check_splits(tables, _KEYS, labels, content.rows, first_row=first_row, first_label=first)
    checks.refuse_zero_vectors(tables, "semantics", semantics, labels, content.rows, first_label=first)
    empty = len(semantics) - len(np.unique(labels))
    return replace(content, notes=(*content.notes, f"{empty} classes have no rows")) if empty else content


def _matrix(tables: Tables, key: str, unit: str) -> npt.NDArray[np.float32]:
    values = tables.numbers(key)
    if values.ndim != 2 or 0 in values.shape:
        raise tables.fail(key, f"has the shape {values.shape}; it must be a matrix with a {unit} in each row")
    matrix = checks.as_float32(values)
    checks.refuse_non_finite(tables, key, matrix, unit)
    return matrix


def _class_names(tables: Tables, n_classes: int) -> list[str] | None:
    if "class_names" not in tables:
        return None
    names = tables.texts("class_names")
    if len(names) != n_classes:
        raise tables.fail("class_names", f"has {len(names)} names for the {n_classes} rows of 'semantics'")
    for number, name in enumerate(names, start=1):
        if not name or not name.isprintable():
            raise tables.fail("class_names", f"holds {name[:40]!r} for class {number}; a name must be printable text")
        if names.index(name) + 1 < number:
            raise tables.fail("class_names", f"holds '{name}' twice; every class needs a name of its own")
    return names


def _labels(
    tables: Tables, n_classes: int, names: list[str] | None, options: _Options
) -> tuple[npt.NDArray[np.int64], int, tuple[str, ...]]:
    """Labels counted from 0, what the user counts them from, and what to say about it."""
    if tables.get("labels").dtype.kind == "U":
        return _named(tables, "labels", names), 1, ()
    values = _whole_numbers(tables, "labels")
    first = _counted_from(tables, "labels", values, n_classes, "rows of 'semantics'", options.count_from)
    return values - first, first, (f"labels count from {first}",)


def _named(tables: Tables, key: str, names: list[str] | None) -> npt.NDArray[np.int64]:
    """The ids of classes given by their names."""
    texts = tables.texts(key)
    if names is None:
        raise tables.fail(key, "holds names, but there are no 'class_names' in the order of 'semantics'; give them")
    ids = {name: number for number, name in enumerate(names)}
    wrong = next((text for text in texts if text not in ids), None)
    if wrong is not None:
        raise tables.fail(
            key, f"holds '{wrong[:40]}', which is not in 'class_names'{nearest(wrong, names[:1000])[:200]}"
        )
    return np.array([ids[text] for text in texts], dtype=np.int64)


def _whole_numbers(tables: Tables, key: str) -> npt.NDArray[np.int64]:
    values = tables.numbers(key)
    if values.dtype.kind == "b":
        raise tables.fail(key, "is a mask; give numbers, e.g. by numpy.flatnonzero")
    return checks.whole_numbers(tables, key, values.shape, values)


def _counted_from(
    tables: Tables, key: str, values: npt.NDArray[np.int64], size: int, of: str, wanted: int | None
) -> int:
    """Whether numbers run from 0 to size - 1 or from 1 to size; never guessed."""
    low, high = int(values.min()), int(values.max())
    possible = [first for first in (0, 1) if first <= low and high < size + first]
    if not possible:
        raise tables.fail(
            key, f"runs from {low} to {high}; with {size} {of} it must lie in 0 … {size - 1} or in 1 … {size}"
        )
    if wanted is not None and wanted not in possible:
        raise tables.fail(key, f"runs from {low} to {high} and so cannot count the {size} {of} from {wanted}")
    if wanted is None and len(possible) == 2:
        raise tables.fail(
            key, f"runs from {low} to {high} and could count the {size} {of} from 0 or from 1; say which by count-from"
        )
    return possible[0] if wanted is None else wanted


def _with_rows(tables: Tables, content: _Content, first: int, options: _Options) -> tuple[_Content, int]:
    """The content with its splits, and what the user counts rows from."""
    lists = [key for key in (*PARTS, "train", "val") if key in tables]
    forms = {"row lists": bool(lists), "parts": "parts" in tables, "unseen_classes": "unseen_classes" in tables}
    given = [form for form, there in forms.items() if there]
    if len(given) != 1:
        raise DatasetError(
            f"the splits are given by {' and '.join(given) or 'nothing'}; give one: the row lists trainval, "
            "test_seen and test_unseen, a part for each row, or unseen_classes"
        )
    if lists:
        rows, first_row = _listed_rows(tables, lists, len(content.labels), options)
        return replace(content, rows=rows, notes=(*content.notes, f"rows count from {first_row}")), first_row
    if "parts" in tables:
        return replace(content, rows=_parted_rows(tables, len(content.labels))), 1
    rows = _drawn_rows(tables, content, first, options)
    note = f"test_seen: {options.test_seen_share:.0%} of the rows of each seen class, drawn with seed {options.seed}"
    return replace(content, rows=rows, notes=(*content.notes, note)), 1


def _listed_rows(tables: Tables, lists: list[str], n_rows: int, options: _Options) -> tuple[dict[str, Rows], int]:
    if ("train" in lists) != ("val" in lists):
        raise tables.fail("train" if "train" in lists else "val", "is alone; train and val serve only together")
    rows = {key: _whole_numbers(tables, key) for key in dict.fromkeys((*PARTS, *lists))}
    every = np.concatenate(list(rows.values()))
    first = _counted_from(tables, "trainval", every, n_rows, "rows (all lists together)", options.count_from)
    for key, members in rows.items():
        checks.refuse_repeats(tables, key, members - first, first)
    return {key: np.sort(members - first) for key, members in rows.items()}, first


def _parted_rows(tables: Tables, n_rows: int) -> dict[str, Rows]:
    parts = np.array(tables.texts("parts"))
    strange = np.setdiff1d(parts, [*PARTS, UNUSED])
    if len(parts) != n_rows or len(strange):
        fault = f"holds '{strange[0][:40]}'" if len(strange) else f"has {len(parts)} lines for {n_rows} rows"
        raise tables.fail("parts", f"{fault}; each row needs one of {', '.join(PARTS)}, {UNUSED}")
    rows = {part: np.flatnonzero(parts == part) for part in PARTS}
    for part, members in rows.items():
        if not len(members):
            raise tables.fail("parts", f"has no row of {part}")
    return rows


def _drawn_rows(tables: Tables, content: _Content, first: int, options: _Options) -> dict[str, Rows]:
    """Splits from the list of unseen classes; the rule is in the docstring of ``import_dataset``."""
    unseen = _unseen_classes(tables, content, first)
    generator = np.random.default_rng(options.seed)
    seen = np.setdiff1d(content.labels, unseen)
    if not len(seen):
        raise tables.fail("unseen_classes", "holds every class that has rows; leave some to train on")
    trainval, test_seen = [], []
    for class_id in seen:
        rows = generator.permutation(np.flatnonzero(content.labels == class_id))
        count = max(1, round(options.test_seen_share * len(rows)))
        if len(rows) - count < checks.MIN_CLASS_ROWS:
            raise tables.fail(
                "labels", f"has {len(rows)} rows of class {class_id + first}, too few for test-seen and 2 to train on"
            )
        test_seen.append(rows[:count])
        trainval.append(rows[count:])
    return {
        "trainval": np.sort(np.concatenate(trainval)),
        "test_seen": np.sort(np.concatenate(test_seen)),
        "test_unseen": np.flatnonzero(np.isin(content.labels, unseen)),
    }


def _unseen_classes(tables: Tables, content: _Content, first: int) -> npt.NDArray[np.int64]:
    if tables.get("unseen_classes").dtype.kind == "U":
        ids = _named(tables, "unseen_classes", content.class_names)
    else:
        ids = _whole_numbers(tables, "unseen_classes") - first
    absent = np.setdiff1d(ids, content.labels)
    if len(absent):
        raise tables.fail("unseen_classes", f"holds class {absent[0] + first}, of which there are no rows")
    if not len(ids):
        raise tables.fail("unseen_classes", "is empty")
    return np.unique(ids)


def _write(folder: Path, content: _Content, feature_tag: str, semantics_kind: str) -> None:
    if content.features.nbytes > LARGEST_ARRAY:
        size = f"{content.features.nbytes / 2**30:.1f} GiB"
        raise DatasetError(f"the features take {size}; a file pair holds at most 4 GiB: keep fewer rows or columns")
    splits: dict[str, Any] = {f"{part}_loc": column(rows) for part, rows in content.rows.items()}
    splits |= {"att": content.semantics.T.astype(np.float64), "semantics_kind": semantics_kind}
    if content.class_names is not None:
        splits["allclasses_names"] = cell(content.class_names)
    features = {"features": content.features.T, "labels": column(content.labels), "feature_tag": feature_tag}
    new = not folder.exists()
    writable_directory(folder, "choose another folder")
    staging = folder / f".import-{secrets.token_hex(6)}"
    try:
        staging.mkdir()
        write_mat(staging / SPLITS_FILE, splits)
        write_mat(staging / FEATURES_FILE, features)
        _move_into_place(staging, folder)
    except OSError as error:
        raise DatasetError(f"cannot write in {folder}: {error.strerror or error}; choose another folder") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if new:
            with contextlib.suppress(OSError):  # it is empty only where the import failed
                folder.rmdir()


def _move_into_place(staging: Path, folder: Path) -> None:
    # The old features go first: an interruption leaves half a pair, which is refused, never a mixed one.
    (folder / FEATURES_FILE).unlink(missing_ok=True)
    (folder / _SIMULATED_NOTE).unlink(missing_ok=True)
    sync(folder)
    (staging / SPLITS_FILE).replace(folder / SPLITS_FILE)
    (staging / FEATURES_FILE).replace(folder / FEATURES_FILE)
    sync(folder)

"""A reader of the parts of MATLAB v5 files that a dataset needs: real arrays, texts, cells of texts.

scipy's reader is not used because its compiled parser takes the whole process down on some damaged files.
Every size read here is checked against what there is. Format: "MAT-File Format", The MathWorks, level 5.
"""

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_KINDS = (
    {1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse", 6: "double", 7: "single"}
    | {8: "int8", 9: "uint8", 10: "int16", 11: "uint16", 12: "int32", 13: "uint32", 14: "int64", 15: "uint64"}
    | {16: "function", 17: "opaque"}
)
_COMPLEX = 0x0800
# Flags, shape and name of an array lie in front of its values; this is far more than they take.
_FRONT = 4096
_LARGEST_DEFLATION = 1032
_MOST_AXES = 32


@dataclass(frozen=True)
class Entry:
    """One named array of a file: what it is and where it lies.

    Attributes:
        name: its key.
        kind: MATLAB's class, e.g. ``double`` or ``cell``; ``complex`` for complex numbers.
        shape: in MATLAB's orientation.
        position: of its bytes in the file.
        length: how many bytes.
        inflated: how many when inflated.
        compressed: whether they are deflated.
        order: ``<`` or ``>``.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    position: int
    length: int
    inflated: int
    compressed: bool
    order: str


class _Bytes:
    """A cursor over the elements of a buffer."""

    def __init__(self, buffer: memoryview, order: str) -> None:
        self.buffer, self.order, self.position = buffer, order, 0

    def tag(self) -> tuple[int, int]:
        """The type and byte count of the next element; the cursor moves to its content."""
        kind, count = struct.unpack_from(f"{self.order}II", self.buffer, self.position)
        if kind >> 16:  # both in four bytes, the content in the next four
            self.position += 4
            return kind & 0xFFFF, kind >> 16
        self.position += 8
        return kind, count

    def element(self) -> tuple[int, memoryview]:
        start = self.position
        kind, count = self.tag()
        content = self.buffer[self.position : self.position + count]
        if len(content) < count:
            raise ValueError("an element is longer than the file")
        end = self.position + count
        self.position = start + 8 if self.position == start + 4 else end + -end % 8
        return kind, content


def list_entries(path: Path) -> list[Entry]:
    """The arrays of a file, from the bytes in front of their values.

    Raises:
        ValueError: the file is truncated or damaged; struct.error and zlib.error may come too.
    """
    size = path.stat().st_size
    entries = []
    with path.open("rb") as file:
        order = "<" if file.read(_HEADER)[126:] == b"IM" else ">"
        position = _HEADER
        while position < size:
            file.seek(position)
            kind, length = struct.unpack(f"{order}II", file.read(8))
            position += 8
            if position + length > size:
                raise ValueError(f"{size} bytes are there, at least {position + length} are needed")
            entries.append(_entry(file.read(min(length, _FRONT)), kind, position, length, order))
            position += length
    return entries


def read_numbers(path: Path, entry: Entry) -> npt.NDArray[Any]:
    """The values of a real numeric array, in the type that they are stored in.

    Raises:
        ValueError: the file is damaged; struct.error and zlib.error may come too.
    """
    _, cursor = _front(_content(path, entry), entry.order)
    kind, content = cursor.element()
    values: npt.NDArray[Any] = np.frombuffer(content, dtype=entry.order + _NUMBERS[kind])
    if values.size != math.prod(entry.shape):
        raise ValueError(f"{values.size} values for the shape {entry.shape}")
    return values.reshape(entry.shape, order="F")


def read_texts(path: Path, entry: Entry) -> list[str] | None:
    """A text, or the texts of a cell in column order; None where there is anything else.

    Raises:
        ValueError: the file is damaged; struct.error and zlib.error may come too.
    """
    front, cursor = _front(_content(path, entry), entry.order)
    if front.kind == "char":
        text = _text(front, cursor)
        return None if text is None else [text]
    if front.kind != "cell":
        return None
    texts = []
    for _ in range(math.prod(front.shape)):
        kind, content = cursor.element()
        if kind != _MATRIX:
            raise ValueError("a cell is not an array")
        text = _text(*_front(content, entry.order)) if len(content) else ""
        if text is None:
            return None
        texts.append(text)
    return texts


@dataclass(frozen=True)
class _Front:
    name: str
    kind: str
    shape: tuple[int, ...]


def _entry(head: bytes, kind: int, position: int, length: int, order: str) -> Entry:
    if kind == _COMPRESSED:
        inflated = zlib.decompressobj().decompress(head, _FRONT)
        kind, size = struct.unpack_from(f"{order}II", inflated)
        head, compressed = inflated[8:], True
    else:
        size, compressed = length, False
    if kind != _MATRIX:
        raise ValueError(f"an element of type {kind} where an array should be")
    front, _ = _front(memoryview(head), order)
    return Entry(front.name, front.kind, front.shape, position, length, size, compressed, order)


def _front(content: memoryview, order: str) -> tuple[_Front, _Bytes]:
    """What stands in front of an array's values, and the cursor at them."""
    cursor = _Bytes(content, order)
    flags = struct.unpack_from(f"{order}I", cursor.element()[1])[0]
    kind = _KINDS.get(flags & 0xFF, "unknown")
    if kind == "opaque":  # these have no shape
        return _Front(_ascii(cursor), kind, ()), cursor
    sizes = cursor.element()[1]
    shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
    if not 2 <= len(shape) <= _MOST_AXES or min(shape) < 0:
        raise ValueError(f"an array has the shape {shape[:_MOST_AXES]}")
    return _Front(_ascii(cursor), "complex" if flags & _COMPLEX else kind, shape), cursor


def _ascii(cursor: _Bytes) -> str:
    return bytes(cursor.element()[1]).decode("ascii")


def _text(front: _Front, cursor: _Bytes) -> str | None:
    if front.kind != "char" or len(front.shape) != 2 or (front.shape[0] > 1 and 0 not in front.shape):
        return None
    if 0 in front.shape:
        return ""
    kind, content = cursor.element()
    encoding = _ENCODINGS[kind]
    if encoding in ("utf-16", "utf-32"):
        encoding += "-le" if cursor.order == "<" else "-be"
    return bytes(content).decode(encoding, "replace")


def _content(path: Path, entry: Entry) -> memoryview:
    """The bytes of an array, inflated, without its tag."""
    with path.open("rb") as file:
        file.seek(entry.position)
        raw = file.read(entry.length)
    if not entry.compressed:
        return memoryview(raw)
    inflator = zlib.decompressobj()
    tag = inflator.decompress(raw, 8)
    length = struct.unpack(f"{entry.order}II", tag)[1]
    if length > _LARGEST_DEFLATION * entry.length:
        raise ValueError("an array claims more than the file can hold")
    content = inflator.decompress(inflator.unconsumed_tail, length) if length else b""
    rest = inflator.decompress(inflator.unconsumed_tail, 1)
    if len(content) < length or rest or not inflator.eof:
        raise ValueError("a compressed array is damaged")
    return memoryview(content)

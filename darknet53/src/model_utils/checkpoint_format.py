# Shared file: source utils/model_utils/checkpoint_format.py; copy with: python scripts/sync_model_utils.py --write
"""The lengths in a checkpoint file, compared before MindSpore reads it: on those that differ its loader ends the process
or makes up values.

A .ckpt file is a protobuf message of MindSpore's public checkpoint.proto: repeated value (field 1), each with a tag (1,
text) and a tensor (2) of dims (1, integers), tensor_type (2, text) and tensor_content (3, bytes). A large tensor comes
as several values in a row with one tag. A checksum may follow: `crc_num` and ten bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Union

import numpy as np

Bytes = Union[bytes, memoryview]
CHECKSUM = b"crc_num"
CHECKSUM_LENGTH = 17  # of these letters and the ten bytes after them
SIZES = {  # bytes of a value of each type
    "Bool": 1, "Int4": 1, "Int8": 1, "UInt8": 1, "Int16": 2, "UInt16": 2, "Float16": 2, "BFloat16": 2, "Int32": 4,
    "UInt32": 4, "Float32": 4, "Int64": 8, "UInt64": 8, "Float64": 8,
}  # fmt: skip
TEXT = "str"  # a value of UTF-32, as append_dict of MindSpore's callbacks leaves it


def require_sound(path: Path) -> None:
    """Check that a checkpoint holds, for each name once, as many bytes as its shape and type ask for.

    Raises:
        ValueError: what is wrong. OSError: the file cannot be read.
    """
    if not path.stat().st_size:
        raise ValueError("it is empty")
    _check(memoryview(np.memmap(path, np.uint8, "r")))


def has_checksum(content: Bytes) -> bool:
    return bytes(content[-CHECKSUM_LENGTH:][: len(CHECKSUM)]) == CHECKSUM


def _check(content: memoryview) -> None:
    end = len(content) - CHECKSUM_LENGTH * has_checksum(content)
    names: set[str] = set()
    name, length, wanted = "", 0, 0
    for number, value in _fields(content[:end]):
        if number != 1 or isinstance(value, int):
            raise ValueError(f"it has the field {number}, which no checkpoint has")
        tag, dims, kind, size = _tensor(value)
        if tag != name:
            _require_length(name, length, wanted)
            if tag in names:
                raise ValueError(f"it holds {tag} twice")
            names.add(tag)
            name, length = tag, 0
        length, wanted = length + size, _bytes_of(tag, dims, kind, length + size)
    _require_length(name, length, wanted)
    if not names:
        raise ValueError("it holds no parameter")


def _require_length(name: str, length: int, wanted: int) -> None:
    if length != wanted:
        raise ValueError(f"{name} has {length} bytes, its shape asks for {wanted}")


def _bytes_of(name: str, dims: list[int], kind: str, length: int) -> int:
    """What a shape and a type ask for; a text of any whole number of letters is as long as it is."""
    if kind == TEXT:
        return length if length and length % 4 == 0 else -1
    if kind not in SIZES:
        raise ValueError(f"{name} has values of the type '{kind[:20]}', which no checkpoint has")
    if any(side <= 0 for side in dims) and dims != [0]:  # how a scalar is written
        raise ValueError(f"{name} has the shape {dims[:8]}")
    return SIZES[kind] * (1 if dims == [0] else math.prod(dims))


def _tensor(value: memoryview) -> tuple[str, list[int], str, int]:
    """Name, shape, type and number of bytes of a value of the file."""
    tag = tensor = None
    for number, content in _fields(value):
        if isinstance(content, int):
            raise ValueError(f"a value has the field {number}, which no checkpoint has")
        if number == 1:
            tag = _text(content)
        elif number == 2:
            tensor = content
    if not tag or tensor is None:
        raise ValueError("a value lacks its name or its tensor")
    dims: list[int] = []
    kind, size = "", 0
    for number, content in _fields(tensor):
        if number == 1:
            dims += [content] if isinstance(content, int) else _varints(content)
        elif isinstance(content, int):
            raise ValueError(f"{tag} has the field {number}, which no tensor has")
        elif number == 2:
            kind = _text(content)
        elif number == 3:
            size = len(content)
    return tag, [side - (1 << 64) if side >> 63 else side for side in dims], kind, size


def _text(content: memoryview) -> str:
    return bytes(content).decode("utf-8")  # a UnicodeDecodeError is a ValueError


def _varints(content: memoryview) -> list[int]:
    numbers, place = [], 0
    while place < len(content):
        number, place = _varint(content, place)
        numbers.append(number)
    return numbers


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and content of each field of a message: an integer, or bytes."""
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            value, place = _varint(content, place)
            yield number, value
        elif wire_type == 2:
            length, place = _varint(content, place)
            if place + length > len(content):
                raise ValueError(f"a field of {length} bytes begins {len(content) - place} bytes before the end")
            yield number, content[place : place + length]
            place += length
        else:
            raise ValueError("it is no checkpoint of MindSpore")


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    """An integer in base 128, the lowest digit first, and the place after it."""
    result = 0
    for shift in range(0, 70, 7):
        if place >= len(content):
            raise ValueError("it ends within a number")
        byte = content[place]
        place += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & ((1 << 64) - 1), place
    raise ValueError("it is no checkpoint of MindSpore")

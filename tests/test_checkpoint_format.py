"""Checkpoint files whose stated lengths do not fit: refused before MindSpore reads them."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

from model_utils import checkpoint, checkpoint_format
from model_utils.checkpoint_format import require_sound
from model_utils.errors import DataError

import mindspore as ms
import numpy as np
import pytest


def varint(number: int) -> bytes:
    digits = []
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def value(name="w", dims=(2, 3), kind="Float32", content=b"\0" * 24, packed=False) -> bytes:
    sides = [varint(side % 2**64) for side in dims]
    shape = field(1, b"".join(sides)) if packed else b"".join(b"\x08" + side for side in sides)
    return field(1, field(1, name.encode()) + field(2, shape + field(2, kind.encode()) + field(3, content)))


def write(folder: Path, content: bytes) -> Path:
    path = folder / "w.ckpt"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        value(),
        value(packed=True),
        value(dims=(), content=b"\0" * 4),
        value(dims=(0,), content=b"\0" * 4),  # how MindSpore writes a scalar
        value(content=b"\0" * 16) + value(content=b"\0" * 8),  # two slices
        value() + value("v", (5,), "Bool", b"\0" * 5),
        value(kind="str", dims=(1,), content="abc".encode("utf-32-le")),
        value() + checkpoint_format.CHECKSUM + bytes(10),
    ],
)
def test_sound_files(tmp_path, content):
    require_sound(write(tmp_path, content))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "empty"),
        (value(dims=(2, 2)), "w has 24 bytes, its shape asks for 16"),
        (value(dims=(2, 4)), "w has 24 bytes, its shape asks for 32"),
        (value(dims=(2**62, 2**62)), "w has 24 bytes"),
        (value(dims=(-2, 3)), "the shape"),
        (value(dims=(0, 3)), "the shape"),
        (value(dims=(2**62, 0), content=b""), "the shape"),
        (value(kind="Float16"), "asks for 12"),
        (value(kind="Float33"), "the type 'Float33'"),
        (value(kind="str", content=b"abc"), "asks for -1"),
        (value() + value("v") + value(), "holds w twice"),
        (value()[:-1], "bytes before the end"),
        (value() + b"\x0a", "ends within a number"),
        (value() + b"\x0a" + b"\xff" * 11, "no checkpoint of MindSpore"),
        (b"\x0b", "no checkpoint of MindSpore"),
        (field(2, b"abc"), "the field 2"),
        (field(1, field(1, b"w")), "lacks its name or its tensor"),
        (field(1, field(1, b"\xff") + field(2, b"")), "utf-8"),
        (field(1, b"\x08\x01"), "the field 1"),
        (b"\x80\x02}q\x00.", "."),
        (b"version https://git-lfs.github.com/spec/v1\n", "."),
    ],
)
def test_unsound_files(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        require_sound(write(tmp_path, content))
    with pytest.raises(DataError, match="w.ckpt .*truncated or damaged|w.ckpt .*Git LFS|w.ckpt .*PyTorch"):
        checkpoint.load(tmp_path / "w.ckpt")


def test_what_mindspore_writes_is_accepted_whole_and_in_no_other_way(tmp_path):
    """Each file of the framework is sound; a foreign one with one changed byte loads as it was in all lengths, or is refused."""
    arrays = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float32(3), "c": np.ones(2, bool)}
    rows = [{"name": name, "data": ms.Tensor(array)} for name, array in arrays.items()]
    rows.append({"name": "d", "data": ms.Tensor([1, 2], ms.bfloat16)})
    path = tmp_path / "w.ckpt"
    ms.save_checkpoint(rows, str(path), append_dict={"epoch_num": 3, "note": "x"})
    path.chmod(0o600)
    content = path.read_bytes()
    require_sound(path)
    draw, sizes = random.Random(1), {len(content)}
    for place, flip in itertools.product(range(len(content)), draw.sample(range(1, 256), 3)):
        path.write_bytes(content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :])
        try:
            parameters, _ = checkpoint.load(path)
        except DataError:
            continue
        sizes.add(sum(value.asnumpy().nbytes for value in parameters.values() if not isinstance(value, str)))
    assert len(sizes) < 6, "the shapes of what is loaded hardly vary"

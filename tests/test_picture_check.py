"""Which files are pictures that training sees as they are: damage, kinds, sizes, speed levels, and what is remembered."""

from __future__ import annotations

import io
import logging
import os
import random

from model_utils import picture_check
from model_utils.errors import DataError, UsageError
from model_utils.logger import LOGGER_NAME
from model_utils.picture_check import check_image_files, check_level, examine

import numpy as np
import pytest
from mindspore.dataset import vision
from PIL import Image

RANDOM = np.random.RandomState(0)
NOISE = RANDOM.randint(0, 255, (96, 128, 3)).astype(np.uint8)
SMOOTH = np.array(Image.fromarray(NOISE[:6, :8]).resize((128, 96), Image.Resampling.BICUBIC))
FORMS = {
    "baseline": {}, "progressive": {"progressive": True}, "optimized": {"optimize": True}, "full colour": {"subsampling": 0},
    "restarts": {"restart_marker_rows": 1},
}  # fmt: skip


def encoded(picture=SMOOTH, kind="JPEG", mode="RGB", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def notices(monkeypatch):
    """What is logged."""
    found = []
    logger = logging.getLogger(LOGGER_NAME)
    monkeypatch.setattr(logger, "info", lambda text, *values: found.append(text % values if values else text))
    return found


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refusal(root, paths, **options) -> str:
    with pytest.raises(DataError) as caught:
        check_image_files(root, [str(path) for path in paths], **options)
    return str(caught.value)


# ---- Damaged JPEGs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_sound_jpegs_pass(tmp_path, form, mode):
    """Also those that are grey where a decoder has no data, with thumbnails, other pictures and bytes behind them."""
    grey = SMOOTH.copy()
    grey[48:] = 128
    for picture in (SMOOTH, NOISE, grey, np.full_like(SMOOTH, 128), SMOOTH[:9, :7]):
        content = encoded(np.ascontiguousarray(picture), mode=mode, **FORMS[form])
        for tail in (b"", b"\0" * 500, content):
            assert examine(write(tmp_path / "x.jpg", content + tail)) == (("", False, False)), (form, tail[:1])


@pytest.mark.parametrize("form", FORMS)
def test_a_jpeg_that_was_cut_and_closed_is_found(tmp_path, form):
    """With the end marker after what is left, as repair tools write it; every decoder fills the rest with grey."""
    content = encoded(NOISE, **FORMS[form])
    for share in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95):
        cut = content[: int(share * len(content))]
        path = write(tmp_path / "x.jpg", cut.rstrip(b"\xff") + b"\xff\xd9")
        assert "damaged: " in examine(path).fault, share
        with Image.open(path) as image:
            image.load()  # without a word


def test_a_picture_out_of_which_a_part_was_taken(tmp_path):
    """Restart markers let a decoder go on behind the gap: their order tells."""
    content = encoded(NOISE, **FORMS["restarts"])
    for start, length in ((3000, 2500), (5000, 900), (7000, 4000)):
        fault = examine(write(tmp_path / "x.jpg", content[:start] + content[start + length :])).fault
        assert fault.startswith("damaged: "), (start, length, fault)


def test_mutated_jpegs_train_on_no_made_up_picture(tmp_path):
    """Of what passes, no picture has a grey part that the sound one does not have."""
    numbers = random.Random(3)
    passed = 0
    for form, options in FORMS.items():
        content = encoded(NOISE, **options)
        for _ in range(40):
            data, place = bytearray(content), numbers.randrange(2, len(content) - 2)
            kind = numbers.choice(["bit", "marker", "cut", "delete"])
            if kind == "bit":
                data[place] ^= 1 << numbers.randrange(8)
            elif kind == "marker":
                data[place : place + 2] = bytes([0xFF, numbers.randrange(0xD0, 0xDA)])
            elif kind == "cut":
                data = data[:place] + b"\xff\xd9"
            else:
                del data[place : place + numbers.choice([1, 64, 1024])]
            path = write(tmp_path / "x.jpg", bytes(data))
            if not examine(path).fault:
                passed += 1
                grey = (np.asarray(Image.open(path).convert("RGB")) == 128).all(axis=-1).mean()
                assert grey < 0.05, (form, kind, place)
    assert passed > 30


@pytest.mark.parametrize(
    "content", [b"\xff\xd8\xff\xda\xff\xd9", b"\xff\xd8\xff\xd9", b"\xff\xd8\xff", b"", b"BM", b"II*\0"]
)
def test_a_few_bytes(tmp_path, content):
    """Those that end MindData's decoder among them."""
    for level in ("full", "fast"):
        assert examine(write(tmp_path / "x.jpg", content), level).fault, level


# ---- Kinds of pictures -----------------------------------------------------------------------------------------------

RAMP = np.linspace(0, 1, 24 * 32).reshape(24, 32)


EIGHT_BITS = [
    *(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGBA")),
    *(("BMP", mode) for mode in ("1", "P", "RGB")),
    *(("TIFF", mode) for mode in ("1", "P", "CMYK", "RGBA")),
    ("JPEG", "CMYK"),
]


@pytest.mark.parametrize("kind, mode", EIGHT_BITS)
def test_what_passes_is_read_by_minddata_as_by_pillow(tmp_path, kind, mode):
    content = encoded(NOISE, kind, mode)
    assert examine(write(tmp_path / "x", content)).fault == ""
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    np.testing.assert_array_equal(vision.Decode()(np.frombuffer(content, np.uint8)), expected)


@pytest.mark.parametrize(
    "image, options, kind",
    [(Image.fromarray(RAMP.astype(np.float32)), {}, "F"),
     (Image.fromarray((RAMP * 65535).astype(np.int32)), {}, "I"),
     (Image.merge("LAB", [Image.fromarray(NOISE[..., channel].copy()) for channel in range(3)]), {}, "LAB")],
)  # fmt: skip
def test_kinds_that_training_does_not_read_as_they_are(tmp_path, image, options, kind):
    path = write(tmp_path / "x.tif", saved(image, "TIFF", **options))
    for level in ("full", "fast"):
        assert f"TIFF of the kind {kind}, which training does not read as it is" in examine(path, level).fault


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("level", ["full", "fast"])
def test_pictures_of_16_bits_are_counted_once(tmp_path, notices, kind, level):
    whole, twelve = (Image.fromarray((RAMP * highest).astype(np.uint16)) for highest in (65535, 4095))
    paths = [write(tmp_path / "d" / f"{i}", saved(image, kind)) for i, image in enumerate((twelve, whole, whole))]
    paths.append(write(tmp_path / "d" / "8", encoded(NOISE, kind)))
    for _ in range(2):  # what is remembered is said too
        check_image_files(tmp_path / "d", list(map(str, paths)), level=level)
    assert len(notices) == 2 and notices[0] == notices[1]
    assert f"3 of 4 pictures have 16 bits a channel, the first is {paths[0]}: only the upper 8 bits" in notices[0]
    assert "; 1 of them are almost black then, as 12-bit data is; scale such pictures to 8 bits" in notices[0]


def test_16_bits_of_three_channels(tmp_path):
    """Which Pillow shows as RGB of 8 bits."""
    import struct
    import zlib

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    for highest, is_dark in ((65535, False), (4095, True)):
        rows = b"".join(b"\0" + np.full(3 * 4, highest, ">u2").tobytes() for _ in range(4))
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
        png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        assert examine(write(tmp_path / "x.png", png)) == ("", True, is_dark)


# ---- Sizes, and what is no file --------------------------------------------------------------------------------------


def header_of(width: int, height: int) -> bytes:
    """A small JPEG whose header says another size."""
    content = encoded()
    place = content.index(b"\xff\xc0") + 5
    return content[:place] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + content[place + 4 :]


@pytest.mark.parametrize("level", ["full", "fast"])
def test_more_pixels_than_accepted(tmp_path, level, monkeypatch):
    path = write(tmp_path / "x.jpg", header_of(30000, 30000))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded before its size was looked at"))
    assert "its header says 30000 x 30000 pixels, more than max_pixels=400000000;" in examine(path, level).fault
    assert "max_pixels=899999999" in examine(path, level, 899_999_999).fault


def test_pictures_up_to_the_limit(tmp_path):
    path = write(tmp_path / "x.jpg", encoded())
    assert not examine(path, "full", 96 * 128).fault and examine(path, "full", 96 * 128 - 1).fault
    assert not examine(path, "full", 0).fault, "0 is no limit"
    with pytest.raises(UsageError, match="max_pixels=-1: 0 or more is accepted"):
        check_image_files(tmp_path, [str(path)], max_pixels=-1)


def test_a_picture_of_200_megapixels_passes(tmp_path):
    path = write(tmp_path / "x.png", saved(Image.new("1", (20000, 10000)), "PNG"))
    assert examine(path).fault == ""


@pytest.mark.parametrize("level", ["full", "fast"])
def test_what_is_no_regular_file(tmp_path, level):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    os.symlink("/dev/zero", tmp_path / "zero.jpg")
    text = refusal(tmp_path, sorted(tmp_path.glob("*.jpg")) + [tmp_path / "absent.jpg"], level=level)
    for name, what in {"pipe": "it is a named pipe", "folder": "it is a folder", "zero": "it is a device",
                       "absent": "no such file"}.items():  # fmt: skip
        assert f"{name}.jpg: {what}" in text, text


@pytest.mark.parametrize("level", ["full", "fast"])
def test_a_file_that_may_not_be_read(tmp_path, level, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    path = write(tmp_path / "x.jpg", encoded())
    monkeypatch.setattr(picture_check, "open", refuse, raising=False)
    assert refusal(tmp_path, [path], level=level).endswith("x.jpg: may not be read by this user")


# ---- Levels, and what is remembered ----------------------------------------------------------------------------------


def test_levels():
    given = {"full": "full", "fast": "fast", "off": "off", True: "full", False: "off", "True": "full", "false": "off",
             "no": "off", "FULL": "full"}  # fmt: skip
    assert {value: check_level(value) for value in given} == given
    for value in ("quick", "", None):
        with pytest.raises(UsageError, match=f"check_images={value}: one of full, fast, off is accepted"):
            check_level(value)


@pytest.fixture
def decoded(monkeypatch):
    """Sizes of the pictures that are decoded."""
    found, original = [], Image.Image.load
    monkeypatch.setattr(picture_check, "require_data", lambda path, image: found.append(os.path.basename(path)))
    assert original
    return found


def test_fast_decodes_only_what_ends_in_another_way(tmp_path, decoded):
    content = encoded()
    with_large_header = content[:2] + b"\xff\xe2" + (65535).to_bytes(2, "big") + bytes(65533) + content[2:]
    files = {"sound.jpg": content, "header.jpg": with_large_header, "trailing.jpg": content + b"\0",
             "sound.png": encoded(kind="PNG"), "sound.bmp": encoded(kind="BMP"), "x.tif": encoded(kind="TIFF")}  # fmt: skip
    paths = [str(write(tmp_path / name, data)) for name, data in files.items()]
    check_image_files(tmp_path, paths, level="fast")
    assert decoded == ["trailing.jpg", "x.tif"]
    check_image_files(tmp_path, paths, level="off")
    assert decoded == ["trailing.jpg", "x.tif"]
    check_image_files(tmp_path, paths)
    assert sorted(decoded[2:]) == sorted(files)


def test_a_second_check_opens_what_has_changed(tmp_path, decoded, cache):
    paths = [write(tmp_path / "d" / f"{number}.jpg", encoded()) for number in range(250)]
    check_image_files(tmp_path / "d", list(map(str, paths)))
    assert len(decoded) == 250 and not any(path.is_dir() for path in (tmp_path / "d").iterdir())
    decoded.clear()
    check_image_files(tmp_path / "d", list(map(str, paths)))
    assert decoded == []
    write(paths[7], encoded(NOISE))
    os.utime(paths[9])
    check_image_files(tmp_path / "d", list(map(str, [*paths, write(tmp_path / "d" / "new.jpg", encoded())])))
    assert sorted(decoded) == ["7.jpg", "9.jpg", "new.jpg"]
    decoded.clear()
    check_image_files(tmp_path / "d", list(map(str, paths)), max_pixels=100_000)
    assert len(decoded) == 250, "another limit"


def test_damaged_files_are_never_remembered(tmp_path):
    paths = [write(tmp_path / "d" / "0.jpg", encoded()), write(tmp_path / "d" / "1.jpg", encoded()[:-30])]
    for _ in range(2):
        assert "1 of 2 files are not readable images" in refusal(tmp_path / "d", paths)


def test_what_was_remembered_may_be_lost(tmp_path, decoded, cache, notices, monkeypatch):
    path = write(tmp_path / "d" / "0.jpg", encoded())
    check_image_files(tmp_path / "d", [str(path)])
    (file,) = (cache / "mindspore_model_zoo").iterdir()
    file.write_bytes(b"abc")
    check_image_files(tmp_path / "d", [str(path)])
    assert decoded == ["0.jpg"] * 2
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))  # where no folder can be
    check_image_files(tmp_path / "d", [str(path)])
    assert decoded == ["0.jpg"] * 3 and "the check of the pictures is not remembered" in notices[-1]


def test_each_rank_remembers_its_share(tmp_path, decoded, cache):
    paths = [str(write(tmp_path / "d" / f"{number}.jpg", encoded())) for number in range(10)]
    for rank in range(3):
        check_image_files(tmp_path / "d", paths, shard=(rank, 3))
    assert sorted(decoded) == [f"{number}.jpg" for number in range(10)]
    check_image_files(tmp_path / "d", paths)
    assert len(decoded) == 10


def test_a_long_check_says_how_far_it_is(tmp_path, notices, monkeypatch):
    monkeypatch.setattr(picture_check, "REPORT_INTERVAL", 0.0)
    paths = [str(write(tmp_path / f"{number}.jpg", encoded())) for number in range(250)]
    check_image_files(tmp_path, paths)
    assert [line.rpartition(",")[0] for line in notices] == [f"checked {n} of 250 pictures" for n in (100, 200, 250)]


def test_many_files_are_examined_by_processes(tmp_path, monkeypatch):
    """In the order of the files, and remembered as by threads."""
    monkeypatch.setattr(picture_check, "MANY", 8)
    monkeypatch.setattr(picture_check, "CHUNK", 3)
    monkeypatch.setattr(picture_check, "own_cores", lambda: 3)
    for number in range(8):
        Image.new("RGB", (20, 20), (number * 30, 0, 0)).save(tmp_path / f"{number}.jpg")
    (tmp_path / "4.jpg").write_bytes(b"\xff\xd8\xff\xda\xff\xd9")
    paths = [str(tmp_path / f"{number}.jpg") for number in range(8)]
    found = picture_check._examine_all(paths, "full", 0, None)
    assert [bool(finding.fault) for finding in found] == [number == 4 for number in range(8)]

"""Checks of data set folders: what passes, what is refused and how it reads, and that MindData sees the same thing."""

import io
import logging
import os

from model_utils.classification.pipeline import image_folder, image_positions
from model_utils.dataset_checks import (
    check_cifar10,
    check_image_folder,
    cifar10_files,
    data_error,
    data_errors,
    require_steps,
)
from model_utils.errors import DataError, UsageError
from model_utils.logger import LOGGER_NAME

import mindspore.dataset as ds
import numpy as np
import pytest
from mindspore.dataset import vision
from PIL import Image


def encoded(kind="JPEG", size=(64, 48), mode="RGB", **options):
    """A noisy picture as the bytes of an image file."""
    pixels = np.random.RandomState(0).randint(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def with_thumbnail():
    """A JPEG whose Exif segment holds a smaller JPEG, and the position after that one's end-of-image marker."""
    picture, payload = encoded(), b"Exif\0\0" + encoded(size=(16, 16))
    segment = b"\xff\xe1" + (len(payload) + 2).to_bytes(2, "big") + payload
    return picture[:2] + segment + picture[2:], 2 + len(segment)


def with_large_header():
    """A JPEG with 64 KiB before the image."""
    picture = encoded()
    return picture[:2] + b"\xff\xe2" + (65535).to_bytes(2, "big") + bytes(65533) + picture[2:]


def write(path, content=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded() if content is None else content)
    return path


@pytest.fixture
def folder(tmp_path):
    """A sound data set of the classes cat and dog, two images each."""
    for name in ("dog", "cat"):
        for index in range(2):
            write(tmp_path / "data" / name / f"{index}.jpg")
    return tmp_path / "data"


def refusal(*arguments, **options):
    with pytest.raises(DataError) as caught:
        check_image_folder(*arguments, **options)
    return str(caught.value)


def read_by_minddata(folder, classes):
    """Class indices and labels with which MindData reads the folder; every image is decoded."""
    sampler = ds.SubsetSampler(image_positions(str(folder)))
    dataset = image_folder(str(folder), classes, sampler=sampler, decode=True)
    labels = [int(row["label"]) for row in dataset.create_dict_iterator(num_epochs=1, output_numpy=True)]
    return dataset.get_class_indexing(), labels


# ---- folders of images ---------------------------------------------------------------------------------------------


def test_minddata_reads_what_was_checked(folder):
    """Classes in the order of their names; hidden entries and system files shift no index and reach no decoder."""
    hidden = (".ipynb_checkpoints/0.jpg", ".DS_Store", "cat/.DS_Store", "cat/Thumbs.db", "dog/desktop.ini",
              "cat/._0.jpg", "dog/.hidden.png", "@eaDir/0.jpg", "__MACOSX/0.jpg", "dog/@eaDir/0.jpg", "ehthumbs.db",
              "cat/.ipynb_checkpoints/0.jpg")  # fmt: skip
    for name in (*hidden, "dog/.cache/0.jpg", "readme.txt"):
        write(folder / name, b"x")
    write(folder / "Zebra" / "0.PNG", encoded("PNG"))
    for index, (ending, kind) in enumerate({"JPG": "JPEG", "Png": "PNG", "bmp": "BMP", "tif": "TIFF"}.items()):
        write(folder / "dog" / f"more{index}.{ending}", encoded(kind))
    classes = check_image_folder(str(folder), 3)
    assert check_image_folder(folder, 1000) == classes == ["Zebra", "cat", "dog"]
    assert read_by_minddata(folder, classes) == ({"Zebra": 0, "cat": 1, "dog": 2}, [0, 1, 1] + [2] * 6)


@pytest.mark.parametrize(
    "place, classes, parts",
    [
        ("dataa/train", 2, ["{root}/dataa/train does not exist\nexpected:\n", "<class name>/",
                            "found:\n{root}/\n    above/"]),
        ("data/cat/0.jpg", 2, ["is a file, not a folder", "found:\n{root}/data/cat/\n    0.jpg\n    1.jpg"]),
        ("empty", 2, ["holds no class folders", "(empty)"]),
        ("loose", 2, ["1 images, first loose.jpg"]),
        ("none", 3, ["class folder {root}/none/eagle holds no images", "    cat/\n    eagle/"]),
        ("above", 2, ["holds more than images: cat/; convert or remove them (if these are the class folders"]),
        ("data", 1, ["holds 2 classes, more than num_classes=1", "--num_classes 2"]),
    ],
)  # fmt: skip
def test_folders_that_cannot_be(folder, place, classes, parts):
    root = folder.parent
    write(root / "loose/loose.jpg"), write(root / "loose/cat/0.jpg")
    write(root / "none/cat/0.jpg"), write(root / "above/data/cat/0.jpg")
    (root / "none/eagle").mkdir(), (root / "empty").mkdir()
    text = refusal(root / place, classes)
    assert all(part.format(root=root) in text for part in parts), text


def test_images_without_class_folders(tmp_path):
    for index in range(1, 31):
        write(tmp_path / f"val_{index:08d}.JPEG", b"")
    text = refusal(tmp_path, 2)
    assert "30 images, first val_00000001.JPEG" in text and "valprep.sh" in text
    assert text.count("val_") == 1 + 8 and text.endswith("... and 22 more")


@pytest.fixture
def notices(monkeypatch):
    """What is logged."""
    found = []
    monkeypatch.setattr(logging.getLogger(LOGGER_NAME), "info", lambda text, *values: found.append(text % values))
    return found


def test_what_is_skipped_is_said_once(folder, notices):
    for name in (".DS_Store", "cat/._0.jpg", "@eaDir/0.jpg", "dog/Thumbs.db"):
        write(folder / name, b"x")
    check_image_folder(folder, 2)
    assert notices == [
        f"notice: skipped 4 hidden or system files and folders in {folder}: .DS_Store, @eaDir, cat/._0.jpg, dog/Thumbs.db"
    ]


def test_all_class_folders_that_cannot_be_used_are_named_at_once(folder):
    for name in ("ant", "bee"):
        (folder / name).mkdir()
    write(folder / "cat" / "notes.txt"), write(folder / "dog" / "inner" / "0.jpg")
    os.mkfifo(folder / "dog" / "pipe.jpg"), os.symlink("/nonexistent", folder / "dog" / "link.jpg")
    text = refusal(folder, 4)
    assert "4 class folders cannot be used" in text
    for part in (
        f"{folder}/ant holds no images",
        f"{folder}/bee holds no images",
        f"{folder}/cat holds more than images",
        f"{folder}/dog holds more than images: inner/, link.jpg (a broken link), pipe.jpg (no regular file)",
    ):
        assert part in text, text  # fmt: skip


def test_a_class_too_many_is_named(folder, tmp_path):
    """The one that the validation data lacks, wherever it stands in the list."""
    for index in range(20):
        write(folder / f"class{index:02d}" / "0.jpg"), write(tmp_path / "val" / f"class{index:02d}" / "0.jpg")
    write(tmp_path / "val" / "cat" / "0.jpg")
    assert f"; {tmp_path}/val lacks the class 'dog'\n" in refusal(folder, 21, counterpart=tmp_path / "val")
    for counterpart in ("", folder, tmp_path / "absent"):
        assert "lacks" not in refusal(folder, 21, counterpart=counterpart)


def test_a_class_folder_whose_name_is_not_utf_8(folder):
    write(folder / os.fsdecode(b"caf\xe9") / "0.jpg")
    assert r"the name of class folder b'caf\xe9' is no text in UTF-8" in refusal(folder, 3)


def test_folders_that_may_not_be_read(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("model_utils.image_folder.os.scandir", refuse)
    with pytest.raises(DataError, match=f"{folder} may not be read by this user"):
        check_image_folder(folder, 2)


@pytest.mark.parametrize("name", ["notes.txt", "picture.JpG", "noending"])
def test_other_file_among_the_images(folder, name):
    write(folder / "cat" / name)
    text = refusal(folder, 2, check_images="off")
    assert f"{folder}/cat holds more than images: {name};" in text and "expected:" in text and "found:" in text


def test_unreadable_images_are_all_named(folder):
    jpeg, png = encoded(), encoded("PNG")
    cut_with_thumbnail, end_of_thumbnail = with_thumbnail()
    broken = {
        "empty.jpg": (b"", "empty file"),
        "text.jpg": (b"not an image\n", "not one of JPEG"),
        "no_end.jpg": (jpeg[:-2], "truncated"),
        "thumbnail.jpg": (cut_with_thumbnail[:end_of_thumbnail], "not one of JPEG"),
        "half.png": (png[: len(png) // 2], ""),
        "half.bmp": (encoded("BMP")[:900], "truncated"),
        "webp.png": (encoded("WEBP"), "not one of JPEG"),
    }
    for name, (content, _) in broken.items():
        write(folder / "dog" / name, content)
    text = refusal(folder, 2)
    assert "7 of 11 files are not readable images" in text
    for name, (_, reason) in broken.items():
        lines = [line for line in text.splitlines() if line.startswith(f"    {folder}/dog/{name}: ")]
        assert len(lines) == 1 and reason in lines[0], (name, text)
    assert check_image_folder(folder, 2, check_images="off") == ["cat", "dog"]


def test_long_list_of_unreadable_images_ends_in_a_count(folder):
    for index in range(25):
        write(folder / "cat" / f"broken{index:02d}.jpg", b"x")
    text = refusal(folder, 2)
    assert text.count("/broken") == 10 and "broken09" in text and "... and 15 more" in text


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_jpeg_cut_anywhere_is_found(tmp_path, options):
    jpeg = encoded(**options)
    cuts = range(1, len(jpeg), 97)
    for cut in cuts:
        write(tmp_path / "a" / f"{cut}.jpg", jpeg[:cut])
    assert f"{len(cuts)} of {len(cuts)} files" in refusal(tmp_path, 1)


def test_sound_files_of_unusual_form_pass(folder):
    jpeg = encoded()
    sound = {
        "trailing.jpg": jpeg + b"\0" * 5000,
        "thumbnail.jpg": with_thumbnail()[0],
        "cmyk.jpg": encoded(mode="CMYK"),
        "png_content.jpg": encoded("PNG"),
        "progressive.jpg": encoded(progressive=True),
        "large_header.jpg": with_large_header(),
        "palette.png": encoded("PNG", mode="P"),
        "trailing.png": encoded("PNG") + b"\n",
    }
    for name, content in sound.items():
        write(folder / "cat" / name, content)
    assert check_image_folder(folder, 2) == ["cat", "dog"]
    assert len(read_by_minddata(folder, ["cat", "dog"])[1]) == 4 + len(sound)


def test_shards_cover_every_file_once(folder):
    for index in range(7):
        write(folder / "cat" / f"broken{index}.jpg", b"x")
    texts = [refusal(folder, 2, shard=(rank, 3)) for rank in range(3)]
    named = [line.split("/")[-1] for text in texts for line in text.splitlines() if "/broken" in line]
    assert sorted(name.split(":")[0] for name in named) == [f"broken{index}.jpg" for index in range(7)]
    assert [text.split(" files")[0].split(": ")[-1] for text in texts] == ["2 of 4", "2 of 4", "3 of 3"]


# ---- CIFAR-10 ------------------------------------------------------------------------------------------------------


def records(count):
    values = np.random.RandomState(count).randint(0, 256, (count, 3073), dtype=np.uint8)
    values[:, 0] = np.arange(count) % 10
    return values.tobytes()


@pytest.fixture
def cifar10(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    for index in (2, 1):
        write(folder / f"data_batch_{index}.bin", records(150 + index))
    write(folder / "test_batch.bin", records(36))
    write(folder / ".data_batch_9.bin.swp", b"x")
    return folder


def cifar10_refusal(path, usage="train"):
    with pytest.raises(DataError) as caught:
        check_cifar10(path, usage)
    return str(caught.value)


def test_cifar10_of_any_size(cifar10):
    """Only the files of its usage are needed."""
    assert check_cifar10(cifar10, "train") == check_cifar10(str(cifar10), "test") == list("0123456789")
    assert [file.name for file in cifar10_files(cifar10, "train")] == ["data_batch_1.bin", "data_batch_2.bin"]
    (cifar10 / "test_batch.bin").unlink()
    assert len(check_cifar10(cifar10, "train")) == 10
    text = cifar10_refusal(cifar10, "test")
    assert "no test_batch.bin" in text and "test_batch.bin   (test)" in text and "    data_batch_1.bin" in text


def test_cifar10_class_names(cifar10):
    names = [f"class {index}" for index in range(10)]
    (cifar10 / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    assert check_cifar10(cifar10, "train") == names
    (cifar10 / "batches.meta.txt").write_text("\n".join(names[:9]) + "\n\n")
    assert "holds 9 class names, 10 lines are expected" in cifar10_refusal(cifar10)


@pytest.mark.parametrize("content", [b"", records(3) + b"x"], ids=["empty", "long"])
def test_cifar10_truncated(cifar10, content):
    file = write(cifar10 / "data_batch_2.bin", content)
    expected = f"{file} is truncated: {len(content)} bytes, expected a multiple of 3073"
    assert cifar10_refusal(cifar10).startswith(expected)


def test_cifar10_wrong_label(cifar10):
    content = bytearray(records(20))
    content[12 * 3073] = 77
    file = write(cifar10 / "data_batch_2.bin", bytes(content))
    assert f"{file} is no CIFAR-10 file: record 12 has label 77" in cifar10_refusal(cifar10)


def test_other_folders_than_that_of_cifar10(cifar10, tmp_path):
    assert f"give {cifar10}\n" in cifar10_refusal(cifar10.parent)
    for name in ("python", "python/cifar-10-batches-py"):
        file = write(tmp_path / name / "data_batch_1", b"pickle")
        assert "the binary version is needed" in cifar10_refusal(tmp_path / "python")
        file.unlink()
    text = cifar10_refusal(tmp_path / "empty/nowhere")
    assert "nowhere, which is not a folder" in text and f"found:\n{tmp_path}/" in text


# ---- steps and errors while the data is read -------------------------------------------------------------------------


def test_steps_per_epoch():
    """Of 17 images, 8 on each device: the odd one waits for another epoch."""
    assert [require_steps(*given) for given in ((1281167, 128, 8), (10, 5, 2), (17, 8, 2))] == [1251, 1, 1]


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((100, 64, 8), DataError, r"100 images on 8 device\(s\).*batch of 64.*--batch_size to 12 or less"),
        ((17, 9, 2), DataError, "17 images on 2 device"),
        ((0, 64, 1), DataError, "0 images on 1 device"),
        ((10, 0, 1), UsageError, "batch_size=0"),
    ],
)
def test_no_step_is_an_error(arguments, error, message):
    with pytest.raises(error, match=message):
        require_steps(*arguments)


def pipeline_error(folder, *operators):
    dataset = ds.ImageFolderDataset(str(folder), shuffle=False, extensions=[".jpg"]).map(list(operators), "image")
    with pytest.raises(RuntimeError) as caught:
        list(dataset.create_dict_iterator(num_epochs=1))
    return caught.value


@pytest.mark.parametrize(
    "operators",
    [[vision.Decode()], [vision.RandomCropDecodeResize(32, (1, 1), (1, 1)), vision.HWC2CHW()],
     [vision.Decode(to_pil=True)]],
)  # fmt: skip
def test_undecodable_image_while_training(tmp_path, monkeypatch, operators):
    """A DataError of one line that names it, without the long error of MindData behind it."""
    monkeypatch.chdir(tmp_path)  # MindData writes a copy of the broken image into the current folder
    jpeg = encoded(size=(200, 200))
    file = write(tmp_path / "data v1. new" / "cat" / "half.x.jpg", jpeg[: len(jpeg) // 2])
    with pytest.raises(DataError) as caught, data_errors(file.parents[1]):
        raise pipeline_error(file.parents[1], *operators)
    text = str(caught.value)
    assert text.startswith(f"{file} cannot be used: ") and text.endswith("; mend it or remove it from the data set")
    assert "\n" not in text and len(text) < len(str(file)) + 180 and "ump the" not in text
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert not (tmp_path / "abnormal_image.jpg").exists()


def test_other_pipeline_error_names_the_data_set(tmp_path):
    (tmp_path / "cat").mkdir()
    os.symlink("/nonexistent", tmp_path / "cat" / "0.jpg")
    result = data_error(pipeline_error(tmp_path, vision.Decode()), tmp_path)
    assert isinstance(result, DataError) and str(result).startswith(f"data set {tmp_path}: ")
    assert str(tmp_path / "cat" / "0.jpg") in str(result) and "\n" not in str(result)


def test_errors_of_other_origin_stay(folder):
    def faulty(image):
        raise ValueError("a bug in the pipeline")

    imitation = ValueError("Dataset Pipeline Error Message\n[ERROR] x")
    for error in (RuntimeError("out of memory"), imitation, pipeline_error(folder, faulty)):
        with pytest.raises(type(error)) as caught, data_errors(folder):
            raise error
        assert caught.value is error

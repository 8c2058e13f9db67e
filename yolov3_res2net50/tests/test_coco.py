"""Any COCO data set is read, any other file is refused in one readable message; every kind of picture becomes RGB."""

from __future__ import annotations

import io
import json
import logging
import os
from pathlib import Path

from src.data.coco import data_paths, read_coco
from src.data.pictures import decode, picture_size, read_picture
from src.dataset import count_images, find_classes
from src.model_utils.device_adapter import Device
from src.model_utils.errors import DataError, UsageError
from src.recipe import read_config

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}, {"id": 90, "name": "Zahnbürste"}]


def gradient(height: int = 40, width: int = 60) -> np.ndarray:
    """A smooth picture (height, width, 3) whose corners differ."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 255 - 255 * x / width], axis=-1).astype(np.uint8)


def save_rotated(path: Path, orientation: int, picture: np.ndarray | None = None, **options) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(gradient() if picture is None else picture).save(path, exif=exif, **options)


def annotation(image_id, category_id=3, bbox=(1, 2, 10, 20), **more) -> dict:
    return {"id": 1, "image_id": image_id, "category_id": category_id, "bbox": list(bbox), **more}


def write(
    folder: Path, images: list, annotations: list, categories=CATEGORIES, files: bool = True
) -> tuple[Path, Path]:
    """An annotation file, and 60 x 40 JPEG files of the images."""
    for image in images:
        if files and isinstance(image, dict) and isinstance(image.get("file_name"), str) and image["file_name"]:
            path = folder / "images" / image["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(gradient()).save(path)
    file = folder / "annotations.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}), "utf-8")
    return folder / "images", file


def image(image_id, name: str | None = None, **more) -> dict:
    return {"id": image_id, "file_name": name or f"{image_id}.jpg", "width": 60, "height": 40, **more}


def read(paths: tuple[Path, Path], **options):
    return read_coco(*paths, **{"check_images": True, **options})


def test_boxes_classes_and_crowd_by_image(tmp_path):
    rows = [annotation(7, 90), annotation(5, 18, (0, 0, 60, 40)), annotation(7, 3, (2, 3, 4, 5), iscrowd=1)]
    data = read(write(tmp_path, [image(7), image(5), image(6)], rows))
    assert data.image_ids == [5, 6, 7] and data.category_ids == [3, 18, 90]
    assert data.class_names == ["car", "dog", "Zahnbürste"]
    assert [path.name for path in data.paths] == ["5.jpg", "6.jpg", "7.jpg"]
    assert data.sizes.dtype == np.int32 and data.sizes.tolist() == [[40, 60]] * 3
    assert [boxes.tolist() for boxes in data.boxes] == [[[0, 0, 60, 40]], [], [[1, 2, 11, 22], [2, 3, 6, 8]]]
    assert [classes.tolist() for classes in data.classes] == [[1], [], [2, 0]]
    assert [crowd.tolist() for crowd in data.crowd] == [[False], [], [False, True]]
    assert data.boxes[1].shape == (0, 4) and {column.dtype for column in data.boxes} == {np.dtype(np.float32)}


def test_ids_of_texts_and_file_names_of_any_form(tmp_path):
    names = ["a b/ü 猫.jpg", "x.y/z.JPG", "plain.jpeg", "no ending at all.png"]
    images = [image(key, name) for key, name in zip(["b", 12, "a", 3], names)]
    data = read(write(tmp_path, images, [annotation("b"), annotation(3, 18)]))
    assert data.image_ids == [3, 12, "a", "b"]
    found = [path.relative_to(tmp_path / "images").as_posix() for path in data.paths]
    assert found == [names[3], *names[1:3], names[0]]
    assert [len(boxes) for boxes in data.boxes] == [1, 0, 0, 1]


def test_a_missing_size_is_read_from_the_file(tmp_path):
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2)]
    paths = write(tmp_path, images, [annotation(1, bbox=(50, 30, 100, 100))])
    save_rotated(paths[0] / "2.jpg", 6)
    data = read(paths)
    assert data.sizes.tolist() == [[40, 60], [60, 40]]
    assert data.boxes[0].tolist() == [[50, 30, 60, 40]]


def test_boxes_without_area_do_not_count_and_are_reported_once(tmp_path, caplog):
    boxes = [(-5, -5, 20, 10), (50, 0, 10.3, 40), (70, 0, 5, 5), (3, 3, 0, 9), (3, 3, -4, 9), (0, 0, float("nan"), 4),
             (0, 0, float("inf"), 4), (1, 1, 2, 2)]  # fmt: skip
    paths = write(tmp_path, [image(1)], [annotation(1, bbox=box) for box in boxes])
    data = read(paths)
    assert read(paths) is data and read(paths, check_images=False) is data
    assert data.boxes[0].tolist() == [[0, 0, 15, 5], [50, 0, 60, 40], [1, 1, 3, 3]]
    assert (data.clipped, data.dropped) == (1, 5)
    config_ = config("--train_img_dir", str(paths[0]), "--train_annFile", str(paths[1]), "--check_images", "false")
    with caplog.at_level(logging.INFO):
        find_classes(config_, "train", Device("CPU", 0))
        assert count_images(config_, "train") == 1
    clipped, dropped = "1 boxes reach over the border of their image and are clipped", "5 boxes have no area in it"
    assert caplog.messages == [f"{clipped}, {dropped} and do not count"]
    outlines = ([[1, 2, 3]], {"counts": "ab", "size": [4, 5]})  # may be of any form; a changed file is read again
    write(tmp_path, [image(1)], [annotation(1, segmentation=outline) for outline in outlines])
    assert len(read(paths).boxes[0]) == 2


GOOD = [image(1)], [annotation(1)]


@pytest.mark.parametrize(
    ("images", "annotations", "categories", "message"),
    [
        ([], [], CATEGORIES, "the list 'images' is empty"),
        (GOOD[0], [], CATEGORIES, "holds no annotations"),
        (*GOOD, [], "the list 'categories' is empty"),
        (*GOOD, [{"id": 1}], r"categories\[0\] is {\"id\": 1}; an object with \"id\" and \"name\""),
        (*GOOD, [*CATEGORIES, {"id": 3, "name": "cat"}], r"categories\[3\] has the id 3 of an earlier one"),
        ([image(1), image(1, "b.jpg")], GOOD[1], CATEGORIES, r"images\[1\] has the id 1 of an earlier one"),
        ([image(1.5)], GOOD[1], CATEGORIES, r"images\[0\] is"),
        ([{"id": 1, "file_name": ""}], GOOD[1], CATEGORIES, "empty file_name"),
        ([image(1, width="60")], GOOD[1], CATEGORIES, r'image 1 has "height": 40, "width": "60"; pixels'),
        (GOOD[0], [annotation(2)], CATEGORIES, r"annotations\[0\] has an image_id that is not among"),
        (GOOD[0], [annotation(1), annotation(1, 4)], CATEGORIES, r"annotations\[1\] has a category_id .* 3 categories"),
        (GOOD[0], [annotation(1, bbox=(1, 2, 3))], CATEGORIES, "has a bbox that is not four numbers"),
        (GOOD[0], [annotation(1, bbox=(1, 2, 3, "4"))], CATEGORIES, "has a bbox that is not four numbers"),
        (GOOD[0], [{"id": 1, "image_id": 1, "caption": "a"}], CATEGORIES, "is not an object with image_id, category_id, bbox"),
        (GOOD[0], [annotation(1, iscrowd=2)], CATEGORIES, "iscrowd that is neither 0 nor 1"),
    ],
)  # fmt: skip
def test_what_is_not_coco_is_named(tmp_path, images, annotations, categories, message):
    paths = write(tmp_path, images, annotations, categories)
    with pytest.raises(DataError, match=message) as caught:
        read(paths)
    assert str(caught.value).startswith(str(paths[1])) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "is no text in UTF-8"),
        (b"[1, 2]", "holds a list; a COCO file holds an object with the lists"),
        (b'{"images": [], "info": 1}', r"there is no 'annotations' \(found: images, info\)"),
        (b'{"images": {}, "annotations": [], "categories": []}', "'images' is a dict"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read((tmp_path, file))
    assert str(file) in str(caught.value)
    with pytest.raises(DataError, match="cannot be read"):
        read((tmp_path, tmp_path / "none.json"))


def test_all_missing_images_are_named(tmp_path):
    images = [image(number, f"sub/{number}.jpg") for number in range(1, 15)]
    paths = write(tmp_path, images, [annotation(1)])
    for number in range(2, 15):
        (paths[0] / f"sub/{number}.jpg").unlink()
    with pytest.raises(DataError, match="13 of 14 images of .*annotations.json are missing") as caught:
        read(paths, check_images=False)
    lines = str(caught.value).splitlines()
    assert len(lines) == 12
    assert lines[1].strip() == str(paths[0] / "sub/2.jpg") and lines[-1].strip() == "... and 3 more"


def test_damaged_images_are_named_unless_told_otherwise(tmp_path):
    paths = write(tmp_path, [image(1), image(2)], [annotation(1)])
    victim = paths[0] / "2.jpg"
    victim.write_bytes(victim.read_bytes()[:-200])
    read(paths, check_images=False)
    with pytest.raises(DataError, match="1 of 2 files are not readable") as caught:
        read(paths)
    assert str(victim) in str(caught.value)
    read(paths, shard=(0, 2))  # this rank opens the first one only
    with pytest.raises(DataError, match="1 of . files are not readable"):
        read(paths, shard=(1, 2))


def config(*argv: str):
    return read_config([*argv, "--device_target", "CPU"], "")


def test_data_paths(tmp_path):
    for name in ("annotations", "train2014", "train", "val2017", "photos"):
        (tmp_path / name).mkdir()
    for name in ("train2014", "val2017", "photos"):
        (tmp_path / f"annotations/instances_{name}.json").touch()
    (tmp_path / "own.json").touch()
    base = ["--data_dir", str(tmp_path)]
    annotations = tmp_path / "annotations"
    assert data_paths(config(*base), "train") == (tmp_path / "train2014", annotations / "instances_train2014.json")
    assert data_paths(config(*base), "val") == (tmp_path / "val2017", annotations / "instances_val2017.json")
    photos = str(tmp_path / "photos")
    found = data_paths(config("--train_img_dir", photos), "train")
    assert found == (tmp_path / "photos", annotations / "instances_photos.json")
    found = data_paths(config("--img_path", photos, "--annFile", str(tmp_path / "own.json")), "val")
    assert found == (tmp_path / "photos", tmp_path / "own.json")


def test_missing_folders_and_files_are_named_with_both_trees(tmp_path):
    coco, folder = str(tmp_path / "coco"), str(tmp_path)
    (tmp_path / "coco/val2017").mkdir(parents=True)
    empty = "data_dir is empty; give --data_dir FOLDER, or --img_path FOLDER --annFile FILE"
    for error, message, split, argv in (
        (UsageError, empty, "val", []),
        (DataError, "no folder train2017/ or train2014/ or train/[\\s\\S]*instances_train2017.json", "train",
         ["--data_dir", coco]),
        (DataError, "expected[\\s\\S]*found:[\\s\\S]*coco/", "train", ["--data_dir", str(tmp_path / "nowhere")]),
        (DataError, "there is no annotation file .*instances_val2017.json; give one with --annFile", "val",
         ["--data_dir", coco]),
        (DataError, "train_annFile=none.json is not a file", "train",
         ["--train_img_dir", folder, "--train_annFile", "none.json"]),
        (DataError, "img_path=.*gone is not a folder", "val", ["--data_dir", folder, "--img_path", f"{folder}/gone"]),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            data_paths(config(*argv), split)


# ---- Pictures --------------------------------------------------------------------------------------------------------


def close(a: np.ndarray, b: np.ndarray, by: float = 6) -> bool:
    return a.shape == b.shape and np.abs(a.astype(float) - b).mean() < by


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
def test_sound_pictures_are_exact_and_of_eight_bits(tmp_path, name):
    path = tmp_path / name
    Image.fromarray(gradient()).save(path)
    picture = read_picture(path)
    assert picture.dtype == np.uint8 and picture.flags.c_contiguous and (picture == gradient()).all()
    if name != "a.bmp":
        cv2.imwrite(str(path), gradient()[..., ::-1].astype(np.uint16) * 257)
        assert close(read_picture(path), gradient(), 1.5)
    assert picture_size(path) == (40, 60)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "CMYK", "I;16"])
def test_pictures_of_any_mode_become_rgb(tmp_path, mode):
    grey = gradient()[..., 0]
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(path)
        expected = np.stack([grey] * 3, axis=-1)
    else:
        image = Image.fromarray(gradient()).convert(mode)
        if mode in ("RGBA", "LA"):
            image.putalpha(128)
        image.save(path, **({"quality": 95} if mode == "CMYK" else {}))
        expected = np.asarray(Image.open(path).convert("RGB"))
    assert close(read_picture(path), expected, 4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path, orientation):
    save_rotated(tmp_path / "a.jpg", orientation, quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        stored = np.asarray(image)
        rotated = np.asarray(ImageOps.exif_transpose(image))
    assert close(read_picture(tmp_path / "a.jpg"), rotated)
    assert picture_size(tmp_path / "a.jpg") == rotated.shape[:2]
    assert close(read_picture(tmp_path / "a.jpg", (40, 60)), stored)
    if orientation > 4:
        assert close(read_picture(tmp_path / "a.jpg", (60, 40)), rotated)
    assert close(read_picture(tmp_path / "a.jpg", (100, 30)), rotated)  # the stated size is that of neither
    assert close(decode(tmp_path / "a.jpg", (40, 60), 2)[0], cv2.resize(stored, (30, 20), interpolation=cv2.INTER_AREA))
    save_rotated(tmp_path / "a.jpg", orientation, gradient(48, 48), quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        square = np.asarray(ImageOps.exif_transpose(image))
    assert close(read_picture(tmp_path / "a.jpg", (48, 48)), square)  # the size cannot tell, so it is rotated


def test_reduced_decoding(tmp_path):
    picture = gradient(61, 83)
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(picture).save(tmp_path / "a.png")
    for factor in (1, 2, 4, 8):
        reduced, found = decode(tmp_path / "a.jpg", (61, 83), factor)
        assert found == factor and reduced.shape[:2] == (-(-61 // factor), -(-83 // factor))
        whole = reduced[: 61 // factor, : 83 // factor]
        blocks = picture[: whole.shape[0] * factor, : whole.shape[1] * factor]
        means = blocks.reshape(whole.shape[0], factor, whole.shape[1], factor, 3).mean(axis=(1, 3))
        assert close(whole, means, 3)  # pixel i covers the pixels i * factor to (i + 1) * factor
    assert decode(tmp_path / "a.png", (61, 83), 4)[1] == 1 and decode(tmp_path / "a.jpg", (122, 166), 4)[1] == 4
    save_rotated(tmp_path / "a.jpg", 6, picture)
    assert decode(tmp_path / "a.jpg", (83, 61), 4)[1] == 1


@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "tif"])
def test_damaged_files(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    content = io.BytesIO()
    Image.fromarray(gradient()).save(content, {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper()))
    for part in (b"", b"nothing of the kind", content.getvalue()[: len(content.getvalue()) // 2]):
        path.write_bytes(part)
        with pytest.raises(ValueError):
            read_picture(path)
    with pytest.raises(OSError):
        read_picture(tmp_path / "none.jpg")


def test_what_is_no_file_or_too_large(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match="it is a named pipe, not a regular file"):
        read_picture(tmp_path / "pipe.jpg")
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    pixels = gradient().shape[0] * gradient().shape[1]
    with pytest.raises(ValueError, match=f"more than max_pixels={pixels - 1}"):
        read_picture(tmp_path / "a.png", max_pixels=pixels - 1)
    for limit in (pixels, 0):
        assert read_picture(tmp_path / "a.png", max_pixels=limit).shape == gradient().shape

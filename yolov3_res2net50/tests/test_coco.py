"""Tests of src/data/coco.py: any COCO data set is read, any other file is refused in one readable message."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from src.data.coco import data_paths, read_coco
from src.dataset import count_images, find_classes
from src.model_utils.device_adapter import Device
from src.model_utils.errors import DataError, UsageError
from src.recipe import read_config

import numpy as np
import pytest
from PIL import Image

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}, {"id": 90, "name": "Zahnbürste"}]


def gradient(height: int = 40, width: int = 60) -> np.ndarray:
    """A smooth picture (height, width, 3) whose corners differ."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 255 - 255 * x / width], axis=-1).astype(np.uint8)


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
    assert (data.image_ids, data.category_ids, data.class_names) == (
        [5, 6, 7],
        [3, 18, 90],
        ["car", "dog", "Zahnbürste"],
    )
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
    assert [path.relative_to(tmp_path / "images").as_posix() for path in data.paths] == [
        names[3],
        *names[1:3],
        names[0],
    ]
    assert [len(boxes) for boxes in data.boxes] == [1, 0, 0, 1]


def test_a_missing_size_is_read_from_the_file(tmp_path):
    rotated = {"id": 2, "file_name": "2.jpg"}
    paths = write(tmp_path, [{"id": 1, "file_name": "1.jpg"}, rotated], [annotation(1, bbox=(50, 30, 100, 100))])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(gradient()).save(paths[0] / "2.jpg", exif=exif)
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
    message = (
        "1 boxes reach over the border of their image and are clipped, 5 boxes have no area in it and do not count"
    )
    assert caplog.messages == [message]


def test_a_changed_file_is_read_again(tmp_path):
    paths = write(tmp_path, [image(1)], [annotation(1)])
    assert len(read(paths).boxes[0]) == 1
    write(tmp_path, [image(1)], [annotation(1), annotation(1)])
    assert len(read(paths).boxes[0]) == 2


def test_outlines_may_be_of_any_form(tmp_path):
    rows = [annotation(1, segmentation=[[1, 2, 3]]), annotation(1, segmentation={"counts": "ab", "size": [4, 5]})]
    assert len(read(write(tmp_path, [image(1)], rows)).boxes[0]) == 2


GOOD = [image(1)], [annotation(1)]


@pytest.mark.parametrize(
    ("images", "annotations", "categories", "message"),
    [
        ([], [], CATEGORIES, "the list 'images' is empty"),
        (GOOD[0], [], CATEGORIES, "holds no annotations"),
        (*GOOD, [], "the list 'categories' is empty"),
        (*GOOD, [{"id": 1}], r"categories\[0\] is {\"id\": 1}; an object with \"id\" and \"name\""),
        (*GOOD, [{"id": "1", "name": "a"}], r"categories\[0\] is"),
        (*GOOD, [*CATEGORIES, {"id": 3, "name": "cat"}], r"categories\[3\] has the id 3 of an earlier one"),
        ([image(1), image(1, "b.jpg")], GOOD[1], CATEGORIES, r"images\[1\] has the id 1 of an earlier one"),
        ([image(1.5)], GOOD[1], CATEGORIES, r"images\[0\] is"),
        ([image(1), 4], GOOD[1], CATEGORIES, r"images\[1\] is 4"),
        ([{"id": 1, "file_name": ""}], GOOD[1], CATEGORIES, "empty file_name"),
        ([image(1, width="60")], GOOD[1], CATEGORIES, r'image 1 has "height": 40, "width": "60"; pixels'),
        ([image(1, height=0)], GOOD[1], CATEGORIES, "pixels, 1 or more, are accepted"),
        (GOOD[0], [annotation(2)], CATEGORIES, r"annotations\[0\] has an image_id that is not among"),
        (GOOD[0], [annotation([1])], CATEGORIES, r"annotations\[0\] has an image_id that is not among"),
        (GOOD[0], [annotation(1), annotation(1, 4)], CATEGORIES, r"annotations\[1\] has a category_id .* 3 categories"),
        (GOOD[0], [annotation(1, bbox=(1, 2, 3))], CATEGORIES, "has a bbox that is not four numbers"),
        (GOOD[0], [annotation(1, bbox=(1, 2, 3, "4"))], CATEGORIES, "has a bbox that is not four numbers"),
        (GOOD[0], [annotation(1, bbox=(1, 2, 3, None))], CATEGORIES, "has a bbox that is not four numbers"),
        (GOOD[0], [{"id": 1, "image_id": 1, "caption": "a"}], CATEGORIES, "is not an object with image_id, category_id, bbox"),
        (GOOD[0], [None], CATEGORIES, "is not an object with image_id, category_id, bbox"),
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
        (b"", "is not JSON"),
        (b'{"images": [', "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
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
    assert (
        lines[1].strip() == str(paths[0] / "sub/2.jpg") and lines[-1].strip() == "... and 3 more" and len(lines) == 12
    )


def test_damaged_images_are_named_unless_told_otherwise(tmp_path):
    paths = write(tmp_path, [image(1), image(2)], [annotation(1)])
    victim = paths[0] / "2.jpg"
    victim.write_bytes(victim.read_bytes()[:-200])
    read(paths, check_images=False)
    with pytest.raises(DataError, match="1 of 2 files are not readable") as caught:
        read(paths)
    assert str(victim) in str(caught.value)
    read(paths, shard=(0, 2))  # this rank opens the first one only


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
    with pytest.raises(
        UsageError, match="data_dir is empty; give --data_dir FOLDER, or --img_path FOLDER --annFile FILE"
    ):
        data_paths(config(), "val")
    (tmp_path / "coco").mkdir()
    with pytest.raises(DataError, match="no folder train2017/ or train2014/ or train/") as caught:
        data_paths(config("--data_dir", str(tmp_path / "coco")), "train")
    assert "instances_train2017.json" in str(caught.value) and str(caught.value).endswith("(empty)")
    with pytest.raises(DataError, match="expected[\\s\\S]*found:[\\s\\S]*coco/"):
        data_paths(config("--data_dir", str(tmp_path / "nowhere")), "train")
    (tmp_path / "coco/val2017").mkdir()
    with pytest.raises(
        DataError, match="there is no annotation file .*instances_val2017.json; give one with --annFile"
    ):
        data_paths(config("--data_dir", str(tmp_path / "coco")), "val")
    with pytest.raises(DataError, match="train_annFile=none.json is not a file"):
        data_paths(config("--train_img_dir", str(tmp_path), "--train_annFile", "none.json"), "train")
    with pytest.raises(DataError, match="img_path=.*gone is not a folder"):
        data_paths(config("--data_dir", str(tmp_path), "--img_path", str(tmp_path / "gone")), "val")

"""Annotation files from elsewhere: one reader of them, stated and real sizes, other forms of boxes, paths and layouts."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from conftest import FOLDER
from src.data.batches import CocoSamples, EvaluationBatches
from src.data.coco import data_paths, read_split
from src.dataset import find_classes
from src.detect.coco_eval import evaluate_results
from src.model_utils.device_adapter import Device
from src.model_utils.errors import DataError
from test_coco import annotation, config, gradient, image, read, write

import numpy as np
import pytest
from PIL import Image

REAL = FOLDER.parent / "shared" / "real"  # public data sets, where somebody has put them

# ---- One reader ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_any_byte_order_mark(tmp_path, encoding):
    paths = write(tmp_path, [image(1)], [annotation(1, 90)])
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    paths[1].write_bytes((mark + paths[1].read_text("utf-8")).encode(encoding))
    assert read(paths).class_names == ["car", "dog", "Zahnbürste"]
    assert evaluate_results(paths[1], []).classes[2].objects == 1


@pytest.mark.parametrize("area", [None, "", "n/a", "200", -1, True, [200], float("nan"), 1e999, 10**400])
def test_an_area_that_is_no_number_is_that_of_the_box(tmp_path, area):
    paths = write(tmp_path, [image(1)], [annotation(1, area=area), annotation(1, area=7.5)])
    content = read(paths).annotations
    assert content.area.tolist() == [200, 7.5] and content.odd_areas == (area is not None)
    results = [{"image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 20], "score": 0.5}] * 2
    assert evaluate_results(paths[1], results).stats == evaluate_results(content, results).stats
    assert evaluate_results(paths[1], results).stats[:3] == [1, 1, 1]


def test_boxes_that_are_not_finite_are_reported(tmp_path, caplog):
    paths = write(tmp_path, [image(1)], [annotation(1, bbox=(1, 1, 1e400, 5)), annotation(1)])
    config_ = config("--img_path", str(paths[0]), "--annFile", str(paths[1]))
    with caplog.at_level(logging.INFO):
        find_classes(config_, "val", Device("CPU", 0))
    assert caplog.messages == [f"1 boxes of {paths[1]} are not finite and do not count"]


def test_odd_areas_are_reported(tmp_path, caplog):
    paths = write(tmp_path, [image(1)], [annotation(1, area="n/a"), annotation(1, area=""), annotation(1)])
    config_ = config("--img_path", str(paths[0]), "--annFile", str(paths[1]))
    with caplog.at_level(logging.INFO):
        find_classes(config_, "val", Device("CPU", 0))
    assert caplog.messages == [f"2 areas of {paths[1]} are no numbers; those of the boxes count"]


def text_of(**changes) -> str:
    parts = {"images": '[{"id": 1, "file_name": "1.jpg"}]', "categories": '[{"id": 1, "name": "a"}]',
             "annotations": '[{"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}]', **changes}  # fmt: skip
    return "{" + ", ".join(f'"{key}": {value}' for key, value in parts.items()) + "}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (text_of(info="[" * 200_000), "is not JSON"),
        (text_of(info="[" * 200_000 + "]" * 200_000), "is not JSON"),
        (text_of(categories='[{"id": 1, "name": "a\\u0000b"}]'), r"name .*a\\u0000b.*zero byte"),
        (text_of(categories='[{"id": 1, "name": "a\\ud800"}]'), r"half a character"),
        (text_of(images='[{"id": 1, "file_name": "1.jpg\\u0000"}]'), "zero byte"),
        (text_of(images='[{"id": 1, "file_name": "\\ud800.jpg"}]'), r"are missing.*\\ud800\.jpg"),
        (text_of(images='[{"id": 1e400, "file_name": "1.jpg"}]'), r"images\[0\] is"),
        (text_of(images='[{"id": 1, "file_name": "1.jpg", "width": 1e400, "height": 5}]'), '"width": Infinity; pixels'),
        (text_of(images='[{"id": 1, "file_name": "1.jpg", "width": NaN, "height": 5}]'), '"width": NaN; pixels'),
        (text_of(categories='[{"id": 1e400, "name": "a"}]'), r"categories\[0\] is"),
        (text_of(annotations='[{"image_id": 1e400, "category_id": 1, "bbox": [1, 1, 2, 2]}]'), "has an image_id"),
        (text_of(annotations=f'[{{"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 1{"0" * 400}]}}]'), "not four numbers"),
        (text_of(annotations=f'[{{"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 1{"0" * 6000}]}}]'), "is not JSON|four"),
        (text_of(annotations='[{"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2], "iscrowd": ""}]'), "iscrowd"),
    ],
)  # fmt: skip
def test_one_clear_line_for_what_no_tool_should_write(tmp_path, text, message):
    paths = write(tmp_path, [image(1)], [annotation(1)])
    paths[1].write_text(text, "utf-8")
    with pytest.raises(DataError, match=f"(?s){message}") as caught:
        read(paths)
    lines = str(caught.value).splitlines()
    assert len(lines) <= 2 and all(line.isprintable() and len(line) < 500 for line in lines)


def test_a_pipe_is_not_waited_for(tmp_path):
    paths = write(tmp_path, [image(1), {"id": 2, "file_name": "2.jpg"}], [annotation(1)])
    for path in (paths[1], paths[0] / "2.jpg"):
        content = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(DataError, match="no regular file|not a regular file"):
            read(paths)
        path.unlink()
        path.write_bytes(content)


# ---- Stated and real sizes -------------------------------------------------------------------------------------------


def boxes_of_any_size(number: int = 40, seed: int = 1, height: int = 400, width: int = 600) -> np.ndarray:
    """(n, 4) x, y, width, height inside a picture, whole pixels."""
    random = np.random.default_rng(seed)
    first, second = random.integers(0, [width - 8, height - 8], (2, number, 2))
    start, end = np.minimum(first, second), np.maximum(first, second) + 8
    return np.concatenate([start, end - start], axis=1)


def resized(folder: Path, stated=(400, 600), real=(40, 60), bbox=None, **more) -> tuple[Path, Path]:
    """Four pictures of 40 x 60 pixels or others, and annotations that state a size, ten boxes each."""
    bbox = boxes_of_any_size() if bbox is None else bbox
    images = [image(n, width=stated[1], height=stated[0]) for n in range(1, 5)]
    rows = [annotation(1 + number % 4, bbox=box) for number, box in enumerate(np.asarray(bbox).tolist())]
    paths = write(folder, images, rows, **more)
    for n in range(1, 5):
        Image.fromarray(gradient(*real)).save(paths[0] / f"{n}.jpg")
    return paths


@pytest.mark.parametrize(("stated", "real"), [((400, 600), (40, 60)), ((400, 600), (133, 200)), ((401, 599), (802, 1198)),
                                              ((400, 600), (1000, 1500)), ((400, 600), (267, 400))])  # fmt: skip
def test_resized_pictures_have_their_boxes_scaled(tmp_path, caplog, stated, real):
    paths = resized(tmp_path, stated, real)
    with caplog.at_level(logging.INFO):
        data = read(paths)
    message = f"4 of 4 pictures have another size than {paths[1]} states; their boxes are scaled"
    assert caplog.messages == [message]
    assert data.sizes.tolist() == [list(stated)] * 4 and data.size(2) == real
    factors = np.array([real[1] / stated[1], real[0] / stated[0]] * 2)
    np.testing.assert_allclose(data.in_picture(2, data.boxes[2]), data.boxes[2] * factors, rtol=1e-6)
    samples = CocoSamples(data, data.class_names)
    size, boxes, _ = samples.labels(2)
    assert size == real and (boxes == data.in_picture(2, data.boxes[2])).all()
    assert samples.decode(2, 1)[0].shape[:2] == real


def test_resized_pictures_are_noted_once_without_the_check(tmp_path, caplog):
    data = read(resized(tmp_path), check_images=False)
    samples = CocoSamples(data, data.class_names)
    for index in range(4):
        assert samples.labels(index)[0] == (40, 60)
    (message,) = caplog.messages
    assert message.startswith(f"{data.paths[0]} has another size than") and message.endswith("are scaled")


@pytest.mark.parametrize(("stated", "real", "advice"), [((400, 600), (60, 40), "exchange width and height"),
                                                        ((400, 600), (600, 400), "exchange width and height"),
                                                        ((400, 600), (60, 60), "give the pictures that belong")])  # fmt: skip
def test_pictures_of_another_aspect_ratio_are_refused(tmp_path, stated, real, advice):
    paths = resized(tmp_path, stated, real)
    with pytest.raises(DataError, match="4 of 4 pictures have another aspect ratio than .*annotations.json") as caught:
        read(paths)
    text = str(caught.value)
    if real == stated[::-1] or advice.startswith("give"):
        assert advice in text
    assert f"{real[1]} x {real[0]} pixels (width x height), the annotations state {stated[1]} x {stated[0]}" in text
    assert str(paths[0] / "1.jpg") in text
    data = read(paths, check_images=False)
    with pytest.raises(ValueError, match="Failed to decode: it is"):
        CocoSamples(data, data.class_names).labels(0)
    batches = EvaluationBatches(data, [0], 1, lambda picture: np.zeros((3, 8, 8)), (8, 8), 1)
    with pytest.raises(ValueError, match="Failed to decode: it is"):
        next(iter(batches))


@pytest.mark.parametrize("real", [(800, 1200), (200, 300), (40, 60)])
def test_boxes_of_the_files_with_the_sizes_of_other_pictures_are_refused(tmp_path, real):
    paths = resized(tmp_path, (400, 600), real, boxes_of_any_size(40, 1, *real))
    with pytest.raises(DataError, match="the boxes fit these pictures, not the stated sizes"):
        read(paths)


def corners(bbox: np.ndarray) -> np.ndarray:
    return np.concatenate([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]], axis=1)


WRONG = {
    "x1, y1, x2, y2": (corners, (400, 600)),
    "fractions": (lambda bbox: bbox / [600, 400, 600, 400], (400, 600)),
    "fractions of": (lambda bbox: corners(bbox) / [600, 400, 600, 400], (400, 600)),
    "width and height of the images look exchanged": (lambda bbox: bbox, (600, 400)),
}


@pytest.mark.parametrize("spoiled", [0, 1])
@pytest.mark.parametrize("form", WRONG)
def test_other_forms_of_boxes_are_named(tmp_path, form, spoiled):
    """Also where one of forty boxes is a mistake of another kind."""
    change, stated = WRONG[form]
    bbox = change(boxes_of_any_size().astype(float))
    bbox[:spoiled] = [590, 390, 700, 900]
    with pytest.raises(DataError, match=f"{form}.*; ") as caught:
        read(resized(tmp_path, stated, (400, 600), bbox), check_images=False)
    assert "\n" not in str(caught.value)


SOUND = {
    "small pictures": ((6, 8), [[1, 1, 2, 2]] * 40),
    "one pixel": ((400, 600), [[0, 0, 1, 1]] * 40),
    "tiny boxes": ((400, 600), [[0.5 + n, 0.5, 0.5, 0.5] for n in range(40)]),
    "tiny boxes of tiny pictures": ((2, 2), [[0.5, 0.5, 0.5, 0.5]] * 40),
    "whole pictures": ((400, 600), [[0, 0, 600, 400]] * 40),
    "large boxes": ((400, 600), [[n, n, 560, 360] for n in range(40)]),
    "rounded ones of whole pictures": ((400, 600), [[0.4, 0.4, 601.2, 400.9]] * 40),
    "a fifth beyond the border": ((400, 600), [[590, 390, 300, 300]] * 8 + [[200, 100, 300, 200]] * 32),
    "one box": ((400, 600), [[300, 200, 500, 350]]),
    "square pictures": ((400, 400), boxes_of_any_size(40, 3, 400, 400)),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_boxes_are_not_taken_for_others(tmp_path, name):
    size, bbox = SOUND[name]
    assert read(resized(tmp_path, size, size, bbox)).annotations.bbox.tolist() == np.asarray(bbox, float).tolist()


@pytest.mark.parametrize("factor", [0.1, 0.5, 0.9, 2.0])
def test_resized_pictures_with_few_or_central_boxes_are_sound(tmp_path, factor):
    """Nothing says that the boxes belong to the files: they are those of the stated size."""
    real = (round(400 * factor), round(600 * factor))
    for number, bbox in enumerate(([[290, 190, 20, 20]] * 40, [[1, 1, 2, 2]] * 4)):
        data = read(resized(tmp_path / str(number), (400, 600), real, bbox))
        assert data.in_picture(0, data.boxes[0])[0, 2] == pytest.approx((bbox[0][0] + bbox[0][2]) * factor, rel=0.01)


# ---- Paths and layouts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../outside.jpg", "a/../../outside.jpg", "./../outside.jpg", "ABSOLUTE", ".."])
def test_paths_that_leave_the_folder_are_refused_unless_allowed(tmp_path, name):
    paths = write(tmp_path, [image(1)], [annotation(1)])
    Image.fromarray(gradient()).save(tmp_path / "outside.jpg")
    name = str(tmp_path / "outside.jpg") if name == "ABSOLUTE" else name
    write(tmp_path, [image(1), image(2, name)], [annotation(1)], files=False)
    with pytest.raises(DataError, match="image 2 has the file_name .*leads out of the folder.*--allow_outside_paths"):
        read(paths)
    options = ["--train_img_dir", str(paths[0]), "--train_annFile", str(paths[1]), "--allow_outside_paths", "true"]
    if name != "..":
        data = read_split(config(*options), "train", check_images=True)
        assert data.paths[1].samefile(tmp_path / "outside.jpg")


def test_names_are_plain_paths(tmp_path):
    write(tmp_path, [image(1, "a/1.jpg"), image(2, "2.jpg"), image(3, "3.jpg")], [annotation(1)])
    images = [image(1, "./a/1.jpg"), image(2, "a/../2.jpg"), image(3, "a//..//./3.jpg")]
    data = read(write(tmp_path, images, [annotation(1)], files=False))
    assert [path.relative_to(tmp_path / "images").as_posix() for path in data.paths] == ["a/1.jpg", "2.jpg", "3.jpg"]


@pytest.mark.parametrize(
    ("there", "given"),
    [
        ("a/1.jpg", "a\\1.jpg"),
        ("a b.jpg", "a%20b.jpg"),
        ("Café.jpg", "Cafe\u0301.jpg"),
        ("IMG_1.JPG", "img_1.jpg"),
        ("1.jpg", "1.jpg "),
        ("sub/Straße 1.jpg", "sub/stra%C3%9Fe 1.JPG"),
    ],
)
def test_near_names_are_named(tmp_path, there, given):
    paths = write(tmp_path, [image(1, there)], [annotation(1)])
    write(tmp_path, [image(1, given)], [annotation(1)], files=False)
    with pytest.raises(DataError, match="1 of 1 images .*are missing.*\n.*is there, which differs in") as caught:
        read(paths)
    assert there in str(caught.value) or ascii(there) in str(caught.value)


@pytest.mark.parametrize(
    ("images", "file"),
    [
        ("{split}2017", "annotations/instances_{split}2017.json"),
        ("images/{split}2017", "annotations/instances_{split}2017.json"),
        ("images/{split}", "annotations/instances_{split}.json"),
        ("{roboflow}", "{roboflow}/_annotations.coco.json"),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_layouts(tmp_path, caplog, split, images, file):
    names = {"split": split, "roboflow": {"train": "train", "val": "valid"}[split]}
    folder, file = tmp_path / "data" / images.format(**names), tmp_path / "data" / file.format(**names)
    source = write(tmp_path, [image(1)], [annotation(1)])
    for parent in (folder, file.parent):
        parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source[0] / "1.jpg", folder)
    shutil.copy(source[1], file)
    config_ = config("--data_dir", str(tmp_path / "data"))
    assert data_paths(config_, split) == (folder, file)
    with caplog.at_level(logging.INFO):
        find_classes(config_, split, Device("CPU", 0))
    assert any(str(folder) in message and str(file) in message for message in caplog.messages)
    key = {"train": "--train_img_dir", "val": "--img_path"}[split]
    assert [path.resolve() for path in data_paths(config(key, str(folder)), split)] == [folder, file]


def test_the_documented_layout_goes_first(tmp_path):
    for folder in ("train", "images/train2017", "train2017", "annotations"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "train/_annotations.coco.json").touch()
    (tmp_path / "annotations/instances_train2017.json").touch()
    found = data_paths(config("--data_dir", str(tmp_path)), "train")
    assert found == (tmp_path / "train2017", tmp_path / "annotations/instances_train2017.json")


def test_a_damaged_image_is_not_explained_by_folders_of_classes(tmp_path):
    paths = write(tmp_path, [image(1), image(2)], [annotation(1)])
    (paths[0] / "2.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match="1 of 2 files") as caught:
        read(paths)
    assert "class name" not in str(caught.value) and "expected:" not in str(caught.value)


@pytest.mark.parametrize(("name", "images", "classes", "boxes"), [("roboflow_mask", 7, 3, 22), ("coco5", 5, 80, 43)])
def test_real_files(name, images, classes, boxes):
    folder = REAL / name
    if not folder.is_dir():
        pytest.skip("the real files are not here")
    data = read_split(config("--data_dir", str(folder)), "val", check_images=True)
    assert (len(data.paths), len(data.class_names), sum(map(len, data.boxes))) == (images, classes, boxes)
    assert [data.size(position) for position in range(images)] == [data.stated_size(p) for p in range(images)]

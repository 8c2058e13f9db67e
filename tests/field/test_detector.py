"""Situations with annotations of objects that users have met; the detector's own package is called src."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("programs")


@pytest.fixture(scope="module")
def coco():
    sys.path.insert(0, str(ROOT / "yolov3_res2net50"))
    from src.data import coco

    return coco


def data_set(folder: Path, encoding: str = "utf-8", names=("cat", "dog"), **changes) -> tuple[Path, Path]:
    """Six pictures of 80 x 60 with four boxes each, none of them in the upper left quarter alone."""
    (folder / "images").mkdir()
    draw = np.random.default_rng(1)
    images, annotations = [], []
    for number in range(1, 7):
        size = changes.get("real", (80, 60))
        Image.new("RGB", size, (number * 20, 0, 0)).save(folder / f"images/{number}.png")
        row = {"id": number, "file_name": f"{number}.png", "width": 80, "height": 60}
        images.append({**row, **changes.get("image", {})})
        for _ in range(4):
            x, y = draw.integers(0, 50), draw.integers(0, 35)
            box = np.array([x, y, draw.integers(8, 80 - x), draw.integers(8, 60 - y)], float)
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": 1 + number % 2, "iscrowd": 0,
                                "bbox": changes.get("box", lambda box: box)(box).tolist(), "area": 1.0,
                                **changes.get("annotation", {})})  # fmt: skip
    categories = [{"id": index, "name": name} for index, name in enumerate(names, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(content), encoding=encoding)
    return folder / "images", folder / "boxes.json"


def test_pictures_that_were_resized_after_the_annotation(coco, tmp_path, caplog):
    """Boxes follow the pictures; a line says how many."""
    from src.data.sizes import scale_boxes

    data = coco.read_coco(*data_set(tmp_path, real=(40, 30)), check_images="full")
    assert len(data.paths) == 6
    scaled = scale_boxes(np.array([[8.0, 6.0, 40.0, 30.0]]), (60, 80), (30, 40))
    assert scaled.tolist() == [[4.0, 3.0, 20.0, 15.0]]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"box": lambda b: np.array([b[0], b[1], b[0] + b[2], b[1] + b[3]])}, "boxes look like x1, y1, x2, y2"),
        ({"box": lambda b: b / [80, 60, 80, 60]}, "boxes look like fractions"),
        ({"real": (60, 80)}, "exchanged|60 x 80"),
        ({"real": (50, 50)}, "50 x 50 pixels"),
    ],
)
def test_boxes_and_sizes_in_another_form(coco, tmp_path, changes, message):
    with pytest.raises(Exception, match=message) as caught:
        coco.read_coco(*data_set(tmp_path, **changes), check_images="full")
    assert type(caught.value).__name__ == "DataError"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("area", ["", "n/a", None])
def test_what_the_training_reads_the_evaluation_reads(coco, tmp_path, encoding, area):
    """Annotations with a byte order mark, and areas that are no numbers."""
    from src.detect.coco_eval import evaluate_results

    images, file = data_set(tmp_path, encoding, annotation={"area": area})
    data = coco.read_coco(images, file, check_images="off")
    results = [
        {"image_id": image, "category_id": data.category_ids[label], "score": 0.9,
         "bbox": [float(v) for v in (*box[:2], *(box[2:] - box[:2]))]}
        for image, boxes, labels in zip(data.image_ids, data.boxes, data.classes) for box, label in zip(boxes, labels)
    ]  # fmt: skip
    assert evaluate_results(file, results).stats[0] == pytest.approx(1.0)


def test_a_root_category_that_is_called_like_the_class(coco, tmp_path):
    """Roboflow's: two categories, one name; each keeps its boxes."""
    data = coco.read_coco(*data_set(tmp_path, names=("mask", "mask")), check_images="off")
    assert data.category_ids == [1, 2] and {int(label) for labels in data.classes for label in labels} == {0, 1}


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../b.png"])
def test_a_picture_outside_the_data_folder(coco, tmp_path, name):
    with pytest.raises(Exception, match="outside|allow_outside_paths") as caught:
        coco.read_coco(*data_set(tmp_path, image={"file_name": name}), check_images="off")
    assert type(caught.value).__name__ == "DataError"


def test_pictures_whose_names_have_other_letters(coco, tmp_path):
    """On a disk that does not tell them apart they were the same."""
    images, file = data_set(tmp_path)
    (images / "1.png").rename(images / "1.PNG")
    with pytest.raises(Exception, match="'1.PNG' is there, which differs in: upper and lower case"):
        coco.read_coco(images, file, check_images="off")


def test_a_damaged_picture_is_not_explained_by_class_folders(coco, tmp_path):
    images, file = data_set(tmp_path)
    (images / "2.png").write_bytes((images / "2.png").read_bytes()[:-40])
    with pytest.raises(Exception, match="2.png") as caught:
        coco.read_coco(images, file, check_images="full")
    assert "class name" not in str(caught.value)

"""COCO's measures against recorded results of pycocotools; tables and curves; what is refused."""

from __future__ import annotations

import copy
import csv
import json
import re
import sys
from pathlib import Path

from src.detect import coco_eval
from src.detect.boxes import Detections
from src.detect.coco_eval import evaluate_results, read_annotations, to_results
from src.model_utils.errors import DataError

import numpy as np
import pytest
from PIL import Image

DATA = Path(__file__).parent / "data"
CASES = {case["name"]: case for case in json.loads((DATA / "coco_eval.json").read_text(encoding="utf-8"))["cases"]}


def expected(case: dict) -> list[float]:
    return list(case["stats"].values())


@pytest.mark.parametrize("name", CASES)
def test_recorded_cases(name, capsys):
    """The twelve numbers and those of each class; pycocotools' progress is not printed."""
    case = CASES[name]
    before = copy.deepcopy(case)
    scores = evaluate_results(case["gt"], case["dt"])
    assert scores.stats == pytest.approx(expected(case), abs=1e-6)
    for category, row in zip(sorted(case["gt"]["categories"], key=lambda category: category["id"]), scores.classes):
        measures = case["per_category"][str(category["id"])]
        assert [row.ap, row.ap50, row.recall] == pytest.approx([measures[k] for k in ("AP", "AP50", "AR100")], abs=1e-6)
        assert row.name == category["name"]
        objects = [a for a in case["gt"]["annotations"] if a["category_id"] == category["id"] and not a["iscrowd"]]
        assert row.objects == len(objects)
    assert len(CASES) == 6 and len(scores.classes) == len(case["gt"]["categories"])
    assert capsys.readouterr().out == "" and case == before


def test_documented_block():
    case = CASES["hand"]
    scores = evaluate_results(case["gt"], case["dt"])
    title, *lines = scores.block.removeprefix("\n").splitlines()
    assert title == "=============coco eval result=========" and scores.block.startswith("\n=")
    form = r" Average (Precision  \(AP\)|Recall     \(AR\)) @\[ IoU=0\.\d\d.{5} \| area=.{6} \| maxDets=.{3} \] = -?\d\.\d{3}"
    assert len(lines) == 12 and all(re.fullmatch(form, line) for line in lines)
    assert lines[0] == " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 0.404"
    assert lines[1] == " Average Precision  (AP) @[ IoU=0.50      | area=   all | maxDets=100 ] = 0.958"
    assert lines[6] == " Average Recall     (AR) @[ IoU=0.50:0.95 | area=   all | maxDets=  1 ] = 0.433"
    numbers = [float(line.rpartition("=")[2]) for line in lines]
    assert numbers == pytest.approx(list(scores.metrics().values()), abs=6e-4)


def test_no_results_are_zeros():
    scores = evaluate_results(CASES["score_ties_no_gt_category"]["gt"], [])
    assert scores.stats == [0.0] * 12 and len(scores.lines) == 12
    assert [row.ap for row in scores.classes] == [0, 0, -1, 0, 0]  # the third has no objects


def test_identifiers_of_any_kind():
    """Texts for images and annotations that count from 0: the same numbers."""
    case = copy.deepcopy(CASES["random"])
    for row in [*case["gt"]["annotations"], *case["dt"]]:
        row["image_id"] = f"picture {row['image_id']:06d}"
    for image in case["gt"]["images"]:
        image["id"] = f"picture {image['id']:06d}"
    for number, annotation in enumerate(case["gt"]["annotations"]):
        annotation["id"] = number
    assert evaluate_results(case["gt"], case["dt"]).stats == pytest.approx(expected(case), abs=1e-6)


def test_missing_area_is_that_of_the_box():
    case = copy.deepcopy(CASES["random"])
    areas = [annotation["bbox"][2] * annotation["bbox"][3] for annotation in case["gt"]["annotations"]]
    for annotation, area in zip(case["gt"]["annotations"], areas):
        annotation["area"] = area
    with_area = evaluate_results(case["gt"], case["dt"]).stats
    for annotation in case["gt"]["annotations"]:
        del annotation["area"], annotation["id"]
    assert evaluate_results(case["gt"], case["dt"]).stats == with_area
    for annotation in case["gt"]["annotations"]:
        annotation["area"] = 1.0
    assert evaluate_results(case["gt"], case["dt"]).stats != with_area


def test_results_of_other_images_are_refused():
    case = CASES["hand"]
    with pytest.raises(DataError, match="image 77, which is not in"):
        evaluate_results(case["gt"], [{**case["dt"][0], "image_id": 77}])


def test_results_of_other_categories_do_not_count():
    case = CASES["hand"]
    more = [*case["dt"], {**case["dt"][0], "category_id": 77}]
    assert evaluate_results(case["gt"], more).stats == pytest.approx(expected(case), abs=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[]", "holds a list; a COCO file holds an object"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "list 'images' is empty"),
        ('{"images": [IMAGE], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "holds no annotations"),
        (
            '{"images": [IMAGE], "annotations": [{"id": 1}], "categories": [{"id": 1, "name": "a"}]}',
            "image_id, category_id, bbox",
        ),
        ('{"images": [{}], "annotations": [{"id": 1}], "categories": [{"id": 1, "name": "a"}]}', r"images\[0\] is {}"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    file = tmp_path / "annotations.json"
    file.write_text(text.replace("IMAGE", '{"id": 1, "file_name": "a.jpg"}'), encoding="utf-8")
    with pytest.raises(DataError, match=f"(?s){file}.*{message}"):
        evaluate_results(file, [])


def test_file_and_content_are_equal(tmp_path):
    case, file = CASES["hand"], tmp_path / "annotations.json"
    file.write_text(json.dumps(case["gt"]), encoding="utf-8")
    assert read_annotations(file) is read_annotations(file)
    assert evaluate_results(file, case["dt"]).stats == evaluate_results(case["gt"], case["dt"]).stats
    with pytest.raises(DataError, match="cannot be read"):
        read_annotations(tmp_path / "none.json")


def test_output_comes_back_after_an_error(monkeypatch, capsys):
    def fail(self):
        print("lost")
        raise RuntimeError("stopped")

    monkeypatch.setattr(coco_eval.import_pycocotools(), "evaluate", fail)
    with pytest.raises(RuntimeError, match="stopped"):
        evaluate_results(CASES["hand"]["gt"], CASES["hand"]["dt"])
    print("seen")
    assert capsys.readouterr().out == "seen\n"


def test_missing_pycocotools_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    with pytest.raises(DataError, match="needs pycocotools .*pip install"):
        evaluate_results(CASES["hand"]["gt"], [])


def test_to_results():
    boxes = np.array([[1.5, 2, 4, 10.25], [0, 0, 1 / 3, 1]], np.float32)
    found = Detections(boxes, np.array([0.75, 0.5], np.float32), np.array([2, 0]))
    results = to_results(found, "a", [10, 20, 90])
    assert results == [
        {"image_id": "a", "category_id": 90, "bbox": [1.5, 2.0, 2.5, 8.25], "score": 0.75},
        {"image_id": "a", "category_id": 10, "bbox": [0.0, 0.0, 0.333, 1.0], "score": 0.5},
    ]
    assert json.loads(json.dumps(results)) == results


def test_tables(tmp_path):
    case = CASES["score_ties_no_gt_category"]
    scores = evaluate_results(case["gt"], case["dt"])
    lines = coco_eval.class_table(scores.classes).splitlines()
    assert lines[0].split() == ["class", "AP", "AP50", "AR100", "objects"] and len({len(line) for line in lines}) == 1
    assert lines[1].split()[1:4] == ["0.600", "1.000", "0.600"] and lines[3].split()[1:] == ["-", "-", "-", "0"]
    coco_eval.write_class_table(scores.classes, tmp_path / "per_class.csv")
    with open(tmp_path / "per_class.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [row.name for row in scores.classes]
    assert float(rows[1]["AP"]) == pytest.approx(0.305281, abs=1e-6) and rows[2]["AP"] == "-1.000000"
    assert [int(row["objects"]) for row in rows] == [row.objects for row in scores.classes]


def curves(tmp_path: Path, case: dict, results: list[dict]) -> np.ndarray:
    coco_eval.write_curves(evaluate_results(case["gt"], results), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        return np.asarray(image.convert("RGB"))


def test_curves_lie_where_they_belong(tmp_path):
    """All found: along the upper border; nothing found: along the lower one."""
    case, middle = CASES["perfect"], coco_eval.MARGIN + coco_eval.SIDE // 2 + 20
    top, bottom = coco_eval.MARGIN, coco_eval.MARGIN + coco_eval.SIDE
    rows = {"all": (curves(tmp_path, case, case["dt"]), top + 1), "none": (curves(tmp_path, case, []), bottom - 1)}
    for picture, row in rows.values():
        assert picture[row, middle].tolist() == [0, 0, 0]
        other = bottom - 1 if row == top + 1 else top + 1
        assert picture[other, middle].tolist() == [255, 255, 255]


def test_mean_curve_is_that_of_the_classes_with_objects():
    case = CASES["score_ties_no_gt_category"]
    scores = evaluate_results(case["gt"], case["dt"])
    assert scores.mean_precision.mean() == pytest.approx(case["stats"]["AP50"], abs=1e-6)
    assert scores.precision.shape == (5, 101) and (scores.precision[2] == -1).all()


def test_many_classes_are_one_curve(tmp_path):
    case = copy.deepcopy(CASES["perfect"])
    few = curves(tmp_path, case, case["dt"])
    case["gt"]["categories"] = [{"id": number, "name": f"c{number}"} for number in range(1, 91)]
    case["gt"]["annotations"] += [
        {"id": 1000 + number, "image_id": case["gt"]["images"][0]["id"], "category_id": number, "bbox": [1, 1, 9, 9],
         "area": 81, "iscrowd": 0} for number in range(20, 60)]  # fmt: skip
    many = curves(tmp_path, case, case["dt"])
    assert few.shape[1] > many.shape[1] == coco_eval.SIDE + 2 * coco_eval.MARGIN
    assert not (few == few[..., :1]).all() and (many == many[..., :1]).all()  # colours are those of classes


def test_categories_of_one_name_are_told_apart():
    """By their ids: the measures are those of different names, and the table says which is which."""
    case = copy.deepcopy(CASES["random"])
    before = evaluate_results(case["gt"], case["dt"])
    for category in case["gt"]["categories"]:
        category["name"] = "mask"
    after = evaluate_results(case["gt"], case["dt"])
    assert after.stats == before.stats and [row[1:] for row in after.classes] == [row[1:] for row in before.classes]
    ids = sorted(category["id"] for category in case["gt"]["categories"])
    assert [row.name for row in after.classes] == [f"mask (id {number})" for number in ids]


def test_boxes_that_are_not_finite_do_not_stop_an_evaluation():
    case = copy.deepcopy(CASES["random"])
    before = evaluate_results(case["gt"], case["dt"])
    odd = {**case["gt"]["annotations"][0], "bbox": [1, float("nan"), float("inf"), 4]}
    case["gt"]["annotations"].insert(0, odd)
    assert evaluate_results(case["gt"], case["dt"]).stats == before.stats

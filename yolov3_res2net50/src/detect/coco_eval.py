"""COCO's measures of a detector, by pycocotools: the twelve numbers, the AP of each class, precision-recall curves.

What is measured: https://cocodataset.org/#detection-eval. pycocotools is not given the file but what data/annotations.py
has read and checked of it; where it stops or miscounts it is fed otherwise: an empty list of results is one, image
identifiers may be texts, annotations may lack their area.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.annotations import Annotations, parse, read_annotations
from ..model_utils.errors import DataError
from .boxes import Detections

TITLE = "\n=============coco eval result=========\n"
# The twelve numbers in pycocotools' order: AP over IoU 0.50 to 0.95, at 0.50 and 0.75, of small, medium and large objects;
# average recall with 1, 10 and 100 detections an image, of small, medium and large objects.
STATS = ("mean_average_precision", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
         "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large")  # fmt: skip
RECALLS = np.linspace(0, 1, 101)
# Indices into pycocotools' arrays: IoU 0.50, all areas, 100 detections an image.
AT_50, ALL_AREAS, AT_100 = 0, 0, 2


class ClassScore(NamedTuple):
    """Measures of a class in 0-1, -1 where it has no objects: AP over IoU 0.50 to 0.95, AP at IoU 0.50, recall with 100
    detections an image; and the number of its objects, crowds not among them."""

    name: str
    ap: float
    ap50: float
    recall: float
    objects: int


class CocoScores(NamedTuple):
    """What evaluate_results returns.

    Attributes:
        stats: the twelve numbers, named by STATS; 0-1, or -1 where there are no such objects.
        lines: as pycocotools prints them.
        classes: one for each category of the annotations, in the order of their ids.
        precision: (classes, 101) in 0-1 at IoU 0.50, at the recalls RECALLS; -1 for classes without objects.
    """

    stats: list[float]
    lines: list[str]
    classes: list[ClassScore]
    precision: np.ndarray

    @property
    def block(self) -> str:
        """The documented lines of an evaluation."""
        return TITLE + "\n".join(self.lines)

    @property
    def mean_precision(self) -> np.ndarray:
        """Mean of the precision (101,) over the classes that have objects; 0 if there are none."""
        known = self.precision[(self.precision >= 0).all(axis=1)]
        return known.mean(axis=0) if len(known) else np.zeros(len(RECALLS))

    def metrics(self) -> dict[str, float]:
        return dict(zip(STATS, self.stats))


def to_results(detections: Detections, image_id: int | str, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """The detections of a picture in COCO's format: x, y, width and height in pixels, to a thousandth of one.

    Args:
        detections: see `boxes.detect`.
        image_id: of the picture in the annotations.
        category_ids: the category of each class index.
    """
    corners = detections.boxes.astype(np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).round(3)
    return [
        {"image_id": image_id, "category_id": category_ids[index], "bbox": box, "score": score}
        for box, score, index in zip(boxes.tolist(), detections.scores.tolist(), detections.classes.tolist())
    ]


def evaluate_results(
    annotations: str | Path | dict[str, Any] | Annotations, results: Iterable[dict[str, Any]]
) -> CocoScores:
    """Measure results against annotations, over all images of the annotations.

    Args:
        annotations: a COCO file, or its content.
        results: in COCO's format, see `to_results`; there may be none. Those of categories that the annotations do not
            have do not count.

    Raises:
        DataError: annotations that are not COCO's or hold no object, results of an image that is not among them.
    """
    content = checked(annotations)
    evaluation, lines = _run(content, list(results))
    objects = np.bincount(content.label[~content.crowd], minlength=len(content.categories)).tolist()
    classes = [
        ClassScore(name, *_class_measures(evaluation, index), objects[index])
        for index, name in enumerate(labels(content))
    ]
    precision = evaluation.eval["precision"][AT_50, :, :, ALL_AREAS, AT_100].T
    return CocoScores([float(value) for value in evaluation.stats], lines, classes, precision)


def checked(annotations: str | Path | dict[str, Any] | Annotations) -> Annotations:
    """The content of a file, or of what its content is, as the one reader has it; DataError where that refuses it."""
    if isinstance(annotations, Annotations):
        return annotations
    return parse(annotations, "the annotations") if isinstance(annotations, dict) else read_annotations(annotations)


def labels(content: Annotations) -> list[str]:
    """Names of the categories for a table; where several have one name, with their ids."""
    count = Counter(content.class_names)
    return [row["name"] if count[row["name"]] == 1 else f"{row['name']} (id {row['id']})" for row in content.categories]


def _run(content: Annotations, results: list[dict[str, Any]]) -> tuple[Any, list[str]]:
    """pycocotools' evaluation, and the lines that it prints."""
    coco_eval, quiet, printed = import_pycocotools(), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(quiet):
        evaluation = coco_eval(ground_truth(content), _detections(content, results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    with contextlib.redirect_stdout(printed):
        evaluation.summarize()
    return evaluation, [line for line in printed.getvalue().splitlines() if line.strip()]


def _detections(content: Annotations, results: list[dict[str, Any]]) -> Any:
    """pycocotools' object of results; DataError where they hold an image that the annotations do not have."""
    images = {image_id: place for place, image_id in enumerate(content.image_ids, start=1)}
    foreign = next((row["image_id"] for row in results if row["image_id"] not in images), None)
    if foreign is not None:
        raise DataError(
            f"the results hold the image {foreign!r}, which is not in {content.source}; give the file that they belong to"
        )
    categories = {category_id: place for place, category_id in enumerate(content.category_ids, start=1)}
    known = [row for row in results if row["category_id"] in categories]
    boxes = np.array([row["bbox"] for row in known], np.float64).reshape(-1, 4)
    image, label = [images[row["image_id"]] for row in known], [categories[row["category_id"]] for row in known]
    return coco_object(content, image, label, boxes, scores=[float(row["score"]) for row in known])


def import_pycocotools() -> Any:
    """pycocotools' COCOeval.

    Raises:
        DataError: it is not installed.
    """
    try:
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise DataError(f"the evaluation needs pycocotools ({error}); pip install -r requirements.txt") from error
    return COCOeval


@functools.lru_cache(maxsize=2)
def ground_truth(content: Annotations) -> Any:
    """pycocotools' object of annotations; made once for all evaluations of a training. Boxes are finite in it."""
    finite = np.isfinite(content.bbox).all(axis=1)
    image, label = content.image[finite] + 1, content.label[finite] + 1
    area, crowd = content.area[finite].tolist(), content.crowd[finite].tolist()
    return coco_object(content, image.tolist(), label.tolist(), content.bbox[finite], areas=area, crowds=crowd)


def coco_object(
    content: Annotations,
    image: Sequence[int],
    label: Sequence[int],
    boxes: np.ndarray,
    *,
    areas: Sequence[float] | None = None,
    crowds: Sequence[bool] | None = None,
    scores: Sequence[float] | None = None,
) -> Any:
    """pycocotools' object of annotations or results.

    All ids in it count from 1, in the order of those of the file: images may have texts, pycocotools takes an annotation
    whose id is 0 for one that no detection has found, and the order of the images decides between equal scores.

    Args:
        content: the images and categories.
        image, label: of each box the place of its image and category, from 1.
        boxes: (n, 4) x, y, width, height.
        areas: of the objects; None: those of the boxes.
        crowds: whether a box stands for a crowd; None: none does.
        scores: of results.
    """
    from pycocotools.coco import COCO

    areas = (boxes[:, 2] * boxes[:, 3]).tolist() if areas is None else areas
    none = [0] * len(boxes)
    columns = zip(image, label, boxes.tolist(), areas, crowds or none, scores or none)
    coco = COCO()
    coco.dataset = {
        "images": [{"id": place} for place in range(1, len(content.images) + 1)],
        "categories": [{"id": place} for place in range(1, len(content.categories) + 1)],
        "annotations": [
            {
                "id": number,
                "image_id": i,
                "category_id": c,
                "bbox": box,
                "area": area,
                "iscrowd": int(crowd),
                "score": score,
            }
            for number, (i, c, box, area, crowd, score) in enumerate(columns, start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _class_measures(evaluation: Any, index: int) -> tuple[float, float, float]:
    """AP, AP50 and recall of a category; -1 if it has no objects."""
    precision = evaluation.eval["precision"][:, :, index, ALL_AREAS, AT_100]  # (10, 101)
    recall = evaluation.eval["recall"][:, index, ALL_AREAS, AT_100]  # (10,)
    if (precision < 0).any():
        return -1.0, -1.0, -1.0
    return float(precision.mean()), float(precision[AT_50].mean()), float(recall.mean())


def class_table(classes: Sequence[ClassScore]) -> str:
    """Lines of a table, one for each class; a dash where it has no objects."""
    width = max(len(name) for name in [*(row.name for row in classes), "class"])
    lines = [f"{'class':<{width}}  {'AP':>6}  {'AP50':>6}  {'AR100':>6}  {'objects':>8}"]
    for row in classes:
        numbers = [f"{value:6.3f}" if row.objects else f"{'-':>6}" for value in (row.ap, row.ap50, row.recall)]
        lines.append("  ".join([f"{row.name:<{width}}", *numbers, f"{row.objects:8d}"]))
    return "\n".join(lines)


def write_class_table(classes: Sequence[ClassScore], path: str | Path) -> None:
    """The table of the classes as CSV; -1 where a class has no objects."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "AP", "AP50", "AR100", "objects"])
        writer.writerows(
            [row.name, f"{row.ap:.6f}", f"{row.ap50:.6f}", f"{row.recall:.6f}", row.objects] for row in classes
        )


SIDE, MARGIN = 480, 56  # pixels: of the square of the curves, around it
MOST_CURVES = 20
COLORS = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf",
)  # fmt: skip


def write_curves(scores: CocoScores, path: str | Path) -> None:
    """Draw precision over recall at IoU 0.50: the mean of the classes, and each of them where they are 20 at most."""
    shown = [index for index, row in enumerate(scores.classes) if row.objects]
    shown = shown if len(shown) <= MOST_CURVES else []
    font = ImageFont.load_default(12)
    image = Image.new("RGB", (SIDE + 2 * MARGIN + (180 if shown else 0), SIDE + 2 * MARGIN), "white")
    draw = ImageDraw.Draw(image)
    _draw_axes(draw, font)
    for place, index in enumerate(shown):
        color, row = COLORS[place % len(COLORS)], scores.classes[index]
        draw.line(_points(scores.precision[index]), fill=color, width=1)
        draw.text((SIDE + MARGIN + 12, MARGIN + 18 * place), f"{row.ap50:.3f}  {row.name[:24]}", fill=color, font=font)
    draw.line(_points(scores.mean_precision), fill="black", width=3)
    title = f"precision over recall at IoU 0.50; mean of the classes: AP50 {scores.stats[1]:.3f}"
    draw.text((MARGIN, 8), title, fill="black", font=font)
    image.save(path)


def _draw_axes(draw: ImageDraw.ImageDraw, font: Any) -> None:
    for step in range(6):
        place = SIDE * step // 5
        draw.line([(MARGIN + place, MARGIN), (MARGIN + place, MARGIN + SIDE)], fill="#dddddd")
        draw.line([(MARGIN, MARGIN + place), (MARGIN + SIDE, MARGIN + place)], fill="#dddddd")
        draw.text((MARGIN + place - 8, MARGIN + SIDE + 6), f"{step / 5:.1f}", fill="black", font=font)
        draw.text((MARGIN - 28, MARGIN + SIDE - place - 8), f"{step / 5:.1f}", fill="black", font=font)
    draw.rectangle((MARGIN, MARGIN, MARGIN + SIDE, MARGIN + SIDE), outline="black")
    draw.text((MARGIN + SIDE // 2 - 20, MARGIN + SIDE + 26), "recall", fill="black", font=font)
    draw.text((4, MARGIN - 22), "precision", fill="black", font=font)


def _points(precision: np.ndarray) -> list[tuple[float, float]]:
    """A curve (101,) in pixels of the picture."""
    return [(MARGIN + SIDE * x, MARGIN + SIDE * (1 - y)) for x, y in zip(RECALLS.tolist(), precision.tolist())]

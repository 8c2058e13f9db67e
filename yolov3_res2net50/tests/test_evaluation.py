"""Evaluation: COCO's measures against pycocotools; every image once on any number of ranks; files and lines of eval.py."""

from __future__ import annotations

import copy
import csv
import json
import re
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

import eval as program
from conftest import SMALL
from src.data.coco import read_coco
from src.dataset import input_spec
from src.detect import coco_eval, evaluation
from src.detect.boxes import Detections
from src.detect.coco_eval import evaluate_results, read_annotations, to_results
from src.detect.evaluation import evaluate, match_outputs, validate
from src.model_utils import checkpoint
from src.model_utils.device_adapter import Device
from src.model_utils.errors import DataError, UsageError
from src.model_utils.inference import description
from src.recipe import MODEL, read_config

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

# ---- COCO's measures -------------------------------------------------------------------------------------------------

RECORDED = json.loads((Path(__file__).parent / "data/coco_eval.json").read_text(encoding="utf-8"))
CASES = {case["name"]: case for case in RECORDED["cases"]}


def assert_recorded(case: dict, results: list[dict] | None = None) -> None:
    """These results (by default the case's own) have the twelve numbers of the case."""
    scores = evaluate_results(case["gt"], case["dt"] if results is None else results)
    assert scores.stats == pytest.approx(list(case["stats"].values()), abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_recorded_cases(name, capsys):
    """The twelve numbers and those of each class; pycocotools' progress is not printed."""
    case = CASES[name]
    before = copy.deepcopy(case)
    assert_recorded(case)
    scores = evaluate_results(case["gt"], case["dt"])
    assert len(CASES) == 6 and len(scores.classes) == len(case["gt"]["categories"])
    for category, row in zip(sorted(case["gt"]["categories"], key=lambda category: category["id"]), scores.classes):
        measures = case["per_category"][str(category["id"])]
        assert [row.ap, row.ap50, row.recall] == pytest.approx([measures[k] for k in ("AP", "AP50", "AR100")], abs=1e-6)
        objects = [a for a in case["gt"]["annotations"] if a["category_id"] == category["id"] and not a["iscrowd"]]
        assert row.name == category["name"] and row.objects == len(objects)
    assert capsys.readouterr().out == "" and case == before


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
    assert_recorded(case)


def test_missing_area_is_that_of_the_box():
    case = copy.deepcopy(CASES["random"])

    def stats(**changes) -> list[float]:
        rows = [{**row, "area": row["bbox"][2] * row["bbox"][3], **changes} for row in case["gt"]["annotations"]]
        rows = [{key: value for key, value in row.items() if value is not None} for row in rows]
        return evaluate_results({**case["gt"], "annotations": rows}, case["dt"]).stats

    assert stats(area=None, id=None) == stats() != stats(area=1.0)


def test_results_of_other_images_and_categories():
    """The former are refused, the latter do not count."""
    case = CASES["hand"]
    assert_recorded(case, [*case["dt"], {**case["dt"][0], "category_id": 77}])
    with pytest.raises(DataError, match="image 77, which is not in"):
        evaluate_results(case["gt"], [{**case["dt"][0], "image_id": 77}])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[]", "holds a list; a COCO file holds an object"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "list 'images' is empty"),
        ('{"images": [{}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', r"images\[0\] is {}"),
        (json.dumps({**CASES["hand"]["gt"], "annotations": []}), "holds no annotations"),
        (json.dumps({**CASES["hand"]["gt"], "annotations": [{"id": 1}]}), "image_id, category_id, bbox"),
        (None, "cannot be read"),
        (json.dumps(CASES["hand"]["gt"]), None),
    ],
)
def test_files(tmp_path, text, message):
    file = tmp_path / "annotations.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    if message is None:
        assert read_annotations(file) is read_annotations(file)
        assert_recorded({**CASES["hand"], "gt": file})
        return
    with pytest.raises(DataError, match=f"(?s){file}.*{message}"):
        evaluate_results(file, [])


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
    odd = {**case["gt"]["annotations"][0], "bbox": [1, float("nan"), float("inf"), 4]}
    assert_recorded({**case, "gt": {**case["gt"], "annotations": [odd, *case["gt"]["annotations"]]}})


def test_output_comes_back_after_an_error(monkeypatch, capsys):
    def fail(self):
        print("lost")
        raise RuntimeError("stopped")

    monkeypatch.setattr(coco_eval.import_pycocotools(), "evaluate", fail)
    with pytest.raises(RuntimeError, match="stopped"):
        evaluate_results(CASES["hand"]["gt"], CASES["hand"]["dt"])
    print("seen")
    assert capsys.readouterr().out == "seen\n"


def test_to_results():
    boxes = np.array([[1.5, 2, 4, 10.25], [0, 0, 1 / 3, 1]], np.float32)
    found = Detections(boxes, np.array([0.75, 0.5], np.float32), np.array([2, 0]))
    assert to_results(found, "a", [10, 20, 90]) == [
        {"image_id": "a", "category_id": 90, "bbox": [1.5, 2.0, 2.5, 8.25], "score": 0.75},
        {"image_id": "a", "category_id": 10, "bbox": [0.0, 0.0, 0.333, 1.0], "score": 0.5},
    ]


def test_tables(tmp_path):
    case = CASES["score_ties_no_gt_category"]
    scores = evaluate_results(case["gt"], case["dt"])
    assert scores.mean_precision.mean() == pytest.approx(case["stats"]["AP50"], abs=1e-6)  # of classes with objects
    lines = coco_eval.class_table(scores.classes).splitlines()
    assert lines[0].split() == ["class", "AP", "AP50", "AR100", "objects"] and len({len(line) for line in lines}) == 1
    assert lines[1].split()[1:4] == ["0.600", "1.000", "0.600"] and lines[3].split()[1:] == ["-", "-", "-", "0"]
    coco_eval.write_class_table(scores.classes, tmp_path / "per_class.csv")
    with open(tmp_path / "per_class.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["class"], int(row["objects"])) for row in rows] == [(row.name, row.objects) for row in scores.classes]
    assert float(rows[1]["AP"]) == pytest.approx(0.305281, abs=1e-6) and rows[2]["AP"] == "-1.000000"


def curves(tmp_path: Path, case: dict, results: list[dict]) -> np.ndarray:
    coco_eval.write_curves(evaluate_results(case["gt"], results), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        return np.asarray(image.convert("RGB"))


def test_curves_lie_where_they_belong(tmp_path):
    """All found: along the upper border; nothing found: along the lower one."""
    case, middle = CASES["perfect"], coco_eval.MARGIN + coco_eval.SIDE // 2 + 20
    rows = [coco_eval.MARGIN + 1, coco_eval.MARGIN + coco_eval.SIDE - 1]
    for results, shades in ((case["dt"], [0, 255]), ([], [255, 0])):
        assert curves(tmp_path, case, results)[rows, middle].tolist() == [[shade] * 3 for shade in shades]


# ---- Evaluation of a network -----------------------------------------------------------------------------------------

CPU = Device("CPU", 0)
SIDES = (64, 96)  # height, width of the network's input
SHADES = 20  # grey values between one picture and the next: by its shade the stand-in network knows a picture
# Of each image: width, height, and its objects: category, x, y, width, height in pixels.
IMAGES = [
    (96, 64, [(3, 10, 20, 30, 25), (7, 50, 10, 20, 40)]),
    (60, 80, [(7, 5, 5, 40, 60)]),
    (100, 100, []),
    (200, 90, [(3, 20, 10, 50, 50), (3, 120, 20, 60, 60), (12, 80, 5, 30, 40)]),
    (64, 64, [(12, 8, 8, 32, 32)]),
]
NAMES = {3: "ant", 7: "bee", 12: "cat"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A COCO data set of val2017 and its annotations; image i has the id 10 - i."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "val2017").mkdir()
    (folder / "annotations").mkdir()
    images, annotations = [], []
    for number, (width, height, objects) in enumerate(IMAGES):
        name = f"picture_{number}.png"
        Image.new("RGB", (width, height), (SHADES * (number + 1),) * 3).save(folder / "val2017" / name)
        images.append({"id": 10 - number, "file_name": name, "width": width, "height": height})
        for category, *box in objects:
            row = {"image_id": 10 - number, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            annotations.append({**row, "id": len(annotations) + 1})
    content = {"images": images, "annotations": annotations, "categories": [{"id": i, "name": NAMES[i]} for i in NAMES]}
    (folder / "annotations/instances_val2017.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def options(data: Path, *more: str) -> list[str]:
    return ["--data_dir", str(data), "--testing_shape", "{},{}".format(*SIDES), "--device_target", "CPU",
            "--per_batch_size", "2", *more]  # fmt: skip


def maps_of(number: int, names: list[str], shift: float = 0.0, score: float = 0.81) -> list[np.ndarray]:
    """Decoded maps of a network of these classes in which an image has its objects, moved by `shift` of their widths."""
    width, height, objects = IMAGES[number]
    scale = min(SIDES[0] / height, SIDES[1] / width)
    left, top = (SIDES[1] - round(width * scale)) // 2, (SIDES[0] - round(height * scale)) // 2
    scales = np.array([round(width * scale) / width, round(height * scale) / height])
    maps = [np.zeros((SIDES[0] // s, SIDES[1] // s, 3, 5 + len(names)), np.float32) for s in (32, 16, 8)]
    for place, (category, x, y, w, h) in enumerate(objects):
        size = np.array([w, h]) * scales / SIDES[::-1]
        centre = (np.array([x + w / 2, y + h / 2]) * scales + (left, top)) / SIDES[::-1] + (shift * size[0], 0)
        cell = maps[place % 3][place, 1, 2]
        cell[:5] = [*centre, *size, np.sqrt(score)]
        cell[5 + names.index(NAMES[category])] = np.sqrt(score)
    return maps


class Network:
    """Stands in for the detector; notes the batch sizes. `fault` is the number of an image with outputs of its own."""

    def __init__(self, names: list[str], shift: float = 0.0, score: float = 0.81, fault: int = -1):
        self.names, self.shift, self.score, self.fault, self.batches = names, shift, score, fault, []

    def __call__(self, images: ms.Tensor) -> tuple[ms.Tensor, ...]:
        pixels = images.asnumpy()
        assert pixels.shape[1:] == (3, *SIDES) and pixels.dtype == np.float32
        self.batches.append(len(pixels))
        shades = (pixels[:, 0, SIDES[0] // 2, SIDES[1] // 2] * 0.229 + 0.485) * 255
        numbers = np.rint(shades / SHADES).astype(int) - 1
        # What pads a batch is 0, and no picture's shade.
        maps = [
            maps_of(number if number < len(IMAGES) else 2, self.names, self.shift, self.score) for number in numbers
        ]
        for number, own in zip(numbers, maps):
            if number == self.fault:
                own[1][0, 0, 0, 4] = np.nan
        return tuple(ms.Tensor(np.stack(level)) for level in zip(*maps))

    def set_train(self, mode: bool):
        return self


class Batches(list):
    """This rank's share of the images, positions by image id, in batches of two as `create_dataset` gives them."""

    def get_dataset_size(self) -> int:
        return -(-len(self) // 2)

    def create_tuple_iterator(self, num_epochs: int, output_numpy: bool):
        assert num_epochs == 1 and output_numpy
        for part in (self[start : start + 2] for start in range(0, len(self), 2)):
            numbers = [len(IMAGES) - 1 - position for position in part]
            shades = (np.array([SHADES * (number + 1) for number in numbers]) / 255 - 0.485) / 0.229
            images = np.broadcast_to(shades[:, None, None, None], (len(part), 3, *SIDES)).astype(np.float32)
            yield images, np.array(part, np.int32), np.array([IMAGES[number][1::-1] for number in numbers], np.int32)


@dataclass
class SimulatedDevice:
    """One of `size` ranks, which are threads and exchange arrays in `parts`."""

    rank: int
    size: int
    parts: dict[int, np.ndarray]
    barrier: threading.Barrier

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def exchange(self, part: np.ndarray) -> list[np.ndarray]:
        self.parts[self.rank] = part
        self.barrier.wait()
        parts = [self.parts[other] for other in range(self.size)]
        self.barrier.wait()
        return parts

    def sum(self, values: list[float]) -> list[float]:
        return np.sum(self.exchange(np.array(values, np.float32)), axis=0, dtype=np.float32).tolist()

    def gather(self, rows: np.ndarray) -> np.ndarray:
        assert rows.dtype == np.float32
        return np.concatenate(self.exchange(rows))


def on_ranks(shares: list[list[int]], work) -> list:
    """What `work(device, share)` returns or raises on each rank."""
    size = len(shares)
    parts, barrier, outcomes = {}, threading.Barrier(size, timeout=20), [None] * size

    def run(rank: int) -> None:
        try:
            outcomes[rank] = work(SimulatedDevice(rank, size, parts, barrier), shares[rank])
        except Exception as error:  # noqa: BLE001 (the test looks at it)
            outcomes[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def evaluated(data: Path, shares: list[list[int]], network: Network) -> list:
    config = read_config(options(data), "")
    coco = read_coco(data / "val2017", data / "annotations/instances_val2017.json", check_images=False)
    outputs = match_outputs(coco.class_names, network.names, len(network.names), "annotations")
    return on_ranks(
        shares,
        lambda device, share: evaluate(network, Batches(share), coco, input_spec(config), config, device, outputs),
    )


def test_every_rank_has_the_detections_of_all(data):
    """The same to the last digit for any number of ranks, by image and score."""
    network = Network(["ant", "bee", "cat"], shift=0.1)
    whole = evaluated(data, [[0, 1, 2, 3, 4]], network)[0]
    assert [row["image_id"] for row in whole] == [6, 7, 7, 7, 9, 10, 10] and network.batches == [2, 2, 2]
    for shares in ([[0, 2, 4], [1, 3]], [[4, 3], [2], [1, 0]], [[0, 1, 2, 3, 4], []]):
        outcomes = evaluated(data, shares, Network(["ant", "bee", "cat"], shift=0.1))
        assert len(outcomes) == len(shares) and all(outcome == whole for outcome in outcomes)


def test_boxes_come_back_to_the_picture(data):
    whole = evaluated(data, [[0, 1, 2, 3, 4]], Network(["ant", "bee", "cat"]))[0]
    truth = [(10 - number, *item) for number, (_, _, objects) in enumerate(IMAGES) for item in objects]
    found = [(row["image_id"], row["category_id"], *row["bbox"]) for row in whole]
    np.testing.assert_allclose(sorted(found), sorted(truth), atol=0.01)
    assert {row["score"] for row in whole} == {np.float32(np.float64(np.float32(0.9)) ** 2)}


def test_classes_are_matched_by_name(data):
    """A network with more classes in another order; those that the data set lacks take no part."""
    ours = evaluated(data, [[0, 1, 2, 3, 4]], Network(["ant", "bee", "cat"]))[0]
    other = Network(["cat", "dog", "ant", "bee"])
    assert evaluated(data, [[0, 1, 2, 3, 4]], other)[0] == ours
    assert match_outputs(["ant", "bee"], ["cat", "dog", "ant", "bee"], 4, "file") == [2, 3]
    assert match_outputs(["ant", "bee"], None, 2, "file") == [0, 1]
    with pytest.raises(DataError, match=r"file has the class 'emu' \(1 such\), which the checkpoint of 2 classes"):
        match_outputs(["ant", "emu"], ["ant", "bee"], 2, "file")
    with pytest.raises(DataError, match="checkpoint has 3 classes and names none, file has 2"):
        match_outputs(["ant", "bee"], None, 3, "file")


@pytest.mark.parametrize("factor", [2, 0.5])
def test_resized_pictures_are_measured_as_annotated(data, tmp_path, monkeypatch, factor):
    """The files have other sizes than the annotations state: results are in the coordinates of the annotations."""
    data = shutil.copytree(data, tmp_path / "coco")
    for number, (width, height, _) in enumerate(IMAGES):
        path = data / f"val2017/picture_{number}.png"
        with Image.open(path) as picture:
            resized = picture.resize((round(width * factor), round(height * factor)))
        resized.save(path)
    lines = run_eval(monkeypatch, data, tmp_path / "out", Network(["ant", "bee", "cat"]))
    assert any("5 of 5 pictures have another size than" in line for line in lines)
    start = lines.index("=============coco eval result=========")
    assert lines[start + 1].endswith("= 1.000")
    results = json.loads(next((tmp_path / "out").glob("predict_*.json")).read_text(encoding="utf-8"))
    truth = [(10 - number, *item) for number, (_, _, objects) in enumerate(IMAGES) for item in objects]
    found = [(row["image_id"], row["category_id"], *row["bbox"]) for row in results]
    np.testing.assert_allclose(sorted(found), sorted(truth), atol=0.01)


def test_categories_of_one_name_keep_their_outputs(data, tmp_path, monkeypatch):
    """A root category with the name of a class, as exports have it: what is found counts for the category of its id."""
    data = shutil.copytree(data, tmp_path / "coco")
    file = data / "annotations/instances_val2017.json"
    content = json.loads(file.read_text())
    for category in content["categories"]:
        category["name"] = "ant"
    file.write_text(json.dumps(content))
    monkeypatch.setattr(evaluation, "_detector", lambda network: network)
    for names, ids in ((["ant", "bee", "cat"], [3, 7, 12]), (["cat", "ant", "bee"], [12, 3, 7])):
        config = read_config(options(data), "").replace(category_ids=ids)
        assert validate(config, Network(names), CPU, ["ant"] * 3)["mean_average_precision"] == 1.0


@pytest.mark.parametrize(
    ("names", "ids", "outputs", "output_ids", "expected"),
    [
        (["a", "a", "b"], [0, 1, 2], ["b", "a", "a"], [2, 0, 1], [1, 2, 0]),
        (["a", "b"], [1, 2], ["a", "a", "b"], [0, 1, 2], [1, 2]),
        (["a", "a"], [0, 1], ["a", "a"], [], [0, 1]),
        (["a", "b"], [7, 8], ["b", "a"], [1, 2], [1, 0]),  # other ids: by name
    ],
)
def test_outputs_are_matched_by_id_and_name(names, ids, outputs, output_ids, expected):
    assert match_outputs(names, outputs, len(outputs), "file", ids=ids, output_ids=output_ids) == expected


def test_doubles_that_nothing_tells_apart_are_refused():
    for output_ids in ([], [5, 6, 7]):
        with pytest.raises(DataError, match="stand for several classes, the first is 'a'"):
            match_outputs(["a", "b"], ["a", "a", "b"], 3, "file", ids=[1, 2], output_ids=output_ids)


@pytest.mark.parametrize("shares", [[[0, 1, 2, 3], []], [[0, 1, 2, 3], [4, 2]]])
def test_an_image_too_few_or_too_many_is_an_error(data, shares):
    for outcome in evaluated(data, shares, Network(["ant", "bee", "cat"])):
        assert isinstance(outcome, DataError) and re.search("of 5 images did not come exactly once", str(outcome))


def test_outputs_that_are_not_finite_are_an_error_on_all_ranks(data):
    for outcome in evaluated(data, [[0, 2, 4], [1, 3]], Network(["ant", "bee", "cat"], fault=1)):
        assert isinstance(outcome, DataError) and "not finite" in str(outcome)


def test_validation(data, monkeypatch):
    """Through the real pipeline; equal on all ranks, and to those of a single one."""
    config = read_config(options(data), "")
    monkeypatch.setattr(evaluation, "_detector", lambda network: network)
    names = ["cat", "ant", "bee"]
    assert validate(config, Network(names), CPU, names) == {
        "mean_average_precision": 1.0, "AP50": 1.0, "AP75": 1.0, "AR100": 1.0
    }  # fmt: skip
    alone = validate(config, Network(names, shift=0.3), CPU, names)
    # Objects that are moved by 0.3 of their width have an IoU of 0.7 / 1.3 = 0.54: one of the ten thresholds.
    assert alone == pytest.approx({"mean_average_precision": 0.1, "AP50": 1.0, "AP75": 0.0, "AR100": 0.1})
    work = lambda device, share: validate(config, Network(names, shift=0.3), device, names)  # noqa: E731
    monkeypatch.setattr(evaluation, "create_dataset", lambda config, split, device, names: Batches(
        [[0, 1, 2], [3, 4]][device.rank]))  # fmt: skip
    assert on_ranks([[], []], work) == [alone, alone]


def run_eval(monkeypatch, data: Path, out: Path, network: Network, *more: str, size: bool = True) -> list[str]:
    """eval.py with a stand-in for the checkpoint, whose input has SIDES; returns its lines."""
    spec = {**input_spec(read_config(options(data), "")), "height": SIDES[0], "width": SIDES[1]}
    about = {"network": {"num_classes": len(network.names)}, "input": spec, "class_names": network.names}
    monkeypatch.setattr(program, "load_network", lambda model, path, config, use_ema: (network, about))
    monkeypatch.setattr(program, "Detector", lambda network: network)
    arguments = options(data, "--pretrained", "net.ckpt", "--log_path", str(out), *more)
    if not size:
        place = arguments.index("--testing_shape")
        del arguments[place : place + 2]
    program.main(arguments)
    return (out / "eval.log").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("size", [True, False], ids=["size given", "size of the checkpoint"])
def test_program(monkeypatch, data, tmp_path, capsys, size):
    monkeypatch.setattr(evaluation, "PROGRESS_BATCHES", 1)
    names = ["dog", "ant", "bee", "cat"]
    lines = run_eval(monkeypatch, data, tmp_path / "out", Network(names, shift=0.3), size=size)
    assert capsys.readouterr().out.splitlines() == lines
    assert "Processing... 66.67% " in lines
    start = lines.index("=============coco eval result=========")
    block = lines[start + 1 : start + 13]
    form = r" Average (Precision  \(AP\)|Recall     \(AR\)) @\[ IoU=0\.\d\d.{5} \| area=.{6} \| maxDets=.{3} \] = -?\d\.\d{3}"
    assert lines[start - 1] == "" and all(re.fullmatch(form, line) for line in block)
    assert block[0] == " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 0.100"
    assert (
        block[6] == " Average Recall     (AR) @[ IoU=0.50:0.95 | area=   all | maxDets=  1 ] = 0.089"
    )  # (2 / 3 + 1 + 1) / 30
    assert any(re.fullmatch(r"testing cost time \d+\.\d\d h", line) for line in lines)
    table = [line.split() for line in lines if line.startswith(("ant", "bee", "cat"))]
    assert table == [["ant", "0.100", "1.000", "0.100", "3"], ["bee", "0.100", "1.000", "0.100", "2"],
                     ["cat", "0.100", "1.000", "0.100", "2"]]  # fmt: skip
    file = Path(next(line for line in lines if line.startswith("result file path: ")).partition(": ")[2])
    assert re.fullmatch(r"predict_\d{4}(_\d\d){5}\.json", file.name) and file.parent == tmp_path / "out"
    results = json.loads(file.read_text(encoding="utf-8"))
    annotations = data / "annotations/instances_val2017.json"
    assert len(results) == 7 and evaluate_results(annotations, results).stats[0] == pytest.approx(0.1)
    with open(tmp_path / "out/per_class.csv", newline="", encoding="utf-8") as stream:
        assert [row["AP50"] for row in csv.DictReader(stream)] == ["1.000000"] * 3
    with Image.open(tmp_path / "out/precision_recall.png") as image:
        assert image.size[1] > 400


def test_no_detections_and_no_table_of_the_classes(monkeypatch, data, tmp_path):
    network = Network(["ant", "bee", "cat"], score=0.0004)
    lines = run_eval(monkeypatch, data, tmp_path, network, "--per_class_ap", "false")
    assert "no detections: no score is above eval_ignore_threshold=0.001" in lines
    assert not any(line.startswith("ant") for line in lines) and (tmp_path / "per_class.csv").is_file()


def test_only_the_first_rank_reports(monkeypatch, data, tmp_path, capsys):
    monkeypatch.setattr(program.device_adapter, "init", lambda config, distributed: Device("CPU", 0, rank=1, size=2))
    monkeypatch.setattr(program, "evaluate", lambda *arguments: [])
    with pytest.raises(FileNotFoundError, match="eval.log"):
        run_eval(monkeypatch, data, tmp_path, Network(["ant", "bee", "cat"]))
    assert [file.name for file in tmp_path.iterdir()] == ["rank_1_eval.log"] and capsys.readouterr().out == ""


def test_what_the_program_refuses(monkeypatch, data, tmp_path):
    with pytest.raises(DataError, match="class 'cat'"):
        run_eval(monkeypatch, data, tmp_path, Network(["ant", "bee"]))
    monkeypatch.undo()
    absent = ["--pretrained", str(tmp_path / "none.ckpt"), "--log_path", str(tmp_path)]
    for error, message, more in (
        (UsageError, "--pretrained is missing", []),
        (DataError, "none.ckpt is not a file", absent),
        (UsageError, "nms_thresh=1.5", [*absent, "--nms_thresh", "1.5"]),
    ):
        with pytest.raises(error, match=message):
            program.main(options(data, *more))


def test_real_checkpoint(data, tmp_path, capsys):
    """A small random network from its file, whose input is that of its training unless the command line names one."""
    about = description(MODEL, read_config(options(data, *SMALL, "--num_classes", "3"), ""), ["ant", "bee", "cat"])
    path = tmp_path / "small.ckpt"
    checkpoint.save(path, MODEL.build_network(about["network"]).parameters_dict(), about)
    arguments = ["--data_dir", str(data), "--device_target", "CPU", "--pretrained", str(path), "--per_batch_size", "3",
                 "--log_path", str(tmp_path / "out")]  # fmt: skip
    program.main(arguments)
    out = capsys.readouterr().out
    assert f"at {SIDES[0]}x{SIDES[1]}" in out and out.count(" Average ") == 12
    program.main([*arguments, "--testing_shape", "32", "--dry_run"])
    out = capsys.readouterr().out
    assert "at 32x32" in out and "nothing was evaluated" in out and " Average " not in out

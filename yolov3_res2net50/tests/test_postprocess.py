"""postprocess.py: result files to the lines and files of eval.py; what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import postprocess
from src.detect.boxes import detect, place
from src.detect.coco_eval import evaluate_results, to_results
from src.model_utils.errors import DataError, UsageError

import numpy as np
import pytest
from PIL import Image

SIDES, CLASSES = (64, 96), 3  # height and width of the network's input
# File name, its results' name, width, height.
PICTURES = [("plain.png", "plain", 80, 60), ("a.b.png", "a.b", 64, 64), ("with_under_1.png", "with_under_1", 50, 90),
            ("one/same.png", "one__same", 96, 64), ("two/same.png", "two__same", 40, 100)]  # fmt: skip
CATEGORY_IDS = [2, 5, 9]


def random_maps(seed: int, classes: int = CLASSES) -> list[np.ndarray]:
    random = np.random.RandomState(seed)
    maps = [random.uniform(0, 1, (SIDES[0] // s, SIDES[1] // s, 3, 5 + classes)) for s in (32, 16, 8)]
    for values in maps:
        values[..., 2:4] *= 0.5
        values[..., 4:] **= 3
    return [values.astype(np.float32) for values in maps]


@pytest.fixture
def data(tmp_path) -> Path:
    """Pictures, one more than the annotations have, annotations that some of the results match, and result files."""
    images, annotations = [], []
    (tmp_path / "result_Files").mkdir()
    for number, (name, results, width, height) in enumerate(PICTURES):
        file = tmp_path / "pictures" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height)).save(file)
        images.append({"id": 100 + number, "file_name": name, "width": width, "height": height})
        maps = random_maps(number)
        for level, values in enumerate(maps):
            values.tofile(tmp_path / "result_Files" / f"{results}_{level}.bin")
        found = detect(maps, place((height, width), SIDES, True), (height, width), SIDES, 0.001, 0.5, 100)
        for row in to_results(found, 100 + number, CATEGORY_IDS)[:3]:
            area = row["bbox"][2] * row["bbox"][3]
            annotations.append({**row, "id": len(annotations) + 1, "area": area, "iscrowd": 0})
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures/not annotated.png")
    categories = [{"id": category, "name": f"class {category}"} for category in CATEGORY_IDS]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def run(data: Path, *more: str, size: bool = True) -> list[str]:
    shape = ["--testing_shape", "{},{}".format(*SIDES)] if size else []
    paths = {"result_path": "result_Files", "img_path": "pictures", "annFile": "annotations.json", "log_path": "out"}
    arguments = [token for key, name in paths.items() for token in (f"--{key}", str(data / name))]
    postprocess.main([*arguments, "--per_batch_size=1", *shape, *more])
    return (data / "out/postprocess.log").read_text(encoding="utf-8").splitlines()


def write_note(data: Path, **changes) -> None:
    """What infer.py tells of the network's input."""
    note = {"height": SIDES[0], "width": SIDES[1], "keep_ratio": True, "category_ids": CATEGORY_IDS, **changes}
    (data / "detections.json").write_text(json.dumps({"input": note}), encoding="utf-8")


def written(data: Path) -> list[dict]:
    (file,) = (data / "out").glob("predict_*.json")
    return json.loads(file.read_text(encoding="utf-8"))


def expected(keep_ratio: bool = True, score_threshold: float = 0.001) -> list[dict]:
    rows = []
    for number, (_, _, width, height) in enumerate(PICTURES):
        placement = place((height, width), SIDES, keep_ratio)
        found = detect(random_maps(number), placement, (height, width), SIDES, score_threshold, 0.5, 100)
        rows += to_results(found, 100 + number, CATEGORY_IDS)
    return rows


@pytest.mark.parametrize(("keep_ratio", "threshold"), [(True, 0.001), (False, 0.3)])
def test_equals_detect(data, capsys, keep_ratio, threshold):
    """Names with dots and underscores, equal names in two folders; pictures without annotations do not count."""
    lines = run(data, "--keep_ratio", str(keep_ratio), "--eval_ignore_threshold", str(threshold))
    assert capsys.readouterr().out.splitlines() == lines
    results = written(data)
    assert results == expected(keep_ratio, threshold) and len(results) > 50 and expected(True) != expected(False)
    scores = evaluate_results(data / "annotations.json", results)
    start = lines.index("=============coco eval result=========")
    assert lines[start + 1 : start + 13] == scores.lines and (scores.stats[0] > 0.5) == keep_ratio
    assert (data / "out/per_class.csv").is_file() and (data / "out/precision_recall.png").is_file()


def test_note_of_infer_tells_the_input(data):
    """Its size, its resize, and which output is which category; an option that contradicts it is refused."""
    write_note(data, keep_ratio=False)
    run(data, size=False)
    assert written(data) == expected(keep_ratio=False)
    for option in (["--keep_ratio", "true"], ["--test_img_shape", "64,64"], ["--testing_shape", "96"]):
        with pytest.raises(UsageError, match=f"{option[0]} .* contradicts .*detections.json"):
            run(data, *option, size=False)
    (data / "detections.json").write_text('{"input": [1]}', encoding="utf-8")
    with pytest.raises(DataError, match="detections.json, which infer.py has written, cannot be read"):
        run(data)


NOTE = {"height": SIDES[0], "width": SIDES[1], "keep_ratio": True, "category_ids": CATEGORY_IDS}


@pytest.mark.parametrize(
    "note",
    [
        "", "[]", "[" * 100_000, '{"input": null}', '{"input": {}}', "not JSON", b"\xff\xfe{", 5,
        *({"input": {**NOTE, key: value}} for key, values in {
            "height": [63, 0, -32, 64.0, "64", True, None, 1e400, 10**9, [64]],
            "width": [100, 2**63],
            "keep_ratio": [1, "true", None],
            "category_ids": [5, "a", [2, 5.0, 9], [2, "5", 9], [2, 5, 5], [2, True, 9], [[2], 5, 9], {"2": 5}, [1e400]],
        }.items() for value in values),
    ],
    ids=str,
)  # fmt: skip
def test_notes_that_infer_does_not_write(data, note):
    content = note if isinstance(note, bytes) else (note if isinstance(note, str) else json.dumps(note)).encode()
    (data / "detections.json").write_bytes(content)
    with pytest.raises(DataError, match="detections.json, which infer.py has written, cannot be read") as error:
        run(data, size=False)
    assert len(str(error.value)) < 600 and "\n" not in str(error.value)


def test_files_are_measured_before_they_are_read(data):
    """Too large a file, here of 4 GiB without content, and one that is no regular file: neither is opened."""
    cases = {"with_under_1_1.bin": "bytes, 2304 are expected", "plain_0.bin": "bytes; a multiple of"}
    for name, message in cases.items():
        file = data / "result_Files" / name
        content = file.read_bytes()
        os.truncate(file, 1 << 32)
        with pytest.raises(DataError, match=f"{name} has 4294967296 {message}"):
            run(data)
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(DataError, match=f"{name} is a named pipe, not a regular file"):
            run(data)
        file.unlink()
        file.write_bytes(content)
    assert run(data) and written(data) == expected()


def rotated(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(path) as picture:
        picture.load()
    picture.save(path, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("factor", [1, 2])
def test_annotations_of_stored_pictures(data, orientation, factor):
    """Results are of the upright picture, the annotations state the stored one, or that resized: boxes are turned back."""
    width, height = PICTURES[0][2:]
    path = data / "pictures/plain.png"
    Image.new("RGB", (width * factor, height * factor)).save(path)
    rotated(path, orientation)
    (data / "detections.json").write_text(json.dumps({"input": NOTE}), encoding="utf-8")
    run(data, size=False)
    found = [row["bbox"] for row in written(data) if row["image_id"] == 100]
    upright = (width, height) if orientation > 4 else (height, width)
    boxes = detect(random_maps(0), place(upright, SIDES, True), upright, SIDES, 0.001, 0.5, 100).boxes
    mask = np.zeros((*upright, len(boxes)), bool)
    for number, (x1, y1, x2, y2) in enumerate(boxes.round().astype(int)):
        mask[y1:y2, x1:x2, number] = True
    inverse = {2: np.fliplr, 3: lambda m: np.rot90(m, 2), 4: np.flipud, 5: lambda m: m.swapaxes(0, 1), 6: np.rot90,
               7: lambda m: np.rot90(m, 2).swapaxes(0, 1), 8: lambda m: np.rot90(m, 3)}  # fmt: skip
    stored = inverse.get(orientation, lambda m: m)(mask)
    assert len(found) == len(boxes) and stored.shape[:2] == (height, width)
    for number, (x, y, w, h) in enumerate(found):
        rows, columns = np.nonzero(stored[..., number].any(axis=1))[0], np.nonzero(stored[..., number].any(axis=0))[0]
        if len(rows):
            edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            np.testing.assert_allclose([x, y, x + w, y + h], edges, atol=1.01)


def test_results_of_pictures_as_they_are_stored(data):
    """Without the note: the application for Ascend 310 does not rotate; the annotations state the upright picture."""
    path, (width, height) = data / "pictures/plain.png", PICTURES[0][2:]
    Image.new("RGB", (height, width)).save(path)
    rotated(path, 6)
    run(data)
    found = [row["bbox"] for row in written(data) if row["image_id"] == 100]
    boxes = detect(random_maps(0), place((width, height), SIDES, True), (width, height), SIDES, 0.001, 0.5, 100).boxes
    turned = np.stack([width - boxes[:, 3], boxes[:, 0], width - boxes[:, 1], boxes[:, 2]], axis=1)
    sides = np.concatenate([turned[:, :2], turned[:, 2:] - turned[:, :2]], axis=1)
    np.testing.assert_allclose(found, sides, atol=0.002)


def test_pictures_of_another_aspect_ratio(data):
    Image.new("RGB", (90, 60)).save(data / "pictures/plain.png")
    with pytest.raises(DataError, match="plain.png cannot be used: it is 90 x 60 pixels .* state 80 x 60"):
        run(data)


def test_model_with_more_classes(data):
    """With the note of infer.py its outputs find their categories; without it they are refused."""
    order = [7, 9, 2, 11, 5]
    for number, (_, results, _, _) in enumerate(PICTURES):
        for level, values in enumerate(random_maps(number)):
            more = np.full((*values.shape[:-1], 10), 0.9, np.float32)
            more[..., :5] = values[..., :5]
            more[..., 5 + np.array([2, 4, 1])] = values[..., 5:]
            more.tofile(data / "result_Files" / f"{results}_{level}.bin")
    with pytest.raises(DataError, match="results are of 5 classes, .*annotations.json has 3 categories"):
        run(data)
    write_note(data, category_ids=order)
    run(data)
    assert written(data) == expected()
    write_note(data, category_ids=[7, 9, 2, 11, 6])
    with pytest.raises(DataError, match=r"does not know the categories \[5\]"):
        run(data)


def test_missing_results_are_named(data):
    (data / "result_Files/a.b_1.bin").unlink()
    (data / "result_Files/two__same_0.bin").unlink()
    message = r"2 result files are missing in .*result_Files.*\n    a.b_1.bin\n    two__same_0.bin$"
    with pytest.raises(DataError, match=message):
        run(data)
    for file in (data / "result_Files").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"(?s)^15 result files .*\n    ... and 5 more$") as error:
        run(data)
    assert len(str(error.value).splitlines()) == 12


def test_sizes_that_do_not_fit(data):
    file = data / "result_Files/with_under_1_1.bin"
    file.write_bytes(file.read_bytes()[:-4])
    message = r"with_under_1_1.bin has 2300 bytes, 2304 .*\(4, 6, 3, 8\) .* 64x96 and 3 classes"
    with pytest.raises(DataError, match=message):
        run(data)
    with pytest.raises(DataError, match=r"plain_0.bin has 576 bytes; .* 27 boxes .* 96x96; give the --testing_shape"):
        run(data, "--testing_shape", "96", size=False)


@pytest.mark.parametrize(("place", "value"), [((0, 0, 0, 4), 1.5), ((1, 2, 2, 7), -0.1), ((0, 0, 0, 0), np.nan)])
def test_raw_maps_are_refused(data, place, value):
    file = data / "result_Files/plain_0.bin"
    values = np.fromfile(file, np.float32).reshape(2, 3, 3, 8)
    values[place] = value
    values.tofile(file)
    with pytest.raises(DataError, match=r"(?s)plain_0.bin holds .* raw maps are not accepted.*--keep_detect True"):
        run(data)


@pytest.mark.parametrize(("option", "value", "error", "message"), [
    ("result_path", "", UsageError, "--result_path is missing"),
    ("result_path", "{}/none", DataError, "none is not a folder"),
    ("result_path", "{}", DataError, "is .*result_Files meant"),
    ("annFile", "{}/none.json", DataError, "none.json is not a file"),
])  # fmt: skip
def test_what_is_missing(data, option, value, error, message):
    with pytest.raises(error, match=message):
        run(data, f"--{option}", value.format(data))

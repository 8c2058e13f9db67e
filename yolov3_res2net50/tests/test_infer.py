"""infer.py: boxes where the objects are, its files, videos and frames, and what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import infer
from conftest import SMALL
from src.detect import infer as detect_infer
from src.detect import prediction, video
from src.detect.drawing import class_color
from src.model_utils import checkpoint, picture_files
from src.model_utils.errors import DataError, UsageError
from src.model_utils.exporting import export_checkpoint
from src.model_utils.inference import description
from src.recipe import MODEL, read_config
from src.yolo import Detector

import cv2
import mindspore as ms
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

NAMES = ["zero", "größe"]  # of three classes
IDS = [1, 18, 90]
SPEC = {
    "height": 64, "width": 96, "keep_ratio": True, "interpolation": "bilinear",
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "category_ids": IDS,
}  # fmt: skip
ABOUT = {"network": {"name": "yolov3_res2net50", "num_classes": 3}, "input": SPEC, "class_names": NAMES}
STRIDES = (32, 16, 8)


def empty_maps(count: int) -> list[np.ndarray]:
    """Decoded outputs without an object: boxes of 0-1, objectness and three classes."""
    return [np.zeros((count, 64 // stride, 96 // stride, 3, 8), np.float32) for stride in STRIDES]


class Finder:
    """Stands for the network: it finds the bright part of a picture; and what `boxes` (x, y, w, h, score, class) add."""

    def __init__(self, *boxes: tuple):
        self.boxes, self.shapes = boxes, []

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        assert images.dtype == np.float32
        self.shapes.append(images.shape)
        maps = [
            np.zeros((len(images), *(side // stride for side in images.shape[2:]), 3, 8), np.float32)
            for stride in STRIDES
        ]
        brightness = (images * np.array(SPEC["std"])[:, None, None] + np.array(SPEC["mean"])[:, None, None]).min(axis=1)
        for index, rows_columns in enumerate(brightness > 0.8):
            rows, columns = (np.flatnonzero(rows_columns.any(axis=axis)) for axis in (1, 0))
            if len(rows):
                top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
                height, width = images.shape[2:]
                box = (
                    (left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height
                )  # fmt: skip
                maps[1][index, 1, 2, 0] = [*box, 0.9, 0, 0.8, 0]
            for cell, (x, y, w, h, score, kind) in enumerate(self.boxes):
                maps[2][index, 0, cell, 1] = [x, y, w, h, score, *(float(kind == k) for k in range(3))]
        return tuple(maps)


@pytest.fixture
def model(monkeypatch):
    """Makes infer.py load a stand-in instead of a file."""

    def use(function, fixed=None, **about):
        monkeypatch.setattr(
            prediction, "load_model", lambda model, path, config, wrap: (function, {**ABOUT, **about}, fixed)
        )
        return function

    return use


def digit_picture(left: int, top: int, size: int = 64, shape=(160, 240), number: int = 0) -> np.ndarray:
    """A real digit, bright where the paper was, on a darkened photograph (H, W, 3)."""
    photograph = load_sample_images().images[number % 2][: shape[0], : shape[1]] // 2
    digit = 255 - load_digits().images[number].astype(np.uint8) * 4  # 191 to 255
    photograph[top : top + size, left : left + size] = np.kron(digit, np.ones((size // 8,) * 2, np.uint8))[:, :, None]
    return photograph


def run(source, out: Path, *more) -> list[dict]:
    options = ["--model_file", "stand_in.onnx", "--input", source, "--output_dir", out, "--device_target", "CPU", *more]
    infer.main([str(option) for option in options])
    return read_json(out, "predictions.json")


def read_json(out: Path, name: str):
    return json.loads((out / name).read_text(encoding="utf-8"))


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def save(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


# ---- Boxes -----------------------------------------------------------------------------------------------------------


def test_exact_results_of_known_boxes(model, tmp_path):
    """Picture 192 x 64 in an input of 96 x 64: half the size, 16 rows of border above and below."""
    boxes = [(0.25, 0.5, 0.25, 0.25, 0.75, 2), (0.5, 0.5, 1.0, 1.0, 0.5, 0), (0.25, 0.5, 0.25, 0.25, 0.25, 1)]
    model(Finder(*boxes))
    save(tmp_path / "in" / "x_000000000042.png", np.zeros((64, 192, 3), np.uint8))
    assert run(tmp_path / "in", tmp_path / "out") == [
        {"image_id": 42, "category_id": 90, "bbox": [24.0, 16.0, 48.0, 32.0], "score": 0.75},
        {"image_id": 42, "category_id": 1, "bbox": [0.0, 0.0, 192.0, 64.0], "score": 0.5},
    ]
    picture = read_json(tmp_path / "out", "detections.json")["pictures"][0]
    assert picture == {
        "file": str(tmp_path / "in" / "x_000000000042.png"), "image_id": 42, "height": 64, "width": 192,
        "detections": [
            {"class_index": 2, "class_name": "class 2", "score": 0.75, "box": [24.0, 16.0, 72.0, 48.0]},
            {"class_index": 0, "class_name": "zero", "score": 0.5, "box": [0.0, 0.0, 192.0, 64.0]},
        ],
    }  # fmt: skip


@pytest.mark.parametrize("keep_ratio", [True, False])
@pytest.mark.parametrize("shape", [(160, 240), (240, 160), (64, 96), (427, 640), (90, 333)])
def test_box_lies_where_the_digit_is(model, tmp_path, keep_ratio, shape):
    model(Finder(), input={**SPEC, "keep_ratio": keep_ratio})
    picture = digit_picture(16, 24, 64 if min(shape) > 100 else 32, shape, number=3)
    size = 64 if min(shape) > 100 else 32
    save(tmp_path / "digit.png", picture)
    (row,) = run(tmp_path / "digit.png", tmp_path / "out")
    assert row["image_id"] == "digit.png" and row["category_id"] == 18 and row["score"] == pytest.approx(0.72)
    pixel = max(shape[0] / 64, shape[1] / 96)  # of the input, in the picture
    np.testing.assert_allclose(row["bbox"], [16, 24, size, size], atol=1.2 * pixel)
    x, y, w, h = row["bbox"]
    left, top, right, bottom = (round(edge) for edge in (x, y, x + w, y + h))
    shown = np.asarray(Image.open(tmp_path / "out" / "annotated" / "digit.png"))
    assert shown.shape == picture.shape
    color = class_color(1)
    assert (shown[bottom - 1, left:right] == color).all() and (
        shown[top + 30 : bottom, [left, right - 1]] == color
    ).all()
    np.testing.assert_array_equal(shown[bottom:], picture[bottom:])  # the label lies above


def test_thresholds_and_limit(model, tmp_path):
    near = [(0.25, 0.5, 0.25, 0.5, 0.9, 0), (0.26, 0.5, 0.25, 0.5, 0.8, 0), (0.26, 0.5, 0.25, 0.5, 0.7, 1)]
    model(Finder(*near, (0.8, 0.5, 0.1, 0.5, 0.2, 2)))
    save(tmp_path / "a.png", np.zeros((64, 96, 3), np.uint8))
    for number, (options, scores) in enumerate(
        {
            (): [0.9, 0.7],
            ("--nms_thresh", "0.99"): [0.9, 0.8, 0.7],
            ("--score_threshold", "0.1"): [0.9, 0.7, 0.2],
            ("--score_threshold", "0.1", "--max_detections", "1"): [0.9],
            ("--score_threshold", "0.95"): [],
        }.items()
    ):
        rows = run(tmp_path / "a.png", tmp_path / str(number), *options)
        np.testing.assert_allclose([row["score"] for row in rows], scores, rtol=1e-6)


def test_model_gets_whole_batches_of_its_size(model, tmp_path):
    finder = model(Finder(), fixed=2)
    for number in range(5):
        save(tmp_path / "in" / f"{number}.png", digit_picture(10 * number, 20, number=number))
    rows = run(tmp_path / "in", tmp_path / "fixed")
    assert finder.shapes == [(2, 3, 64, 96)] * 3 and [row["image_id"] for row in rows] == [0, 1, 2, 3, 4]
    for options, sizes in (((), [5]), (("--batch_size", "3"), [3, 3]), (("--batch_size", "99"), [5])):
        finder = model(Finder())
        assert run(tmp_path / "in", tmp_path / f"of_{sizes[0]}_{options}", *options) == rows
        assert [shape[0] for shape in finder.shapes] == sizes
    model(Finder(), fixed=2)
    with pytest.raises(UsageError, match="per_batch_size 3 contradicts"):
        run(tmp_path / "in", tmp_path / "refused", "--batch_size", "3")
    assert not (tmp_path / "refused").exists()


def test_raw_outputs_are_written_for_postprocess(model, tmp_path):
    model(Finder((0.25, 0.5, 0.25, 0.25, 0.75, 2)))
    save(tmp_path / "in" / "a" / "1.x.png", digit_picture(50, 50))
    save(tmp_path / "in" / "b" / "1.x.jpg", digit_picture(90, 50, number=1))
    run(tmp_path / "in", tmp_path / "out")
    assert tree(tmp_path / "out") == sorted(
        ["detections.json", "predictions.json", "annotated/a/1.x.png", "annotated/b/1.x.png"]
        + [f"result_Files/{name}__1.x_{number}.bin" for name in "ab" for number in range(3)]
    )
    for number, stride in enumerate(STRIDES):
        written = np.fromfile(tmp_path / "out" / "result_Files" / f"a__1.x_{number}.bin", "<f4")
        written = written.reshape(64 // stride, 96 // stride, 3, 8)
        assert written.any() == (number > 0)
    np.testing.assert_array_equal(written[0, 0, 1], np.float32([0.25, 0.5, 0.25, 0.25, 0.75, 0, 0, 1]))


def test_picture_is_upright(model, tmp_path):
    """An EXIF rotation is applied, so that picture, boxes and what viewers show agree."""
    model(Finder())
    upright = digit_picture(16, 24, 64, (160, 240))
    rotated = Image.Exif()
    rotated[0x112] = 6  # "turn by 90 degrees clockwise"
    Image.fromarray(np.rot90(upright)).save(tmp_path / "exif.jpg", exif=rotated, quality=95)
    (row,) = run(tmp_path / "exif.jpg", tmp_path / "out")
    np.testing.assert_allclose(row["bbox"], [16, 24, 64, 64], atol=4)
    assert Image.open(tmp_path / "out" / "annotated" / "exif.png").size == (240, 160)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Checkpoint of the small network with random weights."""
    path = tmp_path_factory.mktemp("models") / "m.ckpt"
    config = read_config([*SMALL, "--num_classes", "3", "--testing_shape", "64,96"], "")
    about = {**description(MODEL, config, NAMES), "input": SPEC}
    ms.set_seed(1)
    network = MODEL.build_network(about["network"])
    for parameter in network.get_parameters():
        if ".output.bias" in parameter.name:  # objectness that exceeds the threshold
            parameter.set_data(ms.Tensor(np.random.RandomState(0).randn(*parameter.shape) * 1.5, ms.float32))
    checkpoint.save(path, network.parameters_dict(), about)
    return path


@pytest.fixture(scope="module")
def models(weights) -> list[Path]:
    """The checkpoint, and exports of it for two pictures at a time."""

    def prepare(network: Any, about: dict[str, Any]) -> Detector:
        about["decoded"] = True
        return Detector(network)

    for file_format in ("MINDIR", "ONNX"):
        config = read_config(["--file_format", file_format, "--device_target", "CPU"], "")
        export_checkpoint(MODEL, config, str(weights), str(weights.with_suffix("")), 2, prepare)
    return [weights, weights.with_suffix(".mindir"), weights.with_suffix(".onnx")]


def test_every_kind_of_model_finds_the_same(models, tmp_path):
    for number in range(3):
        save(tmp_path / "in" / f"{number}.png", digit_picture(20 * number, 24, number=number))
    expected, *others = [run(tmp_path / "in", tmp_path / path.suffix, "--model_file", path) for path in models]
    assert len(expected) > 10 and {row["image_id"] for row in expected} == {0, 1, 2}
    for rows in others:
        for key in ("image_id", "category_id"):
            assert [row[key] for row in rows] == [row[key] for row in expected]
        for key, tolerance in (("bbox", 0.1), ("score", 1e-4)):
            np.testing.assert_allclose([row[key] for row in rows], [row[key] for row in expected], atol=tolerance)


# ---- Names and console -----------------------------------------------------------------------------------------------


def test_image_ids():
    files = [
        "COCO_val2014_000000000042.jpg",
        "7.jpg",
        "a/8.jpg",
        "b/08.jpg",
        "b/x8_.jpg",
        "cat.jpg",
        "é_٣.jpg",
        "a_-1.jpg",
    ]
    ids = [42, 7, "a/8.jpg", "b/08.jpg", "b/x8_.jpg", "cat.jpg", "é_٣.jpg", "a_-1.jpg"]
    assert detect_infer.image_ids([Path(file) for file in files]) == ids


def test_frames_go_in_natural_order(model, tmp_path):
    model(Finder())
    for number in (10, 9, 2, 1):
        save(tmp_path / "frames" / f"frame_{number}.png", digit_picture(4 * number, 20))
    rows = run(tmp_path / "frames", tmp_path / "out")
    assert [row["image_id"] for row in rows] == [1, 2, 9, 10]
    lefts = [row["bbox"][0] for row in rows]
    assert lefts == sorted(lefts)
    names = ["b1", "a10/x", "a9/x", "A2", "10", "9"]
    ordered = ["9", "10", "A2", "a9/x", "a10/x", "b1"]
    assert sorted((Path(name) for name in names), key=detect_infer._natural_order) == [Path(name) for name in ordered]


def test_console_line(model, tmp_path, capsys):
    model(Finder((0.2, 0.5, 0.1, 0.1, 0.6, 0), (0.8, 0.5, 0.1, 0.1, 0.5, 0)))
    save(tmp_path / "in" / "1.png", digit_picture(16, 24))
    run(tmp_path / "in", tmp_path / "out")
    line = f"{tmp_path / 'in' / '1.png'}  240 x 160  3 objects: 1 größe (0.72), 2 zero (0.60)\n"
    assert line in capsys.readouterr().out
    run(tmp_path / "in", tmp_path / "none", "--score_threshold", "1")
    assert "1.png  240 x 160  no objects\n" in capsys.readouterr().out
    assert read_json(tmp_path / "none", "predictions.json") == []


def test_model_without_names_and_ids(model, tmp_path, capsys):
    model(Finder(), class_names=None, input={key: value for key, value in SPEC.items() if key != "category_ids"})
    save(tmp_path / "1.png", digit_picture(16, 24))
    (row,) = run(tmp_path / "1.png", tmp_path / "out")
    assert row["category_id"] == 2 and "does not tell its category ids" in capsys.readouterr().out
    found = read_json(tmp_path / "out", "detections.json")["pictures"][0]["detections"]
    assert found[0]["class_name"] == "class 1"


def test_description_of_the_run(model, tmp_path):
    model(Finder())
    save(tmp_path / "1.png", digit_picture(16, 24))
    run(
        tmp_path / "1.png", tmp_path / "out", "--score_threshold", "0.4", "--nms_thresh", "0.6", "--max_detections", "9"
    )
    content = read_json(tmp_path / "out", "detections.json")
    assert content["model"] == "stand_in.onnx" and content["network"]["num_classes"] == 3 and content["input"] == SPEC
    assert [content[key] for key in ("score_threshold", "nms_thresh", "max_detections")] == [0.4, 0.6, 9]


def test_name_that_is_not_utf_8(model, tmp_path):
    model(Finder())
    save(tmp_path / "a.png", digit_picture(16, 24))
    (tmp_path / "in").mkdir()
    name = os.fsdecode(b"caf\xe9.png")
    os.rename(tmp_path / "a.png", tmp_path / "in" / name)
    (row,) = run(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "in" / row["image_id"]).is_file()


# ---- Videos ----------------------------------------------------------------------------------------------------------


def write_video(path: Path, frames: list[np.ndarray], codec: str = "MJPG", rate: float = 12.5) -> Path:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, (width, height))
    if not writer.isOpened():
        pytest.skip(f"this build of OpenCV cannot write {path.suffix} files with {codec}")
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A digit that moves to the right over a photograph, 11 frames."""
    frames = [digit_picture(8 * number, 24, number=1) for number in range(11)]
    return write_video(tmp_path_factory.mktemp("video") / "clip 1.avi", frames)


def frames_of(path: Path) -> tuple[list[np.ndarray], float]:
    reader = video.VideoReader(path)
    return list(reader), reader.frame_rate


def test_video_is_written_and_read_back(clip):
    frames, rate = frames_of(clip)
    assert len(frames) == 11 and rate == 12.5
    for number, frame in enumerate(frames):
        assert np.abs(frame.astype(int) - digit_picture(8 * number, 24, number=1)).mean() < 6


@pytest.mark.parametrize("can_mp4", [True, False])
def test_video(model, clip, tmp_path, monkeypatch, capsys, can_mp4):
    finder = model(Finder())
    if not can_mp4:
        monkeypatch.setattr(video, "WRITERS", ((".mp4", "none"), video.WRITERS[1]))
    rows = run(clip, tmp_path / "out", "--batch_size", "4")
    assert [row["image_id"] for row in rows] == [f"clip 1.avi#{number}" for number in range(11)]
    np.testing.assert_allclose([row["bbox"] for row in rows], [[8 * n, 24, 64, 64] for n in range(11)], atol=4)
    assert [shape[0] for shape in finder.shapes] == [4, 4, 4]
    (annotated,) = (tmp_path / "out" / "annotated").iterdir()
    assert annotated.stem == "clip 1" and annotated.suffix in ((".mp4", ".avi") if can_mp4 else (".avi",))
    assert tree(tmp_path / "out") == [f"annotated/{annotated.name}", "detections.json", "predictions.json"]
    frames, rate = frames_of(annotated)
    assert rate == 12.5 and len(frames) == 11 and frames[0].shape == (160, 240, 3)
    x, y, w, h = (round(value) for value in rows[8]["bbox"])
    inside = frames[8][y + h - 1, x + 2 : x + w - 2].astype(int)  # colours suffer in a video
    assert np.abs(inside - class_color(1)).mean() < np.abs(frames[8][y + h + 6, x + 2 : x + w - 2] - inside).mean()
    (entry,) = read_json(tmp_path / "out", "detections.json")["videos"]
    assert entry["file"] == str(clip) and entry["frame_rate"] == 12.5 and len(entry["frames"]) == 11
    assert entry["frames"][3]["detections"][0]["class_name"] == "größe"
    assert "clip 1.avi  frame 11 of 11  " in capsys.readouterr().out


def test_folder_of_pictures_and_videos(model, clip, tmp_path):
    model(Finder(), fixed=3)
    source = tmp_path / "in"
    save(source / "1.png", digit_picture(16, 24))
    (source / "sub").mkdir()
    for name in ("sub/a.AVI", "sub/a.mkv", "b.mp4"):  # OpenCV looks into the file, not at its name
        (source / name).write_bytes(clip.read_bytes())
    rows = run(source, tmp_path / "out")
    assert list(dict.fromkeys(str(row["image_id"]).split("#")[0] for row in rows)) == [
        "1",
        "b.mp4",
        "sub/a.AVI",
        "sub/a.mkv",
    ]
    assert len(rows) == 34 and len(list((tmp_path / "out" / "result_Files").iterdir())) == 3
    assert [Path(name).with_suffix("") for name in tree(tmp_path / "out" / "annotated")] == [
        Path(name) for name in ("1", "b", "sub/a.AVI", "sub/a.mkv")
    ]


def test_damaged_videos_are_named(model, clip, tmp_path, capsys):
    model(Finder())
    source, content = tmp_path / "in", clip.read_bytes()
    source.mkdir()
    for name, part in {
        "empty.mp4": b"",
        "text_01.mkv": b"no video",
        "head.avi": content[:4000],
        "z.avi": content,
    }.items():
        (source / name).write_bytes(part)
    (source / "cut.avi").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"^3 of 5 file\(s\) could not be read") as error:
        run(source, tmp_path / "out")
    message = str(error.value)
    assert "empty.mp4: empty file" in message and "text_01.mkv: not a video that OpenCV can read" in message
    assert "head.avi: " in message and "cut.avi" not in message
    videos = {Path(entry["file"]).name: entry for entry in read_json(tmp_path / "out", "detections.json")["videos"]}
    assert list(videos) == ["cut.avi", "z.avi"] and len(videos["z.avi"]["frames"]) == 11
    assert 0 < len(videos["cut.avi"]["frames"]) < 11
    assert "cut.avi promises 11 frames and ends after" in capsys.readouterr().out


def test_odd_and_changing_sizes_of_frames(tmp_path):
    writer = video.VideoWriter(tmp_path / "odd", 5.0)
    picture = digit_picture(20, 20, 64, (125, 187))
    for frame in (picture, picture, digit_picture(20, 20, 64, (150, 200))):
        writer.write(frame)
    writer.close()
    frames, _ = frames_of(writer.path)
    assert [frame.shape for frame in frames] == [(126, 188, 3)] * 3
    assert np.abs(frames[0][:125, :187].astype(int) - picture).mean() < 12


def test_video_that_cannot_be_written(model, clip, tmp_path, monkeypatch):
    model(Finder())
    monkeypatch.setattr(video, "WRITERS", ((".mp4", "none"), (".avi", "none")))
    with pytest.raises(DataError, match="neither as .mp4 nor as .avi"):
        run(clip, tmp_path / "out")


def test_progress_of_a_long_video(model, clip, tmp_path, monkeypatch, capsys):
    model(Finder())
    monkeypatch.setattr(detect_infer, "SECONDS_BETWEEN_LINES", 0)
    run(clip, tmp_path / "out")
    assert f"{clip}  frame 5 of 11  " in capsys.readouterr().out
    assert detect_infer.progress(Path("a.mp4"), 30, 0, 2.0) == "a.mp4  frame 30  15.0 frames/s"


# ---- Folders and bad input -------------------------------------------------------------------------------------------


def test_damaged_pictures_are_named_and_the_others_done(model, tmp_path):
    model(Finder(), fixed=2)
    sound = save(tmp_path / "in" / "5_sound.jpg", digit_picture(16, 24)).read_bytes()
    for name, content in {"1_empty.jpg": b"", "2_text.png": b"no picture", "3_head.jpg": sound[:100]}.items():
        (tmp_path / "in" / name).write_bytes(content)
    save(tmp_path / "in" / "9.png", digit_picture(56, 24))
    with pytest.raises(DataError, match=r"^3 of 5 file\(s\) could not be read and have no result:") as error:
        run(tmp_path / "in", tmp_path / "out")
    assert all(
        f"{tmp_path / 'in' / name}: " in str(error.value) for name in ("1_empty.jpg", "2_text.png", "3_head.jpg")
    )
    assert [row["image_id"] for row in read_json(tmp_path / "out", "predictions.json")] == ["5_sound.jpg", 9]
    assert tree(tmp_path / "out" / "annotated") == ["5_sound.png", "9.png"]


def test_every_picture_damaged(model, tmp_path):
    finder = model(Finder())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"^1 of 1 file"):
        run(tmp_path / "in", tmp_path / "out")
    assert finder.shapes == [] and read_json(tmp_path / "out", "predictions.json") == []


def test_old_results_are_set_aside_and_not_read(model, tmp_path, monkeypatch):
    monkeypatch.setattr(picture_files.time, "strftime", lambda form: "20240102-030405")
    model(Finder())
    out = tmp_path / "in" / "out"
    save(tmp_path / "in" / "1.png", digit_picture(16, 24))
    run(tmp_path / "in", out)
    (out / "mine.txt").write_text("kept")
    assert [row["image_id"] for row in run(tmp_path / "in", out)] == [1]
    assert (tmp_path / "in" / "out_20240102-030405" / "mine.txt").read_text() == "kept"
    assert (tmp_path / "in" / "out_20240102-030405" / "annotated" / "1.png").is_file()
    assert "mine.txt" not in tree(out)


def test_unsafe_output_is_refused(model, tmp_path, monkeypatch):
    model(Finder())
    source = save(tmp_path / "in" / "1.png", digit_picture(16, 24))
    inner = tmp_path / "cwd" / "inner"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    program = Path(infer.__file__).parent
    for out in (tmp_path / "in", tmp_path, inner, tmp_path / "cwd", Path.home(), program, program / "src"):
        with pytest.raises(UsageError, match="give a folder of its own"):
            run(tmp_path / "in", out)
    with pytest.raises(UsageError, match="is a file; give a folder"):
        run(tmp_path / "in", source)
    assert tree(tmp_path) == ["in/1.png"]


def test_interrupted_run_lists_what_it_has_written(model, tmp_path):
    class Interrupted(Finder):
        def __call__(self, images):
            if self.shapes:
                raise KeyboardInterrupt
            return super().__call__(images)

    model(Interrupted(), fixed=1)
    for number in range(3):
        save(tmp_path / "in" / f"{number}.png", digit_picture(16, 24))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "in", tmp_path / "out")
    assert [row["image_id"] for row in read_json(tmp_path / "out", "predictions.json")] == [0]
    assert len(read_json(tmp_path / "out", "detections.json")["pictures"]) == 1


def test_from_another_folder(model, tmp_path, monkeypatch, capsys):
    """Relative paths are those of the working directory, and nothing is written beside output_dir."""
    model(Finder())
    save(tmp_path / "in" / "1.png", digit_picture(16, 24))
    (tmp_path / "in" / "2.png").write_bytes(b"nothing")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="in/2.png: "):
        run("in", Path("out"))
    assert "in/1.png  240 x 160  " in capsys.readouterr().out
    assert tree(tmp_path / "out" / "annotated") == ["1.png"] and read_json(tmp_path / "out", "predictions.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize(
    "outputs, message",
    [
        (lambda maps: maps[:2], "are not three of"),
        (lambda maps: [m.reshape(len(m), *m.shape[1:3], -1) for m in maps], "are not three of"),
        (lambda maps: [m[..., :7] for m in maps], r"\(n, h, w, 3, 8\); export it again"),
        (lambda maps: [np.full_like(m, np.nan) for m in maps], "are not finite"),
    ],
)
def test_outputs_that_are_no_boxes(model, tmp_path, outputs, message):
    model(lambda images: outputs(empty_maps(len(images))))
    save(tmp_path / "1.png", digit_picture(16, 24))
    with pytest.raises(DataError, match=message):
        run(tmp_path / "1.png", tmp_path / "out")


def test_model_without_decoding_is_refused(model, tmp_path):
    model(Finder(), decoded=False)
    save(tmp_path / "1.png", digit_picture(16, 24))
    with pytest.raises(
        DataError, match="--keep_detect False and gives no boxes; export it again with --keep_detect True"
    ):
        run(tmp_path / "1.png", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"--model_file": ""}, "--model_file is missing"),
        ({"--input": ""}, "--input is missing"),
        ({"--score_threshold": "1.5"}, "score_threshold=1.5: 0 to 1 is accepted"),
        ({"--nms_thresh": "-0.1"}, "nms_thresh=-0.1: 0 to 1 is accepted"),
        ({"--max_detections": "0"}, "max_detections=0: 1 or more is accepted"),
        ({"--per_batch_size": "0"}, "per_batch_size=0: 1 or more is accepted"),
    ],
)
def test_wrong_options(model, options, message):
    model(Finder())
    given = {"--model_file": "a.onnx", "--input": "b", **options}
    with pytest.raises(UsageError, match=message):
        infer.main([token for pair in given.items() for token in pair])


def test_input_that_is_not_there(model, tmp_path):
    model(Finder())
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(DataError, match="does not exist; give a picture"):
        run(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(DataError, match=r"holds no picture; files of the formats JPEG, .*\.mp4.* are accepted"):
        run(tmp_path, tmp_path / "out")


def test_dry_run_writes_nothing(model, tmp_path, capsys):
    finder = model(Finder())
    save(tmp_path / "in" / "1.png", digit_picture(16, 24))
    options = ["--model_file", "a.onnx", "--input", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out")]
    infer.main([*options, "--dry_run", "true"])
    assert finder.shapes == [] and not (tmp_path / "out").exists() and "dry run" in capsys.readouterr().out


def test_size_of_the_input(model, tmp_path):
    """A checkpoint takes any size, an exported model its own one."""
    finder = model(Finder())
    save(tmp_path / "1.png", digit_picture(16, 24))
    run(tmp_path / "1.png", tmp_path / "other", "--testing_shape", "96,64")
    assert finder.shapes == [(1, 3, 96, 64)]
    assert read_json(tmp_path / "other", "detections.json")["input"] == {**SPEC, "height": 96, "width": 64}
    finder = model(Finder(), fixed=1)
    run(tmp_path / "1.png", tmp_path / "same", "--test_img_shape", "64,96")
    with pytest.raises(
        UsageError, match="--test_img_shape 96,64 contradicts stand_in.onnx, which was made for 64,96; leave"
    ):
        run(tmp_path / "1.png", tmp_path / "out", "--test_img_shape", "96,64")
    with pytest.raises(UsageError, match="multiples of 32"):
        run(tmp_path / "1.png", tmp_path / "out", "--testing_shape", "100")


def test_batch_size_of_a_recipe():
    config = read_config(["--model_file", "m.onnx"], "")
    sizes = [prediction.choose_batch_size(config, *case) for case in ((None, 100), (None, None), (None, 3), (1, 3))]
    assert sizes == [prediction.USUAL_BATCH, prediction.USUAL_BATCH, 3, 1]

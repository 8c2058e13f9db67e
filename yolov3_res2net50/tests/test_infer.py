"""infer.py: boxes where the objects are, its files, videos and frames, and what it refuses."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path

import infer
from src.detect import infer as detect_infer
from src.detect import prediction, video
from src.detect.drawing import class_color
from src.model_utils.errors import DataError, UsageError
from src.model_utils.files import whole_file
from src.recipe import read_config

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

NAMES = ["zero", "größe"]  # of three classes
SPEC = {
    "height": 64, "width": 96, "keep_ratio": True, "interpolation": "bilinear",
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "category_ids": [1, 18, 90],
}  # fmt: skip
ABOUT = {"network": {"name": "yolov3_res2net50", "num_classes": 3}, "input": SPEC, "class_names": NAMES}
STRIDES = (32, 16, 8)


def empty_maps(count: int, sides=(64, 96)) -> list[np.ndarray]:
    """Decoded outputs without an object: boxes of 0-1, objectness and three classes."""
    return [np.zeros((count, *(side // stride for side in sides), 3, 8), np.float32) for stride in STRIDES]


class Finder:
    """Stands for the network: it finds the bright part of a picture; and what `boxes` (x, y, w, h, score, class) add."""

    def __init__(self, *boxes: tuple):
        self.boxes, self.shapes = boxes, []

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        assert images.dtype == np.float32
        self.shapes.append(images.shape)
        maps = empty_maps(len(images), images.shape[2:])
        brightness = (images * np.array(SPEC["std"])[:, None, None] + np.array(SPEC["mean"])[:, None, None]).min(axis=1)
        for index, bright in enumerate(brightness > 0.8):
            rows, columns = (np.flatnonzero(bright.any(axis=axis)) for axis in (1, 0))
            if len(rows):
                top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
                box = np.array([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])
                maps[1][index, 1, 2, 0] = [*(box / (images.shape[:1:-1] * 2)), 0.9, 0, 0.8, 0]
            for cell, (x, y, w, h, score, kind) in enumerate(self.boxes):
                maps[2][index, 0, cell, 1] = [x, y, w, h, score, *(float(kind == k) for k in range(3))]
        return tuple(maps)


@pytest.fixture
def model(monkeypatch):
    """Makes infer.py load a stand-in instead of a file."""

    def use(function, fixed=None, **about):
        loaded = (function, {**ABOUT, **about}, fixed)
        monkeypatch.setattr(prediction, "load_model", lambda model, path, config, wrap: loaded)
        return function

    return use


def digit_picture(left: int = 16, top: int = 24, size: int = 64, shape=(160, 240), number: int = 0) -> np.ndarray:
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


def save(path: Path, picture: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(digit_picture() if picture is None else picture).save(path)
    return path


# ---- Boxes and files -------------------------------------------------------------------------------------------------


def test_exact_results_of_known_boxes(model, tmp_path):
    """Picture 192 x 64 in an input of 96 x 64: half the size, 16 rows of border above and below."""
    boxes = [(0.25, 0.5, 0.25, 0.25, 0.75, 2), (0.5, 0.5, 1.0, 1.0, 0.5, 0)]
    suppressed, over_the_limit = (0.26, 0.5, 0.25, 0.25, 0.7, 2), (0.7, 0.5, 0.1, 0.1, 0.25, 1)
    model(Finder(*boxes, suppressed, over_the_limit))
    path, out = save(tmp_path / "in" / "x_000000000042.png", np.zeros((64, 192, 3), np.uint8)), tmp_path / "out"
    options = {"score_threshold": 0.2, "nms_thresh": 0.6, "max_detections": 2}
    assert run(tmp_path / "in", out, *(token for key in options for token in (f"--{key}", options[key]))) == [
        {"image_id": 42, "category_id": 90, "bbox": [24.0, 16.0, 48.0, 32.0], "score": 0.75},
        {"image_id": 42, "category_id": 1, "bbox": [0.0, 0.0, 192.0, 64.0], "score": 0.5},
    ]
    picture = {
        "file": str(path), "image_id": 42, "height": 64, "width": 192,
        "detections": [
            {"class_index": 2, "class_name": "class 2", "score": 0.75, "box": [24.0, 16.0, 72.0, 48.0]},
            {"class_index": 0, "class_name": "zero", "score": 0.5, "box": [0.0, 0.0, 192.0, 64.0]},
        ],
    }  # fmt: skip
    more = run(tmp_path / "in", tmp_path / "more", "--score_threshold", 0.2, "--nms_thresh", 0.95)
    assert [row["score"] for row in more] == pytest.approx([0.75, 0.7, 0.5, 0.25])
    head = {"model": "stand_in.onnx", "network": ABOUT["network"], "input": SPEC, **options}
    assert read_json(out, "detections.json") == {**head, "pictures": [picture], "videos": []}


@pytest.mark.parametrize("keep_ratio", [True, False])
@pytest.mark.parametrize(("shape", "size"), [((240, 160), 64), ((427, 640), 64), ((90, 333), 32)])
def test_box_lies_where_the_digit_is(model, tmp_path, keep_ratio, shape, size):
    model(Finder(), input={**SPEC, "keep_ratio": keep_ratio})
    picture = digit_picture(size=size, shape=shape, number=3)
    save(tmp_path / "digit.png", picture)
    (row,) = run(tmp_path / "digit.png", tmp_path / "out")
    assert row["image_id"] == "digit.png" and row["category_id"] == 18 and row["score"] == pytest.approx(0.72)
    pixel = max(shape[0] / 64, shape[1] / 96)  # of the input, in the picture
    np.testing.assert_allclose(row["bbox"], [16, 24, size, size], atol=1.2 * pixel)
    x, y, w, h = row["bbox"]
    left, top, right, bottom = (round(edge) for edge in (x, y, x + w, y + h))
    shown = np.asarray(Image.open(tmp_path / "out" / "annotated" / "digit.png"))
    assert shown.shape == picture.shape and (shown[bottom - 1, left:right] == class_color(1)).all()
    assert (shown[top + 30 : bottom, [left, right - 1]] == class_color(1)).all()
    np.testing.assert_array_equal(shown[bottom:], picture[bottom:])  # the label lies above


def test_model_gets_whole_batches_of_its_size(model, tmp_path):
    finder = model(Finder(), fixed=2)
    for number in range(5):
        save(tmp_path / "in" / f"{number}.png", digit_picture(10 * number, 20, number=number))
    rows = run(tmp_path / "in", tmp_path / "fixed")
    assert finder.shapes == [(2, 3, 64, 96)] * 3 and [row["image_id"] for row in rows] == [0, 1, 2, 3, 4]
    with pytest.raises(UsageError, match="per_batch_size 3 contradicts"):
        run(tmp_path / "in", tmp_path / "refused", "--batch_size", "3")
    assert not (tmp_path / "refused").exists()
    for options, sizes in (((), [5]), (("--batch_size", "3"), [3, 3]), (("--batch_size", "99"), [5])):
        finder = model(Finder())
        assert run(tmp_path / "in", tmp_path / f"of_{sizes[0]}_{options}", *options) == rows
        assert [shape[0] for shape in finder.shapes] == sizes
    config = read_config(["--model_file", "m.onnx"], "")
    assert [prediction.choose_batch_size(config, None, n) for n in (100, None)] == [prediction.USUAL_BATCH] * 2


def test_size_of_the_input(model, tmp_path):
    """A checkpoint takes any size, an exported model its own one."""
    finder, path = model(Finder()), save(tmp_path / "1.png")
    run(path, tmp_path / "other", "--testing_shape", "96,64")
    assert finder.shapes == [(1, 3, 96, 64)]
    assert read_json(tmp_path / "other", "detections.json")["input"] == {**SPEC, "height": 96, "width": 64}
    model(Finder(), fixed=1)
    run(path, tmp_path / "same", "--test_img_shape", "64,96")
    for shape, message in (
        ("96,64", "--test_img_shape 96,64 contradicts stand_in.onnx, which was made for 64,96; leave"),
        ("100", "multiples of 32"),
    ):
        with pytest.raises(UsageError, match=message):
            run(path, tmp_path / "out", "--test_img_shape", shape)


def test_raw_outputs_are_written_for_postprocess(model, tmp_path):
    model(Finder((0.25, 0.5, 0.25, 0.25, 0.75, 2)))
    save(tmp_path / "in" / "a" / "1.x.png")
    save(tmp_path / "in" / "b" / "1.x.jpg")
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
    rotated = Image.Exif()
    rotated[0x112] = 6  # "turn by 90 degrees clockwise"
    Image.fromarray(np.rot90(digit_picture())).save(tmp_path / "exif.jpg", exif=rotated, quality=95)
    (row,) = run(tmp_path / "exif.jpg", tmp_path / "out")
    np.testing.assert_allclose(row["bbox"], [16, 24, 64, 64], atol=4)
    assert Image.open(tmp_path / "out" / "annotated" / "exif.png").size == (240, 160)


# ---- Names and console -----------------------------------------------------------------------------------------------


def test_image_ids():
    ids = {"COCO_val2014_000000000042.jpg": 42, "7.jpg": 7, "a/8.jpg": "", "b/08.jpg": "", "b/x8_.jpg": "",
           "é_٣.jpg": "", "a_-1.jpg": ""}  # fmt: skip
    expected = [number or file for file, number in ids.items()]
    assert detect_infer.image_ids([Path(file) for file in ids]) == expected


def test_frames_go_in_natural_order(model, tmp_path):
    model(Finder())
    for number in (10, 9, 2, 1):
        save(tmp_path / "frames" / f"frame_{number}.png", digit_picture(4 * number, 20))
    rows = run(tmp_path / "frames", tmp_path / "out")
    assert [row["image_id"] for row in rows] == [1, 2, 9, 10]
    assert (np.diff([row["bbox"][0] for row in rows]) >= 0).all()
    names = [Path(name) for name in ("9", "10", "A2", "a9/x", "a10/x", "b1")]
    assert sorted(reversed(names), key=detect_infer._natural_order) == names


def test_console_line(model, tmp_path, capsys):
    model(Finder((0.2, 0.5, 0.1, 0.1, 0.6, 0), (0.8, 0.5, 0.1, 0.1, 0.5, 0)))
    path = save(tmp_path / "in" / "1.png")
    run(tmp_path / "in", tmp_path / "out")
    assert f"{path}  240 x 160  3 objects: 1 größe (0.72), 2 zero (0.60)\n" in capsys.readouterr().out
    assert run(tmp_path / "in", tmp_path / "none", "--score_threshold", "1") == []
    assert "1.png  240 x 160  no objects\n" in capsys.readouterr().out


def test_model_without_names_and_ids(model, tmp_path, capsys):
    model(Finder(), class_names=None, input={key: value for key, value in SPEC.items() if key != "category_ids"})
    (row,) = run(save(tmp_path / "1.png"), tmp_path / "out")
    assert row["category_id"] == 2 and "does not tell its category ids" in capsys.readouterr().out
    found = read_json(tmp_path / "out", "detections.json")["pictures"][0]["detections"]
    assert found[0]["class_name"] == "class 1"


def test_name_that_is_not_utf_8(model, tmp_path):
    model(Finder())
    (tmp_path / "in").mkdir()
    os.rename(save(tmp_path / "a.png"), tmp_path / "in" / os.fsdecode(b"caf\xe9.png"))
    (row,) = run(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "in" / row["image_id"]).is_file()


# ---- Videos ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A digit that moves to the right over a photograph, 11 frames."""
    path = tmp_path_factory.mktemp("video") / "clip 1.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 12.5, (240, 160))
    for number in range(11):
        writer.write(cv2.cvtColor(digit_picture(8 * number, number=1), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def frames_of(path: Path) -> tuple[list[np.ndarray], float]:
    reader = video.VideoReader(path)
    return list(reader), reader.frame_rate


@pytest.mark.parametrize("can_mp4", [True, False])
def test_video(model, clip, tmp_path, monkeypatch, capsys, can_mp4):
    finder = model(Finder())
    monkeypatch.setattr(detect_infer, "SECONDS_BETWEEN_LINES", 0)
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
    for number, frame in enumerate(frames_of(clip)[0]):
        assert np.abs(frame.astype(int) - digit_picture(8 * number, number=1)).mean() < 6
    x, y, w, h = (round(value) for value in rows[8]["bbox"])
    inside = frames[8][y + h - 1, x + 2 : x + w - 2].astype(int)  # colours suffer in a video
    assert np.abs(inside - class_color(1)).mean() < np.abs(frames[8][y + h + 6, x + 2 : x + w - 2] - inside).mean()
    (entry,) = read_json(tmp_path / "out", "detections.json")["videos"]
    assert entry["file"] == str(clip) and entry["frame_rate"] == 12.5 and len(entry["frames"]) == 11
    assert entry["frames"][3]["detections"][0]["class_name"] == "größe"
    lines = capsys.readouterr().out
    assert f"{clip}  frame 5 of 11  " in lines and f"{clip}  frame 11 of 11  " in lines
    assert detect_infer.progress(Path("a.mp4"), 30, 0, 2.0) == "a.mp4  frame 30  15.0 frames/s"


def test_folder_of_pictures_and_videos(model, clip, tmp_path):
    model(Finder(), fixed=3)
    source, out = tmp_path / "in", tmp_path / "out"
    save(source / "1.png")
    (source / "sub").mkdir()
    for name in ("sub/a.AVI", "sub/a.mkv", "b.mp4"):  # OpenCV looks into the file, not at its name
        (source / name).write_bytes(clip.read_bytes())
    rows = run(source, out)
    files = list(dict.fromkeys(str(row["image_id"]).split("#")[0] for row in rows))
    assert files == ["1", "b.mp4", "sub/a.AVI", "sub/a.mkv"]
    assert len(rows) == 34 and len(list((out / "result_Files").iterdir())) == 3
    annotated = [Path(name).with_suffix("").as_posix() for name in tree(out / "annotated")]
    assert annotated == ["1", "b", "sub/a.AVI", "sub/a.mkv"]


def test_damaged_videos_are_named(model, clip, tmp_path, capsys):
    model(Finder())
    source, content = tmp_path / "in", clip.read_bytes()
    source.mkdir()
    parts = {"empty.mp4": b"", "text_01.mkv": b"no video", "head.avi": content[:4000], "z.avi": content,
             "cut.avi": content[: len(content) // 2]}  # fmt: skip
    for name, part in parts.items():
        (source / name).write_bytes(part)
    with pytest.raises(DataError, match=r"^3 of 5 file\(s\) could not be read") as error:
        run(source, tmp_path / "out")
    message = str(error.value)
    assert "empty.mp4: empty file" in message and "text_01.mkv: not a video that OpenCV can read" in message
    assert "head.avi: " in message and "cut.avi" not in message
    videos = {Path(entry["file"]).name: entry for entry in read_json(tmp_path / "out", "detections.json")["videos"]}
    assert list(videos) == ["cut.avi", "z.avi"] and len(videos["z.avi"]["frames"]) == 11
    assert 0 < len(videos["cut.avi"]["frames"]) < 11
    assert "cut.avi promises 11 frames and ends after" in capsys.readouterr().out


def test_odd_and_changing_sizes_of_frames(tmp_path, monkeypatch):
    writer = video.VideoWriter(tmp_path / "odd", 5.0)
    picture = digit_picture(20, 20, 64, (125, 187))
    for frame in (picture, picture, digit_picture(20, 20, 64, (150, 200))):
        writer.write(frame)
    writer.close()
    frames, _ = frames_of(writer.path)
    assert [frame.shape for frame in frames] == [(126, 188, 3)] * 3
    assert np.abs(frames[0][:125, :187].astype(int) - picture).mean() < 12
    monkeypatch.setattr(video, "WRITERS", ((".mp4", "none"), (".avi", "none")))
    with pytest.raises(DataError, match="neither as .mp4 nor as .avi"):
        video.VideoWriter(tmp_path / "none", 5.0).write(picture)


# ---- Folders and bad input -------------------------------------------------------------------------------------------


def test_damaged_pictures_are_named_and_the_others_done(model, tmp_path, monkeypatch, capsys):
    """Relative paths are those of the working directory, and nothing is written beside output_dir."""
    monkeypatch.chdir(tmp_path)
    model(Finder(), fixed=2)
    sound = save(Path("in/5_sound.jpg")).read_bytes()
    damaged = {"1_empty.jpg": b"", "2_text.png": b"no picture", "3_head.jpg": sound[:100]}
    for name, content in damaged.items():
        Path("in", name).write_bytes(content)
    save(Path("in/9.png"))
    with pytest.raises(DataError, match=r"^3 of 5 file\(s\) could not be read and have no result:") as error:
        run("in", Path("out"))
    assert all(f"\n    in/{name}: " in str(error.value) for name in damaged)
    assert [row["image_id"] for row in read_json(Path("out"), "predictions.json")] == ["5_sound.jpg", 9]
    assert tree(Path("out/annotated")) == ["5_sound.png", "9.png"]
    assert "in/9.png  240 x 160  " in capsys.readouterr().out and sorted(os.listdir()) == ["in", "out"]


def test_what_is_no_regular_file_is_not_waited_for(model, tmp_path):
    model(Finder())
    save(tmp_path / "in" / "1.png")
    for name in ("2.jpg", "3.mp4"):
        os.mkfifo(tmp_path / "in" / name)
    with pytest.raises(DataError, match=r"^2 of 3 file\(s\) could not be read") as error:
        run(tmp_path / "in", tmp_path / "out")
    assert str(error.value).count("a named pipe, not a regular file") == 2
    assert [row["image_id"] for row in read_json(tmp_path / "out", "predictions.json")] == [1]


@pytest.mark.parametrize("victim", ["result_Files/2_1.bin", "annotated/2.png", "detections.json", "predictions.json"])
def test_a_full_disk_is_named_and_leaves_no_half_file(model, tmp_path, monkeypatch, victim):
    """A disk without space from a file on; what had been written is whole."""
    model(Finder(), fixed=1)
    for number in (1, 2, 3):
        save(tmp_path / "in" / f"{number}.png")
    is_full = False

    @contextlib.contextmanager
    def on_a_full_disk(path):
        nonlocal is_full
        with whole_file(path) as temporary:
            yield temporary
            is_full = is_full or str(path).endswith(victim)
            if is_full:
                temporary.write_bytes(temporary.read_bytes()[:10])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(temporary))

    monkeypatch.setattr(detect_infer, "whole_file", on_a_full_disk)
    with pytest.raises(DataError, match=f"{victim} cannot be written: No space left on device"):
        run(tmp_path / "in", tmp_path / "out")
    left = tree(tmp_path / "out")
    assert victim not in left and not any(Path(name).name.startswith(".") for name in left)
    expected = [f"result_Files/1_{level}.bin" for level in range(3)] + ["annotated/1.png"]
    assert set(expected) <= set(left) and "predictions.json" not in left


@pytest.mark.parametrize(
    "wrong",
    [
        {"score_threshold": "nan"}, {"nms_thresh": 2}, {"max_detections": 0}, {"per_batch_size": 0}, {"per_batch_size": 3},
        {"testing_shape": 100}, {"test_img_shape": "32,32"}, {"input": "absent"}, {"input": "*.none"}, {"num_classes": "x"},
        {"device_target": "TPU"}, {"no_such_key": 1},
    ],
)  # fmt: skip
def test_earlier_results_stay_where_arguments_are_wrong(model, tmp_path, monkeypatch, wrong):
    monkeypatch.chdir(tmp_path)
    model(Finder(), fixed=2)
    run(save(tmp_path / "1.png"), tmp_path / "out")
    before = {name: (tmp_path / "out" / name).read_bytes() for name in tree(tmp_path / "out")}
    with pytest.raises((UsageError, DataError)):
        run(tmp_path / "1.png", tmp_path / "out", *(f"--{key}={value}" for key, value in wrong.items()))
    assert [path.name for path in tmp_path.glob("out*")] == ["out"]
    assert before == {name: (tmp_path / "out" / name).read_bytes() for name in tree(tmp_path / "out")}


def test_old_results_are_set_aside_and_not_read(model, tmp_path):
    model(Finder())
    out = tmp_path / "in" / "out"
    save(tmp_path / "in" / "1.png")
    for _ in range(2):
        assert [row["image_id"] for row in run(tmp_path / "in", out)] == [1]
    (aside,) = (tmp_path / "in").glob("out_*")
    assert (aside / "annotated" / "1.png").is_file()
    with pytest.raises(UsageError, match="give a folder of its own"):
        run(tmp_path / "in", tmp_path)


def test_interrupted_run_lists_what_it_has_written(model, tmp_path):
    class Interrupted(Finder):
        def __call__(self, images):
            if self.shapes:
                raise KeyboardInterrupt
            return super().__call__(images)

    model(Interrupted(), fixed=1)
    for number in range(3):
        save(tmp_path / "in" / f"{number}.png")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "in", tmp_path / "out")
    assert [row["image_id"] for row in read_json(tmp_path / "out", "predictions.json")] == [0]
    assert len(read_json(tmp_path / "out", "detections.json")["pictures"]) == 1


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
    with pytest.raises(DataError, match=message):
        run(save(tmp_path / "1.png"), tmp_path / "out")


@pytest.mark.parametrize(
    "error, option, value, message",
    [
        (UsageError, "model_file", "", "--model_file is missing"),
        (UsageError, "input", "", "--input is missing"),
        (UsageError, "score_threshold", "1.5", "score_threshold=1.5: 0 to 1 is accepted"),
        (UsageError, "nms_thresh", "-0.1", "nms_thresh=-0.1: 0 to 1 is accepted"),
        (UsageError, "max_detections", "0", "max_detections=0: 1 or more is accepted"),
        (UsageError, "per_batch_size", "0", "per_batch_size=0: 1 or more is accepted"),
        (DataError, "input", "absent", "does not exist; give a picture"),
        (DataError, "input", ".", r"holds no picture; files of the formats JPEG, .*\.mp4.* are accepted"),
    ],
)
def test_wrong_options(model, tmp_path, monkeypatch, error, option, value, message):
    monkeypatch.chdir(tmp_path)
    model(Finder())
    with pytest.raises(error, match=message):
        run("b", tmp_path / "out", f"--{option}", value)


def test_dry_run_writes_nothing(model, tmp_path, capsys):
    finder = model(Finder())
    with pytest.raises(FileNotFoundError):  # there are no predictions
        run(save(tmp_path / "1.png"), tmp_path / "out", "--dry_run", "true")
    assert finder.shapes == [] and not (tmp_path / "out").exists() and "dry run" in capsys.readouterr().out

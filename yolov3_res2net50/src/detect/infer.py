"""Find objects in pictures and videos with a trained or exported model: pictures with boxes, and a folder of results.

    python infer.py --model_file MODEL.onnx --input pictures --output_dir infer_result --score_threshold 0.3

The model is a .mindir, .onnx or .ckpt file; the input a picture, a video (.mp4 .avi .mov .mkv), a folder (with its
sub-folders; frames in their natural order) or a pattern, which quotation marks protect from the shell:
'pictures/**/*.jpg'. Written, in output_dir only:
    predictions.json              a list in COCO's result format: image_id, category_id, bbox (x, y, width, height), score
    detections.json               model, network, input, and for each picture and frame: class names, scores, boxes
    annotated/<picture>.png       each picture with its boxes; annotated/<video>.mp4 (.avi) at the video's frame rate
    result_Files/<picture>_0.bin  and _1, _2: the network's decoded outputs, float32 (h, w, 3, 5 + classes), for
                                  postprocess.py; 3.6 MB a picture of 416 pixels and 80 classes, none of videos. The
                                  name is the picture's without ending, with its folders before it (cat__1_0.bin) where
                                  several pictures share that name

The image_id is the number at the end of the name, after the last underscore (COCO_val2014_000000000042.jpg: 42), where no
other picture of the run has the same; else the file name relative to the input. A frame of a video has
"<file name>#<frame>", counted from 0. Boxes are in pixels of the upright picture in its own size.
An output_dir that holds something is renamed with a time stamp first. Exit status: 0 everything was read, 1 a file was
damaged (the others are done) or something else is wrong with files, 2 wrong usage.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.pictures import read_picture
from ..model_utils import device_adapter
from ..model_utils.config import Config
from ..model_utils.errors import DataError, UsageError, require_range
from ..model_utils.files import whole_file
from ..model_utils.image_folder import ENDINGS
from ..model_utils.logger import get_logger, init_logger
from ..model_utils.model import Model
from ..model_utils.picture_check import FORMATS, MAX_PIXELS
from ..model_utils.picture_files import find_pictures, fresh_folder, refuse_unsafe_output, result_names, unique_names
from . import video
from .boxes import Detections
from .coco_eval import to_results
from .drawing import draw_boxes
from .prediction import PLAIN_WEIGHTS, Found, Predictor, load_predictor

SHOWN = (  # sections and keys of the recipe in --help
    "Inference", "max_pixels", "nms_thresh", "max_detections", "per_batch_size", "testing_shape", "test_img_shape", "Device",
    *PLAIN_WEIGHTS,
)  # fmt: skip
SECONDS_BETWEEN_LINES = 5.0  # of the progress in a video

# ---- Which files -----------------------------------------------------------------------------------------------------


def find_inputs(text: str) -> tuple[Path, list[Path], list[Path]]:
    """A folder, and the pictures and the videos relative to it, each in natural order: frame_2 before frame_10."""
    root, files = find_pictures(text, (*ENDINGS, *video.ENDINGS), (*FORMATS, *video.ENDINGS))
    files.sort(key=_natural_order)
    is_video = [file.suffix.lower() in video.ENDINGS for file in files]
    pictures, videos = ([file for file, kind in zip(files, is_video) if kind is wanted] for wanted in (False, True))
    return root, pictures, videos


def _natural_order(file: Path) -> tuple[list[int | str], str]:
    parts = re.split("([0-9]+)", file.as_posix())  # text and numbers in turn
    return [int(part) if index % 2 else part.casefold() for index, part in enumerate(parts)], str(file)


def image_ids(files: Sequence[Path]) -> list[int | str]:
    """COCO's integer at the end of each name where it is unique, else the name with its folders."""
    ends = [file.stem.rpartition("_")[2] for file in files]
    numbers = [int(end) if re.fullmatch("[0-9]{1,18}", end) else None for end in ends]
    counts = Counter(numbers)
    return [file.as_posix() if number is None or counts[number] > 1 else number for file, number in zip(files, numbers)]


def sound_pictures(
    paths: Sequence[Path], failures: dict[Path, str], max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[int, np.ndarray]]:
    """Index and picture (H, W, 3) uint8 RGB of each file that can be read; `failures` receives the others' faults."""
    for index, path in enumerate(paths):
        try:
            yield index, read_picture(path, max_pixels=max_pixels)
        except (ValueError, OSError) as error:
            failures[path] = getattr(error, "strerror", None) or str(error)


# ---- Results ---------------------------------------------------------------------------------------------------------


class Results:
    """Writes what was found into the output folder."""

    def __init__(
        self, folder: Path, root: Path, pictures: Sequence[Path], videos: Sequence[Path], predictor: Predictor
    ):
        self.folder, self.root, self.files, self.predictor = folder, root, pictures, predictor
        self.coco: list[dict[str, Any]] = []
        self.pictures: list[dict[str, Any]] = []
        self.videos: list[dict[str, Any]] = []
        self.ids, self.stems = image_ids(pictures), result_names(pictures)
        self.names = unique_names(pictures, [lambda file: str(file.with_suffix(".png")), lambda file: f"{file}.png"])
        self.video_names = dict(zip(videos, unique_names(videos, [lambda file: str(file.with_suffix("")), str])))
        self.categories = predictor.category_ids()

    def add_picture(self, found: Found) -> None:
        for number, output in enumerate(found.outputs):
            with whole_file(self.folder / "result_Files" / f"{self.stems[found.index]}_{number}.bin") as file:
                output.astype("<f4").tofile(file)
        with whole_file(self._annotated(self.names[found.index])) as file:
            Image.fromarray(self.draw(found)).save(file)
        path, image_id = self.root / self.files[found.index], self.ids[found.index]
        size = {"height": found.picture.shape[0], "width": found.picture.shape[1]}
        self.pictures.append(
            {"file": str(path), "image_id": image_id, **size, "detections": self._add(found, image_id)}
        )
        print(f"{path}  {size['width']} x {size['height']}  {self.summary(found.detections)}", flush=True)

    def add_video(self, file: Path, frame_rate: float) -> tuple[video.VideoWriter, list[dict[str, Any]]]:
        """Where the drawn frames of a video go, and the list of its frames for `add_frame`."""
        writer = video.VideoWriter(self._annotated(self.video_names[file]), frame_rate)
        frames: list[dict[str, Any]] = []
        self.videos.append({"file": str(self.root / file), "frame_rate": frame_rate, "frames": frames})
        return writer, frames

    def add_frame(self, frames: list[dict[str, Any]], file: Path, found: Found) -> None:
        image_id = f"{file.as_posix()}#{found.index}"
        frames.append({"image_id": image_id, "detections": self._add(found, image_id)})

    def draw(self, found: Found) -> np.ndarray:
        """The picture with its boxes, (H, W, 3) uint8 RGB."""
        boxes, scores, classes = found.detections
        labels = [f"{self.predictor.class_name(index)} {score:.2f}" for index, score in zip(classes, scores)]
        return draw_boxes(found.picture, boxes, labels, classes)

    def summary(self, detections: Detections) -> str:
        """How many of which classes, the surest first: `3 objects: 2 person (0.98), 1 dog (0.75)`."""
        count, best = (
            Counter(detections.classes.tolist()),
            dict(zip(detections.classes[::-1].tolist(), detections.scores[::-1])),
        )
        parts = [f"{count[index]} {self.predictor.class_name(index)} ({best[index]:.2f})" for index in count]
        total = len(detections.scores)
        return f"{total or 'no'} object{'' if total == 1 else 's'}" + (f": {', '.join(parts)}" if parts else "")

    def write(self, model_file: str) -> None:
        """The two JSON files."""
        about, limits = self.predictor.about, self.predictor
        head = {
            "model": model_file,
            "network": about["network"],
            "input": about["input"],
            "score_threshold": limits.score_threshold,
            "nms_thresh": limits.nms_threshold,
            "max_detections": limits.limit,
        }
        text = json.dumps({**head, "pictures": self.pictures, "videos": self.videos}, indent=1, ensure_ascii=False)
        self._write("detections.json", text)
        rows = [json.dumps(row, ensure_ascii=False) for row in self.coco]
        self._write("predictions.json", "[" + ",\n".join(rows) + "]")

    def _add(self, found: Found, image_id: int | str) -> list[dict[str, Any]]:
        self.coco += to_results(found.detections, image_id, self.categories)
        return [
            {
                "class_index": int(index),
                "class_name": self.predictor.class_name(index),
                "score": float(score),
                "box": box,
            }
            for box, score, index in zip(found.detections.boxes.tolist(), *found.detections[1:])
        ]

    def _annotated(self, name: str) -> Path:
        target = self.folder / "annotated" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _write(self, name: str, text: str) -> None:
        # A file name that is not UTF-8 becomes a JSON escape, with which Python finds the file again.
        with whole_file(self.folder / name) as file:
            file.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def detect_video(predictor: Predictor, file: Path, results: Results) -> None:
    """Draw and record the frames of a video.

    Raises:
        UnreadableVideo: there is no frame that can be read.
        DataError: the drawn video cannot be written.
    """
    path = results.root / file
    frames_in = video.VideoReader(path)
    writer, frames = results.add_video(file, frames_in.frame_rate)
    start = last_line = time.monotonic()
    try:
        for found in predictor(enumerate(frames_in)):
            writer.write(results.draw(found))
            results.add_frame(frames, file, found)
            if time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
                last_line = time.monotonic()
                get_logger().info(progress(path, len(frames), frames_in.announced, last_line - start))
    finally:
        writer.close()
    get_logger().info(progress(path, len(frames), frames_in.announced, time.monotonic() - start))
    if len(frames) < frames_in.announced:
        get_logger().info("notice: %s promises %d frames and ends after %d", path, frames_in.announced, len(frames))


def progress(path: Path, done: int, announced: int, seconds: float) -> str:
    of = f" of {announced}" if announced else ""
    return f"{path}  frame {done}{of}  {done / max(seconds, 1e-9):.1f} frames/s"


# ---- Program ---------------------------------------------------------------------------------------------------------


def check_options(config: Config) -> None:
    """Raise UsageError for what cannot be, before the model is loaded."""
    if not config.model_file:
        raise UsageError("--model_file is missing; give a .mindir, .onnx or .ckpt file")
    if not config.input:
        raise UsageError("--input is missing; give a picture, a video, a folder or a pattern such as 'dir/*.jpg'")
    require_range(low=0, high=1, score_threshold=config.score_threshold, nms_thresh=config.nms_thresh)
    require_range(low=1, max_detections=config.max_detections, per_batch_size=config.per_batch_size)


def run(model: Model, argv: list[str] | None = None) -> None:
    """The program infer.py."""
    config = model.read_config(argv, __doc__, SHOWN)
    check_options(config)
    if hasattr(sys.stdout, "reconfigure"):  # a name that the console cannot show is no reason to stop
        sys.stdout.reconfigure(errors="backslashreplace")
    logger = init_logger(None, "infer.log")
    root, pictures, videos = find_inputs(config.input)
    paths, output = [root / file for file in pictures], Path(config.output_dir)
    refuse_unsafe_output(output, [Path(config.model_file), *paths, *(root / file for file in videos)])
    if Path(config.model_file).suffix != ".onnx":  # ONNX Runtime needs no device of MindSpore
        device_adapter.init(config, distributed=False)
    predictor = load_predictor(model, config, None if videos else len(pictures))
    if config.dry_run:
        logger.info("dry run: everything was built, none of the %d file(s) was read", len(pictures) + len(videos))
        return
    results, failures = Results(output, root, pictures, videos, predictor), {}
    fresh_folder(output)
    try:
        for found in predictor(sound_pictures(paths, failures, config.max_pixels)):
            results.add_picture(found)
        for file in videos:
            try:
                detect_video(predictor, file, results)
            except video.UnreadableVideo as error:
                failures[root / file] = str(error)
    except BaseException:
        with contextlib.suppress(DataError):  # such as on a full disk: the first error says it
            results.write(config.model_file)
        raise
    results.write(config.model_file)
    logger.info("results of %d picture(s) and %d video(s): %s", len(results.pictures), len(results.videos), output)
    if failures:
        named = "".join(f"\n    {path}: {reason}" for path, reason in failures.items())
        total = len(pictures) + len(videos)
        raise DataError(f"{len(failures)} of {total} file(s) could not be read and have no result:{named}")

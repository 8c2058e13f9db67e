"""From pictures to boxes with a trained or exported model."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple

import numpy as np

from ..dataset import eval_transform, parse_shape
from ..model_utils.config import Config
from ..model_utils.errors import DataError, UsageError
from ..model_utils.inference import load_model
from ..model_utils.logger import get_logger
from ..model_utils.model import Model
from ..yolo import Detector
from .boxes import Detections, detect, place

# Sections and keys of the recipe that tell what a checkpoint without a description does not.
PLAIN_WEIGHTS = (
    "Network", "num_classes", "category_ids", "keep_ratio", "interpolation", "mean", "std", "allow_partial_load", "class_names"
)  # fmt: skip
USUAL_BATCH = 8  # images of a call, where neither the model nor the command line says otherwise


class Found(NamedTuple):
    """What is known of a picture (H, W, 3): its number, the network's outputs (h, w, 3, 5 + C) each, and its boxes."""

    index: int
    picture: np.ndarray
    outputs: list[np.ndarray]
    detections: Detections


@dataclass(frozen=True)
class Predictor:
    """A model with its preprocessing and postprocessing.

    Attributes:
        model: (batch_size, 3, H, W) float32 to three arrays (batch_size, h, w, 3, 5 + C) of decoded boxes.
        about: its description.
        batch_size: a shorter last batch is padded.
        score_threshold, nms_threshold: 0-1.
        limit: detections of a picture, at most.
    """

    model: Callable[[np.ndarray], Sequence[np.ndarray]]
    about: dict[str, Any]
    batch_size: int
    score_threshold: float
    nms_threshold: float
    limit: int

    def __call__(self, pictures: Iterable[tuple[int, np.ndarray]]) -> Iterator[Found]:
        """The boxes of numbered pictures, in order; they are read a batch at a time."""
        remaining = iter(pictures)
        while batch := list(itertools.islice(remaining, self.batch_size)):
            images = [eval_transform(picture, self.about["input"]) for _, picture in batch]
            padded = np.zeros((self.batch_size, *images[0].shape), np.float32)
            padded[: len(images)] = images
            outputs = self._checked(self.model(padded), len(batch))
            for number, (index, picture) in enumerate(batch):
                maps = [output[number] for output in outputs]
                yield Found(index, picture, maps, self._detections(maps, picture.shape[:2]))

    def _detections(self, maps: list[np.ndarray], size: tuple[int, int]) -> Detections:
        spec = self.about["input"]
        sides = (spec["height"], spec["width"])
        placement = place(size, sides, spec["keep_ratio"])
        return detect(maps, placement, size, sides, self.score_threshold, self.nms_threshold, self.limit)

    def _checked(self, outputs: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
        """The outputs of the first `count` images; DataError where they are no finite decoded boxes."""
        outputs = [np.asarray(output)[:count] for output in outputs]
        channels = 5 + self.about["network"]["num_classes"]
        if len(outputs) != 3 or any(output.ndim != 5 or output.shape[3:] != (3, channels) for output in outputs):
            shapes = ", ".join(str(output.shape) for output in outputs)
            raise DataError(f"the model's outputs {shapes} are not three of (n, h, w, 3, {channels}); export it again")
        if not all(np.isfinite(output).all() for output in outputs):
            raise DataError("the network's outputs are not finite; give another model file")
        return outputs

    def class_name(self, index: int) -> str:
        names = self.about.get("class_names") or []
        return names[index] if index < len(names) else f"class {index}"

    def category_ids(self) -> list[int]:
        """COCO's category of each class; that of the training data where it is known, else index + 1."""
        stored, classes = self.about["input"].get("category_ids") or [], self.about["network"]["num_classes"]
        if len(stored) == classes:
            return list(stored)
        get_logger().info("notice: the model does not tell its category ids; predictions.json has class index + 1")
        return list(range(1, classes + 1))


def load_predictor(model: Model, config: Config, pictures: int | None) -> Predictor:
    """The predictor of the command line; `pictures` is how many there will be, None where that is not known.

    Raises:
        UsageError: an input size or a batch size that the model was not made for.
        DataError: a model that was exported without the decoding of its boxes.
    """
    network, about, fixed = load_model(model, config.model_file, config, Detector)
    if not about.get("decoded", True):
        problem = f"model_file={config.model_file} was exported with --keep_detect False and gives no boxes"
        raise DataError(f"{problem}; export it again with --keep_detect True")
    about = {**about, "input": with_size(config, about["input"], is_fixed=fixed is not None)}
    batch_size = choose_batch_size(config, fixed, pictures)
    return Predictor(network, about, batch_size, config.score_threshold, config.nms_thresh, config.max_detections)


def choose_batch_size(config: Config, fixed: int | None, pictures: int | None) -> int:
    """The batch size of the model, else that of the command line or a usual one, at most the number of pictures."""
    given = "per_batch_size" in config.given
    if fixed is None:
        usual = config.per_batch_size if given else min(config.per_batch_size, USUAL_BATCH)
        return min(usual, pictures or usual)
    if given and config.per_batch_size != fixed:
        problem = (
            f"--per_batch_size {config.per_batch_size} contradicts {config.model_file}, which was made for {fixed}"
        )
        raise UsageError(f"{problem}; leave the option out")
    return fixed


def with_size(config: Config, spec: dict[str, Any], is_fixed: bool) -> dict[str, Any]:
    """The model's input in the size of the command line, where that names one: a checkpoint takes any."""
    for key in ("testing_shape", "test_img_shape"):
        if key in config.given and config[key]:
            height, width = parse_shape(key, config[key])
            made_for = f"{spec['height']},{spec['width']}"
            if is_fixed and (height, width) != (spec["height"], spec["width"]):
                problem = f"--{key} {height},{width} contradicts {config.model_file}, which was made for {made_for}"
                raise UsageError(f"{problem}; leave the option out")
            return {**spec, "height": height, "width": width}
    return spec

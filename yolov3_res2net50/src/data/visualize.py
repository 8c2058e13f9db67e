"""Pictures of training batches with their boxes: to see that augmentation and targets belong together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..dataset import create_dataset, input_spec
from ..model_utils.config import Config
from ..model_utils.device_adapter import Device
from .targets import FIELDS

COLUMNS = 4
MARGIN = 4  # pixels around each image


def write_batches(config: Config, device: Device, class_names: list[str], folder: str | Path, count: int) -> list[Path]:
    """Write the first training batches of epoch 1 as this rank gets them, one PNG each.

    What is drawn comes from the columns that the network is trained with: the image with the normalisation undone, and the
    boxes and classes of the target rows. A box that shares its cell and anchor with another one is drawn as well.

    Args:
        config: recipe.
        device: rank and size.
        class_names: in the order of the class indices.
        folder: is made where it is missing; files of the same names are replaced.
        count: batches, at most those of the epoch.

    Returns:
        The files batch_<number>.png, with batch_<rank>_<number>.png on ranks above 0.
    """
    spec = input_spec(config)
    dataset = create_dataset(config, "train", device, class_names)
    folder, written = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    for number, (images, targets) in enumerate(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True), start=1):
        if number > count:
            break
        pictures = [draw_targets(*pair, class_names, spec["mean"], spec["std"]) for pair in zip(images, targets)]
        written.append(folder / f"batch_{f'{device.rank}_' * (device.rank > 0)}{number}.png")
        Image.fromarray(contact_sheet(pictures)).save(written[-1])
    return written


def draw_targets(
    image: np.ndarray, target: np.ndarray, class_names: list[str], mean: list[float], std: list[float]
) -> np.ndarray:
    """One training image (3, H, W) float32 with the boxes of its target rows (max_box, 7 + C), as (H, W, 3) uint8 RGB."""
    from ..detect.drawing import draw_boxes

    picture = to_picture(image, mean, std)
    boxes, classes = decode_targets(target, picture.shape[:2])
    labels = [class_names[index] if index < len(class_names) else str(index) for index in classes.tolist()]
    return draw_boxes(picture, boxes, labels, classes.tolist())


def to_picture(image: np.ndarray, mean: list[float], std: list[float]) -> np.ndarray:
    """A network's input (3, H, W) float32 as the picture (H, W, 3) uint8 RGB that it was."""
    values = image.transpose(1, 2, 0) * np.array(std) + np.array(mean)  # (H, W, 3), 0-1
    return np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)


def decode_targets(target: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) x1, y1, x2, y2 in pixels and classes (n,) of target rows (max_box, 7 + C), for height and width `size`."""
    rows = target[target[:, 4] > 0]  # with a width
    centres, sides = rows[:, 2:4] * size[::-1], rows[:, 4:6] * size[::-1]
    return np.concatenate([centres - sides / 2, centres + sides / 2], axis=1), rows[:, FIELDS:].argmax(axis=1)


def contact_sheet(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures of one size (H, W, 3) side by side, uint8, on white."""
    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    height, width = (side + 2 * MARGIN for side in pictures[0].shape[:2])
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // columns * height + MARGIN, number % columns * width + MARGIN
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet

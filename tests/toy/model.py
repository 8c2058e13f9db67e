"""The toy model: one convolution block, a spatial mean and a dense layer; it learns the digits a little in a second."""

from __future__ import annotations

from pathlib import Path

from model_utils.checkpoint import CheckpointFolder
from model_utils.classification.evaluation import METRIC, evaluate
from model_utils.classification.pipeline import build_pipeline, count_image_folder, image_folder, image_positions
from model_utils.classification.transforms import (
    classifier_input,
    eval_transforms,
    random_color,
    random_crop,
    random_flip,
    to_input,
)
from model_utils.config import get_config
from model_utils.dataset_checks import check_image_folder
from model_utils.errors import UsageError
from model_utils.layers import ConvBlock, spatial_mean
from model_utils.model import Lines, Model

import mindspore as ms
from mindspore import nn
from mindspore.common.initializer import Normal
from mindspore.dataset import vision

FOLDER = Path(__file__).resolve().parent
ALIASES = {"epoch_size": "epochs", "lr_init": "lr"}


class ToyNet(nn.Cell):
    """(N, 3, H, W) images to (N, num_classes) logits."""

    def __init__(self, num_classes: int, width: int, activation: str):
        super().__init__()
        self.stem = ConvBlock(3, width, 3, 2, activation)
        self.body = ConvBlock(width, 2 * width, 3, 2, activation)
        self.mean = spatial_mean()
        self.fc = nn.Dense(2 * width, num_classes, weight_init=Normal(0.01), bias_init="zeros")

    def construct(self, images):
        x = self.mean(self.body(self.stem(images)))
        return self.fc(x.reshape((x.shape[0], -1))).astype(ms.float32)


def read_config(argv, description, shown=None):
    return get_config(FOLDER / "default_config.yaml", argv, aliases=ALIASES, description=description, shown=shown)


def describe_network(config):
    keys = ("num_classes", "width", "activation")
    return {"name": "toy", **{key: config[key] for key in keys}}


def build_network(network):
    try:
        return ToyNet(network["num_classes"], network["width"], network["activation"])
    except ValueError as error:
        raise UsageError(str(error)) from error


def is_head(name):
    return name.startswith("fc.")


def input_spec(config):
    keys = ("image_height", "image_width", "crop_ratio", "interpolation", "mean", "std")
    return classifier_input(smallest=4, **{key: config[key] for key in keys})


def data_dir(config, split):
    return config.train_data_dir if split == "train" else config.val_data_dir


def find_classes(config, split, device):
    return check_image_folder(
        data_dir(config, split),
        config.num_classes if split == "train" else None,
        check_images=config.check_images,
        max_pixels=config.max_pixels,
        shard=(device.rank, device.size),
        counterpart=config.val_data_dir if split == "train" else "",
    )


def count_images(config, split):
    return count_image_folder(data_dir(config, split))


def create_dataset(config, split, device, class_names, **progress):
    if split == "train":
        augment = random_flip(config.flip_prob) + random_color(config.color_jitter)
        crop = random_crop(config.image_height, config.image_width, config.crop_scale)
        operators = [*crop, *augment, *to_input(input_spec(config))]
    else:
        operators = [vision.Decode(), *eval_transforms(input_spec(config))]

    def source(sampler, workers):
        return image_folder(data_dir(config, split), class_names, sampler=sampler, num_parallel_workers=workers)

    images = image_positions(data_dir(config, split))
    return build_pipeline(source, images, operators, config, device, split=split, **progress)


def validate(config, network, device, class_names):
    dataset = create_dataset(config, "val", device, class_names)
    smoothing = config.label_smooth_factor * config.use_label_smooth
    totals = evaluate(network, dataset, config.batch_size, count_images(config, "val"), device, smoothing)
    return totals.metrics()


def checkpoint_folder(config, device):
    return CheckpointFolder(config.ckpt_save_dir, "toy", config.keep_checkpoint_max)


def saves_checkpoints(config, device):
    return device.is_main


MODEL = Model(
    name="toy",
    read_config=read_config,
    describe_network=describe_network,
    build_network=build_network,
    is_head=is_head,
    input_spec=input_spec,
    find_classes=find_classes,
    count_images=count_images,
    create_dataset=create_dataset,
    validate=validate,
    metric=METRIC,
    checkpoint_folder=checkpoint_folder,
    saves_checkpoints=saves_checkpoints,
    lines=Lines(epoch="toy epoch {epoch} loss {loss:.3f}", step="toy step {step}", result="toy result {total}"),
)

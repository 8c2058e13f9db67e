"""One rank of the jobs in test_distributed.py: writes what it has seen and computed to ranks/<rank>.npz in --run_dir."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from model_utils import device_adapter
from model_utils.callbacks import Interrupt
from model_utils.classification.evaluation import evaluate
from model_utils.classification.loss import smoothed_cross_entropy
from model_utils.classification.pipeline import build_pipeline
from model_utils.config import Config
from model_utils.device_adapter import Device
from model_utils.progress import Position
from model_utils.train_step import TrainStep

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
from mindspore import Tensor, nn, ops
from sklearn.datasets import load_digits

IMAGES, ODD_IMAGES, GLOBAL_BATCH, STEPS = 320, 317, 32, 20  # two epochs of ten steps
COUNTS = {1: (3,), 2: (3, 20000), 4: (3, 0, 9000, 1)}  # rows that each rank gives, by the number of ranks
WIDTH = 9  # values of a row


class Network(nn.Cell):
    """3x3 convolution and a dense layer; without batch norm, whose statistics are those of a rank's own images."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, pad_mode="pad", padding=1, has_bias=True)
        self.last = nn.Dense(4 * 64, 10)

    def construct(self, x):
        x = ops.relu(self.conv(x))
        return self.last(x.reshape((x.shape[0], -1)))


def rows_of(rank: int, size: int) -> np.ndarray:
    """What a rank gives to Device.gather, (n, WIDTH) float32."""
    return np.random.default_rng(rank).normal(size=(COUNTS[size][rank], WIDTH)).astype(np.float32)


def to_image(image: np.ndarray) -> np.ndarray:
    """(8, 8) of 0-16 to (1, 8, 8) of 0-1, float32."""
    return (image[None] / 16).astype(np.float32)


def batches(device: Device, images: int, split: str, *, epoch: int = 1, numbered: bool = False) -> ds.Dataset:
    """This rank's batches of the first `images` digits; with `numbered` their indices stand in place of the labels."""
    batch_size = GLOBAL_BATCH // (device.size if split == "train" else 2)
    config = Config({"seed": 5, "batch_size": batch_size, "accumulate_steps": 1, "num_classes": 10,
                     "num_parallel_workers": 1})  # fmt: skip
    digits = load_digits()
    labels = np.arange(images) if numbered else digits.target[:images]

    def source(sampler: ds.Sampler, workers: int) -> ds.Dataset:
        columns = (digits.images[:images].astype(np.float32), labels.astype(np.int32))
        return ds.NumpySlicesDataset(columns, ["image", "label"], sampler=sampler, num_parallel_workers=workers)

    return build_pipeline(source, range(images), [to_image], config, device, split=split, epoch=epoch)


def indices(device: Device, images: int, split: str, epoch: int = 1) -> list[np.ndarray]:
    """The digits of each of this rank's batches."""
    dataset = batches(device, images, split, epoch=epoch, numbered=True)
    return [labels for _, labels in dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)]


def train(device: Device, found: dict[str, np.ndarray]) -> None:
    """Two epochs; the weights and the loss after each step go to `found`."""
    ms.set_seed(3)
    network = Network().set_train()
    optimizer = nn.Momentum(
        network.trainable_params(), Tensor(np.linspace(0.2, 0.01, STEPS, dtype=np.float32)), 0.9, 1e-3
    )
    step = TrainStep(network, smoothed_cross_entropy(10, 0.1), optimizer, loss_scale=128.0, ema_decay=0.9,
                     size=device.size, clip_grad_norm=1.0)  # fmt: skip
    losses = []
    for epoch in (1, 2):
        for images, labels in batches(device, IMAGES, "train", epoch=epoch).create_tuple_iterator(num_epochs=1):
            losses.append(float(step(images, labels)[0].asnumpy()))
            for name, parameter in step.training_state().items():
                found[f"weights/{len(losses)}/{name}"] = parameter.asnumpy().copy()
    found["losses"] = np.array(losses)


def exchange_for_ever(device: Device) -> None:
    """Like a training: one exchange of all ranks after the other, signals stop it between two of them."""
    with Interrupt(device, Position(1)):
        while True:
            device.sum([1.0])
            time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run_dir", type=Path)
    parser.add_argument("--go_on", action="store_true")
    arguments = parser.parse_args()
    device = device_adapter.init(Config({"device_target": "CPU", "device_id": 0, "jit_level": "auto"}))
    found = {"rank": np.array([device.rank, device.size])}
    found["sum"] = np.array(device.sum([device.rank + 1.0, 2.0**23 / device.size, -device.rank, 0.0]))
    found["given"] = rows_of(device.rank, device.size)
    found["gathered"] = device.gather(found["given"])
    found["gathered_nothing"] = device.gather(np.zeros((0, WIDTH)))
    for epoch in (1, 2):
        for images in (IMAGES, ODD_IMAGES):
            found[f"train/{images}/{epoch}"] = np.array(indices(device, images, "train", epoch))
    found["eval"] = np.concatenate(indices(device, ODD_IMAGES, "val"))
    ms.set_seed(3)
    network = Network().set_train(False)
    dataset = batches(device, ODD_IMAGES, "val")
    found["totals"] = np.array(evaluate(network, dataset, GLOBAL_BATCH // 2, ODD_IMAGES, device, 0.1))
    train(device, found)
    folder = arguments.run_dir / "ranks"
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{device.rank}.npz", **found)
    device.barrier()  # msrun ends the other ranks when the first one ends
    (folder / f"{device.rank}.pid").write_text(str(os.getpid()))
    if arguments.go_on:
        exchange_for_ever(device)


if __name__ == "__main__":
    sys.exit(main())

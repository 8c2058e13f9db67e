"""One small run through all programs, and (--long) what the network learns."""

from __future__ import annotations

import re
from pathlib import Path

import train
from classifier.wiring import Programs
from conftest import small_run, write_digits

import numpy as np
import pytest
from PIL import Image


def read_records(folder: Path) -> tuple[np.ndarray, list[int]]:
    """The held-out pictures (N, 3, 32, 32) uint8 and their labels, from the records' bytes on."""
    records = np.fromfile(folder / "test_batch.bin", np.uint8).reshape(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].tolist()


class TestPrograms(Programs):
    LEARNING = {
        "flip_prob": 0, "color_jitter": "0.1,0.1,0.1,0", "cutout_ratio": 0.1, "lr_init": 0.01, "ema_decay": 0.5,
        "use_label_smooth": True, "label_smooth_factor": 0.2,
    }  # fmt: skip
    COUNT, STEPS = 160, 20
    NAMES = "zero one two three four five six seven eight nine".split()
    STATE, BEST = "0/train_tinydarknet_cifar10-{}_20.ckpt", "0/train_tinydarknet_cifar10_best.ckpt"
    NETWORK = {"negative_slope": 0.1}
    EXPORT, SMALL = "--checkpoint_path", []
    READ = {
        "train": "lr_init momentum cutout_ratio flip_prob log_interval dataset_sink_mode pre_trained",
        "eval": "crop_ratio use_ema dataset_name",
        "export": "fold_bn batch_size onnx_filename",
        "infer": "top_k mean",
    }

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, tmp_path_factory):
        """CIFAR-10 layout with enough digits to learn something."""
        return write_digits(tmp_path_factory, cls.COUNT)

    @pytest.fixture(scope="class")
    @classmethod
    def pictures(cls, data, tmp_path_factory):
        """The records as pictures, by the names that the checkpoint has for their classes."""
        folder = tmp_path_factory.mktemp("pictures")
        for index, (picture, label) in enumerate(zip(*read_records(data))):
            (folder / cls.NAMES[label]).mkdir(exist_ok=True)
            Image.fromarray(picture.transpose(1, 2, 0)).save(folder / cls.NAMES[label] / f"{index}.png")
        return folder

    @staticmethod
    def evaluation_options(path, data, out):
        layout = "cifar10" if (data / "test_batch.bin").exists() else "imagenet"
        return ["--dataset_name", layout, "--val_data_dir", data, "--run_dir", out, "--checkpoint_path", path]

    @staticmethod
    def read_accuracy(log, path):
        line = r"(?m)^accuracy:  \{'top_1_accuracy': (\S+), 'top_5_accuracy': (\S+)\}$"
        top_1, top_5 = re.search(line, log).groups()
        return float(top_1), float(top_5)

    @staticmethod
    def validation(data, pictures):
        return data

    @staticmethod
    def pretrained(path):
        return {"checkpoint_path": path, "pre_trained": True}

    @staticmethod
    def inputs(about, data, pictures):
        images, labels = read_records(data)
        mean, std = (np.array(values)[:, None, None] for values in ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]))
        assert about["input"]["resize"] == "both_sides"
        return list(map(str, range(len(labels)))), (images / 255.0 - mean) / std, labels

    def test_checkpoint_path_alone_starts_from_nothing(self, straight, data, tmp_path):
        options = {"checkpoint_path": straight / "checkpoints" / self.BEST, "num_classes": 12, "dry_run": True}
        assert train.main(small_run(data, tmp_path, **options)) == 0
        assert "weights of" not in (tmp_path / "run/train.log").read_text()


@pytest.mark.long
def test_the_network_learns_the_digits(tmp_path):
    """The recipe of the quick start at half of its side: 95 % or more of 360 held-out digits after ten epochs."""
    from digits import write_cifar10

    write_cifar10(tmp_path / "digits")
    options = {
        "batch_size": 32, "epoch_size": 10, "T_max": 10, "lr_scheduler": "cosine_annealing", "lr_init": 0.1,
        "warmup_epochs": 2, "weight_decay": 5e-4, "flip_prob": 0, "color_jitter": "0,0,0,0", "cutout_ratio": 0,
        "eval_interval": 1,
    }  # fmt: skip
    assert train.main(small_run(tmp_path / "digits", tmp_path, **options)) == 0
    best = tmp_path / "checkpoints" / TestPrograms.BEST
    assert TestPrograms.evaluate(best, tmp_path / "digits", tmp_path)[0] >= 0.95

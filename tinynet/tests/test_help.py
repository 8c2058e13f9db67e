"""Each program's --help lists every key of the recipe that it reads; those that read few list no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import create_label_list
import eval as evaluation
import export
import infer
import postprocess
import train
from conftest import TRAINING_KEYS, small_run
from recorded_keys import listed_options, recorded_keys
from src.model_utils import checkpoint
from src.model_utils.classification import infer as inference
from src.model_utils.classification.evaluation import Totals
from src.model_utils.config import Config
from src.recipe import read_config

import numpy as np
import pytest

NETWORK = (
    "--device_target CPU --model tinynet_e --num_classes 10 --image_height 32 --image_width 32 --stage_blocks".split()
)
NETWORK.append("1,1,1,2,1,1,1")


@pytest.fixture(scope="module")
def weights(trained, tmp_path_factory) -> list[Path]:
    """A training state, and its weights without a description: then network and input are those of the recipe."""
    path = tmp_path_factory.mktemp("weights") / "plain.ckpt"
    parameters = checkpoint.load(trained / "checkpoints/ema_last.ckpt")[0]
    checkpoint.save(path, parameters, {})
    return [trained / "checkpoints/last.ckpt", path]


def read_keys(program, *command_lines: list) -> set[str]:
    """The keys that a program reads, without those that every program reads to check them."""
    with recorded_keys(Config) as keys:
        for argv in command_lines:
            program.main([str(token) for token in argv])
    return keys - read_by_all()


def read_by_all() -> set[str]:
    with recorded_keys(Config) as keys:
        read_config([], "")
    return keys


def listed(main: Callable) -> set[str]:
    """What --help lists, without what is read before there is a configuration."""
    return listed_options(main) - {"config_path", "debug"}


def test_training(few_digits, trained, weights, tmp_path):
    options = small_run(few_digits, tmp_path, dry_run=True, ckpt=weights[1], freeze="conv_stem.*")
    keys = TRAINING_KEYS | read_keys(train, options, ["--train", "False", *NETWORK, "--dry_run", "--ckpt", weights[0],
                                                      "--data_path", few_digits, "--run_dir", tmp_path])  # fmt: skip
    assert {"drop", "cutmix_prob", "decay_rate", "resume", "per_print_times", "warmup_lr", "ckpt", "seed"} <= keys
    assert not keys - listed(train.main)
    assert not listed(train.main) & {"file_format", "fold_bn", "top_k", "result_path"}


def test_evaluation(few_digits, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "evaluate", lambda *arguments: Totals(40, 1, 5, 2.0))
    line = [*NETWORK, "--data_path", few_digits, "--run_dir", tmp_path, "--ckpt"]
    keys = read_keys(evaluation, *([*line, path] for path in weights))
    assert {"smoothing", "use_label_smooth", "batch_size", "crop_ratio", "bn_eps", "distributed"} <= keys
    assert not keys - listed(evaluation.main)
    assert not listed(evaluation.main) & {"lr", "momentum", "drop", "epochs", "fold_bn", "model_file", "result_path"}


def test_export(weights, tmp_path):
    line = [*NETWORK, "--file_name", tmp_path / "m", "--dry_run", "--ckpt"]
    keys = read_keys(export, *([*line, path] for path in weights))
    assert {"file_format", "fold_bn", "export_batch_size", "use_ema", "stage_blocks"} <= keys
    assert not keys - listed(export.main)
    assert not listed(export.main) & {"lr", "batch_size", "model_file", "result_path", "data_path"}


def test_inference(few_digits, weights, tmp_path, monkeypatch):
    line = [*NETWORK, "--input", few_digits / "val/3", "--output_dir", tmp_path / "out", "--model_file"]
    keys = read_keys(infer, *([*line, path, "--dry_run"] for path in weights))
    about = checkpoint.load(weights[0])[1]

    def load_model(*_):
        return lambda images: (np.zeros((len(images), 10), np.float32),), about, None

    monkeypatch.setattr(inference, "load_model", load_model)
    keys |= read_keys(infer, [*line, weights[0]])
    assert {"top_k", "input", "output_dir", "model_file", "jit_level"} <= keys
    assert not keys - listed(infer.main)
    assert not listed(infer.main) & {"lr", "momentum", "fold_bn", "result_path", "ckpt"}


def test_label_list_and_accuracy(few_digits, weights, tmp_path):
    line = ["--input", few_digits / "val", "--label_file", tmp_path / "label.txt", "--model_file", weights[0]]
    assert read_keys(create_label_list, line) == listed(create_label_list.main)
    for picture in (few_digits / "val").rglob("*.jpg"):
        np.zeros(10, "<f4").tofile(tmp_path / f"{picture.stem}.bin")
    line = ["--result_path", tmp_path, "--label_file", tmp_path / "label.txt"]
    assert read_keys(postprocess, line) == listed(postprocess.main)

"""Each program's --help lists every key of the recipe that it reads."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from model_utils.checkpoint import load, save
from model_utils.config import Config
from recorded_keys import hidden_keys, listed_options, recorded_keys
from toy import programs
from toy_runs import command_line, small_run

import pytest

pytestmark = pytest.mark.usefixtures("programs")
NETWORK = {"num_classes", "width", "activation"}
INPUT = {"image_height", "image_width", "crop_ratio", "interpolation", "mean", "std"}
DEVICE = {"device_target", "device_id", "jit_level"}
LOAD = NETWORK | INPUT | {"allow_partial_load", "class_names"}


@pytest.fixture(scope="module")
def weights(toy_state, tmp_path_factory) -> Path:
    """Weights without a description: network and input are those of the recipe."""
    path = tmp_path_factory.mktemp("weights") / "weights.ckpt"
    parameters = {name: value for name, value in load(toy_state)[0].items() if "train_state" not in name}
    save(path, parameters, {})
    return path


def check(main, command_lines, expected: set[str]) -> None:
    """The program reads these keys, and shows them."""
    with contextlib.redirect_stdout(io.StringIO()):
        keys, hidden = hidden_keys(main, command_lines, Config)
    assert keys == expected and not hidden


def test_evaluation(few_digits, toy_state, weights, tmp_path):
    options = command_line(val_data_dir=few_digits / "val", run_dir=tmp_path)
    expected = {"checkpoint_path", "use_ema", "dry_run", "run_dir", "val_data_dir", "check_images", "max_pixels", "batch_size",
                "num_parallel_workers", "seed"}  # fmt: skip
    lines = [[*options, "--checkpoint_path", str(path)] for path in (toy_state, weights)]
    check(programs.run_eval, lines, expected | LOAD | DEVICE)


def test_export_inference_and_accuracy(few_digits, toy_state, weights, tmp_path):
    """One after the other: each reads what the one before it wrote."""
    options = command_line(file_name=tmp_path / "toy")
    expected = {"checkpoint_path", "file_name", "file_format", "fold_bn", "use_ema", "dry_run"}
    lines = [[*options, "--checkpoint_path", str(path)] for path in (toy_state, weights)]
    check(programs.run_export, lines, expected | LOAD | DEVICE)

    options = command_line(input=few_digits / "val/3", output_dir=tmp_path / "out")
    expected = {"model_file", "input", "output_dir", "top_k", "max_pixels", "batch_size", "dry_run"}
    lines = [[*options, "--model_file", str(path)] for path in (toy_state, weights, tmp_path / "toy.mindir")]
    check(programs.run_infer, lines, expected | LOAD | DEVICE)

    label_file = tmp_path / "label.txt"
    options = command_line(input=few_digits / "val", label_file=label_file)
    lines = [[*options, "--model_file", str(path)] for path in ("", toy_state, tmp_path / "toy.mindir")]
    check(programs.run_label_list, lines, {"input", "model_file", "label_file"})
    lines = [command_line(result_path=tmp_path / "out/result_Files", label_file=label_file)]
    check(programs.run_postprocess, lines, {"result_path", "label_file"})


def test_help_is_short():
    """Programs that read few keys list few: those of training are not among them."""
    of_training = {"lr", "resume", "data_url", "fold_bn"}
    for main in (programs.run_infer, programs.run_label_list, programs.run_postprocess):
        assert not listed_options(main) & of_training
    assert of_training <= listed_options(programs.run_train)


def test_the_recorder_sees_each_reading(few_digits, tmp_path):
    """By name, by attribute, by an alias, and in a training; not what is only copied or asked for."""
    config = Config({"a": 1, "b": 2, "c": 3, "d": {"e": 5}}, aliases={"bee": "b"})
    with recorded_keys(Config) as keys:
        assert config.a == 1 and config["bee"] == 2 and config.get("nothing") is None
        assert "c" in config and config.replace(a=4).to_dict()["c"] == 3
    assert keys == {"a", "b"}
    with recorded_keys(Config) as keys:
        programs.run_train(small_run(few_digits, tmp_path, dry_run=True))
    assert {"lr", "momentum", "flip_prob", "freeze", "resume"} <= keys and not keys & {"top_k", "label_file", "fold_bn"}

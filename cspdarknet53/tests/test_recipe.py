"""What only this folder has: its documented keys, lists of files and labels, the JSON labels, checkpoints of each rank."""

from __future__ import annotations

import json
import re

import create_imagenet2012_label
import eval as evaluation
import train
from conftest import accuracies, program, small_run, states
from src.dataset import create_dataset, find_classes
from src.image_list import check_image_list, read_image_list
from src.lr_scheduler import get_lr
from src.model_utils.config import DataError, UsageError
from src.model_utils.device_adapter import Device
from src.recipe import FOLDER, checkpoint_folder, read_config, saves_checkpoints

import numpy as np
import pytest
import yaml

CPU = Device("CPU", 0)
DOCUMENTED = """
num_classes: 1000\nlr: 0.1\nlr_scheduler: cosine_annealing\nlr_gamma: 0.1\neta_min: 0\nT_max: 150\nmax_epoch: 150
warmup_epochs: 5\nweight_decay: 0.0001\nmomentum: 0.9\nis_dynamic_loss_scale: 0\nloss_scale: 1024\nlabel_smooth: 1
label_smooth_factor: 0.1\nckpt_interval: 1\nckpt_save_max: 10\nis_save_on_master: 1\ndata_dir: ""\npretrained: ""
is_distributed: 1\nper_batch_size: 64\nlog_path: "outputs/"\nexport_batch_size: 1\nckpt_file: ""\nfile_name: "cspdarknet53"
file_format: "MINDIR"\nwidth: 224\nheight: 224\nenable_modelarts: False\ndata_path: /cache/data\noutput_path: /cache/train
load_path: /cache/checkpoint_path\ndevice_target: Ascend\nmodelarts_dataset_unzip_name: ImageNet
need_modelarts_dataset_unzip: True
"""


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    monkeypatch.setattr("src.cspdarknet53.STAGES", (1,) * 5)


@pytest.fixture
def lists(few_digits, tmp_path):
    """Lists of the training and the validation digits, in an order of their own, a tab in the first line."""
    for split in ("train", "val"):
        paths = sorted((few_digits / split).rglob("*.jpg"), key=lambda path: path.name[::-1])
        lines = [f"{path.relative_to(few_digits / split)} {path.parent.name}" for path in paths]
        lines[0] = lines[0].replace(" ", "\t")
        (tmp_path / f"{split}.txt").write_text("\n".join([*lines, ""]))
    return tmp_path


def test_documented_keys_have_their_defaults():
    values = next(iter(yaml.safe_load_all((FOLDER / "default_config.yaml").read_text())))
    for key, value in yaml.safe_load(DOCUMENTED).items():
        assert values[key] == value, key
    config = read_config(["--image_size", "224,224", "--lr_epochs", "30,60,90,120"], "")
    assert config.image_size == [224, 224] and config.lr_epochs == [30, 60, 90, 120]
    assert int(config.height / config.crop_ratio) == 256


def test_learning_rates():
    rates = get_lr(read_config(["--lr_scheduler", "exponential", "--warmup_epochs", "0"], ""), 2)
    assert [rates[2 * epoch] for epoch in (0, 30, 60, 90, 120)] == pytest.approx([0.1, 0.01, 1e-3, 1e-4, 1e-5])
    assert get_lr(read_config([], ""), 10)[50] == pytest.approx(0.0997261, rel=1e-5)


def test_image_size_and_its_sides():
    for options in (
        ["--image_size", "96,96"],
        ["--height", "96", "--width", "96"],
        ["--image_height=96", "--image_width=96"],
    ):
        config = read_config(options, "")
        assert (
            config.image_size == [config.height, config.width] == [config.image_height, config.image_width] == [96, 96]
        )
    with pytest.raises(UsageError, match="contradicts height=64"):
        read_config(["--image_size", "96,96", "--height", "64", "--width", "64"], "")
    with pytest.raises(UsageError, match="image_size"):
        read_config(["--image_size", "96"], "")


def test_list_equals_folder(few_digits, lists):
    """A list feeds the same pixels and labels as the class folders, in its own order."""
    folder = small_run(few_digits, lists, data_dir=few_digits / "train", per_batch_size=40)
    config = read_config(["--val_list_file", str(lists / "val.txt"), *folder], "")
    plain = read_config(folder, "")
    names = find_classes(config, False, CPU)
    assert names == find_classes(plain, False, CPU) == [str(digit) for digit in range(10)]
    batches = []
    for recipe in (config, plain):
        batch = next(create_dataset(recipe, False, CPU, names).create_tuple_iterator(num_epochs=1, output_numpy=True))
        batches.append(batch)
    rows = read_image_list(lists / "val.txt")
    order = np.argsort([path for path, _ in rows])
    assert [label for _, label in rows] == batches[0][1].tolist() != batches[1][1].tolist()
    np.testing.assert_array_equal(batches[0][1][order], batches[1][1])
    np.testing.assert_array_equal(batches[0][0][order], batches[1][0])


def test_training_and_evaluation_with_lists(few_digits, lists, capsys):
    options = small_run(few_digits, lists, max_epoch=1, eval_interval=1)
    options += ["--list_file", str(lists / "train.txt"), "--val_list_file", str(lists / "val.txt")]
    assert train.main(options) == 0
    log = (lists / "run/train.log").read_text()
    line = (
        r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d:INFO:epoch\[1\], iter\[5\], loss: \d+\.\d+, "
        r"mean_fps: \d+\.\d\d imgs/sec, per_step_time: \d+\.\d\d ms$"
    )
    assert re.search(line, log)
    capsys.readouterr()
    common = ["--is_distributed=0", "--per_batch_size=1", f"--pretrained={states(lists)[-1]}", "--device_target=CPU",
              f"--data_dir={few_digits / 'val'}", f"--log_path={lists / 'eval'}"]  # fmt: skip
    evaluation.main([*common, f"--list_file={lists / 'val.txt'}"])
    listed = accuracies(capsys.readouterr().out)
    evaluation.main(common)
    assert accuracies(capsys.readouterr().out) == listed
    (lists / "wrong.txt").write_text("3/" + next((few_digits / "val/3").iterdir()).name + " 0\n")
    with pytest.raises(DataError, match="gives label 0 to '3', the checkpoint to '0'"):
        evaluation.main([*common, f"--list_file={lists / 'wrong.txt'}"])


@pytest.mark.parametrize("text, message", [
    ("", "holds no line"), ("a.jpg\n", "list.txt:1: 'a.jpg' is not a line"), ("a.jpg -1\n", "not a line"),
    ("a.txt 1\n", "not a line"), ("x/a.jpg 1\nx/a.jpg 2\n", "list.txt:2: 'x/a.jpg' stands on an earlier line"),
    ("x/a.jpg 1\n", "1 of 1 paths .* are no files"), ("x/a.jpg 10\n", "label 10, num_classes=10"),
])  # fmt: skip
def test_bad_lists(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        check_image_list(tmp_path, tmp_path / "list.txt", 10)
    with pytest.raises(DataError, match="none.txt cannot be read"):
        check_image_list(tmp_path, tmp_path / "none.txt", 10)


def test_damaged_image_of_a_list(few_digits, lists):
    source = next((few_digits / "val").rglob("*.jpg"))
    (lists / "cut.jpg").write_bytes(source.read_bytes()[:200])
    (lists / "one.txt").write_text("cut.jpg 0\n")
    with pytest.raises(DataError, match="cut.jpg"):
        check_image_list(lists, lists / "one.txt", 10)


def test_names_of_a_list_without_class_folders(few_digits, tmp_path):
    for name, label in (("a b.jpg", 1), ("c.jpg", 0)):
        (tmp_path / name).write_bytes(next((few_digits / "val" / str(label)).iterdir()).read_bytes())
    (tmp_path / "list.txt").write_text("a b.jpg 1\nc.jpg 0\n")
    assert check_image_list(tmp_path, tmp_path / "list.txt", 10) == ["0", "1"]


def test_json_labels(few_digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    create_imagenet2012_label.main(["--img_path", str(few_digits / "val")])
    assert "[INFO] Completed! Total 40 data." in capsys.readouterr().out
    labels = json.loads((tmp_path / "imagenet_label.json").read_text())
    assert labels == {path.name: int(path.parent.name) for path in (few_digits / "val").rglob("*.jpg")}
    (tmp_path / "results").mkdir()
    for name, label in labels.items():
        logits = np.eye(10, dtype="<f4")[label if label != 3 else 4]
        logits.tofile(tmp_path / "results" / (name.rpartition(".")[0] + ".bin"))
    result = program("postprocess.py", "--result_path", "results", "--label_path", "imagenet_label.json", cwd=tmp_path)
    assert "Total data: 40, top1 accuracy: 0.9, top5 accuracy: 1.0" in result.stdout, result.stderr
    (tmp_path / "imagenet_label.json").write_text("{}")
    with pytest.raises(DataError, match="holds something else"):
        create_imagenet2012_label.main(["--img_path", str(few_digits / "val")])


def test_each_rank_may_save():
    first, third = Device("Ascend", 0, 0, 4), Device("Ascend", 2, 2, 4)
    config = read_config([], "")
    assert saves_checkpoints(config, first) and not saves_checkpoints(config, third)
    assert checkpoint_folder(config, third).folder.name == "ckpt_0"
    config = read_config(["--is_save_on_master=0"], "")
    assert saves_checkpoints(config, third)
    folder = checkpoint_folder(config, third)
    assert folder.folder.name == "ckpt_2" and folder.prefix == "2"

"""One small run through all programs: the folder's own parts and the shared code fit together."""

from __future__ import annotations

import gc
import json
import re
import shutil
from pathlib import Path

import create_label_list
import eval as evaluation
import export
import infer
import postprocess
import train
from conftest import small_run
from recorded_keys import listed_options, recorded_keys
from src.model_utils.checkpoint import load, save
from src.model_utils.classification.infer import read_picture
from src.model_utils.classification.transforms import eval_transforms
from src.model_utils.config import Config
from src.model_utils.errors import DataError, UsageError
from src.model_utils.inference import load_model, load_network
from src.recipe import MODEL, read_config

import mindspore as ms
import numpy as np
import pytest

CPU = ["--device_target", "CPU"]
# With these the network learns a little in ten steps: its answers are not all the same.
LEARNING = {
    "flip_prob": 0, "color_jitter": "0.1,0.1,0.1,0", "crop_scale": 0.8, "ema_decay": 0.5,
    "label_smooth_factor": 0.2,
}  # fmt: skip
KEYS: dict[str, set[str]] = {}  # of the recipe, which each program has read


def call(program, *arguments) -> int | None:
    """Run a program in this process, and note the keys of the recipe that it reads."""
    gc.collect()  # what is left of an earlier network, removed while this one runs, has it compiled a second time
    with recorded_keys(Config) as keys:
        status = program.main([str(argument) for argument in arguments])
    KEYS.setdefault(program.__name__, set()).update(keys)
    return status


@pytest.fixture(scope="module")
def straight(few_digits, tmp_path_factory):
    """Two epochs without interruption, with a moving average of the weights."""
    out = tmp_path_factory.mktemp("straight")
    assert call(train, *small_run(few_digits, out, **LEARNING, eval_interval=2)) == 0
    return out


@pytest.fixture(scope="module")
def states(straight) -> list[Path]:
    """The training states after the first and the second epoch."""
    return [straight / f"checkpoints/darknet53-{epoch}_5.ckpt" for epoch in (1, 2)]


@pytest.fixture(scope="module")
def by_hand(states, few_digits) -> dict[str, tuple[np.ndarray, int]]:
    """Logits (10,) and label of each validation picture, computed outside of graphs."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    network, about = load_network(MODEL, states[-1], read_config([], ""))
    paths, pictures = sorted((few_digits / "val").rglob("*.jpg")), []
    for path in paths:
        picture = read_picture(path)
        for operator in eval_transforms(about["input"]):
            picture = operator(picture)
        pictures.append(picture)
    logits = network(ms.Tensor(np.stack(pictures))).asnumpy()
    return {path.stem: (row, int(path.parent.name)) for path, row in zip(paths, logits)}


def hits(by_hand) -> tuple[int, int]:
    """How many pictures have their label first, and how many among the first five."""
    ranks = [int((logits > logits[label]).sum()) for logits, label in by_hand.values()]
    return sum(rank == 0 for rank in ranks), sum(rank < 5 for rank in ranks)


def contents(path) -> dict[str, np.ndarray]:
    return {name: value.asnumpy() for name, value in load(path)[0].items()}


def test_what_a_run_leaves(straight, states):
    names = sorted(path.name for path in (straight / "checkpoints").iterdir())
    assert names == [*(path.name for path in states), "darknet53_best.ckpt"]
    log = (straight / "run/train.log").read_text()
    for pattern in (
        r"(?m)^epoch: 2 step: 5, loss is \d",
        r"(?m)^Epoch time: \d+\.\d{3}, per step time: \d+\.\d{3}$",
        r"(?m)^validation after epoch 2: .*ema_top_1_accuracy \d",
    ):
        assert re.search(pattern, log), pattern
    assert (straight / "run/curves.csv").is_file() and list((straight / "summary").glob("events*"))
    about = load(states[-1])[1]
    assert about["class_names"] == [str(digit) for digit in range(10)] and about["input"]["height"] == 32
    assert about["network"] == {
        "name": "darknet53", "num_classes": 10, "activation": "leaky_relu", "negative_slope": 0.1, "bn_eps": 1e-5,
        "stage_blocks": [1, 1, 1, 1, 1],
    }  # fmt: skip


def test_resumed_run_equals_the_uninterrupted_one(states, few_digits, tmp_path):
    assert call(train, *small_run(few_digits, tmp_path, **LEARNING, resume=states[0])) == 0
    before, expected = contents(states[0]), contents(states[1])
    found = contents(tmp_path / "checkpoints" / states[1].name)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    moved = {name for name, value in expected.items() if not np.array_equal(value, before[name])}
    for part in (r"conv\w*\.weight", r"bn\.moving_mean", r"train_state\.ema\.", r"moments", "global_step", r"^fc\."):
        assert any(re.search(part, name) for name in moved), f"{part} did not move: the comparison would see nothing"


def evaluate(path, data, out, *options) -> tuple[float, float]:
    """Top-1 and top-5 accuracy of the documented line of eval.py."""
    call(evaluation, *CPU, "--val_data_dir", data, "--run_dir", out, "--checkpoint_path", path, *options)
    line = r"(?m)^result: \{'top_5_accuracy': (\S+), 'top_1_accuracy': (\S+)\} ckpt= (\S+)$"
    top_5, top_1, name = re.search(line, (out / "eval.log").read_text()).groups()
    assert name == str(path)
    return float(top_1), float(top_5)


@pytest.fixture(scope="module")
def evaluated(states, few_digits, tmp_path_factory) -> tuple[float, float]:
    """With a batch size that does not divide 40; the number of classes is the checkpoint's, not the recipe's 1000."""
    assert read_config([], "").num_classes == 1000
    return evaluate(states[-1], few_digits / "val", tmp_path_factory.mktemp("eval"), "--batch_size", 7)


def test_evaluation_equals_a_hand_count(evaluated, by_hand):
    assert evaluated == tuple(count / 40 for count in hits(by_hand))


def test_loss_of_the_validation(straight, by_hand):
    """Smoothed as that of the training: 0.8 for the label, the rest for the nine others."""
    logits, labels = np.stack([row for row, _ in by_hand.values()]), np.array([label for _, label in by_hand.values()])
    scores = logits - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
    targets = np.full(logits.shape, 0.2 / 9)
    targets[np.arange(40), labels] = 0.8
    said = re.search(r"top_5_accuracy \S+, validation_loss ([0-9.]+)", (straight / "run/train.log").read_text())[1]
    assert float(said) == pytest.approx(-(targets * scores).sum(1).mean(), abs=1e-4)


def test_moving_average_is_evaluated(straight, states, evaluated, few_digits, tmp_path):
    said = re.search(r"ema_top_1_accuracy ([0-9.]+)", (straight / "run/train.log").read_text())[1]
    found = evaluate(states[-1], few_digits / "val", tmp_path, "--batch_size", 8, "--use_ema", True)
    assert f"{found[0]:.4f}" == said and found != evaluated


def test_data_of_more_classes_is_refused(states, few_digits, tmp_path):
    shutil.copytree(few_digits / "val", tmp_path / "val")
    shutil.copytree(few_digits / "val" / "9", tmp_path / "val" / "ten")
    with pytest.raises(DataError, match="the checkpoint has 10 classes .* has 11") as caught:
        evaluate(states[-1], tmp_path / "val", tmp_path)
    assert "--num_classes" not in str(caught.value)


def test_weights_decide_the_input_and_the_network(states, few_digits, tmp_path):
    for option in (["--height=64", "--width=64"], ["--class_num=11"], ["--mean=0,0,0"], ["--activation=mish"]):
        with pytest.raises(UsageError, match=r"contradicts .*darknet53-2_5\.ckpt"):
            evaluate(states[-1], few_digits / "val", tmp_path, *option)


def test_pretrained_weights(straight, few_digits, tmp_path):
    """Another number of classes needs --reset_head; what the weights were made for goes before the recipe."""
    options = {"pre_trained": straight / "checkpoints/darknet53_best.ckpt", "class_num": 12, "dry_run": True}
    with pytest.raises(DataError, match="reset_head"):
        call(train, *small_run(few_digits, tmp_path, **options))
    assert call(train, *small_run(few_digits, tmp_path, **options, reset_head=True)) == 0
    with pytest.raises(UsageError, match="--negative_slope 0.2 contradicts"):
        call(train, *small_run(few_digits, tmp_path, **options, reset_head=True, negative_slope=0.2))


@pytest.fixture(scope="module")
def exported(states, tmp_path_factory):
    """The last state as MINDIR with batch 1, and as ONNX with batch 3 and folded batch norms."""
    folder = tmp_path_factory.mktemp("exported")
    common = [*CPU, "--checkpoint_path", states[-1], "--file_name", folder / "m"]
    call(export, *common)
    call(export, *common, "--file_format", "ONNX", "--batch_size", 3, "--fold_bn", True)
    return {path.suffix: path for path in folder.iterdir()}


@pytest.mark.parametrize("ending, batch_size", [(".mindir", 1), (".onnx", 3)])
def test_exports_equal_the_network(states, exported, ending, batch_size):
    """On another input than the traced one."""
    model, about, fixed = load_model(MODEL, exported[ending], read_config(CPU, ""))
    assert fixed == batch_size and about["network"]["num_classes"] == 10
    images = np.random.RandomState(11).standard_normal((batch_size, 3, 32, 32)).astype(np.float32)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    expected = load_network(MODEL, states[-1], read_config([], ""))[0](ms.Tensor(images)).asnumpy()
    (found,) = model(images)
    assert found.shape == expected.shape and found.dtype == np.float32
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.abs(model(-images)[0] - expected).max() > 1e-2 * np.abs(expected).max(), "the input does not matter"


@pytest.fixture(scope="module")
def inferred(exported, few_digits, tmp_path_factory) -> Path:
    """What infer.py and create_label_list.py write of the validation pictures."""
    out, pictures = tmp_path_factory.mktemp("inferred"), few_digits / "val"
    call(infer, "--model_file", exported[".onnx"], "--input", pictures, "--output_dir", out / "result")
    call(create_label_list, "--input", pictures, "--label_file", out / "label.txt")
    return out


def test_infer_and_postprocess(inferred, by_hand, capsys):
    """Logits and accuracy of the result files are those of the hand count."""
    for name, (logits, _) in by_hand.items():
        found = np.fromfile(inferred / f"result/result_Files/{name}.bin", "<f4")
        np.testing.assert_allclose(found, logits, atol=1e-3 * np.abs(logits).max(), err_msg=name)
    rows = json.loads((inferred / "result/predictions.json").read_text())["predictions"]
    assert len(rows) == 40 and all(row["top"][0]["class_name"] in "0123456789" for row in rows)
    capsys.readouterr()
    call(postprocess, "--result_path", inferred / "result/result_Files", "--label_file", inferred / "label.txt")
    top_1, top_5 = hits(by_hand)
    assert capsys.readouterr().out == (
        f"'top_1_accuracy': {100 * top_1 / 40:.2f}%, 'top_5_accuracy': {100 * top_5 / 40:.2f}%\n"
        f"total=40, top1_correct={top_1}, top5_correct={top_5}\n"
    )


# ---- The help --------------------------------------------------------------------------------------------------------


def test_help_lists_what_a_program_reads(evaluated, inferred, states, few_digits, tmp_path):
    """Also for weights without a description, where the recipe says what they are."""
    weights = {name: value for name, value in load(states[-1])[0].items() if "train_state" not in name}
    save(tmp_path / "w.ckpt", weights, {})
    network = [*CPU, "--dry_run", "--class_num=10", "--stage_blocks=1,1,1,1,1", "--height=32", "--width=32"]
    pictures = few_digits / "val"
    path, label_file = tmp_path / "w.ckpt", inferred / "label.txt"
    call(evaluation, *network, "--checkpoint_path", path, "--val_data_dir", pictures, "--run_dir", tmp_path)
    call(export, *network, "--checkpoint_path", path, "--file_name", tmp_path / "m")
    call(infer, *network, "--model_file", path, "--input", pictures, "--output_dir", tmp_path / "out")
    call(create_label_list, "--input", pictures, "--label_file", tmp_path / "l", "--model_file", path)
    call(postprocess, "--result_path", inferred / "result/result_Files", "--label_file", label_file)
    with recorded_keys(Config) as of_each_program:
        read_config([], "")
    for program in (train, evaluation, export, infer, create_label_list, postprocess):
        hidden = KEYS[program.__name__] - listed_options(program.main) - of_each_program
        assert not hidden, f"{program.__name__}.py reads {hidden}"
    for program, keys in {
        train: {"lr", "momentum", "stage_blocks", "flip_prob", "log_interval", "dataset_sink_mode", "device_num"},
        evaluation: {"crop_ratio", "use_ema", "negative_slope", "device_num"},
        export: {"fold_bn", "batch_size", "activation"},
        infer: {"top_k", "mean"},
    }.items():
        assert keys <= KEYS[program.__name__], "the recorder saw less than the program reads"


def test_help_of_postprocess_is_short(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        postprocess.main(["--help"])
    assert len(capsys.readouterr().out.splitlines()) <= 40

"""One small run through all programs: the folder's own parts and the shared code fit together."""

from __future__ import annotations

import json
import re
import shutil

import create_label_list
import eval as evaluation
import export
import infer
import postprocess
import train
from conftest import small_run
from src.model_utils.checkpoint import load
from src.model_utils.classification.infer import read_picture
from src.model_utils.classification.transforms import eval_transforms
from src.model_utils.errors import DataError, UsageError
from src.model_utils.inference import load_model, load_network
from src.recipe import MODEL, read_config

import mindspore as ms
import numpy as np
import pytest

CPU = ["--device_target", "CPU"]


@pytest.fixture(scope="module")
def straight(few_digits, tmp_path_factory):
    """Two epochs without interruption, with a moving average of the weights."""
    out = tmp_path_factory.mktemp("straight")
    assert train.main(small_run(few_digits, out, ema_decay=0.5, eval_interval=2)) == 0
    return out


@pytest.fixture(scope="module")
def states(straight):
    """The training states after the first and the second epoch."""
    return [straight / f"checkpoints/darknet53-{epoch}_5.ckpt" for epoch in (1, 2)]


@pytest.fixture(scope="module")
def by_hand(states, few_digits) -> dict[str, tuple[np.ndarray, int]]:
    """Logits and label of each validation picture, one after the other, outside of graphs."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    network, about = load_network(MODEL, states[-1], read_config([], ""))
    found = {}
    for path in sorted((few_digits / "val").rglob("*.jpg")):
        tensor = read_picture(path)
        for operator in eval_transforms(about["input"]):
            tensor = operator(tensor)
        found[path.stem] = network(ms.Tensor(tensor[None])).asnumpy()[0], int(path.parent.name)
    return found


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
    options = small_run(few_digits, tmp_path, ema_decay=0.5, resume=states[0])
    assert train.main(options) == 0
    before, expected = contents(states[0]), contents(states[1])
    found = contents(tmp_path / "checkpoints" / states[1].name)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    moved = {name for name, value in expected.items() if not np.array_equal(value, before[name])}
    for part in (r"conv\w*\.weight", r"bn\.moving_mean", r"train_state\.ema\.", r"moments", "global_step", r"^fc\."):
        assert any(re.search(part, name) for name in moved), f"{part} did not move: the comparison would see nothing"


def evaluate(path, data, tmp_path, capsys, *options) -> tuple[float, float]:
    """Top-1 and top-5 accuracy of the documented line of eval.py."""
    capsys.readouterr()
    evaluation.main([*CPU, "--val_data_dir", str(data), "--run_dir", str(tmp_path), "--checkpoint_path", str(path), *options])
    line = r"(?m)^result: \{'top_5_accuracy': (\S+), 'top_1_accuracy': (\S+)\} ckpt= (\S+)$"
    top_5, top_1, name = re.search(line, capsys.readouterr().out).groups()
    assert name == str(path)
    return float(top_1), float(top_5)


def test_evaluation_equals_a_hand_count(states, by_hand, few_digits, tmp_path, capsys):
    """A batch size that does not divide 40; the number of classes is the checkpoint's, whatever the recipe says."""
    assert read_config([], "").num_classes == 1000
    found = evaluate(states[-1], few_digits / "val", tmp_path, capsys, "--batch_size", "7")
    assert found == tuple(count / 40 for count in hits(by_hand))


def test_moving_average_is_evaluated(straight, states, few_digits, tmp_path, capsys):
    said = re.search(r"ema_top_1_accuracy ([0-9.]+)", (straight / "run/train.log").read_text())[1]
    top_1, _ = evaluate(states[-1], few_digits / "val", tmp_path, capsys, "--batch_size", "8", "--use_ema", "true")
    assert f"{top_1:.4f}" == said


def test_data_of_more_classes_is_refused(states, few_digits, tmp_path, capsys):
    shutil.copytree(few_digits / "val", tmp_path / "val")
    shutil.copytree(few_digits / "val" / "9", tmp_path / "val" / "ten")
    with pytest.raises(DataError, match="the checkpoint has 10 classes .* has 11") as caught:
        evaluate(states[-1], tmp_path / "val", tmp_path, capsys)
    assert "--num_classes" not in str(caught.value)


def test_weights_decide_the_input_and_the_network(states, few_digits, tmp_path, capsys):
    for option in (["--height", "64", "--width", "64"], ["--class_num", "11"], ["--mean", "0,0,0"], ["--activation", "mish"]):
        with pytest.raises(UsageError, match=r"contradicts .*darknet53-2_5\.ckpt"):
            evaluate(states[-1], few_digits / "val", tmp_path, capsys, *option)


def test_pretrained_weights(straight, few_digits, tmp_path):
    """Another number of classes needs --reset_head; what the weights were made for goes before the recipe."""
    options = {"pre_trained": straight / "checkpoints/darknet53_best.ckpt", "class_num": 12, "dry_run": True}
    with pytest.raises(DataError, match="reset_head"):
        train.main(small_run(few_digits, tmp_path, **options))
    assert train.main(small_run(few_digits, tmp_path, **options, reset_head=True)) == 0
    with pytest.raises(UsageError, match="--negative_slope 0.2 contradicts"):
        train.main(small_run(few_digits, tmp_path, **options, reset_head=True, negative_slope=0.2))


@pytest.fixture(scope="module")
def exported(states, tmp_path_factory):
    """The last state as MINDIR with batch 1, and as ONNX with batch 3 and folded batch norms."""
    folder = tmp_path_factory.mktemp("exported")
    common = [*CPU, "--checkpoint_path", str(states[-1]), "--file_name", str(folder / "m")]
    export.main(common)
    export.main([*common, "--file_format", "ONNX", "--batch_size", "3", "--fold_bn", "true"])
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


def test_infer_and_postprocess(exported, by_hand, few_digits, tmp_path, capsys):
    """Logits and accuracy of the result files are those of the hand count."""
    pictures = str(few_digits / "val")
    infer.main(["--model_file", str(exported[".onnx"]), "--input", pictures, "--output_dir", str(tmp_path / "out")])
    for name, (logits, _) in by_hand.items():
        found = np.fromfile(tmp_path / f"out/result_Files/{name}.bin", "<f4")
        np.testing.assert_allclose(found, logits, atol=1e-3 * np.abs(logits).max(), err_msg=name)
    create_label_list.main(["--input", pictures, "--label_file", str(tmp_path / "label.txt")])
    capsys.readouterr()
    postprocess.main(["--result_path", str(tmp_path / "out/result_Files"), "--label_file", str(tmp_path / "label.txt")])
    top_1, top_5 = hits(by_hand)
    assert capsys.readouterr().out == (
        f"'top_1_accuracy': {100 * top_1 / 40:.2f}%, 'top_5_accuracy': {100 * top_5 / 40:.2f}%\n"
        f"total=40, top1_correct={top_1}, top5_correct={top_5}\n"
    )
    rows = json.loads((tmp_path / "out/predictions.json").read_text())["predictions"]
    assert len(rows) == 40 and all(row["top"][0]["class_name"] in "0123456789" for row in rows)

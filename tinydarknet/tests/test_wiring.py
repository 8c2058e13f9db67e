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
from src.model_utils.config import Config
from src.model_utils.errors import DataError, UsageError
from src.model_utils.inference import load_model, load_network
from src.recipe import MODEL, read_config

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

CPU = ["--device_target", "CPU"]
NAMES = "zero one two three four five six seven eight nine".split()
# With these the network learns a little in forty steps: its answers are not all the same.
LEARNING = {
    "flip_prob": 0, "color_jitter": "0.1,0.1,0.1,0", "cutout_ratio": 0.1, "lr_init": 0.01, "ema_decay": 0.5,
    "use_label_smooth": True, "label_smooth_factor": 0.2,
}  # fmt: skip
COUNT = 160  # of the training and of the held-out pictures
KEYS: dict[str, set[str]] = {}  # of the recipe, which each program has read


def call(program, *arguments) -> int | None:
    """Run a program in this process, and note the keys of the recipe that it reads."""
    gc.collect()  # what is left of an earlier network, removed while this one runs, has it compiled a second time
    with recorded_keys(Config) as keys:
        status = program.main([str(argument) for argument in arguments])
    KEYS.setdefault(program.__name__, set()).update(keys)
    return status


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """CIFAR-10 layout with enough digits to learn something."""
    from digits import write_cifar10

    folder = tmp_path_factory.mktemp("digits") / "cifar10"
    write_cifar10(folder, limit=COUNT)
    return folder


@pytest.fixture(scope="module")
def straight(digits, tmp_path_factory):
    """Two epochs without interruption, with a moving average of the weights."""
    out = tmp_path_factory.mktemp("straight")
    assert call(train, *small_run(digits, out, **LEARNING, eval_interval=2)) == 0
    return out


@pytest.fixture(scope="module")
def states(straight) -> list[Path]:
    """The training states after the first and the second epoch."""
    return [straight / f"checkpoints/0/train_tinydarknet_cifar10-{epoch}_20.ckpt" for epoch in (1, 2)]


@pytest.fixture(scope="module")
def by_hand(states, digits) -> tuple[np.ndarray, np.ndarray]:
    """Logits (160, 10) and labels of the held-out pictures, computed outside of graphs, from the records' bytes on."""
    records = np.fromfile(digits / "test_batch.bin", np.uint8).reshape(COUNT, 3073)
    pictures = records[:, 1:].reshape(COUNT, 3, 32, 32) / 255.0
    mean, std = (np.array(values)[:, None, None] for values in ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]))
    ms.set_context(mode=ms.PYNATIVE_MODE)
    network, _ = load_network(MODEL, states[-1], read_config([], ""))
    return network(ms.Tensor((pictures - mean) / std, ms.float32)).asnumpy(), records[:, 0].astype(int)


def hits(by_hand) -> tuple[int, int]:
    """How many pictures have their label first, and how many among the first five."""
    logits, labels = by_hand
    ranks = (logits > logits[np.arange(COUNT), labels][:, None]).sum(1)
    return int((ranks == 0).sum()), int((ranks < 5).sum())


def contents(path) -> dict[str, np.ndarray]:
    return {name: value.asnumpy() for name, value in load(path)[0].items()}


def test_what_a_run_leaves(straight, states):
    names = sorted(path.name for path in (straight / "checkpoints/0").iterdir())
    assert names == [*(path.name for path in states), "train_tinydarknet_cifar10_best.ckpt"]
    log = (straight / "run/train.log").read_text()
    for pattern in (
        r"(?m)^epoch: 2 step: 20, loss is \d",
        r"(?m)^Epoch time: \d+\.\d{3}, per step time: \d+\.\d{3}$",
        r"(?m)^validation after epoch 2: .*ema_top_1_accuracy \d",
    ):
        assert re.search(pattern, log), pattern
    assert (straight / "run/curves.csv").is_file() and list((straight / "summary").glob("events*"))
    about = load(states[-1])[1]
    assert about["class_names"] == NAMES and about["input"]["resize"] == "both_sides"
    network = {"name": "tinydarknet", "num_classes": 10, "negative_slope": 0.1, "bn_eps": 1e-5}
    assert about["network"] == network and about["input"]["height"] == 32


def test_resumed_run_equals_the_uninterrupted_one(states, digits, tmp_path):
    assert call(train, *small_run(digits, tmp_path, **LEARNING, resume=states[0])) == 0
    before, expected = contents(states[0]), contents(states[1])
    found = contents(tmp_path / "checkpoints/0" / states[1].name)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    moved = {name for name, value in expected.items() if not np.array_equal(value, before[name])}
    for part in (
        r"conv\w*\.weight",
        r"bn\.moving_mean",
        r"train_state\.ema\.",
        r"moments",
        "global_step",
        r"^conv16\.",
    ):
        assert any(re.search(part, name) for name in moved), f"{part} did not move: the comparison would see nothing"


def evaluate(path, data, out, *options, dataset="cifar10") -> tuple[float, float]:
    """Top-1 and top-5 accuracy of the documented line of eval.py."""
    common = ["--dataset_name", dataset, "--val_data_dir", data, "--run_dir", out, "--checkpoint_path", path]
    call(evaluation, *CPU, *common, *options)
    line = r"(?m)^accuracy:  \{'top_1_accuracy': (\S+), 'top_5_accuracy': (\S+)\}$"
    top_1, top_5 = re.search(line, (out / "eval.log").read_text()).groups()
    return float(top_1), float(top_5)


@pytest.fixture(scope="module")
def evaluated(states, digits, tmp_path_factory) -> tuple[float, float]:
    """With a batch size that does not divide 160; the recipe says 227 pixels, the checkpoint 32."""
    return evaluate(states[-1], digits, tmp_path_factory.mktemp("eval"), "--batch_size", 7)


def test_evaluation_equals_a_hand_count(evaluated, by_hand):
    assert evaluated == tuple(count / COUNT for count in hits(by_hand))


def test_loss_of_the_validation(straight, by_hand):
    """Smoothed as that of the training: 0.8 for the label, the rest for the nine others."""
    logits, labels = by_hand
    scores = logits - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
    targets = np.full(logits.shape, 0.2 / 9)
    targets[np.arange(COUNT), labels] = 0.8
    said = re.search(r"top_5_accuracy \S+, validation_loss ([0-9.]+)", (straight / "run/train.log").read_text())[1]
    assert float(said) == pytest.approx(-(targets * scores).sum(1).mean(), abs=1e-4)


def test_moving_average_is_evaluated(straight, states, evaluated, digits, tmp_path):
    said = re.search(r"ema_top_1_accuracy ([0-9.]+)", (straight / "run/train.log").read_text())[1]
    found = evaluate(states[-1], digits, tmp_path, "--batch_size", 8, "--use_ema", True)
    assert f"{found[0]:.4f}" == said and found != evaluated


@pytest.fixture(scope="module")
def named(image_folder, tmp_path_factory) -> Path:
    """The class folders of the digits, by the names that the checkpoint has for them, and a further class."""
    folder = tmp_path_factory.mktemp("named")
    for digit, name in enumerate(NAMES):
        shutil.copytree(image_folder / "val" / str(digit), folder / "ten" / name)
    shutil.copytree(folder / "ten", folder / "eleven")
    shutil.copytree(folder / "ten/nine", folder / "eleven/ten")
    return folder


def test_number_of_classes_is_that_of_the_checkpoint(states, named, tmp_path):
    """Not the recipe's 1000; data of more classes are refused."""
    assert read_config([], "").num_classes == 1000
    with pytest.raises(DataError, match="the checkpoint has 10 classes .* has 11") as caught:
        evaluate(states[-1], named / "eleven", tmp_path, dataset="imagenet")
    assert "--num_classes" not in str(caught.value)
    options = ["--dataset_name", "imagenet", "--val_data_dir", named / "ten", "--run_dir", tmp_path, "--dry_run"]
    call(evaluation, *CPU, *options, "--checkpoint_path", states[-1])
    assert "nothing was evaluated" in (tmp_path / "eval.log").read_text()


def test_weights_decide_the_input_and_the_network(states, digits, tmp_path):
    for option in (["--image_height=64", "--image_width=64"], ["--num_classes=11"], ["--mean=0,0,0"]):
        with pytest.raises(UsageError, match=r"contradicts .*cifar10-2_20\.ckpt"):
            evaluate(states[-1], digits, tmp_path, *option)


def test_pretrained_weights(straight, digits, tmp_path):
    """Only with --pre_trained; another number of classes needs --reset_head."""
    path = straight / "checkpoints/0/train_tinydarknet_cifar10_best.ckpt"
    options = {"checkpoint_path": path, "num_classes": 12, "dry_run": True}
    assert call(train, *small_run(digits, tmp_path, **options)) == 0
    assert "weights of" not in (tmp_path / "run/train.log").read_text()
    with pytest.raises(DataError, match="reset_head"):
        call(train, *small_run(digits, tmp_path, **options, pre_trained=True))
    assert call(train, *small_run(digits, tmp_path, **options, pre_trained=True, reset_head=True)) == 0
    said = r"weights of .*best\.ckpt: 75 loaded, 0 missing, 0 unexpected, 0 wrong_shape, 2 reset"
    assert re.search(said, (tmp_path / "run/train.log").read_text())


@pytest.fixture(scope="module")
def exported(states, tmp_path_factory):
    """The last state as MINDIR with batch 1, and as ONNX with batch 3 and folded batch norms; by their default names."""
    folder = tmp_path_factory.mktemp("exported")
    common = [*CPU, "--checkpoint_path", states[-1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        call(export, *common)
        call(export, *common, "--file_format", "ONNX", "--batch_size", 3, "--fold_bn", True)
    names = {"tinydarknet.mindir", "tinydarknet.onnx"}
    assert {path.name for path in folder.iterdir()} == names | {f"{name}.json" for name in names}
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
def inferred(exported, digits, tmp_path_factory) -> Path:
    """What infer.py and create_label_list.py write of the records of CIFAR-10 as pictures in class folders."""
    out = tmp_path_factory.mktemp("inferred")
    for index, record in enumerate(np.fromfile(digits / "test_batch.bin", np.uint8).reshape(COUNT, 3073)):
        path = out / "pictures" / str(record[0]) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(record[1:].reshape(3, 32, 32).transpose(1, 2, 0)).save(path)
    call(infer, "--model_file", exported[".onnx"], "--input", out / "pictures", "--output_dir", out / "result")
    call(create_label_list, "--input", out / "pictures", "--label_file", out / "label.txt")
    return out


def test_infer_and_postprocess(inferred, by_hand, capsys):
    """Logits and accuracy of the result files are those of the hand count."""
    logits, labels = by_hand
    found = [np.fromfile(inferred / f"result/result_Files/{index}.bin", "<f4") for index in range(COUNT)]
    np.testing.assert_allclose(found, logits, atol=1e-3 * np.abs(logits).max())
    rows = json.loads((inferred / "result/predictions.json").read_text())["predictions"]
    tops = {int(Path(row["file"]).stem): row["top"][0]["class_name"] for row in rows}
    assert [tops[index] for index in range(COUNT)] == [NAMES[index] for index in logits.argmax(1)]
    capsys.readouterr()
    call(postprocess, "--result_path", inferred / "result/result_Files", "--label_file", inferred / "label.txt")
    top_1, top_5 = hits(by_hand)
    assert capsys.readouterr().out == (
        f"'top_1_accuracy': {100 * top_1 / COUNT:.2f}%, 'top_5_accuracy': {100 * top_5 / COUNT:.2f}%\n"
        f"total={COUNT}, top1_correct={top_1}, top5_correct={top_5}\n"
    )


# ---- The help --------------------------------------------------------------------------------------------------------


def test_help_lists_what_a_program_reads(evaluated, inferred, states, named, tmp_path):
    """Also for weights without a description, where the recipe says what they are."""
    weights = {name: value for name, value in load(states[-1])[0].items() if "train_state" not in name}
    save(tmp_path / "w.ckpt", weights, {})
    network = [*CPU, "--dry_run", "--num_classes=10", "--image_height=32", "--image_width=32"]
    pictures = named / "ten"
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
        train: {"lr_init", "momentum", "cutout_ratio", "flip_prob", "log_interval", "dataset_sink_mode", "pre_trained"},
        evaluation: {"crop_ratio", "use_ema", "dataset_name"},
        export: {"fold_bn", "batch_size", "onnx_filename"},
        infer: {"top_k", "mean"},
    }.items():
        assert keys <= KEYS[program.__name__], "the recorder saw less than the program reads"


def test_help_of_postprocess_is_short(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        postprocess.main(["--help"])
    assert len(capsys.readouterr().out.splitlines()) <= 40

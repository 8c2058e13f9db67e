"""All programs of this folder are joined rightly: one training with everything on, resumed, evaluated, exported, used.

What the programs share is tested in tests/ of the repository with a toy model; here is proved that they do it with this
network, this data, these files.
"""

from __future__ import annotations

import json
import re
import shutil
import types

import create_label_list
import eval as evaluation
import export
import infer
import mindspore_hub_conf
import postprocess
import train
from classifier.fixtures import contents, same
from classifier.wiring import KEYS, call, measures, read_inputs
from conftest import EPOCHS, EVERYTHING, STAGE_BLOCKS, STEPS, run_training, running, states
from recorded_keys import listed_options, recorded_keys
from src.model_utils import checkpoint, inference
from src.model_utils.config import Config
from src.model_utils.device_adapter import Device
from src.recipe import MODEL, read_config

import mindspore as ms
import numpy as np
import pytest

METRICS = r"\{'Validation-Loss': (\S+), 'Top1-Acc': (\S+), 'Top5-Acc': (\S+)\}"
TOLERANCE = 2e-4  # of the largest logit; float32
CPU = ["--device_target", "CPU"]


def log_of(out) -> str:
    return (out / "run/train.log").read_text()


def metrics(text: str, title: str = "") -> list[list[float]]:
    """Loss, top-1 and top-5 of all documented lines with this title, in the order of the epochs."""
    return [[float(number) for number in row] for row in re.findall(rf"(?m)^{title}{METRICS}$", text)]


def load(path, use_ema: bool = False):
    return inference.load_network(MODEL, path, MODEL.read_config([], ""), use_ema=use_ema)[0]


def test_resumed_run_equals_the_uninterrupted_one(few_digits, trained, tmp_path):
    """From the end of the first epoch on: every file bit for bit, the history of the evaluations too."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(trained / "checkpoints", folder)
    run_training(few_digits, tmp_path, **EVERYTHING, resume=folder / "tinynet_e-1_5.ckpt")
    (aside,) = folder.glob("earlier_*")
    assert {path.name for path in aside.iterdir()} == {"tinynet_e-2_5.ckpt", "ema-1.ckpt"}
    for name in ("tinynet_e-1_5", "tinynet_e-2_5", "last", "ema-0", "ema-1", "ema_last", "ema_best"):
        found, expected = folder / f"{name}.ckpt", trained / "checkpoints" / f"{name}.ckpt"
        assert same(contents(found), contents(expected)), name
    straight, resumed = log_of(trained), log_of(tmp_path)
    for pattern in (r"Model Accuracy: .*", r"Best .*Model Accuracy: .*", r"epoch \d+: 0\.\d+", r"epoch: 1/2, .*"):
        assert re.findall(pattern, resumed) == re.findall(pattern, straight)[-len(re.findall(pattern, resumed)) :]
    assert len(checkpoint.load(folder / "last.ckpt")[1]["accuracies"]) == EPOCHS


def test_all_parts_of_the_state_move(trained):
    """Otherwise the comparison above would not see them."""
    before, after = (contents(path) for path in states(trained))
    moved = {name for name in after if not np.array_equal(before[name], after[name])}
    weights = load(states(trained)[0]).parameters_dict()
    optimizer = {f"train_state.optimizer.{kind}.{name}" for kind in ("mean_square", "moment")
                 for name in weights if ".moving_" not in name}  # fmt: skip
    averages = {f"train_state.ema.{name}" for name in weights}
    assert moved == {*weights, *optimizer, *averages, "train_state.optimizer.global_step"} == after.keys()
    assert after["train_state.optimizer.global_step"] == EPOCHS * STEPS


# ---- Evaluation ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_hand(few_digits, trained):
    """use_ema -> logits (40, 10) of the newest state; and the labels."""
    files, state = sorted((few_digits / "val").rglob("*.jpg")), states(trained)[-1]
    images = ms.Tensor(read_inputs(files, checkpoint.load(state)[1]["input"]))
    with running("PYNATIVE_MODE"):
        logits = {use_ema: load(state, use_ema)(images).asnumpy() for use_ema in (False, True)}
    return types.SimpleNamespace(logits=logits, labels=np.array([int(file.parent.name) for file in files]))


def evaluated(few_digits, out, path, *options, program=train) -> str:
    """What eval.py logs of a checkpoint, or train.py --train False; its batches of 16 do not divide 40."""
    arguments = ["--ckpt", path, "--data_path", few_digits, "--smoothing", "0.2", "--run_dir", out, *CPU, "-b", "16"]
    assert call(program, *arguments, *options, *(["--train", "False"] if program is train else [])) is None
    return (out / "eval.log").read_text()


def test_evaluation_of_a_state_equals_a_hand_count(few_digits, trained, by_hand, tmp_path):
    """Of the raw and of the averaged weights, which differ; the training has said the same of both."""
    text = evaluated(few_digits, tmp_path, trained / "checkpoints/last.ckpt")
    for title, use_ema in (("Model Accuracy: ", False), ("EMA-Model Accuracy: ", True)):
        expected = pytest.approx(measures(by_hand.logits[use_ema], by_hand.labels, 0.2), rel=1e-5)
        assert [tuple(row) for row in metrics(text, title)] == [expected]
        assert tuple(metrics(log_of(trained), title)[-1]) == expected
    assert np.abs(by_hand.logits[True] - by_hand.logits[False]).max() > 0.01


def test_evaluation_of_averaged_weights(few_digits, trained, by_hand, tmp_path):
    """One documented line without a title; the loss without smoothing where the recipe says so."""
    path = trained / "checkpoints/ema_last.ckpt"
    text = evaluated(few_digits, tmp_path, path, "--use_label_smooth", "False", program=evaluation)
    (row,) = metrics(text)
    assert tuple(row) == pytest.approx(measures(by_hand.logits[True], by_hand.labels, 0.0), rel=1e-5)
    assert "Accuracy" not in text


# ---- Export and inference --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The raw weights as ONNX with its batch norms, the averaged ones as MINDIR without; batches of 3 and of 2."""
    folder = tmp_path_factory.mktemp("exported")
    options = [*CPU, "--ckpt", trained / "checkpoints/last.ckpt", "--file_name"]
    call(export, *options, folder / "raw", "--file_format", "ONNX", "--export_batch_size", "3")
    call(export, *options, folder / "averaged", "--export_batch_size", "2", "--fold_bn", "--use_ema")
    return folder


@pytest.mark.parametrize("name, use_ema, batch_size", [("raw.onnx", False, 3), ("averaged.mindir", True, 2)])
def test_exported_model_equals_the_network(exported, trained, eager, name, use_ema, batch_size):
    """On another input than the one that it was exported with."""
    model, about, fixed = inference.load_model(MODEL, exported / name, MODEL.read_config([], ""))
    assert fixed == batch_size and about["class_names"] == [str(digit) for digit in range(10)]
    images = np.random.RandomState(11).standard_normal((batch_size, 3, 32, 32)).astype(np.float32)
    (found,) = model(images)
    expected, other = (load(states(trained)[-1], ema)(ms.Tensor(images)).asnumpy() for ema in (use_ema, not use_ema))
    assert found.shape == expected.shape == (batch_size, 10) and found.dtype == np.float32
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert np.abs(found - other).max() > 10 * TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("name, use_ema", [("last.ckpt", False), ("raw.onnx", False), ("averaged.mindir", True)])
def test_inference_and_its_accuracy(exported, trained, few_digits, by_hand, tmp_path, capsys, name, use_ema):
    """The result files hold the logits; postprocess.py counts as by hand."""
    path = (trained / "checkpoints" if name == "last.ckpt" else exported) / name
    folder, results = few_digits / "val", tmp_path / "out/result_Files"
    call(infer, "--model_file", path, "--input", folder, "--output_dir", tmp_path / "out", *CPU)
    logits = by_hand.logits[use_ema]
    predictions = json.loads((tmp_path / "out/predictions.json").read_text())["predictions"]
    assert [row["top"][0]["class_index"] for row in predictions] == logits.argmax(1).tolist()
    written = [np.fromfile(results / f"{file.stem}.bin", "<f4") for file in sorted(folder.rglob("*.jpg"))]
    np.testing.assert_allclose(written, logits, atol=TOLERANCE * np.abs(logits).max())
    label_file = tmp_path / "label.txt"
    call(create_label_list, "--input", folder, "--label_file", label_file, "--model_file", path)
    capsys.readouterr()
    call(postprocess, "--result_path", results, "--label_file", label_file)
    _, top_1, top_5 = measures(logits, by_hand.labels, 0.0)
    assert f"total=40, top1_correct={round(40 * top_1)}, top5_correct={round(40 * top_5)}" in capsys.readouterr().out


def test_hub_builds_the_five_networks():
    network = mindspore_hub_conf.create_network("tinynet_e", num_classes=3)
    assert network.classifier.weight.shape == (3, 1280)
    assert len(mindspore_hub_conf.create_network("tinynet", 3).blocks[3]) == 3, "not tinynet_c"
    with pytest.raises(NotImplementedError, match="resnet"):
        mindspore_hub_conf.create_network("resnet")


# ---- Start of a training ---------------------------------------------------------------------------------------------


def dry_run(few_digits, out, **changes) -> str:
    """The log of a training that does all but train."""
    run_training(few_digits, out, dry_run=True, **changes)
    assert not (out / "checkpoints").exists()
    return log_of(out)


def test_start_from_weights(few_digits, trained, tmp_path):
    """--ckpt gives them; another number of classes leaves everything but the classifier; parts may be frozen."""
    source = trained / "checkpoints/ema_best.ckpt"
    count, said = len(contents(source)), f"weights of {source}: {{}} loaded, 0 missing, 0 unexpected, 0 wrong_shape{{}}"
    assert said.format(count, "") in dry_run(few_digits, tmp_path, ckpt=source)
    changes = {"num_classes": 12, "reset_head": True, "freeze": "conv_stem.*,bn1.*,blocks.0.*"}
    text = dry_run(few_digits, tmp_path, ckpt=source, **changes)
    assert said.format(count - 2, ", 2 reset") in text
    assert re.search(r"frozen: \d+ of \d+ trainable parameters; 3 of \d+ batch norms keep", text)


def test_each_rank_and_seed_has_masks_of_its_own(few_digits, tmp_path, monkeypatch):
    """The network is given the rates of the recipe, and a seed that no other rank and no other run has."""
    seen = []
    monkeypatch.setattr("src.tinynet.TinyNet.regularize", lambda self, *rates, seed: seen.append((*rates, seed)))
    for seed, rank in ((1, 0), (1, 1), (2, 0), (2, 7)):
        device = Device("CPU", 0, rank, 1)
        monkeypatch.setattr("src.model_utils.device_adapter.init", lambda *_, device=device: device)
        dry_run(few_digits, tmp_path, seed=seed, drop=0.1, drop_connect=0.3)
    assert [rates for *rates, _ in seen] == [[0.1, 0.3]] * 4 and len({seed for *_, seed in seen}) == 4


# ---- The help --------------------------------------------------------------------------------------------------------

# Program -> some of the keys that it reads, and some that it must not list.
HELP = {
    train: (
        "drop cutmix_prob decay_rate resume per_print_times warmup_lr ckpt seed freeze",
        "file_format fold_bn top_k result_path",
    ),
    evaluation: (
        "smoothing use_label_smooth batch_size crop_ratio bn_eps distributed",
        "lr momentum drop epochs fold_bn model_file result_path",
    ),
    export: (
        "file_format fold_bn export_batch_size use_ema stage_blocks",
        "lr batch_size model_file result_path data_path",
    ),
    infer: ("top_k input output_dir model_file jit_level", "lr momentum fold_bn result_path ckpt"),
    create_label_list: ("input", "lr"),
    postprocess: ("result_path", "lr"),
}


def test_help_lists_what_a_program_reads(few_digits, trained, exported, tmp_path):
    """Also for weights without a description: then network and input are those of the recipe."""
    last, plain = trained / "checkpoints/last.ckpt", tmp_path / "plain.ckpt"
    checkpoint.save(plain, checkpoint.load(trained / "checkpoints/ema_last.ckpt")[0], {})
    run_training(few_digits, tmp_path, dry_run=True, ckpt=plain, freeze="conv_stem.*")
    text = evaluated(few_digits, tmp_path, last, "--dry_run", "--use_ema")
    assert "dry run" in text and "Acc" not in text
    options = "--dry_run --model tinynet_e --num_classes 10 --image_height 32 --image_width 32 --stage_blocks"
    network = [*CPU, *options.split(), STAGE_BLOCKS]
    for path in (last, plain):
        call(evaluation, *network, "--data_path", few_digits, "--run_dir", tmp_path, "--ckpt", path)
        call(export, *network, "--file_name", tmp_path / "m", "--ckpt", path)
        call(infer, *network, "--input", few_digits / "val/3", "--output_dir", tmp_path / "out", "--model_file", path)
    with recorded_keys(Config) as of_each_program:
        read_config([], "")
    for program, (some, others) in HELP.items():
        read, listed = KEYS[program.__name__] - of_each_program, listed_options(program.main) - {"config_path", "debug"}
        assert not read - listed and set(some.split()) <= KEYS[program.__name__], program.__name__
        assert not listed & set(others.split()), program.__name__
        if program in (create_label_list, postprocess):
            assert read == listed, program.__name__

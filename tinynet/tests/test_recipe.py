"""What only this folder has: its documented keys and spellings, its learning rates, log lines and checkpoint files."""

from __future__ import annotations

import json
import re

import train
from conftest import contents, program, small_run, states
from infer import read_picture
from src.dataset import eval_transforms
from src.lr_scheduler import get_lr
from src.model_utils import checkpoint
from src.model_utils.callbacks import Evaluate, Position
from src.model_utils.config import UsageError
from src.model_utils.dataset_checks import require_steps
from src.recipe import FOLDER, TinyNetCheckpoints, read_config
from src.report import report_accuracies
from src.tinynet import STAGES

import mindspore as ms
import numpy as np
import pytest
import yaml
from mindspore import nn
from src.inference import load_network

DOCUMENTED = """
data_path: ""\nmodel: tinynet_c\nnum_classes: 1000\nbatch_size: 128\ndrop: 0.2\ndrop_connect: 0\nopt: rmsprop\nopt_eps: 0.001
momentum: 0.9\nweight_decay: 0.00001\nlr: 0.048\nwarmup_lr: 0.000001\nepochs: 450\ndecay_epochs: 2.4\nwarmup_epochs: 3
decay_rate: 0.97\nsmoothing: 0.1\nema_decay: 0.9999\namp_level: O0\nper_print_times: 100\nbn_tf: False\nbn_momentum: 0.1
bn_eps: 0.00001\nworkers: 8\ndistributed: False\ndataset_sink: True\nckpt: ""\nckpt_save_epoch: 1\nloss_scale: 1024
train: True\nGPU: False
"""
# A training as it is documented, in words; and each documented key in the spellings beside it.
COMMAND = (
    "--model tinynet_c --drop 0.2 --drop-connect 0 --num-classes 1000 --opt-eps 0.001 --lr 0.048 --batch-size 128 "
    "--decay-epochs 2.4 --warmup-lr 1e-6 --warmup-epochs 3 --decay-rate 0.97 --ema-decay 0.9999 --weight-decay 1e-5 "
    "--epochs 450 --ckpt_save_epoch 1 --workers 8 --amp_level O0 --opt rmsprop --data_path /path_to_ImageNet/ --GPU "
    "--dataset_sink"
)
SPELLINGS = [
    ("--num-classes 10", "num_classes", 10), ("--num_classes=10", "num_classes", 10), ("-b 4", "batch_size", 4),
    ("--batch-size 4", "batch_size", 4), ("-j 3", "workers", 3), ("--workers 3", "workers", 3),
    ("--drop 0.5", "drop", 0.5), ("--drop-connect 0.3", "drop_connect", 0.3), ("--opt-eps 1e-8", "opt_eps", 1e-8),
    ("--momentum 0.8", "momentum", 0.8), ("--lr 0.1", "lr", 0.1), ("--epochs 2", "epochs", 2),
    ("--decay-epochs 30", "decay_epochs", 30.0), ("--warmup-lr 1e-4", "warmup_lr", 1e-4),
    ("--warmup-epochs 5", "warmup_epochs", 5), ("--decay-rate 0.5", "decay_rate", 0.5), ("--dr 0.5", "decay_rate", 0.5),
    ("--ema-decay 0.9", "ema_decay", 0.9), ("--ema-decay 0", "ema_decay", 0.0), ("--weight-decay 1e-4", "weight_decay", 1e-4),
    ("--amp_level O2", "amp_level", "O2"), ("--GPU", "GPU", True), ("--dataset_sink", "dataset_sink", True),
    ("--no-dataset_sink", "dataset_sink", False), ("--dataset_sink False", "dataset_sink", False),
    ("--ckpt /a.ckpt", "ckpt", "/a.ckpt"), ("--ckpt_save_epoch 7", "ckpt_save_epoch", 7),
    ("--per_print_times 9", "per_print_times", 9), ("--bn-tf", "bn_tf", True), ("--bn-momentum 0.2", "bn_momentum", 0.2),
    ("--bn-eps 1e-4", "bn_eps", 1e-4), ("--distributed", "distributed", True), ("--train False", "train", False),
    ("--train no", "train", False), ("--smoothing 0.2", "smoothing", 0.2), ("--opt sgd", "opt", "sgd"),
    ("--data_path /data", "data_path", "/data"), ("--loss_scale 1", "loss_scale", 1.0),
    ("--model tinynet_e", "model", "tinynet_e"),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def shallow():
    """What is tested here does not depend on the depth."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.tinynet.STAGES", (*STAGES[:2], STAGES[6]))
        yield


def configured(text: str = ""):
    return read_config(text.split(), "")


# ---- Options ---------------------------------------------------------------------------------------------------------


def test_documented_keys_have_their_defaults():
    values = next(iter(yaml.safe_load_all((FOLDER / "default_config.yaml").read_text())))
    for key, value in yaml.safe_load(DOCUMENTED).items():
        assert values[key] == value, key


def test_documented_command():
    """It is the default recipe, but for the data, the device and what the documents leave open."""
    defaults, config = configured().to_dict(), configured(COMMAND)
    changed = {key for key, value in config.to_dict().items() if value != defaults[key]}
    assert changed == {"data_path", "train_data_dir", "val_data_dir", "GPU"}
    assert (config.train_data_dir, config.val_data_dir) == ("/path_to_ImageNet/train", "/path_to_ImageNet/val")
    assert config.device_target == "GPU" and (config.image_height, config.image_width) == (184, 184)


@pytest.mark.parametrize("text, key, value", SPELLINGS)
def test_spelling(text, key, value):
    config = configured(text)
    assert config[key] == value and type(config[key]) is type(value) and key in config.given


def test_every_documented_key_has_a_spelling():
    assert {key for _, key, _ in SPELLINGS} == yaml.safe_load(DOCUMENTED).keys()


def test_gpu_is_a_device():
    assert configured("--GPU --device_target GPU").device_target == "GPU"
    assert configured("--GPU False --device_target CPU").device_target == "CPU"
    result = program("train.py", "--GPU", "--device_target", "CPU")
    assert result.returncode == 2
    assert result.stderr == "error: --GPU contradicts --device_target CPU; give one of the two\n"


def test_recipe_of_tinynet_b():
    assert configured("--model tinynet_b").drop_connect == 0.1
    assert configured("--model=tinynet_b --drop-connect 0").drop_connect == 0
    assert configured("--model tinynet_b").image_height == 188
    for model in ("tinynet_a", "tinynet_c", "tinynet_d", "tinynet_e"):
        assert configured(f"--model {model}").drop_connect == 0
    from_file = configured(f"--config_path {FOLDER / 'tinynet_b_config.yaml'}")
    assert (from_file.model, from_file.drop_connect) == ("tinynet_b", 0.1)


def test_input_sizes():
    sizes = [configured(f"--model tinynet_{letter}").image_height for letter in "abcde"]
    assert sizes == [192, 188, 184, 152, 106]
    resized = [int(size / configured().crop_ratio) for size in sizes]
    assert resized == [219, 214, 210, 173, 121]


def test_tensorflow_batch_norm():
    config = configured("--bn-tf")
    assert (config.bn_momentum, config.bn_eps) == (0.01, 1e-3)
    config = configured("--bn-tf --bn-momentum 0.5")
    assert (config.bn_momentum, config.bn_eps) == (0.5, 1e-3)
    assert "bn_eps" in config.given and "bn_eps" not in configured().given


def test_optimizers():
    network = nn.Dense(2, 2)
    rates = np.full(3, 0.1, np.float32)
    optimizer = train.create_optimizer(configured("--opt sgd --momentum 0.7"), network, rates)
    assert type(optimizer) is nn.Momentum and float(optimizer.momentum.asnumpy()) == pytest.approx(0.7)
    for text in ("--opt-eps 0", "--momentum 1"):
        with pytest.raises(UsageError, match="epsilon="):
            train.create_optimizer(configured(text), network, rates)


@pytest.mark.parametrize("options, message", [
    ("--amp_level O2", "amp_level=O2: MindSpore's CPU kernels"), ("--warmup-lr -1", "warmup_lr=-1"),
    ("--decay-epochs 0", "decay_epochs=0"), ("--decay-rate 0", "decay_rate=0"), ("--epochs 0", "epochs=0"),
    ("--smoothing 0.95", "smoothing=0.95"), ("--bn-momentum 0", "bn_momentum=0"), ("--ema-decay 1", "ema_decay=1"),
    ("--image_width 64", "image_height=32 image_width=64"), ("--image_height 31 --image_width 31", "32 or more"),
])  # fmt: skip
def test_refused_values(few_digits, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        train.main([*small_run(few_digits, tmp_path), *options.split()])
    assert not states(tmp_path)


# ---- Learning rates --------------------------------------------------------------------------------------------------


def test_learning_rates():
    rates = get_lr(configured(), 4)
    assert rates.shape == (1800,) and rates.dtype == np.float32
    assert rates[: 4 * 6 : 4] == pytest.approx([1e-6, 0.0160007, 0.0320003, 0.04656, 0.04656, 0.0451632], rel=3e-6)
    assert rates[-1] == pytest.approx(1.6127e-4, rel=1e-5)
    assert np.all(rates.reshape(450, 4) == rates[::4, None]), "all steps of an epoch are alike"
    inverse = get_lr(configured(f"--decay-rate {1 / 0.97!r}"), 4)
    np.testing.assert_allclose(inverse, rates, rtol=1e-5)
    assert get_lr(configured("--warmup-epochs 0 --epochs 3"), 1) == pytest.approx([0.048, 0.048, 0.048])
    assert require_steps(1281167, 128, 8) == 1251, "steps of an epoch on eight devices, as documented"


# ---- A training ------------------------------------------------------------------------------------------------------

RUN = {"ema_decay": 0.5, "eval_interval": 1, "per_print_times": 2, "drop": 0, "keep_checkpoint_max": 2,
       "smoothing": 0.2}  # fmt: skip
METRICS = r"\{'Validation-Loss': (\S+), 'Top1-Acc': (\S+), 'Top5-Acc': (\S+)\}"


@pytest.fixture(scope="module")
def trained(few_digits, tmp_path_factory):
    """Three epochs, of which two checkpoints stay."""
    out = tmp_path_factory.mktemp("trained")
    assert train.main(small_run(few_digits, out, epochs=3, **RUN)) == 0
    return out


def log_of(out) -> str:
    return (out / "run/train.log").read_text()


def metrics(text: str, title: str = "") -> list[list[float]]:
    """The numbers of all documented lines with this title, in the order of the epochs."""
    return [[float(number) for number in row] for row in re.findall(rf"(?m)^{title}{METRICS}$", text)]


def evaluated(out, path, *options) -> str:
    """What eval.py prints about a checkpoint; called as a training with --train False."""
    data = next(line for line in (out / "run/config.yaml").read_text().splitlines() if line.startswith("data_path: "))
    log = out / "evaluation"
    arguments = ["--train", "False", "--ckpt", str(path), "--data_path", data.partition(": ")[2], "--smoothing", "0.2",
                 "--device_target", "CPU", "--run_dir", str(log), "-b", "16", *options]  # fmt: skip
    (log / "eval.log").unlink(missing_ok=True)
    assert train.main(arguments) is None
    return (log / "eval.log").read_text()


def test_lines_of_the_steps(trained):
    """Every two steps and at the end of an epoch; epochs count from 0."""
    pattern = r"(?m)^epoch: (\d)/3, step: (\d)/5, loss is (\d+\.\d+), learning rate: (\S+)$"
    rows = re.findall(pattern, log_of(trained))
    assert [(int(epoch), int(step)) for epoch, step, *_ in rows] == [(e, s) for e in range(3) for s in (2, 4, 5)]
    rates = get_lr(read_config(small_run(trained, trained, epochs=3), ""), 5)
    for epoch, step, _, rate in rows:
        assert float(rate) == pytest.approx(rates[5 * int(epoch) + int(step) - 1], rel=1e-5)
    curves = [line.split(",") for line in (trained / "run/curves.csv").read_text().splitlines()]
    losses = [float(number) for row in curves if "loss" in row for number in row[-1:]]
    assert [float(loss) for *_, loss, _ in rows] == pytest.approx(losses, rel=1e-4)


def test_lines_of_the_evaluations(trained):
    log = log_of(trained)
    raw, averaged = metrics(log, "Model Accuracy: "), metrics(log, "EMA-Model Accuracy: ")
    assert len(raw) == len(averaged) == 3 and raw != averaged
    for title, rows in (("", raw), ("EMA-", averaged)):
        best = re.findall(rf"(?m)^Best {title}Model Accuracy: (\S+), at epoch (\d+)$", log)
        for count, (value, epoch) in enumerate(best, 1):
            accuracies = [top_1 for _, top_1, _ in rows[:count]]
            assert float(value) == max(accuracies) == accuracies[int(epoch)]
        assert len(best) == 3
    (last,) = re.findall(r"Top 10 EMA-Model Accuracies: \n((?:epoch \d+: \S+\n){3})", log)
    listed = [(int(e), float(v)) for e, v in re.findall(r"epoch (\d+): (\S+)", last)]
    assert listed == sorted(((e, row[1]) for e, row in enumerate(averaged)), key=lambda row: -row[1])


def test_evaluations_agree_with_eval(trained):
    """The lines of the training are those of eval.py of the files that it wrote."""
    folder, log = trained / "checkpoints", log_of(trained)
    raw, averaged = metrics(log, "Model Accuracy: "), metrics(log, "EMA-Model Accuracy: ")
    best = max(range(3), key=lambda epoch: averaged[epoch][1])
    assert json.loads(json.dumps(checkpoint.load(folder / "ema_best.ckpt")[1]))["trained_epochs"] == best + 1
    both = evaluated(trained, folder / "last.ckpt")
    assert metrics(both, "Model Accuracy: ") == [pytest.approx(raw[2], rel=1e-5)]
    assert metrics(both, "EMA-Model Accuracy: ") == [pytest.approx(averaged[2], rel=1e-5)]
    for name, expected in (
        ("ema-2", averaged[2]),
        ("ema_last", averaged[2]),
        ("ema-1", averaged[1]),
        ("ema_best", averaged[best]),
    ):
        found = evaluated(trained, folder / f"{name}.ckpt")
        assert metrics(found) == [pytest.approx(expected, rel=1e-5)] and "Accuracy" not in found, name
    assert metrics(evaluated(trained, folder / "last.ckpt", "--use_ema")) == [pytest.approx(averaged[2], rel=1e-5)]


def test_validation_loss_by_hand(trained, few_digits):
    """Mean over all images of the smoothed cross entropy, in float64."""
    path = trained / "checkpoints/ema_last.ckpt"
    network, about = load_network(path, read_config([], ""))
    losses = {0.0: [], 0.2: []}
    for file in sorted((few_digits / "val").rglob("*.jpg")):
        tensor = read_picture(file)
        for operator in eval_transforms(about["input"]):
            tensor = operator(tensor)
        logits = network(ms.Tensor(tensor[None])).asnumpy()[0].astype(np.float64)
        logs = logits - np.log(np.exp(logits).sum())
        for smoothing, values in losses.items():
            target = np.full(10, smoothing / 9)
            target[int(file.parent.name)] = 1 - smoothing
            values.append(-(target * logs).sum())
    ((loss, *_),) = metrics(evaluated(trained, path))
    assert loss == pytest.approx(np.mean(losses[0.2]), rel=1e-5)
    ((loss, *_),) = metrics(evaluated(trained, path, "--use_label_smooth", "false"))
    assert loss == pytest.approx(np.mean(losses[0.0]), rel=1e-5)


def test_files(trained):
    """Two states and two averages stay; the files without a number are the newest of them."""
    folder = trained / "checkpoints"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "tinynet_e-2_5.ckpt", "tinynet_e-3_5.ckpt", "last.ckpt", "ema-1.ckpt", "ema-2.ckpt", "ema_last.ckpt", "ema_best.ckpt",
    }  # fmt: skip
    assert (folder / "last.ckpt").read_bytes() == (folder / "tinynet_e-3_5.ckpt").read_bytes()
    assert (folder / "ema_last.ckpt").read_bytes() == (folder / "ema-2.ckpt").read_bytes()
    for name, state in (("ema_last", "last"), ("ema-1", "tinynet_e-2_5")):
        average, stored = contents(folder / f"{name}.ckpt"), contents(folder / f"{state}.ckpt")
        prefix = "train_state.ema."
        assert average.keys() == {key[len(prefix) :] for key in stored if key.startswith(prefix)}
        for key, value in average.items():
            np.testing.assert_array_equal(value, stored[prefix + key])
        assert not np.array_equal(average["conv_stem.weight"], stored["conv_stem.weight"])
    about = checkpoint.load(folder / "ema_last.ckpt")[1]
    assert about["trained_epochs"] == 3 and about["class_names"] == [str(digit) for digit in range(10)]
    assert about["network"]["model"] == "tinynet_e" and about["input"]["interpolation"] == "bicubic"


def copy_run(trained, out, *, names=None):
    """The checkpoints of the training in another folder."""
    folder = out / "checkpoints"
    folder.mkdir(parents=True)
    for path in (trained / "checkpoints").iterdir():
        if names is None or path.name in names:
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_resuming_an_earlier_epoch(few_digits, trained, tmp_path):
    """Later states and averages are set aside; the history goes on, and everything is what it was."""
    folder = copy_run(trained, tmp_path)
    options = small_run(few_digits, tmp_path, epochs=3, **RUN, resume=folder / "tinynet_e-2_5.ckpt")
    assert train.main(options) == 0
    (aside,) = folder.glob("earlier_*")
    assert {path.name for path in aside.iterdir()} == {"tinynet_e-3_5.ckpt", "ema-2.ckpt"}
    for name in ("tinynet_e-3_5", "last", "ema-2", "ema_last", "ema-1", "ema_best"):
        one, other = contents(folder / f"{name}.ckpt"), contents(trained / "checkpoints" / f"{name}.ckpt")
        assert one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one), name
    straight, resumed = log_of(trained), log_of(tmp_path)
    cut = straight.rindex("Model Accuracy: {", 0, straight.rindex("EMA-Model Accuracy: {"))
    assert (
        resumed[resumed.index("Model Accuracy: {") :].split("checkpoint: ")[0]
        == straight[cut:].split("checkpoint: ")[0]
    )
    assert len(checkpoint.load(folder / "last.ckpt")[1]["accuracies"]) == 3


def test_last_state_resumes(few_digits, trained, tmp_path):
    """last.ckpt is a training state under one more name."""
    folder = copy_run(trained, tmp_path, names=["last.ckpt"])
    assert train.main(small_run(few_digits, tmp_path, epochs=4, **RUN, resume=folder / "last.ckpt")) == 0
    assert "epoch: 3/4, step: 5/5" in log_of(tmp_path) and "epoch: 2/4" not in log_of(tmp_path)
    (rows,) = [checkpoint.load(folder / "last.ckpt")[1]["accuracies"]]
    assert [epoch for epoch, *_ in rows] == [0, 1, 2, 3]


def test_new_run_loses_nothing(few_digits, trained, tmp_path):
    """It moves all files of the earlier one aside, as they are, also those that it would not write itself."""
    folder = copy_run(trained, tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert train.main(small_run(few_digits, tmp_path, epochs=1, **{**RUN, "ema_decay": 0, "eval_interval": 0})) == 0
    (aside,) = folder.glob("earlier_*")
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == before
    assert {path.name for path in folder.glob("*.ckpt")} == {"tinynet_e-1_5.ckpt", "last.ckpt"}


def test_starting_from_weights(few_digits, trained, tmp_path):
    """--ckpt gives the weights to start from."""
    source = trained / "checkpoints/ema_best.ckpt"
    changes = {"epochs": 1, "lr": 0, "drop": 0, "batch_size": 20, "ckpt": source}
    assert train.main(small_run(few_digits, tmp_path, **changes)) == 0
    found, expected = contents(states(tmp_path)[-1]), contents(source)
    np.testing.assert_array_equal(found["conv_stem.weight"], expected["conv_stem.weight"])
    with pytest.raises(UsageError, match="--bn_momentum 0.01 contradicts"):
        train.main([*small_run(few_digits, tmp_path, **changes), "--bn-tf"])


# ---- Without a training ----------------------------------------------------------------------------------------------


def save_epochs(folder: TinyNetCheckpoints, epochs) -> None:
    for epoch in epochs:
        weights = {"w": ms.Tensor([float(epoch)]), "train_state.ema.w": ms.Tensor([epoch / 2])}
        about = {"network": {}, "input": {}, "class_names": None, "steps_per_epoch": 5}
        folder.save(epoch, 5, weights, about)


def test_numbered_averages_stay_as_long_as_the_states(tmp_path):
    """Of twelve epochs the newest three; epoch 9 is older than epoch 10."""
    folder = TinyNetCheckpoints(tmp_path, "tinynet_c", 3, True)
    (tmp_path / "ema-notes.ckpt").touch()
    save_epochs(folder, range(1, 13))
    assert [path.name for path in folder.averages()] == ["ema-9.ckpt", "ema-10.ckpt", "ema-11.ckpt"]
    assert [path.name for path in folder.files()] == [f"tinynet_c-{epoch}_5.ckpt" for epoch in (10, 11, 12)]
    assert contents(tmp_path / "ema_last.ckpt")["w"] == 6 and (tmp_path / "ema-notes.ckpt").exists()
    folder.set_aside_after({"epoch": 11, "step": 5})
    assert [path.name for path in folder.averages()] == ["ema-9.ckpt", "ema-10.ckpt"]


def test_state_within_an_epoch_has_no_average_file(tmp_path):
    folder = TinyNetCheckpoints(tmp_path, "tinynet_c", 3, True)
    about = {"network": {}, "input": {}, "class_names": None, "steps_per_epoch": 5}
    folder.save(1, 3, {"w": ms.Tensor([1.0]), "train_state.ema.w": ms.Tensor([2.0])}, about)
    assert {path.name for path in tmp_path.iterdir()} == {"tinynet_c-1_3.ckpt", "last.ckpt"}
    assert folder.best.name == "ema_best.ckpt" and TinyNetCheckpoints(tmp_path, "x", 1, False).best.name == "best.ckpt"


class Lines(list):
    """A logger that keeps its lines."""

    def info(self, text: str, *values) -> None:
        self.append(text % values)


@pytest.fixture
def lines(monkeypatch):
    """The lines that report.py logs."""
    kept = Lines()
    monkeypatch.setattr("src.report.get_logger", lambda: kept)
    return kept


def test_ten_best_are_listed(lines):
    """Of thirteen evaluations; equal ones in the order of the epochs, of which the first is the best."""
    metadata: dict = {}
    values = [0.1, 0.5, 0.3, 0.5, 0.2, 0.0, 0.4, 0.15, 0.25, 0.35, 0.45, 0.05, 0.31]
    for epoch, value in enumerate(values, 1):
        row = {"validation_loss": 1.0, "top_1_accuracy": 1 - value, "top_5_accuracy": 1.0}
        report_accuracies({**row, **{f"ema_{key}": value for key in row}}, epoch, metadata)
    text = "\n".join([*lines, ""])
    assert "Best EMA-Model Accuracy: 0.5, at epoch 1\n" in text and "Best Model Accuracy: 1.0, at epoch 5\n" in text
    listed = re.findall(r"(?m)^epoch (\d+): (\S+)$", text[text.rindex("Top 10 EMA-Model Accuracies: \n") :])
    assert [int(epoch) for epoch, _ in listed] == [1, 3, 10, 6, 9, 12, 2, 8, 4, 7]
    assert [float(value) for _, value in listed] == sorted(values, reverse=True)[:10]
    assert len(metadata["accuracies"]) == 13


def test_raw_weights_alone_are_reported(lines):
    row = {"validation_loss": 1.0, "top_1_accuracy": 0.5, "top_5_accuracy": 1.0}
    report_accuracies(row, 1, {})
    text = "\n".join([*lines, ""])
    assert "Model Accuracy: {'Validation-Loss': 1.0, 'Top1-Acc': 0.5, 'Top5-Acc': 1.0}\n" in text and "EMA" not in text
    with pytest.raises(UsageError, match="eval_interval"):
        Evaluate(Position(5), dict, None, "top_1_accuracy", {}, 2, -1, None)


def test_two_networks_in_one_process(few_digits, tmp_path, trained):
    """A training of another model that was built before it changes nothing in a training."""
    changes = {**RUN, "model": "tinynet_d", "drop": 0.7, "bn_eps": 0.1, "dry_run": True}
    other = small_run(few_digits, tmp_path / "other", **changes)
    assert train.main(other) == 0
    assert train.main(small_run(few_digits, tmp_path, epochs=2, **RUN)) == 0
    one, other = contents(states(tmp_path)[-1]), contents(states(trained)[0])
    assert one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def test_evaluation_needs_a_checkpoint(few_digits, tmp_path):
    result = program("train.py", "--train", "False", "--data_path", few_digits, "--device_target", "CPU", cwd=tmp_path)
    assert result.returncode == 1 and result.stderr.startswith("error: checkpoint ")

"""A dry run finds what a run would find: values out of range, states that do not fit; and it writes nothing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from dry_run import numeric_keys, problem_of, try_values
from model_utils.errors import DataError, UsageError
from toy.model import MODEL
from toy.programs import run_eval, run_train
from toy_runs import command_line, last, small_run, start, states

import pytest

pytestmark = pytest.mark.usefixtures("programs")
SIZES = ("num_classes", "image_height", "image_width", "width", "epochs")
NOT_READ = ("top_k",)
# Accepted by a dry run: one step of training takes them too, several at a time; or it tells what is wrong.
SAMPLE = (
    "--lr=0 --weight_decay=0 --momentum=0 --clip_grad_norm=1e-9 --ema_decay=1e-9 --head_lr_factor=1e-9",
    "--lr=1e38 --loss_scale=1e38 --weight_decay=1e300 --head_lr_factor=1.5 --T_max=99999999999999999999",
    "--warmup_epochs=99999999999999999999 --seed=0 --flip_prob=0 --color_jitter=0,0,0,0 --mean=0,0,0 --freeze=[]",
    "--eval_interval=7 --log_interval=1000000000 --save_checkpoint_epochs=1000000000 --keep_checkpoint_max=1000000000",
)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_values_out_of_range(few_digits, tmp_path):
    options = small_run(few_digits, tmp_path, eval_interval=1, dry_run=True)
    accepted, faults = try_values(run_train, options, numeric_keys(MODEL.read_config([], ""), NOT_READ), SIZES)
    assert not faults and len(accepted) > 60
    assert not (tmp_path / "checkpoints").exists()
    for text in SAMPLE:
        assert set(text.split()) <= set(accepted)
    refused = "head_lr_factor=1e300 "
    refused += "lr=1e300 flip_prob=1.5 log_interval=0 save_checkpoint_epochs=0 eval_interval=-1 seed=-1 std=0,0,0"
    assert not {f"--{option}" for option in refused.split()} & set(accepted)
    ranges = {"--flip_prob", "--crop_scale", "--crop_ratio", "--momentum", "--ema_decay", "--label_smooth_factor"}
    assert not [option for option in accepted if option.split("=")[0] in ranges and float(option.split("=")[1]) > 1]


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("options", SAMPLE)
def test_what_a_dry_run_accepts_a_run_takes(few_digits, tmp_path, options):
    argv = small_run(few_digits, tmp_path, epochs=1, batch_size=40)
    assert not problem_of(run_train, [*argv, *options.split()])


def test_values_out_of_range_in_evaluation(few_digits, toy_state, tmp_path):
    """What the checkpoint was made for cannot be changed."""
    files = {"checkpoint_path": toy_state, "val_data_dir": few_digits / "val", "run_dir": tmp_path}
    options = command_line(**files, dry_run=True, num_parallel_workers=1)
    about = ("num_classes", "image_height", "image_width", "crop_ratio", "mean", "std", "width")
    read = (*about, "batch_size", "num_parallel_workers", "seed", "device_id")
    keys = {key: value for key, value in numeric_keys(MODEL.read_config([], "")).items() if key in read}
    accepted, faults = try_values(run_eval, options, keys, ("batch_size",))
    accepted = {option for option in accepted if not option.startswith(("--seed", "--num_parallel"))}
    assert not faults and len(keys) == len(read) and accepted == {"--batch_size=7", "--device_id=0"}


def test_other_errors_are_faults():
    """Of the helper: what a user would see as a traceback is one, also an error of the same name from elsewhere."""
    stranger = type("UsageError", (Exception,), {})
    raised = [None, UsageError("lr=1"), DataError("lr=1"), UsageError(""), ValueError("lr=1"), stranger("lr=1")]

    def main(argv: list[str]) -> None:
        error = raised[int(argv[-1].partition("=")[2])]
        if error is not None:
            raise error

    outcomes = [problem_of(main, [f"--lr={number}"]) for number in range(len(raised))]
    assert outcomes == [None, "", "", "UsageError without a message", "ValueError: lr=1", "UsageError: lr=1"]
    assert try_values(lambda argv: main(["=4"]), [], {"lr": 0.1})[1] != []


def test_nothing_is_written_or_moved(few_digits, toy_state, tmp_path):
    """A run after a dry run is a new one."""
    (tmp_path / "checkpoints").mkdir()
    copy = tmp_path / "checkpoints" / toy_state.name
    copy.write_bytes(toy_state.read_bytes())
    for resume in ("", "auto", copy):
        options = small_run(few_digits, tmp_path, epochs=1, ema_decay=0.5, resume=resume)
        assert run_train([*options, "--dry_run"]) == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [copy, tmp_path / "run/train.log"]
    assert "dry run: everything was built, nothing was trained\n" in (tmp_path / "run/train.log").read_text()
    copy.unlink()
    assert run_train(small_run(few_digits, tmp_path, epochs=1, batch_size=40)) == 0
    assert last(tmp_path).name == "toy-1_1.ckpt"


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"train_data_dir": "nowhere"}, DataError, "nowhere does not exist"),
        ({"num_classes": 7}, DataError, "10 classes, more than num_classes=7"),
        ({"batch_size": 8, "accumulate_steps": 6}, DataError, "0 steps per epoch: 40 images .* one batch of 48"),
        ({"device_target": "GPU"}, DataError, "device_target=GPU .*not available on this machine"),
        ({"train_data_dir": "damaged"}, DataError, r"1 of 40 files are not readable images.*(?s:.*)4/a\.jpg"),
        ({"val_data_dir": "other"}, DataError, r"(?s)'zebra'.*both need the same class names"),
        ({"amp_level": "O2"}, UsageError, "MindSpore's CPU kernels need float32"),
        ({"jit_level": "O2"}, UsageError, "on CPU, auto, O0, O1 are accepted"),
        ({"device_id": 3}, UsageError, "the CPU is one device"),
        ({"activation": "nothing"}, UsageError, "leaky_relu, relu, mish and swish are accepted"),
        ({"freeze": "*"}, UsageError, "leaves nothing to train"),
    ],
)
def test_what_cannot_be(few_digits, tmp_path, monkeypatch, changes, error, message):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(few_digits / "train", "damaged")
    victim = min((tmp_path / "damaged/4").iterdir()).rename("damaged/4/a.jpg")
    (tmp_path / "other/zebra").mkdir(parents=True)
    shutil.copy(victim, "other/zebra")
    Path(victim).write_bytes(Path(victim).read_bytes()[:-200])
    with pytest.raises(error, match=message):
        run_train(small_run(few_digits, tmp_path, **{"dry_run": True, "eval_interval": 1, **changes}))


def test_a_damaged_picture_of_the_validation_data_is_found(few_digits, tmp_path):
    """Where the check of all files is switched off, the first batch finds it."""
    for name in "0123456789":
        (tmp_path / "val" / name).mkdir(parents=True)
        (tmp_path / "val" / name / "a.jpg").write_bytes(b"no picture")
    changes = {"dry_run": True, "check_images": False, "val_data_dir": tmp_path / "val"}
    with pytest.raises(DataError, match=r"val/0/a\.jpg"):
        run_train(small_run(few_digits, tmp_path, eval_interval=1, **changes))
    assert run_train(small_run(few_digits, tmp_path, **changes)) == 0, "a run without evaluation does not need them"


def test_exit_statuses(few_digits, tmp_path):
    """As a process: one line and no traceback, 2 for options, 1 for data, 0 for a dry run, which takes no step."""
    for changes, status, line in (
        ({"flip_prob": 1.5}, 2, "error: flip_prob=1.5: 0 to 1 is accepted"),
        ({"train_data_dir": tmp_path / "nowhere"}, 1, f"error: {tmp_path}/nowhere does not exist"),
        ({"num_parallel_workers": 512}, 0, r"num_parallel_workers=512 clipped to the \d+ cores"),
    ):
        process = start("train", *small_run(few_digits, tmp_path, dry_run=True, **changes))
        output, _ = process.communicate(timeout=120)
        assert process.returncode == status and re.search(f"(?m)^{line}", output), output
        assert "Traceback" not in output and "loss is" not in output
    assert not states(tmp_path)

"""A dry run finds what a run would find: values out of range, states that do not fit; and it writes nothing."""

from __future__ import annotations

import re
import shutil

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
    "--lr=1e38 --loss_scale=1e38 --weight_decay=1e300 --head_lr_factor=1e300 --T_max=99999999999999999999",
    "--warmup_epochs=99999999999999999999 --seed=0 --flip_prob=0 --color_jitter=0,0,0,0 --mean=0,0,0 --freeze=[]",
    "--eval_interval=7 --log_interval=1000000000 --save_checkpoint_epochs=1000000000 --keep_checkpoint_max=1000000000",
)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_values_out_of_range(few_digits, tmp_path):
    recipe = MODEL.read_config([], "")
    options = small_run(few_digits, tmp_path, eval_interval=1, dry_run=True)
    accepted, faults = try_values(run_train, options, numeric_keys(recipe, NOT_READ), SIZES)
    assert not faults
    assert not (tmp_path / "checkpoints").exists()
    for text in SAMPLE:
        assert set(text.split()) <= set(accepted)
    for name in (
        "lr=1e300",
        "flip_prob=1.5",
        "log_interval=0",
        "save_checkpoint_epochs=0",
        "eval_interval=-1",
        "seed=-1",
        "std=0,0,0",
    ):
        assert f"--{name}" not in accepted
    ranges = {"--flip_prob", "--crop_scale", "--crop_ratio", "--momentum", "--ema_decay", "--label_smooth_factor"}
    assert not [option for option in accepted if option.split("=")[0] in ranges and float(option.split("=")[1]) > 1]
    assert len(accepted) > 60


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("options", SAMPLE)
def test_what_a_dry_run_accepts_a_run_takes(few_digits, tmp_path, options):
    argv = small_run(few_digits, tmp_path, epochs=1, batch_size=40)
    assert not problem_of(run_train, [*argv, *options.split()])


def test_values_out_of_range_in_evaluation(few_digits, toy_state, tmp_path):
    """What the checkpoint was made for cannot be changed."""
    options = command_line(
        checkpoint_path=toy_state,
        val_data_dir=few_digits / "val",
        run_dir=tmp_path,
        dry_run=True,
        num_parallel_workers=1,
    )
    about = ("num_classes", "image_height", "image_width", "crop_ratio", "mean", "std", "width")
    read = (*about, "batch_size", "num_parallel_workers", "seed", "device_id")
    keys = {key: value for key, value in numeric_keys(MODEL.read_config([], "")).items() if key in read}
    accepted, faults = try_values(run_eval, options, keys, ("batch_size",))
    assert not faults and len(keys) == len(read)
    assert {option for option in accepted if not option.startswith(("--seed", "--num_parallel"))} == {
        "--batch_size=7", "--device_id=0"
    }  # fmt: skip


def test_other_errors_are_faults():
    """Of the helper: what a user would see as a traceback is one, also an error of the same name from elsewhere."""

    class Stranger(Exception):
        pass

    Stranger.__name__ = "UsageError"
    raised = [None, UsageError("lr=1"), DataError("lr=1"), UsageError(""), ValueError("lr=1"), Stranger("lr=1")]

    def main(argv: list[str]) -> None:
        error = raised[int(argv[-1].partition("=")[2])]
        if error is not None:
            raise error

    outcomes = [problem_of(main, [f"--lr={number}"]) for number in range(len(raised))]
    assert outcomes == [None, "", "", "UsageError without a message", "ValueError: lr=1", "UsageError: lr=1"]
    assert try_values(lambda argv: main(["=4"]), [], {"lr": 0.1})[1] != []


def test_nothing_is_written_or_moved(few_digits, toy_state, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    copy = tmp_path / "checkpoints" / toy_state.name
    copy.write_bytes(toy_state.read_bytes())
    for resume in ("", "auto", copy):
        options = small_run(few_digits, tmp_path, epochs=1, ema_decay=0.5, resume=resume, dry_run=True)
        assert run_train(options) == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [copy, tmp_path / "run/train.log"]
    assert "dry run: everything was built, nothing was trained\n" in (tmp_path / "run/train.log").read_text()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train_data_dir": "nowhere"}, "nowhere does not exist"),
        ({"train_data_dir": "empty"}, "holds no class folders"),
        ({"num_classes": 7}, "10 classes, more than num_classes=7"),
        ({"batch_size": 500}, "0 steps per epoch: 40 images on 1 device.s. do not fill one batch of 500"),
        ({"batch_size": 8, "accumulate_steps": 6}, "0 steps per epoch: 40 images .* one batch of 48"),
        ({"device_target": "GPU"}, "device_target=GPU .*not available on this machine"),
    ],
)
def test_data_and_devices_that_cannot_be_used(few_digits, tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        run_train(small_run(few_digits, tmp_path, dry_run=True, **changes))


def test_a_damaged_picture_is_found(few_digits, tmp_path):
    shutil.copytree(few_digits / "train", tmp_path / "train")
    victim = sorted((tmp_path / "train/4").iterdir())[1]
    victim.write_bytes(victim.read_bytes()[:-200])
    with pytest.raises(DataError, match=f"1 of 40 files are not readable images.*(?s:.*){victim.name}"):
        run_train(small_run(few_digits, tmp_path, dry_run=True, train_data_dir=tmp_path / "train"))


def test_a_damaged_picture_of_the_validation_data_is_found(few_digits, tmp_path):
    """Where the check of all files is switched off, the first batch finds it."""
    for name in "0123456789":
        (tmp_path / "val" / name).mkdir(parents=True)
        (tmp_path / "val" / name / "a.jpg").write_bytes(b"no picture")
    options = small_run(
        few_digits, tmp_path, dry_run=True, check_images=False, eval_interval=1, val_data_dir=tmp_path / "val"
    )
    with pytest.raises(DataError, match=r"val/0/a\.jpg"):
        run_train(options)
    assert run_train([*options, "--eval_interval", "0"]) == 0, "a run without evaluation does not need them"


def test_classes_that_only_the_validation_data_has(few_digits, tmp_path):
    (tmp_path / "val/zebra").mkdir(parents=True)
    picture = next((few_digits / "val").rglob("*.jpg"))
    (tmp_path / "val/zebra/a.jpg").write_bytes(picture.read_bytes())
    with pytest.raises(DataError, match=r"(?s)'zebra'.*both need the same class names"):
        run_train(small_run(few_digits, tmp_path, dry_run=True, eval_interval=1, val_data_dir=tmp_path / "val"))


def test_options_that_contradict_the_device(few_digits, tmp_path):
    for option, message in {
        "--amp_level=O2": "MindSpore's CPU kernels need float32",
        "--jit_level=O2": "on CPU, auto, O0, O1 are accepted",
        "--device_id=3": "the CPU is one device",
        "--activation=nothing": "leaky_relu, relu, mish and swish are accepted",
        "--freeze=backbone.*": r"no parameter matches 'backbone\.\*'",
        "--freeze=*": "leaves nothing to train",
    }.items():
        with pytest.raises(UsageError, match=message):
            run_train([*small_run(few_digits, tmp_path, dry_run=True), option])


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


def test_a_run_after_a_dry_run_is_a_new_one(few_digits, tmp_path):
    for dry_run in (True, False):
        assert run_train(small_run(few_digits, tmp_path, epochs=1, batch_size=40, dry_run=dry_run)) == 0
    assert last(tmp_path).name == "toy-1_1.ckpt"

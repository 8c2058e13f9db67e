"""Every launcher of every folder: it parses, prints its usage, and never renames what it was asked to use.

The functions that they share are tested with toys: one process in test_launcher_runs.py, several in
test_launcher_groups.py. What each one passes to its program is tested in its folder.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

from launcher_bench import SOURCE, Bench, toy_bench

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAUNCHERS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.glob("*/scripts/*.sh")
    if (path.parents[1] / "train.py").exists() and path.name != "tinynet_common.sh"
)


@pytest.fixture
def bench(tmp_path):
    yield from toy_bench(tmp_path)


# ---- The scripts themselves ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [*LAUNCHERS, "tinynet/scripts/tinynet_common.sh", *map(str, SOURCE.glob("*.sh"))])
def test_the_script_parses(script):
    subprocess.run(["bash", "-n", ROOT / script], check=True)
    assert (ROOT / script).read_text().startswith("#!/usr/bin/env bash\n")


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_help(launcher, tmp_path):
    environment = {"PATH": os.defpath, "PYTHON": "/bin/sh"}
    result = subprocess.run(
        ["bash", ROOT / launcher, "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert re.match(rf"Usage: (ba)?sh {Path(launcher).name} ", result.stdout) and "PYTHON" in result.stdout
    assert "infer" in launcher or "--wait" in result.stdout
    assert not list(tmp_path.iterdir())


# ---- Never rename what was asked for: toys ---------------------------------------------------------------------------


def assert_kept(bench: Bench, used: str, renamed: str, script: str, *arguments: str, **environment: str) -> None:
    """The launcher refuses to use the one, as it would rename the other; both are relative to the caller's folder."""
    errors = bench.refuse(script, *arguments, **environment)
    message = f"error: asked to use {{caller}}/{used}, but a new run renames {{caller}}/{renamed}; "
    assert errors == message + "start the launcher in another directory\n"


@pytest.mark.parametrize(
    "options, used",
    [
        (["--file", "run/a.ckpt"], "run/a.ckpt"),
        (["--file={caller}/run/a.ckpt"], "run/a.ckpt"),
        (["--file", "../some where/run/a.ckpt"], "../some where/run/a.ckpt"),
        (["--files=x,run/a.ckpt"], "run/a.ckpt"),
        (["--files", "x", "run/a.ckpt"], "run/a.ckpt"),
        (["--run_dir", "x", "--file", "run/a.ckpt"], "run/a.ckpt"),
        (["--resume=", "--file", "run"], "run"),
        (["--file", "run/../some data"], "run/../some data"),
        (["--file", "link to folder/a.ckpt"], "link to folder/a.ckpt"),
        (["--file", "link through"], "link through"),
        (["--file", "folder of links"], "folder of links"),
    ],
)
def test_an_option_names_something_in_the_run_folder(bench, options, used):
    """Also through links: into the run folder, through it, and in a folder of data."""
    bench.make("run/a.ckpt", "run/env.log", "folder of links/")
    links = {"link to folder": "run", "run/link": "../some data", "link through": "run/link"}
    for name, target in {**links, "folder of links/train": "../run"}.items():
        (bench.caller / name).symlink_to(target)
    assert_kept(bench, used, "run", "one.sh", *(word.format(caller=bench.caller) for word in options))


def test_a_path_that_is_relative_to_the_folder_of_the_model(bench):
    bench.caller = bench.model / "work"
    bench.make("run/a.ckpt", "run/env.log")
    for used in ("work/run/a.ckpt", "work/run"):
        assert f"error: asked to use {{caller}}{used[4:]}, but" in bench.refuse("one.sh", "--file", used)


@pytest.mark.parametrize("used", ["elsewhere/a.ckpt", "run/a.ckpt"])
def test_a_run_folder_that_is_a_link(bench, used):
    bench.make("elsewhere/a.ckpt", "elsewhere/env.log")
    (bench.caller / "run").symlink_to("elsewhere")
    assert_kept(bench, used, "run", "one.sh", "some data", used, "red")


@pytest.mark.parametrize("data", [".", "..", "{caller}/.", "link", "run"])
def test_a_run_folder_that_may_be_data(bench, data):
    """It lies in the folder of the data, or is it, and holds no env.log; an earlier run's does."""
    bench.make("run/images/")
    (bench.caller / "link").symlink_to(".")
    data = data.format(caller=bench.caller)
    used = data.replace(str(bench.caller), "").lstrip("/")
    assert_kept(bench, used, "run", "one.sh", data, "best weights.ckpt", "red")
    if data != "run":
        bench.make("run/env.log")
        assert bench.run("one.sh", data, "best weights.ckpt", "red", "--wait").returncode == 0
        assert len(bench.old("run")) == 1


OUTPUTS = "ckpt_save_dir save_checkpoint_path ckpt_path run_dir log_path summary_dir output_dir output_path file_name"


def test_outputs_may_lie_in_the_run_folder(bench):
    options = []
    for name in OUTPUTS.split():
        options += [f"--{name}", "run", f"--{name}=run/a.ckpt", f"--{name.replace('_', '-')}=run", "--flag"]
    bench.make("run/a.ckpt")
    assert bench.run("one.sh", *options, "--note=run/no such file", "--wait").returncode == 0
    assert len(bench.old("run")) == 1


@pytest.mark.parametrize("script, folder", [("one.sh", "run"), ("group.sh", "group")])
def test_a_resumed_run_may_use_what_it_keeps(bench, script, folder):
    bench.make(f"{folder}/a.ckpt", f"{folder}/env.log", f"{folder}/msrun_log/worker_0.log")
    arguments = ["2"] if script == "group.sh" else []
    for data in (f"{folder}/a.ckpt", folder, "."):
        result = bench.run(script, *arguments, "--data", data, "--resume", f"{folder}/a.ckpt", "--wait")
        assert (result.returncode, result.stderr) == (0, "") and (bench.caller / folder / "a.ckpt").exists()


@pytest.mark.parametrize("script, prefix", [("ranks.sh", "ranks"), ("numbered.sh", "group")])
@pytest.mark.parametrize("folder", [0, 12])
def test_nothing_is_renamed_before_all_is_checked(bench, script, prefix, folder):
    bench.make(*(f"{prefix}{number}/a.ckpt" for number in (0, 1, 12)))
    number = bench.rank_table([(0, 0), (1, 1)]) if script == "ranks.sh" else "2"
    used = f"{prefix}{folder}/a.ckpt"
    assert_kept(bench, used, f"{prefix}{folder}", script, number, "--file", used)


def test_a_rank_table_in_a_run_folder(bench):
    bench.make("ranks1/")
    assert_kept(bench, "ranks1/table.json", "ranks1", "ranks.sh", bench.rank_table([(0, 0)], name="ranks1/table.json"))


def test_the_log_of_the_supervisor_does_not_look_like_data(bench):
    table = bench.rank_table([(0, 0)])
    for _ in range(2):
        assert bench.run("ranks.sh", table, "--data_dir=.", "--wait").returncode == 0
    assert len(bench.old("ranks0")) == len(bench.old("ranks_supervisor.log")) == 1


@pytest.mark.parametrize("used", ["infer.log", "acc.log", "accuracy/a"])
def test_an_inference_keeps_what_it_was_asked_to_use(bench, used):
    bench.make("infer.log", "acc.log", "accuracy/a")
    assert_kept(bench, used, used.split("/")[0], "infer.sh", used, "some data")
    assert_kept(bench, used, used.split("/")[0], "infer.sh", "best weights.ckpt", "some data", f"--file={used}")


def test_results_of_an_inference_do_not_look_like_data(bench):
    for _ in range(2):
        result = bench.run("infer.sh", "best weights.ckpt", ".")
        assert (result.returncode, result.stderr) == (0, "")
        bench.make("accuracy/a")
    assert len(bench.old("accuracy")) == len(bench.old("infer.log")) == 1


# ---- Never rename what was asked for: every launcher -----------------------------------------------------------------

# What each is called with, and the run folder that it would rename: RUN, which holds data, a.ckpt and table.json.
KEPT = """
tinydarknet/scripts/run_standalone_train.sh 0 RUN/data imagenet -> train_single
tinydarknet/scripts/run_standalone_train_gpu.sh 0 RUN/data imagenet -> train_single_gpu
tinydarknet/scripts/run_distribute_train.sh RUN/table.json imagenet data -> train_parallel12
tinydarknet/scripts/run_distribute_train.sh imagenet RUN/data --device_target CPU -> train_parallel1
tinydarknet/scripts/run_distribute_train_gpu.sh 2 RUN/data imagenet -> distribute_train_gpu
tinydarknet/scripts/run_train_cpu.sh data cifar10 --pre_trained RUN/a.ckpt -> train_cpu
tinydarknet/scripts/run_eval.sh data imagenet RUN/a.ckpt -> eval
tinydarknet/scripts/run_eval_gpu.sh data imagenet RUN/a.ckpt -> eval
tinydarknet/scripts/run_eval_cpu.sh data imagenet RUN/a.ckpt -> eval
tinydarknet/scripts/run_infer_cpu.sh a.ckpt data RUN -> acc.log
tinydarknet/scripts/run_infer_310.sh RUN/a.ckpt data a.ckpt CPU -> result_Files
darknet53/scripts/run_standalone_train_gpu.sh darknet53 imagenet2012 data RUN/a.ckpt -> train
darknet53/scripts/run_standalone_train_gpu.sh darknet53 imagenet2012 . -> train
darknet53/scripts/run_distribute_train_gpu.sh darknet53 imagenet2012 data RUN/a.ckpt -> train_parallel
darknet53/scripts/run_eval_gpu.sh data RUN/a.ckpt -> eval
darknet53/scripts/run_infer_cpu.sh a.ckpt data RUN -> infer.log
darknet53/scripts/run_infer_310.sh a.ckpt RUN/data a.ckpt -> time_Result
cspdarknet53/scripts/run_standalone_train.sh 0 data RUN/a.ckpt -> train
cspdarknet53/scripts/run_standalone_train.sh 0 data --list_file RUN -> log.txt
cspdarknet53/scripts/run_distribute_train.sh table.json data RUN/a.ckpt -> train_parallel3
cspdarknet53/scripts/run_distribute_train.sh data RUN/a.ckpt --device_target=CPU -> train_parallel0
cspdarknet53/scripts/run_eval.sh 3 data RUN/a.ckpt -> eval3
cspdarknet53/scripts/run_infer_cpu.sh RUN data -> imagenet_label.json
cspdarknet53/scripts/run_infer_310.sh RUN/a.ckpt data -> result_Files
tinynet/scripts/train_1p_gpu.sh --data_path data --ckpt RUN/a.ckpt -> device_0
tinynet/scripts/train_1p_gpu.sh --data-path=RUN/data -> device_0
tinynet/scripts/train_distributed_gpu.sh -n 2 --data_path data --ckpt RUN/a.ckpt -> device_parallel
tinynet/scripts/run_infer_cpu.sh a.ckpt data RUN -> infer.log
tinynet/scripts/run_infer_310.sh a.ckpt data RUN -> acc.log
yolov3_res2net50/scripts/run_standalone_train.sh data RUN/a.ckpt -> train
yolov3_res2net50/scripts/run_standalone_train.sh data --resume_yolov3 RUN/a.ckpt -> train
yolov3_res2net50/scripts/run_standalone_train_gpu.sh data --train_img_dir=RUN/data -> train
yolov3_res2net50/scripts/run_distribute_train.sh data RUN/a.ckpt table.json -> train_parallel12
yolov3_res2net50/scripts/run_distribute_train.sh data RUN/table.json -> train_parallel1
yolov3_res2net50/scripts/run_distribute_train_gpu.sh data --pretrained_backbone RUN/a.ckpt -> train_parallel
yolov3_res2net50/scripts/run_eval.sh data RUN/a.ckpt -> eval
yolov3_res2net50/scripts/run_eval_gpu.sh RUN/data a.ckpt -> eval
yolov3_res2net50/scripts/run_infer_cpu.sh a.ckpt data RUN/table.json -> accuracy
yolov3_res2net50/scripts/run_infer_310.sh RUN/a.ckpt data table.json -> accuracy
"""
KEPT = [call.partition(" ") for call in KEPT.strip().splitlines()]
DESCRIPTION = {"height": 8, "width": 8, "resize": "both_sides", "interpolation": "nearest", "mean": [0], "std": [1]}


@pytest.mark.parametrize("launcher, _, call", KEPT, ids=[" ".join(call) for call in KEPT])
def test_a_launcher_keeps_what_it_was_asked_to_use(launcher, _, call, tmp_path):
    call, run = call.split(" -> ")
    bench, is_file = Bench(tmp_path, (ROOT / launcher).parent), "." in run
    for folder in ["."] if is_file else [".", run]:
        bench.make(*(f"{folder}/data/{name}/" for name in ("train", "val", "train2017")), f"{folder}/a.ckpt")
        bench.rank_table([(0, 0), (1, 1)], name=f"{folder}/table.json")
        (bench.caller / folder / "a.ckpt.json").write_text(json.dumps({"input": DESCRIPTION}))
    used = next(word for word in reversed(call.split()) if "RUN" in word or word == ".")
    if is_file or used != ".":
        bench.make(run if is_file else f"{run}/env.log")
    arguments = call.replace("RUN", run).split()
    environment = {"DEVICE_NUM": "2"} if "--device_target" in call else {}
    used = used.rpartition("=")[2].replace("RUN", run)
    assert_kept(bench, used, run, Path(launcher).name, *arguments, **environment)


def test_every_launcher_is_tested():
    """eval.sh of TinyNet makes a folder with another name for every run, and renames nothing."""
    assert sorted({launcher for launcher, _, _ in KEPT} | {"tinynet/scripts/eval.sh"}) == LAUNCHERS

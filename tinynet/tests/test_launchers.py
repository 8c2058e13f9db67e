"""The launchers of scripts/: each passes the documented program, flags and paths, and refuses wrong arguments.

The documents call them with sh, so what matters is run by dash, by bash, and by a bash that is called sh.
"""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

import launcher_bench as lent
from conftest import FOLDER

import pytest

TRAIN, DISTRIBUTED, EVAL = "train_1p_gpu.sh", "train_distributed_gpu.sh", "eval.sh"
LAUNCHERS = [TRAIN, DISTRIBUTED, EVAL]
BY = {TRAIN: "python", DISTRIBUTED: "msrun", EVAL: "python"}
N = {TRAIN: [], DISTRIBUTED: ["-n", "2"], EVAL: []}


@pytest.fixture
def bench(tmp_path):
    bench = lent.Bench(tmp_path, FOLDER / "scripts")
    bench.make("image net/train/", "image net/val/", "other/train/", "other/val/", "best weights.ckpt", "o.ckpt")
    bench.environment.update(DATA_PATH="image net", CKPT="best weights.ckpt")
    yield bench
    bench.end_jobs()


@pytest.fixture(params=["dash", "bash", "bash as sh"])
def shell_bench(bench, request):
    bench.shell = shutil.which(request.param.split()[0])
    if bench.shell is None:
        pytest.skip(f"there is no {request.param}")
    if request.param == "bash as sh":
        (bench.root / "sh").symlink_to(bench.shell)
        bench.shell = str(bench.root / "sh")
    return bench


def run_folder(script: str, place: Path) -> Path:
    """The only run folder of a launcher in `place`."""
    (folder,) = place.glob({TRAIN: "device_[0-9]", DISTRIBUTED: "device_parallel", EVAL: "device[0-9]_*"}[script])
    assert script != EVAL or re.fullmatch(r"device\d_\d{8}-\d{6}", folder.name)
    return folder


def expected(bench, script: str, run_dir: Path, flags: str = "--GPU --dataset_sink") -> list[str]:
    """The documented command: DATA_PATH and CKPT from the environment, the rest left to the defaults."""
    data, ckpt = "--data_path='{caller}/image net' --model=tinynet_c", "--ckpt='{caller}/best weights.ckpt'"
    if script == EVAL:
        return bench.words(f"eval.py {data} {ckpt} {flags} --run_dir '{run_dir}'")
    end = "--distributed" if script == DISTRIBUTED else ""
    return bench.words(f"train.py {data} --ckpt_save_dir='{run_dir}' {flags} {ckpt} {end} --run_dir '{run_dir}'")


@pytest.mark.parametrize("script", LAUNCHERS)
def test_documented_call(shell_bench, script):
    bench = shell_bench
    job = bench.job(script, *N[script], by=BY[script], **lent.STALE, SECRET_TOKEN="x")
    run_dir = run_folder(script, bench.caller)
    assert job["argv"] == expected(bench, script, run_dir)
    log = run_dir / ("tinynet_c_eval.log" if script == EVAL else "tinynet_c.log")
    assert log.read_text() == "text\ntext on stderr\n" and sorted(run_dir.iterdir()) == [run_dir / "env.log", log]
    noted = (run_dir / "env.log").read_text()
    assert "DATA_PATH=image net\n" in noted and "TOKEN" not in noted
    if script == DISTRIBUTED:
        assert job["words"][:4] == ["--worker_num", "2", "--local_worker_num", "2"]
        assert lent.values(job, "SLOG_PRINT_TO_STDOUT") == ["0"] and "SLOG_PRINT_TO_STDOUT=0\n" in noted
    else:
        assert lent.values(job, "DEVICE_ID RANK_ID RANK_SIZE RANK_TABLE_FILE") == ["6", "0", "1", None]


@pytest.mark.parametrize("script, folder", [(TRAIN, "device_3"), (DISTRIBUTED, "device_parallel"), (EVAL, "device3_*")])
def test_named_device(bench, script, folder):
    """DEVICE_ID is in the name of the folder; --device_target leaves --GPU and --dataset_sink out."""
    device = ["--device-target=CPU"] if script == EVAL else ["--device_target", "CPU"]
    job = bench.job(script, *N[script], *device, by=BY[script], DEVICE_ID="03")
    (run_dir,) = bench.caller.glob(folder)
    assert job["argv"] == [*expected(bench, script, run_dir, ""), *device]
    assert lent.values(job, "DEVICE_ID") == [None if script == DISTRIBUTED else "3"]


@pytest.mark.parametrize("script, folder", [*((script, "scripts") for script in LAUNCHERS), (TRAIN, "link")])
def test_call_in_the_folder_of_the_launchers(bench, script, folder):
    """The run folder is made in the model's folder; a relative path is taken from the current directory."""
    data, ckpt = "../../some where/image net", str(bench.caller / "best weights.ckpt")
    (bench.model / "link").symlink_to("scripts")
    bench.shell, bench.caller = shutil.which("sh"), bench.model / folder
    job = bench.job(script, *N[script], by=BY[script], DATA_PATH=data, CKPT=ckpt, PWD=str(bench.caller))
    assert f"--data_path={bench.caller}/{data}" in job["argv"] and f"--ckpt={ckpt}" in job["argv"]
    assert job["argv"][-1] == str(run_folder(script, bench.model))


@pytest.mark.parametrize("script", LAUNCHERS)
def test_variables(bench, script):
    """MODEL chooses the log's name too; EPOCHS goes to a training only; an empty variable is none."""
    variables = {"DATA_PATH": "./image net/", "MODEL": "tinynet_a", "EPOCHS": "03"}
    job = bench.job(script, *N[script], by=BY[script], **variables, **({} if script == EVAL else {"CKPT": ""}))
    assert job["argv"][1:3] == [f"--data_path={bench.caller}/image net/", "--model=tinynet_a"]
    assert ("--epochs=3" in job["argv"]) == (script != EVAL)
    assert any(word.startswith("--ckpt=") for word in job["argv"]) == (script == EVAL)
    assert (run_folder(script, bench.caller) / ("tinynet_a_eval.log" if script == EVAL else "tinynet_a.log")).exists()


OPTIONS = {  # both forms; the last one counts
    TRAIN: "-b 32 --ckpt=./o.ckpt --model=tinynet_e --lr=-1 --epochs=07 --data_path=./other --note 'two words'",
    DISTRIBUTED: "-b 32 --data-path other -n 03 --model tinynet_e --ckpt o.ckpt --lr=-1 --epochs 7 --note 'two words'",
    EVAL: "--model x --data-path '{caller}/other' -b 32 --lr=-1 --model=tinynet_e --ckpt=o.ckpt --note 'two words'",
}


@pytest.mark.parametrize("script", LAUNCHERS)
def test_options_win_over_variables(bench, script):
    """Options for the program around them keep their order and come last."""
    variables = {"MODEL": "tinynet_z", "EPOCHS": "x", "CKPT": "no", "DATA_PATH": "no"}
    job = bench.job(script, *bench.words(OPTIONS[script]), by=BY[script], **variables)
    end = job["argv"].index("--run_dir")
    known = {"--model=tinynet_e", f"--ckpt={bench.caller}/o.ckpt", f"--data_path={bench.caller}/other"}
    assert known < set(job["argv"][:end]) and ("--epochs=7" in job["argv"]) == (script != EVAL)
    assert end == {TRAIN: 8, DISTRIBUTED: 9, EVAL: 6}[script]
    assert job["argv"][end + 2 :] == ["-b", "32", "--lr=-1", "--note", "two words"]
    assert script != DISTRIBUTED or job["words"][:4] == ["--worker_num", "3", "--local_worker_num", "3"]


@pytest.mark.parametrize("script, name, options", [
    (TRAIN, "val", ["--eval_interval", "0"]), (TRAIN, "val", ["--eval-interval=0"]), (EVAL, "train", []),
    (TRAIN, "val", ["--val_data_dir", "/v"]), (TRAIN, "train", ["--train_data_dir=/t"]), (EVAL, "val", ["--val-data-dir", "/v"]),
])  # fmt: skip
def test_data_folder_that_is_not_needed(bench, script, name, options):
    (bench.caller / "image net" / name).rmdir()
    argv = bench.job(script, *options)["argv"]
    assert argv[len(argv) - len(options) :] == options


def test_evaluations_in_the_same_second(bench):
    started = [bench.start(EVAL, STAND_IN_SECONDS="0.3") for _ in range(2)]
    assert [process.communicate(timeout=60)[1] for process in started] == [""] * 2
    folders = sorted(map(str, bench.caller.glob("device0_*")))
    assert sorted(job["argv"][-1] for job in bench.records()) == folders and len(folders) == 2


def test_signal_reaches_the_job(shell_bench):
    launcher = shell_bench.start(TRAIN, "--wait", **lent.AT_WORK)
    (job,) = shell_bench.wait_for_records(1)
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=60)
    assert launcher.returncode == 143 and shell_bench.signals(job) == ["SIGTERM"]


NO_DATA = "no data: set the environment variable DATA_PATH or give --data_path DIR"
INVALID = [  # call with variables before it, message
    *[(f"DATA_PATH= {script}", NO_DATA) for script in LAUNCHERS],
    (f"DATA_PATH=no {TRAIN}", "DATA_PATH={caller}/no is not a directory"),
    (f"{TRAIN} --data_path o.ckpt", "--data_path={caller}/o.ckpt is not a directory"),
    (f"{TRAIN} --data_path=.", "--data_path={caller}/. has no folder train"),
    (f"{DISTRIBUTED} -n 1 --data_path other/..", "--data_path={caller}/other/.. has no folder train"),
    (f"{EVAL} --data_path=.", "--data_path={caller}/. has no folder val"),
    (f"{TRAIN} --data_path=", "--data_path needs a value"),
    (f"{TRAIN} --data_path --model tinynet_a", "--data_path needs a value"),
    (f"{TRAIN} --data_path", "--data_path needs a value"),
    (f"CKPT=no.ckpt {EVAL}", "CKPT={caller}/no.ckpt is not a file"),
    (f"{TRAIN} --ckpt other", "--ckpt={caller}/other is not a file"),
    (f"CKPT= {EVAL}", "no checkpoint: set the environment variable CKPT or give --ckpt FILE"),
    (f"MODEL=tinynet_z {TRAIN}", "MODEL=tinynet_z is not one of: tinynet_a tinynet_b "),
    (f"{EVAL} --model tinynet", "--model=tinynet is not one of: tinynet_a "),
    (f"{TRAIN} stray", "unexpected argument stray"),
    (f"{EVAL} --model tinynet_a stray", "unexpected argument stray"),
    (f"{TRAIN} --lr 0.1 -n8", "unexpected argument -n8"),
    (f"{DISTRIBUTED} -n=8", "unexpected argument -n=8"),
    (f"{TRAIN} -n 2", "unexpected argument -n"),
    (DISTRIBUTED, "the number of GPUs is missing: -n N\nUsage: "),
    (f"{DISTRIBUTED} -n", "-n needs a value"),
    (f"{DISTRIBUTED} -n 0", "-n=0 is not an integer of 1 or more"),
    (f"DEVICE_ID=start {TRAIN}", "DEVICE_ID=start is not an integer"),
    (f"DEVICE_ID=start {EVAL}", "DEVICE_ID=start is not an integer"),
    (f"EPOCHS=0 {TRAIN}", "EPOCHS=0 is not an integer of 1 or more"),
    (f"{DISTRIBUTED} -n 1 --epochs 1.5", "--epochs=1.5 is not an integer of 1 or more"),
]


def test_invalid_calls(bench):
    for call, message in INVALID:
        variables, script, arguments = re.fullmatch(r"((?:\w+=\S* )*)(\S+) ?(.*)", call).groups()
        environment = dict(word.split("=") for word in variables.split())
        assert bench.refuse(script, *arguments.split(), **environment).startswith(f"error: {message}"), call


@pytest.mark.parametrize("script, folder", [(TRAIN, "device_0"), (DISTRIBUTED, "device_parallel")])
def test_variables_name_something_in_the_run_folder(bench, script, folder):
    """It would be renamed, unless the run goes on in the folder."""
    bench.make(f"{folder}/data/train/", f"{folder}/data/val/", f"{folder}/a.ckpt", f"{folder}/env.log")
    inputs = {"CKPT": f"{folder}/a.ckpt", "DATA_PATH": f"{folder}/data"}
    for name, used in inputs.items():
        assert f"asked to use {{caller}}/{used}, but" in bench.refuse(script, *N[script], **{name: used})
    assert bench.job(script, *N[script], "--resume", "auto", by=BY[script], **inputs)

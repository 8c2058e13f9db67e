"""One process through the shared functions of the launchers: arguments, run folders, start, --wait, signals, inference."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import time

from launcher_bench import AT_WORK, STALE, is_alive, toy_bench, values, wait_until

import pytest

DATA = ["some data", "best weights.ckpt", "red"]


@pytest.fixture
def bench(tmp_path):
    yield from toy_bench(tmp_path)


# ---- Arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["elsewhere", "model root", "scripts"])
def test_arguments_environment_and_folders(bench, place):
    if place != "elsewhere":
        bench.caller = bench.model if place == "model root" else bench.model / "scripts"
        bench.make("some data/", "best weights.ckpt")
    here, run_dir = bench.caller, bench.caller / "run"
    job = bench.job("one.sh", "./some data", f"{here}/best weights.ckpt", "red", "--lr", "1", **STALE)
    assert job["argv"] == [
        *["train.py", "--data_dir", f"{here}/some data", f"--file={here}/best weights.ckpt", "--colour", "red"],
        *["--ckpt_save_dir", f"{run_dir}/checkpoints", "--run_dir", str(run_dir), "--lr", "1"],
    ]
    assert values(job, "DEVICE_ID RANK_ID RANK_SIZE DEVICE_NUM RANK_TABLE_FILE") == ["6", "0", "1", "1", None]
    assert (run_dir / "log").read_text() == "text\ntext on stderr\n"
    assert "DEVICE_ID=6\n" in (run_dir / "env.log").read_text()


def test_launcher_called_by_a_relative_path(bench):
    script = os.path.relpath(bench.model / "scripts/one.sh", bench.caller)
    subprocess.run([bench.shell, script], cwd=bench.caller, env=bench.environment, check=True, timeout=60)
    assert bench.records()[0]["cwd"] == str(bench.model)


def test_further_options_reach_the_program_unchanged_and_last(bench):
    """--wait may stand anywhere."""
    options = ["--epoch_size", "2", "--lr_init=0.1", "--note", "two words", "--note=", "--flag"]
    for arguments in ([*DATA, *options[:3], "--wait", *options[3:]], ["--wait", *DATA, *options]):
        assert bench.run("one.sh", *arguments, STAND_IN_STATUS="5").returncode == 5
        assert bench.records()[0]["argv"][-len(options) :] == options
        bench.forget()


def test_python_of_a_relative_path(bench):
    bench.make("env/")
    bench.add_stand_in("python3.9", bench.caller / "env", role="python")
    (bench.bin / "python").unlink()
    assert bench.job("one.sh", PYTHON="env/python3.9")["argv"][0] == "train.py"


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_comes_before_all_else(bench, option):
    result = bench.run("one.sh", "1", option, "2", PYTHON="none", LAUNCH_CHECK_SECONDS="x")
    assert (result.returncode, result.stderr, bench.records()) == (0, "", [])
    assert result.stdout.startswith("Usage: bash one.sh [DATA_DIR] [FILE] [COLOUR] [OPTIONS]\n\nOptions:\n  --wait ")


@pytest.mark.parametrize(
    "arguments, environment, message",
    [
        (["1"], {}, "got 1 arguments, expected 0 or 3\nUsage: bash one.sh [DATA_DIR] [FILE]"),
        (["1"] * 4, {}, "got 4 arguments, expected 0 or 3\nUsage: bash one.sh [DATA_DIR] [FILE]"),
        (["no such", *DATA[1:]], {}, "DATA_DIR={caller}/no such is not a directory"),
        (["/no such", *DATA[1:]], {}, "DATA_DIR=/no such is not a directory"),
        (["", *DATA[1:]], {}, "DATA_DIR= is not a directory"),
        ([DATA[0], DATA[0], "red"], {}, "FILE={caller}/some data is not a file"),
        ([DATA[0], "", "red"], {}, "FILE= is not a file"),
        ([*DATA[:2], "green"], {}, "COLOUR=green is not one of: red blue"),
        ([*DATA[:2], "red "], {}, "COLOUR=red  is not one of"),
        ([*DATA[:2], ""], {}, "COLOUR= is not one of"),
        ([], {"PYTHON": "no/python"}, "PYTHON={caller}/no/python was not found"),
        ([], {"PYTHON": "nopython"}, "PYTHON=nopython was not found"),
        ([], {"LAUNCH_CHECK_SECONDS": "0.5"}, "LAUNCH_CHECK_SECONDS=0.5 is not an integer"),
        ([], {"LAUNCH_KILL_SECONDS": "x"}, "LAUNCH_KILL_SECONDS=x is not an integer"),
        ([], {"DEVICE_ID": "-1"}, "DEVICE_ID=-1 is not an integer of 0 or more"),
        ([], {"DEVICE_ID": " 1"}, "DEVICE_ID= 1 is not an integer of 0 or more"),
    ],
)
def test_invalid_arguments_and_variables(bench, arguments, environment, message):
    assert f"error: {message}" in bench.refuse("one.sh", *arguments, **environment)


@pytest.mark.parametrize("number", ["0", "00", "two", "-1", "1.5", "1234567890", ""])
def test_invalid_number(bench, number):
    assert bench.refuse("group.sh", number) == f"error: NUMBER={number} is not an integer of 1 or more\n"


# ---- Run folders -----------------------------------------------------------------------------------------------------


def test_earlier_run_folders_are_kept(bench):
    for number in range(3):
        bench.run("one.sh", "--wait", STAND_IN_TEXT=f"run {number}")
    logs = [folder / "log" for folder in (*bench.old("run"), bench.caller / "run")]
    assert sorted(log.read_text().split("\n")[0] for log in logs) == ["run 0", "run 1", "run 2"]
    assert logs[-1].read_text().startswith("run 2")


@pytest.mark.parametrize("options", [["--resume", "auto"], ["--resume=auto"], ["--resume", "", "--resume", "a b"]])
def test_resumed_run_goes_on_in_its_folder_and_reports_its_own_lines_only(bench, options):
    bench.run("one.sh", "--wait", STAND_IN_TEXT="run 0")
    result = bench.run("one.sh", *options, STAND_IN_TEXT="run 1", STAND_IN_STATUS="1")
    assert result.returncode == 1 and "run 1" in result.stderr and "run 0" not in result.stderr
    assert bench.old("run") == []
    assert re.findall(r"run \d", (bench.caller / "run/log").read_text()) == ["run 0", "run 1"]


@pytest.mark.parametrize("options", [["--resume", ""], ["--resume="], ["--resume", "--debug"], ["--resume_x", "a"]])
def test_empty_resume_starts_a_new_folder(bench, options):
    bench.make("run/")
    assert bench.run("one.sh", *options, "--wait").returncode == 0
    assert len(bench.old("run")) == 1


@pytest.mark.parametrize("script, folder", [("one.sh", "run"), ("group.sh", "group"), ("ranks.sh", "ranks0")])
def test_env_log_holds_no_secrets(bench, script, folder):
    arguments = {"group.sh": ["2"], "ranks.sh": [bench.rank_table([(0, 0)])]}.get(script, [])
    secrets = {"API_TOKEN": "hush-1", "AWS_SECRET_ACCESS_KEY": "hush-2", "PASSWORD": "hush-3"}
    assert bench.run(script, *arguments, "--wait", LD_LIBRARY_PATH="/opt/lib", **secrets).returncode == 0
    log = (bench.caller / folder / "env.log").read_text()
    assert "hush" not in log and "LD_LIBRARY_PATH=/opt/lib\n" in log and f"PATH={bench.bin}" in log


def test_run_folder_that_cannot_be_created(bench):
    bench.make("run")
    errors = bench.refuse("one.sh", "--resume", "auto")
    assert "error: cannot create the run folder {caller}/run\n" in errors


# ---- Start, early death, --wait, signals -----------------------------------------------------------------------------


def test_early_death_is_reported_with_the_last_lines_of_the_log(bench):
    text = "\n".join(f"line {number}." for number in range(30))
    result = bench.run("one.sh", STAND_IN_TEXT=text, STAND_IN_STATUS="7", STAND_IN_SECONDS="0.3")
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert lines[0] == f"error: the job ended with status 7; the last lines of {bench.caller}/run/log:"
    assert lines[1:] == [f"line {number}." for number in range(11, 30)] + ["text on stderr"]
    assert f"started, PID {bench.records()[0]['pid']}, log {bench.caller}/run/log\n" in result.stdout


def test_job_that_ends_at_once_is_no_failure(bench):
    result = bench.run("one.sh")
    assert (result.returncode, result.stderr) == (0, "") and result.stdout.endswith("the job has finished\n")


def test_job_killed_at_the_start_is_reported(bench):
    process = bench.start("one.sh", STAND_IN_SECONDS="60")
    os.kill(bench.wait_for_records(1)[0]["pid"], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "status 137" in errors


def test_running_job_stays_in_the_background(bench):
    begin = time.monotonic()
    result = bench.run("one.sh", **AT_WORK)
    assert 1 <= time.monotonic() - begin < 40
    assert (result.returncode, result.stderr) == (0, "") and "the job has finished" not in result.stdout
    (job,) = bench.records()
    assert is_alive(job)
    os.kill(job["pid"], signal.SIGTERM)
    wait_until(lambda: bench.signals(job) == ["SIGTERM"])


@pytest.mark.parametrize("status", [0, 7, 130])
def test_wait_returns_the_exact_status(bench, status):
    """Without --wait and without time to watch the start, the launcher returns at once."""
    result = bench.run(
        "one.sh", "--wait", STAND_IN_STATUS=str(status), STAND_IN_SECONDS="0.2", LAUNCH_CHECK_SECONDS="0"
    )
    assert result.returncode == status and (f"status {status}" in result.stderr) == (status != 0)
    bench.forget()
    assert bench.run("one.sh", STAND_IN_STATUS=str(status), LAUNCH_CHECK_SECONDS="0").returncode == 0
    bench.wait_for_records(1)


@pytest.mark.parametrize("name, status, received", [("INT", 130, "INT"), ("TERM", 143, "TERM"), ("HUP", 143, "TERM")])
def test_signal_is_forwarded_in_wait_mode(bench, name, status, received):
    process = bench.start("one.sh", "--wait", **AT_WORK)
    (job,) = bench.wait_for_records(1)
    process.send_signal(getattr(signal, f"SIG{name}"))
    process.communicate(timeout=60)
    assert process.returncode == status
    assert bench.signals(job) == [f"SIG{received}"]


def test_launcher_waits_for_a_job_that_takes_time_to_stop(bench):
    process = bench.start("one.sh", "--wait", STAND_IN_SECONDS="2", STAND_IN_SIGNALS="ignore", STAND_IN_STATUS="9")
    (job,) = bench.wait_for_records(1)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    process.communicate(timeout=60)
    assert process.returncode == 9 and bench.signals(job) == ["SIGINT", "SIGINT"]


def test_job_outlives_the_terminal_and_its_ctrl_c(bench):
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(bench.caller)
        command = f"bash {shlex.quote(str(bench.model))}/scripts/one.sh"
        os.execve(bench.shell, ["bash", "--norc", "-ic", f"{command}; cat"], {**bench.environment, **AT_WORK})
    output = b""
    while b"started" not in output:
        output += os.read(terminal, 4096)
    time.sleep(1.5)
    os.write(terminal, b"\x03")
    time.sleep(0.2)
    os.close(terminal)
    os.waitpid(pid, 0)
    (job,) = bench.records()
    os.kill(job["pid"], signal.SIGHUP)  # what a shell sends to its jobs when the terminal ends
    time.sleep(0.3)
    assert is_alive(job) and bench.signals(job) == []


# ---- Inference, in the current directory -----------------------------------------------------------------------------


def test_inference_in_the_foreground(bench):
    bench.make("model.onnx")
    for text in ("first", "second"):
        result = bench.run("infer.sh", "model.onnx", "some data", "--x=1", STAND_IN_TEXT=text)
        assert (result.returncode, result.stderr) == (0, "") and f"{text}\ntext on stderr\n" in result.stdout
        bench.make("accuracy/")
    here = bench.caller
    last = [job["argv"] for job in bench.records()]
    infer = ["infer.py", "--device_target=CPU", f"--model_file={here}/model.onnx", f"--input={here}/some data"]
    assert [*infer, f"--output_dir={here}/infer_result", "--x=1"] in last
    assert ["postprocess.py", f"--log_path={here}/accuracy"] in last
    for name in ("infer.log", "acc.log"):
        assert (here / name).read_text() == "second\ntext on stderr\n"
        assert [path.read_text() for path in bench.old(name)] == ["first\ntext on stderr\n"]
    assert len(bench.old("accuracy")) == 1


def test_failed_inference(bench):
    bench.make("model.onnx", "acc.log")
    result = bench.run("infer.sh", "model.onnx", "some data", STAND_IN_STATUS="4", STAND_IN_TEXT="last words")
    assert result.returncode == 4 and not (bench.caller / "acc.log").exists()
    assert f"error: inference on CPU ended with status 4; the last lines of {bench.caller}/infer.log:" in result.stderr
    assert "last words" in result.stderr and [job["argv"][0] for job in bench.records()] == ["infer.py"]


def test_application_is_built_and_run(bench):
    """Its build makes it; the model has its description."""
    bench.make("model.mindir")
    spec = {"height": 8, "width": 8, "resize": "both_sides", "interpolation": "nearest", "mean": [0], "std": [1]}
    (bench.caller / "model.mindir.json").write_text(json.dumps({"input": spec}))
    app = bench.model / "ascend310_infer"
    app.mkdir()
    main = '#!/bin/sh\necho "$@"\nmkdir result_Files time_Result\n'
    build = f"cd '{app}' && mkdir -p out && printf '%s' '{main}' >out/main && chmod +x out/main"
    (app / "build.sh").write_text(f'echo "$@"\n{build}\n')
    call = ["app.sh", "model.mindir", "some data", "--device_target=CPU"]
    for _ in range(2):
        result = bench.run(*call, BUILD_OPTIONS="-A -B", LITE_HOME="x")
        assert (result.returncode, result.stderr) == (0, "")
    assert (app / "build.log").read_text() == "-A -B\n"
    flags = (bench.caller / "infer.log").read_text()
    assert flags.startswith(f"--mindir_path={bench.caller}/model.mindir --dataset_path={bench.caller}/some data ")
    assert f"--device_id=3 --device_target=CPU --output_dir={bench.caller} --height=8 --width=8" in flags
    assert [len(bench.old(name)) for name in ("result_Files", "time_Result", "infer.log", "acc.log")] == [1] * 4

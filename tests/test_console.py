"""The console of a program: closed, without a reader, on a full disk, too narrow for a name; Ctrl-C during the imports."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from toy_runs import PROGRAMS, command_line, small_run, states

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIGHT = os.pathsep.join([str(ROOT / "utils"), str(ROOT / "tests/fake_mindspore")])  # without the framework
WORK = """
import sys
from pathlib import Path
from model_utils import program
from model_utils.logger import init_logger

def main():
    logger = init_logger(sys.argv[1], "a.log")
    for number in range(20_000):
        logger.info("line %d", number)
        print("printed", number)
        print("noted", number, file=sys.stderr)
    with open(Path(sys.argv[1]) / "other", "w") as file:
        assert file.fileno() > 2
        file.write("result")

program.run(main)
"""


def shell(command: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """A bash command line, in which "$@" is the program with its arguments."""
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}", "bash", sys.executable, *map(str, arguments)],
        env={**os.environ, "GLOG_v": "3", **environment}, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "command",
    [
        '"$@" >&-', '"$@" 2>&-', '"$@" <&- >&- 2>&-', '"$@" | head -1', '"$@" | true', '"$@" 2>&1 | head -1',
        '"$@" > /dev/full', '"$@" 2> /dev/full', '"$@" > /dev/full 2>&1',
    ],
)  # fmt: skip
def test_the_work_goes_on_without_a_console(tmp_path, command):
    unbuffered = "1" if "head" in command else ""
    done = shell(command, "-c", WORK, tmp_path, PYTHONPATH=LIGHT, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 0
    assert not set(done.stderr.split()) - {"noted", *map(str, range(20_000))}, done.stderr[:500]
    assert (tmp_path / "other").read_text() == "result"
    lines = (tmp_path / "a.log").read_text().splitlines()
    assert lines == [f"line {number}" for number in range(20_000)]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_the_console_cannot_show(tmp_path, encoding):
    code = "from model_utils import program; program.run(lambda: print('猫', '\\udcff', 'é'))"
    done = shell('"$@"', "-c", code, PYTHONPATH=LIGHT, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_framework_is_not_disturbed_where_the_console_is_not_the_process_own(capsys):
    from model_utils import console

    before = sys.stdout
    console.keep_going()
    assert sys.stdout is before


@pytest.mark.parametrize("command", ['"$@" >&-', '"$@" <&- >&- 2>&-', '"$@" | head -1'])
def test_a_training_is_whole(few_digits, tmp_path, command):
    done = shell(command, PROGRAMS, "train", *small_run(few_digits, tmp_path, eval_interval=1))
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in states(tmp_path)] == ["toy-1_5.ckpt", "toy-2_5.ckpt"]
    log = (tmp_path / "run/train.log").read_text()
    assert log.count("validation after epoch") == 2 and log.count("checkpoint:") == 2
    assert (tmp_path / "run/curves.png").is_file()


@pytest.mark.parametrize("command", ['"$@" >&-', '"$@" | head -1'])
def test_an_inference_is_whole(few_digits, toy_state, tmp_path, command):
    options = command_line(model_file=toy_state, input=few_digits / "val", output_dir=tmp_path / "out", batch_size=8)
    done = shell(command, PROGRAMS, "infer", *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "out/result_Files").iterdir())) == 40
    assert (tmp_path / "out/predictions.json").is_file()


# ---- Ctrl-C during the imports ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A model folder whose program takes a minute to import."""
    shutil.copytree(ROOT / "utils/model_utils", tmp_path / "src/model_utils")
    (tmp_path / "src/recipe.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    (tmp_path / "train.py").write_text("from src.model_utils import program\nfrom src import recipe\n")
    return tmp_path


def interrupted(code_or_file: list[str], folder: Path) -> tuple[int, str]:
    path = os.pathsep.join([str(folder), str(ROOT / "tests/fake_mindspore")])
    process = subprocess.Popen(
        [sys.executable, *code_or_file], env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - start < 20
    return process.returncode, errors


def test_ctrl_c_during_the_imports_is_one_line(folder):
    assert interrupted([str(folder / "train.py")], folder) == (130, "interrupted\n")


def test_another_program_and_a_notebook_keep_their_own_traceback(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "mine.py"
    other.write_text("from src import model_utils\nfrom src import recipe\n")
    for call in ([str(other)], ["-c", other.read_text()]):
        status, errors = interrupted(call, folder)
        assert status != 130 and errors.endswith("KeyboardInterrupt\n") and "Traceback" in errors


def test_an_error_during_the_imports_keeps_its_traceback(folder):
    (folder / "src/recipe.py").write_text("1 / 0")
    done = shell('"$@"', folder / "train.py", PYTHONPATH=str(ROOT / "tests/fake_mindspore"))
    assert done.returncode == 1 and done.stderr.endswith("ZeroDivisionError: division by zero\n")

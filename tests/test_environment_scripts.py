"""Tests of the shell scripts of the repository. A stand-in plays Python, so that nothing is downloaded."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = (
    *("bash", "cat", "chmod", "cut", "date", "dirname", "find", "flock", "ls", "mkdir"),
    *("mktemp", "mv", "rm", "sed", "sleep", "sort", "tail", "tee", "touch", "wc"),
)

# Writes each call to $LOG. Makes environments that hold a copy of itself, and "installs" a file.
STAND_IN = """#!/bin/bash
version={version}
[ "$version" = broken ] && {{ echo "no such version" >&2; exit 127; }}
case "$1 $2" in
    "-c import sys"*) echo "$version" ;;
    "-c import venv"*) {venv} ;;
    "-m venv")
        echo "venv ${{0##*/}}" >>"$LOG"
        mkdir -p "$3/bin" && sed "s/^version=.*/version=$version/" "$0" >"$3/bin/python" && chmod +x "$3/bin/python" ;;
    "-m pip")
        echo "pip $*" >>"$LOG"
        echo > "${{0%/bin/python}}/half"
        [ ! -e "$CONTROL/slow" ] || sleep 0.5
        [ ! -e "$CONTROL/kill" ] || kill -9 "$PPID"
        [ ! -e "$CONTROL/fail" ] || {{ echo "pip: no network" >&2; exit 1; }}
        echo > "${{0%/bin/python}}/whole" ;;
    "- ") echo "environment printed" ;;
    "- "*requirements*) "{real}" "$@" | sed "s/^[0-9.]* /$version /" ;;
    *.py*)
        echo "run ${{1##*/}} ${{*:2}}" >>"$LOG"
        [ ! -e "$CONTROL/$(dirname "$1" | sed 's|.*/||')" ] || exit 5
        [ "${{1##*/}}" != eval.py ] || echo "accuracy:  {{'top_1_accuracy': 0.975, 'top_5_accuracy': 1.0}}" ;;
    *) exec "{real}" "$@" ;;
esac
"""


class Machine:
    """A repository with the scripts, and a PATH on which the only Pythons are stand-ins."""

    def __init__(self, folder):
        self.folder, self.repository = folder, folder / "repo"
        self.bin, self.log = folder / "bin", folder / "log"
        (self.repository / "scripts").mkdir(parents=True)
        self.bin.mkdir()
        for name in ("environment.sh", "test.sh", "quickstart.sh"):
            shutil.copy(ROOT / "scripts" / name, self.repository / "scripts")
        for name in ("requirements.txt", "requirements-dev.txt"):
            (self.repository / name).write_text("something\n")
        for tool in TOOLS:
            if shutil.which(tool):
                (self.bin / tool).symlink_to(shutil.which(tool))

    def add_python(self, name, version, venv="exit 0"):
        path = self.bin / name
        path.write_text(STAND_IN.format(version=version, venv=venv, real=sys.executable))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def start(self, script="environment.sh", *arguments, **variables):
        own = {"PATH": self.bin, "LOG": self.log, "CONTROL": self.folder, "HOME": self.folder}
        return subprocess.Popen(
            ["bash", self.repository / "scripts" / script, *arguments],
            cwd=self.folder, env={**{name: str(path) for name, path in own.items()}, **variables},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *arguments, **variables):
        """Returns exit status, standard output and standard error."""
        process = self.start(*arguments, **variables)
        out, error = process.communicate(timeout=60)
        return process.returncode, out, error

    def calls(self):
        """What the stand-ins did since the last call of this function."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.write_text("")
        return lines


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path)
    machine.add_python("python3.11", "3.11.7")
    return machine


def test_environment_is_made_once_and_reused(machine):
    status, out, error = machine.run()
    assert (status, error) == (0, "") and out.endswith("environment printed\n")
    install = "pip -m pip install --disable-pip-version-check --quiet -r"
    assert machine.calls() == ["venv python3.11", f"{install} {machine.repository}/requirements-dev.txt"]
    assert machine.run() == (0, "environment printed\n", "") and machine.calls() == []


@pytest.mark.parametrize(
    ("changed", "variables"),
    [
        ("requirements.txt", {}),
        ("requirements-dev.txt", {}),
        (".venv/bin/python", {}),
        (".venv/bin/python", {"PYTHON": "python3.11"}),
    ],
)
def test_changed_requirements_and_a_python_that_is_gone_make_it_anew(machine, changed, variables):
    machine.run()
    machine.calls()
    (machine.repository / ".venv/old").touch()
    path = machine.repository / changed
    path.unlink() if "python" in changed else path.write_text("something else\n")
    assert machine.run(**variables)[0] == 0
    assert [call.split()[0] for call in machine.calls()] == ["venv", "pip"]
    assert not (machine.repository / ".venv/old").exists()


@pytest.mark.parametrize(("control", "ended"), [("fail", 1), ("kill", -9)])
def test_an_installation_that_failed_or_was_killed_is_made_anew(machine, control, ended):
    (machine.folder / control).touch()
    status, out, error = machine.run()
    assert status == ended and "environment printed" not in out and (machine.repository / ".venv/half").exists()
    if control == "fail":
        assert error.splitlines()[0] == "pip: no network"
        assert "error: pip could not install" in error and "the next run starts anew" in error
    (machine.folder / control).unlink()
    (machine.repository / ".venv/half-written").touch()
    machine.calls()
    assert machine.run()[0] == 0 and machine.calls()[0] == "venv python3.11"
    assert (machine.repository / ".venv/whole").exists() and not (machine.repository / ".venv/half-written").exists()
    assert machine.run() == (0, "environment printed\n", "")


def test_two_scripts_at_once_share_one_installation(machine):
    (machine.folder / "slow").touch()
    processes = [machine.start(), machine.start()]
    assert [process.communicate(timeout=60)[1] for process in processes] == ["", ""]
    assert [process.returncode for process in processes] == [0, 0]
    assert [call.split()[0] for call in machine.calls()] == ["venv", "pip"]


def test_an_environment_of_the_user_is_not_touched(machine):
    mine = machine.repository / ".venv/pyvenv.cfg"
    mine.parent.mkdir()
    mine.write_text("mine")
    status, _, error = machine.run()
    assert status == 1 and f"error: {mine.parent} was not made by this script" in error
    assert mine.read_text() == "mine" and machine.calls() == []
    assert machine.run(VENV_DIR="other")[0] == 0
    assert (machine.folder / "other/whole").exists()


def test_pythons_that_cannot_be_used_are_passed_over_or_named(machine):
    machine.add_python("python3.11", "broken")
    machine.add_python("python3.12", "3.12.1", venv="exit 1")
    machine.add_python("python3", "3.13.0")
    status, _, error = machine.run()
    assert status == 1 and error.count("\n") == 1
    assert error.startswith("error: Python 3.9 to 3.12 with its module venv is needed; python3.11 does not run; ")
    assert "python3.12 is Python 3.12.1 without its module venv; python3 is Python 3.13.0. Install one" in error
    assert "apt-get install python3 python3-venv" in error and "PYTHON=/path/to/python3.11 bash" in error
    assert not (machine.repository / ".venv").exists()
    machine.add_python("python3.10", "3.10.13")
    assert machine.run()[0] == 0 and machine.calls()[0] == "venv python3.10"


def test_with_no_python_at_all_the_error_says_so(machine):
    (machine.bin / "python3.11").unlink()
    status, _, error = machine.run()
    assert status == 1 and "is needed; none is on PATH. Install one" in error


def test_a_named_python_wins(machine):
    machine.add_python("mine", "3.9.18")
    assert machine.run()[0] == machine.run(PYTHON="mine")[0] == 0
    assert [call for call in machine.calls() if "venv" in call] == ["venv python3.11", "venv mine"]
    assert machine.run(PYTHON="mine")[1] == "environment printed\n" and machine.calls() == []
    for version, text in (("3.13.0", "is Python 3.13.0"), ("broken", "does not run")):
        machine.add_python("mine", version)
        error = f"error: PYTHON=mine {text}; Python 3.9 to 3.12 with its module venv is needed\n"
        assert machine.run(PYTHON="mine")[::2] == (1, error)
        assert (machine.repository / ".venv/whole").exists() and machine.calls() == []


# ---- test.sh ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(machine):
    """A repository of two model folders, each with a package called src, in which every check passes."""
    for folder in (".", "alpha", "beta"):
        (machine.repository / folder / "tests").mkdir(parents=True)
        (machine.repository / folder / "tests/test_it.py").write_text("def test_it():\n    assert 1 + 1 == 2\n")
    for folder in ("alpha", "beta"):
        (machine.repository / folder / "src").mkdir()
        (machine.repository / folder / "src/__init__.py").write_text(f'NAME = "{folder}"\n')
        (machine.repository / folder / "train.py").write_text("")
        add_test(machine, folder, f'import src\n\n\ndef test_src():\n    assert src.NAME == "{folder}"\n')
    (machine.repository / "scripts/sync_model_utils.py").write_text("")
    return machine


def add_test(machine, folder, text):
    (machine.repository / folder / "tests/test_more.py").write_text(text)


def run_tests(machine, *arguments):
    """Returns exit status, the last line, and the whole output."""
    status, out, error = machine.run("test.sh", *arguments, PYTHONPATH=".", PYTHONDONTWRITEBYTECODE="1")
    return status, (out.splitlines() or [""])[-1], out + error


@pytest.mark.parametrize(
    ("arguments", "last"),
    [([], "7 passed"), (["--", "-k", "src"], "4 passed"), (["beta"], "2 passed"), (["tests", "alpha/"], "3 passed")],
)
def test_test_script_adds_up_the_chosen_folders(checkout, arguments, last):
    assert run_tests(checkout, *arguments)[:2] == (0, f"{last}, 0 failed")


def test_test_script_runs_everything_in_spite_of_failures(checkout):
    add_test(checkout, "alpha", "def test_bad():\n    assert 1 == 2\n")
    (checkout.repository / "bad.py").write_text("import os\n")
    (checkout.folder / "scripts").touch()
    status, last, output = run_tests(checkout)
    assert (status, last) == (1, "4 passed, 3 failed")
    for line in ("ruff                   0 passed, 1 failed", "shared files           0 passed, 1 failed"):
        assert line in output
    assert "pytest alpha           1 passed, 1 failed, 0 skipped\n" in output
    assert "pytest beta            2 passed" in output


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("import os\n\n\ndef test_dies():\n    os._exit(3)\n", "5 passed, 1 failed"),
        ("import not_there  # noqa: F401\n", "5 passed, 1 failed"),
        ("import pytest\n\n\ndef test_no():\n    pytest.importorskip('not_there')\n", "6 passed, 0 failed, 1 skipped"),
        (None, "5 passed, 1 failed"),
    ],
)
def test_test_script_counts_what_pytest_could_not_run(checkout, text, last):
    """Also a folder without tests."""
    if text is None:
        shutil.rmtree(checkout.repository / "beta/tests")
        (checkout.repository / "beta/tests").mkdir()
    else:
        add_test(checkout, "beta", text)
    status, found, _ = run_tests(checkout)
    assert (found, status) == (last, 0 if " 0 failed" in last else 1)


def test_test_script_leaves_slow_proofs_out_unless_told(checkout):
    add_test(checkout, "alpha", "import pytest\n\n\n@pytest.mark.long\ndef test_slow():\n    assert 1 == 2\n")
    (checkout.repository / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmarkers = ["long: slow"]\n')
    assert run_tests(checkout, "alpha")[:2] == (0, "1 passed, 0 failed")
    assert run_tests(checkout, "alpha", "--long")[:2] == (1, "1 passed, 1 failed")


@pytest.mark.parametrize("argument", ["gamma", "scripts", "--quick"])
def test_test_script_refuses_what_is_no_folder_with_tests(checkout, argument):
    status, _, output = run_tests(checkout, "alpha", argument)
    assert status == 2 and f"error: '{argument}' is no folder with tests" in output
    assert "Usage: bash scripts/test.sh [FOLDER...]" in output


# ---- quickstart.sh ---------------------------------------------------------------------------------------------------


def test_quickstart_runs_every_program_and_prints_what_it_made(machine):
    status, out, error = machine.run("quickstart.sh", "--output", "result", "--epoch_size", "1", "--lr_init=0.5")
    assert (status, error) == (0, "")
    calls = [call.split(maxsplit=2)[1:] for call in machine.calls() if call.startswith("run ")]
    infer = ["infer.py", "postprocess.py", "contact_sheet.py"]
    programs = ["digits.py", "digits.py", "train.py", "eval.py", "export.py", "export.py", *infer, *infer]
    assert [program for program, _ in calls] == programs
    assert calls[2][1].endswith("--epoch_size 1 --lr_init=0.5") and "--epoch_size 15" in calls[2][1]
    assert "top-1 accuracy on the 360 held-out digits: 0.975" in out
    assert f"contact sheets   {machine.folder}/result/contact_sheet_mindir.png" in out


def test_quickstart_stops_at_the_first_failure(machine):
    (machine.folder / "tinydarknet").touch()
    status, out, error = machine.run("quickstart.sh")
    assert status == 5 and error.endswith('error: quickstart stopped in the step "training", status 5\n')
    assert "run train.py" in machine.calls()[-1] and "== finished" not in out


def test_quickstart_keeps_earlier_results_and_folders_of_the_user(machine):
    machine.run("quickstart.sh", "--output=result")
    (machine.folder / "result/first").touch()
    assert machine.run("quickstart.sh", "--output=result")[0] == 0
    (kept,) = machine.folder.glob("result.*")
    assert (kept / "first").exists() and not (machine.folder / "result/first").exists()
    machine.calls()
    (machine.folder / "photos").mkdir()
    (machine.folder / "photos/mine").touch()
    status, _, error = machine.run("quickstart.sh", "--output", "photos")
    assert status == 2 and f"error: {machine.folder}/photos holds something else" in error
    assert (machine.folder / "photos/mine").exists() and not any(call.startswith("run ") for call in machine.calls())


@pytest.mark.parametrize("arguments", [["stray"], ["--output"], ["--epoch_size"]])
def test_quickstart_wrong_usage(machine, arguments):
    status, _, error = machine.run("quickstart.sh", *arguments)
    assert status == 2 and error.startswith("error: ") and "Usage: bash scripts/quickstart.sh" in error


def test_quickstart_knows_the_home_folder(machine):
    (machine.folder / "home").mkdir()
    machine.run("quickstart.sh", "--output=~/result", HOME=str(machine.folder / "home"))
    assert (machine.folder / "home/result/.quickstart").exists() and not (machine.folder / "~").exists()


def test_quickstart_help(machine):
    status, out, _ = machine.run("quickstart.sh", "--help")
    assert status == 0 and "--output DIR" in out and "--KEY VALUE" in out and machine.calls() == []


@pytest.mark.parametrize("name", ["quickstart.sh", "modelarts_local.sh", "test.sh", "environment.sh", "../.ci/run"])
def test_scripts_are_executable(name):
    assert os.access(ROOT / "scripts" / name, os.X_OK)

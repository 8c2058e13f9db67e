"""What the README files say holds: their commands, options, links and file trees. test_standalone.py runs the quick starts.

A block ```bash holds commands, run in the folder of its README, with python for the interpreter and /path/to/... for
what the reader puts in. The checks return findings, so that they can be tried on a README that was broken on purpose.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OTHER_COMMANDS = {"cd", "grep", "head", "pip", "sed", "source"}
LAUNCHER = re.compile(r"(run_|train_)\w+\.sh|eval\.sh")
CPP_LAUNCHER = "run_infer_310.sh"  # needs MindSpore Lite; test_cpp_infer.py runs it with a stand-in
OPERATORS = {";", "&", "&&", "|", "||"}
PLACEHOLDER = "/path/to/"
RANK_TABLE = {"server_list": [{"device": [{"device_id": str(i), "rank_id": str(i)} for i in range(2)]}]}
# Records how it was called; the launchers also ask the interpreter to read the rank table (-c).
STAND_IN = """#!/usr/bin/env bash
if [[ "$1" == -c ]]; then exec {python} "$@"; fi
printf '%s\\n' "$(printf '%q ' "$@")" >>{record}
"""
# For each line of stdin, a list of argument lists, prints what the folder's configuration has against them.
READ_CONFIG = """
import json, sys
from src.model_utils.errors import UsageError
from src.recipe import read_config
for line in sys.stdin:
    findings = []
    for argv in json.loads(line):
        try:
            read_config(argv, "")
        except UsageError as error:
            findings.append(" ".join(argv) + " -> " + str(error))
    print(json.dumps(findings), flush=True)
"""


@dataclass(frozen=True)
class Readme:
    path: Path
    text: str

    @property
    def folder(self) -> Path:
        return self.path.parent


@dataclass(frozen=True)
class Command:
    """A simple command: assignments before it, its words, the number of its block, and where a cd before it leads."""

    environment: tuple[str, ...]
    words: tuple[str, ...]
    block: int
    place: str = ""

    @property
    def program(self) -> str:
        return str(Path(self.place, self.words[1])) if self.words[0] in ("python", "bash", "sh") else ""


def read(path: Path) -> Readme:
    return Readme(path, path.read_text(encoding="utf-8"))


READMES = [read(path) for path in [ROOT / "README.md", *sorted(ROOT.glob("[!.]*/README*.md"))]]
ENGLISH = [readme for readme in READMES if readme.path.name == "README.md"]
MODELS = [readme for readme in READMES if (readme.folder / "train.py").is_file()]


def name(readme: Readme) -> str:
    return readme.path.relative_to(ROOT).as_posix()


every_english_model = pytest.mark.parametrize("readme", [r for r in MODELS if r in ENGLISH], ids=name)


# ---- Reading a README ------------------------------------------------------------------------------------------------


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language, without the indentation that a list gives them."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", body, flags=re.MULTILINE) for indent, body in found]


def section(text: str, heading: str) -> str:
    """The text below a heading of the second level."""
    return text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def simple_commands(line: str) -> list[list[str]]:
    """The words of each simple command of a line, without redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    skip_next = False
    for word in lexer:
        if skip_next:
            skip_next = False
        elif word in OPERATORS:
            found.append([])
        elif word[0] in "<>":
            skip_next = True
            if found[-1] and found[-1][-1].isdigit():  # the 2 of 2>&1
                found[-1].pop()
        else:
            found[-1].append(word)
    return [words for words in found if words]


def commands(readme: Readme) -> list[Command]:
    found = []
    for number, block in enumerate(blocks(readme.text, "bash")):
        place = ""
        for line in block.replace("\\\n", " ").splitlines():
            for words in simple_commands(line):
                start = next(i for i, word in enumerate(words) if not re.match(r"[A-Z_]+=", word))
                found.append(Command(tuple(words[:start]), tuple(words[start:]), number, place))
                if words[0] == "cd":
                    place = words[1]
    return found


def is_launcher(command: Command) -> bool:
    return command.words[0] in ("bash", "sh") and LAUNCHER.fullmatch(Path(command.program).name) is not None


def reads_config(program: Path) -> bool:
    """Whether the program's options are the keys of a recipe."""
    text = program.read_text(encoding="utf-8")
    return "MODEL" in text and "argument_parser(" not in text


def tables(text: str) -> list[list[list[str]]]:
    """Each table as rows of cells, the row of dashes left out."""
    found = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    rows = [[re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()] for table in found]
    return [[[cell.strip() for cell in row] for row in [table[0], *table[2:]]] for table in rows]


def launcher_table(readme: Readme) -> dict[str, tuple[str, str]]:
    """Arguments and log of each launcher."""
    rows = [row for table in tables(readme.text) for row in table if LAUNCHER.fullmatch(row[0].strip("`"))]
    return {row[0].strip("`"): (row[2].replace("\\|", "|"), row[3].strip("`")) for row in rows if len(row) == 4}


# ---- Checks ----------------------------------------------------------------------------------------------------------


def check_programs(readme: Readme) -> list[str]:
    """Commands that are not known, and programs and files that do not exist."""
    findings = []
    for command in commands(readme):
        if command.words[0] not in OTHER_COMMANDS | {"python", "bash", "sh"}:
            findings.append(f"'{command.words[0]}' is not a command that the documents use")
        elif command.program and not (readme.folder / command.program).is_file():
            findings.append(f"{command.program} does not exist")
        elif command.words[0] == "cd" and not (readme.folder / command.words[1]).is_dir():
            findings.append(f"{command.words[1]} does not exist")
        elif command.words[:3] == ("pip", "install", "-r") and not (readme.folder / command.words[3]).is_file():
            findings.append(f"{command.words[3]} does not exist")
    return findings


@functools.cache
def config_checker(folder: Path) -> subprocess.Popen:
    """A process that answers for a model folder; starting one takes seconds."""
    return subprocess.Popen(
        [sys.executable, "-c", READ_CONFIG], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module", autouse=True)
def _end_checkers():
    yield
    for folder in {path.parent for path in ROOT.glob("*/train.py")}:
        config_checker(folder).communicate(timeout=60)
    config_checker.cache_clear()


def check_config(folder: Path, arguments: list[list[str]]) -> list[str]:
    """What the configuration of a model folder has against argument lists."""
    process = config_checker(folder)
    process.stdin.write(json.dumps(arguments) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def check_options(readme: Readme) -> list[str]:
    """Options and values that the Python programs do not accept, and options that the other scripts do not name."""
    findings, configured = [], {}
    for command in commands(readme):
        path = readme.folder / command.program
        if not command.program or is_launcher(command) or not path.is_file():
            continue
        if command.words[0] == "python" and reads_config(path):
            configured.setdefault(path.parent, []).append(list(command.words[2:]))
            continue
        sources = [path, *(path.parent.glob("src/**/*.py") if command.words[0] == "python" else [])]
        text = "".join(source.read_text(encoding="utf-8") for source in sources)
        options = [word.split("=")[0] for word in command.words[2:] if word.startswith("--")]
        findings += [f"{command.program} has no option {option}" for option in options if f'"{option}"' not in text]
    return findings + [finding for folder, found in configured.items() for finding in check_config(folder, found)]


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def check_links(readme: Readme) -> list[str]:
    """Links to files that do not exist, and to headings that do not."""
    findings = []
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", readme.text, flags=re.DOTALL)):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        path = readme.folder / file if file else readme.path
        if not path.exists():
            findings.append(f"{target} leads nowhere")
        elif anchor:
            text = path.read_text(encoding="utf-8") if file else readme.text
            if anchor not in [slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]:
                findings.append(f"{target}: there is no such heading")
    return findings


def tree_files(tree: str) -> list[str]:
    """The paths in a tree, which four blanks indent; several names may stand on a line, words of explanation follow."""
    found, parents = [], []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 4
        parents = parents[:depth]
        is_name = re.compile(r"[\w.-]+\.(py|sh|md|txt|yaml|toml)|[\w.]+/").fullmatch
        names = list(itertools.takewhile(is_name, line.split()))
        found += ["/".join([*parents, entry]).replace("//", "/") for entry in names]
        if names and names[0].endswith("/"):
            parents.append(names[0].rstrip("/"))
    return found


def check_tree(readme: Readme) -> list[str]:
    """Files of the README's tree that do not exist; for a model, programs and modules that are not in it."""
    tree = next((block for block in blocks(readme.text, "text") if "README.md" in block), None)
    if tree is None:
        return ["there is no tree of the files"] if (readme.folder / "train.py").is_file() else []
    root = readme.folder.parent if tree.startswith(f"{readme.folder.name}/") else readme.folder
    listed = {root / entry for entry in tree_files(tree)}
    findings = [f"{path.relative_to(root)} does not exist" for path in sorted(listed) if not path.exists()]
    if root != readme.folder:
        patterns = ("*.py", "*requirements.txt", "*.yaml", "scripts/*.sh", "src/*.py", "src/[!m]*/*.py", "README*.md")
        present = [path for pattern in patterns for path in readme.folder.glob(pattern) if path.name != "__init__.py"]
        findings += [f"{path.relative_to(root)} is not in the tree" for path in sorted(present) if path not in listed]
    return findings


# ---- The README files ------------------------------------------------------------------------------------------------


def check_marks(readme: Readme) -> list[str]:
    """Marks of what is left to do."""
    return re.findall(r"TODO|FIXME|TBD", readme.text)


@pytest.mark.parametrize("check", [check_programs, check_options, check_links, check_tree, check_marks])
@pytest.mark.parametrize("readme", READMES, ids=name)
def test_what_it_says_holds(readme, check):
    assert check(readme) == []


@pytest.mark.parametrize("readme", [r for r in READMES if r.path.name == "README_CN.md"], ids=name)
def test_translation_has_the_same_commands_launchers_and_marks(readme):
    english = read(readme.folder / "README.md")
    assert commands(readme) == commands(english)
    forms = [
        {key: (re.findall("`([^`]+)`", forms), log) for key, (forms, log) in launcher_table(r).items()}
        for r in (readme, english)
    ]
    assert forms[0] == forms[1]
    assert re.findall("<!--.*?-->", readme.text) == re.findall("<!--.*?-->", english.text)
    assert [len(table) for table in tables(readme.text)] == [len(table) for table in tables(english.text)]


@every_english_model
def test_launcher_table_equals_the_usage_texts(readme):
    table = launcher_table(readme)
    assert sorted(table) == sorted(p.name for p in readme.folder.glob("scripts/*.sh") if LAUNCHER.fullmatch(p.name))
    for launcher, (cell, _) in table.items():
        script = readme.folder / "scripts" / launcher
        usage = subprocess.run(["bash", script, "--help"], capture_output=True, text=True, check=True).stdout
        forms = re.findall(rf"(?:^Usage:|^ +) (?:ba)?sh {launcher} ?(.*) \[OPTIONS\]$", usage, re.MULTILINE)
        documented = re.findall("`([^`]+)`", cell)
        assert forms == documented or forms == ["", *documented], launcher


def fill_in(words: Sequence[str], folder: Path) -> list[str]:
    """The words with existing files and folders for /path/to/...; a folder holds the folders train and val."""
    filled = []
    for word in words:
        if word.startswith(PLACEHOLDER):
            path = folder / word[len(PLACEHOLDER) :]
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".json":
                path.write_text(json.dumps(RANK_TABLE))
            elif path.suffix:
                path.touch()
            else:
                for part in ("train", "val"):
                    (path / part).mkdir(parents=True, exist_ok=True)
            word = str(path)
        filled.append(word)
    return filled


def run_launcher(readme: Readme, command: Command, place: Path) -> list[list[str]]:
    """Run a launcher with a stand-in for python and msrun; returns the arguments of every call of a program.

    The launcher of the C++ application goes as far as the description of the model, which its arguments come before.
    """
    record, run = place / "record", place / "run"
    run.mkdir()
    for program in ("python", "msrun"):
        (place / program).write_text(STAND_IN.format(python=shlex.quote(sys.executable), record=record))
        (place / program).chmod(0o755)
    words = fill_in(command.words[2:], place / "files")
    assignments = [assignment.split("=", 1) for assignment in command.environment]
    filled = zip((key for key, _ in assignments), fill_in([value for _, value in assignments], place / "files"))
    environment = [*(f"{key}={value}" for key, value in filled), f"PYTHON={place / 'python'}"]
    process = subprocess.run(
        ["env", *environment, command.words[0], str(readme.folder / command.program), *words, "--wait"],
        cwd=run, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if Path(command.program).name == CPP_LAUNCHER:
        assert "the description that export.py writes beside a model" in process.stderr, process.stderr
        return []
    assert process.returncode == 0, process.stdout + process.stderr
    calls = [shlex.split(line) for line in record.read_text().splitlines()]
    programs = [next(i for i, word in enumerate(call) if word.endswith(".py")) for call in calls]
    return [call[start:] for call, start in zip(calls, programs)]


@every_english_model
def test_launcher_commands_start_their_programs(readme, tmp_path):
    """Each one starts an existing program with options that it accepts, and its log is where the table says."""
    table, calls = launcher_table(readme), []
    for number, command in enumerate(filter(is_launcher, commands(readme))):
        place = tmp_path / str(number)
        place.mkdir()
        calls += run_launcher(readme, command, place)
        launcher = Path(command.program).name
        log = table[launcher][1].replace("<i>", "0")
        assert launcher == CPP_LAUNCHER or list((place / "run").glob(re.sub(r"<\w+>", "*", log))), command
    assert len(calls) >= len(table)
    assert all((readme.folder / program).is_file() for program, *_ in calls)
    configured = [arguments for program, *arguments in calls if reads_config(readme.folder / program)]
    assert check_config(readme.folder, configured) == []


# ---- The checks themselves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "folder, check, right, wrong, finding",
    [
        ("tinydarknet", check_programs, "python train.py --eval", "python trian.py --eval", "trian.py does not exist"),
        ("tinydarknet", check_programs, "-r requirements.txt", "-r needs.txt", "needs.txt does not exist"),
        ("tinydarknet", check_programs, "grep ", "gerp ", "'gerp' is not a command"),
        ("tinynet", check_programs, "sh train_1p_gpu.sh", "sh train_gpu.sh", "scripts/train_gpu.sh does not exist"),
        ("tinynet", check_programs, "cd scripts", "cd script", "script does not exist"),
        ("tinydarknet", check_options, "--eval_interval 10\n", "--eval_in 10\n", "unknown option '--eval_in'"),
        ("tinydarknet", check_options, "--epoch_size 15", "--epoch_size many", "epoch_size='many'"),
        ("tinydarknet", check_options, "--layout cifar10", "--lay_out cifar10", "digits.py has no option --lay_out"),
        ("tinydarknet", check_options, "--class_names", "--classes", "convert_checkpoint.py has no option --classes"),
        ("darknet53", check_options, "--class_num 17", "--classes 17", "unknown option '--classes'"),
        ("cspdarknet53", check_options, "--image_size 64,64", "--image_size 64", "image_size=[64]"),
        ("tinynet", check_options, "-b 16", "-c 16", "unknown option '-c'"),
        ("yolov3_res2net50", check_options, "--mosaic 0.5", "--mozaic 0.5", "unknown option '--mozaic'"),
        ("tinydarknet", check_links, "(README_CN.md)", "(README_DE.md)", "README_DE.md leads nowhere"),
        ("tinydarknet", check_links, "(#export)", "(#exports)", "#exports: there is no such heading"),
        ("tinydarknet", check_links, "(../README.md#requirements)", "(../README.md#needs)", "there is no such heading"),
        ("tinydarknet", check_tree, "    eval.py ", "    evaluate.py ", "evaluate.py does not exist"),
        ("tinydarknet", check_tree, "    eval.py ", "    ", "eval.py is not in the tree"),
        ("yolov3_res2net50", check_tree, "        targets.py ", "        ", "targets.py is not in the tree"),
        ("tinynet", check_tree, "    tinynet_b_config.yaml ", "    ", "tinynet_b_config.yaml is not in the tree"),
        ("tinynet", check_marks, "## ", "## TODO ", "TODO"),
    ],
)
def test_a_broken_readme_is_found(folder, check, right, wrong, finding):
    readme = read(ROOT / folder / "README.md")
    assert right in readme.text
    found = check(replace(readme, text=readme.text.replace(right, wrong)))
    assert any(finding in problem for problem in found), found


def test_simple_commands():
    line = "A=1 python a.py --x 'b c' > log 2>&1 & grep \"loss is \" log | head -n 1 # a comment"
    commands = [["A=1", "python", "a.py", "--x", "b c"], ["grep", "loss is ", "log"], ["head", "-n", "1"]]
    assert simple_commands(line) == commands

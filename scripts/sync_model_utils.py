"""Compares the files that the model folders share with their source, or copies the source to the folders.

Every model folder, that is every folder with a train.py, carries byte for byte, so that it runs when it is taken alone:
    utils/model_utils       as src/model_utils: the runtime
    utils/common            as files of the same relative paths: training run, export, weights of other frameworks
    utils/classification    likewise, in the image classifiers: what these do alike
    utils/launchers         in scripts: what all launchers do alike
    utils/cpp_infer         as ascend310_infer: the inference application in C++
This program proves that the copies do not drift, and that the shared files stay free of any one model.

    python scripts/sync_model_utils.py --check     exit status 1 and a list of what is wrong
    python scripts/sync_model_utils.py --write     brings the copies up to date, then checks

A model that needs something else than a shared file adds (folder, file) to EXCLUDED below and keeps its own version
outside src/model_utils.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = Path("utils/model_utils")
COPY = Path("src/model_utils")
# Further shared files, which lie among a folder's own ones: source folder -> folder of the copies.
CLASSIFICATION = Path("utils/classification")
CPP_INFER, CPP_COPY = Path("utils/cpp_infer"), Path("ascend310_infer")
MIRRORED = {
    Path("utils/common"): Path("."),
    CLASSIFICATION: Path("."),
    Path("utils/launchers"): Path("scripts"),
    CPP_INFER: CPP_COPY,
}
# Which files of a source folder are shared. A build leaves others beside those of the application.
PATTERNS = {CPP_INFER: ("CMakeLists.txt", "README.md", "build.sh", "inc/*.h", "src/*.cc")}
MIRRORED_PATTERNS = ("**/*.py", "**/*.sh")
DETECTORS = frozenset({"yolov3_res2net50"})  # every other folder with a train.py is an image classifier
# The first model has tests of its own of what these test, and more.
COMMON_TESTS = ("training", "evaluation", "bad_input", "export", "distributed", "fine_tuning")
EXCLUDED = frozenset(
    [("tinydarknet", f"test_common_{subject}.py") for subject in COMMON_TESTS]
    + [("tinynet", "test_common_fine_tuning.py")]  # trains from random weights on the same digits
)

MEND = "python scripts/sync_model_utils.py --write"
HEADER = "# Shared file: source {source}; copy with: " + MEND
COMMENTS = {".h": "//{}", ".cc": "//{}", ".md": "<!--{} -->"}  # how a comment is written where it is not #
MAX_FILES = 9
THIRD_PARTY = frozenset({"numpy", "yaml", "mindspore", "PIL"})
# Programs and the package src of a folder, the readers of other formats, which a file imports where it needs them, tests.
PROGRAMS = {"train", "eval", "export", "infer", "postprocess"}
MIRRORED_IMPORTS = (
    THIRD_PARTY | PROGRAMS | {"conftest", "digits", "pytest"} | {"src", "onnx", "onnxruntime", "safetensors", "torch"}
)
ONLY_IN = {"moxing_adapter.py": frozenset({"moxing"})}  # ModelArts images bring it; it is not on PyPI
MODEL_NAMES = re.compile("tinydarknet|cspdarknet53|darknet53|tinynet|yolov3|res2net", re.IGNORECASE)


def model_folders(root: Path) -> list[Path]:
    """Returns the model folders: those with a train.py."""
    return sorted(path.parent for path in root.glob("*/train.py"))


def source_files(root: Path) -> list[Path]:
    """Returns the files of the shared runtime at their source."""
    return sorted((root / SOURCE).glob("*.py"))


def mirrored_files(root: Path) -> Iterator[tuple[Path, Path]]:
    """Yields each further shared file, with the place of its copies relative to a model folder."""
    for source, copy in MIRRORED.items():
        patterns = PATTERNS.get(source, MIRRORED_PATTERNS)
        files = {path for pattern in patterns for path in (root / source).glob(pattern)}
        yield from ((path, copy / path.relative_to(root / source)) for path in sorted(files))


def expected_copies(root: Path, excluded: frozenset[tuple[str, str]] = frozenset()) -> Iterator[tuple[Path, Path]]:
    """Yields each shared file with the place of each of its copies."""
    for folder in model_folders(root):
        for source in source_files(root):
            if (folder.name, source.name) not in excluded:
                yield source, folder / COPY / source.name
        for source, place in mirrored_files(root):
            is_foreign = folder.name in DETECTORS and (root / CLASSIFICATION) in source.parents
            if not is_foreign and (folder.name, source.name) not in excluded:
                yield source, folder / place


def first_difference(source: bytes, copy: bytes) -> str:
    """Describes the first line in which two texts differ; the empty string when they are equal."""
    if source == copy:
        return ""
    ours, theirs = source.splitlines(keepends=True), copy.splitlines(keepends=True)
    number = next((n for n, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    return f"line {number + 1}: source {_shown(ours, number)}, copy {_shown(theirs, number)}"


def _shown(lines: list[bytes], number: int) -> str:
    return repr(lines[number].decode("utf-8", "replace")) if number < len(lines) else "has ended"


def check_copies(root: Path, excluded: frozenset[tuple[str, str]] = frozenset()) -> list[str]:
    """Finds copies that are missing or differ, and files that have no source in folders that hold only copies."""
    findings = []
    copies = dict((copy, source) for source, copy in expected_copies(root, excluded))
    for copy, source in copies.items():
        name = copy.relative_to(root)
        if not copy.is_file():
            findings.append(f"{name} is missing; {MEND}")
        elif difference := first_difference(source.read_bytes(), copy.read_bytes()):
            findings.append(f"{name} differs from {source.relative_to(root)} in {difference}; {MEND}")
    for folder in model_folders(root):
        for path in sorted((folder / COPY).rglob("*.py")):
            if path not in copies:
                name, home = path.relative_to(root), f"{folder.name}/src"
                findings.append(f"{name} has no source in {SOURCE}; git mv {name} {home}/, or remove it")
        for path in sorted(path for pattern in PATTERNS[CPP_INFER] for path in (folder / CPP_COPY).glob(pattern)):
            if path not in copies:
                findings.append(f"{path.relative_to(root)} has no source in {CPP_INFER}; remove it")
    return findings


def check_manifest(root: Path, excluded: frozenset[tuple[str, str]] = frozenset()) -> list[str]:
    """Checks that there is something to compare, not too much of it, and that no exclusion has lost its subject."""
    sources = source_files(root)
    findings = []
    if not sources:
        findings.append(f"{SOURCE} holds no Python file; git checkout -- {SOURCE}")
    if len(sources) > MAX_FILES:
        findings.append(
            f"{SOURCE} holds {len(sources)} files, {MAX_FILES} at most; move what is one model's to its src/"
        )
    for path in sorted((root / SOURCE).rglob("*.py")):
        if path not in sources:
            findings.append(f"{path.relative_to(root)} lies in a sub-folder, which is not copied; move it to {SOURCE}")
    if not model_folders(root):
        findings.append("no folder with a train.py was found; run this program in the repository")
    for folder, name in sorted(excluded):
        names = [path.name for path in source_files(root)] + [path.name for path, _ in mirrored_files(root)]
        if name not in names or not (root / folder / "train.py").is_file():
            findings.append(
                f"EXCLUDED names ({folder}, {name}), which does not exist; take it out of {Path(__file__).name}"
            )
    return findings


def header(source: str) -> str:
    """Returns the line that a shared file begins with, after a #! line, as a comment of its language."""
    text = HEADER.format(source=source)
    return COMMENTS.get(Path(source).suffix, "#{}").format(text[1:])


def check_source(path: Path, root: Path, siblings: frozenset[str] | None) -> list[str]:
    """Checks the text of one shared file: header, model names, imports.

    Args:
        path: the file.
        root: the repository.
        siblings: names of the modules beside it, without their ending; None for a file that lies among a folder's own
            ones and may import those.

    Returns:
        What is wrong, each with the file's name and the line.
    """
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(root).as_posix()
    findings = []
    place = 1 if text.startswith("#!") else 0
    if text.split("\n", 2)[place] != header(name):
        line = "second" if place else "first"
        findings.append(f"{name}:{place + 1}: the {line} line must be: {header(name)}")
    for number, line in enumerate(text.splitlines(), 1):
        if match := MODEL_NAMES.search(line):
            findings.append(f"{name}:{number}: names the model {match.group()}; take it as an argument")
    if path.suffix != ".py":
        return findings
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        return [*findings, f"{name}:{error.lineno}: is not Python: {error.msg}"]
    third_party = MIRRORED_IMPORTS if siblings is None else THIRD_PARTY | ONLY_IN.get(path.name, frozenset())
    allowed = standard_library() | third_party
    for number, problem in _import_problems(tree, allowed, siblings):
        findings.append(f"{name}:{number}: {problem}")
    return findings


def standard_library() -> frozenset[str]:
    """Returns the names of the modules that come with Python."""
    if hasattr(sys, "stdlib_module_names"):
        return sys.stdlib_module_names
    folder = Path(sysconfig.get_paths()["stdlib"])  # Python 3.9
    files = [*folder.iterdir(), *(folder / "lib-dynload").glob("*")]
    return frozenset({path.name.split(".")[0] for path in files} | set(sys.builtin_module_names)) - {"site-packages"}


def _import_problems(
    tree: ast.AST, allowed: frozenset[str], siblings: frozenset[str] | None
) -> Iterator[tuple[int, str]]:
    """Yields line and text of each import that a shared file may not have, wherever in the file it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and siblings is not None:
            yield from ((node.lineno, problem) for problem in _relative_problems(node, siblings))
        for module in _imported_modules(node):
            if module.split(".")[0] not in allowed:
                yield (
                    node.lineno,
                    f"imports {module}; allowed are the standard library, {', '.join(sorted(THIRD_PARTY))}",
                )
            elif private := _private_part(module):
                yield node.lineno, f"imports {module}, of which {private} is private; use the public API"
    for node, chain in _framework_attributes(tree):
        if private := _private_part(chain):
            yield node.lineno, f"uses {chain}, of which {private} is private; use the public API"


def _relative_problems(node: ast.ImportFrom, siblings: frozenset[str]) -> Iterator[str]:
    if node.level > 1:
        yield "imports from outside its own folder; pass what it needs as an argument"
        return
    for module in [node.module] if node.module else [alias.name for alias in node.names]:
        if module.split(".")[0] not in siblings:
            yield f"imports its sibling {module}, whose source is missing in {SOURCE.as_posix()}"


def _imported_modules(node: ast.AST) -> list[str]:
    """Returns what a node imports absolutely, as dotted names; a name taken from a module counts as part of it."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if function in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            return [node.args[0].value]
    return []


def _framework_attributes(tree: ast.AST) -> Iterator[tuple[ast.Attribute, str]]:
    """Yields each use of an attribute of MindSpore, such as ms.ops.Add, with its full dotted name."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "mindspore":
                    names[alias.asname or "mindspore"] = alias.name if alias.asname else "mindspore"
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module.split(".")[0] == "mindspore":
            names.update((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)
    for node in ast.walk(tree):
        parts, inner = [], node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if parts and isinstance(inner, ast.Name) and inner.id in names:
            yield node, ".".join([names[inner.id], *reversed(parts)])


def _private_part(dotted: str) -> str:
    """Returns the first private component of a dotted MindSpore name, or the empty string."""
    parts = dotted.split(".")
    if parts[0] != "mindspore":
        return ""
    return next((part for part in parts if part.startswith("_") and not part.endswith("__")), "")


def check(root: Path, excluded: frozenset[tuple[str, str]] = frozenset()) -> list[str]:
    """Returns everything that is wrong, one line each."""
    siblings = frozenset(path.stem for path in source_files(root))
    findings = check_manifest(root, excluded)
    for path in source_files(root):
        findings += check_source(path, root, siblings)
    for path, _ in mirrored_files(root):
        findings += check_source(path, root, None)
    return findings + check_copies(root, excluded)


def write(root: Path, excluded: frozenset[tuple[str, str]] = frozenset()) -> list[str]:
    """Writes the copies that are missing or differ, and returns their names. Removes nothing."""
    written = []
    for source, copy in expected_copies(root, excluded):
        content = source.read_bytes()
        if copy.is_file() and copy.read_bytes() == content:
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        temporary = copy.with_name(copy.name + ".tmp")
        temporary.write_bytes(content)
        temporary.chmod(source.stat().st_mode)
        os.replace(temporary, copy)
        written.append(str(copy.relative_to(root)))
    return written


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description="Compares or rewrites the files that the model folders share.")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="list what is wrong; exit status 1 when anything is")
    action.add_argument("--write", action="store_true", help="bring the copies up to date, then check")
    excluded = EXCLUDED if root == ROOT else frozenset()
    if parser.parse_args(argv).write:
        for name in write(root, excluded):
            print(f"wrote {name}")
    findings = check(root, excluded)
    for finding in findings:
        print(finding, file=sys.stderr)
    if not findings:
        shared = len(source_files(root)) + len(list(mirrored_files(root)))
        print(f"{shared} shared files, {len(list(expected_copies(root, excluded)))} copies: all equal")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

"""Tests of the text of the files that the model folders share, at their source: they know no model and stand alone.

Header and place of these files are the matter of scripts/sync_model_utils.py.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

UTILS = Path(__file__).resolve().parents[1] / "utils"
SHARED = ("model_utils", "launchers", "cpp_infer")
MODEL_NAMES = re.compile("tinydarknet|cspdarknet53|darknet53|tinynet|yolov3|res2net", re.IGNORECASE)
# Readers of other formats and ModelArts' own package are imported where they are needed.
THIRD_PARTY = set("numpy yaml mindspore PIL onnx onnxruntime safetensors torch moxing".split())
OWN_MODULES = ("src", "recipe", "dataset")  # of a model folder


def standard_library():
    if hasattr(sys, "stdlib_module_names"):
        return set(sys.stdlib_module_names)
    folder = Path(sysconfig.get_paths()["stdlib"])  # Python 3.9
    files = [*folder.iterdir(), *(folder / "lib-dynload").glob("*")]
    return ({path.name.split(".")[0] for path in files} | set(sys.builtin_module_names)) - {"site-packages"}


ALLOWED = standard_library() | THIRD_PARTY


def texts(utils):
    """Returns the text of each shared file by its path below utils; what Python or a build writes is none."""
    paths = (path for name in SHARED for path in (utils / name).rglob("*") if path.is_file())
    names = (path.relative_to(utils) for path in paths)
    skipped = {"__pycache__", "out", "build.log"}
    return {name: (utils / name).read_text(encoding="utf-8") for name in names if skipped.isdisjoint(name.parts)}


def absolute_imports(node):
    """Returns what a node imports absolutely, as dotted names; a name taken from a module counts as part of it."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return [str(node.args[0].value)] if function in ("import_module", "__import__") else []
    return []


def relative_problems(node, name, files):
    """Returns what is wrong with a relative import of the file `name`: it leaves the package or finds no file."""
    if len(name.parts) - 1 < node.level or name.parts[0] != "model_utils":
        return ["leaves model_utils; take what it needs as an argument"]
    module = name.parents[node.level - 1].joinpath(*(node.module or "").split("."))
    if module.with_suffix(".py") in files:
        return []
    names = [alias.name for alias in node.names]
    defined = re.findall(r"\w+", files.get(module / "__init__.py", ""))
    missing = [part for part in names if part not in defined and not is_module(module / part, files)]
    return [f"finds no {'.'.join((module / part).parts)}" for part in missing]


def is_module(path, files):
    return path.with_suffix(".py") in files or path / "__init__.py" in files


def mindspore_names(tree):
    """Returns what each name that a file imports of MindSpore stands for, such as nn: mindspore.nn."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for full, alias in zip(absolute_imports(node), node.names):
                is_bare = isinstance(node, ast.Import) and not alias.asname
                if full.split(".")[0] == "mindspore":
                    names["mindspore" if is_bare else alias.asname or alias.name] = "mindspore" if is_bare else full
    return names


def dotted_uses(tree):
    """Returns line and full name of each use of an attribute of MindSpore, such as mindspore.ops.Add."""
    names, uses = mindspore_names(tree), []
    for node in ast.walk(tree):
        parts, inner = [], node
        while isinstance(inner, ast.Attribute):
            parts, inner = [inner.attr, *parts], inner.value
        if parts and isinstance(inner, ast.Name) and inner.id in names:
            uses.append((node.lineno, ".".join([names[inner.id], *parts])))
    return uses


def python_problems(name, files):
    """Returns line and text of everything that is wrong with the imports of a file."""
    tree = ast.parse(files[name], str(name))
    imports = [(node.lineno, module) for node in ast.walk(tree) for module in absolute_imports(node)]
    for line, module in imports:
        if module.split(".")[0] not in ALLOWED:
            yield line, f"imports {module}, which is neither standard library nor in THIRD_PARTY"
    for line, full in {*imports, *dotted_uses(tree)}:
        if re.match(r"mindspore\b.*\._(?!\w*__\b)", full):
            yield line, f"uses {full}, which is private"
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield from ((node.lineno, problem) for problem in relative_problems(node, name, files))


def problems(files):
    """Returns everything that is wrong with the shared files, one line each."""
    found = []
    for name, text in files.items():
        for number, line in enumerate(text.splitlines(), 1):
            found += [f"{name}:{number}: names the model {model}" for model in MODEL_NAMES.findall(line)]
        if name.suffix == ".py":
            found += [f"{name}:{line}: {problem}" for line, problem in sorted(python_problems(name, files))]
    return found


def test_the_shared_files_know_no_model_and_import_only_what_they_may():
    files = texts(UTILS)
    assert {name.parts[0] for name in files} == set(SHARED)
    assert problems(files) == []


# ---- Each of these rules finds what it is there for


FILES = {
    Path("model_utils/__init__.py"): "VERSION = 1\n",
    **{Path("model_utils", name): "" for name in ("config.py", "classification/__init__.py", "classification/loss.py")},
}
FOREIGN = "imports {}, which is neither standard library nor in THIRD_PARTY"
ABOVE = "leaves model_utils; take what it needs as an argument"
MISSING, PRIVATE, NAMED = "finds no {}", "uses {}, which is private", "names the model {}"
CONFIG, INFER = "model_utils/config.py", "model_utils/classification/infer.py"


@pytest.mark.parametrize(
    ("name", "text", "problem", "what"),
    [
        (CONFIG, "# fine\n# as DarkNet53_x does\n", NAMED, "DarkNet53"),
        ("launchers/common.sh", "#\n# tinynet\n", NAMED, "tinynet"),
        ("cpp_infer/README.md", "\nfor yolov3_x", NAMED, "yolov3"),
        (CONFIG, "import os, sklearn.svm as svm\n", FOREIGN, "sklearn.svm"),
        (INFER, "from matplotlib import pyplot\n", FOREIGN, "matplotlib.pyplot"),
        (CONFIG, "if True:\n    import cv2", FOREIGN, "cv2"),
        (CONFIG, "import importlib\nm = importlib.import_module('cv2')\n", FOREIGN, "cv2"),
        (CONFIG, "m = __import__('cv2')\n", FOREIGN, "cv2"),
        (CONFIG, "from src import recipe\n", FOREIGN, "src.recipe"),
        (CONFIG, "def f():\n    import recipe\n", FOREIGN, "recipe"),
        (CONFIG, "from model_utils import config\n", FOREIGN, "model_utils.config"),
        (CONFIG, "def f():\n    from ..model_utils import config\n", ABOVE, ""),
        (INFER, "from ...recipe import MODEL\n", ABOVE, ""),
        ("launchers/watch.py", "from . import x\n", ABOVE, ""),
        (CONFIG, "from .gone import x\n", MISSING, "model_utils.gone.x"),
        (CONFIG, "from .classification import gone\n", MISSING, "model_utils.classification.gone"),
        (CONFIG, "from .config.deep import x\n", MISSING, "model_utils.config.deep.x"),
        (INFER, "def f():\n    from ..loss import x\n", MISSING, "model_utils.loss.x"),
        (CONFIG, "from mindspore._checkparam import Validator\n", PRIVATE, "mindspore._checkparam.Validator"),
        (CONFIG, "import mindspore.ops._primitive_cache\n", PRIVATE, "mindspore.ops._primitive_cache"),
        (CONFIG, "import mindspore as ms\nx = ms._c_expression\n", PRIVATE, "mindspore._c_expression"),
        (CONFIG, "from mindspore import ops as P\ny = P._op(1)\n", PRIVATE, "mindspore.ops._op"),
        (CONFIG, "import mindspore.nn\ny = mindspore.nn._x\n", PRIVATE, "mindspore.nn._x"),
    ],
)
def test_a_problem_is_found(name, text, problem, what):
    assert problems({**FILES, Path(name): text}) == [f"{name}:{len(text.splitlines())}: {problem.format(what)}"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (CONFIG, "from __future__ import annotations\nimport _thread, zoneinfo, math, xml.etree.ElementTree\n"),
        (CONFIG, "import mindspore.dataset as ds\ndef f():\n    from safetensors.numpy import load_file\n"),
        (CONFIG, "import mindspore as ms\nprint(ms.__version__)\nclass A(ms.nn.Cell):\n    b = _private = 1\n"),
        (CONFIG, "from . import VERSION, classification, config\nfrom .classification.loss import x\n"),
        (INFER, "from ..config import x\nfrom .. import VERSION, config\nfrom . import loss\n"),
    ],
)
def test_allowed_imports_pass(name, text):
    assert problems({**FILES, Path(name): text}) == []


def test_every_file_is_read_but_none_that_python_or_a_build_wrote(tmp_path):
    names = ["model_utils/deep/a.py", "launchers/.hidden", "cpp_infer/src/a.cc"]
    for name in [*names, "model_utils/__pycache__/a.pyc", "cpp_infer/out/main", "cpp_infer/build.log", "other/a.py"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert set(texts(tmp_path)) == {Path(name) for name in names}


# ---- The package alone

IMPORT_ALL = """
import importlib, sys
for name in sys.argv[2:]:
    importlib.import_module(name)
own = {name.split(".")[0] for name in sys.modules} & set(sys.argv[1].split(","))
sys.exit(f"imported: {sorted(own)}" if own else 0)
"""


def import_all(package, cwd):
    """Imports every module of a package in a process that finds nothing but its parent directory."""
    paths = [path.relative_to(package.parent).with_suffix("") for path in sorted(package.rglob("*.py"))]
    modules = [".".join(path.parts).replace(".__init__", "") for path in paths]
    environment = {**os.environ, "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", IMPORT_ALL, ",".join(OWN_MODULES), *modules]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def test_every_module_of_the_package_can_be_imported_alone(tmp_path):
    shutil.copytree(UTILS / "model_utils", tmp_path / "alone/zoo", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "elsewhere").mkdir()
    done = import_all(tmp_path / "alone/zoo", tmp_path / "elsewhere")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", OWN_MODULES)
def test_importing_a_module_of_a_folder_is_found(tmp_path, module):
    for name, text in (("zoo/__init__.py", ""), ("zoo/deep/a.py", f"import {module}\n"), (f"{module}.py", "")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert f"imported: ['{module}']" in import_all(tmp_path / "zoo", tmp_path).stderr

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


@pytest.fixture
def files():
    names = ("config.py", "classification/__init__.py", "classification/loss.py", "classification/infer.py")
    return {
        Path("model_utils/__init__.py"): "VERSION = 1\n",
        **{Path("model_utils", name): "" for name in names},
        Path("launchers/common.sh"): "echo\n",
        Path("cpp_infer/README.md"): "The guide.\n",
    }


def found(files, name, text):
    return problems({**files, Path(name): text})


@pytest.mark.parametrize("name", ["model_utils/config.py", "launchers/common.sh", "cpp_infer/README.md"])
@pytest.mark.parametrize("model", ["tinydarknet", "DarkNet53", "CSPDarkNet53", "TinyNet", "yolov3", "Res2Net"])
def test_a_model_name_is_found(files, name, model):
    assert found(files, name, f"# fine\n# as {model}_x does\n") == [f"{name}:2: names the model {model}"]


@pytest.mark.parametrize(
    ("text", "line", "module"),
    [
        ("import cv2\n", 1, "cv2"),
        ("import os, sklearn.svm as svm\n", 1, "sklearn.svm"),
        ("from matplotlib import pyplot\n", 1, "matplotlib.pyplot"),
        ("def f():\n    import pandas\n", 2, "pandas"),
        ("if True:\n    try:\n        import cv2\n    except ImportError:\n        pass\n", 3, "cv2"),
        ("import importlib\nm = importlib.import_module('cv2')\n", 2, "cv2"),
        ("m = __import__('cv2')\n", 1, "cv2"),
        ("from src.dataset import create\n", 1, "src.dataset.create"),
        ("from src import recipe\n", 1, "src.recipe"),
        ("def f():\n    import recipe\n", 2, "recipe"),
        ("import dataset\n", 1, "dataset"),
        ("from train import main\n", 1, "train.main"),
        ("import eval\n", 1, "eval"),
        ("import config\n", 1, "config"),
        ("from model_utils import config\n", 1, "model_utils.config"),
    ],
)
def test_a_foreign_import_is_found(files, text, line, module):
    expected = f":{line}: imports {module}, which is neither standard library nor in THIRD_PARTY"
    for name in ("model_utils/config.py", "model_utils/classification/loss.py"):
        assert found(files, name, text) == [name + expected]


@pytest.mark.parametrize(
    "text",
    [
        "from __future__ import annotations\nimport _thread, zoneinfo, math, xml.etree.ElementTree\n",
        "import numpy as np\nimport yaml\nfrom PIL import Image\nimport mindspore.dataset as ds\n",
        "def f():\n    import moxing, onnx, onnxruntime, torch\n    from safetensors.numpy import load_file\n",
        "import mindspore as ms\nprint(ms.__version__)\nclass A(ms.nn.Cell):\n    _private = 1\n    b = _private\n",
        "from . import VERSION, classification, config\nfrom .classification import loss\nfrom .classification.loss import x\n",
    ],
)
def test_allowed_imports_pass(files, text):
    assert found(files, "model_utils/config.py", text) == []


@pytest.mark.parametrize(
    "text", ["from ..config import x\n", "from .. import VERSION, config\n", "from . import loss\n"]
)
def test_a_file_of_a_sub_package_may_import_what_lies_above_it_in_the_package(files, text):
    assert found(files, "model_utils/classification/infer.py", text) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("model_utils/config.py", "from ..recipe import MODEL\n"),
        ("model_utils/config.py", "from .. import config\n"),
        ("model_utils/config.py", "def f():\n    from ..model_utils import config\n"),
        ("model_utils/classification/infer.py", "from ...recipe import MODEL\n"),
        ("model_utils/classification/__init__.py", "from ... import train\n"),
        ("model_utils/__init__.py", "from ..dataset import create\n"),
        ("launchers/watch.py", "from . import x\n"),
    ],
)
def test_an_import_from_above_the_package_is_found(files, name, text):
    line = len(text.splitlines())
    assert found(files, name, text) == [f"{name}:{line}: leaves model_utils; take what it needs as an argument"]


@pytest.mark.parametrize(
    ("name", "text", "missing"),
    [
        ("config.py", "from .gone import x\n", "model_utils.gone.x"),
        ("config.py", "from . import gone\n", "model_utils.gone"),
        ("config.py", "from .classification import gone\n", "model_utils.classification.gone"),
        ("config.py", "from .config.deep import x\n", "model_utils.config.deep.x"),
        ("classification/infer.py", "from .config import x\n", "model_utils.classification.config.x"),
        ("classification/infer.py", "def f():\n    from ..loss import x\n", "model_utils.loss.x"),
    ],
)
def test_a_relative_import_without_a_file_is_found(files, name, text, missing):
    name, line = f"model_utils/{name}", len(text.splitlines())
    assert found(files, name, text) == [f"{name}:{line}: finds no {missing}"]


@pytest.mark.parametrize(
    ("text", "line", "private"),
    [
        ("from mindspore.ops import _grad\n", 1, "mindspore.ops._grad"),
        ("from mindspore._checkparam import Validator\n", 1, "mindspore._checkparam.Validator"),
        ("import mindspore.ops._primitive_cache\n", 1, "mindspore.ops._primitive_cache"),
        ("import mindspore as ms\nx = ms._c_expression\n", 2, "mindspore._c_expression"),
        ("from mindspore import ops as P\ny = P._op(1)\n", 2, "mindspore.ops._op"),
        ("import mindspore.nn as nn\ny = nn.layer._x\n", 2, "mindspore.nn.layer._x"),
        ("import mindspore.nn\ny = mindspore.nn._x\n", 2, "mindspore.nn._x"),
        ("def f():\n    from mindspore import nn\n    return nn._x\n", 3, "mindspore.nn._x"),
    ],
)
def test_a_private_name_of_mindspore_is_found(files, text, line, private):
    expected = f"model_utils/config.py:{line}: uses {private}, which is private"
    assert found(files, "model_utils/config.py", text) == [expected]


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

"""Exports equal the network on inputs other than the traced one; what cannot be is refused before the work; old files stay."""

from __future__ import annotations

import os
from pathlib import Path

from model_utils import exporting
from model_utils.checkpoint import load, save
from model_utils.errors import DataError, UsageError
from model_utils.exporting import export_checkpoint
from model_utils.inference import description, digest, load_model, load_network
from toy.model import MODEL
from toy.programs import run_export
from toy_runs import command_line, start

import mindspore as ms
import numpy as np
import onnx
import pytest
from mindspore import nn

pytestmark = pytest.mark.usefixtures("programs")
TOLERANCE = 1e-4
NAMES = [f"class {index}" for index in range(10)]
CONFIG = MODEL.read_config([], "")
ACTIVATIONS = ("leaky_relu", "mish", "swish", "relu")
RANGES = {"moving_mean": (0, 0.1), "moving_variance": (0.6, 0.3), "gamma": (1, 0.3), "beta": (0, 0.2)}


def write_weights(folder: Path, activation: str) -> Path:
    """Random weights with statistics as training leaves them."""
    about = description(MODEL, MODEL.read_config(["--activation", activation], ""), NAMES)
    network, random = MODEL.build_network(about["network"]), np.random.RandomState(5)
    for name, parameter in network.parameters_dict().items():
        centre, spread = RANGES.get(name.rpartition(".")[2], (0, 0.5))
        values = random.standard_normal(parameter.shape)
        values = np.abs(values) if centre else values
        parameter.set_data(ms.Tensor(centre + spread * values, ms.float32))
    path = folder / f"{activation}.ckpt"
    save(path, network.parameters_dict(), about)
    return path


@pytest.fixture(scope="module")
def folder(programs, tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def weights(folder) -> Path:
    return write_weights(folder, "leaky_relu")


def export(checkpoint: Path, target: Path, **options) -> None:
    run_export(command_line(checkpoint_path=checkpoint, file_name=target, **options))


def pictures(number: int, seed: int) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal((number, 3, 16, 16)).astype(np.float32)


def agree(result: np.ndarray, expected: np.ndarray) -> bool:
    assert result.shape == expected.shape and result.dtype == np.float32
    return np.abs(result - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    "file_format, fold_bn, batch_size",
    [("MINDIR", False, 1), ("MINDIR", True, 3), ("ONNX", False, 3), ("ONNX", True, 1)],
)
def test_equals_the_network(folder, tmp_path, activation, file_format, fold_bn, batch_size):
    """The traced input is of zeros; these are others, and the outputs differ from picture to picture.

    In an ONNX graph that is folded, each activation is one operator, or with Mish a few.
    """
    checkpoint = write_weights(folder, activation)
    export(checkpoint, tmp_path / "m", file_format=file_format, fold_bn=fold_bn, batch_size=batch_size)
    path, images = tmp_path / f"m.{file_format.lower()}", pictures(batch_size, 11)
    model, about, fixed = load_model(MODEL, path, CONFIG)
    assert fixed == batch_size
    notes = {"file_format": file_format, "batch_size": batch_size, "sha256": digest(path)}
    assert about == {**load(checkpoint)[1], **notes}
    expected = load_network(MODEL, checkpoint, CONFIG)[0](ms.Tensor(images)).asnumpy()
    assert agree(model(images)[0], expected)
    assert not agree(model(pictures(batch_size, 12))[0], expected), "the input does not matter"
    assert batch_size == 1 or not agree(expected[:1], expected[1:2])
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name, f"{path.name}.json"]
    if file_format == "ONNX":
        kinds = [node.op_type for node in onnx.load(str(path)).graph.node]
        assert ("BatchNormalization" in kinds) == (not fold_bn) and kinds.count("Conv") == 2 and "Max" not in kinds
        wanted = {"leaky_relu": "LeakyRelu", "mish": "HardSigmoid"}.get(activation)
        assert wanted is None or kinds.count(wanted) == 2


def test_the_moving_average_is_exported(toy_state, tmp_path):
    found = []
    for use_ema in (False, True):
        export(toy_state, tmp_path / "m", use_ema=use_ema)
        found.append(load_model(MODEL, tmp_path / "m.mindir", CONFIG)[0](pictures(1, 3))[0])
    network, _ = load_network(MODEL, toy_state, CONFIG, use_ema=True)
    assert agree(found[1], network(ms.Tensor(pictures(1, 3))).asnumpy()) and not agree(*found)


def test_names(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_export(["--checkpoint_path", str(weights)])
    export(weights, tmp_path / "m.onnx", file_format="ONNX")
    assert sorted(os.listdir()) == ["m.onnx", "m.onnx.json", "toy.mindir", "toy.mindir.json"]


def test_a_network_that_is_prepared(weights, tmp_path):
    """What `prepare` makes of the network is exported, in evaluation mode; it may change the description."""

    class Doubled(nn.Cell):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def construct(self, images):
            return 2 * self.network(images)

    def prepare(network, about):
        assert not network.training
        about["outputs"] = "doubled"
        return Doubled(network).set_train()

    config, images = MODEL.read_config(["--fold_bn", "true"], ""), pictures(1, 4)
    path = export_checkpoint(MODEL, config, str(weights), str(tmp_path / "m"), 1, prepare)
    model, about, _ = load_model(MODEL, path, config)
    network, _ = load_network(MODEL, weights, config)
    assert path == tmp_path / "m.mindir" and about["outputs"] == "doubled"
    assert agree(model(images)[0], 2 * network(ms.Tensor(images)).asnumpy())


def test_dry_run(weights, tmp_path):
    config = MODEL.read_config(["--dry_run"], "")
    assert export_checkpoint(MODEL, config, str(weights), str(tmp_path / "m"), 1) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file_format", ["MINDIR", "ONNX"])
@pytest.mark.parametrize("error", [RuntimeError("no space left\nlong"), ValueError("no operator"), OSError(28, "full")])
def test_a_failed_export_keeps_the_old_file(weights, tmp_path, monkeypatch, file_format, error):
    ending = file_format.lower()
    old = {f"m.{ending}": "old", f"m.{ending}.json": "old"}
    for name, text in old.items():
        (tmp_path / name).write_text(text)

    def fail(*_args, file_name, **_options):
        Path(f"{file_name}.{ending}").write_text("half")
        raise error

    monkeypatch.setattr(exporting.ms, "export", fail)
    monkeypatch.setattr(exporting.ms.onnx, "export", fail)
    with pytest.raises(DataError, match=rf"m\.{ending} cannot be written: .*(no space left|no operator|full)$"):
        export(weights, tmp_path / "m", file_format=file_format)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == old


ODD_NAMES = [
    "my model", "model (2)", "[v1]+{final}", "c++ & co", "模型", "über/größe 2", "a'b\"c", "50%_#1", "ünï ✓/名前 (1)/m", "-m",
    "a,b;c=d", "~x", "*",
    "new\nline",
]  # fmt: skip


@pytest.mark.parametrize("file_format, name", [("MINDIR", ODD_NAMES[8]), *(("ONNX", name) for name in ODD_NAMES)])
def test_every_name_that_the_file_system_takes(weights, tmp_path, monkeypatch, name, file_format):
    """The framework takes plain letters only, also in the names of the folders above."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(exporting.tempfile, "tempdir", None)
    target = tmp_path / "out" / f"{name}.{file_format.lower()}"
    for folder in (target.parent, tmp_path / "tmp"):
        folder.mkdir(parents=True)
    export(weights, target.with_suffix(""), file_format=file_format)
    assert sorted(target.parent.iterdir()) == sorted([target, target.with_name(target.name + ".json")])
    assert list((tmp_path / "tmp").iterdir()) == []
    model, about, _ = load_model(MODEL, target, MODEL.read_config([], ""))
    network, _ = load_network(MODEL, weights, MODEL.read_config([], ""))
    assert about["class_names"] == NAMES
    assert agree(model(pictures(1, 4))[0], network(ms.Tensor(pictures(1, 4))).asnumpy())


@pytest.mark.parametrize(
    "mask, folder_mode, name", [(0o002, 0o2775, "plain"), (0o022, 0o777, "名 前"), (0o077, 0o750, "plain")]
)
def test_modes_follow_the_umask_and_the_folder_keeps_its_own(weights, tmp_path, mask, folder_mode, name):
    target = tmp_path / "shared"
    target.mkdir()
    target.chmod(folder_mode)
    before = os.umask(mask)
    try:
        for file_format in ("MINDIR", "ONNX"):
            export(weights, target / name, file_format=file_format)
    finally:
        os.umask(before)
    assert target.stat().st_mode & 0o7777 == folder_mode
    assert {path.stat().st_mode & 0o777 for path in target.iterdir()} == {0o666 & ~mask}
    assert len(list(target.iterdir())) == 4


@pytest.mark.parametrize("name", ["plain", "名 前/m (1)"])
def test_a_failed_export_leaves_nothing(weights, tmp_path, monkeypatch, name):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(exporting.tempfile, "tempdir", None)
    target = tmp_path / "out" / name
    for folder in (target.parent, tmp_path / "tmp"):
        folder.mkdir(parents=True)

    def fail(*_args, file_name, **_options):
        Path(f"{file_name}.mindir").write_text("half")
        Path(f"{file_name}_variables").mkdir()
        raise RuntimeError("no operator")

    monkeypatch.setattr(exporting.ms, "export", fail)
    with pytest.raises(DataError, match="cannot be written: no operator"):
        export(weights, target)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert list((tmp_path / "tmp").iterdir()) == [] == list(target.parent.iterdir())


def test_names_that_are_no_text(weights, tmp_path):
    """They could be written, and never be read again."""
    with pytest.raises(DataError, match=r"file_name=.*caf\\udce9.mindir' is no name in UTF-8.*rename it"):
        export(weights, tmp_path / "caf\udce9")
    assert not list(tmp_path.iterdir())
    for name in ("caf\udce9.mindir", "caf\udce9.onnx", "caf\udce9.ckpt"):
        (tmp_path / name).write_bytes(weights.read_bytes())
        with pytest.raises(DataError, match="is no name in UTF-8"):
            load_model(MODEL, tmp_path / name, MODEL.read_config([], ""))


def test_no_plain_folder_to_export_in(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "名"))
    monkeypatch.setattr(exporting.tempfile, "tempdir", None)
    for name in ("名", "out put"):
        (tmp_path / name).mkdir()
    with pytest.raises(
        DataError, match="m.mindir cannot be written: neither .* is a path of plain letters; set TMPDIR"
    ):
        export(weights, tmp_path / "out put/m")


def test_an_onnx_file_that_the_checker_refuses(weights, tmp_path, monkeypatch):
    """Also a fault of the rewriting leaves nothing behind."""

    def fail(_):
        raise ImportError("No module named 'onnx'")

    monkeypatch.setattr("model_utils.onnx_graph.simplify", fail)
    with pytest.raises(DataError, match="m.onnx cannot be written: No module named 'onnx'"):
        export(weights, tmp_path / "m", file_format="ONNX")
    assert not list(tmp_path.iterdir())


def test_onnx_with_and_without_a_function_of_its_own(weights, tmp_path, monkeypatch):
    """`mindspore.export` will lose the format; it is asked only where there is no other, as in MindSpore 2.7.0."""
    calls, modern = [], exporting.ms.onnx.export

    def old_export(network, *inputs, file_name, file_format):
        calls.append(file_format)
        modern(network, *inputs, file_name=file_name)

    monkeypatch.setattr(exporting.ms, "export", old_export)
    export(weights, tmp_path / "m", file_format="ONNX")
    assert calls == []
    monkeypatch.delattr(exporting.ms, "onnx")
    export(weights, tmp_path / "n", file_format="ONNX")
    images = pictures(1, 6)
    new, old = (load_model(MODEL, tmp_path / f"{name}.onnx", CONFIG)[0](images)[0] for name in "mn")
    assert calls == ["ONNX"] and np.array_equal(new, old)


def test_no_function_that_the_framework_warns_of(weights, tmp_path):
    """As a process with the framework's warnings; the line that it prints names the file."""
    options = command_line(checkpoint_path=weights, file_name=tmp_path / "m", file_format="ONNX", fold_bn=True)
    process = start("export", *options, GLOG_v="2")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and f"exported: {tmp_path}/m.onnx\n" in output, output
    assert "deprecat" not in output.lower() and "WARNING" not in output


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"file_format": "AIR"}, UsageError, "AIR is written on Ascend only; give MINDIR or ONNX"),
        ({"batch_size": 0}, UsageError, "batch_size=0: 1 or more is accepted"),
        ({"file_name": "none/m"}, DataError, "none/m.mindir cannot be written in .*; give a file name"),
        ({"file_name": "folder"}, DataError, "folder.mindir is a folder"),
        ({"file_name": "file/m"}, DataError, "cannot be written in .*file"),
        ({"checkpoint_path": "none.ckpt"}, DataError, "none.ckpt is not a file"),
        ({"num_classes": 12}, UsageError, "--num_classes 12 contradicts"),
        ({"use_ema": True}, DataError, "no moving average"),
    ],
)
def test_refusals(weights, tmp_path, monkeypatch, options, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.mindir").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(exporting, "export", lambda *_: pytest.fail("it was begun"))
    with pytest.raises(error, match=message):
        run_export(command_line(**{"checkpoint_path": weights, "file_name": "m", **options}))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder.mindir"]

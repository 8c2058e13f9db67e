"""Weights of other frameworks: every weight filled, nothing left over, bad files refused, nothing written then."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

from model_utils import checkpoint, weights
from model_utils.errors import DataError, UsageError
from model_utils.inference import load_network
from toy.model import MODEL

import mindspore as ms
import numpy as np
import pytest
from safetensors.numpy import save_file

pytestmark = pytest.mark.usefixtures("programs")
NETWORK = {"name": "toy", "width": 4, "activation": "leaky_relu"}
INPUT = weights.input_description(32, 0.9, "bicubic")
BODY = [(4, 3), (8, 4)]  # output and input channels of the 3x3 convolutions
BODY_NUMBERS, NUMBERS_OF_A_CLASS = sum(4 * n + 9 * n * m for n, m in BODY), 9
ZOO_NAME = r"^(network\.)?conv0\.0\."


# ---- A converter for the toy model -----------------------------------------------------------------------------------


def darknet(path: Path, may_lack_head: bool = False):
    found, classes = weights.read_darknet(
        MODEL, path, NETWORK, ["stem", "body"], ["fc.bias", "fc.weight"], "toy.cfg", may_lack_head=may_lack_head
    )
    return found, {"network": {**NETWORK, "num_classes": classes}, "input": weights.darknet_input(24)}


def state(path: Path):
    found = {weights.torch_name(name): value for name, value in weights.read_state(path).items()}
    classes = weights.class_count(found, "fc.weight")
    return found, {"network": {**NETWORK, "num_classes": classes}, "input": INPUT}


READERS = {
    ".weights": lambda path: darknet(path, ".conv." in path.name),
    ".ckpt": lambda path: weights.refuse_checkpoint(path, ZOO_NAME),
    **{ending: state for ending in (".pth", ".pt", ".safetensors")},
}


def options(*arguments):
    return weights.argument_parser("").parse_args([*map(str, arguments)])


def convert(source: Path, *more) -> tuple[dict[str, np.ndarray], dict]:
    """What is in the checkpoint that is written."""
    target = source.parent / "converted.ckpt"
    weights.convert(MODEL, options("--input", source, "--output", target, *more), READERS)
    parameters, about = checkpoint.load(target)
    target.unlink()
    return {name: value.asnumpy() for name, value in parameters.items()}, about


def refused(source: Path, *more, error=DataError) -> str:
    """The message with which a file is refused; no file is written."""
    before = sorted(source.parent.iterdir())
    with pytest.raises(error) as caught:
        convert(source, *more)
    assert sorted(source.parent.iterdir()) == before
    message = str(caught.value)
    assert "\n" not in message and (source.name in message or error is UsageError)
    return message


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def body(found: dict) -> dict:
    return {name: value for name, value in found.items() if not name.startswith("fc.")}


def write(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(parts))
    return path


# ---- Files ---------------------------------------------------------------------------------------------------------


def header(version=(0, 2, 0), seen: int = 8) -> bytes:
    return struct.pack("<iii", *version) + bytes(seen)


def numbers(classes: int) -> np.ndarray:
    """All numbers of a darknet file, each another one; variances and all else above 0."""
    return np.arange(1, 1 + BODY_NUMBERS + NUMBERS_OF_A_CLASS * classes, dtype="<f4") / 64


def by_hand(values: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """The numbers by the toy's names: for each convolution beta, gamma, mean, variance, weights; then the classifier."""
    found, used = {}, 0

    def take(name: str, *shape: int) -> None:
        nonlocal used
        size = int(np.prod(shape))
        found[name], used = values[used : used + size].reshape(shape), used + size

    for cell, (n, m) in zip(("stem", "body"), BODY):
        for leaf in ("beta", "gamma", "moving_mean", "moving_variance"):
            take(f"{cell}.bn.{leaf}", n)
        take(f"{cell}.conv.weight", n, m, 3, 3)
    if classes:
        take("fc.bias", classes)
        take("fc.weight", classes, 8)
    assert used == len(values)
    return found


def torch_state(classes: int = 6) -> dict[str, np.ndarray]:
    """The same numbers by PyTorch's names."""
    leaves = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    found = {"stem.bn.num_batches_tracked": np.zeros((), np.int64)}
    for name, value in by_hand(numbers(classes), classes).items():
        stem, _, leaf = name.rpartition(".")
        found[f"{stem}.{leaves.get(leaf, leaf)}"] = value
    return found


@pytest.fixture
def torch(monkeypatch):
    """PyTorch, or a stand-in where it is not installed."""
    try:
        import torch
    except ImportError:
        import fake_torch as torch

        monkeypatch.setitem(sys.modules, "torch", torch)
    return torch


@pytest.fixture
def safetensors(tmp_path):
    """A function that writes them with changes; None removes an entry."""

    def write_file(**changes) -> Path:
        changed = {**torch_state(), **{name.replace("__", "."): value for name, value in changes.items()}}
        save_file({n: np.array(v) for n, v in changed.items() if v is not None}, tmp_path / "x.safetensors")
        return tmp_path / "x.safetensors"

    return write_file


# ---- Darknet ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version, seen", [((0, 2, 0), 8), ((1, 0, 0), 8), ((0, 1, 0), 4)])
def test_both_headers_of_darknet(tmp_path, version, seen, capsys):
    """From version 0.2 on, the number of images seen takes 8 bytes; the class count follows from the length."""
    source = write(tmp_path / "toy.weights", header(version, seen), numbers(5).tobytes())
    found, about = convert(source)
    assert same(found, by_hand(numbers(5), 5))
    assert about == {
        "network": {**NETWORK, "num_classes": 5},
        "input": {"height": 24, "width": 24, "resize": "shorter_side", "crop_ratio": 1.0, "interpolation": "bilinear",
                  "mean": [0, 0, 0], "std": [1, 1, 1]},
        "class_names": None, "source": "toy.weights",
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "notice: darknet orders the ImageNet classes" in printed and f"12 weights of {source} -> " in printed


def test_a_file_without_classifier(tmp_path, capsys):
    """NAME.conv.N ends before it; the classifier is random, but the same each time."""
    source = write(tmp_path / "toy.conv.2", header(), numbers(0).tobytes())
    assert "toy.conv.2 holds no classifier; give --num_classes N" in refused(source)
    first, about = convert(source, "--num_classes", 10)
    assert "notice" not in capsys.readouterr().out and about["network"]["num_classes"] == 10
    ms.set_seed(99)
    assert same(convert(source, "--num_classes", 10)[0], first) and np.unique(first["fc.weight"]).size > 70
    assert same(body(first), by_hand(numbers(0), 0)) and first["fc.weight"].shape == (10, 8)
    message = refused(write(source, header(), numbers(0).tobytes()[:-4]), "--num_classes", 10)
    assert f"has {16 + 4 * BODY_NUMBERS} bytes" in message and f"without its classifier {4 * BODY_NUMBERS}" in message
    whole = write(tmp_path / "toy.weights", header(), numbers(0).tobytes())
    assert "truncated or belongs to another network" in refused(whole), "a whole file has a classifier"


@pytest.mark.parametrize("change", [-1, 4, -4 * BODY_NUMBERS, 4 * NUMBERS_OF_A_CLASS - 4])
def test_length_of_another_network(tmp_path, change):
    data = header() + numbers(1000).tobytes() + bytes(max(change, 0))
    data = data[: len(data) + min(change, 0)]
    message = refused(write(tmp_path / "x.weights", data))
    assert f"x.weights has {len(data)} bytes: 20 of header and {len(data) - 20} of weights" in message
    assert f"toy.cfg with C classes has {4 * BODY_NUMBERS} + 36 C (1000 classes: {4 * BODY_NUMBERS + 36000})" in message


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "has 0 bytes"),
        (header(seen=4)[:-1], "has 15 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\n" * 9, "no darknet weights file"),
        (header((0, 1001, 0)) + bytes(100), "starts with version 0.1001"),
        (header((-1, 2, 0)) + bytes(100), "starts with version -1.2"),
        (header() + (-numbers(5)).tobytes(), "stem.bn.moving_variance has values that are not finite, or negative"),
    ],
)
def test_no_darknet_file(tmp_path, data, message):
    assert message in refused(write(tmp_path / "x.weights", data))


# ---- PyTorch ---------------------------------------------------------------------------------------------------------


def test_safetensors(safetensors):
    """Half precision becomes float32."""
    half = torch_state()["fc.weight"].astype(np.float16)
    found, about = convert(safetensors(fc__weight=half))
    assert same(found, by_hand(numbers(6), 6)) and found["fc.weight"].dtype == np.float32
    assert about["input"] == INPUT and about["source"] == "x.safetensors"
    assert INPUT["mean"] == [0.485, 0.456, 0.406] and INPUT["std"] == [0.229, 0.224, 0.225]
    assert INPUT["height"] == 32 and INPUT["crop_ratio"] == 0.9


def test_pth(tmp_path, torch):
    """PyTorch's own format, as it is and as a training writes it: inside state_dict, each name behind module."""
    plain = {key: torch.from_numpy(np.array(value)) for key, value in torch_state().items()}
    wrapped = {"state_dict": {f"module.{key}": value for key, value in plain.items()}, "epoch": 3}
    for name, content in (("x.pt", plain), ("x.pth", wrapped)):
        torch.save(content, tmp_path / name)
        assert same(convert(tmp_path / name)[0], by_hand(numbers(6), 6))
        write(tmp_path / name, (tmp_path / name).read_bytes()[:-100])
        assert "is not a sound PyTorch file" in refused(tmp_path / name)


def test_new_head(safetensors):
    """Another class count leaves everything but the classifier; the weights may also lack theirs."""
    found, about = convert(safetensors(), "--num_classes", 3)
    assert found["fc.weight"].shape == (3, 8) and about["network"]["num_classes"] == 3
    assert same(body(found), by_hand(numbers(0), 0))
    source = safetensors(fc__weight=None, fc__bias=None)
    assert "--num_classes N" in refused(source)
    assert same(convert(source, "--num_classes", 3)[0], found)
    assert same(convert(safetensors(), "--num_classes", 6)[0], by_hand(numbers(6), 6)), "the same count is no new head"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"stem__bn__bias": None}, "does not fit toy: stem.bn.beta is missing"),
        ({"stem__bn__bias": None, "stem__bn__weight": None}, "is missing (and 1 more)"),
        ({"extra__weight": np.zeros(3, "f")}, "extra.weight is left over"),
        ({"a__bn__other": np.zeros(3, "f")}, "a.bn.other is left over"),
        ({"stem__conv__weight": np.zeros((), "f")}, "stem.conv.weight has shape (), the network"),
        ({"fc__bias": np.zeros(7, "f")}, "fc.bias has shape (7,)"),
        ({"fc__weight": np.zeros((), "f")}, "holds no classifier"),
        ({"fc__bias": np.full(6, np.nan, "f")}, "fc.bias has values that are not finite"),
        ({"body__bn__running_var": np.full(8, -1, "f")}, "body.bn.moving_variance has values"),
    ],
)
def test_faults_of_a_state_dictionary(safetensors, changes, message):
    assert message in refused(safetensors(**changes))


# ---- Any file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "x.pt", "x.ckpt"])
def test_unsound_files(tmp_path, safetensors, name, torch):
    for data in (b"", b"no weights\n" * 20):
        assert "sound" in (message := refused(write(tmp_path / name, data))) or "damaged" in message
    source = safetensors()
    assert "is not a sound safetensors file" in refused(write(source, source.read_bytes()[:-100]))


def test_no_state_dictionary(tmp_path, torch):
    for content in ([torch.zeros(3)], {"epoch": 3, "model": {}}, torch.zeros(3), {"state_dict": [1]}):
        torch.save(content, tmp_path / "x.pth")
        assert "holds no state dictionary" in refused(tmp_path / "x.pth")


@pytest.mark.parametrize(("module", "name"), [("torch", "x.pth"), ("safetensors.numpy", "x.safetensors")])
def test_reader_that_is_not_installed(monkeypatch, tmp_path, module, name):
    monkeypatch.setitem(sys.modules, module, None)
    assert "pip install" in refused(write(tmp_path / name, b"1"))


def test_checkpoints(tmp_path):
    """Those of the older model zoo are read, or refused by their names; this project's need no conversion."""
    source, value = tmp_path / "x.ckpt", ms.Tensor(np.ones((2, 3), np.float32))
    for name in ("conv0.0.weight", "network.conv0.0.weight"):
        ms.save_checkpoint([{"name": name, "data": value}], str(source))
        message = refused(source)
        assert "older model zoo and cannot be converted" in message and "pad_mode same" in message
        assert same(weights.read_checkpoint(source), {"conv0.0.weight": np.ones((2, 3), np.float32)})
    ms.save_checkpoint([{"name": "stem.conv.weight", "data": value}], str(source))
    assert "holds no weights of another framework" in refused(source)
    checkpoint.save(source, {"stem.conv.weight": value}, {"network": {"name": "toy"}})
    assert "checkpoint of this project already" in refused(source)


def test_wrong_input_and_output(safetensors, tmp_path):
    assert "is not a file; give a file that ends in .ckpt" in refused(tmp_path / "missing.weights")
    assert ".ckpt, .pt, .pth, .safetensors, .weights" in refused(write(tmp_path / "x.onnx"), error=UsageError)
    assert "num_classes=-1: 1 or more" in refused(safetensors(), "--num_classes", -1, error=UsageError)
    assert "output=x.bin: the ending .ckpt" in refused(safetensors(), "--output", "x.bin", error=UsageError)


# ---- Names of the classes --------------------------------------------------------------------------------------------


def test_class_names(safetensors, tmp_path, capsys):
    """As the file has them: 007 and no are names too. Darknet's notice is for weights without names."""
    names = tmp_path / "names.yaml"
    names.write_text("- n01440764\n- 007\n- no\n")
    source = write(tmp_path / "toy.weights", header(), numbers(3).tobytes())
    assert convert(source, "--class_names", names)[1]["class_names"] == ["n01440764", "007", "no"]
    assert "notice" not in capsys.readouterr().out
    assert "has 3 names: 6 names are needed" in refused(safetensors(), "--class_names", names, error=UsageError)


@pytest.mark.parametrize("text", ["a: b\n", "- [cat]\n", "", "- [cat\n", "- \xff\n", None])
def test_wrong_class_names(safetensors, tmp_path, text):
    names = tmp_path / "names.yaml"
    if text is not None:
        names.write_text(text, encoding="latin-1")
    is_yaml = text in ("a: b\n", "- [cat]\n", "")
    message = refused(safetensors(), "--class_names", names, error=UsageError)
    assert ("lines such as" if is_yaml else "cannot be read as YAML") in message


def test_a_map_of_names(tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text("features.1: conv2\n1: 007\n")
    assert weights.read_yaml(str(path), "name_map", dict) == {"features.1": "conv2", "1": "007"}
    assert weights.read_yaml(None, "name_map", dict) is None
    path.write_text("- a\n")
    with pytest.raises(UsageError, match='name_map=.*"OLD: NEW"'):
        weights.read_yaml(str(path), "name_map", dict)


def test_a_converted_checkpoint_is_read_by_all_programs(tmp_path):
    """Its network and input are those of the weights, whatever the recipe's are."""
    source, target = write(tmp_path / "toy.weights", header(), numbers(5).tobytes()), tmp_path / "t.ckpt"
    weights.convert(MODEL, options("--input", source, "--output", target), READERS)
    network, about = load_network(MODEL, target, MODEL.read_config([], ""))
    assert about["network"]["num_classes"] == 5 and about["input"]["std"] == [1, 1, 1]
    assert same({n: p.asnumpy() for n, p in network.parameters_dict().items()}, by_hand(numbers(5), 5))

"""Conversion of foreign weights: names and order of this network, what is stored with them, what is refused.

How files are read is tested at its source, in tests/ of the repository; that the converted weights compute what the originals
compute, in test_network.py.
"""

import hashlib
import shutil

import convert_checkpoint
import oracle
from src.model_utils import checkpoint
from src.model_utils import weights as foreign
from src.model_utils.errors import DataError, UsageError

import mindspore as ms
import numpy as np
import pytest
from safetensors.numpy import save_file

HEAD_BYTES = 4 * 1000 * 1025
BODY_BYTES = oracle.DARKNET["weights_file"]["bytes"] - 20 - HEAD_BYTES
ZOO_NAMES = ["conv0.0.weight", "network.layer3.7.conv2.1.moving_mean"]
OTHER_NETWORKS = {"csdarknet53-omega": 110710068, "tiny": 4185972, "yolov3": 248007048}  # bytes of their files


@pytest.fixture
def folder(tmp_path):
    """A folder for large files, removed at once."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def numbers():
    return oracle.darknet_numbers()


def convert(source, *options):
    target = source.parent / "converted.ckpt"
    convert_checkpoint.main(["--input", str(source), "--output", str(target), *map(str, options)])
    parameters, about = checkpoint.load(target)
    target.unlink()
    return {name: value.asnumpy() for name, value in parameters.items()}, about


def refused(source, *options, error=DataError) -> str:
    """The message with which a file is refused; no file is written."""
    before = sorted(source.parent.iterdir())
    with pytest.raises(error) as caught:
        convert(source, *options)
    assert sorted(source.parent.iterdir()) == before
    return str(caught.value)


def write(path, *parts: bytes):
    path.write_bytes(b"".join(parts))
    return path


def sparse(path, size: int):
    """A .weights file of this length: a header and zeros."""
    write(path, oracle.darknet_header())
    with open(path, "r+b") as file:
        file.truncate(size)
    return path


def test_darknet(folder, numbers):
    expected = oracle.DARKNET["weights_file"]
    source = write(folder / "d.weights", oracle.darknet_header(), numbers)
    assert source.stat().st_size == expected["bytes"]
    assert hashlib.sha256(source.read_bytes()).hexdigest() == expected["sha256"]
    weights, about = convert(source)
    assert sum(value.size for value in weights.values()) == oracle.DARKNET["param_count"]
    assert about == {
        "network": {
            "name": "darknet53", "num_classes": 1000, "activation": "leaky_relu", "negative_slope": 0.1, "bn_eps": 1e-5,
        },
        "input": {
            "height": 256, "width": 256, "resize": "shorter_side", "crop_ratio": 1.0, "interpolation": "bilinear",
            "mean": [0, 0, 0], "std": [1, 1, 1],
        },
        "class_names": None,
        "source": "d.weights",
    }  # fmt: skip


def test_file_without_classifier(folder, numbers):
    """darknet53.conv.74: 52 convolutions; the classifier is random."""
    source = write(folder / "darknet53.conv.74", oracle.darknet_header(), numbers[:BODY_BYTES])
    assert source.stat().st_size == 162482580
    assert "--num_classes" in refused(source)
    weights, about = convert(source, "--num_classes", 10)
    assert about["network"]["num_classes"] == 10 and weights["fc.weight"].shape == (10, 1024)
    assert weights["layer5.3.conv2.conv.weight"].ravel()[-1] == np.frombuffer(numbers[BODY_BYTES - 4 :][:4], "<f4")
    message = refused(sparse(folder / "cut.conv.74", 162482580 - 4), "--num_classes", 10)
    assert "has 162482576 bytes" in message and "without its classifier 162482560" in message


def test_class_count_follows_from_the_length(folder):
    weights, about = convert_checkpoint.read_darknet(sparse(folder / "x.weights", 20 + BODY_BYTES + 4 * 1025 * 37))
    assert about["network"]["num_classes"] == 37
    assert weights["fc.bias"].shape == (37,) and weights["fc.weight"].shape == (37, 1024)


@pytest.mark.parametrize("size", [*OTHER_NETWORKS.values(), 20 + BODY_BYTES + HEAD_BYTES - 4])
def test_length_of_another_network(folder, size):
    message = refused(sparse(folder / "x.weights", size))
    assert f"has {size} bytes" in message and "darknet53.cfg with C classes has" in message


def test_timm(folder):
    state = oracle.timm_state()
    save_file(state, folder / "timm.safetensors")
    weights, about = convert(folder / "timm.safetensors")
    assert sum(value.size for value in weights.values()) == 41609928 + 35712
    network = {
        "name": "darknet53",
        "num_classes": 1000,
        "activation": "leaky_relu",
        "negative_slope": 0.01,
        "bn_eps": 1e-5,
    }
    assert about["network"] == network and about["class_names"] is None
    assert about["input"] == {
        "height": 256, "width": 256, "resize": "shorter_side", "crop_ratio": 0.887, "interpolation": "bicubic",
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
    }  # fmt: skip
    published = oracle.TIMM["pretrained_cfg"]
    assert (published["crop_pct"], published["interpolation"]) == (0.887, about["input"]["interpolation"])
    for ours, theirs in {
        "conv0.bn.beta": "stem.conv1.bn.bias",
        "conv3.conv.weight": "stages.2.conv_down.conv.weight",
        "layer5.3.conv2.bn.moving_variance": "stages.4.blocks.3.conv2.bn.running_var",
        "fc.bias": "head.fc.bias",
    }.items():
        np.testing.assert_array_equal(weights[ours], state[theirs], err_msg=ours)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages.3.conv_down.bn.bias": None}, "does not fit darknet53: conv4.bn.beta is missing"),
        ({"stages.5.conv_down.bn.bias": np.zeros(3)}, "conv6.bn.beta is left over"),
        ({"stem.conv1.conv.weight": np.zeros((32, 3, 5, 5))}, "conv0.conv.weight has shape (32, 3, 5, 5), the network"),
        ({"head.fc.weight": np.zeros(())}, "holds no classifier"),
        ({"stem.conv1.bn.running_var": np.full(32, -1.0)}, "conv0.bn.moving_variance has values"),
    ],
)
def test_faults_of_a_state_dictionary(monkeypatch, tmp_path, changes, message):
    """A state dictionary of zeros with changes; None removes an entry."""
    zeros = {name: np.zeros(shape, np.float32) for name, shape, *_ in oracle.TIMM["state_dict"]}
    state = {name: value for name, value in {**zeros, **changes}.items() if value is not None}
    monkeypatch.setattr(foreign, "read_state", lambda path, part: state)
    assert message in refused(write(tmp_path / "x.safetensors"))


def test_state_dictionary_of_another_network(tmp_path):
    """timm's cspdarknet53 has stages too."""
    state = {"stages.0.conv_exp.conv.weight": np.zeros((128, 64, 1, 1), np.float32), "head.fc.bias": np.zeros(4, "f")}
    save_file({**state, "head.fc.weight": np.zeros((4, 1024), np.float32)}, tmp_path / "csp.safetensors")
    message = refused(tmp_path / "csp.safetensors")
    assert "csp.safetensors does not fit darknet53: conv0.conv.weight is missing (and" in message


def test_checkpoints_are_refused(tmp_path):
    """Those of the older model zoo, as its network pads in another way; this project's need no conversion."""
    source = tmp_path / "x.ckpt"
    for name in ZOO_NAMES:
        ms.save_checkpoint([{"name": name, "data": ms.Tensor(np.zeros((32, 3, 3, 3), np.float32))}], str(source))
        message = refused(source)
        assert "older model zoo and cannot be converted" in message and "pad_mode same" in message
    ms.save_checkpoint([{"name": "conv0.conv.weight", "data": ms.Tensor([1.0])}], str(source))
    assert "holds no weights of another framework" in refused(source)


def test_other_endings_are_refused(tmp_path):
    assert ".ckpt, .pt, .pth, .safetensors, .weights" in refused(write(tmp_path / "x.onnx"), error=UsageError)

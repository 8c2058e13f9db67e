"""Conversion of foreign weights: names and order of this network, what is stored with them, what is refused.

How files are read is tested at its source, in tests/ of the repository; that the converted weights compute what the original
computes, in test_network.py.
"""

import hashlib

import convert_checkpoint
import oracle
from src.model_utils.checkpoint import load
from src.model_utils.errors import DataError, UsageError
from src.model_utils.inference import load_network
from src.model_utils.weights import TORCH_LEAVES
from src.recipe import MODEL, read_config
from src.tinydarknet import tinydarknet

import mindspore as ms
import numpy as np
import pytest
from safetensors.numpy import save_file

OTHER_NETWORKS = {"darknet53": 166582580, "csdarknet53-omega": 110710068}  # bytes of their files


def convert(source, *options):
    target = source.parent / "converted.ckpt"
    convert_checkpoint.main(["--input", str(source), "--output", str(target), *options])
    parameters, about = load(target)
    return {name: value.asnumpy() for name, value in parameters.items()}, about


def refused(source, *options) -> str:
    """The message with which a file is refused; no file is written."""
    with pytest.raises(DataError) as caught:
        convert(source, *options)
    assert not (source.parent / "converted.ckpt").exists()
    return str(caught.value)


def write(folder, data: bytes):
    path = folder / "tiny.weights"
    path.write_bytes(data)
    return path


def test_darknet(tmp_path):
    """With the header of today and with that of old files."""
    source = write(tmp_path, oracle.tiny_weights())
    expected = oracle.TINY["weights_file"]
    assert source.stat().st_size == expected["bytes"] == 4185972
    assert hashlib.sha256(source.read_bytes()).hexdigest() == expected["sha256"]
    weights, about = convert(source)
    assert sum(value.size for value in weights.values()) == 1046488
    assert about == {
        "network": {"name": "tinydarknet", "num_classes": 1000, "negative_slope": 0.1, "bn_eps": 1e-5},
        "input": {
            "height": 224, "width": 224, "resize": "shorter_side", "crop_ratio": 1.0, "interpolation": "bilinear",
            "mean": [0, 0, 0], "std": [1, 1, 1],
        },
        "class_names": None,
        "source": "tiny.weights",
    }  # fmt: skip
    old, _ = convert(write(tmp_path, oracle.tiny_weights(version=(0, 1, 0), seen=7)))
    for name, value in weights.items():
        np.testing.assert_array_equal(value, old[name])


@pytest.mark.parametrize("num_classes", [2, 37])
def test_class_count_follows_from_the_length(tmp_path, num_classes):
    weights, about = convert(write(tmp_path, oracle.weights_file(oracle.tiny_records(num_classes), 4)))
    assert about["network"]["num_classes"] == num_classes
    assert weights["conv16.conv.weight"].shape == (num_classes, 128, 1, 1)


def test_new_head(tmp_path):
    source = write(tmp_path, oracle.tiny_weights())
    weights, about = convert(source, "--num_classes", "5")
    assert weights["conv16.conv.bias"].shape == (5,) and about["network"]["num_classes"] == 5
    np.testing.assert_array_equal(weights["conv9.bn.gamma"], convert(source)[0]["conv9.bn.gamma"])


@pytest.mark.parametrize("size", [19, 4185971, 4185972 - 4, 4185972 + 4, *OTHER_NETWORKS.values()])
def test_length_of_another_network(tmp_path, size):
    source = write(tmp_path, oracle.tiny_weights()[:size])
    with open(source, "r+b") as file:
        file.truncate(size)
    assert f"has {size} bytes" in refused(source)


def torch_state(network) -> dict:
    leaves = {new: old for old, new in TORCH_LEAVES.items()}
    state = {}
    for name, value in network.parameters_dict().items():
        stem, leaf = name.rsplit(".", 1)
        state[f"{stem}.{leaves.get(leaf, leaf)}"] = value.asnumpy()
    return state


def test_safetensors_with_a_name_map(tmp_path):
    """The longest beginning of a name counts, and whole parts of it."""
    network, source = tinydarknet(6), tmp_path / "t.safetensors"
    state = {}
    for name, value in torch_state(network).items():
        name = name.replace("conv2.", "features.1.").replace("conv3.conv.", "features.12.")
        state[name.replace("conv3.", "features.1.after.")] = value
    save_file({**state, "features.1.bn.num_batches_tracked": np.zeros((), np.int64)}, source)
    assert "conv2.conv.weight is missing" in refused(source)
    (tmp_path / "map.yaml").write_text("features.1: conv2\nfeatures.12: conv3.conv\nfeatures.1.after: conv3\n")
    weights, about = convert(source, "--name_map", str(tmp_path / "map.yaml"))
    for name, value in network.parameters_dict().items():
        np.testing.assert_array_equal(weights[name], value.asnumpy(), err_msg=name)
    assert about["network"] == {"name": "tinydarknet", "num_classes": 6, "negative_slope": 0.1, "bn_eps": 1e-5}
    assert about["input"]["mean"] == [0.485, 0.456, 0.406] and about["input"]["crop_ratio"] == 0.875


def test_names_of_another_network(tmp_path):
    save_file({"features.0.weight": np.zeros(3, np.float32)}, tmp_path / "t.safetensors")
    assert "give --name_map FILE" in refused(tmp_path / "t.safetensors")


def test_older_zoo(tmp_path):
    """A checkpoint of the older zoo (batch norm and activation on the logits, slope 0.2, eps 1e-3) keeps its outputs."""
    ms.set_seed(3)
    network = tinydarknet(8, negative_slope=0.2, bn_eps=1e-3, legacy_head=True).set_train()
    images = ms.Tensor(oracle.model_input((4, 3, 48, 48), 2))
    network(images)  # moves the batch-norm statistics
    network.set_train(False)
    ms.save_checkpoint(network, str(tmp_path / "zoo.ckpt"))
    _, about = convert(tmp_path / "zoo.ckpt")
    assert about["network"]["legacy_head"] is True
    loaded, _ = load_network(MODEL, tmp_path / "converted.ckpt", read_config([], ""))
    np.testing.assert_array_equal(loaded(images).asnumpy(), network(images).asnumpy())


def test_checkpoint_of_another_network(tmp_path):
    ms.save_checkpoint([{"name": "conv1.conv.weight", "data": ms.Tensor([1.0])}], str(tmp_path / "x.ckpt"))
    assert "has no conv16.conv.weight" in refused(tmp_path / "x.ckpt")


def test_other_endings_are_refused(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"1")
    with pytest.raises(UsageError, match=r"\.ckpt, \.pt, \.pth, \.safetensors, \.weights"):
        convert(tmp_path / "x.bin")

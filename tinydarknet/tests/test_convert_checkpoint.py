"""Conversion of foreign weights: every weight filled, nothing left over, bad files refused."""

import convert_checkpoint
import oracle
from src.model_utils.checkpoint import load
from src.model_utils.config import DataError, UsageError
from src.recipe import read_config
from src.tinydarknet import tinydarknet

import mindspore as ms
import numpy as np
import pytest
from safetensors.numpy import save_file
from src.inference import load_network
from src.weights import TORCH_LEAVES


def convert(source, target, *options):
    convert_checkpoint.main(["--input", str(source), "--output", str(target), *options])
    return load(target)


def write(folder, data: bytes):
    path = folder / "tiny.weights"
    path.write_bytes(data)
    return path


def test_both_header_versions(tmp_path):
    new, about = convert(write(tmp_path, oracle.tiny_weights()), tmp_path / "new.ckpt")
    old, _ = convert(write(tmp_path, oracle.tiny_weights(version=(0, 1, 0), seen=7)), tmp_path / "old.ckpt")
    assert sum(value.size for value in new.values()) == 1046488
    for name, value in new.items():
        np.testing.assert_array_equal(value.asnumpy(), old[name].asnumpy())
    assert about["input"]["mean"] == [0, 0, 0] and about["input"]["std"] == [1, 1, 1]
    assert about["input"]["crop_ratio"] == 1.0 and about["network"]["negative_slope"] == 0.1


@pytest.mark.parametrize("num_classes", [2, 37])
def test_class_count_follows_from_the_length(tmp_path, num_classes):
    data = oracle.weights_file(oracle.tiny_records(num_classes), 4)
    parameters, about = convert(write(tmp_path, data), tmp_path / "t.ckpt")
    assert about["network"]["num_classes"] == num_classes
    assert parameters["conv16.conv.weight"].shape == (num_classes, 128, 1, 1)


def test_new_head(tmp_path):
    source = write(tmp_path, oracle.tiny_weights())
    parameters, about = convert(source, tmp_path / "t.ckpt", "--num_classes", "5")
    assert parameters["conv16.conv.bias"].shape == (5,) and about["network"]["num_classes"] == 5
    whole, _ = convert(source, tmp_path / "w.ckpt")
    np.testing.assert_array_equal(parameters["conv9.bn.gamma"].asnumpy(), whole["conv9.bn.gamma"].asnumpy())


@pytest.mark.parametrize("cut", [0, 10, 19, 400, 4185971, 4185972 - 4])
def test_truncated_weights(tmp_path, cut):
    with pytest.raises(DataError, match="bytes"):
        convert(write(tmp_path, oracle.tiny_weights()[:cut]), tmp_path / "t.ckpt")
    assert not (tmp_path / "t.ckpt").exists()


def test_too_long_and_wrong_header(tmp_path):
    with pytest.raises(DataError, match="truncated or belongs to another network"):
        convert(write(tmp_path, oracle.tiny_weights() + b"1234"), tmp_path / "t.ckpt")
    with pytest.raises(DataError, match="no darknet weights file"):
        convert(write(tmp_path, b"PK\x03\x04" + oracle.tiny_weights()), tmp_path / "t.ckpt")


def torch_state(network) -> dict:
    leaves = {new: old for old, new in TORCH_LEAVES.items()}
    state = {}
    for name, value in network.parameters_dict().items():
        stem, leaf = name.rsplit(".", 1)
        state[f"{stem}.{leaves.get(leaf, leaf)}"] = value.asnumpy()
    return state


def test_safetensors_with_a_name_map(tmp_path):
    network = tinydarknet(6)
    state = {name.replace("conv2.", "features.1."): value for name, value in torch_state(network).items()}
    save_file({**state, "features.1.bn.num_batches_tracked": np.zeros((), np.int64)}, tmp_path / "t.safetensors")
    with pytest.raises(DataError, match="conv2.conv.weight is missing"):
        convert(tmp_path / "t.safetensors", tmp_path / "t.ckpt")
    (tmp_path / "map.yaml").write_text("features.1: conv2\n")
    parameters, _ = convert(tmp_path / "t.safetensors", tmp_path / "t.ckpt", "--name_map", str(tmp_path / "map.yaml"))
    for name, value in network.parameters_dict().items():
        np.testing.assert_array_equal(parameters[name].asnumpy(), value.asnumpy(), err_msg=name)


def test_left_over_and_wrong_shape(tmp_path):
    state = torch_state(tinydarknet(6))
    save_file({**state, "extra.weight": np.zeros(3, np.float32)}, tmp_path / "t.safetensors")
    with pytest.raises(DataError, match="extra.weight is left over"):
        convert(tmp_path / "t.safetensors", tmp_path / "t.ckpt")
    save_file({**state, "conv1.conv.weight": np.zeros((16, 3, 5, 5), np.float32)}, tmp_path / "t.safetensors")
    with pytest.raises(DataError, match=r"conv1.conv.weight has shape \(16, 3, 5, 5\)"):
        convert(tmp_path / "t.safetensors", tmp_path / "t.ckpt")


def test_damaged_safetensors(tmp_path):
    (tmp_path / "t.safetensors").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="not a sound safetensors file"):
        convert(tmp_path / "t.safetensors", tmp_path / "t.ckpt")


def test_older_zoo(tmp_path):
    """A checkpoint of the older zoo (batch norm and activation on the logits, slope 0.2, eps 1e-3) keeps its outputs."""
    ms.set_seed(3)
    network = tinydarknet(8, negative_slope=0.2, bn_eps=1e-3, legacy_head=True).set_train()
    images = ms.Tensor(oracle.model_input((4, 3, 48, 48), 2))
    network(images)  # moves the batch-norm statistics
    network.set_train(False)
    ms.save_checkpoint(network, str(tmp_path / "zoo.ckpt"))
    _, about = convert(tmp_path / "zoo.ckpt", tmp_path / "t.ckpt")
    assert about["network"]["legacy_head"] is True
    loaded, _ = load_network(tmp_path / "t.ckpt", read_config([], ""))
    np.testing.assert_array_equal(loaded(images).asnumpy(), network(images).asnumpy())


@pytest.mark.parametrize("name", ["missing.weights", "x.bin"])
def test_wrong_input(tmp_path, name):
    (tmp_path / "x.bin").write_bytes(b"1")
    with pytest.raises((DataError, UsageError), match="weights"):
        convert(tmp_path / name, tmp_path / "t.ckpt")


def test_wrong_output(tmp_path):
    with pytest.raises(UsageError, match="ending .ckpt"):
        convert(write(tmp_path, oracle.tiny_weights()), tmp_path / "t.bin")

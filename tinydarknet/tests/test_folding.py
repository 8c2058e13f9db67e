"""Folded batch norm and rewritten ONNX graphs compute what the network computes, on random weights and statistics."""

from __future__ import annotations

from src import onnx_graph
from src.model_utils.device_adapter import portable_operators
from src.tinydarknet import tinydarknet

import mindspore as ms
import numpy as np
import onnx
import onnxruntime
import pytest
from mindspore import nn, ops
from onnx import TensorProto, helper, numpy_helper
from src.folding import fold_batch_norm

CLASSES = 7


class Mish(nn.Cell):
    """The spelling that the exporter knows."""

    def construct(self, x):
        t = ops.sigmoid(x)
        u = t * (2 - t)
        return x * u / (2 - u)


class Block(nn.Cell):
    """A convolution with a bias, a stride and groups, batch norm, activation."""

    def __init__(self, activation):
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, 2, "pad", 1, group=2, has_bias=True)
        self.bn = nn.BatchNorm2d(6, eps=1e-3)
        self.activation = activation

    def construct(self, x):
        return self.activation(self.bn(self.conv(x)))


def with_random_values(network):
    """The network in evaluation mode; the same network gets the same values each time."""
    random = np.random.RandomState(3)
    for parameter in network.get_parameters():
        shape = parameter.shape
        value = random.normal(0, 0.3, shape)
        if parameter.name.endswith("moving_variance"):
            value = random.uniform(0.5, 2, shape)
        elif parameter.name.endswith("gamma"):
            value = random.uniform(0.5, 1.5, shape) * random.choice([-1, 1], shape)
        elif len(shape) == 4:
            value = random.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
        parameter.set_data(ms.Tensor(value.astype(np.float32)))
    return network.set_train(False)


def tiny(legacy_head=False):
    with portable_operators():
        return with_random_values(tinydarknet(CLASSES, legacy_head=legacy_head))


def images(*shape):
    return np.random.RandomState(5).standard_normal(shape).astype(np.float32)


def run_onnx(path, pictures):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: pictures})[0]


def difference(result, expected):
    assert np.isfinite(expected).all() and np.abs(expected).max() > 0.1
    return np.abs(result - expected).max() / np.abs(expected).max()


def operators(path):
    return [node.op_type for node in onnx.load(str(path)).graph.node]


@pytest.mark.parametrize("legacy_head", [False, True])
def test_folded_network_equals_the_network(legacy_head):
    pictures = ms.Tensor(images(2, 3, 64, 64))
    expected = tiny(legacy_head)(pictures).asnumpy()
    folded = fold_batch_norm(tiny(legacy_head))
    assert difference(folded(pictures).asnumpy(), expected) <= 1e-5
    names = [parameter.name for parameter in folded.get_parameters()]
    assert names == [f"conv{n}.conv.{kind}" for n in range(1, 17) for kind in ("weight", "bias")]
    assert not any(isinstance(cell, nn.BatchNorm2d) for cell in folded.cells())


def test_bias_stride_groups_and_eps_are_kept():
    pictures = ms.Tensor(images(2, 4, 9, 9))
    expected = with_random_values(Block(nn.ReLU()))(pictures).asnumpy()
    folded = fold_batch_norm(with_random_values(Block(nn.ReLU())))
    assert difference(folded(pictures).asnumpy(), expected) <= 1e-5


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"evaluation mode only; call set_train\(False\)"):
        fold_batch_norm(tiny().set_train())


@pytest.mark.parametrize("batch_size", [1, 4])
def test_exports_of_the_folded_network(batch_size, tmp_path):
    pictures = images(batch_size, 3, 64, 64)
    expected = tiny()(ms.Tensor(pictures)).asnumpy()
    for file_format in ("MINDIR", "ONNX"):
        zeros = ms.Tensor(np.zeros_like(pictures))
        ms.export(fold_batch_norm(tiny()), zeros, file_name=str(tmp_path / "m"), file_format=file_format)
    mindir = nn.GraphCell(ms.load(str(tmp_path / "m.mindir")))
    assert difference(mindir(ms.Tensor(pictures)).asnumpy(), expected) <= 1e-4
    assert "BatchNormalization" not in operators(tmp_path / "m.onnx")
    assert operators(tmp_path / "m.onnx").count("Max") == 15
    onnx_graph.simplify(tmp_path / "m.onnx")
    assert operators(tmp_path / "m.onnx").count("LeakyRelu") == 15
    assert not {"Max", "Mul"} & set(operators(tmp_path / "m.onnx"))
    assert difference(run_onnx(tmp_path / "m.onnx", pictures), expected) <= 1e-4


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        (nn.LeakyReLU(0.01), lambda x: np.where(x > 0, x, 0.01 * x)),
        (Mish(), lambda x: x * np.tanh(np.logaddexp(0, x))),
    ],
)
def test_activations_for_small_and_large_values(activation, function, tmp_path):
    x = np.concatenate([np.linspace(-100, 100, 4001), np.linspace(-1, 1, 2001)]).astype(np.float32)
    ms.export(activation, ms.Tensor(np.zeros_like(x)), file_name=str(tmp_path / "m"), file_format="ONNX")
    before = run_onnx(tmp_path / "m.onnx", x)
    onnx_graph.simplify(tmp_path / "m.onnx")
    names = operators(tmp_path / "m.onnx")
    assert names in (["LeakyRelu"], ["Neg", "Sigmoid", "Mul", "Softsign", "HardSigmoid", "Mul"])
    expected = function(x.astype(np.float64))
    for result in (before, run_onnx(tmp_path / "m.onnx", x)):
        assert (np.abs(result - expected) <= 1e-5 * np.maximum(np.abs(expected), 1)).all()


def test_other_spellings_stay_as_they_are(tmp_path):
    """A slope above 1, a maximum of two tensors, a quotient that is no Mish; a value that is read twice is kept."""
    nodes = [
        helper.make_node("Mul", ["x", "steep"], ["a"]),
        helper.make_node("Max", ["x", "a"], ["b"]),
        helper.make_node("Max", ["b", "x"], ["c"]),
        helper.make_node("Sigmoid", ["c"], ["d"]),
        helper.make_node("Sub", ["steep", "d"], ["e"]),
        helper.make_node("Div", ["c", "e"], ["f"]),
        helper.make_node("Mul", ["f", "flat"], ["g"]),
        helper.make_node("Max", ["g", "f"], ["h"]),
        helper.make_node("Add", ["g", "h"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in "xy"]
    constants = [
        numpy_helper.from_array(np.float32(value).reshape(1), name) for name, value in (("steep", 2), ("flat", 0.5))
    ]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=4)
    onnx.save(model, str(tmp_path / "m.onnx"))
    x = np.float32([-3, 0.5, 2])
    expected = run_onnx(tmp_path / "m.onnx", x)
    onnx_graph.simplify(tmp_path / "m.onnx")
    assert operators(tmp_path / "m.onnx") == [*(node.op_type for node in nodes[:7]), "LeakyRelu", "Add"]
    np.testing.assert_allclose(run_onnx(tmp_path / "m.onnx", x), expected, rtol=1e-6)

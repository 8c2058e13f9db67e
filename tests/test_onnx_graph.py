"""Rewritten activations of an ONNX graph compute what the framework's own spelling computes; everything else stays."""

from __future__ import annotations

from pathlib import Path

from model_utils import onnx_graph
from model_utils.layers import create_activation, portable_operators

import mindspore as ms
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.usefixtures("programs")
LARGE_AND_SMALL = np.concatenate([np.linspace(-100, 100, 4001), np.linspace(-1, 1, 2001)]).astype(np.float32)


def run(path: Path, values: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: values})[0]


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


@pytest.mark.parametrize(
    "name, slope, function, expected",
    [
        ("leaky_relu", 0.01, lambda x: np.where(x > 0, x, 0.01 * x), "LeakyRelu"),
        ("leaky_relu", 0.3, lambda x: np.where(x > 0, x, 0.3 * x), "LeakyRelu"),
        ("mish", 0.1, lambda x: x * np.tanh(np.logaddexp(0, x)), "Neg Sigmoid Mul Softsign HardSigmoid Mul"),
    ],
)
def test_activations_for_small_and_large_values(name, slope, function, expected, tmp_path):
    """Against float64, before and after."""
    path, x = tmp_path / "m.onnx", LARGE_AND_SMALL
    with portable_operators():
        ms.onnx.export(create_activation(name, slope), ms.Tensor(np.zeros_like(x)), file_name=str(tmp_path / "m"))
    before = run(path, x)
    assert operators(path) != expected.split()
    onnx_graph.simplify(path)
    assert operators(path) == expected.split()
    wanted = function(x.astype(np.float64))
    for result in (before, run(path, x)):
        assert (np.abs(result - wanted) <= 1e-5 * np.maximum(np.abs(wanted), 1)).all()


def write_graph(path: Path, spelling: str, constants: dict[str, float], *more) -> list[str]:
    """A graph of operators such as "Mul x steep a": a = x * steep; their kinds."""
    nodes = [line.split() for line in spelling.strip().splitlines()]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in "xy"]
    tensors = [numpy_helper.from_array(np.float32(value).reshape(1), name) for name, value in constants.items()]
    made = [*more, *(helper.make_node(kind, inputs, [output]) for kind, *inputs, output in nodes)]
    graph = helper.make_graph(made, "graph", values[:1], values[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=4), str(path))
    return [kind for kind, *_ in nodes]


STAYS = """
Mul x steep a
Max x a b
Max b x c
Sigmoid c d
Sub steep d e
Div c e f
Mul f flat g
Max g f h
Add g h y
"""


def test_other_spellings_stay_as_they_are(tmp_path):
    """A slope above 1, a maximum of two tensors, a quotient that is no Mish; a value that is read twice is kept."""
    path, x = tmp_path / "m.onnx", np.float32([-3, 0.5, 2])
    kinds = write_graph(path, STAYS, {"steep": 2, "flat": 0.5})
    before = run(path, x)
    onnx_graph.simplify(path)
    assert operators(path) == [*kinds[:7], "LeakyRelu", "Add"]
    np.testing.assert_allclose(run(path, x), before, rtol=1e-6)


def test_weights_that_nothing_reads_any_more_are_dropped(tmp_path):
    """A slope may be the first or the second operand, an initializer or a constant node."""
    path, x = tmp_path / "m.onnx", np.float32([-8, 0, 2])
    quarter = helper.make_node("Constant", [], ["quarter"], value=numpy_helper.from_array(np.float32([0.25]), ""))
    write_graph(path, "Mul quarter x a\nMax a x b\nMul b half c\nMax b c y", {"half": 0.5}, quarter)
    onnx_graph.simplify(path)
    graph = onnx.load(str(path)).graph
    assert operators(path) == ["LeakyRelu", "LeakyRelu"] and not graph.initializer
    assert [node.attribute[0].f for node in graph.node] == [0.25, 0.5]
    np.testing.assert_array_equal(run(path, x), [-1, 0, 2])

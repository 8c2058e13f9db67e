# Shared file: source utils/model_utils/onnx_graph.py; copy with: python scripts/sync_model_utils.py --write
"""An exported ONNX file whose activations ONNX Runtime can fuse with the convolution before them, or run in fewer passes.

MindSpore's exporter has no LeakyRelu: it writes max(x, s x), which ONNX Runtime leaves as two passes over the tensor;
a LeakyRelu it computes inside the convolution. It has no Mish either: the network spells it with t = sigmoid(x) as

    mish(x) = x u / (2 - u),  u = t (2 - t)

since tanh(ln(1 + e^x)) = ((1 + e^x)^2 - 1) / ((1 + e^x)^2 + 1) and t = e^x / (1 + e^x). With s = sigmoid(-x)
and q = s^2 = 1 - u the same is x (1 - 2 q / (1 + q)), whose fraction is a Softsign (q >= 0) and whose line 1 - 2 r is a
HardSigmoid that never clips (0 <= r <= 1/2): as many operators, but none of them a division of two tensors. The Neg in
front saves ONNX Runtime one of three changes of the memory layout. Where x is far below zero the result is 0.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper, numpy_helper


def simplify(path: Path) -> None:
    """Rewrite the activations of an ONNX file in place; everything else stays as it is."""
    model = onnx.load(str(path))
    graph = _Graph(model.graph)
    for node in model.graph.node:
        new = graph.leaky_relu(node) or graph.mish(node)
        graph.replacements.update({node.output[0]: new} if new else {})
    graph.apply()
    onnx.checker.check_model(model)  # a fault here is one of this file
    onnx.save(model, str(path))


class _Graph:
    """Finds activations by their last node, and replaces them."""

    def __init__(self, graph: onnx.GraphProto):
        self.graph = graph
        self.producers = {name: node for node in graph.node for name in node.output}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.constants.update(
            {node.output[0]: node.attribute[0].t for node in graph.node
             if node.op_type == "Constant" and node.attribute[0].name == "value"}
        )  # fmt: skip
        self.replacements: dict[str, list[onnx.NodeProto]] = {}

    def leaky_relu(self, last: onnx.NodeProto) -> list[onnx.NodeProto]:
        """max(x, s x) with 0 <= s <= 1."""
        if last.op_type != "Max" or len(last.input) != 2:
            return []
        for x, product in (last.input, last.input[::-1]):
            slope = self._scalar(self._other(product, "Mul", x))
            if slope is not None and 0 <= slope <= 1:
                return [helper.make_node("LeakyRelu", [x], last.output, last.name, alpha=slope)]
        return []

    def mish(self, last: onnx.NodeProto) -> list[onnx.NodeProto]:
        """x u / (2 - u) with u = t (2 - t), t = sigmoid(x)."""
        if last.op_type != "Div":
            return []
        u = self._two_minus(last.input[1])
        x = self._other(last.input[0], "Mul", u)
        t = next((name for name in self._inputs(u, "Mul") if self._inputs(name, "Sigmoid") == [x]), None)
        if x is None or t is None or self._two_minus(self._other(u, "Mul", t)) != t:
            return []
        n, s, q, r, y = (f"{last.output[0]}/{name}" for name in "nsqry")
        return [
            helper.make_node("Neg", [x], [n], n),
            helper.make_node("Sigmoid", [n], [s], s),
            helper.make_node("Mul", [s, s], [q], q),
            helper.make_node("Softsign", [q], [r], r),
            helper.make_node("HardSigmoid", [r], [y], y, alpha=-2.0, beta=1.0),
            helper.make_node("Mul", [x, y], last.output, last.name),
        ]

    def apply(self) -> None:
        """Put the new nodes in the place of the last old ones; drop what nothing reads any more."""
        nodes = [new for node in self.graph.node for new in self.replacements.get(node.output[0], [node])]
        needed, kept = {output.name for output in self.graph.output}, []
        for node in reversed(nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        weights = [tensor for tensor in self.graph.initializer if tensor.name in needed]
        for field, values in ((self.graph.node, kept[::-1]), (self.graph.initializer, weights)):
            del field[:]
            field.extend(values)

    def _inputs(self, name: str | None, operator: str) -> list[str]:
        """Inputs of the node that gives `name`, where it is of this operator."""
        node = self.producers.get(name)
        return list(node.input) if node is not None and node.op_type == operator else []

    def _other(self, name: str | None, operator: str, known: str | None) -> str | None:
        """The operand beside `known` of an operator of two."""
        inputs = self._inputs(name, operator)
        if known not in inputs or len(inputs) != 2:
            return None
        return inputs[1 - inputs.index(known)]

    def _two_minus(self, name: str | None) -> str | None:
        """The v of 2 - v."""
        inputs = self._inputs(name, "Sub")
        return inputs[1] if inputs and self._scalar(inputs[0]) == 2 else None

    def _scalar(self, name: str | None) -> float | None:
        """The value of a constant with one element."""
        if name not in self.constants:
            return None
        values = numpy_helper.to_array(self.constants[name])
        return float(values.item()) if values.size == 1 else None

"""Weights of a checkpoint in a network: they fit, or the report and the message say why not."""

from __future__ import annotations

from model_utils.checkpoint import EMA_PREFIX, STATE_PREFIX, load_weights
from model_utils.errors import DataError

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn


class Network(nn.Cell):
    """A convolution-like layer, batch norm and a head."""

    def __init__(self, classes: int = 2):
        super().__init__()
        self.body = nn.Dense(4, 3)
        self.bn = nn.BatchNorm1d(3)
        self.head = nn.Dense(3, classes)

    def construct(self, x):
        return self.head(self.bn(self.body(x)))


def values(network: nn.Cell) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy().copy() for name, parameter in network.parameters_dict().items()}


def weights(start: float = 0.0, **changes: np.ndarray) -> dict[str, np.ndarray]:
    """Weights of Network, different in each place."""
    shapes = {name: parameter.shape for name, parameter in Network().parameters_dict().items()}
    numbered = {
        name: np.float32(start + i) + np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 100
        for i, (name, shape) in enumerate(shapes.items())
    }
    return {**numbered, **changes}


def parameters_of(arrays: dict[str, np.ndarray]) -> dict[str, Parameter]:
    return {name: Parameter(Tensor(value), name=name) for name, value in arrays.items()}


def assert_loaded(network: nn.Cell, expected: dict[str, np.ndarray]) -> None:
    found = values(network)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


STATE = {
    STATE_PREFIX + "optimizer.moments.body.weight": np.zeros((3, 4), np.float32),
    STATE_PREFIX + "optimizer.global_step": np.array([7], np.int32),
}


@pytest.mark.parametrize("prefix", ["", "network.", "yolo_network.", "network._backbone."])
@pytest.mark.parametrize("optimizer", ["none", "before", "after"])
def test_weights_are_loaded(prefix, optimizer):
    """Also below a common prefix, and beside the moments of an optimizer, whose names end alike."""
    network, source = Network(), {prefix + name: value for name, value in weights(1).items()}
    extra = {f"moments.{name}": np.full_like(value, 9) for name, value in source.items()}
    extra.update({"learning_rate": np.float32([0.1]), "momentum": np.float32(0.9), "global_step": np.int32([5])})
    source = {"none": source, "before": {**extra, **source}, "after": {**source, **extra}}[optimizer]
    report = load_weights(network, parameters_of(source), "x.ckpt")
    assert_loaded(network, weights(1))
    assert report == {"loaded": list(weights()), "missing": [], "unexpected": [], "wrong_shape": []}


def test_training_state_is_no_unexpected_weight():
    network = Network()
    report = load_weights(network, parameters_of({**weights(1), **STATE}), "x.ckpt")
    assert report["unexpected"] == [] and len(report["loaded"]) == len(weights())
    assert_loaded(network, weights(1))


def test_unexpected_weights_are_reported():
    extra = {"zebra.weight": np.zeros(2, np.float32), "body.extra": np.zeros(1, np.float32)}
    report = load_weights(Network(), parameters_of({**weights(), **extra}), "x.ckpt")
    assert report["unexpected"] == ["body.extra", "zebra.weight"]


def test_a_weight_may_have_the_name_of_a_state():
    class Odd(nn.Cell):
        def __init__(self):
            super().__init__()
            self.momentum = Parameter(Tensor(np.zeros(2, np.float32)), name="momentum")

    network = Odd()
    load_weights(network, parameters_of({"momentum": np.float32([1, 2])}), "x.ckpt")
    assert_loaded(network, {"momentum": np.float32([1, 2])})


def test_missing_weights_are_refused():
    network, source = Network(), weights(1)
    before = values(network)
    del source["head.weight"], source["head.bias"]
    with pytest.raises(DataError) as caught:
        load_weights(network, parameters_of(source), "x.ckpt")
    for part in ("x.ckpt", "2 of 8", "head.weight", "--allow_partial_load"):
        assert part in str(caught.value)
    assert_loaded(network, before)
    report = load_weights(network, parameters_of(source), "x.ckpt", allow_partial=True)
    assert report["missing"] == ["head.weight", "head.bias"]
    assert_loaded(network, {**source, "head.weight": before["head.weight"]})


def test_nothing_that_fits_is_refused_always():
    for options in ({}, {"allow_partial": True}):
        with pytest.raises(DataError, match="8 of 8"):
            load_weights(Network(), parameters_of({"other.weight": np.zeros(3, np.float32)}), "x.ckpt", **options)


def test_another_shape_is_refused():
    network, source = Network(classes=5), weights(1)
    before = values(network)
    for options in ({}, {"allow_partial": True}, {"reset_head": ["head.weight"]}):
        with pytest.raises(DataError) as caught:
            load_weights(network, parameters_of(source), "x.ckpt", **options)
        name = "head.bias" if "reset_head" in options else "head.weight"
        for part in ("x.ckpt", name, str(source[name].shape), str(before[name].shape), "--num_classes", "--reset_head"):
            assert part in str(caught.value)
    assert_loaded(network, before)


def test_reset_head():
    network = Network(classes=5)
    before = values(network)
    report = load_weights(network, parameters_of(weights(1)), "x.ckpt", reset_head=iter(["head.weight", "head.bias"]))
    assert report["wrong_shape"] == ["head.weight", "head.bias"] and report["missing"] == []
    kept = {name: value for name, value in before.items() if name.startswith("head.")}
    assert_loaded(network, {**{n: v for n, v in weights(1).items() if not n.startswith("head.")}, **kept})


def test_head_of_the_same_shape_is_loaded_all_the_same():
    network = Network()
    report = load_weights(network, parameters_of(weights(1)), "x.ckpt", reset_head=["head.weight", "head.bias"])
    assert report["wrong_shape"] == []
    assert_loaded(network, weights(1))


def test_moving_average():
    averages = {EMA_PREFIX + name: value for name, value in weights(5).items()}
    source = parameters_of({**weights(1), **STATE, **averages})
    for use_ema, start in ((False, 1), (True, 5)):
        network = Network()
        load_weights(network, source, "x.ckpt", use_ema=use_ema)
        assert_loaded(network, weights(start))


def test_missing_moving_average_is_not_hidden():
    with pytest.raises(DataError, match="x.ckpt.*moving average"):
        load_weights(Network(), parameters_of({**weights(1), **STATE}), "x.ckpt", use_ema=True)
    with pytest.raises(DataError, match="x.ckpt.*moving average"):
        load_weights(Network(), parameters_of(weights(1)), "x.ckpt", use_ema=True)


def test_weights_take_the_type_of_the_network():
    network = Network()
    half = {name: value.astype(np.float16) for name, value in weights(1).items()}
    load_weights(network, parameters_of(half), "x.ckpt")
    assert values(network)["body.weight"].dtype == np.float32
    assert_loaded(network, {name: value.astype(np.float32) for name, value in half.items()})

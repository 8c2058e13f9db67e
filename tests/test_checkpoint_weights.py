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


def load_from(source: dict[str, np.ndarray], network: nn.Cell | None = None, **options) -> dict:
    """The report on loading these weights."""
    parameters = {name: Parameter(Tensor(value), name=name) for name, value in source.items()}
    return load_weights(network or Network(), parameters, "x.ckpt", **options)


def weights(start: float = 0.0) -> dict[str, np.ndarray]:
    """Weights of Network, different in each place."""
    return {
        name: np.float32(start + i) + np.arange(p.size, dtype=np.float32).reshape(p.shape) / 100
        for i, (name, p) in enumerate(Network().parameters_dict().items())
    }


def assert_loaded(network: nn.Cell, expected: dict[str, np.ndarray]) -> None:
    found = values(network)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


STATE = {
    STATE_PREFIX + "optimizer.moments.body.weight": np.zeros((3, 4), np.float32),
    STATE_PREFIX + "optimizer.global_step": np.array([7], np.int32),
}


@pytest.mark.parametrize("prefix", ["", "network.", "network._backbone."])
@pytest.mark.parametrize("optimizer", ["none", "before", "after"])
def test_weights_are_loaded(prefix, optimizer):
    """Also below a common prefix, and beside the moments of an optimizer, whose names end alike."""
    network, source = Network(), {prefix + name: value for name, value in weights(1).items()}
    extra = {f"moments.{name}": np.full_like(value, 9) for name, value in source.items()}
    extra.update({"learning_rate": np.float32([0.1]), "momentum": np.float32(0.9), "global_step": np.int32([5])})
    source = {"none": source, "before": {**extra, **source}, "after": {**source, **extra}}[optimizer]
    report = load_from(source, network)
    assert_loaded(network, weights(1))
    assert report == {"loaded": list(weights()), "missing": [], "unexpected": [], "wrong_shape": [], "reset": []}


def test_unexpected_weights_are_reported():
    """Those of a training state are none."""
    extra = {"zebra.weight": np.zeros(2, np.float32), "body.extra": np.zeros(1, np.float32)}
    assert load_from({**weights(), **STATE, **extra})["unexpected"] == ["body.extra", "zebra.weight"]


def test_a_weight_may_have_the_name_of_a_state():
    network = nn.Cell()
    network.momentum = Parameter(Tensor(np.zeros(2, np.float32)), name="momentum")
    load_from({"momentum": np.float32([1, 2])}, network)
    assert_loaded(network, {"momentum": np.float32([1, 2])})


def test_missing_weights_are_refused():
    network, source = Network(), weights(1)
    before = values(network)
    del source["head.weight"], source["head.bias"]
    with pytest.raises(DataError, match="x.ckpt.* 2 of 8 .*head.weight.*--allow_partial_load"):
        load_from(source, network)
    assert_loaded(network, before)
    assert load_from(source, network, allow_partial=True)["missing"] == ["head.weight", "head.bias"]
    assert_loaded(network, {**source, "head.weight": before["head.weight"]})
    with pytest.raises(DataError, match="8 of 8"):
        load_from({"other.weight": np.zeros(3, np.float32)}, allow_partial=True)


def test_another_shape_is_refused():
    network, source = Network(classes=5), weights(1)
    before = values(network)
    for options in ({}, {"allow_partial": True}, {"reset_head": ["head.weight"]}):
        with pytest.raises(DataError) as caught:
            load_from(source, network, **options)
        name = "head.bias" if "reset_head" in options else "head.weight"
        for part in ("x.ckpt", name, str(source[name].shape), str(before[name].shape), "--num_classes", "--reset_head"):
            assert part in str(caught.value)
    assert_loaded(network, before)


def test_reset_head():
    """The head keeps its own values, whatever its shape."""
    head = ["head.weight", "head.bias"]
    for classes in (5, 2):
        network = Network(classes)
        before = values(network)
        report = load_from(weights(1), network, reset_head=iter(head))
        assert report["reset"] == head and report["wrong_shape"] == report["missing"] == []
        assert_loaded(network, {**weights(1), **{name: before[name] for name in head}})


def test_moving_average():
    averages = {EMA_PREFIX + name: value for name, value in weights(5).items()}
    for use_ema, start in ((False, 1), (True, 5)):
        network = Network()
        load_from({**weights(1), **STATE, **averages}, network, use_ema=use_ema)
        assert_loaded(network, weights(start))
    for source in ({**weights(1), **STATE}, weights(1)):
        with pytest.raises(DataError, match="x.ckpt.*moving average"):
            load_from(source, use_ema=True)


def test_weights_take_the_type_of_the_network():
    network = Network()
    half = {name: value.astype(np.float16) for name, value in weights(1).items()}
    load_from(half, network)
    assert values(network)["body.weight"].dtype == np.float32
    assert_loaded(network, half)

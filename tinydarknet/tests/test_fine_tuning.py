"""Features of pretrained weights are brought to a usual size; nothing that was computed with them changes."""

from __future__ import annotations

from src.fine_tuning import LAST_NORM, scale_features
from src.model_utils.device_adapter import Device
from src.tinydarknet import tinydarknet

import mindspore as ms
import numpy as np
import pytest

CPU = Device("CPU", 0)
IMAGES = np.random.default_rng(1).random((2, 3, 32, 32), np.float32)


def network(size: float, **options):
    """Random weights whose features are `size` times as large as usual."""
    ms.set_seed(3)
    net = tinydarknet(num_classes=5, **options).set_train(False)
    for name in LAST_NORM:
        net.parameters_dict()[name].set_data(net.parameters_dict()[name] * size)
    return net


@pytest.fixture(autouse=True)
def eager():
    """Graphs would take longer to compile than the tests take."""
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=mode)


def mean_square(net) -> float:
    x = ms.Tensor(IMAGES)
    for layer in net.layers[:-1]:
        x = layer(x)
    return float((x.mean((2, 3)) ** 2).mean().asnumpy())


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("size", [3.0, 60.0, 5000.0])
def test_large_features(size, legacy):
    net = network(size, legacy_head=legacy)
    outputs, before = net(ms.Tensor(IMAGES)).asnumpy(), mean_square(net)
    divisor = scale_features(net, IMAGES, CPU, has_new_head=False)
    assert np.log2(divisor) % 1 == 0 and mean_square(net) == pytest.approx(before / divisor**2, rel=1e-6)
    assert 0.5 <= mean_square(net) <= 2.0 or divisor == 1.0
    assert np.array_equal(net(ms.Tensor(IMAGES)).asnumpy(), outputs)
    assert not net.training


def test_in_a_graph():
    """As a training has it; names and modes stay."""
    ms.set_context(mode=ms.GRAPH_MODE)
    net = network(60.0).set_train()
    names = list(net.parameters_dict())
    assert scale_features(net, IMAGES, CPU, has_new_head=True) > 1
    assert list(net.parameters_dict()) == names == [p.name for p in net.get_parameters()]
    assert all(cell.training for _, cell in net.cells_and_names())


def test_a_new_head_sees_the_divided_features():
    net = network(60.0)
    head = {name: p.asnumpy().copy() for name, p in net.parameters_dict().items() if name.startswith("conv16.")}
    net.set_train()
    assert scale_features(net, IMAGES, CPU, has_new_head=True) > 1
    assert all(np.array_equal(net.parameters_dict()[name].asnumpy(), value) for name, value in head.items())
    assert net.training and scale_features(net, IMAGES, CPU, has_new_head=True) == 1.0, "once is enough"


def test_small_and_dead_features_stay():
    for size in (0.0, 0.01):
        net = network(size)
        before = {name: p.asnumpy().copy() for name, p in net.parameters_dict().items()}
        assert scale_features(net, IMAGES, CPU, has_new_head=False) == 1.0
        assert all(np.array_equal(p.asnumpy(), before[name]) for name, p in net.parameters_dict().items())

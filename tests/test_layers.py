"""Layers: each is one mathematical function, in value and gradient, however it is spelled on a device."""

from __future__ import annotations

from model_utils.layers import (
    ConvBlock,
    create_activation,
    depthwise_conv,
    leaky_relu,
    max_pool_2x2,
    portable_operators,
    scale_channels,
    spatial_mean,
)

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

pytestmark = pytest.mark.usefixtures("eager_mode")

GRAPH, EAGER = ms.GRAPH_MODE, ms.PYNATIVE_MODE  # programs run in graph mode; eager mode needs no compilation


class Weighted(nn.Cell):
    """The weighted sum of a cell's output, so that its gradients can be taken."""

    def __init__(self, cell: nn.Cell):
        super().__init__()
        self.cell = cell

    def construct(self, weights, x):
        return (self.cell(x) * weights).sum()


class WeightedScale(nn.Cell):
    """The same of a cell with two inputs."""

    def __init__(self, cell: nn.Cell):
        super().__init__()
        self.cell = cell

    def construct(self, weights, x, factors):
        return (self.cell(x, factors) * weights).sum()


def gradient(cell: nn.Cell, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return ms.grad(Weighted(cell), 1)(Tensor(weights), Tensor(x)).asnumpy()


def gradients(cell: nn.Cell, x: np.ndarray, weights: np.ndarray, parameter: ms.Parameter) -> list[np.ndarray]:
    """By the input, and by a parameter."""
    by_x, others = ms.grad(Weighted(cell), 1, ms.ParameterTuple([parameter]))(Tensor(weights), Tensor(x))
    return [by_x.asnumpy(), (others[0] if isinstance(others, (tuple, list)) else others).asnumpy()]


def portable(build) -> nn.Cell:
    with portable_operators():
        return build()


@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
def test_leaky_relu(slope):
    random = np.random.default_rng(3)
    x = np.concatenate([random.normal(size=50) * 10, [-1e-20, 1e-20, -1e30, 1e30]]).astype(np.float32).reshape(2, 27)
    weights = random.normal(size=x.shape).astype(np.float32)
    wanted = np.where(x > 0, x, slope * x.astype(np.float64))
    for cell in (leaky_relu(slope), nn.LeakyReLU(slope)):
        np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), wanted, rtol=3e-7)
        np.testing.assert_allclose(gradient(cell, x, weights), np.where(x > 0, 1, slope) * weights, rtol=3e-7)
    x = np.array([-np.inf, -0.0, 0.0, np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(leaky_relu(0.1)(Tensor(x)).asnumpy(), x)
    found = gradient(leaky_relu(0.1), x[:4], np.ones(4, np.float32))
    np.testing.assert_allclose(found, [0.1, 0.1, 0.1, 1.0], rtol=1e-6)


@pytest.mark.parametrize("mode", [GRAPH, EAGER])
def test_mish(mode):
    """Value and gradient over the whole range, those of the closed form on CPU and of the portable spelling."""
    ms.set_context(mode=mode)
    random = np.random.default_rng(5)
    x = np.concatenate([np.linspace(-110, 110, 2201), random.normal(size=800) * 3, [-1e30, -1e-20, 0, 1e-20, 1e30]])
    x = x.astype(np.float32).reshape(2, -1)
    exact = x.astype(np.float64)
    log1p_exp, log_sigmoid = np.logaddexp(0, exact), -np.logaddexp(0, -exact)
    t = np.tanh(log1p_exp)
    slope = t + exact * np.exp(log_sigmoid) / np.cosh(np.minimum(log1p_exp, 300)) ** 2
    weights = random.normal(size=x.shape).astype(np.float32)
    fast, plain = create_activation("mish"), portable(lambda: create_activation("mish"))
    assert type(fast) not in (type(plain), nn.Mish)
    for cell in (fast, plain):
        np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), exact * t, rtol=1e-5, atol=1e-15)
        np.testing.assert_allclose(gradient(cell, x, weights), slope * weights, rtol=1e-5, atol=1e-5)


def test_gradient_of_mish_reaches_the_weights():
    """The closed form is what a training step takes: behind a convolution it equals the portable spelling."""
    conv = nn.Conv2d(3, 4, 3, pad_mode="pad", padding=1)
    random = np.random.default_rng(6)
    x, weights = (random.normal(size=(2, channels, 5, 5)).astype(np.float32) for channels in (3, 4))
    fast, plain = (
        gradients(nn.SequentialCell(conv, mish).set_train(), x, weights, conv.weight)
        for mish in (create_activation("mish"), portable(lambda: create_activation("mish")))
    )
    for mine, reference in zip(fast, plain):
        np.testing.assert_allclose(mine, reference, rtol=1e-4, atol=1e-5 * np.abs(reference).max())
        assert np.abs(reference).max() > 0.1


def pooled(x: np.ndarray) -> np.ndarray:
    """2x2 maximum with stride 2, a half window at the end of an odd side."""
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (0, height % 2), (0, width % 2)), constant_values=-np.inf)
    return padded.reshape(*x.shape[:2], (height + 1) // 2, 2, (width + 1) // 2, 2).max((3, 5))


@pytest.mark.parametrize("size", [(8, 8), (8, 7), (5, 2), (1, 1)])
@pytest.mark.parametrize("ties", [False, True])
def test_max_pool(size, ties):
    random, shape = np.random.default_rng(4), (2, 3, *size)
    x = (random.integers(-1, 2, shape) if ties else random.normal(size=shape)).astype(np.float32)
    fast, plain = max_pool_2x2(), nn.MaxPool2d(kernel_size=2, stride=2, pad_mode="same")
    for cell in (fast, plain):
        np.testing.assert_array_equal(cell(Tensor(x)).asnumpy(), pooled(x))
    weights = random.normal(size=pooled(x).shape).astype(np.float32)
    np.testing.assert_array_equal(gradient(fast, x, weights), gradient(plain, x, weights))
    np.testing.assert_allclose(gradient(fast, x, weights).sum(), weights.sum(), rtol=1e-4)


@pytest.mark.parametrize("size, mode", [((1, 1), EAGER), ((40, 33), EAGER), ((7, 5), GRAPH)])
def test_spatial_mean_and_scale(size, mode):
    """Values and gradients of the mean over an image, and of the product with a factor for each channel."""
    ms.set_context(mode=mode)
    random = np.random.default_rng(8)
    x, weights = (random.normal(size=(2, 3, *size)).astype(np.float32) for _ in range(2))
    factors = random.normal(size=(2, 3, 1, 1)).astype(np.float32)
    mean, scale = spatial_mean(), scale_channels()
    np.testing.assert_allclose(mean(Tensor(x)).asnumpy(), x.mean((2, 3), keepdims=True), atol=1e-6)
    each = factors / (size[0] * size[1]) * np.ones_like(x)
    np.testing.assert_allclose(gradient(mean, x, factors), each, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(scale(Tensor(x), Tensor(factors)).asnumpy(), x * factors)
    both = ms.grad(WeightedScale(scale), (1, 2))(Tensor(weights), Tensor(x), Tensor(factors))
    np.testing.assert_array_equal(both[0].asnumpy(), weights * factors)
    np.testing.assert_allclose(both[1].asnumpy(), (weights * x).sum((2, 3), keepdims=True), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "kernel_size, stride, size, mode",
    [
        (3, 1, (7, 5), EAGER),
        (5, 2, (7, 7), EAGER),
        (5, 1, (1, 4), EAGER),
        (3, 2, (6, 9), EAGER),
        (5, 1, (14, 13), EAGER),
    ]
    + [(3, 1, (71, 60), EAGER), (5, 2, (128, 131), EAGER), (5, 2, (7, 8), GRAPH), (3, 2, (128, 131), GRAPH)],
)
def test_depthwise_convolution(kernel_size, stride, size, mode, monkeypatch):
    """Small planes, and such whose weight gradient is a convolution of its own: values and gradients of nn.Conv2d."""
    ms.set_context(mode=mode)
    monkeypatch.setattr("os.cpu_count", lambda: 2)  # decides what is large
    random, channels = np.random.default_rng(9), 3
    x = random.normal(size=(2, channels, *size)).astype(np.float32)
    fast = depthwise_conv(channels, kernel_size, stride).set_train()
    plain = portable(lambda: depthwise_conv(channels, kernel_size, stride))
    assert type(plain) is nn.Conv2d and type(fast) is not nn.Conv2d
    plain.weight.set_data(fast.weight.value())
    results = []
    for cell in (fast, plain):
        y = cell(Tensor(x)).asnumpy()
        assert y.shape[2:] == tuple(-(-side // stride) for side in size)
        results.append([y, *gradients(cell, x, 2 * y, cell.weight)])
    for mine, reference in zip(*results):
        np.testing.assert_allclose(mine, reference, rtol=1e-5, atol=1e-5 * np.abs(reference).max())
    fast.set_train(False)  # the framework's own convolution: not a bit depends on the other pictures of a batch
    np.testing.assert_array_equal(fast(Tensor(x)).asnumpy(), plain(Tensor(x)).asnumpy())


def test_swish_and_activations_by_name():
    random = np.random.default_rng(10)
    x, weights = (random.normal(size=(2, 3, 5, 5)).astype(np.float32) for _ in range(2))
    s = 1 / (1 + np.exp(-x.astype(np.float64)))
    for cell in (create_activation("swish"), portable(lambda: create_activation("swish"))):
        np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), x * s, atol=1e-6)
        np.testing.assert_allclose(gradient(cell, x, weights), weights * (s + x * s * (1 - s)), atol=1e-5)
    x = Tensor(np.array([-2.0, 3.0], np.float32))
    assert create_activation("relu")(x).asnumpy().tolist() == [0, 3]
    np.testing.assert_allclose(create_activation("leaky_relu")(x).asnumpy(), [-0.2, 3], rtol=1e-6)
    np.testing.assert_allclose(create_activation("leaky_relu", 0.25)(x).asnumpy(), [-0.5, 3], rtol=1e-6)


@pytest.mark.parametrize("name", ["", "ReLU"])
def test_activations_that_are_none(name):
    with pytest.raises(ValueError, match=f"activation={name}: leaky_relu, relu, mish and swish are accepted"):
        create_activation(name)


@pytest.mark.parametrize("slope", [-0.1, 1.0, float("nan")])
def test_slopes_that_cannot_be(slope):
    with pytest.raises(ValueError, match=f"negative_slope={slope}: 0 or more and below 1 is accepted"):
        create_activation("leaky_relu", slope)
    create_activation("mish", slope)  # has none


def test_portable_operators(monkeypatch):
    """Those of the framework; other devices have them always."""

    def names() -> list[str]:
        return [type(leaky_relu(0.1)).__name__, type(max_pool_2x2()).__name__]

    plain = ["LeakyReLU", "MaxPool2d"]
    with pytest.raises(KeyError), portable_operators():
        with portable_operators():
            assert names() == plain
        assert names() == plain
        raise KeyError
    assert names() != plain
    monkeypatch.setattr(ms, "get_context", lambda _key: "Ascend")
    assert names() == plain


# ---- darknet's block


def convolved(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """Cross-correlation of (N, C, H, W) with (out, C, k, k), k // 2 zeros on all sides, in float64."""
    k = weight.shape[2]
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), (2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", windows, weight.astype(np.float64))


def set_randomly(block: nn.Cell, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights and statistics that are nobody's defaults, by their names, as (out, 1, 1) in float64 but for the kernel."""
    for parameter in block.get_parameters():
        parameter.set_data(Tensor(random.uniform(0.5, 1.5, parameter.shape).astype(np.float32)))
    values = {p.name: p.asnumpy().astype(np.float64) for p in block.get_parameters()}
    return {name: value if value.ndim == 4 else value[:, None, None] for name, value in values.items()}


@pytest.mark.parametrize("kernel_size, stride, size", [(3, 1, (5, 6)), (3, 2, (7, 4)), (1, 1, (4, 4)), (5, 2, (6, 5))])
def test_conv_block(kernel_size, stride, size):
    """Evaluation and training in float64; training moves the stored statistics by a tenth."""
    random, eps, slope = np.random.default_rng(12), 1e-3, 0.2
    block = ConvBlock(3, 4, kernel_size, stride, "leaky_relu", slope, eps)
    values = set_randomly(block, random)
    assert list(values) == ["conv.weight", "bn.moving_mean", "bn.moving_variance", "bn.gamma", "bn.beta"]
    x = random.normal(size=(2, 3, *size)).astype(np.float32)
    y = convolved(x, values["conv.weight"], stride)
    assert y.shape[2:] == tuple(-(-side // stride) for side in size)

    def output(mean, variance):
        normed = (y - mean) / np.sqrt(variance + eps) * values["bn.gamma"] + values["bn.beta"]
        return np.where(normed > 0, normed, slope * normed)

    found = block.set_train(False)(Tensor(x)).asnumpy()
    np.testing.assert_allclose(found, output(values["bn.moving_mean"], values["bn.moving_variance"]), atol=2e-5)
    mean, variance = (getattr(y, name)((0, 2, 3))[:, None, None] for name in ("mean", "var"))
    np.testing.assert_allclose(block.set_train()(Tensor(x)).asnumpy(), output(mean, variance), atol=2e-5)
    moved = 0.9 * values["bn.moving_mean"] + 0.1 * mean
    np.testing.assert_allclose(block.bn.moving_mean.asnumpy(), moved[:, 0, 0], rtol=1e-5, atol=1e-5)
    count = y.size / 4
    moved = 0.9 * values["bn.moving_variance"] + 0.1 * variance * count / (count - 1)
    np.testing.assert_allclose(block.bn.moving_variance.asnumpy(), moved[:, 0, 0], rtol=1e-4)


def test_conv_block_at_the_start():
    """He's initialization for the values that go in: a variance of 2 / (C k k); the batch norm changes nothing."""
    ms.set_seed(1)
    block = ConvBlock(32, 64, 3)
    weight = block.conv.weight.asnumpy()
    assert weight.std() == pytest.approx(np.sqrt(2 / (32 * 9)), rel=0.03) and abs(weight.mean()) < 1e-3
    assert (block.bn.gamma.asnumpy() == 1).all() and (block.bn.beta.asnumpy() == 0).all() and block.bn.eps == 1e-5
    assert not block.conv.has_bias


def test_conv_block_has_the_activation_that_it_is_told():
    mish, leaky = ConvBlock(1, 1, 1, activation="mish"), ConvBlock(1, 1, 1, negative_slope=0.3)
    for block, wanted in ((mish, -0.30340146), (leaky, -0.3)):
        block.set_train(False).conv.weight.set_data(Tensor(np.full((1, 1, 1, 1), -1, np.float32)))
        found = float(block(Tensor(np.ones((1, 1, 1, 1), np.float32))).asnumpy().item())
        assert found == pytest.approx(wanted, rel=1e-4)
    with pytest.raises(ValueError, match="activation=gelu"):
        ConvBlock(1, 1, 1, activation="gelu")

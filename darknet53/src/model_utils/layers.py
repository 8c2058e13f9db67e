# Shared file: source utils/model_utils/layers.py; copy with: python scripts/sync_model_utils.py --write
"""Layers whose fastest spelling depends on the device, and those that several networks are built of.

Each is one mathematical function on every device; what a layer is called here is the one place where it is spelled.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import HeNormal

from . import device_adapter

_portable = False


@contextlib.contextmanager
def portable_operators() -> Iterator[None]:
    """Cells built inside use the framework's own operators: what an exported graph shall hold on every device."""
    global _portable
    before, _portable = _portable, True
    try:
        yield
    finally:
        _portable = before


def _use_cpu_spelling() -> bool:
    return not _portable and device_adapter.current_target() == "CPU"


class _CPULeakyReLU(nn.Cell):
    """Leaky ReLU as (1 - s) relu(x) + s x: MindSpore's own has a backward that is 7 times slower on CPU."""

    def __init__(self, negative_slope: float):
        super().__init__()
        self.negative_slope, self.positive_part = negative_slope, 1.0 - negative_slope

    def construct(self, x):
        return self.positive_part * ops.relu(x) + self.negative_slope * x


def leaky_relu(negative_slope: float = 0.1) -> nn.Cell:
    """Leaky ReLU cell: x for x > 0, negative_slope * x otherwise; any shape."""
    return _CPULeakyReLU(negative_slope) if _use_cpu_spelling() else nn.LeakyReLU(negative_slope)


def create_activation(name: str, negative_slope: float = 0.1) -> nn.Cell:
    """Activation cell, any shape.

    leaky_relu (with `negative_slope`), relu, mish (Misra 2019: x tanh(ln(1 + e^x))) or swish (Ramachandran, Zoph and Le
    2017, also called SiLU: x sigmoid(x)).

    Raises:
        ValueError: another name, or a slope outside [0, 1).
    """
    if name == "leaky_relu":
        if not 0 <= negative_slope < 1:
            raise ValueError(f"negative_slope={negative_slope}: 0 or more and below 1 is accepted")
        return leaky_relu(negative_slope)
    if name not in ("relu", "mish", "swish"):
        raise ValueError(f"activation={name}: leaky_relu, relu, mish and swish are accepted")
    if name == "relu":
        return nn.ReLU()
    if name == "swish":
        return _Swish() if _portable or _use_cpu_spelling() else nn.SiLU()
    if _portable:
        return _PortableMish()
    return _CPUMish() if _use_cpu_spelling() else nn.Mish()


class _CPUMish(nn.Cell):
    """x t with t = tanh(ln(1 + e^x)) = u / (2 - u), u = s (2 - s), s = sigmoid(x).

    On CPU, MindSpore's own is not finite for x of 44.4 and more, and its gradient is off by up to 9e-4. The derivative
    in closed form, t + x s (1 - t^2), takes a third of the time of what the framework derives from the formula.
    """

    def construct(self, x):
        s = ops.sigmoid(x)
        u = s * (2.0 - s)
        return x * (u / (2.0 - u))

    def bprop(self, x, out, dout):
        s = ops.sigmoid(x)
        u = s * (2.0 - s)
        t = u / (2.0 - u)
        return (dout * (t + x * s * (1.0 - t * t)),)


class _PortableMish(nn.Cell):
    """x u / (2 - u) with u = t (2 - t), t = sigmoid(x): the exporter of ONNX has no Mish."""

    def construct(self, x):
        t = ops.sigmoid(x)
        u = t * (2 - t)
        return x * u / (2 - u)


class _Swish(nn.Cell):
    """x sigmoid(x): the exporter of ONNX has no SiLU, and that of the CPU takes the sigmoid anew for the gradient."""

    def construct(self, x):
        return x * ops.sigmoid(x)


class _CPUSpatialMean(nn.Cell):
    """The mean as a product of matrices: CPU reductions over two axes take four times as long, in both directions."""

    def construct(self, x):
        n, c, h, w = x.shape
        weights = ops.full((h * w, 1), 1.0 / (h * w), dtype=x.dtype)
        return ops.matmul(x.reshape((n * c, h * w)), weights).reshape((n, c, 1, 1))


class _SpatialMean(nn.Cell):
    def construct(self, x):
        return x.mean((2, 3), keep_dims=True)


def spatial_mean() -> nn.Cell:
    """Mean over height and width, (N, C, H, W) to (N, C, 1, 1)."""
    return _CPUSpatialMean() if _use_cpu_spelling() else _SpatialMean()


class _Scale(nn.Cell):
    def construct(self, x, factors):
        return x * factors


class _CPUScale(nn.Cell):
    """The gradient by the factors is summed over one axis instead of two."""

    def construct(self, x, factors):
        return x * factors

    def bprop(self, x, factors, _, gradient):
        n, c, h, w = x.shape
        by_factors = (gradient * x).reshape((n * c, h * w)).sum(1).reshape((n, c, 1, 1))
        return gradient * factors, by_factors


def scale_channels() -> nn.Cell:
    """Product of x (N, C, H, W) and factors (N, C, 1, 1)."""
    return _CPUScale() if _use_cpu_spelling() else _Scale()


def depthwise_conv(channels: int, kernel_size: int, stride: int = 1, **options) -> nn.Conv2d:
    """Convolution of each channel with a kernel of its own, without bias; (N, C, H, W) to (N, C, ceil(H/s), ceil(W/s)).

    Args:
        channels: C.
        kernel_size: odd; the padding is kernel_size // 2 on all sides.
        stride: s.
        **options: weight_init and the like of nn.Conv2d.
    """
    build = _CPUDepthwiseConv if _use_cpu_spelling() else nn.Conv2d
    return build(
        channels, channels, kernel_size, stride, pad_mode="pad", padding=kernel_size // 2, group=channels, **options
    )  # fmt: skip


# Output values of a plane, for each thread, from which on oneDNN shares the weight gradient of a depthwise convolution
# between threads within the plane instead of by channels, and takes 6 to 20 times as long for a value.
LARGE_PLANE = 256


# Input times output values of a plane up to which a depthwise convolution is a product of matrices in training.
DENSE_PLANE = 2500


class _CPUDepthwiseConv(nn.Conv2d):
    """Where the framework's convolution or its gradient by the weights is slow, it is spelled in another way.

    On a large plane that gradient is a convolution of its own. On a small one, oneDNN's product of matrices for each
    picture and channel is mostly overhead; in training each channel is one product instead, of its planes in all
    pictures by the matrix of the convolution. Evaluation stays as it is, so that an output does not depend on the
    neighbours in its batch, not even in the last bit.
    """

    def __init__(self, channels: int, _, kernel_size: int, stride: int, **options):
        super().__init__(channels, channels, kernel_size, stride, **options)
        self.operator = ops.Conv2D(
            channels, kernel_size, pad_mode="pad", pad=kernel_size // 2, stride=stride, group=channels
        )  # fmt: skip
        self.with_weight_gradient = _DepthwiseWeightGradient(kernel_size, stride)
        self.large = LARGE_PLANE * max(2, os.cpu_count() or 1) * stride * stride
        self.side, self.step, self.product = kernel_size, stride, ops.BatchMatMul()

    def construct(self, x):
        n, c, h, w = x.shape
        out = (-(-h // self.step), -(-w // self.step))
        if self.training and h * w * out[0] * out[1] <= DENSE_PLANE:
            places = kernel_places(self.side, self.step, h, w)  # (k k, h w out)
            matrices = ops.matmul(self.weight.reshape((c, -1)), places).reshape((c, h * w, -1))
            y = self.product(x.reshape((n, c, h * w)).transpose((1, 0, 2)), matrices)  # (c, n, out)
            return y.transpose((1, 0, 2)).reshape((n, c, out[0], out[1]))
        if h * w < self.large:
            return self.operator(x, self.weight)
        y = self.operator(x, ops.stop_gradient(self.weight))
        return self.with_weight_gradient(ops.stop_gradient(x), self.weight, y)


@ops.constexpr
def kernel_places(side: int, step: int, height: int, width: int) -> Tensor:
    """Which value of a kernel joins which input with which output: (side side, height width out) of 0 and 1, float32."""
    rows, columns = ([(i, step * o + i - side // 2, o) for i in range(side) for o in range(-(-length // step))]
                     for length in (height, width))  # kernel, input, output  # fmt: skip
    places = np.zeros((side, side, height, width, -(-height // step), -(-width // step)), np.float32)
    for i, y, out_y in rows:
        for j, x, out_x in columns:
            if 0 <= y < height and 0 <= x < width:
                places[i, j, y, x, out_y, out_x] = 1
    return Tensor(places.reshape((side * side, -1)))


class _DepthwiseWeightGradient(nn.Cell):
    """Called with (x, weight, y), returns y, their depthwise convolution, whose gradient by the weight it takes over.

    Each channel's gradient is the convolution of its image with the gradient of its output as the kernel, dilated by the
    stride.
    """

    def __init__(self, kernel_size: int, stride: int):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride

    def construct(self, x, weight, y):
        return y

    def bprop(self, x, weight, y, _, gradient):
        (n, c, h, w), k = x.shape, self.kernel_size
        kernels = gradient.reshape((n * c, 1, y.shape[2], y.shape[3]))
        image = x.reshape((1, n * c, h, w))
        parts = ops.conv2d(image, kernels, None, 1, "pad", k // 2, self.stride, n * c)[:, :, :k, :k]
        return ops.zeros_like(x), parts.reshape((n, c, k, k)).sum(0).reshape((c, 1, k, k)), gradient


class _CPUMaxPool2x2(nn.Cell):
    """Even sides go through the adaptive pool, whose backward takes a third of the time of MaxPool2d's on CPU."""

    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2, pad_mode="same")

    def construct(self, x):
        height, width = x.shape[2:]
        if height % 2 == 0 and width % 2 == 0:
            return ops.adaptive_max_pool2d(x, (height // 2, width // 2))
        return self.pool(x)


def max_pool_2x2() -> nn.Cell:
    """Max pool 2x2 with stride 2, (N, C, H, W) to (N, C, ceil(H/2), ceil(W/2)); an odd side has a half window at its end."""
    return _CPUMaxPool2x2() if _use_cpu_spelling() else nn.MaxPool2d(kernel_size=2, stride=2, pad_mode="same")


class ConvBlock(nn.Cell):
    """Convolution without bias and with symmetric padding, batch norm, activation: darknet's building block.

    (N, C, H, W) to (N, out, ceil(H/s), ceil(W/s)).

    Args:
        in_channels: C.
        out_channels: out.
        kernel_size: odd; the padding is kernel_size // 2 on all sides.
        stride: s.
        activation: a name that `create_activation` knows.
        negative_slope: of a leaky ReLU.
        bn_eps: added to the batch-norm variance inside the root.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        activation: str = "leaky_relu",
        negative_slope: float = 0.1,
        bn_eps: float = 1e-5,
    ):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride,
            pad_mode="pad", padding=kernel_size // 2, weight_init=HeNormal(),
        )  # fmt: skip
        self.bn = nn.BatchNorm2d(out_channels, eps=bn_eps, momentum=0.9)  # keeps 0.9 of the old statistics
        self.activation = create_activation(activation, negative_slope)

    def construct(self, x):
        return self.activation(self.bn(self.conv(x)))

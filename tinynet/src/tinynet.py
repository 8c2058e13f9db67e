"""TinyNet: EfficientNet-B0 twisted in resolution r, depth d and width w.

Paper: Han et al., "Model Rubik's Cube: Twisting Resolution, Depth and Width for TinyNets", NeurIPS 2020, section 3 and
table 3; the blocks are those of Tan and Le, "EfficientNet", ICML 2019, table 1. Reference implementation with whose
outputs it agrees, and whose parameter names it has: timm's `tinynet_a` to `tinynet_e`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import nn, ops
from mindspore.common.initializer import Normal, Uniform

from .model_utils.errors import require_range
from .model_utils.layers import create_activation, depthwise_conv, scale_channels, spatial_mean
from .stochastic import Uniform as RandomUniform
from .stochastic import keep


class Twist(NamedTuple):
    """Multipliers of the resolution 224, of the channels and of the blocks of EfficientNet-B0."""

    resolution: float
    width: float
    depth: float


TWISTS = {
    "tinynet_a": Twist(0.86, 1.0, 1.2),
    "tinynet_b": Twist(0.84, 0.75, 1.1),
    "tinynet_c": Twist(0.825, 0.54, 0.85),
    "tinynet_d": Twist(0.68, 0.54, 0.695),
    "tinynet_e": Twist(0.475, 0.51, 0.60),
}


class Stage(NamedTuple):
    """Blocks of one kind in EfficientNet-B0; the first block of a stage has its stride."""

    repeats: int
    kernel_size: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280  # of all five
SQUEEZE_RATIO = 0.25  # of the channels that enter a block


def input_side(model: str) -> int:
    """Height and width of the model's input in pixels: 192, 188, 184, 152, 106."""
    return int(224 * TWISTS[model].resolution)


def model_blocks(model: str) -> list[int]:
    """Blocks of each stage of a model."""
    return [max(1, round(stage.repeats * TWISTS[model].depth)) for stage in STAGES]


def scaled_channels(channels: int, width: float) -> int:
    """The multiple of 8 next to channels * width, of at least 8 and of more than 90 % of the product."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def convolution(in_channels: int, channels: int, kernel_size: int, stride: int = 1, **options) -> nn.Conv2d:
    """Symmetric padding; He initialisation by the fan-out (He et al. 2015, section 2.2)."""
    return nn.Conv2d(
        in_channels, channels, kernel_size, stride, pad_mode="pad", padding=kernel_size // 2,
        weight_init=he_by_fan_out(kernel_size, channels), bias_init="zeros", **options,
    )  # fmt: skip


def he_by_fan_out(kernel_size: int, channels: int) -> Normal:
    """Normal distribution for kernels whose inputs each meet `channels` outputs."""
    return Normal(np.sqrt(2.0 / (kernel_size**2 * channels)))


class SqueezeExcite(nn.Cell):
    """x * sigmoid(expand(swish(reduce(mean of x)))): one factor for each channel; (N, C, H, W) is kept.

    Source: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, section 3.
    """

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.conv_reduce = convolution(channels, squeezed, 1, has_bias=True)
        self.act = create_activation("swish")
        self.conv_expand = convolution(squeezed, channels, 1, has_bias=True)
        self.mean, self.scale = spatial_mean(), scale_channels()

    def construct(self, x):
        gate = self.conv_expand(self.act(self.conv_reduce(self.mean(x))))
        return self.scale(x, ops.sigmoid(gate))


class Block(nn.Cell):
    """Expand 1x1, depthwise, squeeze-and-excite, project 1x1; plus the input where its shape is that of the output.

    (N, in, H, W) to (N, out, ceil(H/s), ceil(W/s)). The blocks of expansion 1 have no first part. In training, with a
    rate p, the branch beside the input is dropped for a sample with probability p and scaled by 1 / (1 - p) otherwise
    (Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016, as EfficientNet has it).
    """

    def __init__(
        self, in_channels: int, channels: int, kernel_size: int, stride: int, expansion: int, norm: dict[str, float]
    ):
        super().__init__()
        hidden = in_channels * expansion
        self.expands = expansion > 1
        self.is_residual = stride == 1 and in_channels == channels
        self.drop_rate = 0.0
        self.act = create_activation("swish")
        depthwise = depthwise_conv(hidden, kernel_size, stride, weight_init=he_by_fan_out(kernel_size, 1))
        squeeze_excite = SqueezeExcite(hidden, max(1, int(in_channels * SQUEEZE_RATIO)))
        project = convolution(hidden, channels, 1)
        widths = [hidden] * (1 + self.expands) + [channels]
        norms = [nn.BatchNorm2d(width, **norm) for width in widths]
        # The names, and the order of the parameters, are those of timm.
        if self.expands:
            self.conv_pw, self.bn1 = convolution(in_channels, hidden, 1), norms[0]
            self.conv_dw, self.bn2 = depthwise, norms[1]
            self.se, self.conv_pwl, self.bn3 = squeeze_excite, project, norms[2]
            self.norm_of = {"conv_pw": "bn1", "conv_dw": "bn2", "conv_pwl": "bn3"}
        else:
            self.conv_dw, self.bn1 = depthwise, norms[0]
            self.se, self.conv_pw, self.bn2 = squeeze_excite, project, norms[1]
            self.norm_of = {"conv_dw": "bn1", "conv_pw": "bn2"}

    def construct(self, x, noise=None):
        if self.expands:
            branch = self.act(self.bn1(self.conv_pw(x)))
            branch = self.act(self.bn2(self.conv_dw(branch)))
            branch = self.bn3(self.conv_pwl(self.se(branch)))
        else:
            branch = self.act(self.bn1(self.conv_dw(x)))
            branch = self.bn2(self.conv_pw(self.se(branch)))
        if not self.is_residual:
            return branch
        if noise is not None and self.drop_rate > 0:
            branch = branch * keep(noise, self.drop_rate).astype(branch.dtype)
        return x + branch


class TinyNet(nn.Cell):
    """(N, 3, H, W) float32 images to (N, num_classes) float32 logits. Arguments: see `tinynet`."""

    def __init__(self, model: str, num_classes: int, norm: dict[str, float], stage_blocks: Sequence[int]):
        super().__init__()
        width = TWISTS[model].width
        self.conv_stem = convolution(3, STEM_CHANNELS, 3, 2)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS, **norm)
        stages, in_channels = [], STEM_CHANNELS
        for stage, repeats in zip(STAGES, stage_blocks):
            channels, blocks = scaled_channels(stage.channels, width), []
            for index in range(repeats):
                stride = stage.stride if index == 0 else 1
                blocks.append(Block(in_channels, channels, stage.kernel_size, stride, stage.expansion, norm))
                in_channels = channels
            stages.append(nn.CellList(blocks))
        self.blocks = nn.CellList(stages)
        self.conv_head = convolution(in_channels, HEAD_CHANNELS, 1)
        self.bn2 = nn.BatchNorm2d(HEAD_CHANNELS, **norm)
        self.classifier = nn.Dense(
            HEAD_CHANNELS, num_classes, weight_init=Uniform(num_classes**-0.5), bias_init="zeros"
        )
        self.act, self.mean = create_activation("swish"), spatial_mean()
        self.norm_of = {"conv_stem": "bn1", "conv_head": "bn2"}
        self.drop_rate, self.takes_step, self.uniform = 0.0, False, None

    def regularize(self, drop: float, drop_connect: float, seed: int) -> None:
        """Train with dropout before the classifier and drop-connect in the blocks; evaluation is unaffected.

        The rate of block i of n, counted over all stages from 0, is drop_connect * i / n. The network then needs the
        step as a second argument in training.

        Args:
            drop: rate of the dropout, in [0, 1).
            drop_connect: that of the last block, were it residual, in [0, 1).
            seed: the masks follow from it and the step.

        Raises:
            UsageError: a rate outside [0, 1).
        """
        require_range(low=0, below=1, drop=drop, drop_connect=drop_connect)
        blocks = [block for stage in self.blocks for block in stage]
        for index, block in enumerate(blocks):
            block.drop_rate = drop_connect * index / len(blocks)
        self.drop_rate, self.takes_step = drop, drop > 0 or drop_connect > 0
        self.uniform, self.block_count = RandomUniform(seed), len(blocks)

    def construct(self, images, step=None):
        x = self.act(self.bn1(self.conv_stem(images)))
        noise = None
        if self.training and self.takes_step:  # (N, blocks + features), a number for each decision
            columns = self.block_count + HEAD_CHANNELS
            noise = self.uniform(step, images.shape[0] * columns).reshape((-1, columns))
        index = 0
        for stage in self.blocks:
            for block in stage:
                column = None
                if noise is not None:
                    column = noise[:, index].reshape((-1, 1, 1, 1))
                x = block(x, column)
                index += 1
        x = self.mean(self.act(self.bn2(self.conv_head(x)))).reshape((-1, HEAD_CHANNELS))
        if noise is not None and self.drop_rate > 0:
            x = x * keep(noise[:, index:], self.drop_rate).astype(x.dtype)
        return self.classifier(x).astype(ms.float32)


def tinynet(
    model: str = "tinynet_c",
    num_classes: int = 1000,
    bn_momentum: float = 0.1,
    bn_eps: float = 1e-5,
    stage_blocks: Sequence[int] = (),
) -> TinyNet:
    """Build the network, with random weights.

    Args:
        model: tinynet_a, tinynet_b, tinynet_c, tinynet_d or tinynet_e.
        num_classes: width of the output, 1 or more.
        bn_momentum: share of the batch in the running statistics after a step, in (0, 1] (PyTorch's convention).
        bn_eps: added to the batch-norm variance inside the root.
        stage_blocks: blocks of each of the seven stages, 1 or more; empty: those of the model.

    Raises:
        ValueError: a model, a number of classes, blocks or a momentum that cannot be.
    """
    if model not in TWISTS:
        raise ValueError(f"model={model}: {', '.join(TWISTS)} are accepted")
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes}: 1 or more is accepted")
    if not (0 < bn_momentum <= 1 and bn_eps > 0):
        raise ValueError(f"bn_momentum={bn_momentum} bn_eps={bn_eps}: (0, 1] and above 0 are accepted")
    blocks = list(stage_blocks) or model_blocks(model)
    if len(blocks) != len(STAGES) or not all(isinstance(number, int) and number > 0 for number in blocks):
        raise ValueError(f"stage_blocks={blocks}: seven numbers of 1 or more are accepted")
    return TinyNet(model, num_classes, {"momentum": 1 - bn_momentum, "eps": bn_eps}, blocks)

# Shared file: source utils/model_utils/folding.py; copy with: python scripts/sync_model_utils.py --write
"""Batch norm folded into the convolution before it: the same function with less work, for an exported network."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn


def fold_batch_norm(network: nn.Cell) -> nn.Cell:
    """Change a network in place: each convolution takes over the batch norm behind it.

    With the stored statistics batch norm is linear in each channel c, so that convolution and batch norm together are
    one convolution (Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", CVPR 2018, section 3.2):

        weight'[c] = weight[c] * scale[c]                    scale[c] = gamma[c] / sqrt(variance[c] + eps)
        bias'[c]   = beta[c] + (bias[c] - mean[c]) * scale[c]

    computed in float64 and stored in the type of the weights. The parameter names of the convolutions stay; those of
    the batch norms are gone.

    Args:
        network: in evaluation mode, and not called before: a compiled graph would go on with the old weights. In every
            cell that has an nn.Conv2d as `conv` and an nn.BatchNorm2d as `bn` the second directly follows the first. A
            cell with other names for them says so in `norm_of`, a dictionary from convolutions to batch norms.

    Returns:
        The same network.

    Raises:
        ValueError: the network is in training mode.
    """
    for _, cell in list(network.cells_and_names()):
        for conv_name, norm_name in getattr(cell, "norm_of", {"conv": "bn"}).items():
            conv, norm = getattr(cell, conv_name, None), getattr(cell, norm_name, None)
            if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
                continue
            if cell.training or norm.training:
                raise ValueError("batch norm can be folded in evaluation mode only; call set_train(False) before")
            name, folded = conv.weight.name, _folded(conv, norm)
            setattr(cell, conv_name, folded)
            setattr(cell, norm_name, nn.Identity())
            folded.weight.name = name  # the assignment has named the parameters without the cells above this one
            folded.bias.name = name.removesuffix("weight") + "bias"
    return network


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """A convolution with a bias that equals conv and norm together."""
    weight, gamma, beta, mean, variance = (
        value.asnumpy().astype(np.float64)
        for value in (conv.weight, norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    bias = conv.bias.asnumpy().astype(np.float64) if conv.has_bias else 0.0
    scale = gamma / np.sqrt(variance + norm.eps)
    dtype = conv.weight.asnumpy().dtype
    return nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.pad_mode, conv.padding, conv.dilation,
        conv.group, has_bias=True,
        weight_init=Tensor((weight * scale[:, None, None, None]).astype(dtype)),
        bias_init=Tensor((beta + (bias - mean) * scale).astype(dtype)),
    ).set_train(False)  # fmt: skip

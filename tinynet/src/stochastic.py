"""Random numbers that follow from a seed and a step alone: a training that is resumed draws what it would have drawn.

The framework's random operators keep their state inside their kernels, where no checkpoint reaches it. Here a number is
a hash of (seed, step, index) in integer arithmetic, which is the same on every device.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

PRIME = 2**31 - 1
MULTIPLIERS = (48271, 69621, 39373)  # primitive roots of PRIME (Park and Miller 1988; Fishman and Moore 1986)


def modulo(x: Tensor) -> Tensor:
    """x modulo PRIME, for int64 from 0 to 2^62; in single bits, as `%` rounds to float64 on CPU."""
    for _ in range(2):  # 2^31 is 1 modulo PRIME; the second time leaves PRIME at most
        x = (x & PRIME) + ops.bitwise_right_shift(x, 31)
    return x * (x != PRIME)


def mix(x: Tensor) -> Tensor:
    """Hash of int64 numbers in [0, PRIME), element by element: rounds of x -> (a x + 1)^2 + a, all modulo PRIME."""
    for multiplier in MULTIPLIERS:
        x = modulo(multiplier * x + 1)
        x = modulo(x * x + multiplier)  # of a number below 2^62
    return x


class Uniform(nn.Cell):
    """Numbers in [0, 1): called with a step (int32, one element) and a size n, returns (n,) float32 multiples of 2^-24."""

    def __init__(self, seed: int):
        super().__init__()
        self.key = int(np.random.SeedSequence(seed).generate_state(1)[0]) % PRIME

    def construct(self, step, size):
        key = mix(modulo(step.reshape(()).astype(ms.int64) + self.key))
        numbers = mix(modulo(ops.arange(size) + key))
        return ops.bitwise_right_shift(numbers, 7).astype(ms.float32) * (1.0 / (1 << 24))


def keep(uniform: Tensor, rate: float) -> Tensor:
    """Factors of inverted dropout: 0 with probability `rate`, else 1 / (1 - rate), so that the mean is 1.

    Source: Srivastava et al., "Dropout", JMLR 2014, section 10 (scaling at training time).
    """
    return (uniform >= rate).astype(ms.float32) * (1.0 / (1.0 - rate))

# Shared file: source utils/model_utils/train_step.py; copy with: python scripts/sync_model_utils.py --write
"""The compiled training step: forward, backward, all-reduce, loss scale, update, moving average of the weights."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator

import mindspore as ms
from mindspore import Parameter, Tensor, amp, nn, ops

from . import device_adapter
from .checkpoint import EMA_PREFIX, STATE_PREFIX
from .errors import UsageError, require_range


class ExponentialMovingAverage(nn.Cell):
    """average = decay * average + (1 - decay) * weight, for all parameters of the network, on the device.

    Batch-norm statistics take part. The average starts from the initial weights; there is no warm-up correction.
    """

    def __init__(self, network: nn.Cell, decay: float):
        super().__init__(auto_prefix=False)
        self.rate = 1.0 - decay  # in float64: the float32 of 0.9999 leaves 1.0002e-4
        weights = list(network.get_parameters())
        self.weights = ms.ParameterTuple(weights)
        self.averages = ms.ParameterTuple(
            [Parameter(Tensor(p.asnumpy()), name=EMA_PREFIX + p.name, requires_grad=False) for p in weights]
        )

    def construct(self):
        return for_each(ops.partial(approach, Tensor(self.rate, ms.float32)), self.averages, self.weights)


def approach(rate: Tensor, average: Parameter, weight: Parameter) -> Tensor:
    """Move an average towards its weight by a share of the distance."""
    return ops.assign_add(average, rate.astype(weight.dtype) * (weight - average))


for_each = ops.HyperMap()  # over tuples; loops over them take several times as long to compile


def square_sum(gradient: Tensor) -> Tensor:
    """Sum of the squares of all elements, a float32 scalar."""
    return ops.square(gradient.astype(ms.float32)).sum()


def times(factor: Tensor, gradient: Tensor) -> Tensor:
    """The gradient times a factor, in its own type."""
    return gradient * factor.astype(gradient.dtype)


def clip_by_global_norm(gradients: tuple[Tensor, ...], limit: float) -> tuple[Tensor, ...]:
    """All gradients times min(1, limit / norm), where norm is the L2 norm of all of them together.

    Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", 2013, section 3.2. Where
    the norm is within the limit, the factor is exactly 1. (The framework's function of this name multiplies by the
    limit and divides by it again, which moves last bits; it is deprecated.)

    Args:
        gradients: of any shapes, float32 or lower; the norm is computed in float32, so it is finite up to 1.8e19.
        limit: above 0.
    """
    norm = ops.sqrt(ops.addn(for_each(square_sum, gradients)))
    # Some kernels divide by way of the reciprocal, so that x / x may not be 1.
    factor = ops.where(norm > limit, limit / ops.maximum(norm, limit), 1.0)
    return for_each(ops.partial(times, factor), gradients)


def flatten(gradient: Tensor) -> Tensor:
    """All elements in one row, float32."""
    return gradient.reshape((-1,)).astype(ms.float32)


def part(flat: Tensor, start: int, gradient: Tensor) -> Tensor:
    """What lies in `flat` from `start` on, in the shape and type of the gradient."""
    return ops.slice(flat, (start,), (gradient.size,)).reshape(gradient.shape).astype(gradient.dtype)


class _FlatMean(nn.Cell):
    """Mean of the gradients over the ranks, all in one exchange.

    On CPU the framework exchanges each by itself, and a small one takes nearly a millisecond: of a network with two
    hundred of them as long as forward and backward pass.
    """

    def __init__(self, weights: tuple[Parameter, ...], size: int):
        super().__init__(auto_prefix=False)
        self.all_reduce, self.rate = ops.AllReduce(), 1.0 / size
        ends = list(itertools.accumulate(int(p.size) for p in weights))
        self.starts = (0, *ends[:-1])

    def construct(self, gradients):
        flat = self.all_reduce(ops.concat(for_each(flatten, gradients))) * self.rate
        return for_each(ops.partial(part, flat), self.starts, gradients)


def gradient_mean(weights: tuple[Parameter, ...], size: int) -> nn.Cell:
    """Cell from the gradients by the weights to their means over `size` ranks."""
    if device_adapter.current_target() == "CPU":
        return _FlatMean(weights, size)
    return nn.DistributedGradReducer(weights, mean=True, degree=size)


def assign_all(parameters: Iterable[Parameter], values: Iterable[Tensor]) -> None:
    """Give parameters of a step that has run other values.

    Not by `Parameter.set_data`: after it, a graph with branches and loops goes on with the memory that the parameter had
    before, so that all updates from then on are missing from evaluations and checkpoints.
    """
    for parameter, value in zip(parameters, values):
        ops.assign(parameter, value)


@ops.constexpr
def slice_size(batch: int, slices: int) -> int:
    """Images in each of the equal slices of a batch; runs while the step is compiled.

    Raises:
        UsageError: the slices would not be equal.
    """
    if batch % slices:
        raise UsageError(f"accumulate_steps={slices} does not divide the batch of {batch} images")
    return batch // slices


class TrainStep(nn.Cell):
    """One training step on a batch; called with (images, labels), returns (loss, loss scale).

    The loss is float32 and unscaled. Gradients are averaged over the ranks. With a dynamic loss scale a step whose
    gradients overflow changes nothing but the scale, and the batch-norm statistics, which the forward pass moves.

    With accumulate_steps = k the batch is cut into k slices, one after the other; forward and backward pass run on one
    slice at a time, so they need the memory of one. Loss and gradients are averaged over the slices, then all-reduced
    and applied once. The update is that of the whole batch where each image counts by itself; batch norm normalizes
    each slice by its own statistics and moves the stored ones k times.

    Args:
        network: (N, ...) images to predictions; its parameter names stay as they are. One that draws random numbers has
            a true attribute takes_step: it gets a second argument, int32 of one element, that differs for each slice
            of each step and follows from the optimizer's count of steps, which is part of the state.
        loss_fn: (predictions, labels) to a scalar.
        optimizer: its loss_scale stays 1: the gradients that it gets are unscaled.
        loss_scale: fixed scale, or the initial one of the dynamic scale; 1 or more.
        dynamic_loss_scale: double the scale after 2,000 sound steps, halve it on overflow.
        ema_decay: decay of the moving average of the weights, in [0, 1); 0 keeps none.
        size: number of ranks.
        clip_grad_norm: largest L2 norm of all gradients together, unscaled and averaged over slices and ranks; larger
            ones are scaled down to it. 0 does not clip. Whether gradients overflow is decided before.
        accumulate_steps: number of slices of the batch, 1 or more; it divides the batch.

    Raises:
        UsageError: an option out of its range; when the step is compiled, a batch that accumulate_steps does not divide.
    """

    def __init__(
        self,
        network: nn.Cell,
        loss_fn: nn.Cell,
        optimizer: nn.Optimizer,
        *,
        loss_scale: float = 1.0,
        dynamic_loss_scale: bool = False,
        ema_decay: float = 0.0,
        size: int = 1,
        clip_grad_norm: float = 0.0,
        accumulate_steps: int = 1,
    ):
        super().__init__(auto_prefix=False)
        require_range(low=1, loss_scale=loss_scale, accumulate_steps=accumulate_steps)
        require_range(low=0, below=1, ema_decay=ema_decay)
        require_range(low=0, clip_grad_norm=clip_grad_norm)
        self.network, self.loss_fn, self.optimizer = network, loss_fn, optimizer
        # Mixed precision wraps the network in a cell of its own.
        self.takes_step = any(getattr(cell, "takes_step", False) for _, cell in network.cells_and_names())
        self.weights = optimizer.parameters
        self.clip_grad_norm, self.slices = clip_grad_norm, accumulate_steps
        self.dynamic = dynamic_loss_scale
        self.scaler = amp.DynamicLossScaler(loss_scale, 2, 2000) if self.dynamic else amp.StaticLossScaler(loss_scale)
        self.ema = ExponentialMovingAverage(network, ema_decay) if ema_decay else None
        self.reducer = gradient_mean(self.weights, size) if size > 1 else None
        self.grad = ms.value_and_grad(self._scaled_loss, None, self.weights, has_aux=True)

    def _scaled_loss(self, images, labels, number):
        predictions = self.network(images, number) if self.takes_step else self.network(images)
        loss = self.loss_fn(predictions, labels)
        return self.scaler.scale(loss), loss

    def construct(self, images, labels):
        if self.slices == 1:
            (_, loss), gradients = self.grad(images, labels, self.optimizer.global_step)
        else:
            loss, gradients = self._accumulate(images, labels)
        gradients = self.scaler.unscale(gradients)
        if self.reducer is not None:
            gradients = self.reducer(gradients)
        if self.dynamic:
            finite = amp.all_finite(gradients)
            if finite:
                self._update(gradients)
            self.scaler.adjust(finite)
        else:
            self._update(gradients)
        return loss, self.scaler.scale_value

    def _accumulate(self, images, labels):
        """Loss and gradients (scaled), averaged over the slices of the batch."""
        size = slice_size(images.shape[0], self.slices)
        images = images.reshape((self.slices, size) + images.shape[1:])
        labels = labels.reshape((self.slices, size) + labels.shape[1:])
        loss, gradients = Tensor(0, ms.float32), for_each(ops.zeros_like, self.weights)
        index = ms.mutable(Tensor(0, ms.int32))
        while index < self.slices:  # stays a loop in the graph; unrolled, each slice would have kernels of its own
            number = self.optimizer.global_step * self.slices + index
            (_, part_loss), part_gradients = self.grad(images[index], labels[index], number)
            loss = loss + part_loss
            gradients = for_each(ops.add, gradients, part_gradients)
            index = index + 1

        def mean(total):
            return total / self.slices

        return mean(loss), for_each(mean, gradients)

    def _update(self, gradients):
        if self.clip_grad_norm > 0:
            gradients = clip_by_global_norm(gradients, self.clip_grad_norm)
        self.optimizer(gradients)
        if self.ema is not None:
            self.ema()

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the network has the moving averages as its weights."""
        raw = [Tensor(p.asnumpy()) for p in self.ema.weights]
        assign_all(self.ema.weights, [Tensor(average.asnumpy()) for average in self.ema.averages])
        try:
            yield
        finally:
            assign_all(self.ema.weights, raw)

    def training_state(self) -> dict[str, Parameter]:
        """All that a run needs to go on: weights by their plain names, the rest behind a prefix.

        Learning rates and momentum are not state: they follow from the configuration and the optimizer's step.
        """
        state = {p.name: p for p in self.network.get_parameters()}
        own = {id(p) for p in state.values()}
        for p in self.optimizer.get_parameters():
            if id(p) not in own and p.name != "momentum" and not p.name.startswith("learning_rate"):
                state[f"{STATE_PREFIX}optimizer.{p.name}"] = p
        if self.ema is not None:
            state.update({p.name: p for p in self.ema.averages})
        if self.dynamic:
            state[STATE_PREFIX + "loss_scale"] = self.scaler.scale_value
            state[STATE_PREFIX + "loss_scale_counter"] = self.scaler.counter
        return state

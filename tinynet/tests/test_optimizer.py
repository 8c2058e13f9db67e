"""RMSProp against a float64 reference; the same bits from the same input; what the recipe makes of it."""

from __future__ import annotations

from src.model_utils.errors import UsageError
from src.model_utils.optimizers import parameter_groups
from src.optimizer import create_optimizer, rmsprop
from src.recipe import MODEL, read_config
from src.tinynet import tinynet

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, nn

STEPS = 50
RATES = np.linspace(0.05, 0.01, STEPS).astype(np.float32)
SHAPES = dict(
    zip(
        ("conv.weight", "bn.gamma", "bn.beta", "classifier.weight", "classifier.bias"),
        ((8, 3, 3, 3), (8,), (8,), (5, 8), (5,)),
    )
)
WEIGHT_DECAY, HEAD_FACTOR = 0.1, 3.0

pytestmark = pytest.mark.usefixtures("graph")


def start() -> dict[str, np.ndarray]:
    state = np.random.RandomState(2)
    return {name: state.randn(*shape).astype(np.float32) for name, shape in SHAPES.items()}


def gradients(step: int) -> dict[str, np.ndarray]:
    """Of very different sizes, so that epsilon counts in some and not in others."""
    state = np.random.RandomState([3, step])
    scales = dict(zip(SHAPES, (0.01, 1.0, 0.03, 0.1, 10.0)))
    return {name: (scales[name] * state.randn(*shape)).astype(np.float32) for name, shape in SHAPES.items()}


def result(decay=0.9, momentum=0.9, epsilon=1e-3, steps: int = STEPS) -> dict[str, np.ndarray]:
    """The weights after these steps of RMSProp."""
    parameters = [Parameter(ms.Tensor(value), name=name) for name, value in start().items()]
    groups = parameter_groups(parameters, RATES, WEIGHT_DECAY, MODEL.is_head, HEAD_FACTOR)
    optimizer = rmsprop(groups, ms.Tensor(RATES), decay, momentum, epsilon)
    for step in range(steps):
        optimizer(tuple(ms.Tensor(gradient) for gradient in gradients(step).values()))
    return {parameter.name: parameter.asnumpy() for parameter in parameters}


def reference(
    decay=0.9, momentum=0.9, epsilon=1e-3, *, inside=True, steps=STEPS, weight_decay=WEIGHT_DECAY, head=HEAD_FACTOR
):
    """RMSProp of TensorFlow in float64; with epsilon outside of the root, that of PyTorch but for its start."""
    weights = {name: value.astype(np.float64) for name, value in start().items()}
    squares = {name: np.ones_like(value) for name, value in weights.items()}
    moments = {name: np.zeros_like(value) for name, value in weights.items()}
    for step in range(steps):
        for name, gradient in gradients(step).items():
            gradient = gradient + (weight_decay if name.endswith(".weight") else 0) * weights[name]
            rate = float(RATES[step]) * (head if name.startswith("classifier.") else 1)
            squares[name] = decay * squares[name] + (1 - decay) * gradient**2
            root = np.sqrt(squares[name] + epsilon) if inside else np.sqrt(squares[name]) + epsilon
            moments[name] = momentum * moments[name] + rate * gradient / root
            weights[name] = weights[name] - moments[name]
    return weights


def error(found: dict, expected: dict) -> float:
    """Largest difference of a weight, of its largest change."""
    first = start()
    return max(np.abs(found[n] - expected[n]).max() / np.abs(expected[n] - first[n]).max() for n in expected)


def test_rmsprop_equals_float64():
    """Epsilon outside of the root, decay of all weights or of none, one rate for all: these would be seen."""
    found = result()
    assert error(found, reference()) <= 1e-5
    for wrong in (
        {"inside": False},
        {"weight_decay": 0.0},
        {"weight_decay": 0.099},
        {"head": 1.0},
        {"epsilon": 1.1e-3},
    ):
        assert error(found, reference(**wrong)) > 1e-4, wrong


@pytest.mark.parametrize("numbers", [(0.9, 0.0, 1e-3), (0.0, 0.9, 0.5), (0.99, 0.5, 1.0)])
def test_other_constants(numbers):
    assert error(result(*numbers, steps=10), reference(*numbers, steps=10)) <= 1e-5


def test_agrees_with_the_framework():
    """On weights of three elements: the CPU kernel adds epsilon outside of the root in groups of eight or so."""
    first, slopes = np.float32([0.5, -1.0, 2.0]), np.random.RandomState(4).randn(STEPS, 3).astype(np.float32)
    for numbers in ((0.9, 0.9, 1e-3), (0.8, 0.5, 0.5)):
        results = []
        for create in (rmsprop, nn.RMSProp):
            weight = Parameter(ms.Tensor(first), name="a.weight")
            optimizer = create([{"params": [weight], "weight_decay": 0.1}], ms.Tensor(RATES), *numbers)
            for slope in slopes:
                optimizer((ms.Tensor(slope),))
            results.append(weight.asnumpy())
        assert np.abs(results[0] - results[1]).max() <= 1e-5 * np.abs(results[1] - first).max()


def test_same_bits_each_time():
    """Sizes that threads cannot share equally."""
    state = np.random.RandomState(4)
    first = [state.randn(size).astype(np.float32) for size in (40007, 123457)]
    slopes = [ms.Tensor(state.randn(value.size).astype(np.float32)) for value in first]
    runs = []
    for _ in range(2):
        weights = [Parameter(ms.Tensor(value), name=f"w{i}.weight") for i, value in enumerate(first)]
        optimizer = rmsprop([{"params": weights, "weight_decay": 1e-2}], ms.Tensor(np.full(100, 0.01, np.float32)))
        for step in range(100):
            optimizer(tuple(slope * (0.5 + step % 3) for slope in slopes))
        runs.append([weight.asnumpy() for weight in weights])
    for one, other, value in zip(*runs, first):
        np.testing.assert_array_equal(one, other)
        assert np.abs(one - value).min() > 0


@pytest.mark.parametrize("numbers", [(1.0, 0.9, 1e-3), (0.9, 1.0, 1e-3), (0.9, 0.9, 0.0), (-0.1, 0.9, 1e-3)])
def test_impossible_numbers_are_refused(numbers):
    weight = Parameter(ms.Tensor([1.0]), name="weight")
    with pytest.raises(UsageError, match=r"^(decay|momentum|opt_eps)=[-.\d]+: "):
        rmsprop([{"params": [weight]}], ms.Tensor(RATES), *numbers)


# ---- The optimizer of a recipe ---------------------------------------------------------------------------------------


def of_recipe(text: str) -> nn.Optimizer:
    config, network = read_config(text.split(), ""), tinynet("tinynet_e", 3, stage_blocks=[1] * 7)
    return create_optimizer(config, network, RATES, MODEL.is_head)


def test_optimizer_has_the_numbers_of_the_recipe():
    optimizer = of_recipe("--opt-eps 0.5 --momentum 0.7 --weight_decay 0.25 --head_lr_factor 3")
    assert (optimizer.decay, optimizer.momentum, optimizer.epsilon) == (0.9, 0.7, 0.5)
    names = [parameter.name for parameter in optimizer.parameters]
    decayed = {name for name, decay in zip(names, optimizer.weight_decay) if float(decay) == 0.25}
    assert decayed == {name for name in names if not name.endswith((".bias", ".gamma", ".beta"))}
    last, rates = ms.Tensor([STEPS - 1], ms.int32), {}
    for name, schedule in zip(names, optimizer.learning_rate):
        rates[name] = schedule(last).asnumpy().item() / RATES[-1]
    head = {"classifier.weight", "classifier.bias"}
    assert rates == pytest.approx({name: 3 if name in head else 1 for name in names})


def test_sgd_of_the_recipe():
    optimizer = of_recipe("--opt sgd --momentum 0.7")
    assert type(optimizer) is nn.Momentum and float(optimizer.momentum.asnumpy()) == pytest.approx(0.7)

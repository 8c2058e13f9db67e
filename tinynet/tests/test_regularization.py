"""Dropout and drop-connect: their rates, where they act, and that their masks follow from seed and step alone."""

from __future__ import annotations

from conftest import running
from src import stochastic
from src.model_utils.errors import UsageError
from src.tinynet import HEAD_CHANNELS, tinynet

import mindspore as ms
import numpy as np
import pytest

PRIME = 2**31 - 1
SIGMAS = 4.5  # a sound generator fails one of a hundred thousand such comparisons; the seeds are fixed
RESIDUAL = {4: "blocks.3.1", 6: "blocks.4.1", 8: "blocks.5.1"}  # of the ten blocks of tinynet_e
IMAGES = np.random.RandomState(0).randn(1, 3, 16, 16).astype(np.float32)


# ---- The numbers -----------------------------------------------------------------------------------------------------


def mix(x: int) -> int:
    """The hash in Python's integers, which do not overflow; arrays of them below 2^31 fit 64 bits."""
    for multiplier in (48271, 69621, 39373):
        x = (multiplier * x + 1) % PRIME
        x = (x * x + multiplier) % PRIME
    return x


def key_of(seed: int) -> int:
    return int(np.random.SeedSequence(seed).generate_state(1)[0]) % PRIME


def numbers(seed: int, step, index):
    """Reference of `Uniform`; step or index may be an array."""
    return mix((index + mix((step + key_of(seed)) % PRIME)) % PRIME) // 128 / 2**24


def test_hash_equals_its_definition():
    x = [0, 1, 2, 46340, 46341, 2**30, PRIME - 2, PRIME - 1, *np.random.RandomState(1).randint(0, PRIME, 500).tolist()]
    assert stochastic.mix(ms.Tensor(x, ms.int64)).asnumpy().tolist() == [mix(value) for value in x]
    assert mix(np.array(x, np.int64)).tolist() == [mix(value) for value in x]
    x += [PRIME, PRIME + 1, 2**32 - 2, 2 * PRIME, (PRIME - 1) ** 2 + 69621, 2**62 - 1]
    assert stochastic.modulo(ms.Tensor(x, ms.int64)).asnumpy().tolist() == [value % PRIME for value in x]


@pytest.mark.parametrize("mode", ["GRAPH_MODE", "PYNATIVE_MODE"])
def test_numbers_equal_their_definition(mode):
    for seed in (65536, 2**40 + 1):
        uniform = stochastic.Uniform(seed)
        for step in (0, 1, 7_000_000, 2**31 - 1):
            with running(mode):
                values = uniform(ms.Tensor([step], ms.int32), 300).asnumpy()
            assert values.dtype == np.float32 and values.min() >= 0 and values.max() < 1
            assert values.tolist() == [numbers(seed, step, index) for index in range(300)]


def assert_uniform(values: np.ndarray) -> None:
    """Mean, variance and the shares of 256 equal intervals, within what a sample of this size has."""
    n = values.size
    assert abs(values.mean() - 1 / 2) <= SIGMAS * (1 / 12 / n) ** 0.5
    assert abs(values.var() - 1 / 12) <= SIGMAS * (1 / 180 / n) ** 0.5
    counts = np.bincount((values * 256).astype(int), minlength=256)
    chi_square = ((counts - n / 256) ** 2 / (n / 256)).sum()
    assert abs(chi_square - 255) <= SIGMAS * (2 * 255) ** 0.5


def assert_unrelated(one: np.ndarray, other: np.ndarray) -> None:
    assert abs(np.corrcoef(one, other)[0, 1]) <= SIGMAS / one.size**0.5


def test_numbers_are_uniform_and_unrelated():
    """Over the numbers of a step, one number over many steps, one number over many ranks, and their neighbours."""
    index, step = np.arange(300_000), np.arange(300_000)
    for fixed in (0, 123_456):
        of_step, of_index = numbers(1, fixed, index), numbers(1, step, fixed)
        for values in (of_step, of_index):
            assert_uniform(values)
            for distance in (1, 2, 10, HEAD_CHANNELS + 10):
                assert_unrelated(values[distance:], values[:-distance])
        assert_unrelated(of_step, numbers(1, fixed + 1, index))
        assert_unrelated(of_index, numbers(1, step, fixed + 1))
        assert_unrelated(of_step, numbers(65536, fixed, index))
    of_rank = np.array([numbers(65536 + rank, 5, 9) for rank in range(20_000)])
    assert_uniform(of_rank)
    assert_unrelated(of_rank[1:], of_rank[:-1])


# ---- Where they act --------------------------------------------------------------------------------------------------


def regularized(drop: float = 0.0, drop_connect: float = 0.0, seed: int = 1, model: str = "tinynet_e"):
    """A network in training, but for its batch norms: a sample's output then depends on that sample only."""
    ms.set_seed(1)
    network = tinynet(model, 10)
    network.regularize(drop, drop_connect, seed)
    network.set_train(False).add_flags(training=True)
    return network


def watch(cell) -> list:
    """A list that receives the inputs and the output of a cell each time that it runs."""
    seen: list = []
    cell.register_forward_hook(lambda _, inputs, output: seen.append((inputs, output)))
    return seen


def run(network, step: int, samples: int = 4) -> np.ndarray:
    return network(ms.Tensor(np.repeat(IMAGES, samples, 0)), ms.Tensor([step], ms.int32)).asnumpy()


def assert_frequency(dropped: int, decisions: int, rate: float, what: object) -> None:
    deviation = (decisions * rate * (1 - rate)) ** 0.5
    assert abs(dropped - decisions * rate) <= SIGMAS * deviation, f"{what}: {dropped} of {decisions}, rate {rate}"


def test_drop_connect(eager):
    """A branch is dropped with the rate of its block, or scaled; blocks without a shortcut are left alone."""
    network = regularized(drop_connect=0.5)
    blocks = [block for stage in network.blocks for block in stage]
    seen = [watch(block) for block in blocks]
    for step in range(4):
        run(network, step, samples=256)
    assert [bool(block.is_residual) for block in blocks] == [index in RESIDUAL for index in range(10)]
    masks = {}
    for index, block in enumerate(blocks):
        factors = []
        for (x, _), output in seen[index][: 4 if index in RESIDUAL else 1]:
            plain = block(x)
            if index not in RESIDUAL:
                np.testing.assert_array_equal(output.asnumpy(), plain.asnumpy())
                continue
            x, output, plain = (tensor.asnumpy().astype(np.float64) for tensor in (x, output, plain))
            branch = plain - x
            factor = ((output - x) * branch).sum((1, 2, 3)) / (branch**2).sum((1, 2, 3))
            expected = x + factor[:, None, None, None] * branch
            np.testing.assert_allclose(output, expected, atol=1e-4 * np.abs(plain).max())
            factors.append(factor)
        if index in RESIDUAL:
            rate, factors = 0.5 * index / 10, np.concatenate(factors)
            kept = np.isclose(factors, 1 / (1 - rate), rtol=1e-3)
            assert np.all(kept | np.isclose(factors, 0, atol=1e-3))
            assert_frequency(int((~kept).sum()), 1024, rate, index)
            masks[index] = kept
    assert_unrelated(masks[4], masks[6])
    assert_unrelated(masks[6], masks[8])


@pytest.mark.parametrize("model, blocks", [("tinynet_a", 19), ("tinynet_b", 16), ("tinynet_e", 10)])
def test_rates_grow_with_the_depth(model, blocks):
    network = regularized(drop_connect=0.1, model=model)
    rates = [block.drop_rate for stage in network.blocks for block in stage]
    assert rates == pytest.approx([0.1 * index / blocks for index in range(blocks)])


def test_dropout(eager):
    """Features before the classifier, each for itself; with drop-connect beside it, whose numbers are others."""
    network, plain = regularized(drop=0.3), regularized()
    seen, expected = watch(network.classifier), watch(plain.classifier)
    for step in range(4):
        run(network, step, samples=16)
    run(plain, 0, samples=16)
    features = expected[0][0][0].asnumpy()
    assert features.shape == (16, HEAD_CHANNELS) and np.abs(features).min() > 0
    factors = np.stack([inputs[0].asnumpy() / features for inputs, _ in seen])
    kept = np.isclose(factors, 1 / 0.7, rtol=1e-5)
    assert np.all(kept | (factors == 0))
    assert_frequency(int((~kept).sum()), kept.size, 0.3, "all")
    assert_unrelated(kept[:, 0].ravel(), kept[:, 1].ravel())
    both = regularized(drop=0.3, drop_connect=0.5)
    seen = watch(both.classifier)
    run(both, 0, samples=16)
    zero = seen[0][0][0].asnumpy() == 0
    assert_frequency(int(zero.sum()), zero.size, 0.3, "beside drop-connect")


@pytest.mark.parametrize("rates", [{"drop": 0.5}, {"drop_connect": 0.5}])
def test_masks_differ(eager, rates):
    """Between samples, steps and seeds; the same step has the same masks."""
    network = regularized(**rates)
    first = run(network, 3)
    assert len(np.unique(first.round(6), axis=0)) > 1, "all samples have one mask"
    np.testing.assert_array_equal(run(network, 3), first)
    np.testing.assert_array_equal(run(regularized(**rates), 3), first)
    assert not np.array_equal(run(network, 4), first)
    outputs = []
    for seed in (65536, 65537, 131072):
        network.regularize(**{"drop": 0.0, "drop_connect": 0.0, **rates}, seed=seed)
        outputs.append(run(network, 3))
    assert not any(np.array_equal(outputs[i], outputs[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_evaluation_is_unaffected(eager):
    images = ms.Tensor(IMAGES)
    plain = regularized().set_train(False)(images).asnumpy()
    network = regularized(drop=0.5, drop_connect=0.5).set_train(False)
    np.testing.assert_array_equal(network(images).asnumpy(), plain)
    np.testing.assert_array_equal(network(images, ms.Tensor([1], ms.int32)).asnumpy(), plain)
    assert not np.array_equal(run(network.add_flags(training=True), 1, 1), plain)
    assert not regularized().takes_step


@pytest.mark.parametrize("rates", [(1.0, 0.0), (-0.1, 0.0), (0.0, 1.5)])
def test_impossible_rates_are_refused(rates):
    with pytest.raises(UsageError, match=r"drop(_connect)?=\S+: 0 or more and below 1 is accepted"):
        tinynet("tinynet_e", 3, stage_blocks=[1] * 7).regularize(*rates, seed=1)

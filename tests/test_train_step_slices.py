"""A batch in slices equals the whole batch; gradients are clipped by the norm of all of them: against float64 arithmetic."""

from __future__ import annotations

from model_utils.errors import UsageError
from small_steps import (
    DYNAMIC,
    GLOBAL_STEP,
    MOMENTS,
    SCALE,
    SCALE_COUNTER,
    STILL,
    Hidden,
    Normed,
    batches,
    build,
    changed,
    equal,
    growing_batches,
    new_step,
    put,
    shared_step,
    train,
    values,
    without_decay,
)

import mindspore as ms
import numpy as np
import pytest

ALL = {**DYNAMIC, "clip_grad_norm": 0.05, "ema_decay": 0.9}


@pytest.fixture(autouse=True, scope="module")
def graph_mode():
    """The mode in which the programs run."""
    before = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=before)


# ---- slices


@pytest.mark.parametrize(
    "whole, sliced",
    [
        ({}, {"accumulate_steps": 12}),
        ({}, {"accumulate_steps": 3, "loss_scale": 1024}),
        (ALL, {**ALL, "accumulate_steps": 4}),
    ],
    ids=["images", "scaled", "all"],
)
def test_slices_equal_the_whole_batch(whole, sliced):
    """Loss, weights, moments and averages over six steps of momentum with weight decay."""
    states, losses = [], []
    for options in (whole, sliced):
        step = shared_step(Hidden, **options)
        losses.append([loss for loss, _ in train(step, growing_batches(6))])
        states.append(values(step))
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-6)
    assert states[0].keys() == states[1].keys() and states[1][GLOBAL_STEP] == 6
    for name, value in states[0].items():
        np.testing.assert_allclose(states[1][name], value, rtol=2e-6, atol=2e-6 * abs(value).max(), err_msg=name)


def test_batch_norm_sees_the_slices_one_after_the_other():
    ((images, targets),) = batches(1, 15)
    single, sliced = (shared_step(Normed, optimizer=without_decay, **more) for more in ({}, {"accumulate_steps": 3}))
    for step in (single, sliced):
        put(step, STILL)  # and targets of zero: the weights stay
    train(sliced, [(images, 0 * targets)])
    train(single, [(images[i : i + 5], 0 * targets[i : i + 5]) for i in (0, 5, 10)])
    for name in ("bn.moving_mean", "bn.moving_variance"):
        np.testing.assert_allclose(values(sliced)[name], values(single)[name], rtol=1e-6)
    assert np.array_equal(values(sliced)["first.weight"], values(single)["first.weight"])


@pytest.mark.parametrize("bad", [0, 11])
def test_overflow_in_one_slice_skips_the_step(bad):
    step = shared_step(Hidden, **ALL, accumulate_steps=4)
    data = list(growing_batches(2))
    train(step, data[:1])
    before = values(step)
    data[1][0][bad] = np.nan
    train(step, data[1:])
    assert changed(before, values(step)) == {SCALE, SCALE_COUNTER}
    assert values(step)[SCALE] == 2.0**15


def test_a_batch_that_the_slices_do_not_divide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the compiler leaves a report of its failure
    step = new_step(Hidden, accumulate_steps=5)
    with pytest.raises(UsageError, match="accumulate_steps=5 does not divide the batch of 12 images"):
        train(step, growing_batches(1))


# ---- clipping


def gradients(images: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Of the network at its start, in float64."""
    w = {name: p.asnumpy().astype(np.float64) for name, p in build(Hidden).parameters_dict().items()}
    hidden = np.tanh(images @ w["first.weight"].T + w["first.bias"])
    flow = 2 * (hidden @ w["last.weight"].T + w["last.bias"] - targets) / len(images)
    found = {"last.weight": flow.T @ hidden, "last.bias": flow.sum(0)}
    flow = flow @ w["last.weight"] * (1 - hidden**2)
    return {"first.weight": flow.T @ images, "first.bias": flow.sum(0), **found}


def norm(arrays: dict[str, np.ndarray]) -> float:
    return float(np.sqrt(sum((array**2).sum() for array in arrays.values())))


@pytest.mark.parametrize(
    "options", [{"loss_scale": 1024}, {**DYNAMIC, "accumulate_steps": 2}], ids=["fixed", "dynamic, slices"]
)
def test_clipped_gradients_equal_float64(options):
    """One factor for all parameters, from the norm of the unscaled gradients of the whole batch."""
    ((images, targets),) = growing_batches(1)
    limit = 0.999 * norm(gradients(images, targets))
    step = shared_step(Hidden, optimizer=without_decay, clip_grad_norm=limit, **options)
    start, fractions = values(step), []
    for factor in (1.0, 0.3, 3.0, 100.0):  # of the targets
        put(step, start)
        train(step, [(images, np.float32(factor) * targets)])
        wanted = gradients(images, np.float32(factor) * targets)
        fractions.append(min(1.0, limit / norm(wanted)))
        for name, gradient in wanted.items():  # without decay, the first moments are the gradients
            found, exact = values(step)[MOMENTS + name], fractions[-1] * gradient
            np.testing.assert_allclose(found, exact, rtol=1e-5, atol=2e-6 * norm(wanted) * fractions[-1], err_msg=name)
    assert fractions[:2] == [pytest.approx(0.999), 1.0] and fractions[2] < 0.5 and fractions[3] < 0.02


def test_a_norm_below_the_limit_changes_nothing():
    """Bit for bit, also where limit / limit is not 1 in float32 arithmetic, which this limit on a CPU is an example of."""
    states = []
    for options in ({}, {"clip_grad_norm": 1e3 / 3}):
        step = shared_step(Hidden, **options)
        losses = [loss for loss, _ in train(step, growing_batches(4))]
        states.append({**values(step), "losses": np.array(losses)})
    assert equal(*states)


def test_gradients_of_zero_are_not_clipped():
    step = shared_step(Hidden, clip_grad_norm=1e3 / 3)
    put(step, {name: np.zeros_like(value) for name, value in values(step).items() if name != GLOBAL_STEP})
    before = values(step)
    train(step, [(images, 0 * targets) for images, targets in growing_batches(2)])
    assert changed(before, values(step)) == {GLOBAL_STEP}

"""What holds for all inputs, on those that hypothesis draws: configuration, schedules, shards, names, heads, resumption."""

from __future__ import annotations

import math
import signal
from pathlib import Path, PurePath

from model_utils.class_order import class_indices, head_rows, take_rows
from model_utils.classification.evaluation import exact_sums
from model_utils.classification.pipeline import _shard
from model_utils.config import get_config
from model_utils.device_adapter import Device
from model_utils.errors import DataError, UsageError, require_range
from model_utils.option_values import convert
from model_utils.picture_files import result_names
from model_utils.ranks import local_rank
from model_utils.schedules import warmup_cosine_annealing_lr, warmup_step_lr
from small_run import Run, compiled_step, interrupt_now

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

RECIPE = Path(__file__).parent / "toy/default_config.yaml"
DEFAULTS = get_config(RECIPE, [])
# The same examples in each run; a machine that is busy is no fault.
settings.register_profile("tests", deadline=None, derandomize=True, max_examples=60,
                          suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])  # fmt: skip
settings.load_profile("tests")

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20).filter(
    lambda text: not text.startswith(("~", "-"))
)
rates = st.floats(1e-8, 10, allow_nan=False)


# ---- Configuration ----------------------------------------------------------------------------------------------------


@given(st.sampled_from(["run_dir", "train_data_dir"]), texts)
def test_texts_of_the_command_line_arrive_as_they_are(key, text):
    assert get_config(RECIPE, [f"--{key}={text}"])[key] == get_config(RECIPE, [f"--{key}", text])[key] == text


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_lists_of_numbers_arrive_as_they_are(numbers):
    for text in (",".join(map(repr, numbers)), f"[{', '.join(map(repr, numbers))}]"):
        assert convert(text, [0.5]) == numbers


@given(
    st.lists(st.text("ab.*?[]", min_size=1, max_size=6).filter(lambda t: t.count("[") == t.count("]") == 0), max_size=4)
)
def test_lists_of_patterns_arrive_as_they_are(patterns):
    assert convert(",".join(patterns), ["x"]) == patterns


@given(st.text(max_size=12))
def test_any_text_is_a_value_or_no_value(text):
    for default in (True, 1, 0.5, "x", [1], [0.5], ["x"], [[1, 2]], [], None):
        try:
            value = convert(text, default)
        except (ValueError, OverflowError):
            continue
        assert default is None or isinstance(value, type(default))


@given(st.integers(0, 2**32 - 1), rates, st.booleans(), texts)
def test_a_written_configuration_is_read_back(tmp_path, seed, rate, switch, text):
    config = DEFAULTS.replace(seed=seed, lr=rate, dry_run=switch, run_dir=text)
    (tmp_path / "recipe.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert get_config(RECIPE, ["--config_path", str(tmp_path / "recipe.yaml")]).to_dict() == config.to_dict()


# ---- Schedules --------------------------------------------------------------------------------------------------------


@given(rates, st.integers(1, 7), st.integers(1, 12), st.integers(1, 20), st.floats(0, 1), st.integers(0, 5))
def test_cosine(base, steps, epochs, t_max, share, warmup):
    low = base * share
    found = warmup_cosine_annealing_lr(base, steps, epochs, t_max, low, warmup)
    assert found.dtype == np.float32 and len(found) == steps * epochs
    assert (found <= np.float32(base) * (1 + 1e-6)).all() and (found >= 0).all()
    start = found[: warmup * steps]
    assert (np.diff(start) > 0).all(), "warm-up rises"
    rest = found[warmup * steps :].reshape(-1, steps)
    assert (rest == rest[:, :1]).all(), "one rate for an epoch"
    for epoch, rate in enumerate(rest[:, 0], start=warmup):
        assert rate == pytest.approx(
            low + (base - low) * (1 + math.cos(math.pi * epoch / t_max)) / 2, rel=1e-5, abs=1e-12
        )


@given(rates, st.integers(1, 7), st.integers(1, 12), st.lists(st.integers(0, 15), max_size=4), st.floats(0.01, 1))
def test_steps(base, steps, epochs, milestones, gamma):
    found = warmup_step_lr(base, steps, epochs, milestones, gamma).reshape(epochs, steps)
    for epoch, row in enumerate(found):
        wanted = base * gamma ** sum(milestone <= epoch for milestone in milestones)
        assert row == pytest.approx([wanted] * steps, rel=1e-5)


# ---- Shards and sums --------------------------------------------------------------------------------------------------


@given(st.integers(0, 200), st.integers(1, 9), st.integers(0, 2**32 - 1), st.integers(1, 500))
def test_shards(images, size, seed, epoch):
    parts = {
        split: [
            _shard(range(images), split, seed, Device("CPU", rank=rank, size=size, device_id=0), epoch)
            for rank in range(size)
        ]
        for split in ("train", "val")
    }
    assert sorted(index for part in parts["val"] for index in part) == list(range(images))
    seen = [index for part in parts["train"] for index in part]
    assert len(set(seen)) == len(seen) == images // size * size and set(seen) <= set(range(images))
    assert {len(part) for part in parts["train"]} == {images // size}


@given(st.lists(st.integers(0, 2**200), min_size=1, max_size=6))
def test_exact_sums(numbers):
    assert exact_sums(numbers, Device("CPU", 0)) == numbers


@given(st.integers(1, 64), st.integers(0, 70), st.integers(1, 8))
def test_ranks(size, rank, on_server):
    environment = {"RANK_SIZE": str(size), "RANK_ID": str(rank), "DEVICE_NUM": str(on_server)}
    if size > 1 and rank >= size:
        with pytest.raises(DataError, match="stay below"):
            local_rank(environment)
        return
    local, local_size, found = local_rank(environment)
    assert found == (rank if size > 1 else 0) and 0 <= local < local_size <= size


# ---- Names ------------------------------------------------------------------------------------------------------------


folders = st.lists(st.sampled_from("abAB"), min_size=1, max_size=3)


@given(st.lists(folders.map("/".join).map(lambda path: f"{path}.jpg"), max_size=8, unique=True))
def test_results_of_different_pictures_have_different_names(files):
    try:
        names = result_names([PurePath(file) for file in files])
    except DataError:
        assert len({file.casefold() for file in files}) < len(files), "only the case tells them apart"
        return
    assert len({name.casefold() for name in names}) == len(files)


@given(st.permutations("abcdef"), st.integers(1, 6), st.integers(1, 3), st.integers(0, 4), st.data())
def test_a_reordered_head_gives_each_class_its_output(stored, count, groups, lead, data):
    """Whatever the order, the row of a class in the new head is that of its name in the stored one."""
    names = data.draw(st.permutations(stored).map(lambda names: list(names)[:count]))
    rows, _ = head_rows(list(stored), names, len(stored), "w")
    rows = list(range(len(stored))) if rows is None else rows
    head = np.arange(groups * (lead + len(stored)), dtype=np.float32)[:, None]
    taken = take_rows(head, rows, -head, (groups, lead)).reshape(groups, lead + len(stored))
    old = head.reshape(groups, lead + len(stored))
    assert (taken[:, :lead] == old[:, :lead]).all() and sorted(taken.ravel()) == sorted(old.ravel())
    for place, name in enumerate(names):
        assert (taken[:, lead + place] == old[:, lead + stored.index(name)]).all()
    assert class_indices(names, list(stored), "data") == [stored.index(name) for name in names]


@given(st.floats(), st.one_of(st.none(), st.floats(-10, 10)))
def test_ranges(value, low):
    low = -math.inf if low is None else low
    if math.isfinite(value) and value >= low:
        require_range(low=low, x=value)
    else:
        with pytest.raises(UsageError, match="x="):
            require_range(low=low, x=value)


# ---- Resumption -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_step():
    """A graph that other modules have compiled does not live as long as the whole session."""
    compiled_step.cache_clear()
    yield
    compiled_step.cache_clear()


@settings(max_examples=6)
@given(st.integers(1, 9), st.integers(1, 3))
def test_a_run_stopped_after_any_step_ends_as_the_whole_one(own_step, tmp_path_factory, step, interval):
    """Bit for bit: weights, moments, average, count of steps."""
    whole, parts = (tmp_path_factory.mktemp(name) for name in ("whole", "parts"))
    first = Run(whole, save_interval=interval)
    first.train()
    expected, stopped = first.state(), Run(parts, save_interval=interval)
    assert stopped.train(**{f"step_begin_at_{step}": interrupt_now(signal.SIGTERM)}) == 143
    resumed = Run(parts, save_interval=interval).resume()
    resumed.train()
    assert resumed.state() == expected

"""require_range: what is refused, and how the message says what is accepted."""

from __future__ import annotations

import math

from model_utils.errors import DataError, UsageError, require_range

import numpy as np
import pytest

WORDINGS = [
    ({"low": 1}, 0, "1 or more"),
    ({"high": 8}, 9, "up to 8"),
    ({"above": 0}, 0, "above 0"),
    ({"below": 1}, 1, "below 1"),
    ({"low": 0, "high": 1}, 1.5, "0 to 1"),
    ({"low": 0, "high": 1}, 10**400, "0 to 1"),
    ({"low": 0, "below": 1}, 1, "0 or more and below 1"),
    ({"above": 0, "high": 1}, 0.0, "above 0 and up to 1"),
    ({"above": 0, "below": 1}, 1.0, "above 0 and below 1"),
    ({"low": 0.001, "high": 0.25}, 0.5, "0.001 to 0.25"),
    ({"low": -0.5}, -1, "-0.5 or more"),
    ({"low": 2, "above": 1}, 1.5, "2 or more"),
    ({"low": 1, "above": 1}, 1, "above 1"),
    ({"high": 1, "below": 2}, 1.5, "up to 1"),
    ({"high": 2, "below": 2}, 2, "below 2"),
    ({}, math.nan, "a finite number"),
]


@pytest.mark.parametrize("limits, value, accepted", WORDINGS)
def test_message(limits, value, accepted):
    with pytest.raises(UsageError) as caught:
        require_range(**limits, crop_ratio=value)
    assert str(caught.value) == f"crop_ratio={value}: {accepted} is accepted"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("limits", [limits for limits, *_ in WORDINGS])
def test_what_is_not_a_finite_number_is_never_accepted(limits, value):
    for given in (value, [0.5, value]):
        with pytest.raises(UsageError, match="x="):
            require_range(**limits, x=given)


@pytest.mark.parametrize(
    "limits, values",
    [
        ({"low": 1}, [1, 1.0, 10**400, np.float32(2)]),
        ({"high": 8}, [8, -(10**30)]),
        ({"above": 0}, [5e-324, 1]),
        ({"below": 1}, [math.nextafter(1, 0), -1]),
        ({"low": 0, "high": 1}, [0, 1, -0.0, False]),
        ({"above": 0, "high": 1}, [1, 1e-9]),
        ({}, [0, -1e308]),
    ],
)
def test_values_up_to_the_limits_are_accepted(limits, values):
    for value in values:
        require_range(**limits, x=value)
    require_range(**limits, x=values, y=[])


def test_one_item_of_a_list_is_enough():
    with pytest.raises(UsageError) as caught:
        require_range(low=0, lr_epochs=[1, -2, 3])
    assert str(caught.value) == "lr_epochs=[1, -2, 3]: 0 or more is accepted"


def test_the_first_wrong_one_is_named():
    with pytest.raises(UsageError, match="^second=-1: "):
        require_range(low=0, first=1, second=-1, third=-2)


def test_exit_statuses():
    assert (UsageError.exit_status, DataError.exit_status) == (2, 1)
    assert not issubclass(DataError, UsageError) and not issubclass(UsageError, (DataError, ValueError))

# Shared file: source utils/model_utils/class_order.py; copy with: python scripts/sync_model_utils.py --write
"""Which row of a head is which class: where weights and data list the same classes in another order, rows follow names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mindspore import Tensor

from .checkpoint import STATE_PREFIX
from .errors import DataError

LISTED = 5


def require_unique(names: Sequence[str], source: object) -> None:
    """Raise DataError where a class name occurs twice among those by which two lists of classes shall be matched."""
    doubles = [name for name, count in Counter(names).items() if count > 1]
    if doubles:
        raise DataError(
            f"{source}: {len(doubles)} class names stand for several classes, the first is '{doubles[0]}', and the order of "
            "the classes is another one elsewhere; give each class a name of its own"
        )


def some(names: Sequence[str]) -> str:
    """The first names of a list, for messages."""
    return ", ".join(map(str, names[:LISTED])) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def class_indices(names: Sequence[str], outputs: Sequence[str], source: object) -> list[int]:
    """For each class of a data set the index of the network's output of that name.

    Args:
        names: classes of the data set; all of them are among the outputs.
        outputs: class names of the network. Names may occur twice where both lists are the same.
        source: of the data set, for messages.

    Raises:
        DataError: another order of names that occur twice.
    """
    if list(names) == list(outputs):
        return list(range(len(names)))
    require_unique(names, source)
    require_unique([name for name in outputs if name in set(names)], "the checkpoint")
    return [list(outputs).index(name) for name in names]


def head_rows(
    stored: Sequence[str] | None, names: Sequence[str], outputs: int, source: object
) -> tuple[list[int | None] | None, str]:
    """For each class output of a network, the one of the stored head with the same class name.

    Args:
        stored: class names in the order of the stored head; None: it names none.
        names: class names of the data, at most as many as outputs.
        outputs: class outputs of both heads.
        source: of the stored head, for messages.

    Returns:
        Indices of stored outputs, None for a class that they do not have; None alone where all stay as they are. And a
        line for the log that says what was done, empty where there is nothing to say.

    Raises:
        DataError: none of the names is known, or names of two orders occur twice.
    """
    if stored is None:
        return None, f"{source} names no classes: its output i is taken to be class i of {some(names)}"
    if list(stored[: len(names)]) == list(names):
        return None, ""
    require_unique(stored, source)
    require_unique(names, "the data set")
    place = {name: index for index, name in enumerate(stored)}
    new, gone = [name for name in names if name not in place], [name for name in stored if name not in set(names)]
    if len(new) == len(names):
        raise DataError(
            f"{source} has the classes {some(stored)}, the data {some(names)}: they have none in common, so that its head "
            "is of no use; give --reset_head true, or data with its class names"
        )
    rows: list[int | None] = [place.get(name) for name in names]
    free = [index for index in range(outputs) if index not in set(rows)]
    rows += free[: outputs - len(rows)]
    parts = [f"{len(names) - len(new)} classes follow their names"]
    parts += [f"new, with random values: {some(new)}"] if new else []
    parts += [f"no longer there: {some(gone)}"] if gone else []
    return rows, f"head of {source}: " + "; ".join(parts)


def take_rows(
    values: np.ndarray, rows: Sequence[int | None], new: np.ndarray, layout: tuple[int, int] = (1, 0)
) -> np.ndarray:
    """A head's parameter in another order of the classes.

    Args:
        values: (groups * (lead + classes), ...).
        rows: for each class its index in `values`; None: its values are those of `new`.
        new: of the shape of `values`.
        layout: groups, lead: rows of a group before those of its classes, see `Model.head_layout`.
    """
    groups, lead = layout
    shape = (groups, lead + len(rows), *values.shape[1:])
    old, result = values.reshape(shape), new.reshape(shape).copy()
    result[:, :lead] = old[:, :lead]
    for index, row in enumerate(rows):
        if row is not None:
            result[:, lead + index] = old[:, lead + row]
    return result.reshape(values.shape)


def reorder_heads(
    parameters: Mapping[str, Any], heads: Mapping[str, Any], rows: Sequence[int | None], layout: tuple[int, int]
) -> dict[str, Any]:
    """Parameters of a file with the head, and what an optimizer or an average keeps of it, in another order.

    Args:
        parameters: name to value; what belongs to a parameter of the network ends in its name.
        heads: the network's parameters of the head, whose values new classes get.
        rows: see `take_rows`.
        layout: see `take_rows`.
    """
    result = dict(parameters)
    for name, value in parameters.items():
        head = next((head for head in heads if name == head or name.endswith(f".{head}")), None)
        if head is not None and tuple(value.shape) == tuple(heads[head].shape):
            values = value.asnumpy()
            new = np.zeros_like(values) if name.startswith(STATE_PREFIX) else heads[head].asnumpy().astype(values.dtype)
            result[name] = Tensor(take_rows(values, rows, new, layout))
    return result

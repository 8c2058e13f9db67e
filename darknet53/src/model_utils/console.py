# Shared file: source utils/model_utils/console.py; copy with: python scripts/sync_model_utils.py --write
"""The console of a program: the work goes on where it is closed or nobody reads it, and an interrupt is one line."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import Any, TextIO

INTERRUPTED = 130  # exit status, as a shell has it


def fill_descriptors() -> None:
    """Give the descriptors 0 to 2 the null device where they are closed (`train.py >&-`).

    Else the next file that is opened takes their place, and what is printed goes into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # the lowest free number is the next one that is opened
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            stream = open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def keep_going() -> None:
    """Have stdout and stderr never end the work; names that the console cannot show are escaped there."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        own = stream is getattr(sys, f"__{name}__")  # not where a notebook or a test has put another one
        if own and isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):
                stream.flush()
            setattr(sys, name, _lasting(stream))


def _lasting(stream: TextIO) -> TextIO:
    """A stream to the same descriptor that survives what happens to its reader."""
    raw = _Descriptor(stream.fileno(), "w", closefd=False)
    buffer = raw if stream.write_through else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer, encoding=stream.encoding, errors="backslashreplace",
        line_buffering=stream.line_buffering, write_through=stream.write_through,
    )  # fmt: skip


class _Descriptor(io.FileIO):
    """What cannot be written is given up: for good without a reader (`| head -1`), on a full disk until it has room."""

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left:
                left = left[super().write(left) or 0 :]
        except BrokenPipeError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
        except OSError:
            pass
        return size


def say_interrupted() -> None:
    print("interrupted", file=sys.stderr, flush=True)


def quiet_imports(package: str) -> None:
    """Have Ctrl-C during the imports of a program end it with one line and status 130, as `program.run` does later.

    Only where the process runs a program beside the folder of the package; never in a notebook or another program.
    """
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    folder = Path(package).resolve().parents[2]
    if main is None or Path(main).resolve().parent != folder or sys.excepthook is not sys.__excepthook__:
        return

    def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        say_interrupted()
        os._exit(INTERRUPTED)

    sys.excepthook = hook

# Shared file: source utils/model_utils/program.py; copy with: python scripts/sync_model_utils.py --write
"""How a program ends: its errors become one line and an exit status, an interrupt stops it in order."""

from __future__ import annotations

import _thread
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from .console import INTERRUPTED, keep_going, say_interrupted
from .dataset_checks import data_error
from .errors import DataError, UsageError
from .option_values import BOOLEANS

NO_MEMORY = re.compile(r"memory (isn't|is not) enough|memory not enough|not enough memory|out of memory", re.IGNORECASE)


def run(main: Callable[[], Any]) -> None:
    """Run a program: an error that `message` knows becomes one line on stderr and an exit status; --debug adds the traceback."""
    keep_going()
    _watch_for_interrupts()
    try:
        status = main()
    except Exception as error:
        text = message(error)
        if not text:
            raise
        if _wants_traceback(sys.argv):
            traceback.print_exc()
        print(f"error: {text}", file=sys.stderr, flush=True)
        status = getattr(error, "exit_status", 1)
    except KeyboardInterrupt:
        say_interrupted()
        status = INTERRUPTED
    sys.exit(status)


def message(error: BaseException) -> str:
    """What a program says of an error; empty for a bug, of which the traceback is wanted.

    The kinds: wrong usage and data that cannot be used; what the system refuses, with the file; what MindData says of
    damaged data; no memory; a text that cannot be read or written.
    """
    if isinstance(error, RuntimeError):
        error = data_error(error, "")
    if isinstance(error, (UsageError, DataError, OSError)):
        return str(error)
    first = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and NO_MEMORY.search(str(error))):
        advice = "lower the batch size or num_parallel_workers, or use a smaller input or network"
        return f"not enough memory{': ' if first else ''}{first.rstrip('.')}; {advice}"
    if isinstance(error, UnicodeError):
        return f"a text or file name cannot be read or written: {first}; save texts as UTF-8 and rename such files"
    return ""


def _watch_for_interrupts() -> None:
    """Have a thread of its own wait for SIGINT and hand it to the Python handler of the main thread.

    While a graph runs, MindSpore's own handler of SIGINT turns it into SIGTERM. A blocked signal reaches no handler. The
    second SIGINT ends the process from here: the main thread may be in a compilation of minutes.
    """

    def watch() -> None:
        signal.sigwait({signal.SIGINT})
        _thread.interrupt_main()
        signal.sigwait({signal.SIGINT})
        os._exit(INTERRUPTED)

    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        threading.Thread(target=watch, daemon=True).start()


def _wants_traceback(argv: list[str]) -> bool:
    """The last --debug of the command line: an error may come before it is parsed."""
    wanted = False
    for token, following in zip(argv, [*argv[1:], ""]):
        name, _, value = token.partition("=")
        if name == "--debug":
            wanted = BOOLEANS.get((value or following).lower(), True)
    return wanted

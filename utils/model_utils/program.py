# Shared file: source utils/model_utils/program.py; copy with: python scripts/sync_model_utils.py --write
"""How a program ends: its errors become one line and an exit status, an interrupt stops it in order."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from .errors import DataError, UsageError
from .option_values import BOOLEANS


def run(main: Callable[[], Any]) -> None:
    """Run a program: a UsageError or DataError becomes one line on stderr and its exit status; --debug adds the traceback."""
    _watch_for_interrupts()
    try:
        status = main()
    except (UsageError, DataError, OSError) as error:
        if _wants_traceback(sys.argv):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr, flush=True)
        status = getattr(error, "exit_status", 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        status = 130
    sys.exit(status)


def _watch_for_interrupts() -> None:
    """Have a thread of its own wait for SIGINT and hand it to the Python handler of the main thread.

    While a graph runs, MindSpore's own handler of SIGINT turns it into SIGTERM. A blocked signal reaches no handler. The
    second SIGINT ends the process from here: the main thread may be in a compilation of minutes.
    """

    def watch() -> None:
        signal.sigwait({signal.SIGINT})
        _thread.interrupt_main()
        signal.sigwait({signal.SIGINT})
        os._exit(130)

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

# Shared file: source utils/model_utils/__init__.py; copy with: python scripts/sync_model_utils.py --write
"""Shared runtime of the model folders. Importing it sets the environment that must stand before the first operator runs."""

from __future__ import annotations

import os
import signal
import sys
from importlib import metadata

from .console import fill_descriptors, quiet_imports

OLDEST, NEWEST = (2, 7), (2, 10)


def mindspore_version() -> tuple[int, int] | None:
    """Major and minor version of the installed MindSpore, without importing it; None where there is none."""
    for package in ("mindspore", "mindspore-ascend", "mindspore-gpu"):
        try:
            major, minor = metadata.version(package).split(".")[:2]
            return int(major), int(minor)
        except metadata.PackageNotFoundError:
            continue
    return None


def _has_avx512() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="ignore") as file:
            return any("avx512f" in line for line in file if line.startswith("flags"))
    except OSError:
        return False


def set_cpu_kernels() -> None:
    """Cap the instruction set of oneDNN where its convolutions would fall to the reference kernel.

    MindSpore 2.9 and 2.10 bundle a oneDNN whose float32 NCHW convolution has no fast AVX-512 kernel: it is about 60
    times slower than the AVX2 one. A value that the user has set wins. oneDNN reads the variable at its first operator.
    """
    version = mindspore_version()
    if version and version >= (2, 9) and _has_avx512():
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")


def check_version() -> None:
    """Refuse a MindSpore that is too old before it fails in a less readable way; of a newer one, say that it is new here."""
    version = mindspore_version()
    if version is None:
        raise ImportError("MindSpore is not installed; pip install -r requirements.txt")
    found, tried = "{}.{}".format(*version), "{}.{} to {}.{}".format(*OLDEST, *NEWEST)
    if version < OLDEST:
        raise ImportError(f"MindSpore {found} is too old; tried: {tried}; pip install -r requirements.txt")
    if version > NEWEST:
        print(f"notice: MindSpore {found} was not tried; tried: {tried}", file=sys.stderr, flush=True)


def import_frameworks() -> None:
    """Import numpy and MindSpore so that the threads that they start never take an interrupt; see `program.run`."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    try:
        import mindspore  # noqa: F401
        import numpy  # noqa: F401
    finally:
        if blocked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


fill_descriptors()
quiet_imports(__file__)
check_version()
set_cpu_kernels()
import_frameworks()

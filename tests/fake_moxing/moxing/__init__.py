"""Stand-in for the package moxing of ModelArts images: object storage is the folder FAKE_MOXING_STORAGE.

FAKE_MOXING_FAIL is text in an address that makes a copy fail, FAKE_MOXING_SECONDS how long a copy takes. Each copy is a
line of calls.log beside the storage folder.
"""

import os
import shutil
import time
from pathlib import Path


def _local(address):
    """The local path of an address; of a local path, itself."""
    for scheme in ("s3://", "obs://"):
        if address.startswith(scheme):
            return Path(os.environ["FAKE_MOXING_STORAGE"], address[len(scheme) :])
    return Path(address)


def _begin(function, source, target):
    with (Path(os.environ["FAKE_MOXING_STORAGE"]).parent / "calls.log").open("a") as log:
        log.write(f"{function} {source} {target}\n")
    time.sleep(float(os.environ.get("FAKE_MOXING_SECONDS", "0")))
    fail = os.environ.get("FAKE_MOXING_FAIL")
    if fail and (fail in source or fail in target):
        raise OSError(f"storage refuses {fail}")


class file:
    """The functions of moxing.file that the adapter uses."""

    @staticmethod
    def exists(address):
        return _local(address).exists()

    @staticmethod
    def is_directory(address):
        return _local(address).is_dir()

    @staticmethod
    def copy(source, target):
        _begin("copy", source, target)
        shutil.copyfile(_local(source), _local(target))

    @staticmethod
    def copy_parallel(source, target):
        _begin("copy_parallel", source, target)
        shutil.copytree(_local(source), _local(target), dirs_exist_ok=True)

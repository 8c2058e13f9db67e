# Shared file: source utils/model_utils/picture_files.py; copy with: python scripts/sync_model_utils.py --write
"""Which pictures a program reads, and where its results go: what programs that write a folder of results do alike."""

from __future__ import annotations

import glob
import itertools
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Callable

from .errors import DataError, UsageError
from .files import reason, require_regular
from .image_folder import ENDINGS, is_skipped, some
from .logger import get_logger
from .picture_check import FORMATS

LONGEST_NAME = 240  # bytes; a file's name has 255, of which the endings of results take a few

# ---- Which pictures --------------------------------------------------------------------------------------------------


def find_pictures(
    text: str, endings: Sequence[str] = ENDINGS, formats: Sequence[str] = FORMATS
) -> tuple[Path, list[Path]]:
    """The pictures of a file name, a folder or a pattern.

    Args:
        text: what the user gave.
        endings: of the files that are accepted, as .jpg; a file that is named itself may have any.
        formats: what these files are called in messages.

    Returns:
        A folder, and the pictures relative to it, sorted.

    Raises:
        DataError: nothing is there, or no picture.
    """
    path = Path(text)
    if path.is_dir():
        root, found = path, list(_walk(path))
    elif path.exists():
        require_regular(path, f"input={text}")
        return path.parent, [Path(path.name)]
    elif any(character in text for character in "*?["):
        found = [Path(match) for match in glob.glob(text, recursive=True) if os.path.isfile(match)]
        root = Path(os.path.commonpath([file.parent for file in found])) if found else path
    else:
        raise DataError(f"input={text} does not exist; give a picture, a folder or a pattern such as 'dir/*.jpg'")
    pictures = _keep_pictures(root, sorted(file.relative_to(root) for file in found), endings)
    if not pictures:
        problem = "holds no picture" if path.is_dir() else "matches no picture"
        raise DataError(f"input={text} {problem}; files of the formats {', '.join(formats)} are accepted")
    return root, pictures


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder; a link to a folder is followed, but none is visited twice."""
    visited: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        yield from (Path(parent, name) for name in folders if is_skipped(name))  # to be named as skipped
        folders[:] = sorted(name for name in folders if not is_skipped(name))
        if os.path.realpath(parent) in visited:
            folders.clear()
            continue
        visited.add(os.path.realpath(parent))
        yield from (Path(parent, name) for name in files)


def _refuse(error: OSError) -> None:
    raise DataError(f"folder {error.filename} {reason(error)}; mend that, or give other pictures") from error


def _keep_pictures(root: Path, files: list[Path], endings: Sequence[str]) -> list[Path]:
    """Files with the ending of a picture, without hidden ones and earlier results; notices name the others."""
    system = [str(root / file) for file in files if is_skipped(file.name)]
    if system:
        get_logger().info("notice: skipped %d hidden or system file(s) and folder(s): %s", len(system), _some(system))
    files = [file for file in files if not is_skipped(file.name)]
    results = {parent for file in files for parent in file.parents if parent.parts and _is_result_folder(root / parent)}
    kept = [file for file in files if results.isdisjoint(file.parents)]
    if results:
        get_logger().info(
            "notice: skipped results of infer.py: %s", _some(sorted(str(root / path) for path in results))
        )
    others = [str(root / file) for file in kept if file.suffix.lower() not in endings]
    if others:
        get_logger().info("notice: skipped %d file(s) that are not pictures: %s", len(others), _some(others))
    return [file for file in kept if file.suffix.lower() in endings]


def _is_result_folder(folder: Path) -> bool:
    return (folder / "annotated").is_dir() and (folder / "result_Files").is_dir()


def _some(items: Sequence[str]) -> str:
    return some((item.encode("utf-8", "backslashreplace").decode() for item in items), limit=5)


# ---- Where results go ------------------------------------------------------------------------------------------------


def refuse_unsafe_output(folder: Path, inputs: Sequence[Path]) -> None:
    """Raise UsageError where renaming an old output folder would move a file that is needed, or the user's place.

    Args:
        folder: of the results.
        inputs: files that the program reads; its own folder, which holds this file too, need not be among them.
    """
    target = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"output_dir={folder} is a file; give a folder")
    for place in (Path.cwd(), Path(os.path.expanduser("~")), *inputs, Path(__file__)):
        place = place.resolve()
        if target == place or target in place.parents:
            raise UsageError(f"output_dir={folder} holds {place}; give a folder of its own for the results")


def fresh_folder(folder: Path) -> Path:
    """Create a folder; one that holds something is renamed with a time stamp first."""
    try:
        if folder.is_dir() and any(folder.iterdir()):
            stamped = f"{folder}_{time.strftime('%Y%m%d-%H%M%S')}"
            candidates = itertools.chain([stamped], (f"{stamped}_{number}" for number in itertools.count(2)))
            aside = next(name for name in candidates if not os.path.lexists(name))
            folder.rename(aside)
            get_logger().info("notice: the earlier content of %s is now in %s", folder, aside)
        for name in ("annotated", "result_Files"):
            (folder / name).mkdir(parents=True)
    except OSError as error:
        raise DataError(f"output_dir={folder} cannot be made: {error.strerror}; give another folder") from error
    return folder


def unique_names(files: Sequence[PurePath], spellings: Sequence[Callable[[PurePath], str]]) -> list[str]:
    """A name for each file: the first of the spellings that no other file shares, not even in another case.

    Raises:
        DataError: two files that no spelling tells apart.
    """
    names: dict[PurePath, str] = {}
    for spelling in spellings:
        sharing = defaultdict(list)
        for file in files:
            sharing[spelling(file).casefold()].append(file)
        for group in sharing.values():
            if len(group) == 1:
                names.setdefault(group[0], spelling(group[0]))
    owners: dict[str, PurePath] = {}
    for file in files:
        name = names.setdefault(file, spellings[-1](file))
        other = owners.setdefault(name.casefold(), file)
        if other is not file:
            raise DataError(
                f"the results of {other} and {file} would have the same name, {name}; rename one of the two"
            )
    return [names[file] for file in files]


def result_names(files: Sequence[PurePath]) -> list[str]:
    """Names without .bin of the results of pictures, given relative to one folder.

    A name is the stem (`a.b.jpg` gives `a.b`); pictures that share it are told apart by their folders (`cat/1.jpg` and
    `dog/1.jpg` give `cat__1` and `dog__1`), and if need be by their endings (`1.jpg` and `1.png` keep them).

    Raises:
        DataError: two pictures of one name, or a name that is too long for a file.
    """
    names = unique_names(
        files,
        [
            lambda file: file.stem,
            lambda file: "__".join(file.with_suffix("").parts),
            lambda file: "__".join(file.parts),
        ],
    )
    for name, file in zip(names, files):
        if len(os.fsencode(name)) > LONGEST_NAME:
            raise DataError(f"the result of {file} would have a name of more than {LONGEST_NAME} bytes; rename it")
    return names

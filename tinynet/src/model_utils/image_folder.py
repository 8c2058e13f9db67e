# Shared file: source utils/model_utils/image_folder.py; copy with: python scripts/sync_model_utils.py --write
"""What lies in a folder that holds one folder of images for each class: the one listing that every program uses.

Hidden files and folders, and what operating systems leave behind, are skipped. MindData skips none of them and takes
every file with the ending of an image, so that `ImageFolder.positions` says which of its files are the data set's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_ENDINGS = ("jpg", "jpeg", "png", "bmp", "tif", "tiff")
ENDINGS = tuple(f".{spelling}" for end in _ENDINGS for spelling in (end, end.upper(), end.capitalize()))
LEFT_BEHIND = ("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "@eadir", "__macosx", "icon\r",
               "$recycle.bin", "system volume information", "lost+found")  # fmt: skip


class ImageFolder(NamedTuple):
    """A listing; `images` has the class folders and their image files, both sorted.

    Attributes:
        images: class name to file names.
        positions: of these images among the files that MindData finds in the class folders.
        loose: image files beside the class folders.
        faults: class name to what is wrong with its folder.
        skipped: paths, relative to the folder, of what is hidden or was left behind by an operating system.
    """

    images: dict[str, list[str]]
    positions: list[int]
    loose: list[str]
    faults: dict[str, str]
    skipped: list[str]

    @property
    def files(self) -> list[str]:
        """Relative paths of all images, by class."""
        return [os.path.join(name, file) for name, files in self.images.items() for file in files]


def is_skipped(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or was left behind by macOS, Windows or a disk station."""
    return name.startswith(".") or name.lower() in LEFT_BEHIND


def some(items: Iterable[str], separator: str = ", ", limit: int = 10) -> str:
    """The first items of a list, for messages, and how many more there are."""
    items = list(items)
    more = [f"... and {len(items) - limit:,} more"] if len(items) > limit else []
    return separator.join(items[:limit] + more)


def list_image_folder(path: str | Path) -> ImageFolder:
    """List a folder; links are followed.

    Raises:
        OSError: no folder, or one that may not be read.
    """
    entries = {entry.name: entry for entry in os.scandir(path)}
    folders = sorted(name for name, entry in entries.items() if not is_skipped(name) and entry.is_dir())
    found = ImageFolder({}, [], [], {}, sorted(filter(is_skipped, entries)))
    found.loose.extend(sorted(n for n in entries if n.endswith(ENDINGS) and not is_skipped(n) and n not in folders))
    positions = {name: _list_class(Path(path), name, found) for name in folders}
    start = 0
    for name in sorted(folders, key=os.fsencode):  # MindData's order
        taken, count = positions[name]
        found.positions.extend(start + position for position in taken)
        start += count
    return found


def _list_class(root: Path, name: str, found: ImageFolder) -> tuple[list[int], int]:
    """Enter a class folder into a listing; the positions of its images among MindData's files of it, and how many."""
    images, others, read = [], [], []
    for entry in os.scandir(root / name):
        if entry.name.endswith(ENDINGS):
            read.append(entry.name)
        if is_skipped(entry.name):
            found.skipped.append(os.path.join(name, entry.name))
        elif entry.name.endswith(ENDINGS) and entry.is_file():
            images.append(entry.name)
        else:
            others.append(entry.name + _kind(entry))
    found.images[name] = sorted(images)
    if os.fsencode(name) != name.encode("utf-8", "replace"):
        found.faults[name] = f"the name of class folder {os.fsencode(name)!r} is no text in UTF-8; rename it"
    elif others:
        advice = "convert or remove them (if these are the class folders, give their parent as the data set)"
        found.faults[name] = f"{root / name} holds more than images: {some(sorted(others))}; {advice}"
    elif not images:
        found.faults[name] = f"class folder {root / name} holds no images; fill it or remove it"
    taken = set(images)
    return [place for place, file in enumerate(sorted(read, key=os.fsencode)) if file in taken], len(read)


def _kind(entry: os.DirEntry) -> str:
    """What an entry is, where it is no regular file."""
    if entry.is_dir():
        return "/"
    return "" if entry.is_file() else " (a broken link)" if entry.is_symlink() else " (no regular file)"

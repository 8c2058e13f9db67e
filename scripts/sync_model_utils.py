"""Compares the directories that the model folders share with their source, or copies the source to the folders.

So that it runs when it is taken alone, every model folder (one with a train.py) carries three directories byte for byte:
    utils/model_utils       as src/model_utils: the Python package of the zoo
    utils/launchers         as scripts/shared: what all launchers do alike
    utils/cpp_infer         as ascend310_infer: the inference application in C++
A file that is missing in a copy, one that differs and one too many are equally wrong. What git ignores does not count.

    python scripts/sync_model_utils.py --check     exit status 1 and a list of what is wrong
    python scripts/sync_model_utils.py --write     brings the copies up to date, then checks

A model that needs something else writes its own file outside these directories.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Source directory, relative to the repository -> its copy, relative to a model folder.
COPIED = {
    Path("utils/model_utils"): Path("src/model_utils"),
    Path("utils/launchers"): Path("scripts/shared"),
    Path("utils/cpp_infer"): Path("ascend310_infer"),
}
# The one difference between folders: what only image classifiers need is not copied to a detector.
LEFT_OUT = {"yolov3_res2net50": Path("utils/model_utils/classification")}
MEND = "python scripts/sync_model_utils.py --write"
ORPHAN = "has no source"
COMMENTS = {".h": "// {}", ".cc": "// {}", ".md": "<!-- {} -->"}  # how a comment is written where it is not # {}


def header(source: Path) -> str:
    """Returns the line that a shared file begins with, after a #! line, as a comment of its language."""
    return COMMENTS.get(source.suffix, "# {}").format(f"Shared file: source {source.as_posix()}; copy with: {MEND}")


def listed_files(root: Path) -> list[Path]:
    """Returns the files below a directory, relative to it: what git does not ignore, or all where git is not used."""
    if (root / ".git").exists() and shutil.which("git"):
        command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = os.fsdecode(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout).split("\0")
        # The index still lists a file that was deleted without telling git.
        return sorted({Path(name) for name in names if name and os.path.lexists(root / name)})
    paths = [path.relative_to(root) for path in root.rglob("*") if path.is_symlink() or path.is_file()]
    return sorted(path for path in paths if "__pycache__" not in path.parts)


def model_folders(files: list[Path]) -> list[Path]:
    return [path.parent for path in files if path.name == "train.py" and len(path.parts) == 2]


def below(files: list[Path], directories: Iterable[Path]) -> list[Path]:
    directories = set(directories)
    return [path for path in files if not directories.isdisjoint(path.parents)]


def first_line(path: Path) -> bytes:
    """Returns the line in which a header stands, which is the second one after #!; nothing of what is no file."""
    lines = path.read_bytes()[:2000].split(b"\n") if path.is_file() else [b""]
    return lines[1 if lines[0].startswith(b"#!") and len(lines) > 1 else 0]


def has_header(path: Path, source: Path) -> bool:
    return first_line(path) == header(source).encode()


def difference(source: Path, copy: Path) -> str:
    """Describes how a copy differs from its source; the empty string when it does not."""
    if copy.is_symlink():
        return "kind: it is a link"
    if (source.stat().st_mode ^ copy.stat().st_mode) & 0o100:
        return "mode: one of the two is executable"
    return "" if source.read_bytes() == copy.read_bytes() else "content"


def drift(root: Path, files: list[Path]) -> Iterator[tuple[Path, Path, str]]:
    """Yields what is wrong with a copied directory: the copy, its source and what it is; ORPHAN of a file too many."""
    for folder in model_folders(files):
        for source, place in COPIED.items():
            shared = [path for path in below(files, [source]) if LEFT_OUT.get(folder.name) not in path.parents]
            copies = {folder / place / path.relative_to(source): path for path in shared}
            for copy, path in copies.items():
                if copy not in files:
                    yield copy, path, "is missing, or git ignores it"
                elif text := difference(root / path, root / copy):
                    yield copy, path, f"differs from {path} in {text}"
            for path in below(files, [folder / place]):
                if path not in copies:
                    yield path, source / path.relative_to(folder / place), ORPHAN


def check(root: Path) -> list[str]:
    """Returns everything that is wrong, one line each."""
    files = listed_files(root)
    folders = model_folders(files)
    findings = [f"{source} holds no file" for source in COPIED if not below(files, [source])]
    if not folders:
        findings.append("no folder with a train.py was found; run this program in the repository")
    for path in below(files, COPIED):
        if not has_header(root / path, path):
            findings.append(f"{path}: the first line, or the second after #!, must be: {header(path)}")
    for path, source, text in drift(root, files):
        is_own = text == ORPHAN and not has_header(root / path, source)
        findings.append(f"{path} {text}; {'move it out of the copied directory, or remove it' if is_own else MEND}")
    copies = below(files, [folder / place for folder in folders for place in COPIED.values()])
    for path in below(files, folders):
        if path not in copies and b"Shared file:" in first_line(root / path):
            findings.append(f"{path} has the header of a shared file and is none; remove that line, or the file")
    return findings


def write(root: Path) -> None:
    """Writes the copies that are missing or differ, and removes orphans that have the header."""
    files = listed_files(root)
    if not all(below(files, [source]) for source in COPIED):
        return  # a source directory is gone as a whole: that is an accident, no wish to remove every copy of it
    for copy, source, text in list(drift(root, files)):
        if text != ORPHAN:
            (root / copy).parent.mkdir(parents=True, exist_ok=True)
            temporary = (root / copy).with_name(copy.name + ".tmp")
            shutil.copy(root / source, temporary)  # with the executable bit
            os.replace(temporary, root / copy)
            print(f"wrote {copy}")
        elif has_header(root / copy, source):  # without it, it may be somebody's own work
            (root / copy).unlink()
            print(f"removed {copy}")


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description="Compares or rewrites the directories that the model folders share.")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="list what is wrong; exit status 1 when anything is")
    action.add_argument("--write", action="store_true", help="bring the copies up to date, then check")
    if parser.parse_args(argv).write:
        write(root)
    findings = check(root)
    for finding in findings:
        print(finding, file=sys.stderr)
    if not findings:
        print(f"{len(below(listed_files(root), COPIED))} shared files: all copies are equal to them")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

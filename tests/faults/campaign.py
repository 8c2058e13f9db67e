"""Damaged inputs by the thousand: what a program is given must be used rightly, or refused in a message of the project.

    python tests/faults/campaign.py [--kinds jpeg,recipe,...] [--tries 200] [--seed 1]

Each kind makes a sound input and damages it: bits, bytes, pieces, lengths, fields. A try is judged "equal" (the result is
that of the sound input), "accepted" (it was used, and nothing shows that it is wrong) or "refused" (UsageError or
DataError). All else is a finding: another error, a crash of the interpreter, more than SECONDS or MEMORY, another result
where the input carries a checksum. Tries run in forked processes; a damaged input of a finding is kept with --keep.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import os
import pickle
import random
import resource
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "utils"), str(ROOT / "utils/sample_data"), str(ROOT / "tests"), str(ROOT)]

from model_utils.errors import DataError, UsageError  # noqa: E402

SECONDS = 20.0  # of a try
MEMORY = 3 << 30  # bytes that a process of tries may ask for on top of what it has at its start
CHUNK = 25  # tries of a process


@dataclass(frozen=True)
class Kind:
    """A kind of input."""

    sound: Callable[[Path], Any]
    """Makes the sound input below a folder; called once."""

    damage: Callable[[Any, Path, random.Random], Any]
    """Makes a damaged input below another folder."""

    use: Callable[[Any], Any]
    """Uses an input as a program does; what it returns is compared."""

    is_exact: bool = False
    """Whether an accepted input must give the result of the sound one."""


@dataclass(frozen=True)
class Outcome:
    """What became of a try."""

    judgement: str  # equal, accepted, refused or finding
    text: str = ""


# ---- Damage ----------------------------------------------------------------------------------------------------------


def damaged_bytes(content: bytes, draw: random.Random) -> bytes:
    """Content with one to four faults: a flipped bit, another byte, a lost, doubled or moved piece, a cut end."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        place = draw.randrange(len(data) + 1)
        length = min(draw.choice((1, 2, 4, 16, 256, 4096)), len(data) - place)
        what = draw.randrange(7)
        if what == 0 and place < len(data):
            data[place] ^= 1 << draw.randrange(8)
        elif what == 1 and place < len(data):
            data[place] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        elif what == 2:
            del data[place : place + length]
        elif what == 3:
            data[place:place] = data[place : place + length]
        elif what == 4:
            data[place : place + length] = bytes(length)
        elif what == 5:
            data[place : place + length] = draw.randbytes(length)
        else:
            del data[draw.randrange(len(data) + 1) :]
    return bytes(data)


VALUES = (None, True, False, 0, -1, 1, 0.5, 2**31, 10**30, 1e308, float("nan"), float("inf"), "", "x", "\ud800", "\0", [], {},
          [[]], "9" * 5000, "²", "../../x", "/etc/passwd", -0.0, [None], {"": 1}, 16385)  # fmt: skip


def damaged_tree(tree: Any, draw: random.Random) -> Any:
    """A JSON value with one to three members that were changed, removed, doubled or added."""
    tree = pickle.loads(pickle.dumps(tree))
    for _ in range(draw.choice((1, 1, 2, 3))):
        places = [(holder, key) for holder, key in _places(tree)]
        if not places:
            return draw.choice(VALUES)
        holder, key = draw.choice(places)
        what = draw.randrange(5)
        if what == 0:
            del holder[key]
        elif what == 1 and isinstance(holder, list):
            holder.append(holder[key])
        elif what == 1:
            holder[draw.choice(("x", "", "name", key + "_"))] = holder[key]
        elif what == 2:
            other, name = draw.choice(places)
            holder[key] = pickle.loads(pickle.dumps(other[name]))
        else:
            holder[key] = draw.choice(VALUES)
    return tree


def _places(tree: Any) -> Iterable[tuple[Any, Any]]:
    """Each member of each list and object of a tree, as the holder and the key."""
    members = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(members):
        yield tree, key
        yield from _places(value)


# ---- Tries -----------------------------------------------------------------------------------------------------------


def judge(kind: Kind, given: Any, expected: Any) -> Outcome:
    """Use an input, here and now."""
    try:
        found = kind.use(given)
    except (UsageError, DataError) as error:
        refused_well = str(error).strip() and len(str(error)) < 20000
        return (
            Outcome("refused", str(error)) if refused_well else Outcome("finding", f"a poor message: {error!r}"[:300])
        )
    except BaseException as error:  # noqa: BLE001 (all else is what is looked for)
        own = type(error).__name__ in ("UsageError", "DataError")  # of a folder's copy of the package
        return Outcome("refused" if own else "finding", f"{type(error).__name__}: {error}"[:300])
    if same(found, expected):
        return Outcome("equal")
    return Outcome("finding", "accepted, with another result") if kind.is_exact else Outcome("accepted")


def same(found: Any, expected: Any) -> bool:
    return pickle.dumps(found) == pickle.dumps(expected)


def run_kind(name: str, kind: Kind, tries: int, seed: int, keep: Path | None = None) -> list[Outcome]:
    """The outcomes of so many tries; each follows from the name, its number and the seed."""
    with tempfile.TemporaryDirectory(prefix=f"faults_{name}_") as place:
        folder = Path(place)
        (folder / "sound").mkdir()
        sound = kind.sound(folder / "sound")
        expected = kind.use(sound)
        outcomes: list[Outcome] = []
        while len(outcomes) < tries:
            outcomes += _in_process(name, kind, sound, expected, range(len(outcomes), min(tries, len(outcomes) + CHUNK)),
                                    seed, folder, keep)  # fmt: skip
        return outcomes


def make_try(name: str, kind: Kind, sound: Any, number: int, seed: int, folder: Path) -> Any:
    target = folder / f"try_{number}"
    target.mkdir()
    return kind.damage(sound, target, random.Random(f"{name} {number} {seed}"))


def _in_process(name, kind, sound, expected, numbers, seed, folder, keep) -> list[Outcome]:
    """The outcomes of these tries, in a forked process; where it ends or hangs, up to that try, which is a finding."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _child(name, kind, sound, expected, numbers, seed, folder, keep, writer)
    os.close(writer)
    outcomes: list[Outcome] = []
    with os.fdopen(reader, "rb") as results:
        while len(outcomes) < len(numbers):
            if not select.select([results], [], [], SECONDS)[0]:
                outcomes.append(Outcome("finding", f"no end within {SECONDS:g} s"))
                break
            try:
                outcomes.append(pickle.load(results))
            except EOFError:
                outcomes.append(Outcome("finding", "the process ended"))
                break
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if outcomes[-1].text == "the process ended":
        outcomes[-1] = Outcome("finding", f"the process ended, status {status}")
    return outcomes


def _child(name, kind, sound, expected, numbers, seed, folder, keep, writer) -> None:
    faulthandler.disable()
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1, 2):
        os.dup2(null, handle)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in numbers:
        given = make_try(name, kind, sound, number, seed, folder)
        outcome = judge(kind, given, expected)
        if outcome.judgement == "finding" and keep is not None:
            os.system(f"mkdir -p '{keep}' && cp -r '{folder}/try_{number}' '{keep}/{name}_{number}'")
        os.write(writer, pickle.dumps(outcome))
    os._exit(0)


def table(results: dict[str, list[Outcome]]) -> str:
    """A row for each kind."""
    lines = ["| kind | tries | equal | accepted | refused | findings |", "|---|---|---|---|---|---|"]
    for name, outcomes in results.items():
        count = collections.Counter(outcome.judgement for outcome in outcomes)
        row = [len(outcomes), count["equal"], count["accepted"], count["refused"], count["finding"]]
        lines.append(f"| {name} | " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines)


def main() -> int:
    from faults.kinds import KINDS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(KINDS), help="names with commas between them [all]")
    parser.add_argument("--tries", type=int, default=200, help="of each kind [200]")
    parser.add_argument("--seed", type=int, default=1, help="from which all tries follow [1]")
    parser.add_argument("--keep", type=Path, help="folder for the inputs of findings")
    options = parser.parse_args()
    unknown = [name for name in options.kinds.split(",") if name not in KINDS]
    if unknown:
        parser.error(f"no kind {', '.join(unknown)}; the kinds are {', '.join(KINDS)}")
    results = {}
    for name in options.kinds.split(","):
        start = time.monotonic()
        results[name] = run_kind(name, KINDS[name], options.tries, options.seed, options.keep)
        print(f"{name}: {time.monotonic() - start:.1f} s", file=sys.stderr)
        for number, outcome in enumerate(results[name]):
            if outcome.judgement == "finding":
                print(f"  {name} {number}: {outcome.text}", file=sys.stderr)
    print(table(results))
    return int(any(outcome.judgement == "finding" for outcomes in results.values() for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())

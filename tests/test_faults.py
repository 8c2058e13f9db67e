"""A short round of the campaign of damaged inputs, and proof that it finds what it is for."""

from __future__ import annotations

import ctypes
import time

from faults import campaign
from faults.campaign import CHUNK, Kind, damaged_bytes, damaged_tree, run_kind, table
from faults.kinds import KINDS
from model_utils.errors import DataError, UsageError

import pytest

TRIES = 8
pytestmark = pytest.mark.usefixtures("programs")


@pytest.mark.parametrize("name", KINDS)
def test_damaged_inputs_are_used_rightly_or_refused(name):
    findings = [
        (number, o.text)
        for number, o in enumerate(run_kind(name, KINDS[name], TRIES, 20261201))
        if o.judgement == "finding"
    ]
    assert not findings


def refuse(error):
    def use(given):
        if given:
            raise error
        return 0

    return use


def crash(given):
    if given:
        ctypes.string_at(0)


def hang(given):
    if given:
        time.sleep(60)


def wrong(given):
    return given


def grab(given):
    return len(bytearray(8 << 30)) if given else 0


@pytest.mark.parametrize(
    "use, is_exact, judgement, text",
    [
        (refuse(UsageError("no")), True, "refused", ""),
        (refuse(DataError("no")), True, "refused", ""),
        (refuse(DataError("")), True, "finding", "poor message"),
        (refuse(ValueError("no")), True, "finding", "ValueError: no"),
        (refuse(SystemExit(3)), True, "finding", "SystemExit"),
        (refuse(KeyboardInterrupt()), True, "finding", "KeyboardInterrupt"),
        (crash, True, "finding", "the process ended, status 11"),
        (hang, True, "finding", "no end within 1 s"),
        (grab, True, "finding", "MemoryError"),
        (wrong, True, "finding", "another result"),
        (wrong, False, "accepted", ""),
        (lambda given: 0, True, "equal", ""),
    ],
)
def test_what_is_a_finding(use, is_exact, judgement, text, monkeypatch):
    monkeypatch.setattr(campaign, "SECONDS", 1.0)
    kind = Kind(lambda folder: 0, lambda sound, folder, draw: 1, use, is_exact)
    outcomes = run_kind("kind", kind, 2, 1)
    assert [outcome.judgement for outcome in outcomes] == [judgement] * 2 and all(text in o.text for o in outcomes)


def test_tries_follow_from_the_seed_and_all_are_made():
    kind = Kind(lambda folder: 0, lambda sound, folder, draw: draw.random(), lambda given: given > 0.5 and crash(given))
    first = run_kind("kind", kind, CHUNK + 7, 1)
    assert first == run_kind("kind", kind, CHUNK + 7, 1) != run_kind("kind", kind, CHUNK + 7, 2)
    assert len(first) == CHUNK + 7 and {o.judgement for o in first} == {"finding", "equal"}
    assert f"| kind | {CHUNK + 7} |" in table({"kind": first})


def test_damage_damages():
    import random

    content, tree = bytes(range(256)) * 8, {"a": [1, {"b": "x"}], "c": {"d": 1.5}}
    changed = [damaged_bytes(content, random.Random(n)) != content for n in range(100)]
    assert sum(changed) > 90
    assert sum(damaged_tree(tree, random.Random(n)) != tree for n in range(100)) > 90 and tree["a"][1] == {"b": "x"}

"""What a description of a model must hold; a file beside an export, damaged in each of its parts."""

from __future__ import annotations

import copy
import json

from model_utils.errors import DataError
from model_utils.inference import description, digest, read_description
from model_utils.schema import read_json, require_description
from toy.model import MODEL

import pytest

CONFIG = MODEL.read_config([], "")
ABOUT = {**description(MODEL, CONFIG, ["a", "b"]), "batch_size": 1, "file_format": "ONNX"}
MISSING = object()


@pytest.fixture()
def model(tmp_path):
    """A model file with its description; the content is of no matter here."""
    path = tmp_path / "m.onnx"
    path.write_bytes(b"model")

    def write(about):
        text = about if isinstance(about, (str, bytes)) else json.dumps(about)
        target = tmp_path / "m.onnx.json"
        target.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def changed(keys: str, value) -> dict:
    about = copy.deepcopy(ABOUT)
    *parents, last = keys.split(".")
    part = about
    for key in parents:
        part = part[key]
    if value is MISSING:
        del part[last]
    else:
        part[last] = value
    return about


def test_sound_descriptions(model):
    assert read_description(MODEL, model(ABOUT))["network"] == ABOUT["network"]
    assert read_description(MODEL, model(b"\xef\xbb\xbf" + json.dumps(ABOUT).encode())) == ABOUT
    assert read_description(MODEL, model(changed("class_names", MISSING)))["class_names"] is None
    path = model(ABOUT)
    assert read_description(MODEL, model({**ABOUT, "sha256": digest(path)}))["sha256"] == digest(path)
    assert read_description(MODEL, model(changed("input.mean", [0, 0, 0])))["input"]["mean"] == [0, 0, 0]


@pytest.mark.parametrize("keys", ["network", "network.name", "network.num_classes", "input", "input.height", "input.std",
                                  "input.interpolation", "batch_size"])  # fmt: skip
def test_what_is_missing(model, keys):
    with pytest.raises(DataError, match=keys.split(".")[-1]):
        read_description(MODEL, model(changed(keys, MISSING)))


@pytest.mark.parametrize("value", [None, True, "7", -1, 0, 1e400, [7], {}, 10**30, 0.5])
@pytest.mark.parametrize("keys", ["network.num_classes", "input.height", "batch_size"])
def test_numbers_that_cannot_be(model, keys, value):
    if keys == "batch_size" and value == 10**30:
        return  # no bound of its own: the model itself has it
    with pytest.raises(DataError, match=keys.split(".")[-1]):
        read_description(MODEL, model(changed(keys, value)))


@pytest.mark.parametrize(
    "keys, value, message",
    [
        ("network", [], "network is \\[\\]; an object"),
        ("network.name", "other", 'is of the network other; one of toy is accepted'),
        ("network.name", {"x": 1}, "is of the network"),
        ("network.colour", 1, "unknown 'colour'"),
        ("network.activation", 7, "network.activation is 7; a text"),
        ("input.crop_ratio", "big", "input.crop_ratio is \"big\"; a number"),
        ("input.crop_ratio", float("nan"), "input.crop_ratio is NaN; a finite number"),
        ("input.mean", [0.5, 0.5], "input.mean is \\[0.5, 0.5\\]; three numbers"),
        ("input.mean", [0.5, 0.5, None], "input.mean\\[2\\] is null"),
        ("input.std", [1, 1, 0], "input.std"),
        ("input.std", "1,1,1", "input.std"),
        ("input.height", 10**6, "height is 1000000; 1 to 16,384"),
        ("class_names", "ab", "class_names is \"ab\"; a list"),
        ("class_names", [1, 2], "class_names\\[0\\] is 1; a text"),
        ("class_names", ["x"] * 50, "class_names has 50 names, the network"),
    ],
)  # fmt: skip
def test_values_that_cannot_be(model, keys, value, message):
    with pytest.raises(DataError, match=message):
        read_description(MODEL, model(changed(keys, value)))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"x"', "[" * 100_000, b"\xff\xfe\x00", b"\x00" * 9])
def test_files_that_are_no_description(model, text):
    with pytest.raises(DataError, match="m.onnx.json"):
        read_description(MODEL, model(text))


def test_file_that_is_missing_too_large_or_a_folder(model, tmp_path):
    path = model(ABOUT)
    with pytest.raises(DataError, match="has [0-9,]+ bytes; up to 10 are accepted"):
        read_json(tmp_path / "m.onnx.json", "a thing", largest=10)
    (tmp_path / "m.onnx.json").unlink()
    with pytest.raises(DataError, match="it is not there.*keep the two files together"):
        read_description(MODEL, path)
    (tmp_path / "m.onnx.json").mkdir()
    with pytest.raises(DataError, match="it is not there"):
        read_description(MODEL, path)


def test_a_model_file_that_was_changed(model, tmp_path):
    path = model({**ABOUT, "sha256": digest(model(ABOUT))})
    path.write_bytes(b"modem")  # one bit
    with pytest.raises(DataError, match="is not the file that m.onnx.json was written for.*remove sha256"):
        read_description(MODEL, path)


def test_examples_with_empty_lists_accept_any():
    network, spec = dict(ABOUT["network"]), dict(ABOUT["input"])
    about = {"network": network, "input": {**spec, "category_ids": [3, "x"]}, "class_names": None}
    require_description(about, network, {**spec, "category_ids": []}, "it")
    require_description({**about, "input": spec}, network, {**spec, "category_ids": []}, "it")

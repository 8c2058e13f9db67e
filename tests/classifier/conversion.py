"""Conversion of foreign weights: names and order of a network, what is stored with them, what is refused.

How files are read is tested at its source, in tests/ of the repository; that the converted weights compute what the originals
compute, by the tests of the networks.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import convert_checkpoint
from src.model_utils import checkpoint
from src.model_utils import weights as foreign
from src.model_utils.errors import DataError, UsageError

import mindspore as ms
import numpy as np
import pytest
from safetensors.numpy import save_file

from . import oracle

# Bytes of the .weights files of these networks.
FILES = {"darknet53": 166582580, "cspdarknet53": 110710068, "tinydarknet": 4185972, "yolov3": 248007048}


def convert(source: Path, *options):
    """Weights and metadata of the converted checkpoint, which is removed."""
    target = source.parent / "converted.ckpt"
    convert_checkpoint.main(["--input", str(source), "--output", str(target), *map(str, options)])
    parameters, about = checkpoint.load(target)
    target.unlink()
    return {name: value.asnumpy() for name, value in parameters.items()}, about


def refused(source: Path, *options, error=DataError) -> str:
    """The message with which a file is refused; no file is written."""
    before = sorted(source.parent.iterdir())
    with pytest.raises(error) as caught:
        convert(source, *options)
    assert sorted(source.parent.iterdir()) == before
    message = str(caught.value)
    assert "\n" not in message and (source.name in message or error is UsageError)
    return message


def write(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(parts))
    return path


def sparse(path: Path, size: int) -> Path:
    """A .weights file of this length: a header and zeros."""
    write(path, oracle.darknet_header())
    with open(path, "r+b") as file:
        file.truncate(size)
    return path


class DarkNetConversion:
    """Of darknet's files; the values come from the folder."""

    DARKNET: dict  # the expected values
    NETWORK: dict  # description of the network in darknet's file, without the number of classes
    SIDE = 256  # of its input
    HEAD, FEATURES = "fc.weight", 1024  # the classifier's weights and their inputs
    CFG: str  # what the messages call the file
    MAY_LACK_HEAD = False  # whether a file may end before the classifier

    @pytest.fixture
    def folder(self, tmp_path):
        """For large files, removed at once."""
        yield tmp_path
        shutil.rmtree(tmp_path)

    @pytest.fixture(scope="class")
    @classmethod
    def numbers(cls):
        return oracle.darknet_numbers(cls.DARKNET)

    def body_bytes(self) -> int:
        """What stands between the header and the classifier."""
        return self.DARKNET["weights_file"]["bytes"] - 20 - 4 * 1000 * (self.FEATURES + 1)

    def test_darknet(self, folder, numbers):
        expected = self.DARKNET["weights_file"]
        source = write(folder / "d.weights", oracle.darknet_header(), numbers)
        assert source.stat().st_size == expected["bytes"] == FILES[self.NETWORK["name"]]
        assert hashlib.sha256(source.read_bytes()).hexdigest() == expected["sha256"]
        weights, about = convert(source)
        assert sum(value.size for value in weights.values()) == self.DARKNET["param_count"]
        spec = {"height": self.SIDE, "width": self.SIDE, "resize": "shorter_side", "crop_ratio": 1.0}
        spec.update(interpolation="bilinear", mean=[0, 0, 0], std=[1, 1, 1])
        network = {**self.NETWORK, "num_classes": 1000}
        assert about == {"network": network, "input": spec, "class_names": None, "source": "d.weights"}

    def test_class_count_follows_from_the_length(self, folder):
        size = 20 + self.body_bytes() + 4 * (self.FEATURES + 1) * 37
        weights, about = convert_checkpoint.read_darknet(sparse(folder / "x.weights", size))
        assert about["network"]["num_classes"] == 37
        assert weights[self.HEAD].shape[:2] == (37, self.FEATURES)

    def test_length_of_another_network(self, folder):
        own = FILES[self.NETWORK["name"]]
        without_head = 20 + self.body_bytes() - 4 * self.MAY_LACK_HEAD
        for size in {*FILES.values(), own - 4, own + 4, without_head} - {own}:
            message = refused(sparse(folder / "x.weights", size))
            assert f"has {size} bytes" in message and f"{self.CFG} with C classes has" in message

    def test_new_head(self, folder, numbers):
        """Another class count leaves everything but the classifier."""
        source = write(folder / "x.weights", oracle.darknet_header(), numbers)
        weights, about = convert(source, "--num_classes", 10)
        assert about["network"]["num_classes"] == 10 and weights[self.HEAD].shape[:2] == (10, self.FEATURES)
        *_, last = (name for name in weights if name.endswith("conv.weight") and name != self.HEAD)
        end = self.body_bytes()
        assert weights[last].ravel()[-1] == np.frombuffer(numbers[end - 4 : end], "<f4")

    def test_other_endings_are_refused(self, tmp_path):
        assert ".ckpt, .pt, .pth, .safetensors, .weights" in refused(write(tmp_path / "x.onnx"), error=UsageError)


class TimmConversion(DarkNetConversion):
    """Of timm's files too."""

    TIMM: dict
    PARAMETERS: int  # timm's, with the statistics
    INTERPOLATION: str
    NAMES: dict[str, str]  # ours -> timm's
    FAULTS: list[tuple[dict, str]]  # changes of a state dictionary (None removes an entry), message
    ZOO_NAMES: list[str]  # of parameters in the older zoo
    OTHER: tuple[str, tuple[int, ...], str]  # a parameter of timm's other network, its shape; ours that is missing then

    def test_timm(self, folder):
        state = oracle.timm_state(self.TIMM)
        save_file(state, folder / "timm.safetensors")
        weights, about = convert(folder / "timm.safetensors")
        assert sum(value.size for value in weights.values()) == self.PARAMETERS
        network = {"num_classes": 1000, "activation": "leaky_relu", "negative_slope": 0.01, "bn_eps": 1e-5}
        assert about["network"] == {"name": self.NETWORK["name"], **network} and about["class_names"] is None
        published = self.TIMM["pretrained_cfg"]
        assert about["input"] == {
            "height": 256, "width": 256, "resize": "shorter_side", "crop_ratio": published["crop_pct"],
            "interpolation": published["interpolation"], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
        }  # fmt: skip
        assert (published["crop_pct"], published["interpolation"]) == (0.887, self.INTERPOLATION)
        for ours, theirs in self.NAMES.items():
            np.testing.assert_array_equal(weights[ours], state[theirs], err_msg=ours)

    def test_faults_of_a_state_dictionary(self, monkeypatch, tmp_path):
        zeros = {name: np.zeros(shape, np.float32) for name, shape, *_ in self.TIMM["state_dict"]}
        for changes, message in self.FAULTS:
            state = {name: value for name, value in {**zeros, **changes}.items() if value is not None}
            monkeypatch.setattr(foreign, "read_state", lambda path, state=state: state)
            assert message in refused(write(tmp_path / "x.safetensors"))

    def test_state_dictionary_of_another_network(self, tmp_path):
        """Of the other one of the two, which has stages too."""
        name, shape, missing = self.OTHER
        state = {
            name: np.zeros(shape, "f"),
            "head.fc.bias": np.zeros(4, "f"),
            "head.fc.weight": np.zeros((4, 1024), "f"),
        }
        save_file(state, tmp_path / "x.safetensors")
        expected = f"x.safetensors does not fit {self.NETWORK['name']}: {missing} is missing (and"
        assert expected in refused(tmp_path / "x.safetensors")

    def test_checkpoints_are_refused(self, tmp_path):
        """Those of the older zoo, as its network pads in another way; this project's need no conversion."""
        source = tmp_path / "x.ckpt"
        for name in self.ZOO_NAMES:
            ms.save_checkpoint([{"name": name, "data": ms.Tensor(np.zeros((32, 3, 3, 3), np.float32))}], str(source))
            message = refused(source)
            assert "older model zoo and cannot be converted" in message and "pad_mode same" in message
        ms.save_checkpoint([{"name": self.OTHER[2], "data": ms.Tensor([1.0])}], str(source))
        assert "holds no weights of another framework" in refused(source)

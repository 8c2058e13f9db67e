"""From a checkpoint or an exported model to its outputs: the stored network and input are used, contradictions refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from model_utils.checkpoint import EMA_PREFIX, load, save
from model_utils.errors import DataError, UsageError
from model_utils.inference import (
    as_arrays,
    description,
    digest,
    load_model,
    load_network,
    predict,
    read_description,
    with_input,
)
from toy.model import MODEL
from toy.programs import run_export
from toy_runs import command_line

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

pytestmark = pytest.mark.usefixtures("programs")
NAMES = ["zero", "one", "two"]


def read(**options):
    return MODEL.read_config(command_line(**options), "")


def pictures(number: int) -> np.ndarray:
    return np.random.RandomState(1).standard_normal((number, 3, 20, 20)).astype(np.float32)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Random weights of three classes at 20 pixels; nothing but the name is that of the recipe."""
    config = read(num_classes=3, width=4, activation="swish", image_height=20, image_width=20, crop_ratio=0.8)
    about = description(MODEL, config.replace(mean=[0.1, 0.2, 0.3], interpolation="nearest"), NAMES)
    path = tmp_path_factory.mktemp("weights") / "weights.ckpt"
    save(path, MODEL.build_network(about["network"]).parameters_dict(), about)
    return path


@pytest.fixture(scope="module")
def exported(programs, weights, tmp_path_factory) -> Path:
    """A folder with the network as m.mindir and m.onnx, batch 2."""
    folder = tmp_path_factory.mktemp("exported")
    for file_format in ("MINDIR", "ONNX"):
        run_export(command_line(checkpoint_path=weights, file_name=folder / "m", file_format=file_format, batch_size=2))
    return folder


def test_the_description_and_the_weights_are_those_of_the_file(weights):
    network, about = load_network(MODEL, weights, read())
    stored, of_the_file = load(weights)
    assert about == of_the_file == {
        "network": {"name": "toy", "num_classes": 3, "width": 4, "activation": "swish"},
        "input": {"height": 20, "width": 20, "resize": "shorter_side", "crop_ratio": 0.8, "interpolation": "nearest",
                  "mean": [0.1, 0.2, 0.3], "std": [0.25, 0.25, 0.25]},
        "class_names": NAMES,
    }  # fmt: skip
    assert not network.training and not network.stem.bn.training
    assert all(np.array_equal(p.asnumpy(), stored[name].asnumpy()) for name, p in network.parameters_dict().items())
    config = with_input(read(), about)
    assert (config.num_classes, config.image_height, config.image_width, config.crop_ratio) == (3, 20, 20, 0.8)
    assert config.mean == [0.1, 0.2, 0.3] and config.interpolation == "nearest" and config.width == 8


def test_a_training_state_has_both_weights(toy_state, weights):
    """The raw ones, and with use_ema the averaged ones."""
    raw, average = (load_network(MODEL, toy_state, read(), use_ema=use)[0].parameters_dict() for use in (False, True))
    stored = load(toy_state)[0]
    assert all(np.array_equal(raw[name].asnumpy(), stored[name].asnumpy()) for name in raw)
    assert all(np.array_equal(average[name].asnumpy(), stored[EMA_PREFIX + name].asnumpy()) for name in raw)
    assert not np.array_equal(raw["fc.weight"].asnumpy(), average["fc.weight"].asnumpy())
    with pytest.raises(DataError, match="no moving average"):
        load_network(MODEL, weights, read(), use_ema=True)


def test_a_file_of_weights_only_has_the_recipe(weights, tmp_path):
    save(tmp_path / "plain.ckpt", load(weights)[0], {})
    config = read(num_classes=3, width=4, activation="relu", image_height=12, image_width=12)
    _, about = load_network(MODEL, tmp_path / "plain.ckpt", config)
    assert about == description(MODEL, config, None) and about["input"]["height"] == 12


def test_files_that_do_not_fit(weights, tmp_path):
    parameters, about = load(weights)
    save(tmp_path / "other.ckpt", parameters, {**about, "network": {"name": "resnet", "num_classes": 3}})
    with pytest.raises(DataError, match="other.ckpt is of the network resnet; one of toy is accepted here"):
        load_network(MODEL, tmp_path / "other.ckpt", read())
    save(tmp_path / "lacking.ckpt", {"stem.conv.weight": parameters["stem.conv.weight"]}, about)
    with pytest.raises(DataError, match="lacks 11 of 12 weights"):
        load_network(MODEL, tmp_path / "lacking.ckpt", read())
    assert load_network(MODEL, tmp_path / "lacking.ckpt", read(allow_partial_load=True))[1] == about


CONTRADICTIONS = {
    "num_classes": 12, "width": 8, "activation": "relu", "image_height": 16, "image_width": 16, "crop_ratio": 1.0,
    "interpolation": "bilinear", "mean": "0,0,0", "std": "1,1,1",
}  # fmt: skip


@pytest.mark.parametrize("key", CONTRADICTIONS)
def test_options_that_contradict_the_file(weights, exported, key):
    """The file decides; an option that says the same is no contradiction, and the recipe's defaults are none."""
    for path in (weights, exported / "m.onnx"):
        with pytest.raises(UsageError, match=f"--{key} .* contradicts .*{path.name}, which was made for"):
            load_model(MODEL, path, read(**{key: CONTRADICTIONS[key]}))
    about = load(weights)[1]
    value = {**about["input"], **about["network"], "image_height": 20, "image_width": 20}[key]
    load_network(MODEL, weights, read(**{key: ",".join(map(str, value)) if isinstance(value, list) else value}))


def test_a_short_batch_is_padded():
    shapes = []

    def network(images):
        shapes.append(images.shape)
        return images.mean((2, 3)), 2 * images[:, 0]

    for images in (pictures(3), pictures(5)):
        mean, double = predict(network, images, 5)
        assert shapes.pop() == (5, 3, 20, 20) and mean.dtype == np.float32
        np.testing.assert_allclose(mean, images.mean((2, 3)), atol=1e-6)
        np.testing.assert_array_equal(double, 2 * images[:, 0])


def test_outputs_are_float32():
    half = ms.Tensor([[1.5]], ms.float16)
    for outputs in (half, (half,), [half]):
        (array,) = as_arrays(outputs)
        assert array.dtype == np.float32 and array == 1.5


def test_all_formats_give_the_same(weights, exported):
    class Doubled(nn.Cell):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def construct(self, images):
            return 2 * self.network(images)

    images, config = pictures(2), read()
    network, about, fixed = load_model(MODEL, weights, config)
    assert fixed is None and about["class_names"] == NAMES
    (expected,) = network(images)
    assert expected.shape == (2, 3) and expected.dtype == np.float32
    np.testing.assert_allclose(load_model(MODEL, weights, config, Doubled)[0](images)[0], 2 * expected, rtol=1e-6)
    for name in ("m.mindir", "m.onnx"):
        model, about, fixed = load_model(MODEL, exported / name, config)
        assert fixed == 2 and about["class_names"] == NAMES and about["input"]["height"] == 20
        np.testing.assert_allclose(model(images)[0], expected, atol=1e-5 * np.abs(expected).max())


def test_models_that_cannot_be_read(exported, tmp_path, monkeypatch):
    config = read()
    for name, content, message in (
        ("none.mindir", None, "none.mindir is not a file; give a .mindir, .onnx or .ckpt file"),
        ("m.txt", b"text", "the endings .mindir, .onnx and .ckpt are accepted"),
        ("m.mindir", b"text", "is not a sound MINDIR file"),
        ("m.onnx", b"text", "is not a sound ONNX file"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
            about = json.loads((exported / "m.onnx.json").read_text())
            (tmp_path / f"{name}.json").write_text(json.dumps({**about, "sha256": digest(path)}))
        with pytest.raises(DataError, match=message):
            load_model(MODEL, path, config)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DataError, match="pip install onnxruntime"):
        load_model(MODEL, exported / "m.onnx", config)


def test_descriptions_that_cannot_be_used(exported, tmp_path):
    model, about = tmp_path / "m.onnx", json.loads((exported / "m.onnx.json").read_text())
    lacking = {key: value for key, value in about.items() if key != "batch_size"}
    for content, message in (
        (None, "cannot be read .*keep the two files together"),
        ("{", "is not JSON"),
        ("[1]", "does not describe a model"),
        ("{}", "does not describe a model"),
        (json.dumps({**about, "network": {"name": "resnet"}}), "is of the network resnet; one of toy"),
        (json.dumps(lacking), "batch_size is null; an integer"),
    ):
        if content is not None:
            Path(f"{model}.json").write_text(content)
        with pytest.raises(DataError, match=rf"m\.onnx\.json.*{message}"):
            read_description(MODEL, model)

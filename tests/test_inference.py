"""From a checkpoint or an exported model to its outputs: the stored network and input are used, contradictions refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from model_utils.checkpoint import EMA_PREFIX, load, save
from model_utils.errors import DataError, UsageError
from model_utils.inference import (
    as_arrays,
    description,
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


def pictures(number: int, seed: int = 1, side: int = 20) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal((number, 3, side, side)).astype(np.float32)


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


# ---- A checkpoint ----------------------------------------------------------------------------------------------------


def test_the_description_is_complete(weights):
    _, about = load_network(MODEL, weights, read())
    assert about == load(weights)[1]
    assert about == {
        "network": {"name": "toy", "num_classes": 3, "width": 4, "activation": "swish"},
        "input": {"height": 20, "width": 20, "resize": "shorter_side", "crop_ratio": 0.8, "interpolation": "nearest",
                  "mean": [0.1, 0.2, 0.3], "std": [0.25, 0.25, 0.25]},
        "class_names": NAMES,
    }  # fmt: skip


def test_the_network_is_in_evaluation_mode_and_has_the_weights(weights):
    network, _ = load_network(MODEL, weights, read())
    assert not network.training and not network.stem.bn.training
    stored = load(weights)[0]
    assert all(np.array_equal(p.asnumpy(), stored[name].asnumpy()) for name, p in network.parameters_dict().items())


def test_a_training_state_has_both_weights(toy_state):
    """The raw ones, and with use_ema the averaged ones."""
    raw, average = (load_network(MODEL, toy_state, read(), use_ema=use)[0].parameters_dict() for use in (False, True))
    stored = load(toy_state)[0]
    assert all(np.array_equal(raw[name].asnumpy(), stored[name].asnumpy()) for name in raw)
    assert all(np.array_equal(average[name].asnumpy(), stored[EMA_PREFIX + name].asnumpy()) for name in raw)
    assert not np.array_equal(raw["fc.weight"].asnumpy(), average["fc.weight"].asnumpy())


def test_no_moving_average(weights):
    with pytest.raises(DataError, match="no moving average"):
        load_network(MODEL, weights, read(), use_ema=True)


def test_a_file_of_weights_only_has_the_recipe(weights, tmp_path, caplog):
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
    same = {**load(weights)[1]["network"], **load(weights)[1]["input"], "image_height": 20, "image_width": 20}
    value = same[key] if key != "width" else 4
    text = ",".join(map(str, value)) if isinstance(value, list) else value
    load_network(MODEL, weights, read(**{key: text}))


def test_the_recipe_with_the_input_of_the_weights(weights):
    config = with_input(read(), load(weights)[1])
    assert (config.num_classes, config.image_height, config.image_width, config.crop_ratio) == (3, 20, 20, 0.8)
    assert config.mean == [0.1, 0.2, 0.3] and config.interpolation == "nearest" and config.width == 8


# ---- Batches and outputs ---------------------------------------------------------------------------------------------


def test_a_short_batch_is_padded():
    shapes = []

    def network(images):
        shapes.append(images.shape)
        return images.mean((2, 3)), 2 * images[:, 0]

    images = pictures(3)
    mean, double = predict(network, images, 5)
    assert shapes == [(5, 3, 20, 20)] and mean.dtype == np.float32
    np.testing.assert_allclose(mean, images.mean((2, 3)), atol=1e-6)
    np.testing.assert_array_equal(double, 2 * images[:, 0])
    assert predict(network, pictures(5), 5)[0].shape == (5, 3) and shapes[1:] == [(5, 3, 20, 20)]


def test_outputs_are_float32():
    half = ms.Tensor([[1.5]], ms.float16)
    for outputs in (half, (half,), [half]):
        (array,) = as_arrays(outputs)
        assert array.dtype == np.float32 and array == 1.5


# ---- Exported models -------------------------------------------------------------------------------------------------


def test_all_formats_give_the_same(weights, exported):
    images = pictures(2)
    network, about, fixed = load_model(MODEL, weights, read())
    assert fixed is None and about["class_names"] == NAMES
    (expected,) = network(images)
    assert expected.shape == (2, 3) and expected.dtype == np.float32
    for name in ("m.mindir", "m.onnx"):
        model, about, fixed = load_model(MODEL, exported / name, read())
        assert fixed == 2 and about["class_names"] == NAMES and about["input"]["height"] == 20
        np.testing.assert_allclose(model(images)[0], expected, atol=1e-5 * np.abs(expected).max())


def test_what_stands_around_the_network_of_a_checkpoint(weights):
    class Doubled(nn.Cell):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def construct(self, images):
            return 2 * self.network(images)

    plain, wrapped = (load_model(MODEL, weights, read(), wrap)[0](pictures(2))[0] for wrap in (None, Doubled))
    np.testing.assert_allclose(wrapped, 2 * plain, rtol=1e-6)


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
            shutil.copy(exported / "m.onnx.json", tmp_path / f"{name}.json")
        with pytest.raises(DataError, match=message):
            load_model(MODEL, path, config)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DataError, match="pip install onnxruntime"):
        load_model(MODEL, exported / "m.onnx", config)


def test_descriptions_that_cannot_be_used(exported, tmp_path):
    model = tmp_path / "m.onnx"
    about = json.loads((exported / "m.onnx.json").read_text())
    lacking = {key: value for key, value in about.items() if key != "batch_size"}
    for content, message in (
        (None, "cannot be read .*keep the two files together"),
        ("{", "cannot be read"),
        ("[1]", "cannot be read"),
        ("{}", "cannot be read"),
        (json.dumps({**about, "network": {"name": "resnet"}}), "describes another network than toy"),
        (json.dumps(lacking), "describes another network than toy"),
    ):
        if content is not None:
            Path(f"{model}.json").write_text(content)
        with pytest.raises(DataError, match=rf"m\.onnx\.json.*{message}"):
            read_description(MODEL, model)


@pytest.mark.parametrize("name", ["m.mindir", "m.onnx", "m.ckpt"])
@pytest.mark.parametrize(
    "content, kind", [(b"version https://git-lfs.github.com", "Git LFS"), (b"<html>", "a web page")]
)
def test_other_files_are_called_what_they_are(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} .*is .*{kind}"):
        load_model(MODEL, tmp_path / name, MODEL.read_config([], ""))

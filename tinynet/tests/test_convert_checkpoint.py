"""Conversion of foreign weights: names, shapes and the input that they were trained for; what does not fit is refused.

How files are read, and damaged ones refused, is tested in tests/ of the repository. The five networks of timm are
converted in test_network.py.
"""

import json

import convert_checkpoint
import eval as evaluation
from classifier import oracle
from classifier.conversion import convert, refused
from classifier.fixtures import same
from classifier.network import load
from classifier.wiring import measures
from conftest import EXPECTED, SIDES, by_our_names, running
from src.model_utils import checkpoint
from src.model_utils.errors import UsageError
from src.recipe import read_config

import mindspore as ms
import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.numpy import save_file

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
# What an optimizer and a training of the framework leave in a checkpoint beside the weights.
LEFTOVERS = {
    "moments.conv_stem.weight": (32, 3, 3, 3), "mean_square.blocks.layer.0.0.conv_dw.weight": (32, 1, 3, 3),
    "moment.blocks.layer.0.0.conv_dw.weight": (32, 1, 3, 3), "mean_grad.bn1.gamma": (32,), "learning_rate": (5,),
    "global_step": (1,), "momentum": (), "epoch_num": (1,), "step_num": (1,),
}  # fmt: skip


def body(weights: dict) -> dict:
    return {name: value for name, value in weights.items() if not name.startswith("classifier.")}


@pytest.fixture(scope="module")
def state():
    """timm's state dictionary of the smallest model."""
    return oracle.timm_state(EXPECTED["tinynet_e"])


@pytest.fixture
def safetensors(state, tmp_path):
    """A function that writes it with changes; None removes an entry."""

    def write_file(changes=None):
        changed = {name: value for name, value in {**state, **(changes or {})}.items() if value is not None}
        save_file(changed, tmp_path / "x.safetensors")
        return tmp_path / "x.safetensors"

    return write_file


def save_zoo(path, state: dict, prefix: str = ""):
    """A checkpoint of the older model zoo, with what its training left there."""
    weights = {prefix + name.replace("blocks.", "blocks.layer."): value for name, value in by_our_names(state).items()}
    weights.update({name: np.ones(shape, np.float32) for name, shape in LEFTOVERS.items()})
    ms.save_checkpoint([{"name": name, "data": ms.Tensor(value)} for name, value in weights.items()], str(path))
    return path


@pytest.mark.parametrize("name", ["timm.pth", "timm.pt"])
def test_pth(state, tmp_path, name):
    """PyTorch's own format, as it is and as a training writes it: inside state_dict, each name behind module."""
    torch = pytest.importorskip("torch")
    plain = {key: torch.from_numpy(value) for key, value in state.items()}
    wrapped = {"state_dict": {f"module.{key}": value for key, value in plain.items()}, "epoch": 3}
    torch.save(plain if name == "timm.pt" else wrapped, tmp_path / name)
    weights, about = convert(tmp_path / name)
    assert same(weights, by_our_names(state)) and about["network"]["model"] == "tinynet_e"


@pytest.mark.parametrize("model, prefix", [("tinynet_d", ""), ("tinynet_e", "network.")])
def test_checkpoint_of_the_older_zoo(tmp_path, model, prefix):
    """Other names of the blocks; what the optimizer left there is skipped."""
    state = oracle.timm_state(EXPECTED[model])
    weights, about = convert(save_zoo(tmp_path / "last.ckpt", state, prefix))
    assert same(weights, by_our_names(state))
    assert about["network"]["model"] == model and about["input"]["height"] == SIDES[model]


def test_new_head(state, safetensors):
    """Another class count leaves everything but the classifier; the weights may also lack theirs."""
    source = safetensors()
    weights, about = convert(source, "--num_classes", 10)
    assert about["network"]["num_classes"] == 10 and weights["classifier.weight"].shape == (10, 1280)
    assert np.unique(weights["classifier.weight"]).size > 5000 and same(body(weights), body(by_our_names(state)))
    safetensors({"classifier.weight": None, "classifier.bias": None})
    assert "--num_classes N" in refused(source)
    ms.set_seed(99)
    assert same(convert(source, "--num_classes", 10)[0], weights), "the head does not follow from a fixed seed"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks.3.0.bn1.bias": None}, "does not fit tinynet: blocks.3.0.bn1.beta is missing"),
        ({"blocks.0.1.bn1.bias": np.zeros(3, "f")}, "blocks.0.1.bn1.beta is left over"),
        ({"blocks.1.0.se.conv_reduce.bias": np.zeros(9, "f")}, "blocks.1.0.se.conv_reduce.bias has shape (9,)"),
        ({"classifier.weight": np.zeros((), "f")}, "holds no classifier"),
        ({"bn2.running_var": np.full(1280, -1, "f")}, "bn2.moving_variance has values"),
    ],
)
def test_faults_of_a_state_dictionary(safetensors, changes, message):
    assert message in refused(safetensors(changes))


def test_weights_of_other_networks(tmp_path):
    """EfficientNet-B0 has the names and shapes of tinynet_a, but three blocks fewer."""
    path = tmp_path / "other.safetensors"
    efficientnet = oracle.timm_state(EXPECTED["tinynet_a"])
    for block in ("blocks.3.3.", "blocks.4.3.", "blocks.5.4."):
        efficientnet = {name: value for name, value in efficientnet.items() if not name.startswith(block)}
    save_file(efficientnet, path)
    assert "other.safetensors does not fit tinynet: blocks.3.3.conv_pw.weight is missing (and" in refused(path)
    save_file({"stem.conv1.conv.weight": np.zeros((32, 3, 3, 3), "f"), "head.fc.bias": np.zeros(9, "f")}, path)
    assert "--num_classes N" in refused(path)
    assert "does not fit tinynet: conv_stem.weight is missing" in refused(path, "--num_classes", 9)


def test_other_checkpoints(state, tmp_path):
    source = tmp_path / "x.ckpt"
    save_zoo(source, {name: value for name, value in state.items() if not name.startswith("blocks.4.1.")})
    assert "blocks.4.1.conv_pw.weight is missing" in refused(source)
    checkpoint.save(source, by_our_names(state), {"network": {"name": "tinynet"}})
    assert "checkpoint of this project already" in refused(source)


def pillow_input(path) -> np.ndarray:
    """A picture as timm feeds it to tinynet_e: shorter side to 121 pixels, bicubic, the centre of 106."""
    picture = Image.open(path).convert("RGB")
    assert picture.size[0] == picture.size[1]
    corner = round((121 - 106) / 2)
    picture = picture.resize((121, 121), Image.Resampling.BICUBIC).crop((corner, corner, corner + 106, corner + 106))
    pixels = np.asarray(picture, np.float64) / 255
    return ((pixels - IMAGENET["mean"]) / IMAGENET["std"]).transpose(2, 0, 1).astype(np.float32)


def test_programs_obey_the_checkpoint(safetensors, few_digits, tmp_path, capsys):
    """They build the network and its input from the checkpoint, whatever the recipe's defaults are."""
    (tmp_path / "names.yaml").write_text(yaml.safe_dump([str(digit) for digit in range(10)]))
    path = tmp_path / "e.ckpt"
    convert_checkpoint.main(["--input", str(safetensors()), "--output", str(path), "--num_classes", "10",
                             "--class_names", str(tmp_path / "names.yaml")])  # fmt: skip
    about = checkpoint.load(path)[1]
    assert about["network"]["model"] == "tinynet_e" != read_config([], "").model
    files = sorted((few_digits / "val").rglob("*.jpg"))
    with running("PYNATIVE_MODE"):
        logits = load(path)(ms.Tensor(np.stack([pillow_input(file) for file in files]))).asnumpy()
    loss, top_1, _ = measures(logits, np.array([int(file.parent.name) for file in files]), 0.1)
    capsys.readouterr()
    options = ["--ckpt", str(path), "--device_target", "CPU", "--run_dir", str(tmp_path / "run")]
    evaluation.main([*options, "--data_path", str(few_digits)])
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1].replace("'", '"'))
    assert found["Validation-Loss"] == pytest.approx(loss, rel=1e-4)
    assert found["Top1-Acc"] == pytest.approx(top_1, abs=1e-9)
    for option in ("--model tinynet_c", "--image_height 184", "--crop_ratio 1", "--interpolation bilinear",
                   "--std 1,1,1", "--bn_tf", "--num_classes 1000"):  # fmt: skip
        with pytest.raises(UsageError, match=f"{option[:4]}.* contradicts"):
            evaluation.main([*options, "--data_path", str(few_digits), *option.split()])

"""Conversion of foreign weights: every weight filled, nothing left over, bad files refused, nothing written then."""

import json
import sys

import convert_checkpoint
import eval as evaluation
import infer
import oracle
from conftest import program
from src.model_utils import checkpoint
from src.model_utils.config import DataError, UsageError
from src.recipe import read_config

import mindspore as ms
import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.numpy import save_file
from src.inference import load_network

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
SIDES = dict(zip(oracle.MODELS, (192, 188, 184, 152, 106)))
# What an optimizer and a training of the framework leave in a checkpoint beside the weights.
LEFTOVERS = {
    "moments.conv_stem.weight": (32, 3, 3, 3), "mean_square.blocks.layer.0.0.conv_dw.weight": (32, 1, 3, 3),
    "moment.blocks.layer.0.0.conv_dw.weight": (32, 1, 3, 3), "mean_grad.bn1.gamma": (32,), "learning_rate": (5,),
    "global_step": (1,), "momentum": (), "epoch_num": (1,), "step_num": (1,),
}  # fmt: skip


def convert(source, *options):
    target = source.parent / "converted.ckpt"
    convert_checkpoint.main(["--input", str(source), "--output", str(target), *map(str, options)])
    parameters, about = checkpoint.load(target)
    target.unlink()
    return {name: value.asnumpy() for name, value in parameters.items()}, about


def refused(source, *options, error=DataError) -> str:
    """The message with which a file is refused; no file is written."""
    before = sorted(source.parent.iterdir())
    with pytest.raises(error) as caught:
        convert(source, *options)
    assert sorted(source.parent.iterdir()) == before
    message = str(caught.value)
    assert "\n" not in message and (source.name in message or error is UsageError)
    return message


def write(path, data: bytes):
    path.write_bytes(data)
    return path


def as_ours(state: dict) -> dict:
    """timm's state dictionary by our names."""
    leaves = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    weights = {}
    for name, value in state.items():
        stem, leaf = name.rsplit(".", 1)
        if leaf != "num_batches_tracked":
            weights[f"{stem}.{leaves[leaf] if stem[-3:-1] == 'bn' else leaf}"] = value
    return weights


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def body(weights: dict) -> dict:
    return {name: value for name, value in weights.items() if not name.startswith("classifier.")}


@pytest.fixture(scope="module")
def state():
    """timm's state dictionary of the smallest model."""
    return oracle.timm_state("tinynet_e")


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
    names = {name: prefix + name.replace("blocks.", "blocks.layer.") for name in as_ours(state)}
    rows = [{"name": names[name], "data": ms.Tensor(value)} for name, value in as_ours(state).items()]
    rows += [{"name": name, "data": ms.Tensor(np.ones(shape, np.float32))} for name, shape in LEFTOVERS.items()]
    ms.save_checkpoint(rows, str(path))
    return path


# ---- What is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", oracle.MODELS)
def test_timm(tmp_path, model):
    """Which of the five it is follows from the shapes."""
    state, published = oracle.timm_state(model), oracle.EXPECTED[model]["pretrained_cfg"]
    save_file(state, tmp_path / "timm.safetensors")
    weights, about = convert(tmp_path / "timm.safetensors")
    assert same(weights, as_ours(state))
    assert about == {
        "network": {"name": "tinynet", "model": model, "num_classes": 1000, "bn_momentum": 0.1, "bn_eps": 1e-5},
        "input": {
            "height": SIDES[model], "width": SIDES[model], "resize": "shorter_side", "crop_ratio": 0.875,
            "interpolation": "bicubic", **IMAGENET,
        },
        "class_names": None,
        "source": "timm.safetensors",
    }  # fmt: skip
    assert published["input_size"] == [3, SIDES[model], SIDES[model]]
    assert (published["crop_pct"], published["interpolation"]) == (0.875, "bicubic")
    assert {key: published[key] for key in IMAGENET} == IMAGENET


@pytest.mark.parametrize("name", ["timm.pth", "timm.pt"])
def test_pth(state, tmp_path, name):
    """PyTorch's own format, as it is and as a training writes it: inside state_dict, each name behind module."""
    torch = pytest.importorskip("torch")
    plain = {key: torch.from_numpy(value) for key, value in state.items()}
    wrapped = {"state_dict": {f"module.{key}": value for key, value in plain.items()}, "epoch": 3}
    torch.save(plain if name == "timm.pt" else wrapped, tmp_path / name)
    weights, about = convert(tmp_path / name)
    assert same(weights, as_ours(state)) and about["network"]["model"] == "tinynet_e"


@pytest.mark.parametrize("model, prefix", [("tinynet_d", ""), ("tinynet_e", "network.")])
def test_checkpoint_of_the_older_zoo(tmp_path, model, prefix):
    """Other names of the blocks; what the optimizer left there is skipped."""
    state = oracle.timm_state(model)
    weights, about = convert(save_zoo(tmp_path / "last.ckpt", state, prefix))
    assert same(weights, as_ours(state))
    assert about["network"]["model"] == model and about["input"]["height"] == SIDES[model]


def test_new_head(state, safetensors, tmp_path):
    """Another class count leaves everything but the classifier; the weights may also lack theirs."""
    source = safetensors()
    weights, about = convert(source, "--num_classes", 10)
    assert about["network"]["num_classes"] == 10 and weights["classifier.weight"].shape == (10, 1280)
    assert np.unique(weights["classifier.weight"]).size > 5000 and same(body(weights), body(as_ours(state)))
    ms.set_seed(99)
    assert same(convert(source, "--num_classes", 10)[0], weights), "the head does not follow from a fixed seed"
    assert same(convert(save_zoo(tmp_path / "zoo.ckpt", state), "--num_classes", 10)[0], weights)
    safetensors({"classifier.weight": None, "classifier.bias": None})
    assert "--num_classes N" in refused(source)
    assert same(convert(source, "--num_classes", 10)[0], weights)


def test_class_names(safetensors, tmp_path):
    names, source = tmp_path / "names.yaml", safetensors()
    names.write_text("- n01440764\n- 007\n- no\n")
    about = convert(source, "--num_classes", 3, "--class_names", names)[1]
    assert about["class_names"] == ["n01440764", "007", "no"]
    assert "has 3 names: 1000 names" in refused(source, "--class_names", names, error=UsageError)
    for text, message in (("cat\n", "lines such as"), ("- [cat\n", "cannot be read as YAML")):
        names.write_text(text)
        assert message in refused(source, "--class_names", names, error=UsageError)


# ---- What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks.3.0.bn1.bias": None}, "does not fit tinynet: blocks.3.0.bn1.beta is missing"),
        ({"blocks.0.1.bn1.bias": np.zeros(3, "f")}, "blocks.0.1.bn1.beta is left over"),
        ({"conv_stem.weight": np.zeros((32, 3, 5, 5), "f")}, "conv_stem.weight has shape (32, 3, 5, 5), the network"),
        ({"conv_stem.weight": np.zeros((), "f")}, "conv_stem.weight has shape (), the network"),
        ({"blocks.1.0.se.conv_reduce.bias": np.zeros(9, "f")}, "blocks.1.0.se.conv_reduce.bias has shape (9,)"),
        ({"classifier.bias": np.zeros(7, "f")}, "classifier.bias has shape (7,)"),
        ({"classifier.weight": np.zeros((), "f")}, "holds no classifier"),
        ({"classifier.bias": np.full(1000, np.nan, "f")}, "classifier.bias has values that are not finite"),
        ({"bn2.running_var": np.full(1280, -1, "f")}, "bn2.moving_variance has values"),
    ],
)
def test_faults_of_a_state_dictionary(safetensors, changes, message):
    assert message in refused(safetensors(changes))


def test_weights_of_other_networks(tmp_path):
    """EfficientNet-B0 has the names and shapes of tinynet_a, but three blocks fewer."""
    path = tmp_path / "other.safetensors"
    efficientnet = oracle.timm_state("tinynet_a")
    for block in ("blocks.3.3.", "blocks.4.3.", "blocks.5.4."):
        efficientnet = {name: value for name, value in efficientnet.items() if not name.startswith(block)}
    save_file(efficientnet, path)
    assert "other.safetensors does not fit tinynet: blocks.3.3.conv_pw.weight is missing (and" in refused(path)
    save_file({"stem.conv1.conv.weight": np.zeros((32, 3, 3, 3), "f"), "head.fc.bias": np.zeros(9, "f")}, path)
    assert "--num_classes N" in refused(path)
    assert "does not fit tinynet: conv_stem.weight is missing" in refused(path, "--num_classes", 9)


def test_truncated_files(state, safetensors, tmp_path):
    source = safetensors()
    write(source, source.read_bytes()[:-1000])
    assert "is not a sound safetensors file" in refused(source)
    zoo = save_zoo(tmp_path / "zoo.ckpt", state)
    write(zoo, zoo.read_bytes()[: zoo.stat().st_size // 2])
    refused(zoo)


@pytest.mark.parametrize("data", [b"", b"no weights\n" * 20])
@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "x.pt", "x.ckpt"])
def test_unsound_files(tmp_path, name, data):
    if name.startswith("x.pt"):
        pytest.importorskip("torch")
    message = refused(write(tmp_path / name, data))
    assert "sound" in message or "damaged" in message


def test_truncated_pth(state, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({name: torch.from_numpy(value) for name, value in state.items()}, tmp_path / "x.pth")
    write(tmp_path / "x.pth", (tmp_path / "x.pth").read_bytes()[:-1000])
    assert "is not a sound PyTorch file" in refused(tmp_path / "x.pth")


@pytest.mark.parametrize(("module", "name"), [("torch", "x.pth"), ("safetensors.numpy", "x.safetensors")])
def test_reader_that_is_not_installed(monkeypatch, tmp_path, module, name):
    monkeypatch.setitem(sys.modules, module, None)
    assert "pip install" in refused(write(tmp_path / name, b"1"))


def test_other_checkpoints(state, tmp_path):
    source = tmp_path / "x.ckpt"
    save_zoo(source, {name: value for name, value in state.items() if not name.startswith("blocks.4.1.")})
    assert "blocks.4.1.conv_pw.weight is missing" in refused(source)
    checkpoint.save(source, as_ours(state), {"network": {"name": "tinynet"}})
    assert "checkpoint of this project already" in refused(source)


def test_wrong_options(safetensors, tmp_path):
    source = safetensors()
    assert "1 or more" in refused(source, "--num_classes", "-1", error=UsageError)
    assert "ending .ckpt" in refused(source, "--output", "x.bin", error=UsageError)
    assert "is not a file; give a file that ends in .ckpt, .pt, .pth, .safetensors" in refused(tmp_path / "no.ckpt")
    message = refused(write(tmp_path / "x.weights", b"1"), error=UsageError)
    assert "x.weights: the endings .ckpt, .pt, .pth, .safetensors" in message


def test_program_reports_one_line(tmp_path):
    write(tmp_path / "x.safetensors", b"text")
    result = program("convert_checkpoint.py", "--input", tmp_path / "x.safetensors", "--output", tmp_path / "y.ckpt")
    assert result.returncode == 1 and not (tmp_path / "y.ckpt").exists()
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"error: {tmp_path / 'x.safetensors'} is not a sound safetensors file")


# ---- What is done with it --------------------------------------------------------------------------------------------


def pillow_input(path) -> np.ndarray:
    """A picture as timm feeds it to tinynet_e: shorter side to 121 pixels, bicubic, the centre of 106."""
    picture = Image.open(path).convert("RGB")
    assert picture.size[0] == picture.size[1]
    corner = (121 - 106) // 2
    picture = picture.resize((121, 121), Image.Resampling.BICUBIC).crop((corner, corner, corner + 106, corner + 106))
    pixels = np.asarray(picture, np.float64) / 255
    return ((pixels - IMAGENET["mean"]) / IMAGENET["std"]).transpose(2, 0, 1).astype(np.float32)


def test_programs_obey_the_checkpoint(safetensors, few_digits, tmp_path, capsys):
    """eval.py and infer.py build the network and its input from the checkpoint, whatever the recipe's defaults are."""
    (tmp_path / "names.yaml").write_text(yaml.safe_dump([str(digit) for digit in range(10)]))
    path = tmp_path / "e.ckpt"
    convert_checkpoint.main(["--input", str(safetensors()), "--output", str(path), "--num_classes", "10",
                             "--class_names", str(tmp_path / "names.yaml")])  # fmt: skip
    network, about = load_network(path, read_config([], ""))
    assert about["network"]["model"] == "tinynet_e" != read_config([], "").model
    files = sorted((few_digits / "val").rglob("*.jpg"))
    labels = np.array([int(file.parent.name) for file in files])
    logits = network(ms.Tensor(np.stack([pillow_input(file) for file in files]))).asnumpy().astype(np.float64)
    scores = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    own = scores[np.arange(len(files)), labels]
    loss = -(0.9 * own + 0.1 / 9 * (scores.sum(1) - own)).mean()
    capsys.readouterr()
    options = ["--ckpt", str(path), "--device_target", "CPU", "--run_dir", str(tmp_path / "run")]
    evaluation.main([*options, "--data_path", str(few_digits)])
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1].replace("'", '"'))
    assert found["Validation-Loss"] == pytest.approx(loss, rel=1e-4)
    assert found["Top1-Acc"] == pytest.approx((logits.argmax(1) == labels).mean(), abs=1e-9)
    for option in (["--model", "tinynet_c"], ["--image_height", "184"], ["--crop_ratio", "1"],
                   ["--interpolation", "bilinear"], ["--std", "1,1,1"], ["--bn_tf"], ["--num_classes", "1000"]):  # fmt: skip
        with pytest.raises(UsageError, match=f"{option[0][:4]}.* contradicts"):
            evaluation.main([*options, "--data_path", str(few_digits), *option])
    infer.main(["--model_file", str(path), "--input", str(few_digits / "val"), "--output_dir", str(tmp_path / "out"),
                "--device_target", "CPU"])  # fmt: skip
    predictions = json.loads((tmp_path / "out/predictions.json").read_text())
    assert predictions["input"] == about["input"]
    results = sorted((tmp_path / "out/result_Files").iterdir())
    assert len(results) == len(files) == 40
    written = {name.stem: np.fromfile(name, "<f4") for name in results}
    for file, row in zip(files, logits):
        np.testing.assert_allclose(written[file.stem], row, atol=2e-4 * np.abs(logits).max())

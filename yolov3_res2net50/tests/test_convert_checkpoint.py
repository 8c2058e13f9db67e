"""Conversion of foreign weights to a backbone: every value in its place, nothing left over, bad files refused."""

import functools
import shutil
import sys
from pathlib import Path

import convert_checkpoint
import oracle
from src.model_utils import checkpoint
from src.model_utils import weights as foreign
from src.model_utils.errors import DataError, UsageError
from src.res2net import BLOCKS, Res2Net
from src.yolo import yolov3_res2net50

import mindspore as ms
import numpy as np
import pytest
from safetensors.numpy import save_file

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HEADS = {"fc.weight", "fc.bias"}


@pytest.fixture(autouse=True, scope="module")
def networks():
    """The program asks a backbone for nothing but names and shapes: one of each kind serves all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert_checkpoint, "Res2Net", functools.cache(Res2Net))
        yield


@pytest.fixture
def reads(monkeypatch):
    """Makes the readers of files give these weights: `reads(weights)`."""

    def use(weights: dict) -> None:
        for name in ("read_state", "read_checkpoint"):
            monkeypatch.setattr(foreign, name, lambda path: weights)

    return use


@pytest.fixture
def folder(tmp_path):
    """A folder for large files, removed at once."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def timm_state():
    return oracle.timm_state()


@pytest.fixture(scope="module")
def expected(timm_state):
    """The backbone's values."""
    return oracle.backbone_weights(timm_state)


@pytest.fixture(scope="module")
def zeros():
    """timm's state dictionary without its values."""
    return {name: np.zeros(shape, np.float32) for name, shape, *_ in oracle.TIMM["state_dict"]}


def without_counters(state: dict) -> dict:
    """A state dictionary of timm as `weights.read_state` gives it."""
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


def zoo_modules(in_detector: bool) -> list[tuple[str, str]]:
    """Modules of the older zoo with those of timm that have the same weights, written down from its documentation.

    In the classifier the list of the shortcut is convolution, batch norm in layer1, and has a pool before them elsewhere.
    """
    modules = [("conv1_0", "conv1.0"), ("bn1_0", "conv1.1"), ("conv1_1", "conv1.3"), ("bn1_1", "conv1.4")]
    modules += [("conv1_2", "conv1.6"), ("bn1", "bn1")]
    for layer, blocks in zip((1, 2, 3, 4), BLOCKS):
        for block in (f"layer{layer}.{index}." for index in range(blocks)):
            parts = ["conv1", "bn1", "conv3", "bn3"] + [f"{kind}.{i}" for kind in ("convs", "bns") for i in range(3)]
            modules += [(block + part, block + part) for part in parts]
        first = 0 if layer == 1 else 1
        names = [f"down_sample_layer.{first}", f"down_sample_layer.{first + 1}"]
        names = ["conv_down_sample", "bn_down_sample"] if in_detector else names
        modules += [(f"layer{layer}.0.{name}", f"layer{layer}.0.downsample.{i}") for name, i in zip(names, (1, 2))]
    return modules


def zoo_weights(timm_state, prefix: str = "", in_detector: bool = False) -> dict[str, np.ndarray]:
    """The backbone's weights as the older zoo stores them."""
    leaves = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    weights = {}
    for zoo, timm in zoo_modules(in_detector):
        if f"{timm}.running_mean" in timm_state:
            weights.update({f"{prefix}{zoo}.{ours}": timm_state[f"{timm}.{theirs}"] for ours, theirs in leaves.items()})
        else:
            weights[f"{prefix}{zoo}.weight"] = timm_state[f"{timm}.weight"]
    return weights


# Its classifier, and what a training leaves in the file.
END_POINT = {"end_point.weight": np.ones((1001, 2048), np.float32), "end_point.bias": np.ones(1001, np.float32)}
TRAINING = {
    "moments.conv1_0.weight": np.ones((32, 3, 3, 3), np.float32),
    "moments.end_point.bias": np.ones(1001, np.float32),
    "epoch_num": np.array(90, np.int32),
    "step_num": np.array(5004, np.int32),
    "learning_rate": np.array(0.1, np.float32),
    "global_step": np.array([5004], np.int32),
    "momentum": np.array(0.9, np.float32),
}


def save_zoo(path, weights):
    ms.save_checkpoint([{"name": name, "data": ms.Tensor(value)} for name, value in weights.items()], str(path))
    return path


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


def write(path, data: bytes = b""):
    path.write_bytes(data)
    return path


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys() and len(one) == 435
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


# timm


def test_timm(folder, timm_state, expected, capsys):
    save_file(timm_state, folder / "timm.safetensors")
    weights, about = convert(folder / "timm.safetensors")
    assert_same(weights, expected)
    assert all(value.dtype == np.float32 for value in weights.values())
    assert about == {
        "backbone": {"name": "res2net50", "shortcut": "avg_pool", "bn_eps": 1e-5},
        "input": IMAGENET,
        "source": "timm.safetensors",
    }
    published = oracle.TIMM["pretrained_cfg"]
    assert {key: published[key] for key in IMAGENET} == IMAGENET
    text = capsys.readouterr().out
    assert text.startswith("435 weights of ") and "its classifier is left out" in text


def test_converted_backbone_gives_features_of_timm(reads, timm_state):
    """Inside the detector; and the logits, with timm's classifier behind it."""
    reads(without_counters(timm_state))
    weights, about = convert_checkpoint.read_timm(Path("timm.safetensors"))
    case = oracle.TIMM["eval"][0]
    images = ms.Tensor(oracle.model_input(case["input_shape"], oracle.TIMM["seed"]))
    network = yolov3_res2net50(2, shortcut=about["backbone"]["shortcut"]).backbone.set_train(False)
    named = {f"backbone.{name}": ms.Tensor(value) for name, value in weights.items()}
    assert len(checkpoint.load_weights(network, named, "")["loaded"]) == 435
    features = [feature.asnumpy() for feature in network(images)]
    for name, feature in zip(("layer2", "layer3", "layer4"), features):
        oracle.check_statistics(feature, case["stages"][name], name)
    logits = features[2].mean((2, 3)) @ timm_state["fc.weight"].T + timm_state["fc.bias"]
    assert oracle.relative_error(logits, case["logits"]) <= 5e-5


def test_without_classifier(reads, timm_state, expected):
    reads({n: v for n, v in without_counters(timm_state).items() if n not in HEADS})
    assert_same(convert_checkpoint.read_timm(Path("timm.safetensors"))[0], expected)


def test_pth(folder, timm_state, expected):
    """PyTorch's own format, as a training writes it: inside state_dict, each name behind module."""
    torch = pytest.importorskip("torch")
    state = {f"module.{name}": torch.from_numpy(value) for name, value in timm_state.items()}
    torch.save({"state_dict": state, "epoch": 3}, folder / "timm.pth")
    assert_same(convert(folder / "timm.pth")[0], expected)


def test_other_spellings_and_default_name(folder, monkeypatch):
    monkeypatch.setattr(foreign, "read", lambda path, readers: ({path.name: np.ones(1)}, {"backbone": {}}))
    monkeypatch.chdir(folder)
    convert_checkpoint.main(["--input_file", "timm.safetensors"])
    assert list(checkpoint.load("backbone_res2net50.ckpt")[0]) == ["timm.safetensors"]
    convert_checkpoint.main(["--input_file=timm.safetensors", "--output_file=new/other.ckpt"])
    assert (folder / "new" / "other.ckpt").is_file()


def test_half_precision(reads, folder, timm_state, expected):
    state = without_counters(timm_state)
    reads(state)
    weights, _ = convert(write(folder / "timm.safetensors"), "--fp16")
    assert_same(weights, {name: value.astype(np.float16) for name, value in expected.items()})
    assert all(value.dtype == np.float16 for value in weights.values())
    reads({**state, "bn1.running_var": np.full(64, 7e4, "f")})
    message = refused(folder / "timm.safetensors", "--fp16")
    assert "stem.4.bn.moving_variance has values above 65504" in message and "leave --fp16 out" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"layer3.5.bns.2.bias": None},
            "does not fit the Res2Net50 backbone: layer3.5.branches.2.bn.beta is missing; give",
        ),
        ({"layer1.0.downsample.1.weight": None}, "layer1.0.shortcut.1.conv.weight is missing; give"),
        ({"layer3.6.conv1.weight": np.zeros((416, 1024, 1, 1))}, "layer3.6.conv1.weight is left over; give timm's"),
        ({"layer2.0.convs.3.weight": np.zeros((52, 52, 3, 3))}, "layer2.0.convs.3.weight is left over"),
        ({"layer1.0.bn1.gamma": np.zeros(104)}, "layer1.0.bn1.gamma is there twice"),
        ({"conv1.0.bias": np.zeros(32)}, "conv1.0.bias is left over"),
        ({"end_point": np.zeros(3)}, "end_point is left over"),
        ({"stem.0.conv.weight": np.zeros((32, 3, 3, 3))}, "stem.0.conv.weight is left over"),
        ({"layer1.0.conv1.weight": None, "a": np.zeros(1)}, "layer1.0.conv1.conv.weight is missing (and 1 more)"),
        (
            {"conv1.0.weight": np.zeros((32, 3, 5, 5))},
            "conv1.0.weight has shape (32, 3, 5, 5), the network (32, 3, 3, 3)",
        ),
        ({"bn1.bias": np.zeros(())}, "bn1.bias has shape (), the network (64,)"),
        ({"layer4.2.bn3.bias": np.full(2048, np.nan)}, "layer4.2.conv3.bn.beta has values that are not finite"),
        ({"layer2.1.convs.0.weight": np.full((52, 52, 3, 3), np.inf)}, "layer2.1.branches.0.conv.weight has values"),
        (
            {"conv1.1.running_var": np.full(32, -1.0)},
            "stem.0.bn.moving_variance has values that are not finite, or neg",
        ),
        ({"conv1.weight": np.zeros((64, 3, 7, 7))}, "give timm's res2net50d"),
    ],
)
def test_faults_of_a_state_dictionary(reads, folder, zeros, changes, message):
    reads({name: value for name, value in {**zeros, **changes}.items() if value is not None})
    assert message in refused(write(folder / "x.safetensors"))


def test_plain_stem_is_refused(folder):
    """timm's res2net50_26w_4s begins with one 7x7 convolution."""
    state = {"conv1.weight": np.zeros((64, 3, 7, 7), "f"), "bn1.weight": np.zeros(64, "f")}
    save_file(state, folder / "res2net50_26w_4s.safetensors")
    message = refused(folder / "res2net50_26w_4s.safetensors")
    assert "(64, 3, 7, 7)" in message and message.endswith("give timm's res2net50d")


def test_state_dictionary_of_another_network(folder):
    save_file({"stages.0.blocks.0.conv1.conv.weight": np.zeros((32, 64, 1, 1), "f")}, folder / "other.safetensors")
    assert "stem.0.conv.weight is missing (and 435 more); give" in refused(folder / "other.safetensors")


# the older model zoo


def test_classifier_of_the_zoo(folder, timm_state, expected):
    """With what a training leaves in the file; the shortcut kind is stored."""
    weights = zoo_weights(timm_state)
    assert len(weights) == 435
    weights, about = convert(save_zoo(folder / "zoo.ckpt", {**weights, **END_POINT, **TRAINING}))
    assert_same(weights, expected)
    assert about["backbone"] == {"name": "res2net50", "shortcut": "max_pool", "bn_eps": 1e-5}
    assert about["input"] == IMAGENET and about["source"] == "zoo.ckpt"
    network = Res2Net("max_pool")
    assert len(checkpoint.load_weights(network, {n: ms.Tensor(v) for n, v in weights.items()}, "")["loaded"]) == 435


@pytest.mark.parametrize("prefix", ["feature_map.backbone.", "yolo_network.feature_map.backbone."])
def test_backbone_of_the_zoo(reads, timm_state, expected, prefix):
    """What its own conversion made of the classifier, which the classifier's head may still accompany."""
    reads({**zoo_weights(timm_state, prefix, in_detector=True), **END_POINT})
    converted, about = convert_checkpoint.read_zoo(Path("zoo.ckpt"))
    assert_same(converted, expected)
    assert about["backbone"]["shortcut"] == "max_pool"


@pytest.mark.parametrize("prefix", ["", "yolo_network."])
def test_detector_of_the_zoo_is_refused(reads, folder, timm_state, prefix):
    weights = zoo_weights(timm_state, f"{prefix}feature_map.backbone.", in_detector=True)
    reads({**weights, f"{prefix}feature_map.backblock0.conv6.bias": np.zeros(255, np.float32)})
    message = refused(write(folder / "zoo.ckpt"))
    assert "whole detector of the older model zoo and cannot be converted" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer2.0.down_sample_layer.2.gamma": None}, "layer2.0.shortcut.1.bn.gamma is missing; give"),
        (
            {"layer1.0.down_sample_layer.2.gamma": np.zeros(256)},
            "layer1.0.down_sample_layer.2.gamma is left over; give",
        ),
        ({"layer1.0.conv_down_sample.weight": np.zeros(1)}, "layer1.0.conv_down_sample.weight is left over; give"),
        ({"feature_map.backbone.bn1.beta": np.zeros(64)}, "feature_map.backbone.bn1.beta is there twice; give"),
        ({"end_point.gamma": np.zeros(64)}, "end_point.gamma is left over; give"),
        ({"bn1_1.beta": np.zeros(64)}, "bn1_1.beta has shape (64,), the network (32,); give"),
        ({"bn1_1.beta": np.full(32, np.nan)}, "stem.2.bn.beta has values that are not finite"),
        ({"bn1_1.moving_variance": np.full(32, -1)}, "stem.2.bn.moving_variance has values that are not"),
    ],
)
def test_faults_of_a_checkpoint(reads, folder, timm_state, changes, message):
    weights = {**zoo_weights(timm_state), **changes}
    reads({name: value for name, value in weights.items() if value is not None})
    assert message in refused(write(folder / "zoo.ckpt"))


def test_checkpoints_of_this_project_are_refused(reads, folder, expected):
    source = folder / "x.ckpt"
    checkpoint.save(source, {"stem.0.conv.weight": ms.Tensor([1.0])}, {"backbone": {"name": "res2net50"}})
    assert "checkpoint of this project already" in refused(source)
    reads(expected)  # the same without metadata: nothing tells which shortcut they belong to
    assert "stem.0.conv.weight is missing (and 869 more)" in refused(source)


# any file


@pytest.mark.parametrize("data", [b"", b"no weights\n" * 20])
@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "x.pt", "x.ckpt"])
def test_unsound_files(folder, name, data):
    if name.startswith("x.pt"):
        pytest.importorskip("torch")
    assert "sound" in (message := refused(write(folder / name, data))) or "damaged" in message


@pytest.mark.parametrize("name", ["timm.safetensors", "zoo.ckpt"])
def test_truncated_files(folder, name):
    source, state = folder / name, {"conv1_0.weight": np.ones((32, 3, 3, 3), np.float32)}
    if source.suffix == ".ckpt":
        save_zoo(source, state)
    else:
        save_file(state, source)
    write(source, source.read_bytes()[:-1000])
    assert "sound" in (message := refused(source)) or "damaged" in message


def test_file_that_cannot_be_written(reads, folder, zeros):
    """The folder that the checkpoint shall be in is a file."""
    reads(zeros)
    write(folder / "timm.safetensors")
    write(folder / "file")
    before = sorted(folder.iterdir())
    with pytest.raises(DataError, match="cannot be written"):
        convert_checkpoint.main(["--input", str(folder / "timm.safetensors"), "--output", str(folder / "file/b.ckpt")])
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(("module", "name"), [("torch", "x.pth"), ("safetensors.numpy", "x.safetensors")])
def test_reader_that_is_not_installed(monkeypatch, folder, module, name):
    monkeypatch.setitem(sys.modules, module, None)
    assert "pip install" in refused(write(folder / name, b"1"))


def test_wrong_options(folder):
    assert "ending .ckpt" in refused(write(folder / "x.pth"), "--output", "x.bin", error=UsageError)
    assert "is not a file; give a file that ends in .ckpt, .pt" in refused(folder / "missing.pth")
    for name in ("x.onnx", "x.weights", "darknet53.conv.74"):
        assert ".ckpt, .pt, .pth, .safetensors" in refused(write(folder / name), error=UsageError)

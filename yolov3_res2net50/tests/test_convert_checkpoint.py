"""Conversion of foreign weights to a backbone: every value in its place, nothing left over, bad files refused."""

import functools
import shutil
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
            monkeypatch.setattr(foreign, name, lambda path, part="": weights)

    return use


@pytest.fixture
def folder(tmp_path):
    """A folder for large files, removed at once."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def timm_state():
    """timm's state dictionary as `weights.read_state` gives it."""
    return {name: v for name, v in oracle.timm_state().items() if not name.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def expected(timm_state):
    """The backbone's values."""
    return oracle.backbone_weights(timm_state)


def zoo_modules(in_detector: bool) -> list[tuple[str, str]]:
    """Modules of the older zoo with those of timm that have the same weights, written down from its documentation."""
    modules = [("conv1_0", "conv1.0"), ("bn1_0", "conv1.1"), ("conv1_1", "conv1.3"), ("bn1_1", "conv1.4")]
    modules += [("conv1_2", "conv1.6"), ("bn1", "bn1")]
    for layer, blocks in zip((1, 2, 3, 4), BLOCKS):
        for block in (f"layer{layer}.{index}." for index in range(blocks)):
            parts = ["conv1", "bn1", "conv3", "bn3"] + [f"{kind}.{i}" for kind in ("convs", "bns") for i in range(3)]
            modules += [(block + part, block + part) for part in parts]
        first = 0 if layer == 1 else 1  # elsewhere a pool comes before convolution and batch norm
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
    **{name: np.array(90, np.int32) for name in ("epoch_num", "step_num", "global_step")},
    **{name: np.array(0.1, np.float32) for name in ("learning_rate", "momentum")},
}


def convert(source, *options):
    target = source.parent / "converted.ckpt"
    convert_checkpoint.main(["--input", str(source), "--output", str(target), *map(str, options)])
    parameters, about = checkpoint.load(target)
    target.unlink()
    return {name: value.asnumpy() for name, value in parameters.items()}, about


def refused(source, *options, error=DataError) -> str:
    """The message with which a file is refused; no file is written."""
    source.touch()
    before = sorted(source.parent.iterdir())
    with pytest.raises(error) as caught:
        convert(source, *options)
    assert sorted(source.parent.iterdir()) == before
    message = str(caught.value)
    assert "\n" not in message and (source.name in message or error is UsageError)
    return message


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys() and len(one) == 435
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def loaded(network, weights: dict, prefix: str = "") -> int:
    """Number of the network's parameters that the weights fill."""
    tensors = {f"{prefix}{name}": ms.Tensor(value) for name, value in weights.items()}
    return len(checkpoint.load_weights(network, tensors, "")["loaded"])


# timm


def test_timm(folder, expected, capsys):
    save_file(oracle.timm_state(), folder / "timm.safetensors")
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
    reads(timm_state)
    weights, about = convert_checkpoint.read_timm(Path("timm.safetensors"))
    case = oracle.TIMM["eval"][0]
    images = ms.Tensor(oracle.model_input(case["input_shape"], oracle.TIMM["seed"]))
    network = yolov3_res2net50(2, shortcut=about["backbone"]["shortcut"]).backbone.set_train(False)
    assert loaded(network, weights, "backbone.") == 435
    features = [feature.asnumpy() for feature in network(images)]
    for name, feature in zip(("layer2", "layer3", "layer4"), features):
        oracle.check_statistics(feature, case["stages"][name], name)
    logits = features[2].mean((2, 3)) @ timm_state["fc.weight"].T + timm_state["fc.bias"]
    assert oracle.relative_error(logits, case["logits"]) <= 5e-5


def test_pth(folder, timm_state, expected):
    """PyTorch's own format, without a classifier, inside state_dict and each name behind module."""
    torch = pytest.importorskip("torch")
    state = {f"module.{n}": torch.from_numpy(v) for n, v in timm_state.items() if not n.startswith("fc.")}
    torch.save({"state_dict": state, "epoch": 3}, folder / "timm.pth")
    assert_same(convert(folder / "timm.pth")[0], expected)


def test_other_spellings_and_default_name(folder, monkeypatch):
    monkeypatch.setattr(foreign, "read", lambda path, readers, part: ({path.name: np.ones(1)}, {"backbone": {}}))
    monkeypatch.chdir(folder)
    convert_checkpoint.main(["--input_file", "timm.safetensors"])
    assert list(checkpoint.load("backbone_res2net50.ckpt")[0]) == ["timm.safetensors"]
    convert_checkpoint.main(["--input_file=timm.safetensors", "--output_file=new/other.ckpt"])
    assert (folder / "new" / "other.ckpt").is_file()


def test_half_precision(reads, folder, timm_state, expected):
    reads(timm_state)
    source = folder / "timm.safetensors"
    source.touch()
    weights, _ = convert(source, "--fp16")
    assert_same(weights, {name: value.astype(np.float16) for name, value in expected.items()})
    assert all(value.dtype == np.float16 for value in weights.values())
    reads({**timm_state, "bn1.running_var": np.full(64, 7e4, "f")})
    message = refused(source, "--fp16")
    assert "stem.4.bn.moving_variance has values above 65504" in message and "leave --fp16 out" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer3.5.bns.2.bias": None}, "x.safetensors does not fit the Res2Net50 backbone: layer3.5.branches.2.bn.beta "
                                        "is missing; give timm's res2net50d"),
        ({"layer3.6.conv1.weight": np.zeros(1)}, "layer3.6.conv1.weight is left over; give"),
        ({"stem.0.conv.weight": np.zeros((32, 3, 3, 3))}, "stem.0.conv.weight is left over; give"),
        ({"end_point": np.zeros(3)}, "end_point is left over"),
        ({"layer1.0.bn1.gamma": np.zeros(104)}, "layer1.0.bn1.gamma is there twice"),
        ({"layer1.0.conv1.weight": None, "a": np.zeros(1)}, "layer1.0.conv1.conv.weight is missing (and 1 more)"),
        ({"bn1.bias": np.zeros(())}, "bn1.bias has shape (), the network (64,)"),
        ({"layer4.2.bn3.bias": np.full(2048, np.nan)}, "layer4.2.conv3.bn.beta has values that are not finite"),
        ({"conv1.1.running_var": np.full(32, -1.0)}, "stem.0.bn.moving_variance has values that are not finite, or neg"),
        ({"conv1.weight": np.zeros((64, 3, 7, 7))}, "(conv1.weight, (64, 3, 7, 7)), as timm's res2net50_26w_4s; this "
                                                    "backbone begins with three 3x3 convolutions: give timm's res2net50d"),
    ],
)  # fmt: skip
def test_faults_of_a_state_dictionary(reads, folder, timm_state, changes, message):
    reads({name: value for name, value in {**timm_state, **changes}.items() if value is not None})
    assert message in refused(folder / "x.safetensors")


# the older model zoo


def test_classifier_of_the_zoo(folder, timm_state, expected):
    """With what a training leaves in the file; the shortcut kind is stored."""
    stored = {**zoo_weights(timm_state), **END_POINT, **TRAINING}
    ms.save_checkpoint([{"name": n, "data": ms.Tensor(value)} for n, value in stored.items()], str(folder / "zoo.ckpt"))
    weights, about = convert(folder / "zoo.ckpt")
    assert_same(weights, expected)
    assert about["backbone"] == {"name": "res2net50", "shortcut": "max_pool", "bn_eps": 1e-5}
    assert about["input"] == IMAGENET and about["source"] == "zoo.ckpt"
    assert loaded(Res2Net("max_pool"), weights) == 435


@pytest.mark.parametrize("prefix", ["", "yolo_network."])
def test_backbone_and_detector_of_the_zoo(reads, folder, timm_state, expected, prefix):
    """What its own conversion made of the classifier, whose head may be left; a whole detector is refused."""
    weights = zoo_weights(timm_state, f"{prefix}feature_map.backbone.", in_detector=True)
    reads({**weights, **END_POINT})
    converted, about = convert_checkpoint.read_zoo(Path("zoo.ckpt"))
    assert_same(converted, expected)
    assert about["backbone"]["shortcut"] == "max_pool"
    reads({**weights, f"{prefix}feature_map.backblock0.conv6.bias": np.zeros(255, np.float32)})
    assert "whole detector of the older model zoo and cannot be converted" in refused(folder / "zoo.ckpt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer2.0.down_sample_layer.2.gamma": None}, "layer2.0.shortcut.1.bn.gamma is missing; give"),
        ({"layer1.0.down_sample_layer.2.gamma": np.zeros(1)}, "layer1.0.down_sample_layer.2.gamma is left over; give"),
        ({"layer1.0.conv_down_sample.weight": np.zeros(1)}, "layer1.0.conv_down_sample.weight is left over; give"),
        ({"feature_map.backbone.bn1.beta": np.zeros(64)}, "feature_map.backbone.bn1.beta is there twice; give"),
        ({"bn1_1.beta": np.zeros(64)}, "bn1_1.beta has shape (64,), the network (32,); give"),
        ({"bn1_1.moving_variance": np.full(32, -1)}, "stem.2.bn.moving_variance has values that are not"),
    ],
)
def test_faults_of_a_checkpoint(reads, folder, timm_state, changes, message):
    weights = {**zoo_weights(timm_state), **changes}
    reads({name: value for name, value in weights.items() if value is not None})
    assert message in refused(folder / "zoo.ckpt")


def test_checkpoints_of_this_project_are_refused(reads, folder, expected):
    source = folder / "x.ckpt"
    checkpoint.save(source, {"stem.0.conv.weight": ms.Tensor([1.0])}, {"backbone": {"name": "res2net50"}})
    assert "checkpoint of this project already" in refused(source)
    reads(expected)  # the same without metadata: nothing tells which shortcut they belong to
    assert "stem.0.conv.weight is missing (and 869 more)" in refused(source)


def test_wrong_endings(folder):
    assert "ending .ckpt" in refused(folder / "x.pth", "--output", "x.bin", error=UsageError)
    assert ".ckpt, .pt, .pth, .safetensors" in refused(folder / "darknet53.conv.74", error=UsageError)

"""Conversion of foreign weights: every weight filled, nothing left over, bad files refused, nothing written then."""

import hashlib
import shutil
import sys

import convert_checkpoint
import oracle
from conftest import program
from src import weights as foreign
from src.model_utils import checkpoint
from src.model_utils.config import DataError, UsageError

import mindspore as ms
import numpy as np
import pytest
from safetensors.numpy import save_file

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HEAD_BYTES = 4 * 1000 * 1025
BODY_BYTES = oracle.DARKNET["weights_file"]["bytes"] - 20 - HEAD_BYTES
ZOO_NAMES = ["backbone.conv27.0.weight", "network.backbone.layer3.7.conv2.1.moving_mean"]
OTHER_NETWORKS = {"darknet53": 166582580, "tiny": 4185972, "yolov3": 248007048}  # bytes of their files


@pytest.fixture
def folder(tmp_path):
    """A folder for large files, removed at once."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def numbers():
    return oracle.darknet_numbers()


@pytest.fixture(scope="module")
def timm_state():
    return oracle.timm_state()


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


def write(path, *parts: bytes):
    path.write_bytes(b"".join(parts))
    return path


def sparse(path, size: int):
    """A .weights file of this length: a header and zeros."""
    write(path, oracle.darknet_header())
    with open(path, "r+b") as file:
        file.truncate(size)
    return path


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


# darknet


def test_both_headers_of_darknet(folder, numbers, capsys):
    expected = oracle.DARKNET["weights_file"]
    source = write(folder / "new.weights", oracle.darknet_header(), numbers)
    assert source.stat().st_size == expected["bytes"]
    assert hashlib.sha256(source.read_bytes()).hexdigest() == expected["sha256"]
    new, about = convert(source)
    assert "notice: darknet orders" in capsys.readouterr().out
    assert sum(value.size for value in new.values()) == oracle.DARKNET["param_count"]
    assert about == {
        "network": {
            "name": "cspdarknet53", "num_classes": 1000, "activation": "mish", "negative_slope": 0.1, "bn_eps": 1e-5,
        },
        "input": {
            "height": 256, "width": 256, "resize": "shorter_side", "crop_ratio": 1.0, "interpolation": "bilinear",
            "mean": [0, 0, 0], "std": [1, 1, 1],
        },
        "class_names": None,
        "source": "new.weights",
    }  # fmt: skip
    old, _ = convert(write(source, oracle.darknet_header((0, 1, 0), 7), numbers))
    assert same(old, new)


@pytest.mark.parametrize("num_classes", [1, 37])
def test_class_count_follows_from_the_length(folder, num_classes):
    path = sparse(folder / "few.weights", 20 + BODY_BYTES + 4 * 1025 * num_classes)
    weights, about = convert_checkpoint.read_darknet(path)
    assert about["network"]["num_classes"] == num_classes
    assert weights["fc.bias"].shape == (num_classes,) and weights["fc.weight"].shape == (num_classes, 1024)


def test_new_head_is_the_same_each_time(folder, numbers, capsys):
    source = write(folder / "x.weights", oracle.darknet_header(), numbers)
    first, about = convert(source, "--num_classes", 10)
    assert "notice" not in capsys.readouterr().out
    assert about["network"]["num_classes"] == 10 and first["fc.weight"].shape == (10, 1024)
    assert first["stages.4.merge.conv.weight"].ravel()[-1] == np.frombuffer(numbers[BODY_BYTES - 4 : BODY_BYTES], "<f4")
    ms.set_seed(99)
    assert same(convert(source, "--num_classes", 10)[0], first)
    assert np.unique(first["fc.weight"]).size > 5000


@pytest.mark.parametrize(
    "size",
    [
        *OTHER_NETWORKS.values(),
        20,
        400,
        20 + BODY_BYTES,
        20 + BODY_BYTES + HEAD_BYTES - 4,
        20 + BODY_BYTES + HEAD_BYTES + 4,
    ],
)
def test_length_of_another_network(folder, size):
    message = refused(sparse(folder / "x.weights", size))
    assert f"has {size} bytes" in message and "csdarknet53-omega.cfg with C classes has" in message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has 0 bytes"),
        (b"0123456789", "has 10 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\n" * 9, "no darknet weights file"),
        (b"PK\x03\x04" + bytes(100), "no darknet weights file"),
        (oracle.darknet_header((0, 1001, 0)) + bytes(100), "starts with version 0.1001"),
        (oracle.darknet_header((-1, 2, 0), 7) + bytes(100), "starts with version -1.2"),
    ],
)
def test_no_darknet_file(folder, data, message):
    assert message in refused(write(folder / "x.weights", data))


def test_impossible_values(folder, numbers):
    """A file of the right length whose numbers are out of place has negative variances."""
    source = write(folder / "x.weights", oracle.darknet_header(), numbers[4096:], numbers[:4096])
    assert "negative variances" in refused(source)


# timm


def test_timm(folder, timm_state):
    save_file(timm_state, folder / "timm.safetensors")
    weights, about = convert(folder / "timm.safetensors")
    assert sum(value.size for value in weights.values()) == 27642184 + 35328
    assert about["network"]["activation"] == "leaky_relu" and about["network"]["negative_slope"] == 0.01
    assert about["network"]["bn_eps"] == 1e-5 and about["class_names"] is None
    assert about["input"] == {
        "height": 256, "width": 256, "resize": "shorter_side", "crop_ratio": 0.887, "interpolation": "bilinear", **IMAGENET,
    }  # fmt: skip
    published = oracle.TIMM["pretrained_cfg"]
    assert (published["crop_pct"], published["interpolation"]) == (0.887, about["input"]["interpolation"])
    assert about["source"] == "timm.safetensors"
    np.testing.assert_array_equal(weights["stem.bn.beta"], timm_state["stem.conv1.bn.bias"])
    np.testing.assert_array_equal(
        weights["stages.4.main_end.bn.moving_variance"], timm_state["stages.4.conv_transition_b.bn.running_var"]
    )
    expand, transition = (timm_state[f"stages.1.{n}.conv.weight"] for n in ("conv_exp", "conv_transition"))
    np.testing.assert_array_equal(weights["stages.1.shortcut.conv.weight"], expand[:64])
    np.testing.assert_array_equal(weights["stages.1.main.conv.weight"], expand[64:])
    np.testing.assert_array_equal(weights["stages.1.merge.conv.weight"][:, :64], transition[:, 64:])
    np.testing.assert_array_equal(weights["stages.1.merge.conv.weight"][:, 64:], transition[:, :64])


def as_ours(state: dict) -> dict:
    parts = [convert_checkpoint.from_timm(n, v) for n, v in state.items() if not n.endswith("num_batches_tracked")]
    return {name: value for part in parts for name, value in part.items()}


def test_pth(folder, timm_state):
    """PyTorch's own format, as a training writes it: inside state_dict, each name behind module."""
    torch = pytest.importorskip("torch")
    state = {f"module.{name}": torch.from_numpy(value) for name, value in timm_state.items()}
    torch.save({"state_dict": state, "epoch": 3}, folder / "timm.pth")
    weights, _ = convert(folder / "timm.pth")
    assert same(weights, as_ours(timm_state))


def test_new_head(folder, timm_state):
    """Another class count leaves everything but the classifier; the weights may also lack theirs."""
    weights = as_ours(timm_state)
    save_file(timm_state, folder / "timm.safetensors")
    parameters, about = convert(folder / "timm.safetensors", "--num_classes", 5)
    assert parameters["fc.weight"].shape == (5, 1024) and about["network"]["num_classes"] == 5
    body = {name: value for name, value in weights.items() if not name.startswith("fc.")}
    assert same({name: value for name, value in parameters.items() if not name.startswith("fc.")}, body)
    save_file({n: v for n, v in timm_state.items() if not n.startswith("head.")}, folder / "timm.safetensors")
    assert "--num_classes N" in refused(folder / "timm.safetensors")
    assert same(convert(folder / "timm.safetensors", "--num_classes", 5)[0], parameters)


@pytest.fixture
def altered(monkeypatch, tmp_path):
    """A function that gives the message for a state dictionary of zeros with changes; None removes an entry."""
    zeros = {name: np.zeros(shape, np.float32) for name, shape, *_ in oracle.TIMM["state_dict"]}

    def message(**changes) -> str:
        changes = {name.replace("__", "."): value for name, value in changes.items()}
        state = {name: value for name, value in {**zeros, **changes}.items() if value is not None}
        monkeypatch.setattr(foreign, "read_state", lambda path: state)
        return refused(write(tmp_path / "x.safetensors"))

    return message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages__3__conv_down__bn__bias": None}, "does not fit cspdarknet53: stages.3.down.bn.beta is missing"),
        ({"stages__5__conv_down__bn__bias": np.zeros(3)}, "stages.5.down.bn.beta is left over"),
        (
            {"stem__conv1__conv__weight": np.zeros((32, 3, 5, 5))},
            "stem.conv.weight has shape (32, 3, 5, 5), the network",
        ),
        ({"stages__0__conv_exp__bn__bias": np.zeros(127)}, "stages.0.shortcut.bn.beta has shape (63,)"),
        ({"stages__0__conv_exp__conv__weight": np.zeros(())}, "stages.0.shortcut.conv.weight is missing"),
        ({"stages__0__conv_transition__conv__weight": np.zeros(64)}, "stages.0.merge.conv.weight has shape (64,)"),
        ({"head__fc__bias": np.zeros(7)}, "fc.bias has shape (7,)"),
        ({"head__fc__weight": np.zeros(())}, "holds no classifier"),
        ({"head__fc__bias": np.full(1000, np.nan)}, "fc.bias has values that are not finite"),
        ({"stem__conv1__bn__running_var": np.full(32, -1.0)}, "stem.bn.moving_variance has values"),
    ],
)
def test_faults_of_a_state_dictionary(altered, changes, message):
    assert message in altered(**changes)


def test_state_dictionary_of_another_network(tmp_path):
    state = {"stages.0.blocks.0.conv1.conv.weight": np.zeros((32, 64, 1, 1), "f"), "head.fc.bias": np.zeros(4, "f")}
    save_file({**state, "head.fc.weight": np.zeros((4, 1024), np.float32)}, tmp_path / "other.safetensors")
    message = refused(tmp_path / "other.safetensors")
    assert "other.safetensors does not fit cspdarknet53: stem.conv.weight is missing (and" in message


# any file


@pytest.mark.parametrize("data", [b"", b"no weights\n" * 20])
@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "x.pt", "x.ckpt"])
def test_unsound_files(tmp_path, name, data):
    if name.startswith("x.pt"):
        pytest.importorskip("torch")
    assert "sound" in (message := refused(write(tmp_path / name, data))) or "damaged" in message


def test_no_state_dictionary(tmp_path):
    torch = pytest.importorskip("torch")
    for content in ([torch.zeros(3)], {"epoch": 3, "model": {}}, torch.zeros(3)):
        torch.save(content, tmp_path / "x.pth")
        assert "holds no state dictionary" in refused(tmp_path / "x.pth")


@pytest.mark.parametrize(("module", "name"), [("torch", "x.pth"), ("safetensors.numpy", "x.safetensors")])
def test_reader_that_is_not_installed(monkeypatch, tmp_path, module, name):
    monkeypatch.setitem(sys.modules, module, None)
    assert "pip install" in refused(write(tmp_path / name, b"1"))


def test_checkpoints_are_refused(tmp_path):
    """Those of the older model zoo, as its network pads in another way; this project's need no conversion."""
    source = tmp_path / "x.ckpt"
    for name in ZOO_NAMES:
        ms.save_checkpoint([{"name": name, "data": ms.Tensor(np.zeros((32, 3, 3, 3), np.float32))}], str(source))
        message = refused(source)
        assert "older model zoo and cannot be converted" in message and "pad_mode same" in message
    ms.save_checkpoint([{"name": "stem.conv.weight", "data": ms.Tensor([1.0])}], str(source))
    assert "holds no weights of another framework" in refused(source)
    checkpoint.save(source, {"stem.conv.weight": ms.Tensor([1.0])}, {"network": {"name": "cspdarknet53"}})
    assert "checkpoint of this project already" in refused(source)


class Classifier(ms.nn.Cell):
    """The last layer only, so that options can be tried at once."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.fc = ms.nn.Dense(4, num_classes)


@pytest.fixture
def few_weights(monkeypatch, tmp_path):
    """A file for such a network of three classes."""
    monkeypatch.setattr(foreign, "build_network", lambda about: Classifier(about["network"]["num_classes"]))
    save_file({"head.fc.weight": np.ones((3, 4), "f"), "head.fc.bias": np.ones(3, "f")}, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- cat\n- dog\n", "has 2 names: 3 names are needed"),
        ("cat\n", "lines such as"),
        ("a: b\n", "lines such as"),
        ("- [cat]\n", "lines such as"),
        ("", "lines such as"),
        ("- [cat\n", "cannot be read as YAML"),
        ("- \xff\n", "cannot be read as YAML"),
        (None, "cannot be read as YAML"),
    ],
)
def test_wrong_class_names(few_weights, text, message):
    names = few_weights.parent / "names.yaml"
    if text is not None:
        names.write_text(text, encoding="latin-1")
    assert message in refused(few_weights, "--class_names", names, error=UsageError)


def test_class_names(few_weights):
    names = few_weights.parent / "names.yaml"
    names.write_text("- n01440764\n- 007\n- no\n")
    assert convert(few_weights, "--class_names", names)[1]["class_names"] == ["n01440764", "007", "no"]


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--num_classes", "-1"], "1 or more"), (["--output", "x.bin"], "ending .ckpt")],
)
def test_wrong_options(tmp_path, options, message):
    assert message in refused(write(tmp_path / "x.weights"), *options, error=UsageError)


def test_wrong_input(tmp_path):
    assert "is not a file; give a file that ends in .ckpt" in refused(tmp_path / "missing.weights")
    assert ".ckpt, .pt, .pth, .safetensors, .weights" in refused(write(tmp_path / "x.onnx"), error=UsageError)


def test_program_reports_one_line(tmp_path):
    write(tmp_path / "x.weights", b"text")
    result = program("convert_checkpoint.py", "--input", tmp_path / "x.weights", "--output", tmp_path / "y.ckpt")
    assert result.returncode == 1 and not (tmp_path / "y.ckpt").exists()
    assert result.stderr.splitlines() == [f"error: {tmp_path / 'x.weights'} has 4 bytes: no darknet weights file"]

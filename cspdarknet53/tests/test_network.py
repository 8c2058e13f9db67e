"""The network against timm and darknet's C program with the same weights, its gradients, and the class count."""

import shutil

import convert_checkpoint
import oracle
from src.cspdarknet53 import cspdarknet53
from src.model_utils.inference import load_network
from src.model_utils.layers import portable_operators
from src.recipe import MODEL, is_head, read_config

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from safetensors.numpy import save_file

# Of the largest logit; float32 here, and the Mish of darknet's C program is an approximation.
TIMM_TOLERANCE, DARKNET_TOLERANCE = 5e-5, 2e-4
WEIGHTS_AND_STATISTICS = (".weight", ".bias", ".moving_mean", ".moving_variance")

pytestmark = pytest.mark.usefixtures("eager")


def our_cells(name: str) -> list[str]:
    """The cells that do what a module of timm does."""
    name = name.replace("stem.conv1", "stem").replace("head.fc", "fc").replace("conv_down", "down")
    name = name.replace("conv_transition_b", "main_end").replace("conv_transition", "merge")
    if name.endswith("conv_exp"):
        return [name.replace("conv_exp", "shortcut"), name.replace("conv_exp", "main")]
    return [name]


def merged(parts: list[np.ndarray], name: str) -> np.ndarray:
    """The values of our cells as the value that timm's module has."""
    if len(parts) == 2:  # conv_exp: outputs (N, C, H, W), weights (C, in, 1, 1) or values of the channels (C,)
        return np.concatenate(parts, axis=0 if name.endswith(WEIGHTS_AND_STATISTICS) else 1)
    if name.endswith("conv_transition.conv.weight"):
        main, shortcut = np.split(parts[0], 2, axis=1)
        return np.concatenate([shortcut, main], axis=1)
    return parts[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the converted weights of both origins are; removed at the end, as they are large."""
    folder = tmp_path_factory.mktemp("weights")
    yield folder
    shutil.rmtree(folder)


def convert(source):
    target = source.with_suffix(".ckpt")
    convert_checkpoint.main(["--input", str(source), "--output", str(target)])
    source.unlink()
    return target


@pytest.fixture(scope="module")
def from_timm(folder):
    save_file(oracle.timm_state(), folder / "timm.safetensors")
    return convert(folder / "timm.safetensors")


@pytest.fixture(scope="module")
def from_darknet(folder):
    (folder / "darknet.weights").write_bytes(oracle.darknet_header() + oracle.darknet_numbers())
    return convert(folder / "darknet.weights")


def load(path):
    return load_network(MODEL, path, read_config([], ""))[0]


def check_case(network, case: dict, tolerance: float) -> None:
    images = oracle.model_input(case["input_shape"], oracle.TIMM["seed"])
    np.testing.assert_allclose(images.ravel()[:4], case["input_head"], rtol=1e-6)
    logits = network(ms.Tensor(images)).asnumpy()
    assert logits.shape == (1, 1000) and logits.dtype == np.float32
    assert oracle.relative_error(logits, case["logits"]) <= tolerance, case["input_shape"]
    assert list(np.argsort(-logits[0])[:5]) == case["top5"]


def watch(network, names: list[str]) -> dict[str, np.ndarray]:
    """A dictionary that receives the outputs of these cells of timm when the network runs."""
    outputs: dict[str, np.ndarray] = {}
    cells = dict(network.cells_and_names())
    for cell in {cell for name in names for cell in our_cells(name)}:
        # The default argument binds the name of this turn.
        cells[cell].register_forward_hook(lambda _, __, out, cell=cell: outputs.update({cell: out.asnumpy()}))
    return outputs


def test_agrees_with_timm(from_timm):
    """Logits, and the statistics of the stages on the way to them."""
    network = load(from_timm)
    names = [name for name in oracle.TIMM["eval"][0]["stages"] if name != "head.global_pool"]
    outputs = watch(network, names)
    for case in oracle.TIMM["eval"]:
        check_case(network, case, TIMM_TOLERANCE)
        for name in case["stages"].keys() & set(names):
            result = merged([outputs[cell] for cell in our_cells(name)], name)
            oracle.check_statistics(result, case["stages"][name], f"{case['tag']} {name}")


def test_portable_operators_agree_with_timm(from_timm):
    with portable_operators():
        network = load(from_timm)
    assert any(isinstance(cell, nn.LeakyReLU) for _, cell in network.cells_and_names())
    for case in oracle.TIMM["eval"][:2]:
        check_case(network, case, TIMM_TOLERANCE)


def test_agrees_with_darknet(from_darknet):
    """Also as a graph, which is how the programs run it."""
    network = load(from_darknet)
    for case in oracle.DARKNET["cases"]:
        check_case(network, case, DARKNET_TOLERANCE)
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        check_case(network, oracle.DARKNET["cases"][0], DARKNET_TOLERANCE)
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.fixture(scope="module")
def training(from_timm, eager):
    """Three steps of gradient descent with momentum, and what the first one leaves: gradients, running statistics."""
    expected = oracle.TIMM["train"]
    images, labels = oracle.train_batch(expected["input_shape"], 1000, oracle.TIMM["seed"])
    assert labels.tolist() == expected["labels"]
    images, labels = ms.Tensor(images), ms.Tensor(labels)
    network = load(from_timm).set_train()
    weights = ms.ParameterTuple(network.trainable_params())
    loss_fn = nn.CrossEntropyLoss(label_smoothing=expected["label_smoothing"])
    optimizer = nn.SGD(weights, expected["gentle_lr"], momentum=expected["momentum"])

    def forward(x, y):
        return loss_fn(network(x), y)

    step = ms.value_and_grad(forward, None, weights)
    losses, arrays = [], {}
    for _ in range(3):
        loss, gradients = step(images, labels)
        losses.append(float(loss.asnumpy()))
        if not arrays:
            arrays = {weight.name: gradient.asnumpy() for weight, gradient in zip(weights, gradients)}
            arrays.update({n: p.asnumpy().copy() for n, p in network.parameters_dict().items() if ".moving_" in n})
        optimizer(gradients)
    losses.append(float(forward(images, labels).asnumpy()))
    return losses, arrays


def as_timm(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    """The array of a timm parameter's name among ours."""
    stem, leaf = name.rsplit(".", 1)
    if stem.endswith(".bn"):
        leaf = {"weight": "gamma", "bias": "beta"}.get(leaf, leaf)
    module, layer = stem.rsplit(".", 1) if stem != "head.fc" else (stem, "")
    parts = [arrays[".".join(filter(None, (cell, layer, leaf)))] for cell in our_cells(module)]
    return merged(parts, name).astype(np.float64)


def test_loss_of_training(training):
    losses, _ = training
    expected = oracle.TIMM["train"]
    assert losses[0] == pytest.approx(expected["loss_torch_smooth"], rel=1e-5)
    assert losses == pytest.approx(expected["gentle_loss_trajectory"], rel=2e-4)


def test_gradients(training):
    """Norm and projection of each parameter's gradient.

    float32 moves four values in the last stage over the kink of the activation, which shows in all gradients before them:
    PyTorch in float32 has a median of 3e-4 here as well, and 7e-3 at worst.
    """
    _, arrays = training
    errors = {}
    for name, (norm, projection) in oracle.TIMM["train"]["grads"].items():
        gradient = as_timm(arrays, name)
        errors[name] = abs(np.linalg.norm(gradient) - norm) / norm
        assert abs(oracle.projection(gradient) - projection) <= 0.1 * norm, name
    assert max(errors.values()) <= 2e-2 and np.median(list(errors.values())) < 1e-3
    assert errors["head.fc.weight"] < 1e-5 and errors["head.fc.bias"] < 1e-5


def test_running_statistics(training):
    """After one step: 0.9 of the old values and 0.1 of the batch's, with the unbiased variance."""
    _, arrays = training
    for name, (mean, variance, *_) in oracle.TIMM["train"]["bn_after_1_forward"].items():
        assert np.linalg.norm(as_timm(arrays, f"{name}.moving_mean")) == pytest.approx(mean, rel=1e-5), name
        assert np.linalg.norm(as_timm(arrays, f"{name}.moving_variance")) == pytest.approx(variance, rel=1e-5), name


def test_parameter_count():
    network = cspdarknet53(1000)
    assert sum(p.size for p in network.trainable_params()) == oracle.TIMM["param_count"] == 27642184
    assert sum(p.size for p in network.get_parameters()) == oracle.DARKNET["param_count"]


def test_classes_blocks_and_head():
    """The number of classes changes the head only; the number of blocks takes whole blocks out."""
    shapes = {}
    for classes in (1, 7):
        network = cspdarknet53(classes, stage_blocks=(1, 1, 1, 1, 1)).set_train(False)
        logits = network(ms.Tensor(np.zeros((3, 3, 32, 48), np.float32)))
        assert logits.shape == (3, classes) and logits.dtype == ms.float32
        shapes[classes] = {p.name: p.shape for p in network.get_parameters()}
    assert {name for name in shapes[1] if shapes[1][name] != shapes[7][name]} == {n for n in shapes[1] if is_head(n)}
    assert sum(name.endswith("conv.weight") for name in shapes[1]) == 1 + 7 * 5
    deeper = {p.name for p in cspdarknet53(7, stage_blocks=(1, 2, 1, 1, 1)).get_parameters()}
    assert {name.rsplit(".", 3)[0] for name in deeper - shapes[7].keys()} == {"stages.1.blocks.1"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes=0"),
        ({"activation": "gelu"}, "activation=gelu"),
        ({"activation": "leaky_relu", "negative_slope": 1.0}, "negative_slope=1.0"),
        ({"stage_blocks": (1, 1, 1, 1)}, "stage_blocks=.1, 1, 1, 1.: five"),
        ({"stage_blocks": (1, 1, 1, 1, 0)}, "five numbers of 1 or more"),
    ],
)
def test_impossible_networks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        cspdarknet53(**options)

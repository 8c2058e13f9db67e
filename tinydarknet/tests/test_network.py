"""The network against darknet's C program with the same weights, its training step, and the class count."""

import convert_checkpoint
import oracle
from src.model_utils.inference import load_network
from src.model_utils.layers import portable_operators
from src.recipe import MODEL, is_head, read_config
from src.tinydarknet import tinydarknet

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

LOGITS_TOLERANCE = 2e-5  # of the largest reference value; float32 on both sides

pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.weights").write_bytes(oracle.tiny_weights())
    convert_checkpoint.main(["--input", str(folder / "tiny.weights"), "--output", str(folder / "tiny.ckpt")])
    return folder / "tiny.ckpt"


def check_case(network, case: dict) -> None:
    images = oracle.model_input(case["input_shape"], oracle.TINY["seed"])
    np.testing.assert_allclose(images.ravel()[:4], case["input_head"], rtol=1e-6)
    logits = network(ms.Tensor(images)).asnumpy().ravel()
    expected = np.array(case["logits"])
    assert np.abs(logits - expected).max() <= LOGITS_TOLERANCE * np.abs(expected).max(), case["input_shape"]
    assert list(np.argsort(-logits)[:5]) == case["top5"]


def test_agrees_with_darknet(converted):
    """Also as a graph, which is how the programs run it."""
    network, _ = load_network(MODEL, converted, read_config([], ""))
    for case in oracle.TINY["cases"]:
        check_case(network, case)
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        check_case(network, oracle.TINY["cases"][1])
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)


def test_portable_operators_agree_with_darknet(converted):
    with portable_operators():
        network, _ = load_network(MODEL, converted, read_config([], ""))
    assert any(isinstance(cell, nn.LeakyReLU) for _, cell in network.cells_and_names())
    for case in oracle.TINY["cases"]:
        check_case(network, case)


def test_value_count():
    network = tinydarknet(1000)
    assert sum(p.size for p in network.get_parameters()) == oracle.TINY["param_count"] == 1046488


def test_classes_and_head():
    """The number of classes changes the head only."""
    shapes = {}
    for classes in (1, 7):
        network = tinydarknet(classes).set_train(False)
        logits = network(ms.Tensor(np.zeros((3, 3, 32, 48), np.float32)))
        assert logits.shape == (3, classes) and logits.dtype == ms.float32
        shapes[classes] = {p.name: p.shape for p in network.get_parameters()}
    assert {name for name in shapes[1] if shapes[1][name] != shapes[7][name]} == {n for n in shapes[1] if is_head(n)}
    with pytest.raises(ValueError, match="num_classes=0"):
        tinydarknet(0)


def gradients(network, images, labels) -> tuple[float, list[np.ndarray]]:
    """Loss of a training step, and the gradient of each trainable parameter."""
    weights, loss_fn = ms.ParameterTuple(network.set_train().trainable_params()), nn.CrossEntropyLoss()

    def forward(x, y):
        return loss_fn(network(x), y)

    loss, grads = ms.value_and_grad(forward, None, weights)(ms.Tensor(images), labels)
    return float(loss.asnumpy()), [grad.asnumpy() for grad in grads]


def test_gradient_is_the_slope_of_the_loss():
    """Along the gradient of each layer's weights, the loss rises by the gradient's length times the step."""
    ms.set_seed(5)
    network, labels = tinydarknet(4), ms.Tensor([1, 2, 0, 3], ms.int32)
    images = oracle.model_input((4, 3, 64, 48), 3)
    _, grads = gradients(network, images, labels)
    for weight, grad in zip(network.trainable_params(), grads):
        if weight.name not in ("conv1.conv.weight", "conv6.bn.gamma", "conv9.conv.weight", "conv16.conv.weight"):
            continue
        value, length = weight.asnumpy().copy(), np.linalg.norm(grad)
        losses = []
        for sign in (1, -1):
            weight.set_data(ms.Tensor(value + sign * 1e-3 * grad / length))
            losses.append(gradients(network, images, labels)[0])
        weight.set_data(ms.Tensor(value))
        assert (losses[0] - losses[1]) / 2e-3 == pytest.approx(length, rel=0.05), weight.name


def test_spellings_have_the_same_gradients():
    """The CPU spelling of the operators and the framework's own give the same training step; odd sides too."""
    images, labels = oracle.model_input((4, 3, 70, 96), 3), ms.Tensor([1, 2, 0, 3], ms.int32)
    ms.set_seed(5)
    loss, grads = gradients(tinydarknet(4), images, labels)
    ms.set_seed(5)
    with portable_operators():
        network = tinydarknet(4)
    plain_loss, plain_grads = gradients(network, images, labels)
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    errors = [np.linalg.norm(grad - plain) / np.linalg.norm(plain) for grad, plain in zip(grads, plain_grads)]
    # Rounding moves a few values over the kink of the activation, which a single weight's gradient shows.
    assert np.median(errors) < 1e-4 and max(errors) < 2e-2, errors


def test_batch_norm_keeps_nine_tenths():
    network = tinydarknet(4).set_train()
    images = oracle.model_input((4, 3, 32, 32), 1)
    convolution = network.conv1.conv(ms.Tensor(images)).asnumpy()
    network(ms.Tensor(images))
    expected = 0.1 * convolution.mean(axis=(0, 2, 3))
    np.testing.assert_allclose(network.conv1.bn.moving_mean.asnumpy(), expected, rtol=1e-3, atol=1e-5)

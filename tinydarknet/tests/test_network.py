"""The network against darknet's C program, a numpy reference of the odd pool, and the class count."""

import convert_checkpoint
import oracle
from src.model_utils.device_adapter import portable_operators
from src.recipe import read_config
from src.tinydarknet import tinydarknet

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from src.inference import load_network

LOGITS_TOLERANCE = 2e-5  # of the largest reference value; float32 on both sides


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.weights").write_bytes(oracle.tiny_weights())
    convert_checkpoint.main(["--input", str(folder / "tiny.weights"), "--output", str(folder / "tiny.ckpt")])
    return folder / "tiny.ckpt"


def relative_error(result, expected) -> float:
    return float(np.abs(result - expected).max() / np.abs(expected).max())


def check_cases(network) -> None:
    for case in oracle.TINY["cases"]:
        images = oracle.model_input(case["input_shape"], oracle.TINY["seed"])
        np.testing.assert_allclose(images.ravel()[:4], case["input_head"], rtol=1e-6)
        logits = network(ms.Tensor(images)).asnumpy().ravel()
        assert relative_error(logits, np.array(case["logits"])) <= LOGITS_TOLERANCE, case["input_shape"]
        assert list(np.argsort(-logits)[:5]) == case["top5"]


def test_agrees_with_darknet(converted):
    network, _ = load_network(converted, read_config([], ""))
    check_cases(network)


def test_portable_operators_agree_with_darknet(converted):
    with portable_operators():
        network, _ = load_network(converted, read_config([], ""))
    assert any(isinstance(cell, nn.LeakyReLU) for _, cell in network.cells_and_names())
    check_cases(network)


def test_value_count():
    network = tinydarknet(1000)
    assert sum(p.size for p in network.get_parameters()) == oracle.TINY["param_count"] == 1046488


@pytest.mark.parametrize("num_classes", [1, 7, 10])
def test_class_count(num_classes):
    logits = tinydarknet(num_classes).set_train(False)(ms.Tensor(np.zeros((3, 3, 32, 48), np.float32)))
    assert logits.shape == (3, num_classes) and logits.dtype == ms.float32


def test_zero_classes_are_refused():
    with pytest.raises(ValueError, match="num_classes=0"):
        tinydarknet(0)


def test_spellings_have_the_same_gradients():
    """The CPU spelling of the operators and the framework's own give the same training step."""
    images, labels = ms.Tensor(oracle.model_input((4, 3, 70, 96), 3)), ms.Tensor([1, 2, 0, 3], ms.int32)

    def gradients(portable: bool):
        ms.set_seed(5)
        if portable:
            with portable_operators():
                network = tinydarknet(4)
        else:
            network = tinydarknet(4)
        network.set_train()
        loss_fn = nn.CrossEntropyLoss()
        weights = ms.ParameterTuple(network.trainable_params())

        def forward(x, y):
            return loss_fn(network(x), y)

        loss, grads = ms.value_and_grad(forward, None, weights)(images, labels)
        return float(loss.asnumpy()), [grad.asnumpy() for grad in grads]

    loss, grads = gradients(False)
    plain_loss, plain_grads = gradients(True)
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

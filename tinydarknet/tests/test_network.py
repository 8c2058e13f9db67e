"""The network and the conversion of foreign weights against darknet's C program; the training step."""

import json

from classifier.conversion import DarkNetConversion, convert, refused
from classifier.network import DarkNetNetwork, load
from classifier.oracle import model_input
from conftest import FOLDER
from src.model_utils.layers import portable_operators
from src.model_utils.weights import TORCH_LEAVES
from src.recipe import MODEL
from src.tinydarknet import tinydarknet

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from safetensors.numpy import save_file

TINY = json.loads((FOLDER / "tests/data/tiny.json").read_text())

pytestmark = pytest.mark.usefixtures("eager")


class TestConversion(DarkNetConversion):
    DARKNET, SIDE, HEAD, FEATURES, CFG = TINY, 224, "conv16.conv.weight", 128, "tiny.cfg"
    NETWORK = {"name": "tinydarknet", "negative_slope": 0.1, "bn_eps": 1e-5}

    def test_safetensors_with_a_name_map(self, tmp_path):
        """The longest beginning of a name counts, and whole parts of it."""
        network, source = tinydarknet(6), tmp_path / "t.safetensors"
        leaves, state = {new: old for old, new in TORCH_LEAVES.items()}, {}
        for name, value in network.parameters_dict().items():
            stem, leaf = name.rsplit(".", 1)
            name = f"{stem}.{leaves.get(leaf, leaf)}"
            name = name.replace("conv2.", "features.1.").replace("conv3.conv.", "features.12.")
            state[name.replace("conv3.", "features.1.after.")] = value.asnumpy()
        save_file({**state, "features.1.bn.num_batches_tracked": np.zeros((), np.int64)}, source)
        assert "conv2.conv.weight is missing" in refused(source)
        (tmp_path / "map.yaml").write_text("features.1: conv2\nfeatures.12: conv3.conv\nfeatures.1.after: conv3\n")
        weights, about = convert(source, "--name_map", str(tmp_path / "map.yaml"))
        for name, value in network.parameters_dict().items():
            np.testing.assert_array_equal(weights[name], value.asnumpy(), err_msg=name)
        assert about["network"] == {**self.NETWORK, "num_classes": 6}
        assert about["input"]["mean"] == [0.485, 0.456, 0.406] and about["input"]["crop_ratio"] == 0.875

    def test_other_networks(self, tmp_path):
        save_file({"features.0.weight": np.zeros(3, np.float32)}, tmp_path / "t.safetensors")
        assert "give --name_map FILE" in refused(tmp_path / "t.safetensors")
        ms.save_checkpoint([{"name": "conv1.conv.weight", "data": ms.Tensor([1.0])}], str(tmp_path / "x.ckpt"))
        assert "has no conv16.conv.weight" in refused(tmp_path / "x.ckpt")

    def test_older_zoo(self, tmp_path):
        """A checkpoint of it (batch norm and activation on the logits, slope 0.2, eps 1e-3) keeps its outputs."""
        ms.set_seed(3)
        network = tinydarknet(8, negative_slope=0.2, bn_eps=1e-3, legacy_head=True).set_train()
        images = ms.Tensor(model_input((4, 3, 48, 48), 2))
        network(images)  # moves the batch-norm statistics
        network.set_train(False)
        ms.save_checkpoint(network, str(tmp_path / "zoo.ckpt"))
        weights, about = convert(tmp_path / "zoo.ckpt")
        assert about["network"]["legacy_head"] is True
        loaded = MODEL.build_network(about["network"]).set_train(False)
        ms.load_param_into_net(loaded, {name: ms.Parameter(value, name=name) for name, value in weights.items()})
        np.testing.assert_array_equal(loaded(images).asnumpy(), network(images).asnumpy())


def gradients(network, images, labels) -> tuple[float, list[np.ndarray]]:
    """Loss of a training step, and the gradient of each trainable parameter."""
    weights, loss_fn = ms.ParameterTuple(network.set_train().trainable_params()), nn.CrossEntropyLoss()

    def forward(x, y):
        return loss_fn(network(x), y)

    loss, grads = ms.value_and_grad(forward, None, weights)(ms.Tensor(images), labels)
    return float(loss.asnumpy()), [grad.asnumpy() for grad in grads]


class TestNetwork(DarkNetNetwork):
    DARKNET, IMPOSSIBLE = TINY, [({"num_classes": 0}, "num_classes=0")]
    build = staticmethod(tinydarknet)

    def test_portable_operators_agree_with_darknet(self, from_darknet):
        with portable_operators():
            network = load(from_darknet)
        assert any(isinstance(cell, nn.LeakyReLU) for _, cell in network.cells_and_names())
        self.check_darknet(network, TINY["cases"])

    def test_gradient_is_the_slope_of_the_loss(self):
        """Along the gradient of each layer's weights, the loss rises by the gradient's length times the step."""
        ms.set_seed(5)
        network, labels = tinydarknet(4), ms.Tensor([1, 2, 0, 3], ms.int32)
        images = model_input((4, 3, 64, 48), 3)
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

    def test_spellings_have_the_same_gradients(self):
        """The CPU spelling of the operators and the framework's own give the same training step; odd sides too."""
        images, labels = model_input((4, 3, 70, 96), 3), ms.Tensor([1, 2, 0, 3], ms.int32)
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

    def test_batch_norm_keeps_nine_tenths(self):
        network, images = tinydarknet(4).set_train(), ms.Tensor(model_input((4, 3, 32, 32), 1))
        convolution = network.conv1.conv(images).asnumpy()
        network(images)
        expected = 0.1 * convolution.mean(axis=(0, 2, 3))
        np.testing.assert_allclose(network.conv1.bn.moving_mean.asnumpy(), expected, rtol=1e-3, atol=1e-5)

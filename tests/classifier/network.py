"""A network against timm and darknet's C program with the same weights, its gradients, and the class count."""

from __future__ import annotations

import shutil

import convert_checkpoint
from src.model_utils.inference import load_network
from src.model_utils.layers import portable_operators
from src.recipe import MODEL, read_config

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from safetensors.numpy import save_file

from . import oracle
from .fixtures import running

TIMM_TOLERANCE = 5e-5  # of the largest logit; float32 here


def convert(source):
    """The checkpoint of a file of weights, which is removed."""
    target = source.with_suffix(".ckpt")
    convert_checkpoint.main(["--input", str(source), "--output", str(target)])
    source.unlink()
    return target


def load(path) -> nn.Cell:
    return load_network(MODEL, path, read_config([], ""))[0]


def check_case(network, case: dict, seed: int, tolerance: float = TIMM_TOLERANCE) -> None:
    images = oracle.model_input(case["input_shape"], seed)
    np.testing.assert_allclose(images.ravel()[:4], case["input_head"], rtol=1e-6)
    logits, expected = network(ms.Tensor(images)).asnumpy(), np.array(case["logits"])
    assert logits.shape == (1, 1000) and logits.dtype == np.float32
    assert np.abs(logits[0] - expected.ravel()).max() <= tolerance * np.abs(expected).max(), case["input_shape"]
    assert list(np.argsort(-logits[0])[:5]) == case["top5"]


def watch(network, names) -> dict[str, np.ndarray]:
    """A dictionary that receives the outputs of these cells when the network runs."""
    outputs: dict[str, np.ndarray] = {}
    cells = dict(network.cells_and_names())
    for name in names:
        # The default argument binds the name of this turn.
        cells[name].register_forward_hook(lambda _, __, out, name=name: outputs.update({name: out.asnumpy()}))
    return outputs


def train(network, expected: dict, seed: int, steps: int = 3) -> tuple[list[float], dict[str, np.ndarray]]:
    """Steps of gradient descent with momentum: the losses before, between and after them; what the first one leaves.

    That is the gradients and the running statistics by their names, and the logits.
    """
    images, labels = oracle.train_batch(expected["input_shape"], 1000, seed)
    assert labels.tolist() == expected["labels"]
    images, labels = ms.Tensor(images), ms.Tensor(labels)
    weights = ms.ParameterTuple(network.set_train().trainable_params())
    loss_fn = nn.CrossEntropyLoss(label_smoothing=expected["label_smoothing"])
    optimizer = nn.SGD(weights, expected["gentle_lr"], momentum=expected["momentum"])

    def forward(x, y):
        logits = network(x)
        return loss_fn(logits, y), logits

    step = ms.value_and_grad(forward, None, weights, has_aux=True)
    losses, arrays = [], {}
    for _ in range(steps):
        (loss, logits), gradients = step(images, labels)
        losses.append(float(loss.asnumpy()))
        if not arrays:
            arrays = {weight.name: gradient.asnumpy() for weight, gradient in zip(weights, gradients)}
            arrays.update({n: p.asnumpy().copy() for n, p in network.parameters_dict().items() if ".moving_" in n})
            arrays["logits"] = logits.asnumpy()
        optimizer(gradients)
    losses.append(float(forward(images, labels)[0].asnumpy()))
    return losses, arrays


class DarkNetNetwork:
    """Against darknet's C program; the values come from the folder."""

    DARKNET: dict  # the expected values
    SMALL = {}  # arguments of the builder for a small network
    TOLERANCE = 2e-5  # of the largest logit; float32 on both sides
    IMPOSSIBLE: list[tuple[dict, str]]  # arguments of the builder, message

    @staticmethod
    def build(num_classes: int = 1000, **options) -> nn.Cell:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory):
        """Where the converted weights are; removed at the end, as they are large."""
        folder = tmp_path_factory.mktemp("weights")
        yield folder
        shutil.rmtree(folder)

    @pytest.fixture(scope="class")
    @classmethod
    def from_darknet(cls, folder):
        numbers = oracle.darknet_numbers(cls.DARKNET)
        (folder / "darknet.weights").write_bytes(oracle.darknet_header() + numbers)
        return convert(folder / "darknet.weights")

    def check_darknet(self, network, cases) -> None:
        for case in cases:
            check_case(network, case, self.DARKNET["seed"], self.TOLERANCE)

    def test_agrees_with_darknet(self, from_darknet):
        """Also as a graph, which is how the programs run it."""
        network, cases = load(from_darknet), self.DARKNET["cases"]
        self.check_darknet(network, cases)
        with running("GRAPH_MODE"):
            self.check_darknet(network, cases[:1])

    def test_parameter_count(self):
        assert sum(p.size for p in self.build().get_parameters()) == self.DARKNET["param_count"]

    def test_class_count_changes_the_head_only(self):
        shapes = {}
        for classes in (1, 7):
            network = self.build(classes, **self.SMALL).set_train(False)
            logits = network(ms.Tensor(np.zeros((3, 3, 32, 48), np.float32)))
            assert logits.shape == (3, classes) and logits.dtype == ms.float32
            shapes[classes] = {p.name: p.shape for p in network.get_parameters()}
        changed = {name for name in shapes[1] if shapes[1][name] != shapes[7][name]}
        assert changed == {name for name in shapes[1] if MODEL.is_head(name)}

    def test_impossible_networks_are_refused(self):
        for options, message in self.IMPOSSIBLE:
            with pytest.raises(ValueError, match=message):
                self.build(**options)


class TimmNetwork(DarkNetNetwork):
    """Against timm too."""

    TIMM: dict
    PARAMETERS: int  # of timm, without the statistics
    SMALL = {"stage_blocks": (1, 1, 1, 1, 1)}
    CONVOLUTIONS: int  # of the small network
    SECOND_BLOCK: str  # of the second stage
    GRADIENT_ERROR: float  # median over the parameters

    @staticmethod
    def our_cells(name: str) -> list[str]:
        """The cells that do what a module of timm does."""
        raise NotImplementedError

    @staticmethod
    def merged(parts: list[np.ndarray], name: str) -> np.ndarray:
        """The values of our cells as the value that timm's module has."""
        (part,) = parts
        return part

    @pytest.fixture(scope="class")
    @classmethod
    def from_timm(cls, folder):
        save_file(oracle.timm_state(cls.TIMM), folder / "timm.safetensors")
        return convert(folder / "timm.safetensors")

    def test_agrees_with_timm(self, from_timm):
        """Logits, and the statistics of the stages on the way to them."""
        network, cases = load(from_timm), self.TIMM["eval"]
        names = [name for name in cases[0]["stages"] if name != "head.global_pool"]
        outputs = watch(network, {cell for name in names for cell in self.our_cells(name)})
        for case in cases:
            check_case(network, case, self.TIMM["seed"])
            for name in case["stages"].keys() & set(names):
                result = self.merged([outputs[cell] for cell in self.our_cells(name)], name)
                oracle.check_statistics(result, case["stages"][name], f"{case['tag']} {name}")

    def test_portable_operators_agree_with_timm(self, from_timm):
        with portable_operators():
            network = load(from_timm)
        assert any(isinstance(cell, nn.LeakyReLU) for _, cell in network.cells_and_names())
        for case in self.TIMM["eval"][:2]:
            check_case(network, case, self.TIMM["seed"])

    @pytest.fixture(scope="class")
    @classmethod
    def training(cls, from_timm, eager):
        return train(load(from_timm), cls.TIMM["train"], cls.TIMM["seed"])

    def as_timm(self, arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
        """The array of a timm parameter's name among ours."""
        stem, leaf = name.rsplit(".", 1)
        if stem.endswith(".bn"):
            leaf = {"weight": "gamma", "bias": "beta"}.get(leaf, leaf)
        module, layer = stem.rsplit(".", 1) if stem != "head.fc" else (stem, "")
        parts = [arrays[".".join(filter(None, (cell, layer, leaf)))] for cell in self.our_cells(module)]
        return self.merged(parts, name).astype(np.float64)

    def test_loss_of_training(self, training):
        losses, expected = training[0], self.TIMM["train"]
        assert losses[0] == pytest.approx(expected["loss_torch_smooth"], rel=1e-5)
        assert losses == pytest.approx(expected["gentle_loss_trajectory"], rel=2e-4)

    def test_gradients(self, training):
        """Norm and projection of each parameter's gradient; float32 moves a few values over the activation's kink."""
        errors = {}
        for name, (norm, projection) in self.TIMM["train"]["grads"].items():
            gradient = self.as_timm(training[1], name)
            errors[name] = abs(np.linalg.norm(gradient) - norm) / norm
            assert abs(oracle.projection(gradient) - projection) <= 0.1 * norm, name
        assert max(errors.values()) <= 2e-2 and np.median(list(errors.values())) < self.GRADIENT_ERROR
        assert errors["head.fc.weight"] < 1e-5 and errors["head.fc.bias"] < 1e-5

    def test_running_statistics(self, training):
        """After one step: 0.9 of the old values and 0.1 of the batch's, with the unbiased variance."""
        for name, expected in self.TIMM["train"]["bn_after_1_forward"].items():
            for leaf, norm in zip(("moving_mean", "moving_variance"), expected):
                found = self.as_timm(training[1], f"{name}.{leaf}")
                assert np.linalg.norm(found) == pytest.approx(norm, rel=1e-5), f"{name}.{leaf}"

    def test_sizes(self):
        """timm's; and the number of blocks takes whole blocks out."""
        assert sum(p.size for p in self.build().trainable_params()) == self.TIMM["param_count"] == self.PARAMETERS
        small, deeper = (
            {p.name for p in self.build(7, stage_blocks=(1, blocks, 1, 1, 1)).get_parameters()} for blocks in (1, 2)
        )
        assert sum(name.endswith("conv.weight") for name in small) == self.CONVOLUTIONS
        assert {name.rsplit(".", 3)[0] for name in deeper - small} == {self.SECOND_BLOCK}

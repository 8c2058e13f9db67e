"""The five networks against timm with the same weights, their gradients, initial values and refusals."""

import re

import convert_checkpoint
import oracle
from conftest import running, same
from src.model_utils import checkpoint
from src.model_utils.classification.loss import smoothed_cross_entropy
from src.model_utils.folding import fold_batch_norm
from src.model_utils.inference import load_network
from src.model_utils.layers import portable_operators
from src.recipe import MODEL, read_config
from src.tinynet import input_side, tinynet

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from safetensors.numpy import save_file

TOLERANCE = 5e-5  # of the largest logit; float32 here
COUNTS = dict(zip(oracle.MODELS, (6187972, 3730562, 2457234, 2338446, 2042972)))
SIDES = dict(zip(oracle.MODELS, (192, 188, 184, 152, 106)))


@pytest.fixture(scope="module", params=oracle.MODELS)
def model(request):
    """One model after the other: what is made for it is made once."""
    return request.param


@pytest.fixture(scope="module")
def converted(model, tmp_path_factory):
    """A checkpoint of timm's weights."""
    source = tmp_path_factory.mktemp(model) / "timm.safetensors"
    save_file(oracle.timm_state(model), source)
    convert_checkpoint.main(["--input", str(source), "--output", str(source.with_suffix(".ckpt"))])
    return source.with_suffix(".ckpt")


def load(path):
    return load_network(MODEL, path, read_config([], ""))[0]


def check_case(network, case: dict) -> None:
    images = oracle.model_input(case["input_shape"], 0)
    np.testing.assert_allclose(images.ravel()[:4], case["input_head"], rtol=1e-6)
    logits = network(ms.Tensor(images)).asnumpy()
    assert logits.shape == (1, 1000) and logits.dtype == np.float32
    assert oracle.relative_error(logits, case["logits"]) <= TOLERANCE, case["tag"]
    assert list(np.argsort(-logits[0])[:5]) == case["top5"]


def our_cell(name: str, cells) -> str:
    """The cell whose output is that of a module of timm: of a stage its last block."""
    if name.count(".") != 1:
        return name
    return max((cell for cell in cells if cell.startswith(name + ".") and cell.count(".") == 2), key=len_then_text)


def len_then_text(text: str) -> tuple[int, str]:
    return len(text), text


def watch(network, names: list[str]) -> dict[str, np.ndarray]:
    """A dictionary that receives the outputs of these cells when the network runs."""
    outputs: dict[str, np.ndarray] = {}
    cells = dict(network.cells_and_names())
    for name in names:
        # The default argument binds the name of this turn.
        cells[name].register_forward_hook(lambda _, __, out, name=name: outputs.update({name: out.asnumpy()}))
    return outputs


def swish(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x.astype(np.float64)))


def test_conversion(model, converted):
    """Which of the five it is follows from the shapes; all weights by our names, and the input of the model's card."""
    parameters, about = checkpoint.load(converted)
    published = oracle.EXPECTED[model]["pretrained_cfg"]
    assert about == {
        "network": {"name": "tinynet", "model": model, "num_classes": 1000, "bn_momentum": 0.1, "bn_eps": 1e-5},
        "input": {
            "height": SIDES[model], "width": SIDES[model], "resize": "shorter_side", "crop_ratio": 0.875,
            "interpolation": "bicubic", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
        },
        "class_names": None,
        "source": "timm.safetensors",
    }  # fmt: skip
    assert published["input_size"] == [3, SIDES[model], SIDES[model]]
    assert {key: about["input"][key] for key in ("interpolation", "mean", "std")} == {
        key: published[key] for key in ("interpolation", "mean", "std")
    }
    assert published["crop_pct"] == 0.875
    expected = oracle.by_our_names(oracle.timm_state(model))
    assert same({name: value.asnumpy() for name, value in parameters.items()}, expected)


def test_agrees_with_timm(model, converted, eager):
    """Logits, and the statistics of blocks and stages on the way to them."""
    network = load(converted)
    cases = oracle.EXPECTED[model]["eval"]
    assert [case["tag"] for case in cases] == ["small", "odd", "real"]
    assert cases[2]["input_shape"] == [1, 3, SIDES[model], SIDES[model]]
    assert len(cases[0]["stages"]) > len(cases[1]["stages"]) == 10
    cells = dict(network.cells_and_names())
    ours = {name: our_cell(name, cells) for name in cases[0]["stages"] if name != "global_pool"}
    outputs = watch(network, sorted(set(ours.values())))
    for case in cases:
        check_case(network, case)
        for name, statistics in case["stages"].items():
            if name in ("bn1", "bn2"):  # timm's batch norms of stem and head have the activation in them
                result = swish(outputs[name])
            elif name == "global_pool":
                result = swish(outputs["bn2"]).mean((2, 3))
            else:
                result = outputs[ours[name]]
            oracle.check_statistics(result, statistics, f"{case['tag']} {name}")


def test_portable_operators_agree_with_timm(model, converted, eager):
    """The network that export.py writes."""
    with portable_operators():
        network = load(converted)
    assert not any(isinstance(cell, nn.SiLU) for _, cell in network.cells_and_names())
    check_case(network, oracle.EXPECTED[model]["eval"][0])


def test_folded_batch_norms_agree_with_timm(model, converted, eager):
    """The network that export.py --fold_bn writes: none of its batch norms is left."""
    network = fold_batch_norm(load(converted))
    assert not any(isinstance(cell, nn.BatchNorm2d) for _, cell in network.cells_and_names())
    check_case(network, oracle.EXPECTED[model]["eval"][0])


@pytest.fixture(scope="module")
def training(model, converted):
    """Three steps of gradient descent with momentum, and what the first one leaves: gradients, running statistics."""
    expected = oracle.EXPECTED[model]["train"]
    images, labels = oracle.train_batch(expected["input_shape"], 1000, 0)
    assert labels.tolist() == expected["labels"]
    images, labels = ms.Tensor(images), ms.Tensor(labels)
    network = load(converted).set_train()
    weights = ms.ParameterTuple(network.trainable_params())
    loss_fn = nn.CrossEntropyLoss(label_smoothing=expected["label_smoothing"])
    optimizer = nn.SGD(weights, expected["gentle_lr"], momentum=expected["momentum"])

    def forward(x, y):
        logits = network(x)
        return loss_fn(logits, y), logits

    with running("PYNATIVE_MODE"):  # a graph would take longer to compile than three steps take
        return take_steps(forward, weights, optimizer, network, images, labels)


def take_steps(forward, weights, optimizer, network, images, labels):
    """The losses before, between and after three steps; what the first one leaves."""
    step = ms.value_and_grad(forward, None, weights, has_aux=True)
    losses, arrays = [], {}
    for _ in range(3):
        (loss, logits), gradients = step(images, labels)
        losses.append(float(loss.asnumpy()))
        if not arrays:
            arrays = {weight.name: gradient.asnumpy() for weight, gradient in zip(weights, gradients)}
            arrays.update({n: p.asnumpy().copy() for n, p in network.parameters_dict().items() if ".moving_" in n})
            arrays["logits"] = logits.asnumpy()
        optimizer(gradients)
    losses.append(float(forward(images, labels)[0].asnumpy()))
    return losses, arrays


def test_loss_of_training(model, training):
    losses, _ = training
    expected = oracle.EXPECTED[model]["train"]
    assert losses[0] == pytest.approx(expected["loss_torch_smooth"], rel=1e-5)
    assert losses == pytest.approx(expected["gentle_loss_trajectory"], rel=2e-4)


def test_losses_of_the_recipe(model, training):
    """Smoothing of the recipe is that of the classes beside the true one; it can be switched off."""
    expected, labels = oracle.EXPECTED[model]["train"], ms.Tensor(oracle.EXPECTED[model]["train"]["labels"], ms.int32)
    for smoothing, name in ((read_config([], "").smoothing, "loss_zoo_smooth"), (0.0, "loss_plain")):
        loss = smoothed_cross_entropy(1000, smoothing)(ms.Tensor(training[1]["logits"]), labels)
        assert float(loss.asnumpy()) == pytest.approx(expected[name], rel=2e-6)


def test_gradients(model, training):
    """Norm and projection of each parameter's gradient.

    A block's last shift has none: the next batch norm takes it away, and what is left is the rounding.
    """
    _, arrays = training
    expected = oracle.EXPECTED[model]["train"]["grads"]
    assert len(expected) == len([name for name in arrays if ".moving_" not in name and name != "logits"])
    errors = {}
    for name, (norm, projection) in expected.items():
        gradient = arrays[convert_checkpoint.from_timm(name)].astype(np.float64)
        if norm < 1e-9:
            scale, _ = expected[name.replace("bias", "weight")]
            assert re.search(r"blocks\.\d\.\d\.bn[23]\.bias", name) and np.linalg.norm(gradient) <= 1e-4 * scale, name
            continue
        errors[name] = abs(np.linalg.norm(gradient) - norm) / norm
        assert abs(oracle.projection(gradient) - projection) <= 0.1 * norm, name
    assert max(errors.values()) <= 1e-3 and np.median(list(errors.values())) < 1e-5


def test_running_statistics(model, training):
    """After one step: 0.9 of the old values and 0.1 of the batch's, with the unbiased variance."""
    _, arrays = training
    expected = oracle.EXPECTED[model]["train"]["bn_after_1_forward"]
    assert 2 * len(expected) == len([name for name in arrays if ".moving_" in name])
    for name, (mean, variance) in expected.items():
        assert np.linalg.norm(arrays[f"{name}.moving_mean"]) == pytest.approx(mean, rel=1e-5), name
        assert np.linalg.norm(arrays[f"{name}.moving_variance"]) == pytest.approx(variance, rel=1e-5), name


def test_size(model):
    network, expected = tinynet(model), oracle.EXPECTED[model]
    assert sum(p.size for p in network.trainable_params()) == expected["param_count"] == COUNTS[model]
    assert sum(p.size for p in network.get_parameters()) == expected["param_count"] + expected["buffer_count"]
    assert input_side(model) == SIDES[model] == expected["pretrained_cfg"]["input_size"][1]


def test_initial_values(model):
    """He's by the fan-out of a group; the classifier's uniform within 1 / sqrt(classes)."""
    ms.set_seed(3)
    seen = set()
    for name, parameter in tinynet(model, 50).parameters_dict().items():
        value = parameter.asnumpy().astype(np.float64)
        if name == "classifier.weight":
            seen.add("classifier")
            assert np.abs(value).max() == pytest.approx(50**-0.5, rel=1e-3)
            assert value.std() == pytest.approx((3 * 50) ** -0.5, rel=0.02)
        elif value.ndim == 4:
            depthwise = name.endswith("conv_dw.weight")
            fan_out = value.shape[2] * value.shape[3] * (1 if depthwise else value.shape[0])
            seen.add((depthwise, value.shape[2]))
            # Four and a half standard errors of a normal sample's deviation.
            assert value.std() == pytest.approx((2 / fan_out) ** 0.5, rel=4.5 / (2 * value.size) ** 0.5), name
        else:
            assert np.all(value == (1 if name.endswith((".gamma", ".moving_variance")) else 0)), name
    assert seen == {"classifier", (True, 3), (True, 5), (False, 1), (False, 3)}


@pytest.mark.parametrize("num_classes", [1, 7])
def test_class_count(num_classes, eager):
    network = tinynet("tinynet_e", num_classes).set_train(False)
    logits = network(ms.Tensor(np.zeros((3, 3, 32, 48), np.float32)))
    assert logits.shape == (3, num_classes) and logits.dtype == ms.float32


def test_networks_do_not_influence_each_other(eager):
    """Each one is what it would be alone, whatever was built before it and is changed after."""

    def outputs(network) -> np.ndarray:
        return network.set_train(False)(ms.Tensor(oracle.model_input((1, 3, 64, 64), 1))).asnumpy()

    ms.set_seed(5)
    first = tinynet("tinynet_e", 10)
    expected = outputs(first)
    others = [tinynet(model, 3, bn_eps=0.1) for model in oracle.MODELS]
    for other in others:
        other.regularize(0.5, 0.5, 1)
        for parameter in other.get_parameters():
            parameter.set_data(ms.Tensor(np.ones(parameter.shape, np.float32)))
    assert not first.takes_step and all(other.takes_step for other in others)
    assert {model: input_side(model) for model in oracle.MODELS} == SIDES
    np.testing.assert_array_equal(outputs(first), expected)
    ms.set_seed(5)
    np.testing.assert_array_equal(outputs(tinynet("tinynet_e", 10)), expected)


def test_momentum_and_epsilon(eager):
    """bn_momentum is the share of the batch in the running statistics, in all batch norms."""
    images, arrays = ms.Tensor(oracle.model_input((2, 3, 32, 32), 1)), []
    for momentum in (0.1, 0.01):
        ms.set_seed(1)
        network = tinynet("tinynet_e", 3, bn_momentum=momentum, bn_eps=1e-3).set_train()
        assert {c.eps for _, c in network.cells_and_names() if isinstance(c, nn.BatchNorm2d)} == {1e-3}
        network(images)
        arrays.append({n: p.asnumpy() for n, p in network.parameters_dict().items() if n.endswith("moving_mean")})
    assert len(arrays[0]) == len(oracle.EXPECTED["tinynet_e"]["train"]["bn_after_1_forward"])
    for name, mean in arrays[0].items():
        np.testing.assert_allclose(arrays[1][name], 0.1 * mean, rtol=1e-4, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "tinynet_f"}, "model=tinynet_f: tinynet_a, tinynet_b"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"bn_momentum": 0.0}, "bn_momentum=0.0"),
        ({"bn_momentum": 1.5}, "bn_momentum=1.5"),
        ({"bn_eps": 0.0}, "bn_eps=0.0"),
        ({"stage_blocks": [1, 1]}, r"stage_blocks=\[1, 1\]: seven numbers of 1 or more"),
        ({"stage_blocks": [1, 1, 1, 0, 1, 1, 1]}, "stage_blocks="),
    ],
)
def test_impossible_networks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tinynet(**options)

"""The five networks against timm with the same weights, their gradients, initial values and refusals."""

import re

import convert_checkpoint
from classifier import oracle
from classifier.fixtures import same
from classifier.network import check_case, convert, load, train, watch
from conftest import EXPECTED, SIDES, by_our_names, running
from src.model_utils import checkpoint
from src.model_utils.classification.loss import smoothed_cross_entropy
from src.model_utils.folding import fold_batch_norm
from src.model_utils.layers import portable_operators
from src.recipe import read_config
from src.tinynet import input_side, tinynet

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from safetensors.numpy import save_file

THREE_STEPS = ("tinynet_c", "tinynet_e")  # the default and the smallest; of the others one step with its gradients
COUNTS = dict(zip(SIDES, (6187972, 3730562, 2457234, 2338446, 2042972)))


@pytest.fixture(scope="module", params=SIDES)
def model(request):
    """One model after the other: what is made for it is made once."""
    return request.param


@pytest.fixture(scope="module")
def converted(model, tmp_path_factory):
    """A checkpoint of timm's weights."""
    source = tmp_path_factory.mktemp(model) / "timm.safetensors"
    save_file(oracle.timm_state(EXPECTED[model]), source)
    return convert(source)


def our_cell(name: str, cells) -> str:
    """The cell whose output is that of a module of timm: of a stage its last block."""
    if name.count(".") != 1:
        return name
    blocks = [cell for cell in cells if cell.startswith(name + ".") and cell.count(".") == 2]
    return max(blocks, key=lambda cell: (len(cell), cell))


def swish(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x.astype(np.float64)))


def test_conversion(model, converted):
    """Which of the five it is follows from the shapes; all weights by our names, and the input of the model's card."""
    parameters, about = checkpoint.load(converted)
    published = EXPECTED[model]["pretrained_cfg"]
    assert about == {
        "network": {"name": "tinynet", "model": model, "num_classes": 1000, "bn_momentum": 0.1, "bn_eps": 1e-5},
        "input": {
            "height": SIDES[model], "width": SIDES[model], "resize": "shorter_side", "crop_ratio": 0.875,
            "interpolation": "bicubic", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
        },
        "class_names": None,
        "source": "timm.safetensors",
    }  # fmt: skip
    spec = about["input"]
    assert published["input_size"] == [3, SIDES[model], SIDES[model]] and published["crop_pct"] == spec["crop_ratio"]
    assert all(published[key] == spec[key] for key in ("interpolation", "mean", "std"))
    expected = by_our_names(oracle.timm_state(EXPECTED[model]))
    assert same({name: value.asnumpy() for name, value in parameters.items()}, expected)


def test_agrees_with_timm(model, converted, eager):
    """Logits, and the statistics of blocks and stages on the way to them."""
    network, cases = load(converted), EXPECTED[model]["eval"]
    assert [case["tag"] for case in cases] == ["small", "odd", "real"]
    assert cases[2]["input_shape"] == [1, 3, SIDES[model], SIDES[model]]
    assert len(cases[0]["stages"]) > len(cases[1]["stages"]) == 10
    cells = dict(network.cells_and_names())
    ours = {name: our_cell(name, cells) for name in cases[0]["stages"] if name != "global_pool"}
    outputs = watch(network, set(ours.values()))
    for case in cases:
        check_case(network, case, seed=0)
        for name, statistics in case["stages"].items():
            if name in ("bn1", "bn2"):  # timm's batch norms of stem and head have the activation in them
                result = swish(outputs[name])
            elif name == "global_pool":
                result = swish(outputs["bn2"]).mean((2, 3))
            else:
                result = outputs[ours[name]]
            oracle.check_statistics(result, statistics, f"{case['tag']} {name}")


def test_exported_networks_agree_with_timm(model, converted, eager):
    """That with portable operators, and that of --fold_bn, which has no batch norm left."""
    with portable_operators():
        portable = load(converted)
    folded = fold_batch_norm(load(converted))
    for network, left_out in ((portable, nn.SiLU), (folded, nn.BatchNorm2d)):
        assert not any(isinstance(cell, left_out) for _, cell in network.cells_and_names())
        check_case(network, EXPECTED[model]["eval"][0], seed=0)


@pytest.fixture(scope="module")
def training(model, converted):
    with running("PYNATIVE_MODE"):  # a graph would take longer to compile than three steps take
        return train(load(converted), EXPECTED[model]["train"], seed=0, steps=3 if model in THREE_STEPS else 1)


def test_losses_of_training(model, training):
    """Smoothing of the recipe is that of the classes beside the true one; it can be switched off."""
    losses, arrays = training
    expected = EXPECTED[model]["train"]
    assert len(losses) == (len(expected["gentle_loss_trajectory"]) if model in THREE_STEPS else 2)
    assert losses[0] == pytest.approx(expected["loss_torch_smooth"], rel=1e-5)
    assert losses == pytest.approx(expected["gentle_loss_trajectory"][: len(losses)], rel=2e-4)
    labels = ms.Tensor(expected["labels"], ms.int32)
    for smoothing, name in ((read_config([], "").smoothing, "loss_zoo_smooth"), (0.0, "loss_plain")):
        loss = smoothed_cross_entropy(1000, smoothing)(ms.Tensor(arrays["logits"]), labels)
        assert float(loss.asnumpy()) == pytest.approx(expected[name], rel=2e-6)


def test_gradients(model, training):
    """Of a block's last shift there is none: the next batch norm takes it away, and what is left is the rounding."""
    _, arrays = training
    expected = EXPECTED[model]["train"]["grads"]
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
    expected = EXPECTED[model]["train"]["bn_after_1_forward"]
    assert 2 * len(expected) == len([name for name in arrays if ".moving_" in name])
    for name, (mean, variance) in expected.items():
        assert np.linalg.norm(arrays[f"{name}.moving_mean"]) == pytest.approx(mean, rel=1e-5), name
        assert np.linalg.norm(arrays[f"{name}.moving_variance"]) == pytest.approx(variance, rel=1e-5), name


def test_size(model):
    network, expected = tinynet(model), EXPECTED[model]
    assert sum(p.size for p in network.trainable_params()) == expected["param_count"] == COUNTS[model]
    assert sum(p.size for p in network.get_parameters()) == expected["param_count"] + expected["buffer_count"]
    assert input_side(model) == SIDES[model]


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
    others = [tinynet(model, 3, bn_eps=0.1) for model in SIDES]
    for other in others:
        other.regularize(0.5, 0.5, 1)
        for parameter in other.get_parameters():
            parameter.set_data(ms.Tensor(np.ones(parameter.shape, np.float32)))
    assert not first.takes_step and all(other.takes_step for other in others)
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
    assert len(arrays[0]) == len(EXPECTED["tinynet_e"]["train"]["bn_after_1_forward"])
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

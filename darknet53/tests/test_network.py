"""The network, and the conversion of foreign weights, against timm and darknet's C program."""

import json

from classifier.conversion import TimmConversion, convert, refused, sparse, write
from classifier.network import TimmNetwork
from classifier.oracle import darknet_header
from conftest import FOLDER
from src.darknet53 import darknet53

import numpy as np
import pytest

TIMM, DARKNET = (json.loads((FOLDER / f"tests/data/{name}.json").read_text()) for name in ("timm", "darknet"))

pytestmark = pytest.mark.usefixtures("eager")


class TestConversion(TimmConversion):
    TIMM, DARKNET = TIMM, DARKNET
    NETWORK = {"name": "darknet53", "activation": "leaky_relu", "negative_slope": 0.1, "bn_eps": 1e-5}
    CFG, MAY_LACK_HEAD = "darknet53.cfg", True
    PARAMETERS, INTERPOLATION = 41609928 + 35712, "bicubic"
    NAMES = {
        "conv0.bn.beta": "stem.conv1.bn.bias",
        "conv3.conv.weight": "stages.2.conv_down.conv.weight",
        "layer5.3.conv2.bn.moving_variance": "stages.4.blocks.3.conv2.bn.running_var",
        "fc.bias": "head.fc.bias",
    }
    FAULTS = [
        ({"stages.3.conv_down.bn.bias": None}, "does not fit darknet53: conv4.bn.beta is missing"),
        ({"stages.5.conv_down.bn.bias": np.zeros(3)}, "conv6.bn.beta is left over"),
        ({"stem.conv1.conv.weight": np.zeros((32, 3, 5, 5))}, "conv0.conv.weight has shape (32, 3, 5, 5), the network"),
        ({"head.fc.weight": np.zeros(())}, "holds no classifier"),
        ({"stem.conv1.bn.running_var": np.full(32, -1.0)}, "conv0.bn.moving_variance has values"),
    ]
    ZOO_NAMES = ["conv0.0.weight", "network.layer3.7.conv2.1.moving_mean"]
    OTHER = ("stages.0.conv_exp.conv.weight", (128, 64, 1, 1), "conv0.conv.weight")

    def test_new_head(self, folder, numbers):
        """darknet53.conv.74: 52 convolutions; the classifier is random."""
        end = self.body_bytes()
        source = write(folder / "darknet53.conv.74", darknet_header(), numbers[:end])
        assert source.stat().st_size == 162482580
        assert "--num_classes" in refused(source)
        weights, about = convert(source, "--num_classes", 10)
        assert about["network"]["num_classes"] == 10 and weights["fc.weight"].shape == (10, 1024)
        assert weights["layer5.3.conv2.conv.weight"].ravel()[-1] == np.frombuffer(numbers[end - 4 : end], "<f4")
        message = refused(sparse(folder / "cut.conv.74", 162482580 - 4), "--num_classes", 10)
        assert "has 162482576 bytes" in message and "without its classifier 162482560" in message


class TestNetwork(TimmNetwork):
    TIMM, DARKNET = TIMM, DARKNET
    build = staticmethod(darknet53)
    PARAMETERS, CONVOLUTIONS, SECOND_BLOCK = 41609928, 1 + 5 + 2 * 5, "layer2.1"
    GRADIENT_ERROR = 1e-5
    IMPOSSIBLE = [
        ({"num_classes": 0}, "num_classes=0"),
        ({"activation": "gelu"}, "activation=gelu"),
        ({"activation": "leaky_relu", "negative_slope": 1.0}, "negative_slope=1.0"),
        ({"stage_blocks": (1, 1, 1, 1)}, "stage_blocks=.1, 1, 1, 1.: five"),
        ({"stage_blocks": (1, 1, 1, 1, 0)}, "five numbers of 1 or more"),
    ]

    @staticmethod
    def our_cells(name):
        name = name.replace("stem.conv1", "stem").replace("stem", "conv0")
        for stage in range(5):
            name = name.replace(f"stages.{stage}.conv_down", f"conv{stage + 1}")
            name = name.replace(f"stages.{stage}.blocks", f"layer{stage + 1}")
            name = name.replace(f"stages.{stage}", f"layer{stage + 1}")
        return [name.replace("head.fc", "fc")]

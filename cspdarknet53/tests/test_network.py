"""The network, and the conversion of foreign weights, against timm and darknet's C program."""

import json

from classifier import oracle
from classifier.conversion import TimmConversion, convert
from classifier.network import TimmNetwork
from conftest import FOLDER
from src.cspdarknet53 import cspdarknet53

import numpy as np
import pytest
from safetensors.numpy import save_file

TIMM, DARKNET = (json.loads((FOLDER / f"tests/data/{name}.json").read_text()) for name in ("timm", "darknet"))
WEIGHTS_AND_STATISTICS = (".weight", ".bias", ".moving_mean", ".moving_variance")

pytestmark = pytest.mark.usefixtures("eager")


class TestConversion(TimmConversion):
    TIMM, DARKNET = TIMM, DARKNET
    NETWORK = {"name": "cspdarknet53", "activation": "mish", "negative_slope": 0.1, "bn_eps": 1e-5}
    CFG = "csdarknet53-omega.cfg"
    PARAMETERS, INTERPOLATION = 27642184 + 35328, "bilinear"
    NAMES = {
        "stem.bn.beta": "stem.conv1.bn.bias",
        "stages.2.down.conv.weight": "stages.2.conv_down.conv.weight",
        "stages.4.main_end.bn.moving_variance": "stages.4.conv_transition_b.bn.running_var",
        "fc.bias": "head.fc.bias",
    }
    FAULTS = [
        ({"stages.3.conv_down.bn.bias": None}, "does not fit cspdarknet53: stages.3.down.bn.beta is missing"),
        ({"stages.5.conv_down.bn.bias": np.zeros(3)}, "stages.5.down.bn.beta is left over"),
        ({"stem.conv1.conv.weight": np.zeros((32, 3, 5, 5))}, "stem.conv.weight has shape (32, 3, 5, 5), the network"),
        ({"stages.0.conv_exp.bn.bias": np.zeros(127)}, "stages.0.shortcut.bn.beta has shape (63,)"),
        ({"stages.0.conv_exp.conv.weight": np.zeros(())}, "stages.0.shortcut.conv.weight is missing"),
        ({"stages.0.conv_transition.conv.weight": np.zeros(64)}, "stages.0.merge.conv.weight has shape (64,)"),
        ({"head.fc.weight": np.zeros(())}, "holds no classifier"),
        ({"stem.conv1.bn.running_var": np.full(32, -1.0)}, "stem.bn.moving_variance has values"),
    ]
    ZOO_NAMES = ["backbone.conv27.0.weight", "network.backbone.layer3.7.conv2.1.moving_mean"]
    OTHER = ("stages.0.blocks.0.conv1.conv.weight", (32, 64, 1, 1), "stem.conv.weight")

    def test_halves_of_timm(self, folder):
        """conv_exp holds both parts of a stage; merge takes them in the opposite order of conv_transition."""
        state = oracle.timm_state(TIMM)
        save_file(state, folder / "timm.safetensors")
        weights, _ = convert(folder / "timm.safetensors")
        expand, transition = (state[f"stages.1.{n}.conv.weight"] for n in ("conv_exp", "conv_transition"))
        np.testing.assert_array_equal(weights["stages.1.shortcut.conv.weight"], expand[:64])
        np.testing.assert_array_equal(weights["stages.1.main.conv.weight"], expand[64:])
        np.testing.assert_array_equal(weights["stages.1.merge.conv.weight"][:, :64], transition[:, 64:])
        np.testing.assert_array_equal(weights["stages.1.merge.conv.weight"][:, 64:], transition[:, :64])


class TestNetwork(TimmNetwork):
    TIMM, DARKNET = TIMM, DARKNET
    build = staticmethod(cspdarknet53)
    TOLERANCE = 2e-4  # the Mish of darknet's C program is an approximation
    PARAMETERS, CONVOLUTIONS, SECOND_BLOCK = 27642184, 1 + 7 * 5, "stages.1.blocks.1"
    # Four values in the last stage lie beyond the kink, which all gradients before them show: PyTorch in float32 has a
    # median of 3e-4 here as well, and 7e-3 at worst.
    GRADIENT_ERROR = 1e-3
    IMPOSSIBLE = [
        ({"num_classes": 0}, "num_classes=0"),
        ({"activation": "gelu"}, "activation=gelu"),
        ({"activation": "leaky_relu", "negative_slope": 1.0}, "negative_slope=1.0"),
        ({"stage_blocks": (1, 1, 1, 1)}, "stage_blocks=.1, 1, 1, 1.: five"),
        ({"stage_blocks": (1, 1, 1, 1, 0)}, "five numbers of 1 or more"),
    ]

    @staticmethod
    def our_cells(name):
        name = name.replace("stem.conv1", "stem").replace("head.fc", "fc").replace("conv_down", "down")
        name = name.replace("conv_transition_b", "main_end").replace("conv_transition", "merge")
        if name.endswith("conv_exp"):
            return [name.replace("conv_exp", "shortcut"), name.replace("conv_exp", "main")]
        return [name]

    @staticmethod
    def merged(parts, name):
        if len(parts) == 2:  # conv_exp: outputs (N, C, H, W), weights (C, in, 1, 1) or values of the channels (C,)
            return np.concatenate(parts, axis=0 if name.endswith(WEIGHTS_AND_STATISTICS) else 1)
        if name.endswith("conv_transition.conv.weight"):
            main, shortcut = np.split(parts[0], 2, axis=1)
            return np.concatenate([shortcut, main], axis=1)
        return parts[0]

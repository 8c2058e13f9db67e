"""The recipe of a folder of the DarkNet family: documented keys, what train.py hands on, what a dry run refuses."""

from __future__ import annotations

import train
from conftest import small_run
from dry_run import numeric_keys, try_values
from mindspore_hub_conf import create_network
from src.lr_scheduler import get_lr
from src.model_utils.errors import UsageError
from src.recipe import MODEL, read_config

import numpy as np
import pytest
import yaml


class Recipe:
    """The values come from the folder."""

    DOCUMENTED: str  # its documented keys, as YAML
    RESIZED: int  # the shorter side, in evaluation
    LEARNING_RATE, SMOOTHES = "lr", "use_label_smooth"  # the keys of these
    FIRST, LAST = "conv0.conv.weight", "fc.bias"  # a parameter of the body, and one of the classifier
    SMALL = {"stage_blocks": (1, 1, 1, 1, 1)}  # arguments of the builder
    REFUSED: str  # words KEY=VALUE that a dry run refuses
    MESSAGES: dict[str, str] = {}  # of these keys, where it is not KEY=
    NEEDS: dict[str, dict] = {}  # further options with which a key counts
    SIZES: tuple[str, ...]  # keys whose huge values would cost memory or time

    def test_documented_keys_have_their_defaults(self):
        config = read_config([], "")
        for key, value in yaml.safe_load(self.DOCUMENTED).items():
            assert config[key] == value, key
        assert int(config.image_height / config.crop_ratio) == self.RESIZED

    def test_hub(self):
        network = create_network(MODEL.name, 3, **self.SMALL)
        assert {p.shape[0] for p in network.get_parameters() if MODEL.is_head(p.name)} == {3}
        with pytest.raises(NotImplementedError, match="resnet"):
            create_network("resnet")

    def test_train_obeys_the_recipe(self, few_digits, tmp_path, monkeypatch):
        """Rates, loss and optimizer that train.py hands on."""
        seen = {}
        monkeypatch.setattr(train, "train", lambda *_, **parts: seen.update(parts) or 0)
        options = {"momentum": 0.8, "weight_decay": 0.3, "label_smooth_factor": 0.18, "head_lr_factor": 3}
        options = small_run(few_digits, tmp_path, **options, **{self.LEARNING_RATE: 0.07})
        for smooth, expected in ((True, 0.2), (False, 0)):
            assert train.main([*options, f"--{self.SMOOTHES}={smooth}"]) == 0
            assert seen["loss_fn"].label_smoothing == pytest.approx(expected)
        optimizer, rates = seen["optimizer"], seen["learning_rates"]
        np.testing.assert_array_equal(rates, get_lr(read_config(options, ""), 5))
        assert optimizer.momentum.asnumpy() == np.float32(0.8)
        names = [parameter.name for parameter in optimizer.parameters]
        assert names == [parameter.name for parameter in seen["network"].trainable_params()]
        assert {float(decay.asnumpy()) for decay in optimizer.weight_decay} == {0, np.float32(0.3)}
        for name, factor in {self.LAST: 3, self.FIRST: 1}.items():
            found = optimizer.get_lr_parameter(optimizer.parameters[names.index(name)]).asnumpy()
            np.testing.assert_allclose(found, factor * rates, rtol=1e-6)

    def check_dry_run(self, data, tmp_path, **options) -> None:
        """It writes its log and nothing else."""
        assert train.main(small_run(data, tmp_path, dry_run=True, eval_interval=1, **options)) == 0
        found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
        assert found == ["run", "run/train.log"] and "dry run" in (tmp_path / "run/train.log").read_text()

    def test_dry_run_refuses(self, few_digits, tmp_path):
        for word in self.REFUSED.split():
            key, value = word.split("=")
            options = small_run(few_digits, tmp_path, dry_run=True, **self.NEEDS.get(key, {}))
            with pytest.raises(UsageError, match=self.MESSAGES.get(key, f"{key}=")):
                train.main([*options, f"--{key}", value])

    def numbers_out_of_range(self, few_digits, tmp_path):
        """A dry run takes each one or refuses it; nothing else is raised."""
        options = small_run(few_digits, tmp_path, dry_run=True, eval_interval=1)
        accepted, faults = try_values(train.main, options, numeric_keys(read_config([], "")), self.SIZES)
        assert not faults and len(accepted) > 50
        assert not [path for path in tmp_path.rglob("*.ckpt")]


class AliasedRecipe(Recipe):
    """With the names that all classifiers of the zoo understand."""

    ALIASES: dict[str, str]

    def test_other_spellings(self):
        """A key by the name that it has elsewhere in the zoo: on the command line, and in the code."""
        for alias, key in self.ALIASES.items():
            default = read_config([], "")[key]
            value = {bool: not default, int: 17, float: 0.5, str: "imagenet2012"}[type(default)]
            config = read_config([f"--{alias}", str(value)], "")
            assert config[key] == config[alias] == value and alias in config.given, alias

    def test_learning_rates(self):
        rates = get_lr(read_config([], ""), 10)
        assert rates.shape == (1500,) and rates.dtype == np.float32
        assert rates[0] == pytest.approx(0.1 / 50) and rates[49] == pytest.approx(0.1)
        assert rates[50] == pytest.approx(0.0997261, rel=1e-5) and rates[1499] == pytest.approx(1.09658e-5, rel=1e-4)
        np.testing.assert_array_equal(rates[50:60], rates[50])

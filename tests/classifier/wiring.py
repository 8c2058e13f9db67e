"""One small run through all programs of a folder: its own parts and the shared code fit together."""

from __future__ import annotations

import fnmatch
import gc
import json
import re
import shutil
from pathlib import Path

import create_label_list
import eval as evaluation
import export
import infer
import postprocess
import train
from conftest import small_run
from recorded_keys import listed_options, recorded_keys
from src.model_utils.checkpoint import load, save
from src.model_utils.classification.infer import read_picture
from src.model_utils.classification.transforms import eval_transforms
from src.model_utils.config import Config
from src.model_utils.errors import DataError, UsageError
from src.model_utils.inference import load_model, load_network
from src.recipe import MODEL, read_config

import mindspore as ms
import numpy as np
import pytest

from .fixtures import contents, running, same

CPU = ["--device_target", "CPU"]
KEYS: dict[str, set[str]] = {}  # of the recipe, which each program has read


def call(program, *arguments) -> int | None:
    """Run a program in this process, and note the keys of the recipe that it reads."""
    gc.collect()  # what is left of an earlier network, removed while this one runs, has it compiled a second time
    with recorded_keys(Config) as keys:
        status = program.main([str(argument) for argument in arguments])
    KEYS.setdefault(program.__name__, set()).update(keys)
    return status


def read_inputs(paths: list[Path], spec: dict) -> np.ndarray:
    """The network's input for these pictures, (N, 3, H, W) float32."""
    pictures = []
    for path in paths:
        picture = read_picture(path)
        for operator in eval_transforms(spec):
            picture = operator(picture)
        pictures.append(picture)
    return np.stack(pictures)


def measures(logits: np.ndarray, labels: np.ndarray, smoothing: float) -> tuple[float, float, float]:
    """Mean smoothed cross entropy in float64, top-1 and top-5 accuracy: the hand count."""
    logits, rows = logits.astype(np.float64), np.arange(len(labels))
    scores = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = np.full(logits.shape, smoothing / (logits.shape[1] - 1))
    targets[rows, labels] = 1 - smoothing
    places = (logits > logits[rows, labels][:, None]).sum(1)
    return -(targets * scores).sum(1).mean(), (places == 0).mean(), (places < 5).mean()


class Programs:
    """The values come from the folder. The recipe smooths labels by 0.2 and keeps a moving average of the weights."""

    LEARNING: dict  # with these the network learns a little in the few steps: its answers are not all the same
    COUNT, STEPS = 40, 5  # validation pictures; steps of an epoch
    NAMES = [str(digit) for digit in range(10)]
    STATE, BEST = "", ""  # files of a run: after an epoch, of the best one
    NETWORK: dict  # its description in a checkpoint
    RUN_LINES: tuple[str, ...] = ()  # patterns of further log lines
    CLASSES = "num_classes"  # documented keys: of the number of classes
    EXPORT, EXPORT_BATCH = "--ckpt_file", "--batch_size"
    SMALL = ["--stage_blocks=1,1,1,1,1"]  # what makes the network small
    CONTRADICTIONS: list[str] = []  # options that contradict a checkpoint
    RESULT = ""  # the documented line of postprocess.py, with top_1 and top_5
    READ: dict[str, str]  # program -> some of the keys that it reads

    # ---- What differs between the folders

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, few_digits) -> Path:
        """What small_run trains with."""
        return few_digits

    @pytest.fixture(scope="class")
    @classmethod
    def pictures(cls, few_digits) -> Path:
        """The validation pictures in class folders."""
        return few_digits / "val"

    @staticmethod
    def evaluation_options(path, data, out) -> list:
        raise NotImplementedError

    @staticmethod
    def read_accuracy(log: str, path) -> tuple[float, float]:
        """Top-1 and top-5 accuracy of the documented lines of eval.py."""
        raise NotImplementedError

    @staticmethod
    def validation(data, pictures) -> Path:
        """What eval.py is given of small_run's data."""
        return pictures

    @staticmethod
    def averaged(pictures, folder) -> list[str]:
        """Further options of the evaluation of averaged weights."""
        return []

    @staticmethod
    def pretrained(path) -> dict:
        """Options of a training that starts from these weights."""
        raise NotImplementedError

    @staticmethod
    def inputs(about, data, pictures):
        """Names, inputs and labels of the validation pictures."""
        paths = sorted(pictures.rglob("*.jpg"))
        return [path.stem for path in paths], read_inputs(paths, about["input"]), [int(p.parent.name) for p in paths]

    # ---- The run

    @pytest.fixture(scope="class")
    @classmethod
    def straight(cls, data, tmp_path_factory):
        """Two epochs without interruption."""
        out = tmp_path_factory.mktemp("straight")
        assert call(train, *small_run(data, out, **cls.LEARNING, eval_interval=2)) == 0
        return out

    @pytest.fixture(scope="class")
    @classmethod
    def states(cls, straight) -> list[Path]:
        """The training states after the first and the second epoch."""
        return [straight / "checkpoints" / cls.STATE.format(epoch) for epoch in (1, 2)]

    @pytest.fixture(scope="class")
    @classmethod
    def by_hand(cls, states, data, pictures):
        """Names, logits (COUNT, 10) and labels of the validation pictures, computed outside of graphs."""
        network, about = load_network(MODEL, states[-1], read_config([], ""))
        names, images, labels = cls.inputs(about, data, pictures)
        with running("PYNATIVE_MODE"):
            return names, network(ms.Tensor(images, ms.float32)).asnumpy(), np.array(labels)

    def test_what_a_run_leaves(self, straight, states):
        assert sorted(path.name for path in states[0].parent.iterdir()) == [
            *(path.name for path in states), Path(self.BEST).name
        ]  # fmt: skip
        log = (straight / "run/train.log").read_text()
        for pattern in (
            rf"(?m)^epoch: 2 step: {self.STEPS}, loss is \d",
            r"(?m)^Epoch time: \d+\.\d{3}, per step time: \d+\.\d{3}$",
            r"(?m)^validation after epoch 2: .*ema_top_1_accuracy \d",
            *self.RUN_LINES,
        ):
            assert re.search(pattern, log), pattern
        assert (straight / "run/curves.csv").is_file() and list((straight / "summary").glob("events*"))
        about = load(states[-1])[1]
        assert about["class_names"] == self.NAMES and about["input"]["height"] == 32
        assert about["network"] == {"name": MODEL.name, "num_classes": 10, "bn_eps": 1e-5, **self.NETWORK}

    def test_resumed_run_equals_the_uninterrupted_one(self, states, data, tmp_path):
        assert call(train, *small_run(data, tmp_path, **self.LEARNING, resume=states[0])) == 0
        before, expected = contents(states[0]), contents(states[1])
        assert same(contents(tmp_path / "checkpoints" / self.STATE.format(2)), expected)
        moved = {name for name, value in expected.items() if not np.array_equal(value, before[name])}
        parts = (r"conv\w*\.weight", r"bn\.moving_mean", r"train_state\.ema\.", r"moments", "global_step")
        for part in parts:
            assert any(re.search(part, name) for name in moved), f"{part} did not move: the comparison sees nothing"
        assert any(MODEL.is_head(name) for name in moved)

    @classmethod
    def evaluate(cls, path, data, out, *options) -> tuple[float, float]:
        call(evaluation, *CPU, *cls.evaluation_options(path, data, out), *options)
        return cls.read_accuracy((out / "eval.log").read_text(), path)

    @pytest.fixture(scope="class")
    @classmethod
    def evaluated(cls, states, data, pictures, tmp_path_factory) -> tuple[float, float]:
        """With a batch size that does not divide COUNT; classes and input are the checkpoint's, not the recipe's."""
        recipe, folder = read_config([], ""), tmp_path_factory.mktemp("eval")
        assert recipe.num_classes == 1000 and recipe.image_height > 32
        return cls.evaluate(states[-1], cls.validation(data, pictures), folder, "--batch_size=7")

    def test_evaluation_equals_a_hand_count(self, straight, evaluated, by_hand):
        """The loss of the validation is smoothed as that of the training."""
        loss, *accuracies = measures(*by_hand[1:], 0.2)
        assert list(evaluated) == accuracies
        said = re.search(r"top_5_accuracy \S+, validation_loss ([0-9.]+)", (straight / "run/train.log").read_text())
        assert float(said[1]) == pytest.approx(loss, abs=1e-4)

    def test_moving_average_is_evaluated(self, straight, states, evaluated, data, pictures, tmp_path):
        said = re.search(r"ema_top_1_accuracy ([0-9.]+)", (straight / "run/train.log").read_text())[1]
        options = ["--batch_size=8", "--use_ema=True", *self.averaged(pictures, tmp_path)]
        found = self.evaluate(states[-1], self.validation(data, pictures), tmp_path, *options)
        assert f"{found[0]:.4f}" == said and found != evaluated

    def test_data_of_more_classes_is_refused(self, states, pictures, tmp_path):
        shutil.copytree(pictures, tmp_path / "eleven")
        shutil.copytree(pictures / self.NAMES[9], tmp_path / "eleven/ten")
        with pytest.raises(DataError, match="the checkpoint has 10 classes .* has 11") as caught:
            self.evaluate(states[-1], tmp_path / "eleven", tmp_path)
        assert "--num_classes" not in str(caught.value)

    def test_weights_decide_the_input_and_the_network(self, states, data, pictures, tmp_path):
        options = ["--image_height=64 --image_width=64", "--num_classes=11", "--mean=0,0,0", *self.CONTRADICTIONS]
        for option in options:
            with pytest.raises(UsageError, match=rf"contradicts .*{re.escape(states[-1].name)}"):
                self.evaluate(states[-1], self.validation(data, pictures), tmp_path, *option.split())

    def test_pretrained_weights(self, straight, data, tmp_path):
        """Another number of classes needs --reset_head; what the weights were made for goes before the recipe."""
        path = straight / "checkpoints" / self.BEST
        options = {**self.pretrained(path), self.CLASSES: 12, "dry_run": True}
        with pytest.raises(DataError, match="reset_head"):
            call(train, *small_run(data, tmp_path, **options))
        options["reset_head"] = True
        assert call(train, *small_run(data, tmp_path, **options)) == 0
        said = rf"weights of {path}: {len(contents(path)) - 2} loaded, 0 missing, 0 unexpected, 2 wrong_shape"
        assert said in (tmp_path / "run/train.log").read_text()
        for key, value in [pair.split("=") for pair in self.CONTRADICTIONS]:
            with pytest.raises(UsageError, match=f"{key} {value} contradicts"):
                call(train, *small_run(data, tmp_path, **options), key, value)

    # ---- Export and inference

    @pytest.fixture(scope="class")
    @classmethod
    def exported(cls, states, tmp_path_factory):
        """The last state as MINDIR with batch 1, and as ONNX with batch 3 and folded batch norms; by their default names."""
        folder = tmp_path_factory.mktemp("exported")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            call(export, *CPU, cls.EXPORT, states[-1])
            call(export, *CPU, cls.EXPORT, states[-1], "--file_format", "ONNX", cls.EXPORT_BATCH, 3, "--fold_bn", True)
        names = [f"{MODEL.name}{ending}" for ending in (".mindir", ".mindir.json", ".onnx", ".onnx.json")]
        assert sorted(path.name for path in folder.iterdir()) == names
        return {path.suffix: path for path in folder.iterdir()}

    @pytest.mark.parametrize("ending, batch_size", [(".mindir", 1), (".onnx", 3)])
    def test_exports_equal_the_network(self, states, exported, ending, batch_size):
        """On another input than the traced one."""
        model, about, fixed = load_model(MODEL, exported[ending], read_config(CPU, ""))
        assert fixed == batch_size and about["network"]["num_classes"] == 10
        images = np.random.RandomState(11).standard_normal((batch_size, 3, 32, 32)).astype(np.float32)
        with running("PYNATIVE_MODE"):
            expected = load_network(MODEL, states[-1], read_config([], ""))[0](ms.Tensor(images)).asnumpy()
        (found,) = model(images)
        assert found.shape == expected.shape and found.dtype == np.float32
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
        assert np.abs(model(-images)[0] - expected).max() > 1e-2 * np.abs(expected).max(), "the input does not matter"

    @pytest.fixture(scope="class")
    @classmethod
    def inferred(cls, exported, pictures, tmp_path_factory) -> Path:
        """What infer.py and create_label_list.py write of the validation pictures."""
        out, model = tmp_path_factory.mktemp("inferred"), exported[".onnx"]
        call(infer, "--model_file", model, "--input", pictures, "--output_dir", out / "result")
        call(create_label_list, "--input", pictures, "--label_file", out / "label.txt", "--model_file", model)
        return out

    def test_infer_and_postprocess(self, inferred, by_hand, capsys):
        """Logits and accuracy of the result files are those of the hand count."""
        names, logits, labels = by_hand
        found = [np.fromfile(inferred / f"result/result_Files/{name}.bin", "<f4") for name in names]
        np.testing.assert_allclose(found, logits, atol=1e-3 * np.abs(logits).max())
        rows = json.loads((inferred / "result/predictions.json").read_text())["predictions"]
        tops = {Path(row["file"]).stem: row["top"][0]["class_name"] for row in rows}
        assert tops == dict(zip(names, (self.NAMES[index] for index in logits.argmax(1))))
        capsys.readouterr()
        call(postprocess, "--result_path", inferred / "result/result_Files", "--label_file", inferred / "label.txt")
        top_1, top_5 = (round(self.COUNT * share) for share in measures(logits, labels, 0.0)[1:])
        assert capsys.readouterr().out == (
            f"'top_1_accuracy': {100 * top_1 / self.COUNT:.2f}%, 'top_5_accuracy': {100 * top_5 / self.COUNT:.2f}%\n"
            f"total={self.COUNT}, top1_correct={top_1}, top5_correct={top_5}\n"
            + self.RESULT.format(top_1=top_1 / self.COUNT, top_5=top_5 / self.COUNT)
        )

    # ---- The help

    def test_help_lists_what_a_program_reads(self, evaluated, inferred, states, pictures, tmp_path):
        """Also for weights without a description, where the recipe says what they are."""
        weights = {name: value for name, value in load(states[-1])[0].items() if "train_state" not in name}
        path = tmp_path / "w.ckpt"
        save(path, weights, {})
        network = [*CPU, *self.SMALL, "--dry_run", f"--{self.CLASSES}=10", "--image_height=32", "--image_width=32"]
        call(evaluation, *network, *self.evaluation_options(path, pictures, tmp_path))
        assert "nothing was evaluated" in (tmp_path / "eval.log").read_text()
        call(export, *network, self.EXPORT, path, "--file_name", tmp_path / "m")
        call(infer, *network, "--model_file", path, "--input", pictures, "--output_dir", tmp_path / "out")
        call(create_label_list, "--input", pictures, "--label_file", tmp_path / "l", "--model_file", path)
        call(postprocess, "--result_path", inferred / "result/result_Files", "--label_file", inferred / "label.txt")
        with recorded_keys(Config) as of_each_program:
            read_config([], "")
        for program in (train, evaluation, export, infer, create_label_list, postprocess):
            hidden = KEYS[program.__name__] - listed_options(program.main) - of_each_program
            assert not hidden, f"{program.__name__}.py reads {hidden}"
        for program, keys in self.READ.items():
            assert set(keys.split()) <= KEYS[program], "the recorder saw less than the program reads"

    def test_help_of_postprocess_is_short(self, monkeypatch, capsys):
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit):
            postprocess.main(["--help"])
        assert len(capsys.readouterr().out.splitlines()) <= 40


@pytest.mark.long
class Learning:
    """The network learns from real pictures; slow, so only with --long. `programs` reads the accuracy."""

    programs: type[Programs]
    GENTLE: dict  # options of a training of 64 pixels in batches of 16
    EPOCHS, WEIGHTS = "epoch_num", "pre_trained"  # the keys of these
    FIRST_LAYERS: str  # to freeze

    @pytest.fixture(scope="class")
    @classmethod
    def digits(cls, tmp_path_factory):
        """1,437 training and 360 held-out digits as JPEG files, one folder for each class."""
        from digits import write_image_folder

        folder = tmp_path_factory.mktemp("digits") / "imagenet"
        write_image_folder(folder, size=64)
        return folder

    def options(self, epochs: int, **options) -> dict:
        return {**self.GENTLE, "lr": 0.01, self.EPOCHS: epochs, "T_max": epochs, "eval_interval": 1, **options}

    def best(self, out) -> Path:
        return out / "checkpoints" / self.programs.BEST

    def test_the_whole_network_learns_the_digits(self, digits, tmp_path):
        """From random weights, 95 % or more after three epochs."""
        assert train.main(small_run(digits, tmp_path, **self.options(3, stage_blocks="1,2,8,8,4"))) == 0
        assert self.programs.evaluate(self.best(tmp_path), digits / "val", tmp_path)[0] >= 0.95

    def test_fine_tuning(self, digits, tmp_path):
        """From four of the ten classes to all: 95 % or more with the first layers frozen and a faster classifier."""
        for split in ("train", "val"):
            (tmp_path / "four" / split).mkdir(parents=True)
            for name in "0257":
                (tmp_path / "four" / split / name).symlink_to(digits / split / name)
        options = self.options(1, **{self.programs.CLASSES: 4})
        assert train.main(small_run(tmp_path / "four", tmp_path / "first", **options)) == 0
        backbone, best = (self.best(tmp_path / name) for name in ("first", "second"))
        options = self.options(
            2, reset_head=True, head_lr_factor=2, freeze=self.FIRST_LAYERS, **{self.WEIGHTS: backbone}
        )
        assert train.main(small_run(digits, tmp_path / "second", **options)) == 0
        assert load(best)[1]["class_names"] == [str(digit) for digit in range(10)]
        assert self.programs.evaluate(best, digits / "val", tmp_path)[0] >= 0.95
        before, after = (load(path)[0] for path in (backbone, best))
        for name in before:
            if not MODEL.is_head(name):
                is_frozen = any(fnmatch.fnmatch(name, pattern) for pattern in self.FIRST_LAYERS.split(","))
                assert np.array_equal(before[name].asnumpy(), after[name].asnumpy()) == is_frozen, name

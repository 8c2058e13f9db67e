"""Situations with weights that users have met: each has the right value, or a message that says what to do."""

from __future__ import annotations

import shutil
from pathlib import Path

from model_utils import checkpoint, weights
from model_utils.class_order import class_indices
from model_utils.errors import DataError
from model_utils.inference import load_model
from model_utils.pretrained import create_network
from toy.model import MODEL
from toy.programs import run_eval, run_export
from toy_runs import command_line, contents

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("programs")
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def renamed(path: Path, target: Path, names) -> Path:
    parameters, metadata = checkpoint.load(path)
    checkpoint.save(target, parameters, {**metadata, "class_names": names})
    return target


def test_folders_of_the_same_classes_sort_in_another_order(toy_state, tmp_path):
    """Trained on 0 ... 9 in this order, continued on folders that are sorted by their words: eight, five, four ..."""
    source = renamed(toy_state, tmp_path / "words.ckpt", WORDS)
    _, about, network = create_network(MODEL, MODEL.read_config(command_line(), ""), sorted(WORDS), str(source))
    rows, before = network.parameters_dict()["fc.weight"].asnumpy(), contents(source)["fc.weight"]
    assert about["class_names"] == sorted(WORDS)
    assert all(np.array_equal(rows[sorted(WORDS).index(word)], before[index]) for index, word in enumerate(WORDS))


def test_two_birds_are_called_crane():
    """ImageNet's short names: labels for a prediction, but no way to match two lists in different orders."""
    assert class_indices(["crane", "crane"], ["crane", "crane"], "data") == [0, 1]
    with pytest.raises(DataError, match="'crane'.* give each class a name of its own"):
        class_indices(["crane", "heron"], ["heron", "crane", "crane"], "data")


def test_weights_of_a_thousand_unnamed_classes_on_a_folder_of_a_few(few_digits, toy_state, tmp_path):
    source = renamed(toy_state, tmp_path / "unnamed.ckpt", None)
    for digit in "37":
        shutil.copytree(few_digits / "val" / digit, tmp_path / "val" / digit)
    with pytest.raises(DataError, match="which output is which of them is not known; give .* --class_names FILE"):
        run_eval(command_line(val_data_dir=tmp_path / "val", checkpoint_path=source, run_dir=tmp_path))


def test_a_checkpoint_that_git_lfs_has_not_fetched(tmp_path):
    (tmp_path / "best.ckpt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n")
    with pytest.raises(DataError, match="Git LFS.*git lfs pull"):
        checkpoint.load(tmp_path / "best.ckpt")


def test_a_web_page_that_was_saved_as_weights(tmp_path):
    (tmp_path / "best.ckpt").write_text("<!DOCTYPE html><html>404</html>")
    with pytest.raises(DataError, match="web page"):
        checkpoint.load(tmp_path / "best.ckpt")


def test_an_exported_file_with_one_flipped_bit(toy_state, tmp_path):
    run_export(command_line(checkpoint_path=toy_state, file_name=tmp_path / "m.onnx", file_format="ONNX"))
    content = bytearray((tmp_path / "m.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(DataError, match="is damaged, or was changed or replaced; export it again"):
        load_model(MODEL, tmp_path / "m.onnx", MODEL.read_config([], ""))


def test_an_export_into_a_shared_folder_with_a_name_of_blanks_and_brackets(toy_state, tmp_path):
    """The folder keeps its mode, the file has that of any new file."""
    folder = tmp_path / "模型 [v1]+(final)"
    folder.mkdir(mode=0o775)
    folder.chmod(0o775)
    run_export(command_line(checkpoint_path=toy_state, file_name=folder / "a b.onnx", file_format="ONNX"))
    assert sorted(path.name for path in folder.iterdir()) == ["a b.onnx", "a b.onnx.json"]
    assert folder.stat().st_mode & 0o777 == 0o775
    assert all(path.stat().st_mode & 0o777 == 0o666 & ~umask() for path in folder.iterdir())


def umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_names_that_torch_compile_and_data_parallel_have_changed(tmp_path):
    """`_orig_mod.` and `module.` before each name."""
    from safetensors.numpy import save_file

    save_file({"_orig_mod.module.conv.weight": np.ones((2, 3), np.float32)}, tmp_path / "m.safetensors")
    assert list(weights.read_state(tmp_path / "m.safetensors")) == ["conv.weight"]

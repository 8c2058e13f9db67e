"""Situations with pictures, folders and lists that users have met."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

from model_utils.classification.infer import read_picture
from model_utils.classification.postprocess import read_labels
from model_utils.dataset_checks import check_cifar10, check_image_folder
from model_utils.errors import DataError, UsageError
from model_utils.unzip import unzip_dataset
from toy.model import MODEL
from toy.programs import run_label_list
from toy_runs import command_line

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.usefixtures("programs")


@pytest.fixture
def digits(few_digits, tmp_path) -> Path:
    """Two classes of pictures to do something to."""
    for digit in "37":
        shutil.copytree(few_digits / "val" / digit, tmp_path / "data" / digit)
    return tmp_path / "data"


def picture(folder: Path) -> Path:
    return sorted((folder / "3").iterdir())[0]


def test_a_notebook_has_left_a_hidden_folder(digits):
    """`.ipynb_checkpoints` is no class, and no picture of it is counted."""
    shutil.copytree(digits / "3", digits / ".ipynb_checkpoints")
    config = MODEL.read_config(["--val_data_dir", str(digits)], "")
    assert check_image_folder(digits, None) == ["3", "7"] and MODEL.count_images(config, "val") == 8


def test_macos_and_windows_have_left_files_everywhere(digits):
    for name in ("3/._a.jpg", "3/.DS_Store", "7/Thumbs.db", "7/ehthumbs.db", "__MACOSX/x.jpg", "3/@eaDir/y.jpg"):
        (digits / name).parent.mkdir(exist_ok=True)
        (digits / name).write_bytes(b"x")
    assert check_image_folder(digits, None) == ["3", "7"]


def test_six_bytes_that_are_called_a_jpeg(digits):
    """Start, scan, end: the decoder of the pipeline would end the process."""
    picture(digits).write_bytes(b"\xff\xd8\xff\xda\xff\xd9")
    with pytest.raises(DataError, match=f"{picture(digits).name}"):
        check_image_folder(digits, None)


def test_a_download_that_stopped_and_still_has_an_end(digits):
    """Half of the picture would be grey."""
    Image.effect_noise((200, 200), 60).convert("RGB").save(picture(digits))
    content = picture(digits).read_bytes()
    picture(digits).write_bytes(content[: len(content) // 2] + b"\xff\xd9")
    with pytest.raises(DataError, match="1 of 8 files are not readable images"):
        check_image_folder(digits, None)


def test_a_small_file_that_says_it_is_a_huge_picture(digits):
    Image.new("1", (30000, 30000)).save(digits / "3/huge.png")
    assert (digits / "3/huge.png").stat().st_size < 200_000
    with pytest.raises(DataError, match="30000.*max_pixels"):
        check_image_folder(digits, None)


def test_measurements_that_were_saved_as_a_float_tiff(digits):
    Image.fromarray(np.random.default_rng(1).random((20, 20), np.float32)).save(digits / "3/field.tif")
    with pytest.raises(DataError, match="field.tif"):
        check_image_folder(digits, None)


def test_pictures_of_a_twelve_bit_camera(digits, capsys):
    from model_utils.logger import init_logger

    init_logger(None, "x.log")
    Image.fromarray(np.full((20, 20), 4095, np.uint16)).save(digits / "3/camera.png")
    check_image_folder(digits, None)
    assert "16 bits" in capsys.readouterr().out


def test_a_pipe_among_the_pictures(digits):
    os.mkfifo(digits / "3/x.jpg")
    with pytest.raises(DataError, match="x.jpg"):
        check_image_folder(digits, None)
    with pytest.raises(DataError, match="regular file"):
        read_picture(digits / "3/x.jpg")


def test_a_class_folder_with_a_blank_at_its_end(toy_state, few_digits, tmp_path):
    from toy.programs import run_eval

    shutil.copytree(few_digits / "val/3", tmp_path / "val" / "3 ")
    with pytest.raises(DataError, match="'3' is there, which differs in: blanks"):
        run_eval(command_line(val_data_dir=tmp_path / "val", checkpoint_path=toy_state, run_dir=tmp_path))


def test_a_label_list_that_an_editor_has_saved_with_a_mark(tmp_path):
    """UTF-8 with a byte order mark, and UTF-16."""
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "label.txt").write_text("ä:1\r\nb:0\r\n", encoding=encoding)
        assert read_labels(tmp_path / "label.txt") == {"ä": 1, "b": 0}


def test_cifar_names_with_a_mark(tmp_path):
    np.zeros((2, 3073), np.uint8).tofile(tmp_path / "test_batch.bin")
    (tmp_path / "batches.meta.txt").write_text("\n".join(f"class {n}" for n in range(10)), encoding="utf-8-sig")
    assert check_cifar10(tmp_path, "test")[0] == "class 0"


def test_a_file_name_with_a_newline(digits, tmp_path):
    picture(digits).rename(digits / "3/a\nb.jpg")
    with pytest.raises(DataError, match="cannot stand in a label list"):
        run_label_list(command_line(input=digits, label_file=tmp_path / "label.txt"))
    assert not (tmp_path / "label.txt").exists()


def test_a_zip_file_with_one_changed_byte_in_a_name(tmp_path):
    """The picture would become an empty folder."""
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data/cat/1.jpg", b"picture")
    content = path.read_bytes()
    place = content.rindex(b"1.jpg") + 4  # in the directory at the end
    path.write_bytes(content[:place] + b"/" + content[place + 1 :])
    with pytest.raises(DataError, match="data.zip"):
        unzip_dataset(path, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_recipe_with_a_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.yaml").write_text("run_dir: ~/runs\n")
    config = MODEL.read_config(["--config_path", str(tmp_path / "own.yaml"), "--train_data_dir=~/data"], "")
    assert (config.run_dir, config.train_data_dir) == (f"{tmp_path}/runs", f"{tmp_path}/data")


def test_freezing_by_a_pattern_that_begins_with_a_star():
    assert MODEL.read_config(["--freeze", "*.gamma"], "").freeze == ["*.gamma"]
    assert MODEL.read_config(["--freeze", "conv[12].*,*.beta"], "").freeze == ["conv[12].*", "*.beta"]


def test_an_augmentation_that_cannot_be_is_found_by_a_dry_run(few_digits, tmp_path):
    from toy.programs import run_train
    from toy_runs import small_run

    with pytest.raises(UsageError, match="flip_prob=1.5: 0 to 1"):
        run_train(small_run(few_digits, tmp_path, flip_prob=1.5, dry_run=True))

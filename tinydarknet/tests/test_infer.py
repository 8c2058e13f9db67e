"""infer.py: the same logits as evaluation and as every format of the model, its files, and what it refuses."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import create_label_list
import eval as evaluation
import export
import infer
import postprocess
from conftest import program
from src import annotate, picture_files
from src.dataset import create_dataset, eval_transforms, input_spec
from src.model_utils.checkpoint import save
from src.model_utils.config import DataError, UsageError
from src.model_utils.device_adapter import Device
from src.recipe import read_config
from src.tinydarknet import tinydarknet

import cv2
import mindspore as ms
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from src.inference import description, load_network, predict

CPU = Device("CPU", 0)
NAMES = ["flower", "temple", "a name that is far too long for the width of the picture, " * 2]  # of five classes
SIZE = ["--image_height", "64", "--image_width", "64", "--device_target", "CPU"]
TOLERANCE = 1e-6


def write_checkpoint(path: Path, classes: int, options: list[str], names: list[str] | None) -> Path:
    ms.set_seed(3)
    network = tinydarknet(classes)
    for parameter in network.get_parameters():  # outputs that differ from picture to picture
        if "conv16" in parameter.name:
            parameter.set_data(ms.Tensor(np.random.RandomState(5).randn(*parameter.shape), ms.float32))
    config = read_config([*options, "--num_classes", str(classes)], "")
    save(path, network.parameters_dict(), description(config, names))
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Random weights at 64 pixels, five classes of which three have names."""
    return write_checkpoint(tmp_path_factory.mktemp("model") / "five.ckpt", 5, SIZE, NAMES)


@pytest.fixture(scope="module")
def exported(checkpoint) -> dict[str, Path]:
    """The checkpoint as MINDIR with batch 3 and as ONNX with batch 1."""
    for file_format, batch_size in (("MINDIR", 3), ("ONNX", 1)):
        name = ["--checkpoint_path", str(checkpoint), "--file_name", str(checkpoint.with_suffix(""))]
        export.main([*name, "--file_format", file_format, "--batch_size", str(batch_size), "--device_target", "CPU"])
    return {ending: checkpoint.with_suffix(f".{ending}") for ending in ("mindir", "onnx")}


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    return [Image.fromarray(picture).resize((160, 107)) for picture in load_sample_images().images]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, photographs) -> Path:
    """Class folders with five sound pictures; two share their name."""
    root = tmp_path_factory.mktemp("pictures")
    temple, flower = photographs
    for name, picture in {
        "flower/1.jpg": flower,
        "flower/2.x.png": flower.crop((20, 10, 100, 90)),
        "temple/1.jpg": temple,
        "temple/3.bmp": temple.rotate(90, expand=True),
        "temple/4.JPG": temple.convert("L"),
    }.items():
        (root / name).parent.mkdir(exist_ok=True)
        picture.save(root / name)
    return root


def run(model: Path, source, out: Path, *more: str) -> dict:
    options = ["--model_file", model, "--input", source, "--output_dir", out, "--device_target", "CPU", *more]
    infer.main([str(option) for option in options])
    return json.loads((out / "predictions.json").read_text(encoding="utf-8"))


def results(out: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.fromfile(path, np.float32) for path in sorted((out / "result_Files").iterdir())}


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def pipeline(checkpoint: Path, config, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and logits of the evaluation pipeline."""
    network, _ = load_network(checkpoint, config)
    batches = create_dataset(config, False, CPU, names).create_tuple_iterator(num_epochs=1, output_numpy=True)
    images = [images for images, _ in batches]
    logits = [predict(network, batch, config.batch_size)[0] for batch in images]
    return np.concatenate(images), np.concatenate(logits)


# ---- The same logits -------------------------------------------------------------------------------------------------


def save_in_every_form(folder: Path, picture: Image.Image) -> None:
    folder.mkdir(parents=True)
    rotated = Image.Exif()
    rotated[0x112] = 6  # "turn by 90 degrees"
    transparent = picture.convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize(picture.size))
    sixteen_bits = np.asarray(picture)[:, :, ::-1].astype(np.uint16) * 201
    picture.save(folder / "a.jpg", quality=85)
    picture.save(folder / "exif.jpg", exif=rotated)
    picture.save(folder / "progressive.jpeg", progressive=True)
    picture.convert("L").save(folder / "grey.jpg")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.convert("P").save(folder / "palette.png")
    transparent.save(folder / "transparent.png")
    cv2.imwrite(str(folder / "colour_16.png"), sixteen_bits)
    cv2.imwrite(str(folder / "grey_16.png"), sixteen_bits[:, :, 1])
    picture.save(folder / "b.bmp")
    picture.save(folder / "c.tif", compression="tiff_lzw")


def test_equals_evaluation_for_every_kind_of_picture(checkpoint, photographs, tmp_path):
    folder = tmp_path / "val" / "temple"
    save_in_every_form(folder, photographs[0])
    data = ["--val_data_dir", str(folder.parent), "--batch_size", "4", "--num_parallel_workers", "1"]
    config = read_config([*SIZE, *data, "--num_classes", "5"], "")
    inputs, logits = pipeline(checkpoint, config, ["temple"])
    files = sorted(folder.iterdir())
    operators = eval_transforms(input_spec(config))
    for file, expected in zip(files, inputs):
        np.testing.assert_array_equal(infer.to_input(infer.read_picture(file), operators), expected, err_msg=file.name)
    run(checkpoint, folder, tmp_path / "out", "--batch_size", "4")
    found = results(tmp_path / "out")
    assert list(found) == [file.stem for file in files] and len(files) == len(logits) == 11
    np.testing.assert_allclose(np.stack(list(found.values())), logits, atol=TOLERANCE, rtol=TOLERANCE)
    assert np.ptp(logits, axis=0).max() > 0.01  # the pictures are told apart


def test_png_equals_the_cifar10_record(tmp_path):
    digits, labels = load_digits().images[:6] * (255 / 16), load_digits().target[:6]
    images = [Image.fromarray(digit.astype(np.uint8)).resize((32, 32)).convert("RGB") for digit in digits]
    planes = np.stack([np.asarray(image).transpose(2, 0, 1).reshape(-1) for image in images])
    data, folder = tmp_path / "data", tmp_path / "pictures"
    data.mkdir(), folder.mkdir()
    np.concatenate([labels[:, None].astype(np.uint8), planes], axis=1).tofile(data / "test_batch.bin")
    for index, image in enumerate(images):
        image.save(folder / f"{index}.png")
    options = ["--dataset_name", "cifar10", *SIZE, "--val_data_dir", str(data), "--batch_size", "6"]
    checkpoint = write_checkpoint(tmp_path / "ten.ckpt", 10, options, None)
    _, logits = pipeline(checkpoint, read_config(options, ""), [])
    content = run(checkpoint, folder, tmp_path / "out")  # the recipe of the checkpoint is used, not the default one
    assert content["input"]["resize"] == "both_sides"
    np.testing.assert_allclose(
        np.stack(list(results(tmp_path / "out").values())), logits, atol=TOLERANCE, rtol=TOLERANCE
    )
    assert content["predictions"][0]["top"][0]["class_name"] == f"class {logits[0].argmax()}"


@pytest.mark.parametrize("ending", ["mindir", "onnx"])
def test_exported_models_equal_the_checkpoint(checkpoint, exported, pictures, tmp_path, ending):
    run(checkpoint, pictures, tmp_path / "ckpt")
    run(exported[ending], pictures, tmp_path / ending)  # five pictures: the second batch of three is padded
    expected, found = results(tmp_path / "ckpt"), results(tmp_path / ending)
    assert found.keys() == expected.keys() and len(found) == 5
    for name, logits in expected.items():
        np.testing.assert_allclose(found[name], logits, atol=1e-4, rtol=1e-4, err_msg=name)


def test_model_gets_whole_batches_only(pictures):
    shapes = []

    def model(images):
        shapes.append(images.shape)
        return (images.mean((2, 3)),)

    paths = [pictures / "temple" / name for name in ("1.jpg", "3.bmp", "1.jpg")]
    failures = {}
    operators = eval_transforms(input_spec(read_config(SIZE, "")))
    found = list(infer.classify(model, operators, [paths[0], Path("absent"), *paths[1:]], 2, failures))
    assert shapes == [(2, 3, 64, 64)] * 2 and [index for index, _, _ in found] == [0, 2, 3]
    np.testing.assert_array_equal(found[0][2], found[2][2])
    assert failures == {Path("absent"): "No such file or directory"}


def test_label_list_and_postprocess_equal_evaluation(checkpoint, pictures, tmp_path, capsys):
    names, label_file = sorted(NAMES[:2]), tmp_path / "label.txt"
    run(checkpoint, pictures, tmp_path / "out")
    create_label_list.main(["--input", str(pictures), "--label_file", str(label_file)])
    capsys.readouterr()
    postprocess.main(["--result_path", str(tmp_path / "out" / "result_Files"), "--label_file", str(label_file)])
    config = read_config([*SIZE, "--val_data_dir", str(pictures), "--batch_size", "2", "--num_classes", "5"], "")
    network, _ = load_network(checkpoint, config)
    metrics = evaluation.evaluate(network, create_dataset(config, False, CPU, names), 2, 5, CPU).accuracies()
    top_1, top_5 = (f"{100 * metrics[f'top_{k}_accuracy']:.2f}%" for k in (1, 5))
    assert f"'top_1_accuracy': {top_1}, 'top_5_accuracy': {top_5}\ntotal=5, " in capsys.readouterr().out


# ---- Files and console -----------------------------------------------------------------------------------------------


def test_files_of_a_run(checkpoint, pictures, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    content = run(checkpoint, pictures, out, "--top_k", "4")
    files = ["flower/1.jpg", "flower/2.x.png", "temple/1.jpg", "temple/3.bmp", "temple/4.JPG"]
    stems = ["flower__1", "2.x", "temple__1", "3", "4"]
    annotated = [f"annotated/{Path(file).with_suffix('.png').as_posix()}" for file in files]
    assert tree(tmp_path) == sorted(
        f"deep/out/{name}" for name in ["predictions.json", *annotated, *(f"result_Files/{stem}.bin" for stem in stems)]
    )
    assert content["model"] == str(checkpoint)
    assert content["network"]["num_classes"] == 5 and content["input"]["height"] == 64
    assert [prediction["file"] for prediction in content["predictions"]] == [str(pictures / file) for file in files]
    for stem, prediction in zip(stems, content["predictions"]):
        check_prediction(prediction["top"], results(out)[stem], 4)
    top = content["predictions"][0]["top"]
    assert f"{infer.table(str(pictures / files[0]), top)}\n" in capsys.readouterr().out


def test_table_is_aligned():
    top = [{"class_name": "cat", "score": 0.75}, {"class_name": "tiger", "score": 0.25}]
    assert infer.table("a.jpg", top) == "a.jpg\n    1  cat    0.7500\n    2  tiger  0.2500"


def check_prediction(top: list[dict], logits: np.ndarray, count: int) -> None:
    scores = np.exp(logits) / np.exp(logits).sum()
    order = np.argsort(-logits)[:count]
    assert [entry["class_index"] for entry in top] == order.tolist()
    np.testing.assert_allclose([entry["score"] for entry in top], scores[order], rtol=1e-4)
    assert [entry["class_name"] for entry in top] == [[*NAMES, "class 3", "class 4"][index] for index in order]


def test_scores_of_large_and_equal_logits():
    top = infer.top_classes(np.array([1e4, 0, 1e4], np.float32), 9, None)
    assert [(entry["class_index"], entry["score"]) for entry in top] == [(0, 0.5), (2, 0.5), (1, 0.0)]


@pytest.mark.parametrize(
    "size, expected_width", [((32, 32), 320), ((100, 30), 400), ((7, 300), 320), ((3000, 1500), 1280)]
)
def test_annotated_picture_is_readable(size, expected_width):
    grey = (90, 120, 90)
    top = [{"class_name": name, "score": score} for name, score in zip(NAMES, (0.9, 0.1, 0.0))]
    shown = infer.readable_size(np.full((*size[::-1], 3), grey, np.uint8))
    canvas = infer.annotate(shown, top)
    assert canvas.width == expected_width and canvas.height >= shown.height + 3 * 14
    assert canvas.getpixel((canvas.width // 2, shown.height // 2)) == grey
    text = np.asarray(canvas)[shown.height :, :, :].min(axis=2) > 200
    assert text[:, : canvas.width // 2].any() and text[:, -canvas.width // 4 :].any()  # name, score
    assert not text[:, :5].any() and not text[:, -5:].any()  # nothing is cut off at the edge


def test_bar_is_as_long_as_the_score():
    shown = infer.readable_size(np.zeros((320, 320, 3), np.uint8))
    lengths = []
    for score in (0.25, 0.75):
        canvas = np.asarray(infer.annotate(shown, [{"class_name": "", "score": score}]))
        lengths.append((canvas[320:] == annotate.FIRST_BAR).all(axis=2).any(axis=0).sum())
    assert lengths[1] - lengths[0] == pytest.approx(0.5 * (320 - 28), abs=2)


def test_single_picture_and_patterns(checkpoint, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(pictures)
    for number, (source, expected) in enumerate(
        {
            "temple/3.bmp": ["temple/3.bmp"],
            "*/1.jpg": ["flower/1.jpg", "temple/1.jpg"],
            "**/*.[Jj][Pp][Gg]": ["flower/1.jpg", "temple/1.jpg", "temple/4.JPG"],
            str(pictures / "temple" / "?.bmp"): [str(pictures / "temple" / "3.bmp")],
        }.items()
    ):
        content = run(checkpoint, source, tmp_path / str(number), "--batch_size", "1")
        assert [prediction["file"] for prediction in content["predictions"]] == expected, source
    assert tree(tmp_path / "0" / "annotated") == ["3.png"]
    assert tree(tmp_path / "1" / "annotated") == ["flower/1.png", "temple/1.png"]


def test_name_with_pattern_characters_is_a_name(pictures, tmp_path):
    (tmp_path / "a[1].jpg").write_bytes((pictures / "flower" / "1.jpg").read_bytes())
    assert picture_files.find_pictures(str(tmp_path / "a[1].jpg")) == (tmp_path, [Path("a[1].jpg")])


def test_pattern_for_every_depth(pictures, tmp_path):
    for name in ("a.jpg", "x/b.jpg", "x/y/c.jPg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((pictures / "flower" / "1.jpg").read_bytes())
    expected = [Path("a.jpg"), Path("x/b.jpg"), Path("x/y/c.jPg")]
    assert picture_files.find_pictures(str(tmp_path / "**" / "*.j*")) == (tmp_path, expected)
    assert picture_files.find_pictures(str(tmp_path)) == (tmp_path, expected)


def test_other_files_are_skipped_with_a_notice(pictures, tmp_path):
    (tmp_path / ".hidden").mkdir()
    for name in ("b.jpg", "a.png", ".hidden/c.jpg", "._b.jpg"):
        (tmp_path / name).write_bytes((pictures / "flower" / "1.jpg").read_bytes())
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    notices = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picture_files.get_logger(), "info", lambda message, *values: notices.append(message % values))
        assert picture_files.find_pictures(str(tmp_path)) == (tmp_path, [Path("a.png"), Path("b.jpg")])
    assert len(notices) == 1 and "1 file(s) that are not pictures" in notices[0] and "notes.txt" in notices[0]


def test_same_stem_keeps_every_result(checkpoint, photographs, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    photographs[0].save(source / "a.jpg"), photographs[1].save(source / "a.png")
    run(checkpoint, source, tmp_path / "out")
    assert tree(tmp_path / "out" / "annotated") == ["a.jpg.png", "a.png.png"]
    assert list(results(tmp_path / "out")) == ["a.jpg", "a.png"]


def test_old_results_are_kept_and_not_classified(checkpoint, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(picture_files.time, "strftime", lambda form: "20240102-030405")
    source, out = tmp_path / "in", tmp_path / "in" / "out"
    source.mkdir()
    (source / "a.jpg").write_bytes((pictures / "flower" / "1.jpg").read_bytes())
    run(checkpoint, source, out)
    (out / "mine.txt").write_text("kept")
    content = run(checkpoint, source, out)
    assert [prediction["file"] for prediction in content["predictions"]] == [str(source / "a.jpg")]
    assert "mine.txt" not in tree(out)
    aside = source / "out_20240102-030405"
    assert "mine.txt" in tree(aside) and "annotated/a.png" in tree(aside)
    run(checkpoint, source, out)  # within the same second: the name with the time stamp is taken
    assert (aside / "mine.txt").read_text() == "kept" and (source / "out_20240102-030405_2").is_dir()


def test_name_that_is_not_utf_8(checkpoint, pictures, tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes((pictures / "flower" / "1.jpg").read_bytes())
    options = ["--model_file", checkpoint, "--input", tmp_path / "in", "--output_dir", tmp_path / "out"]
    result = program("infer.py", *options, "--device_target", "CPU", PYTHONIOENCODING="ascii:strict")
    assert result.returncode == 0, result.stderr
    content = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))
    assert Path(content["predictions"][0]["file"]).is_file()
    assert tree(tmp_path / "out" / "result_Files") == [name.replace(".jpg", ".bin")]


def test_interrupted_run_lists_what_it_has_written(checkpoint, pictures, tmp_path, monkeypatch):
    def interrupted(*arguments):
        yield next(classify(*arguments))
        raise KeyboardInterrupt

    classify = infer.classify
    monkeypatch.setattr(infer, "classify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, pictures, tmp_path)
    assert len(json.loads((tmp_path / "predictions.json").read_text())["predictions"]) == len(results(tmp_path)) == 1


# ---- What is refused -------------------------------------------------------------------------------------------------


def write_damaged(folder: Path, sound: bytes) -> list[str]:
    """Pictures whose names stand before that of the sound one, so that they could spoil it."""
    png = cv2.imencode(".png", cv2.imdecode(np.frombuffer(sound, np.uint8), cv2.IMREAD_COLOR))[1].tobytes()
    huge = bytearray(sound)
    start = sound.index(b"\xff\xc0") + 5
    huge[start : start + 4] = b"\xff\xff\xff\xff"  # the header promises 65535 x 65535 pixels
    contents = {
        "1_empty.jpg": b"",
        "2_text.jpg": b"no picture",
        "3_header.jpg": sound[:100],
        "4_half.jpg": sound[: len(sound) // 2],
        "5_end.jpg": sound[:-40],
        "6_half.png": png[: len(png) // 2],
        "7_end.png": png[:-6],
        "8_huge.jpg": bytes(huge),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return list(contents)


def test_damaged_pictures_are_named_and_the_others_classified(checkpoint, pictures, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    sound = (pictures / "temple" / "1.jpg").read_bytes()
    damaged = write_damaged(source, sound)
    (source / "9_sound.jpg").write_bytes(sound)
    options = ["--model_file", checkpoint, "--input", "in", "--output_dir", "out", "--device_target", "CPU"]
    result = program("infer.py", *options, "--batch_size", 2, cwd=tmp_path)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert f"{len(damaged)} of 9 picture(s) could not be read" in result.stderr
    assert all(re.search(rf"in/{name}: \w.+", result.stderr) for name in damaged)
    assert "in/2_text.jpg: not a readable JPEG" in result.stderr and "in/1_empty.jpg: empty file" in result.stderr
    run(checkpoint, pictures / "temple" / "1.jpg", tmp_path / "alone", "--batch_size", "2")
    alone = results(tmp_path / "alone")["1"]
    np.testing.assert_allclose(results(tmp_path / "out")["9_sound"], alone, atol=TOLERANCE, rtol=TOLERANCE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "in", "out"]  # nothing written elsewhere
    assert tree(source) == [*damaged, "9_sound.jpg"]


@pytest.mark.parametrize(
    "source, message",
    [("absent.jpg", "does not exist"), ("empty", "holds no picture"), ("empty/*.jpg", "matches no picture")],
)
def test_missing_pictures_are_refused(checkpoint, tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        run(checkpoint, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{"model_file": ""}, {"input": ""}, {"top_k": 0}, {"batch_size": 0}])
def test_wrong_usage(checkpoint, pictures, tmp_path, options):
    given = {
        "model_file": checkpoint,
        "input": pictures,
        "output_dir": tmp_path / "out",
        "device_target": "CPU",
        **options,
    }
    with pytest.raises(UsageError, match=next(iter(options))):
        infer.main([f"--{key}={value}" for key, value in given.items()])


def test_exit_status_of_a_missing_option(tmp_path):
    result = program("infer.py", "--model_file", "m.onnx", cwd=tmp_path)
    assert result.returncode == 2 and "error: --input is missing" in result.stderr


def test_folders_in_use_are_not_moved_aside(checkpoint, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    for out in (".", "..", pictures, pictures / "temple", checkpoint.parent, Path(infer.__file__).parent, "file"):
        with pytest.raises(UsageError, match="output_dir"):
            run(checkpoint, pictures, Path(out))
    assert (tmp_path / "file").read_text() == "kept"


def test_batch_size_of_an_export_cannot_be_changed(exported, pictures, tmp_path):
    with pytest.raises(UsageError, match="--batch_size 2 contradicts .*, which was made for 3"):
        run(exported["mindir"], pictures, tmp_path / "out", "--batch_size", "2")


def test_onnx_needs_no_device(exported, pictures, tmp_path, monkeypatch):
    def refuse(config):
        raise AssertionError("a device was asked for")

    monkeypatch.setattr(infer.device_adapter, "init", refuse)
    options = {"model_file": exported["onnx"], "input": pictures / "temple" / "1.jpg", "output_dir": tmp_path / "out"}
    infer.main([f"--{key}={value}" for key, value in options.items()])  # device_target is Ascend by default
    assert len(results(tmp_path / "out")) == 1


def test_outputs_that_are_not_finite_are_refused(pictures):
    def model(images):
        return (np.full((len(images), 3), np.nan, np.float32),)

    operators = eval_transforms(input_spec(read_config(SIZE, "")))
    with pytest.raises(DataError, match="not finite"):
        list(infer.classify(model, operators, [pictures / "temple" / "1.jpg"], 1, {}))


def test_dry_run_writes_nothing(checkpoint, pictures, tmp_path, capsys):
    options = {"model_file": checkpoint, "input": pictures, "output_dir": tmp_path / "out", "device_target": "CPU"}
    infer.main([*(f"--{key}={value}" for key, value in options.items()), "--dry_run"])
    assert "none of the 5 picture(s) was classified" in capsys.readouterr().out and not list(tmp_path.iterdir())

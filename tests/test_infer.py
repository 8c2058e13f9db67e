"""infer.py: the same logits as evaluation and as every format of the model, its files, and what it refuses."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from model_utils.checkpoint import save
from model_utils.classification import annotate as annotating
from model_utils.classification import infer
from model_utils.classification.annotate import annotate, readable_size
from model_utils.classification.evaluation import evaluate
from model_utils.classification.transforms import eval_transforms
from model_utils.device_adapter import Device
from model_utils.errors import DataError, UsageError
from model_utils.inference import description, load_network, predict
from toy.model import MODEL
from toy.programs import run_export, run_infer, run_label_list, run_postprocess
from toy_runs import command_line, start

import cv2
import mindspore as ms
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

pytestmark = pytest.mark.usefixtures("programs")
CPU = Device("CPU", 0)
NAMES = ["flower", "temple", "a name that is far too long for the width of the picture, " * 2]  # of five classes
SIZE = {"image_height": 32, "image_width": 32, "num_classes": 5}
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Random weights at 32 pixels, five classes of which three have names; outputs differ from picture to picture."""
    config = read(**SIZE)
    network, random = MODEL.build_network(MODEL.describe_network(config)), np.random.RandomState(5)
    for parameter in network.trainable_params():
        parameter.set_data(ms.Tensor(random.standard_normal(parameter.shape), ms.float32))
    path = tmp_path_factory.mktemp("model") / "five.ckpt"
    save(path, network.parameters_dict(), description(MODEL, config, NAMES))
    return path


@pytest.fixture(scope="module")
def exported(programs, checkpoint) -> dict[str, Path]:
    """The checkpoint as MINDIR with batch 3 and as ONNX with batch 1."""
    options = {"checkpoint_path": checkpoint, "file_name": checkpoint.with_suffix("")}
    for file_format, batch_size in (("MINDIR", 3), ("ONNX", 1)):
        run_export(command_line(**options, file_format=file_format, batch_size=batch_size))
    return {ending: checkpoint.with_suffix(f".{ending}") for ending in ("mindir", "onnx")}


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    return [Image.fromarray(picture).resize((80, 54)) for picture in load_sample_images().images]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, photographs) -> Path:
    """Class folders with five sound pictures; two share their name."""
    root = tmp_path_factory.mktemp("pictures")
    temple, flower = photographs
    for name, picture in {
        "flower/1.jpg": flower,
        "flower/2.x.png": flower.crop((10, 5, 50, 45)),
        "temple/1.jpg": temple,
        "temple/3.bmp": temple.rotate(90, expand=True),
        "temple/4.JPG": temple.convert("L"),
    }.items():
        (root / name).parent.mkdir(exist_ok=True)
        picture.save(root / name)
    return root


def read(**options):
    return MODEL.read_config(command_line(**options), "")


def run(model: Path, source, out: Path, **options) -> dict:
    run_infer(command_line(model_file=model, input=source, output_dir=out, **options))
    return json.loads((out / "predictions.json").read_text(encoding="utf-8"))


def results(out: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.fromfile(path, np.float32) for path in sorted((out / "result_Files").iterdir())}


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


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
    config = read(**SIZE, val_data_dir=folder.parent, batch_size=4, num_parallel_workers=1)
    network, _ = load_network(MODEL, checkpoint, config)
    batches = MODEL.create_dataset(config, "val", CPU, ["temple"])
    inputs = [images for images, _ in batches.create_tuple_iterator(num_epochs=1, output_numpy=True)]
    logits = np.concatenate([predict(network, images, 4)[0] for images in inputs])
    files, operators = sorted(folder.iterdir()), eval_transforms(MODEL.input_spec(config))
    for file, expected in zip(files, np.concatenate(inputs)):
        np.testing.assert_array_equal(infer.to_input(infer.read_picture(file), operators), expected, err_msg=file.name)
    run(checkpoint, folder, tmp_path / "out", batch_size=4)
    found = results(tmp_path / "out")
    assert list(found) == [file.stem for file in files] and len(files) == len(logits) == 11
    np.testing.assert_allclose(np.stack(list(found.values())), logits, atol=TOLERANCE, rtol=TOLERANCE)
    assert np.ptp(logits, axis=0).max() > 0.01  # the pictures are told apart


def test_exported_models_equal_the_checkpoint(checkpoint, exported, pictures, tmp_path, monkeypatch):
    """Five pictures: the second batch of three is padded. ONNX needs no device."""
    run(checkpoint, pictures, tmp_path / "ckpt")
    run(exported["mindir"], pictures, tmp_path / "mindir", batch_size=3)
    with pytest.raises(UsageError, match="--batch_size 2 contradicts .*, which was made for 3"):
        run(exported["mindir"], pictures, tmp_path / "out", batch_size=2)
    monkeypatch.setattr(infer.device_adapter, "init", lambda *_, **__: pytest.fail("a device was asked for"))
    run(exported["onnx"], pictures, tmp_path / "onnx", device_target="Ascend")
    expected = results(tmp_path / "ckpt")
    for found in (results(tmp_path / "mindir"), results(tmp_path / "onnx")):
        assert found.keys() == expected.keys() and len(found) == 5
        for name, logits in expected.items():
            np.testing.assert_allclose(found[name], logits, atol=1e-4, rtol=1e-4, err_msg=name)


def test_the_model_gets_whole_batches_only(pictures):
    shapes, findings = [], {}

    def model(images):
        shapes.append(images.shape)
        return (images.mean((2, 3)),)

    first, other, absent = pictures / "temple/1.jpg", pictures / "temple/3.bmp", Path("absent")
    operators = eval_transforms(MODEL.input_spec(read()))
    found = list(infer.classify(model, operators, [first, absent, other, first], 2, findings))
    assert shapes == [(2, 3, 16, 16)] * 2 and [index for index, _, _ in found] == [0, 2, 3]
    np.testing.assert_array_equal(found[0][2], found[2][2])
    assert {path: finding.fault for path, finding in findings.items() if finding.fault} == {
        absent: "no such file or directory"
    }
    with pytest.raises(DataError, match="not finite"):
        list(infer.classify(lambda images: (np.nan * images[:, 0, 0],), operators, [first], 1, {}))


def test_label_list_and_postprocess_equal_evaluation(checkpoint, pictures, tmp_path, capsys):
    """The three programs one after the other give what the evaluation gives."""
    label_file = tmp_path / "label.txt"
    run(checkpoint, pictures, tmp_path / "out")
    run_label_list(command_line(input=pictures, label_file=label_file, model_file=checkpoint))
    capsys.readouterr()
    run_postprocess(command_line(result_path=tmp_path / "out/result_Files", label_file=label_file))
    config = read(**SIZE, val_data_dir=pictures, batch_size=2, num_parallel_workers=1)
    network, _ = load_network(MODEL, checkpoint, config)
    metrics = evaluate(network, MODEL.create_dataset(config, "val", CPU, NAMES), 2, 5, CPU).accuracies()
    top_1, top_5 = (f"{100 * metrics[f'top_{k}_accuracy']:.2f}%" for k in (1, 5))
    assert f"'top_1_accuracy': {top_1}, 'top_5_accuracy': {top_5}\ntotal=5, " in capsys.readouterr().out


# ---- Files and console -----------------------------------------------------------------------------------------------


def test_files_of_a_run(checkpoint, pictures, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    content = run(checkpoint, pictures, out, top_k=4)
    files = ["flower/1.jpg", "flower/2.x.png", "temple/1.jpg", "temple/3.bmp", "temple/4.JPG"]
    stems = ["flower__1", "2.x", "temple__1", "3", "4"]
    annotated = [f"annotated/{Path(file).with_suffix('.png').as_posix()}" for file in files]
    assert tree(out) == sorted(["predictions.json", *annotated, *(f"result_Files/{stem}.bin" for stem in stems)])
    assert content["model"] == str(checkpoint)
    assert content["network"]["num_classes"] == 5 and content["input"]["height"] == 32
    assert [prediction["file"] for prediction in content["predictions"]] == [str(pictures / file) for file in files]
    for stem, prediction in zip(stems, content["predictions"]):
        logits, top = results(out)[stem], prediction["top"]
        scores, order = np.exp(logits) / np.exp(logits).sum(), np.argsort(-logits)[:4]
        assert [entry["class_index"] for entry in top] == order.tolist()
        np.testing.assert_allclose([entry["score"] for entry in top], scores[order], rtol=1e-4, atol=1e-30)
        assert [entry["class_name"] for entry in top] == [[*NAMES, "class 3", "class 4"][index] for index in order]
    table = infer.table(str(pictures / files[0]), content["predictions"][0]["top"])
    assert f"{table}\n" in capsys.readouterr().out


def test_pictures_of_16_bits_and_too_large_ones(checkpoint, photographs, tmp_path, capsys):
    source = tmp_path / "in"
    source.mkdir()
    deep = np.linspace(0, 4095, 40 * 40).reshape(40, 40).astype(np.uint16)
    Image.fromarray(deep).save(source / "deep.png")
    photographs[0].resize((100, 100)).save(source / "large.png")
    photographs[0].resize((30, 30)).save(source / "small.png")
    os.mkfifo(source / "pipe.png")
    with pytest.raises(DataError, match="2 of 4 picture.s. could not be read") as caught:
        run(checkpoint, source, tmp_path / "out", max_pixels=1600)
    assert "large.png: its header says 100 x 100 pixels, more than max_pixels=1600" in str(caught.value)
    assert "pipe.png: it is a named pipe" in str(caught.value) and sorted(results(tmp_path / "out")) == [
        "deep",
        "small",
    ]
    assert "1 of 4 pictures have 16 bits a channel" in capsys.readouterr().out
    with pytest.raises(UsageError, match="max_pixels=-1"):
        run(checkpoint, source, tmp_path / "other", max_pixels=-1)
    with pytest.raises(DataError, match="input=.*pipe.png is a named pipe"):
        run(checkpoint, source / "pipe.png", tmp_path / "other")


def test_a_full_disk_names_the_file(checkpoint, pictures, tmp_path, monkeypatch):
    """What was written before is whole, and nothing is written by half."""
    original, room = Path.write_bytes, [3]

    def write_bytes(path, content):
        room[0] -= 1
        if room[0] < 0 and path.name != ".json":
            original(path, content[: len(content) // 2])
            raise OSError(28, "No space left on device", str(path))
        return original(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(
        DataError, match="(annotated/.*png|predictions.json) cannot be written: no space left on device"
    ):
        run(checkpoint, pictures, tmp_path / "out", batch_size=2)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == 3 and not any(path.name.startswith(".") for path in files)


def test_an_earlier_output_stays_where_the_run_is_refused(checkpoint, pictures, exported, tmp_path):
    earlier = tmp_path / "out"
    run(checkpoint, pictures / "temple" / "1.jpg", earlier)
    before = tree(tmp_path)
    names = [*(tmp_path / "in" / ("x" * 120) / ("y" * 120) / f"{n}.png" for n in (1, 2)),
             *(tmp_path / "in" / ("z" * 120) / ("y" * 120) / f"{n}.png" for n in (1, 2))]  # fmt: skip
    for options in ({"top_k": 0}, {"max_pixels": -1}, {"source": "absent"}, {"model": "absent.onnx"},
                    {"num_classes": 7}, {"image_height": 20}):  # fmt: skip
        with pytest.raises((UsageError, DataError)):
            given = {"source": pictures, "model": checkpoint, **options}
            run(given.pop("model"), given.pop("source"), earlier, **given)
        assert tree(tmp_path) == before, options
    for name in names:
        name.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20)).save(name)
    with pytest.raises(DataError, match="would have a name of more than 240 bytes; rename it"):
        run(checkpoint, tmp_path / "in", earlier)
    assert [path for path in tree(tmp_path) if "/in/" not in f"/{path}"] == before


def test_table_is_aligned():
    top = [{"class_name": "cat", "score": 0.75}, {"class_name": "tiger", "score": 0.25}]
    assert infer.table("a.jpg", top) == "a.jpg\n    1  cat    0.7500\n    2  tiger  0.2500"


def test_scores_of_large_and_equal_logits():
    top = infer.top_classes(np.array([1e4, 0, 1e4], np.float32), 9, None)
    assert [(entry["class_index"], entry["score"]) for entry in top] == [(0, 0.5), (2, 0.5), (1, 0.0)]


def test_same_stem_keeps_every_result(checkpoint, photographs, tmp_path):
    photographs[0].save(tmp_path / "a.jpg"), photographs[1].save(tmp_path / "a.png")
    run(checkpoint, tmp_path, tmp_path / "out")
    assert tree(tmp_path / "out" / "annotated") == ["a.jpg.png", "a.png.png"]
    assert list(results(tmp_path / "out")) == ["a.jpg", "a.png"]


def test_old_results_are_kept_and_not_classified(checkpoint, photographs, tmp_path):
    out = tmp_path / "out"
    photographs[0].save(tmp_path / "a.jpg")
    for _ in range(2):
        content = run(checkpoint, tmp_path, out)
        assert [prediction["file"] for prediction in content["predictions"]] == [str(tmp_path / "a.jpg")]
        (out / "mine.txt").write_text("kept")
    (aside,) = tmp_path.glob("out_*")
    assert {"mine.txt", "annotated/a.png"} <= set(tree(aside))


def test_interrupted_run_lists_what_it_has_written(checkpoint, pictures, tmp_path, monkeypatch):
    def interrupted(*arguments):
        yield next(classify(*arguments))
        raise KeyboardInterrupt

    classify = infer.classify
    monkeypatch.setattr(infer, "classify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, pictures, tmp_path)
    assert len(json.loads((tmp_path / "predictions.json").read_text())["predictions"]) == len(results(tmp_path)) == 1


# ---- Damaged pictures, and what is refused ---------------------------------------------------------------------------


def write_damaged(folder: Path, sound: bytes) -> list[str]:
    """Pictures whose names stand before that of the sound one, so that they could spoil it."""
    png = cv2.imencode(".png", cv2.imdecode(np.frombuffer(sound, np.uint8), cv2.IMREAD_COLOR))[1].tobytes()
    place = sound.index(b"\xff\xc0") + 5  # of the size in the header, which then promises 65535 x 65535 pixels
    contents = {
        "1_empty.jpg": b"", "2_text.jpg": b"no picture", "3_header.jpg": sound[:100],
        "4_half.jpg": sound[: len(sound) // 2], "5_end.jpg": sound[:-40], "6_half.png": png[: len(png) // 2],
        "7_end.png": png[:-6], "8_huge.jpg": sound[:place] + b"\xff" * 4 + sound[place + 4 :],
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return list(contents)


def test_damaged_pictures_are_named_and_the_others_classified(checkpoint, pictures, tmp_path, monkeypatch):
    """As a process: exit status 1. A name that is not UTF-8, on a console that shows ASCII only, is no damage."""
    source, other = tmp_path / "in", os.fsdecode(b"caf\xe9.jpg")
    source.mkdir()
    sound = (pictures / "temple" / "1.jpg").read_bytes()
    damaged = write_damaged(source, sound)
    for name in ("9_sound.jpg", other):
        (source / name).write_bytes(sound)
    monkeypatch.chdir(tmp_path)
    options = command_line(model_file=checkpoint, input="in", output_dir="out", batch_size=2)
    process = start("infer", *options, PYTHONIOENCODING="ascii:strict")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in output, output
    assert f"{len(damaged)} of 10 picture(s) could not be read" in output
    assert all(re.search(rf"in/{name}: \w.+", output) for name in damaged)
    assert "in/2_text.jpg: not one of JPEG" in output and "in/1_empty.jpg: empty file" in output
    run(checkpoint, pictures / "temple" / "1.jpg", tmp_path / "alone", batch_size=2)
    (alone,), found = results(tmp_path / "alone").values(), results(tmp_path / "out")
    assert set(found) == {"9_sound", other[:-4]}
    for logits in found.values():
        np.testing.assert_allclose(logits, alone, atol=TOLERANCE, rtol=TOLERANCE)
    files = [row["file"] for row in json.loads((tmp_path / "out/predictions.json").read_text())["predictions"]]
    assert len(files) == 2 and all(Path(file).is_file() for file in files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "in", "out"]  # nothing written elsewhere
    assert len(tree(source)) == 10


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"model_file": ""}, UsageError, "--model_file is missing"),
        ({"input": ""}, UsageError, "--input is missing"),
        ({"top_k": 0}, UsageError, "top_k=0: 1 or more"),
        ({"batch_size": 0}, UsageError, "batch_size=0: 1 or more"),
        ({"input": "absent.jpg"}, DataError, "does not exist"),
        ({"model_file": "absent.onnx"}, DataError, "absent.onnx is not a file"),
        ({"num_classes": 7}, UsageError, "--num_classes 7 contradicts"),
    ],
)
def test_refusals(checkpoint, pictures, tmp_path, monkeypatch, options, error, message):
    monkeypatch.chdir(tmp_path)
    given = {"model_file": checkpoint, "input": pictures, "output_dir": "out", **options}
    with pytest.raises(error, match=message):
        run_infer(command_line(**given))
    assert not list(tmp_path.iterdir())


def test_folders_of_the_pictures_and_the_model_are_not_moved_aside(checkpoint, pictures):
    for out in (pictures / "temple", checkpoint.parent):
        with pytest.raises(UsageError, match="output_dir=.* holds"):
            run(checkpoint, pictures, out)


def test_dry_run_writes_nothing(checkpoint, pictures, tmp_path, capsys):
    run_infer(command_line(model_file=checkpoint, input=pictures, output_dir=tmp_path / "out", dry_run=True))
    assert "none of the 5 picture(s) was classified" in capsys.readouterr().out and not list(tmp_path.iterdir())


# ---- Pictures with their classes below them --------------------------------------------------------------------------

GREY = (90, 120, 90)


def picture(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def entries(**scores: float) -> list[dict]:
    return [{"class_name": name, "score": score} for name, score in scores.items()]


@pytest.mark.parametrize(
    "size, shown",
    [((32, 32), (320, 320)), ((7, 300), (14, 600)), ((3000, 1500), (1280, 640)), ((640, 480), (640, 480)),
     ((1, 5000), (1, 1280)), ((320, 1), (320, 1))],
)  # fmt: skip
def test_readable_size(size, shown):
    """Small pictures are enlarged by a whole factor, which keeps their pixels sharp; large ones get smaller."""
    values = picture(*size)
    values[0, 0] = (255, 0, 0)
    found, factor = readable_size(values), shown[0] // size[0]
    assert found.size == shown
    if factor > 1:
        assert (np.asarray(found)[:factor, :factor] == (255, 0, 0)).all() and found.getpixel((factor, factor)) == GREY


@pytest.mark.parametrize("size, width", [((32, 32), 320), ((100, 30), 400), ((7, 300), 320), ((3000, 1500), 1280)])
def test_text_is_on_the_picture(size, width):
    """Name and score of each class, nothing at the edges, the picture above in the middle."""
    shown = readable_size(picture(*size))
    canvas = annotate(shown, entries(flower=0.9, temple=0.1, **{NAMES[2]: 0.0}))
    assert canvas.width == width and canvas.height >= shown.height + 3 * 14
    assert canvas.getpixel((canvas.width // 2, shown.height // 2)) == GREY
    text = np.asarray(canvas)[shown.height :, :, :].min(axis=2) > 200
    assert text[:, : canvas.width // 2].any() and text[:, -canvas.width // 4 :].any()
    assert not text[:, :5].any() and not text[:, -5:].any()


def colours(canvas, colour) -> np.ndarray:
    """Where a canvas below a picture of 320 pixels has this colour."""
    return (np.asarray(canvas)[320:] == colour).all(axis=2)


def test_bars_and_rows():
    """As long as the score; the first one has a colour of its own; no more than five classes are written."""
    shown = readable_size(picture(320, 320))
    short, long = (annotate(shown, entries(**{"": score, "b": 0.5})) for score in (0.25, 0.75))
    lengths = [colours(canvas, annotating.FIRST_BAR).any(axis=0).sum() for canvas in (short, long)]
    assert lengths[1] - lengths[0] == pytest.approx(0.5 * (320 - 28), abs=2)
    first, other = (colours(long, bar).any(axis=1).nonzero()[0] for bar in (annotating.FIRST_BAR, annotating.OTHER_BAR))
    assert first.max() < other.min()
    heights = [annotate(shown, entries(**dict.fromkeys("123456789"[:count], 0.1))).height for count in (1, 4, 5, 9)]
    assert heights[0] < heights[1] < heights[2] == heights[3]


def test_long_names_are_shortened():
    """The longest text that fits; a name that fits stays whole."""
    for name, width, wanted in (("12345678", 8, "12345678"), ("123456789", 8, "12345..."), ("123456789", 0, "...")):
        assert annotating._shortened(name, lambda text, width=width: len(text) <= width) == wanted

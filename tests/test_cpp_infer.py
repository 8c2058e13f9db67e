"""The C++ application of utils/cpp_infer and its launchers, built against a stand-in for MindSpore Lite.

The stand-in's models are text files which make it return known numbers: their own input, or a one at the class that the
brightness of a picture gives. Pictures are BMP files, which a stand-in for OpenCV decodes, whatever their names end in.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from model_utils.classification.infer import read_picture, to_input
from model_utils.classification.transforms import eval_transforms
from model_utils.picture_files import find_pictures, result_names

import cv2
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
STAND_IN = ROOT / "tests/cpp_infer_stand_in"
SOURCE = ROOT / "utils/cpp_infer"
CLASSIFIERS = ("tinydarknet", "darknet53", "cspdarknet53", "tinynet")
# CMake may come from the same environment as this interpreter (pip install cmake), which need not be activated.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
COMPILER = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
PLAIN = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
CLASSES = 10

for name, found in (
    ("C++ compiler", COMPILER),
    ("CMake", shutil.which("cmake", path=PATH)),
    ("make", shutil.which("make")),
):
    if not found:
        pytest.skip(f"the C++ application cannot be built here: no {name}", allow_module_level=True)

# ---- Fixtures --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lite_home(tmp_path_factory) -> Path:
    """The stand-in in the layout of MindSpore Lite's package."""
    home = tmp_path_factory.mktemp("lite") / "mindspore lite"  # the space is on purpose
    (home / "runtime/lib").mkdir(parents=True)
    shutil.copytree(STAND_IN / "include", home / "runtime/include")
    library = home / "runtime/lib/libmindspore-lite.so"
    flags = ["-std=c++17", "-Wall", "-Wextra", "-O1", "-shared", "-fPIC", f"-I{STAND_IN}"]
    subprocess.run([COMPILER, *flags, STAND_IN / "mindspore_lite.cc", "-o", library], check=True)
    return home


@pytest.fixture(scope="module")
def app_dir(lite_home, tmp_path_factory) -> Path:
    """A copy of the application's folder in which it has been built."""
    folder = tmp_path_factory.mktemp("application") / "ascend310_infer"
    shutil.copytree(SOURCE, folder)
    built = build(folder, lite_home, f"-DIMAGE_SOURCE={STAND_IN / 'image_bmp.cc'}", "-DCMAKE_CXX_FLAGS=-Werror")
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def build(folder: Path, lite_home: Path | str, *options: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PATH": PATH, "LITE_HOME": str(lite_home)}
    command = ["bash", folder / "build.sh", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def app(app_dir, tmp_path):
    """Runs the application in tmp_path/run on the folder tmp_path/data; both exist already."""
    for name in ("run", "data"):
        (tmp_path / name).mkdir()

    def run(model: str, *flags: str, status: int = 0, spec: dict | None = None, **options) -> str:
        """What it writes to stderr, when it ends with this status."""
        mindir = tmp_path / "model.mindir"
        mindir.write_text(model)
        command = [app_dir / "out/main", "--mindir_path", mindir, "--dataset_path", tmp_path / "data"]
        command += [*spec_flags(spec or small_spec()), *flags]
        done = subprocess.run(command, cwd=tmp_path / "run", capture_output=True, text=True, timeout=120, **options)
        assert done.returncode == status, done.stderr
        return done.stderr

    return run


def small_spec(size: int = 8, **changes) -> dict:
    sides = {"height": size, "width": size, "resize": "shorter_side", "crop_ratio": 1.0, "interpolation": "bilinear"}
    return {**sides, **PLAIN, **changes}


def spec_flags(spec: dict) -> list[str]:
    values = {key: ",".join(map(repr, value)) if isinstance(value, list) else value for key, value in spec.items()}
    return [f"--{key}={value}" for key, value in values.items()]


def model_text(*outputs: str, batch: int = 1, size: int = 8) -> str:
    lines = ["stand-in model", f"input {batch} 3 {size} {size}", *(f"output {output}" for output in outputs)]
    return "\n".join(lines) + "\n"


def save(path: Path, pixels: np.ndarray | int) -> Path:
    """A BMP file, whatever its name ends in; a number is the brightness of a small grey picture."""
    if isinstance(pixels, int):
        pixels = np.full((9, 11, 3), pixels, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="BMP")
    return path


def results(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.fromfile(path, "<f4") for path in sorted((folder / "result_Files").iterdir())}


def photographs() -> dict[str, np.ndarray]:
    """Real photographs and digits, in sizes that are enlarged, shrunk, halved exactly, and narrow."""
    from sklearn.datasets import load_digits, load_sample_images

    china, flower = load_sample_images().images
    cuts = {"flower": flower[:, 100:401], "detail": china[100:197, 200:331], "narrow": flower[:200, :23]}
    return {
        "china": china,
        "halved": cv2.resize(flower, (512, 512), interpolation=cv2.INTER_CUBIC),
        "digit": (load_digits().images[7] * 15.9).astype(np.uint8).repeat(3).reshape(8, 8, 3),
        **{name: np.ascontiguousarray(pixels) for name, pixels in {**cuts, "tiny": china[:3, :5]}.items()},
    }


# ---- Preprocessing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "batch"),
    [
        ({"crop_ratio": 0.875}, 1),
        ({"crop_ratio": 0.875, "interpolation": "bicubic"}, 3),
        ({"crop_ratio": 0.97, "interpolation": "nearest"}, 4),
        ({"resize": "both_sides"}, 7),
    ],
)
def test_the_input_is_that_of_the_evaluation(app, tmp_path, changes, batch):
    places = [save(tmp_path / f"data/{name}.bmp", pixels) for name, pixels in photographs().items()]
    spec = small_spec(224, mean=MEAN, std=STD, **changes)
    operators = eval_transforms(spec)
    app(model_text("echo", batch=batch, size=224), spec=spec)
    found = results(tmp_path / "run")
    assert sorted(found) == sorted(f"{path.stem}.bin" for path in places)
    for path in places:
        expected = to_input(read_picture(path), operators)
        difference = np.abs(found[f"{path.stem}.bin"].reshape(3, 224, 224) - expected) * np.reshape(STD, (3, 1, 1))
        assert difference.mean() < 1 / 255 / 10, path
        assert difference.max() < 1.01 / 255, path


@pytest.mark.parametrize(("interpolation", "method"), [("bilinear", cv2.INTER_LINEAR), ("nearest", cv2.INTER_NEAREST)])
def test_a_letterbox_is_grey_and_centred(app, tmp_path, interpolation, method):
    pictures = photographs()
    for key, pixels in pictures.items():
        save(tmp_path / f"data/{key}.bmp", pixels)
    spec = small_spec(224, height=160, resize="letterbox", interpolation=interpolation, mean=MEAN, std=STD)
    app(model_text("echo", batch=2).replace("8 8", "160 224"), spec=spec)
    found = results(tmp_path / "run")
    for key, pixels in pictures.items():
        height, width = pixels.shape[:2]
        scale = min(160 / height, 224 / width)
        size = round(width * scale), round(height * scale)
        expected = np.full((160, 224, 3), 128, np.float64)
        left, top = (224 - size[0]) // 2, (160 - size[1]) // 2
        inner = cv2.resize(pixels, size, interpolation=method)
        expected[top : top + size[1], left : left + size[0]] = inner
        pixels_back = found[f"{key}.bin"].reshape(3, 160, 224).transpose(1, 2, 0) * STD + MEAN
        difference = np.abs(pixels_back * 255 - expected)
        assert difference.mean() < 0.1 and difference.max() < 1.01, key


# ---- Files and names -------------------------------------------------------------------------------------------------

TREE = (
    "a.b.jpg a.c.jpg cat/1.jpg dog/1.jpg dog/1.PNG Upper.JPEG upper.Bmp cat__1.tiff deep/er/x.tif deep/x.jpeg "
    "cat/own.jpg .hidden/y.jpg .z.jpg old/annotated/q.jpg old/result_Files/w.jpg old/r.jpg notes.txt "
    "@eaDir/v.jpg cat/@eaDir/v.jpg __MACOSX/u.jpg cat/._1.jpg Thumbs.db/t.jpg"
).split()


def test_results_have_the_names_that_infer_gives_them(app, tmp_path):
    for brightness, name in enumerate(TREE):
        save(tmp_path / "data" / name, brightness)
    _, files = find_pictures(str(tmp_path / "data"))
    assert len(files) == len(TREE) - 11, (
        "hidden and system files, earlier results of infer.py and other files are left out"
    )
    app(model_text("echo", batch=2))
    places = [TREE.index(str(file)) for file in files]
    expected = {f"{name}.bin": place / 255 for name, place in zip(result_names(files), places)}
    found = results(tmp_path / "run")
    assert {name: pytest.approx(float(values.mean())) for name, values in found.items()} == expected


def test_a_batch_may_be_short_and_outputs_many(app, tmp_path):
    for place in range(5):
        save(tmp_path / f"data/{place}.jpg", 25 * place + 10)
    app(model_text("grey 10", "half 4", "echo", batch=2))
    found = results(tmp_path / "run")
    assert sorted(found) == sorted(f"{place}_{output}.bin" for place in range(5) for output in range(3))
    for place in range(5):
        brightness = (25 * place + 10) / 255
        assert found[f"{place}_0.bin"].tolist() == [float(k == int(10 * brightness)) for k in range(10)]
        assert found[f"{place}_1.bin"].tolist() == [-2.5 * (k == int(4 * brightness)) for k in range(4)]
        assert found[f"{place}_2.bin"] == pytest.approx(np.full(192, brightness))
    lines = (tmp_path / "run/time_Result/test_perform_static.txt").read_text().splitlines()
    assert re.fullmatch(r"NN inference cost average time: [\d.e-]+ ms of infer_count 3", lines[0])
    assert lines[1].startswith("batch size 2, 5 pictures, ")


def test_folders_are_closed_and_links_followed_once(app, tmp_path):
    for place in range(60):
        save(tmp_path / f"data/{place}/{place}.bmp", place)
    (tmp_path / "data/7/back").symlink_to(tmp_path / "data")
    app(model_text("echo"), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24)))
    assert len(results(tmp_path / "run")) == 60


def test_pictures_that_no_name_tells_apart_are_refused(app, tmp_path):
    for name in ("a/b__1.jpg", "a__b/1.jpg", "c/1.jpg", "c/b__1.jpg"):
        save(tmp_path / "data" / name, 1)
    errors = app(model_text("echo"), status=1)
    assert "a/b__1.jpg and a__b/1.jpg would have the same name, a__b__1.jpg; rename one of the two" in errors
    assert not (tmp_path / "run/result_Files").exists()


def broken_files(folder: Path) -> dict[str, str]:
    """Files that are no sound pictures, and what is said of each; the end of a preview is not that of the picture."""
    jpeg = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    preview = b"\xff\xe1" + (len(jpeg) + 2).to_bytes(2, "big") + jpeg
    files = {
        "cut.jpg": (jpeg[:-20], "truncated JPEG file"),
        "cut_after_preview.jpg": (jpeg[:2] + preview + jpeg[2:-2], "truncated JPEG file"),
        "empty.png": (b"", "empty file"),
        "gif.jpg": (b"GIF89a\x01\x00\x01\x00", "not a JPEG, PNG, BMP or TIFF file"),
        "half.bmp": (save(folder / "whole.bmp", 200).read_bytes()[:-20], "cannot be decoded"),
        # by the stand-in, which does not know JPEG:
        "preview.jpg": (jpeg[:2] + preview + jpeg[2:] + b"more", "cannot be decoded"),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    (folder / "link.bmp").symlink_to(folder / "gone.bmp")
    os.mkfifo(folder / "pipe.jpg")
    save(folder / "long.bmp", np.zeros((9000, 1, 3), np.uint8))
    reasons = {name: reason for name, (_, reason) in files.items()}
    too_long = "of 1 x 9000 pixels, cannot be resized to 224 x 2016000"
    return {**reasons, "link.bmp": "No such file or directory", "long.bmp": too_long, "pipe.jpg": "not a regular file"}


def test_broken_pictures_are_reported_and_the_others_done(app, tmp_path):
    data = tmp_path / "data"
    broken = broken_files(data)
    save(data / "sub/good.jpg", 100)
    lines = app(model_text("grey 3", batch=4, size=224), spec=small_spec(224), status=1).splitlines()
    assert sorted(results(tmp_path / "run")) == ["good.bin", "whole.bin"]
    assert lines[0] == "error: 9 of 11 pictures could not be read and have no result:"
    assert lines[1:] == [f"    {data / name}: {reason}" for name, reason in sorted(broken.items())]
    assert "of infer_count 1\n" in (tmp_path / "run/time_Result/test_perform_static.txt").read_text()


def test_without_a_sound_picture_there_is_no_timing(app, tmp_path):
    assert "data holds no picture" in app(model_text("echo"), status=1)
    (tmp_path / "data/empty.jpg").write_bytes(b"")
    assert "1 of 1 pictures could not be read" in app(model_text("echo"), status=1)
    assert not list((tmp_path / "run/time_Result").iterdir())


def test_results_that_are_in_the_way_or_cannot_be_written_end_the_run(app, tmp_path):
    save(tmp_path / "data/a.bmp", 1)

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    (tmp_path / "file").write_text("")
    assert "result_Files cannot be made" in app(model_text("echo"), f"--output_dir={tmp_path / 'file'}", status=1)
    assert "a.bin cannot be written" in app(model_text("echo"), status=1, preexec_fn=limit)
    shutil.rmtree(tmp_path / "run/result_Files")
    app(model_text("echo"))
    assert "result_Files holds results already; move them away" in app(model_text("echo"), status=1)


# ---- Models, options and the build -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("no model", "cannot be loaded: MindSpore Lite reports the file is damaged (code 4294967286)"),
        ("stand-in model\noutput echo\n", "has 0 inputs; one is expected"),
        (model_text("echo") + "input 1 3 8 8\n", "has 2 inputs; one is expected"),
        (model_text("echo").replace("input 1", "input -1"), "an input of shape (-1, 3, 8, 8)"),
        (model_text("echo").replace("1 3 8 8", "1 8 8 3"), "an input of shape (1, 8, 8, 3)"),
        (model_text("echo", size=9), "takes 9 x 9 pixels (height x width), its description says 8 x 8"),
        (model_text("echo") + "fail predict\n", "a batch cannot be computed: MindSpore Lite reports the device is lost"),
        (model_text("echo") + "no data\n", "an output of the model cannot be read from the device"),
        (model_text("grey 5", batch=3) + "short batch\n", "an output of shape (2, 5) for a batch of 3 pictures"),
        (model_text(), "the model returned no output"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_work_is_an_error(app, tmp_path, model, message):
    save(tmp_path / "data/a.bmp", 1)
    assert message in app(model, status=1)
    assert not list(tmp_path.glob("run/*/*"))


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--mindir_path=/nowhere.mindir"], 1, "mindir_path=/nowhere.mindir cannot be opened"),
        (["--dataset_path", "/nowhere"], 1, "dataset_path=/nowhere is not a folder"),
        (["--batch", "1"], 2, "unknown option --batch"),
        (["file"], 2, "unexpected argument file"),
        (["--device_id"], 2, "--device_id needs a value"),
        (["--device_id", "-1"], 2, "--device_id -1: a whole number from 0 to 65536 is accepted"),
        (["--device_target", "GPU"], 2, "--device_target GPU: one of Ascend, CPU is accepted"),
        (["--height=8.5"], 2, "--height 8.5: a whole number"),
        (["--width=10"], 2, "--resize shorter_side needs equal --height and --width"),
        (["--crop_ratio=0"], 2, "--crop_ratio 0: above 0 and up to 1 is accepted"),
        (["--mean=1,2"], 2, "--mean 1,2: three numbers with commas between them are accepted"),
        (["--std=1,x,2"], 2, "--std x: a number is accepted"),
        (["--std=1,0,2"], 2, "--std 1,0,2: numbers above 0 are accepted"),
        (["--interpolation="], 2, "--interpolation is missing"),
        (["--resize=crop"], 2, "--resize crop: one of both_sides, letterbox, shorter_side is accepted"),
    ],
)
def test_wrong_options(app, tmp_path, flags, status, message):
    save(tmp_path / "data/a.bmp", 1)
    assert app(model_text("echo"), *flags, status=status).startswith(f"error: {message}")


def test_the_build_says_what_is_missing(app_dir, lite_home, tmp_path):
    run = subprocess.run([app_dir / "out/main", "--help"], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.startswith("Usage: main --mindir_path FILE")
    folder = tmp_path / "copy"
    shutil.copytree(app_dir, folder)  # with a cache in which the stand-in for OpenCV was chosen
    for home, message in (("", "LITE_HOME is not set"), (tmp_path, "holds no runtime/lib/libmindspore-lite.so")):
        run = build(folder, home)
        assert run.returncode == 1 and "error: LITE_HOME" in run.stderr and message in run.stderr
    # Without the option the stand-in is gone, in a copied folder and in the folder itself.
    for place in (folder, app_dir):
        run = build(place, lite_home, "-DCMAKE_DISABLE_FIND_PACKAGE_OpenCV=ON")
        assert run.returncode != 0 and "OpenCV" in run.stderr and "image_bmp" not in run.stdout + run.stderr


def test_the_application_without_its_stand_ins(lite_home, tmp_path):
    """Built with OpenCV itself, where its files for C++ are installed, it reads JPEG and PNG files as Python does."""
    folder = tmp_path / "application"
    shutil.copytree(SOURCE, folder)
    options = os.environ.get("BUILD_OPTIONS", "").split()
    built = build(folder, lite_home, *options)
    if built.returncode != 0 and 'package configuration file provided by "OpenCV"' in built.stderr:
        pytest.skip("OpenCV's files for C++ are not installed")
    assert built.returncode == 0, built.stderr
    (tmp_path / "model.mindir").write_text(model_text("echo", size=224))
    pixels = photographs()["china"]
    (tmp_path / "data").mkdir()
    for ending in (".jpg", ".png", ".bmp"):
        (tmp_path / f"data/x{ending}").write_bytes(cv2.imencode(ending, pixels)[1].tobytes())
    grey = cv2.imencode(".png", pixels[:, :, 0].astype(np.uint16) * 257)[1].tobytes()
    (tmp_path / "data/grey.png").write_bytes(grey)
    (tmp_path / "data/cut.png").write_bytes(grey[: len(grey) // 2])
    flags = ["--mindir_path", "model.mindir", "--dataset_path", "data", "--device_target=CPU"]
    flags += spec_flags(small_spec(224, resize="both_sides"))
    run = subprocess.run([folder / "out/main", *flags], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1 and "1 of 5 pictures" in run.stderr and "cut.png: cannot be decoded" in run.stderr
    for name, values in results(tmp_path).items():
        file = {"grey.bin": "grey.png"}.get(name, name.removesuffix(".bin"))
        picture = cv2.imread(str(tmp_path / "data" / file), cv2.IMREAD_COLOR)[:, :, ::-1]
        expected = cv2.resize(picture, (224, 224)).transpose(2, 0, 1).astype(np.float32) / 255
        difference = np.abs(values.reshape(3, 224, 224) - expected)
        assert difference.max() < 3.01 / 255 and difference.mean() < 1 / 255, name


# ---- Launchers -------------------------------------------------------------------------------------------------------


class Bench:
    """A copy of a model's folder whose application is the one of all tests, a data set, and a current directory."""

    def __init__(self, root: Path, name: str, app_dir: Path, lite_home: Path):
        self.name, self.folder, self.cwd, self.data = name, root / name, root / "a place", root / "data set"
        ignored = shutil.ignore_patterns("tests", "ascend310_infer", "data", "__pycache__", "*.ckpt")
        shutil.copytree(ROOT / name, self.folder, ignore=ignored)
        (self.folder / "ascend310_infer").symlink_to(app_dir)
        self.cwd.mkdir()
        self.mindir, self.labels, self.devices = root / "model.mindir", root / "label.txt", root / "devices.txt"
        self.mindir.write_text(model_text(f"grey {CLASSES}", batch=3, size=32))
        self.describe(small_spec(32))
        self.make_data()
        self.environment = {
            **os.environ,
            "PATH": PATH,
            "LITE_HOME": str(lite_home),
            "BUILD_OPTIONS": f"-DIMAGE_SOURCE={STAND_IN / 'image_bmp.cc'} -DCMAKE_CXX_FLAGS=-Werror",
            "PYTHON": sys.executable,
            "STAND_IN_DEVICES": str(self.devices),
            "GLOG_v": "3",
        }

    def describe(self, spec: dict) -> None:
        about = {"network": {"name": self.name, "num_classes": 10}, "input": spec, "class_names": None, "batch_size": 3}
        Path(f"{self.mindir}.json").write_text(json.dumps(about))

    def make_data(self) -> None:
        """Two pictures for each class, in the brightness of their class, except for three; ACCURACY is the result."""
        other = {(0, 0): 9, (8, 1): 0, (7, 0): 2}
        lines = []
        for label, number in itertools.product(range(CLASSES), range(2)):
            brightness = int(255 * (other.get((label, number), label) + 0.5) / CLASSES)
            save(self.data / f"class{label}/picture.{label}_{number}.JPEG", brightness)
            lines.append(f"picture.{label}_{number}:{label}\n")
        self.labels.write_text("".join(lines))

    def arguments(self, *device: str, dvpp: str = "cpu") -> list[str]:
        labels = [] if self.name == "cspdarknet53" else [str(self.labels)]
        return [str(self.mindir), str(self.data), *labels, *[dvpp] * (self.name == "tinydarknet"), *device]

    def run(self, launcher: str, *arguments: str, status: int = 0, **environment: str) -> subprocess.CompletedProcess:
        run = subprocess.run(
            ["bash", self.folder / "scripts" / launcher, *arguments],
            cwd=self.cwd, env={**self.environment, **environment}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert run.returncode == status, run.stdout + run.stderr
        return run

    def refused(self, *arguments: str, launcher: str = "run_infer_310.sh", **environment: str) -> str:
        """What the launcher says, which does nothing in the current directory."""
        before = self.files()
        errors = self.run(launcher, *arguments, status=1, **environment).stderr
        assert self.files() == before
        return errors

    def files(self) -> set[str]:
        return {path.name for path in self.cwd.iterdir()}


# Of the pictures with another brightness the first is among the five likeliest classes, as equal logits are sorted.
ACCURACY = "'top_1_accuracy': 85.00%, 'top_5_accuracy': 90.00%\ntotal=20, top1_correct=17, top5_correct=18\n"
RUN_FILES = {"result_Files", "time_Result", "infer.log", "acc.log"}


@pytest.fixture
def bench(request, tmp_path, app_dir, lite_home):
    return Bench(tmp_path, getattr(request, "param", "tinydarknet"), app_dir, lite_home)


@pytest.mark.parametrize("bench", CLASSIFIERS, indirect=True)
def test_the_launcher_computes_the_accuracy(bench):
    (bench.cwd / "result_Files").mkdir()
    (bench.cwd / "result_Files/old.bin").write_bytes(b"1234")
    run = bench.run("run_infer_310.sh", *bench.arguments("3"))
    accuracy = (bench.cwd / "acc.log").read_text()
    assert ACCURACY in accuracy and accuracy in run.stdout
    is_csp = bench.name == "cspdarknet53"
    assert ("Total data: 20, top1 accuracy: 0.85, top5 accuracy: 0.9\n" in accuracy) == is_csp
    (old,) = (name for name in bench.files() if name.startswith("old_") and name.endswith("_result_Files"))
    assert bench.files() - {old} == RUN_FILES | ({"imagenet_label.json"} if is_csp else set())
    assert "of infer_count 7\n" in (bench.cwd / "time_Result/test_perform_static.txt").read_text()
    assert len(list((bench.cwd / "result_Files").iterdir())) == 20
    assert bench.devices.read_text() == "Ascend 3\n"
    assert "built " in (bench.folder / "ascend310_infer/build.log").read_text()


def test_device_and_target_may_be_chosen(bench):
    python = bench.folder / "python"  # the accuracy is not the subject here
    python.write_text(f'#!/bin/sh\nif [ "$1" = -c ]; then exec "{sys.executable}" "$@"; fi\n')
    python.chmod(0o755)
    for arguments, environment in (
        (["5"], {}),
        ([], {"device_id": "4"}),
        ([], {}),
        (["1", "--device_target", "CPU"], {}),
        (["--device_target=CPU"], {}),
    ):
        bench.run("run_infer_310.sh", *bench.arguments(*arguments), PYTHON=str(python), **environment)
    assert bench.devices.read_text().splitlines() == ["Ascend 5", "Ascend 4", "Ascend 0", "CPU", "CPU"]


@pytest.mark.parametrize("bench", [*CLASSIFIERS, "yolov3_res2net50"], indirect=True)
@pytest.mark.parametrize("launcher", ["run_infer_310.sh", "run_infer_cpu.sh"])
def test_wrong_arguments(bench, launcher):
    (bench.cwd / "folder").mkdir()
    least = {"cspdarknet53": 2, "tinydarknet": 4 if "310" in launcher else 3}.get(bench.name, 3)
    for number in (0, least - 1, least + (2 if "310" in launcher else 1)):
        errors = bench.refused(*["folder"] * number, launcher=launcher)
        assert f"error: got {number} arguments, expected {least}" in errors and f"Usage: bash {launcher} [" in errors
    named = "MINDIR_PATH" if "310" in launcher else "MODEL_PATH"
    errors = bench.refused(*["folder"] * least, launcher=launcher)
    assert f"error: {named}={bench.cwd / 'folder'} is not a file" in errors
    errors = bench.refused(str(bench.mindir), *["nothing"] * (least - 1), launcher=launcher)
    assert f"error: DATA_PATH={bench.cwd / 'nothing'} is not a directory" in errors


def test_wrong_options_of_the_launcher(bench):
    for spelling in ("DVPP", "Dvpp"):
        errors = bench.refused(*bench.arguments(dvpp=spelling), LITE_HOME="")
        assert f"error: DVPP={spelling} is not supported: the DVPP unit resizes" in errors and "give CPU" in errors
    for options, message in (
        (["gpu"], "device_target=gpu is not one of: Ascend CPU"),
        ([], "--device_target needs a value"),
        (["CPU", "0"], "unknown argument 0"),
        (["CPU", "--batch_size", "1"], "unknown argument --batch_size"),
    ):
        assert f"error: {message}" in bench.refused(*bench.arguments(), "--device_target", *options)
    assert "error: DEVICE_ID=x is not an integer of 0 or more" in bench.refused(*bench.arguments("x"))
    description = Path(f"{bench.mindir}.json")
    for text in ("", "[]", '{"input": {"height": 32}}', None):
        description.unlink() if text is None else description.write_text(text)
        errors = bench.refused(*bench.arguments())
        assert f"error: {description}, the description that export.py writes" in errors


def test_the_first_step_that_fails_ends_the_launcher(bench, tmp_path):
    def errors_of_the_step(**environment):
        return bench.run("run_infer_310.sh", *bench.arguments(), status=1, **environment).stderr

    errors = errors_of_the_step(LITE_HOME=str(tmp_path))
    assert "error: building the application ended with status 1" in errors
    assert "holds no runtime/lib/libmindspore-lite.so" in errors and not bench.files()

    model = bench.mindir.read_text()
    bench.mindir.write_text("nothing")
    errors = errors_of_the_step()
    assert "error: inference on Ascend ended with status 1" in errors
    assert "cannot be loaded" in errors and bench.files() == {"infer.log"}

    bench.mindir.write_text(model)
    (bench.data / "class0/broken.jpg").write_bytes(b"")
    assert "broken.jpg: empty file" in errors_of_the_step() and "acc.log" not in bench.files()
    assert len(list((bench.cwd / "result_Files").iterdir())) == 20

    (bench.data / "class0/broken.jpg").unlink()
    bench.labels.write_text("picture.0_0:0\n")
    errors = errors_of_the_step()
    assert "error: accuracy ended with status 1" in errors and "19 results have no line in the label list" in errors


@pytest.mark.parametrize("bench", ["yolov3_res2net50"], indirect=True)
def test_a_detector_has_three_files_for_each_picture(bench):
    bench.mindir.write_text(model_text("grey 3", "grey 12", "grey 48", batch=2, size=64))
    shutil.rmtree(bench.data)
    for number in range(3):
        save(bench.data / f"COCO_val_{number:012d}.jpg", 200)
    (bench.folder / "postprocess.py").write_text("import sys\nprint(*sys.argv[1:], sep='\\n')\n")
    spec = {"height": 64, "width": 64, "keep_ratio": True, "interpolation": "bilinear", **PLAIN}
    bench.describe(spec)
    bench.run("run_infer_310.sh", *bench.arguments("2"))
    names = {f"COCO_val_{number:012d}_{output}.bin" for number in range(3) for output in range(3)}
    assert set(results(bench.cwd)) == names
    assert (bench.cwd / "acc.log").read_text().splitlines() == [
        "--per_batch_size=1",
        f"--result_path={bench.cwd / 'result_Files'}",
        f"--img_path={bench.data}",
        f"--annFile={bench.labels}",
        f"--log_path={bench.cwd / 'accuracy'}",
        "--keep_ratio=True",
        "--testing_shape=64,64",
    ]
    bench.describe({**spec, "keep_ratio": False, "interpolation": "bicubic"})
    message = "interpolation=bicubic: the application resizes pictures for this model with nearest or bilinear only"
    assert message in bench.refused(*bench.arguments())
    bench.describe({**spec, "keep_ratio": False, "interpolation": "nearest"})
    bench.run("run_infer_310.sh", *bench.arguments())
    assert "--keep_ratio=False" in (bench.cwd / "acc.log").read_text()


def brightness_model(path: Path) -> None:
    """An ONNX model with the answers of the stand-in: the logit of class k falls with its distance to the brightness."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    middles = (np.arange(CLASSES) + 0.5) / CLASSES
    weights = np.repeat(2 * middles / 3072, 3072)  # -(brightness - middle)^2 without its first term
    nodes = [
        helper.make_node("Flatten", ["images"], ["pixels"]),
        helper.make_node("Gemm", ["pixels", "weights", "bias"], ["logits"], transB=1),
    ]
    inputs = [helper.make_tensor_value_info("images", kind, [3, 3, 32, 32])]
    outputs = [helper.make_tensor_value_info("logits", kind, [3, CLASSES])]
    constants = [
        helper.make_tensor("weights", kind, [CLASSES, 3072], weights),
        helper.make_tensor("bias", kind, [CLASSES], -(middles**2)),
    ]
    graph = helper.make_graph(nodes, "brightness", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))


@pytest.mark.parametrize("bench", ["tinydarknet", "cspdarknet53"], indirect=True)
def test_the_launcher_without_the_application(bench):
    bench.mindir = bench.mindir.with_suffix(".onnx")
    brightness_model(bench.mindir)
    bench.describe(small_spec(32))
    bench.run("run_infer_cpu.sh", *[argument for argument in bench.arguments() if argument != "cpu"], LITE_HOME="")
    assert "'top_1_accuracy': 85.00%" in (bench.cwd / "acc.log").read_text()
    extra = {"imagenet_label.json"} if bench.name == "cspdarknet53" else set()
    assert bench.files() == {"infer_result", "infer.log", "acc.log"} | extra
    assert len(list((bench.cwd / "infer_result/result_Files").iterdir())) == 20


def test_launchers_that_do_the_same_are_the_same():
    def text(folder: str, name: str) -> bytes:
        return (ROOT / folder / "scripts" / name).read_bytes()

    assert text("tinynet", "run_infer_310.sh") == text("darknet53", "run_infer_310.sh")
    assert len({text(folder, "run_infer_cpu.sh") for folder in ("darknet53", "tinynet", "tinydarknet")}) == 1

"""The C++ application of utils/cpp_infer and its launchers, built against a stand-in for MindSpore Lite.

The stand-in's models are text files which make it return known numbers: their own input, or a one at the class that the
brightness of a picture gives. Pictures are BMP files, which a stand-in for OpenCV decodes, whatever their names end in.
"""

from __future__ import annotations

import json
import os
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
    ("CMake (pip install cmake)", shutil.which("cmake", path=PATH)),
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
    return subprocess.run(
        ["bash", folder / "build.sh", *options], env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def app(app_dir, tmp_path):
    """Runs the application in tmp_path/run on the folder tmp_path/data; both exist already."""
    for name in ("run", "data"):
        (tmp_path / name).mkdir()

    def run(model: str, *flags: str, spec: dict | None = None, dataset: Path | None = None, **options):
        mindir = tmp_path / "model.mindir"
        mindir.write_text(model)
        command = [app_dir / "out/main", "--mindir_path", mindir, "--dataset_path", dataset or tmp_path / "data"]
        return subprocess.run(
            [*command, *spec_flags(spec or small_spec()), *flags],
            cwd=tmp_path / "run",
            capture_output=True,
            text=True,
            timeout=120,
            **options,
        )

    return run


def small_spec(size: int = 8, **changes) -> dict:
    return {
        "height": size, "width": size, "resize": "shorter_side", "crop_ratio": 1.0, "interpolation": "bilinear",
        **PLAIN, **changes,
    }  # fmt: skip


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
    digit = (load_digits().images[7] * 15.9).astype(np.uint8).repeat(3).reshape(8, 8, 3)
    return {
        "china": china,
        "flower": np.ascontiguousarray(flower[:, 100:401]),
        "detail": np.ascontiguousarray(china[100:197, 200:331]),
        "halved": cv2.resize(flower, (512, 512), interpolation=cv2.INTER_CUBIC),
        "narrow": np.ascontiguousarray(flower[:200, :23]),
        "digit": digit,
        "tiny": np.ascontiguousarray(china[:3, :5]),
    }


# ---- Preprocessing ---------------------------------------------------------------------------------------------------

SPECS = {
    "bilinear": {"resize": "shorter_side", "crop_ratio": 0.875, "interpolation": "bilinear"},
    "bicubic": {"resize": "shorter_side", "crop_ratio": 0.875, "interpolation": "bicubic"},
    "nearest": {"resize": "shorter_side", "crop_ratio": 0.97, "interpolation": "nearest"},
    "both_sides": {"resize": "both_sides", "crop_ratio": 1.0, "interpolation": "bilinear"},
}
TREE = (
    "a.b.jpg a.c.jpg cat/1.jpg dog/1.jpg dog/1.PNG Upper.JPEG upper.Bmp cat__1.tiff deep/er/x.tif deep/x.jpeg "
    "cat/own.jpg .hidden/y.jpg .z.jpg old/annotated/q.jpg old/result_Files/w.jpg old/r.jpg notes.txt "
    "@eaDir/v.jpg cat/@eaDir/v.jpg __MACOSX/u.jpg cat/._1.jpg Thumbs.db/t.jpg"
).split()


def input_spec(name: str, size: int = 224) -> dict:
    return {"height": size, "width": size, **SPECS[name], "mean": MEAN, "std": STD}


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """Folders pictures and tree, and what infer.py makes of them."""
    root = tmp_path_factory.mktemp("reference")
    for name, pixels in photographs().items():
        save(root / "pictures" / f"{name}.bmp", pixels)
    for place, name in enumerate(TREE):
        save(root / "tree" / name, place)
    for name in SPECS:
        operators = eval_transforms(input_spec(name))
        paths = sorted((root / "pictures").iterdir())
        np.savez(root / f"{name}.npz", **{path.stem: to_input(read_picture(path), operators) for path in paths})
    _, files = find_pictures(str(root / "tree"))
    (root / "names.json").write_text(json.dumps(dict(zip(map(str, files), result_names(files)))))
    return root


@pytest.mark.parametrize(("name", "batch"), [("bilinear", 1), ("bicubic", 3), ("nearest", 4), ("both_sides", 7)])
def test_the_input_is_that_of_the_evaluation(app, tmp_path, reference, name, batch):
    run = app(model_text("echo", batch=batch, size=224), spec=input_spec(name), dataset=reference / "pictures")
    assert run.returncode == 0, run.stderr
    expected = np.load(reference / f"{name}.npz")
    found = results(tmp_path / "run")
    assert sorted(found) == sorted(f"{key}.bin" for key in expected)
    for key in expected:
        difference = np.abs(found[f"{key}.bin"].reshape(3, 224, 224) - expected[key]) * np.reshape(STD, (3, 1, 1))
        assert difference.mean() < 1 / 255 / 10, key
        assert difference.max() < 1.01 / 255, key


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_a_letterbox_is_grey_and_centred(app, tmp_path, interpolation):
    pictures = photographs()
    for key, pixels in pictures.items():
        save(tmp_path / "data" / f"{key}.bmp", pixels)
    spec = {
        "height": 160,
        "width": 224,
        "resize": "letterbox",
        "interpolation": interpolation,
        "mean": MEAN,
        "std": STD,
    }
    model = model_text("echo", batch=2).replace("8 8", "160 224")
    run = app(model, spec=spec)
    assert run.returncode == 0, run.stderr
    found = results(tmp_path / "run")
    for key, pixels in pictures.items():
        height, width = pixels.shape[:2]
        scale = min(160 / height, 224 / width)
        size = round(width * scale), round(height * scale)
        method = {"bilinear": cv2.INTER_LINEAR, "nearest": cv2.INTER_NEAREST}[interpolation]
        inner = cv2.resize(pixels, size, interpolation=method)
        expected = np.full((160, 224, 3), 128, np.float64)
        left, top = (224 - size[0]) // 2, (160 - size[1]) // 2
        expected[top : top + size[1], left : left + size[0]] = inner
        pixels_back = found[f"{key}.bin"].reshape(3, 160, 224).transpose(1, 2, 0) * STD + MEAN
        difference = np.abs(pixels_back * 255 - expected)
        assert difference.mean() < 0.1 and difference.max() < 1.01, key


# ---- Files and names -------------------------------------------------------------------------------------------------


def test_results_have_the_names_that_infer_gives_them(app, tmp_path, reference):
    names = json.loads((reference / "names.json").read_text())
    assert len(names) == len(TREE) - 11, (
        "hidden and system files, earlier results of infer.py and other files are left out"
    )
    run = app(model_text("echo", batch=2), dataset=reference / "tree")
    assert run.returncode == 0, run.stderr
    found = results(tmp_path / "run")
    expected = {f"{names[path]}.bin": TREE.index(path) / 255 for path in names}
    assert {name: pytest.approx(float(values.mean())) for name, values in found.items()} == expected


def test_a_batch_may_be_short_and_outputs_many(app, tmp_path):
    for place in range(5):
        save(tmp_path / "data" / f"{place}.jpg", 25 * place + 10)
    run = app(model_text("grey 10", "half 4", "echo", batch=2))
    assert run.returncode == 0, run.stderr
    found = results(tmp_path / "run")
    assert sorted(found) == sorted(f"{place}_{output}.bin" for place in range(5) for output in range(3))
    for place in range(5):
        brightness = (25 * place + 10) / 255
        assert found[f"{place}_0.bin"].tolist() == [float(k == int(10 * brightness)) for k in range(10)]
        assert found[f"{place}_1.bin"].tolist() == [-2.5 * (k == int(4 * brightness)) for k in range(4)]
        assert found[f"{place}_2.bin"] == pytest.approx(np.full(192, brightness))
    lines = (tmp_path / "run/time_Result/test_perform_static.txt").read_text().splitlines()
    start, _, end = lines[0].partition(" ms of infer_count ")
    assert start.startswith("NN inference cost average time: ") and end == "3"
    assert float(start.rpartition(" ")[2]) >= 0
    assert lines[1].startswith("batch size 2, 5 pictures, ")


def test_folders_are_closed_and_links_followed_once(app, tmp_path):
    for place in range(60):
        save(tmp_path / f"data/{place}/{place}.bmp", place)
    (tmp_path / "data/7/back").symlink_to(tmp_path / "data")
    limit = (24, 24)
    run = app(model_text("echo"), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit))
    assert run.returncode == 0, run.stderr
    assert len(results(tmp_path / "run")) == 60


def test_pictures_that_no_name_tells_apart_are_refused(app, tmp_path):
    for name in ("a/b__1.jpg", "a__b/1.jpg", "c/1.jpg", "c/b__1.jpg"):
        save(tmp_path / "data" / name, 1)
    run = app(model_text("echo"))
    assert run.returncode == 1
    assert "a/b__1.jpg and a__b/1.jpg would have the same name, a__b__1.jpg; rename one of the two" in run.stderr
    assert not (tmp_path / "run/result_Files").exists()


def broken_files(folder: Path) -> dict[str, str]:
    """Files that are no sound pictures, and what is said of each."""
    jpeg = cv2.imencode(".jpg", photographs()["detail"])[1].tobytes()
    bmp = save(folder / "whole.bmp", 200).read_bytes()
    (folder / "cut.jpg").write_bytes(jpeg[:-200])
    (folder / "empty.png").write_bytes(b"")
    (folder / "gif.jpg").write_bytes(b"GIF89a\x01\x00\x01\x00")
    (folder / "half.bmp").write_bytes(bmp[:-20])
    (folder / "link.bmp").symlink_to(folder / "gone.bmp")
    os.mkfifo(folder / "pipe.jpg")
    save(folder / "long.bmp", np.zeros((9000, 1, 3), np.uint8))
    return {
        "cut.jpg": "truncated JPEG file", "empty.png": "empty file", "gif.jpg": "not a JPEG, PNG, BMP or TIFF file",
        "half.bmp": "cannot be decoded", "link.bmp": "No such file or directory",
        "long.bmp": "of 1 x 9000 pixels, cannot be resized to 224 x 2016000", "pipe.jpg": "not a regular file",
    }  # fmt: skip


def test_broken_pictures_are_reported_and_the_others_done(app, tmp_path):
    data = tmp_path / "data"
    broken = broken_files(data)
    save(data / "sub/good.jpg", 100)
    run = app(model_text("grey 3", batch=4, size=224), spec=small_spec(224))
    assert run.returncode == 1
    assert sorted(results(tmp_path / "run")) == ["good.bin", "whole.bin"]
    lines = run.stderr.splitlines()
    assert lines[0] == "error: 7 of 9 pictures could not be read and have no result:"
    assert lines[1:] == [f"    {data / name}: {reason}" for name, reason in sorted(broken.items())]
    assert "of infer_count 1\n" in (tmp_path / "run/time_Result/test_perform_static.txt").read_text()


def test_no_sound_picture_gives_no_timing(app, tmp_path):
    (tmp_path / "data/empty.jpg").write_bytes(b"")
    run = app(model_text("echo"))
    assert run.returncode == 1 and "1 of 1 pictures could not be read" in run.stderr
    assert not list((tmp_path / "run/time_Result").iterdir())


def test_a_jpeg_with_a_preview_needs_its_own_end(app, tmp_path):
    """The end marker of a preview in the header does not count as that of the picture."""
    jpeg = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    preview = b"\xff\xe1" + (len(jpeg) + 2).to_bytes(2, "big") + jpeg
    (tmp_path / "data/cut.jpg").write_bytes(jpeg[:2] + preview + jpeg[2:-2])
    (tmp_path / "data/whole.jpg").write_bytes(jpeg[:2] + preview + jpeg[2:] + b"more")
    run = app(model_text("echo"))
    assert "cut.jpg: truncated JPEG file\n" in run.stderr
    assert "whole.jpg: cannot be decoded\n" in run.stderr, "by the stand-in, which does not know JPEG"


def test_results_of_two_runs_do_not_mix(app, tmp_path):
    save(tmp_path / "data/a.bmp", 1)
    assert app(model_text("echo")).returncode == 0
    again = app(model_text("echo"))
    assert again.returncode == 1 and "result_Files holds results already; move them away" in again.stderr


def test_a_result_that_cannot_be_written_ends_the_run(app, tmp_path):
    save(tmp_path / "data/a.bmp", 1)

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    run = app(model_text("echo"), preexec_fn=limit)
    assert run.returncode == 1 and "a.bin cannot be written" in run.stderr
    (tmp_path / "file").write_text("")
    run = app(model_text("echo"), f"--output_dir={tmp_path / 'file'}")
    assert run.returncode == 1 and "result_Files cannot be made" in run.stderr


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
    run = app(model)
    assert run.returncode == 1 and message in run.stderr
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
    run = app(model_text("echo"), *flags)
    assert run.returncode == status and run.stderr.startswith(f"error: {message}")


def test_an_empty_folder_and_help(app, app_dir):
    run = app(model_text("echo"))
    assert run.returncode == 1 and "data holds no picture" in run.stderr
    run = subprocess.run([app_dir / "out/main", "--help"], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.startswith("Usage: main --mindir_path FILE")


def test_the_build_says_what_is_missing(app_dir, lite_home, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(app_dir, folder)  # with a cache in which the stand-in for OpenCV was chosen
    nothing = build(folder, "")
    assert nothing.returncode == 1 and "error: LITE_HOME is not set" in nothing.stderr
    wrong = build(folder, tmp_path)
    assert wrong.returncode == 1 and f"LITE_HOME={tmp_path} holds no runtime/lib/libmindspore-lite.so" in wrong.stderr
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
    spec = {"height": 224, "width": 224, "resize": "both_sides", "interpolation": "bilinear", **PLAIN}
    flags = ["--mindir_path", "model.mindir", "--dataset_path", "data", "--device_target=CPU", *spec_flags(spec)]
    run = subprocess.run([folder / "out/main", *flags], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1 and "1 of 5 pictures" in run.stderr and "cut.png: cannot be decoded" in run.stderr
    for name, values in results(tmp_path).items():
        file = {"grey.bin": "grey.png"}.get(name, name.removesuffix(".bin"))
        picture = cv2.imread(str(tmp_path / "data" / file), cv2.IMREAD_COLOR)[:, :, ::-1]
        expected = cv2.resize(picture, (224, 224)).transpose(2, 0, 1).astype(np.float32) / 255
        assert np.abs(values.reshape(3, 224, 224) - expected).max() < 3.01 / 255, name
        assert np.abs(values.reshape(3, 224, 224) - expected).mean() < 1 / 255, name


# ---- Launchers -------------------------------------------------------------------------------------------------------


class Bench:
    """A copy of a model's folder whose application is the one of all tests, a data set, and a current directory."""

    def __init__(self, root: Path, name: str, app_dir: Path, lite_home: Path):
        self.name, self.folder, self.cwd, self.data = name, root / name, root / "a place", root / "data set"
        ignored = shutil.ignore_patterns("tests", "ascend310_infer", "data", "__pycache__", "*.ckpt")
        shutil.copytree(ROOT / name, self.folder, ignore=ignored)
        (self.folder / "ascend310_infer").symlink_to(app_dir)
        self.cwd.mkdir()
        self.mindir, self.labels = root / "model.mindir", root / "label.txt"
        self.devices = root / "devices.txt"
        self.mindir.write_text(model_text(f"grey {CLASSES}", batch=3, size=32))
        self.describe(small_spec(32))
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
        about = {"network": {"name": self.name}, "input": spec, "class_names": None, "batch_size": 3}
        Path(f"{self.mindir}.json").write_text(json.dumps(about))

    def make_data(self) -> None:
        """Two pictures for each class, in the brightness of their class, except for three; ACCURACY is the result."""
        other = {(0, 0): 9, (8, 1): 0, (7, 0): 2}
        lines = []
        for label in range(CLASSES):
            for number in range(2):
                brightness = int(255 * (other.get((label, number), label) + 0.5) / CLASSES)
                save(self.data / f"class{label}/picture.{label}_{number}.JPEG", brightness)
                lines.append(f"picture.{label}_{number}:{label}\n")
        self.labels.write_text("".join(lines))

    def arguments(self, *device: str) -> list[str]:
        words = {
            "tinydarknet": [self.mindir, self.data, self.labels, "cpu"],
            "cspdarknet53": [self.mindir, self.data],
        }.get(self.name, [self.mindir, self.data, self.labels])
        return [*map(str, words), *device]

    def run(self, launcher: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["bash", self.folder / "scripts" / launcher, *arguments],
            cwd=self.cwd,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )

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
    bench.make_data()
    (bench.cwd / "result_Files").mkdir()
    (bench.cwd / "result_Files/old.bin").write_bytes(b"1234")
    run = bench.run("run_infer_310.sh", *bench.arguments("3"))
    assert run.returncode == 0, run.stdout + run.stderr
    accuracy = (bench.cwd / "acc.log").read_text()
    assert ACCURACY in accuracy and accuracy in run.stdout
    is_csp = bench.name == "cspdarknet53"
    assert ("Total data: 20, top1 accuracy: 0.85, top5 accuracy: 0.9\n" in accuracy) == is_csp
    old = {name for name in bench.files() if name.startswith("old_")}
    assert len(old) == 1 and old.pop().endswith("_result_Files")
    assert {name for name in bench.files() if not name.startswith("old_")} == RUN_FILES | (
        {"imagenet_label.json"} if is_csp else set()
    )
    assert "of infer_count 7\n" in (bench.cwd / "time_Result/test_perform_static.txt").read_text()
    assert len(list((bench.cwd / "result_Files").iterdir())) == 20
    assert bench.devices.read_text() == "Ascend 3\n"
    assert "built " in (bench.folder / "ascend310_infer/build.log").read_text()


def test_device_and_target_may_be_chosen(bench):
    bench.make_data()
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
        run = bench.run("run_infer_310.sh", *bench.arguments(*arguments), PYTHON=str(python), **environment)
        assert run.returncode == 0, run.stderr
    assert bench.devices.read_text().splitlines() == ["Ascend 5", "Ascend 4", "Ascend 0", "CPU", "CPU"]


@pytest.mark.parametrize("spelling", ["DVPP", "dvpp", "Dvpp"])
def test_dvpp_is_refused_before_anything_is_done(bench, spelling):
    bench.make_data()
    arguments = [spelling if argument == "cpu" else argument for argument in bench.arguments()]
    run = bench.run("run_infer_310.sh", *arguments, LITE_HOME="")
    assert run.returncode == 1 and not bench.files()
    assert f"error: DVPP={spelling} is not supported: the DVPP unit resizes" in run.stderr and "give CPU" in run.stderr


@pytest.mark.parametrize("bench", [*CLASSIFIERS, "yolov3_res2net50"], indirect=True)
@pytest.mark.parametrize("launcher", ["run_infer_310.sh", "run_infer_cpu.sh"])
def test_wrong_arguments(bench, launcher):
    bench.make_data()
    (bench.cwd / "folder").mkdir()
    counts = {"cspdarknet53": (2, 3), "tinydarknet": (4, 5)}.get(bench.name, (3, 4))
    if launcher == "run_infer_cpu.sh":
        counts = ({"cspdarknet53": 2}.get(bench.name, 3),) * 2
    for number in (0, counts[0] - 1, counts[-1] + 1):
        run = bench.run(launcher, *["folder"] * number)
        assert run.returncode == 1, run.stdout
        assert f"error: got {number} arguments, expected {counts[0]}" in run.stderr
        assert f"Usage: bash {launcher} [" in run.stderr
    named = "MODEL_PATH" if launcher == "run_infer_cpu.sh" else "MINDIR_PATH"
    run = bench.run(launcher, *["folder"] * counts[0])
    assert run.returncode == 1 and f"error: {named}={bench.cwd / 'folder'} is not a file" in run.stderr
    run = bench.run(launcher, str(bench.mindir), *["nothing"] * (counts[0] - 1))
    assert run.returncode == 1 and f"error: DATA_PATH={bench.cwd / 'nothing'} is not a directory" in run.stderr
    run = bench.run(launcher, "--help")
    assert run.returncode == 0 and f"Usage: bash {launcher} [" in run.stdout and "PYTHON" in run.stdout
    assert bench.files() == {"folder"}


def test_wrong_options_of_the_launcher(bench):
    bench.make_data()
    for options, message in (
        (["gpu"], "device_target=gpu is not one of: Ascend CPU"),
        ([], "--device_target needs a value"),
        (["CPU", "0"], "unknown argument 0"),
        (["CPU", "--batch_size", "1"], "unknown argument --batch_size"),
    ):
        run = bench.run("run_infer_310.sh", *bench.arguments(), "--device_target", *options)
        assert run.returncode == 1 and f"error: {message}" in run.stderr
    run = bench.run("run_infer_310.sh", *bench.arguments("x"))
    assert run.returncode == 1 and "error: DEVICE_ID=x is not an integer of 0 or more" in run.stderr
    description = Path(f"{bench.mindir}.json")
    for text in (None, "{", "[]", '{"input": {"height": 32}}'):
        description.unlink()
        if text is not None:
            description.write_text(text)
        run = bench.run("run_infer_310.sh", *bench.arguments())
        assert run.returncode == 1 and f"error: {description}, the description that export.py writes" in run.stderr
        description.touch()
    assert not bench.files()


def test_the_first_step_that_fails_ends_the_launcher(bench, tmp_path):
    bench.make_data()
    run = bench.run("run_infer_310.sh", *bench.arguments(), LITE_HOME=str(tmp_path))
    assert run.returncode == 1 and "error: building the application ended with status 1" in run.stderr
    assert "holds no runtime/lib/libmindspore-lite.so" in run.stderr and not bench.files()

    bench.mindir.write_text("nothing")
    run = bench.run("run_infer_310.sh", *bench.arguments())
    assert run.returncode == 1 and "error: inference on Ascend ended with status 1" in run.stderr
    assert "cannot be loaded" in run.stderr and bench.files() == {"infer.log"}

    bench.mindir.write_text(model_text("grey 10", size=32))
    (bench.data / "class0/broken.jpg").write_bytes(b"")
    run = bench.run("run_infer_310.sh", *bench.arguments())
    assert run.returncode == 1 and "broken.jpg: empty file" in run.stderr and "acc.log" not in bench.files()
    assert len(list((bench.cwd / "result_Files").iterdir())) == 20

    (bench.data / "class0/broken.jpg").unlink()
    bench.labels.write_text("picture.0_0:0\n")
    run = bench.run("run_infer_310.sh", *bench.arguments())
    assert run.returncode == 1 and "error: accuracy ended with status 1" in run.stderr
    assert "19 results have no line in the label list" in run.stderr


def test_a_detector_has_three_files_for_each_picture(tmp_path, app_dir, lite_home):
    bench = Bench(tmp_path, "yolov3_res2net50", app_dir, lite_home)
    bench.mindir.write_text(model_text("grey 3", "grey 12", "grey 48", batch=2, size=64))
    bench.describe({"height": 64, "width": 64, "keep_ratio": True, "interpolation": "bilinear", **PLAIN})
    for number in range(3):
        save(bench.data / f"COCO_val_{number:012d}.jpg", 200)
    annotations = tmp_path / "instances.json"
    annotations.write_text("{}")
    (bench.folder / "postprocess.py").write_text("import sys\nprint(*sys.argv[1:], sep='\\n')\n")
    run = bench.run("run_infer_310.sh", str(bench.mindir), str(bench.data), str(annotations), "2")
    assert run.returncode == 0, run.stderr
    names = {f"COCO_val_{number:012d}_{output}.bin" for number in range(3) for output in range(3)}
    assert set(results(bench.cwd)) == names
    assert (bench.cwd / "acc.log").read_text().splitlines() == [
        "--per_batch_size=1",
        f"--result_path={bench.cwd / 'result_Files'}",
        f"--img_path={bench.data}",
        f"--annFile={annotations}",
        f"--log_path={bench.cwd / 'accuracy'}",
        "--keep_ratio=True",
        "--testing_shape=64,64",
    ]
    spec = {"height": 64, "width": 64, "keep_ratio": False, "interpolation": "bicubic", **PLAIN}
    bench.describe(spec)
    run = bench.run("run_infer_310.sh", str(bench.mindir), str(bench.data), str(annotations))
    message = "interpolation=bicubic: the application resizes pictures for this model with nearest or bilinear only"
    assert run.returncode == 1 and message in run.stderr
    bench.describe({**spec, "interpolation": "nearest"})
    run = bench.run("run_infer_310.sh", str(bench.mindir), str(bench.data), str(annotations))
    assert run.returncode == 0 and "--keep_ratio=False" in (bench.cwd / "acc.log").read_text()


def brightness_model(path: Path) -> None:
    """An ONNX model with the answers of the stand-in: the logit of class k falls with its distance to the brightness."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    middles = [(k + 0.5) / CLASSES for k in range(CLASSES)]
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("ReduceMean", ["pooled"], ["brightness"], axes=[1, 2], keepdims=0),
        helper.make_node("Sub", ["brightness", "middles"], ["distance"]),
        helper.make_node("Mul", ["distance", "distance"], ["square"]),
        helper.make_node("Neg", ["square"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("images", kind, [3, 3, 32, 32])],
        [helper.make_tensor_value_info("logits", kind, [3, CLASSES])],
        [helper.make_tensor("middles", kind, [1, CLASSES], middles)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))


@pytest.mark.parametrize("bench", ["tinydarknet", "cspdarknet53"], indirect=True)
def test_the_launcher_without_the_application(bench):
    bench.make_data()
    bench.mindir = bench.mindir.with_suffix(".onnx")
    brightness_model(bench.mindir)
    bench.describe(small_spec(32))
    arguments = [argument for argument in bench.arguments() if argument != "cpu"]
    run = bench.run("run_infer_cpu.sh", *arguments, LITE_HOME="")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "'top_1_accuracy': 85.00%" in (bench.cwd / "acc.log").read_text()
    extra = {"imagenet_label.json"} if bench.name == "cspdarknet53" else set()
    assert bench.files() == {"infer_result", "infer.log", "acc.log"} | extra
    assert len(list((bench.cwd / "infer_result/result_Files").iterdir())) == 20


def test_launchers_that_do_the_same_are_the_same():
    def text(folder: str, name: str) -> bytes:
        return (ROOT / folder / "scripts" / name).read_bytes()

    assert text("tinynet", "run_infer_310.sh") == text("darknet53", "run_infer_310.sh")
    for folder in ("darknet53", "tinynet"):
        assert text(folder, "run_infer_cpu.sh") == text("tinydarknet", "run_infer_cpu.sh")

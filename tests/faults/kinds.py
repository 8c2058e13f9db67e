"""The kinds of inputs of the campaign: what is sound, how it is damaged, how a program uses it."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import random
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults.campaign import ROOT, Kind, damaged_bytes, damaged_tree
from model_utils import checkpoint, unzip, weights
from model_utils.classification import label_list, postprocess
from model_utils.classification.infer import read_picture
from model_utils.config import get_config
from model_utils.dataset_checks import check_cifar10, check_image_folder
from model_utils.errors import DataError
from model_utils.inference import description, load_model
from model_utils.ranks import local_rank
from toy.model import MODEL

import mindspore as ms
import numpy as np
from PIL import Image

CONFIG = MODEL.read_config(["--device_target", "CPU"], "")
NAMES = [f"class {index}" for index in range(10)]


def file_kind(sound: Callable[[Path], Path], use: Callable[[Path], Any], is_exact: bool = False) -> Kind:
    """A file whose bytes are damaged; files beside it go with it as they are."""

    def damage(path: Path, folder: Path, draw: random.Random) -> Path:
        shutil.copytree(path.parent, folder, dirs_exist_ok=True)
        target = folder / path.name
        target.chmod(0o600)
        target.write_bytes(damaged_bytes(path.read_bytes(), draw))
        return target

    return Kind(sound, damage, use, is_exact)


def json_kind(sound: Callable[[Path], Path], use: Callable[[Path], Any], is_exact: bool = False) -> Kind:
    """A JSON file whose values are damaged, now and then its bytes."""

    def damage(path: Path, folder: Path, draw: random.Random) -> Path:
        shutil.copytree(path.parent, folder, dirs_exist_ok=True)
        target = folder / path.name
        if draw.random() < 0.2:
            target.write_bytes(damaged_bytes(path.read_bytes(), draw))
        else:
            tree = damaged_tree(json.loads(path.read_text()), draw)
            target.write_text(json.dumps(tree), encoding="utf-8", errors="surrogatepass")
        return target

    return Kind(sound, damage, use, is_exact)


# ---- Checkpoints and exports ------------------------------------------------------------------------------------------


def own_checkpoint(folder: Path) -> Path:
    about = description(MODEL, CONFIG, NAMES)
    ms.set_seed(1)
    path = folder / "own.ckpt"
    checkpoint.save(path, MODEL.build_network(about["network"]).parameters_dict(), about)
    return path


def foreign_checkpoint(folder: Path) -> Path:
    rows = [{"name": f"layer{n}.weight", "data": ms.Tensor(np.arange(8.0 + n, dtype=np.float32))} for n in range(3)]
    path = folder / "foreign.ckpt"
    ms.save_checkpoint(rows, str(path), append_dict={"epoch_num": 3})
    return path


def load_checkpoint(path: Path) -> Any:
    parameters, metadata = checkpoint.load(path)
    values = {
        name: value if isinstance(value, str) else value.asnumpy().tobytes() for name, value in parameters.items()
    }
    return values, json.dumps(metadata, sort_keys=True)


def exported(folder: Path, ending: str) -> Path:
    from toy.programs import run_export

    source, path = own_checkpoint(folder), folder / f"model.{ending}"
    with contextlib.redirect_stdout(io.StringIO()):
        run_export(["--checkpoint_path", str(source), "--file_name", str(path), "--file_format", ending.upper(),
                    "--device_target", "CPU"])  # fmt: skip
    source.unlink()
    return path


def run_model(path: Path) -> Any:
    model, about, _ = load_model(MODEL, path, CONFIG)
    side = about["input"]["height"]
    images = np.random.default_rng(1).random((1, 3, side, side), np.float32)
    return model(images)[0].tobytes(), about["class_names"]


def exported_description(folder: Path) -> Path:
    """The description beside a model, without the digest of the model: its own fields are damaged."""
    path = exported(folder, "onnx")
    return path.with_name(f"{path.name}.json")


def run_described(path: Path) -> Any:
    return run_model(path.with_suffix(""))


def darknet_weights(folder: Path) -> Path:
    """A convolution of eight channels with its batch norm and a classifier of ten classes, in darknet's order."""
    network = MODEL.build_network(description(MODEL, CONFIG, NAMES)["network"])
    shapes = {parameter.name: parameter.shape for parameter in network.get_parameters()}
    count = sum(int(np.prod(shapes[name])) for name in shapes)
    path = folder / "net.weights"
    path.write_bytes(struct.pack("<iiiQ", 0, 2, 5, 100) + np.ones(count, "<f4").tobytes())
    return path


def read_darknet(path: Path) -> Any:
    about = description(MODEL, CONFIG, NAMES)["network"]
    cells = [
        name[: -len(".conv.weight")]
        for name in MODEL.build_network(about).parameters_dict()
        if name.endswith(".conv.weight")
    ]
    found, classes = weights.read_darknet(MODEL, path, about, cells, ["fc.weight", "fc.bias"], "net.cfg")
    return classes, sorted((name, value.tobytes()) for name, value in found.items())


def safetensors_file(folder: Path) -> Path:
    from safetensors.numpy import save_file

    save_file({"conv.weight": np.ones((2, 3), np.float32), "bn.bias": np.ones(2, np.float16)}, folder / "m.safetensors")
    return folder / "m.safetensors"


def read_safetensors(path: Path) -> Any:
    return sorted((name, value.shape) for name, value in weights.read_state(path).items())


# ---- Pictures and folders ---------------------------------------------------------------------------------------------


def picture(folder: Path, ending: str, **options: Any) -> Path:
    from sklearn.datasets import load_sample_images

    image = Image.fromarray(load_sample_images().images[0]).resize((80, 60))
    image.save(folder / f"picture.{ending}", **options)
    return folder / f"picture.{ending}"


def check_and_read(path: Path) -> Any:
    """What passes the check of a training is read by its pipeline, and by infer.py, in the same way."""
    root = path.parent / "data"
    (root / "class").mkdir(parents=True, exist_ok=True)
    shutil.copy(path, root / "class" / path.name)
    check_image_folder(root, None)
    try:
        image = read_picture(path)
    except DataError as error:
        raise AssertionError(f"the check accepted what cannot be read: {error}") from error
    with Image.open(path) as opened:
        reference = np.asarray(opened.convert("RGB"), np.int16)
    if image.shape != reference.shape or (np.abs(image - reference).max(axis=2) > 64).mean() > 0.01:
        raise AssertionError("the pipeline sees another picture than Pillow")
    return image.shape


def image_folder(folder: Path) -> Path:
    for name in ("cat", "dog"):
        (folder / "data" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (20, 20), (number * 40, 0, 0)).save(folder / "data" / name / f"{number}.jpg")
    return folder / "data"


NAMES_OF_FILES = ("x.jpg", ".x.jpg", "x.JPG", "x", "Thumbs.db", "._x.jpg", ".DS_Store", "a b.png", "ü.jpg", "u\u0308.jpg", "x.gif",
                  "@eaDir", "__MACOSX", " ", "x\n.jpg", "x.jpg ", "-x.jpg", "#.jpg", "%20.jpg", "ehthumbs.db", b"\xff.jpg")  # fmt: skip


def damage_folder(root: Path, folder: Path, draw: random.Random) -> Path:
    target = folder / "data"
    shutil.copytree(root, target)
    for _ in range(draw.choice((1, 2, 4))):
        places = [target, *(path for path in target.rglob("*") if path.is_dir())]
        place, name = draw.choice(places), draw.choice(NAMES_OF_FILES)
        path = Path(os.fsdecode(os.path.join(os.fsencode(place), os.fsencode(name))))
        what = draw.randrange(6)
        with contextlib.suppress(OSError):
            if what == 0:
                path.mkdir()
            elif what == 1:
                shutil.copy(next(root.rglob("*.jpg")), path)
            elif what == 2:
                path.write_bytes(draw.randbytes(draw.choice((0, 5))))
            elif what == 3:
                os.mkfifo(path)
            elif what == 4:
                path.symlink_to(draw.choice(("/nowhere", "/etc/passwd", "/dev/zero", ".", "..")))
            else:
                draw.choice([path for path in target.rglob("*") if path.is_file()]).unlink()
    return target


def use_folder(root: Path) -> Any:
    """The check, the count and the pipeline see the same pictures."""
    from model_utils.device_adapter import Device

    options = [
        "--train_data_dir",
        str(root),
        "--val_data_dir",
        str(root),
        "--num_parallel_workers",
        "1",
        "--batch_size",
        "1",
    ]
    config = MODEL.read_config([*options, "--device_target", "CPU"], "")
    device = Device("CPU", 0)
    names = MODEL.find_classes(config, "val", device)
    dataset = MODEL.create_dataset(config, "val", device, names)
    seen = sum(1 for _ in dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))
    lines = label_list.label_lines(root)
    if not seen == MODEL.count_images(config, "val") == len(lines):
        raise AssertionError(f"{seen} pictures seen, {MODEL.count_images(config, 'val')} counted, {len(lines)} listed")
    return names


def cifar10(folder: Path) -> Path:
    rows = np.random.default_rng(1).integers(0, 256, (20, 3073), dtype=np.uint8)
    rows[:, 0] %= 10
    rows.tofile(folder / "data_batch_1.bin")
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n")
    return folder / "data_batch_1.bin"


def zip_file(folder: Path) -> Path:
    path = folder / "data.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("data/cat/1.jpg", "data/cat/2.jpg", "data/dog/1.jpg"):
            archive.writestr(name, name.encode() * 20)
    return path


def use_zip(path: Path) -> Any:
    root = path.parent / "out" / "data"
    root.parent.mkdir(exist_ok=True)
    with contextlib.redirect_stdout(io.StringIO()):
        unzip.unzip_dataset(path, root, max_bytes=1 << 20)
    return sorted((str(file.relative_to(root)), file.is_dir() or file.read_bytes()) for file in root.rglob("*")
                  if file.name != unzip.MARKER)  # fmt: skip


# ---- Results and lists ------------------------------------------------------------------------------------------------


def label_file(folder: Path) -> Path:
    (folder / "label.txt").write_text("".join(f"picture {n}:{n % 10}\n" for n in range(20)))
    return folder / "label.txt"


def result_file(folder: Path) -> Path:
    for name in ("a", "b"):
        np.arange(10, dtype="<f4").tofile(folder / f"{name}.bin")
    return folder / "a.bin"


def count_results(path: Path) -> Any:
    files = postprocess.find_results(path.parent)
    return postprocess.count_hits(files, [9] * len(files))


# ---- Options ----------------------------------------------------------------------------------------------------------

RECIPE = ROOT / "tests/toy/default_config.yaml"


def recipe(folder: Path) -> Path:
    shutil.copy(RECIPE, folder / "recipe.yaml")
    return folder / "recipe.yaml"


def use_recipe(path: Path) -> Any:
    return get_config(RECIPE, ["--config_path", str(path)]).to_dict()


WORDS = ("", " ", "x", "-1", "0", "1e400", "nan", "inf", "true", "[", "]", "[]", "{}", "[1", "1,2", "null", "~", "~/x", "*.gamma", "[ab]*",
         "&a", "*a", "!!x", "²", "9" * 5000, "0x10", "1_000", "é", "\udcff", "a b", "'", '"', "%s", "--lr", "-", "--", "=", "0.1", "1e-4")  # fmt: skip


def damage_options(_: Any, folder: Path, draw: random.Random) -> list[str]:
    keys = list(get_config(RECIPE, []).to_dict())
    tokens: list[str] = []
    for _ in range(draw.choice((1, 2, 3))):
        key, word = draw.choice(keys), draw.choice(WORDS)
        tokens += draw.choice(
            ([f"--{key}", word], [f"--{key}={word}"], [f"--{key.upper()}", word], [word], [f"--no-{key}"])
        )
    return tokens


def use_options(argv: list[str]) -> Any:
    """The configuration, and what is made of it before any data is touched."""
    config = MODEL.read_config(argv, "")
    MODEL.input_spec(config)
    return config.to_dict()


VARIABLES = ("RANK_ID", "RANK_SIZE", "DEVICE_NUM", "DEVICE_ID", "MS_WORKER_NUM", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK",
             "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE")  # fmt: skip


def damage_environment(sound: dict[str, str], folder: Path, draw: random.Random) -> dict[str, str]:
    words = ("", "0", "1", "8", "-1", "x", "²", "9" * 5000, "1.5", " 1", "٣", "1e3", "0x1")
    return {**sound, **{draw.choice(VARIABLES): draw.choice(words) for _ in range(draw.choice((1, 2, 3)))}}


def use_environment(environment: dict[str, str]) -> Any:
    local, local_size, rank = local_rank(environment)
    if not (0 <= local < local_size and rank >= 0):
        raise AssertionError(f"{local} of {local_size}, rank {rank}")
    return local, local_size, rank


def merge_tables(path: Path) -> Any:
    """merge_hccl.py of a sound table and this one: exit status 0, or 1 with one line."""
    sys.path.insert(0, str(ROOT / "utils/hccl_tools"))
    import merge_hccl

    try:
        servers = merge_hccl.read_table(str(path))
        merge_hccl.merge([servers])
    except merge_hccl.TableError as error:
        raise DataError(str(error)) from None
    return json.dumps(servers)


def rank_table(folder: Path) -> Path:
    devices = [{"device_id": str(n), "device_ip": f"192.98.92.{n}", "rank_id": str(n)} for n in range(2)]
    server = {"server_id": "10.0.0.1", "device": devices, "host_nic_ip": "reserve"}
    table = {"version": "1.0", "server_count": "1", "server_list": [server], "status": "completed"}
    (folder / "table.json").write_text(json.dumps(table))
    return folder / "table.json"


# ---- The detector -----------------------------------------------------------------------------------------------------


@functools.cache
def detector() -> Any:
    """The packages of the detector's folder; its package is called src."""
    sys.path.insert(0, str(ROOT / "yolov3_res2net50"))
    import src.data.coco as coco
    import src.detect.postprocess as results
    import src.recipe as own

    return coco, results, own


def annotations(folder: Path) -> Path:
    (folder / "images").mkdir()
    Image.new("RGB", (40, 30)).save(folder / "images/1.jpg")
    Image.new("RGB", (30, 40)).save(folder / "images/2.jpg")
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": 30 + 10 * (n - 1), "width": 40 - 10 * (n - 1)} for n in (1, 2)],
        "annotations": [{"id": n, "image_id": 1 + n % 2, "category_id": 1 + n % 3, "bbox": [n, n, 9, 12], "area": 108, "iscrowd": 0}
                        for n in range(5)],
        "categories": [{"id": n, "name": f"name {n}"} for n in (1, 2, 3)],
    }  # fmt: skip
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "instances.json"


def read_annotations(path: Path) -> Any:
    data = detector()[0].read_coco(path.parent / "images", path, check_images=False)
    return data.class_names, [boxes.tolist() for boxes in data.boxes], [labels.tolist() for labels in data.classes]


def evaluate_annotations(path: Path) -> Any:
    """What the reader takes, the measure takes too."""
    coco = detector()[0]
    from src.detect.coco_eval import evaluate_results

    data = coco.read_coco(path.parent / "images", path, check_images=False)
    box = {"image_id": data.image_ids[0], "category_id": data.category_ids[0], "bbox": [1, 1, 9, 12], "score": 0.5}
    with contextlib.redirect_stdout(io.StringIO()):
        return [round(float(value), 6) for value in evaluate_results(path, [box]).stats]


def detections_note(folder: Path) -> Path:
    (folder / "result_Files").mkdir()
    note = {
        "input": {"height": 416, "width": 416, "keep_ratio": True, "category_ids": [1, 2, 3]},
        "model": "m",
        "predictions": [],
    }
    (folder / "detections.json").write_text(json.dumps(note))
    return folder / "detections.json"


def read_note(path: Path) -> Any:
    _, results, own = detector()
    return results.read_input(path.parent / "result_Files", own.read_config([], ""))


KINDS = {
    "checkpoint": file_kind(own_checkpoint, load_checkpoint, is_exact=True),
    "foreign_checkpoint": file_kind(foreign_checkpoint, load_checkpoint),
    "onnx": file_kind(lambda folder: exported(folder, "onnx"), run_model, is_exact=True),
    "mindir": file_kind(lambda folder: exported(folder, "mindir"), run_model, is_exact=True),
    "description": json_kind(exported_description, run_described),
    "darknet_weights": file_kind(darknet_weights, read_darknet),
    "safetensors": file_kind(safetensors_file, read_safetensors),
    "jpeg": file_kind(lambda folder: picture(folder, "jpg", quality=80), check_and_read),
    "progressive_jpeg": file_kind(lambda folder: picture(folder, "jpg", progressive=True), check_and_read),
    "png": file_kind(lambda folder: picture(folder, "png"), check_and_read),
    "bmp": file_kind(lambda folder: picture(folder, "bmp"), check_and_read),
    "tiff": file_kind(lambda folder: picture(folder, "tif", compression="tiff_lzw"), check_and_read),
    "image_folder": Kind(image_folder, damage_folder, use_folder),
    "cifar10": file_kind(cifar10, lambda path: check_cifar10(path.parent, "train")),
    "zip": file_kind(zip_file, use_zip, is_exact=True),
    "label_list": file_kind(label_file, postprocess.read_labels),
    "result": file_kind(result_file, count_results),
    "recipe": file_kind(recipe, use_recipe),
    "options": Kind(lambda folder: [], damage_options, use_options),
    "environment": Kind(lambda folder: {"RANK_ID": "1", "RANK_SIZE": "8"}, damage_environment, use_environment),
    "rank_table": json_kind(rank_table, merge_tables),
    "coco": json_kind(annotations, read_annotations),
    "coco_evaluation": json_kind(annotations, evaluate_annotations),
    "detections": json_kind(detections_note, read_note),
}  # fmt: skip

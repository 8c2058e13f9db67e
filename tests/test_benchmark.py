"""Tests of scripts/benchmark*.py: options, tables, child processes, groups of them. Nothing here measures anything."""

import colorsys
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict
from types import SimpleNamespace

import benchmark
import benchmark_detection_data as detection_data
import benchmark_group
from benchmark_group import Group
from benchmark_worker import OBJECTS, BenchmarkError, Side, Worker

import numpy as np
import pytest
from PIL import Image

JOB = """
import os, sys
sys.path.insert(0, {scripts!r})
from benchmark_worker import serve

def job(spec):
    rank = int(os.environ.get("RANK_ID", "0"))
    print("chatter of a framework")
    count = []

    def step():
        count.append(1)
        if len(count) > spec["lives"] and rank == spec["processes"] - 1:
            sys.exit("out of lives")

    return step, {{"images": 4, "folder": os.getcwd(), "threads": os.environ.get("OMP_NUM_THREADS")}}

serve(job)
"""


@pytest.fixture
def script(tmp_path):
    """A worker script; the step of the last process can be done `lives` times."""
    path = tmp_path / "job.py"
    path.write_text(JOB.format(scripts=str(benchmark.ROOT / "scripts")))
    return path


def side(*rounds, **facts):
    return Side({"images": 10, "batch_size": 10, **facts}, 1.5, [list(steps) for steps in rounds], 100.0)


def start(script, lives):
    return Worker(str(script), {"task": "count", "lives": lives, "processes": 1}, sys.executable, dict(os.environ))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet50"], "tinydarknet"),
        (["--tasks", "train,sleep"], "'sleep' is not a task; a list of train,infer,onnx,input,ema,scale is accepted"),
        (["--batch_size", "0"], "'0' is not a whole number from 1 up"),
        (["--steps", "2.5"], "'2.5' is not a whole number from 1 up"),
        (["--rounds", "-1"], "--rounds"),
        (["--image_size", "100"], "100 is not a multiple of 32"),
        (["--threads", "100000"], "100000 is more than the"),
        (["--json", "no/such/folder/figures.json"], "is not a file name in an existing folder"),
        (["--torch_python", "no-such-python"], "no-such-python is not a Python that has PyTorch"),
        (["--colour"], "--colour"),
    ],
)
def test_wrong_usage_is_named_and_has_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_ratio_is_the_median_over_rounds():
    """The third round met a slow moment of one side only; the second one of both."""
    ours, theirs = side([1, 1, 9], [4, 4], [1]), side([2, 2, 2], [8, 8], [100])
    assert benchmark.ratio(ours, theirs) == 2
    assert benchmark.ratio(ours, None) is None
    assert ours.images_per_second == 4


def test_table_has_aligned_columns_and_dashes_for_what_does_not_apply():
    rows = [
        benchmark.Row("net", "train", 32, 47.04, 1.136, 29.6, 1999.4, 4.44, "21.3 ms a step"),
        benchmark.Row("net", "ema", 32, 40, note="EMA takes 3.0 % of the step"),
    ]
    lines = benchmark.format_table(rows).splitlines()
    assert [line.count("|") for line in lines] == [10] * 4 and len({len(line) for line in lines}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == list(benchmark.HEADINGS)
    assert cells[2] == ["net", "train", "32", "47.0", "1.14", "29.60", "1999", "4.4", "21.3 ms a step"]
    assert cells[3] == ["net", "ema", "32", "40.0", "-", "-", "-", "-", "EMA takes 3.0 % of the step"]


def test_absent_torch_is_told_in_the_table(monkeypatch):
    """The other figures are there; no PyTorch process is started."""
    scripts = []

    def open_side(self, wanted):
        scripts.append(wanted[0])
        return SimpleNamespace(side=side([1.0]), round=lambda steps: None, close=lambda: None)

    monkeypatch.setattr(benchmark.Benchmark, "_open", open_side)
    options = SimpleNamespace(tasks=["train"], batch_size=10, image_size=64, threads=1, rounds=1, steps=1)
    (row,) = benchmark.Benchmark("tinydarknet", options, has_torch=False).rows()
    assert row.vs_torch == "torch not installed" and "torch not installed" in row.cells()
    assert row.images_per_second == 10 and row.vs_plain == 1
    assert scripts == ["benchmark_mindspore.py"] * 2
    list(benchmark.Benchmark("tinydarknet", options, has_torch=True).rows())
    assert scripts[2:] == ["benchmark_mindspore.py"] * 2 + ["benchmark_torch.py"]


def test_a_python_without_torch_has_no_version():
    assert benchmark.torch_version("false") is None


def test_different_networks_are_not_compared():
    with pytest.raises(BenchmarkError, match="'project': 7, 'torch': 8"):
        benchmark.refuse_other_network({"project": side(parameters=7), "torch": side(parameters=8)})
    benchmark.refuse_other_network({"project": side(parameters=7), "torch": side(parameters=7), "onnx": side()})


def test_worker_does_the_steps_it_is_asked_for_and_cleans_up(script):
    worker = start(script, lives=100)
    worker.round(3)
    worker.round(1)
    worker.close()
    assert [len(steps) for steps in worker.side.rounds] == [3, 1]
    assert worker.side.facts["images"] == 4 and worker.side.peak_mb > 1 and worker.side.first_step_s > 0
    assert worker.process.returncode == 0 and not os.path.exists(worker.side.facts["folder"])


@pytest.mark.parametrize("lives", [0, 2])
def test_a_dead_worker_is_an_error_with_its_last_lines(script, lives):
    with pytest.raises(BenchmarkError, match=r"job.py count ended with status 1; its last lines:[\s\S]*out of lives"):
        start(script, lives).round(5)


def test_figures_are_written_as_json_and_the_failure_of_a_side_has_status_1(monkeypatch, tmp_path, capsys):
    def fail(options):
        raise BenchmarkError("it ended")

    monkeypatch.setattr(benchmark, "run", lambda options: {"rows": [1]})
    assert benchmark.main(["--json", str(tmp_path / "figures.json")]) == 0
    assert json.loads((tmp_path / "figures.json").read_text()) == {"rows": [1]}
    monkeypatch.setattr(benchmark, "run", fail)
    assert benchmark.main(["--model", "tinydarknet"]) == 1
    assert capsys.readouterr().err == "error: it ended\n"


def test_pictures_of_the_input_task(tmp_path):
    benchmark.write_jpegs(tmp_path, 6)
    files = sorted(tmp_path.glob("*/*.jpg"))
    assert [f"{file.parent.name}/{file.name}" for file in files][:2] == ["class0/0000.jpg", "class0/0004.jpg"]
    assert len(files) == 6 and len({file.read_bytes() for file in files}) == 6
    for file in files:
        with Image.open(file) as picture:
            assert picture.size == (500, 375) and picture.format == "JPEG"


@pytest.mark.parametrize("name", sorted(benchmark.MODELS))
def test_registered_model_exists(name):
    model = benchmark.MODELS[name]
    source = benchmark.ROOT / model.folder / f"{model.module.replace('.', '/')}.py"
    assert f"def {model.builder}(" in source.read_text(encoding="utf-8")
    recipe = benchmark.read_recipe(benchmark.ROOT / model.folder / model.recipe)
    assert recipe["num_classes"] > 1 and recipe["loss_scale"] >= 1 and recipe["momentum"] > 0


def of_project(spec: dict, program: str) -> dict:
    """What a program prints last as JSON, in a process that has the project's side of a benchmark and the specification."""
    start = "import json, sys; from benchmark_mindspore import *; spec = json.loads(sys.argv[1])\n"
    command = [sys.executable, "-c", start + program, json.dumps(spec)]
    result = subprocess.run(command, cwd=benchmark.ROOT / "scripts", capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_export_and_input_of_a_classifier(monkeypatch, tmp_path, capsys):
    """Real processes: what export.py writes in ONNX Runtime, and the training pipeline of the folder."""
    monkeypatch.setattr(benchmark, "JPEG_FILES", 4)
    monkeypatch.setattr(benchmark.os, "sched_setaffinity", lambda *_: None)
    small = ["--image_size", "32", "--batch_size", "1", "--rounds", "1", "--steps", "1", "--threads", "1"]
    path = tmp_path / "figures.json"
    assert benchmark.main(["--model", "tinydarknet", "--tasks", "onnx,input", *small, "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [row["task"] for row in rows] == ["onnx", "input"] and all(row["images_per_second"] > 0 for row in rows)
    assert "| tinydarknet | onnx " in capsys.readouterr().out


def test_optimizer_is_that_of_the_recipe():
    """RMSProp of TinyNet; biases and batch norms have no weight decay."""
    spec = {**asdict(benchmark.MODELS["tinynet_e"]), "measures": True}
    spec["recipe"] = benchmark.read_recipe(benchmark.ROOT / "tinynet/default_config.yaml")
    program = """
network, facts = build(spec)
optimizer = create_optimizer(network, spec)
print(json.dumps({"name": type(optimizer).__name__, "decays": sorted({float(d) for d in optimizer.weight_decay}), **facts}))
"""
    facts = of_project({**spec, "batch_size": 1}, program)
    assert facts["name"].endswith("RMSProp") and facts["parameters"] == 2042972
    assert facts["decays"] == pytest.approx([0, 1e-5])


def test_detector_has_its_loss_its_targets_and_its_decoding():
    program = """
import mindspore as ms

network, facts = build({**spec, "arguments": {"num_classes": 3, "width": 0.1, "stage_blocks": [1, 1, 1, 1]}})
ms.set_context(mode=ms.PYNATIVE_MODE)
loss_fn, rows = loss_and_targets(spec)
images = ms.Tensor(images_of(spec))
loss = float(loss_fn(network(images), rows).asnumpy())
print(json.dumps({"rows": rows.shape, "objects": int((rows.asnumpy()[..., 0] >= 0).sum()), "loss": loss,
                  "maps": [m.shape for m in for_inference(network, spec)(images)]}))
"""
    facts = of_project(detector_spec(), program)
    assert facts["rows"] == [2, 12, 7 + 3] and 2 <= facts["objects"] <= 2 * OBJECTS and facts["loss"] > 0
    assert facts["maps"] == [[2, side, side, 3, 5 + 3] for side in (2, 4, 8)]


@pytest.mark.parametrize("name", sorted(benchmark.MODELS))
def test_twin_has_as_many_weights_as_the_network(name):
    twins = pytest.importorskip("benchmark_torch").TWINS
    weights = sum(parameter.numel() for parameter in twins[name](**benchmark.MODELS[name].arguments).parameters())
    spec = {**asdict(benchmark.MODELS[name]), "measures": True, "batch_size": 1}
    assert of_project(spec, "print(build(spec)[1]['parameters'])") == weights


def detector_spec(**more):
    """Specification of a small task of the detector."""
    model = benchmark.MODELS["yolov3_res2net50"]
    recipe = {**benchmark.read_recipe(benchmark.ROOT / model.folder / model.recipe), "num_classes": 3, "max_box": 12}
    spec = {**asdict(model), "name": "yolov3_res2net50", "recipe": recipe, "batch_size": 2, "image_size": 64}
    return {**spec, "threads": 2, "measures": True, "ema_decay": 0.0, **more}


PROJECT_LOSS = """
import json, sys
import numpy as np
from benchmark_mindspore import loss_and_targets, prepare

spec = json.loads(sys.argv[1])
prepare(spec)
import mindspore as ms
from src.yolo import Decode, scales

loss_fn, rows = loss_and_targets(spec)
maps = [ms.Tensor(array) for array in np.load(spec["maps"]).values()]

def forward(big, medium, small):
    return loss_fn((big, medium, small), rows)

loss, gradients = ms.value_and_grad(forward, (0, 1, 2))(*maps)
decoded = [Decode(*scale)(raw) for scale, raw in zip(scales(spec["recipe"]["anchor_scales"]), maps)]
arrays = {f"gradient{index}": array.asnumpy() for index, array in enumerate(gradients)}
arrays.update({f"decoded{index}": array.asnumpy() for index, array in enumerate(decoded)})
np.savez(spec["path"], loss=loss.asnumpy(), rows=rows.asnumpy(), **arrays)
"""


def test_both_sides_have_the_loss_and_the_decoding_of_the_detector(tmp_path):
    detector, torch = pytest.importorskip("benchmark_torch_detector"), pytest.importorskip("torch")
    random = np.random.RandomState(0)
    arrays = [random.standard_normal((2, 3 * (5 + 3), side, side)).astype(np.float32) for side in (2, 4, 8)]
    spec = detector_spec(maps=str(tmp_path / "maps.npz"), path=str(tmp_path / "project.npz"))
    np.savez(spec["maps"], *arrays)
    (tmp_path / "loss.py").write_text(PROJECT_LOSS)  # a graph needs its source in a file
    environment = {**os.environ, "PYTHONPATH": str(benchmark.ROOT / "scripts")}
    command = [sys.executable, str(tmp_path / "loss.py"), json.dumps(spec)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    project = np.load(spec["path"])
    maps = [torch.from_numpy(array).requires_grad_() for array in arrays]
    loss_fn, rows = detector.loss_and_rows(spec)
    assert rows.shape == project["rows"].shape and rows.numpy().dtype == project["rows"].dtype
    loss = loss_fn(maps, torch.from_numpy(project["rows"]))
    loss.backward()
    assert loss.item() == pytest.approx(float(project["loss"]), rel=1e-5)
    with torch.no_grad():
        decoded = detector.Detector(lambda images: maps, spec["recipe"]["anchor_scales"])(None)
    for index, raw in enumerate(maps):
        np.testing.assert_allclose(raw.grad.numpy(), project[f"gradient{index}"], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(decoded[index].numpy(), project[f"decoded{index}"], rtol=1e-5, atol=1e-6)


def test_target_rows_of_the_twin_are_in_the_cells_of_their_boxes():
    detector = pytest.importorskip("benchmark_torch_detector")
    rows = detector.random_rows(batch=3, side=64, num_classes=5, max_box=9).numpy()
    assert rows.shape == (3, 9, 7 + 5) and (rows[:, OBJECTS:, 0] == -1).all() and not rows[:, OBJECTS:, 1:].any()
    for cell, anchor, x, y, w, h, weight, *classes in rows[:, :OBJECTS].reshape((-1, 7 + 5)):
        before, side = next((before, side) for before, side in ((20, 8), (4, 4), (0, 2)) if cell >= before)
        assert cell == before + int(y * side) * side + int(x * side) and anchor in (0, 1, 2)
        assert 0 < w < 1 and 0 < h < 1 and weight == 1 and sorted(classes) == [0, 0, 0, 0, 1]


def test_input_of_the_detector_is_left_to_its_own_script(capsys):
    options = SimpleNamespace(tasks=["input"], batch_size=None)
    (row,) = benchmark.Benchmark("yolov3_res2net50", options, has_torch=True).rows()
    assert row.cells()[1:4] == ("input", "8", "-") and row.note == "see benchmark_detection_data.py"
    with pytest.raises(SystemExit):
        benchmark.parse(["--help"])
    text = capsys.readouterr().out
    for name in ("benchmark_detection_data.py", "benchmark_postprocess.py"):
        assert name in text and (benchmark.ROOT / "scripts" / name).is_file()


def test_number_of_classes_has_one_name(tmp_path):
    (tmp_path / "old.yaml").write_text("class_num: 7")
    assert benchmark.read_recipe(tmp_path / "old.yaml")["num_classes"] == 7
    with pytest.raises(BenchmarkError, match="none.yaml cannot be read"):
        benchmark.read_recipe(tmp_path / "none.yaml")


# ---- The task `scale`, and the groups of processes that it measures

# In place of msrun: starts each rank in a process group of its own, its log where msrun has it; ends them with the first.
MSRUN = """#!{python}
import os, subprocess, sys, time
options = dict(word[2:].split("=") for word in sys.argv[1:] if word.startswith("--"))
command = [word for word in sys.argv[1:] if not word.startswith("--")]
os.mkdir(options["log_dir"])
ranks = [
    subprocess.Popen([sys.executable, *command], env={{**os.environ, "RANK_ID": str(rank)}}, start_new_session=True,
                     stdout=open(f"{{options['log_dir']}}/worker_{{rank}}.log", "w"), stderr=subprocess.STDOUT)
    for rank in range(int(options["worker_num"]))
]
while all(rank.poll() is None for rank in ranks):
    time.sleep(0.01)
for rank in ranks:
    rank.kill()
sys.exit(max(rank.wait() for rank in ranks))
"""


@pytest.fixture
def start_group(script, tmp_path, monkeypatch):
    """A group whose last process lives for so many steps."""
    msrun = tmp_path / "msrun"
    msrun.write_text(MSRUN.format(python=sys.executable))
    msrun.chmod(0o755)
    monkeypatch.setattr(benchmark_group, "SEARCH_PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("RANK_ID", "7")  # of a group that this process belongs to
    return lambda processes, lives: Group(str(script), {"processes": processes, "lives": lives})


def gone(pids):
    """Whether the processes end within ten seconds; the system may be slow to bury those without a parent."""
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("processes", [1, 3])
def test_all_processes_step_and_are_gone_at_the_end(start_group, processes):
    group = start_group(processes, lives=100)
    try:
        pids = benchmark_group.children(group.process.pid) or [group.process.pid]
        group.round(3)
        group.round(1)
    finally:
        group.close()
    assert [len(steps) for steps in group.side.rounds] == [3, 1]
    assert group.side.facts["images"] == 4 * processes and group.side.facts["threads"] == "1"
    assert group.side.peak_mb > 1 and group.side.first_step_s > 0
    assert len(pids) == processes
    assert gone(pids)
    assert not os.path.exists(group.folder.name)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_dead_process_of_a_group_is_an_error_with_its_last_lines(start_group, processes):
    with pytest.raises(BenchmarkError, match=rf"the group of {processes} was not ready; the last lines of its logs:\n"):
        start_group(processes, lives=0)
    group = start_group(processes, lives=2)
    try:
        with pytest.raises(BenchmarkError, match=rf"the group of {processes} ended; [\s\S]*chatter"):
            group.round(5)
    finally:
        group.close()


def test_a_group_that_never_comes_is_an_error(start_group, monkeypatch, tmp_path):
    (tmp_path / "msrun").write_text("#!/bin/sh\necho no such option >&2\nexit 3\n")
    with pytest.raises(BenchmarkError, match="the group of 2 was not ready; [\\s\\S]*no such option"):
        start_group(2, lives=1)
    (tmp_path / "msrun").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(benchmark_group, "START_SECONDS", 0)
    with pytest.raises(BenchmarkError, match="was not ready"):
        start_group(2, lives=1)
    monkeypatch.setattr(benchmark_group, "SEARCH_PATH", str(tmp_path / "none"))
    with pytest.raises(BenchmarkError, match="msrun was not found"):
        start_group(2, lives=1)


def test_efficiency_is_the_ratio_of_the_steps(monkeypatch):
    """Groups of 2 and 4 for 5 cores; time of a step of one process over that of the group, the median of the rounds."""
    seconds = {1: [1.0, 2.0, 1.0], 2: [1.25, 2.5, 1.0], 4: [2.0, 4.0, 3.0]}

    class Measured:
        def __init__(self, script, spec):
            size = spec["processes"]
            rounds = [[second] for second in seconds[size]]
            self.side = Side({"images": 8 * size, "batch_size": 8}, 1.0, rounds, 100.0)

        def round(self, steps):
            pass

        def close(self):
            pass

    monkeypatch.setattr(benchmark, "Group", Measured)
    monkeypatch.setattr(benchmark, "cores", lambda: [0, 1, 2, 3, 4])
    options = benchmark.parse(["--model", "tinynet_e", "--tasks", "scale"])
    rows = list(benchmark.Benchmark("tinynet_e", options, has_torch=False).rows())
    notes = ["2 processes: 80.0% of 2 times one", "4 processes: 50.0% of 4 times one"]
    assert [row.note.split(",")[0] for row in rows] == notes
    assert [row.images_per_second for row in rows] == pytest.approx([12.8, 32 / 3])
    options = benchmark.parse(["--model", "tinynet_e", "--tasks", "scale", "--threads", "1"])
    (row,) = benchmark.Benchmark("tinynet_e", options, has_torch=False).rows()
    assert row.images_per_second is None and row.note == "needs two cores or more"


@pytest.mark.long
@pytest.mark.skipif(len(benchmark.cores()) < 2, reason="a core for each of two processes is needed")
def test_two_processes_for_real(tmp_path, capfd):
    """TinyDarkNet with msrun and the exchange of the gradients."""
    path = tmp_path / "figures.json"
    arguments = ["--tasks", "scale", "--threads", "2", "--image_size", "32", "--batch_size", "2", "--steps", "1"]
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        assert benchmark.main(["--model", "tinydarknet", *arguments, "--rounds", "1", "--json", str(path)]) == 0
    finally:
        if allowed:
            os.sched_setaffinity(0, allowed)
    rows = json.loads(path.read_text())["rows"]
    assert [row["note"][:11] for row in rows] == ["2 processes"]
    assert all(row["images_per_second"] > 0 for row in rows)
    assert "2 processes" in capfd.readouterr().out


# ---- benchmark_postprocess.py and benchmark_detection_data.py


def run_program(name, *arguments):
    command = [sys.executable, str(benchmark.ROOT / "scripts" / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_postprocess_has_a_row_for_each_kind():
    """At 64 pixels there are 84 cells of 3 anchors; all of them are candidates of an untrained network, in each class."""
    done = run_program("benchmark_postprocess.py", "--side", "64", "--classes", "3", "--rounds", "1")
    assert done.returncode in (0, 1), done.stderr  # 1: a slow machine
    found = re.findall(r"(?m)^(\w+) +(\d+) +(\d+) ", done.stdout)
    rows = {name: (int(count), int(kept)) for name, count, kept in found}
    assert list(rows) == ["trained", "crowded", "untrained", "collapsed"]
    assert rows["untrained"] == (3 * 84 * 3, 100) and rows["collapsed"] == (3 * 84 * 3, 3)
    assert rows["trained"][0] < rows["crowded"][0] < rows["untrained"][0]


def test_postprocess_wrong_usage_has_status_2():
    done = run_program("benchmark_postprocess.py", "--side", "40")
    assert done.returncode == 2 and "--side takes a multiple of 32" in done.stderr


def test_colour_conversions_are_those_of_colorsys():
    rgb = np.random.default_rng(0).random((200, 3)).astype(np.float32)
    rgb[:20, 1], rgb[20:40], rgb[40] = rgb[:20, 0], rgb[20:40, :1], 0  # equal channels, greys, black
    hsv = detection_data.rgb_to_hsv(rgb)
    np.testing.assert_allclose(hsv, [colorsys.rgb_to_hsv(*colour) for colour in rgb.tolist()], atol=1e-6)
    np.testing.assert_allclose(detection_data.hsv_to_rgb(hsv), rgb, atol=1e-5)


def test_both_make_the_same_kind_of_input(tmp_path):
    paths, boxes = detection_data.write_photographs(tmp_path, 2)
    means = []
    for work in (detection_data.PillowReference(paths, boxes, 96), detection_data.Project(paths, boxes, 96)):
        inputs = [work(index, np.random.default_rng([seed, index])) for index in range(2) for seed in range(30)]
        assert all(values.shape == (3, 96, 96) and values.dtype == np.float32 for values in inputs)
        means.append(np.mean(inputs))
    assert abs(means[0] - means[1]) < 0.25


def test_detection_data_prints_a_table():
    done = run_program("benchmark_detection_data.py", "--size", "64", "--images", "2", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    rows = r"\| Pillow \| \d+ \| \d+-\d+ \| [\d.]+ \| 1.0x \|\n\| yolov3_res2net50 \| .* \| [\d.]+x \|"
    assert re.search(rows, done.stdout)

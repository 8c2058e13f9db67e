"""Throughput on the CPU of every model: one table a run, with ratios against PyTorch where it is installed.

    python scripts/benchmark.py                                        every model, every task
    python scripts/benchmark.py --model tinydarknet --tasks train,infer --rounds 9 --json figures.json

Tasks: `train` is the training step (forward, backward, update) on a fixed batch, `infer` the network, `onnx` its export
as export.py writes it, in ONNX Runtime at batch 1 and at the full batch, `input` the training input pipeline alone on
500x375 JPEG files, `ema` the training step with a moving average of the weights. The detector yolov3_res2net50 trains
on fixed boxes, and `infer` and `onnx` decode its outputs; two other scripts measure what is around it: its input pipeline
(benchmark_detection_data.py) and the way from the decoded outputs to the boxes (benchmark_postprocess.py).

Each side runs in a process of its own. The processes take turns, a few steps each, so that a change of the machine's
load meets all of them; a figure is the median of all steps, a ratio the median of the rounds' ratios (above 1: faster
than the other side). "without measures" is the same network from the framework's plain operators and without the
environment that `src.model_utils` sets. Peak memory and time to first step (from the start of the process to the end
of its first step) are the project's. Figures of a busy machine are worth little: the first lines tell its load.

Exit status: 0 measured, 1 a process failed or something is not installed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmark_group import Group
from benchmark_worker import ROOT, BenchmarkError, Side, Worker

import yaml

TASKS = ("train", "infer", "onnx", "input", "ema", "scale")
JPEG_FILES, JPEG_SIZE = 512, (500, 375)
EMA_DECAY = 0.9999
NO_TORCH = "torch not installed"
OTHER_SCRIPTS = (
    "Of the detector yolov3_res2net50 the input pipeline is measured by benchmark_detection_data.py, the post-processing "
    "by benchmark_postprocess.py."
)
HEADINGS = (
    "model", "task", "batch", "images/s", "vs PyTorch", "vs without measures", "peak MB", "first step s", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Model:
    """What the workers need to build a network; its PyTorch twin is in TWINS of benchmark_torch.py."""

    folder: str
    module: str
    builder: str
    image_size: int
    batch_size: int
    recipe: str
    arguments: dict[str, Any] = field(default_factory=dict)
    is_detector: bool = False


MODELS = {
    "tinydarknet": Model("tinydarknet", "src.tinydarknet", "tinydarknet", 224, 32, "imagenet_config.yaml"),
    "darknet53": Model("darknet53", "src.darknet53", "darknet53", 128, 8, "imagenet_config.yaml"),
    "cspdarknet53": Model("cspdarknet53", "src.cspdarknet53", "cspdarknet53", 128, 8, "default_config.yaml"),
}
for name, side in {"tinynet_a": 192, "tinynet_c": 184, "tinynet_e": 106}.items():
    MODELS[name] = Model("tinynet", "src.tinynet", "tinynet", side, 32, "default_config.yaml", {"model": name})
MODELS["yolov3_res2net50"] = Model(
    "yolov3_res2net50", "src.yolo", "yolov3_res2net50", 160, 8, "default_config.yaml", is_detector=True
)


@dataclass
class Row:
    """A line of the table; None is printed as a dash."""

    model: str
    task: str
    batch_size: int
    images_per_second: float | None
    vs_torch: float | str | None = None
    vs_plain: float | None = None
    peak_mb: float | None = None
    first_step_s: float | None = None
    note: str = ""

    def cells(self) -> tuple[str, ...]:
        def text(value: float | str | None, form: str) -> str:
            return "-" if value is None else value if isinstance(value, str) else format(value, form)

        return (
            self.model, self.task, str(self.batch_size), text(self.images_per_second, ".1f"),
            text(self.vs_torch, ".2f"), text(self.vs_plain, ".2f"), text(self.peak_mb, ".0f"),
            text(self.first_step_s, ".1f"), self.note,
        )  # fmt: skip


def ratio(ours: Side | None, other: Side | None) -> float | None:
    """How many times as fast as the other side: the median over the rounds, which were taken at the same time."""
    if ours is None or other is None:
        return None
    pairs = zip(ours.rounds, other.rounds)
    return statistics.median(statistics.median(theirs) / statistics.median(mine) for mine, theirs in pairs)


class Benchmark:
    """Measures the tasks of one model."""

    def __init__(self, name: str, options: argparse.Namespace, has_torch: bool):
        self.name, self.model, self.options, self.has_torch = name, MODELS[name], options, has_torch
        self.batch_size = options.batch_size or self.model.batch_size
        self.sides: dict[str, dict[str, Side]] = {}

    def rows(self) -> Iterator[Row]:
        for task in self.options.tasks:
            yield from getattr(self, f"_{task}")()

    def _train(self) -> Iterator[Row]:
        yield self._network("train")

    def _infer(self) -> Iterator[Row]:
        yield self._network("infer")

    def _network(self, task: str) -> Row:
        sides = self._measure(task, {"project": self._mindspore(task), "plain": self._mindspore(task, measures=False)})
        project = sides["project"]
        note = f"{1e3 * project.seconds:.1f} ms a step"
        return self._row(task, sides, vs_plain=ratio(project, sides["plain"]), note=note)

    def _onnx(self) -> Iterator[Row]:
        with tempfile.TemporaryDirectory() as folder:
            for batch_size in sorted({1, self.batch_size}):
                path = str(Path(folder) / f"{batch_size}.onnx")
                self._open(self._mindspore("export", batch_size=batch_size, path=path)).close()
                project = ("benchmark_mindspore.py", self._spec("onnx", batch_size=batch_size, path=path))
                sides = self._measure(
                    "onnx", {"project": project}, torch_task="infer", key=f"onnx {batch_size}", batch_size=batch_size
                )
                yield self._row("onnx", sides, note=f"{1e3 * sides['project'].seconds:.1f} ms a batch")

    def _input(self) -> Iterator[Row]:
        if self.model.is_detector:
            yield Row(self.name, "input", self.batch_size, None, note="see benchmark_detection_data.py")
            return
        with tempfile.TemporaryDirectory() as folder:
            write_jpegs(Path(folder), max(JPEG_FILES, 4 * self.batch_size))
            sides = self._measure("input", {"project": self._mindspore("input", path=folder)}, path=folder)
            per_core = sides["project"].images_per_second / self.options.threads
            yield self._row("input", sides, note=f"{per_core:.1f} images/s per core")

    def _ema(self) -> Iterator[Row]:
        wanted = {"project": self._mindspore("train", ema_decay=EMA_DECAY), "without": self._mindspore("train")}
        sides = self._measure("ema", wanted, torch_task="")
        cost = 1 - ratio(sides["project"], sides["without"])
        yield self._row("ema", sides, note=f"EMA takes {100 * cost:.1f} % of the step")

    def _scale(self) -> Iterator[Row]:
        """A row for each group of processes, each measured together with one process alone."""
        if self.options.threads == 1:
            yield Row(self.name, "scale", self.batch_size, None, note="needs two cores or more")
        for size in (1 << power for power in range(1, self.options.threads.bit_length())):
            wanted = {"project": self._mindspore("scale", processes=size), "one": self._mindspore("scale", processes=1)}
            sides = self._measure("scale", wanted, torch_task="", key=f"scale {size}")
            project = sides["project"]
            note = f"{size} processes: {ratio(project, sides['one']):.1%} of {size} times one"
            yield self._row("scale", sides, note=f"{note}, {1e3 * project.seconds:.1f} ms a step")

    def _row(self, task: str, sides: dict[str, Side], **more: Any) -> Row:
        project = sides["project"]
        vs_torch = ratio(project, sides.get("torch"))
        if not self.has_torch and task not in ("ema", "scale"):
            vs_torch = NO_TORCH
        return Row(
            self.name, task, project.facts["batch_size"], project.images_per_second, vs_torch,
            peak_mb=project.peak_mb, first_step_s=project.first_step_s, **more,
        )  # fmt: skip

    def _spec(self, task: str, **more: Any) -> dict[str, Any]:
        spec = {**asdict(self.model), "name": self.name, "task": task, "batch_size": self.batch_size}
        spec["image_size"] = self.options.image_size or self.model.image_size
        spec["recipe"] = read_recipe(ROOT / self.model.folder / self.model.recipe)
        return {**spec, "threads": self.options.threads, "measures": True, "ema_decay": 0.0, **more}

    def _mindspore(self, task: str, **more: Any) -> tuple[str, dict[str, Any]]:
        return "benchmark_mindspore.py", self._spec(task, **more)

    def _open(self, side: tuple[str, dict[str, Any]]) -> Worker | Group:
        script, spec = side
        if spec["task"] == "scale":
            return Group(script, spec)
        environment = dict(os.environ)
        if script == "benchmark_torch.py":
            environment["OMP_NUM_THREADS"] = str(self.options.threads)
            return Worker(script, spec, self.options.torch_python, environment)
        return Worker(script, spec, sys.executable, environment)

    def _measure(
        self, task: str, wanted: dict, torch_task: str | None = None, key: str = "", **torch_spec: Any
    ) -> dict[str, Side]:
        """Measure the wanted sides, and with them that of PyTorch where it is installed and the task has one.

        The sides are noted under `key`, by default the task.
        """
        torch_task = task if torch_task is None else torch_task
        if self.has_torch and torch_task:
            wanted["torch"] = ("benchmark_torch.py", self._spec(torch_task, **torch_spec))
        workers: dict[str, Worker | Group] = {}
        with contextlib.ExitStack() as stack:
            for name, side in wanted.items():
                print(f"{self.name} {task}: starting {name}", file=sys.stderr, flush=True)
                workers[name] = self._open(side)
                stack.callback(workers[name].close)
            for index in range(self.options.rounds):  # every second round backwards: no side is always the first
                for worker in list(workers.values())[:: -1 if index % 2 else 1]:
                    worker.round(self.options.steps)
        sides = {name: worker.side for name, worker in workers.items()}
        refuse_other_network(sides)
        self.sides[key or task] = sides
        return sides


def refuse_other_network(sides: dict[str, Side]) -> None:
    """Raise BenchmarkError where the sides did not train the same number of weights."""
    counts = {name: side.facts["parameters"] for name, side in sides.items() if "parameters" in side.facts}
    if len(set(counts.values())) > 1:
        raise BenchmarkError(f"the sides are different networks, their numbers of trainable weights: {counts}")


def read_recipe(path: Path) -> dict[str, Any]:
    """The values of a recipe, the number of classes and the label smoothing by one name whatever the recipe calls them.

    Raises:
        BenchmarkError: there is no such file.
    """
    try:
        recipe = next(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise BenchmarkError(f"{path} cannot be read ({error.strerror})") from error
    return {"num_classes": recipe.get("class_num"), "label_smooth_factor": recipe.get("smoothing"), **recipe}


def write_jpegs(folder: Path, count: int) -> None:
    """500x375 JPEG files in four class folders: different cuts of the two photographs that scikit-learn carries."""
    try:
        from PIL import Image
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise BenchmarkError(f"{error.name} is not installed: pip install -r requirements-dev.txt") from error
    photographs = [Image.fromarray(picture) for picture in load_sample_images().images]
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        free_x, free_y = photograph.width - JPEG_SIZE[0], photograph.height - JPEG_SIZE[1]
        left, top = index * 7 % (free_x + 1), index * 5 % (free_y + 1)
        path = folder / f"class{index % 4}" / f"{index:04d}.jpg"
        path.parent.mkdir(exist_ok=True)
        photograph.crop((left, top, left + JPEG_SIZE[0], top + JPEG_SIZE[1])).save(path, quality=90)


def format_table(rows: list[Row]) -> str:
    """A Markdown table with aligned columns."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    texts = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines]
    texts.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(texts)


def torch_version(python: str) -> str | None:
    """Version of the PyTorch that an interpreter has; None where it has none."""
    command = [python, "-c", "import torch; print(torch.__version__)"]
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def cores() -> list[int]:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def machine() -> dict[str, Any]:
    """The processor, the cores and how busy they are."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return {"processor": name, "cores": len(cores()), "load": round(load, 2), "python": platform.python_version()}


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def _tasks(text: str) -> list[str]:
    tasks = text.split(",")
    for task in tasks:
        if task not in TASKS:
            raise argparse.ArgumentTypeError(f"{task!r} is not a task; a list of {','.join(TASKS)} is accepted")
    return list(dict.fromkeys(tasks))


def parse(argv: list[str] | None) -> argparse.Namespace:
    description = "Throughput of the models on the CPU, with ratios against PyTorch."
    parser = argparse.ArgumentParser(description=description, epilog=OTHER_SCRIPTS)
    add, available = parser.add_argument, len(cores())
    add("--model", choices=[*MODELS, "all"], default="all", help="model to measure (default %(default)s)")
    add("--tasks", type=_tasks, default=list(TASKS), help=f"comma-separated list of {','.join(TASKS)} (default all)")
    add("--batch_size", type=_positive, help="images of a step (default: that of the model)")
    add("--image_size", type=_positive, help="side of the images in pixels (default: that of the model)")
    add("--steps", type=_positive, default=5, help="steps of each side in a round (default %(default)s)")
    add("--rounds", type=_positive, default=5, help="rounds, in which the sides take turns (default %(default)s)")
    add("--threads", type=_positive, default=available, help="cores to use (default all: %(default)s)")
    add("--torch_python", default=sys.executable, help="Python that has PyTorch (default: this one)")
    add("--json", metavar="FILE", help="write all figures to FILE as well")
    options = parser.parse_args(argv)
    if options.image_size is not None and (options.image_size < 32 or options.image_size % 32):
        parser.error(f"argument --image_size: {options.image_size} is not a multiple of 32")
    if options.threads > available:
        parser.error(f"argument --threads: {options.threads} is more than the {available} cores of this process")
    if options.json and (Path(options.json).is_dir() or not Path(options.json).absolute().parent.is_dir()):
        parser.error(f"argument --json: {options.json} is not a file name in an existing folder")
    options.torch_version = torch_version(options.torch_python)
    if options.torch_version is None and options.torch_python != sys.executable:
        parser.error(f"argument --torch_python: {options.torch_python} is not a Python that has PyTorch")
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure; prints the table at the end and returns all figures."""
    about = {**machine(), "threads": options.threads, "torch": options.torch_version or NO_TORCH}
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    if about["load"] > 0.5:
        print(f"the machine is busy (load {about['load']} on {about['cores']} cores): the figures vary", flush=True)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores()[: options.threads])  # the children inherit it
    rows, samples = [], {}
    for name in MODELS if options.model == "all" else [options.model]:
        benchmark = Benchmark(name, options, options.torch_version is not None)
        rows += benchmark.rows()
        for task, sides in benchmark.sides.items():
            samples[f"{name} {task}"] = {key: asdict(side) for key, side in sides.items()}
    print(format_table(rows), flush=True)
    return {"machine": about, "rows": [asdict(row) for row in rows], "samples": samples}


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    try:
        figures = run(options)
        if options.json:
            Path(options.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    except (BenchmarkError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # leave through the clean-up of the children
    sys.exit(main())

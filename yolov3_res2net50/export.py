"""Export a checkpoint as MINDIR, ONNX or AIR, with a JSON description of its input and classes beside it.

    python export.py --ckpt_file 0_best.ckpt --file_format ONNX --quantize int8 --calibration_data dataset/coco2017/train2017

With --quantize int8 --calibration_data DIR an ONNX export, whose batch norm is folded, writes a statically quantized
model as well, NAME_int8.onnx; a report of sizes and times, and of the AP before and after where data_dir, or img_path and
annFile, name an evaluation set, NAME_int8_report.json; and what MindSpore Lite's converter needs to quantize the network
for Ascend, NAME_converter.cfg and the folder NAME_calibration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from src.detect.prediction import PLAIN_WEIGHTS, with_size
from src.model_utils import moxing_adapter, program
from src.model_utils.config import Config
from src.model_utils.errors import UsageError
from src.model_utils.exporting import export_checkpoint
from src.model_utils.logger import init_logger
from src.recipe import MODEL
from src.yolo import Detector

from mindspore import nn

SHOWN = (  # sections and keys of the recipe in --help; in the second line those of the report about int8
    "Export", "use_ema", "testing_shape", "test_img_shape", *PLAIN_WEIGHTS, "Device", "ModelArts",
    "data_dir", "img_path", "annFile", "check_images", "max_pixels", "allow_outside_paths", "num_parallel_workers",
    "nms_thresh", "eval_ignore_threshold", "max_detections",
)  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    config = MODEL.read_config(argv, __doc__, SHOWN)
    check_options(config)
    with moxing_adapter.job(config, adapt_paths) as config:
        init_logger(None, "export.log")
        if config.quantize == "int8":
            from src.quantize import int8  # the only part that needs ONNX Runtime

            int8.check(config)
            config = config.replace(fold_bn=True)

        def prepare(network: nn.Cell, about: dict[str, Any]) -> nn.Cell:
            about["input"] = with_size(config, about["input"], is_fixed=False)
            about["decoded"] = config.keep_detect
            return Detector(network) if config.keep_detect else network

        path = export_checkpoint(MODEL, config, config.ckpt_file, config.file_name, config.export_batch_size, prepare)
        if path is not None and config.quantize == "int8":
            int8.quantize(path, config)


def check_options(config: Config) -> None:
    """Raise UsageError for a quantization that cannot be."""
    if config.quantize == "none":
        return
    if config.file_format != "ONNX" or not config.keep_detect:
        raise UsageError(
            f"quantize={config.quantize} file_format={config.file_format} keep_detect={config.keep_detect}: only ONNX "
            "with keep_detect true is quantized"
        )
    if not config.calibration_data:
        raise UsageError(f"quantize={config.quantize} needs --calibration_data DIR, a folder of some hundred pictures")
    if "fold_bn" in config.given and not config.fold_bn:
        raise UsageError(
            f"--fold_bn False contradicts quantize={config.quantize}, which folds batch norm; leave it out"
        )


def adapt_paths(config: Config) -> Config:
    """Where a ModelArts job finds its checkpoint and leaves its result."""
    return config.replace(
        ckpt_file=moxing_adapter.checkpoint_file(config) if config.checkpoint_url else config.ckpt_file,
        file_name=str(Path(config.output_path) / config.file_name),
    )


if __name__ == "__main__":
    program.run(main)

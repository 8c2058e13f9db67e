"""Static quantization of an exported ONNX model to int8, with a report of what is won and what is lost.

Written beside MODEL.onnx:
    MODEL_int8.onnx          weights int8 for each output channel, activations uint8 (QDQ: QuantizeLinear and
                             DequantizeLinear around the operators); infer.py runs it. With it its description, .json
    MODEL_int8_report.json   sizes, times, AP before and after
    MODEL_converter.cfg      configuration of MindSpore Lite's converter_lite, for Ascend
    MODEL_calibration/       the calibration pictures as the network is fed them, for converter_lite; it may be removed

What was chosen, by measurement of AP and time on a detector of digits:
- In float32 stay the output layers and everything behind them (sigmoid, exp, the arithmetic of the boxes: in int8 up to
  two points of AP are lost), and the sums of the residual blocks, whose terms would share a scale; neither costs time.
- Weights use 7 of the 8 bits: processors without VNNI add two products in 16 bits, which 8 bits could overflow.
- The range of an activation is that from its smallest to its largest value in the calibration. Percentiles gave no less
  AP, but ONNX Runtime keeps every activation of every picture in memory for them.
Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

import numpy as np

from ..dataset import find_classes
from ..detect.evaluation import require_evaluation
from ..model_utils.config import Config
from ..model_utils.device_adapter import Device
from ..model_utils.errors import DataError
from ..model_utils.inference import digest, read_description
from ..model_utils.logger import get_logger
from ..recipe import MODEL
from .calibration import converter_configuration, find_calibration_pictures, read_batch, write_batches
from .comparison import compare, evaluation_data, log_table

OPSET = 13  # the first one with a scale for each channel


def check(config: Config) -> None:
    """Raise DataError for what would end a quantization, before the export: packages, calibration and evaluation data."""
    import_quantizer()
    find_calibration_pictures(config.calibration_data)
    refuse_foreign_folder(_beside(Path(config.file_name), "_calibration"))
    if evaluation_data(config):
        require_evaluation(config)
        find_classes(config, "val", Device("CPU", 0))


def import_quantizer() -> Any:
    """onnxruntime.quantization.

    Raises:
        DataError: it is not installed.
    """
    try:
        import onnxruntime.quantization
    except ImportError as error:
        raise DataError(f"quantize=int8 needs ONNX Runtime and onnx ({error}); pip install onnxruntime onnx") from error
    return onnxruntime.quantization


def refuse_foreign_folder(folder: Path) -> None:
    """Raise DataError where the folder of calibration data would replace something else than an earlier one."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir() or any(path.suffix != ".bin" for path in folder.iterdir()):
        raise DataError(f"{folder} exists and holds other files than calibration data; move it away")


def quantize(path: Path, config: Config) -> dict[str, Any]:
    """Quantize an exported model; all files appear under their names when everything is done.

    Args:
        path: .onnx file that `export_checkpoint` wrote, with its description beside it.
        config: `calibration_data`, the evaluation data and what an evaluation takes of a recipe.

    Returns:
        The report.

    Raises:
        DataError: calibration or evaluation data that cannot be used, a model that cannot be quantized, a full disk.
    """
    about = {**read_description(MODEL, path), "quantized": "int8"}
    names = ("_int8.onnx", "_int8.onnx.json", "_int8_report.json", "_converter.cfg", "_calibration")
    try:
        with tempfile.TemporaryDirectory(prefix="tmp_quantize_", dir=path.parent) as place:
            model, description, report_file, configuration, calibration = (
                Path(place, path.stem + name) for name in names
            )
            files = find_calibration_pictures(config.calibration_data)
            batches, pictures = write_batches(files, about, calibration)
            quantize_file(path, model, [lambda file=file: read_batch(file, about) for file in batches])
            about["sha256"] = digest(model)
            description.write_text(json.dumps(about, indent=2), encoding="utf-8")
            report = compare(path, model, read_batch(batches[0], about), config)
            report["calibration"] = {"pictures": pictures, "ranges": "smallest to largest value"}
            report_file.write_text(json.dumps(report, indent=2), encoding="utf-8")
            text = converter_configuration(path.stem, calibration.name, len(batches), _input_name(path), about)
            configuration.write_text(text, encoding="utf-8")
            for file in (model, description, report_file, configuration, calibration):
                _publish(file, path.parent)
    except OSError as error:
        raise DataError(
            f"{_beside(path, '_int8.onnx')} cannot be made: {error}; see to the disk space and the rights of its folder"
        ) from error
    log_table(report)
    logger = get_logger()
    logger.info("quantized with %d pictures: %s", pictures, _beside(path, "_int8.onnx"))
    logger.info("report: %s", _beside(path, "_int8_report.json"))
    logger.info("for Ascend: %s and %s", _beside(path, "_converter.cfg"), _beside(path, "_calibration"))
    return report


def _beside(path: Path, ending: str) -> Path:
    """A file of `quantize`; `path` is the model, with or without its ending."""
    return path.with_name((path.stem if path.suffix == ".onnx" else path.name) + ending)


def _publish(file: Path, folder: Path) -> None:
    """Move a file, or the folder of calibration data, to where it belongs; an earlier one is replaced."""
    target = folder / file.name
    if file.is_dir() and os.path.lexists(target):
        refuse_foreign_folder(target)
        shutil.rmtree(target)
    os.replace(file, target)


def _input_name(path: Path) -> str:
    import onnx

    return onnx.load(str(path)).graph.input[0].name


# ---- The quantized model ---------------------------------------------------------------------------------------------


def quantize_file(path: Path, target: Path, batches: Sequence[Callable[[], np.ndarray]]) -> None:
    """Write an int8 model; the folder of `target` takes temporary files.

    Args:
        path: float model, batch norm folded, with one input and a decoding behind its last convolutions.
        target: int8 model.
        batches: functions that return the input of a call each, (batch_size, 3, height, width) float32.

    Raises:
        DataError: ONNX Runtime cannot quantize it.
    """
    quantizer = import_quantizer()
    prepared = target.with_name("prepared.onnx")
    try:
        name = _prepare(path, prepared)
        quantizer.quantize_static(
            str(prepared),
            str(target),
            _reader(quantizer.CalibrationDataReader, name, batches),
            quant_format=quantizer.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=quantizer.QuantType.QUInt8,
            weight_type=quantizer.QuantType.QInt8,
            nodes_to_exclude=float_nodes(prepared),
            calibrate_method=quantizer.CalibrationMethod.MinMax,
        )
    except OSError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions have no common public base
        raise DataError(f"{path} cannot be quantized: {str(error).splitlines()[0]}") from error


def _prepare(path: Path, prepared: Path) -> str:
    """Write the model with the operators and shapes that the quantizer needs; returns the name of its input."""
    import onnx
    from onnx import version_converter
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = onnx.load(str(path))
    if model.opset_import[0].version < OPSET:
        model = version_converter.convert_version(model, OPSET)
    onnx.save(model, str(prepared))
    # Removes the copies of constants, behind which the quantizer does not see the weights.
    quant_pre_process(str(prepared), str(prepared), skip_symbolic_shape=True)
    return model.graph.input[0].name


def _reader(base: type, name: str, batches: Sequence[Callable[[], np.ndarray]]) -> Any:
    """What ONNX Runtime asks for one input after the other."""

    class Reader(base):
        def __init__(self):
            self.remaining = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.remaining, None)
            return None if batch is None else {name: batch()}

    return Reader()


def float_nodes(path: Path) -> list[str]:
    """Names of the nodes of a model that stay in float32: sums, the last convolutions, and everything behind these."""
    import onnx

    graph = onnx.load(str(path)).graph
    producers = {output: node for node in graph.node for output in node.output}
    found = {node.name for node in graph.node if node.op_type == "Add"}
    visited, names = set(), [output.name for output in graph.output]
    while names:
        node = producers.get(names.pop())
        if node is None or node.name in visited:
            continue
        visited.add(node.name)
        names += node.input if node.op_type != "Conv" else []
    return sorted(found | visited)

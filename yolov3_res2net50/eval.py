"""Evaluate a checkpoint by COCO's measures, over every image of the evaluation data, each counted once.

    python eval.py --data_dir dataset/coco2017 --pretrained 0-320_146560.ckpt --testing_shape 416

Written, in log_path: the detections in COCO's result format, predict_<time>.json; the measures of each class,
per_class.csv; the precision-recall curves, precision_recall.png.
"""

from __future__ import annotations

import time
from typing import Any

from src.data.coco import data_paths, read_split
from src.dataset import input_spec
from src.detect.evaluation import evaluate, match_outputs, report, require_evaluation
from src.model_utils import device_adapter, moxing_adapter, program
from src.model_utils.config import Config
from src.model_utils.dataset_checks import data_errors
from src.model_utils.errors import UsageError
from src.model_utils.inference import load_network, with_input
from src.model_utils.logger import init_logger
from src.recipe import MODEL, require_agreement
from src.yolo import Detector

SHOWN = (  # sections and keys of the recipe in --help
    "Data", "Network", "Evaluation", "pretrained", "allow_partial_load", "class_names", "use_ema", "per_batch_size", "log_path",
    "Device", "Several devices", "ModelArts"
)  # fmt: skip


def with_size(config: Config, about: dict[str, Any]) -> Config:
    """The recipe with the input that the weights were made for; a size of the command line goes first."""
    config = with_input(config, about)
    if {"testing_shape", "test_img_shape"} & config.given:
        return config
    return config.replace(test_img_shape=[about["input"]["height"], about["input"]["width"]], testing_shape="")


def main(argv: list[str] | None = None) -> None:
    config = MODEL.read_config(argv, __doc__, SHOWN)
    with moxing_adapter.job(config, adapt_paths) as config:
        if not config.pretrained:
            raise UsageError("--pretrained is missing; give the checkpoint to evaluate, a .ckpt file")
        require_evaluation(config)
        device = device_adapter.init(config, config.is_distributed)
        require_agreement(config, device)
        logger = init_logger(config.log_path, "eval.log", device.rank)
        images, annotations = data_paths(config, "val")
        network, about = load_network(MODEL, config.pretrained, config, use_ema=config.use_ema)
        config = with_size(config, about)
        spec = input_spec(config)
        names = MODEL.find_classes(config, "val", device)
        coco = read_split(config, "val")
        ids = {"ids": coco.category_ids, "output_ids": spec["category_ids"]}
        outputs = match_outputs(names, about["class_names"], config.num_classes, annotations, **ids)
        dataset = MODEL.create_dataset(config, "val", device, names)
        logger.info("%d images of %s at %dx%d", len(coco.image_ids), annotations, spec["height"], spec["width"])
        if config.dry_run:
            with data_errors(images):
                next(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))
            logger.info("dry run: everything was built, nothing was evaluated")
            return
        start = time.monotonic()
        results = evaluate(Detector(network).set_train(False), dataset, coco, spec, config, device, outputs)
        if device.is_main:
            report(results, coco.annotations, config)
        logger.info("testing cost time %.2f h", (time.monotonic() - start) / 3600)


def adapt_paths(config: Config) -> Config:
    """Where a ModelArts job finds its data and its checkpoint; data_dir and pretrained go first where they are given."""
    return config.replace(
        data_dir=config.data_dir or moxing_adapter.data_dir(config),
        pretrained=config.pretrained or (moxing_adapter.checkpoint_file(config) if config.checkpoint_url else ""),
        log_path=config.output_path,
    )


if __name__ == "__main__":
    program.run(main)

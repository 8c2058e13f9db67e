"""The programs of the toy model, as functions of a command line, and as a process: python programs.py NAME ARGUMENT..."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(ROOT / "utils"), str(ROOT / "tests")]

from model_utils import device_adapter, moxing_adapter, program
from model_utils.classification import infer, label_list, postprocess
from model_utils.classification.evaluation import evaluate, load_for_evaluation
from model_utils.classification.loss import smoothed_cross_entropy
from model_utils.exporting import export_checkpoint
from model_utils.logger import init_logger
from model_utils.optimizers import momentum_sgd
from model_utils.pretrained import create_network
from model_utils.schedules import warmup_cosine_annealing_lr
from model_utils.training import find_data, train
from toy.model import MODEL


def run_train(argv=None, callbacks=None):
    config = MODEL.read_config(argv, __doc__)
    with moxing_adapter.job(config, lambda config: config) as config:
        device = device_adapter.init(config)
        init_logger(config.run_dir, "train.log", device.rank)
        data = find_data(MODEL, config, device)
        config, about, network = create_network(MODEL, config, data.class_names, config.pretrained)
        smoothing = config.label_smooth_factor if config.use_label_smooth else 0.0
        rates = warmup_cosine_annealing_lr(
            config.lr, data.steps_per_epoch, config.epochs, config.T_max, 0.0, config.warmup_epochs
        )
        optimizer = momentum_sgd(
            network, rates, momentum=config.momentum, weight_decay=config.weight_decay,
            head=MODEL.is_head, head_lr_factor=config.head_lr_factor,
        )  # fmt: skip
        return train(
            MODEL, config, device, data, network=network, about=about,
            loss_fn=smoothed_cross_entropy(config.num_classes, smoothing), learning_rates=rates, optimizer=optimizer,
            callbacks=callbacks,
        )  # fmt: skip


def run_eval(argv=None):
    config = MODEL.read_config(argv, __doc__)
    device = device_adapter.init(config)
    logger = init_logger(config.run_dir, "eval.log", device.rank)
    config, network, dataset = load_for_evaluation(
        MODEL, config, device, config.checkpoint_path, use_ema=config.use_ema
    )
    if not config.dry_run:
        images = MODEL.count_images(config, "val")
        totals = evaluate(network, dataset, config.batch_size, images, device)
        logger.info("accuracy: %s", totals.accuracies())
        return totals


def run_export(argv=None):
    config = MODEL.read_config(argv, __doc__)
    init_logger(None, "export.log")
    batch_size = config.batch_size if "batch_size" in config.given else 1
    return export_checkpoint(MODEL, config, config.checkpoint_path, config.file_name, batch_size)


def run_infer(argv=None):
    infer.run(MODEL, argv, (*infer.SHOWN, "Network"))


def run_postprocess(argv=None):
    postprocess.run(MODEL, argv)


def run_label_list(argv=None):
    label_list.run(MODEL, argv)


if __name__ == "__main__":
    name = sys.argv.pop(1)
    main = {
        "train": run_train, "eval": run_eval, "export": run_export,
        "infer": run_infer, "postprocess": run_postprocess, "label_list": run_label_list,
    }[name]  # fmt: skip
    # A returned object other than a status would become the exit status.
    program.run(lambda: main() if name == "train" else (main(), None)[1])

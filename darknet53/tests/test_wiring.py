"""One small run through all programs, and (--long) what the network learns."""

import re

from classifier.wiring import Learning, Programs


class TestPrograms(Programs):
    LEARNING = {
        "flip_prob": 0, "color_jitter": "0.1,0.1,0.1,0", "crop_scale": 0.8, "ema_decay": 0.5, "label_smooth_factor": 0.2,
    }  # fmt: skip
    STATE, BEST = "darknet53-{}_5.ckpt", "darknet53_best.ckpt"
    NETWORK = {"activation": "leaky_relu", "negative_slope": 0.1, "stage_blocks": [1, 1, 1, 1, 1]}
    CLASSES, EXPORT = "class_num", "--checkpoint_path"
    CONTRADICTIONS = ["--activation=mish", "--negative_slope=0.2"]
    READ = {
        "train": "lr momentum stage_blocks flip_prob log_interval dataset_sink_mode device_num",
        "eval": "crop_ratio use_ema negative_slope device_num",
        "export": "fold_bn batch_size activation",
        "infer": "top_k mean",
    }

    @staticmethod
    def evaluation_options(path, data, out):
        return ["--val_data_dir", data, "--run_dir", out, "--checkpoint_path", path]

    @staticmethod
    def read_accuracy(log, path):
        line = r"(?m)^result: \{'top_5_accuracy': (\S+), 'top_1_accuracy': (\S+)\} ckpt= (\S+)$"
        top_5, top_1, name = re.search(line, log).groups()
        assert name == str(path)
        return float(top_1), float(top_5)

    @staticmethod
    def pretrained(path):
        return {"pre_trained": path}


class TestLearning(Learning):
    programs = TestPrograms
    GENTLE = {
        "flip_prob": 0, "color_jitter": "0,0,0,0", "crop_scale": 0.6, "image_height": 64, "image_width": 64, "batch_size": 16,
    }  # fmt: skip
    FIRST_LAYERS = "conv0.*,conv1.*,layer1.*,conv2.*,layer2.*"

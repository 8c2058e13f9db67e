"""One small run through all programs, and (--long) what the network learns."""

import re

from classifier.wiring import Learning, Programs


class TestPrograms(Programs):
    LEARNING = {
        "flip_prob": 0, "color_jitter": "0.1,0.1,0.1,0", "crop_scale": 0.8, "lr": 0.005, "ema_decay": 0.5,
        "label_smooth_factor": 0.2,
    }  # fmt: skip
    STATE, BEST = "ckpt_0/0-{}_5.ckpt", "ckpt_0/0_best.ckpt"
    NETWORK = {"activation": "mish", "negative_slope": 0.1, "stage_blocks": [1, 1, 1, 1, 1]}
    RUN_LINES = (
        r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d:INFO:epoch\[2\], iter\[10\], loss: \d+\.\d{6}, "
        r"mean_fps: \d+\.\d\d imgs/sec, per_step_time: \d+\.\d\d ms$",
    )
    EXPORT_BATCH = "--export_batch_size"
    CONTRADICTIONS = ["--activation=relu"]
    RESULT = "Total data: 40, top1 accuracy: {top_1}, top5 accuracy: {top_5}\n"
    READ = {
        "train": "lr momentum stage_blocks flip_prob log_interval dataset_sink_mode is_distributed",
        "eval": "crop_ratio use_ema negative_slope is_distributed",
        "export": "fold_bn export_batch_size activation",
        "infer": "top_k mean",
    }

    @staticmethod
    def evaluation_options(path, data, out):
        return ["--is_distributed=0", f"--data_dir={data}", f"--log_path={out}", f"--pretrained={path}"]

    @staticmethod
    def read_accuracy(log, path):
        lines = (
            r"(?m)^Inference Performance: \d+\.\d\d img/sec\n"
            r"top1_correct=(\d+), tot=(\d+), acc=(\d+\.\d\d)%\(TOP1\)\n"
            r"top5_correct=(\d+), tot=(\d+), acc=(\d+\.\d\d)%\(TOP5\)$"
        )
        top_1, total, share_1, top_5, again, share_5 = re.search(lines, log).groups()
        assert total == again and (share_1, share_5) == tuple(
            f"{100 * int(n) / int(total):.2f}" for n in (top_1, top_5)
        )
        return int(top_1) / int(total), int(top_5) / int(total)

    @staticmethod
    def averaged(pictures, folder):
        """A list of the same pictures, as the training said of the folder."""
        paths = sorted(pictures.rglob("*.jpg"), key=lambda path: path.name)
        lines = "".join(f"{path.parent.name}/{path.name} {path.parent.name}\n" for path in paths)
        (folder / "list.txt").write_text(lines)
        return [f"--list_file={folder / 'list.txt'}"]

    @staticmethod
    def pretrained(path):
        return {"pretrained": path}


class TestLearning(Learning):
    programs = TestPrograms
    GENTLE = {
        "flip_prob": 0, "color_jitter": "0,0,0,0", "crop_scale": 0.6, "image_size": "64,64", "per_batch_size": 16,
    }  # fmt: skip
    EPOCHS, WEIGHTS = "max_epoch", "pretrained"
    FIRST_LAYERS = "stem.*,stages.0.*,stages.1.*"

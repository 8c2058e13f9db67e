"""Time from the outputs of the YOLOv3 detector to the boxes of one picture, on one core.

    python scripts/benchmark_postprocess.py --side 416 --classes 80 --rounds 50

The outputs are drawn at random, in four kinds: "trained" has objects that a few hundred cells have found, "crowded" many
of them, "untrained" a score above the threshold for every cell and class, "collapsed" the same box everywhere, which no
limit on the number of detections cuts short. Candidates are the scores above the threshold, 0.001; at most 100 are kept.

Exit status: 0 measured, 1 "trained" takes more than 10 ms, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "yolov3_res2net50"))

from src.detect.boxes import detect, place  # noqa: E402

import numpy as np  # noqa: E402

MOST = 10.0  # milliseconds for a picture
STRIDES = (32, 16, 8)
ANCHORS = np.array([[10, 13], [16, 30], [33, 23], [30, 61], [62, 45], [59, 119], [116, 90], [156, 198], [373, 326]])
# Mean of the logits of objectness and classes where an object is and elsewhere, their spread, share of the former cells.
KINDS = {
    "trained": (0.0, -7.0, -8.0, 1.5, 0.05),
    "crowded": (0.0, -5.0, -6.0, 2.0, 0.25),
    "untrained": (0.0, 0.0, 0.0, 0.1, 1.0),
    "collapsed": (0.0, 0.0, 0.0, 0.1, 1.0),
}
PICTURE = (480, 640)  # height, width
THRESHOLDS, LIMIT = (0.001, 0.5), 100


def random_outputs(kind: str, side: int, classes: int, seed: int) -> list[np.ndarray]:
    """Decoded maps (h, w, 3, 5 + classes) float32 for an input of `side` x `side` pixels."""
    random = np.random.RandomState(seed)
    inside, outside, of_classes, spread, share = KINDS[kind]
    maps = []
    for scale, stride in enumerate(STRIDES):
        cells = side // stride
        grid = np.stack(np.meshgrid(np.arange(cells), np.arange(cells)), -1)[:, :, None]
        logits = spread * random.standard_normal((cells, cells, 3, 1 + classes))
        logits[..., 0] += np.where(random.uniform(0, 1, (cells, cells, 1)) < share, inside, outside)
        logits[..., 1:] += of_classes
        centres = (grid + random.uniform(0, 1, (cells, cells, 3, 2))) / cells
        sizes = np.exp(0.3 * random.standard_normal(centres.shape)) * ANCHORS[6 - 3 * scale : 9 - 3 * scale] / 416
        if kind == "collapsed":
            centres, sizes = np.full_like(centres, 0.5), np.full_like(sizes, 0.4)
        maps.append(np.concatenate([centres, sizes, 1 / (1 + np.exp(-logits))], axis=-1).astype(np.float32))
    return maps


def measure(kind: str, side: int, classes: int, rounds: int) -> tuple[int, int, list[float]]:
    """Candidates and kept ones of the last picture, and the milliseconds of each, for as many pictures as rounds."""
    placement, times, count, kept = place(PICTURE, (side, side), keep_ratio=True), [], 0, 0
    for seed in range(rounds):
        maps = random_outputs(kind, side, classes, seed)
        start = time.perf_counter()
        found = detect(maps, placement, PICTURE, (side, side), *THRESHOLDS, LIMIT)
        times.append(1e3 * (time.perf_counter() - start))
        count, kept = sum(int((m[..., 4:5] * m[..., 5:] > THRESHOLDS[0]).sum()) for m in maps), len(found.scores)
    return count, kept, times


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--side", type=int, default=416, help="of the network's input in pixels, a multiple of 32 [416]"
    )
    parser.add_argument("--classes", type=int, default=80, help="[80]")
    parser.add_argument("--rounds", type=int, default=50, help="pictures of each kind [50]")
    options = parser.parse_args(argv)
    if options.side < 32 or options.side % 32 or min(options.classes, options.rounds) < 1:
        parser.error("--side takes a multiple of 32, --classes and --rounds 1 or more")
    print(f"{'outputs':<10} {'candidates':>10} {'kept':>5} {'median ms':>10} {'fastest ms':>11}")
    medians = {}
    for kind in KINDS:
        count, kept, times = measure(kind, options.side, options.classes, options.rounds)
        medians[kind] = statistics.median(times)
        print(f"{kind:<10} {count:10d} {kept:5d} {medians[kind]:10.2f} {min(times):11.2f}", flush=True)
    return int(medians["trained"] > MOST)


if __name__ == "__main__":
    sys.exit(main())

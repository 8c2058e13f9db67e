"""PyTorch's side of benchmark.py: the same networks in eager mode, the same input pipeline from PIL."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import benchmark_torch_detector as detector
from benchmark_worker import Job, serve

import numpy as np
import torch
from torch import nn

POOL = "max pool 2x2"
TINYDARKNET = (
    (3, 16), POOL, (3, 32), POOL, (1, 16), (3, 128), (1, 16), (3, 128), POOL, (1, 32), (3, 256), (1, 32), (3, 256),
    POOL, (1, 64), (3, 512), (1, 64), (3, 512), (1, 128),
)  # fmt: skip
DARKNET53_STAGES = (1, 2, 8, 8, 4)  # residual blocks of each stage
# Repeats, kernel size, stride, expansion, channels of EfficientNet-B0; multipliers of channels and repeats.
EFFICIENTNET_STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip
TINYNET_TWISTS = {
    "tinynet_a": (1.0, 1.2), "tinynet_b": (0.75, 1.1), "tinynet_c": (0.54, 0.85), "tinynet_d": (0.54, 0.695),
    "tinynet_e": (0.51, 0.6),
}  # fmt: skip


class GlobalAverage(nn.Module):
    """(N, C, H, W) to (N, C)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def tinydarknet(num_classes: int = 1000) -> nn.Module:
    """darknet's tiny.cfg, (kernel size, channels) by layer, as a PyTorch user writes it down."""
    layers: list[nn.Module] = []
    channels = 3
    for layer in TINYDARKNET:
        if layer == POOL:
            layers.append(nn.MaxPool2d(2, 2))
            continue
        kernel_size, width = layer
        layers.append(nn.Conv2d(channels, width, kernel_size, padding=kernel_size // 2, bias=False))
        layers += [nn.BatchNorm2d(width), nn.LeakyReLU(0.1, inplace=True)]
        channels = width
    return nn.Sequential(*layers, nn.Conv2d(channels, num_classes, 1), GlobalAverage())


def conv_block(in_channels: int, channels: int, kernel_size: int, activation: nn.Module, stride: int = 1) -> nn.Module:
    """Convolution, batch norm, activation; `activation` has no weights and may work in place."""
    conv = nn.Conv2d(in_channels, channels, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), activation)


class Residual(nn.Module):
    """x + 3x3(1x1(x)), with `hidden` channels between."""

    def __init__(self, channels: int, hidden: int, activation: nn.Module):
        super().__init__()
        self.conv1 = conv_block(channels, hidden, 1, activation)
        self.conv2 = conv_block(hidden, channels, 3, activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.conv1(x)) + x


def darknet53(num_classes: int = 1000) -> nn.Module:
    """Table 1 of the YOLOv3 paper."""
    activation = nn.LeakyReLU(0.1, inplace=True)
    layers, channels = [conv_block(3, 32, 3, activation)], 32
    for blocks in DARKNET53_STAGES:
        layers.append(conv_block(channels, 2 * channels, 3, activation, stride=2))
        channels *= 2
        layers += [Residual(channels, channels // 2, activation) for _ in range(blocks)]
    return nn.Sequential(*layers, GlobalAverage(), nn.Linear(channels, num_classes))


class CSPStage(nn.Module):
    """Halves the sides, then residual blocks on one part of the channels, then merges both parts."""

    def __init__(self, in_channels: int, channels: int, blocks: int, is_first: bool, activation: nn.Module):
        super().__init__()
        part = channels if is_first else channels // 2
        hidden = channels // 2
        self.down = conv_block(in_channels, channels, 3, activation, stride=2)
        self.shortcut = conv_block(channels, part, 1, activation)
        self.main = nn.Sequential(
            conv_block(channels, part, 1, activation),
            *(Residual(part, hidden, activation) for _ in range(blocks)),
            conv_block(part, part, 1, activation),
        )
        self.merge = conv_block(2 * part, channels, 1, activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.down(x)
        return self.merge(torch.cat((self.main(x), self.shortcut(x)), 1))


def cspdarknet53(num_classes: int = 1000) -> nn.Module:
    """The network of the CSPNet paper with darknet's Mish."""
    activation = nn.Mish(inplace=True)
    layers, channels = [conv_block(3, 32, 3, activation)], 32
    for index, blocks in enumerate(DARKNET53_STAGES):
        layers.append(CSPStage(channels, 2 * channels, blocks, index == 0, activation))
        channels *= 2
    return nn.Sequential(*layers, GlobalAverage(), nn.Linear(channels, num_classes))


class SqueezeExcite(nn.Module):
    """A factor for each channel, from the means of all channels."""

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.expand(nn.functional.silu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()


class InvertedResidual(nn.Module):
    """EfficientNet's block: expand, depthwise, squeeze-and-excite, project."""

    def __init__(self, in_channels: int, channels: int, kernel_size: int, stride: int, expansion: int):
        super().__init__()
        hidden, self.adds = in_channels * expansion, stride == 1 and in_channels == channels
        activation = nn.SiLU(inplace=True)
        layers = [conv_block(in_channels, hidden, 1, activation)] if expansion > 1 else []
        depthwise = nn.Conv2d(hidden, hidden, kernel_size, stride, kernel_size // 2, groups=hidden, bias=False)
        layers += [depthwise, nn.BatchNorm2d(hidden), activation, SqueezeExcite(hidden, max(1, in_channels // 4))]
        self.layers = nn.Sequential(
            *layers, nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels)
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) + x if self.adds else self.layers(x)


def tinynet(num_classes: int = 1000, model: str = "tinynet_c") -> nn.Module:
    """Table 3 of the TinyNet paper, as timm builds it."""
    width, depth = TINYNET_TWISTS[model]
    activation, channels = nn.SiLU(inplace=True), 32
    layers: list[nn.Module] = [conv_block(3, channels, 3, activation, stride=2)]
    for repeats, kernel_size, stride, expansion, base in EFFICIENTNET_STAGES:
        wanted = base * width
        out = max(8, int(wanted + 4) // 8 * 8)
        out += 8 * (out < 0.9 * wanted)
        for index in range(max(1, round(repeats * depth))):
            layers.append(InvertedResidual(channels, out, kernel_size, 1 if index else stride, expansion))
            channels = out
    return nn.Sequential(
        *layers, conv_block(channels, 1280, 1, activation), GlobalAverage(), nn.Linear(1280, num_classes)
    )  # fmt: skip


TWINS = {"tinydarknet": tinydarknet, "darknet53": darknet53, "cspdarknet53": cspdarknet53}
TWINS.update({f"tinynet_{letter}": tinynet for letter in "abcde"})
TWINS["yolov3_res2net50"] = detector.yolov3_res2net50


def build(spec: dict[str, Any]) -> tuple[nn.Module, torch.Tensor, dict[str, Any]]:
    """The twin of the specification's network, a fixed batch, and facts."""
    if spec["name"] not in TWINS:
        sys.exit(f"benchmark_torch.py has no twin of {spec['name']}")
    torch.manual_seed(1)
    torch.set_num_threads(spec["threads"])
    network = TWINS[spec["name"]](**spec["arguments"])
    images = torch.randn(spec["batch_size"], 3, spec["image_size"], spec["image_size"])
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return network, images, {"images": len(images), "parameters": parameters, "torch": torch.__version__}


def loss_and_targets(spec: dict[str, Any]) -> tuple[nn.Module, torch.Tensor]:
    """The loss of the specification's task, and fixed targets of a batch."""
    if spec["is_detector"]:
        return detector.loss_and_rows(spec)
    recipe = spec["recipe"]
    labels = torch.arange(spec["batch_size"]) % recipe["num_classes"]
    return nn.CrossEntropyLoss(label_smoothing=recipe["label_smooth_factor"]), labels


def train(spec: dict[str, Any]) -> Job:
    """The training step in eager mode."""
    network, images, facts = build(spec)
    recipe = spec["recipe"]
    groups = [
        {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": float(recipe["weight_decay"])},
        {"params": [p for p in network.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    if recipe.get("opt") == "rmsprop":
        options = {"alpha": 0.9, "momentum": recipe["momentum"], "eps": recipe["opt_eps"]}
        optimizer = torch.optim.RMSprop(groups, lr=recipe["lr"], **options)
    else:
        optimizer = torch.optim.SGD(
            groups, lr=recipe["lr"] if spec["is_detector"] else 0.1, momentum=recipe["momentum"]
        )
    loss_fn, targets = loss_and_targets(spec)
    network.train()

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_fn(network(images), targets)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, facts


def infer(spec: dict[str, Any]) -> Job:
    """The network in evaluation mode, that of a detector with its decoding."""
    network, images, facts = build(spec)
    if spec["is_detector"]:
        network = detector.Detector(network, spec["recipe"]["anchor_scales"])
    network.eval()
    return torch.inference_mode()(lambda: network(images)), facts


class Pictures(torch.utils.data.Dataset):
    """Training pictures through PIL: the crop, flip, colour changes and normalisation of the recipe.

    The operators are those of torchvision's transforms for PIL pictures, written out here.
    """

    def __init__(self, folder: str, size: int, recipe: dict[str, Any]):
        self.paths = sorted(Path(folder).glob("*/*.jpg"))
        names = sorted({path.parent.name for path in self.paths})
        self.labels = [names.index(path.parent.name) for path in self.paths]
        self.size, self.flip_prob, self.jitter = size, recipe["flip_prob"], recipe["color_jitter"]
        self.mean, self.std = (torch.tensor(recipe[key]).view(3, 1, 1) for key in ("mean", "std"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        with Image.open(self.paths[index]) as file:
            picture = file.convert("RGB")
        box = random_box(*picture.size)
        picture = picture.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        if random.random() < self.flip_prob:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(change_colours(picture, self.jitter))).permute(2, 0, 1).contiguous()
        return pixels.float().div_(255).sub_(self.mean).div_(self.std), self.labels[index]


def random_box(width: int, height: int) -> tuple[int, int, int, int]:
    """A cut (left, top, right, bottom) in pixels: 8 to 100 % of the area, sides 3:4 to 4:3."""
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        aspect = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height


def change_colours(picture, jitter: list[float]):
    """Brightness, contrast and saturation by factors in [1 - r, 1 + r], hue by a shift in [-r, r] of the circle."""
    from PIL import Image, ImageEnhance

    changes = zip((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), jitter)
    for change, r in changes:
        if r:
            picture = change(picture).enhance(random.uniform(max(0, 1 - r), 1 + r))
    if jitter[3]:
        hue, saturation, value = picture.convert("HSV").split()
        shift = int(random.uniform(-jitter[3], jitter[3]) * 255)
        hue = Image.fromarray(np.array(hue) + np.array(shift).astype(np.uint8))
        picture = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    return picture


def read_input(spec: dict[str, Any]) -> Job:
    """An epoch of the pipeline, by as many worker processes as there are threads."""
    pictures = Pictures(spec["path"], spec["image_size"], spec["recipe"])
    loader = torch.utils.data.DataLoader(
        pictures, spec["batch_size"], shuffle=True, drop_last=True, num_workers=spec["threads"], persistent_workers=True
    )

    def epoch() -> None:
        for _ in loader:
            pass

    return epoch, {"images": len(loader) * spec["batch_size"], "torch": torch.__version__}


JOBS = {"train": train, "infer": infer, "input": read_input}

if __name__ == "__main__":
    serve(lambda spec: JOBS[spec["task"]](spec))
